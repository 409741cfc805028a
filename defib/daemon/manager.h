// Manager: what this supervisor tells the one that started it, if that one speaks sd_notify(3):
// READY=1, STOPPING=1, RELOADING=1, and WATCHDOG=1 where it asked for that.
//
// Its watchdog's variables are taken out of the environment, for services have their own.
// Thread rule: the loop's thread.

#pragma once

#include <string_view>

#include "defib/os/event_loop.h"

namespace defib::daemon {

class Manager {
 public:
  explicit Manager(os::EventLoop& loop);
  ~Manager();
  Manager(const Manager&) = delete;
  Manager& operator=(const Manager&) = delete;

  // Everything is supervised; from now on the watchdog is fed, by the loop itself, so that a loop
  // that hangs is noticed.
  void ready();
  void reloading();
  void stopping();
  void tell(std::string_view status);

 private:
  os::EventLoop& loop_;
  os::Duration watchdog_{0};  // of the manager; 0: none
  os::EventLoop::TimerId timer_ = 0;
};

}  // namespace defib::daemon

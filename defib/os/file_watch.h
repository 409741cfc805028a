// FileWatch: inotify on an event loop, one instance for all who watch (the kernel allows a user few
// instances and many watches).
//
// Invariants: a removed watch never fires again; a handler may add and remove freely; events that
// the kernel had to drop are told to every handler as IN_Q_OVERFLOW, so that it looks for itself.
// Thread rule: the loop's thread.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "defib/base/error.h"
#include "defib/os/event_loop.h"
#include "defib/os/fd.h"

namespace defib::os {

class FileWatch {
 public:
  using WatchId = std::uint64_t;  // 0 is never a watch
  // IN_* of inotify(7); IN_Q_OVERFLOW with an empty name: events were lost. `name` is the entry in
  // a watched directory, empty for a watched file.
  using Handler = std::function<void(std::uint32_t mask, std::string_view name)>;

  static Result<std::unique_ptr<FileWatch>> create(EventLoop& loop);
  ~FileWatch();
  FileWatch(const FileWatch&) = delete;
  FileWatch& operator=(const FileWatch&) = delete;

  // Several watches of one path share the kernel's.
  Result<WatchId> add(const std::string& path, std::uint32_t mask, Handler handler);
  void remove(WatchId id);

 private:
  struct Watch {
    int descriptor;
    std::uint32_t mask;
    std::shared_ptr<Handler> handler;
  };
  explicit FileWatch(EventLoop& loop) : loop_(loop) {}
  void read_events();
  void dispatch(int descriptor, std::uint32_t mask, std::string_view name);

  EventLoop& loop_;
  Fd inotify_;
  WatchId next_ = 1;
  std::map<WatchId, Watch> watches_;
};

}  // namespace defib::os

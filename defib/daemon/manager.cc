#include "defib/daemon/manager.h"

#include <stdlib.h>

#include <algorithm>
#include <charconv>
#include <string>

#include "defib/os/notify.h"
#include "defib/process/guardian.h"

namespace defib::daemon {
namespace {

std::int64_t take_number(const char* name) {
  const char* value = getenv(name);
  const std::string_view text = value != nullptr ? value : "";
  std::int64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  unsetenv(name);
  return number;
}

void send(const char* key, std::string_view value) {
  os::notify::send_field(key, value.data(), value.size());
}

}  // namespace

Manager::Manager(os::EventLoop& loop) : loop_(loop) {
  const std::int64_t microseconds = take_number("WATCHDOG_USEC");
  const std::int64_t pid = take_number("WATCHDOG_PID");
  // Meant for the process that the manager knows.
  if (pid != 0 && pid != process::public_pid()) return;
  watchdog_ = std::chrono::microseconds(std::max<std::int64_t>(microseconds, 0));
}

Manager::~Manager() {
  if (timer_ != 0) loop_.cancel(timer_);
}

void Manager::ready() {
  send("READY", "1");
  if (timer_ != 0 || watchdog_.count() == 0) return;
  send("WATCHDOG", "1");
  timer_ = loop_.run_every(watchdog_ / 2, [] { send("WATCHDOG", "1"); });
}

void Manager::reloading() {
  send("RELOADING", "1");
}

void Manager::stopping() {
  send("STOPPING", "1");
}

void Manager::tell(std::string_view status) {
  send("STATUS", status);
}

}  // namespace defib::daemon

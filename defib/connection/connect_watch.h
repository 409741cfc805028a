// Watching a driver connect: to where, with which socket. SQL Server sends its clients on to other
// servers, and a driver that follows tells nobody where it was when it failed; and no driver can be
// interrupted while it connects, but its socket can.
//
// Only the thread that calls the driver is watched, by seccomp's user notification (Linux 5.5).
// Thread rule: a watched call on one thread at a time; a Route on any.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "defib/connection/dsn.h"
#include "defib/connection/socket.h"
#include "defib/os/fd.h"

namespace defib::connection {

// Asked before a connect(2) of a stream socket to an Internet address; false: it fails.
using ConnectJudge = std::function<bool(int fd, const HostPort& address)>;

// Runs `work` on a thread of its own until it returns. Where the system does not allow to watch,
// `work(false)` runs all the same and nothing is asked.
void watch_connects(const std::function<void(bool watched)>& work, const ConnectJudge& judge);

// Where an attempt to connect has been, and its way to be cut. Any thread.
class Route {
 public:
  explicit Route(HostPort gateway) : gateway_(std::move(gateway)), port_(gateway_.port) {}
  // The numeric addresses of the gateway's name.
  void set_addresses(std::vector<std::string> addresses) {
    const std::lock_guard lock(mutex_);
    addresses_ = std::move(addresses);
  }
  // Before each connect of the driver; false where the attempt has been cut.
  bool goes_to(int fd, const HostPort& address) {
    const std::lock_guard lock(mutex_);
    if (!is_it(address)) target_ = address.to_string();
    port_ = address.port;
    if (!cut_) socket_ = duplicate(fd);
    return !cut_;
  }
  // Lets the driver's call return, wherever it hangs.
  void cut() {
    const std::lock_guard lock(mutex_);
    cut_ = true;
    if (socket_.valid()) shut_down(socket_.get());
  }
  void set_watched() { watched_ = true; }
  bool watched() const { return watched_; }
  // The attempt is over: its socket is the session's alone.
  void arrived() {
    const std::lock_guard lock(mutex_);
    socket_.reset();
  }
  bool is_gateway(const HostPort& address) const {
    const std::lock_guard lock(mutex_);
    return is_it(address);
  }
  // Of the server that it went to last.
  std::uint16_t port() const {
    const std::lock_guard lock(mutex_);
    return port_;
  }
  // The last server that it was sent on to; empty: none.
  std::string target() const {
    const std::lock_guard lock(mutex_);
    return target_;
  }

 private:
  bool is_it(const HostPort& address) const {  // mutex_ is held
    return address.port == gateway_.port &&
           (addresses_.empty() || std::ranges::find(addresses_, address.host) != addresses_.end());
  }

  mutable std::mutex mutex_;
  const HostPort gateway_;
  std::atomic<bool> watched_{false};
  std::vector<std::string> addresses_;  // guarded by mutex_
  std::string target_;                  // guarded by mutex_
  std::uint16_t port_;                  // guarded by mutex_
  os::Fd socket_;                       // guarded by mutex_; a duplicate of the driver's own
  bool cut_ = false;                    // guarded by mutex_
};

}  // namespace defib::connection

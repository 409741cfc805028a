// Watchdog: lets a call into a driver that knows no deadline return at its deadline, by ending the
// call's socket under it, or by the driver's own cancel where there is none.
//
// shutdown(2) on the driver's socket releases a call that hangs in a black hole in 0.2 to 0.6 ms,
// measured with psqlodbc, MariaDB ODBC and FreeTDS. One thread serves all sessions of a backend.
// Thread rule: any thread.

#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>

#include "defib/connection/deadline.h"

namespace defib::connection {

class Watchdog {
 public:
  // Called on the watchdog's thread, with the entry still armed: it must not block.
  using Strike = std::function<void()>;

  Watchdog();
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  // Strikes once unless the guard is gone before the deadline. After the guard's end the strike
  // does not run any more.
  class Guard {
   public:
    Guard(Watchdog& watchdog, Deadline deadline, Strike strike);
    ~Guard();
    Guard(const Guard&) = delete;
    Guard& operator=(const Guard&) = delete;
    // Disarms it, and says whether it has struck.
    bool end();

   private:
    Watchdog& watchdog_;
    std::uint64_t id_ = 0;
    bool struck_ = false;
  };

 private:
  struct Entry {
    std::int64_t deadline_ns = 0;
    Strike strike;
    bool struck = false;
  };
  void run();

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::uint64_t, Entry> entries_;  // guarded by mutex_
  std::int64_t wakes_at_ = 0;               // guarded by mutex_; when the thread looks next
  std::uint64_t next_id_ = 1;               // guarded by mutex_
  bool stopping_ = false;                   // guarded by mutex_
  std::thread thread_;
};

}  // namespace defib::connection

// Alerter: what a supervising process does for alerts: it appends to the queue (alert/queue.h) and
// starts the sender. Nothing else of it lies here, so that no receiver can hold up a recovery.
//
// Appending writes to the page cache and syncs nothing. An event that repeats faster than once a
// second is counted in memory, and appended once a second. What cannot be appended (a full disk) is
// handed to the sender directly, and to each further one until a sender has it on the disk. What
// senders cannot write down meanwhile lies in a file in memory that is held here, so that nothing
// is sent twice. The sender is started again with back-off where it fails, and at the time that it
// asked for. Thread rule: the loop's thread.

#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "defib/alert/event.h"
#include "defib/alert/queue.h"
#include "defib/alert/receiver.h"
#include "defib/daemon/helper_process.h"
#include "defib/os/event_loop.h"
#include "defib/os/files.h"
#include "defib/recovery/policy.h"

namespace defib::daemon {

class Alerter {
 public:
  Alerter(os::EventLoop& loop, os::Files& files, std::string state_dir);
  ~Alerter();
  Alerter(const Alerter&) = delete;
  Alerter& operator=(const Alerter&) = delete;

  // From now on alerts go there. Without receivers nothing is queued.
  Result<> set_receivers(const std::vector<alert::Receiver>& receivers);
  bool on() const { return on_; }

  // The time is set here. With an empty id the event is one of its own.
  void tell(alert::Event event);
  // Looks for something to send, and starts the sender where there is.
  void wake();

  std::uint64_t told() const { return told_; }        // events
  std::uint64_t dropped() const { return dropped_; }  // events that found no place anywhere

 private:
  struct Recent {
    alert::EventType type;
    std::string cause;
    std::int64_t mono_ns;
  };
  struct Service {
    std::deque<Recent> recent;          // appended within the last second
    std::vector<alert::Event> waiting;  // for the end of that second
  };
  void append(std::vector<alert::Event> events);
  void keep_homeless(alert::Event event);
  void relieve_sender();
  void flush();
  void start_sender();
  void sender_ended(const os::ExitStatus& status, const std::string& last_words);
  void start_later(os::Duration delay);

  os::EventLoop& loop_;
  os::Files& files_;
  std::string state_dir_;
  alert::Queue queue_;
  bool on_ = false;
  std::map<std::string, Service> services_;
  os::EventLoop::TimerId flush_timer_ = 0, start_timer_ = 0, relieve_timer_ = 0;
  bool start_posted_ = false;
  std::vector<alert::Event> homeless_;  // not in the queue, and not known to be on the disk
  std::size_t handed_over_ = 0;         // of them: the first ones, which a sender has
  os::Fd book_memory_;                  // of the senders
  HelperProcess sender_;
  recovery::Backoff backoff_;
  std::uint64_t told_ = 0, dropped_ = 0;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace defib::daemon

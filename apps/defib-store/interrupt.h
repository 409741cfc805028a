// What Ctrl-C and SIGTERM do to a command that recovers or compacts a store.
//
// While the store is being opened the first one asks the opening to stop, which says where it was
// and leaves the files as they are found. Afterwards, and where a second one comes, the process
// ends at once: the store may be left at any instruction.
//
// The signals are blocked and taken by a thread of their own, so that nothing of this runs in a
// signal handler.

#pragma once

#include <atomic>
#include <stop_token>
#include <thread>

namespace defib::store_program {

class Interrupt {
 public:
  // Before other threads are begun, for they inherit what is blocked.
  Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  ~Interrupt();
  // For Options::stop.
  std::stop_token token() const { return source_.get_token(); }
  // From here on the first signal ends the process, with exit code 4.
  void end_at_once() { at_once_ = true; }

 private:
  void wait(const std::stop_token& done);

  std::stop_source source_;
  std::atomic<bool> at_once_ = false;
  std::jthread thread_;  // last: it uses what stands above
};

}  // namespace defib::store_program

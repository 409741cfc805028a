// Book: what was told to whom, what is still to be told, and when. The alerts' whole logic as a
// value: no file, no clock, no thread; the sender (send.h) gives it events and times.
//
// One alert stands for one service and one cause. Its first occurrence is told at once; what
// follows within the receiver's window after a message is folded into one message at the window's
// end, and the window doubles while it goes on. A message is frozen before it is sent and keeps its
// id and its text until it is delivered, so that a receiver that sees an id twice has seen one
// message.
// Per receiver and per service a token bucket bounds how much is sent. After a failure a receiver
// rests (recovery::Backoff); after a refusal that is final the message is given up.
//
// Times are wall clock (they outlive the process). A step of the clock may send a message early, or
// as late as if what was told before the step had been told at it, never not at all: no wait is
// longer than its own length, counted from the step. Every collection has a bound. Thread rule: one
// thread.

#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "defib/alert/event.h"
#include "defib/alert/queue.h"
#include "defib/alert/receiver.h"

namespace defib::alert {

enum class MessageKind : std::uint8_t { kFiring, kResolved, kRepeat, kTest };
std::string_view to_string(MessageKind kind);  // "firing" "resolved" "repeat" "test"

struct Message {
  std::string id;  // "1a2b3c4d5e6f-2": the alert's id and the message's number
  std::string alert;
  std::string receiver;
  MessageKind kind = MessageKind::kFiring;
  Severity severity = Severity::kWarning;
  std::string service, cause, text, incident, head, outcome;
  std::uint64_t count = 1;  // occurrences that this message stands for
  std::uint64_t total = 1;  // of the alert so far
  std::int64_t first_ns = 0, last_ns = 0;
  std::int64_t ended_ns = 0;    // resolved
  bool notice = false;          // no end will be told
  std::int64_t created_ns = 0;  // frozen
  int attempts = 0, refusals = 0;
  std::int64_t next_try_ns = 0;
  std::string last_error;
};

struct Delivery {
  bool told = false;
  bool told_end = false;
  std::uint64_t told_count = 0;
  std::int64_t told_ns = 0;
  std::int64_t window_ns = 0;
  int messages = 0;  // numbers them
  std::optional<Message> outgoing;
};

struct Alert {
  std::string id;
  std::string service, cause, text, incident, head, outcome;
  Severity severity = Severity::kWarning;
  std::uint64_t count = 0;
  std::int64_t first_ns = 0, last_ns = 0, ended_ns = 0;
  bool resolved = false;
  bool notice = false;          // nothing that lasts: it has no end to be told
  std::string only_receiver;    // of a test
  std::string acknowledged_by;  // empty again once it is over, or graver
  std::int64_t acknowledged_ns = 0;
  std::map<std::string, Delivery> deliveries;
};

// The outcome of one attempt, in the sender's words.
struct Attempt {
  bool delivered = false;
  bool refused = false;  // not delivered, and trying again is of little use
  std::string error;     // without secrets
};

class Book {
 public:
  static constexpr std::size_t kMaxAlerts = 512;
  static constexpr std::size_t kMaxSeen = 1024;
  static constexpr std::size_t kMaxFinished = 64;
  static constexpr int kMaxRefusals = 5;
  static constexpr std::int64_t kMaxWindowNs = 3'600'000'000'000;

  void set_receivers(std::vector<Receiver> receivers) { receivers_ = std::move(receivers); }
  const std::vector<Receiver>& receivers() const { return receivers_; }

  // An event that was applied before changes nothing.
  void apply(const Event& event, std::int64_t now_ns);
  // What the receiver is to be sent now: one message, or up to `limit`. They are frozen: keep the
  // book before sending. Empty while the receiver rests.
  std::vector<Message> take(const Receiver& receiver, std::size_t limit, std::int64_t now_ns);
  void finish(const Message& message, const Attempt& attempt, std::int64_t now_ns);
  // When take() has something again for a receiver, or in an hour where that is later; INT64_MAX:
  // never by itself.
  std::int64_t next_due(const Receiver& receiver, std::int64_t now_ns);
  // Forgets what is over and told.
  void prune(std::int64_t now_ns);

  const std::vector<Alert>& alerts() const { return alerts_; }
  std::uint64_t waiting(const std::string& receiver) const;  // messages not delivered yet
  std::uint64_t dropped() const { return dropped_; }
  struct Finished {
    std::string id, receiver, outcome, error;  // outcome: "delivered" or "given_up"
    std::int64_t at_ns = 0;
  };
  const std::deque<Finished>& finished() const { return finished_; }

  Queue::Position position;  // up to where the queue was read

  wire::Json to_json() const;
  // Reads what to_json() wrote; what is missing keeps its default.
  static Book from_json(const wire::Json& json);

 private:
  struct Bucket {
    double tokens = 0;
    std::int64_t at_ns = 0;
  };
  struct ReceiverState {
    int failures = 0;  // in a row
    std::int64_t retry_ns = 0;
    std::string last_error;
    std::map<std::string, Bucket> buckets;  // "" for the receiver, else of a service
  };
  struct Plan {
    std::int64_t due_ns = INT64_MAX;
    MessageKind kind = MessageKind::kFiring;
  };
  bool wants(const Receiver& receiver, const Alert& alert) const;
  Plan plan(const Receiver& receiver, const Alert& alert) const;
  std::int64_t token_ns(const Receiver& receiver, const std::string& service,
                        std::int64_t now_ns) const;
  void take_token(const Receiver& receiver, const std::string& service, std::int64_t now_ns);
  Message freeze(const Receiver& receiver, Alert& alert, MessageKind kind, std::int64_t now_ns);
  Alert* find(const std::string& id);
  void bring_back(std::int64_t now_ns);
  bool is_over(const Alert& alert, std::int64_t now_ns) const;
  void fire(const Event& event, std::int64_t now_ns);
  void make_room(std::int64_t now_ns);
  void give_up(const Message& message, std::int64_t now_ns);
  void settle(Delivery& delivery, const Message& message, std::int64_t now_ns);

  std::vector<Receiver> receivers_;
  std::vector<Alert> alerts_;  // oldest first
  std::map<std::string, ReceiverState> states_;
  std::deque<std::string> seen_;
  std::deque<Finished> finished_;
  std::uint64_t dropped_ = 0;
};

}  // namespace defib::alert

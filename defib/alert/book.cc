#include "defib/alert/book.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <tuple>

#include "defib/recovery/policy.h"

namespace defib::alert {
namespace {

constexpr std::int64_t kMinuteNs = 60'000'000'000;
constexpr std::int64_t kNever = INT64_MAX;
constexpr std::array<std::string_view, 4> kKinds = {"firing", "resolved", "repeat", "test"};

constexpr os::Duration kLongestRest = std::chrono::minutes(5);

std::int64_t rest_after(int failures) {
  recovery::BackoffOptions options;
  options.base = std::chrono::seconds(1);
  options.cap = kLongestRest;
  options.floor = std::chrono::milliseconds(200);
  recovery::Backoff backoff(options, os::Random(os::random_seed()));
  std::int64_t delay = 0;
  constexpr int kLongest = 12;  // the cap is reached
  for (int i = 0; i < std::min(failures, kLongest); ++i) delay = backoff.next().count();
  return delay;
}

}  // namespace

std::string_view to_string(MessageKind kind) {
  return kKinds[static_cast<std::size_t>(kind)];
}

bool Book::wants(const Receiver& receiver, const Alert& alert) const {
  if (!alert.only_receiver.empty()) return alert.only_receiver == receiver.name;
  return receiver.wants(alert.severity, alert.service);
}

Alert* Book::find(const std::string& id) {
  const auto found = std::ranges::find(alerts_, id, &Alert::id);
  return found == alerts_.end() ? nullptr : &*found;
}

// A clock that was set back leaves times that lie ahead. What has happened was not later than now,
// and a rest is no longer than the longest. A frozen message keeps its text, and so its times.
void Book::bring_back(std::int64_t now_ns) {
  const auto happened = [&](std::int64_t& at_ns) { at_ns = std::min(at_ns, now_ns); };
  const auto rests = [&](std::int64_t& until_ns) {
    until_ns = std::min(until_ns, now_ns + kLongestRest.count());
  };
  for (Alert& alert : alerts_) {
    happened(alert.first_ns);
    happened(alert.last_ns);
    happened(alert.ended_ns);
    for (auto& [name, delivery] : alert.deliveries) {
      happened(delivery.told_ns);
      if (delivery.outgoing) rests(delivery.outgoing->next_try_ns);
    }
  }
  for (auto& [name, state] : states_) {
    rests(state.retry_ns);
    for (auto& [service, bucket] : state.buckets) happened(bucket.at_ns);
  }
}

// ---- events

void Book::apply(const Event& event, std::int64_t now_ns) {
  if (std::ranges::find(seen_, event.id) != seen_.end()) return;
  seen_.push_back(event.id);
  if (seen_.size() > kMaxSeen) seen_.pop_front();
  bring_back(now_ns);
  switch (event.type) {
    case EventType::kFiring:
    case EventType::kTest:
      return fire(event, now_ns);
    case EventType::kResolved:
      for (Alert& alert : alerts_) {
        const bool meant = alert.service == event.service && !alert.resolved &&
                           (event.incident.empty() || alert.incident == event.incident);
        if (!meant) continue;
        alert.resolved = true;
        alert.ended_ns = event.wall_ns;
        alert.outcome = event.outcome;
        if (!event.head.empty()) alert.head = event.head;
      }
      return;
    case EventType::kAcknowledged:
      for (Alert& alert : alerts_) {
        const bool meant =
            alert.id == event.alert || (!alert.incident.empty() && alert.incident == event.alert);
        if (!meant || !alert.acknowledged_by.empty()) continue;
        alert.acknowledged_by = event.by.empty() ? "unknown" : event.by;
        alert.acknowledged_ns = event.wall_ns;
      }
      return;
  }
}

void Book::fire(const Event& event, std::int64_t now_ns) {
  const bool test = event.type == EventType::kTest;
  auto found = std::ranges::find_if(alerts_, [&](const Alert& alert) {
    return !test && alert.only_receiver.empty() && alert.service == event.service &&
           alert.cause == event.cause;
  });
  if (found != alerts_.end() && is_over(*found, now_ns)) {
    alerts_.erase(found);
    found = alerts_.end();
  }
  if (found == alerts_.end()) {
    make_room(now_ns);
    Alert fresh;
    fresh.id = alert_id_of(event);
    fresh.service = event.service;
    fresh.cause = event.cause;
    fresh.first_ns = event.wall_ns;
    fresh.only_receiver = test ? event.receiver : std::string();
    alerts_.push_back(std::move(fresh));
    found = alerts_.end() - 1;
  }
  Alert& alert = *found;
  // Who took notice did so of what there was: not of what comes after its end, nor of what is
  // graver.
  if (alert.resolved || event.severity > alert.severity) {
    alert.acknowledged_by.clear();
    alert.acknowledged_ns = 0;
  }
  alert.count += event.count;
  alert.last_ns = event.wall_ns;
  alert.severity = std::max(alert.severity, event.severity);
  alert.text = event.message;
  alert.incident = event.incident;
  alert.head = event.head;
  alert.notice = test || event.notice;
  alert.resolved = alert.notice;
  alert.outcome.clear();
  for (auto& [name, delivery] : alert.deliveries) delivery.told_end = false;
}

// Resolved, told to all, and quiet for as long as more of it would have been folded.
bool Book::is_over(const Alert& alert, std::int64_t now_ns) const {
  if (!alert.resolved) return false;
  return std::ranges::all_of(receivers_, [&](const Receiver& receiver) {
    if (!wants(receiver, alert) || plan(receiver, alert).due_ns != kNever) {
      return !wants(receiver, alert);
    }
    const auto found = alert.deliveries.find(receiver.name);
    if (found == alert.deliveries.end() || !found->second.told) return true;
    return now_ns >= found->second.told_ns + found->second.window_ns;
  });
}

void Book::prune(std::int64_t now_ns) {
  bring_back(now_ns);
  std::erase_if(alerts_, [&](const Alert& alert) { return is_over(alert, now_ns); });
  // A receiver that was taken out of the configuration gets nothing any more.
  for (Alert& alert : alerts_) {
    std::erase_if(alert.deliveries, [&](const auto& entry) {
      return std::ranges::find(receivers_, entry.first, &Receiver::name) == receivers_.end();
    });
  }
  std::erase_if(states_, [&](const auto& entry) {
    return std::ranges::find(receivers_, entry.first, &Receiver::name) == receivers_.end();
  });
  for (auto& [name, state] : states_) {
    std::erase_if(state.buckets, [&](const auto& entry) {
      return !entry.first.empty() && now_ns - entry.second.at_ns > 2 * kMinuteNs;
    });
  }
}

// The least that can be lost goes first: what is over, then what is least severe, then the oldest.
void Book::make_room(std::int64_t now_ns) {
  if (alerts_.size() < kMaxAlerts) return;
  prune(now_ns);
  if (alerts_.size() < kMaxAlerts) return;
  const auto least = std::ranges::min_element(alerts_, {}, [](const Alert& alert) {
    return std::tuple(!alert.resolved, alert.severity, alert.last_ns);
  });
  alerts_.erase(least);
  ++dropped_;
}

// ---- when and what

Book::Plan Book::plan(const Receiver& receiver, const Alert& alert) const {
  static const Delivery kFresh;
  const auto found = alert.deliveries.find(receiver.name);
  const Delivery& own = found == alert.deliveries.end() ? kFresh : found->second;
  if (own.outgoing) return {own.outgoing->next_try_ns, own.outgoing->kind};
  const bool acknowledged = !alert.acknowledged_by.empty();
  const bool test = !alert.only_receiver.empty();
  const bool more = alert.count > own.told_count;
  const MessageKind kind = test                              ? MessageKind::kTest
                           : alert.resolved && !alert.notice ? MessageKind::kResolved
                                                             : MessageKind::kFiring;
  if (!own.told) {
    if (acknowledged) return {};
    if (receiver.escalate_after.count() == 0 || test) return {alert.first_ns, kind};
    if (alert.resolved) return {};
    return {alert.first_ns + receiver.escalate_after.count(), kind};
  }
  const bool end_due = alert.resolved && !alert.notice && !own.told_end && receiver.send_resolved;
  const std::int64_t window_end = own.told_ns + own.window_ns;
  if (end_due) return {more ? window_end : alert.ended_ns, MessageKind::kResolved};
  if (more && !acknowledged && (!alert.resolved || alert.notice || receiver.send_resolved)) {
    return {window_end, kind};
  }
  if (!alert.resolved && !acknowledged && receiver.repeat_interval.count() > 0) {
    return {own.told_ns + receiver.repeat_interval.count(), MessageKind::kRepeat};
  }
  return {};
}

// When there is a token for one more message.
std::int64_t Book::token_ns(const Receiver& receiver, const std::string& service,
                            std::int64_t now_ns) const {
  const auto state = states_.find(receiver.name);
  if (state == states_.end()) return now_ns;
  const auto ready = [&](const std::string& name, int rate) {
    const auto bucket = state->second.buckets.find(name);
    if (bucket == state->second.buckets.end()) return now_ns;
    const double missing = 1.0 - bucket->second.tokens;
    if (missing <= 0) return now_ns;
    return bucket->second.at_ns + static_cast<std::int64_t>(missing * kMinuteNs / rate) + 1;
  };
  const std::int64_t at =
      std::max(ready("", receiver.max_per_minute), ready(service, receiver.max_per_service));
  return std::min(at, now_ns + kMinuteNs);
}

void Book::take_token(const Receiver& receiver, const std::string& service, std::int64_t now_ns) {
  const auto take = [&](const std::string& name, int rate) {
    auto [entry, fresh] = states_[receiver.name].buckets.try_emplace(name);
    Bucket& bucket = entry->second;
    if (fresh) bucket = {static_cast<double>(rate), now_ns};
    const auto passed = static_cast<double>(std::max<std::int64_t>(0, now_ns - bucket.at_ns));
    bucket.tokens = std::min<double>(rate, bucket.tokens + passed * rate / kMinuteNs);
    bucket.tokens = std::max(0.0, bucket.tokens - 1);
    bucket.at_ns = now_ns;
  };
  take("", receiver.max_per_minute);
  if (!service.empty()) take(service, receiver.max_per_service);
}

std::int64_t Book::next_due(const Receiver& receiver, std::int64_t now_ns) {
  bring_back(now_ns);
  std::int64_t due = kNever;
  const auto state = states_.find(receiver.name);
  const std::int64_t rests_until = state == states_.end() ? 0 : state->second.retry_ns;
  for (const Alert& alert : alerts_) {
    if (!wants(receiver, alert)) continue;
    std::int64_t at = plan(receiver, alert).due_ns;
    if (at == kNever) continue;
    const auto own = alert.deliveries.find(receiver.name);
    const bool frozen = own != alert.deliveries.end() && own->second.outgoing.has_value();
    if (!frozen) at = std::max(at, token_ns(receiver, alert.service, now_ns));
    due = std::min(due, std::max(at, rests_until));
  }
  // Whoever waits for it waits by a clock that may be set back meanwhile.
  return due == kNever ? kNever : std::min(due, now_ns + kMaxWindowNs);
}

std::vector<Message> Book::take(const Receiver& receiver, std::size_t limit, std::int64_t now_ns) {
  bring_back(now_ns);
  std::vector<Message> taken;
  const auto state = states_.find(receiver.name);
  if (state != states_.end() && state->second.retry_ns > now_ns) return taken;
  std::vector<Alert*> due;
  for (Alert& alert : alerts_) {
    if (wants(receiver, alert) && plan(receiver, alert).due_ns <= now_ns) due.push_back(&alert);
  }
  // The gravest first; among equals the oldest.
  std::ranges::sort(due, [](const Alert* a, const Alert* b) {
    return std::tuple(b->severity, a->first_ns, a) < std::tuple(a->severity, b->first_ns, b);
  });
  for (Alert* alert : due) {
    if (taken.size() == limit) break;
    Delivery& own = alert->deliveries[receiver.name];
    if (!own.outgoing) {
      if (token_ns(receiver, alert->service, now_ns) > now_ns) continue;
      take_token(receiver, alert->service, now_ns);
      own.outgoing = freeze(receiver, *alert, plan(receiver, *alert).kind, now_ns);
    }
    taken.push_back(*own.outgoing);
  }
  return taken;
}

Message Book::freeze(const Receiver& receiver, Alert& alert, MessageKind kind,
                     std::int64_t now_ns) {
  Delivery& own = alert.deliveries[receiver.name];
  Message message;
  message.id = fmt::format("{}-{}", alert.id, ++own.messages);
  message.alert = alert.id;
  message.receiver = receiver.name;
  message.kind = kind;
  message.severity = alert.severity;
  message.service = alert.service;
  message.cause = alert.cause;
  message.text = alert.text;
  message.incident = alert.incident;
  message.head = alert.head;
  message.outcome = alert.outcome;
  message.count = alert.count - std::min(own.told_count, alert.count);
  message.total = alert.count;
  message.first_ns = alert.first_ns;
  message.last_ns = alert.last_ns;
  message.ended_ns = kind == MessageKind::kResolved ? alert.ended_ns : 0;
  message.created_ns = now_ns;
  message.notice = alert.notice;
  return message;
}

// ---- outcomes

void Book::settle(Delivery& delivery, const Message& message, std::int64_t now_ns) {
  const auto receiver = std::ranges::find(receivers_, message.receiver, &Receiver::name);
  const std::int64_t base = receiver == receivers_.end() ? 0 : receiver->fold_window.count();
  // While more of it comes within each window, windows double.
  const bool folded = delivery.told && message.count > 0 &&
                      std::min(message.last_ns, now_ns) <= delivery.told_ns + delivery.window_ns;
  if (folded) {
    delivery.window_ns = std::min(std::max(kMaxWindowNs, base), delivery.window_ns * 2);
  } else if (message.count > 0) {
    delivery.window_ns = base;
  }
  delivery.told = true;
  delivery.told_count = message.total;
  if (message.kind == MessageKind::kResolved) delivery.told_end = true;
  delivery.told_ns = now_ns;
  delivery.outgoing.reset();
}

void Book::finish(const Message& message, const Attempt& attempt, std::int64_t now_ns) {
  ReceiverState& state = states_[message.receiver];
  Alert* const alert = find(message.alert);
  Delivery* const own = alert != nullptr ? &alert->deliveries[message.receiver] : nullptr;
  const bool mine = own != nullptr && own->outgoing && own->outgoing->id == message.id;
  if (attempt.delivered) {
    state.failures = 0;
    state.retry_ns = 0;
    state.last_error.clear();
    if (mine) settle(*own, message, now_ns);
    // Something may have happened again or ended while it was on its way.
    if (mine && alert->resolved && message.kind != MessageKind::kResolved) own->told_end = false;
    finished_.push_back({message.id, message.receiver, "delivered", {}, now_ns});
    if (finished_.size() > kMaxFinished) finished_.pop_front();
    return;
  }
  state.last_error = attempt.error;
  if (!attempt.refused) {
    ++state.failures;
    state.retry_ns = now_ns + rest_after(state.failures);
  }
  if (!mine) return;
  Message& outgoing = *own->outgoing;
  ++outgoing.attempts;
  outgoing.last_error = attempt.error;
  if (attempt.refused) {
    outgoing.next_try_ns = now_ns + rest_after(++outgoing.refusals);
  }
  const auto receiver = std::ranges::find(receivers_, message.receiver, &Receiver::name);
  // Who asked for a test waits for its outcome.
  const bool once = !alert->only_receiver.empty();
  const bool too_old =
      receiver != receivers_.end() && now_ns - outgoing.created_ns > receiver->retry_for.count();
  if (once || too_old || outgoing.refusals >= kMaxRefusals) give_up(Message(outgoing), now_ns);
}

void Book::give_up(const Message& message, std::int64_t now_ns) {
  finished_.push_back({message.id, message.receiver, "given_up", message.last_error, now_ns});
  if (finished_.size() > kMaxFinished) finished_.pop_front();
  ++dropped_;
  Alert* const alert = find(message.alert);
  if (alert != nullptr) settle(alert->deliveries[message.receiver], message, now_ns);
}

std::uint64_t Book::waiting(const std::string& receiver) const {
  const auto own = std::ranges::find(receivers_, receiver, &Receiver::name);
  if (own == receivers_.end()) return 0;
  return static_cast<std::uint64_t>(std::ranges::count_if(alerts_, [&](const Alert& alert) {
    const Plan next = plan(*own, alert);
    return wants(*own, alert) && next.due_ns != kNever && next.kind != MessageKind::kRepeat;
  }));
}

}  // namespace defib::alert

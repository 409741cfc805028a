// The Book as JSON, for the sender's file (docs/formats/alerts.md).

#include <algorithm>

#include "defib/alert/book.h"

namespace defib::alert {
namespace {

// What was written is within these; what is read may have been written by anybody.
constexpr std::int64_t kLatestNs = 4'000'000'000'000'000'000;  // the year 2096
constexpr std::int64_t kLongestNs = 30LL * 24 * 3600 * 1'000'000'000;
constexpr std::int64_t kManyTimes = 1'000'000'000;

std::int64_t time_of(const wire::Json& json) {
  return std::clamp<std::int64_t>(json.as_int(), 0, kLatestNs);
}

int number_of(const wire::Json& json) {
  return static_cast<int>(std::clamp<std::int64_t>(json.as_int(), 0, kManyTimes));
}

wire::Json message_to_json(const Message& m) {
  return wire::Json::object({{"id", m.id},
                             {"alert", m.alert},
                             {"receiver", m.receiver},
                             {"kind", to_string(m.kind)},
                             {"severity", to_string(m.severity)},
                             {"service", m.service},
                             {"cause", m.cause},
                             {"text", m.text},
                             {"incident", m.incident},
                             {"head", m.head},
                             {"outcome", m.outcome},
                             {"count", m.count},
                             {"total", m.total},
                             {"first_ns", m.first_ns},
                             {"last_ns", m.last_ns},
                             {"ended_ns", m.ended_ns},
                             {"created_ns", m.created_ns},
                             {"notice", m.notice},
                             {"attempts", m.attempts},
                             {"refusals", m.refusals},
                             {"next_try_ns", m.next_try_ns},
                             {"last_error", m.last_error}});
}

Message message_from_json(const wire::Json& json) {
  Message m;
  m.id = json["id"].as_string();
  m.alert = json["alert"].as_string();
  m.receiver = json["receiver"].as_string();
  for (const MessageKind kind :
       {MessageKind::kFiring, MessageKind::kResolved, MessageKind::kRepeat, MessageKind::kTest}) {
    if (to_string(kind) == json["kind"].as_string()) m.kind = kind;
  }
  parse_severity(json["severity"].as_string(), m.severity);
  m.service = json["service"].as_string();
  m.cause = json["cause"].as_string();
  m.text = json["text"].as_string();
  m.incident = json["incident"].as_string();
  m.head = json["head"].as_string();
  m.outcome = json["outcome"].as_string();
  m.count = json["count"].as_uint();
  m.total = json["total"].as_uint();
  m.first_ns = time_of(json["first_ns"]);
  m.last_ns = time_of(json["last_ns"]);
  m.ended_ns = time_of(json["ended_ns"]);
  m.created_ns = time_of(json["created_ns"]);
  m.notice = json["notice"].as_bool();
  m.attempts = number_of(json["attempts"]);
  m.refusals = number_of(json["refusals"]);
  m.next_try_ns = time_of(json["next_try_ns"]);
  m.last_error = json["last_error"].as_string();
  return m;
}

wire::Json delivery_to_json(const std::string& receiver, const Delivery& d) {
  wire::Json json = wire::Json::object({{"receiver", receiver},
                                        {"told", d.told},
                                        {"told_end", d.told_end},
                                        {"told_count", d.told_count},
                                        {"told_ns", d.told_ns},
                                        {"window_ns", d.window_ns},
                                        {"messages", d.messages}});
  if (d.outgoing) json.set("outgoing", message_to_json(*d.outgoing));
  return json;
}

Delivery delivery_from_json(const wire::Json& json) {
  Delivery d;
  d.told = json["told"].as_bool();
  d.told_end = json["told_end"].as_bool();
  d.told_count = json["told_count"].as_uint();
  d.told_ns = time_of(json["told_ns"]);
  d.window_ns = std::clamp<std::int64_t>(json["window_ns"].as_int(), 0, kLongestNs);
  d.messages = number_of(json["messages"]);
  if (json["outgoing"].is_object()) d.outgoing = message_from_json(json["outgoing"]);
  return d;
}

wire::Json alert_to_json(const Alert& a) {
  wire::Json deliveries = wire::Json::array();
  for (const auto& [name, delivery] : a.deliveries) {
    deliveries.push(delivery_to_json(name, delivery));
  }
  return wire::Json::object({{"id", a.id},
                             {"service", a.service},
                             {"cause", a.cause},
                             {"severity", to_string(a.severity)},
                             {"text", a.text},
                             {"incident", a.incident},
                             {"head", a.head},
                             {"outcome", a.outcome},
                             {"count", a.count},
                             {"first_ns", a.first_ns},
                             {"last_ns", a.last_ns},
                             {"ended_ns", a.ended_ns},
                             {"resolved", a.resolved},
                             {"notice", a.notice},
                             {"only_receiver", a.only_receiver},
                             {"acknowledged_by", a.acknowledged_by},
                             {"acknowledged_ns", a.acknowledged_ns},
                             {"deliveries", std::move(deliveries)}});
}

Alert alert_from_json(const wire::Json& json) {
  Alert a;
  a.id = json["id"].as_string();
  a.service = json["service"].as_string();
  a.cause = json["cause"].as_string();
  parse_severity(json["severity"].as_string(), a.severity);
  a.text = json["text"].as_string();
  a.incident = json["incident"].as_string();
  a.head = json["head"].as_string();
  a.outcome = json["outcome"].as_string();
  a.count = json["count"].as_uint();
  a.first_ns = time_of(json["first_ns"]);
  a.last_ns = time_of(json["last_ns"]);
  a.ended_ns = time_of(json["ended_ns"]);
  a.resolved = json["resolved"].as_bool();
  a.notice = json["notice"].as_bool();
  a.only_receiver = json["only_receiver"].as_string();
  a.acknowledged_by = json["acknowledged_by"].as_string();
  a.acknowledged_ns = time_of(json["acknowledged_ns"]);
  for (const wire::Json& one : json["deliveries"].items()) {
    a.deliveries[std::string(one["receiver"].as_string())] = delivery_from_json(one);
  }
  return a;
}

}  // namespace

wire::Json Book::to_json() const {
  wire::Json alerts = wire::Json::array(), states = wire::Json::array(), seen = wire::Json::array(),
             finished = wire::Json::array();
  for (const Alert& alert : alerts_) alerts.push(alert_to_json(alert));
  for (const auto& [name, state] : states_) {
    wire::Json buckets = wire::Json::array();
    for (const auto& [service, bucket] : state.buckets) {
      buckets.push(wire::Json::object(
          {{"service", service}, {"tokens", bucket.tokens}, {"at_ns", bucket.at_ns}}));
    }
    states.push(wire::Json::object({{"receiver", name},
                                    {"failures", state.failures},
                                    {"retry_ns", state.retry_ns},
                                    {"last_error", state.last_error},
                                    {"buckets", std::move(buckets)}}));
  }
  for (const std::string& id : seen_) seen.push(id);
  for (const Finished& one : finished_) {
    finished.push(wire::Json::object({{"id", one.id},
                                      {"receiver", one.receiver},
                                      {"outcome", one.outcome},
                                      {"error", one.error},
                                      {"at_ns", one.at_ns}}));
  }
  return wire::Json::object({{"magic", "defib-alert-book"},
                             {"version", 1},
                             {"generation", position.generation},
                             {"offset", position.offset},
                             {"dropped", dropped_},
                             {"alerts", std::move(alerts)},
                             {"receivers", std::move(states)},
                             {"seen", std::move(seen)},
                             {"finished", std::move(finished)}});
}

Book Book::from_json(const wire::Json& json) {
  Book book;
  book.position.generation = json["generation"].as_string();
  book.position.offset = json["offset"].as_uint();
  book.dropped_ = json["dropped"].as_uint();
  for (const wire::Json& one : json["alerts"].items()) {
    if (book.alerts_.size() < kMaxAlerts) book.alerts_.push_back(alert_from_json(one));
  }
  for (const wire::Json& one : json["receivers"].items()) {
    ReceiverState& state = book.states_[std::string(one["receiver"].as_string())];
    state.failures = number_of(one["failures"]);
    state.retry_ns = time_of(one["retry_ns"]);
    state.last_error = one["last_error"].as_string();
    for (const wire::Json& bucket : one["buckets"].items()) {
      state.buckets[std::string(bucket["service"].as_string())] = {bucket["tokens"].as_double(),
                                                                   time_of(bucket["at_ns"])};
    }
  }
  for (const wire::Json& id : json["seen"].items()) {
    if (book.seen_.size() < kMaxSeen) book.seen_.emplace_back(id.as_string());
  }
  for (const wire::Json& one : json["finished"].items()) {
    if (book.finished_.size() == kMaxFinished) break;
    book.finished_.push_back({std::string(one["id"].as_string()),
                              std::string(one["receiver"].as_string()),
                              std::string(one["outcome"].as_string()),
                              std::string(one["error"].as_string()), time_of(one["at_ns"])});
  }
  return book;
}

}  // namespace defib::alert

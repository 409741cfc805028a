#include "defib/trading/intents.h"

#include <fmt/core.h>

#include <array>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"
#include "defib/trading/codec.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr std::array<std::string_view, 3> kRiskNames = {"low", "medium", "high"};
constexpr std::array<std::string_view, kIntentStates> kStateNames = {
    "durable",  "sent",   "accepted",  "unknown", "rejected",
    "not_sent", "filled", "cancelled", "expired", "never_accepted"};
constexpr std::array<std::string_view, kIntentEvents> kEventNames = {
    "sending",   "acknowledged", "refused",   "nothing_sent", "outcome_lost",
    "restarted", "filled",       "cancelled", "expired",      "proved_absent"};

// The table: state x event -> state. `kNo` marks what cannot happen.
//
// An accepted order may be acknowledged again (a partial fill, a reading), and a terminal state
// confirms itself, because a fill, a reading and a reply may all tell of the same end. A cancelled
// or expired order is raised to filled by a fill that raced with its end. What was told to be
// rejected, not sent or proved absent never comes back: such an order at the venue is a
// contradiction that a human must see.
using S = IntentState;
constexpr S kNo = static_cast<S>(0xff);
constexpr S kTable[kIntentStates][kIntentEvents] = {
    // sending, acknowledged, refused, nothing_sent, outcome_lost, restarted, filled, cancelled,
    // expired, proved_absent
    /* durable   */ {S::kSent, kNo, kNo, S::kNotSent, kNo, S::kUnknown, kNo, kNo, kNo, kNo},
    /* sent      */
    {kNo, S::kAccepted, S::kRejected, S::kNotSent, S::kUnknown, S::kUnknown, S::kFilled,
     S::kCancelled, S::kExpired, kNo},
    /* accepted  */
    {kNo, S::kAccepted, kNo, kNo, kNo, S::kAccepted, S::kFilled, S::kCancelled, S::kExpired, kNo},
    /* unknown   */
    {kNo, S::kAccepted, S::kRejected, kNo, S::kUnknown, S::kUnknown, S::kFilled, S::kCancelled,
     S::kExpired, S::kNeverAccepted},
    /* rejected  */ {kNo, kNo, S::kRejected, kNo, kNo, S::kRejected, kNo, kNo, kNo, kNo},
    /* not_sent  */ {kNo, kNo, kNo, S::kNotSent, kNo, S::kNotSent, kNo, kNo, kNo, kNo},
    /* filled    */
    {kNo, S::kFilled, kNo, kNo, kNo, S::kFilled, S::kFilled, S::kFilled, S::kFilled, kNo},
    /* cancelled */
    {kNo, S::kCancelled, kNo, kNo, kNo, S::kCancelled, S::kFilled, S::kCancelled, S::kCancelled,
     kNo},
    /* expired   */
    {kNo, S::kExpired, kNo, kNo, kNo, S::kExpired, S::kFilled, S::kExpired, S::kExpired, kNo},
    /* never     */
    {kNo, kNo, kNo, kNo, kNo, S::kNeverAccepted, kNo, kNo, kNo, S::kNeverAccepted},
};

constexpr std::uint8_t kIntentVersion = 1;
constexpr std::size_t kUsualRecord = 256;  // bytes, without the payload
// Clocks of the venue's parts may differ by so much in their time stamps.
constexpr std::int64_t kStampSlackMs = 1'000;

}  // namespace

std::string_view to_string(RiskLevel level) {
  return kRiskNames[static_cast<std::size_t>(level)];
}

std::optional<RiskLevel> parse_risk_level(std::string_view text) {
  for (std::size_t i = 0; i < kRiskNames.size(); ++i) {
    if (kRiskNames[i] == text) return static_cast<RiskLevel>(i);
  }
  return std::nullopt;
}

std::string_view to_string(IntentState state) {
  return kStateNames[static_cast<std::size_t>(state)];
}
std::string_view to_string(IntentEvent event) {
  return kEventNames[static_cast<std::size_t>(event)];
}

std::optional<IntentState> next_state(IntentState state, IntentEvent event) {
  const S next = kTable[static_cast<std::size_t>(state)][static_cast<std::size_t>(event)];
  if (next == kNo) return std::nullopt;
  return next;
}

bool is_terminal(IntentState state) {
  return state >= IntentState::kRejected;
}

bool is_unresolved(IntentState state) {
  return state == IntentState::kDurable || state == IntentState::kSent ||
         state == IntentState::kUnknown;
}

IntentEvent event_of(venue::OrderStatus status) {
  switch (status) {
    case venue::OrderStatus::kFilled:
      return IntentEvent::kFilled;
    case venue::OrderStatus::kCancelled:
      return IntentEvent::kCancelled;
    case venue::OrderStatus::kExpired:
      return IntentEvent::kExpired;
    case venue::OrderStatus::kRejected:
      return IntentEvent::kRefused;
    case venue::OrderStatus::kNew:
    case venue::OrderStatus::kPartiallyFilled:
    case venue::OrderStatus::kUnknown:
      return IntentEvent::kAcknowledged;
  }
  return IntentEvent::kAcknowledged;
}

Decimal Intent::notional() const {
  return saturating_product(quantity, reference_price);
}

venue::OrderRequest Intent::request() const {
  venue::OrderRequest request;
  request.client_id = id;
  request.symbol = symbol;
  request.side = side;
  request.type = type;
  request.time_in_force = time_in_force;
  request.quantity = quantity;
  request.price = price;
  request.timestamp_ms = timestamp_ms;
  request.expires_ms = fence_ms;
  return request;
}

wire::Json Intent::to_json() const {
  return wire::Json::object({{"id", id},
                             {"venue", venue},
                             {"symbol", symbol},
                             {"side", venue::to_string(side)},
                             {"quantity", quantity.to_string()},
                             {"price", price.to_string()},
                             {"notional", notional().to_string()},
                             {"state", to_string(state)},
                             {"timestamp_ms", timestamp_ms},
                             {"fence_ms", fence_ms},
                             {"strategy", strategy},
                             {"risk", to_string(risk)},
                             {"parent", parent},
                             {"venue_order_id", venue_order_id},
                             {"filled", filled.to_string()},
                             {"detail", detail}});
}

bool could_be_of(const venue::Fill& fill, const Intent& intent) {
  if (fill.symbol != intent.symbol || fill.side != intent.side) return false;
  if (fill.quantity > intent.quantity) return false;
  if (fill.time_ms < intent.timestamp_ms - kStampSlackMs) return false;
  if (intent.type == venue::OrderType::kMarket) return true;
  return intent.side == venue::Side::kBuy ? fill.price <= intent.price : fill.price >= intent.price;
}

std::string encode_intent(const Intent& intent) {
  std::string record;
  record.reserve(kUsualRecord + intent.payload.size());
  Writer out(record);
  out.u8(kIntentVersion);
  out.text(intent.venue);
  out.text(intent.symbol);
  out.u8(static_cast<std::uint8_t>(intent.side));
  out.u8(static_cast<std::uint8_t>(intent.type));
  out.u8(static_cast<std::uint8_t>(intent.time_in_force));
  out.i64(intent.quantity.units());
  out.i64(intent.price.units());
  out.i64(intent.reference_price.units());
  out.text(intent.payload);
  out.i64(intent.timestamp_ms);
  out.i64(intent.fence_ms);
  out.text(intent.strategy);
  out.u8(static_cast<std::uint8_t>(intent.risk));
  out.text(intent.parent);
  out.u8(static_cast<std::uint8_t>(intent.state));
  out.text(intent.venue_order_id);
  out.i64(intent.filled.units());
  out.text(intent.detail);
  out.i64(intent.updated_wall_ns);
  return record;
}

Result<Intent> decode_intent(std::string_view id, std::string_view record) {
  Reader in(record);
  Intent intent;
  intent.id = id;
  const std::uint8_t version = in.u8();
  intent.venue = in.text();
  intent.symbol = in.text();
  const bool side_fits = read_enum(in, 2, intent.side);
  const bool type_fits = read_enum(in, 2, intent.type);
  const bool time_fits = read_enum(in, 2, intent.time_in_force);
  intent.quantity = read_decimal(in);
  intent.price = read_decimal(in);
  intent.reference_price = read_decimal(in);
  intent.payload = in.text();
  intent.timestamp_ms = in.i64();
  intent.fence_ms = in.i64();
  intent.strategy = in.text();
  const bool risk_fits = read_enum(in, kRiskNames.size(), intent.risk);
  intent.parent = in.text();
  const bool state_fits = read_enum(in, kIntentStates, intent.state);
  intent.venue_order_id = in.text();
  intent.filled = read_decimal(in);
  intent.detail = in.text();
  intent.updated_wall_ns = in.i64();
  if (version != kIntentVersion || !(side_fits && type_fits && time_fits) || !risk_fits ||
      !state_fits || !in.finished()) {
    return damaged_record("intent", id, version);
  }
  return intent;
}

Result<std::unique_ptr<IntentLog>> IntentLog::open(store::Store& store,
                                                   store::Durability durability) {
  std::unique_ptr<IntentLog> log(new IntentLog(store, durability));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> snapshot, store.snapshot());
  DEFIB_TRY_ASSIGN(log->open_, read_open_intents(*snapshot));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot->scan(kIntentTable));
  const bool any = cursor->last();
  if (cursor->status()) log->greatest_id_ = any ? std::string(cursor->key()) : std::string();
  return log;
}

Result<> IntentLog::append(const Intent& intent) {
  DEFIB_ASSERT(!intent.id.empty() && intent.state == IntentState::kDurable);
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store_->begin());
  const bool is_greatest = greatest_id_ && intent.id > *greatest_id_;
  std::optional<std::string> used;
  if (!is_greatest) {
    DEFIB_TRY_ASSIGN(used, transaction->get(kIntentTable, intent.id));
  }
  if (used) {
    return Error(Code::kAlreadyExists,
                 fmt::format("the client order id {} was used before", intent.id))
        .with("id", intent.id)
        .suggest("nothing was sent; restart the engine, which takes a new boot epoch");
  }
  DEFIB_TRY(write(*transaction, intent));
  DEFIB_TRY(transaction->commit(durability_));
  if (is_greatest) greatest_id_ = intent.id;
  remember(intent);
  return {};
}

Result<> IntentLog::mark_sent(const std::string& id) {
  DEFIB_TRY_ASSIGN(const Intent intent, advanced(id, IntentEvent::kSending, {}, 0));
  open_.at(id).state = intent.state;
  return {};
}

Result<Intent> IntentLog::advanced(const std::string& id, IntentEvent event, std::string detail,
                                   std::int64_t wall_ns) const {
  DEFIB_TRY_ASSIGN(const std::optional<Intent> stored, [&]() -> Result<std::optional<Intent>> {
    if (const Intent* intent = find(id)) return std::optional<Intent>(*intent);
    return load(id);
  }());
  if (!stored) {
    return Error(Code::kNotFound, fmt::format("there is no intent {}", id)).with("id", id);
  }
  Intent intent = *stored;
  const std::optional<IntentState> next = next_state(intent.state, event);
  if (!next) {
    return Error(Code::kLedgerDamaged, fmt::format("intent {} is {}, so it cannot become {}", id,
                                                   to_string(intent.state), to_string(event)))
        .with("id", id)
        .with("state", to_string(intent.state))
        .with("event", to_string(event));
  }
  intent.state = *next;
  if (!detail.empty()) intent.detail = std::move(detail);
  intent.updated_wall_ns = wall_ns;
  return intent;
}

Result<> IntentLog::write(store::Transaction& transaction, const Intent& intent) {
  DEFIB_TRY(transaction.put(kIntentTable, intent.id, encode_intent(intent)));
  if (is_terminal(intent.state)) return transaction.erase(kOpenIntentTable, intent.id);
  return transaction.put(kOpenIntentTable, intent.id, {});
}

void IntentLog::remember(const Intent& intent) {
  if (is_terminal(intent.state)) {
    open_.erase(intent.id);
  } else {
    open_.insert_or_assign(intent.id, intent);
  }
}

Result<int> IntentLog::mark_unknown_after_restart(std::int64_t wall_ns) {
  std::vector<Intent> changed;
  for (const auto& [id, intent] : open_) {
    if (intent.state != IntentState::kDurable && intent.state != IntentState::kSent) continue;
    DEFIB_TRY_ASSIGN(Intent next,
                     advanced(id, IntentEvent::kRestarted,
                              "the engine ended before its outcome was known", wall_ns));
    changed.push_back(std::move(next));
  }
  if (changed.empty()) return 0;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store_->begin());
  for (const Intent& intent : changed) DEFIB_TRY(write(*transaction, intent));
  DEFIB_TRY(transaction->commit(durability_));
  for (const Intent& intent : changed) remember(intent);
  return static_cast<int>(changed.size());
}

const Intent* IntentLog::find(const std::string& id) const {
  const auto found = open_.find(id);
  return found == open_.end() ? nullptr : &found->second;
}

Result<std::optional<Intent>> IntentLog::load(const std::string& id) const {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Snapshot> snapshot, store_->snapshot());
  DEFIB_TRY_ASSIGN(const std::optional<std::string> record, snapshot->get(kIntentTable, id));
  if (!record) return std::optional<Intent>();
  DEFIB_TRY_ASSIGN(Intent intent, decode_intent(id, *record));
  return std::optional<Intent>(std::move(intent));
}

std::vector<Intent> IntentLog::unresolved() const {
  std::vector<Intent> result;
  for (const auto& [id, intent] : open_) {
    if (is_unresolved(intent.state)) result.push_back(intent);
  }
  return result;
}

Result<std::string> export_intents(const store::Snapshot& snapshot) {
  std::string lines;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kIntentTable));
  for (bool found = cursor->first(); found; found = cursor->next()) {
    DEFIB_TRY_ASSIGN(const Intent intent, decode_intent(cursor->key(), cursor->value()));
    std::string_view verdict = "accepted";
    if (is_unresolved(intent.state)) verdict = "unknown";
    if (intent.state == IntentState::kRejected) verdict = "rejected";
    if (intent.state == IntentState::kNotSent || intent.state == IntentState::kNeverAccepted) {
      verdict = "never_accepted";
    }
    lines += fmt::format("{} {} {} {} {} {} {}\n", intent.id, verdict, intent.symbol,
                         venue::to_string(intent.side), intent.quantity.to_string(),
                         intent.price.to_string(), intent.filled.to_string());
  }
  return lines;
}

Result<std::map<std::string, Intent>> read_open_intents(const store::Snapshot& snapshot) {
  std::map<std::string, Intent> intents;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kOpenIntentTable));
  for (bool found = cursor->first(); found; found = cursor->next()) {
    DEFIB_TRY_ASSIGN(const std::optional<std::string> record,
                     snapshot.get(kIntentTable, cursor->key()));
    if (!record) {
      return Error(Code::kLedgerDamaged,
                   fmt::format("intent {} is listed as open, but has no record", cursor->key()))
          .with("id", cursor->key());
    }
    DEFIB_TRY_ASSIGN(Intent intent, decode_intent(cursor->key(), *record));
    intents.emplace_hint(intents.end(), intent.id, std::move(intent));
  }
  return intents;
}

}  // namespace defib::trading

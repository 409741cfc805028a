#include "defib/trading/fence.h"

#include <fmt/core.h>

#include <algorithm>
#include <set>
#include <utility>

namespace defib::trading {
namespace {

constexpr std::int64_t kNsPerMs = 1'000'000;
// An intent whose proof is blocked is looked at again after so many visibility lags.
constexpr std::int64_t kBlockedLags = 10;
constexpr std::int64_t kMinBlockedMs = 1'000;

}  // namespace

Result<ResolveProgress> FenceResolver::poll() {
  ResolveProgress progress;
  std::vector<Intent> waiting = ledger_->intents().unresolved();
  std::erase_if(waiting, [](const Intent& item) { return item.state != IntentState::kUnknown; });
  if (waiting.empty()) {
    absent_.clear();
    return progress;
  }
  DEFIB_TRY_ASSIGN(const std::int64_t server_ms, venue_->server_time_ms());
  std::int64_t next_ms = INT64_MAX;
  std::vector<Intent> due, early;
  std::set<std::string> symbols;
  for (const Intent& intent : waiting) {
    const std::int64_t due_ms = due_time_ms(intent);
    if (server_ms > due_ms) {
      symbols.insert(intent.symbol);
      due.push_back(intent);
    } else {
      early.push_back(intent);
      next_ms = std::min(next_ms, due_ms + 1 - server_ms);
    }
  }
  if (!due.empty()) {
    DEFIB_TRY(examine(due, early, {symbols.begin(), symbols.end()}, server_ms, progress));
  }
  for (const Intent& intent : ledger_->intents().unresolved()) {
    if (intent.state != IntentState::kUnknown) continue;
    ++progress.remaining;
    next_ms = std::min(next_ms, std::max<std::int64_t>(1, due_time_ms(intent) + 1 - server_ms));
  }
  if (progress.remaining > 0) {
    progress.next_mono_ns = clock_->mono_ns() + next_ms * kNsPerMs;
  }
  return progress;
}

Result<> FenceResolver::examine(const std::vector<Intent>& due, const std::vector<Intent>& early,
                                const std::vector<std::string>& symbols, std::int64_t server_ms,
                                ResolveProgress& progress) {
  DEFIB_TRY(ledger_->sync_fills(*venue_, symbols, clock_->wall_ns(), server_ms));
  DEFIB_TRY_ASSIGN(const std::vector<venue::Order> open, venue_->open_orders_of(symbols));
  std::vector<const Intent*> absent;
  for (const Intent& intent : due) {
    DEFIB_TRY_ASSIGN(const std::optional<venue::Order> found, find(intent, open));
    if (found) {
      DEFIB_TRY(adopt(intent, *found, progress));
    } else {
      absent.push_back(&intent);
    }
  }
  // A trade that stands against a proof may be another's, which can be found before its fence.
  for (const Intent& other : early) {
    const bool stands_against = std::ranges::any_of(absent, [&](const Intent* intent) {
      return intent->symbol == other.symbol && suspicious_fill(*intent) != nullptr;
    });
    if (!stands_against) continue;
    DEFIB_TRY_ASSIGN(const std::optional<venue::Order> found, find(other, open));
    if (found) DEFIB_TRY(adopt(other, *found, progress));
  }
  // Behind the adoptions, whose trades stand against no other's proof.
  for (const Intent* intent : absent) DEFIB_TRY(judge_absent(*intent, server_ms, progress));
  return {};
}

// The venue's time after which the intent is to be looked at: its fence, then a lag later.
std::int64_t FenceResolver::due_time_ms(const Intent& intent) const {
  const auto seen = absent_.find(intent.id);
  if (seen == absent_.end()) return intent.fence_ms + options_.margin_ms;
  const std::int64_t lag = venue_->visibility_lag_ms() + options_.margin_ms;
  if (seen->second.blocked) {
    const std::int64_t wait = std::max(kMinBlockedMs, kBlockedLags * lag);
    // At once where the trade has turned out to be another order's.
    return seen->second.server_ms + (suspicious_fill(intent) != nullptr ? wait : 0);
  }
  return seen->second.server_ms + lag;
}

// As the venue shows it, by list or by id.
Result<std::optional<venue::Order>> FenceResolver::find(
    const Intent& intent, const std::vector<venue::Order>& open) const {
  std::optional<venue::Order> found;
  for (const venue::Order& order : open) {
    if (order.client_id != intent.id) continue;
    if (found) {
      return Error(Code::kDuplicateOrder,
                   fmt::format("the venue has two open orders, {} and {}, for intent {}",
                               found->venue_id, order.venue_id, intent.id))
          .with("client_id", intent.id)
          .with("first", found->venue_id)
          .with("second", order.venue_id);
    }
    found = order;
  }
  const Result<venue::Order> by_id = venue_->order(intent.symbol, intent.id);
  if (!by_id && by_id.error().code() != Code::kOrderNotFound) return by_id.error();
  if (by_id && found && by_id->venue_id != found->venue_id) {
    return Error(Code::kDuplicateOrder,
                 fmt::format("the venue has two orders, {} and {}, for intent {}", found->venue_id,
                             by_id->venue_id, intent.id))
        .with("client_id", intent.id)
        .with("first", found->venue_id)
        .with("second", by_id->venue_id);
  }
  if (by_id) found = *by_id;
  return found;
}

Result<> FenceResolver::judge_absent(const Intent& intent, std::int64_t server_ms,
                                     ResolveProgress& progress) {
  if (const venue::Fill* fill = suspicious_fill(intent)) {
    absent_[intent.id] = {server_ms, true};
    progress.blocked.push_back(
        {intent.id, IntentState::kUnknown,
         fmt::format("absent, but trade {} of the unknown order {} could be its own",
                     fill->trade_id, fill->venue_order_id)});
    return {};
  }
  const auto first = absent_.find(intent.id);
  if (first == absent_.end() || first->second.blocked) {
    absent_[intent.id] = {server_ms, false};
    return {};
  }
  return prove_absent(intent, first->second.server_ms, server_ms, progress);
}

const venue::Fill* FenceResolver::suspicious_fill(const Intent& intent) const {
  for (const venue::Fill& fill : ledger_->fills_of_unknown_orders()) {
    if (could_be_of(fill, intent)) return &fill;
  }
  return nullptr;
}

Result<> FenceResolver::adopt(const Intent& intent, const venue::Order& order,
                              ResolveProgress& progress) {
  const std::string why = fmt::format("found as order {}, {}, with {} of {} filled", order.venue_id,
                                      venue::to_string(order.status), order.filled.to_string(),
                                      order.quantity.to_string());
  LedgerUpdate update(*ledger_);
  DEFIB_TRY(update.set_order(order, why));
  DEFIB_TRY(update.commit(clock_->wall_ns()));
  absent_.erase(intent.id);
  const Intent* still_open = ledger_->intents().find(intent.id);
  IntentState state = still_open ? still_open->state : IntentState::kFilled;
  if (!still_open) {
    DEFIB_TRY_ASSIGN(const std::optional<Intent> ended, ledger_->intents().load(intent.id));
    if (ended) state = ended->state;
  }
  progress.settled.push_back({intent.id, state, why});
  return {};
}

Result<> FenceResolver::prove_absent(const Intent& intent, std::int64_t first_ms,
                                     std::int64_t second_ms, ResolveProgress& progress) {
  const std::string why = fmt::format(
      "absent {} ms and {} ms after its fence, by list, by id and in the trades; never accepted",
      first_ms - intent.fence_ms, second_ms - intent.fence_ms);
  DEFIB_TRY_ASSIGN(Intent next, ledger_->intents().advanced(intent.id, IntentEvent::kProvedAbsent,
                                                            why, clock_->wall_ns()));
  LedgerUpdate update(*ledger_);
  update.set_intent(std::move(next));
  DEFIB_TRY(update.commit(clock_->wall_ns()));
  absent_.erase(intent.id);
  progress.settled.push_back({intent.id, IntentState::kNeverAccepted, why});
  return {};
}

Result<ResolveProgress> FenceResolver::run_until(std::int64_t deadline_mono_ns) {
  ResolveProgress all;
  while (true) {
    DEFIB_TRY_ASSIGN(ResolveProgress step, poll());
    for (Settled& settled : step.settled) all.settled.push_back(std::move(settled));
    all.blocked = std::move(step.blocked);
    all.remaining = step.remaining;
    all.next_mono_ns = step.next_mono_ns;
    if (step.remaining == 0 || step.next_mono_ns > deadline_mono_ns) return all;
    const std::int64_t wait = step.next_mono_ns - clock_->mono_ns();
    if (wait > 0) clock_->sleep_for(os::Duration(wait));
  }
}

}  // namespace defib::trading

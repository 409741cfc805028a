// Faults: what the venue does wrong on purpose, to which requests.
//
// A plan is a list of rules. Each rule counts the requests that match its method and path and fires
// by number, by period or by chance (seeded); what fires for one request is one FaultActions.
// A rule is one JSON object; the members are listed in docs/paper.md, and unknown ones are errors.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/random.h"
#include "defib/paper/types.h"
#include "defib/wire/json.h"

namespace defib::paper {

enum class FaultKind : std::uint8_t {
  kDropRequest,    // close the connection; nothing is executed
  kDropReply,      // execute, then close the connection
  kDelayRequest,   // wait before matching (the time rule is checked again afterwards)
  kDelayReply,     // execute, then wait before answering
  kRateLimit,      // 429 with Retry-After; nothing is executed
  kBan,            // 418 with Retry-After; nothing is executed
  kServerError,    // a 5XX, with or without execution
  kTimeout,        // -1007, with or without execution
  kCutReply,       // execute, then send half of the body
  kGarbageReply,   // execute, then send a body that is not JSON
  kUnknownFields,  // execute, and add fields to the answer that no document mentions
  kVisibilityLag,  // execute, but hide the new order from queries for a while
  kClockSkew,      // from now on the venue's clock is off
  kHalt,           // from now on a symbol has another status
  kExternalOrder,  // the account's owner places an order elsewhere just before this request
};
std::string_view to_string(FaultKind kind);

struct FaultRule {
  std::string name;
  FaultKind kind = FaultKind::kDropRequest;
  std::string method;  // empty: any
  std::string path;    // empty: any
  // When: the n-th match, every n-th match, or each match with a probability; else every match.
  std::uint64_t nth = 0;
  std::uint64_t every = 0;
  std::optional<double> probability;
  std::uint64_t times = 0;  // fires at most so often; 0: no bound (1 for an `nth` rule)
  // How, by kind.
  std::int64_t delay_ms = 0;
  int status = 0;
  int code = 0;
  std::int64_t retry_after_s = 1;
  bool accepted = false;
  std::int64_t lag_ms = 0;
  std::int64_t skew_ms = 0;
  std::string symbol;
  SymbolStatus symbol_status = SymbolStatus::kHalt;
  Side side = Side::kBuy;
  Decimal price;  // zero: a market order
  Decimal quantity;

  std::uint64_t matched = 0;
  std::uint64_t fired = 0;
};
Result<FaultRule> parse_fault_rule(const wire::Json& json);
// JSON lines; empty lines and lines that start with '#' are skipped. The error names the line.
Result<std::vector<FaultRule>> parse_fault_rules(std::string_view lines);
wire::Json to_json(const FaultRule& rule);

class FaultPlan {
 public:
  explicit FaultPlan(std::uint64_t seed) : random_(seed ^ kSeedSalt) {}
  void add(FaultRule rule);
  void clear() { rules_.clear(); }
  const std::vector<FaultRule>& rules() const { return rules_; }
  // Copies of the rules that fire for this request, in the order of the plan.
  std::vector<FaultRule> match(std::string_view method, std::string_view path);

 private:
  static constexpr std::uint64_t kSeedSalt = 0x6661756c74706c6eULL;
  bool fires(FaultRule& rule);
  os::Random random_;
  std::vector<FaultRule> rules_;
};

}  // namespace defib::paper

// Decision: pure rules over collected evidence. A verdict carries the rule that decided, its input,
// its threshold, and what would flip it; the evidence is kept, so that the verdict can be
// reproduced offline. Rules start no threads and read no time.

#pragma once

#include <functional>
#include <string>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::recovery {

// Named facts, in the order in which they were collected.
class Evidence {
 public:
  Evidence& set(std::string_view name, wire::Json value);
  const wire::Json& operator[](std::string_view name) const { return facts_[name]; }
  bool has(std::string_view name) const { return facts_.has(name); }
  const wire::Json& to_json() const { return facts_; }
  static Evidence from_json(wire::Json facts);

 private:
  wire::Json facts_ = wire::Json::object();
};

// How a rule speaks, from mild to strict; the strictest verdict of all rules wins, the first rule
// in order among equals.
enum class Verdict { kAllow, kWarn, kMonitorOnly, kNeedApproval, kRefuse };
std::string_view to_string(Verdict verdict);

struct Finding {
  std::string rule;        // "repeated_crashes"
  Verdict verdict = Verdict::kAllow;
  std::string input;       // "4 crashes in 5m"
  std::string threshold;   // "more than 3 in 5m"
  std::string flips;       // "wait 3m12s, or approve with `defib approve`"
  wire::Json to_json() const;
};

struct Rule {
  std::string name;
  // Which facts it reads; a missing one makes the rule refuse, naming it.
  std::vector<std::string> needs;
  std::function<Finding(const Evidence&)> decide;
};

struct Decision {
  std::string id;                  // "decision-" + first 12 digits of the hash of the evidence
  Verdict verdict = Verdict::kAllow;
  std::string rule;                // the rule that decided; "none" where all allow
  std::vector<Finding> findings;   // of every rule, in order
  Evidence evidence;
  // Lines for a person: verdict, rule, input, threshold, what would flip it.
  std::string explain() const;
  wire::Json to_json() const;
  static Result<Decision> from_json(const wire::Json& json);
};

Decision decide(const std::vector<Rule>& rules, Evidence evidence);

}  // namespace defib::recovery

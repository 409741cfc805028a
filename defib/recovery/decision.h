// Decision: pure rules over collected evidence. A verdict carries the rule that decided, its input,
// its threshold, and what would flip it; the evidence is kept, so that the verdict can be
// reproduced offline. Rules start no threads and read no time.
//
// Doubt is refusal: a missing fact, a fact that holds no finite number, a rule that throws, and an
// empty list of rules all refuse, and say so by name.
// Thread rule: like std::string.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/wire/json.h"

namespace defib::recovery {

// Named facts, in the order in which they were collected. A null is a fact that could not be
// collected: has() is false for it.
class Evidence {
 public:
  // A value that holds a number which JSON cannot carry (infinite, not a number), at any depth,
  // becomes null: comparisons with it would decide by accident.
  Evidence& set(std::string_view name, wire::Json value);
  const wire::Json& operator[](std::string_view name) const { return facts_[name]; }
  bool has(std::string_view name) const { return !facts_[name].is_null(); }
  const wire::Json& to_json() const { return facts_; }
  static Evidence from_json(const wire::Json& facts);

 private:
  wire::Json facts_ = wire::Json::object();
};

// How a rule speaks, from mild to strict; the strictest verdict of all rules wins, the first rule
// in order among equals.
enum class Verdict { kAllow, kWarn, kMonitorOnly, kNeedApproval, kRefuse };
// "allow", "warn", "monitor_only", "need_approval", "refuse".
std::string_view to_string(Verdict verdict);
std::optional<Verdict> verdict_from_string(std::string_view text);

struct Finding {
  std::string rule = {};  // "repeated_crashes"
  Verdict verdict = Verdict::kAllow;
  std::string input = {};      // "4 crashes in 5m"
  std::string threshold = {};  // "more than 3 in 5m"
  std::string flips = {};      // "wait 3m12s, or approve with `defib approve`"
  wire::Json to_json() const;
  static Result<Finding> from_json(const wire::Json& json);
};

struct Rule {
  std::string name;
  // Which facts it reads; a missing one makes the rule refuse, naming it.
  std::vector<std::string> needs = {};
  std::function<Finding(const Evidence&)> decide;
};

struct Decision {
  std::string id;  // "decision-" + first 12 digits of the hash of the evidence
  Verdict verdict = Verdict::kAllow;
  std::string rule;               // the rule that decided; "none" where all allow
  std::vector<Finding> findings;  // of every rule, in order
  Evidence evidence;
  // Lines for a person: verdict, rule, input, threshold, what would flip it.
  std::string explain() const;
  // {"schema":"defib.decision/1","id","verdict","rule","findings":[...],"evidence":{...}}
  wire::Json to_json() const;
  // Malformed when the id does not belong to the evidence, or the verdict and rule do not follow
  // from the findings.
  static Result<Decision> from_json(const wire::Json& json);
};

// Same rules and same evidence give the same decision, byte for byte.
Decision decide(const std::vector<Rule>& rules, Evidence evidence);

}  // namespace defib::recovery

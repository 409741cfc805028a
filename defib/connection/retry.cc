#include "defib/connection/retry.h"

#include <algorithm>
#include <cmath>

namespace defib::connection {
namespace {

// What a class allows; one row a class, tested over all.
struct Rule {
  FailureClass failure_class;
  bool safe;             // nothing of it is stored, so repeating cannot double it
  bool only_idempotent;  // whether it is stored is unknown
  bool conflict;         // the short first pause
  bool drain;
};
constexpr Rule kRules[kFailureClasses] = {
    {FailureClass::kRetryNow, true, false, true, false},
    {FailureClass::kRetryAfterBackoff, true, false, false, false},
    {FailureClass::kStatementOnly, true, false, false, false},
    {FailureClass::kNewConnection, true, false, false, false},
    {FailureClass::kOutcomeUnknown, false, true, false, false},
    {FailureClass::kCommitAmbiguous, false, false, false, false},
    {FailureClass::kWrongNode, true, false, true, true},
    {FailureClass::kOperator, false, false, false, false},
    {FailureClass::kNever, false, false, false, false},
};

RetryPace pace_of(FailureClass failure_class, bool conflict, const RetryPolicy& policy) {
  const auto own = policy.per_class.find(failure_class);
  if (own != policy.per_class.end()) return own->second;
  return {.attempts = policy.attempts,
          .initial = conflict ? policy.initial_conflict : policy.initial,
          .maximum = policy.maximum,
          .multiplier = policy.multiplier,
          .jitter = policy.jitter};
}

}  // namespace

RetryAnswer decide(const RetryQuestion& question, const RetryPolicy& policy, os::Random& random) {
  const Rule& rule = kRules[static_cast<std::size_t>(question.failure_class)];
  RetryAnswer answer;
  answer.drain = rule.drain;
  if (!rule.safe && !(rule.only_idempotent && question.idempotent)) {
    answer.why = rule.only_idempotent ? "it may have been executed and is not idempotent"
                                      : "repeating it is not safe or changes nothing";
    return answer;
  }
  if (question.partly_done && !question.idempotent) {
    answer.why = "statements before it are stored, and the work is not idempotent";
    return answer;
  }
  const RetryPace pace = pace_of(question.failure_class, rule.conflict, policy);
  if (question.attempt >= pace.attempts) {
    answer.why = "no attempts are left";
    return answer;
  }
  const double step =
      static_cast<double>(pace.initial.count()) * std::pow(pace.multiplier, question.attempt - 1);
  const double upper = std::min(step, static_cast<double>(pace.maximum.count()));
  const double drawn = pace.jitter ? upper * random.unit() : upper;
  const std::int64_t least = question.minimum_pause_ms * 1'000'000;
  answer.again = true;
  answer.pause = os::Duration(least + static_cast<std::int64_t>(drawn));
  return answer;
}

}  // namespace defib::connection

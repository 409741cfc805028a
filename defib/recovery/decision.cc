#include "defib/recovery/decision.h"

#include <fmt/core.h>

#include <array>
#include <cmath>
#include <exception>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::recovery {
namespace {

constexpr std::string_view kSchema = "defib.decision/1";
constexpr std::size_t kIdDigits = 12;
constexpr std::array<std::string_view, 5> kVerdicts = {"allow", "warn", "monitor_only",
                                                       "need_approval", "refuse"};

bool holds_only_finite_numbers(const wire::Json& value) {
  std::vector<const wire::Json*> left = {&value};
  while (!left.empty()) {
    const wire::Json& next = *left.back();
    left.pop_back();
    if (next.is_number() && !std::isfinite(next.as_double())) return false;
    for (const wire::Json& item : next.items()) left.push_back(&item);
    for (const auto& [name, member] : next.members()) left.push_back(&member);
  }
  return true;
}

std::string id_of(const Evidence& evidence) {
  return fmt::format("decision-{}", sha256_hex(evidence.to_json().dump()).substr(0, kIdDigits));
}

Finding refusal(std::string rule, std::string input, std::string threshold, std::string flips) {
  return {.rule = std::move(rule),
          .verdict = Verdict::kRefuse,
          .input = std::move(input),
          .threshold = std::move(threshold),
          .flips = std::move(flips)};
}

Finding apply(const Rule& rule, const Evidence& evidence) {
  for (const std::string& fact : rule.needs) {
    if (evidence.has(fact)) continue;
    return refusal(rule.name, fmt::format("the fact {} is missing", fact),
                   fmt::format("needs the fact {}", fact), fmt::format("collect {}", fact));
  }
  std::string thrown;
  try {
    Finding finding = rule.decide(evidence);
    finding.rule = rule.name;
    return finding;
  } catch (const std::exception& exception) {
    thrown = exception.what();
  } catch (...) {
    thrown = "an exception that is not a std::exception";
  }
  return refusal(rule.name, fmt::format("the rule threw: {}", thrown), "a rule must end",
                 "correct the rule");
}

// The strictest finding, the first among equals; null where all allow.
const Finding* deciding(const std::vector<Finding>& findings) {
  const Finding* strictest = nullptr;
  for (const Finding& finding : findings) {
    const Verdict so_far = strictest == nullptr ? Verdict::kAllow : strictest->verdict;
    if (finding.verdict > so_far) strictest = &finding;
  }
  return strictest;
}

void conclude(Decision& decision) {
  const Finding* strictest = deciding(decision.findings);
  decision.verdict = strictest == nullptr ? Verdict::kAllow : strictest->verdict;
  decision.rule = strictest == nullptr ? "none" : strictest->rule;
  decision.id = id_of(decision.evidence);
}

std::string explain_finding(const Finding& finding) {
  std::string text = fmt::format("  {}: {}\n", finding.rule, to_string(finding.verdict));
  if (!finding.input.empty()) text += fmt::format("    input:     {}\n", finding.input);
  if (!finding.threshold.empty()) text += fmt::format("    threshold: {}\n", finding.threshold);
  if (!finding.flips.empty()) text += fmt::format("    flips:     {}\n", finding.flips);
  return text;
}

}  // namespace

Evidence& Evidence::set(std::string_view name, wire::Json value) {
  facts_.set(name, holds_only_finite_numbers(value) ? std::move(value) : wire::Json());
  return *this;
}

Evidence Evidence::from_json(const wire::Json& facts) {
  Evidence evidence;
  for (const auto& [name, value] : facts.members()) evidence.set(name, value);
  return evidence;
}

std::string_view to_string(Verdict verdict) {
  return kVerdicts.at(static_cast<std::size_t>(verdict));
}

std::optional<Verdict> verdict_from_string(std::string_view text) {
  for (std::size_t i = 0; i < kVerdicts.size(); ++i) {
    if (kVerdicts[i] == text) return static_cast<Verdict>(i);
  }
  return std::nullopt;
}

wire::Json Finding::to_json() const {
  return wire::Json::object({{"rule", rule},
                             {"verdict", to_string(verdict)},
                             {"input", input},
                             {"threshold", threshold},
                             {"flips", flips}});
}

Result<Finding> Finding::from_json(const wire::Json& json) {
  Finding finding;
  DEFIB_TRY_ASSIGN(finding.rule, json.require_string("rule"));
  DEFIB_TRY_ASSIGN(const std::string verdict, json.require_string("verdict"));
  DEFIB_TRY_ASSIGN(finding.input, json.require_string("input"));
  DEFIB_TRY_ASSIGN(finding.threshold, json.require_string("threshold"));
  DEFIB_TRY_ASSIGN(finding.flips, json.require_string("flips"));
  const std::optional<Verdict> parsed = verdict_from_string(verdict);
  if (!parsed) return Error(Code::kMalformed, fmt::format("'{}' is not a verdict", verdict));
  finding.verdict = *parsed;
  return finding;
}

std::string Decision::explain() const {
  std::string text = fmt::format("{}: {}\n", id, to_string(verdict));
  const Finding* strictest = deciding(findings);
  if (strictest == nullptr) {
    text += fmt::format("all {} rules allow\n", findings.size());
  } else {
    text += "decided by\n" + explain_finding(*strictest);
  }
  std::string others;
  for (const Finding& finding : findings) {
    if (&finding != strictest) others += explain_finding(finding);
  }
  if (!others.empty()) text += (strictest == nullptr ? "rules\n" : "other rules\n") + others;
  return text;
}

wire::Json Decision::to_json() const {
  wire::Json list = wire::Json::array();
  for (const Finding& finding : findings) list.push(finding.to_json());
  return wire::Json::object({{"schema", kSchema},
                             {"id", id},
                             {"verdict", to_string(verdict)},
                             {"rule", rule},
                             {"findings", std::move(list)},
                             {"evidence", evidence.to_json()}});
}

Result<Decision> Decision::from_json(const wire::Json& json) {
  Decision decision;
  DEFIB_TRY_ASSIGN(const std::string schema, json.require_string("schema"));
  if (schema != kSchema) {
    return Error(Code::kMalformed, fmt::format("'{}' is not the schema {}", schema, kSchema));
  }
  for (const wire::Json& item : json["findings"].items()) {
    DEFIB_TRY_ASSIGN(Finding finding, Finding::from_json(item));
    decision.findings.push_back(std::move(finding));
  }
  if (!json["evidence"].is_object()) {
    return Error(Code::kMalformed, "the decision has no evidence");
  }
  decision.evidence = Evidence::from_json(json["evidence"]);
  conclude(decision);
  for (const auto& [key, expected] : {std::pair<std::string_view, std::string>{"id", decision.id},
                                      {"verdict", std::string(to_string(decision.verdict))},
                                      {"rule", decision.rule}}) {
    DEFIB_TRY_ASSIGN(const std::string written, json.require_string(key));
    if (written == expected) continue;
    return Error(Code::kMalformed, fmt::format("the decision's {} is {}, but its content gives {}",
                                               key, written, expected))
        .with("member", key);
  }
  return decision;
}

Decision decide(const std::vector<Rule>& rules, Evidence evidence) {
  Decision decision;
  decision.evidence = std::move(evidence);
  for (const Rule& rule : rules) decision.findings.push_back(apply(rule, decision.evidence));
  if (rules.empty()) {
    decision.findings.push_back(
        refusal("no_rules", "no rules are loaded", "at least one rule", "load the rules"));
  }
  conclude(decision);
  return decision;
}

}  // namespace defib::recovery

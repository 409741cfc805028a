#include "defib/paper/audit.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <memory>
#include <utility>

#include "defib/paper/core.h"
#include "defib/paper/ledger.h"

namespace defib::paper {
namespace {

using wire::Json;

constexpr std::array<std::pair<Belief, std::string_view>, 4> kBeliefs{
    {{Belief::kAccepted, "accepted"},
     {Belief::kRejected, "rejected"},
     {Belief::kNeverAccepted, "never_accepted"},
     {Belief::kUnknown, "unknown"}}};

constexpr std::array<std::pair<FindingKind, std::string_view>, 8> kFindings{
    {{FindingKind::kLost, "lost"},
     {FindingKind::kDuplicated, "duplicated"},
     {FindingKind::kPhantom, "phantom"},
     {FindingKind::kUnresolved, "unresolved"},
     {FindingKind::kUnprovedRejection, "unproved_rejection"},
     {FindingKind::kRepeatedIntent, "repeated_intent"},
     {FindingKind::kMisattributed, "misattributed"},
     {FindingKind::kLedgerBroken, "ledger_broken"}}};

// What the ledger says about one client id.
struct Truth {
  std::vector<std::uint64_t> accepted;  // order ids, external orders apart
  std::uint64_t rejections = 0;         // the venue refused a request of this id
  bool has_intent = false;
};
using Truths = std::map<std::string, Truth, std::less<>>;

// Replays the ledger and collects the truth of each client id.
class LedgerWitness {
 public:
  LedgerWitness(AuditReport& report, const std::vector<Symbol>& symbols)
      : report_(report), symbols_(symbols) {}

  Result<> see(const Event& event) {
    if (broken_) return {};
    replay(event);
    std::visit([this](const auto& body) { note(body); }, event.body);
    return {};
  }
  void finish() {
    if (core_ == nullptr) return;
    if (const std::string broken = core_->check_invariants(); !broken.empty()) {
      report_.findings.push_back({FindingKind::kLedgerBroken, {}, broken});
    }
    report_.digest = core_->digest();
  }
  Truths& truths() { return truths_; }
  const Core* core() const { return core_.get(); }

 private:
  void replay(const Event& event) {
    if (const auto* started = std::get_if<Started>(&event.body); started && core_ == nullptr) {
      Core::Options options;
      options.seed = started->seed;
      options.symbols = symbols_;
      core_ = std::make_unique<Core>(std::move(options));
    }
    const Result<> replayed =
        core_ == nullptr
            ? Result<>(Error(Code::kCorrupted, "the ledger does not begin with a start"))
            : core_->replay(event);
    if (replayed) return;
    broken_ = true;
    report_.findings.push_back({FindingKind::kLedgerBroken, {}, replayed.error().message()});
  }
  void note(const Started&) { ++report_.starts; }
  void note(const OrderAccepted& accepted) {
    ++report_.orders;
    if (accepted.order.origin == Origin::kExternal) {
      ++report_.external_orders;
    } else {
      truths_[accepted.order.client_id].accepted.push_back(accepted.order.id);
    }
  }
  void note(const OrderRefused& refused) {
    if (refused.refusal == Refusal::kDropped) {
      ++report_.dropped;
      return;
    }
    ++(refused.refusal == Refusal::kDuplicate ? report_.duplicate_requests : report_.refused);
    ++truths_[refused.client_id].rejections;
  }
  void note(const Filled&) { ++report_.fills; }
  void note(const Triggered&) {}
  void note(const OrderClosed&) { ++report_.closed; }
  void note(const Deposited&) {}
  void note(const StatusChanged&) {}
  void note(const PriceAnchored&) {}
  void note(const FaultFired&) {}

  AuditReport& report_;
  const std::vector<Symbol>& symbols_;
  std::unique_ptr<Core> core_;
  Truths truths_;
  bool broken_ = false;
};

void add(AuditReport& report, FindingKind kind, const std::string& client_id, std::string detail) {
  report.findings.push_back({kind, client_id, std::move(detail)});
}

void judge(AuditReport& report, const Intent& intent, const Truth& truth) {
  const bool exists = !truth.accepted.empty();
  const auto lost = [&](std::string_view belief) {
    ++report.lost;
    add(report, FindingKind::kLost, intent.client_id,
        fmt::format("believed {}, but the venue accepted it as order {}", belief,
                    truth.accepted.front()));
  };
  switch (intent.belief) {
    case Belief::kAccepted:
      if (exists) {
        ++report.accepted;
      } else {
        add(report, FindingKind::kPhantom, intent.client_id,
            "believed accepted, but the venue has no such order");
      }
      return;
    case Belief::kRejected:
      if (exists) {
        lost("rejected");
      } else if (truth.rejections > 0) {
        ++report.rejected;
      } else {
        add(report, FindingKind::kUnprovedRejection, intent.client_id,
            "believed rejected, but the venue never refused it");
      }
      return;
    case Belief::kNeverAccepted:
      if (exists) {
        lost("never accepted");
      } else {
        ++report.never_accepted;
      }
      return;
    case Belief::kUnknown:
      ++report.unresolved;
      add(report, FindingKind::kUnresolved, intent.client_id,
          exists ? fmt::format("the venue accepted it as order {}", truth.accepted.front())
                 : std::string("the venue never accepted it"));
      return;
  }
}

std::string terms_text(std::string_view symbol, Side side, Decimal quantity, Decimal price,
                       Decimal filled) {
  return fmt::format("{} {} {} at {}, {} filled", to_string(side), quantity.to_string(), symbol,
                     price.to_string(), filled.to_string());
}

// Is the order of this id the one that was intended, and has it all the fills that were booked?
void compare_terms(AuditReport& report, const Intent& intent, const Truth& truth,
                   const Core& core) {
  if (!intent.terms || truth.accepted.empty()) return;
  const Order& order = *core.find_order(truth.accepted.front());
  const IntentTerms& terms = *intent.terms;
  const std::string& symbol = core.symbols()[order.symbol].name;
  if (symbol == terms.symbol && order.side == terms.side && order.quantity == terms.quantity &&
      order.price == terms.price && terms.filled <= order.executed) {
    return;
  }
  ++report.misattributed;
  add(report, FindingKind::kMisattributed, intent.client_id,
      fmt::format("intended {}; order {} is {}",
                  terms_text(terms.symbol, terms.side, terms.quantity, terms.price, terms.filled),
                  order.id,
                  terms_text(symbol, order.side, order.quantity, order.price, order.executed)));
}

void judge_all(AuditReport& report, const std::vector<Intent>& intents, Truths& truths,
               const Core* core) {
  report.with_intents = true;
  report.intents = intents.size();
  for (const Intent& intent : intents) {
    Truth& truth = truths[intent.client_id];
    if (truth.has_intent) {
      add(report, FindingKind::kRepeatedIntent, intent.client_id, "two intents have this id");
      continue;
    }
    truth.has_intent = true;
    judge(report, intent, truth);
    if (core != nullptr) compare_terms(report, intent, truth, *core);
  }
  for (const auto& [client_id, truth] : truths) {
    if (truth.has_intent || truth.accepted.empty()) continue;
    report.lost += truth.accepted.size();
    add(report, FindingKind::kLost, client_id,
        fmt::format("the venue accepted order {}, but there is no intent for it",
                    truth.accepted.front()));
  }
}

std::vector<std::string_view> words_of(std::string_view line) {
  constexpr std::string_view kSeparators = " \t,\r";
  std::vector<std::string_view> words;
  for (std::size_t at = line.find_first_not_of(kSeparators); at != std::string_view::npos;) {
    const std::size_t end = std::min(line.find_first_of(kSeparators, at), line.size());
    words.push_back(line.substr(at, end - at));
    at = line.find_first_not_of(kSeparators, end);
  }
  return words;
}

std::optional<Intent> parse_intent(const std::vector<std::string_view>& words) {
  constexpr std::size_t kBare = 2;
  constexpr std::size_t kWithTerms = 7;
  if (words.size() != kBare && words.size() != kWithTerms) return std::nullopt;
  const auto belief =
      std::ranges::find(kBeliefs, words[1], &decltype(kBeliefs)::value_type::second);
  if (belief == kBeliefs.end()) return std::nullopt;
  Intent intent{std::string(words[0]), belief->first};
  if (words.size() == kBare) return intent;
  const Result<Decimal> quantity = Decimal::parse(words[4]);
  const Result<Decimal> price = Decimal::parse(words[5]);
  const Result<Decimal> filled = Decimal::parse(words[6]);
  const bool sells = words[3] == "sell";
  if ((!sells && words[3] != "buy") || !quantity || !price || !filled) return std::nullopt;
  intent.terms = {std::string(words[2]), sells ? Side::kSell : Side::kBuy, *quantity, *price,
                  *filled};
  return intent;
}

}  // namespace

std::string_view to_string(FindingKind kind) {
  return kFindings[static_cast<std::size_t>(kind)].second;
}

Result<std::vector<Intent>> parse_intents(std::string_view text) {
  std::vector<Intent> intents;
  std::int64_t number = 0;
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    ++number;
    if (line.empty() || line == "\r" || line.front() == '#') continue;
    std::optional<Intent> intent = parse_intent(words_of(line));
    if (!intent) {
      return Error(Code::kMalformed,
                   fmt::format("line {} of the intents is not 'CLIENT_ID accepted|rejected|"
                               "never_accepted|unknown [SYMBOL buy|sell QUANTITY PRICE FILLED]'",
                               number))
          .with("line", number);
    }
    intents.push_back(std::move(*intent));
  }
  return intents;
}

Json AuditReport::to_json() const {
  Json json = Json::object({{"schema", "defib.paper_audit/1"}, {"ok", ok()}});
  if (with_intents) {
    json.set("intents", intents).set("accepted", accepted).set("rejected", rejected);
    json.set("never_accepted", never_accepted).set("unresolved", unresolved);
    json.set("lost", lost).set("misattributed", misattributed);
  }
  json.set("duplicated", duplicated);
  json.set("orders", orders).set("external_orders", external_orders);
  json.set("fills", fills).set("closed", closed);
  json.set("refused_requests", refused).set("duplicate_requests", duplicate_requests);
  json.set("dropped_requests", dropped);
  json.set("starts", starts).set("torn_bytes", torn_bytes).set("digest", digest);
  Json list = Json::array();
  for (const Finding& finding : findings) {
    list.push(Json::object({{"kind", to_string(finding.kind)},
                            {"client_id", finding.client_id},
                            {"detail", finding.detail}}));
  }
  return json.set("findings", std::move(list));
}

std::string AuditReport::to_text() const {
  std::string text = fmt::format(
      "ledger: {} orders accepted ({} external), {} fills, {} closed; {} requests refused, {} "
      "duplicates refused, {} dropped; {} starts\n",
      orders, external_orders, fills, closed, refused, duplicate_requests, dropped, starts);
  if (with_intents) {
    text += fmt::format(
        "intents: {} accepted + {} rejected + {} never accepted = {} of {}; {} unresolved\n",
        accepted, rejected, never_accepted, accepted + rejected + never_accepted, intents,
        unresolved);
    text +=
        fmt::format("lost {}, duplicated {}, misattributed {}\n", lost, duplicated, misattributed);
  } else {
    text += fmt::format("duplicated {}\n", duplicated);
  }
  for (const Finding& finding : findings) {
    text += fmt::format("{}: {}{}{}\n", to_string(finding.kind), finding.client_id,
                        finding.client_id.empty() ? "" : ": ", finding.detail);
  }
  return text + (ok() ? "proved\n" : "NOT proved\n");
}

Result<AuditReport> audit(os::Files& files, const std::string& ledger_path,
                          const std::optional<std::vector<Intent>>& intents,
                          const std::vector<Symbol>& symbols) {
  AuditReport report;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file,
                   files.open(ledger_path, os::OpenMode::kRead));
  LedgerWitness witness(report, symbols);
  DEFIB_TRY_ASSIGN(const LedgerHead head, read_ledger(*file, symbols, [&](const Event& event) {
                     return witness.see(event);
                   }));
  witness.finish();
  report.torn_bytes = head.torn_bytes;
  for (const auto& [client_id, truth] : witness.truths()) {
    if (truth.accepted.size() <= 1) continue;
    report.duplicated += truth.accepted.size() - 1;
    add(report, FindingKind::kDuplicated, client_id,
        fmt::format("the venue accepted {} orders, the first two are {} and {}",
                    truth.accepted.size(), truth.accepted[0], truth.accepted[1]));
  }
  if (intents) judge_all(report, *intents, witness.truths(), witness.core());
  return report;
}

}  // namespace defib::paper

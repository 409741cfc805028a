#include "defib/trading/approval.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/base/bytes.h"
#include "defib/trading/amounts.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr std::size_t kHashDigits = 64;
constexpr std::size_t kMinPrefix = 6;
constexpr std::size_t kMaxName = 64;
constexpr os::Duration kMaxTtl = std::chrono::hours(24);
// The person's clock and this one's may differ by so much.
constexpr std::int64_t kFutureAllowanceNs = 1'000'000'000;
constexpr int kExposureParts = 20;

std::string plan_path(const std::string& dir, std::string_view hash) {
  return os::join_path(os::join_path(dir, "plans"), fmt::format("{}.json", hash));
}
std::string approval_path(const std::string& dir, std::string_view hash) {
  return os::join_path(os::join_path(dir, "approvals"), fmt::format("{}.json", hash));
}

wire::Json strings(const std::vector<std::string>& items) {
  wire::Json list = wire::Json::array();
  for (const std::string& item : items) list.push(item);
  return list;
}

Error invalid(std::string_view reason, std::string message) {
  return Error(Code::kApprovalInvalid, std::move(message)).with("reason", reason);
}

bool is_name(std::string_view by) {
  const bool printable =
      std::all_of(by.begin(), by.end(), [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
  return printable && by.size() <= kMaxName && by.find_first_not_of(' ') != std::string_view::npos;
}

bool is_hash(std::string_view text) {
  return text.size() == kHashDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string use_key(const Approval& approval) {
  return fmt::format("{}:{}", approval.plan, approval.at_wall_ns);
}

// All that can be wrong with an approval in itself.
Result<> judge(const Approval& approval, const std::string& hash, std::int64_t now) {
  if (approval.plan != hash) {
    return invalid("plan_mismatch", fmt::format("the approval is for plan {}, not for {}",
                                                approval.plan.substr(0, 12), hash.substr(0, 12)))
        .with("approved", approval.plan)
        .with("wanted", hash);
  }
  if (!is_name(approval.by)) return invalid("no_person", "the approval names no person");
  if (approval.at_wall_ns > now + kFutureAllowanceNs) {
    return invalid("from_future", fmt::format("the approval was given in the future, at {}",
                                              os::format_time(approval.at_wall_ns)));
  }
  if (approval.expires_wall_ns <= now) {
    return invalid("expired", fmt::format("the approval by {} expired at {}", approval.by,
                                          os::format_time(approval.expires_wall_ns)));
  }
  const std::int64_t life = approval.expires_wall_ns - approval.at_wall_ns;
  if (life > kMaxTtl.count()) {
    return invalid("expired", "the approval was given for longer than 24 hours");
  }
  return {};
}

Error was_used(const Approval& approval, std::string_view record) {
  return invalid("used", fmt::format("the approval by {} of {} was used already", approval.by,
                                     os::format_time(approval.at_wall_ns)))
      .with("used", record);
}

}  // namespace

Decimal round_exposure_up(Decimal exposure, Decimal limit) {
  const Decimal part =
      Decimal::from_units(std::max<std::int64_t>(1, limit.units() / kExposureParts));
  const Wide parts = (Wide{exposure.units()} + part.units() - 1) / part.units();
  return saturate(parts * part.units());
}

// The members stand in alphabetical order: that is the canonical form.
wire::Json Plan::to_json() const {
  return wire::Json::object({{"asked_because", strings(asked_because)},
                             {"crashes", crashes},
                             {"discrepancies", strings(discrepancies)},
                             {"exposure_at_most", exposure_at_most.to_string()},
                             {"exposure_limit", exposure_limit.to_string()},
                             {"owner", owner},
                             {"ramp", strings(ramp)},
                             {"schema", "defib.plan/1"},
                             {"strategies", strings(strategies)},
                             {"symbols", strings(symbols)},
                             {"venue", venue}});
}

std::string Plan::hash() const {
  return sha256_hex(to_json().dump());
}

bool Plan::covers(const Plan& wanted) const {
  const auto all_among = [](const std::vector<std::string>& few,
                            const std::vector<std::string>& all) {
    return std::ranges::all_of(
        few, [&](const std::string& item) { return std::ranges::find(all, item) != all.end(); });
  };
  return venue == wanted.venue && owner == wanted.owner && symbols == wanted.symbols &&
         strategies == wanted.strategies && ramp == wanted.ramp &&
         exposure_limit == wanted.exposure_limit && crashes >= wanted.crashes &&
         exposure_at_most >= wanted.exposure_at_most &&
         all_among(wanted.asked_because, asked_because) &&
         all_among(wanted.discrepancies, discrepancies);
}

wire::Json Approval::to_json() const {
  return wire::Json::object({{"schema", "defib.approval/1"},
                             {"plan", plan},
                             {"by", by},
                             {"at", os::format_time(at_wall_ns)},
                             {"expires", os::format_time(expires_wall_ns)}});
}

Result<Approval> Approval::from_json(const wire::Json& json) {
  Approval approval;
  approval.plan = json["plan"].as_string();
  approval.by = json["by"].as_string();
  approval.at_wall_ns = os::parse_time(json["at"].as_string());
  approval.expires_wall_ns = os::parse_time(json["expires"].as_string());
  if (json["schema"].as_string() != "defib.approval/1" || !is_hash(approval.plan) ||
      approval.at_wall_ns < 0 || approval.expires_wall_ns < 0) {
    return invalid("unreadable", "the approval's file lacks schema, plan, at or expires");
  }
  return approval;
}

Result<std::string> ApprovalDesk::publish(const Plan& plan) {
  std::string hash = plan.hash();
  const std::string path = plan_path(dir_, hash);
  DEFIB_TRY(files_->create_dirs(os::join_path(dir_, "plans")));
  DEFIB_TRY(files_->create_dirs(os::join_path(dir_, "approvals")));
  std::string since = os::format_time(clock_->wall_ns());
  if (files_->exists(path)) {
    const Result<std::string> old = os::read_file(*files_, path);
    const Result<wire::Json> parsed = old ? wire::Json::parse(*old) : old.error();
    if (parsed && (*parsed)["pending_since"].is_string()) {
      since = (*parsed)["pending_since"].as_string();
    }
  }
  const wire::Json document = wire::Json::object({{"schema", "defib.plan_file/1"},
                                                  {"hash", hash},
                                                  {"pending_since", since},
                                                  {"plan", plan.to_json()}});
  DEFIB_TRY(os::write_file_atomically(*files_, path, document.dump(2) + "\n"));
  DEFIB_TRY(os::write_file_atomically(*files_, os::join_path(dir_, "plans/latest"), hash + "\n"));
  return hash;
}

Result<std::string> ApprovalDesk::find(std::string_view plan) const {
  const std::string dir = os::join_path(dir_, "plans");
  if (plan == "latest") {
    const std::string path = os::join_path(dir, "latest");
    if (!files_->exists(path)) {
      return Error(Code::kNotFound, "no plan waits for an approval")
          .suggest("`defib status` shows whether a service awaits one; check --state-dir");
    }
    DEFIB_TRY_ASSIGN(std::string hash, os::read_file(*files_, path));
    while (hash.ends_with('\n')) hash.pop_back();
    return hash;
  }
  if (plan.size() < kMinPrefix ||
      plan.find_first_not_of("0123456789abcdef") != std::string_view::npos) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no plan: give its hash, at least {} digits of it, or latest",
                             plan, kMinPrefix));
  }
  std::vector<std::string> matches;
  if (files_->is_dir(dir)) {
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_->list(dir));
    for (const std::string& name : names) {
      const std::string hash = name.substr(0, kHashDigits);
      if (name == hash + ".json" && hash.starts_with(plan)) matches.push_back(hash);
    }
  }
  if (matches.empty()) {
    return Error(Code::kNotFound, fmt::format("there is no plan {}", plan))
        .suggest("`ls DIR/plans` shows what there is; `latest` is the newest");
  }
  if (matches.size() > 1) {
    return Error(Code::kInvalidArgument,
                 fmt::format("{} plans begin with {}", matches.size(), plan));
  }
  return matches.front();
}

Result<wire::Json> ApprovalDesk::read_plan(const std::string& hash) const {
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(*files_, plan_path(dir_, hash)));
  DEFIB_TRY_ASSIGN(wire::Json document, wire::Json::parse(text));
  if (sha256_hex(document["plan"].dump()) != hash) {
    return invalid("plan_mismatch",
                   fmt::format("the file of plan {} was changed", hash.substr(0, 12)))
        .suggest("do not approve it; run `defib recover` for a fresh plan");
  }
  return document;
}

Result<Approval> ApprovalDesk::approve(std::string_view plan, std::string_view by,
                                       os::Duration ttl) {
  if (!is_name(by)) {
    return invalid("no_person", "an approval needs the name of a person: --by NAME");
  }
  if (ttl.count() <= 0 || ttl > kMaxTtl) {
    return invalid("expired", "an approval holds for more than nothing and at most 24 hours");
  }
  DEFIB_TRY_ASSIGN(const std::string hash, find(plan));
  DEFIB_TRY_ASSIGN([[maybe_unused]] const wire::Json document, read_plan(hash));
  Approval approval;
  approval.plan = hash;
  approval.by = by;
  approval.at_wall_ns = clock_->wall_ns();
  approval.expires_wall_ns = approval.at_wall_ns + ttl.count();
  DEFIB_TRY(files_->create_dirs(os::join_path(dir_, "approvals")));
  DEFIB_TRY(os::write_file_atomically(*files_, approval_path(dir_, hash),
                                      approval.to_json().dump(2) + "\n"));
  return approval;
}

Result<Approval> ApprovalDesk::read_approval(const std::string& hash) const {
  const std::string path = approval_path(dir_, hash);
  if (!files_->exists(path)) {
    return Error(Code::kApprovalRequired,
                 fmt::format("plan {} waits for an approval", hash.substr(0, 12)))
        .with("plan", hash)
        .suggest(fmt::format("read it, then `defib approve {} --by NAME`", hash.substr(0, 12)));
  }
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(*files_, path));
  Result<wire::Json> json = wire::Json::parse(text);
  if (!json) {
    return invalid("unreadable", "the approval's file is not JSON").because(json.error());
  }
  DEFIB_TRY_ASSIGN(Approval approval, Approval::from_json(*json));
  DEFIB_TRY(judge(approval, hash, clock_->wall_ns()));
  return approval;
}

Result<Approval> ApprovalDesk::check(const store::Snapshot& snapshot,
                                     const std::string& hash) const {
  DEFIB_TRY_ASSIGN(Approval approval, read_approval(hash));
  DEFIB_TRY_ASSIGN(const std::optional<std::string> used,
                   snapshot.get(kApprovalTable, use_key(approval)));
  if (used) return was_used(approval, *used);
  return approval;
}

Result<Approval> ApprovalDesk::consume(store::Store& store, const Plan& plan) {
  DEFIB_TRY_ASSIGN(Approval approval, read_approval(plan.hash()));
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  DEFIB_TRY_ASSIGN(const std::optional<std::string> used,
                   transaction->get(kApprovalTable, use_key(approval)));
  if (used) return was_used(approval, *used);
  wire::Json record = approval.to_json();
  record.set("used_at", os::format_time(clock_->wall_ns()));
  DEFIB_TRY(transaction->put(kApprovalTable, use_key(approval), record.dump()));
  // The person has seen what stood open; it holds the gate no longer.
  for (const std::string& finding : plan.discrepancies) {
    DEFIB_TRY(transaction->erase(kFindingTable, finding));
  }
  DEFIB_TRY(transaction->commit(store::Durability::kPower));
  return approval;
}

}  // namespace defib::trading

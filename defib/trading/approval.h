// Approvals: a named person permits one plan, once, for a limited time.
//
// A plan says what will be resumed and why a person is asked. Its hash is SHA-256 over its
// canonical JSON (members sorted, compact). Plans lie in DIR/plans/HASH.json, approvals in
// DIR/approvals/HASH.json; both are written atomically. An approval is used up by a durable record
// in the store before anything resumes, so neither a copy of the file nor a crash makes it count
// twice.
//
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/decision.h"
#include "defib/store/store.h"
#include "defib/trading/gates.h"
#include "defib/trading/reconcile.h"
#include "defib/wire/json.h"

namespace defib::trading {

struct Plan {
  std::string venue;
  std::string owner;
  std::vector<std::string> symbols;  // what will be resumed
  std::vector<std::string> strategies;
  std::vector<std::string> asked_because;  // rules that need approval, in their order
  std::vector<std::string> discrepancies;  // ids of those that nothing explains
  // Rounded up to the next twentieth of the limit, so that a moving price alone does not turn an
  // approved plan into another one.
  Decimal exposure_at_most;
  Decimal exposure_limit;
  int crashes = 0;
  std::vector<std::string> ramp;  // "50% low", "75% medium", "100% high"
  wire::Json to_json() const;     // canonical
  std::string hash() const;       // 64 hexadecimal digits
  // Whoever accepted this plan has accepted `wanted` as well: the same is resumed, and it asks for
  // no other reason, shows no other difference, and needs no more exposure.
  bool covers(const Plan& wanted) const;
};
Decimal round_exposure_up(Decimal exposure, Decimal limit);

struct Approval {
  std::string plan;  // the hash
  std::string by;
  std::int64_t at_wall_ns = 0;
  std::int64_t expires_wall_ns = 0;
  wire::Json to_json() const;
  static Result<Approval> from_json(const wire::Json& json);
};

class ApprovalDesk {
 public:
  ApprovalDesk(os::Files& files, const os::Clock& clock, std::string state_dir)
      : files_(&files), clock_(&clock), dir_(std::move(state_dir)) {}

  // Writes DIR/plans/HASH.json; returns the hash. The file's "pending_since" is kept where it is
  // there already.
  Result<std::string> publish(const Plan& plan);
  // A hash, a unique prefix of at least 6 digits, or "latest". NotFound, InvalidArgument.
  Result<std::string> find(std::string_view plan) const;
  // The published plan's document, with "hash".
  Result<wire::Json> read_plan(const std::string& hash) const;
  // ApprovalInvalid where `by` is empty or not printable, or `ttl` is not in (0, 24 h].
  Result<Approval> approve(std::string_view plan, std::string_view by, os::Duration ttl);
  // The approval of exactly this plan, and uses it up durably (kPower). ApprovalRequired where
  // there is none; ApprovalInvalid with "reason" = expired, used, plan_mismatch, no_person,
  // from_future or unreadable.
  Result<Approval> consume(store::Store& store, const Plan& plan);
  // The same checks without using it up.
  Result<Approval> check(const store::Snapshot& snapshot, const std::string& hash) const;

 private:
  Result<Approval> read_approval(const std::string& hash) const;

  os::Files* files_;
  const os::Clock* clock_;
  std::string dir_;
};

}  // namespace defib::trading

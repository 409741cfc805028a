#include "defib/trading/damage.h"

#include <fmt/core.h>

#include <chrono>
#include <utility>

#include "defib/recovery/incident.h"
#include "defib/trading/checklist.h"

namespace defib::trading {
namespace {

using wire::Json;

constexpr std::string_view kSchema = "defib.state_damage/1";
constexpr std::string_view kService = "ledger";
constexpr std::size_t kMaxFile = 64 << 10;
constexpr os::Duration kEpochStep = std::chrono::minutes(1);

std::string path_of(const std::string& store_dir) {
  return store_dir + ".damage.json";
}

Result<Damage> parse(const std::string& text) {
  DEFIB_TRY_ASSIGN(const Json json, Json::parse(text));
  if (json["schema"].as_string() != kSchema) {
    return Error(Code::kCorrupted, fmt::format("its schema is not {}", kSchema));
  }
  Damage damage;
  DEFIB_TRY_ASSIGN(damage.what, json.require_string("what"));
  DEFIB_TRY_ASSIGN(damage.store_dir, json.require_string("store_dir"));
  DEFIB_TRY_ASSIGN(damage.incident, json.require_string("incident"));
  DEFIB_TRY_ASSIGN(damage.incident_dir, json.require_string("incident_dir"));
  damage.at_wall_ns = os::parse_time(json["at"].as_string());
  return damage;
}

}  // namespace

Json Damage::to_json() const {
  return Json::object({{"schema", kSchema},
                       {"what", what},
                       {"store_dir", store_dir},
                       {"incident", incident},
                       {"incident_dir", incident_dir},
                       {"at", os::format_time(at_wall_ns)}});
}

bool is_state_damage(const Error& error) {
  switch (error.code()) {
    case Code::kCorrupted:
    case Code::kLedgerDamaged:
    case Code::kRecoveryImpossible:
    case Code::kWalCorrupted:
    case Code::kInconsistentState:
    case Code::kRecoveryRollbackFailed:
    case Code::kRecoveryVerificationFailed:
      return true;
    default:
      return false;
  }
}

Result<Damage> record_damage(os::Files& files, const os::Clock& clock, const std::string& store_dir,
                             const std::string& incident_dir, const Error& error) {
  if (std::optional<Damage> known = read_damage(files, store_dir)) {
    if (!known->incident.empty() && !is_dealt_with(files, *known)) return std::move(*known);
  }
  Damage damage;
  damage.what = error.to_line();
  damage.store_dir = store_dir;
  damage.incident_dir = incident_dir;
  damage.at_wall_ns = clock.wall_ns();
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, clock, incident_dir));
  DEFIB_TRY_ASSIGN(
      recovery::Incident incident,
      log.create(kService, Json::object({{"kind", "state_damage"}, {"store_dir", store_dir}})));
  DEFIB_TRY(incident.append("state_damaged", Json::object({{"error", wire::to_json(error)}}),
                            recovery::Durability::kSync));
  damage.incident = incident.id();
  DEFIB_TRY(os::write_file_atomically(files, path_of(store_dir), damage.to_json().dump(2) + "\n"));
  return damage;
}

std::optional<Damage> read_damage(os::Files& files, const std::string& store_dir) {
  const std::string path = path_of(store_dir);
  const Result<std::string> text = os::read_file(files, path, kMaxFile);
  // Only this says that there is none: one that may not be looked at may be there.
  if (!text && text.error().code() == Code::kFileNotFound) return std::nullopt;
  Result<Damage> damage = text ? parse(*text) : Result<Damage>(text.error());
  if (damage) return std::move(*damage);
  Damage unreadable;
  unreadable.what = fmt::format(
      "{} cannot be read ({}); remove it by hand once you know that the ledger is sound", path,
      damage.error().message());
  unreadable.store_dir = store_dir;
  return unreadable;
}

bool is_dealt_with(os::Files& files, const Damage& damage) {
  return !damage.incident.empty() &&
         manual_procedure_done(files, damage.incident_dir, damage.incident);
}

Result<> close_damage(os::Files& files, const os::Clock& clock, const Damage& damage) {
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, clock, damage.incident_dir));
  DEFIB_TRY_ASSIGN(recovery::Incident incident, log.resume(damage.incident));
  DEFIB_TRY(incident.close("recovered"));
  return files.remove(path_of(damage.store_dir));
}

Result<recovery::Decision> decide_on_damage(os::Files& files, const os::Clock& clock,
                                            const Damage& damage, const GateEvidence& evidence,
                                            const GateThresholds& thresholds) {
  recovery::Decision decision =
      recovery::decide(gate_rules(thresholds), evidence.to_evidence(thresholds));
  if (damage.incident.empty()) return decision;
  DEFIB_TRY_ASSIGN(recovery::IncidentLog log,
                   recovery::IncidentLog::open(files, clock, damage.incident_dir));
  DEFIB_TRY_ASSIGN(recovery::Incident incident, log.resume(damage.incident));
  DEFIB_TRY(incident.append("decision", decision.to_json(), recovery::Durability::kSync));
  return decision;
}

std::uint64_t epoch_after_damage(const os::Clock& clock) {
  return static_cast<std::uint64_t>(
      std::max<std::int64_t>(0, clock.wall_ns() / kEpochStep.count()));
}

}  // namespace defib::trading

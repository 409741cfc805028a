// Damage: that ledger or intent log was found damaged, kept beside them until a person has dealt
// with it.
//
// What is believed cannot be read, so nothing may trade; and once the store has been repaired or
// restored it may lack what it knew, so nothing may trade either before the manual procedure was
// walked. The record therefore lies outside of the store, in STORE_DIR.damage.json (written
// atomically), and names the incident that was opened for it: `defib checklist --manual` of that
// incident opens the gate `state_damage`.
//
// A store that was repaired may have forgotten its newest boots, and their epochs with them. While
// there is a record, a boot's epoch is taken from the clock (epoch_after_damage()), which is beyond
// all that were counted, so that no client order id is used twice.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/recovery/decision.h"
#include "defib/trading/gates.h"
#include "defib/wire/json.h"

namespace defib::trading {

struct Damage {
  std::string what;          // the error in one line, its code first
  std::string store_dir;     // of the ledger that is damaged
  std::string incident;      // opened for it
  std::string incident_dir;  // the state directory in which it lies
  std::int64_t at_wall_ns = 0;
  wire::Json to_json() const;
};

// Whether an error of opening or reading says that what was stored is damaged: not that it is
// locked, full, of another version, or out of reach.
bool is_state_damage(const Error& error);

// Opens an incident of the service "ledger" in `incident_dir` and keeps the record. Where there is
// one that nobody has dealt with, that one stays.
Result<Damage> record_damage(os::Files& files, const os::Clock& clock, const std::string& store_dir,
                             const std::string& incident_dir, const Error& error);
// The record, if there is one. One that cannot be read counts as damage without an incident: no
// procedure opens the gate then, and `what` says what to do.
std::optional<Damage> read_damage(os::Files& files, const std::string& store_dir);
// Whether the manual procedure of its incident was walked.
bool is_dealt_with(os::Files& files, const Damage& damage);
// Trading goes on: closes the incident as recovered, and removes the record.
Result<> close_damage(os::Files& files, const os::Clock& clock, const Damage& damage);

// The gate's decision where there is no ledger to recover with; also a line of the incident, so
// that `defib explain state_damage --from FILE` reproduces it.
Result<recovery::Decision> decide_on_damage(os::Files& files, const os::Clock& clock,
                                            const Damage& damage, const GateEvidence& evidence,
                                            const GateThresholds& thresholds);

// The least epoch that a boot takes while there is a record: minutes since 1970.
std::uint64_t epoch_after_damage(const os::Clock& clock);

}  // namespace defib::trading

// Testbed: the paper venue and a supervised reference engine in one directory, on loopback, driven
// by the installed programs alone. The demo, the crash tests and the benchmarks stand on it.
//
// It starts real processes and knows them by pid; the destructor ends those that are left.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/process.h"
#include "defib/venue/venue.h"
#include "defib/wire/json.h"

namespace defib::testbed {

struct TestbedOptions {
  std::string dir;          // made if absent
  std::string program_dir;  // of defib, engine, paper-venue; empty: beside this program
  std::uint64_t seed = 1;
  std::vector<std::string> symbols = {"BTCUSDT", "ETHUSDT", "SOLUSDT"};
  int resting_orders = 24;
  int orders_per_tick = 2;
  os::Duration tick = std::chrono::milliseconds(100);
  // The maker replaces older orders: short keeps orders flowing, long keeps them open.
  os::Duration max_order_age = std::chrono::milliseconds(700);
  os::Duration recv_window = std::chrono::milliseconds(1000);
  os::Duration visibility_lag = std::chrono::milliseconds(200);
  // The ramp: how long each step settles, is watched, and how often it is checked.
  os::Duration settle = std::chrono::milliseconds(100);
  os::Duration watch = std::chrono::milliseconds(200);
  os::Duration check_every = std::chrono::milliseconds(100);
  int max_crashes = 3;  // more within the window, and a person must approve
  os::Duration crash_window = std::chrono::minutes(5);
  int max_restarts = 10;
  os::Duration restart_delay = std::chrono::seconds(1);
  os::Duration heartbeat = std::chrono::seconds(1);
  std::vector<std::string> run_options;  // further ones of `defib run`
};

// What the venue's ledger says of the engine's intents (`paper-venue audit`).
struct Proof {
  bool holds = false;
  std::int64_t intents = 0;
  std::int64_t accepted = 0;
  std::int64_t rejected = 0;
  std::int64_t never_accepted = 0;
  std::int64_t unknown = 0;  // not settled yet
  std::int64_t lost = 0;
  std::int64_t duplicated = 0;
  wire::Json document;  // the audit's own answer
  std::vector<std::string> problems;
};

// One line of an incident, as it was appended.
struct IncidentLine {
  std::string incident;
  wire::Json line;
};

class Testbed {
 public:
  static Result<std::unique_ptr<Testbed>> create(TestbedOptions options);
  ~Testbed();
  Testbed(const Testbed&) = delete;
  Testbed& operator=(const Testbed&) = delete;

  // The configuration that it wrote, defib.toml.
  const std::string& config_text() const { return config_text_; }
  const std::string& config_path() const { return config_path_; }
  const std::string& state_dir() const { return state_dir_; }
  const std::string& dir() const { return options_.dir; }
  const TestbedOptions& options() const { return options_; }
  std::string venue_ledger() const;

  Result<> start_venue();
  // `defib run` of the engine. After kill -9 of an earlier one it adopts what runs.
  Result<> start_supervisor();
  // The running command's pid; 0: it does not run.
  pid_t supervisor_pid() const;

  // `defib status engine --json`: the service's object.
  Result<wire::Json> status();
  pid_t engine_pid();
  // The parent of the engine.
  pid_t shim_pid();
  // Until the engine is in one of the states, by polling. Timeout says in which it is instead.
  Result<std::string> wait_for_state(const std::set<std::string>& states, os::Duration limit);
  // Until another process than `old` runs the engine.
  Result<pid_t> wait_for_new_engine(pid_t old, os::Duration limit);

  // A fault for the running engine, as in engine/faults.h: "segv@request_sent".
  Result<> inject(const std::string& fault);
  // kill -9 of a process of this testbed. ProcessGone where it has ended already.
  Result<> kill(pid_t pid);
  // `defib approve latest --by PERSON`.
  Result<> approve(const std::string& person);

  // A second client of the engine's account.
  Result<std::unique_ptr<venue::Venue>> connect_venue() const;

  // Lines that were appended to incidents since the last call.
  std::vector<IncidentLine> new_incident_lines();
  std::vector<std::string> incident_files() const;

  // Graceful end of engine and supervisor (exit code 0 expected).
  Result<> stop_supervisor();
  // Waits until no intent is unresolved (the engine running), at most `limit`.
  Result<> settle_intents(os::Duration limit);
  // Reads the engine's intents from its store, and asks the venue's ledger about each. Only when
  // the engine does not run.
  Result<Proof> prove();
  // The same with one accepted intent kept back, which must break it: shows that the proof can
  // fail.
  Result<Proof> prove_with_one_intent_hidden();
  // The same beside the running engine, for which the venue is stopped for some milliseconds:
  // intents in flight may be unknown yet, nothing may be lost, doubled or believed wrongly.
  Result<Proof> prove_running();
  // Until exactly one engine process of this testbed runs and is in the state "running". Two at
  // once, at any look, are an error at once.
  Result<> wait_for_single_engine(os::Duration limit);

 private:
  explicit Testbed(TestbedOptions options) : options_(std::move(options)) {}
  Result<> write_files();
  std::string program(const std::string& name) const;
  Result<os::CommandOutput> run_defib(std::vector<std::string> arguments);
  Result<std::vector<pid_t>> engine_processes() const;
  Result<Proof> audit(bool may_be_unknown, bool hide_one = false);
  Result<wire::Json> read_ready_line(const std::string& path, const os::Child& child);

  TestbedOptions options_;
  std::string state_dir_, config_path_, config_text_;
  std::uint16_t venue_port_ = 0;
  os::Child venue_, supervisor_;
  std::map<std::string, std::uint64_t> read_;  // incident file -> bytes consumed
  int log_number_ = 0;
};

}  // namespace defib::testbed

#include "defib/testbed/testbed.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/os/socket.h"
#include "defib/store/store.h"
#include "defib/trading/config.h"
#include "defib/trading/intents.h"
#include "defib/venue/binance.h"

namespace defib::testbed {

using namespace std::chrono_literals;
using wire::Json;

namespace {

constexpr os::Duration kPoll = 10ms;
constexpr std::string_view kApiKey = "paperkey";
constexpr std::string_view kService = "engine";

std::string duration_text(os::Duration duration) {
  return fmt::format("{}ms", duration.count() / 1'000'000);
}

std::string quoted_list(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) {
    text += fmt::format("{}\"{}\"", text.empty() ? "" : ", ", word);
  }
  return text;
}

Result<os::Fd> open_log(const std::string& path) {
  os::Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!fd.valid()) return os::system_error("open", path);
  return fd;
}

void end_child(os::Child& child) {
  if (!child.valid() || child.try_wait()) return;
  (void)child.signal(SIGKILL);
  child.wait();
  child = os::Child();
}

}  // namespace

Result<std::unique_ptr<Testbed>> Testbed::create(TestbedOptions options) {
  if (options.program_dir.empty()) options.program_dir = os::own_program_dir();
  std::unique_ptr<Testbed> testbed(new Testbed(std::move(options)));
  DEFIB_TRY(testbed->write_files());
  return testbed;
}

Testbed::~Testbed() {
  const pid_t shim = shim_pid();
  const pid_t engine = engine_pid();
  end_child(supervisor_);
  if (engine > 0) ::kill(engine, SIGKILL);
  if (shim > 0) ::kill(shim, SIGKILL);
  end_child(venue_);
}

std::string Testbed::program(const std::string& name) const {
  return os::join_path(options_.program_dir, name);
}

std::string Testbed::venue_ledger() const {
  return os::join_path(options_.dir, "venue-ledger.jsonl");
}

Result<> Testbed::write_files() {
  os::Files& files = os::real_files();
  state_dir_ = os::join_path(options_.dir, "state");
  config_path_ = os::join_path(options_.dir, "defib.toml");
  DEFIB_TRY(files.create_dirs(options_.dir));
  DEFIB_TRY(
      os::write_file_atomically(files, os::join_path(options_.dir, "secret"), os::random_hex(32)));
  DEFIB_TRY_ASSIGN(venue_port_, os::free_port());
  config_text_ = fmt::format(
      R"([venue]
kind = "binance"
url = "http://127.0.0.1:{port}"
api_key = "env:PAPER_API_KEY"
api_secret = "file:{secret}"
recv_window_ms = {recv_window}              # the expiry fence of every order
visibility_lag_ms = {lag}
rate_capacity = 0                         # the paper venue is started without limits
symbols = [{symbols}]

[trading]
owner = "eng"
strategies = ["maker", "trend", "reversion"]
checkpoint_every = "1s"

[trading.limits]
max_order_notional = "1000"
max_exposure = "1000000"
max_open_orders = {max_open}
max_orders_per_second = 400

[trading.gates]
max_crashes = {crashes}                 # more within the window need a person
crash_window = "{crash_window}"
require_cause = false                   # supervisors are killed too, and then nobody can tell

[trading.ramp]
check_after = "0s"                      # from death to the first order is what is shown here
settle = "{settle}"
watch = "{watch}"
check_every = "{check}"

[engine]
tick = "{tick}"
resting_orders = {resting}
orders_per_tick = {per_tick}
max_order_age = "{age}"
order_notional = "50"
seed = {seed}
)",
      fmt::arg("port", venue_port_), fmt::arg("secret", os::join_path(options_.dir, "secret")),
      fmt::arg("recv_window", options_.recv_window / 1ms),
      fmt::arg("lag", options_.visibility_lag / 1ms),
      fmt::arg("symbols", quoted_list(options_.symbols)),
      fmt::arg("max_open", options_.resting_orders * 2 + 200),
      fmt::arg("crashes", options_.max_crashes),
      fmt::arg("crash_window", duration_text(options_.crash_window)),
      fmt::arg("settle", duration_text(options_.settle)),
      fmt::arg("watch", duration_text(options_.watch)),
      fmt::arg("check", duration_text(options_.check_every)),
      fmt::arg("tick", duration_text(options_.tick)), fmt::arg("resting", options_.resting_orders),
      fmt::arg("per_tick", options_.orders_per_tick),
      fmt::arg("age", duration_text(options_.max_order_age)), fmt::arg("seed", options_.seed));
  return os::write_file_atomically(files, config_path_, config_text_);
}

Result<Json> Testbed::read_ready_line(const std::string& path, const os::Child& child) {
  const std::int64_t deadline = os::real_clock().mono_ns() + os::Duration(10s).count();
  while (os::real_clock().mono_ns() < deadline) {
    const auto text = os::read_file(os::real_files(), path);
    if (text && text->find('\n') != std::string::npos) {
      return Json::parse(std::string_view(*text).substr(0, text->find('\n')));
    }
    if (!child.signal(0)) break;
    os::real_clock().sleep_for(kPoll);
  }
  return Error(Code::kStartFailed, fmt::format("no ready line in '{}'", path));
}

Result<> Testbed::start_venue() {
  const std::string out = os::join_path(options_.dir, fmt::format("venue-{}.out", ++log_number_));
  DEFIB_TRY_ASSIGN(const os::Fd log, open_log(out));
  os::SpawnOptions spawn;
  spawn.argv = {program("paper-venue"),
                "--port",
                std::to_string(venue_port_),
                "--ledger",
                venue_ledger(),
                "--seed",
                std::to_string(options_.seed),
                "--api-key",
                std::string(kApiKey),
                "--api-secret-file",
                os::join_path(options_.dir, "secret"),
                "--weight-limit",
                "0",
                "--order-limit",
                "0"};
  spawn.fds = {{log.get(), 1}, {log.get(), 2}};
  spawn.parent_death_signal = SIGKILL;
  DEFIB_TRY_ASSIGN(venue_, os::spawn(spawn));
  DEFIB_TRY_ASSIGN(const Json ready, read_ready_line(out, venue_));
  if (ready["port"].as_int() != venue_port_) {
    return Error(Code::kStartFailed, "the paper venue listens on another port than it was told");
  }
  return {};
}

Result<> Testbed::start_supervisor() {
  const std::string out =
      os::join_path(options_.dir, fmt::format("supervisor-{}.out", ++log_number_));
  DEFIB_TRY_ASSIGN(const os::Fd log, open_log(out));
  os::SpawnOptions spawn;
  spawn.argv = {program("defib"),
                "run",
                "--name",
                std::string(kService),
                "--state-dir",
                state_dir_,
                "--quiet",
                "--max-restarts",
                std::to_string(options_.max_restarts),
                "--restart-delay",
                duration_text(options_.restart_delay),
                "--heartbeat-timeout",
                duration_text(options_.heartbeat)};
  const std::vector<std::string> engine = {
      "--",          program("engine"), "--config",     config_path_,
      "--state-dir", state_dir_,        "--fault-file", os::join_path(options_.dir, "fault")};
  for (const auto& more : {options_.run_options, engine}) {
    spawn.argv.insert(spawn.argv.end(), more.begin(), more.end());
  }
  spawn.env = {{"PAPER_API_KEY", std::string(kApiKey)}};
  spawn.fds = {{log.get(), 1}, {log.get(), 2}};
  DEFIB_TRY_ASSIGN(supervisor_, os::spawn(spawn));
  return {};
}

pid_t Testbed::supervisor_pid() const {
  return supervisor_.valid() && supervisor_.signal(0) ? supervisor_.pid() : 0;
}

Result<os::CommandOutput> Testbed::run_defib(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), program("defib"));
  arguments.insert(arguments.end(), {"--state-dir", state_dir_});
  return os::run_command(arguments, 10'000);
}

Result<Json> Testbed::status() {
  DEFIB_TRY_ASSIGN(const os::CommandOutput output,
                   run_defib({"status", std::string(kService), "--json"}));
  DEFIB_TRY_ASSIGN(const Json document, Json::parse(output.text));
  for (const Json& service : document["services"].items()) {
    if (service["name"].as_string() == kService) return service;
  }
  return Error(Code::kServiceUnknown, fmt::format("`defib status` does not show the engine: {}",
                                                  output.text.substr(0, 200)));
}

pid_t Testbed::engine_pid() {
  const auto service = status();
  return service ? static_cast<pid_t>((*service)["pid"].as_int()) : 0;
}

pid_t Testbed::shim_pid() {
  const pid_t engine = engine_pid();
  if (engine <= 0) return 0;
  const auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/status", engine));
  const std::size_t at = text ? text->find("\nPPid:\t") : std::string::npos;
  if (at == std::string::npos) return 0;
  const pid_t parent = static_cast<pid_t>(std::stol(text->substr(at + 7, 12)));
  const auto exe = os::process_exe(parent);
  return exe && exe->ends_with("/defib-shim") ? parent : 0;
}

Result<std::string> Testbed::wait_for_state(const std::set<std::string>& states,
                                            os::Duration limit) {
  const std::int64_t deadline = os::real_clock().mono_ns() + limit.count();
  std::string last = "unknown";
  do {
    if (const auto service = status()) {
      last = (*service)["state"].as_string();
      if (states.contains(last)) return last;
    }
    os::real_clock().sleep_for(kPoll);
  } while (os::real_clock().mono_ns() < deadline);
  return Error(Code::kTimeout, fmt::format("the engine is '{}', not '{}', after {}", last,
                                           *states.begin(), os::format_duration(limit)));
}

Result<pid_t> Testbed::wait_for_new_engine(pid_t old, os::Duration limit) {
  const std::int64_t deadline = os::real_clock().mono_ns() + limit.count();
  do {
    const pid_t pid = engine_pid();
    if (pid > 0 && pid != old) return pid;
    os::real_clock().sleep_for(kPoll);
  } while (os::real_clock().mono_ns() < deadline);
  return Error(Code::kTimeout,
               fmt::format("no new engine process after {}", os::format_duration(limit)));
}

Result<> Testbed::inject(const std::string& fault) {
  return os::write_file_atomically(os::real_files(), os::join_path(options_.dir, "fault"), fault);
}

Result<> Testbed::kill(pid_t pid) {
  if (pid <= 0 || ::kill(pid, SIGKILL) != 0) {
    return Error(Code::kProcessGone, fmt::format("there is no process {} to kill", pid));
  }
  if (supervisor_.valid() && pid == supervisor_.pid()) supervisor_.wait(), supervisor_ = {};
  return {};
}

Result<> Testbed::approve(const std::string& person) {
  DEFIB_TRY_ASSIGN(const os::CommandOutput output,
                   run_defib({"approve", "latest", "--by", person}));
  if (output.status.success()) return {};
  return Error(Code::kApprovalInvalid, fmt::format("`defib approve` ended with {}: {}",
                                                   output.status.to_string(), output.text));
}

Result<std::unique_ptr<venue::Venue>> Testbed::connect_venue() const {
  venue::BinanceOptions options;
  options.base_url = fmt::format("http://127.0.0.1:{}", venue_port_);
  options.api_key = kApiKey;
  options.weight_per_minute = 0;  // as it is started
  DEFIB_TRY_ASSIGN(options.api_secret,
                   os::read_file(os::real_files(), os::join_path(options_.dir, "secret")));
  return std::unique_ptr<venue::Venue>(std::make_unique<venue::BinanceVenue>(std::move(options)));
}

std::vector<std::string> Testbed::incident_files() const {
  const std::string dir = os::join_path(state_dir_, "incidents");
  std::vector<std::string> paths;
  if (const auto names = os::real_files().list(dir)) {
    for (const std::string& name : *names) {
      if (name.ends_with(".jsonl")) paths.push_back(os::join_path(dir, name));
    }
  }
  return paths;
}

std::vector<IncidentLine> Testbed::new_incident_lines() {
  std::vector<IncidentLine> lines;
  for (const std::string& path : incident_files()) {
    const auto text = os::read_file(os::real_files(), path);
    if (!text) continue;
    std::uint64_t& from = read_[path];
    for (;;) {
      const std::size_t end = text->find('\n', from);
      if (end == std::string::npos) break;
      const auto line = Json::parse(std::string_view(*text).substr(from, end - from));
      std::string id = path.substr(path.rfind('/') + 1);
      id.resize(id.size() - std::string_view(".jsonl").size());
      if (line) lines.push_back({std::move(id), *line});
      from = end + 1;
    }
  }
  return lines;
}

Result<> Testbed::stop_supervisor() {
  if (!supervisor_.valid()) return {};
  DEFIB_TRY(supervisor_.signal(SIGTERM));
  const std::int64_t deadline = os::real_clock().mono_ns() + os::Duration(20s).count();
  while (os::real_clock().mono_ns() < deadline) {
    if (const auto ended = supervisor_.try_wait()) {
      supervisor_ = os::Child();
      if (ended->success()) return {};
      return Error(Code::kServiceCrashed,
                   fmt::format("the supervisor ended with {}", ended->to_string()));
    }
    os::real_clock().sleep_for(kPoll);
  }
  return Error(Code::kTimeout, "the supervisor did not stop within 20 s");
}

Result<> Testbed::settle_intents(os::Duration limit) {
  const std::int64_t deadline = os::real_clock().mono_ns() + limit.count();
  std::size_t left = 0;
  do {
    const auto snapshot = store::Store::open_read_only(trading::trading_store_dir(state_dir_), {});
    if (snapshot) {
      DEFIB_TRY_ASSIGN(const auto open, trading::read_open_intents(**snapshot));
      left = static_cast<std::size_t>(
          std::ranges::count(open, trading::IntentState::kUnknown,
                             [](const auto& item) { return item.second.state; }));
      if (left == 0) return {};
    }
    os::real_clock().sleep_for(50ms);
  } while (os::real_clock().mono_ns() < deadline);
  return Error(Code::kTimeout, fmt::format("{} intents are still unknown after {}", left,
                                           os::format_duration(limit)));
}

Result<Proof> Testbed::prove() {
  return audit(false);
}

Result<Proof> Testbed::prove_with_one_intent_hidden() {
  return audit(false, true);
}

Result<Proof> Testbed::prove_running() {
  DEFIB_TRY(venue_.signal(SIGSTOP));
  auto proof = audit(true);
  DEFIB_TRY(venue_.signal(SIGCONT));
  return proof;
}

Result<std::vector<pid_t>> Testbed::engine_processes() const {
  const std::string wanted = program("engine");
  std::vector<pid_t> found;
  DEFIB_TRY_ASSIGN(const auto names, os::real_files().list("/proc"));
  for (const std::string& name : names) {
    if (name[0] < '0' || name[0] > '9') continue;
    // A process that is being torn down has no command line any more.
    const auto line = os::read_file(os::real_files(), fmt::format("/proc/{}/cmdline", name));
    if (!line || !line->starts_with(wanted + '\0')) continue;
    if (line->find(config_path_) != std::string::npos) {
      found.push_back(static_cast<pid_t>(std::stol(name)));
    }
  }
  return found;
}

Result<> Testbed::wait_for_single_engine(os::Duration limit) {
  const std::int64_t deadline = os::real_clock().mono_ns() + limit.count();
  std::string last = "none was looked for";
  do {
    DEFIB_TRY_ASSIGN(const std::vector<pid_t> running, engine_processes());
    if (running.size() > 1) {
      return Error(Code::kInternal, fmt::format("{} engine processes run at once: {} and {}",
                                                running.size(), running[0], running[1]));
    }
    const auto service = status();
    last = service ? fmt::format("{} processes, {}", running.size(), service->dump())
                   : service.error().to_line();
    if (service && running.size() == 1 && (*service)["state"].as_string() == "running" &&
        (*service)["pid"].as_int() == running[0]) {
      return {};
    }
    os::real_clock().sleep_for(kPoll);
  } while (os::real_clock().mono_ns() < deadline);
  return Error(Code::kTimeout, fmt::format("no single running engine after {}: {}",
                                           os::format_duration(limit), last));
}

Result<Proof> Testbed::audit(bool may_be_unknown, bool hide_one) {
  DEFIB_TRY_ASSIGN(const auto snapshot,
                   store::Store::open_read_only(trading::trading_store_dir(state_dir_), {}));
  DEFIB_TRY_ASSIGN(std::string beliefs, trading::export_intents(*snapshot));
  if (hide_one) {
    const std::size_t accepted = beliefs.find(" accepted ");
    if (accepted != std::string::npos) {
      const std::size_t before = beliefs.rfind('\n', accepted);
      const std::size_t begin = before == std::string::npos ? 0 : before + 1;
      beliefs.erase(begin, beliefs.find('\n', accepted) + 1 - begin);
    }
  }
  const std::string path = os::join_path(options_.dir, "intents.txt");
  DEFIB_TRY(os::write_file_atomically(os::real_files(), path, beliefs));
  DEFIB_TRY_ASSIGN(
      const os::CommandOutput output,
      os::run_command(
          {program("paper-venue"), "audit", venue_ledger(), "--intents", path, "--json"}, 60'000));
  Proof proof;
  DEFIB_TRY_ASSIGN(proof.document, Json::parse(output.text));
  proof.intents = proof.document["intents"].as_int();
  proof.accepted = proof.document["accepted"].as_int();
  proof.rejected = proof.document["rejected"].as_int();
  proof.never_accepted = proof.document["never_accepted"].as_int();
  proof.unknown = proof.document["unresolved"].as_int();
  proof.lost = proof.document["lost"].as_int();
  proof.duplicated = proof.document["duplicated"].as_int();
  for (const Json& finding : proof.document["findings"].items()) {
    if (may_be_unknown && finding["kind"].as_string() == "unresolved") continue;
    proof.problems.push_back(fmt::format("{} {}: {}", finding["kind"].as_string(),
                                         finding["client_id"].as_string(),
                                         finding["detail"].as_string()));
  }
  const std::int64_t settled = proof.accepted + proof.rejected + proof.never_accepted;
  const bool complete = output.status.success() && settled == proof.intents;
  proof.holds = proof.problems.empty() && proof.lost == 0 && proof.duplicated == 0 &&
                proof.intents == std::ranges::count(beliefs, '\n') &&
                (complete || (may_be_unknown && settled + proof.unknown == proof.intents));
  return proof;
}

}  // namespace defib::testbed

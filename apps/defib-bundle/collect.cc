#include "apps/defib-bundle/collect.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "apps/defib-bundle/output.h"
#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/bundle_changes.h"
#include "defib/postmortem/bundle_code.h"
#include "defib/postmortem/bundle_system.h"
#include "defib/postmortem/bundle_writer.h"
#include "defib/postmortem/collect.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/samples.h"

namespace defib::bundle {
namespace {

using daemon::BundleRequest;
using postmortem::BundleWriter;
using wire::Json;

constexpr int kWarmTimeoutMs = 20'000;
constexpr os::Duration kCollectTime = std::chrono::seconds(10);
constexpr os::Duration kReportTime = std::chrono::seconds(5);
// The facts follow the report at once.
constexpr os::Duration kFactsTime = std::chrono::milliseconds(500);
constexpr os::Duration kLiveTime = std::chrono::milliseconds(500);
constexpr os::Duration kReportPoll = std::chrono::milliseconds(10);
constexpr os::Duration kBefore = std::chrono::minutes(5);
constexpr std::uint64_t kMaxReport = 32 << 20;
constexpr std::uint64_t kMaxEvidenceFile = 2 << 20;
constexpr std::uint64_t kMaxSpec = 4 << 20;

std::int64_t wall_of(std::int64_t mono_ns) {
  const os::Clock& clock = os::real_clock();
  return clock.wall_ns() - clock.mono_ns() + mono_ns;
}

// What the process was started with, for where it can no longer be asked.
postmortem::Redactor::Environment environment_of(const BundleRequest& request) {
  return daemon::started_environment(request.environment, request.clear_environment);
}

// As the shell finds it.
std::string program_of(const std::string& name,
                       const postmortem::Redactor::Environment& environment) {
  const auto path = std::ranges::find(environment, "PATH",
                                      [](const auto& one) { return std::string_view(one.first); });
  if (name.find('/') != std::string::npos || path == environment.end()) return name;
  std::string_view rest = path->second;
  while (!rest.empty()) {
    const std::size_t end = std::min(rest.find(':'), rest.size());
    std::string found = os::join_path(rest.substr(0, end), name);
    if (::access(found.c_str(), X_OK) == 0) return found;
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return name;
}

// Its own word for what a path names; the path itself where there is nothing.
std::string real_path(const std::string& path) {
  const std::unique_ptr<char, decltype(&::free)> real(::realpath(path.c_str(), nullptr), ::free);
  return real ? std::string(real.get()) : path;
}

// The program is the one that the command names, so that two runs are compared by the same thing:
// of a script its interpreter is among the libraries.
postmortem::RunFacts run_facts(const BundleRequest& request,
                               const postmortem::Redactor::Environment& environment) {
  postmortem::RunFacts facts;
  facts.command = request.command;
  facts.environment = environment;
  facts.defib = DEFIB_VERSION;
  utsname names{};
  ::uname(&names);
  facts.kernel = names.release;
  const std::string spec = os::join_path(request.service_dir(), "spec.json");
  const auto text = os::read_file(os::real_files(), spec, kMaxSpec);
  if (auto settings = text ? Json::parse(*text) : Result<Json>(text.error())) {
    facts.settings = std::move(*settings);
  }
  facts.directory = facts.settings["working_directory"].as_string();
  if (!request.command.empty()) {
    const std::string found = program_of(request.command.front(), environment);
    const bool relative = found.find('/') != std::string::npos && found[0] != '/';
    facts.exe = real_path(
        relative && !facts.directory.empty() ? os::join_path(facts.directory, found) : found);
  }
  return facts;
}

// It appears whole.
bool wait_for(const std::string& path, os::Duration time) {
  const std::int64_t deadline = os::real_clock().mono_ns() + time.count();
  while (!os::real_files().exists(path)) {
    if (os::real_clock().mono_ns() >= deadline) return false;
    os::real_clock().sleep_for(kReportPoll);
  }
  return true;
}

class Collector {
 public:
  Collector(const BundleRequest& request, BundleWriter writer)
      : request_(request),
        writer_(std::move(writer)),
        environment_(environment_of(request)),
        failed_wall_ns_(wall_of(request.failed_mono_ns)) {
    writer_.redactor().learn(environment_);
    writer_.redactor().learn_arguments(request.command);
  }
  Result<> run();

 private:
  void add_live_process();
  void add_system();
  void add_samples();
  void add_kernel();
  void add_report();
  void add_process(const Json& facts);
  void add_disassembly(const Json& report, const Json& facts);
  void add_configured_process(std::string_view why);
  void add_evidence();
  void add_changes(const Json& report);

  const BundleRequest& request_;
  BundleWriter writer_;
  postmortem::Redactor::Environment environment_;
  std::int64_t failed_wall_ns_;
  std::string exe_;
  Json report_;
  bool has_process_ = false;
};

Result<> Collector::run() {
  const std::int64_t began = os::real_clock().mono_ns();
  // What passes away first.
  if (request_.live) add_live_process();
  add_system();
  add_kernel();
  add_samples();
  add_report();
  add_evidence();
  add_changes(report_);
  OutputParts output(request_.state_dir, request_.incident, request_.service, failed_wall_ns_);
  output.add(writer_);
  utsname names{};
  ::uname(&names);
  if (exe_.empty() && !request_.command.empty()) {
    exe_ = program_of(request_.command.front(), environment_);
  }
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Json>>{
           {"schema", "defib.bundle/1"},
           {"incident", request_.incident},
           {"failure", request_.failure},
           {"service", request_.service},
           {"cause", request_.cause},
           {"pid", request_.pid},
           {"generation", request_.generation},
           {"failed_at", os::format_time(failed_wall_ns_)},
           {"made_at", os::format_time(os::real_clock().wall_ns())},
           {"delay_ns", began - request_.failed_mono_ns},
           {"took_ns", os::real_clock().mono_ns() - began},
           {"complete", false},
           {"versions", Json::object({{"defib", DEFIB_VERSION},
                                      {"kernel", names.release},
                                      {"exe", exe_},
                                      {"build_id", postmortem::build_id_of_file(exe_)}})}}) {
    writer_.set(key, value);
  }
  return writer_.finish();
}

void Collector::add_live_process() {
  const auto facts = postmortem::read_process(request_.pid, "live",
                                              os::real_clock().mono_ns() + kLiveTime.count());
  if (facts.comm.empty()) return;
  add_process(to_json(facts, writer_.redactor()));
}

// Redacted when it comes here, by what was learned from the process itself; and again by what was
// learned from the configuration.
void Collector::add_process(const Json& facts) {
  Json document = Json::object();
  std::string maps;
  for (const auto& [key, value] : facts.members()) {
    if (key == "maps") {
      maps = value.as_string();
    } else {
      document.set(key, value);
    }
  }
  exe_ = facts["exe"].as_string();
  has_process_ = writer_.add_json("process.json", document);
  if (maps.empty()) {
    writer_.missing("maps.txt", "the process's mappings could not be read");
  } else {
    writer_.add("maps.txt", maps);
  }
}

void Collector::add_configured_process(std::string_view why) {
  Json environment = Json::object(), command = Json::array(), gaps = Json::array();
  for (const auto& [name, value] : environment_) {
    environment.set(name, writer_.redactor().value(name, value));
  }
  for (const std::string& argument : writer_.redactor().command_line(request_.command)) {
    command.push(argument);
  }
  for (const char* what : {"limits", "status", "descriptors"}) {
    gaps.push(fmt::format("{}: {}", what, why));
  }
  writer_.add_json("process.json", Json::object({{"schema", "defib.process/1"},
                                                 {"source", "configuration"},
                                                 {"pid", request_.pid},
                                                 {"command_line", std::move(command)},
                                                 {"environment", std::move(environment)},
                                                 {"gaps", std::move(gaps)}}));
  writer_.missing("maps.txt", std::string(why));
}

void Collector::add_system() {
  writer_.add_json("system.json", postmortem::system_json(request_.state_dir));
  auto processes = postmortem::processes_json({request_.supervisor, request_.pid});
  writer_.add_json("processes.json", processes.document, std::move(processes.cut));
}

void Collector::add_kernel() {
  const auto messages = postmortem::kernel_messages(request_.failed_mono_ns - kBefore.count());
  if (!messages) {
    return writer_.missing("kernel.txt",
                           "the kernel's log is not readable here: " + messages.error().to_line());
  }
  std::string text;
  for (const postmortem::KernelMessage& one : *messages) {
    text += fmt::format("{} {}\n", os::format_time(one.wall_ns), one.text);
  }
  writer_.add("kernel.txt", text);
}

void Collector::add_samples() {
  const std::int64_t from = failed_wall_ns_ - kBefore.count();
  const auto service = postmortem::read_ring(os::join_path(request_.service_dir(), "samples"),
                                             postmortem::SampleKind::kService);
  const auto machine =
      postmortem::read_ring(request_.machine_samples, postmortem::SampleKind::kMachine);
  std::vector<postmortem::Sample> now(1);
  std::array<std::uint64_t, postmortem::kMachineNumbers> numbers;
  postmortem::MachineSampler(request_.state_dir).sample(numbers);
  now[0].mono_ns = os::real_clock().mono_ns();
  now[0].wall_ns = os::real_clock().wall_ns();
  now[0].numbers.assign(numbers.begin(), numbers.end());
  Json document = Json::object({{"schema", "defib.samples/1"}});
  std::string cut;
  const auto put = [&](const char* key, const auto& read, postmortem::SampleKind kind) {
    if (read) {
      document.set(key, samples_json(*read, kind, from));
    } else {
      cut += fmt::format("{}{}: {}", cut.empty() ? "" : "; ", key, read.error().to_line());
    }
  };
  put("service", service, postmortem::SampleKind::kService);
  put("machine", machine, postmortem::SampleKind::kMachine);
  document.set("machine_at_bundle", samples_json(now, postmortem::SampleKind::kMachine, 0));
  writer_.add_json("samples.json", document, cut);
}

void Collector::add_report() {
  std::string why = request_.live ? "the process was gone before it could be read"
                                  : "the process left no crash report: it ended without one";
  if (!request_.report.empty() && !wait_for(request_.report, kReportTime)) {
    why = fmt::format("no crash report came within {}", os::format_duration(kReportTime));
  } else if (!request_.report.empty()) {
    os::Files& files = os::real_files();
    auto text = os::read_file(files, request_.report, kMaxReport);
    auto report = text ? Json::parse(*text) : Result<Json>(text.error());
    const std::string facts_path = postmortem::facts_path_of(request_.report);
    if (report && !(*report)["capture_error"].is_object()) wait_for(facts_path, kFactsTime);
    auto facts_text = os::read_file(files, facts_path, kMaxReport);
    const auto facts = facts_text ? Json::parse(*facts_text) : Result<Json>(facts_text.error());
    if (report) report_ = *report;
    if (report) {
      writer_.add_json("crash.json", *report);
      if (exe_.empty()) exe_ = (*report)["exe"].as_string();
    } else {
      writer_.missing("crash.json", report.error().to_line());
    }
    if (facts && !has_process_) add_process(*facts);
    add_disassembly(report ? *report : Json(), facts ? *facts : Json());
    // It was for the bundle alone.
    if (facts && has_process_) static_cast<void>(files.remove(facts_path).has_value());
    if (!has_process_) {
      add_configured_process(facts ? "there was no room for what was read of the process"
                                   : "the process could not be read: " + facts.error().to_line());
    }
    return;
  }
  writer_.missing("crash.json", why);
  writer_.missing("disassembly.txt", why);
  if (!has_process_) add_configured_process(why);
}

void Collector::add_disassembly(const Json& report, const Json& facts) {
  const auto number = [](std::string_view text) {
    return std::strtoull(std::string(text).c_str(), nullptr, 16);
  };
  const Json& registers = report["registers"];
  const bool arm = registers.has("pc");
  const Json& pc = arm ? registers["pc"] : registers["rip"];
  std::string code;
  if (!pc.is_string() || !from_hex(facts["code"]["bytes"].as_string(), code) || code.empty()) {
    return writer_.missing("disassembly.txt", pc.is_string()
                                                  ? "there is no code at the program counter"
                                                  : "the report has no program counter");
  }
  writer_.add("disassembly.txt",
              postmortem::disassemble(
                  arm ? postmortem::Machine::kAArch64 : postmortem::Machine::kX86_64,
                  number(facts["code"]["address"].as_string()), code, number(pc.as_string())));
}

void Collector::add_changes(const Json& report) {
  postmortem::RunFacts facts = run_facts(request_, environment_);
  for (const Json& module : report["modules"].items()) {
    const std::string path(module["path"].as_string()), id(module["build_id"].as_string());
    if (path == facts.exe) facts.build_id = id;
    if (!path.empty() && !id.empty()) facts.libraries.emplace_back(path, id);
  }
  const auto good = postmortem::GoodRuns::read(os::real_files(), request_.service_dir());
  writer_.add_json("changes.json", good.changes(postmortem::describe_run(facts, good.key())));
}

void Collector::add_evidence() {
  if (request_.evidence.empty()) return;
  const auto text = os::read_file(os::real_files(), request_.evidence, kMaxEvidenceFile);
  if (!text) return writer_.missing("evidence.txt", text.error().to_line());
  writer_.add("evidence.txt", *text);
  static_cast<void>(os::real_files().remove(request_.evidence).has_value());
}

Result<> complete_parts(BundleWriter writer, const std::string& state_dir) {
  const Json& manifest = writer.manifest();
  const std::string incident(manifest["incident"].as_string());
  const std::string service(manifest["service"].as_string());
  OutputParts output(state_dir, incident, service,
                     os::parse_time(manifest["failed_at"].as_string()));
  output.add(writer);
  writer.set("complete", true);
  return writer.finish();
}

}  // namespace

Result<> collect(const BundleRequest& request) {
  DEFIB_TRY_ASSIGN(
      BundleWriter writer,
      BundleWriter::create(request.directory(), os::real_clock().mono_ns() + kCollectTime.count()));
  Collector collector(request, std::move(writer));
  auto made = collector.run();
  DEFIB_TRY(postmortem::apply_retention(request.incidents_dir(), request.rules, request.incident,
                                        os::real_clock().wall_ns()));
  return made;
}

// Symbol tables for the report of a crash that may come. Nobody waits for them, and a report does
// without where there are none.
void warm_symbols(const BundleRequest& request) {
  const std::string program = os::join_path(os::own_program_dir(), "defib-capture");
  const std::string tables = os::join_path(request.service_dir(), "capture/symbols");
  const auto made = os::run_command(
      {program, "warm", std::to_string(request.pid), "--symbol-cache", tables}, kWarmTimeoutMs);
  if (!made) fmt::print(stderr, "{}\n", made.error().to_line());
}

Result<> note_good_run(const BundleRequest& request) {
  const auto environment = environment_of(request);
  postmortem::RunFacts facts = run_facts(request, environment);
  if (request.live) {
    facts.libraries = postmortem::libraries_of_maps(
        postmortem::read_process(request.pid, "live",
                                 os::real_clock().mono_ns() + kLiveTime.count())
            .maps);
  }
  auto runs = postmortem::GoodRuns::read(os::real_files(), request.service_dir());
  runs.note(postmortem::describe_run(facts, runs.key()), request.generation,
            os::format_time(os::real_clock().wall_ns()));
  DEFIB_TRY(runs.save(os::real_files()));
  if (request.live) warm_symbols(request);
  return {};
}

Result<> complete(const BundleRequest& request) {
  DEFIB_TRY_ASSIGN(
      BundleWriter writer,
      BundleWriter::reopen(request.directory(), os::real_clock().mono_ns() + kCollectTime.count()));
  writer.redactor().learn(environment_of(request));
  writer.redactor().learn_arguments(request.command);
  return complete_parts(std::move(writer), request.state_dir);
}

Result<> complete_by_manifest(const std::string& state_dir, const std::string& directory) {
  DEFIB_TRY_ASSIGN(BundleWriter writer, BundleWriter::reopen(directory, os::real_clock().mono_ns() +
                                                                            kCollectTime.count()));
  const std::int64_t failed = os::parse_time(writer.manifest()["failed_at"].as_string());
  const bool due = os::real_clock().wall_ns() - failed >= daemon::kBundleAfter.count();
  if (writer.manifest()["complete"].as_bool() || !due) return {};
  return complete_parts(std::move(writer), state_dir);
}

}  // namespace defib::bundle

// defib-capture: postmortem on demand. Started by the shim at a crash, by `defib analyze`, and for
// deaths that left no report.
//
// Of `crash`, the process waits meanwhile: it is copied before anything else is done, and nothing
// is read, allocated or parsed before that which can wait. People wait for the report: what they do
// not wait for is done after it, or not at all.

#include <errno.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <malloc.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cstdio>
#include <iterator>
#include <string>

#include "apps/defib-capture/analyze.h"
#include "apps/defib-capture/core_pipe.h"
#include "apps/defib-capture/crash.h"
#include "apps/defib-capture/kept_files.h"
#include "apps/defib-capture/symbol_commands.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/core.h"
#include "defib/postmortem/hot_frames.h"
#include "defib/postmortem/kernel_log.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/report.h"
#include "defib/process/agent_page.h"
#include "defib/process/run_output.h"

namespace defib {
namespace {

constexpr int kDone = 0;
constexpr int kIncomplete = 1;  // a report was made, but the process could not be captured
constexpr int kWrongUsage = 2;
constexpr std::uint64_t kMaxLogTail = 64 * 1024;
constexpr std::chrono::milliseconds kSampleWindow{150};
constexpr std::int64_t kLiveFactsTimeNs = 500'000'000;
// Of processes that no bundle was made of.
constexpr std::size_t kMaxFactsFiles = 8;
// Beside the reports, in a directory that is the supervisor's alone.
constexpr std::string_view kSymbolsDir = "symbols";
constexpr std::chrono::minutes kWarmTime{2};  // of one module
// Of each kind; what belongs to a report counts as well.
constexpr std::size_t kMaxReports = 16;
constexpr std::string_view kReportSuffix = ".json";
constexpr int kKeptHeapBytes = 32 << 20;  // more than that goes back to the kernel
constexpr int kHeapStepBytes = 1 << 20;

struct Options {
  pid_t pid = 0;
  std::string page;
  int page_fd = -1;
  std::uint64_t page_offset = offsetof(process::AgentPage, crash);
  std::string out;
  std::string log_tail;
  std::string output_of;
  std::string target;
  std::string exe;
  std::string sysroot;
  bool full = false;
  int full_timeout_s = kDebuggerTimeoutS;
  bool json = false;
  int status = 0;
  std::int64_t since_mono_ns = 0;
  std::int64_t new_oom_kills = -1;
  int own_signal = 0;
  CrashOptions crash;
  postmortem::SymbolOptions symbols;
  std::vector<std::string> warm_targets;
};

int fail(const Error& error, bool json) {
  if (json) {
    const auto document = wire::Json::object({{"error", wire::to_json(error)}});
    fmt::print("{}\n", document.dump(2));
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  const bool usage = error.code() == Code::kWrongUsage || error.code() == Code::kInvalidArgument;
  return usage ? kWrongUsage : kIncomplete;
}

// "crash-7.json" and "hang-7.json", as supervisors name them. An incident's bundle has its report;
// beside the service only those are needed that no bundle was made of yet.
void keep_newest_reports(const std::string& path) {
  const std::string name = path.substr(path.rfind('/') + 1);  // npos + 1 is 0
  for (const char* kind : {"crash-", "hang-"}) {
    if (!name.starts_with(kind) || !name.ends_with(kReportSuffix)) continue;
    keep_newest(os::parent_dir(path), kind, kReportSuffix, kMaxReports);
  }
}

int write_document(const Options& options, std::string text) {
  text += '\n';
  if (options.out.empty()) {
    fmt::print("{}", text);
    return kDone;
  }
  auto written = os::write_file_atomically(os::real_files(), options.out, text);
  if (!written) return fail(written.error(), options.json);
  keep_newest_reports(options.out);
  return kDone;
}

// Writes the document to --out, or prints it, or the text.
int deliver(const Options& options, const wire::Json& document, const std::string& text) {
  if (!options.out.empty() || options.json) return write_document(options, document.dump(2));
  fmt::print("{}", text);
  return kDone;
}

// The same, and what is not asked for is not made: the names of a C++ program may take megabytes.
int deliver(const Options& options, const postmortem::Report& report) {
  if (!options.out.empty() || options.json) return write_document(options, to_json_text(report));
  fmt::print("{}", to_text(report));
  return kDone;
}

// What bundles are made of besides the report. It lies beside it, and whoever makes the bundle
// takes it away; where nobody does, only the newest are kept.
void deliver_facts(const Options& options, const std::optional<postmortem::ProcessFacts>& facts) {
  if (!facts || options.out.empty()) return;
  postmortem::Redactor redactor;
  const std::string path = postmortem::facts_path_of(options.out);
  const wire::Json document = to_json(*facts, redactor);
  // Not synced: it lives for a moment, and the report must not wait for it.
  const std::string temporary = path + ".tmp", text = document.dump() + "\n";
  os::Fd file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const bool written = file.valid() && ::write(file.get(), text.data(), text.size()) ==
                                           static_cast<ssize_t>(text.size());
  if (!written || ::rename(temporary.c_str(), path.c_str()) != 0) ::unlink(temporary.c_str());
  keep_newest(os::parent_dir(path), {}, postmortem::kFactsSuffix, kMaxFactsFiles);
}

std::string read_tail(const std::string& path) {
  if (path.empty()) return {};
  auto file = os::real_files().open(path, os::OpenMode::kRead);
  if (!file) return {};
  auto size = (*file)->size();
  if (!size) return {};
  const std::uint64_t start = *size > kMaxLogTail ? *size - kMaxLogTail : 0;
  std::string text(*size - start, '\0');
  auto got = (*file)->read_at(start, text.data(), text.size());
  text.resize(got ? *got : 0);
  return text;
}

// What the process wrote, and nothing that another run of its service did.
void read_output(const Options& options, postmortem::CrashFacts& facts) {
  facts.stderr_tail = read_tail(options.log_tail);
  if (options.output_of.empty()) return;
  process::RunOutput output = process::read_run_output(
      options.output_of, {.from_mono_ns = options.since_mono_ns, .max_bytes = kMaxLogTail});
  facts.stderr_tail += output.err;
  facts.stdout_tail = std::move(output.out);
}

// Evidence that lies outside of the process.
postmortem::CrashFacts outside_facts(const Options& options, pid_t pid, std::int64_t since_ns,
                                     std::vector<std::string>& gaps) {
  postmortem::CrashFacts facts;
  facts.pid = pid;
  read_output(options, facts);
  facts.own_signal = options.own_signal;
  if (options.new_oom_kills >= 0) facts.new_oom_kills = options.new_oom_kills;
  auto lines = postmortem::kernel_lines_about(pid, since_ns);
  if (lines) {
    facts.kernel_lines = std::move(lines->lines);
    facts.kernel_log_complete = lines->complete;
  } else {
    gaps.push_back("the kernel's log is not readable: " + lines.error().to_line());
  }
  return facts;
}

Result<postmortem::CrashPage*> map_page(const Options& options) {
  os::Fd opened;
  int fd = options.page_fd;
  if (!options.page.empty()) {
    opened = os::Fd(::open(options.page.c_str(), O_RDWR | O_CLOEXEC));
    fd = opened.get();
  }
  if (fd < 0) return os::system_error("open", options.page);
  // Mapped from the start, so that the offset need not be a multiple of the page size.
  const std::size_t size = options.page_offset + sizeof(postmortem::CrashPage);
  const off_t file_size = ::lseek(fd, 0, SEEK_END);
  if (file_size < 0 || static_cast<std::size_t>(file_size) < size) {
    return Error(Code::kInvalidArgument, "the crash page is too short to be one");
  }
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return os::system_error("mmap", options.page);
  return reinterpret_cast<postmortem::CrashPage*>(static_cast<char*>(memory) + options.page_offset);
}

// Where the tables of `warm` are looked for.
postmortem::SymbolOptions symbol_options(const Options& options) {
  postmortem::SymbolOptions symbols = options.symbols;
  if (symbols.cache_dir.empty() && !options.out.empty()) {
    symbols.cache_dir = os::join_path(os::parent_dir(options.out), kSymbolsDir);
  }
  return symbols;
}

int run_crash(const Options& options) {
  auto page = map_page(options);
  if (!page) return fail(page.error(), options.json);
  std::optional<postmortem::ProcessFacts> facts;
  if (!options.out.empty()) facts.emplace();
  auto captured = obtain_crash(options.pid, **page, options.crash, facts ? &*facts : nullptr);
  // Of a process that could not be reached there is nothing for the bundle.
  if (!captured) facts.reset();
  if (captured && options.crash.minicore) leave_minicore(*captured, options.out);
  std::optional<Error> capture_error;
  postmortem::Snapshot snapshot;
  if (captured) {
    snapshot = std::move(*captured);
  } else {
    capture_error = captured.error();
    snapshot = postmortem::snapshot_from_page(**page);
  }
  // While a child walks the stacks, all else is seen to.
  const pid_t pid = snapshot.pid;
  const std::int64_t crashed_mono_ns = snapshot.crashed_mono_ns;
  std::vector<std::string> gaps;
  const auto look_around = [&] {
    auto more = outside_facts(options, pid, crashed_mono_ns, gaps);
    deliver_facts(options, facts);
    return more;
  };
  postmortem::Report report =
      postmortem::make_report_asking(std::move(snapshot), look_around, symbol_options(options));
  std::ranges::move(gaps, std::back_inserter(report.snapshot.gaps));
  report.capture_error = capture_error;
  const int code = deliver(options, report);
  return code != kDone ? code : capture_error ? kIncomplete : kDone;
}

int run_analyze(const Options& options) {
  pid_t pid = 0;
  const char* end = options.target.data() + options.target.size();
  const auto [stop, error] = std::from_chars(options.target.data(), end, pid);
  const bool is_pid = error == std::errc() && stop == end;
  if (is_pid && ::kill(pid, 0) != 0 && errno == ESRCH) {
    const Error gone = Error(Code::kCaptureFailed, fmt::format("there is no process {}", pid))
                           .with("pid", pid)
                           .suggest(
                               "`defib status` names the services' processes; one that has "
                               "ended can be analysed by its core file");
    return fail(gone, options.json);
  }
  postmortem::CaptureOptions capture;
  capture.sample_window = kSampleWindow;
  if (is_pid && !options.out.empty()) {
    deliver_facts(options, postmortem::read_process(pid, "hang",
                                                    os::real_clock().mono_ns() + kLiveFactsTimeNs));
  }
  auto snapshot = is_pid ? postmortem::capture_live(pid, capture)
                         : postmortem::read_core(options.target, {options.exe, options.sysroot});
  if (!snapshot) return fail(snapshot.error(), options.json);
  postmortem::CrashFacts more;
  read_output(options, more);
  if (is_pid) more.threads = postmortem::sample_hot_frames(*snapshot);
  const postmortem::Report report =
      postmortem::make_report(std::move(*snapshot), std::move(more), symbol_options(options));
  if (!options.out.empty()) return deliver(options, report);
  AnalyzeOptions form;
  form.pid = is_pid ? pid : 0;
  form.core = is_pid ? std::string() : options.target;
  form.exe = options.exe;
  form.sysroot = options.sysroot;
  form.full = options.full;
  form.full_timeout_s = options.full_timeout_s;
  form.json = options.json;
  const Analysis analysis = show_analysis(report, form);
  return deliver(options, analysis.document, analysis.text);
}

int run_classify_exit(const Options& options) {
  postmortem::Report report;
  report.snapshot.pid = options.pid;
  auto facts = outside_facts(options, options.pid, options.since_mono_ns, report.snapshot.gaps);
  facts.status = os::exit_status_from_wait(options.status);
  report.classification = postmortem::classify(facts);
  report.signature = postmortem::sign({std::string(to_string(report.classification.cause)),
                                       report.classification.subtype,
                                       "",
                                       facts.status.to_string(),
                                       {}});
  report.log_tail = facts.stderr_tail;
  return deliver(options, report);
}

int run_symbols(const Options& options, bool is_warm) {
  postmortem::SymbolOptions symbols = options.symbols;
  if (is_warm) symbols.time_limit = symbols.cpu_limit = kWarmTime;
  const auto result = is_warm ? warm_targets(options.warm_targets, symbols)
                              : symbolize_file(options.target, symbols);
  if (!result) return fail(result.error(), options.json);
  return deliver(options, result->document, result->text);
}

// The kernel connects no stderr: what fails is told in its log.
int run_core_pipe(const CorePipeOptions& options) {
  const auto core = receive_core(STDIN_FILENO, options);
  const std::string line =
      core ? fmt::format("defib: core of process {}: {} ({} bytes{})\n", options.pid, core->path,
                         core->bytes, core->truncated ? ", cut" : "")
           : fmt::format("defib: the core of process {} is not kept: {}\n", options.pid,
                         core.error().to_line());
  const os::Fd log(::open("/dev/kmsg", O_WRONLY | O_CLOEXEC));
  const bool told = log.valid() && ::write(log.get(), line.data(), line.size()) > 0;
  if (!told) fmt::print(stderr, "{}", line);
  return core ? kDone : kIncomplete;
}

int run(int argc, char** argv) {
  Options options;
  CLI::App app(
      "Captures, unwinds and classifies a crash or a hang.\n\n"
      "Example: defib-capture analyze 4711 --json");
  app.require_subcommand(1);
  const auto add_output = [&](CLI::App* command) {
    command->add_option("--out", options.out, "write the JSON report to this file");
    command->add_option("--log-tail", options.log_tail, "a file with the end of its stderr");
    command->add_option("--output-of", options.output_of,
                        "the service's directory: its output since --since-mono-ns is evidence");
    command->add_option("--since-mono-ns", options.since_mono_ns,
                        "when the process was started (CLOCK_MONOTONIC): older output, and older "
                        "lines of the kernel's log, are not its");
    command->add_flag("--json", options.json, "print JSON");
  };
  const auto add_symbols = [&](CLI::App* command) {
    command
        ->add_option("--debug-dir", options.symbols.debug_dirs,
                     "where debug files or unstripped programs lie; may be repeated")
        ->allow_extra_args(false)
        ->type_name("DIR");
    command->add_option("--symbol-cache", options.symbols.cache_dir,
                        "symbol tables made by `warm` (default: symbols/ beside --out)");
  };
  CLI::App* crash = app.add_subcommand("crash", "of a process that waits in its crash hook");
  crash->add_option("--pid", options.pid, "the process")->required();
  auto* page = crash->add_option("--page", options.page, "path of its agent page");
  crash->add_option("--page-fd", options.page_fd, "inherited descriptor of its agent page")
      ->excludes(page);
  crash->add_option("--page-offset", options.page_offset, "where the crash page lies in it");
  crash->add_option("--snapshot-fd", options.crash.snapshot_fd,
                    "inherited descriptor of what defib-snapshot has copied");
  crash->add_flag("--minicore", options.crash.minicore, "also write a small core, beside --out");
  add_output(crash);
  CLI::App* by_page = app.add_subcommand("page", "of a crash that could not be captured");
  by_page->add_option("--pid", options.pid, "of no importance");
  by_page->add_option("--page-fd", options.page_fd, "inherited descriptor of its agent page");
  by_page->add_option("--page-offset", options.page_offset, "where the crash page lies in it");
  by_page->add_option("--why", options.crash.why, "late:MS, signal:N, exit:N or unseen:0");
  add_output(by_page);
  add_symbols(crash);

  CLI::App* analyze = app.add_subcommand("analyze", "of a live process or a core file");
  analyze->add_option("target", options.target, "PID or core file")->required();
  analyze->add_option("--exe", options.exe, "the program of the core, if it was moved");
  analyze
      ->add_option("--sysroot", options.sysroot,
                   "the root directory of the machine that the core is of")
      ->check(CLI::ExistingDirectory);
  analyze->add_flag("--full", options.full, "arguments and locals as well, through gdb");
  analyze
      ->add_option("--full-timeout", options.full_timeout_s,
                   "seconds that gdb may take (default 30)")
      ->check(CLI::Range(1, 3600));
  add_output(analyze);
  add_symbols(analyze);

  CLI::App* symbolize =
      app.add_subcommand("symbolize",
                         "fills in functions, files and lines\n\n"
                         "Examples: defib symbolize crash.json --debug-dir ./symbols --json\n"
                         "          echo ./engine+0x11a9 | defib symbolize");
  options.target = "-";
  symbolize
      ->add_option("input", options.target,
                   "a report, an incident (JSON), or lines MODULE+0xOFFSET or "
                   "MODULE BUILD_ID 0xOFFSET (default: standard input)")
      ->type_name("FILE");
  symbolize->add_option("--sysroot", options.symbols.sysroot,
                        "the files of the machine that it comes from lie under this directory");
  symbolize->add_option("--out", options.out, "write the JSON to this file");
  symbolize->add_flag("--json", options.json, "print JSON");
  add_symbols(symbolize);

  CLI::App* warm =
      app.add_subcommand("warm", "makes symbol tables in advance, so that reports come sooner");
  warm->add_option("target", options.warm_targets, "PID or ELF file")->required();
  add_symbols(warm);
  warm->get_option("--symbol-cache")->required();
  warm->add_flag("--json", options.json, "print JSON");

  CLI::App* classify = app.add_subcommand("classify-exit", "of a death that left no report");
  classify->add_option("--pid", options.pid, "the process")->required();
  classify->add_option("--status", options.status, "its status as wait(2) gives it")->required();
  classify->add_option("--new-oom-kills", options.new_oom_kills,
                       "growth of oom_kill in its cgroup's memory.events");
  classify->add_option("--own-signal", options.own_signal, "signal that the supervisor sent it");
  add_output(classify);

  CorePipeOptions core;
  std::uint64_t core_megabytes = core.max_bytes >> 20;
  CLI::App* pipe = app.add_subcommand(
      "core-pipe",
      "takes a core from the kernel; in core_pattern: |PATH core-pipe --dir DIR %P %u %g");
  pipe->add_option("--dir", core.dir, "where cores are kept")->required();
  pipe->add_option("--max-mb", core_megabytes, "more of a core is not kept (default 4096)");
  pipe->add_option("--max-files", core.max_files, "cores that are kept (default 16)")
      ->check(CLI::Range(1, 100'000));
  pipe->add_option("pid", core.pid, "%P")->required();
  pipe->add_option("uid", core.uid, "%u")->required();
  pipe->add_option("gid", core.gid, "%g")->required();

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kWrongUsage;
  }
  if (pipe->parsed()) {
    core.max_bytes = core_megabytes << 20;
    return run_core_pipe(core);
  }
  if (crash->parsed() || by_page->parsed()) {
    if (options.page.empty() && options.page_fd < 0) {
      return fail(Error(Code::kWrongUsage, "a crash page is needed: --page or --page-fd"),
                  options.json);
    }
    return run_crash(options);
  }
  if (symbolize->parsed() || warm->parsed()) return run_symbols(options, warm->parsed());
  return analyze->parsed() ? run_analyze(options) : run_classify_exit(options);
}

}  // namespace
}  // namespace defib

int main(int argc, char** argv) {
  // What was freed is used again for the next copy of the names, instead of new pages.
  ::mallopt(M_MMAP_THRESHOLD, defib::kKeptHeapBytes);
  ::mallopt(M_TRIM_THRESHOLD, defib::kKeptHeapBytes);
  ::mallopt(M_TOP_PAD, defib::kHeapStepBytes);
  return defib::run(argc, argv);
}

#include "apps/defib-capture/debugger.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <string_view>
#include <vector>

#include "defib/base/text.h"
#include "defib/base/visible_text.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/postmortem/redact.h"

namespace defib {
namespace {

constexpr std::uint64_t kMaxProcFile = 1 << 20;
constexpr int kLetGoLooks = 50;
constexpr os::Duration kLetGoPause = std::chrono::milliseconds(10);

// The letter of /proc/PID/stat; 0: it is gone.
char state_of(pid_t pid) {
  const auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/stat", pid), 4096);
  const std::size_t end = text ? text->rfind(')') : std::string::npos;
  return end == std::string::npos || end + 2 >= text->size() ? '\0' : (*text)[end + 2];
}

// A debugger that is killed between attaching and reading the stop leaves the stop behind.
void let_go(pid_t pid, bool was_stopped) {
  for (int look = 0; look < kLetGoLooks && !was_stopped; ++look) {
    const char state = state_of(pid);
    if (state == 'T') {
      ::kill(pid, SIGCONT);
      return;
    }
    if (state != 't') return;
    os::real_clock().sleep_for(kLetGoPause);
  }
}

// gdb's own words around the backtraces say nothing about the process.
std::string backtraces_of(std::string_view output) {
  const std::size_t begin = std::min(output.find("\nThread "), output.size());
  std::string text;
  std::string_view rest = output.substr(std::min(begin + 1, output.size()));
  while (!rest.empty()) {
    const std::string_view line = next_line(rest);
    if (line.starts_with("[Inferior ") || line.starts_with("Detaching from")) continue;
    text += visible_text(line) + "\n";
  }
  return text;
}

}  // namespace

Result<std::string> full_backtrace(const DebuggerTarget& target, int timeout_ms) {
  postmortem::Redactor redactor;
  std::vector<std::string> argv = {"gdb", "-batch", "-nx", "-nh"};
  // Before anything is loaded: nothing that a file brings with it is run, nobody is asked over the
  // network, and long values are cut.
  for (const char* setting :
       {"set auto-load off", "set debuginfod enabled off", "set pagination off", "set width 0",
        "set confirm off", "set print elements 64", "set print frame-arguments all",
        "set print entry-values no", "set backtrace limit 64"}) {
    argv.insert(argv.end(), {"-iex", setting});
  }
  if (!target.sysroot.empty()) {
    argv.insert(argv.end(), {"-iex", fmt::format("set sysroot {}", target.sysroot)});
  }
  bool was_stopped = false;
  if (target.pid != 0) {
    was_stopped = state_of(target.pid) == 'T';
    const std::string proc = fmt::format("/proc/{}/", target.pid);
    const auto environment = os::read_file(os::real_files(), proc + "environ", kMaxProcFile);
    const auto command = os::read_file(os::real_files(), proc + "cmdline", kMaxProcFile);
    if (environment) redactor.learn(postmortem::parse_environment(*environment));
    if (command) redactor.learn_arguments(postmortem::parse_arguments(*command));
    argv.insert(argv.end(), {"-p", std::to_string(target.pid)});
  } else {
    if (!target.exe.empty()) argv.insert(argv.end(), {"-se", target.exe});
    argv.insert(argv.end(), {"-core", target.core});
  }
  argv.insert(argv.end(), {"-ex", "thread apply all backtrace full"});
  auto output = os::run_command(argv, timeout_ms);
  if (target.pid != 0) let_go(target.pid, was_stopped);
  if (!output && output.error().code() == Code::kProgramNotFound) {
    return Error(Code::kUnavailable, "arguments and locals are missing: gdb is not installed")
        .suggest("install gdb, or look at the core file where it is");
  }
  if (!output) {
    return Error(output.error().code(), "arguments and locals are missing: gdb did not end in time")
        .because(output.error());
  }
  std::string text = redactor.text(backtraces_of(output->text));
  if (text.empty()) {
    const std::string said = visible_text(std::string_view(output->text).substr(0, 500));
    return Error(Code::kUnavailable,
                 fmt::format("arguments and locals are missing: gdb found no threads ({})", said));
  }
  return text;
}

}  // namespace defib

// The supervisor's own survival: its guardian, and its upgrade in place.

#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include "apps/defib/commands.h"
#include "apps/defib/output.h"
#include "defib/daemon/control.h"
#include "defib/daemon/status.h"
#include "defib/obs/log.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/process/guardian.h"

namespace defib::cli {
namespace {

constexpr os::Duration kAnswerTime = std::chrono::seconds(15);
constexpr os::Duration kReturnTime = std::chrono::seconds(15);
constexpr os::Duration kLook = std::chrono::milliseconds(5);

bool same_file(const std::string& a, const std::string& b) {
  struct stat one{}, other{};
  return stat(a.c_str(), &one) == 0 && stat(b.c_str(), &other) == 0 && one.st_dev == other.st_dev &&
         one.st_ino == other.st_ino;
}

std::string found_in_path(std::string_view name) {
  const char* path = getenv("PATH");
  std::string_view rest = path != nullptr ? path : "";
  while (!rest.empty()) {
    const std::size_t colon = std::min(rest.find(':'), rest.size());
    std::string candidate = os::join_path(rest.substr(0, colon), name);
    if (access(candidate.c_str(), X_OK) == 0) return candidate;
    rest.remove_prefix(std::min(colon + 1, rest.size()));
  }
  return {};
}

}  // namespace

// The name by which it was called rather than the file behind it: an upgrade may put another file
// behind the name (a symbolic link).
std::vector<std::string> own_command(int argc, char** argv) {
  const auto exe = os::process_exe(getpid());
  std::string program = exe ? *exe : "";
  const std::string name = argv[0];
  std::string called = name.find('/') != std::string::npos ? name : found_in_path(name);
  if (!called.empty() && !called.starts_with('/')) {
    char* directory = getcwd(nullptr, 0);
    if (directory != nullptr) called = os::join_path(directory, called);
    free(directory);
  }
  if (called.starts_with('/') && same_file(called, program)) program = called;
  std::vector<std::string> command = {program};
  command.insert(command.end(), argv + 1, argv + argc);
  return command;
}

void enter_guardian(const CommandLine& line) {
  process::attach_guardian();
  if (line.no_guardian || line.check || process::is_guarded()) return;
  const std::string guardian = os::join_path(os::own_program_dir(), "defib-guardian");
  const Error failed = process::exec_guardian(guardian, line.program);
  obs::log(obs::Level::kWarning, "guardian",
           "nobody will start this supervisor again should it be killed", {{"error", failed}});
}

// Asks, and waits until the new one answers.
Result<int> upgrade_command(const CommandLine& line) {
  const std::string socket =
      daemon::control_socket_of(os::real_files(), state_dir_of(line), line.name);
  const auto ask = [&](const char* op) {
    return daemon::call_control(socket, wire::Json::object({{"op", op}}), kAnswerTime);
  };
  DEFIB_TRY_ASSIGN(const wire::Json before, ask("about"));
  DEFIB_TRY_ASSIGN(const wire::Json tried, ask("upgrade"));
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + kReturnTime.count();
  while (clock.mono_ns() < deadline) {
    const auto now = ask("about");
    if (now && (*now)["started_mono_ns"].as_int() != before["started_mono_ns"].as_int()) {
      if (line.json) {
        print_json(wire::Json::object({{"schema", "defib.control/1"},
                                       {"ok", true},
                                       {"program", tried["program"]},
                                       {"pid", (*now)["public_pid"]}}));
      } else {
        print(fmt::format("upgraded: {}\n", tried["program"].as_string()));
      }
      return kDone;
    }
    clock.sleep_for(kLook);
  }
  return Error(Code::kTimeout, "the new supervisor does not answer")
      .suggest("`defib status` tells what runs; the services go on without a supervisor");
}

}  // namespace defib::cli

#include "defib/process/launch_description.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>

#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/process/identity.h"
#include "defib/process/restart_policy.h"

namespace defib::process {
namespace {

constexpr std::string_view kDefaultPath = "/usr/local/bin:/usr/bin:/bin";
constexpr std::size_t kMaxInterpreterLine = 256;  // the kernel's own bound

std::string find_in_path(const std::string& name, std::string_view path) {
  while (true) {
    const std::size_t colon = path.find(':');
    const std::string_view dir = path.substr(0, colon);
    std::string candidate = os::join_path(dir.empty() ? "." : dir, name);
    struct stat info{};
    if (::access(candidate.c_str(), X_OK) == 0 && ::stat(candidate.c_str(), &info) == 0 &&
        S_ISREG(info.st_mode)) {
      return candidate;
    }
    if (colon == std::string_view::npos) return {};
    path.remove_prefix(colon + 1);
  }
}

std::string absolute(const std::string& path) {
  if (path.starts_with('/')) return path;
  char* current = ::getcwd(nullptr, 0);
  const std::string result = os::join_path(current != nullptr ? current : "/", path);
  std::free(current);
  return result;
}

using Environment = std::map<std::string, std::string>;

Environment own_environment() {
  Environment env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    env.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return env;
}

// The beginning of a program tells who will run it.
struct Interpreter {
  bool is_program = false;  // ELF of this machine's kind, or a script
  std::string path;         // of the script's interpreter or the ELF file's loader; empty: none
  bool is_script = false;
  bool is_elf = false;
  bool is_64_bit = false;  // of ELF; what is not, the kernel knows, and we need not
};

// Headers, segments and the loader's name lie in the first page, as linkers make it: one read.
class FileHead {
 public:
  explicit FileHead(int fd) : fd_(fd) {
    const ssize_t size = ::pread(fd, head_.data(), head_.size(), 0);
    size_ = size > 0 ? static_cast<std::size_t>(size) : 0;
  }
  std::string_view bytes() const { return {head_.data(), size_}; }
  bool read(std::uint64_t at, void* to, std::size_t count) const {
    if (at <= size_ && count <= size_ - at) {
      std::memcpy(to, head_.data() + at, count);
      return true;
    }
    return ::pread(fd_, to, count, static_cast<off_t>(at)) == static_cast<ssize_t>(count);
  }

 private:
  int fd_;
  std::array<char, 4096> head_;
  std::size_t size_ = 0;
};

Interpreter interpreter_of(const os::Fd& fd) {
  const FileHead head(fd.get());
  Interpreter found;
  if (head.bytes().starts_with("#!")) {
    std::string_view line = head.bytes().substr(2, kMaxInterpreterLine - 2);
    line = line.substr(0, line.find('\n'));
    const std::size_t begin = line.find_first_not_of(" \t");
    if (begin == std::string_view::npos) return found;
    line.remove_prefix(begin);
    found.is_program = found.is_script = true;
    found.path = line.substr(0, line.find_first_of(" \t\r"));
    return found;
  }
  Elf64_Ehdr header{};
  if (!head.read(0, &header, sizeof header)) return found;
  if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return found;
  found.is_program = found.is_elf = true;
  found.is_64_bit = header.e_ident[EI_CLASS] == ELFCLASS64;
  for (int i = 0; found.is_64_bit && i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    if (!head.read(header.e_phoff + static_cast<std::uint64_t>(i) * sizeof segment, &segment,
                   sizeof segment)) {
      break;
    }
    if (segment.p_type != PT_INTERP || segment.p_filesz > kMaxInterpreterLine) continue;
    std::array<char, kMaxInterpreterLine> path{};
    if (head.read(segment.p_offset, path.data(), segment.p_filesz)) {
      found.path = std::string(path.data(), ::strnlen(path.data(), segment.p_filesz));
    }
    break;
  }
  return found;
}

Error no_program(std::string_view what, std::string message) {
  return Error(Code::kProgramNotFound, fmt::format("{}: {}", what, message));
}

void put_text(std::vector<std::string>& fixed, shim::LaunchText which, std::string text) {
  fixed[static_cast<std::size_t>(which)] = std::move(text);
}

bool wants_groups(const ServiceSpec& spec) {
  return spec.control_groups.value_or(true);
}

void put_groups(const ServiceSpec& spec, const LaunchPlace& place, shim::LaunchHeader& header,
                std::vector<std::string>& fixed) {
  if (!wants_groups(spec)) return;
  const Cgroups& groups = place.cgroups.find(spec.memory_limit_bytes != 0, spec.max_processes != 0);
  put_text(fixed, shim::LaunchText::kGroup, group_prefix(spec.name, place.service_dir));
  put_text(fixed, shim::LaunchText::kTreeDir, groups.tree_dir);
  put_text(fixed, shim::LaunchText::kMemoryDir, groups.memory_dir);
  put_text(fixed, shim::LaunchText::kPidsDir, groups.pids_dir);
  put_text(fixed, shim::LaunchText::kFreezerDir, groups.freezer_dir);
  if (groups.memory_in_tree) header.flags |= shim::kMemoryInTree;
  if (groups.pids_in_tree) header.flags |= shim::kPidsInTree;
  header.memory_limit_bytes = spec.memory_limit_bytes;
  header.max_processes = spec.max_processes;
}

void put_limit(shim::LaunchHeader& header, int resource, std::uint64_t value) {
  header.limits[header.limit_count++] = {static_cast<std::uint32_t>(resource), 0, value, value};
}

void put_identity(const ServiceSpec& spec, const std::optional<Identity>& identity,
                  shim::LaunchHeader& header) {
  if (identity) {
    header.flags |= shim::kSetUser;
    header.uid = identity->uid;
    header.gid = identity->gid;
    header.group_count = static_cast<std::uint32_t>(identity->groups.size());
    std::ranges::copy(identity->groups, header.groups);
  }
  if (spec.no_new_privileges.value_or(!spec.user.empty())) header.flags |= shim::kNoNewPrivileges;
  if (spec.umask) {
    header.flags |= shim::kSetUmask;
    header.umask = static_cast<std::uint32_t>(*spec.umask);
  }
  if (spec.nice) {
    header.flags |= shim::kSetNice;
    header.nice = *spec.nice;
  }
  if (spec.oom_score_adjust) {
    header.flags |= shim::kSetOomScore;
    header.oom_score_adjust = *spec.oom_score_adjust;
  }
  bool counts_processes = false;
  for (const ProcessLimit& limit : spec.limits) {
    put_limit(header, limit_number(limit.name), limit.value);
    counts_processes = counts_processes || limit.name == "nproc";
  }
  // Without a group that counts, the limit of the user is what there is. It binds all of the
  // user's processes together, and not root's.
  const bool counted = (header.flags & shim::kPidsInTree) != 0;
  if (spec.max_processes != 0 && !counted && !counts_processes && identity &&
      header.limit_count < shim::kMaxResourceLimits) {
    put_limit(header, RLIMIT_NPROC, spec.max_processes);
  }
}

// What the service's environment holds besides what the shim adds.
Environment service_environment(const ServiceSpec& spec, const std::optional<Identity>& identity) {
  Environment env;
  if (!spec.clear_environment) env = own_environment();
  // What this supervisor was told by its own one concerns nobody else.
  env.erase("WATCHDOG_USEC");
  env.erase("WATCHDOG_PID");
  if (identity) {
    for (const auto& [key, value] : identity->environment) env[key] = value;
  }
  for (const auto& [key, value] : spec.env) env[key] = value;
  env.emplace("PATH", kDefaultPath);
  return env;
}

void add_own_variables(const ServiceSpec& spec, const LaunchPlace& place, bool abstract_notify,
                       Environment& env) {
  env["NOTIFY_SOCKET"] = abstract_notify ? abstract_notify_address(place.service_dir)
                                         : notify_address(place.service_dir);
  env["DEFIB_AGENT_FD"] = std::to_string(shim::kAgentPageFd);
  env["DEFIB_SERVICE"] = spec.name;
  env["DEFIB_GENERATION"] = "0";
  // The shim's to set, and perhaps meant for us.
  for (const char* own : {"DEFIB_ROLE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    env.erase(own);
  }
  env["DEFIB_STATE_DIR"] = place.state_dir;
  if (spec.heartbeat_timeout.count() > 0) {
    env["WATCHDOG_USEC"] = std::to_string(spec.heartbeat_timeout.count() / 1000);
    env["WATCHDOG_PID"] = "0";  // the shim fills it in
  }
  if (spec.preload_heartbeat && spec.heartbeat_timeout.count() > 0) {
    env["DEFIB_PRELOAD_HEARTBEAT"] = std::to_string(
        std::chrono::ceil<std::chrono::milliseconds>(spec.heartbeat_timeout).count());
  }
}

}  // namespace

std::string group_prefix(const std::string& name, const std::string& service_dir) {
  return fmt::format("{}-{}-", name, sha256_hex(service_dir).substr(0, 12));
}

Result<std::string> find_program(std::string_view what, const std::string& command,
                                 const std::string& directory, std::string_view path) {
  std::string program = command;
  if (command.find('/') == std::string::npos) {
    program = find_in_path(command, path);
    if (program.empty()) {
      return no_program(what, fmt::format("'{}' is in no directory of PATH", command))
          .with("program", command)
          .suggest(fmt::format("install it, write its whole path, or extend PATH ({})", path));
    }
  }
  // A relative command means one below the service's own directory, if it has one.
  if (!program.starts_with('/')) program = os::join_path(directory, program);
  struct stat info{};
  if (::stat(program.c_str(), &info) != 0) {
    const int failed = errno;
    return no_program(what, failed == ENOENT ? fmt::format("there is no '{}'", program)
                                             : fmt::format("'{}' cannot be reached", program))
        .with("program", command)
        .because(os::system_error("stat", program, failed));
  }
  if (!S_ISREG(info.st_mode)) {
    return no_program(what, fmt::format("'{}' is {}, and no program", program,
                                        S_ISDIR(info.st_mode) ? "a directory" : "a special file"))
        .with("program", command)
        .suggest("write the path of the program itself");
  }
  if (::access(program.c_str(), X_OK) != 0) {
    return no_program(what, fmt::format("'{}' is not executable (its mode is {:04o})", program,
                                        info.st_mode & 07777))
        .with("program", command)
        .suggest(fmt::format("chmod +x {}", program));
  }
  const os::Fd fd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return program;  // Executable and not readable: the kernel will tell.
  const Interpreter interpreter = interpreter_of(fd);
  if (!interpreter.is_program) {
    return no_program(what, fmt::format("'{}' is neither a program for this machine nor a script "
                                        "that begins with #! and its interpreter",
                                        program))
        .with("program", command)
        .suggest("begin it with a line such as #!/bin/sh, or name the interpreter in the command");
  }
  if (interpreter.path.starts_with('/') && ::access(interpreter.path.c_str(), X_OK) != 0) {
    return no_program(what,
                      fmt::format("'{}' needs '{}' to run it, which {}", program, interpreter.path,
                                  errno == ENOENT ? "does not exist" : "cannot be executed"))
        .with("program", command)
        .with("interpreter", interpreter.path)
        .suggest(interpreter.is_script
                     ? "correct the script's first line, or install its interpreter"
                     : "install the libraries of its architecture");
  }
  return program;
}

namespace {

// Programs that gain rights by being executed ignore LD_PRELOAD (ld.so(8), secure-execution mode).
std::string_view gains_rights(const std::string& program) {
  struct stat info{};
  if (::stat(program.c_str(), &info) != 0) return {};
  const bool setuid = (info.st_mode & S_ISUID) != 0 && info.st_uid != ::geteuid();
  const bool setgid = (info.st_mode & S_ISGID) != 0 && info.st_gid != ::getegid();
  if (setuid || setgid) return "setuid program";
  const bool capable = ::getxattr(program.c_str(), "security.capability", nullptr, 0) > 0;
  return capable && ::geteuid() != 0 ? "program with file capabilities" : "";
}

std::string_view elf_obstacle(const Interpreter& found) {
  if (!found.is_elf) return "not an ELF program";
  if (!found.is_64_bit) return "32-bit program";
  return found.path.empty() ? "static program" : "";
}

// The file that the service's command names, as the shim will execute it; empty where there is
// none.
std::string program_of(const ServiceSpec& spec, const std::string& path) {
  const bool named = spec.argv[0].find('/') != std::string::npos;
  std::string found = named ? spec.argv[0] : find_in_path(spec.argv[0], path);
  if (found.empty() || found.starts_with('/')) return found;
  // A relative command means one below the service's own directory, if it has one.
  return os::join_path(absolute(spec.working_directory.empty() ? "." : spec.working_directory),
                       found);
}

std::string program_of(const ServiceSpec& spec) {
  std::string path(kDefaultPath);
  if (const char* own = std::getenv("PATH")) path = own;
  for (const auto& [key, value] : spec.env) {
    if (key == "PATH") path = value;
  }
  return program_of(spec, path);
}

}  // namespace

std::string preload_obstacle(const std::string& program) {
  if (const std::string_view gains = gains_rights(program); !gains.empty()) {
    return std::string(gains);
  }
  const os::Fd fd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  const Interpreter found = interpreter_of(fd);
  if (!found.is_script) return std::string(elf_obstacle(found));
  const os::Fd its(::open(found.path.c_str(), O_RDONLY | O_CLOEXEC));
  return its.valid() ? std::string(elf_obstacle(interpreter_of(its))) : std::string();
}

std::string preload_obstacle(const ServiceSpec& spec) {
  const std::string program = program_of(spec);
  return program.empty() ? std::string() : preload_obstacle(program);
}

std::string trace_obstacle(const ServiceSpec& spec) {
  if (spec.capture != CaptureMode::kPtrace) return {};
  return std::string(gains_rights(program_of(spec)));
}

shim::Stop graceful_stop(const ServiceSpec& spec, shim::StopReason reason,
                         std::uint64_t generation) {
  const std::vector<StopStep> steps = stop_steps(spec);
  shim::Stop stop{};
  stop.reason = reason;
  stop.generation = generation;
  stop.signal = steps[0].signal;
  stop.grace_ns = steps[0].wait.count();
  for (std::size_t i = 1; i < steps.size() && i < shim::kMaxStopSteps; ++i) {
    stop.steps[stop.step_count++] = {steps[i].signal, 0, steps[i].wait.count()};
  }
  return stop;
}

std::vector<Error> missing_cgroups(const ServiceSpec& spec, CgroupPlaces& places) {
  std::vector<Error> missing;
  if (!wants_groups(spec)) return missing;
  const Cgroups& groups = places.find(spec.memory_limit_bytes != 0, spec.max_processes != 0);
  const auto add = [&](const std::optional<Error>& why, std::string message) {
    if (!why) return;
    missing.push_back(Error(Code::kPermissionDenied, std::move(message))
                          .with("service", spec.name)
                          .because(*why)
                          .suggest(std::string(why->suggested_action())));
  };
  if (spec.memory_limit_bytes != 0) {
    add(groups.memory_missing,
        fmt::format(
            "the service '{}' runs without memory_limit: it is held by sampling only, every "
            "{}",
            spec.name, os::format_duration(spec.sample_interval)));
  }
  if (spec.max_processes != 0) {
    add(groups.pids_missing,
        fmt::format("the service '{}' runs {}", spec.name,
                    spec.user.empty()
                        ? "without max_processes"
                        : "with max_processes as a limit on all processes of its user"));
  }
  add(groups.tree_missing,
      fmt::format(
          "the service '{}' runs without a control group of its own: it is ended by process "
          "group and descent",
          spec.name));
  return missing;
}

std::string encode_launch(const shim::LaunchHeader& header, const std::vector<std::string>& fixed,
                          const std::vector<std::string>& argv, const std::vector<std::string>& env,
                          const std::vector<std::vector<std::string>>& hooks) {
  std::string strings;
  for (const auto* list : {&fixed, &argv, &env}) {
    for (const std::string& text : *list) strings.append(text).push_back('\0');
  }
  shim::LaunchHeader full = header;
  full.magic = shim::kLaunchMagic;
  full.version = shim::kLaunchVersion;
  full.argc = static_cast<std::uint32_t>(argv.size());
  full.envc = static_cast<std::uint32_t>(env.size());
  for (std::size_t hook = 0; hook < hooks.size() && hook < shim::kHooks; ++hook) {
    for (const std::string& text : hooks[hook]) strings.append(text).push_back('\0');
    full.hook_argc[hook] = static_cast<std::uint32_t>(hooks[hook].size());
  }
  full.bytes = static_cast<std::uint32_t>(strings.size());
  std::string result(sizeof full, '\0');
  std::memcpy(result.data(), &full, sizeof full);
  return result + strings;
}

namespace {

std::string directory_of(const ServiceSpec& spec) {
  return absolute(spec.working_directory.empty() ? "." : spec.working_directory);
}

Result<> check_directory(const ServiceSpec& spec, const std::string& directory) {
  if (spec.working_directory.empty()) return {};
  struct stat info{};
  const bool found = ::stat(directory.c_str(), &info) == 0;
  if (found && S_ISDIR(info.st_mode)) return {};
  const int failed = found ? ENOTDIR : errno;
  const std::string_view why = failed == ENOENT    ? "does not exist"
                               : failed == ENOTDIR ? "is no directory"
                                                   : "cannot be entered";
  return Error(Code::kFileNotFound, fmt::format("the working directory '{}' of the service '{}' {}",
                                                directory, spec.name, why))
      .with("path", directory)
      .because(os::system_error("chdir", directory, failed))
      .suggest(fmt::format("mkdir -p {}, or correct working_directory", directory));
}

// The command and the hooks, by their keys.
std::vector<std::pair<std::string_view, const std::vector<std::string>*>> programs_of(
    const ServiceSpec& spec) {
  return {{"command", &spec.argv},
          {"pre_start", &spec.pre_start},
          {"post_crash", &spec.post_crash},
          {"cleanup", &spec.cleanup},
          {"evidence_command", &spec.evidence}};
}

Result<std::string> find_program_of(const ServiceSpec& spec, std::string_view key,
                                    const std::string& program, const std::string& directory,
                                    std::string_view path) {
  const std::string_view what = key == "command" ? std::string_view("the command") : key;
  return find_program(fmt::format("{} of the service '{}'", what, spec.name), program, directory,
                      path);
}

}  // namespace

std::vector<StartObstacle> start_obstacles(const ServiceSpec& spec) {
  std::vector<StartObstacle> found;
  const auto identity = resolve_identity(spec);
  if (!identity) found.push_back({std::string(identity.error().field("field")), identity.error()});
  const std::string directory = directory_of(spec);
  const auto entered = check_directory(spec, directory);
  if (!entered) found.push_back({"working_directory", entered.error()});
  Environment env = service_environment(spec, identity ? *identity : std::nullopt);
  for (const auto& [key, argv] : programs_of(spec)) {
    // Without its directory nobody knows what a relative one means.
    if (argv->empty() || (!entered && !argv->front().starts_with('/'))) continue;
    const auto program = find_program_of(spec, key, argv->front(), directory, env["PATH"]);
    if (!program) found.push_back({std::string(key), program.error()});
  }
  return found;
}

Result<os::Fd> make_launch_description(const ServiceSpec& spec, const LaunchPlace& place) {
  DEFIB_TRY_ASSIGN(const std::optional<Identity> identity, resolve_identity(spec));
  Environment env = service_environment(spec, identity);
  const std::string directory = directory_of(spec);
  DEFIB_TRY(check_directory(spec, directory));
  std::vector<std::vector<std::string>> hooks;
  for (const auto& [key, argv] : programs_of(spec)) {
    hooks.push_back(*argv);
    if (argv->empty()) continue;
    DEFIB_TRY_ASSIGN(hooks.back()[0],
                     find_program_of(spec, key, argv->front(), directory, env["PATH"]));
  }
  const std::string program = hooks.front().front();
  hooks.erase(hooks.begin());
  const Programs& programs = place.programs;
  const bool captures = spec.capture != CaptureMode::kNone;
  if (spec.capture == CaptureMode::kLive && !programs.agent_lib.empty() &&
      preload_obstacle(program).empty()) {
    std::string& preload = env["LD_PRELOAD"];
    preload = preload.empty() ? programs.agent_lib : programs.agent_lib + ":" + preload;
  }
  const bool other_user = identity && identity->uid != ::geteuid();
  const bool abstract_notify = other_user || notify_address(place.service_dir).starts_with('@');
  add_own_variables(spec, place, abstract_notify, env);
  std::vector<std::string> entries;
  for (const auto& [key, value] : env) entries.push_back(fmt::format("{}={}", key, value));

  shim::LaunchHeader header{};
  header.agent = shim::kLaunchAgent | static_cast<std::uint32_t>(spec.notify_access)
                                          << shim::kNotifyAccessShift;
  const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(spec.capture_timeout);
  header.capture_timeout_ms =
      captures && !programs.capture.empty() ? static_cast<std::uint32_t>(wait.count()) : 0;
  header.log_files = static_cast<std::uint32_t>(spec.log_files);
  header.log_max_bytes = spec.log_max_bytes;
  header.log_total_bytes = spec.log_total_bytes;
  header.log_max_age_ns = spec.log_max_age.count();
  header.log_rate = spec.log_rate;
  header.log_burst = spec.log_burst != 0 ? spec.log_burst : spec.log_rate;
  header.log_flags = spec.log_journal ? shim::kLogToJournal : 0;
  header.restart = shim_policy(spec.restart);
  header.restart_after = restart_after(spec);
  header.restart_when = spec.restart_when == RestartWhen::kDying ? shim::ShimRestartWhen::kDying
                                                                 : shim::ShimRestartWhen::kGone;
  header.hook_timeout_ns = spec.hook_timeout.count();
  if (!spec.evidence.empty()) {
    const auto evidence =
        std::chrono::duration_cast<std::chrono::milliseconds>(spec.evidence_timeout);
    header.evidence_timeout_ms = static_cast<std::uint32_t>(evidence.count());
  }
  if (spec.post_crash_wait) header.flags |= shim::kPostCrashWaits;
  if (spec.capture == CaptureMode::kPtrace && gains_rights(program).empty()) {
    header.flags |= shim::kTraced;
  }
  if (spec.minicore) header.flags |= shim::kMinicore;
  std::vector<std::string> fixed(shim::kLaunchFixedStrings);
  put_text(fixed, shim::LaunchText::kProgram, program);
  put_text(fixed, shim::LaunchText::kDirectory, directory);
  if (captures) {
    put_text(fixed, shim::LaunchText::kCapture,
             programs.snapshot.empty() ? programs.capture : programs.snapshot);
  }
  if (abstract_notify) {
    put_text(fixed, shim::LaunchText::kNotify, env["NOTIFY_SOCKET"].substr(1));
  }
  put_groups(spec, place, header, fixed);
  put_identity(spec, identity, header);
  const std::string bytes = encode_launch(header, fixed, spec.argv, entries, hooks);
  if (bytes.size() > shim::kMaxLaunchBytes) {
    return Error(Code::kLimitExceeded, "the command and its environment exceed 4 MiB");
  }
  os::Fd fd(::memfd_create("defib-launch", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return os::system_error("memfd_create");
  if (::write(fd.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
    return os::system_error("write", "memfd");
  }
  return fd;
}

}  // namespace defib::process

#include "defib/process/shim_link.h"

#include <elf.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <map>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/socket.h"
#include "defib/process/restart_policy.h"

extern char** environ;

namespace defib::process {
namespace {

constexpr std::size_t kMaxFds = shim::kMaxMessageFds;
constexpr std::size_t kMaxSocketPath = 107;

Error gone(std::string_view what) {
  return Error(Code::kUnavailable, fmt::format("the service's shim is gone: {}", what));
}

std::string find_in_path(const std::string& name, std::string_view path) {
  if (name.find('/') != std::string::npos) return name;
  while (true) {
    const std::size_t colon = path.find(':');
    const std::string_view dir = path.substr(0, colon);
    const std::string candidate = os::join_path(dir.empty() ? "." : dir, name);
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

bool is_executable(const std::string& path) {
  return ::access(path.c_str(), X_OK) == 0;
}

// A directory is executable too, in the kernel's words.
bool is_program(const std::string& path) {
  struct stat info{};
  return ::access(path.c_str(), X_OK) == 0 && ::stat(path.c_str(), &info) == 0 &&
         S_ISREG(info.st_mode);
}

std::map<std::string, std::string> own_environment() {
  std::map<std::string, std::string> env;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text = *entry;
    const std::size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    env.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return env;
}

}  // namespace

Error ShimMessage::malformed() const {
  return Error(Code::kFrameMalformed, fmt::format("the shim's message of type {} has only {} bytes",
                                                  static_cast<int>(header.type), payload.size()));
}

Result<ShimLink> ShimLink::connect(const std::string& service_dir) {
  DEFIB_TRY_ASSIGN(os::Fd fd, os::connect_unix(os::join_path(service_dir, shim::kSocketName),
                                               os::SocketKind::kSeqpacket));
  return ShimLink(std::move(fd));
}

Result<> ShimLink::send_bytes(shim::Type type, std::string_view payload, std::span<const int> fds) {
  if (!connected()) return gone("there is no connection");
  DEFIB_ASSERT(fds.size() <= kMaxFds &&
               payload.size() + sizeof(shim::MessageHeader) <= shim::kMaxMessage);
  shim::MessageHeader header = {shim::kMessageMagic, shim::kProtocolVersion, type, 0};
  iovec parts[2] = {{&header, sizeof header}, {const_cast<char*>(payload.data()), payload.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)] = {};
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  if (!fds.empty()) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(fds.size_bytes());
    cmsghdr* attached = CMSG_FIRSTHDR(&message);
    attached->cmsg_level = SOL_SOCKET;
    attached->cmsg_type = SCM_RIGHTS;
    attached->cmsg_len = CMSG_LEN(fds.size_bytes());
    std::memcpy(CMSG_DATA(attached), fds.data(), fds.size_bytes());
  }
  while (::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return gone(std::strerror(errno)).because(os::system_error("sendmsg"));
  }
  return {};
}

Result<std::optional<ShimMessage>> ShimLink::receive() {
  if (!connected()) return gone("there is no connection");
  ShimMessage result;
  result.payload.resize(shim::kMaxMessage);
  iovec parts[2] = {{&result.header, sizeof result.header},
                    {result.payload.data(), result.payload.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int) * kMaxFds)];
  msghdr message{};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t size = 0;
  while ((size = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == EAGAIN) return std::optional<ShimMessage>{};
    if (errno != EINTR) return gone(std::strerror(errno));
  }
  for (cmsghdr* attached = CMSG_FIRSTHDR(&message); attached != nullptr;
       attached = CMSG_NXTHDR(&message, attached)) {
    if (attached->cmsg_level != SOL_SOCKET || attached->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (attached->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      result.fds.emplace_back(load<int>(CMSG_DATA(attached) + i * sizeof(int)));
    }
  }
  if (size == 0) return gone("it closed the connection");
  if (static_cast<std::size_t>(size) < sizeof result.header ||
      result.header.magic != shim::kMessageMagic ||
      result.header.version != shim::kProtocolVersion) {
    return Error(Code::kFrameMalformed, "the shim speaks another protocol");
  }
  result.payload.resize(static_cast<std::size_t>(size) - sizeof result.header);
  return std::optional<ShimMessage>(std::move(result));
}

Result<ShimMessage> ShimLink::wait_for_message(int timeout_ms) {
  const std::int64_t deadline = os::real_clock().mono_ns() + timeout_ms * 1'000'000LL;
  while (true) {
    DEFIB_TRY_ASSIGN(std::optional<ShimMessage> message, receive());
    if (message) return std::move(*message);
    const std::int64_t left = (deadline - os::real_clock().mono_ns()) / 1'000'000;
    if (left <= 0) {
      return Error(Code::kTimeout,
                   fmt::format("the service's shim did not answer in {} ms", timeout_ms));
    }
    pollfd wait = {fd_.get(), POLLIN, 0};
    ::poll(&wait, 1, static_cast<int>(left));
  }
}

Result<LaunchedShim> launch_shim(const ShimLaunch& launch) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
    return os::system_error("socketpair");
  }
  ShimLink link{os::Fd(pair[0])};
  const os::Fd theirs(pair[1]);
  const os::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const std::string log_path = os::join_path(launch.service_dir, "shim.log");
  const os::Fd log(
      ::open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!null.valid() || !log.valid()) return os::system_error("open", log_path);
  os::SpawnOptions options;
  options.argv = {launch.program, launch.service_dir, "--connection", "3"};
  options.fds = {{null.get(), 0}, {null.get(), 1}, {log.get(), 2}, {theirs.get(), 3}};
  if (launch.notify_fd >= 0) {
    options.argv.insert(options.argv.end(), {"--notify-fd", "4"});
    options.fds.emplace_back(launch.notify_fd, 4);
  } else if (!launch.notify_address.empty()) {
    options.argv.insert(options.argv.end(), {"--notify-address", launch.notify_address});
  }
  int next = 5;
  for (const auto& [fd, pid] : launch.pages) {
    options.argv.insert(options.argv.end(), {"--page", fmt::format("{}:{}", next, pid)});
    options.fds.emplace_back(fd, next++);
  }
  if (launch.adopt_pid > 0) {
    options.argv.insert(options.argv.end(), {"--adopt", fmt::format("{}:{}", launch.adopt_pid,
                                                                    launch.adopt_start_time)});
  }
  options.new_session = true;
  DEFIB_TRY_ASSIGN(os::Child child, os::spawn(options));
  return LaunchedShim{std::move(child), std::move(link)};
}

std::string notify_address(const std::string& service_dir) {
  std::string path = os::join_path(service_dir, shim::kNotifyName);
  if (path.size() <= kMaxSocketPath) return path;
  return "@defib/" + sha256_hex(service_dir).substr(0, 32);
}

Result<Programs> find_programs(const std::string& program_dir) {
  const std::string dir = program_dir.empty() ? os::own_program_dir() : program_dir;
  Programs programs;
  programs.shim = os::join_path(dir, "defib-shim");
  if (!is_executable(programs.shim)) {
    return Error(Code::kProgramNotFound, fmt::format("there is no defib-shim in '{}'", dir))
        .with("path", programs.shim)
        .suggest("install all of defib's programs into one directory");
  }
  if (std::string capture = os::join_path(dir, "defib-capture"); is_executable(capture)) {
    programs.capture = std::move(capture);
  }
  for (const char* place :
       {"", "../lib", "../lib/defib", "../lib/x86_64-linux-gnu", "../lib/aarch64-linux-gnu"}) {
    std::string library = os::join_path(os::join_path(dir, place), "libdefib-agent.so");
    if (::access(library.c_str(), R_OK) != 0) continue;
    programs.agent_lib = std::move(library);
    break;
  }
  return programs;
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

// "/bin/sh" of "#!/bin/sh -e\n"; empty where it is no script.
std::string interpreter_of(int fd) {
  char line[256] = {};
  const ssize_t size = ::pread(fd, line, sizeof line - 1, 0);
  if (size < 3 || line[0] != '#' || line[1] != '!') return {};
  std::string_view rest(line + 2);
  rest = rest.substr(0, rest.find('\n'));
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  return std::string(rest.substr(0, rest.find_first_of(" \t\r")));
}

std::string_view elf_obstacle(int fd) {
  Elf64_Ehdr header{};
  if (::pread(fd, &header, sizeof header, 0) != sizeof header ||
      std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) {
    return "not an ELF program";
  }
  if (header.e_ident[EI_CLASS] != ELFCLASS64) return "32-bit program";
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    const off_t at = static_cast<off_t>(header.e_phoff) + i * off_t{sizeof segment};
    if (::pread(fd, &segment, sizeof segment, at) != sizeof segment) break;
    if (segment.p_type == PT_INTERP) return "";
  }
  return "static program";
}

// The file that the service's command names, as the shim will execute it; empty where there is
// none.
std::string program_of(const ServiceSpec& spec, const std::string& path) {
  const std::string found = find_in_path(spec.argv[0], path);
  if (found.empty() || found.starts_with('/')) return found;
  // A relative command means one below the service's own directory, if it has one.
  return os::join_path(absolute(spec.working_directory.empty() ? "." : spec.working_directory),
                       found);
}

constexpr std::string_view kDefaultPath = "/usr/local/bin:/usr/bin:/bin";

}  // namespace

std::string preload_obstacle(const std::string& program) {
  if (const std::string_view gains = gains_rights(program); !gains.empty()) {
    return std::string(gains);
  }
  const os::Fd fd(::open(program.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return {};
  if (const std::string interpreter = interpreter_of(fd.get()); !interpreter.empty()) {
    const os::Fd its(::open(interpreter.c_str(), O_RDONLY | O_CLOEXEC));
    return its.valid() ? std::string(elf_obstacle(its.get())) : std::string();
  }
  return std::string(elf_obstacle(fd.get()));
}

std::string preload_obstacle(const ServiceSpec& spec) {
  std::string path(kDefaultPath);
  if (const char* own = std::getenv("PATH")) path = own;
  for (const auto& [key, value] : spec.env) {
    if (key == "PATH") path = value;
  }
  const std::string program = program_of(spec, path);
  return program.empty() ? std::string() : preload_obstacle(program);
}

std::string encode_launch(const shim::LaunchHeader& header, const std::vector<std::string>& fixed,
                          const std::vector<std::string>& argv,
                          const std::vector<std::string>& env) {
  std::string strings;
  for (const auto* list : {&fixed, &argv, &env}) {
    for (const std::string& text : *list) strings.append(text).push_back('\0');
  }
  shim::LaunchHeader full = header;
  full.magic = shim::kLaunchMagic;
  full.version = shim::kProtocolVersion;
  full.bytes = static_cast<std::uint32_t>(strings.size());
  full.argc = static_cast<std::uint32_t>(argv.size());
  full.envc = static_cast<std::uint32_t>(env.size());
  std::string result(sizeof full, '\0');
  std::memcpy(result.data(), &full, sizeof full);
  return result + strings;
}

Result<std::string> find_service_program(const ServiceSpec& spec) {
  const char* own_path = std::getenv("PATH");
  std::string path(own_path != nullptr ? std::string_view(own_path) : kDefaultPath);
  for (const auto& [key, value] : spec.env) {
    if (key == "PATH") path = value;
  }
  const std::string program = program_of(spec, path);
  if (!program.empty() && is_program(program)) return program;
  const bool there = !program.empty() && ::access(program.c_str(), F_OK) == 0;
  return Error(Code::kProgramNotFound,
               fmt::format("the command '{}' of the service '{}' {}", spec.argv[0], spec.name,
                           program.empty() ? "is not in PATH"
                           : there         ? "cannot be executed"
                                           : "does not exist"))
      .with("program", program.empty() ? spec.argv[0] : program);
}

Result<os::Fd> make_launch_description(const ServiceSpec& spec, const Programs& programs,
                                       const std::string& state_dir,
                                       const std::string& service_dir) {
  std::map<std::string, std::string> env = own_environment();
  // What this supervisor was told by its own one concerns nobody else.
  env.erase("WATCHDOG_USEC");
  env.erase("WATCHDOG_PID");
  for (const auto& [key, value] : spec.env) env[key] = value;
  DEFIB_TRY_ASSIGN(const std::string program, find_service_program(spec));
  const std::string directory =
      absolute(spec.working_directory.empty() ? "." : spec.working_directory);
  const bool captures = spec.capture != CaptureMode::kNone;
  if (spec.capture == CaptureMode::kLive && !programs.agent_lib.empty() &&
      preload_obstacle(program).empty()) {
    std::string& preload = env["LD_PRELOAD"];
    preload = preload.empty() ? programs.agent_lib : programs.agent_lib + ":" + preload;
  }
  env["NOTIFY_SOCKET"] = notify_address(service_dir);
  env["DEFIB_AGENT_FD"] = std::to_string(shim::kAgentPageFd);
  env["DEFIB_SERVICE"] = spec.name;
  env["DEFIB_GENERATION"] = "0";
  // The shim's to set, and perhaps meant for us.
  for (const char* own : {"DEFIB_ROLE", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"}) {
    env.erase(own);
  }
  env["DEFIB_STATE_DIR"] = state_dir;
  if (spec.heartbeat_timeout.count() > 0) {
    env["WATCHDOG_USEC"] = std::to_string(spec.heartbeat_timeout.count() / 1000);
    env["WATCHDOG_PID"] = "0";  // the shim fills it in
  }
  if (spec.preload_heartbeat && spec.heartbeat_timeout.count() > 0) {
    env["DEFIB_PRELOAD_HEARTBEAT"] = std::to_string(
        std::chrono::ceil<std::chrono::milliseconds>(spec.heartbeat_timeout).count());
  }
  std::vector<std::string> entries;
  for (const auto& [key, value] : env) entries.push_back(key + "=" + value);

  shim::LaunchHeader header{};
  header.agent = shim::kLaunchAgent | static_cast<std::uint32_t>(spec.notify_access)
                                          << shim::kNotifyAccessShift;
  const auto wait = std::chrono::duration_cast<std::chrono::milliseconds>(spec.capture_timeout);
  header.capture_timeout_ms =
      captures && !programs.capture.empty() ? static_cast<std::uint32_t>(wait.count()) : 0;
  header.log_files = static_cast<std::uint32_t>(spec.log_files);
  header.log_max_bytes = spec.log_max_bytes;
  header.restart = shim_policy(spec.restart);
  header.restart_after = restart_after(spec);
  header.restart_when = spec.restart_when == RestartWhen::kDying ? shim::ShimRestartWhen::kDying
                                                                 : shim::ShimRestartWhen::kGone;
  const std::string bytes = encode_launch(
      header, {program, directory, captures ? programs.capture : ""}, spec.argv, entries);
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

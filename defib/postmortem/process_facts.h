// ProcessFacts: what /proc tells of a process besides its stacks: command, environment, limits,
// descriptors and their sockets. Gone with the process, so it is copied while a crashed one waits
// (raw_copy_sigsafe.h), and interpreted afterwards.
//
// Reading is bounded by a moment: what did not fit is named in `gaps`. Thread rule: like a value.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/postmortem/redact.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

// One socket of a process.
struct SocketRow {
  std::uint64_t inode = 0;
  std::string protocol;       // "tcp", "tcp6", "udp", "udp6", "unix"
  std::string local, remote;  // "127.0.0.1:80", "[::1]:80"; `local` is a unix socket's path
  std::string state;          // "ESTABLISHED", ...
  std::uint64_t send_queue = 0, receive_queue = 0;
};

struct DescriptorFacts {
  int fd = 0;
  std::string target;  // "/var/log/x", "socket:[123]"
  std::string info;    // the text of fdinfo
  std::optional<SocketRow> socket;
};

struct ProcessFacts {
  static constexpr std::size_t kMaxFile = 256 << 10;

  std::string source;  // docs/formats/bundle.md
  pid_t pid = 0;
  std::string comm, exe, cwd, root;
  std::string command_line, environment, limits, status, cgroup, maps;  // as the kernel gives them
  std::vector<DescriptorFacts> descriptors;
  std::vector<std::pair<std::string, std::string>> socket_tables;  // protocol, text
  std::uint64_t code_address = 0;
  std::string code;
  std::vector<std::string> gaps;
};

// Of a process that lives on. Reads until `deadline_mono_ns`; with `pc` also the code around it.
ProcessFacts read_process(pid_t pid, std::string source, std::int64_t deadline_mono_ns,
                          std::optional<std::uint64_t> pc = std::nullopt);

// "defib.process/1", redacted; the redactor learns the secrets of environment and command line
// first. The maps are its last member, as text; a bundle has them in a file of their own.
wire::Json to_json(const ProcessFacts& facts, Redactor& redactor);

// Where defib-capture leaves them: "crash-7.process.json" beside "crash-7.json".
inline constexpr std::string_view kFactsSuffix = ".process.json";
std::string facts_path_of(std::string_view report_path);

// The sockets of /proc/net/{tcp,tcp6,udp,udp6,unix}, which take the kernel milliseconds to write,
// for where a socket itself cannot be asked. Lines that are not understood are left out.
std::vector<SocketRow> parse_socket_table(std::string_view protocol, std::string_view text);

// [{"name":"Max open files","soft":"1024","hard":"4096","unit":"files"}, ...]
wire::Json limits_json(std::string_view text);

}  // namespace defib::postmortem

#include "defib/postmortem/process_facts.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "defib/base/bytes.h"
#include "defib/base/text.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/postmortem/raw_copy_sigsafe.h"
#include "defib/postmortem/raw_decode.h"

namespace defib::postmortem {
namespace {

constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kMaxSockets = 65536;
constexpr std::string_view kProtocols[] = {"tcp", "tcp6", "udp", "udp6", "unix"};

std::string_view tcp_state(unsigned number) {
  constexpr std::string_view kStates[] = {
      "",      "ESTABLISHED", "SYN_SENT", "SYN_RECV", "FIN_WAIT1", "FIN_WAIT2",   "TIME_WAIT",
      "CLOSE", "CLOSE_WAIT",  "LAST_ACK", "LISTEN",   "CLOSING",   "NEW_SYN_RECV"};
  return number < std::size(kStates) ? kStates[number] : std::string_view();
}

std::string address_text(const sockaddr_storage& address, std::size_t size) {
  size = std::min(size, sizeof address);
  char text[INET6_ADDRSTRLEN] = {};
  if (address.ss_family == AF_INET) {
    const auto& four = reinterpret_cast<const sockaddr_in&>(address);
    ::inet_ntop(AF_INET, &four.sin_addr, text, sizeof text);
    return fmt::format("{}:{}", text, ntohs(four.sin_port));
  }
  if (address.ss_family == AF_INET6) {
    const auto& six = reinterpret_cast<const sockaddr_in6&>(address);
    ::inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof text);
    return fmt::format("[{}]:{}", text, ntohs(six.sin6_port));
  }
  if (address.ss_family != AF_UNIX || size <= offsetof(sockaddr_un, sun_path)) return {};
  const auto& local = reinterpret_cast<const sockaddr_un&>(address);
  std::string path(local.sun_path,
                   std::min(size - offsetof(sockaddr_un, sun_path), sizeof local.sun_path));
  // An abstract name begins with a zero byte, and is shown as the kernel shows it.
  if (path.front() == '\0') path.front() = '@';
  return path.substr(0, path.find('\0'));
}

// A table of all sockets, as far as there is time.
std::string read_table(ProcessFacts& facts, std::string_view name, std::int64_t deadline) {
  std::string text;
  const os::Fd fd(
      ::open(fmt::format("/proc/{}/{}", facts.pid, name).c_str(), O_RDONLY | O_CLOEXEC));
  const auto gap = [&](std::string_view why) {
    facts.gaps.push_back(fmt::format("{}: {}", name, why));
  };
  if (!fd.valid()) return gap(os::system_error("open").message()), text;
  while (text.size() < ProcessFacts::kMaxFile) {
    if (os::real_clock().mono_ns() >= deadline) {
      gap(text.empty() ? "there was no time left" : "cut: there was no time left");
      return text;
    }
    const std::size_t had = text.size();
    text.resize(had + std::min(kReadBytes, ProcessFacts::kMaxFile - had));
    const ssize_t got = ::read(fd.get(), text.data() + had, text.size() - had);
    text.resize(had + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
    if (got < 0) gap(os::system_error("read").message());
    if (got <= 0) return text;
  }
  gap(fmt::format("cut: more than {} bytes", ProcessFacts::kMaxFile));
  return text;
}

std::string_view next_word(std::string_view& text) {
  text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
  const std::string_view word = text.substr(0, text.find_first_of(" \t"));
  text.remove_prefix(word.size());
  return word;
}

template <typename T>
bool parse(std::string_view word, T& value, int base) {
  const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
  return error == std::errc() && stop == word.data() + word.size();
}

// "0100007F:0050": words of the host's order, and the port.
bool address_of(std::string_view word, std::string& to) {
  const std::size_t colon = word.find(':');
  if (colon != 8 && colon != 32) return false;
  unsigned port = 0;
  if (!parse(word.substr(colon + 1), port, 16) || port > 65535) return false;
  std::uint32_t words[4] = {};
  for (std::size_t i = 0; i < colon / 8; ++i) {
    if (!parse(word.substr(i * 8, 8), words[i], 16)) return false;
  }
  char text[INET6_ADDRSTRLEN];
  ::inet_ntop(colon == 8 ? AF_INET : AF_INET6, words, text, sizeof text);
  to = colon == 8 ? fmt::format("{}:{}", text, port) : fmt::format("[{}]:{}", text, port);
  return true;
}

// "  0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 12345 ..."
bool parse_inet(std::string_view line, bool tcp, SocketRow& row) {
  if (!next_word(line).ends_with(':')) return false;
  if (!address_of(next_word(line), row.local) || !address_of(next_word(line), row.remote)) {
    return false;
  }
  unsigned state = 0;
  if (!parse(next_word(line), state, 16)) return false;
  // A datagram socket is connected or not.
  row.state = tcp ? tcp_state(state) : state == 1 ? "ESTABLISHED" : "";
  const std::string_view queues = next_word(line);
  const std::size_t colon = queues.find(':');
  if (colon == queues.npos || !parse(queues.substr(0, colon), row.send_queue, 16) ||
      !parse(queues.substr(colon + 1), row.receive_queue, 16)) {
    return false;
  }
  for (int i = 0; i < 4; ++i) next_word(line);  // timer, retransmits, uid, timeout
  return parse(next_word(line), row.inode, 10);
}

// "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x.sock"
bool parse_unix(std::string_view line, SocketRow& row) {
  if (!next_word(line).ends_with(':')) return false;
  std::string_view words[6];
  for (std::string_view& word : words) word = next_word(line);
  unsigned flags = 0, state = 0;
  if (!parse(words[2], flags, 16) || !parse(words[4], state, 16) ||
      !parse(words[5], row.inode, 10)) {
    return false;
  }
  row.state = (flags & 0x10000) != 0 ? "LISTEN" : state == 3 ? "ESTABLISHED" : "";
  line.remove_prefix(std::min(line.find_first_not_of(' '), line.size()));
  row.local = line;
  return true;
}

wire::Json status_json(std::string_view text, Redactor& redactor) {
  wire::Json json = wire::Json::object();
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    const std::size_t colon = line.find(':');
    if (colon == line.npos) continue;
    std::string_view value = line.substr(colon + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    json.set(line.substr(0, colon), redactor.text(value));
  }
  return json;
}

wire::Json socket_json(const SocketRow& row, Redactor& redactor) {
  wire::Json json = wire::Json::object({{"protocol", row.protocol}});
  if (row.protocol == "unix") {
    json.set("path", redactor.text(row.local));
    json.set("state", row.state);
    return json;
  }
  json.set("local", row.local);
  json.set("remote", row.remote);
  json.set("state", row.state);
  json.set("send_queue", row.send_queue);
  json.set("receive_queue", row.receive_queue);
  return json;
}

std::string_view info_of(std::string_view text, std::string_view name) {
  while (!text.empty()) {
    std::string_view line = next_line(text);
    if (!line.starts_with(name)) continue;
    line.remove_prefix(name.size());
    return next_word(line);
  }
  return {};
}

wire::Json descriptors_json(const ProcessFacts& facts, Redactor& redactor) {
  std::map<std::uint64_t, SocketRow> sockets;
  for (const auto& [protocol, text] : facts.socket_tables) {
    for (SocketRow& row : parse_socket_table(protocol, text)) {
      const std::uint64_t inode = row.inode;
      sockets.emplace(inode, std::move(row));
    }
  }
  wire::Json list = wire::Json::array();
  for (const DescriptorFacts& one : facts.descriptors) {
    wire::Json json = wire::Json::object({{"fd", one.fd}, {"target", redactor.text(one.target)}});
    std::uint64_t position = 0;
    if (parse(info_of(one.info, "pos:"), position, 10)) json.set("position", position);
    if (const auto flags = info_of(one.info, "flags:"); !flags.empty()) json.set("flags", flags);
    std::uint64_t inode = 0;
    std::string_view target = one.target;
    if (target.starts_with("socket:[") && target.ends_with(']') &&
        parse(target.substr(8, target.size() - 9), inode, 10)) {
      const auto found = sockets.find(inode);
      if (one.socket) {
        json.set("socket", socket_json(*one.socket, redactor));
      } else if (found != sockets.end()) {
        json.set("socket", socket_json(found->second, redactor));
      }
    }
    list.push(std::move(json));
  }
  return list;
}

template <typename Texts>
wire::Json array_of(const Texts& texts) {
  wire::Json json = wire::Json::array();
  for (const auto& text : texts) json.push(text);
  return json;
}

}  // namespace

SocketRow socket_row(const raw::Socket& socket) {
  SocketRow row;
  const bool stream = socket.type == SOCK_STREAM;
  const char* six = socket.domain == AF_INET6 ? "6" : "";
  row.protocol = socket.domain == AF_UNIX ? "unix"
                 : socket.domain != AF_INET && socket.domain != AF_INET6
                     ? fmt::format("family {}", socket.domain)
                     : fmt::format("{}{}", stream ? "tcp" : "udp", six);
  static_assert(sizeof(sockaddr_storage) == sizeof socket.local);
  row.local = address_text(load<sockaddr_storage>(socket.local), socket.local_size);
  if (socket.connected != 0) {
    row.remote = address_text(load<sockaddr_storage>(socket.remote), socket.remote_size);
  }
  row.state = socket.tcp_state >= 0   ? tcp_state(static_cast<unsigned>(socket.tcp_state))
              : socket.accepts != 0   ? "LISTEN"
              : socket.connected != 0 ? "ESTABLISHED"
                                      : "";
  row.receive_queue = static_cast<std::uint64_t>(std::max(socket.receive_queue, 0));
  row.send_queue = static_cast<std::uint64_t>(std::max(socket.send_queue, 0));
  return row;
}

ProcessFacts read_process(pid_t pid, std::string source, std::int64_t deadline_mono_ns,
                          std::optional<std::uint64_t> pc) {
  ProcessFacts facts;
  facts.source = std::move(source);
  facts.pid = pid;
  if (::access(fmt::format("/proc/{}", pid).c_str(), F_OK) != 0) {
    facts.gaps.emplace_back("the process: it was gone");
    return facts;
  }
  raw::Buffer buffer;
  if (const int failed = buffer.open(); failed != 0) {
    facts.gaps.push_back(os::system_error("memfd_create", {}, -failed).message());
    return facts;
  }
  raw::copy_identity(buffer, pid, deadline_mono_ns);
  const bool unasked = raw::copy_facts(buffer, pid, pc.value_or(0), deadline_mono_ns);
  decode_facts({buffer.bytes(), buffer.size()}, facts);
  buffer.close(true);
  if (pc && facts.code.empty()) {
    facts.gaps.emplace_back("code: there is none at the program counter");
  }
  facts.maps = read_table(facts, "maps", deadline_mono_ns);
  if (!unasked) return facts;
  for (const std::string_view protocol : kProtocols) {
    facts.socket_tables.emplace_back(
        protocol, read_table(facts, fmt::format("net/{}", protocol), deadline_mono_ns));
  }
  return facts;
}

std::string facts_path_of(std::string_view report_path) {
  if (report_path.ends_with(".json")) report_path.remove_suffix(5);
  return std::string(report_path) + std::string(kFactsSuffix);
}

std::vector<SocketRow> parse_socket_table(std::string_view protocol, std::string_view text) {
  std::vector<SocketRow> rows;
  while (!text.empty() && rows.size() < kMaxSockets) {
    const std::string_view line = next_line(text);
    SocketRow row;
    const bool understood = protocol == "unix" ? parse_unix(line, row)
                                               : parse_inet(line, protocol.starts_with("tcp"), row);
    row.protocol = protocol;
    if (understood && row.inode != 0) rows.push_back(std::move(row));
  }
  return rows;
}

// "Max open files            1024                 4096                 files     "
wire::Json limits_json(std::string_view text) {
  constexpr std::size_t kName = 26, kNumber = 21;
  wire::Json list = wire::Json::array();
  while (!text.empty()) {
    const std::string_view line = next_line(text);
    if (!line.starts_with("Max ") || line.size() < kName) continue;
    std::string_view name = line.substr(0, kName);
    name = name.substr(0, name.find_last_not_of(' ') + 1);
    std::string_view rest = line.substr(kName);
    const std::string_view soft = next_word(rest), hard = next_word(rest), unit = next_word(rest);
    if (soft.size() > kNumber || hard.empty()) continue;
    list.push(wire::Json::object({{"name", name}, {"soft", soft}, {"hard", hard}, {"unit", unit}}));
  }
  return list;
}

wire::Json to_json(const ProcessFacts& facts, Redactor& redactor) {
  const std::vector<std::string> arguments = parse_arguments(facts.command_line);
  const Redactor::Environment environment = parse_environment(facts.environment);
  redactor.learn(environment);
  redactor.learn_arguments(arguments);
  wire::Json json = wire::Json::object({{"schema", "defib.process/1"},
                                        {"source", facts.source},
                                        {"pid", facts.pid},
                                        {"comm", redactor.text(facts.comm)},
                                        {"exe", redactor.text(facts.exe)},
                                        {"cwd", redactor.text(facts.cwd)},
                                        {"root", redactor.text(facts.root)}});
  json.set("command_line", array_of(redactor.command_line(arguments)));
  wire::Json variables = wire::Json::object();
  for (const auto& [name, value] : environment) variables.set(name, redactor.value(name, value));
  json.set("environment", std::move(variables));
  json.set("limits", limits_json(facts.limits));
  json.set("status", status_json(facts.status, redactor));
  json.set("cgroup", redactor.text(facts.cgroup));
  json.set("descriptors", descriptors_json(facts, redactor));
  if (!facts.code.empty()) {
    json.set("code", wire::Json::object({{"address", fmt::format("{:#x}", facts.code_address)},
                                         {"bytes", to_hex(as_bytes(facts.code))}}));
  }
  json.set("gaps", array_of(facts.gaps));
  if (!facts.maps.empty()) json.set("maps", redactor.text(facts.maps));
  return json;
}

}  // namespace defib::postmortem

// What the supervising process reads, from arbitrary bytes: the first byte chooses the reader, the
// rest is its input. Nothing ends the process, and what is accepted can be used.

#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/conf/conf.h"
#include "defib/daemon/config.h"
#include "defib/daemon/control.h"
#include "defib/daemon/core_file.h"
#include "defib/daemon/exit_cause.h"
#include "defib/daemon/http_helper.h"
#include "defib/daemon/incident_view.h"
#include "defib/daemon/log_watch.h"
#include "defib/daemon/service_log.h"
#include "defib/daemon/status.h"
#include "defib/obs/log.h"
#include "defib/os/event_loop.h"
#include "defib/os/process.h"
#include "defib/os/sim_files.h"
#include "defib/os/socket.h"
#include "defib/wire/frame.h"

namespace defib::daemon {
namespace {

namespace shim = process::shim;

// The part before the separator; `text` keeps what is behind it.
std::string_view take_until(std::string_view& text, char separator) {
  const std::size_t end = std::min(text.find(separator), text.size());
  const std::string_view part = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return part;
}

// A directory of this process, with logs/ in it.
const std::string& scratch() {
  static const std::string& dir = *[] {
    char name[] = "/tmp/daemon-fuzz-XXXXXX";
    DEFIB_ASSERT(mkdtemp(name) != nullptr);
    static std::string made = name;
    DEFIB_ASSERT(mkdir((made + "/logs").c_str(), 0700) == 0);
    std::atexit([] {
      for (const char* file : {"/logs/current", "/logs/current.idx", "/core", "/control.sock"}) {
        unlink((made + file).c_str());
      }
      rmdir((made + "/logs").c_str());
      rmdir(made.c_str());
    });
    return &made;
  }();
  return dir;
}

// Written anew in place: its inode stays.
void write_file(const std::string& path, std::string_view bytes) {
  const os::Fd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  DEFIB_ASSERT(fd.valid() &&
               ::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
}

void fuzz_config(std::string_view input) {
  const auto config = parse_config(input);
  if (!config) {
    static_cast<void>(config.error().to_text());
    return;
  }
  static_cast<void>(dependencies_of(config->services));
  for (const ServiceConfig& service : config->services) {
    DEFIB_ASSERT(validate(service).has_value());
    DEFIB_ASSERT(!needs_restart(service, service));
    static_cast<void>(to_json(service.spec).dump());
  }
}

// "KEY\nVALUE", and the value for the parsers of single words.
void fuzz_option(std::string_view input) {
  const std::string_view key = take_until(input, '\n');
  ServiceConfig config;
  config.spec.name = "s";
  config.spec.argv = {"/bin/true"};
  if (set_option(config, key, input)) static_cast<void>(validate(config).has_value());
  LogPattern pattern;
  if (parse_rate(input, pattern)) DEFIB_ASSERT(pattern.count > 0 && pattern.window.count() > 0);
  const os::Duration duration = os::parse_duration(input);
  DEFIB_ASSERT(duration.count() >= -1);
  static_cast<void>(os::format_duration(duration));
  std::uint64_t bytes = 0;
  static_cast<void>(conf::parse_size(input, bytes));
  static_cast<void>(os::signal_number(input));
  static_cast<void>(parse_listen(std::string(input)).has_value());
  const std::string name = name_of_command(input);
  DEFIB_ASSERT(name.empty() || (name[0] != '.' && name.find('/') == std::string::npos));
  const std::int64_t time = os::parse_time(input);
  if (time >= 0) DEFIB_ASSERT(os::parse_time(os::format_time(time)) == time);
  static_cast<void>(time_of_line(input));
}

// "PATTERN\nOUTPUT", the output in two pieces.
void fuzz_pattern(std::string_view input) {
  LogPattern pattern;
  pattern.match = take_until(input, '\n');
  pattern.count = 2;
  os::FakeClock clock;
  auto watch = LogWatch::create(clock, {pattern}, [](const LogMatch& match) {
    DEFIB_ASSERT(match.lines >= 2 && match.line.size() <= LogWatch::kShownLine);
  });
  if (!watch) return;
  (*watch)->push(1, input.substr(0, input.size() / 2), 0);
  (*watch)->push(1, input.substr(input.size() / 2), 0);
  (*watch)->push(2, input, input.size() % 3);
  (*watch)->flush();
}

void fuzz_exit(std::string_view input) {
  os::ExitStatus status;
  status.known = true;
  for (const int signal : {0, 6, 11}) {
    status.exited = signal == 0;
    status.code = 1;
    status.signal = signal;
    ExitFacts facts;
    facts.status = status;
    facts.err = input.substr(0, input.size() / 2);
    facts.out = input.substr(input.size() / 2);
    facts.kernel.lines = {std::string(input.substr(0, 200))};
    static_cast<void>(classify_exit(facts).to_json().dump());
  }
}

// A log and its index, whose records get the checksums that they should have: all bytes of the log
// come out, in lines.
void fuzz_log(std::string_view input) {
  const std::string_view records = take_until(input, '\x1e');
  const std::string path = scratch() + "/" + shim::kLogCurrent;
  write_file(path, input);
  struct stat info{};
  DEFIB_ASSERT(::stat(path.c_str(), &info) == 0);
  shim::LogIndexHeader header{};
  header.magic = shim::kLogIndexMagic;
  header.version = shim::kLogIndexVersion;
  header.inode = info.st_ino;
  header.crc = shim::index_checksum(header);
  std::string index(reinterpret_cast<const char*>(&header), sizeof header);
  // Of each: offset, stream, kind, and whether it is damaged. Offsets grow, as the shim's do.
  std::uint64_t offset = 0;
  for (std::size_t i = 0; i + 2 <= records.size(); i += 2) {
    offset += static_cast<unsigned char>(records[i]);
    const auto flags = static_cast<unsigned char>(records[i + 1]);
    shim::LogIndexRecord record{};
    record.offset = offset;
    record.wall_ns = static_cast<std::int64_t>(i);
    record.value = flags;
    record.stream = flags & 3;
    record.kind = static_cast<shim::LogRecordKind>(1 + (flags >> 2 & 3));
    record.crc = shim::index_checksum(record) ^ ((flags & 0x80) != 0 ? 1u : 0u);
    index.append(reinterpret_cast<const char*>(&record), sizeof record);
  }
  write_file(path + shim::kLogIndexSuffix, index);
  std::size_t bytes = 0;
  ServiceLog log(scratch());
  const auto read = log.read({}, false, [&](const LogLine& line) {
    if (line.dropped == 0) bytes += line.text.size() + (line.ended ? 1 : 0);
  });
  DEFIB_ASSERT(read.has_value() && bytes == input.size());
}

void fuzz_core(std::string_view input) {
  const CorePlace place = core_place(input, "/w");
  DEFIB_ASSERT(place.dir.empty() || place.pipe_of_ours || place.dir[0] == '/');
  const std::string path = scratch() + "/core";
  write_file(path, input);
  const auto core = identify_core(path);
  if (core) DEFIB_ASSERT(core->pid != 0 && core->program.size() <= 16);
}

void fuzz_documents(std::string_view input) {
  const auto json = wire::Json::parse(input);
  if (!json) return;
  const Error error = error_from_json(*json);
  static_cast<void>(error.to_text());
  static_cast<void>(wire::to_json(error).dump());
  if (json->items().size() > 0) {
    const auto& items = json->items();
    static_cast<void>(incident_document({items.begin(), items.end()}).dump());
  }
  os::SimFiles files;
  DEFIB_ASSERT(files.create_dirs("/s").has_value());
  DEFIB_ASSERT(files.open("/s/cores", os::OpenMode::kCreate).has_value());
  files.set_content("/s/cores", std::string(input));
  static_cast<void>(CoreList(files, "/s/cores").entries());
}

// The state directory of a service that nobody supervises: "STATUS RECORD, spec.json".
void fuzz_state(std::string_view input) {
  shim::StatusRecord record{};
  std::memcpy(&record, input.data(), std::min(input.size(), sizeof record));
  input.remove_prefix(std::min(input.size(), sizeof record));
  record.magic = shim::kStatusMagic;
  record.version = shim::kStatusVersion;
  record.boot_id[sizeof record.boot_id - 1] = 0;
  record.crc = shim::status_checksum(record);
  os::SimFiles files;
  const std::string dir = "/s/services/a";
  DEFIB_ASSERT(files.create_dirs(dir).has_value());
  for (const char* name : {"/status", "/spec.json"}) {
    DEFIB_ASSERT(files.open(dir + name, os::OpenMode::kCreate).has_value());
  }
  files.set_content(dir + "/status",
                    std::string(reinterpret_cast<const char*>(&record), sizeof record));
  files.set_content(dir + "/spec.json", std::string(input));
  const auto status = collect_status(files, "/s", "a");
  if (status) static_cast<void>(status->dump());
}

// To the control socket: a frame that holds the input, and then the input itself. A request is
// answered, anything else ends the connection.
void fuzz_control(std::string_view input) {
  static os::EventLoop& loop = *std::move(*os::EventLoop::create()).release();
  const std::string path = scratch() + "/control.sock";
  const auto server = ControlServer::listen(
      loop, path,
      [](const wire::Json& request, const ControlServer::Answer& answer) { answer(request); });
  DEFIB_ASSERT(server.has_value());
  const auto socket = os::connect_unix(path, os::SocketKind::kStream);
  DEFIB_ASSERT(socket.has_value());
  std::string bytes(wire::kFrameHeaderSize, '\0');
  store_value(bytes.data(), static_cast<std::uint32_t>(input.size()));
  store_value(bytes.data() + 4, crc32c(input));
  bytes.append(input).append(input);
  static_cast<void>(::send(socket->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL));
  // Once for the connection, once for what it sent.
  for (int round = 0; round < 2; ++round) {
    loop.post([] { loop.stop(); });
    DEFIB_ASSERT(loop.run().has_value());
  }
}

}  // namespace
}  // namespace defib::daemon

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::daemon;
  static const bool quiet = [] {
    defib::obs::set_log_level(defib::obs::Level::kOff);
    return true;
  }();
  if (size == 0 || !quiet) return 0;
  constexpr void (*kReaders[])(std::string_view) = {fuzz_config, fuzz_option,    fuzz_pattern,
                                                    fuzz_exit,   fuzz_log,       fuzz_core,
                                                    fuzz_state,  fuzz_documents, fuzz_control};
  kReaders[data[0] % std::size(kReaders)]({reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}

// Files and texts that the supervisor reads, from arbitrary bytes: the first byte chooses the
// reader, the rest is its input. What a reader accepts can be used, and written again.

#include <fmt/core.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/assert.h"
#include "defib/os/cgroup.h"
#include "defib/os/sim_files.h"
#include "defib/process/cgroup_places.h"
#include "defib/process/kept_sockets.h"
#include "defib/process/memory_cgroup.h"
#include "defib/process/restart_policy.h"
#include "defib/process/service_state.h"
#include "defib/process/state_dir.h"
#include "defib/process/system_info.h"

namespace defib::process {
namespace {

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (true) {
    const std::size_t end = text.find(separator);
    parts.emplace_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

void put(os::SimFiles& files, const std::string& path, std::string_view text) {
  DEFIB_ASSERT(files.create_dirs(os::parent_dir(path)).has_value());
  DEFIB_ASSERT(files.open(path, os::OpenMode::kCreate).has_value());
  files.set_content(path, std::string(text));
}

// "crashes" beside a budget of its own: whatever it says, the service gets a decision.
void fuzz_crashes(std::string_view input) {
  os::SimFiles files;
  os::FakeClock clock;
  put(files, "/s/crashes", input);
  ServiceSpec spec;
  spec.name = "s";
  spec.max_downtime = std::chrono::minutes(5);
  RestartPlanner planner = RestartPlanner::open(files, clock, "/s", spec, os::Random(1));
  static_cast<void>(planner.downtime());
  for (const std::uint64_t generation : {0, 1, 2}) {
    if (const auto pending = planner.pending(generation)) DEFIB_ASSERT(pending->delay.count() >= 0);
  }
  CrashPrint print;
  print.status = "SIGSEGV";
  print.place = "p";
  planner.failed(3, clock.mono_ns(), print);
  const auto decision = planner.decide(3);
  DEFIB_ASSERT(decision.delay.count() >= 0);
  planner.started(clock.mono_ns() + 1, false);
  // What it wrote is read without a complaint.
  RestartPlanner again = RestartPlanner::open(files, clock, "/s", spec, os::Random(1));
  DEFIB_ASSERT(!again.trouble().has_value());
}

// The record as it is, or with the checksum that it should have.
void fuzz_status(std::string_view input) {
  const bool seal = !input.empty() && (input[0] & 1) != 0;
  std::string bytes(input.substr(seal ? 1 : 0));
  if (seal) {
    shim::StatusRecord record{};
    bytes.resize(std::max(bytes.size(), sizeof record));
    std::memcpy(&record, bytes.data(), sizeof record);
    record.magic = shim::kStatusMagic;
    record.version = shim::kStatusVersion;
    record.crc = shim::status_checksum(record);
    std::memcpy(bytes.data(), &record, sizeof record);
  }
  const auto record = parse_status(bytes);
  if (!record) return;
  static_cast<void>(std::strlen(record->boot_id));
  static_cast<void>(shim::last_service_exit(*record));
  for (const auto role : {shim::InstanceRole::kActive, shim::InstanceRole::kStandby}) {
    const auto* one = shim::find_instance(*record, role);
    if (one != nullptr) static_cast<void>(event_for_word(one->state_word));
  }
  const ServiceSpec spec;
  for (const shim::ExitInfo& exit : record->exits) static_cast<void>(wants_restart(spec, exit));
}

void fuzz_exit_set(std::string_view input) {
  const auto set = parse_exit_set(split(input, '\n'));
  if (!set) return;
  const auto again = parse_exit_set(exit_set_words(*set));
  DEFIB_ASSERT(again.has_value() && *again == *set);
}

void fuzz_sockets(std::string_view input) {
  const auto specs = parse_sockets(split(input, '\n'));
  if (!specs) return;
  for (const SocketSpec& spec : *specs) {
    DEFIB_ASSERT(!spec.name.empty() && spec.address_size > 0 &&
                 spec.address_size <= sizeof spec.address);
  }
}

// What the kernel tells of control groups, in three parts.
void fuzz_groups(std::string_view input) {
  std::vector<std::string> parts = split(input, '\0');
  parts.resize(3);
  for (const os::CgroupMount& mount : os::parse_cgroup_mounts(parts[0])) {
    const std::string dir = own_cgroup_dir(mount, parts[1]);
    DEFIB_ASSERT(dir.find("/..") == std::string::npos ||
                 mount.point.find("/..") != std::string::npos);
  }
  static_cast<void>(os::cgroup_path(parts[1], "memory"));
  static_cast<void>(find_memory_cgroup(parts[1], parts[2], parts[0]));
}

// The files of /proc and of the groups, one after another.
void fuzz_system(std::string_view input) {
  constexpr const char* kNames[] = {"/proc/self/statm", "/proc/self/stat", "/proc/meminfo",
                                    "/proc/stat",       "/g/memory.max",   "/g/memory.current",
                                    "/g/memory.stat",   "/g/cpu.max"};
  const std::vector<std::string> parts = split(input, '\0');
  os::SimFiles files;
  os::FakeClock clock;
  for (std::size_t i = 0; i < parts.size() && i < std::size(kNames); ++i) {
    put(files, std::string("/r") + kNames[i], parts[i]);
  }
  put(files, "/r/proc/self/mountinfo", "31 30 0:27 / /g rw - cgroup2 c rw\n");
  put(files, "/r/proc/self/cgroup", "0::/\n");
  SystemSampler sampler({.disk_path = "/", .root = "/r", .pid = 0}, files, clock);
  for (int i = 0; i < 2; ++i) {
    const auto sample = sampler.sample();
    if (!sample) return;
    DEFIB_ASSERT(sample->cpu_percent >= 0 && sample->cpu_percent <= 100);
    static_cast<void>(to_json(*sample, "running", 1).dump());
    clock.advance(std::chrono::seconds(1));
  }
}

}  // namespace
}  // namespace defib::process

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace defib::process;
  if (size == 0) return 0;
  constexpr void (*kReaders[])(std::string_view) = {fuzz_crashes, fuzz_status, fuzz_exit_set,
                                                    fuzz_sockets, fuzz_groups, fuzz_system};
  kReaders[data[0] % std::size(kReaders)]({reinterpret_cast<const char*>(data) + 1, size - 1});
  return 0;
}

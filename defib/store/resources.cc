#include "defib/store/resources.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "defib/store/format.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kSpareDisk = 2 << 20;
constexpr std::uint64_t kSpareMemory = 16 << 20;
constexpr std::uint64_t kSpareDescriptors = 32;
// What replaying takes for each byte of log: positions of records, and the nodes over them.
constexpr std::uint64_t kMemoryPart = 2;
// The stack of a thread.
constexpr std::uint64_t kThreadSpace = 8 << 20;
constexpr std::uint64_t kProcFileSize = 1 << 16;

// The number that follows `key` in a file of /proc; none where there is no such file or line, or
// where "unlimited" stands there.
std::optional<std::uint64_t> proc_number(os::Files& files, const std::string& path,
                                         std::string_view key) {
  const auto text = os::read_file(files, path, kProcFileSize);
  const std::size_t at = text ? text->find(key) : std::string::npos;
  if (at == std::string::npos) return std::nullopt;
  const std::size_t digit = text->find_first_not_of(" \t", at + key.size());
  if (digit == std::string::npos) return std::nullopt;
  std::uint64_t number = 0;
  const char* end = text->data() + text->size();
  if (std::from_chars(text->data() + digit, end, number).ec != std::errc()) return std::nullopt;
  return number;
}

// A limit less what is used of it. At least 1, for 0 means that there is no limit.
std::uint64_t left_of(std::uint64_t limit, std::uint64_t used) {
  return std::max<std::uint64_t>(limit - std::min(limit, used), 1);
}

// Bytes of base and runs, which are mapped as well.
std::uint64_t data_bytes(os::Files& files, const std::string& dir) {
  const std::string folder = os::join_path(dir, kDataDir);
  const auto names = files.list(folder);
  std::uint64_t total = 0;
  if (!names) return total;
  for (const std::string& name : *names) {
    const auto file = files.open(os::join_path(folder, name), os::OpenMode::kRead);
    if (file) total += (*file)->size().value_or(0);
  }
  return total;
}

Error insufficient(std::string_view resource, std::string_view unit, const Need& need,
                   std::string action) {
  return Error(Code::kInsufficientResources,
               fmt::format("recovery needs {}{} of {}, {} are available", need.required, unit,
                           resource, need.available))
      .with("resource", resource)
      .with("required", fmt::format("{}", need.required))
      .with("available", fmt::format("{}", need.available))
      .suggest(std::move(action));
}

bool falls_short(const Need& need) {
  return need.available != 0 && need.available < need.required;
}

Error too_little_disk(const Need& need, const std::string& dir) {
  const std::uint64_t missing = need.required - std::min(need.required, need.available);
  return insufficient("disk space in " + dir, " bytes", need,
                      fmt::format("free at least {} bytes on that file system (`df -h {}` shows "
                                  "it), then run `defib store recover {}`",
                                  missing, dir, dir));
}

Error too_little_address_space(const Need& need, const std::string& dir) {
  return insufficient("address space", " bytes", need,
                      fmt::format("raise this process's limit: run "
                                  "`prlimit --as=unlimited: defib store recover {}`",
                                  dir));
}

constexpr std::uint64_t kLeastLimit = 128;  // descriptors; more than a small store takes

}  // namespace

ResourceNeeds resource_needs(os::Files& files, const std::string& dir, const RecoverySize& size) {
  ResourceNeeds needs;
  needs.memory.required = size.log_bytes / kMemoryPart + kSpareMemory;
  needs.memory.available = proc_number(files, "/proc/meminfo", "MemAvailable:").value_or(0) * 1024;

  const auto space = proc_number(files, "/proc/self/limits", "Max address space");
  if (space) {
    needs.address_space.required = needs.memory.required + size.log_bytes + data_bytes(files, dir) +
                                   size.threads_to_start * kThreadSpace;
    const std::uint64_t used = proc_number(files, "/proc/self/status", "VmSize:").value_or(0);
    needs.address_space.available = left_of(*space, used * 1024);
  }

  const auto limit = proc_number(files, "/proc/self/limits", "Max open files");
  const auto open = files.list("/proc/self/fd");
  needs.descriptors.required = size.segments + kSpareDescriptors;
  const std::uint64_t already_open = open ? open->size() : 0;
  needs.descriptor_limit_required = needs.descriptors.required + already_open;
  if (limit && open) needs.descriptors.available = left_of(*limit, already_open);

  // The worst that recovery writes: a quarantine copy of the last segment, and a new segment.
  if (size.is_needed) {
    needs.disk.required = std::min(size.last_segment_bytes, size.segment_size) + kSpareDisk;
  }
  if (const auto free = files.free_space(dir)) {
    needs.disk.available = std::max<std::uint64_t>(*free, 1);
  }
  return needs;
}

Result<> check_resources(const ResourceNeeds& needs, const std::string& dir) {
  if (falls_short(needs.memory)) {
    return insufficient(
        "memory", " bytes", needs.memory,
        fmt::format("end what does not need to run (`ps -eo rss,pid,args --sort=-rss` shows who "
                    "uses how much), then run `defib store recover {}`",
                    dir));
  }
  if (falls_short(needs.address_space)) return too_little_address_space(needs.address_space, dir);
  if (falls_short(needs.descriptors)) {
    return too_few_descriptors(needs, dir);
  }
  if (falls_short(needs.disk)) return too_little_disk(needs.disk, dir);
  return {};
}

Error disk_is_full(os::Files& files, const std::string& dir, const ResourceNeeds& needs) {
  Need need = needs.disk;
  need.required = std::max(need.required, kSpareDisk);
  need.available = files.free_space(dir).value_or(0);
  return too_little_disk(need, dir);
}

Error too_few_descriptors(const ResourceNeeds& needs, const std::string& dir) {
  const std::uint64_t limit = std::max(2 * needs.descriptor_limit_required, kLeastLimit);
  return insufficient("file descriptors", "", needs.descriptors,
                      fmt::format("raise this process's limit: run "
                                  "`prlimit --nofile={}: defib store recover {}`",
                                  limit, dir))
      .with("limit", fmt::format("{}", limit));
}

Error memory_was_refused(const ResourceNeeds& needs, const std::string& dir) {
  Need need = needs.address_space;
  need.required = std::max(need.required, needs.memory.required);
  return too_little_address_space(need, dir);
}

}  // namespace defib::store

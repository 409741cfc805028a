#include "defib/postmortem/samples.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "defib/base/bytes.h"
#include "defib/os/files.h"

namespace defib::postmortem {
namespace {

constexpr char kMagic[8] = {'D', 'E', 'F', 'S', 'M', 'P', 'L', '1'};

struct RingHeader {
  char magic[8];
  std::uint32_t kind;
  std::uint32_t numbers;
  std::uint32_t records;
  std::uint32_t crc;
  char zero[40];
};
static_assert(sizeof(RingHeader) == 64);

struct RecordHead {
  std::uint64_t sequence;
  std::int64_t mono_ns;
  std::int64_t wall_ns;
  std::uint32_t crc;
  std::uint32_t zero;
};
static_assert(sizeof(RecordHead) == 32);

constexpr std::size_t kMaxRecord =
    sizeof(RecordHead) + 8 * std::max(kServiceNumbers, kMachineNumbers);

std::size_t numbers_of(SampleKind kind) {
  return kind == SampleKind::kService ? kServiceNumbers : kMachineNumbers;
}

std::size_t record_size(std::size_t numbers) {
  return sizeof(RecordHead) + 8 * numbers;
}

std::uint32_t header_crc(const RingHeader& header) {
  return crc32c(std::string_view(reinterpret_cast<const char*>(&header), 20));
}

RingHeader header_of(SampleKind kind) {
  RingHeader header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.kind = static_cast<std::uint32_t>(kind);
  header.numbers = static_cast<std::uint32_t>(numbers_of(kind));
  header.records = kRingRecords;
  header.crc = header_crc(header);
  return header;
}

// Of the record's bytes, its own field taken as zero.
std::uint32_t record_crc(char* record, std::size_t size) {
  std::memset(record + offsetof(RecordHead, crc), 0, sizeof(std::uint32_t));
  return crc32c(std::string_view(record, size));
}

constexpr std::string_view kServiceNames[kServiceNumbers] = {"pid",
                                                             "generation",
                                                             "cpu_ns",
                                                             "rss_bytes",
                                                             "virtual_bytes",
                                                             "swap_bytes",
                                                             "threads",
                                                             "descriptors",
                                                             "minor_faults",
                                                             "major_faults",
                                                             "voluntary_switches",
                                                             "forced_switches",
                                                             "read_bytes",
                                                             "written_bytes",
                                                             "state",
                                                             "descriptor_limit"};
constexpr std::string_view kMachineNames[kMachineNumbers] = {"load1_milli",
                                                             "load5_milli",
                                                             "load15_milli",
                                                             "runnable",
                                                             "processes",
                                                             "memory_total",
                                                             "memory_available",
                                                             "memory_free",
                                                             "cached",
                                                             "dirty",
                                                             "swap_free",
                                                             "cpu_user_ticks",
                                                             "cpu_system_ticks",
                                                             "cpu_idle_ticks",
                                                             "cpu_iowait_ticks",
                                                             "cpu_steal_ticks",
                                                             "pressure_cpu_us",
                                                             "pressure_memory_us",
                                                             "pressure_io_us",
                                                             "disk_free",
                                                             "disk_size",
                                                             "inodes_free",
                                                             "net_received_bytes",
                                                             "net_sent_bytes",
                                                             "net_errors",
                                                             "net_drops",
                                                             "tcp_in_use",
                                                             "tcp_retransmits",
                                                             "open_files",
                                                             "oom_kills",
                                                             "context_switches",
                                                             "major_faults"};

}  // namespace

std::span<const std::string_view> sample_names(SampleKind kind) {
  if (kind == SampleKind::kService) return kServiceNames;
  return kMachineNames;
}

Result<SampleRing> SampleRing::open(const std::string& path, SampleKind kind) {
  SampleRing ring;
  ring.numbers_ = numbers_of(kind);
  ring.file_ = os::Fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!ring.file_.valid()) return os::system_error("open", path);
  if (const auto samples = read_ring(path, kind)) {
    if (!samples->empty()) ring.next_ = samples->back().sequence + 1;
    return ring;
  }
  const RingHeader header = header_of(kind);
  const auto size =
      static_cast<off_t>(sizeof header + std::size_t{kRingRecords} * record_size(ring.numbers_));
  // Room is taken now: a disk that is full later does not end the samples.
  if (::ftruncate(ring.file_.get(), 0) != 0) return os::system_error("ftruncate", path);
  if (const int failed = ::posix_fallocate(ring.file_.get(), 0, size); failed != 0) {
    return os::system_error("posix_fallocate", path, failed);
  }
  if (::pwrite(ring.file_.get(), &header, sizeof header, 0) != sizeof header) {
    return os::system_error("pwrite", path);
  }
  return ring;
}

Result<> SampleRing::add(std::int64_t mono_ns, std::int64_t wall_ns,
                         std::span<const std::uint64_t> numbers) {
  char record[kMaxRecord] = {};
  const std::size_t size = record_size(numbers_);
  RecordHead head{next_, mono_ns, wall_ns, 0, 0};
  std::memcpy(record, &head, sizeof head);
  std::memcpy(record + sizeof head, numbers.data(), 8 * std::min(numbers.size(), numbers_));
  head.crc = record_crc(record, size);
  std::memcpy(record, &head, sizeof head);
  const auto at = static_cast<off_t>(sizeof(RingHeader) + next_ % kRingRecords * size);
  ++next_;
  if (::pwrite(file_.get(), record, size, at) != static_cast<ssize_t>(size)) {
    return os::system_error("pwrite");
  }
  return {};
}

Result<std::vector<Sample>> parse_ring(std::string_view bytes, SampleKind kind) {
  const auto damaged = [](const char* why) {
    return Error(Code::kInvalidArgument, std::string("no ring of samples: ") + why);
  };
  if (bytes.size() < sizeof(RingHeader)) return damaged("it is too short");
  const auto header = load<RingHeader>(bytes.data());
  const std::size_t numbers = numbers_of(kind);
  const RingHeader expected = header_of(kind);
  if (std::memcmp(&header, &expected, offsetof(RingHeader, zero)) != 0) {
    return damaged("its header is another one");
  }
  const std::size_t size = record_size(numbers);
  std::vector<Sample> samples;
  for (std::size_t at = sizeof header; at + size <= bytes.size(); at += size) {
    if (samples.size() == kRingRecords) break;
    char record[kMaxRecord];
    std::memcpy(record, bytes.data() + at, size);
    const auto head = load<RecordHead>(record);
    if (head.sequence == 0 || record_crc(record, size) != head.crc) continue;
    // A record that was copied to another place is not one of this ring.
    if (head.sequence % kRingRecords != (at - sizeof header) / size) continue;
    Sample sample{head.sequence, head.mono_ns, head.wall_ns, {}};
    sample.numbers.resize(numbers);
    std::memcpy(sample.numbers.data(), record + sizeof head, 8 * numbers);
    samples.push_back(std::move(sample));
  }
  std::ranges::sort(samples, {}, &Sample::sequence);
  return samples;
}

Result<std::vector<Sample>> read_ring(const std::string& path, SampleKind kind) {
  const std::size_t size =
      sizeof(RingHeader) + std::size_t{kRingRecords} * record_size(numbers_of(kind));
  DEFIB_TRY_ASSIGN(const std::string bytes, os::read_file(os::real_files(), path, size));
  return parse_ring(bytes, kind);
}

}  // namespace defib::postmortem

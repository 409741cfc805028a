#include "defib/process/log_index.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defib/os/files.h"
#include "defib/process/supervisor.h"

namespace defib::process {
namespace {

// The shim overwrites the header in place: a reader may meet it half written, for nanoseconds.
bool read_header(int fd, shim::LogIndexHeader& header) {
  constexpr int kAttempts = 10;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (::pread(fd, &header, sizeof header, 0) != sizeof header) return false;
    if (shim::index_valid(header)) return true;
  }
  return false;
}

os::Fd open_file(const std::string& path) {
  return os::Fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
}

}  // namespace

std::optional<LogIndex> LogIndex::open(const std::string& path, std::uint64_t inode) {
  LogIndex index;
  index.fd_ = open_file(path);
  if (!index.fd_.valid() || !read_header(index.fd_.get(), index.header_)) return std::nullopt;
  if (index.header_.inode != inode) return std::nullopt;
  return index;
}

LogIndex::Read LogIndex::record(std::uint64_t number, shim::LogIndexRecord& record) const {
  shim::LogIndexRecord two[2];
  const auto at = static_cast<off_t>(shim::kLogIndexHeaderSize + number * sizeof record);
  const ssize_t size = ::pread(fd_.get(), two, sizeof two, at);
  if (size < static_cast<ssize_t>(sizeof record)) return Read::kEnd;
  record = two[0];
  if (shim::index_valid(record)) return Read::kRecord;
  return size == sizeof two ? Read::kDamaged : Read::kEnd;
}

std::uint64_t LogIndex::records() const {
  struct stat status = {};
  constexpr auto kHeader = static_cast<std::uint64_t>(shim::kLogIndexHeaderSize);
  if (::fstat(fd_.get(), &status) != 0) return 0;
  const auto size = static_cast<std::uint64_t>(status.st_size);
  return size < kHeader ? 0 : (size - kHeader) / sizeof(shim::LogIndexRecord);
}

std::optional<shim::LogIndexHeader> read_log_counters(const std::string& service_dir) {
  const os::Fd fd =
      open_file(os::join_path(service_dir, shim::kLogCurrent) + shim::kLogIndexSuffix);
  shim::LogIndexHeader header{};
  if (!fd.valid() || !read_header(fd.get(), header)) return std::nullopt;
  return header;
}

void add_log_counters(const std::string& service_dir, ServiceStatus& status) {
  const auto counters = read_log_counters(service_dir);
  if (!counters) return;
  status.log_bytes_dropped = counters->dropped_by_rate + counters->dropped_by_disk;
  status.log_dropped_by_rate = counters->dropped_by_rate;
  status.journal_sent = counters->journal_sent;
  status.journal_dropped = counters->journal_dropped;
}

}  // namespace defib::process

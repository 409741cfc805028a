#include "defib/process/run_output.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <vector>

#include "defib/os/fd.h"
#include "defib/os/files.h"
#include "defib/process/log_index.h"

namespace defib::process {
namespace {

// A run that writes more often than this has the rest of its tail left out.
constexpr std::uint64_t kMaxRecords = 20'000;

// Reads backwards, from the newest piece on.
class Collector {
 public:
  explicit Collector(const RunWindow& window) : window_(window) {}

  // False: the run's beginning was met, or all is had.
  bool take_file(const std::string& path) {
    const os::Fd log(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
    struct stat status = {};
    if (!log.valid() || ::fstat(log.get(), &status) != 0) return false;
    const auto index = LogIndex::open(path + shim::kLogIndexSuffix, status.st_ino);
    if (!index) return false;
    auto end = static_cast<std::uint64_t>(status.st_size);
    for (std::uint64_t number = index->records(); number-- > 0;) {
      shim::LogIndexRecord record{};
      if (++records_ > kMaxRecords || index->record(number, record) != LogIndex::Read::kRecord) {
        return false;
      }
      // Time that goes back while we do, too, is of an earlier boot.
      if (record.mono_ns < window_.from_mono_ns || record.mono_ns > newest_mono_ns_) return false;
      newest_mono_ns_ = record.mono_ns;
      if (record.kind == shim::LogRecordKind::kData && record.offset < end) {
        if (record.mono_ns < window_.until_mono_ns) take(log.get(), record, end);
        end = record.offset;
      }
      if (full(0) && full(1)) return false;
    }
    return true;
  }

  RunOutput finish() { return {whole_lines(0), whole_lines(1)}; }

 private:
  bool full(std::size_t stream) const { return sizes_[stream] >= window_.max_bytes; }

  void take(int fd, const shim::LogIndexRecord& record, std::uint64_t end) {
    const std::size_t stream = record.stream == 2 ? 1 : 0;
    if (full(stream)) return;
    const std::uint64_t room = window_.max_bytes - sizes_[stream];
    const std::uint64_t size = std::min(end - record.offset, room);
    cut_[stream] = size < end - record.offset;
    std::string bytes(size, '\0');
    const ssize_t got = ::pread(fd, bytes.data(), size, static_cast<off_t>(end - size));
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    sizes_[stream] += bytes.size();
    pieces_[stream].push_back(std::move(bytes));
  }

  std::string whole_lines(std::size_t stream) const {
    std::string text;
    for (auto piece = pieces_[stream].rbegin(); piece != pieces_[stream].rend(); ++piece) {
      text += *piece;
    }
    if (cut_[stream]) text.erase(0, text.find('\n') + 1);  // npos + 1 is 0
    return text;
  }

  const RunWindow window_;
  std::int64_t newest_mono_ns_ = INT64_MAX;
  std::uint64_t records_ = 0;
  std::array<std::vector<std::string>, 2> pieces_;
  std::array<std::size_t, 2> sizes_{};
  std::array<bool, 2> cut_{};
};

}  // namespace

RunOutput read_run_output(const std::string& service_dir, const RunWindow& window) {
  Collector collector(window);
  const std::string path = os::join_path(service_dir, shim::kLogCurrent);
  // The file before is needed where the current one has just begun.
  if (collector.take_file(path)) collector.take_file(path + ".1");
  return collector.finish();
}

}  // namespace defib::process

#include "log_index.h"

#include <fcntl.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {
namespace {

// Output of one stream that comes within this time is one record: no finer than a reader cares for.
constexpr int64_t kResolutionNs = 100'000;

constexpr char kIndexName[] = "logs/current.idx";
constexpr char kRotatedIndexName[] = "logs/current.1.idx";

bool read_header(int fd, LogIndexHeader* header) {
  return fd >= 0 && pread(fd, header, sizeof *header, 0) == sizeof *header && index_valid(*header);
}

}  // namespace

void LogIndex::open_for(ino_t inode, uint64_t log_size, const LogIndexHeader* before) {
  LogIndexHeader carried = {};
  if (before != nullptr) {
    carried = *before;
  } else {
    const int rotated = open(kRotatedIndexName, O_RDONLY | O_CLOEXEC);
    if (!read_header(rotated, &carried)) carried = LogIndexHeader{};
    if (rotated >= 0) close(rotated);
  }
  if (fd_ >= 0) close(fd_);
  last_ = LogIndexRecord{};
  position_ = pending_ = kLogIndexHeaderSize;
  fd_ = open(kIndexName, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (read_header(fd_, &header) && header.inode == inode) {
    // Continued behind the last whole record that the log still reaches.
    LogIndexRecord record;
    while (read((position_ - kLogIndexHeaderSize) / sizeof record, &record) &&
           record.offset <= log_size) {
      position_ += sizeof record;
    }
    pending_ = position_;
    ftruncate(fd_, static_cast<off_t>(position_));
    return;
  }
  if (before == nullptr && index_valid(header)) carried = header;
  if (fd_ >= 0) ftruncate(fd_, 0);
  header = LogIndexHeader{};
  header.magic = kLogIndexMagic;
  header.version = kLogIndexVersion;
  header.inode = inode;
  header.created_wall_ns = wall_ns();
  header.dropped_by_rate = carried.dropped_by_rate;
  header.dropped_by_disk = carried.dropped_by_disk;
  header.journal_dropped = carried.journal_dropped;
  header.journal_sent = carried.journal_sent;
  header.forwards = carried.forwards;
  // A log that was there before its index is not told to the journal again.
  header.forwarded[0] = header.forwarded[1] = log_size;
  write_header();
}

void LogIndex::write_header() {
  if (fd_ < 0) return;
  header.crc = index_checksum(header);
  pwrite(fd_, &header, sizeof header, 0);
}

bool LogIndex::read(uint64_t number, LogIndexRecord* record) const {
  const off_t at = static_cast<off_t>(kLogIndexHeaderSize + number * sizeof *record);
  return fd_ >= 0 && pread(fd_, record, sizeof *record, at) == sizeof *record &&
         index_valid(*record);
}

bool LogIndex::put(uint64_t at, LogIndexRecord* record) {
  if (fd_ < 0) return false;
  record->crc = index_checksum(*record);
  return pwrite(fd_, record, sizeof *record, static_cast<off_t>(at)) == sizeof *record;
}

void LogIndex::mark(uint64_t log_size, int stream) {
  const int64_t now = mono_ns();
  const bool same = last_.kind == LogRecordKind::kData && last_.stream == stream + 1;
  if (same && pending_ == position_ && now - last_.mono_ns < kResolutionNs) return;
  LogIndexRecord record = {
      log_size, wall_ns(), now, 0, static_cast<uint16_t>(stream + 1), LogRecordKind::kData, 0};
  // Over a record that describes nothing: at position_.
  if (!put(position_, &record)) return;
  last_ = record;
  pending_ = position_ + sizeof record;
}

void LogIndex::dropped(uint64_t log_size, int stream, LogRecordKind kind, uint64_t bytes) {
  const bool continues = pending_ == position_ && last_.kind == kind &&
                         last_.stream == stream + 1 && last_.offset == log_size;
  LogIndexRecord record = last_;
  if (!continues) {
    record = {log_size, wall_ns(), mono_ns(), 0, static_cast<uint16_t>(stream + 1), kind, 0};
  }
  record.value += bytes;
  const uint64_t at = continues ? position_ - sizeof record : position_;
  if (put(at, &record)) {
    last_ = record;
    position_ = pending_ = at + sizeof record;
  }
  (kind == LogRecordKind::kDroppedByRate ? header.dropped_by_rate : header.dropped_by_disk) +=
      bytes;
  write_header();
}

}  // namespace defib::process::shim

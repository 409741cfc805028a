// The index that lies beside each log file of a service (`logs/current.idx` beside `logs/current`):
// when which bytes came, and from which stream. docs/formats/service_log.md tells the same as
// prose.
//
// The shim writes it and others read it. Like shim_protocol.h it holds plain structs, and includes
// nothing else of defib.
//
// A record is written before the bytes that it describes are moved, so no byte lies in a log
// without its record, whenever its writer is killed; a record behind which no bytes follow
// describes nothing. The bytes of a record end where the next one begins, or the file.

#pragma once

#include <cstddef>
#include <cstdint>

#include "defib/process/shim_protocol.h"

namespace defib::process::shim {

inline constexpr char kLogIndexSuffix[] = ".idx";
inline constexpr std::uint64_t kLogIndexMagic = 0x315844494c464544;  // "DEFLIDX1"
inline constexpr std::uint32_t kLogIndexVersion = 1;
inline constexpr std::size_t kLogIndexHeaderSize = 128;

struct LogIndexHeader {
  std::uint64_t magic;    // kLogIndexMagic
  std::uint32_t version;  // kLogIndexVersion
  std::uint32_t crc;      // CRC32C of the header with this field zero
  std::uint64_t inode;    // of the log file: an index of another file is none
  std::int64_t created_wall_ns;
  // Of the service, carried from file to file: what did not reach the log.
  std::uint64_t dropped_by_rate;  // bytes beyond log_rate
  std::uint64_t dropped_by_disk;  // bytes that the disk did not take
  std::uint64_t journal_dropped;  // entries that journald did not take
  std::uint64_t journal_sent;
  std::uint64_t forwarded[2];  // offsets up to which each stream's lines went to journald
  std::uint32_t forwards;      // 1: this log goes to journald
  std::uint32_t reserved[11];
};
static_assert(sizeof(LogIndexHeader) == kLogIndexHeaderSize);

enum class LogRecordKind : std::uint16_t {
  kData = 1,
  kDroppedByRate = 2,  // `value` bytes of this stream are missing here
  kDroppedByDisk = 3,
};

struct LogIndexRecord {
  std::uint64_t offset;
  std::int64_t wall_ns;
  std::int64_t mono_ns;
  std::uint64_t value;
  std::uint16_t stream;  // 1 stdout, 2 stderr
  LogRecordKind kind;
  std::uint32_t crc;  // CRC32C of the record with this field zero
};
static_assert(sizeof(LogIndexRecord) == 40);

inline std::uint32_t index_checksum(LogIndexHeader header) {
  header.crc = 0;
  return checksum(&header, sizeof header);
}
inline std::uint32_t index_checksum(LogIndexRecord record) {
  record.crc = 0;
  return checksum(&record, sizeof record);
}
inline bool index_valid(const LogIndexHeader& header) {
  return header.magic == kLogIndexMagic && header.version == kLogIndexVersion &&
         header.crc == index_checksum(header);
}
inline bool index_valid(const LogIndexRecord& record) {
  return record.crc == index_checksum(record) && (record.stream == 1 || record.stream == 2);
}

}  // namespace defib::process::shim

// What the store's files look like: docs/formats/store.md says it in prose with byte maps.
//
// Everything is little-endian, starts with a magic number and a version, and stands under a
// CRC32C, the lengths included. Decoders are total: any bytes yield a value or a problem in words.
// Thread rule: pure functions.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/store/store.h"

namespace defib::store {

inline constexpr std::uint32_t kFormatVersion = 2;
// Of the log's segments, which have not changed since the first version.
inline constexpr std::uint32_t kLogVersion = 1;
// Of the one checkpoint file that the first version had; read when such a store is migrated.
inline constexpr std::uint32_t kCheckpointVersion = 1;
inline constexpr std::uint32_t kPageSize = 4096;  // of a segment's header
// Of the page file and of the blocks of base and runs; a power of two.
inline constexpr std::uint32_t kSmallestPage = 4096;
inline constexpr std::uint32_t kLargestPage = 65536;
inline constexpr std::size_t kUuidSize = 32;  // hexadecimal digits
inline constexpr std::size_t kBlockAlignment = 64;
inline constexpr std::size_t kBlockHeaderSize = 64;
// Bounds one transaction, and so one block of the log.
inline constexpr std::size_t kMaxTransactionSize = 1U << 30;

// Names in the store's directory.
inline constexpr std::string_view kIdentityFile = "store.id";
inline constexpr std::string_view kLockFile = "LOCK";
inline constexpr std::string_view kLogHeadFile = "log.head";
inline constexpr std::string_view kWalDir = "wal";
inline constexpr std::string_view kDataDir = "data";  // base and runs
inline constexpr std::string_view kQuarantineDir = "quarantine";
inline constexpr std::string_view kRecoveryMarker = ".recovery_needed";
inline constexpr std::string_view kCleanMarker = ".clean_shutdown";

// Who the store is; written once, when it is created.
struct Identity {
  std::uint32_t version = kFormatVersion;
  std::uint32_t page_size = 16 << 10;
  std::string uuid;
  std::int64_t created_wall_ns = 0;
  // Ties each block to its store.
  std::uint64_t tag() const;
};

struct SegmentHeader {
  std::string uuid;
  std::uint64_t epoch = 0;         // one more at each opening that writes
  std::uint64_t first_lsn = 0;     // every commit before it was synced before this was written
  std::uint32_t previous_crc = 0;  // header checksum of the last block before this segment
  std::int64_t created_wall_ns = 0;
  std::string boot_id;  // of the machine's run in which it was written
};

// One write to the log: whole transactions, or none (then it only carries durable_lsn).
struct BlockHeader {
  std::uint64_t epoch = 0;
  std::uint64_t first_lsn = 0;     // number of its first transaction
  std::uint32_t count = 0;         // transactions in it
  std::uint32_t payload_size = 0;  // bytes
  std::uint64_t durable_lsn = 0;   // known to be synced when this block was written
  std::uint32_t previous_crc = 0;  // header_crc of the block before
  std::uint32_t payload_crc = 0;
  std::uint64_t store_tag = 0;
  std::uint32_t header_crc = 0;  // filled in by encode and decode
  std::uint64_t next_lsn() const { return first_lsn + count; }
};

struct CheckpointHeader {
  std::string uuid;
  std::uint64_t epoch = 0;
  std::uint64_t lsn = 0;        // number of the last commit in it
  std::uint32_t chain_crc = 0;  // header checksum of that commit's block, where known
  bool chain_known = false;
  std::int64_t created_wall_ns = 0;
};

struct CheckpointFooter {
  std::uint64_t lsn = 0;
  std::uint64_t records = 0;
  std::uint64_t chunks = 0;
  std::uint64_t file_size = 0;  // the footer included
};
inline constexpr std::size_t kCheckpointFooterSize = 64;
inline constexpr std::size_t kChunkHeaderSize = 32;

struct ChunkHeader {
  std::uint64_t index = 0;
  std::uint32_t records = 0;
  std::uint32_t payload_size = 0;
  std::uint32_t payload_crc = 0;
};

struct CleanRecord {
  std::string uuid;
  std::uint64_t lsn = 0;
  std::uint64_t epoch = 0;
  std::uint64_t manifest_sequence = 0;
};

// Decoders answer nullopt and say in `problem` what does not hold.
std::string encode(const Identity& identity);
std::optional<Identity> decode_identity(std::string_view bytes, std::string& problem);
std::string encode(const SegmentHeader& header);  // kPageSize bytes
// log.head: all of the newest segment's header but previous_crc.
std::string encode_log_head(const SegmentHeader& newest);
std::optional<SegmentHeader> decode_log_head(std::string_view bytes, std::string& problem);
std::optional<SegmentHeader> decode_segment_header(std::string_view bytes, std::string& problem);
// Fills in header_crc. Appends kBlockHeaderSize bytes, or puts them `to` where there is room.
void encode(BlockHeader& header, std::string& out);
void encode(BlockHeader& header, char* to);
std::optional<BlockHeader> decode_block_header(std::string_view bytes, std::string& problem);
// Of kBlockHeaderSize bytes that were decoded before.
BlockHeader load_block_header(const char* at);
std::string encode(const CheckpointHeader& header);  // kPageSize bytes
std::optional<CheckpointHeader> decode_checkpoint_header(std::string_view bytes,
                                                         std::string& problem);
std::string encode(const CheckpointFooter& footer);
std::optional<CheckpointFooter> decode_checkpoint_footer(std::string_view bytes);
std::string encode(const ChunkHeader& header);
std::optional<ChunkHeader> decode_chunk_header(std::string_view bytes);
std::string encode(const CleanRecord& record);
std::optional<CleanRecord> decode_clean_record(std::string_view bytes, std::string& problem);

// "0000000000000001.00000002.wal": first commit and epoch, so that names sort as the log runs.
std::string segment_name(std::uint64_t first_lsn, std::uint64_t epoch);
std::string checkpoint_name(std::uint64_t lsn);  // "checkpoint-0000000000000001.ckpt"
struct SegmentName {
  std::uint64_t first_lsn = 0;
  std::uint64_t epoch = 0;
};
std::optional<SegmentName> parse_segment_name(std::string_view name);
std::optional<std::uint64_t> parse_checkpoint_name(std::string_view name);

// A record of a checkpoint's chunk, and of a transaction: views into the encoded bytes.
struct RecordView {
  std::string_view table;
  std::string_view key;
  std::string_view value;
  bool erased = false;
};

// Builds the bytes of one transaction: begin, changes, end.
class TransactionEncoder {
 public:
  void put(std::string_view table, std::string_view key, std::string_view value);
  void erase(std::string_view table, std::string_view key);
  std::uint32_t changes() const { return changes_; }
  std::size_t size() const { return bytes_.size(); }
  // What stands there so far. A change's key and value are its last bytes.
  std::string_view bytes() const { return bytes_; }
  // Ends the transaction under its number: bytes() is all of it. clear() comes next.
  std::string_view end(std::uint64_t number);
  // The same by value; the encoder is empty afterwards.
  std::string finish(std::uint64_t number);
  // Keeps the memory.
  void clear();
  std::size_t capacity() const { return bytes_.capacity(); }

 private:
  void change(char operation, std::string_view table, std::string_view key, std::string_view value);
  std::string bytes_;
  std::uint32_t changes_ = 0;
};

struct TransactionView {
  std::uint64_t number = 0;
  std::vector<RecordView> changes;
};
// All transactions of a block's payload, numbered first_lsn on; nullopt and `problem` where a
// begin, a change or an end is missing or malformed.
std::optional<std::vector<TransactionView>> decode_transactions(std::string_view payload,
                                                                std::uint64_t first_lsn,
                                                                std::uint32_t count,
                                                                std::string& problem);

void append_record(std::string& chunk, std::string_view table, std::string_view key,
                   std::string_view value);
std::optional<std::vector<RecordView>> decode_records(std::string_view payload,
                                                      std::uint32_t count);

inline std::uint64_t align_up(std::uint64_t value, std::uint64_t step) {
  return (value + step - 1) / step * step;
}

}  // namespace defib::store

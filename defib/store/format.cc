#include "defib/store/format.h"

#include <fmt/core.h>

#include <array>
#include <charconv>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr std::string_view kIdentityMagic = "DEFIBSTO";
constexpr std::string_view kSegmentMagic = "DEFIBWAL";
constexpr std::string_view kLogHeadMagic = "DEFIBHED";
constexpr std::string_view kCheckpointMagic = "DEFIBCKP";
constexpr std::string_view kFooterMagic = "DEFIBEND";
constexpr std::string_view kCleanMagic = "DEFIBCLN";
constexpr std::uint32_t kBlockMagic = 0x4b4c4244;  // "DBLK"
constexpr std::uint32_t kChunkMagic = 0x4b4e4843;  // "CHNK"

constexpr std::size_t kBootIdSize = 36;
constexpr std::size_t kIdentitySize = 128;
constexpr std::size_t kCleanSize = 128;
constexpr std::size_t kLogHeadSize = 128;

constexpr char kBegin = 'B';
constexpr char kPut = 'P';
constexpr char kErase = 'E';
constexpr char kEnd = 'C';
constexpr std::size_t kBeginSize = 1 + 8 + 4;

// Pads to `size` bytes, of which the last four are the checksum of all before.
std::string seal(std::string body, std::size_t size) {
  DEFIB_ASSERT(body.size() + 4 <= size);
  body.resize(size - 4, '\0');
  const std::uint32_t crc = crc32c(body);
  Writer(body).u32(crc);
  return body;
}

// Checks size, magic, checksum and version, in the order that gives the most useful problem.
bool open_sealed(std::string_view bytes, std::size_t size, std::string_view magic,
                 std::string& problem) {
  if (bytes.size() < size) {
    problem = fmt::format("{} bytes where {} belong", bytes.size(), size);
    return false;
  }
  bytes = bytes.substr(0, size);
  if (bytes.substr(0, magic.size()) != magic) {
    problem = "no magic number";
    return false;
  }
  const auto stored = load<std::uint32_t>(bytes.data() + size - 4);
  const std::uint32_t computed = crc32c(bytes.substr(0, size - 4));
  if (stored != computed) {
    problem = fmt::format("checksum {:08x}, computed {:08x}", stored, computed);
    return false;
  }
  return true;
}

std::optional<std::uint64_t> parse_hex(std::string_view text, std::size_t digits) {
  std::uint64_t value = 0;
  if (text.size() != digits) return std::nullopt;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  if (ec != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

bool read_record(Reader& reader, RecordView& record) {
  const std::uint8_t table_size = reader.u8();
  const std::uint16_t key_size = reader.u16();
  const std::uint32_t value_size = reader.u32();
  record.table = reader.bytes(table_size);
  record.key = reader.bytes(key_size);
  record.value = reader.bytes(value_size);
  return reader.ok() && table_size > 0 && table_size <= kMaxTableName && key_size <= kMaxKeySize &&
         value_size <= kMaxValueSize;
}

constexpr std::size_t kRecordHeader = 1 + 2 + 4;

void append_record_to(std::string& bytes, std::string_view table, std::string_view key,
                      std::string_view value) {
  std::array<char, kRecordHeader> sizes;
  store_value(sizes.data(), static_cast<std::uint8_t>(table.size()));
  store_value(sizes.data() + 1, static_cast<std::uint16_t>(key.size()));
  store_value(sizes.data() + 3, static_cast<std::uint32_t>(value.size()));
  bytes.append(sizes.data(), sizes.size()).append(table).append(key).append(value);
}

}  // namespace

static_assert(kMaxTableName <= 0xff && kMaxKeySize <= 0xffff);

std::uint64_t Identity::tag() const {
  return parse_hex(uuid.substr(0, 16), 16).value_or(0);
}

std::string encode(const Identity& identity) {
  std::string out(kIdentityMagic);
  Writer writer(out);
  writer.u32(identity.version);
  writer.u32(identity.page_size);
  writer.bytes(identity.uuid);
  writer.i64(identity.created_wall_ns);
  return seal(std::move(out), kIdentitySize);
}

std::optional<Identity> decode_identity(std::string_view bytes, std::string& problem) {
  if (!open_sealed(bytes, kIdentitySize, kIdentityMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kIdentityMagic.size()));
  Identity identity;
  identity.version = reader.u32();
  identity.page_size = reader.u32();
  identity.uuid = reader.bytes(kUuidSize);
  identity.created_wall_ns = reader.i64();
  return identity;
}

std::string encode(const SegmentHeader& header) {
  std::string out(kSegmentMagic);
  Writer writer(out);
  writer.u32(kLogVersion);
  writer.u32(kPageSize);
  writer.bytes(header.uuid);
  writer.u64(header.epoch);
  writer.u64(header.first_lsn);
  writer.u32(header.previous_crc);
  writer.u32(0);
  writer.i64(header.created_wall_ns);
  std::string boot_id = header.boot_id;
  boot_id.resize(kBootIdSize, ' ');
  writer.bytes(boot_id);
  return seal(std::move(out), kPageSize);
}

std::optional<SegmentHeader> decode_segment_header(std::string_view bytes, std::string& problem) {
  if (!open_sealed(bytes, kPageSize, kSegmentMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kSegmentMagic.size()));
  const std::uint32_t version = reader.u32();
  if (version != kLogVersion) {
    problem = fmt::format("format version {}", version);
    return std::nullopt;
  }
  reader.u32();
  SegmentHeader header;
  header.uuid = reader.bytes(kUuidSize);
  header.epoch = reader.u64();
  header.first_lsn = reader.u64();
  header.previous_crc = reader.u32();
  reader.u32();
  header.created_wall_ns = reader.i64();
  header.boot_id = reader.bytes(kBootIdSize);
  return header;
}

std::string encode_log_head(const SegmentHeader& newest) {
  std::string out(kLogHeadMagic);
  Writer writer(out);
  writer.u32(kLogVersion);
  writer.u32(0);
  writer.bytes(newest.uuid);
  writer.u64(newest.epoch);
  writer.u64(newest.first_lsn);
  writer.i64(newest.created_wall_ns);
  std::string boot_id = newest.boot_id;
  boot_id.resize(kBootIdSize, ' ');
  writer.bytes(boot_id);
  return seal(std::move(out), kLogHeadSize);
}

std::optional<SegmentHeader> decode_log_head(std::string_view bytes, std::string& problem) {
  if (!open_sealed(bytes, kLogHeadSize, kLogHeadMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kLogHeadMagic.size()));
  const std::uint32_t version = reader.u32();
  if (version != kLogVersion) {
    problem = fmt::format("format version {}", version);
    return std::nullopt;
  }
  reader.u32();
  SegmentHeader newest;
  newest.uuid = reader.bytes(kUuidSize);
  newest.epoch = reader.u64();
  newest.first_lsn = reader.u64();
  newest.created_wall_ns = reader.i64();
  newest.boot_id = reader.bytes(kBootIdSize);
  return newest;
}

void encode(BlockHeader& header, std::string& out) {
  out.resize(out.size() + kBlockHeaderSize);
  encode(header, out.data() + out.size() - kBlockHeaderSize);
}

void encode(BlockHeader& header, char* to) {
  store_value<std::uint32_t>(to, kBlockMagic);
  store_value(to + 8, header.epoch);
  store_value(to + 16, header.first_lsn);
  store_value(to + 24, header.count);
  store_value(to + 28, header.payload_size);
  store_value(to + 32, header.durable_lsn);
  store_value(to + 40, header.previous_crc);
  store_value(to + 44, header.payload_crc);
  store_value(to + 48, header.store_tag);
  store_value<std::uint64_t>(to + 56, 0);
  header.header_crc = crc32c({to + 8, kBlockHeaderSize - 8});
  store_value(to + 4, header.header_crc);
}

std::optional<BlockHeader> decode_block_header(std::string_view bytes, std::string& problem) {
  if (bytes.size() < kBlockHeaderSize) {
    problem = "the file ends inside a block's header";
    return std::nullopt;
  }
  if (load<std::uint32_t>(bytes.data()) != kBlockMagic) {
    problem = "no block stands here";
    return std::nullopt;
  }
  const auto stored = load<std::uint32_t>(bytes.data() + 4);
  const std::uint32_t computed = crc32c(bytes.substr(8, kBlockHeaderSize - 8));
  if (stored != computed) {
    problem = fmt::format("block header checksum {:08x}, computed {:08x}", stored, computed);
    return std::nullopt;
  }
  return load_block_header(bytes.data());
}

BlockHeader load_block_header(const char* at) {
  BlockHeader header;
  header.header_crc = load<std::uint32_t>(at + 4);
  header.epoch = load<std::uint64_t>(at + 8);
  header.first_lsn = load<std::uint64_t>(at + 16);
  header.count = load<std::uint32_t>(at + 24);
  header.payload_size = load<std::uint32_t>(at + 28);
  header.durable_lsn = load<std::uint64_t>(at + 32);
  header.previous_crc = load<std::uint32_t>(at + 40);
  header.payload_crc = load<std::uint32_t>(at + 44);
  header.store_tag = load<std::uint64_t>(at + 48);
  return header;
}

std::string encode(const CheckpointHeader& header) {
  std::string out(kCheckpointMagic);
  Writer writer(out);
  writer.u32(kCheckpointVersion);
  writer.u32(kPageSize);
  writer.bytes(header.uuid);
  writer.u64(header.epoch);
  writer.u64(header.lsn);
  writer.u32(header.chain_crc);
  writer.u32(header.chain_known ? 1 : 0);
  writer.i64(header.created_wall_ns);
  return seal(std::move(out), kPageSize);
}

std::optional<CheckpointHeader> decode_checkpoint_header(std::string_view bytes,
                                                         std::string& problem) {
  if (!open_sealed(bytes, kPageSize, kCheckpointMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kCheckpointMagic.size()));
  const std::uint32_t version = reader.u32();
  if (version != kCheckpointVersion) {
    problem = fmt::format("format version {}", version);
    return std::nullopt;
  }
  reader.u32();
  CheckpointHeader header;
  header.uuid = reader.bytes(kUuidSize);
  header.epoch = reader.u64();
  header.lsn = reader.u64();
  header.chain_crc = reader.u32();
  header.chain_known = reader.u32() == 1;
  header.created_wall_ns = reader.i64();
  return header;
}

std::string encode(const CheckpointFooter& footer) {
  std::string out(kFooterMagic);
  Writer writer(out);
  writer.u64(footer.lsn);
  writer.u64(footer.records);
  writer.u64(footer.chunks);
  writer.u64(footer.file_size);
  return seal(std::move(out), kCheckpointFooterSize);
}

std::optional<CheckpointFooter> decode_checkpoint_footer(std::string_view bytes) {
  std::string problem;
  if (!open_sealed(bytes, kCheckpointFooterSize, kFooterMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kFooterMagic.size()));
  CheckpointFooter footer;
  footer.lsn = reader.u64();
  footer.records = reader.u64();
  footer.chunks = reader.u64();
  footer.file_size = reader.u64();
  return footer;
}

std::string encode(const ChunkHeader& header) {
  std::string out;
  Writer writer(out);
  writer.u32(kChunkMagic);
  writer.u32(header.records);
  writer.u32(header.payload_size);
  writer.u32(header.payload_crc);
  writer.u64(header.index);
  writer.u32(0);
  const std::uint32_t crc = crc32c(out);
  writer.u32(crc);
  DEFIB_ASSERT(out.size() == kChunkHeaderSize);
  return out;
}

std::optional<ChunkHeader> decode_chunk_header(std::string_view bytes) {
  if (bytes.size() < kChunkHeaderSize) return std::nullopt;
  Reader reader(bytes.substr(0, kChunkHeaderSize));
  if (reader.u32() != kChunkMagic) return std::nullopt;
  ChunkHeader header;
  header.records = reader.u32();
  header.payload_size = reader.u32();
  header.payload_crc = reader.u32();
  header.index = reader.u64();
  reader.u32();
  if (reader.u32() != crc32c(bytes.substr(0, kChunkHeaderSize - 4))) return std::nullopt;
  return header;
}

std::string encode(const CleanRecord& record) {
  std::string out(kCleanMagic);
  Writer writer(out);
  writer.u32(kFormatVersion);
  writer.bytes(record.uuid);
  writer.u64(record.lsn);
  writer.u64(record.epoch);
  writer.u64(record.manifest_sequence);
  return seal(std::move(out), kCleanSize);
}

std::optional<CleanRecord> decode_clean_record(std::string_view bytes, std::string& problem) {
  if (!open_sealed(bytes, kCleanSize, kCleanMagic, problem)) return std::nullopt;
  Reader reader(bytes.substr(kCleanMagic.size()));
  if (const std::uint32_t version = reader.u32(); version != kFormatVersion) {
    problem = fmt::format("format version {}", version);
    return std::nullopt;
  }
  CleanRecord record;
  record.uuid = reader.bytes(kUuidSize);
  record.lsn = reader.u64();
  record.epoch = reader.u64();
  record.manifest_sequence = reader.u64();
  return record;
}

std::string segment_name(std::uint64_t first_lsn, std::uint64_t epoch) {
  return fmt::format("{:016x}.{:08x}.wal", first_lsn, epoch);
}

std::string checkpoint_name(std::uint64_t lsn) {
  return fmt::format("checkpoint-{:016x}.ckpt", lsn);
}

std::optional<SegmentName> parse_segment_name(std::string_view name) {
  if (name.size() != 29 || name[16] != '.' || !name.ends_with(".wal")) return std::nullopt;
  const auto lsn = parse_hex(name.substr(0, 16), 16);
  const auto epoch = parse_hex(name.substr(17, 8), 8);
  if (!lsn || !epoch) return std::nullopt;
  return SegmentName{*lsn, *epoch};
}

std::optional<std::uint64_t> parse_checkpoint_name(std::string_view name) {
  if (!name.starts_with("checkpoint-") || !name.ends_with(".ckpt")) return std::nullopt;
  return parse_hex(name.substr(11, name.size() - 16), 16);
}

void TransactionEncoder::change(char operation, std::string_view table, std::string_view key,
                                std::string_view value) {
  if (bytes_.empty()) bytes_.resize(kBeginSize);  // Filled in by finish().
  bytes_ += operation;
  append_record_to(bytes_, table, key, value);
  ++changes_;
}

void TransactionEncoder::put(std::string_view table, std::string_view key, std::string_view value) {
  change(kPut, table, key, value);
}

void TransactionEncoder::erase(std::string_view table, std::string_view key) {
  change(kErase, table, key, {});
}

std::string_view TransactionEncoder::end(std::uint64_t number) {
  DEFIB_ASSERT(changes_ > 0);
  bytes_[0] = kBegin;
  store_value<std::uint64_t>(bytes_.data() + 1, number);
  store_value<std::uint32_t>(bytes_.data() + 9, changes_);
  bytes_ += kEnd;
  Writer(bytes_).u64(number);
  return bytes_;
}

std::string TransactionEncoder::finish(std::uint64_t number) {
  end(number);
  std::string done = std::move(bytes_);
  clear();
  return done;
}

void TransactionEncoder::clear() {
  bytes_.clear();
  changes_ = 0;
}

std::optional<std::vector<TransactionView>> decode_transactions(std::string_view payload,
                                                                std::uint64_t first_lsn,
                                                                std::uint32_t count,
                                                                std::string& problem) {
  Reader reader(payload);
  std::vector<TransactionView> transactions;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint64_t expected = first_lsn + i;
    const char begin = static_cast<char>(reader.u8());
    TransactionView transaction;
    transaction.number = reader.u64();
    const std::uint32_t changes = reader.u32();
    if (!reader.ok() || begin != kBegin || transaction.number != expected ||
        changes > reader.remaining()) {
      problem = fmt::format("transaction {} does not begin where it should", expected);
      return std::nullopt;
    }
    transaction.changes.resize(changes);
    for (RecordView& change : transaction.changes) {
      const char operation = static_cast<char>(reader.u8());
      change.erased = operation == kErase;
      if ((operation != kPut && operation != kErase) || !read_record(reader, change)) {
        problem = fmt::format("transaction {} has a malformed change", expected);
        return std::nullopt;
      }
    }
    if (static_cast<char>(reader.u8()) != kEnd || reader.u64() != expected || !reader.ok()) {
      problem = fmt::format("transaction {} has no end", expected);
      return std::nullopt;
    }
    transactions.push_back(std::move(transaction));
  }
  if (!reader.finished()) {
    problem = fmt::format("{} bytes after the last transaction", reader.remaining());
    return std::nullopt;
  }
  return transactions;
}

void append_record(std::string& chunk, std::string_view table, std::string_view key,
                   std::string_view value) {
  append_record_to(chunk, table, key, value);
}

std::optional<std::vector<RecordView>> decode_records(std::string_view payload,
                                                      std::uint32_t count) {
  if (count > payload.size()) return std::nullopt;
  Reader reader(payload);
  std::vector<RecordView> records(count);
  for (RecordView& record : records) {
    if (!read_record(reader, record)) return std::nullopt;
  }
  if (!reader.finished()) return std::nullopt;
  return records;
}

}  // namespace defib::store

#include "defib/store/legacy_checkpoint.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr std::string_view kCleanMagic = "DEFIBCLN";
constexpr std::size_t kCleanSize = 128;
constexpr std::uint32_t kLegacyVersion = 1;
constexpr std::size_t kReadStep = 1 << 20;
constexpr std::size_t kLargestChunk = (64 << 10) + kMaxValueSize + kMaxKeySize + 512;

Error corrupted(const std::string& path, std::string what) {
  return Error(Code::kCorrupted, fmt::format("checkpoint '{}': {}", path, what)).with("path", path);
}

// Reads forward through a buffer.
class Input {
 public:
  explicit Input(os::File& file) : file_(file) {}
  // The next `size` bytes, or fewer at the end of the file. Valid until the next call.
  Result<std::string_view> take(std::size_t size) {
    if (buffer_.size() - used_ < size) DEFIB_TRY(refill(size));
    const std::string_view bytes = std::string_view(buffer_).substr(used_, size);
    used_ += bytes.size();
    return bytes;
  }
  std::uint64_t position() const { return start_ + used_; }

 private:
  Result<> refill(std::size_t size) {
    buffer_.erase(0, used_);
    start_ += used_;
    used_ = 0;
    const std::size_t have = buffer_.size();
    const std::size_t want = std::max(size, kReadStep);
    buffer_.resize(want);
    DEFIB_TRY_ASSIGN(const std::size_t got,
                     file_.read_at(start_ + have, buffer_.data() + have, want - have));
    buffer_.resize(have + got);
    return {};
  }
  os::File& file_;
  std::string buffer_;
  std::size_t used_ = 0;
  std::uint64_t start_ = 0;
};

// One sound chunk at the reader's place, decoded, or Corrupted.
Result<std::vector<RecordView>> read_chunk(Input& input, std::uint64_t index,
                                           const std::string& path, std::string& payload) {
  const std::uint64_t at = input.position();
  DEFIB_TRY_ASSIGN(const std::string_view head, input.take(kChunkHeaderSize));
  const auto header = decode_chunk_header(head);
  if (!header || header->index != index || header->payload_size > kLargestChunk) {
    return corrupted(path, fmt::format("chunk {} at offset {} has a bad header", index, at));
  }
  const std::size_t padded =
      align_up(kChunkHeaderSize + header->payload_size, kBlockAlignment) - kChunkHeaderSize;
  DEFIB_TRY_ASSIGN(const std::string_view body, input.take(padded));
  payload = body.substr(0, header->payload_size);
  if (body.size() < padded || crc32c(payload) != header->payload_crc) {
    return corrupted(path, fmt::format("chunk {} at offset {} fails its checksum", index, at));
  }
  auto records = decode_records(payload, header->records);
  if (!records) {
    return corrupted(path, fmt::format("chunk {} at offset {} is malformed", index, at));
  }
  return *std::move(records);
}

Result<CheckpointFooter> read_footer(os::File& file, const std::string& path,
                                     const CheckpointHeader& header) {
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file.size());
  if (size >= kPageSize + kCheckpointFooterSize) {
    std::string tail(kCheckpointFooterSize, '\0');
    DEFIB_TRY_ASSIGN(const std::size_t got,
                     file.read_at(size - tail.size(), tail.data(), tail.size()));
    const auto footer = got == tail.size() ? decode_checkpoint_footer(tail) : std::nullopt;
    if (footer && footer->file_size == size && footer->lsn == header.lsn) return *footer;
  }
  return corrupted(path, "the footer is missing or damaged");
}

}  // namespace

Result<std::vector<std::string>> list_checkpoints(os::Files& files, const std::string& dir) {
  DEFIB_TRY_ASSIGN(std::vector<std::string> names, files.list(dir));
  std::erase_if(names, [](const std::string& name) { return !parse_checkpoint_name(name); });
  std::ranges::reverse(names);
  return names;
}

Result<CheckpointHeader> read_checkpoint_header(os::Files& files, const std::string& path,
                                                const Identity& identity) {
  DEFIB_TRY_ASSIGN(const auto file, files.open(path, os::OpenMode::kRead));
  std::string page(kPageSize, '\0');
  DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(0, page.data(), page.size()));
  page.resize(got);
  std::string problem;
  auto header = decode_checkpoint_header(page, problem);
  if (!header) return corrupted(path, "the header is unreadable: " + problem);
  if (header->uuid != identity.uuid) {
    return Error(Code::kInconsistentState,
                 fmt::format("checkpoint '{}' belongs to another store", path))
        .with("description", "a checkpoint carries the identity " + header->uuid)
        .with("diagnostics", "this store is " + identity.uuid)
        .with("recovery_suggestions", "move the foreign checkpoint out of the directory");
  }
  const std::string name = path.substr(path.rfind('/') + 1);
  if (parse_checkpoint_name(name) != header->lsn) {
    return corrupted(path, fmt::format("it is the checkpoint of commit {}", header->lsn));
  }
  return *std::move(header);
}

Result<std::uint64_t> read_checkpoint(os::Files& files, const std::string& path,
                                      const Identity& identity, const CheckpointSink& sink) {
  DEFIB_TRY_ASSIGN(const CheckpointHeader header, read_checkpoint_header(files, path, identity));
  DEFIB_TRY_ASSIGN(const auto file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const CheckpointFooter footer, read_footer(*file, path, header));
  Input input(*file);
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::string_view skipped, input.take(kPageSize));
  std::string payload;
  std::string last_table;
  std::string last_key;
  std::uint64_t records = 0;
  for (std::uint64_t chunk = 0; chunk < footer.chunks; ++chunk) {
    DEFIB_TRY_ASSIGN(const std::vector<RecordView> views, read_chunk(input, chunk, path, payload));
    for (const RecordView& record : views) {
      const bool in_order = records == 0 || std::tie(record.table, record.key) >
                                                std::make_tuple(std::string_view(last_table),
                                                                std::string_view(last_key));
      if (!in_order) {
        return corrupted(path, fmt::format("key '{}' of table '{}' is out of order",
                                           escape(record.key), escape(record.table)));
      }
      last_table = record.table;
      last_key = record.key;
      ++records;
      DEFIB_TRY(sink(record));
    }
  }
  const std::uint64_t footer_at = footer.file_size - kCheckpointFooterSize;
  if (input.position() != footer_at || records != footer.records) {
    return corrupted(path, fmt::format("{} records up to offset {}, the footer says {} up to {}",
                                       records, input.position(), footer.records, footer_at));
  }
  return records;
}

std::vector<CheckpointGap> salvage_checkpoint(std::string_view bytes,
                                              const std::function<void(const RecordView&)>& sink) {
  std::vector<CheckpointGap> gaps;
  std::string last_table;
  std::string last_key;
  bool in_gap = false;
  const auto open_gap = [&](std::uint64_t at) {
    if (!in_gap) {
      gaps.push_back({.offset = at,
                      .bytes = 0,
                      .after_table = last_table,
                      .after_key = last_key,
                      .before_table = {},
                      .before_key = {}});
    }
    in_gap = true;
  };
  const auto close_gap = [&](std::uint64_t at) {
    if (in_gap) gaps.back().bytes = at - gaps.back().offset;
    in_gap = false;
  };
  std::uint64_t at = kPageSize;
  while (at + kChunkHeaderSize <= bytes.size()) {
    if (bytes.size() - at == kCheckpointFooterSize && decode_checkpoint_footer(bytes.substr(at))) {
      close_gap(at);
      return gaps;
    }
    const auto header = decode_chunk_header(bytes.substr(at));
    const std::string_view body =
        bytes.substr(at + kChunkHeaderSize).substr(0, header ? header->payload_size : 0);
    const bool sound = header && header->records > 0 && body.size() == header->payload_size &&
                       crc32c(body) == header->payload_crc;
    const auto records = sound ? decode_records(body, header->records) : std::nullopt;
    if (!records) {
      open_gap(at);
      at += kBlockAlignment;
      continue;
    }
    if (in_gap) {
      gaps.back().before_table = records->front().table;
      gaps.back().before_key = records->front().key;
    }
    close_gap(at);
    for (const RecordView& record : *records) sink(record);
    last_table = records->back().table;
    last_key = records->back().key;
    at = align_up(at + kChunkHeaderSize + header->payload_size, kBlockAlignment);
  }
  // Without a footer nobody knows what followed.
  open_gap(at);
  close_gap(std::max<std::uint64_t>(at, bytes.size()));
  return gaps;
}

std::optional<CleanRecord> decode_legacy_clean_record(std::string_view bytes) {
  if (bytes.size() < kCleanSize || !bytes.starts_with(kCleanMagic)) return std::nullopt;
  const std::string_view sealed = bytes.substr(0, kCleanSize - sizeof(std::uint32_t));
  if (load<std::uint32_t>(sealed.data() + sealed.size()) != crc32c(sealed)) return std::nullopt;
  Reader reader(sealed.substr(kCleanMagic.size()));
  if (reader.u32() != kLegacyVersion) return std::nullopt;
  CleanRecord record;
  record.uuid = reader.bytes(kUuidSize);
  record.lsn = reader.u64();
  record.epoch = reader.u64();
  return record;
}

}  // namespace defib::store

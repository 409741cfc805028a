#include "defib/store/checkpoint.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr std::size_t kChunkTarget = 64 << 10;
constexpr std::size_t kWriteStep = 1 << 20;
// Dirty pages are handed to the device in such portions, so that the log's syncs never queue behind
// a whole checkpoint.
constexpr std::size_t kSyncStep = 8 << 20;
constexpr std::size_t kLargestChunk = kChunkTarget + kMaxValueSize + kMaxKeySize + 512;

Error corrupted(const std::string& path, std::string what) {
  return Error(Code::kCorrupted, fmt::format("checkpoint '{}': {}", path, what)).with("path", path);
}

class CheckpointOutput {
 public:
  CheckpointOutput(os::File& file, const std::function<void()>& between)
      : file_(file), between_(between) {}

  Result<> append(std::string_view bytes) {
    buffer_ += bytes;
    return buffer_.size() >= kWriteStep ? flush() : Result<>();
  }
  Result<> flush() {
    DEFIB_TRY(file_.write_at(written_, buffer_));
    written_ += buffer_.size();
    unsynced_ += buffer_.size();
    buffer_.clear();
    if (unsynced_ >= kSyncStep) {
      DEFIB_TRY(file_.sync());
      unsynced_ = 0;
    }
    if (between_) between_();
    return {};
  }
  std::uint64_t position() const { return written_ + buffer_.size(); }

 private:
  os::File& file_;
  const std::function<void()>& between_;
  std::string buffer_;
  std::uint64_t written_ = 0;
  std::uint64_t unsynced_ = 0;
};

class ChunkWriter {
 public:
  explicit ChunkWriter(CheckpointOutput& output) : output_(output) {}

  Result<> add(std::string_view table, const Record& record) {
    append_record(payload_, table, record.key(), record.value());
    ++in_chunk_;
    ++records_;
    return payload_.size() >= kChunkTarget ? flush() : Result<>();
  }
  Result<> flush() {
    if (in_chunk_ == 0) return {};
    ChunkHeader header;
    header.index = chunks_++;
    header.records = in_chunk_;
    header.payload_size = static_cast<std::uint32_t>(payload_.size());
    header.payload_crc = crc32c(payload_);
    DEFIB_TRY(output_.append(encode(header)));
    payload_.resize(align_up(kChunkHeaderSize + payload_.size(), kBlockAlignment) -
                    kChunkHeaderSize);
    DEFIB_TRY(output_.append(payload_));
    payload_.clear();
    in_chunk_ = 0;
    return {};
  }
  std::uint64_t records() const { return records_; }
  std::uint64_t chunks() const { return chunks_; }

 private:
  CheckpointOutput& output_;
  std::string payload_;
  std::uint32_t in_chunk_ = 0;
  std::uint64_t records_ = 0;
  std::uint64_t chunks_ = 0;
};

Result<std::uint64_t> write_content(os::File& file, const CheckpointHeader& header,
                                    const Catalog& catalog, const std::function<void()>& between) {
  DEFIB_TRY(file.truncate(0));
  CheckpointOutput output(file, between);
  DEFIB_TRY(output.append(encode(header)));
  ChunkWriter chunks(output);
  for (const TableState& table : catalog.tables) {
    TreeCursor cursor(table.tree);
    for (bool more = cursor.first(); more; more = cursor.next()) {
      DEFIB_TRY(chunks.add(table.name, cursor.record()));
    }
  }
  DEFIB_TRY(chunks.flush());
  CheckpointFooter footer;
  footer.lsn = header.lsn;
  footer.records = chunks.records();
  footer.chunks = chunks.chunks();
  footer.file_size = output.position() + kCheckpointFooterSize;
  DEFIB_TRY(output.append(encode(footer)));
  DEFIB_TRY(output.flush());
  DEFIB_TRY(file.sync());
  return footer.file_size;
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
    const std::size_t want = std::max(size, kWriteStep);
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

// Collects records in order into trees, one table after the other.
class CatalogBuilder {
 public:
  ~CatalogBuilder() {
    for (TableState& table : catalog_.tables) destroy(table.tree);
  }
  bool add(const RecordView& record) {
    if (record.table != table_ || !started_) {
      if (started_ && record.table < table_) return false;
      close_table();
      table_ = record.table;
      started_ = true;
      builder_ = std::make_unique<TreeBuilder>();
    }
    return builder_->append(record.key, record.value);
  }
  Catalog finish(std::uint64_t position) {
    close_table();
    catalog_.position = position;
    return std::exchange(catalog_, {});
  }

 private:
  void close_table() {
    if (started_) catalog_.tables.push_back({table_, builder_->finish()});
  }
  Catalog catalog_;
  std::string table_;
  bool started_ = false;
  std::unique_ptr<TreeBuilder> builder_;
};

// One sound chunk at the reader's place, decoded; an Error in words where it is not.
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

}  // namespace

Result<std::uint64_t> write_checkpoint(os::Files& files, const std::string& dir,
                                       const CheckpointHeader& header, const Catalog& catalog,
                                       const std::function<void()>& between) {
  const std::string path = os::join_path(dir, checkpoint_name(header.lsn));
  const std::string temporary = path + ".tmp";
  std::uint64_t size = 0;
  {
    DEFIB_TRY_ASSIGN(const auto file, files.open(temporary, os::OpenMode::kCreate));
    auto written = write_content(*file, header, catalog, between);
    if (!written) {
      if (written.error().code() == Code::kNoSpace) (void)files.remove(temporary);
      return Error(std::move(written.error()));
    }
    size = *written;
  }
  DEFIB_TRY(files.rename(temporary, path));
  DEFIB_TRY(files.sync_dir(dir));
  return size;
}

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

Result<Catalog> read_checkpoint(os::Files& files, const std::string& path, const Identity& identity,
                                const Pulse& pulse) {
  DEFIB_TRY_ASSIGN(const CheckpointHeader header, read_checkpoint_header(files, path, identity));
  DEFIB_TRY_ASSIGN(const auto file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  const auto footer_at =
      size < kPageSize + kCheckpointFooterSize ? 0 : size - kCheckpointFooterSize;
  std::string tail(kCheckpointFooterSize, '\0');
  DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(footer_at, tail.data(), tail.size()));
  const auto footer = got == tail.size() ? decode_checkpoint_footer(tail) : std::nullopt;
  if (footer_at == 0 || !footer || footer->file_size != size || footer->lsn != header.lsn) {
    return corrupted(path, "the footer is missing or damaged");
  }
  Input input(*file);
  DEFIB_TRY_ASSIGN([[maybe_unused]] const std::string_view skipped, input.take(kPageSize));
  CatalogBuilder builder;
  std::string payload;
  std::uint64_t records = 0;
  for (std::uint64_t chunk = 0; chunk < footer->chunks; ++chunk) {
    DEFIB_TRY_ASSIGN(const std::vector<RecordView> views, read_chunk(input, chunk, path, payload));
    for (const RecordView& record : views) {
      if (!builder.add(record)) {
        return corrupted(path, fmt::format("key '{}' of table '{}' is out of order",
                                           escape(record.key), escape(record.table)));
      }
    }
    records += views.size();
    if (pulse) DEFIB_TRY(pulse(input.position()));
  }
  if (input.position() != footer_at || records != footer->records) {
    return corrupted(path, fmt::format("{} records up to offset {}, the footer says {} up to {}",
                                       records, input.position(), footer->records, footer_at));
  }
  return builder.finish(header.lsn);
}

std::vector<std::string> salvage_checkpoint(std::string_view bytes,
                                            const std::function<void(const RecordView&)>& sink) {
  std::vector<std::string> losses;
  std::string last_key = "(start)";
  bool in_gap = false;
  std::uint64_t at = kPageSize;
  while (at + kChunkHeaderSize <= bytes.size()) {
    if (bytes.size() - at == kCheckpointFooterSize && decode_checkpoint_footer(bytes.substr(at))) {
      if (in_gap) losses.back() += " up to the end";
      return losses;
    }
    const auto header = decode_chunk_header(bytes.substr(at));
    const std::string_view body =
        bytes.substr(at + kChunkHeaderSize).substr(0, header ? header->payload_size : 0);
    const bool sound = header && header->records > 0 && body.size() == header->payload_size &&
                       crc32c(body) == header->payload_crc;
    const auto records = sound ? decode_records(body, header->records) : std::nullopt;
    if (!records) {
      if (!in_gap) {
        losses.push_back(fmt::format("checkpoint records after {} (offset {})", last_key, at));
      }
      in_gap = true;
      at += kBlockAlignment;
      continue;
    }
    for (const RecordView& record : *records) sink(record);
    const std::string first =
        fmt::format("{}/{}", escape(records->front().table), escape(records->front().key));
    if (in_gap) losses.back() += " before " + first;
    in_gap = false;
    last_key = fmt::format("{}/{}", escape(records->back().table), escape(records->back().key));
    at = align_up(at + kChunkHeaderSize + header->payload_size, kBlockAlignment);
  }
  if (!in_gap) losses.push_back(fmt::format("checkpoint records after {}", last_key));
  losses.back() += " up to the end of the file";
  return losses;
}

}  // namespace defib::store

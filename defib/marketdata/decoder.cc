#include "defib/marketdata/decoder.h"

#include <fmt/format.h>

#include <algorithm>

#include "defib/marketdata/zstd_stream.h"

namespace defib::marketdata {
namespace {

constexpr std::size_t kMagicSize = 4;
constexpr std::uint32_t kZstdMagic = 0xFD2FB528;
constexpr std::uint32_t kSkippableMagic = 0x184D2A50;  // and the 15 numbers after it

Error truncated(std::uint64_t offset, std::string what) {
  return Error(Code::kDbnTruncated, fmt::format("the DBN data ends at byte {}, {}", offset, what))
      .with("offset", static_cast<std::int64_t>(offset));
}

Error not_dbn(std::string_view begin, bool skippable_first) {
  if (skippable_first) {
    return Error(Code::kDbnUnsupported, "this is the legacy DBZ encoding, which came before DBN")
        .with("offset", 0);
  }
  return Error(Code::kDbnMalformed,
               fmt::format("the data does not begin with DBN or zstd, but with the bytes {}",
                           to_hex(as_bytes(begin.substr(0, kMagicSize)))))
      .with("offset", 0)
      .suggest("check that this is a DBN file; for records without metadata say --fragment");
}

// How many bytes are missing of the record that begins so; its header may be all that is known.
std::size_t missing(std::string_view begin) {
  std::size_t size = sizeof(RecordHeader);
  if (!begin.empty()) size = std::max(size, std::size_t{static_cast<std::uint8_t>(begin[0])} * 4);
  return size > begin.size() ? size - begin.size() : 0;
}

}  // namespace

struct Decoder::Unpacker {
  explicit Unpacker(int max_window_log, std::string the_head)
      : decompressor(max_window_log), head(std::move(the_head)), head_left(head) {}
  Decompressor decompressor;
  std::string head;  // of the input, which was looked at to recognize it
  std::string_view head_left;
  std::array<char, kBlockSize> block;

  Result<std::size_t> next(std::string_view& input) {
    if (!head_left.empty()) {
      DEFIB_TRY_ASSIGN(const std::size_t size,
                       decompressor.next(head_left, block.data(), block.size()));
      if (size > 0) return size;
    }
    return decompressor.next(input, block.data(), block.size());
  }
};

Decoder::Decoder(DecoderOptions options)
    : options_(options), version_(options.version), ts_out_(options.ts_out) {
  DEFIB_ASSERT(options.version <= kNewestVersion);
  carry_.reserve(kMaxRecordSize);
}
Decoder::~Decoder() = default;
Decoder::Decoder(Decoder&&) noexcept = default;
Decoder& Decoder::operator=(Decoder&&) noexcept = default;

Error Decoder::fail(Error error) {
  error_ = std::move(error);
  walk_ = RecordWalk();
  return *error_;
}

Result<> Decoder::feed(std::string_view bytes) {
  if (error_) return *error_;
  DEFIB_ASSERT_MESSAGE(input_.empty() && !finished_, "feed() before next() returned nullopt");
  input_ = bytes;
  return {};
}

Result<std::optional<RecordView>> Decoder::next_slowly() {
  if (error_) return *error_;
  while (true) {
    if (stage_ != Stage::kRecords) {
      const Result<bool> ready = prepare();
      if (!ready) return fail(ready.error());
      if (!*ready) return std::optional<RecordView>();
    }
    RecordView view;
    if (walk_.next(view)) {
      ++records_;
      return std::optional<RecordView>(upgrading_ ? upgrade_to_v3(view, upgraded_) : view);
    }
    if (walk_.refused()) {
      if (const auto decided = decide_layout(); !decided) return fail(decided.error());
      continue;
    }
    const Result<bool> more = refill();
    if (!more) return fail(more.error());
    if (!*more) return std::optional<RecordView>();
  }
}

Result<bool> Decoder::prepare() {
  if (stage_ == Stage::kSniff) {
    DEFIB_TRY_ASSIGN(const bool known, sniff());
    if (!known) return false;
  }
  if (stage_ == Stage::kMetadata) return gather_metadata();
  return true;
}

// The first bytes decide whether the input is compressed.
Result<bool> Decoder::sniff() {
  const std::size_t count = std::min(kMagicSize - carry_.size(), input_.size());
  carry_.append(input_.substr(0, count));
  input_.remove_prefix(count);
  if (carry_.size() < kMagicSize) return false;
  const auto magic = load<std::uint32_t>(carry_.data());
  skippable_first_ = (magic & ~0xFU) == kSkippableMagic;
  if (magic == kZstdMagic || skippable_first_) {
    unpacker_ = std::make_unique<Unpacker>(options_.max_window_log, carry_);
    carry_.clear();
  } else {
    block_end_ = carry_.size();
  }
  if (!options_.fragment) {
    stage_ = Stage::kMetadata;
    return true;
  }
  DEFIB_TRY(start_records());
  return true;
}

// Appends to carry_ until the metadata is whole. What is announced is never reserved before it has
// come: a header can lie.
Result<bool> Decoder::gather_metadata() {
  MetadataPrefix prefix;
  std::size_t wanted = kMetadataPrefixSize;
  while (true) {
    if (carry_.size() >= kMagicSize && !carry_.starts_with("DBN")) {
      return not_dbn(carry_, skippable_first_);
    }
    if (carry_.size() >= kMetadataPrefixSize) {
      DEFIB_TRY_ASSIGN(prefix, decode_metadata_prefix(carry_, options_.max_metadata_size));
      wanted = kMetadataPrefixSize + prefix.size;
      if (carry_.size() == wanted) break;
    }
    if (block_.empty()) {
      DEFIB_TRY_ASSIGN(const bool more, next_block());
      if (!more) return false;
    }
    const std::size_t count = std::min(wanted - carry_.size(), block_.size());
    carry_.append(block_.substr(0, count));
    block_.remove_prefix(count);
  }
  DEFIB_TRY_ASSIGN(
      metadata_,
      decode_metadata(prefix.version, std::string_view(carry_).substr(kMetadataPrefixSize)));
  version_ = metadata_->version;
  ts_out_ = metadata_->ts_out;
  window_offset_ = carry_.size();
  carry_ = std::string();  // its memory, which may be large
  carry_.reserve(kMaxRecordSize);
  DEFIB_TRY(start_records());
  return true;
}

Result<> Decoder::start_records() {
  stage_ = Stage::kRecords;
  walk_ = RecordWalk(carry_, Layout::of(version_, ts_out_));
  in_carry_ = true;
  upgrading_ = options_.upgrade == UpgradePolicy::kUpgradeToV3 && version_ != kNewestVersion;
  if (metadata_ && upgrading_) {
    metadata_->version = kNewestVersion;
    metadata_->symbol_size = kSymbolSize;
  }
  return {};
}

// A fragment tells its version and ts_out by its records' lengths.
Result<> Decoder::decide_layout() {
  const std::string_view at = walk_.rest();
  const auto rtype = static_cast<std::uint8_t>(at[1]);
  const auto words = static_cast<std::uint8_t>(at[0]);
  const Layout& before = Layout::of(version_, ts_out_);
  const auto hint = guess_layout(static_cast<RType>(rtype), words);
  if (before.words[rtype] != Layout::kUndecided || !hint) return walk_.refusal(window_offset_);
  if (version_ == 0) version_ = hint->version;
  ts_out_ = hint->ts_out;
  const Layout& after = Layout::of(version_, ts_out_);
  walk_.set_layout(after);
  if (after.words[rtype] != words) {
    RecordView view;
    DEFIB_ASSERT(!walk_.next(view) && walk_.refused());
    return walk_.refusal(window_offset_);
  }
  if (version_ == kNewestVersion) upgrading_ = false;
  return {};
}

// Lets the walk stand on more bytes. False where there are none. Precondition: it stands at the end
// of its bytes, or in front of a record that is not complete.
Result<bool> Decoder::refill() {
  const std::string_view tail = walk_.rest();
  window_offset_ += walk_.walked();
  const Layout& layout = Layout::of(version_, ts_out_);
  if (!in_carry_) {
    carry_.assign(tail);
    in_carry_ = true;
  } else if (tail.empty()) {
    carry_.clear();
  }
  walk_ = RecordWalk(carry_, layout);
  while (true) {
    if (block_.empty()) {
      DEFIB_TRY_ASSIGN(const bool more, next_block());
      if (!more) return false;
    }
    if (carry_.empty()) {
      walk_ = RecordWalk(std::exchange(block_, {}), layout);
      in_carry_ = false;
      return true;
    }
    const std::size_t count = std::min(missing(carry_), block_.size());
    carry_.append(block_.substr(0, count));
    block_.remove_prefix(count);
    walk_ = RecordWalk(carry_, layout);
    // Also a header alone is looked at, which may be refused.
    if (missing(carry_) == 0) return true;
  }
}

// More uncompressed bytes into block_; false where the input is used up.
Result<bool> Decoder::next_block() {
  if (unpacker_ == nullptr) {
    block_ = std::exchange(input_, {});
  } else {
    DEFIB_TRY_ASSIGN(const std::size_t size, unpacker_->next(input_));
    block_ = std::string_view(unpacker_->block.data(), size);
  }
  block_end_ += block_.size();
  if (options_.max_size != 0 && block_end_ > options_.max_size) {
    return Error(Code::kLimitExceeded,
                 fmt::format("the DBN data is larger than {} bytes", options_.max_size))
        .with("offset", static_cast<std::int64_t>(options_.max_size))
        .with("limit", static_cast<std::int64_t>(options_.max_size));
  }
  return !block_.empty();
}

Result<> Decoder::finish() {
  if (error_) return *error_;
  finished_ = true;
  if (auto whole = check_end(); !whole) return fail(std::move(whole.error()));
  return {};
}

Result<> Decoder::check_end() const {
  DEFIB_ASSERT_MESSAGE(input_.empty(), "finish() before next() returned nullopt");
  if (unpacker_ != nullptr && !unpacker_->decompressor.at_frame_end()) {
    return truncated(block_end_, "inside of a compressed frame")
        .with("compressed_offset", static_cast<std::int64_t>(unpacker_->decompressor.consumed()));
  }
  if (stage_ == Stage::kSniff) {
    if (!carry_.empty()) return truncated(carry_.size(), "before it can be recognized");
    if (options_.fragment) return {};
    return Error(Code::kDbnMalformed, "there is no data at all").with("offset", 0);
  }
  if (stage_ == Stage::kMetadata) return truncated(block_end_, "inside of its metadata");
  if (const std::size_t rest = walk_.rest().size(); rest > 0) {
    return truncated(block_end_, fmt::format("{} bytes into a record", rest));
  }
  return {};
}

Result<Document> open_document(std::string_view bytes, std::size_t max_metadata_size) {
  if (bytes.size() < kMagicSize) return truncated(bytes.size(), "before it can be recognized");
  if (!bytes.starts_with("DBN")) return not_dbn(bytes, false);
  if (bytes.size() < kMetadataPrefixSize) return truncated(bytes.size(), "inside of its metadata");
  DEFIB_TRY_ASSIGN(const MetadataPrefix prefix, decode_metadata_prefix(bytes, max_metadata_size));
  const std::size_t records_offset = kMetadataPrefixSize + prefix.size;
  if (bytes.size() < records_offset) return truncated(bytes.size(), "inside of its metadata");
  DEFIB_TRY_ASSIGN(Metadata metadata,
                   decode_metadata(prefix.version, bytes.substr(kMetadataPrefixSize, prefix.size)));
  const Layout& layout = Layout::of(metadata.version, metadata.ts_out);
  return Document{std::move(metadata), RecordWalk(bytes.substr(records_offset), layout),
                  records_offset};
}

}  // namespace defib::marketdata

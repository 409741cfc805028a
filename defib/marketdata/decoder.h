// Decoder: DBN from bytes as they come: feed bytes, pull records.
//
//   Decoder decoder;
//   DEFIB_TRY(decoder.feed(bytes));              // as often as there are bytes
//   while (true) {
//     DEFIB_TRY_ASSIGN(const auto record, decoder.next());
//     if (!record) break;                        // more bytes are needed
//     use(record->get_if<MboMsg>());
//   }
//   decoder.finish();                            // no more bytes: is what came whole?
//
// Raw DBN is not copied: records are views of the fed bytes, except for the one that lies across
// two pieces. Compressed DBN (recognized by its first bytes) is unpacked in blocks of kBlockSize. A
// view is valid until the next call of next() or feed(), and the fed bytes must live until next()
// returned nullopt.
//
// Errors are final: each later call returns the same one. They name the byte offset in the
// uncompressed data (field "offset"), or the one in the compressed where that is damaged (field
// "compressed_offset"). Records before the error have been delivered and are valid.
// Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/marketdata/metadata.h"
#include "defib/marketdata/walk.h"

namespace defib::marketdata {

enum class UpgradePolicy : std::uint8_t {
  kAsIs,         // records have the structs of the file's version
  kUpgradeToV3,  // older structs become the newest ones, and the metadata says version 3
};

struct DecoderOptions {
  // Records without metadata in front of them (`.frag`).
  bool fragment = false;
  // Of a fragment. 0: from the first record whose length tells it; the length of a definition,
  // statistics, mapping, error or system record does, and all others are equal in every version.
  std::uint8_t version = 0;
  // Of a fragment. nullopt: from the length of its first record of a known type.
  std::optional<bool> ts_out{};
  UpgradePolicy upgrade = UpgradePolicy::kAsIs;
  std::size_t max_metadata_size = 64 << 20;  // larger metadata is refused
  int max_window_log = 27;                   // of zstd: 128 MiB
  // LimitExceeded beyond so many bytes of uncompressed data, against compression bombs; 0: none.
  std::uint64_t max_size = 0;
};

class Decoder {
 public:
  static constexpr std::size_t kBlockSize = 128 << 10;

  explicit Decoder(DecoderOptions options = {});
  ~Decoder();
  Decoder(Decoder&&) noexcept;
  Decoder& operator=(Decoder&&) noexcept;

  // Precondition: next() has returned nullopt since the last call.
  Result<> feed(std::string_view bytes);
  // nullopt: more bytes are needed (or, after finish(), none are left).
  Result<std::optional<RecordView>> next() {
    RecordView view;
    if (!upgrading_ && walk_.next(view)) [[likely]] {
      ++records_;
      return std::optional<RecordView>(view);
    }
    return next_slowly();
  }
  // The fast way: calls `on_record`, bool(const RecordView&), for each record that is there. False
  // where it returned false, after that record; else as nullopt of next().
  template <typename OnRecord>
  Result<bool> drain(OnRecord&& on_record) {
    while (true) {
      if (!upgrading_) {
        RecordWalk walk = walk_;  // in registers
        RecordView view;
        std::uint64_t count = 0;
        bool go_on = true;
        while (go_on && walk.next(view)) {
          ++count;
          go_on = on_record(std::as_const(view));
        }
        walk_ = walk;
        records_ += count;
        if (!go_on) return false;
      }
      auto more = next_slowly();
      if (!more) return std::move(more.error());
      if (!*more) return true;
      if (!on_record(std::as_const(**more))) return false;
    }
  }
  // DbnTruncated where the data ends inside of something, DbnMalformed where there was none at all.
  Result<> finish();

  // nullptr until it has been decoded, and always for a fragment.
  const Metadata* metadata() const { return metadata_ ? &*metadata_ : nullptr; }
  // Of the records: 0 where it is not known (yet).
  std::uint8_t version() const { return version_; }
  std::uint64_t records() const { return records_; }
  // Of the next record in the uncompressed data.
  std::uint64_t offset() const { return window_offset_ + walk_.walked(); }

 private:
  struct Unpacker;
  enum class Stage : std::uint8_t { kSniff, kMetadata, kRecords };

  Result<std::optional<RecordView>> next_slowly();
  Result<bool> prepare();
  Result<bool> sniff();
  Result<bool> gather_metadata();
  Result<> start_records();
  Result<> decide_layout();
  Result<bool> refill();
  Result<bool> next_block();
  Result<> check_end() const;
  Error fail(Error error);

  DecoderOptions options_;
  Stage stage_ = Stage::kSniff;
  bool upgrading_ = false;
  bool in_carry_ = true;  // the walk is over carry_
  bool skippable_first_ = false;
  bool finished_ = false;
  std::uint8_t version_ = 0;
  std::optional<bool> ts_out_;
  RecordWalk walk_;
  std::uint64_t window_offset_ = 0;  // of the walk's first byte in the uncompressed data
  std::uint64_t block_end_ = 0;      // of the last block in the uncompressed data
  std::uint64_t records_ = 0;
  std::string_view input_;              // fed, not yet used
  std::string_view block_;              // uncompressed, not yet walked over
  std::string carry_;                   // the begin of something whose end has not come
  std::unique_ptr<Unpacker> unpacker_;  // nullptr: the input is not compressed
  std::optional<Metadata> metadata_;
  std::optional<Error> error_;
  std::vector<char> upgraded_;
};

// The same for a whole file in memory.
struct Document {
  std::optional<Metadata> metadata;
  RecordWalk records;            // zero-copy; check refused() and rest() at its end
  std::uint64_t records_offset;  // of the first record in the file
};
// Raw DBN with metadata only. `bytes` outlives the result.
Result<Document> open_document(std::string_view bytes, std::size_t max_metadata_size = 64 << 20);

// `record` as the newest struct, which is put into `out`, ts_out included. Records that no version
// changed are returned as they are.
RecordView upgrade_to_v3(const RecordView& record, std::vector<char>& out);

}  // namespace defib::marketdata

// The zero-copy walk over DBN records that lie in memory.
//
// RecordView is one record where it lies; RecordWalk goes from record to record. The walk is what
// every reader of this module goes through, and it is the one place that decides whether bytes are
// a record: the length of a known type must be the one that its version prescribes, that of an
// unknown type at least a header's. So a walk always advances, and never reads outside of its
// bytes.
//
// Records need no alignment: get<T>() copies the struct out of the bytes, which the compiler turns
// into plain loads of the fields that are used.
// Thread rule: plain values over memory that the caller keeps alive and unchanged.

#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/base/error.h"
#include "defib/marketdata/records.h"

namespace defib::marketdata {

class RecordView {
 public:
  RecordView() = default;
  // `bytes` holds a whole record that has been checked.
  RecordView(const char* bytes, bool has_ts_out) : bytes_(bytes), has_ts_out_(has_ts_out) {}

  RecordHeader header() const { return load<RecordHeader>(bytes_); }
  std::size_t size() const { return std::size_t{static_cast<std::uint8_t>(bytes_[0])} * 4; }
  RType rtype() const { return static_cast<RType>(bytes_[1]); }
  std::uint16_t publisher_id() const { return load<std::uint16_t>(bytes_ + 2); }
  std::uint32_t instrument_id() const { return load<std::uint32_t>(bytes_ + 4); }
  std::uint64_t ts_event() const { return load<std::uint64_t>(bytes_ + 8); }
  std::string_view bytes() const { return {bytes_, size()}; }

  // When the gateway sent it: appended to each record where the metadata says ts_out.
  bool has_ts_out() const { return has_ts_out_; }
  std::uint64_t ts_out() const {
    return has_ts_out_ ? load<std::uint64_t>(bytes_ + size() - 8) : kUndefTime;
  }
  // Without ts_out.
  std::size_t body_size() const { return size() - (has_ts_out_ ? 8 : 0); }

  // Whether this is a T, also of T's version: of equal rtypes the size tells the version.
  template <typename T>
  bool holds() const {
    return T::has_rtype(rtype()) && body_size() == sizeof(T);
  }
  // Precondition: holds<T>().
  template <typename T>
  T get() const {
    DEFIB_ASSERT(holds<T>());
    return load<T>(bytes_);
  }
  template <typename T>
  std::optional<T> get_if() const {
    return holds<T>() ? std::optional<T>(load<T>(bytes_)) : std::nullopt;
  }

  // The time by which records are ordered and instruments are looked up: ts_recv where the type has
  // it, else ts_event. kUndefTime where neither is set.
  std::uint64_t index_ts() const;

 private:
  const char* bytes_ = nullptr;
  bool has_ts_out_ = false;
};

// The length that each type has in one version of DBN.
struct Layout {
  // Beyond what a record's length byte can say, so that no record has them by chance.
  static constexpr std::uint16_t kUnknownType = 256;  // any length of a header and more
  static constexpr std::uint16_t kUndecided = 257;    // a record of this type tells more

  Layout() { words.fill(kUnknownType); }
  std::array<std::uint16_t, 256> words;  // of 4 bytes
  bool ts_out = false;

  // `version` 1 to 3, or 0 where it is not known yet: then the types that differ are undecided, and
  // all known ones where it is not known whether ts_out is appended.
  static const Layout& of(std::uint8_t version, std::optional<bool> ts_out);
};

class RecordWalk {
 public:
  RecordWalk() = default;
  // `layout` outlives the walk.
  RecordWalk(std::string_view bytes, const Layout& layout)
      : position_(bytes.data()),
        end_(bytes.data() + bytes.size()),
        begin_(bytes.data()),
        layout_(&layout) {}

  // False at the end, at a record that is not complete, and at one that is refused(); the walk then
  // stands in front of it.
  bool next(RecordView& view) {
    const char* at = position_;
    if (end_ - at < static_cast<std::ptrdiff_t>(sizeof(RecordHeader))) return false;
    const auto words = static_cast<std::uint8_t>(at[0]);
    const std::uint16_t expected = layout_->words[static_cast<std::uint8_t>(at[1])];
    if (words != expected) [[unlikely]] {
      if (!is_unknown_type(at, expected)) {
        refused_ = true;
        return false;
      }
    }
    const std::ptrdiff_t size = std::ptrdiff_t{words} * 4;
    if (end_ - at < size) return false;
    position_ = at + size;
    view = RecordView(at, layout_->ts_out);
    return true;
  }

  // What next() stopped at is no record of this layout; refusal() says why.
  bool refused() const { return refused_; }
  // `base` is the offset of the walk's first byte in the whole.
  Error refusal(std::uint64_t base) const;
  // Goes on with another layout where the last was undecided.
  void set_layout(const Layout& layout) {
    layout_ = &layout;
    refused_ = false;
  }

  std::string_view rest() const { return {position_, static_cast<std::size_t>(end_ - position_)}; }
  // Bytes walked over.
  std::size_t walked() const { return static_cast<std::size_t>(position_ - begin_); }

 private:
  bool is_unknown_type(const char* at, std::uint16_t expected) const;

  const char* position_ = nullptr;
  const char* end_ = nullptr;
  const char* begin_ = nullptr;
  const Layout* layout_ = nullptr;
  bool refused_ = false;
};

// The version (1 to 3) and whether ts_out is appended, as far as one record's type and length tell
// them; of most types every version has the same. nullopt where no version has such a record.
struct LayoutHint {
  std::uint8_t version = 0;  // 0: any
  bool ts_out = false;
};
std::optional<LayoutHint> guess_layout(RType rtype, std::uint8_t words);

}  // namespace defib::marketdata

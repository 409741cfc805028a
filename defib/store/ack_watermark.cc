#include "defib/store/ack_watermark.h"

#include <algorithm>

#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr unsigned kLsnBits = 48;
constexpr std::uint64_t kLsnMask = (1ULL << kLsnBits) - 1;

// Of all that the word is about but the commit, so that an acknowledgement costs one step more.
std::uint32_t check_of(const SegmentHeader& segment) {
  std::string about;
  Writer writer(about);
  writer.u64(segment.epoch);
  writer.u64(segment.first_lsn);
  writer.i64(segment.created_wall_ns);
  writer.bytes(segment.boot_id);
  return crc32c(about);
}

std::uint64_t word_of(std::uint64_t lsn, std::uint32_t check) {
  if (lsn > kLsnMask) return 0;
  const std::uint32_t crc =
      crc32c(std::string_view(reinterpret_cast<const char*>(&lsn), sizeof lsn), check);
  const auto folded = static_cast<std::uint16_t>(crc ^ (crc >> 16));
  return lsn | (std::uint64_t{folded} << kLsnBits);
}

}  // namespace

std::string ack_page_name(std::string_view uuid) {
  return "defib-" + std::string(uuid);
}

std::uint64_t encode_ack(std::uint64_t lsn, const SegmentHeader& segment) {
  return word_of(lsn, check_of(segment));
}

std::optional<std::uint64_t> decode_ack(std::uint64_t word, const SegmentHeader& segment,
                                        std::string_view boot_id) {
  const std::uint64_t lsn = word & kLsnMask;
  if (word == 0 || segment.boot_id != boot_id || encode_ack(lsn, segment) != word) {
    return std::nullopt;
  }
  return lsn;
}

std::uint64_t read_ack_word(os::Files& files, std::string_view uuid) {
  const auto page = files.find_volatile_page(ack_page_name(uuid));
  return page && *page != nullptr ? (*page)->load(kAckWord) : 0;
}

void remove_ack_word(os::Files& files, std::string_view uuid) {
  // Left behind it is as harmless as any word of another segment.
  (void)files.remove_volatile_page(ack_page_name(uuid));
}

AckWatermark::AckWatermark(os::Files& files, std::string_view uuid) {
  if (auto page = files.volatile_page(ack_page_name(uuid))) page_ = *std::move(page);
}

void AckWatermark::begin(const SegmentHeader& segment, std::uint64_t lsn) {
  if (page_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  check_ = check_of(segment);
  lsn_ = std::max(lsn_, lsn);
  page_->store(kAckWord, word_of(lsn_, *check_));
}

void AckWatermark::acknowledge(std::uint64_t lsn) {
  if (page_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  if (lsn <= lsn_ || !check_) return;
  lsn_ = lsn;
  page_->store(kAckWord, word_of(lsn, *check_));
}

}  // namespace defib::store

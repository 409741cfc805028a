#include "defib/store/failure_note.h"

#include "defib/base/bytes.h"
#include "defib/store/ack_watermark.h"

namespace defib::store {

std::uint64_t encode_failure(std::string_view uuid, std::string_view boot_id) {
  const std::uint32_t high = crc32c(boot_id, crc32c(uuid));
  const std::uint32_t low = crc32c(uuid, crc32c(boot_id, crc32c("failed")));
  const std::uint64_t word = std::uint64_t{high} << 32 | low;
  return word == 0 ? 1 : word;
}

FailureNote::FailureNote(os::Files& files, std::string_view uuid, std::string_view boot_id)
    : word_(encode_failure(uuid, boot_id)) {
  if (auto page = files.volatile_page(ack_page_name(uuid))) page_ = *std::move(page);
}

void FailureNote::note() const {
  if (page_ != nullptr) page_->store(kFailureWord, word_);
}

void FailureNote::clear() const {
  if (page_ != nullptr && page_->load(kFailureWord) != 0) page_->store(kFailureWord, 0);
}

bool failure_is_noted(os::Files& files, std::string_view uuid, std::string_view boot_id) {
  const auto page = files.find_volatile_page(ack_page_name(uuid));
  if (!page || *page == nullptr) return false;
  return (*page)->load(kFailureWord) == encode_failure(uuid, boot_id);
}

}  // namespace defib::store

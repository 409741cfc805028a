// Byte maps of the page file and its double-write buffer: docs/formats/store_page_file.md.
//
// Decoders are total: any bytes yield a value or a problem in words.
// Thread rule: pure functions.

#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace defib::store::pages {

inline constexpr std::uint32_t kVersion = 1;
inline constexpr std::uint32_t kSmallestPage = 4096;
inline constexpr std::uint32_t kLargestPage = 65536;
inline constexpr std::size_t kPageHeaderSize = 32;
inline constexpr std::size_t kIdentityEnd = 88;  // of the part of a superblock that never moves
inline constexpr std::size_t kMapOffset = 128;   // of the LSNs in a superblock
inline constexpr std::size_t kBufferHeaderSize = 76;
inline constexpr std::size_t kImagesOffset = 4096;  // in the buffer
inline constexpr std::size_t kUuidDigits = 32;
inline constexpr std::uint32_t kSuperblocks = 2;

enum class Kind : std::uint32_t { kSuperblock = 1, kManifest = 2 };

constexpr bool is_page_size(std::uint32_t size) {
  return size >= kSmallestPage && size <= kLargestPage && (size & (size - 1)) == 0;
}
// What a superblock can list.
constexpr std::uint32_t max_pages(std::uint32_t page_size) {
  return static_cast<std::uint32_t>((page_size - kMapOffset) / 8);
}
constexpr std::size_t payload_size(std::uint32_t page_size) {
  return page_size - kPageHeaderSize;
}
// The page on which the superblock of a sequence stands.
constexpr std::uint32_t superblock_page(std::uint64_t sequence) {
  return static_cast<std::uint32_t>((sequence + 1) % kSuperblocks);
}
// The kind that belongs on page `number`.
constexpr Kind kind_of(std::uint32_t number) {
  return number < kSuperblocks ? Kind::kSuperblock : Kind::kManifest;
}

// Ties each page to its store: the number of the uuid's first 16 digits.
std::uint64_t tag_of(std::string_view uuid);

struct PageHeader {
  std::uint32_t number = 0;
  Kind kind = Kind::kManifest;
  std::uint64_t lsn = 0;
  std::uint64_t tag = 0;
};
// Writes header and checksum over the first bytes of `page`.
void seal_page(std::string& page, const PageHeader& header);
// As they stand there, whether or not they hold. Precondition: at least kPageHeaderSize bytes.
PageHeader page_header(std::string_view page);
// Whether the page's own checksum holds; nothing else is asked.
bool checksum_holds(std::string_view page);
// Empty where `page` is page `number` of that store, whole; else what does not hold.
std::string page_problem(std::string_view page, std::uint32_t number, std::uint64_t tag);
bool all_zeros(std::string_view bytes);

// What a superblock says of the file as a whole, readable whatever its version and page size.
struct Identity {
  bool foreign_byte_order = false;  // then the rest is not filled in
  std::uint32_t version = 0;
  std::uint32_t page_size = 0;
  std::string uuid;
};
// nullopt where no superblock of any version stands there, or its identity is damaged.
std::optional<Identity> decode_identity(std::string_view page);

struct Superblock {
  std::uint32_t page_size = 0;
  std::string uuid;
  std::uint64_t sequence = 0;
  std::uint64_t manifest_size = 0;
  std::uint32_t manifest_crc = 0;
  std::vector<std::uint64_t> lsns;  // of every page
  std::uint32_t pages() const { return static_cast<std::uint32_t>(lsns.size()); }
};
std::string encode(const Superblock& superblock);  // page_size bytes, sealed
// `page` is page `number` of the store `uuid`, or `problem` says why it is not.
std::optional<Superblock> decode_superblock(std::string_view page, std::uint32_t number,
                                            std::string_view uuid, std::string& problem);

enum class BufferState : std::uint32_t {
  kEmpty = 0x54504d45,    // "EMPT"
  kFilling = 0x4c4c4946,  // "FILL": the images are being written and count for nothing
  kArmed = 0x444d5241,    // "ARMD"
};
struct BufferHeader {
  bool foreign_byte_order = false;   // then the rest is not filled in
  std::uint32_t version = kVersion;  // another one: the rest is not filled in
  std::uint32_t page_size = 0;
  BufferState state = BufferState::kEmpty;
  std::uint64_t sequence = 0;
  std::string uuid;
  std::uint32_t images = 0;
  std::uint32_t images_crc = 0;
};
std::string encode(const BufferHeader& header);  // kImagesOffset bytes
std::optional<BufferHeader> decode_buffer_header(std::string_view bytes, std::string& problem);

}  // namespace defib::store::pages

#include "defib/store/page_format.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <charconv>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::store::pages {
namespace {

constexpr std::string_view kPageMagic = "DPAG";
constexpr std::string_view kIndexMagic = "DEFIBIDX";
constexpr std::string_view kBufferMagic = "DEFIBDWB";
constexpr std::uint32_t kByteOrder = 0x01020304;

constexpr std::size_t kChecksumOffset = 4;
constexpr std::size_t kChecksummedFrom = 8;
constexpr std::size_t kIdentityOffset = kPageHeaderSize;
constexpr std::size_t kIdentityCrcOffset = 84;
constexpr std::size_t kBufferCrcOffset = 72;

static_assert(kIdentityOffset + 8 + 3 * 4 + kUuidDigits == kIdentityCrcOffset);
static_assert(kIdentityCrcOffset + 4 == kIdentityEnd);
static_assert(kBufferCrcOffset + 4 == kBufferHeaderSize && kBufferHeaderSize <= 512);

}  // namespace

std::uint64_t tag_of(std::string_view uuid) {
  std::uint64_t tag = 0;
  const std::string_view digits = uuid.substr(0, 16);
  std::from_chars(digits.data(), digits.data() + digits.size(), tag, 16);
  return tag;
}

void seal_page(std::string& page, const PageHeader& header) {
  std::string bytes(kPageMagic);
  Writer writer(bytes);
  writer.u32(0);
  writer.u32(header.number);
  writer.u32(static_cast<std::uint32_t>(header.kind));
  writer.u64(header.lsn);
  writer.u64(header.tag);
  DEFIB_ASSERT(bytes.size() == kPageHeaderSize && page.size() >= kPageHeaderSize);
  page.replace(0, kPageHeaderSize, bytes);
  store_value(page.data() + kChecksumOffset,
              crc32c(std::string_view(page).substr(kChecksummedFrom)));
}

PageHeader page_header(std::string_view page) {
  DEFIB_ASSERT(page.size() >= kPageHeaderSize);
  Reader reader(page.substr(kChecksummedFrom));
  PageHeader header;
  header.number = reader.u32();
  header.kind = static_cast<Kind>(reader.u32());
  header.lsn = reader.u64();
  header.tag = reader.u64();
  return header;
}

bool checksum_holds(std::string_view page) {
  return page.size() >= kPageHeaderSize && load<std::uint32_t>(page.data() + kChecksumOffset) ==
                                               crc32c(page.substr(kChecksummedFrom));
}

bool all_zeros(std::string_view bytes) {
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

std::string page_problem(std::string_view page, std::uint32_t number, std::uint64_t tag) {
  if (page.size() < kSmallestPage) return "the file ends before it";
  if (!page.starts_with(kPageMagic)) {
    return all_zeros(page) ? "it holds only zeros" : "no page stands there";
  }
  if (!checksum_holds(page)) {
    return fmt::format("checksum {:08x}, computed {:08x}",
                       load<std::uint32_t>(page.data() + kChecksumOffset),
                       crc32c(page.substr(kChecksummedFrom)));
  }
  const PageHeader header = page_header(page);
  if (header.tag != tag) return "it belongs to another store";
  if (header.number != number) {
    return fmt::format("page {} stands there: a write went to the wrong place", header.number);
  }
  if (header.kind != kind_of(number)) {
    return fmt::format("its kind is {}", static_cast<std::uint32_t>(header.kind));
  }
  return "";
}

std::optional<Identity> decode_identity(std::string_view page) {
  if (page.size() < kIdentityEnd) return std::nullopt;
  const std::string_view part = page.substr(kIdentityOffset, kIdentityCrcOffset - kIdentityOffset);
  if (!part.starts_with(kIndexMagic)) return std::nullopt;
  const auto stored = load<std::uint32_t>(page.data() + kIdentityCrcOffset);
  const std::uint32_t computed = crc32c(part);
  Reader reader(part.substr(kIndexMagic.size()));
  const std::uint32_t byte_order = reader.u32();
  Identity identity;
  if (byte_order == std::byteswap(kByteOrder) && stored == std::byteswap(computed)) {
    identity.foreign_byte_order = true;
    return identity;
  }
  if (byte_order != kByteOrder || stored != computed) return std::nullopt;
  identity.version = reader.u32();
  identity.page_size = reader.u32();
  identity.uuid = reader.bytes(kUuidDigits);
  return identity;
}

std::string encode(const Superblock& superblock) {
  DEFIB_ASSERT(is_page_size(superblock.page_size));
  DEFIB_ASSERT(superblock.uuid.size() == kUuidDigits);
  DEFIB_ASSERT(superblock.pages() <= max_pages(superblock.page_size));
  std::string page(kPageHeaderSize, '\0');
  Writer writer(page);
  writer.bytes(kIndexMagic);
  writer.u32(kByteOrder);
  writer.u32(kVersion);
  writer.u32(superblock.page_size);
  writer.bytes(superblock.uuid);
  writer.u32(crc32c(std::string_view(page).substr(kIdentityOffset)));
  DEFIB_ASSERT(page.size() == kIdentityEnd);
  writer.u32(superblock.pages());
  writer.u32(superblock.manifest_crc);
  writer.u64(superblock.manifest_size);
  page.resize(kMapOffset, '\0');
  for (const std::uint64_t lsn : superblock.lsns) writer.u64(lsn);
  page.resize(superblock.page_size, '\0');
  seal_page(page, {.number = superblock_page(superblock.sequence),
                   .kind = Kind::kSuperblock,
                   .lsn = superblock.sequence,
                   .tag = tag_of(superblock.uuid)});
  return page;
}

std::optional<Superblock> decode_superblock(std::string_view page, std::uint32_t number,
                                            std::string_view uuid, std::string& problem) {
  problem = page_problem(page, number, tag_of(uuid));
  if (!problem.empty()) return std::nullopt;
  const std::optional<Identity> identity = decode_identity(page);
  if (!identity) {
    problem = "its identity is damaged";
    return std::nullopt;
  }
  if (identity->foreign_byte_order || identity->version != kVersion ||
      identity->page_size != page.size() || identity->uuid != uuid) {
    problem = "it is of another store or version";
    return std::nullopt;
  }
  Superblock superblock;
  superblock.page_size = identity->page_size;
  superblock.uuid = identity->uuid;
  superblock.sequence = page_header(page).lsn;
  Reader reader(page.substr(kIdentityEnd));
  const std::uint32_t pages = reader.u32();
  superblock.manifest_crc = reader.u32();
  superblock.manifest_size = reader.u64();
  reader.bytes(kMapOffset - kIdentityEnd - 16);
  if (superblock.sequence == 0 || superblock_page(superblock.sequence) != number) {
    problem = fmt::format("the superblock of sequence {} does not belong on this page",
                          superblock.sequence);
    return std::nullopt;
  }
  if (pages <= kSuperblocks || pages > max_pages(superblock.page_size)) {
    problem = fmt::format("it lists {} pages", pages);
    return std::nullopt;
  }
  const std::uint64_t room = (pages - kSuperblocks) * payload_size(superblock.page_size);
  if (superblock.manifest_size > room ||
      superblock.manifest_size + payload_size(superblock.page_size) <= room) {
    problem = fmt::format("a manifest of {} bytes does not fill {} pages", superblock.manifest_size,
                          pages - kSuperblocks);
    return std::nullopt;
  }
  for (std::uint32_t i = 0; i < pages; ++i) superblock.lsns.push_back(reader.u64());
  if (superblock.lsns[number] != superblock.sequence) {
    problem = "it lists another LSN for itself";
    return std::nullopt;
  }
  return superblock;
}

std::string encode(const BufferHeader& header) {
  DEFIB_ASSERT(header.uuid.size() == kUuidDigits);
  std::string bytes(kBufferMagic);
  Writer writer(bytes);
  writer.u32(kByteOrder);
  writer.u32(kVersion);
  writer.u32(header.page_size);
  writer.u32(static_cast<std::uint32_t>(header.state));
  writer.u64(header.sequence);
  writer.bytes(header.uuid);
  writer.u32(header.images);
  writer.u32(header.images_crc);
  writer.u32(crc32c(bytes));
  DEFIB_ASSERT(bytes.size() == kBufferHeaderSize);
  bytes.resize(kImagesOffset, '\0');
  return bytes;
}

std::optional<BufferHeader> decode_buffer_header(std::string_view bytes, std::string& problem) {
  if (bytes.size() < kBufferHeaderSize) {
    problem = fmt::format("{} bytes, the header has {}", bytes.size(), kBufferHeaderSize);
    return std::nullopt;
  }
  if (!bytes.starts_with(kBufferMagic)) {
    problem = "no buffer header stands there";
    return std::nullopt;
  }
  const auto stored = load<std::uint32_t>(bytes.data() + kBufferCrcOffset);
  const std::uint32_t computed = crc32c(bytes.substr(0, kBufferCrcOffset));
  Reader reader(bytes.substr(kBufferMagic.size()));
  const std::uint32_t byte_order = reader.u32();
  BufferHeader header;
  if (byte_order == std::byteswap(kByteOrder) && stored == std::byteswap(computed)) {
    header.foreign_byte_order = true;
    return header;
  }
  if (byte_order != kByteOrder || stored != computed) {
    problem = fmt::format("header checksum {:08x}, computed {:08x}", stored, computed);
    return std::nullopt;
  }
  header.version = reader.u32();
  if (header.version != kVersion) return header;
  header.page_size = reader.u32();
  header.state = static_cast<BufferState>(reader.u32());
  header.sequence = reader.u64();
  header.uuid = reader.bytes(kUuidDigits);
  header.images = reader.u32();
  header.images_crc = reader.u32();
  const bool known_state = header.state == BufferState::kEmpty ||
                           header.state == BufferState::kFilling ||
                           header.state == BufferState::kArmed;
  if (!is_page_size(header.page_size) || !known_state ||
      header.images > max_pages(header.page_size) || header.sequence == 0) {
    problem = "a sound checksum over impossible values";
    return std::nullopt;
  }
  return header;
}

}  // namespace defib::store::pages

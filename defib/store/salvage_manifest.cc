// The manifest out of pages that no longer make up a valid page file.

#include <algorithm>
#include <map>

#include "defib/base/bytes.h"
#include "defib/store/page_format.h"
#include "defib/store/salvage.h"

namespace defib::store {
namespace {

using namespace pages;

// Sound pages of one store, by number and LSN: at home and in the buffer there may be several
// states of one page.
class PageCollection {
 public:
  PageCollection(std::uint32_t page_size, std::string uuid)
      : page_size_(page_size), uuid_(std::move(uuid)) {}

  // `bytes` from `offset` on, page by page; `numbered` where a page's place is its number.
  void add(std::string_view bytes, std::size_t offset) {
    for (std::size_t at = offset; at + page_size_ <= bytes.size(); at += page_size_) {
      const std::string_view page = bytes.substr(at, page_size_);
      if (!checksum_holds(page)) continue;
      const PageHeader header = page_header(page);
      if (!uuid_.empty() && header.tag != tag_of(uuid_)) continue;
      if (header.kind != kind_of(header.number)) continue;
      newest_ = std::max(newest_, header.lsn);
      pages_[{header.number, header.lsn}] = page;
    }
  }

  std::optional<SalvagedManifest> best() const {
    std::vector<Superblock> superblocks;
    for (const auto& [place, page] : pages_) {
      if (place.first >= kSuperblocks) continue;
      const auto identity = pages::decode_identity(page);
      const std::string uuid = uuid_.empty() && identity ? identity->uuid : uuid_;
      std::string problem;
      if (auto found = decode_superblock(page, place.first, uuid, problem)) {
        superblocks.push_back(*std::move(found));
      }
    }
    std::ranges::sort(superblocks, std::ranges::greater(), &Superblock::sequence);
    for (const Superblock& superblock : superblocks) {
      if (auto manifest = assemble(superblock)) {
        return SalvagedManifest{*std::move(manifest), superblock.sequence >= newest_};
      }
    }
    return std::nullopt;
  }

 private:
  std::optional<Manifest> assemble(const Superblock& superblock) const {
    std::string bytes;
    for (std::uint32_t number = kSuperblocks; number < superblock.pages(); ++number) {
      if (bytes.size() >= superblock.manifest_size) break;
      const auto page = pages_.find({number, superblock.lsns[number]});
      if (page == pages_.end()) return std::nullopt;
      bytes += page->second.substr(kPageHeaderSize);
    }
    if (bytes.size() < superblock.manifest_size) return std::nullopt;
    bytes.resize(superblock.manifest_size);
    if (crc32c(bytes) != superblock.manifest_crc) return std::nullopt;
    std::string problem;
    auto manifest = decode_manifest(bytes, problem);
    if (manifest) manifest->sequence = superblock.sequence;
    return manifest;
  }

  std::uint32_t page_size_;
  std::string uuid_;
  std::uint64_t newest_ = 0;  // LSN of any page
  std::map<std::pair<std::uint32_t, std::uint64_t>, std::string_view> pages_;
};

}  // namespace

std::optional<SalvagedManifest> salvage_manifest(os::Files& files, const std::string& dir,
                                                 const std::string& uuid) {
  const auto read = [&](std::string_view name) {
    auto found = read_what_is_readable(files, os::join_path(dir, name));
    return found ? std::move(found->bytes) : std::string();
  };
  const std::string home = read(kPageFile);
  const std::string buffer = read(kDwbFile);
  std::optional<SalvagedManifest> best;
  for (std::uint32_t size = pages::kSmallestPage; size <= pages::kLargestPage; size *= 2) {
    PageCollection collection(size, uuid);
    collection.add(home, 0);
    collection.add(buffer, pages::kImagesOffset);
    auto found = collection.best();
    if (found && (!best || found->manifest.sequence > best->manifest.sequence)) {
      best = std::move(found);
    }
  }
  return best;
}

}  // namespace defib::store

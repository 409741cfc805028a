// Writing the page file through its double-write buffer, and restoring it.
//
// Invariants. A page is written home only while a synced, armed buffer holds its image. EMPTY is
// written only after the pages were synced at home. The protocol, step by step, with what a crash
// in each leaves: docs/formats/store_page_file.md.

#include "defib/store/page_file.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/store/page_format.h"
#include "defib/store/page_look.h"

namespace defib::store {
namespace {

using pages::BufferHeader;
using pages::BufferState;
using pages::kImagesOffset;
using pages::kPageHeaderSize;
using pages::kSuperblocks;

// Zeros go out in steps that keep the page cache in small folios, which later small writes need.
constexpr std::size_t kZeroStep = 64 << 10;

Result<> write_zeros(os::File& file, std::uint64_t from, std::uint64_t to) {
  if (from >= to) return {};
  const std::string zeros(std::min<std::uint64_t>(kZeroStep, to - from), '\0');
  for (std::uint64_t at = from; at < to; at += kZeroStep) {
    DEFIB_TRY(file.write_at(at, std::string_view(zeros).substr(0, to - at)));
  }
  return {};
}

// The buffer as an empty one of exactly a header, durable.
Result<> reset_buffer(os::File& buffer, BufferHeader header) {
  header.state = BufferState::kEmpty;
  header.images = 0;
  header.images_crc = 0;
  DEFIB_TRY(buffer.write_at(0, encode(header)));
  DEFIB_TRY(buffer.truncate(kImagesOffset));
  return buffer.sync();
}

// The buffer of `size` bytes armed with exactly `images`, durable. Sets the header's state, count
// and checksum. Over the same images it never leaves a moment without them.
Result<> arm_buffer(os::File& buffer, std::uint64_t size, BufferHeader& header,
                    std::string_view images) {
  header.state = BufferState::kArmed;
  header.images = static_cast<std::uint32_t>(images.size() / header.page_size);
  header.images_crc = crc32c(images);
  if (size > kImagesOffset + images.size()) {
    DEFIB_TRY(buffer.truncate(kImagesOffset + images.size()));
  }
  DEFIB_TRY(buffer.write_at(kImagesOffset, images));
  DEFIB_TRY(buffer.write_at(0, encode(header)));
  return buffer.sync();
}

// Takes an armed buffer back. Its sync is the caller's: now, or with the next one.
Result<> empty_buffer(os::File& buffer, BufferHeader header) {
  header.state = BufferState::kEmpty;
  return buffer.write_at(0, encode(header));
}

Error wrong_page_size(std::uint32_t page_size) {
  const std::string issue = fmt::format("{} bytes is no power of two from {} to {}", page_size,
                                        pages::kSmallestPage, pages::kLargestPage);
  return Error(Code::kRecoveryConfigurationError, "page_size: " + issue)
      .with("setting", "page_size")
      .with("issue", issue)
      .with("fix", "choose 4096, 8192, 16384, 32768 or 65536");
}

// All pages of a manifest. Those whose bytes did not change since `old` keep their LSN.
Result<std::vector<std::string>> lay_out(const Manifest& manifest, const std::string& uuid,
                                         std::uint32_t page_size,
                                         const std::vector<std::string>& old) {
  const std::string bytes = encode(manifest);
  std::string problem;
  if (const auto read = decode_manifest(bytes, problem); !read || *read != manifest) {
    return Error(Code::kInvalidArgument, "the manifest would not read back: " + problem);
  }
  const std::size_t payload = pages::payload_size(page_size);
  const std::uint64_t count = (bytes.size() + payload - 1) / payload + kSuperblocks;
  if (count > pages::max_pages(page_size)) {
    const std::uint64_t limit = (pages::max_pages(page_size) - kSuperblocks) * payload;
    return Error(Code::kLimitExceeded,
                 fmt::format("the store's manifest needs {} bytes; pages of {} bytes hold {}",
                             bytes.size(), page_size, limit))
        .with("limit", static_cast<std::int64_t>(limit))
        .suggest("use fewer tables and indexes, or a store with a larger page_size");
  }
  const std::uint64_t tag = pages::tag_of(uuid);
  pages::Superblock superblock{.page_size = page_size,
                               .uuid = uuid,
                               .sequence = manifest.sequence,
                               .manifest_size = bytes.size(),
                               .manifest_crc = crc32c(bytes),
                               .lsns = std::vector<std::uint64_t>(count)};
  std::vector<std::string> result(count);
  for (std::uint32_t number = kSuperblocks; number < count; ++number) {
    std::string page(kPageHeaderSize, '\0');
    page += std::string_view(bytes).substr((number - kSuperblocks) * payload, payload);
    page.resize(page_size, '\0');
    if (number < old.size() && std::string_view(old[number]).substr(kPageHeaderSize) ==
                                   std::string_view(page).substr(kPageHeaderSize)) {
      page = old[number];
    } else {
      pages::seal_page(
          page,
          {.number = number, .kind = pages::Kind::kManifest, .lsn = manifest.sequence, .tag = tag});
    }
    superblock.lsns[number] = pages::page_header(page).lsn;
    result[number] = std::move(page);
  }
  const std::uint32_t own = pages::superblock_page(manifest.sequence);
  const std::uint32_t other = 1 - own;
  result[other] = old.empty() ? std::string(page_size, '\0') : old[other];
  superblock.lsns[other] = pages::page_header(result[other]).lsn;
  superblock.lsns[own] = manifest.sequence;
  result[own] = encode(superblock);
  return result;
}

// restore_pages(), once it is known what the files say.
class Restorer {
 public:
  Restorer(os::Files& files, const std::string& dir, const std::string& uuid, pages::Seen seen)
      : files_(files),
        dir_(dir),
        seen_(std::move(seen)),
        header_{.page_size = seen_.judgement.superblock.page_size,
                .sequence = seen_.judgement.superblock.sequence,
                .uuid = uuid} {}

  Result<> run() {
    const pages::Judgement& judgement = seen_.judgement;
    if (judgement.buffer.state == DwbState::kArmed || !judgement.picture.to_restore.empty()) {
      collect();
    }
    if (!numbers_.empty()) {
      DEFIB_TRY(bring_home());
    } else if (!is_settled()) {
      DEFIB_TRY(settle_home());
      DEFIB_TRY(settle_buffer());
    }
    return {};
  }

 private:
  // Every page of which there is an image that the superblock in force asks for, also where home
  // has it: what was read may be the page cache of a process whose sync failed, and only writing
  // makes it durable.
  void collect() {
    const pages::Superblock& superblock = seen_.judgement.superblock;
    for (const auto& [number, image] : seen_.judgement.buffer.images) {
      all_images_ += image;
      if (number >= superblock.pages()) continue;
      if (pages::page_header(image).lsn == superblock.lsns[number]) numbers_.push_back(number);
    }
  }

  std::uint64_t home_length() const {
    return std::uint64_t{header_.page_size} * seen_.judgement.superblock.pages();
  }
  bool home_is_longer() const { return seen_.look->home.bytes.size() > home_length(); }

  bool is_settled() const {
    const pages::Buffer& buffer = seen_.judgement.buffer;
    return buffer.state == DwbState::kEmpty && buffer.header->sequence == header_.sequence &&
           seen_.look->buffer.bytes.size() == buffer.end && !home_is_longer();
  }

  // What was read may be in the page cache only, and is about to be all there is.
  Result<> settle_home() {
    DEFIB_TRY_ASSIGN(const auto home, files_.open(seen_.look->home_path, os::OpenMode::kWrite));
    if (home_is_longer()) DEFIB_TRY(home->truncate(home_length()));
    return home->sync();
  }

  Result<> bring_home() {
    DEFIB_TRY_ASSIGN(const auto buffer, files_.open(seen_.look->buffer_path, os::OpenMode::kWrite));
    BufferHeader armed = header_;
    armed.sequence = seen_.judgement.buffer.header->sequence;
    DEFIB_TRY(arm_buffer(*buffer, seen_.look->buffer.bytes.size(), armed, all_images_));
    DEFIB_TRY_ASSIGN(const auto home, files_.open(seen_.look->home_path, os::OpenMode::kWrite));
    for (const std::uint32_t number : numbers_) {
      DEFIB_TRY(
          home->write_at(std::uint64_t{number} * header_.page_size, seen_.judgement.pages[number]));
    }
    if (home_is_longer()) DEFIB_TRY(home->truncate(home_length()));
    DEFIB_TRY(home->sync());
    // Images of a sequence before the one in force have done their last service.
    if (armed.sequence != header_.sequence) return reset_buffer(*buffer, header_);
    DEFIB_TRY(empty_buffer(*buffer, armed));
    return buffer->sync();
  }

  Result<> settle_buffer() {
    DEFIB_TRY_ASSIGN(const auto buffer,
                     files_.open(seen_.look->buffer_path, os::OpenMode::kCreate));
    DEFIB_TRY(reset_buffer(*buffer, header_));
    return files_.sync_dir(dir_);
  }

  os::Files& files_;
  const std::string& dir_;
  pages::Seen seen_;
  BufferHeader header_;
  std::string all_images_;
  std::vector<std::uint32_t> numbers_;  // of the pages to bring home
};

}  // namespace

std::string_view to_string(DwbState state) {
  switch (state) {
    case DwbState::kAbsent:
      return "absent";
    case DwbState::kEmpty:
      return "empty";
    case DwbState::kArmed:
      return "armed";
    case DwbState::kTorn:
      return "torn";
  }
  DEFIB_UNREACHABLE("a state of the double-write buffer");
}

Result<PageFilePicture> read_page_file(os::Files& files, const std::string& dir,
                                       const std::string& store_uuid) {
  DEFIB_TRY_ASSIGN(pages::Seen seen, pages::look_and_judge(files, dir, store_uuid));
  return std::move(seen.judgement.picture);
}

Result<DwbState> read_dwb_state(os::Files& files, const std::string& dir, std::string* evidence) {
  const auto answer = [&](DwbState state, std::string seen) {
    if (evidence != nullptr) *evidence = std::move(seen);
    return state;
  };
  const auto file = files.open(os::join_path(dir, kDwbFile), os::OpenMode::kRead);
  if (!file) {
    if (file.error().code() != Code::kFileNotFound) return Error(file.error());
    return answer(DwbState::kAbsent, "there is no dwb.pg");
  }
  std::string bytes(pages::kBufferHeaderSize, '\0');
  DEFIB_TRY_ASSIGN(const std::size_t got, (*file)->read_at(0, bytes.data(), bytes.size()));
  bytes.resize(got);
  std::string problem;
  const auto header = pages::decode_buffer_header(bytes, problem);
  if (!header) return answer(DwbState::kTorn, "dwb.pg: " + problem);
  if (header->foreign_byte_order || header->version != pages::kVersion) {
    return answer(DwbState::kTorn, "dwb.pg is of another format version or byte order");
  }
  if (header->state == BufferState::kFilling) {
    return answer(DwbState::kTorn, "dwb.pg was being filled");
  }
  if (header->state == BufferState::kEmpty) {
    return answer(DwbState::kEmpty,
                  fmt::format("dwb.pg is empty after sequence {}", header->sequence));
  }
  return answer(DwbState::kArmed, fmt::format("dwb.pg is armed with {} pages of sequence {}",
                                              header->images, header->sequence));
}

Result<> restore_pages(os::Files& files, const std::string& dir, const std::string& store_uuid) {
  DEFIB_TRY_ASSIGN(pages::Seen seen, pages::look_and_judge(files, dir, store_uuid));
  return Restorer(files, dir, store_uuid, std::move(seen)).run();
}

Result<> PageFile::create(os::Files& files, const std::string& dir, const std::string& store_uuid,
                          std::uint32_t page_size, const Manifest& manifest) {
  DEFIB_ASSERT(store_uuid.size() == pages::kUuidDigits);
  if (!pages::is_page_size(page_size)) return wrong_page_size(page_size);
  Manifest first = manifest;
  first.sequence = 1;
  DEFIB_TRY_ASSIGN(const auto content, lay_out(first, store_uuid, page_size, {}));
  const std::string home_path = os::join_path(dir, kPageFile);
  const std::string buffer_path = os::join_path(dir, kDwbFile);
  for (const std::string& path : {home_path, buffer_path}) {
    if (!files.exists(path)) continue;
    return Error(Code::kFileExists, "'" + path + "' exists").with("path", path);
  }
  const auto write_both = [&]() -> Result<> {
    DEFIB_TRY_ASSIGN(const auto home, files.open(home_path, os::OpenMode::kCreateNew));
    for (std::size_t i = 0; i < content.size(); ++i) {
      DEFIB_TRY(home->write_at(std::uint64_t{page_size} * i, content[i]));
    }
    DEFIB_TRY(home->sync());
    DEFIB_TRY_ASSIGN(const auto buffer, files.open(buffer_path, os::OpenMode::kCreateNew));
    return reset_buffer(*buffer,
                        {.page_size = page_size, .sequence = first.sequence, .uuid = store_uuid});
  };
  auto written = write_both();
  if (!written) {
    // Nobody has seen them; what cannot be removed is the caller's to find.
    (void)files.remove(home_path);
    (void)files.remove(buffer_path);
  }
  return written;
}

Result<PageFile> PageFile::open(os::Files& files, const std::string& dir,
                                const std::string& store_uuid) {
  DEFIB_TRY_ASSIGN(pages::Seen seen, pages::look_and_judge(files, dir, store_uuid));
  const pages::Judgement& judgement = seen.judgement;
  if (judgement.buffer.state == DwbState::kArmed || !judgement.picture.to_restore.empty()) {
    return Error(Code::kRecoveryNeeded,
                 fmt::format("'{}' holds pages that are not home yet", seen.look->buffer_path))
        .with("path", seen.look->buffer_path)
        .with("pages", static_cast<std::int64_t>(judgement.buffer.images.size()));
  }
  PageFile file;
  file.store_uuid_ = store_uuid;
  file.page_size_ = judgement.superblock.page_size;
  file.pages_ = judgement.pages;
  file.sequence_ = judgement.superblock.sequence;
  DEFIB_TRY(Restorer(files, dir, store_uuid, std::move(seen)).run());
  DEFIB_TRY_ASSIGN(file.home_, files.open(os::join_path(dir, kPageFile), os::OpenMode::kWrite));
  DEFIB_TRY_ASSIGN(file.buffer_, files.open(os::join_path(dir, kDwbFile), os::OpenMode::kWrite));
  DEFIB_TRY_ASSIGN(file.home_size_, file.home_->size());
  DEFIB_TRY_ASSIGN(file.buffer_size_, file.buffer_->size());
  return file;
}

struct PageFile::Plan {
  std::vector<std::string> pages;
  std::vector<std::uint32_t> changed;  // ascending
  std::string images;                  // of the changed pages
  BufferHeader header;
};

Result<PageFile::Plan> PageFile::plan(const Manifest& manifest) const {
  Plan next;
  DEFIB_TRY_ASSIGN(next.pages, lay_out(manifest, store_uuid_, page_size_, pages_));
  for (std::uint32_t number = 0; number < next.pages.size(); ++number) {
    if (number < pages_.size() && next.pages[number] == pages_[number]) continue;
    next.changed.push_back(number);
    next.images += next.pages[number];
  }
  next.header.page_size = page_size_;
  next.header.sequence = manifest.sequence;
  next.header.uuid = store_uuid_;
  return next;
}

Result<> PageFile::poisoned(Error error) {
  failure_ = error;
  if (error.code() != Code::kNoSpace) return error;
  // NoSpace by itself would promise that nothing has changed.
  return Error(Code::kStorePoisoned, "the disk was full when a manifest was half written")
      .because(std::move(error));
}

Result<> PageFile::write(Manifest& manifest) {
  if (failure_) {
    return Error(Code::kStorePoisoned, "an earlier manifest could not be written")
        .because(*failure_);
  }
  const std::uint64_t before = manifest.sequence;
  manifest.sequence = sequence_ + 1;
  auto next = plan(manifest);
  Result<> written = next ? write_planned(*next) : Result<>(std::move(next.error()));
  if (!written) {
    manifest.sequence = before;
    return written;
  }
  pages_ = std::move(next->pages);
  sequence_ = manifest.sequence;
  return {};
}

Result<> PageFile::write_planned(const Plan& next) {
  DEFIB_TRY(reserve(next));
  DEFIB_TRY(arm(next));
  DEFIB_TRY(bring_home(next));
  BufferHeader done = next.header;
  done.images = static_cast<std::uint32_t>(next.changed.size());
  done.images_crc = crc32c(next.images);
  if (auto emptied = empty_buffer(*buffer_, done); !emptied) return poisoned(emptied.error());
  return {};
}

// Step 0: takes the space that the files will need, while a full disk does no harm.
Result<> PageFile::reserve(const Plan& next) {
  const std::uint64_t home_end = std::uint64_t{page_size_} * next.pages.size();
  const std::uint64_t buffer_end = kImagesOffset + next.images.size();
  const auto grow = [&]() -> Result<> {
    DEFIB_TRY(write_zeros(*buffer_, buffer_size_, buffer_end));
    return write_zeros(*home_, home_size_, home_end);
  };
  auto grown = grow();
  if (!grown) {
    if (grown.error().code() != Code::kNoSpace) return poisoned(grown.error());
    if (auto cut = buffer_->truncate(buffer_size_); !cut) return poisoned(cut.error());
    if (auto cut = home_->truncate(home_size_); !cut) return poisoned(cut.error());
    return grown;
  }
  buffer_size_ = std::max(buffer_size_, buffer_end);
  home_size_ = std::max(home_size_, home_end);
  return {};
}

// Step 1. A file system that copies on write may be full here still; home was not touched.
Result<> PageFile::arm(const Plan& next) {
  BufferHeader header = next.header;
  const auto fill_and_arm = [&]() -> Result<> {
    // From here on the old images are being overwritten: said in words, so that nobody who looks
    // takes that for damage.
    DEFIB_TRY(buffer_->write_at(0, encode(BufferHeader{.page_size = page_size_,
                                                       .state = BufferState::kFilling,
                                                       .sequence = sequence_,
                                                       .uuid = store_uuid_})));
    return arm_buffer(*buffer_, buffer_size_, header, next.images);
  };
  auto armed = fill_and_arm();
  if (armed) {
    buffer_size_ = kImagesOffset + next.images.size();
    return {};
  }
  if (armed.error().code() != Code::kNoSpace) return poisoned(armed.error());
  header.sequence = sequence_;
  if (auto reset = reset_buffer(*buffer_, header); !reset) return poisoned(reset.error());
  buffer_size_ = kImagesOffset;
  return armed;
}

// Step 2.
Result<> PageFile::bring_home(const Plan& next) {
  const auto write_all = [&]() -> Result<> {
    for (const std::uint32_t number : next.changed) {
      DEFIB_TRY(home_->write_at(std::uint64_t{number} * page_size_, next.pages[number]));
    }
    const std::uint64_t end = std::uint64_t{page_size_} * next.pages.size();
    if (home_size_ > end) DEFIB_TRY(home_->truncate(end));
    home_size_ = end;
    return home_->sync();
  };
  if (auto written = write_all(); !written) return poisoned(written.error());
  return {};
}

Result<> PageFile::settle() {
  if (failure_) {
    return Error(Code::kStorePoisoned, "an earlier manifest could not be written")
        .because(*failure_);
  }
  if (auto synced = buffer_->sync(); !synced) return poisoned(synced.error());
  return {};
}

}  // namespace defib::store

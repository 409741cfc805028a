#include "defib/store/page_look.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"

namespace defib::store::pages {
namespace {

constexpr std::uint64_t kLargestFile =
    std::uint64_t{max_pages(kLargestPage)} * kLargestPage + kImagesOffset;
constexpr std::size_t kReadStep = 1 << 20;
constexpr std::size_t kSector = 4096;  // what is read alone where a larger read fails

std::string repair_advice() {
  return "restore the two files from a backup, or run `defib store repair DIR --to NEWDIR`; the "
         "damaged store stays as it is";
}

Error impossible(const std::string& path, const std::string& reason) {
  return Error(Code::kRecoveryImpossible, fmt::format("'{}' cannot be read: {}", path, reason))
      .with("path", path)
      .with("reason", reason)
      .suggest(repair_advice());
}

Error inconsistent(const std::string& path, const std::string& what, std::string_view diagnostics,
                   const std::string& suggestion) {
  return Error(Code::kInconsistentState, fmt::format("'{}': {}", path, what))
      .with("path", path)
      .with("description", what)
      .with("diagnostics", diagnostics)
      .with("recovery_suggestions", suggestion)
      .suggest(suggestion);
}

Error other_byte_order(const std::string& path) {
  return Error(Code::kStoreFormatUnsupported,
               fmt::format("'{}' was written on a machine of the other byte order", path))
      .with("path", path)
      .with("byte_order", "big-endian")
      .suggest("open the store on such a machine and copy its records from there");
}

Error other_version(const std::string& path, std::uint32_t version) {
  return Error(Code::kStoreFormatUnsupported,
               fmt::format("'{}' has format version {}; this program reads version {}", path,
                           version, kVersion))
      .with("path", path)
      .with("version", version);
}

// Reads what can be read; the rest stays zero and is noted.
Result<FileBytes> read_bytes(os::Files& files, const std::string& path) {
  FileBytes result;
  auto file = files.open(path, os::OpenMode::kRead);
  if (!file) {
    if (file.error().code() == Code::kFileNotFound) return result;
    return Error(std::move(file.error()));
  }
  result.exists = true;
  DEFIB_TRY_ASSIGN(const std::uint64_t size, (*file)->size());
  if (size > kLargestFile) {
    return impossible(path, fmt::format("it has {} bytes, more than any page file", size));
  }
  result.bytes.resize(size);
  const auto read = [&](std::uint64_t at, std::size_t step) -> Result<std::size_t> {
    return (*file)->read_at(at, result.bytes.data() + at, step);
  };
  for (std::uint64_t at = 0; at < result.bytes.size(); at += kReadStep) {
    const std::size_t step = std::min<std::size_t>(kReadStep, result.bytes.size() - at);
    if (const auto got = read(at, step)) {
      // It became shorter since: a live writer cut it.
      if (*got < step) result.bytes.resize(at + *got);
      continue;
    }
    for (std::uint64_t part = at; part < at + step; part += kSector) {
      const std::size_t part_size = std::min<std::size_t>(kSector, at + step - part);
      const auto got = read(part, part_size);
      if (got) continue;
      std::fill_n(result.bytes.begin() + static_cast<std::ptrdiff_t>(part), part_size, '\0');
      result.unreadable.push_back({part, part_size});
      if (!result.error) result.error = got.error();
    }
  }
  return result;
}

std::string_view part(std::string_view bytes, std::uint64_t offset, std::uint64_t size) {
  if (offset > bytes.size()) return {};
  return bytes.substr(offset, size);
}

}  // namespace

bool FileBytes::is_unreadable(std::uint64_t offset, std::uint64_t size) const {
  return std::ranges::any_of(unreadable, [&](const Range& range) {
    return range.offset < offset + size && offset < range.offset + range.size;
  });
}

bool same_bytes(const Look& a, const Look& b) {
  const auto same = [](const FileBytes& x, const FileBytes& y) {
    return x.exists == y.exists && x.bytes == y.bytes && x.unreadable == y.unreadable;
  };
  return same(a.home, b.home) && same(a.buffer, b.buffer);
}

Result<Look> look(os::Files& files, const std::string& dir) {
  Look result;
  result.home_path = os::join_path(dir, kPageFile);
  result.buffer_path = os::join_path(dir, kDwbFile);
  // The buffer first: home never runs ahead of it.
  DEFIB_TRY_ASSIGN(result.buffer, read_bytes(files, result.buffer_path));
  DEFIB_TRY_ASSIGN(result.home, read_bytes(files, result.home_path));
  return result;
}

namespace {

// The images, if they are what the header says; else why not.
std::string read_images(std::string_view bytes, const BufferHeader& header, Buffer& buffer) {
  const std::uint64_t size = std::uint64_t{header.images} * header.page_size;
  const std::string_view images = part(bytes, kImagesOffset, size);
  if (images.size() < size) {
    return fmt::format("it ends within its {} images", header.images);
  }
  if (const std::uint32_t computed = crc32c(images); computed != header.images_crc) {
    return fmt::format("checksum of the images {:08x}, computed {:08x}", header.images_crc,
                       computed);
  }
  const std::uint64_t tag = tag_of(header.uuid);
  std::map<std::uint32_t, std::string_view> found;
  for (std::uint32_t i = 0; i < header.images; ++i) {
    const std::string_view image =
        images.substr(std::size_t{i} * header.page_size, header.page_size);
    const PageHeader page = page_header(image);
    if (std::string problem = page_problem(image, page.number, tag); !problem.empty()) {
      return fmt::format("image {}: {}", i, problem);
    }
    if (page.lsn != header.sequence || page.number >= max_pages(header.page_size) ||
        (!found.empty() && found.rbegin()->first >= page.number)) {
      return fmt::format("image {} is page {} of sequence {}", i, page.number, page.lsn);
    }
    found[page.number] = image;
  }
  if (header.images > 0 && !found.contains(superblock_page(header.sequence))) {
    return "the superblock is not among the images";
  }
  buffer.images = std::move(found);
  return "";
}

}  // namespace

Result<Buffer> judge_buffer(const Look& look, const std::string& uuid) {
  Buffer buffer;
  if (!look.buffer.exists) {
    buffer.problem = "it does not exist";
    return buffer;
  }
  buffer.state = DwbState::kTorn;
  buffer.end = kImagesOffset;
  std::string problem;
  const auto header = decode_buffer_header(look.buffer.bytes, problem);
  if (!header) {
    buffer.problem = look.buffer.is_unreadable(0, kBufferHeaderSize)
                         ? "its header cannot be read: " + look.buffer.error->to_line()
                         : problem;
    return buffer;
  }
  if (header->foreign_byte_order) return other_byte_order(look.buffer_path);
  if (header->version != kVersion) return other_version(look.buffer_path, header->version);
  if (header->uuid != uuid) {
    buffer.problem = fmt::format("it belongs to another store, {}", header->uuid);
    return buffer;
  }
  buffer.header = header;
  buffer.end = kImagesOffset + std::uint64_t{header->images} * header->page_size;
  if (header->state == BufferState::kFilling) {
    buffer.problem = "it was being filled";
    return buffer;
  }
  const bool armed = header->state == BufferState::kArmed;
  buffer.problem = armed && header->images == 0 ? "it is armed without an image"
                                                : read_images(look.buffer.bytes, *header, buffer);
  if (buffer.problem.empty()) {
    buffer.state = armed ? DwbState::kArmed : DwbState::kEmpty;
  } else if (look.buffer.error) {
    buffer.problem += "; " + look.buffer.error->to_line();
  }
  return buffer;
}

namespace {

// The identities on pages 0 and 1; where page 1 is depends on the page size, which it says itself.
std::vector<Identity> find_identities(std::string_view home) {
  std::vector<Identity> found;
  if (const auto first = decode_identity(home)) found.push_back(*first);
  for (std::uint32_t size = kSmallestPage; size <= kLargestPage; size *= 2) {
    const std::string_view page = part(home, size, size);
    const auto second = decode_identity(page);
    // No other page can look like one: what lies at `size` in a file of larger pages is the inside
    // of page 0, and in one of smaller pages it has another number.
    if (second && page_header(page).number == 1) found.push_back(*second);
  }
  return found;
}

// Of this store, rather than of a stranger's page.
std::uint32_t likely_size(const std::vector<Identity>& found, const Buffer& buffer,
                          const std::string& uuid) {
  for (const Identity& identity : found) {
    if (identity.uuid == uuid) return identity.page_size;
  }
  if (buffer.header) return buffer.header->page_size;
  return found.empty() ? 0 : found.front().page_size;
}

class Judge {
 public:
  Judge(const Look& look, const std::string& uuid) : look_(look), uuid_(uuid) {}

  Result<Judgement> run() {
    DEFIB_TRY_ASSIGN(result_.buffer, judge_buffer(look_, uuid_));
    if (!look_.home.exists) return missing();
    DEFIB_TRY(choose_superblock());
    DEFIB_TRY(check_buffer_sequence());
    DEFIB_TRY(collect_pages());
    DEFIB_TRY(read_manifest());
    fill_picture();
    return std::move(result_);
  }

 private:
  Error missing() const {
    return impossible(look_.home_path, "the file is missing").with("pages", "all");
  }

  std::string_view home_page(std::uint32_t number, std::uint32_t page_size) const {
    return part(look_.home.bytes, std::uint64_t{number} * page_size, page_size);
  }

  // What is known at once, whatever else is damaged.
  Result<> check_identities(const std::vector<Identity>& found) const {
    for (const Identity& identity : found) {
      if (identity.foreign_byte_order) return other_byte_order(look_.home_path);
      if (identity.version != kVersion) return other_version(look_.home_path, identity.version);
      if (!is_page_size(identity.page_size)) {
        return Error(Code::kRecoveryConfigurationError,
                     fmt::format("'{}' has pages of {} bytes", look_.home_path, identity.page_size))
            .with("path", look_.home_path)
            .with("setting", "page_size")
            .with("issue", fmt::format("{} is no power of two from {} to {}", identity.page_size,
                                       kSmallestPage, kLargestPage))
            .with("fix", "use the program that wrote this store");
      }
    }
    return {};
  }

  Result<> choose_superblock() {
    const std::vector<Identity> found = find_identities(look_.home.bytes);
    DEFIB_TRY(check_identities(found));
    std::optional<Superblock> chosen;
    std::string problems;
    const auto consider = [&](std::string_view page, std::uint32_t number, std::string_view where) {
      std::string problem;
      auto superblock = decode_superblock(page, number, uuid_, problem);
      if (!superblock) {
        problems += fmt::format("{}{}: {}", problems.empty() ? "" : "; ", where, problem);
      } else if (!chosen || superblock->sequence > chosen->sequence) {
        chosen = std::move(superblock);
        chosen_page_ = page;
      }
    };
    const std::uint32_t page_size = likely_size(found, result_.buffer, uuid_);
    if (page_size != 0) {
      consider(home_page(0, page_size), 0, "superblock 0");
      consider(home_page(1, page_size), 1, "superblock 1");
    }
    for (std::uint32_t number = 0; number < kSuperblocks; ++number) {
      const auto image = result_.buffer.images.find(number);
      if (image != result_.buffer.images.end()) consider(image->second, number, "its image");
    }
    if (chosen) {
      result_.superblock = *std::move(chosen);
      return {};
    }
    for (const Identity& identity : found) {
      if (identity.uuid != uuid_) return other_store(identity.uuid);
    }
    return with_cause(impossible(look_.home_path, problems.empty()
                                                      ? "no superblock is recognisable"
                                                      : "no superblock holds: " + problems)
                          .with("pages", "0,1"));
  }

  Error other_store(const std::string& uuid) const {
    return inconsistent(look_.home_path, "it belongs to another store",
                        fmt::format("the file says {}, the store is {}", uuid, uuid_),
                        "put this store's own index.pg and dwb.pg back from a backup, or run "
                        "`defib store repair DIR --to NEWDIR`");
  }

  // The buffer's header tells a superblock that was brought home, or must have been, and is gone.
  Result<> check_buffer_sequence() {
    const auto& header = result_.buffer.header;
    const std::uint64_t sequence = result_.superblock.sequence;
    if (!header) return {};
    const std::uint64_t at_home = header->sequence - (header->state == BufferState::kArmed ? 1 : 0);
    if (at_home <= sequence) return {};
    return inconsistent(
               look_.home_path,
               fmt::format("the superblock of sequence {} is missing: the device lost a write",
                           at_home),
               fmt::format("the newest superblock has sequence {}; '{}' says that {} was brought "
                           "home, and has no image of it ({})",
                           sequence, look_.buffer_path, at_home, result_.buffer.problem),
               repair_advice())
        .with("pages", std::to_string(superblock_page(at_home)));
  }

  Result<> collect_pages() {
    const Superblock& superblock = result_.superblock;
    const std::uint64_t tag = tag_of(uuid_);
    const std::uint32_t own = superblock_page(superblock.sequence);
    bool all_whole = true;
    std::string lost;
    std::string details;
    for (std::uint32_t number = 0; number < superblock.pages(); ++number) {
      const std::string_view at_home = home_page(number, superblock.page_size);
      const std::uint64_t lsn = superblock.lsns[number];
      PageAtHome state = judge_page(at_home, number, lsn, tag);
      if (number == own && state.in_force && at_home != chosen_page_) {
        state.in_force = false;
        state.problem = "it is no superblock, under a sound checksum";
      }
      std::string_view bytes = at_home;
      if (!state.in_force) {
        const auto image = result_.buffer.images.find(number);
        // A page newer than the superblock in force says that a newer one was lost; an image would
        // only cover that up.
        state.healed = !state.newer && image != result_.buffer.images.end() &&
                       result_.buffer.header->page_size == superblock.page_size &&
                       page_header(image->second).lsn == lsn;
        if (state.healed) {
          bytes = image->second;
        } else if (number >= kSuperblocks || number == own) {
          lost += fmt::format("{}{}", lost.empty() ? "" : ",", number);
          details +=
              fmt::format("{}page {}: {}", details.empty() ? "" : "; ", number, state.problem);
          all_whole &= state.whole;
        }
      }
      result_.home.push_back(std::move(state));
      result_.pages.emplace_back(bytes);
      result_.pages.back().resize(superblock.page_size, '\0');
    }
    if (lost.empty()) return {};
    details += "; the buffer " + buffer_in_words();
    if (all_whole) {
      return inconsistent(look_.home_path, "pages contradict the superblock: " + details,
                          fmt::format("superblock of sequence {}", superblock.sequence),
                          repair_advice())
          .with("pages", lost);
    }
    return with_cause(impossible(look_.home_path, details).with("pages", lost));
  }

  PageAtHome judge_page(std::string_view page, std::uint32_t number, std::uint64_t lsn,
                        std::uint64_t tag) const {
    PageAtHome state;
    const std::uint64_t page_size = result_.superblock.page_size;
    if (look_.home.is_unreadable(number * page_size, page_size)) {
      state.problem = "it cannot be read: " + look_.home.error->to_line();
      return state;
    }
    if (lsn == 0) {
      state.in_force = page.size() == page_size && all_zeros(page);
      if (!state.in_force) state.problem = "it was never written, and is not zero";
      return state;
    }
    if (page.size() < page_size) page = {};
    state.problem = page_problem(page, number, tag);
    if (!state.problem.empty()) return state;
    state.whole = true;
    const std::uint64_t found = page_header(page).lsn;
    state.in_force = found == lsn;
    state.newer = found > lsn;
    if (found < lsn) {
      state.problem =
          fmt::format("it is of sequence {}, and {} belongs here: a write was lost", found, lsn);
    } else if (state.newer) {
      state.problem = fmt::format(
          "it is of sequence {}, newer than the superblock says ({}): a superblock's "
          "write was lost",
          found, lsn);
    }
    return state;
  }

  Result<> read_manifest() {
    const Superblock& superblock = result_.superblock;
    std::string bytes;
    for (std::uint32_t i = kSuperblocks; i < superblock.pages(); ++i) {
      bytes += std::string_view(result_.pages[i]).substr(kPageHeaderSize);
    }
    const std::string_view rest = std::string_view(bytes).substr(superblock.manifest_size);
    std::string problem;
    if (!all_zeros(rest)) problem = "the manifest is followed by other bytes than zeros";
    bytes.resize(superblock.manifest_size);
    if (const std::uint32_t computed = crc32c(bytes); computed != superblock.manifest_crc) {
      problem = fmt::format("checksum of the manifest {:08x}, computed {:08x}",
                            superblock.manifest_crc, computed);
    }
    if (problem.empty()) {
      auto manifest = decode_manifest(bytes, problem);
      if (manifest && manifest->sequence == superblock.sequence) {
        result_.picture.manifest = *std::move(manifest);
        return {};
      }
      problem = "the manifest does not hold: " +
                (manifest ? fmt::format("sequence {}", manifest->sequence) : problem);
    }
    return with_cause(impossible(look_.home_path, problem).with("pages", "all"));
  }

  void fill_picture() {
    PageFilePicture& picture = result_.picture;
    const Superblock& superblock = result_.superblock;
    const Buffer& buffer = result_.buffer;
    picture.page_size = superblock.page_size;
    picture.pages = superblock.pages();
    picture.dwb = buffer.state;
    picture.dwb_sequence = buffer.header ? buffer.header->sequence : 0;
    for (std::uint32_t number = 0; number < superblock.pages(); ++number) {
      const PageAtHome& page = result_.home[number];
      if (page.in_force) continue;
      if (page.healed) picture.to_restore.push_back(number);
      picture.notes.push_back(
          fmt::format("index.pg, page {}: {} ({})", number, page.problem,
                      page.healed ? "its image in dwb.pg replaces it"
                                  : "it is the older superblock; the next manifest replaces it"));
    }
    if (buffer.state == DwbState::kArmed && buffer.header->sequence < superblock.sequence) {
      picture.notes.push_back(
          fmt::format("dwb.pg is armed with sequence {}, older than index.pg with {}: ignored",
                      buffer.header->sequence, superblock.sequence));
    } else if (buffer.state == DwbState::kArmed) {
      picture.notes.push_back(fmt::format("dwb.pg is armed with {} pages of sequence {}",
                                          buffer.images.size(), buffer.header->sequence));
    } else if (buffer.state != DwbState::kEmpty) {
      picture.notes.push_back(fmt::format(
          "dwb.pg counts for nothing: {}; index.pg is whole without it", buffer.problem));
    }
  }

  std::string buffer_in_words() const {
    const Buffer& buffer = result_.buffer;
    if (!buffer.problem.empty()) return "cannot help: " + buffer.problem;
    if (buffer.images.empty()) return "holds no images";
    return fmt::format("holds images of sequence {}", buffer.header->sequence);
  }

  // A device's error, where there was one, is why.
  Error with_cause(Error error) const {
    if (look_.home.error) return std::move(error).because(*look_.home.error);
    if (look_.buffer.error) return std::move(error).because(*look_.buffer.error);
    return error;
  }

  const Look& look_;
  const std::string& uuid_;
  std::string_view chosen_page_;  // the superblock in force, where it was found
  Judgement result_;
};

}  // namespace

Result<Judgement> judge(const Look& look, const std::string& uuid) {
  return Judge(look, uuid).run();
}

std::uint32_t likely_page_size(const Look& look, const Buffer& buffer, const std::string& uuid) {
  const std::uint32_t size = likely_size(find_identities(look.home.bytes), buffer, uuid);
  return is_page_size(size) ? size : 0;
}

Result<Seen> look_and_judge(os::Files& files, const std::string& dir, const std::string& uuid) {
  std::unique_ptr<const Look> before;
  for (int i = 0; i < kLooks; ++i) {
    DEFIB_TRY_ASSIGN(Look read, look(files, dir));
    auto now = std::make_unique<const Look>(std::move(read));
    auto judgement = judge(*now, uuid);
    if (judgement) return Seen{std::move(now), *std::move(judgement)};
    // Damage stands still, a writer does not.
    if (before != nullptr && same_bytes(*before, *now)) {
      return Error(std::move(judgement.error()));
    }
    before = std::move(now);
  }
  return Error(Code::kUnavailable, fmt::format("'{}' is being rewritten faster than it can be read",
                                               os::join_path(dir, kPageFile)))
      .with("path", os::join_path(dir, kPageFile))
      .suggest("repeat: a writer is at work");
}

}  // namespace defib::store::pages

// The page file on a sound disk, full disks, wrong files, and beside a live writer. What crashes
// and damage do to it: page_crash_test.cc and page_damage_test.cc.

#include "defib/store/page_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "defib/os/pass_through_files.h"
#include "defib/os/random.h"
#include "defib/store/testing/page_util.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing_util::create_page_file;
using testing_util::kPagesBuffer;
using testing_util::kPagesDir;
using testing_util::kPagesHome;
using testing_util::kPagesUuid;
using testing_util::page_disk;
using testing_util::reseal;
using testing_util::sample_manifest;

#define ASSERT_OK(expression)                                          \
  do {                                                                 \
    const auto& assert_ok = (expression);                              \
    ASSERT_TRUE(assert_ok.has_value()) << assert_ok.error().to_text(); \
  } while (false)

Manifest read(os::Files& files) {
  const auto picture = read_page_file(files, kPagesDir, kPagesUuid);
  EXPECT_TRUE(picture.has_value()) << picture.error().to_text();
  return picture ? picture->manifest : Manifest{};
}
PageFile open(os::Files& files) {
  auto file = PageFile::open(files, kPagesDir, kPagesUuid);
  EXPECT_TRUE(file.has_value()) << file.error().to_text();
  return *std::move(file);
}
std::vector<std::string> verify(os::Files& files) {
  const auto lines = verify_page_file(files, kPagesDir, kPagesUuid);
  EXPECT_TRUE(lines.has_value()) << lines.error().to_text();
  return lines ? *lines : std::vector<std::string>{"cannot verify"};
}
PageFileDescription describe(os::Files& files) {
  return *describe_page_file(files, kPagesDir, kPagesUuid);
}

// ---- The manifest's bytes

TEST(Manifest, ComesBackAsItWasEncoded) {
  for (int tables : {0, 1, 3, 200}) {
    Manifest manifest = sample_manifest(5, tables, tables % 4);
    manifest.sequence = 9;
    std::string problem;
    const auto decoded = decode_manifest(encode(manifest), problem);
    ASSERT_TRUE(decoded.has_value()) << problem;
    EXPECT_EQ(*decoded, manifest);
  }
}

TEST(Manifest, EveryTruncationIsRefused) {
  const std::string bytes = encode(sample_manifest(1, 3, 3));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    std::string problem;
    EXPECT_FALSE(decode_manifest(bytes.substr(0, size), problem).has_value()) << size;
    EXPECT_NE(problem, "");
  }
  std::string problem;
  EXPECT_FALSE(decode_manifest(bytes + '\0', problem).has_value());
  EXPECT_EQ(problem, "1 bytes after its end");
}

TEST(Manifest, WhatDecodesHasOneEncodingWhateverTheBytes) {
  const std::string sample = encode(sample_manifest(1, 3, 3));
  os::Random random(20);
  for (int i = 0; i < 50'000; ++i) {
    std::string bytes = sample;
    for (std::uint64_t n = random.below(4) + 1; n > 0; --n) {
      bytes[random.below(bytes.size())] = static_cast<char>(random.next());
    }
    if (random.below(8) == 0) bytes.resize(random.below(bytes.size()));
    std::string problem;
    const auto decoded = decode_manifest(bytes, problem);
    if (decoded) {
      ASSERT_EQ(encode(*decoded), bytes);
    } else {
      ASSERT_NE(problem, "");
    }
  }
}

TEST(Manifest, ContradictionsAreNamed) {
  const auto problem_of = [](const Manifest& manifest) {
    std::string problem;
    EXPECT_FALSE(decode_manifest(encode(manifest), problem).has_value());
    return problem;
  };
  Manifest manifest = sample_manifest(1, 2, 2);
  manifest.tables[1].id = 1;
  EXPECT_EQ(problem_of(manifest), "table 1 follows table 1");
  manifest = sample_manifest(1, 2, 2);
  manifest.files[1].kind = SortedKind::kBase;
  EXPECT_EQ(problem_of(manifest), "file 1 is a base");
}

// ---- Writing and reading

TEST(PageFile, ReadsWhatWasWritten) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 2, 1)));
  Manifest expected = sample_manifest(1, 2, 1);
  expected.sequence = 1;
  EXPECT_EQ(read(*disk), expected);
  PageFile file = open(*disk);
  for (std::uint64_t i = 2; i < 12; ++i) {
    Manifest manifest = sample_manifest(i, 3, static_cast<int>(i));
    ASSERT_OK(file.write(manifest));
    EXPECT_EQ(manifest.sequence, i);
    EXPECT_EQ(file.sequence(), i);
    EXPECT_EQ(read(*disk), manifest);
    EXPECT_THAT(verify(*disk), IsEmpty());
    if (i % 3 == 0) file = open(*disk);
  }
}

TEST(PageFile, TheBufferIsEmptyAfterEachWriteAndACleanClose) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 2, 1)));
  std::string evidence;
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, &evidence), DwbState::kEmpty) << evidence;
  PageFile file = open(*disk);
  Manifest manifest = sample_manifest(2, 2, 2);
  ASSERT_OK(file.write(manifest));
  ASSERT_OK(file.settle());
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, &evidence), DwbState::kEmpty);
  EXPECT_EQ(evidence, "dwb.pg is empty after sequence 2");
  // It is a fact on the disk, not in the page cache.
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const auto after = disk->crashed(disk->operations(), seed);
    EXPECT_EQ(*read_dwb_state(*after, kPagesDir, nullptr), DwbState::kEmpty);
    EXPECT_EQ(read(*after), manifest);
  }
}

TEST(PageFile, TheIndicatorIsTheHeadersStateAndNotAFileSize) {
  const auto disk = page_disk();
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kAbsent);
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 40, 1)));
  PageFile file = open(*disk);
  Manifest manifest = sample_manifest(2, 40, 2);
  ASSERT_OK(file.write(manifest));
  EXPECT_GT(disk->content(kPagesBuffer).size(), 4096U);
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kEmpty);
  // The last operations are the sync of index.pg and the header EMPTY.
  const auto armed = disk->killed(disk->operations() - 2, 1);
  std::string evidence;
  EXPECT_EQ(*read_dwb_state(*armed, kPagesDir, &evidence), DwbState::kArmed);
  EXPECT_THAT(evidence, HasSubstr("pages of sequence 2"));
  disk->set_content(kPagesBuffer, "short");
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kTorn);
}

TEST(PageFile, OnlyChangedPagesGoThroughTheBuffer) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1000, 1)));
  PageFile file = open(*disk);
  Manifest manifest = sample_manifest(1, 1000, 1);
  for (int round = 0; round < 3; ++round) {
    manifest.files.push_back({.generation = static_cast<std::uint64_t>(round) + 50});
    ASSERT_OK(file.write(manifest));
    const PageFileDescription description = describe(*disk);
    EXPECT_GT(description.pages.size(), 10U);
    // The superblock, the page with the sequence, the last page with the files.
    EXPECT_EQ(description.dwb_count, 3U);
  }
}

TEST(PageFile, SuperblocksTakeTurns) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  PageFile file = open(*disk);
  for (std::uint64_t sequence = 2; sequence < 8; ++sequence) {
    const std::string before = disk->content(kPagesHome);
    Manifest manifest = sample_manifest(sequence, 1, 1);
    ASSERT_OK(file.write(manifest));
    const std::string after = disk->content(kPagesHome);
    const std::size_t kept = sequence % 2 == 0 ? 0 : 4096;
    EXPECT_EQ(before.substr(kept, 4096), after.substr(kept, 4096));
    EXPECT_NE(before.substr(4096 - kept, 4096), after.substr(4096 - kept, 4096));
  }
}

TEST(PageFile, GrowsToHundredsOfPagesAndShrinksAgain) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  PageFile file = open(*disk);
  std::uint64_t number = 2;
  for (const int tables : {10, 20'000, 19'999, 3'000, 20'000, 1, 500}) {
    Manifest manifest = sample_manifest(number++, tables, 3);
    ASSERT_OK(file.write(manifest));
    EXPECT_EQ(read(*disk), manifest);
    EXPECT_THAT(verify(*disk), IsEmpty());
    const auto picture = *read_page_file(*disk, kPagesDir, kPagesUuid);
    EXPECT_EQ(disk->content(kPagesHome).size(), std::size_t{picture.pages} * 4096);
    if (tables == 20'000) {
      EXPECT_GT(picture.pages, 200U);
    }
  }
}

TEST(PageFile, AManifestForWhichASuperblockHasNoRoomIsRefusedUnchanged) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  PageFile file = open(*disk);
  const std::string before = disk->content(kPagesHome);
  Manifest large = sample_manifest(2, 50'000, 1);
  large.sequence = 77;
  const auto refused = file.write(large);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kLimitExceeded);
  EXPECT_EQ(refused.error().field("limit"), "2007616");
  EXPECT_EQ(large.sequence, 77U);
  EXPECT_EQ(disk->content(kPagesHome), before);
  Manifest small = sample_manifest(2, 2, 1);
  ASSERT_OK(file.write(small));
  EXPECT_EQ(read(*disk), small);
}

TEST(PageFile, AManifestThatWouldNotReadBackIsRefused) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  PageFile file = open(*disk);
  Manifest wrong = sample_manifest(2, 2, 1);
  std::swap(wrong.tables[0], wrong.tables[1]);
  const auto refused = file.write(wrong);
  ASSERT_FALSE(refused.has_value());
  EXPECT_EQ(refused.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(refused.error().message(), HasSubstr("table 1 follows table 2"));
  EXPECT_EQ(read(*disk).sequence, 1U);
}

TEST(PageFile, EveryPageSizeWorksAndNoOther) {
  for (std::uint32_t size = 4096; size <= 65536; size *= 2) {
    const auto disk = page_disk();
    ASSERT_OK(create_page_file(*disk, sample_manifest(1, 2000, 1), size));
    for (std::uint64_t i = 2; i < 5; ++i) {
      PageFile file = open(*disk);
      Manifest manifest = sample_manifest(i, 2000, 2);
      ASSERT_OK(file.write(manifest));
      EXPECT_EQ(read(*disk), manifest);
      EXPECT_EQ(read_page_file(*disk, kPagesDir, kPagesUuid)->page_size, size);
      EXPECT_THAT(verify(*disk), IsEmpty());
    }
  }
  for (const std::uint32_t size : {0U, 1U, 2048U, 4095U, 5000U, 12288U, 131072U}) {
    const auto disk = page_disk();
    const auto refused = create_page_file(*disk, sample_manifest(1, 1, 1), size);
    ASSERT_FALSE(refused.has_value());
    EXPECT_EQ(refused.error().code(), Code::kRecoveryConfigurationError);
    EXPECT_EQ(refused.error().field("setting"), "page_size");
    EXPECT_THAT(std::string(refused.error().field("issue")), HasSubstr("no power of two"));
    EXPECT_THAT(std::string(refused.error().field("fix")), HasSubstr("16384"));
    EXPECT_THAT(disk->all_files(), IsEmpty());
  }
}

TEST(PageFile, CreationNeverWritesOverAFile) {
  const auto disk = page_disk();
  ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  for (const std::string& gone : {kPagesBuffer, kPagesHome}) {
    const auto again = create_page_file(*disk, sample_manifest(2, 1, 1));
    ASSERT_FALSE(again.has_value());
    EXPECT_EQ(again.error().code(), Code::kFileExists);
    ASSERT_OK(disk->remove(gone));
  }
  ASSERT_OK(create_page_file(*disk, sample_manifest(2, 1, 1)));
}

// ---- Files of others, and missing ones

// Gives both superblocks' identities other bytes under right checksums.
void forge_identity(os::SimFiles& disk, std::size_t offset, std::string_view bytes) {
  std::string home = disk.content(kPagesHome);
  for (std::size_t page = 0; page < 2; ++page) {
    const std::size_t at = page * 4096;
    home.replace(at + offset, bytes.size(), bytes);
    store_value(home.data() + at + 84, crc32c(std::string_view(home).substr(at + 32, 52)));
    reseal(home, page);
  }
  disk.set_content(kPagesHome, home);
}
std::unique_ptr<os::SimFiles> disk_of_two_manifests() {
  auto disk = page_disk();
  EXPECT_TRUE(create_page_file(*disk, sample_manifest(1, 200, 1)).has_value());
  PageFile file = open(*disk);
  Manifest manifest = sample_manifest(2, 200, 2);
  EXPECT_TRUE(file.write(manifest).has_value());
  EXPECT_TRUE(file.settle().has_value());
  return disk;
}
Error reading_fails(os::Files& files, const std::string& uuid = kPagesUuid) {
  const auto picture = read_page_file(files, kPagesDir, uuid);
  EXPECT_FALSE(picture.has_value());
  // Nothing may be changed by trying.
  const auto restored = restore_pages(files, kPagesDir, uuid);
  EXPECT_FALSE(restored.has_value());
  EXPECT_EQ(restored.error().code(), picture.error().code());
  const auto opened = PageFile::open(files, kPagesDir, uuid);
  EXPECT_FALSE(opened.has_value());
  EXPECT_THAT(*verify_page_file(files, kPagesDir, uuid), testing::Not(IsEmpty()));
  return picture.error();
}

TEST(PageFile, AnotherFormatVersionIsNamed) {
  const auto disk = disk_of_two_manifests();
  forge_identity(*disk, 44, std::string("\x09\0\0\0", 4));
  const Error error = reading_fails(*disk);
  EXPECT_EQ(error.code(), Code::kStoreFormatUnsupported);
  EXPECT_EQ(error.field("version"), "9");
}

TEST(PageFile, AnotherByteOrderIsNamed) {
  const auto disk = disk_of_two_manifests();
  std::string home = disk->content(kPagesHome);
  store_value<std::uint32_t>(home.data() + 40, 0x04030201);
  store_value(home.data() + 84, std::byteswap(crc32c(std::string_view(home).substr(32, 52))));
  disk->set_content(kPagesHome, home);
  const Error error = reading_fails(*disk);
  EXPECT_EQ(error.code(), Code::kStoreFormatUnsupported);
  EXPECT_THAT(error.message(), HasSubstr("byte order"));
}

TEST(PageFile, AnImpossiblePageSizeIsNamed) {
  const auto disk = disk_of_two_manifests();
  forge_identity(*disk, 48, std::string("\x88\x13\0\0", 4));
  const Error error = reading_fails(*disk);
  EXPECT_EQ(error.code(), Code::kRecoveryConfigurationError);
  EXPECT_EQ(error.field("setting"), "page_size");
  EXPECT_THAT(std::string(error.field("issue")), HasSubstr("5000"));
}

TEST(PageFile, AnotherStoresFileIsNamed) {
  const auto disk = disk_of_two_manifests();
  const Error error = reading_fails(*disk, "ffffffffffffffff0123456789abcdef");
  EXPECT_EQ(error.code(), Code::kInconsistentState);
  EXPECT_THAT(std::string(error.field("diagnostics")), HasSubstr(kPagesUuid));
  EXPECT_NE(error.field("recovery_suggestions"), "");
}

TEST(PageFile, StoresThatShareATagAreToldApart) {
  const auto disk = disk_of_two_manifests();
  const Error error = reading_fails(*disk, "0123456789abcdefffffffffffffffff");
  EXPECT_EQ(error.code(), Code::kInconsistentState);
}

TEST(PageFile, AMissingIndexSaysWhatToDo) {
  const auto disk = disk_of_two_manifests();
  ASSERT_OK(disk->remove(kPagesHome));
  const Error error = reading_fails(*disk);
  EXPECT_EQ(error.code(), Code::kRecoveryImpossible);
  EXPECT_EQ(error.field("path"), kPagesHome);
  EXPECT_THAT(std::string(error.field("reason")), HasSubstr("missing"));
  EXPECT_THAT(error.suggested_action(), HasSubstr("repair"));
}

TEST(PageFile, AMissingBufferIsToleratedWhereTheIndexIsWhole) {
  const auto disk = disk_of_two_manifests();
  ASSERT_OK(disk->remove(kPagesBuffer));
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_OK(picture);
  EXPECT_EQ(picture->manifest.epoch, 2U);
  EXPECT_EQ(picture->dwb, DwbState::kAbsent);
  EXPECT_THAT(picture->notes, ElementsAre(HasSubstr("does not exist")));
  EXPECT_THAT(verify(*disk), ElementsAre(HasSubstr("does not exist")));
  // Opening for writing makes a new one, durable with its name.
  PageFile file = open(*disk);
  const auto after = disk->crashed(disk->operations(), 0);
  EXPECT_EQ(*read_dwb_state(*after, kPagesDir, nullptr), DwbState::kEmpty);
  EXPECT_THAT(verify(*after), IsEmpty());
}

TEST(PageFile, AMissingBufferIsFatalWhereTheIndexIsNotWhole) {
  const auto disk = disk_of_two_manifests();
  ASSERT_OK(disk->remove(kPagesBuffer));
  std::string home = disk->content(kPagesHome);
  home[3 * 4096 + 100] ^= 1;
  disk->set_content(kPagesHome, home);
  const Error error = reading_fails(*disk);
  EXPECT_EQ(error.code(), Code::kRecoveryImpossible);
  EXPECT_EQ(error.field("pages"), "3");
}

TEST(PageFile, AFileLargerThanAnyPageFileIsNotRead) {
  const auto disk = disk_of_two_manifests();
  class Huge final : public os::PassThroughFiles {
   public:
    using PassThroughFiles::PassThroughFiles;
    class HugeFile final : public os::PassThroughFile {
     public:
      HugeFile() : PassThroughFile(nullptr) {}
      Result<std::uint64_t> size() override { return std::uint64_t{1} << 50; }
    };
    Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
      if (path == kPagesHome) return std::unique_ptr<os::File>(std::make_unique<HugeFile>());
      return files_.open(path, mode);
    }
  };
  Huge huge(*disk);
  const auto picture = read_page_file(huge, kPagesDir, kPagesUuid);
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kRecoveryImpossible);
}

// ---- Full disks

TEST(PageFile, AFullDiskBeforeAnythingChangedLeavesEverythingUsable) {
  const auto disk = disk_of_two_manifests();
  const std::string home = disk->content(kPagesHome);
  const std::string buffer = disk->content(kPagesBuffer);
  PageFile file = open(*disk);
  const std::uint64_t used = home.size() + buffer.size();
  // From no space at all to all but the last byte of what both files need.
  for (std::uint64_t extra = 0; extra < 40 * 4096; extra += 4096 - 1) {
    disk->set_capacity(used + extra);
    Manifest large = sample_manifest(3, 3000, 2);
    const auto refused = file.write(large);
    ASSERT_FALSE(refused.has_value());
    ASSERT_EQ(refused.error().code(), Code::kNoSpace) << refused.error().to_text();
    ASSERT_EQ(disk->content(kPagesHome), home);
    ASSERT_EQ(disk->content(kPagesBuffer), buffer);
    ASSERT_EQ(read(*disk).sequence, 2U);
  }
  // What needs no more space goes on.
  disk->set_capacity(used);
  Manifest same_size = sample_manifest(3, 200, 2);
  ASSERT_OK(file.write(same_size));
  disk->set_capacity(~0ULL);
  Manifest large = sample_manifest(4, 3000, 2);
  ASSERT_OK(file.write(large));
  EXPECT_EQ(read(*disk), large);
  EXPECT_THAT(verify(*disk), IsEmpty());
}

// A file system that copies on write can be full also where a file does not grow.
TEST(PageFile, AFullDiskWhileTheBufferIsWrittenLeavesEverythingUsable) {
  for (const int offset : {4096, 0}) {  // the images, the header
    const auto disk = disk_of_two_manifests();
    PageFile file = open(*disk);
    bool failed = false;
    disk->set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
      if (failed || !what.starts_with(fmt::format("write {} at {},", kPagesBuffer, offset))) {
        return std::nullopt;
      }
      failed = true;
      return Error(Code::kNoSpace, "no space left on device");
    });
    Manifest manifest = sample_manifest(3, 210, 2);
    const auto refused = file.write(manifest);
    ASSERT_FALSE(refused.has_value());
    ASSERT_EQ(refused.error().code(), Code::kNoSpace) << refused.error().to_text();
    EXPECT_EQ(read(*disk).sequence, 2U);
    EXPECT_THAT(verify(*disk), IsEmpty());
    // Nothing of the refused one may come back after a power failure, also behind the next write.
    const std::size_t at = disk->operations();
    Manifest again = sample_manifest(4, 220, 2);
    ASSERT_OK(file.write(again));
    EXPECT_EQ(read(*disk), again);
    for (std::size_t n = at; n <= disk->operations(); ++n) {
      for (std::uint64_t seed = 0; seed < 30; ++seed) {
        EXPECT_NE(read(*disk->crashed(n, seed)).epoch, 3U);
      }
    }
  }
}

TEST(PageFile, AFullDiskAtCreationLeavesNoFiles) {
  for (std::uint64_t capacity = 0; capacity < 4 * 4096; capacity += 1000) {
    const auto disk = page_disk();
    disk->set_capacity(capacity);
    const auto created = create_page_file(*disk, sample_manifest(1, 1, 1));
    if (created) continue;
    EXPECT_EQ(created.error().code(), Code::kNoSpace);
    EXPECT_THAT(disk->all_files(), IsEmpty());
    disk->set_capacity(~0ULL);
    ASSERT_OK(create_page_file(*disk, sample_manifest(1, 1, 1)));
  }
}

// ---- For people

TEST(PageFile, ItsDescriptionNamesEveryPage) {
  const auto disk = disk_of_two_manifests();
  const PageFileDescription sound = describe(*disk);
  EXPECT_EQ(sound.page_size, 4096U);
  EXPECT_EQ(sound.sequence, 2U);
  EXPECT_EQ(sound.problem, "");
  ASSERT_THAT(sound.pages, SizeIs(5));
  for (const PageDescription& page : sound.pages) {
    EXPECT_EQ(page.kind, page.page < 2 ? "superblock" : "manifest");
    EXPECT_TRUE(page.crc_ok);
    EXPECT_EQ(page.note, "");
  }
  EXPECT_EQ(sound.pages[0].lsn, 1U);
  EXPECT_EQ(sound.pages[1].lsn, 2U);
  EXPECT_EQ(sound.dwb, DwbState::kEmpty);
  EXPECT_TRUE(sound.dwb_header_ok);
  EXPECT_EQ(sound.dwb_sequence, 2U);
  EXPECT_EQ(sound.dwb_count, sound.images.size());

  std::string home = disk->content(kPagesHome);
  home[2 * 4096 + 50] ^= 4;
  home.replace(3 * 4096, 4096, std::string(4096, '\0'));
  disk->set_content(kPagesHome, home);
  disk->set_content(kPagesBuffer, "");
  const PageFileDescription damaged = describe(*disk);
  EXPECT_EQ(damaged.sequence, 0U);
  EXPECT_THAT(damaged.problem, HasSubstr("page 2: checksum"));
  ASSERT_THAT(damaged.pages, SizeIs(5));
  EXPECT_FALSE(damaged.pages[2].crc_ok);
  EXPECT_THAT(damaged.pages[2].note, HasSubstr("checksum"));
  EXPECT_EQ(damaged.pages[3].kind, "zeros");
  EXPECT_EQ(damaged.dwb, DwbState::kTorn);
  EXPECT_FALSE(damaged.dwb_header_ok);
}

// ---- Beside a live writer

TEST(PageFile, ReadersBesideALiveWriterSeeWholeManifestsOnly) {
  const testing_util::TemporaryDir dir;
  os::Files& files = os::real_files();
  const auto manifest_of = [](std::uint64_t number) {
    // Growing and shrinking, so that the files do too.
    return sample_manifest(number, static_cast<int>(number % 7) * 60 + 1, 3);
  };
  ASSERT_OK(PageFile::create(files, dir.path(), kPagesUuid, 4096, manifest_of(1)));
  std::atomic<bool> stop = false;
  std::atomic<std::uint64_t> written = 1;
  std::jthread writer([&] {
    auto file = PageFile::open(files, dir.path(), kPagesUuid);
    ASSERT_OK(file);
    for (std::uint64_t number = 2; !stop; ++number) {
      Manifest manifest = manifest_of(number);
      ASSERT_OK(file->write(manifest));
      written = number;
    }
  });
  struct Stopper {
    std::atomic<bool>& stop;
    ~Stopper() { stop = true; }
  } const stopper{stop};  // before the writer is joined, also where an assertion fails
  std::uint64_t last = 0;
  int in_motion = 0;
  for (int i = 0; i < 400 || last < 100; ++i) {
    const std::uint64_t before = written;
    const auto picture = read_page_file(files, dir.path(), kPagesUuid);
    if (!picture) {
      ASSERT_EQ(picture.error().code(), Code::kUnavailable) << picture.error().to_text();
      ++in_motion;
      continue;
    }
    Manifest expected = manifest_of(picture->manifest.epoch);
    expected.sequence = picture->manifest.epoch;
    ASSERT_EQ(picture->manifest, expected);
    ASSERT_GE(picture->manifest.sequence, before);
    ASSERT_GE(picture->manifest.sequence, last);
    last = picture->manifest.sequence;
    if (i % 20 == 0) {
      const auto lines = verify_page_file(files, dir.path(), kPagesUuid);
      ASSERT_TRUE(lines.has_value() || lines.error().code() == Code::kUnavailable);
      if (lines) {
        ASSERT_THAT(*lines, IsEmpty());
      }
    }
  }
  EXPECT_LT(in_motion, 200);
}

}  // namespace
}  // namespace defib::store

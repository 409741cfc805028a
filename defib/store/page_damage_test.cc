// The page file through damage: every byte flipped, every truncation, writes that the device lost
// or put elsewhere, and buffers that must not be believed. The answer is always the right manifest,
// or a typed error that names the page; never an older manifest in silence.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "defib/os/random.h"
#include "defib/store/page_file.h"
#include "defib/store/testing/page_util.h"
#include "defib/store/testing/sample.h"

namespace defib::store {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using testing_util::create_page_file;
using testing_util::kPagesBuffer;
using testing_util::kPagesDir;
using testing_util::kPagesHome;
using testing_util::kPagesUuid;
using testing_util::page_disk;
using testing_util::reseal;
using testing_util::Sample;
using testing_util::sample_manifest;

constexpr std::size_t kPage = 4096;

// The contents of the two files, and the manifest that they mean.
struct Files {
  std::string home;
  std::string buffer;
  Manifest manifest;
};

std::unique_ptr<os::SimFiles> disk_with(const Files& files) {
  auto disk = page_disk();
  for (const std::string& path : {kPagesHome, kPagesBuffer}) {
    EXPECT_TRUE(disk->open(path, os::OpenMode::kCreate).has_value());
  }
  disk->set_content(kPagesHome, files.home);
  disk->set_content(kPagesBuffer, files.buffer);
  return disk;
}
Files files_of(os::SimFiles& disk, Manifest manifest) {
  return {disk.content(kPagesHome), disk.content(kPagesBuffer), std::move(manifest)};
}

// After each of `count` manifests of about five pages. Neighbours differ in two pages and a
// superblock; from one to the one after the next, in more.
std::vector<Files> history(std::uint64_t count) {
  const auto disk = page_disk();
  EXPECT_TRUE(create_page_file(*disk, sample_manifest(1, 250, 2)).has_value());
  Manifest manifest = sample_manifest(1, 250, 2);
  manifest.sequence = 1;
  std::vector<Files> result{files_of(*disk, manifest)};
  auto file = PageFile::open(*disk, kPagesDir, kPagesUuid);
  for (std::uint64_t number = 2; number <= count; ++number) {
    manifest = sample_manifest(number, 250, 2);
    EXPECT_TRUE(file->write(manifest).has_value());
    result.push_back(files_of(*disk, manifest));
  }
  return result;
}

// The first state again, with the second's buffer armed as before its pages went home.
Files armed_between(const Files& before, const Files& after) {
  Files files{before.home, after.buffer, after.manifest};
  files.buffer.replace(20, 4, "ARMD");
  store_value(files.buffer.data() + 72, crc32c(std::string_view(files.buffer).substr(0, 72)));
  return files;
}

void expect_right_or_typed(const Files& damaged, const Manifest& right, const std::string& where,
                           const Manifest* also_right = nullptr) {
  const auto disk = disk_with(damaged);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  if (picture) {
    ASSERT_TRUE(picture->manifest == right ||
                (also_right != nullptr && picture->manifest == *also_right))
        << where << ": sequence " << picture->manifest.sequence;
    // Restoring makes it whole, or leaves it as right as it was.
    ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value()) << where;
    const auto restored = read_page_file(*disk, kPagesDir, kPagesUuid);
    ASSERT_TRUE(restored.has_value()) << where;
    ASSERT_EQ(restored->manifest, picture->manifest) << where;
    ASSERT_EQ(restored->dwb, DwbState::kEmpty) << where;
    ASSERT_THAT(restored->to_restore, IsEmpty()) << where;
    return;
  }
  const std::set<Code> typed = {Code::kRecoveryImpossible, Code::kInconsistentState};
  ASSERT_TRUE(typed.contains(picture.error().code())) << where << picture.error().to_text();
  ASSERT_NE(picture.error().field("path"), "") << where;
  ASSERT_NE(picture.error().field("pages"), "") << where << picture.error().to_text();
  const std::size_t operations = disk->operations();
  ASSERT_FALSE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value()) << where;
  ASSERT_EQ(disk->operations(), operations) << where << ": a refused restoring wrote something";
}

std::size_t verified_lines(const Files& files) {
  const auto disk = disk_with(files);
  return verify_page_file(*disk, kPagesDir, kPagesUuid)->size();
}

TEST(PageDamage, EveryFlippedByteOfASettledStoreIsHarmlessOrTypedAndVerifyReportsIt) {
  const Files sound = history(3).back();
  ASSERT_EQ(verified_lines(sound), 0U);
  os::Random random(5);
  Sample sample("flipped bytes");
  for (std::string Files::* member : {&Files::home, &Files::buffer}) {
    for (std::size_t at = 0; at < (sound.*member).size(); ++at) {
      if (!sample.takes(at)) continue;
      Files damaged = sound;
      (damaged.*member)[at] ^= static_cast<char>(1 << random.below(8));
      const std::string where =
          fmt::format("{} byte {}", member == &Files::home ? kPagesHome : kPagesBuffer, at);
      expect_right_or_typed(damaged, sound.manifest, where);
      if (HasFatalFailure()) return;
      ASSERT_GT(verified_lines(damaged), 0U) << where;
    }
  }
}

TEST(PageDamage, EveryFlippedByteWithoutImagesToHealFromIsTypedAndVerifyReportsIt) {
  const std::vector<Files> states = history(3);
  Files sound = states.back();
  sound.buffer = states.front().buffer;  // of the creation: no images
  const auto disk = disk_with(sound);
  ASSERT_TRUE(PageFile::open(*disk, kPagesDir, kPagesUuid).has_value());
  sound.buffer = disk->content(kPagesBuffer);
  ASSERT_EQ(verified_lines(sound), 0U);
  std::size_t refused = 0;
  Sample sample("flipped bytes without images");
  for (std::size_t at = 0; at < sound.home.size(); ++at) {
    if (!sample.takes(at)) continue;
    Files damaged = sound;
    damaged.home[at] ^= 0x10;
    expect_right_or_typed(damaged, sound.manifest, fmt::format("byte {}", at));
    if (HasFatalFailure()) return;
    ASSERT_GT(verified_lines(damaged), 0U) << at;
    const auto files = disk_with(damaged);
    if (!read_page_file(*files, kPagesDir, kPagesUuid)) ++refused;
  }
  // Everything but the older superblock is needed.
  if (sample.is_all()) {
    EXPECT_EQ(refused, sound.home.size() - kPage);
  }
  EXPECT_GT(refused, 0U);
}

TEST(PageDamage, EveryFlippedByteOfAnArmedStoreIsHarmlessOrTyped) {
  const std::vector<Files> states = history(3);
  const Files armed = armed_between(states[1], states[2]);
  Files torn = armed;  // and one page is home in part
  torn.home.replace(2 * kPage, 40, states[2].home.substr(2 * kPage, 40));
  Sample sample("flipped bytes of armed stores");
  for (const Files& sound : {armed, torn}) {
    const auto disk = disk_with(sound);
    ASSERT_EQ(read_page_file(*disk, kPagesDir, kPagesUuid)->manifest, states[2].manifest);
    for (std::string Files::* member : {&Files::home, &Files::buffer}) {
      // Every byte of one, and of the other those at the head of each page and some of the rest.
      const std::size_t step = sound.home == torn.home ? 1 : 5;
      for (std::size_t at = 0; at < (sound.*member).size(); at += at % kPage < 160 ? 1 : step) {
        if (!sample.takes(at)) continue;
        Files damaged = sound;
        (damaged.*member)[at] ^= 0x04;
        // The write under way counts, or not, where nothing of it is home.
        expect_right_or_typed(damaged, states[2].manifest, fmt::format("byte {}", at),
                              &states[1].manifest);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(PageDamage, EveryTruncationIsHarmlessOrTyped) {
  Sample sample("truncations");
  const std::vector<Files> states = history(3);
  for (const Files& sound : {states[2], armed_between(states[1], states[2])}) {
    const Manifest* before = sound.home == states[2].home ? nullptr : &states[1].manifest;
    for (std::string Files::* member : {&Files::home, &Files::buffer}) {
      for (std::size_t size = 0; size < (sound.*member).size(); size += size % 512 == 0 ? 1 : 37) {
        if (!sample.takes(size)) continue;
        Files damaged = sound;
        (damaged.*member).resize(size);
        const std::string where = fmt::format("cut to {}", size);
        expect_right_or_typed(damaged, sound.manifest, where, before);
        if (HasFatalFailure()) return;
        if (before == nullptr) {
          ASSERT_GT(verified_lines(damaged), 0U) << where;
        }
      }
    }
  }
}

TEST(PageDamage, RandomDamageIsHarmlessOrTyped) {
  const std::vector<Files> states = history(6);
  os::Random random(11);
  Sample sample("random damages");
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    if (!sample.takes(i)) continue;
    // Any page and any buffer of any moment, then some bytes of noise.
    Files files = states[random.below(states.size())];
    files.buffer = states[random.below(states.size())].buffer;
    for (std::uint64_t n = random.below(3); n > 0; --n) {
      const std::size_t page = random.below(files.home.size() / kPage);
      const std::string& from = states[random.below(states.size())].home;
      files.home.replace(page * kPage, kPage,
                         from.substr(random.below(from.size() / kPage) * kPage, kPage));
    }
    for (std::uint64_t n = random.below(3); n > 0; --n) {
      std::string& bytes = random.below(2) == 0 ? files.home : files.buffer;
      bytes[random.below(bytes.size())] = static_cast<char>(random.next());
    }
    const auto disk = disk_with(files);
    const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
    if (!picture) continue;
    // Whatever it is, it was the store's once, whole.
    ASSERT_EQ(picture->manifest, states[picture->manifest.sequence - 1].manifest);
  }
}

// ---- Lost and misdirected writes

// Reading `files` must fail, naming page `page`.
Error must_name(const Files& files, Code code, std::uint32_t page) {
  const auto disk = disk_with(files);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  EXPECT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), code) << picture.error().to_text();
  EXPECT_EQ(picture.error().field("pages"), std::to_string(page)) << picture.error().to_text();
  EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), Not(IsEmpty()));
  return picture.error();
}

// As if the next write had never gone through the buffer.
std::string empty_buffer(std::uint64_t sequence) {
  std::string buffer = history(1).front().buffer;
  store_value(buffer.data() + 24, sequence);
  store_value(buffer.data() + 72, crc32c(std::string_view(buffer).substr(0, 72)));
  return buffer;
}

TEST(PageDamage, APageWriteThatWasLostIsHealedFromTheBufferOrNamed) {
  const std::vector<Files> states = history(4);
  const auto& last = states[3];
  std::size_t changed = 0;
  for (std::uint32_t page = 2; page < last.home.size() / kPage; ++page) {
    Files lost = last;
    lost.home.replace(page * kPage, kPage, states[2].home.substr(page * kPage, kPage));
    if (lost.home == last.home) continue;
    ++changed;
    const auto disk = disk_with(lost);
    const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
    ASSERT_TRUE(picture.has_value()) << picture.error().to_text();
    EXPECT_EQ(picture->manifest, last.manifest);
    EXPECT_THAT(picture->to_restore, ElementsAre(page));
    EXPECT_THAT(picture->notes, ElementsAre(HasSubstr("a write was lost")));
    EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid),
                ElementsAre(HasSubstr("a write was lost")));
    EXPECT_EQ(PageFile::open(*disk, kPagesDir, kPagesUuid).error().code(), Code::kRecoveryNeeded);
    ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
    EXPECT_EQ(disk->content(kPagesHome), last.home);
    EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), IsEmpty());
    lost.buffer = empty_buffer(4);
    EXPECT_THAT(must_name(lost, Code::kInconsistentState, page).message(),
                HasSubstr("it is of sequence 3, and 4 belongs here"));
  }
  EXPECT_GE(changed, 2U);
}

TEST(PageDamage, APageWriteThatWentElsewhereIsFoundAtBothPlaces) {
  const std::vector<Files> states = history(4);
  Files misdirected = states[3];
  // Page 2 went to page 3: page 2 is old, page 3 carries a wrong number.
  misdirected.home.replace(3 * kPage, kPage, states[3].home.substr(2 * kPage, kPage));
  misdirected.home.replace(2 * kPage, kPage, states[2].home.substr(2 * kPage, kPage));
  misdirected.buffer = empty_buffer(4);
  const auto disk = disk_with(misdirected);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kRecoveryImpossible);
  EXPECT_EQ(picture.error().field("pages"), "2,3");
  EXPECT_THAT(picture.error().message(), HasSubstr("a write was lost"));
  EXPECT_THAT(picture.error().message(), HasSubstr("page 2 stands there"));
}

TEST(PageDamage, ALostSuperblockWriteNeverBringsBackTheOlderManifest) {
  const std::vector<Files> states = history(4);
  const std::uint32_t page = 1;  // of sequence 4
  Files lost = states[3];
  lost.home.replace(page * kPage, kPage, states[2].home.substr(page * kPage, kPage));
  // Its image is there still.
  const auto disk = disk_with(lost);
  EXPECT_EQ(read_page_file(*disk, kPagesDir, kPagesUuid)->manifest, states[3].manifest);
  ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
  EXPECT_EQ(disk->content(kPagesHome), states[3].home);
  // Without images the buffer's header tells it.
  lost.buffer = empty_buffer(4);
  EXPECT_THAT(must_name(lost, Code::kInconsistentState, page).message(),
              HasSubstr("the superblock of sequence 4 is missing"));
  // Without a buffer the manifest pages that did arrive tell it.
  lost.buffer = "";
  const auto without = disk_with(lost);
  const auto picture = read_page_file(*without, kPagesDir, kPagesUuid);
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kInconsistentState);
  EXPECT_THAT(picture.error().message(), HasSubstr("newer than the superblock says"));
  // The next one's buffer, torn, knows that this one was brought home.
  const auto next = history(5)[4];
  lost.buffer = armed_between(states[3], next).buffer;
  lost.buffer.back() ^= 1;
  (void)must_name(lost, Code::kInconsistentState, page);
}

TEST(PageDamage, AllPagesLostAtHomeAreHealedFromTheBuffer) {
  const std::vector<Files> states = history(4);
  Files lost = states[3];
  lost.home = states[2].home;
  const auto disk = disk_with(lost);
  EXPECT_EQ(read_page_file(*disk, kPagesDir, kPagesUuid)->manifest, states[3].manifest);
  lost.buffer = empty_buffer(4);
  (void)must_name(lost, Code::kInconsistentState, 1);
}

TEST(PageDamage, TheOlderSuperblockIsReportedAndReplacedByTheNextManifest) {
  Files files = history(4)[3];
  files.home[100] ^= 1;  // sequence 3, page 0
  const auto disk = disk_with(files);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_TRUE(picture.has_value());
  EXPECT_EQ(picture->manifest, files.manifest);
  EXPECT_THAT(picture->notes, ElementsAre(HasSubstr("older superblock")));
  EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), SizeIs(1));
  auto file = PageFile::open(*disk, kPagesDir, kPagesUuid);
  ASSERT_TRUE(file.has_value());
  Manifest manifest = sample_manifest(5, 250, 2);
  ASSERT_TRUE(file->write(manifest).has_value());
  EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), IsEmpty());
}

// ---- Buffers that must not be believed

TEST(PageDamage, AnArmedBufferOfAnOlderSequenceIsIgnored) {
  const std::vector<Files> states = history(5);
  for (std::size_t old = 1; old < 4; ++old) {
    Files files = states[4];
    files.buffer = armed_between(states[old - 1], states[old]).buffer;
    const auto disk = disk_with(files);
    const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
    ASSERT_TRUE(picture.has_value()) << picture.error().to_text();
    EXPECT_EQ(picture->manifest, files.manifest);
    EXPECT_EQ(picture->dwb, DwbState::kArmed);
    EXPECT_THAT(picture->to_restore, IsEmpty());
    EXPECT_THAT(picture->notes, ElementsAre(HasSubstr("ignored")));
    ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
    EXPECT_EQ(disk->content(kPagesHome), files.home);
    EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kEmpty);
    EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), IsEmpty());
  }
}

TEST(PageDamage, AnArmedImageNeverReplacesANewerPage) {
  const std::vector<Files> states = history(5);
  // Home has page 2 of sequence 5, everything else of 3; the buffer is armed with 4.
  Files files = armed_between(states[2], states[3]);
  files.home.replace(2 * kPage, kPage, states[4].home.substr(2 * kPage, kPage));
  const auto disk = disk_with(files);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  // The image is what the newest superblock asks for, and the page of 5 contradicts it: a
  // superblock was lost. That must not be covered up.
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kInconsistentState) << picture.error().to_text();
  EXPECT_EQ(picture.error().field("pages"), "2");
  EXPECT_FALSE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
  EXPECT_EQ(disk->content(kPagesHome), files.home);
}

TEST(PageDamage, AnOldImageStillHealsAPageThatHasNotChangedSince) {
  // Sequence 2 writes a page which 3 and 4 leave alone; the buffer of 2 comes back.
  const auto disk = page_disk();
  Manifest manifest = sample_manifest(1, 250, 2);
  ASSERT_TRUE(create_page_file(*disk, manifest).has_value());
  auto file = PageFile::open(*disk, kPagesDir, kPagesUuid);
  manifest.tables[150].name[8] = 'x';
  ASSERT_TRUE(file->write(manifest).has_value());
  const std::string buffer = disk->content(kPagesBuffer);
  for (int i = 0; i < 2; ++i) {
    ++manifest.epoch;
    ASSERT_TRUE(file->write(manifest).has_value());
  }
  const std::string sound = disk->content(kPagesHome);
  const auto description = *describe_page_file(*disk, kPagesDir, kPagesUuid);
  std::uint32_t kept = 0;
  for (const PageDescription& page : description.pages) {
    if (page.lsn == 2) kept = page.page;
  }
  ASSERT_GT(kept, 2U);
  std::string home = sound;
  home[kept * kPage + 500] ^= 1;
  disk->set_content(kPagesHome, home);
  disk->set_content(kPagesBuffer, buffer);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_TRUE(picture.has_value()) << picture.error().to_text();
  EXPECT_EQ(picture->manifest, manifest);
  EXPECT_THAT(picture->to_restore, ElementsAre(kept));
  ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
  EXPECT_EQ(disk->content(kPagesHome), sound);
  EXPECT_THAT(*verify_page_file(*disk, kPagesDir, kPagesUuid), IsEmpty());
}

TEST(PageDamage, AnArmedBufferOfAnotherStoreIsIgnored) {
  const std::vector<Files> states = history(3);
  Files files = states[1];
  files.buffer = armed_between(states[1], states[2]).buffer;
  files.buffer.replace(32, 4, "ffff");
  store_value(files.buffer.data() + 72, crc32c(std::string_view(files.buffer).substr(0, 72)));
  const auto disk = disk_with(files);
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kArmed);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_TRUE(picture.has_value()) << picture.error().to_text();
  EXPECT_EQ(picture->manifest, states[1].manifest);
  EXPECT_EQ(picture->dwb, DwbState::kTorn);
  EXPECT_THAT(picture->notes, ElementsAre(HasSubstr("belongs to another store")));
  ASSERT_TRUE(restore_pages(*disk, kPagesDir, kPagesUuid).has_value());
  EXPECT_EQ(*read_dwb_state(*disk, kPagesDir, nullptr), DwbState::kEmpty);
  EXPECT_EQ(disk->content(kPagesHome), states[1].home);
}

TEST(PageDamage, ATornBufferOverTornPagesNamesThem) {
  const std::vector<Files> states = history(3);
  Files files = armed_between(states[1], states[2]);
  files.home.replace(2 * kPage, 40, states[2].home.substr(2 * kPage, 40));
  files.buffer[5000] ^= 1;
  const Error error = must_name(files, Code::kRecoveryImpossible, 2);
  EXPECT_THAT(error.message(), HasSubstr("cannot help: checksum of the images"));
  EXPECT_THAT(error.suggested_action(), HasSubstr("repair"));
}

TEST(PageDamage, ABufferOfANewerVersionIsRefused) {
  Files files = history(2)[1];
  store_value<std::uint32_t>(files.buffer.data() + 12, 9);
  store_value(files.buffer.data() + 72, crc32c(std::string_view(files.buffer).substr(0, 72)));
  const auto disk = disk_with(files);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kStoreFormatUnsupported);
  EXPECT_EQ(picture.error().field("version"), "9");
}

TEST(PageDamage, ArmedImagesAreBelievedOnlyIfEveryOneOfThemHolds) {
  const std::vector<Files> states = history(3);
  const Files armed = armed_between(states[1], states[2]);
  // Under right checksums of the header and of all images together.
  const auto forged = [&](auto change) {
    Files files = armed;
    change(files.buffer);
    const auto images = load<std::uint32_t>(files.buffer.data() + 64);
    store_value(files.buffer.data() + 68,
                crc32c(std::string_view(files.buffer).substr(kPage, images * kPage)));
    store_value(files.buffer.data() + 72, crc32c(std::string_view(files.buffer).substr(0, 72)));
    const auto disk = disk_with(files);
    const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
    EXPECT_TRUE(picture.has_value());
    EXPECT_EQ(picture->dwb, DwbState::kTorn);
    EXPECT_EQ(picture->manifest, states[1].manifest);
    return picture->notes.at(0);
  };
  EXPECT_THAT(forged([](std::string& b) { b[2 * kPage + 100] ^= 1; }),
              HasSubstr("image 1: checksum"));
  EXPECT_THAT(forged([](std::string& b) { b.replace(kPage, kPage, b.substr(2 * kPage, kPage)); }),
              HasSubstr("image 1 is page"));
  EXPECT_THAT(forged([](std::string& b) { store_value<std::uint64_t>(b.data() + 24, 2); }),
              HasSubstr("image 0 is page"));
  EXPECT_THAT(forged([](std::string& b) { store_value<std::uint32_t>(b.data() + 64, 0); }),
              HasSubstr("armed without an image"));
  EXPECT_THAT(forged([](std::string& b) { store_value<std::uint32_t>(b.data() + 64, 400); }),
              HasSubstr("ends within its 400 images"));
}

TEST(PageDamage, AManifestUnderRightPageChecksumsIsStillChecked) {
  Files files = history(2)[1];
  files.buffer = empty_buffer(2);
  files.home[2 * kPage + 40] ^= 1;
  reseal(files.home, 2);
  const auto disk = disk_with(files);
  const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
  ASSERT_FALSE(picture.has_value());
  EXPECT_EQ(picture.error().code(), Code::kRecoveryImpossible);
  EXPECT_THAT(picture.error().message(), HasSubstr("checksum of the manifest"));
}

TEST(PageDamage, NoiseUnderRightChecksumsIsNeverAWrongManifestNorACrash) {
  const std::vector<Files> states = history(3);
  os::Random random(77);
  const auto noise = [&](std::string& bytes, std::size_t at, std::size_t size) {
    for (std::uint64_t n = random.below(3) + 1; n > 0; --n) {
      bytes[at + random.below(size)] = static_cast<char>(random.next());
    }
  };
  Sample sample("noises");
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    if (!sample.takes(i)) continue;
    Files files = random.below(2) == 0 ? states[2] : armed_between(states[1], states[2]);
    if (random.below(2) == 0) {
      // The head of a superblock, where its structure is.
      const std::uint64_t page = random.below(2);
      noise(files.home, page * kPage, 160);
      store_value(files.home.data() + page * kPage + 84,
                  crc32c(std::string_view(files.home).substr(page * kPage + 32, 52)));
      reseal(files.home, page);
    } else {
      noise(files.buffer, 0, 72);
      store_value(files.buffer.data() + 72, crc32c(std::string_view(files.buffer).substr(0, 72)));
    }
    const auto disk = disk_with(files);
    const auto picture = read_page_file(*disk, kPagesDir, kPagesUuid);
    (void)verify_page_file(*disk, kPagesDir, kPagesUuid);
    (void)describe_page_file(*disk, kPagesDir, kPagesUuid);
    (void)restore_pages(*disk, kPagesDir, kPagesUuid);
    if (!picture) continue;
    ASSERT_TRUE(picture->manifest == states[2].manifest || picture->manifest == states[1].manifest);
  }
}

}  // namespace
}  // namespace defib::store

// The page file through crashes: a workload is recorded once and crashed after every operation, by
// power failure and by kill, and so is the restoring, to depth three; and every operation fails
// once, with every error it can have.
//
// The oracle: what is read is the manifest before or after the write that was under way, at least
// the last acknowledged; reading writes nothing; after restoring, the same is read, verification
// finds nothing, the buffer is empty, restoring again writes nothing, and writing goes on.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>

#include "defib/os/pass_through_files.h"
#include "defib/os/random.h"
#include "defib/store/page_file.h"
#include "defib/store/testing/page_util.h"
#include "defib/store/testing/sample.h"

namespace defib::store {
namespace {

using testing_util::create_page_file;
using testing_util::kPagesBuffer;
using testing_util::kPagesDir;
using testing_util::kPagesHome;
using testing_util::kPagesUuid;
using testing_util::page_disk;
using testing_util::Sample;
using testing_util::sample_manifest;

// A disk that ignores some syncs: a planted bug between the page file and the disk.
class Careless final : public os::PassThroughFiles {
 public:
  Careless(os::Files& files, std::string path) : PassThroughFiles(files), path_(std::move(path)) {}

  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    if (path != path_) return file;
    return std::unique_ptr<os::File>(std::make_unique<CarelessFile>(std::move(file)));
  }

 private:
  class CarelessFile final : public os::PassThroughFile {
   public:
    using PassThroughFile::PassThroughFile;
    Result<> sync() override { return {}; }
  };
  std::string path_;
};

// What was done to a disk, and what must be found after a crash.
class Recording {
 public:
  explicit Recording(std::string careless_about = "")
      : disk_(page_disk()), careless_(*disk_, std::move(careless_about)) {}
  os::SimFiles& disk() { return *disk_; }
  os::Files& files() { return careless_; }
  const Manifest& manifest(std::uint64_t sequence) const { return manifests_.at(sequence); }

  Result<> create(int tables, int runs) {
    Manifest manifest = sample_manifest(1, tables, runs);
    manifest.sequence = 1;
    begin(manifest);
    return acknowledge(create_page_file(files(), manifest));
  }
  Result<> open() {
    file_.reset();
    auto file = PageFile::open(files(), kPagesDir, kPagesUuid);
    if (!file) return Error(file.error());
    file_ = *std::move(file);
    return {};
  }
  Result<> write(int tables, int runs) {
    Manifest manifest = sample_manifest(manifests_.rbegin()->first + 1, tables, runs);
    Manifest expected = manifest;
    expected.sequence = manifest.epoch;
    begin(expected);
    return acknowledge(file_->write(manifest));
  }
  Result<> settle() { return file_->settle(); }

  std::uint64_t required(std::size_t operations) const { return last(acknowledged_, operations); }
  std::uint64_t possible(std::size_t operations) const { return last(begun_, operations); }

 private:
  using Marks = std::vector<std::pair<std::size_t, std::uint64_t>>;  // operations, sequence
  static std::uint64_t last(const Marks& marks, std::size_t operations) {
    std::uint64_t sequence = 0;
    for (const auto& [at, number] : marks) {
      if (at <= operations) sequence = number;
    }
    return sequence;
  }
  void begin(const Manifest& manifest) {
    manifests_[manifest.sequence] = manifest;
    begun_.push_back({disk_->operations(), manifest.sequence});
  }
  Result<> acknowledge(Result<> done) {
    const std::uint64_t sequence = begun_.back().second;
    if (done) {
      acknowledged_.push_back({disk_->operations(), sequence});
    } else if (poisoned_ || done.error().code() == Code::kNoSpace) {
      begun_.pop_back();  // It never happened.
      manifests_.erase(sequence);
    } else {
      poisoned_ = true;
    }
    return done;
  }

  std::unique_ptr<os::SimFiles> disk_;
  Careless careless_;
  std::optional<PageFile> file_;
  std::map<std::uint64_t, Manifest> manifests_;  // by sequence
  Marks begun_;
  Marks acknowledged_;
  bool poisoned_ = false;
};

// Growing, shrinking, unchanged pages, reopening; stops at the first failure.
Result<> workload(Recording& r) {
  DEFIB_TRY(r.create(2, 1));
  DEFIB_TRY(r.open());
  for (const auto& [tables, runs] : {std::pair{2, 2}, {150, 2}, {150, 3}, {4, 3}, {260, 1}}) {
    DEFIB_TRY(r.write(tables, runs));
  }
  DEFIB_TRY(r.settle());
  DEFIB_TRY(r.open());
  DEFIB_TRY(r.write(260, 2));
  DEFIB_TRY(r.write(90, 2));
  return r.settle();
}

class Campaign {
 public:
  Campaign(Recording& recording, std::uint64_t seeds) : recording_(recording), seeds_(seeds) {}

  // One crash point in `deep_every` goes to the full depth, the others to two.
  void crash_everywhere(int depth, std::size_t deep_every = 1) {
    const std::size_t operations = recording_.disk().operations();
    Sample sample("operations of the page file that are crashed", testing_util::kFewCases);
    is_whole_ = sample.is_all();
    for (std::size_t n = 0; n <= operations && violations_.empty(); ++n) {
      if (!sample.takes(n)) continue;
      const int here = n % deep_every == 0 ? depth : std::min(depth, 2);
      crash_at(recording_.disk(), n, here, recording_.required(n), recording_.possible(n), "");
    }
  }
  // Whether all operations were crashed, and not a sample.
  bool is_whole() const { return is_whole_; }
  // The disk after `n` operations is what recovery finds: by itself, killed, and after a power
  // failure.
  void crash_at(const os::SimFiles& disk, std::size_t n, int depth, std::uint64_t required,
                std::uint64_t possible, const std::string& before) {
    crash_at(disk, n, depth, required, possible, before, seeds_);
  }
  void crash_at(const os::SimFiles& disk, std::size_t n, int depth, std::uint64_t required,
                std::uint64_t possible, const std::string& before, std::uint64_t seeds) {
    for (std::uint64_t i = 0; i <= seeds && violations_.empty(); ++i) {
      const bool kill = i == seeds;
      const std::uint64_t seed = n * 101 + i;
      const auto image = kill ? disk.killed(n, seed) : disk.crashed(n, seed);
      const std::string where = fmt::format(
          "{}{} after operation {} ({}), seed {}", before, kill ? "kill" : "power failure", n,
          n > 0 ? disk.describe_operation(n - 1) : "nothing", seed);
      check(*image, depth, required, possible, where);
    }
  }
  void check(os::SimFiles& image, int depth, std::uint64_t required, std::uint64_t possible,
             const std::string& where) {
    ++points_;
    const auto violation = [&](const std::string& what) {
      violations_.push_back(where + ": " + what);
    };
    const auto picture = read_page_file(image, kPagesDir, kPagesUuid);
    if (image.operations() > 0) return violation("reading wrote something");
    if (!picture) {
      if (required == 0) return create_again(image, where);
      return violation("it cannot be read: " + picture.error().to_line());
    }
    const std::uint64_t found = picture->manifest.sequence;
    if (found < required || found > possible) {
      return violation(fmt::format("sequence {}, not {} to {}", found, required, possible));
    }
    if (picture->manifest != recording_.manifest(found)) return violation("another manifest");
    restore(image, found, where);
    if (!violations_.empty()) return;
    const std::size_t operations = image.operations();
    if (depth > 1) {
      for (std::size_t m = 0; m < operations; ++m) {
        crash_at(image, m, depth - 1, required, found, where + "; then, restoring, ");
      }
    }
    if (operations > 0) {
      crash_at(image, operations, 1, found, found, where + "; then, restored, ", 1);
    }
    if (violations_.empty()) go_on(image, where);
  }

  std::uint64_t points() const { return points_; }
  const std::vector<std::string>& violations() const { return violations_; }

 private:
  void restore(os::SimFiles& image, std::uint64_t sequence, const std::string& where) {
    const auto violation = [&](const std::string& what) {
      violations_.push_back(where + ": " + what);
    };
    if (const auto restored = restore_pages(image, kPagesDir, kPagesUuid); !restored) {
      return violation("it cannot be restored: " + restored.error().to_line());
    }
    const auto picture = read_page_file(image, kPagesDir, kPagesUuid);
    if (!picture || picture->manifest != recording_.manifest(sequence)) {
      return violation("another manifest after restoring");
    }
    if (picture->dwb != DwbState::kEmpty || !picture->to_restore.empty() ||
        !picture->notes.empty()) {
      return violation("something is left to restore");
    }
    if (*read_dwb_state(image, kPagesDir, nullptr) != DwbState::kEmpty) {
      return violation("the indicator stays on");
    }
    const auto lines = verify_page_file(image, kPagesDir, kPagesUuid);
    if (!lines || !lines->empty()) {
      return violation("verification: " + (lines ? lines->front() : lines.error().to_line()));
    }
    const std::size_t operations = image.operations();
    if (!restore_pages(image, kPagesDir, kPagesUuid) || image.operations() != operations) {
      violation("restoring again wrote something");
    }
  }
  void create_again(os::SimFiles& image, const std::string& where) {
    for (const std::string& path : {kPagesHome, kPagesBuffer}) {
      if (image.exists(path)) (void)image.remove(path);
    }
    (void)image.create_dirs(kPagesDir);
    if (const auto created = create_page_file(image, sample_manifest(1, 1, 1)); !created) {
      violations_.push_back(where + ": no creation: " + created.error().to_line());
    }
  }
  void go_on(os::SimFiles& image, const std::string& where) {
    auto file = PageFile::open(image, kPagesDir, kPagesUuid);
    Manifest manifest = sample_manifest(77, 30, 3);
    if (!file || !file->write(manifest)) {
      violations_.push_back(where + ": writing does not go on");
      return;
    }
    const auto picture = read_page_file(image, kPagesDir, kPagesUuid);
    const auto lines = verify_page_file(image, kPagesDir, kPagesUuid);
    if (!picture || picture->manifest != manifest || !lines || !lines->empty()) {
      violations_.push_back(where + ": the next manifest is not read back");
    }
  }

  Recording& recording_;
  std::uint64_t seeds_;
  std::uint64_t points_ = 0;
  bool is_whole_ = true;
  std::vector<std::string> violations_;
};

TEST(PageCrash, EveryCrashLeavesTheManifestBeforeOrAfter) {
  Recording recording;
  const auto done = workload(recording);
  ASSERT_TRUE(done.has_value()) << done.error().to_text();
  Campaign campaign(recording, 28);
  campaign.crash_everywhere(1);
  EXPECT_THAT(campaign.violations(), testing::IsEmpty());
  EXPECT_GT(campaign.points(), campaign.is_whole() ? 2000U : 0U);
}

TEST(PageCrash, SoDoesEveryCrashWhileRestoringToDepthThree) {
  Recording recording;
  const auto done = workload(recording);
  ASSERT_TRUE(done.has_value()) << done.error().to_text();
  Campaign campaign(recording, 1);
  campaign.crash_everywhere(3, 11);
  EXPECT_THAT(campaign.violations(), testing::IsEmpty());
  EXPECT_GT(campaign.points(), campaign.is_whole() ? 5000U : 0U);
}

// The operations before it make the directory.
constexpr std::size_t kFirst = 2;

// Errors that an operation can have.
std::vector<Error> errors_of(std::string_view what) {
  if (what.starts_with("sync")) return {Error(Code::kSyncFailed, "input/output error")};
  return {Error(Code::kIoError, "input/output error"), Error(Code::kNoSpace, "no space left")};
}

TEST(PageCrash, EveryFailingOperationLeavesTheManifestBeforeOrAfter) {
  Recording sound;
  ASSERT_TRUE(workload(sound).has_value());
  Sample sample("failing operations of the page file", testing_util::kFewCases);
  for (std::size_t n = kFirst; n < sound.disk().operations(); ++n) {
    if (!sample.takes(n)) continue;
    for (const Error& error : errors_of(sound.disk().describe_operation(n))) {
      Recording recording;
      recording.disk().set_fault([&](std::size_t index, std::string_view) {
        return index == n ? std::optional<Error>(error) : std::nullopt;
      });
      const auto failed = workload(recording);
      recording.disk().set_fault(nullptr);
      const std::string where = fmt::format("{} at operation {} ({}): ", error.kind(), n,
                                            sound.disk().describe_operation(n));
      if (recording.required(recording.disk().operations()) == 0) continue;  // of the creation
      ASSERT_FALSE(failed.has_value()) << where;
      const std::size_t end = recording.disk().operations();
      Campaign campaign(recording, 2);
      campaign.crash_at(recording.disk(), end, 2, recording.required(end), recording.possible(end),
                        where);
      ASSERT_THAT(campaign.violations(), testing::IsEmpty());
    }
  }
}

TEST(PageCrash, AfterAFailureNothingIsWrittenAnyMore) {
  Recording sound;
  ASSERT_TRUE(workload(sound).has_value());
  for (std::size_t n = kFirst; n < sound.disk().operations(); ++n) {
    const std::string what = sound.disk().describe_operation(n);
    for (const Error& error : errors_of(what)) {
      Recording recording;
      recording.disk().set_fault([&](std::size_t index, std::string_view) {
        return index == n ? std::optional<Error>(error) : std::nullopt;
      });
      (void)workload(recording);
      const std::size_t end = recording.disk().operations();
      if (recording.required(end) == 0) continue;
      const auto next = recording.write(5, 5);
      if (next) {
        EXPECT_EQ(error.code(), Code::kNoSpace) << what;
        continue;
      }
      EXPECT_EQ(next.error().code(), Code::kStorePoisoned) << what;
      EXPECT_EQ(next.error().root().code(), error.code()) << what;
      EXPECT_EQ(recording.settle().error().code(), Code::kStorePoisoned) << what;
      EXPECT_EQ(recording.disk().operations(), end) << what;
    }
  }
}

TEST(PageCrash, EveryFailingOperationOfARestoringCanBeRepeated) {
  Recording recording;
  ASSERT_TRUE(workload(recording).has_value());
  std::uint64_t tried = 0;
  Sample sample("restorings that fail", testing_util::kFewCases);
  for (std::size_t n = 20; n <= recording.disk().operations(); ++n) {
    if (!sample.takes(n)) continue;
    const auto image = recording.disk().killed(n, n);
    if (!restore_pages(*image, kPagesDir, kPagesUuid)) continue;  // not created yet
    for (std::size_t m = 0; m < image->operations(); ++m) {
      for (const Error& error : errors_of(image->describe_operation(m))) {
        const auto again = recording.disk().killed(n, n);
        again->set_fault([&](std::size_t index, std::string_view) {
          return index == m ? std::optional<Error>(error) : std::nullopt;
        });
        const auto failed = restore_pages(*again, kPagesDir, kPagesUuid);
        ASSERT_FALSE(failed.has_value());
        EXPECT_EQ(failed.error().code(), error.code());
        again->set_fault(nullptr);
        ++tried;
        Campaign campaign(recording, 3);
        campaign.crash_at(*again, again->operations(), 1, recording.required(n),
                          recording.possible(n),
                          fmt::format("restoring after operation {} failed at {}; ", n, m));
        ASSERT_THAT(campaign.violations(), testing::IsEmpty());
      }
    }
  }
  EXPECT_GT(tried, 100U);
}

TEST(PageCrash, ReadingReportsADeviceErrorAndWorksAgainAfterwards) {
  // The device cannot deliver one range of one file.
  class Unreadable final : public os::PassThroughFiles {
   public:
    Unreadable(os::Files& files, std::string path, std::uint64_t offset)
        : PassThroughFiles(files), path_(std::move(path)), offset_(offset) {}
    class BadFile final : public os::PassThroughFile {
     public:
      BadFile(std::unique_ptr<os::File> file, std::uint64_t bad)
          : PassThroughFile(std::move(file)), bad_(bad) {}
      Result<std::size_t> read_at(std::uint64_t at, char* to, std::size_t size) override {
        if (at <= bad_ && bad_ < at + size) return Error(Code::kIoError, "input/output error");
        return file_->read_at(at, to, size);
      }

     private:
      std::uint64_t bad_;
    };
    Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
      DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
      if (path != path_) return file;
      return std::unique_ptr<os::File>(std::make_unique<BadFile>(std::move(file), offset_));
    }

   private:
    std::string path_;
    std::uint64_t offset_;
  };
  Recording recording;
  ASSERT_TRUE(recording.create(200, 1).has_value());
  ASSERT_TRUE(recording.open().has_value());
  ASSERT_TRUE(recording.write(200, 2).has_value());
  ASSERT_TRUE(recording.settle().has_value());
  const std::size_t pages = recording.disk().content(kPagesHome).size() / 4096;
  for (std::size_t page = 0; page < pages; ++page) {
    Unreadable files(recording.disk(), kPagesHome, page * 4096 + 1000);
    const auto picture = read_page_file(files, kPagesDir, kPagesUuid);
    if (!picture) {
      EXPECT_EQ(picture.error().code(), Code::kRecoveryImpossible);
      EXPECT_EQ(picture.error().root().code(), Code::kIoError);
      EXPECT_EQ(picture.error().field("pages"), std::to_string(page));
    } else {
      EXPECT_EQ(picture->manifest, recording.manifest(2));
      EXPECT_FALSE(picture->notes.empty());
    }
    EXPECT_EQ(verify_page_file(files, kPagesDir, kPagesUuid)->size(), 1U) << page;
    EXPECT_EQ(read_page_file(recording.disk(), kPagesDir, kPagesUuid)->manifest,
              recording.manifest(2));
  }
  Unreadable files(recording.disk(), kPagesBuffer, 0);
  const auto picture = read_page_file(files, kPagesDir, kPagesUuid);
  ASSERT_TRUE(picture.has_value());
  EXPECT_EQ(picture->manifest, recording.manifest(2));
  EXPECT_THAT(picture->notes, testing::ElementsAre(testing::HasSubstr("input/output error")));
}

// Planted bugs: what the campaign is good for.
TEST(PageCrash, ABufferThatIsNotSyncedIsCaught) {
  Recording recording(kPagesBuffer);
  ASSERT_TRUE(workload(recording).has_value());
  Campaign campaign(recording, 28);
  campaign.crash_everywhere(1);
  EXPECT_THAT(campaign.violations(), testing::SizeIs(1));
}

TEST(PageCrash, PagesThatAreNotSyncedAtHomeAreCaught) {
  Recording recording(kPagesHome);
  ASSERT_TRUE(workload(recording).has_value());
  Campaign campaign(recording, 28);
  campaign.crash_everywhere(1);
  EXPECT_THAT(campaign.violations(), testing::SizeIs(1));
}

}  // namespace
}  // namespace defib::store

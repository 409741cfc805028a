// Damaged files: every byte of a small store changed, every file cut at every length. What comes
// back is the right data, a typed error, or less data together with a report that some may be lost.

#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/store/format.h"
#include "defib/store/maintenance.h"
#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::Recording;
using testing_util::State;
using testing_util::SteppedExecutor;

struct Subject {
  std::unique_ptr<os::SimFiles> disk;
  std::unique_ptr<Recording> recording;
};

// A checkpoint, and commits after it, some of which share a segment with nothing else.
Subject make_subject(bool clean) {
  Subject subject;
  subject.recording = std::make_unique<Recording>(5, nullptr);
  Recording& r = *subject.recording;
  r.open();
  for (int i = 0; i < 4; ++i) r.must_commit(Durability::kPower);
  r.all_durable(r.store().checkpoint());
  for (int i = 0; i < 5; ++i) r.must_commit(Durability::kPower);
  if (clean) r.close();
  r.drop();
  subject.disk = r.disk().killed(r.disk().operations(), 0);
  return subject;
}

Options options_for(os::Files& files, const os::Clock& clock, Executor& executor) {
  Options options;
  options.files = &files;
  options.clock = &clock;
  options.executor = &executor;
  options.segment_size = 16 << 10;
  options.checkpoint_after = 0;
  return options;
}

bool reports_loss(const recovery::ProcedureResult& result) {
  const recovery::StageRecord* stage = result.find("wal_validation");
  if (stage == nullptr) return false;
  for (const auto& [name, value] : stage->metrics) {
    if (name == "loss_possible") return true;
  }
  return false;
}

// Empty where the damaged disk behaves; else what is wrong.
std::string judge(os::Files& files, const Recording& recording, bool rebooted = true) {
  os::FakeClock clock;
  if (rebooted) clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const Options options = options_for(files, clock, executor);
  const auto verified = Store::verify_files(kDir, options);
  const auto status = Store::status(kDir, options);
  (void)status;
  const auto store = Store::open(kDir, options);
  if (!store) {
    const int code = store.error().number();
    if (code > -70 || code < -90) return "an untyped error: " + store.error().to_text();
    if (verified && verified->findings.empty()) return "it does not open, but verifies";
    return {};
  }
  const auto snapshot = *(*store)->snapshot();
  const std::uint64_t position = snapshot->position();
  if (position > recording.last()) return "a commit that never was";
  if (dump(*snapshot) != recording.state(position)) return "wrong data";
  if (position == recording.last()) return {};
  if (!reports_loss((*store)->recovery_result())) return "commits are missing without a report";
  if (verified && verified->findings.empty()) return "commits are missing, but it verifies";
  return {};
}

class StoreDamage : public testing::TestWithParam<bool> {};

TEST_P(StoreDamage, OfAnyByteNeverYieldsWrongData) {
  Subject subject = make_subject(GetParam());
  ASSERT_EQ(judge(*subject.disk->killed(0, 0), *subject.recording), "");
  std::uint64_t trials = 0;
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (std::size_t at = 0; at < content.size(); ++at) {
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      disk->set_content(path, damaged);
      ASSERT_EQ(judge(*disk, *subject.recording, at % 16 != 0), "") << path << ", byte " << at;
      ++trials;
    }
  }
  RecordProperty("trials", std::to_string(trials));
}

TEST_P(StoreDamage, ByCuttingAFileAnywhereNeverYieldsWrongData) {
  Subject subject = make_subject(GetParam());
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (std::size_t size = 0; size < content.size(); size += size < 200 ? 1 : 8) {
      const auto disk = subject.disk->killed(0, 0);
      disk->set_content(path, content.substr(0, size));
      ASSERT_EQ(judge(*disk, *subject.recording), "") << path << ", cut to " << size;
    }
  }
}

TEST_P(StoreDamage, IsRepairedIntoANewStoreThatListsWhatIsMissing) {
  Subject subject = make_subject(GetParam());
  os::FakeClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const State& whole = subject.recording->state(subject.recording->last());
  for (const std::string& path : subject.disk->all_files()) {
    const std::string content = subject.disk->content(path);
    for (std::size_t at = 0; at < content.size(); at += 61) {
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ 0x55);
      disk->set_content(path, damaged);
      const Options options = options_for(*disk, clock, executor);
      const auto report = repair(kDir, "/new", options);
      ASSERT_TRUE(report.has_value())
          << path << ", byte " << at << ": " << report.error().to_text();
      EXPECT_EQ(disk->content(path), damaged) << "repair changed its source";
      const auto store = Store::open("/new", options);
      ASSERT_TRUE(store.has_value());
      const bool is_whole = dump(**store) == whole;
      EXPECT_TRUE(is_whole || !report->losses.empty()) << path << " " << at;
    }
  }
}

TEST_P(StoreDamage, OfNothingIsRepairedWithoutLoss) {
  Subject subject = make_subject(GetParam());
  os::FakeClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const Options options = options_for(*subject.disk, clock, executor);
  const auto report = repair(kDir, "/new", options);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_TRUE(report->losses.empty()) << report->losses[0];
  EXPECT_EQ(dump(**Store::open("/new", options)),
            subject.recording->state(subject.recording->last()));
}

INSTANTIATE_TEST_SUITE_P(Both, StoreDamage, testing::Values(false, true),
                         [](const auto& test) { return test.param ? "closed" : "crashed"; });

// A reader without checksums must not get through the same test: the planted bug of this file.
class BlindFile final : public os::File {
 public:
  BlindFile(std::unique_ptr<os::File> file, bool is_log)
      : file_(std::move(file)), is_log_(is_log) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    DEFIB_TRY_ASSIGN(const std::size_t got, file_->read_at(offset, to, size));
    if (is_log_ && offset == 0) {
      for (std::size_t at = kPageSize; at + kBlockHeaderSize <= got; at += kBlockAlignment) {
        std::string problem;
        auto header = decode_block_header({to + at, kBlockHeaderSize}, problem);
        if (!header || at + kBlockHeaderSize + header->payload_size > got) continue;
        header->payload_crc = crc32c({to + at + kBlockHeaderSize, header->payload_size});
        std::string fixed;
        encode(*header, fixed);
        std::ranges::copy(fixed, to + at);
      }
    }
    return got;
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    return file_->write_at(offset, bytes);
  }
  Result<> sync() override { return file_->sync(); }
  Result<> truncate(std::uint64_t size) override { return file_->truncate(size); }
  Result<std::uint64_t> size() override { return file_->size(); }
  Result<> drop_cache() override { return file_->drop_cache(); }
  Result<> try_lock() override { return file_->try_lock(); }

 private:
  std::unique_ptr<os::File> file_;
  bool is_log_;
};

class BlindFiles final : public os::Files {
 public:
  explicit BlindFiles(os::Files& files) : files_(files) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(
        std::make_unique<BlindFile>(std::move(file), path.ends_with(".wal")));
  }
  Result<> rename(const std::string& a, const std::string& b) override {
    return files_.rename(a, b);
  }
  Result<> remove(const std::string& path) override { return files_.remove(path); }
  Result<> create_dirs(const std::string& path) override { return files_.create_dirs(path); }
  Result<> sync_dir(const std::string& path) override { return files_.sync_dir(path); }
  Result<std::vector<std::string>> list(const std::string& path) override {
    return files_.list(path);
  }
  bool exists(const std::string& path) override { return files_.exists(path); }
  bool is_dir(const std::string& path) override { return files_.is_dir(path); }
  Result<std::uint64_t> free_space(const std::string& path) override {
    return files_.free_space(path);
  }

 private:
  os::Files& files_;
};

TEST(StoreDamageProof, CatchesAReaderThatDoesNotCheckPayloads) {
  Subject subject = make_subject(false);
  for (const std::string& path : subject.disk->all_files()) {
    if (!path.ends_with(".wal")) continue;
    const std::string content = subject.disk->content(path);
    for (std::size_t at = kPageSize; at < content.size(); ++at) {
      const auto disk = subject.disk->killed(0, 0);
      std::string damaged = content;
      damaged[at] = static_cast<char>(damaged[at] ^ (1 << (at % 8)));
      disk->set_content(path, damaged);
      BlindFiles blind(*disk);
      if (judge(blind, *subject.recording) == "wrong data") return;
    }
  }
  FAIL() << "nobody noticed";
}

}  // namespace
}  // namespace defib::store

// A device that is gone for good, and what the next opening in the same run of the machine
// believes.

#include "defib/store/failure_note.h"

#include <gtest/gtest.h>

#include <set>

#include "defib/store/ack_watermark.h"
#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::PacedClock;
using testing_util::Recording;
using testing_util::small_store;
using testing_util::State;
using testing_util::SteppedExecutor;

const std::string kBoot(36, 'b');

TEST(FailureNote, IsOfOneStoreInOneRunOfTheMachine) {
  os::SimFiles files;
  EXPECT_FALSE(failure_is_noted(files, "u", kBoot));
  const FailureNote note(files, "u", kBoot);
  EXPECT_FALSE(failure_is_noted(files, "u", kBoot));
  note.note();
  EXPECT_TRUE(failure_is_noted(files, "u", kBoot));
  EXPECT_FALSE(failure_is_noted(files, "u", std::string(36, 'c'))) << "another run";
  EXPECT_FALSE(failure_is_noted(files, "v", kBoot)) << "another store";
  EXPECT_NE(encode_failure("u", kBoot), encode_failure("v", kBoot));
  // Beside it, the word of what was acknowledged stays what it is.
  EXPECT_EQ(read_ack_word(files, "u"), 0U);
  note.clear();
  EXPECT_FALSE(failure_is_noted(files, "u", kBoot));
}

TEST(FailureNote, AnyOtherWordMeansNothing) {
  os::SimFiles files;
  const auto page = *files.volatile_page(ack_page_name("u"));
  const std::uint64_t word = encode_failure("u", kBoot);
  for (int bit = 0; bit < 64; ++bit) {
    page->store(kFailureWord, word ^ (1ULL << bit));
    EXPECT_FALSE(failure_is_noted(files, "u", kBoot)) << bit;
  }
  page->store(kFailureWord, word);
  EXPECT_TRUE(failure_is_noted(files, "u", kBoot));
}

// Somebody who ends a recovery says nothing about the device.
TEST(FailureNote, IsNotMadeWhereAnOpeningIsStopped) {
  Recording r(1, nullptr);
  r.open();
  r.must_commit(Durability::kPower);
  r.drop();
  class Stopper : public recovery::Procedure::Observer {
   public:
    void stage_started(const recovery::StageRecord& stage) override {
      if (stage.name == "wal_discovery") source.request_stop();
    }
    std::stop_source source;
  } stopper;
  Options options = r.options();
  options.observer = &stopper;
  options.stop = stopper.source.get_token();
  const auto stopped = Store::open(kDir, options);
  ASSERT_FALSE(stopped.has_value());
  EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
  const auto status = Store::status(kDir, r.options());
  EXPECT_EQ(status->indicators[0].name, "recovery_marker");
  EXPECT_FALSE(status->indicators[0].present) << status->indicators[0].evidence;
}

TEST(FailureNote, LookingForOneMakesNoPage) {
  os::SimFiles files;
  const std::size_t before = files.operations();
  EXPECT_FALSE(failure_is_noted(files, "u", kBoot));
  EXPECT_EQ(read_ack_word(files, "u"), 0U);
  EXPECT_EQ(*files.find_volatile_page(ack_page_name("u")), nullptr);
  EXPECT_EQ(files.operations(), before);
}

// Two checkpoints and commits behind them; then the sync of one more fails, and from there on so
// does everything else that would leave a word on the device.
class StoreDeviceLoss : public testing::Test {
 protected:
  void SetUp() override {
    r_.open();
    for (int round = 0; round < 2; ++round) {
      for (int i = 0; i < 3; ++i) r_.must_commit(Durability::kPower);
      r_.all_durable(r_.store().checkpoint());
    }
    for (int i = 0; i < 2; ++i) r_.must_commit(Durability::kPower);
  }
  // After which commit kDurable is the last one that the device has.
  static constexpr std::uint64_t kDurable = 8;
  void lose_the_device() {
    r_.disk().set_fault([](std::size_t, std::string_view) -> std::optional<Error> {
      return Error(Code::kIoError, "the device is gone");
    });
    const auto failed = r_.commit(Durability::kPower);
    ASSERT_FALSE(failed.has_value());
    EXPECT_EQ(failed.error().code(), Code::kStorePoisoned);
    EXPECT_FALSE(r_.disk().exists("/s/.recovery_needed"));
    r_.drop();
    r_.disk().set_fault(nullptr);
  }
  Indicator marker() {
    const auto status = Store::status(kDir, r_.options());
    EXPECT_TRUE(status.has_value());
    return status->indicators[0];
  }
  std::vector<std::string> lit() {
    std::vector<std::string> names;
    const auto status = Store::status(kDir, r_.options());
    for (const Indicator& indicator : status->indicators) {
      if (indicator.present) names.push_back(indicator.name);
    }
    return names;
  }
  Recording r_{1, nullptr};
};

TEST_F(StoreDeviceLoss, LightsTheRecoveryMarkerUntilARecoveryFromTheDeviceHasEnded) {
  lose_the_device();
  EXPECT_TRUE(marker().present);
  EXPECT_NE(marker().evidence.find("a write or sync failed"), std::string::npos);
  // Recoveries that do not end leave it, whether they failed or were killed.
  for (const char* failing : {"sync /s/wal/", "sync /s/index.pg", "write /s/LOCK"}) {
    r_.disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
      if (!what.starts_with(failing)) return std::nullopt;
      return Error(Code::kSyncFailed, "injected");
    });
    EXPECT_FALSE(Store::open(kDir, r_.options()).has_value()) << failing;
    r_.disk().set_fault(nullptr);
    EXPECT_TRUE(marker().present) << failing;
  }
  r_.open();
  EXPECT_EQ(dump(r_.store()), r_.state(kDurable));
  r_.drop();
  EXPECT_EQ(lit(), (std::vector<std::string>{"no_clean_shutdown", "log_tail"}));
  ASSERT_TRUE((*Store::open(kDir, r_.options()))->close().has_value());
  EXPECT_EQ(lit(), std::vector<std::string>{});
}

TEST_F(StoreDeviceLoss, IsForgottenWithThePageCache) {
  lose_the_device();
  const auto image = r_.disk().crashed(r_.disk().operations(), 0);
  PacedClock clock;
  clock.reboot(std::chrono::seconds(1));
  SteppedExecutor executor;
  const auto status = *Store::status(kDir, small_store(*image, clock, executor));
  EXPECT_FALSE(status.indicators[0].present);
  const auto store = Store::open(kDir, small_store(*image, clock, executor));
  ASSERT_TRUE(store.has_value());
  EXPECT_EQ(dump(**store), r_.state(kDurable));
}

TEST_F(StoreDeviceLoss, IsFoundWhereverInTheRecoveryItHappens) {
  lose_the_device();
  const auto image = r_.disk().killed(r_.disk().operations(), 0);
  std::size_t operations = 0;
  SteppedExecutor executor;
  {
    const auto healthy = image->killed(0, 0);
    ASSERT_TRUE(Store::open(kDir, small_store(*healthy, r_.clock(), executor)).has_value());
    operations = healthy->operations();
  }
  for (std::size_t n = 0; n < operations; ++n) {
    const auto disk = image->killed(0, 0);
    disk->set_fault([&](std::size_t index, std::string_view) -> std::optional<Error> {
      if (index < n) return std::nullopt;
      return Error(Code::kIoError, "the device is gone");
    });
    (void)Store::open(kDir, small_store(*disk, r_.clock(), executor));
    disk->set_fault(nullptr);
    executor.clear();
    State shown;
    {
      const auto store = Store::open(kDir, small_store(*disk, r_.clock(), executor));
      ASSERT_TRUE(store.has_value()) << n << ": " << store.error().to_text();
      shown = dump(**store);
    }
    EXPECT_EQ(shown, r_.state(kDurable)) << "gone from operation " << n << " on";
  }
}

// The log is not the only file that may differ from what the page cache shows.
TEST_F(StoreDeviceLoss, MakesTheNextOpeningReadEveryFileFromTheDevice) {
  lose_the_device();
  const std::size_t before = r_.disk().operations();
  const std::vector<std::string> files = r_.disk().all_files();
  r_.open();
  std::set<std::string> dropped;
  for (std::size_t n = before; n < r_.disk().operations(); ++n) {
    const std::string what = r_.disk().describe_operation(n);
    constexpr std::string_view kDrop = "drop cache of ";
    if (what.starts_with(kDrop)) dropped.insert(what.substr(kDrop.size()));
  }
  int data_files = 0;
  for (const std::string& path : files) {
    if (path.ends_with("/LOCK") || path.ends_with(".spare") || path.ends_with(".tmp")) continue;
    EXPECT_TRUE(dropped.contains(path)) << path << " was believed as the page cache shows it";
    data_files += path.starts_with("/s/data/") ? 1 : 0;
  }
  EXPECT_EQ(data_files, 2);
}

// A write to a data file that the device lost, hidden by the page cache until then.
TEST(StoreDeviceLossOfData, IsFoundInAMappedFileAsSoonAsTheCacheIsNotBelieved) {
  for (const bool noted : {false, true}) {
    Recording r(1, nullptr);
    r.open();
    for (int i = 0; i < 3; ++i) r.must_commit(Durability::kPower, 300);
    bool lost = false;
    r.disk().set_mischief(
        [&](std::size_t, std::string_view what) -> std::optional<os::SimFiles::Mischief> {
          if (lost || !what.starts_with("write /s/data/")) return std::nullopt;
          lost = true;
          return os::SimFiles::Mischief{};
        });
    r.all_durable(r.store().checkpoint());
    r.disk().set_mischief(nullptr);
    ASSERT_TRUE(lost);
    EXPECT_EQ(dump(r.store()), r.state(3)) << "the page cache has it";
    r.must_commit(Durability::kPower);
    const std::string uuid = Store::status(kDir, r.options())->uuid;
    r.drop();
    if (noted) FailureNote(r.disk(), uuid, r.clock().boot_id()).note();
    const auto store = Store::open(kDir, r.options());
    if (noted) {
      ASSERT_FALSE(store.has_value());
      EXPECT_EQ(store.error().code(), Code::kRecoveryImpossible) << store.error().to_text();
    } else {
      ASSERT_TRUE(store.has_value());
      EXPECT_EQ(dump(**store), r.state(4));
    }
  }
}

}  // namespace
}  // namespace defib::store

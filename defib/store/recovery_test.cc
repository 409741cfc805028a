// Every way in which opening fails: its own code, its own fields, and a store left as it was.

#include <gtest/gtest.h>

#include "defib/store/format.h"
#include "defib/store/testing/crash_harness.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::kDir;
using testing_util::Recording;

class StoreRecovery : public testing::Test {
 protected:
  // Commits 1..3 checkpointed, 4..6 in the log; killed.
  void SetUp() override {
    r_.open();
    for (int i = 0; i < 3; ++i) r_.must_commit(Durability::kPower);
    r_.all_durable(r_.store().checkpoint());
    for (int i = 0; i < 3; ++i) r_.must_commit(Durability::kPower);
    r_.drop();
  }
  os::SimFiles& disk() { return r_.disk(); }
  std::string only_segment() {
    const auto names = disk().list("/s/wal");
    EXPECT_EQ(names->size(), 1U);
    return "/s/wal/" + names->front();
  }
  std::string only_checkpoint() {
    for (const std::string& path : disk().all_files()) {
      if (path.ends_with(".ckpt")) return path;
    }
    return {};
  }
  void flip(const std::string& path, std::size_t at) {
    std::string bytes = disk().content(path);
    bytes.at(at) = static_cast<char>(bytes.at(at) ^ 1);
    disk().set_content(path, bytes);
  }
  std::map<std::string, std::string> contents() {
    std::map<std::string, std::string> all;
    for (const std::string& path : disk().all_files()) {
      if (!path.ends_with("LOCK")) all[path] = disk().content(path);
    }
    return all;
  }
  // Opens, expects the code, and that no file was changed.
  Error refused(Code code) { return refused(code, r_.options()); }
  Error refused(Code code, const Options& options) {
    const auto before = contents();
    const auto store = Store::open(kDir, options);
    if (store) {
      ADD_FAILURE() << "it opened";
      return Error(Code::kInternal, "it opened");
    }
    EXPECT_EQ(store.error().code(), code) << store.error().to_text();
    EXPECT_EQ(contents(), before);
    EXPECT_FALSE(store.error().suggested_action().empty());
    return store.error();
  }
  Recording r_{3, nullptr};
};

TEST_F(StoreRecovery, DamageInsideTheLogIsMinus71) {
  flip(only_segment(), kPageSize + 70);
  const Error error = refused(Code::kWalCorrupted);
  EXPECT_FALSE(error.field("details").empty());
  EXPECT_EQ(error.field("first_lost_commit"), "4");
}

TEST_F(StoreRecovery, ADamagedCheckpointIsMinus70) {
  flip(only_checkpoint(), kPageSize + 40);
  EXPECT_FALSE(refused(Code::kRecoveryImpossible).field("reason").empty());
}

TEST_F(StoreRecovery, AMissingCheckpointIsMinus75) {
  ASSERT_TRUE(disk().remove(only_checkpoint()).has_value());
  const Error error = refused(Code::kInconsistentState);
  for (const char* field : {"description", "diagnostics", "recovery_suggestions"}) {
    EXPECT_FALSE(error.field(field).empty()) << field;
  }
}

TEST_F(StoreRecovery, ADamagedIdentityIsMinus75) {
  flip("/s/store.id", 20);
  (void)refused(Code::kInconsistentState);
}

TEST_F(StoreRecovery, TooLittleDiskIsMinus72) {
  disk().set_capacity(64 << 10);
  const Error error = refused(Code::kInsufficientResources);
  EXPECT_NE(error.field("resource").find("disk"), std::string_view::npos);
  EXPECT_FALSE(error.field("required").empty());
  EXPECT_FALSE(error.field("available").empty());
}

TEST_F(StoreRecovery, TooLittleMemoryIsMinus72) {
  ASSERT_TRUE(disk().create_dirs("/proc").has_value());
  const auto file = *disk().open("/proc/meminfo", os::OpenMode::kCreate);
  ASSERT_TRUE(file->write_at(0, "MemTotal: 9 kB\nMemAvailable:    100 kB\n").has_value());
  EXPECT_EQ(refused(Code::kInsufficientResources).field("resource"), "memory");
}

TEST_F(StoreRecovery, AnImpossibleSettingIsMinus76) {
  Options options = r_.options();
  options.segment_size = 100;
  const Error error = refused(Code::kRecoveryConfigurationError, options);
  EXPECT_EQ(error.field("setting"), "segment_size");
  EXPECT_FALSE(error.field("issue").empty());
  EXPECT_FALSE(error.field("fix").empty());
}

TEST_F(StoreRecovery, AForbiddenFileIsMinus77) {
  disk().set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (what != "sync " + std::string("/s/LOCK")) return std::nullopt;
    return Error(Code::kPermissionDenied, "open('/s/LOCK'): Permission denied")
        .with("path", "/s/LOCK");
  });
  const Error error = refused(Code::kRecoveryPermissionError);
  EXPECT_EQ(error.field("path"), "/s/LOCK");
  EXPECT_FALSE(error.field("required_permissions").empty());
}

TEST_F(StoreRecovery, AMissingLogDirectoryIsMinus78) {
  ASSERT_TRUE(disk().remove(only_segment()).has_value());
  ASSERT_TRUE(disk().remove("/s/wal").has_value());
  const Error error = refused(Code::kRecoveryDependencyError);
  EXPECT_FALSE(error.field("dependency").empty());
  EXPECT_FALSE(error.field("issue").empty());
}

TEST_F(StoreRecovery, AStageBeyondItsTimeIsMinus79) {
  // A clock that moves by itself, so that reading the log takes a minute.
  class FastClock : public os::FakeClock {
   public:
    std::int64_t mono_ns() const override {
      advance(std::chrono::seconds(20));
      return os::FakeClock::mono_ns();
    }
  };
  const FastClock clock;
  Options options = r_.options();
  options.clock = &clock;
  options.stage_timeout = std::chrono::seconds(10);
  options.lock_wait = std::chrono::seconds(1000);
  const Error error = refused(Code::kRecoveryTimeout, options);
  for (const char* field : {"stage", "timeout_seconds", "progress"}) {
    EXPECT_FALSE(error.field(field).empty()) << field;
  }
}

TEST_F(StoreRecovery, ADeviceErrorIsMinus74WithItsCause) {
  disk().set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (!what.starts_with("sync /s/wal/")) return std::nullopt;
    return Error(Code::kSyncFailed, "injected");
  });
  const Error error = refused(Code::kPartialRecoveryFailure);
  EXPECT_EQ(error.field("failed_stage"), "wal_discovery");
  EXPECT_NE(error.field("completed_stages").find("resource_check"), std::string_view::npos);
  EXPECT_EQ(error.cause()->code(), Code::kSyncFailed);
}

TEST_F(StoreRecovery, ACleanMarkThatContradictsTheFilesIsMinus75) {
  r_.open();
  r_.close();
  // An older checkpoint under the clean mark of a newer one.
  CleanRecord record;
  record.uuid = Store::status(kDir, r_.options())->uuid;
  record.lsn = 1000;
  disk().set_content("/s/.clean_shutdown", encode(record));
  (void)refused(Code::kInconsistentState);
}

TEST_F(StoreRecovery, AnotherFormatVersionIsMinus85) {
  Identity identity;
  identity.version = 99;
  identity.uuid = std::string(kUuidSize, 'a');
  disk().set_content("/s/store.id", encode(identity));
  EXPECT_EQ(refused(Code::kStoreFormatUnsupported).field("version"), "99");
}

TEST_F(StoreRecovery, TheTornTailGoesToQuarantineBeforeItIsCut) {
  const std::string segment = only_segment();
  std::string bytes = disk().content(segment);
  const std::string garbage = "half a block";
  const std::size_t end =
      bytes.find_last_not_of('\0') / kBlockAlignment * kBlockAlignment + kBlockAlignment;
  bytes.replace(end, garbage.size(), garbage);
  disk().set_content(segment, bytes);
  r_.open();
  EXPECT_EQ(dump(r_.store()), r_.state(6));
  const auto kept = disk().list("/s/quarantine");
  ASSERT_EQ(kept->size(), 1U);
  EXPECT_EQ(disk().content("/s/quarantine/" + kept->front()), garbage);
  EXPECT_EQ(disk().content(segment).find(garbage), std::string::npos);
}

TEST_F(StoreRecovery, EachIndicatorIsLitByItsOwnCauseAlone) {
  r_.open();
  r_.close();
  const auto lit = [&] {
    std::vector<std::string> names;
    const auto status = Store::status(kDir, r_.options());
    for (const Indicator& indicator : status->indicators) {
      if (indicator.present) names.push_back(indicator.name);
    }
    return names;
  };
  const auto write = [&](const std::string& path, std::string_view text) {
    const auto file = *disk().open(path, os::OpenMode::kCreate);
    ASSERT_TRUE(file->truncate(0).has_value());
    ASSERT_TRUE(file->write_at(0, text).has_value());
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(lit(), Names{});
  write("/s/.recovery_needed", "by hand\n");
  EXPECT_EQ(lit(), Names{"recovery_marker"});
  ASSERT_TRUE(disk().remove("/s/.recovery_needed").has_value());

  const std::string clean = disk().content("/s/.clean_shutdown");
  ASSERT_TRUE(disk().remove("/s/.clean_shutdown").has_value());
  EXPECT_EQ(lit(), Names{"no_clean_shutdown"});
  write("/s/.clean_shutdown", clean);

  write("/s/dwb.pg", "what");
  EXPECT_EQ(lit(), Names{"dwb_armed"});
  ASSERT_TRUE(disk().remove("/s/dwb.pg").has_value());

  const std::string lock = disk().content("/s/LOCK");
  {
    // A recovery that dies after it took the lock.
    const auto killed = disk().killed(disk().operations(), 0);
    const auto file = *killed->open("/s/.recovery_needed", os::OpenMode::kCreate);
    Options options = r_.options();
    options.files = killed.get();
    killed->set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
      if (what == "write /s/LOCK at 0, 512 bytes" || what == "sync /s/LOCK") return std::nullopt;
      return Error(Code::kIoError, "dead");
    });
    std::string recovering;
    class Watcher : public recovery::Procedure::Observer {
     public:
      Watcher(os::SimFiles& files, std::string& content) : files_(files), content_(content) {}
      void stage_finished(const recovery::StageRecord& record) override {
        if (record.name == "lock_acquisition") content_ = files_.content("/s/LOCK");
      }

     private:
      os::SimFiles& files_;
      std::string& content_;
    } watcher(*killed, recovering);
    options.observer = &watcher;
    EXPECT_FALSE(Store::open(kDir, options).has_value());
    write("/s/LOCK", recovering);
  }
  os::FakeClock rebooted;
  rebooted.reboot(std::chrono::seconds(1));
  Options later = r_.options();
  later.clock = &rebooted;
  Names names;
  const auto status = Store::status(kDir, later);
  for (const Indicator& indicator : status->indicators) {
    if (indicator.present) names.push_back(indicator.name);
  }
  EXPECT_EQ(names, Names{"stale_recovery_lock"});
  write("/s/LOCK", lock);

  r_.open();
  r_.must_commit(Durability::kPower);
  r_.drop();
  write("/s/.clean_shutdown", clean);
  EXPECT_EQ(lit(), Names{"log_tail"});
}

}  // namespace
}  // namespace defib::store

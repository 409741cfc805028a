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
  // The one that holds the last commits; spare files and covered segments stand beside it.
  std::string only_segment() {
    std::string last;
    const auto names = disk().list("/s/wal");
    for (const std::string& name : *names) {
      if (parse_segment_name(name)) last = "/s/wal/" + name;
    }
    return last;
  }
  std::string only_data_file() {
    const auto names = disk().list("/s/data");
    EXPECT_EQ(names->size(), 1U);
    return "/s/data/" + names->front();
  }
  void flip(const std::string& path, std::size_t at) {
    std::string bytes = disk().content(path);
    bytes.at(at) = static_cast<char>(bytes.at(at) ^ 1);
    disk().set_content(path, bytes);
  }
  // Puts bytes where the next block would stand; the segment's path.
  std::string tear(std::string_view garbage) {
    const std::string segment = only_segment();
    std::string bytes = disk().content(segment);
    const std::size_t end =
        bytes.find_last_not_of('\0') / kBlockAlignment * kBlockAlignment + kBlockAlignment;
    bytes.replace(end, garbage.size(), garbage);
    disk().set_content(segment, bytes);
    return segment;
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
  // dwb.pg as a crash leaves it that comes between the two steps of writing pages.
  std::string armed_buffer() {
    const std::size_t begin = disk().operations();
    r_.must_commit(Durability::kPower);
    r_.all_durable(r_.store().checkpoint());
    for (std::size_t n = begin; n < disk().operations(); ++n) {
      if (!disk().describe_operation(n).starts_with("write /s/index.pg")) continue;
      return disk().killed(n, 0)->content("/s/dwb.pg");
    }
    ADD_FAILURE() << "the checkpoint wrote no page";
    return {};
  }
  Recording r_{3, nullptr};
};

TEST_F(StoreRecovery, DamageInsideTheLogIsMinus71) {
  flip(only_segment(), kPageSize + 70);
  const Error error = refused(Code::kWalCorrupted);
  EXPECT_FALSE(error.field("details").empty());
  EXPECT_EQ(error.field("first_lost_commit"), "4");
}

TEST_F(StoreRecovery, ABaseThatIsNotTheOneThatWasWrittenIsMinus70) {
  const std::string path = only_data_file();
  std::string bytes = disk().content(path);
  bytes.resize(bytes.size() - 100);
  disk().set_content(path, bytes);
  const Error error = refused(Code::kRecoveryImpossible);
  EXPECT_FALSE(error.field("reason").empty());
  EXPECT_EQ(error.field("path"), path);
}

TEST_F(StoreRecovery, AMissingBaseIsMinus70) {
  const std::string path = only_data_file();
  ASSERT_TRUE(disk().remove(path).has_value());
  EXPECT_EQ(refused(Code::kRecoveryImpossible).field("path"), path);
}

TEST_F(StoreRecovery, ADamagedBlockOfTheBaseFailsItsKeysOnly) {
  r_.open();
  {
    auto transaction = *r_.store().begin();
    for (int i = 0; i < 2000; ++i) {
      ASSERT_TRUE(transaction->put("big", std::to_string(10000 + i), std::string(100, 'v')));
    }
    ASSERT_TRUE(transaction->commit(Durability::kPower).has_value());
  }
  ASSERT_TRUE(r_.store().checkpoint().has_value());
  r_.drop();
  std::string largest;
  for (const std::string& path : disk().all_files()) {
    const bool is_data = path.starts_with("/s/data/");
    if (is_data &&
        (largest.empty() || disk().content(path).size() > disk().content(largest).size())) {
      largest = path;
    }
  }
  const std::string bytes = disk().content(largest);
  flip(largest, bytes.find("10200"));
  r_.open();
  const auto snapshot = *r_.store().snapshot();
  EXPECT_EQ(*snapshot->get("big", "11999"), std::string(100, 'v'));
  const auto hit = snapshot->get("big", "10200");
  ASSERT_FALSE(hit.has_value());
  EXPECT_EQ(hit.error().code(), Code::kCorrupted);
  const auto cursor = *snapshot->scan("big");
  int seen = 0;
  for (bool more = cursor->first(); more; more = cursor->next()) ++seen;
  EXPECT_LT(seen, 2000);
  ASSERT_FALSE(cursor->status().has_value());
  EXPECT_EQ(cursor->status().error().code(), Code::kCorrupted);
}

TEST_F(StoreRecovery, AMissingPageFileIsRefused) {
  ASSERT_TRUE(disk().remove("/s/index.pg").has_value());
  const auto before = contents();
  const auto store = Store::open(kDir, r_.options());
  ASSERT_FALSE(store.has_value());
  const bool typed = store.error().code() == Code::kInconsistentState ||
                     store.error().code() == Code::kRecoveryImpossible;
  EXPECT_TRUE(typed) << store.error().to_text();
  EXPECT_EQ(contents(), before);
}

TEST_F(StoreRecovery, AnUndoThatFailsIsMinus81) {
  bool failed = false;
  disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
    if (what.starts_with("sync /s/wal/")) {
      failed = true;
      return Error(Code::kSyncFailed, "injected");
    }
    if (failed && what.starts_with("write /s/LOCK")) return Error(Code::kIoError, "injected too");
    return std::nullopt;
  });
  const Error error = refused(Code::kRecoveryRollbackFailed);
  for (const char* field : {"stage", "reason", "manual_intervention_needed"}) {
    EXPECT_FALSE(error.field(field).empty()) << field;
  }
}

TEST_F(StoreRecovery, ACleanupThatFailsIsReportedAsMinus82AndTheStoreOpens) {
  // A torn tail, so that there is something to clean up.
  tear("torn");
  disk().set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
    if (what.find("/s/quarantine/") == std::string_view::npos) return std::nullopt;
    return Error(Code::kIoError, "injected");
  });
  r_.open();
  disk().set_fault(nullptr);
  EXPECT_EQ(dump(r_.store()), r_.state(6));
  const auto& result = r_.store().recovery_result();
  EXPECT_EQ(result.find("resource_cleanup")->error->code(), Code::kIoError);
  const Error& blocked = *result.find("finalization")->error;
  EXPECT_EQ(blocked.code(), Code::kRecoveryStageDependencyFailed);
  EXPECT_EQ(blocked.field("stage"), "finalization");
  EXPECT_EQ(blocked.field("dependency"), "resource_cleanup");
  EXPECT_FALSE(blocked.field("dependency_error").empty());
  // What is committed now survives the next crash although the tail was not cut.
  r_.must_commit(Durability::kPower);
  r_.drop();
  r_.open();
  EXPECT_EQ(dump(r_.store()), r_.state(7));
  EXPECT_EQ(r_.store().recovery_result().find("resource_cleanup")->error, std::nullopt);
}

// A tail that the clean-up could not cut goes to the quarantine before its segment goes: when this
// opening is closed, or when a later one makes a checkpoint.
TEST_F(StoreRecovery, ATornTailThatCouldNotBeCutIsKeptBeforeItsSegmentGoes) {
  const std::string segment = tear("torn");
  const auto kept = [](os::SimFiles& files) {
    const auto names = files.list("/s/quarantine");
    return names && names->size() == 1 ? files.content("/s/quarantine/" + names->front()) : "";
  };
  for (const bool is_closed : {true, false}) {
    const auto copy = disk().killed(disk().operations(), 0);
    Options options = r_.options();
    options.files = copy.get();
    copy->set_fault([](std::size_t, std::string_view what) -> std::optional<Error> {
      if (what.find("/s/quarantine/") == std::string_view::npos) return std::nullopt;
      return Error(Code::kIoError, "injected");
    });
    auto store = *Store::open(kDir, options);
    ASSERT_TRUE(put(*store, "t", "later", "1", Durability::kPower).has_value());
    EXPECT_EQ(kept(*copy), "");
    copy->set_fault(nullptr);
    if (is_closed) {
      ASSERT_TRUE(store->close().has_value());
    } else {
      store.reset();
      store = *Store::open(kDir, options);
      ASSERT_TRUE(store->checkpoint().has_value());
    }
    EXPECT_EQ(kept(*copy), "torn") << is_closed;
    EXPECT_FALSE(copy->exists(segment)) << is_closed;
  }
}

TEST_F(StoreRecovery, TooFewDescriptorsAreMinus72) {
  ASSERT_TRUE(disk().create_dirs("/proc/self/fd").has_value());
  const auto file = *disk().open("/proc/self/limits", os::OpenMode::kCreate);
  ASSERT_TRUE(file->write_at(0, "Max open files            8                  8       files\n"));
  EXPECT_EQ(refused(Code::kInsufficientResources).field("resource"), "file descriptors");
}

TEST_F(StoreRecovery, ImpossiblePageSizesAreMinus76) {
  for (const std::uint32_t size : {0U, 2048U, 5000U, 131072U}) {
    Options options = r_.options();
    options.page_size = size;
    EXPECT_EQ(refused(Code::kRecoveryConfigurationError, options).field("setting"), "page_size");
  }
}

TEST_F(StoreRecovery, AStoreOfTheOtherByteOrderIsMinus85AndSaysSo) {
  std::string bytes = disk().content("/s/store.id");
  std::reverse(bytes.begin() + 8, bytes.begin() + 12);
  disk().set_content("/s/store.id", bytes);
  const Error error = refused(Code::kStoreFormatUnsupported);
  EXPECT_NE(error.message().find("byte order"), std::string::npos);
}

TEST_F(StoreRecovery, ANetworkOrReadOnlyFileSystemIsRefused) {
  class OtherFiles : public os::SimFiles {
   public:
    Result<os::FileSystemInfo> file_system(const std::string&) override { return info; }
    os::FileSystemInfo info;
  } files;
  Options options = r_.options();
  options.files = &files;
  files.info = {.type = "nfs", .is_network = true, .is_read_only = false};
  EXPECT_EQ(Store::open("/n", options).error().code(), Code::kRecoveryConfigurationError);
  files.info = {.type = "ext4", .is_network = false, .is_read_only = true};
  EXPECT_EQ(Store::open("/n", options).error().code(), Code::kRecoveryPermissionError);
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
  const auto names = disk().list("/s/wal");
  for (const std::string& name : *names) {
    ASSERT_TRUE(disk().remove("/s/wal/" + name).has_value());
  }
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
  // An older state under the clean mark of a newer one.
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
  const std::string garbage = "half a block";
  const std::string segment = tear(garbage);
  r_.open();
  EXPECT_EQ(dump(r_.store()), r_.state(6));
  const auto kept = disk().list("/s/quarantine");
  ASSERT_EQ(kept->size(), 1U);
  EXPECT_EQ(disk().content("/s/quarantine/" + kept->front()), garbage);
  EXPECT_EQ(disk().content(segment).find(garbage), std::string::npos);
}

TEST_F(StoreRecovery, EachIndicatorIsLitByItsOwnCauseAlone) {
  r_.open();
  const std::string armed = armed_buffer();
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

  const std::string buffer = disk().content("/s/dwb.pg");
  write("/s/dwb.pg", armed);
  EXPECT_EQ(lit(), Names{"dwb_armed"});
  write("/s/dwb.pg", buffer);

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

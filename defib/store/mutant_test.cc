// Planted bugs: what the proofs of crash_test.cc are worth. Each mutant sits
// between the store and the simulated disk and behaves as the store would with one bug; the proof
// has to notice every one of them. docs/store.md lists them.

#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/os/pass_through_files.h"
#include "defib/store/failure_note.h"
#include "defib/store/format.h"
#include "defib/store/log_reader.h"
#include "defib/store/testing/crash_harness.h"
#include "defib/store/testing/workloads.h"

namespace defib::store {
namespace {

using testing_util::Campaign;
using testing_util::Recording;
using testing_util::workloads;
using testing_util::Wrapper;

bool is_log(std::string_view path) {
  return path.ends_with(".wal") || path.ends_with(".spare");  // As which a segment begins.
}

// What a mutant does differently; everything else passes through. `hits` counts how often it did,
// so that a bug in something that the store does not have is not taken for one that nobody notices.
struct Bug {
  using Chosen = std::function<bool(const std::string& path)>;
  std::string name;
  Chosen skips_sync;
  Chosen skips_dir_sync;
  Chosen delays_sync;   // until the file's next call
  Chosen retries_sync;  // and believes the second answer
  Chosen ignores_truncate;
  Chosen ignores_remove;
  Chosen ignores_drop_cache;
  Chosen ignores_rename;   // to that name
  Chosen forgets_failure;  // of the memory page of that name
  Chosen takes_any_lock;   // a lock that another holds is taken as well
  std::function<void(const std::string& path, std::uint64_t& offset, std::string& bytes)> on_write;
  std::function<void(const std::string& path, std::uint64_t offset, std::span<char> bytes)> on_read;
  std::shared_ptr<std::uint64_t> hits = std::make_shared<std::uint64_t>(0);

  bool chosen(const Chosen& which, const std::string& path) const {
    if (!which || !which(path)) return false;
    ++*hits;
    return true;
  }
};

class MutantFile final : public os::PassThroughFile {
 public:
  MutantFile(const Bug& bug, std::string path, std::unique_ptr<os::File> file)
      : PassThroughFile(std::move(file)), bug_(bug), path_(std::move(path)) {}
  Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
    DEFIB_TRY(catch_up());
    DEFIB_TRY_ASSIGN(const std::size_t got, file_->read_at(offset, to, size));
    if (!bug_.on_read) return got;
    const std::string before(to, got);
    bug_.on_read(path_, offset, {to, got});
    if (before != std::string_view(to, got)) ++*bug_.hits;
    return got;
  }
  Result<> write_at(std::uint64_t offset, std::string_view bytes) override {
    DEFIB_TRY(catch_up());
    if (!bug_.on_write) return file_->write_at(offset, bytes);
    std::string changed(bytes);
    std::uint64_t place = offset;
    bug_.on_write(path_, place, changed);
    if (changed == bytes && place == offset) return file_->write_at(offset, bytes);
    ++*bug_.hits;
    if (changed.empty()) return {};
    // What is written directly has to stay aligned.
    const std::size_t space = changed.size() + os::kDirectAlignment;
    const auto buffer = std::make_unique<char[]>(space);
    void* aligned = buffer.get();
    std::size_t left = space;
    if (std::align(os::kDirectAlignment, changed.size(), aligned, left) == nullptr) return {};
    changed.copy(static_cast<char*>(aligned), changed.size());
    return file_->write_at(place, {static_cast<char*>(aligned), changed.size()});
  }
  Result<> sync() override {
    if (bug_.chosen(bug_.skips_sync, path_)) return {};
    if (bug_.chosen(bug_.delays_sync, path_)) {
      owes_sync_ = true;
      return {};
    }
    Result<> done = file_->sync();
    if (!done && bug_.chosen(bug_.retries_sync, path_)) done = file_->sync();
    return done;
  }
  Result<> truncate(std::uint64_t size) override {
    DEFIB_TRY(catch_up());
    return bug_.chosen(bug_.ignores_truncate, path_) ? Result<>() : file_->truncate(size);
  }
  Result<> drop_cache() override {
    return bug_.chosen(bug_.ignores_drop_cache, path_) ? Result<>() : file_->drop_cache();
  }
  Result<std::unique_ptr<os::FileView>> map() override {
    return bug_.on_read ? os::File::map() : file_->map();
  }
  Result<> try_lock() override {
    Result<> taken = file_->try_lock();
    if (!taken && bug_.chosen(bug_.takes_any_lock, path_)) return {};
    return taken;
  }

 private:
  Result<> catch_up() {
    if (!std::exchange(owes_sync_, false)) return {};
    return file_->sync();
  }
  const Bug& bug_;
  std::string path_;
  bool owes_sync_ = false;
};

class MutantPage final : public os::VolatilePage {
 public:
  MutantPage(const Bug& bug, std::string name, std::unique_ptr<os::VolatilePage> page)
      : bug_(bug), name_(std::move(name)), page_(std::move(page)) {}
  std::uint64_t load(std::size_t word) const override { return page_->load(word); }
  void store(std::size_t word, std::uint64_t value) override {
    if (word == kFailureWord && value != 0 && bug_.chosen(bug_.forgets_failure, name_)) return;
    page_->store(word, value);
  }

 private:
  const Bug& bug_;
  const std::string name_;
  std::unique_ptr<os::VolatilePage> page_;
};

class MutantFiles final : public os::PassThroughFiles {
 public:
  MutantFiles(const Bug& bug, os::SimFiles& files) : PassThroughFiles(files), bug_(bug) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(std::make_unique<MutantFile>(bug_, path, std::move(file)));
  }
  Result<> remove(const std::string& path) override {
    return bug_.chosen(bug_.ignores_remove, path) ? Result<>() : files_.remove(path);
  }
  Result<> rename(const std::string& from, const std::string& to) override {
    return bug_.chosen(bug_.ignores_rename, to) ? Result<>() : files_.rename(from, to);
  }
  Result<std::unique_ptr<os::VolatilePage>> volatile_page(const std::string& name) override {
    DEFIB_TRY_ASSIGN(auto page, files_.volatile_page(name));
    if (!bug_.forgets_failure) return page;
    return std::unique_ptr<os::VolatilePage>(
        std::make_unique<MutantPage>(bug_, name, std::move(page)));
  }
  Result<> sync_dir(const std::string& path) override {
    return bug_.chosen(bug_.skips_dir_sync, path) ? Result<>() : files_.sync_dir(path);
  }

 private:
  const Bug& bug_;
};

// Blocks that stand whole in a write, each with its header decoded.
void each_block(std::string& bytes, const std::function<void(BlockHeader&, std::string&)>& change) {
  std::string problem;
  const auto header = decode_block_header(bytes, problem);
  if (!header || bytes.size() < kBlockHeaderSize + header->payload_size) return;
  BlockHeader own = *header;
  std::string payload = bytes.substr(kBlockHeaderSize, own.payload_size);
  change(own, payload);
  own.payload_crc = crc32c(payload);
  own.payload_size = static_cast<std::uint32_t>(payload.size());
  std::string block;
  encode(own, block);
  block += payload;
  std::ranges::copy(block, bytes.begin());
}

bool ends(std::string_view path, std::string_view end) {
  return path.ends_with(end);
}
bool is_checkpoint(std::string_view path) {
  return path.find(".ckpt") != path.npos || ends(path, ".run") || ends(path, ".base");
}
bool is_page_file(const std::string& path) {
  return ends(path, "/index.pg");
}
bool is_double_write_buffer(const std::string& path) {
  return ends(path, "/dwb.pg");
}

void drop_last_change(BlockHeader& header, std::string& payload) {
  std::string problem;
  const auto transactions = decode_transactions(payload, header.first_lsn, header.count, problem);
  if (!transactions || transactions->size() != 1) return;
  TransactionEncoder encoder;
  const auto& changes = transactions->front().changes;
  for (std::size_t i = 0; i + 1 < changes.size(); ++i) {
    if (changes[i].erased) {
      encoder.erase(changes[i].table, changes[i].key);
    } else {
      encoder.put(changes[i].table, changes[i].key, changes[i].value);
    }
  }
  if (encoder.changes() > 0) payload = encoder.finish(header.first_lsn);
}

void drop_erasures(BlockHeader& header, std::string& payload) {
  std::string problem;
  const auto transactions = decode_transactions(payload, header.first_lsn, header.count, problem);
  if (!transactions) return;
  payload.clear();
  for (const TransactionView& transaction : *transactions) {
    TransactionEncoder encoder;
    for (const RecordView& change : transaction.changes) {
      if (!change.erased) encoder.put(change.table, change.key, change.value);
    }
    payload += encoder.finish(transaction.number);
  }
}

// Every block with the payload checksum that its payload has, as if nobody compared them.
void make_payloads_right(std::span<char> bytes) {
  for (std::size_t at = 0; at + kBlockHeaderSize <= bytes.size(); at += kBlockAlignment) {
    std::string problem;
    auto header = decode_block_header({bytes.data() + at, kBlockHeaderSize}, problem);
    if (!header || at + kBlockHeaderSize + header->payload_size > bytes.size()) continue;
    header->payload_crc = crc32c({bytes.data() + at + kBlockHeaderSize, header->payload_size});
    std::string right;
    encode(*header, right);
    std::ranges::copy(right, bytes.data() + at);
  }
}

using BugList = std::vector<Bug>;
Bug& add(BugList& list, std::string name) {
  list.emplace_back();
  list.back().name = std::move(name);
  return list.back();
}

void add_log_bugs(BugList& list) {
  add(list, "the log is never synced").skips_sync = is_log;
  add(list, "a commit is acknowledged before its sync").delays_sync = is_log;
  add(list, "only the first segment is synced").skips_sync = [](const std::string& path) {
    return is_log(path) && path.find("/0000000000000001.") == path.npos;
  };
  // Cut by truncation, or by zeros over what is already there.
  Bug& torn = add(list, "the torn tail is not cut");
  torn.ignores_truncate = is_log;
  int count = 0;
  add(list, "every seventh write to the log is lost").on_write =
      [count](const std::string& path, std::uint64_t&, std::string& bytes) mutable {
        if (is_log(path) && ++count % 7 == 0) bytes.clear();
      };
  add(list, "every seventh write to the log goes to the next sector").on_write =
      [count](const std::string& path, std::uint64_t& offset, std::string&) mutable {
        if (is_log(path) && ++count % 7 == 0) offset += 512;
      };
  add(list, "every ninth write to the log ends halfway").on_write =
      [count](const std::string& path, std::uint64_t&, std::string& bytes) mutable {
        if (is_log(path) && ++count % 9 == 0) bytes.resize(bytes.size() / 2);
      };
  add(list, "the last change of a transaction is not logged").on_write =
      [](const std::string& path, std::uint64_t&, std::string& bytes) {
        if (is_log(path)) each_block(bytes, drop_last_change);
      };
  add(list, "erasures are not logged").on_write = [](const std::string& path, std::uint64_t&,
                                                     std::string& bytes) {
    if (is_log(path)) each_block(bytes, drop_erasures);
  };
  add(list, "durable_lsn runs ahead of the syncs").on_write =
      [](const std::string& path, std::uint64_t&, std::string& bytes) {
        if (!is_log(path)) return;
        each_block(bytes, [](BlockHeader& header, std::string&) {
          header.durable_lsn = header.first_lsn - 1;
        });
      };
  add(list, "the log ends without zeros").on_write = [](const std::string& path, std::uint64_t&,
                                                        std::string& bytes) {
    if (is_log(path)) bytes.resize(bytes.find_last_not_of('\0') + 1);
  };
  add(list, "payload checksums are not compared").on_read =
      [](const std::string& path, std::uint64_t, std::span<char> bytes) {
        if (is_log(path)) make_payloads_right(bytes);
      };
}

void add_name_bugs(BugList& list) {
  add(list, "a new segment's name is not synced").skips_dir_sync = [](const std::string& dir) {
    return ends(dir, "/wal");
  };
  add(list, "the store's directory is not synced").skips_dir_sync = [](const std::string& dir) {
    return dir == testing_util::kDir;
  };
  add(list, "the parent directory is not synced").skips_dir_sync = [](const std::string& dir) {
    return dir == "/";
  };
  add(list, "no directory is synced").skips_dir_sync = [](const std::string&) { return true; };
  add(list, "small files are not synced before their rename").skips_sync =
      [](const std::string& path) {
        return ends(path, "store.id.tmp") || ends(path, ".clean_shutdown.tmp");
      };
  add(list, "the lock file's record is the only thing ever synced").skips_sync =
      [](const std::string& path) { return !ends(path, "LOCK"); };
  add(list, "the clean mark stays when the store is opened").ignores_remove =
      [](const std::string& path) { return ends(path, ".clean_shutdown"); };
}

void add_checkpoint_bugs(BugList& list) {
  add(list, "a checkpoint's file is not synced").skips_sync = is_checkpoint;
  add(list, "a checkpoint's file is synced after it counts").delays_sync = is_checkpoint;
  int count = 0;
  add(list, "every third write to a checkpoint's file is lost").on_write =
      [count](const std::string& path, std::uint64_t&, std::string& bytes) mutable {
        if (is_checkpoint(path) && ++count % 3 == 0) bytes.clear();
      };
  add(list, "the page file is not synced before its buffer is cleared").skips_sync = is_page_file;
  add(list, "the double-write buffer is cleared early").delays_sync = is_page_file;
  add(list, "the double-write buffer is not synced before the pages").skips_sync =
      is_double_write_buffer;
  add(list, "the double-write buffer is written 8 bytes further on").on_write =
      [](const std::string& path, std::uint64_t& offset, std::string&) {
        if (is_double_write_buffer(path)) offset += 8;
      };
  add(list, "the double-write buffer is not looked at").on_read =
      [](const std::string& path, std::uint64_t, std::span<char> bytes) {
        if (is_double_write_buffer(path)) std::ranges::fill(bytes, '\0');
      };
}

// What crash_test.cc has to notice.
BugList bugs() {
  BugList list;
  add_log_bugs(list);
  add_name_bugs(list);
  add_checkpoint_bugs(list);
  return list;
}

Wrapper plant(const Bug& bug) {
  return [&bug](os::SimFiles& files) -> std::unique_ptr<os::Files> {
    return std::make_unique<MutantFiles>(bug, files);
  };
}

// `points` bounds the crash points of each workload.
bool is_caught(const Bug& bug, std::uint64_t points, std::string& how) {
  for (const auto& workload : workloads()) {
    Campaign campaign(
        {.seeds_per_point = 7, .continue_every = 1, .max_points = points, .wrapper = plant(bug)});
    campaign.run(workload);
    if (!campaign.violations().empty()) {
      how = campaign.violations().front();
      return true;
    }
  }
  return false;
}

class StoreMutant : public testing::TestWithParam<std::size_t> {};

TEST_P(StoreMutant, IsCaught) {
  const Bug bug = bugs()[GetParam()];
  std::string how;
  EXPECT_TRUE(is_caught(bug, 300, how) || is_caught(bug, ~0ULL, how)) << "not caught: " << bug.name;
  EXPECT_GT(*bug.hits, 0U) << "nothing meets this bug: " << bug.name;
  fmt::print("  {}: caught by {}\n", bug.name, how);
}

INSTANTIATE_TEST_SUITE_P(Bugs, StoreMutant, testing::Range<std::size_t>(0, bugs().size()));

TEST(StoreMutant, TheUnchangedStoreIsNotSuspected) {
  std::string how;
  EXPECT_FALSE(is_caught(Bug{}, 700, how)) << how;
}

// A sync fails once, or with it everything that follows; the store is opened again on the same
// machine, and then power fails. Empty where nothing that was acknowledged or shown is lost: what
// fault_test.cc has to notice.
std::string lost_after_a_failed_sync(const Bug& bug, bool for_good = false) {
  Recording r(1, plant(bug));
  r.open();
  r.must_commit(Durability::kPower);
  bool failed = false;
  r.disk().set_fault([&](std::size_t, std::string_view what) -> std::optional<Error> {
    if (failed ? !for_good : !what.starts_with("sync /s/wal/")) return std::nullopt;
    failed = true;
    return Error(Code::kSyncFailed, "injected");
  });
  std::uint64_t acknowledged = 1;
  for (int i = 0; i < 3; ++i) {
    const auto committed = r.commit(Durability::kPower);
    if (committed) acknowledged = *committed;
  }
  r.disk().set_fault(nullptr);
  r.drop();
  try {
    r.open();
  } catch (const testing_util::WorkloadEnded& ended) {
    return ended.what();
  }
  const std::uint64_t shown = (*r.store().snapshot())->position();
  r.drop();
  const auto image = r.disk().crashed(r.disk().operations(), 0);
  testing_util::PacedClock clock;
  clock.reboot(std::chrono::seconds(1));
  testing_util::SteppedExecutor executor;
  const auto store =
      Store::open(testing_util::kDir, testing_util::small_store(*image, clock, executor));
  if (!store) return store.error().to_line();
  const std::uint64_t found = (*(*store)->snapshot())->position();
  if (found < acknowledged) return fmt::format("commit {} was acknowledged", acknowledged);
  if (found < shown) return fmt::format("commit {} was shown", shown);
  return {};
}

TEST(StoreMutantFault, ASyncThatIsRetriedIsCaught) {
  EXPECT_EQ(lost_after_a_failed_sync(Bug{}), "");
  Bug bug;
  bug.retries_sync = is_log;
  EXPECT_NE(lost_after_a_failed_sync(bug), "");
}

TEST(StoreMutantFault, AnOpeningThatBelievesThePageCacheIsCaught) {
  Bug bug;
  bug.ignores_drop_cache = [](const std::string&) { return true; };
  EXPECT_NE(lost_after_a_failed_sync(bug), "");
}

TEST(StoreMutantFault, AFailureOfWhichNothingIsLeftInMemoryIsCaught) {
  EXPECT_EQ(lost_after_a_failed_sync(Bug{}, true), "");
  Bug bug;
  bug.forgets_failure = [](const std::string&) { return true; };
  EXPECT_NE(lost_after_a_failed_sync(bug, true), "");
  EXPECT_GT(*bug.hits, 0U);
}

// The newest segment of the log is taken away: what damage_test.cc has to notice.
TEST(StoreMutantDamage, ALogHeadThatDoesNotFollowTheLogIsCaught) {
  for (const bool planted : {false, true}) {
    Bug bug;
    if (planted) {
      // The first one is of the store's creation.
      bug.ignores_rename = [first = true](const std::string& to) mutable {
        return ends(to, "/log.head") && !std::exchange(first, false);
      };
    }
    Recording r(1, plant(bug));
    r.open();
    r.must_commit(Durability::kPower);
    r.all_durable(r.store().checkpoint());
    r.must_commit(Durability::kPower);
    r.drop();
    const auto segments = *list_segments(r.disk(), testing_util::kDir);
    ASSERT_TRUE(r.disk().remove("/s/wal/" + segments.back()).has_value());
    const auto store = Store::open(testing_util::kDir, r.options());
    const bool lost = store.has_value() &&
                      store.value()->recovery_result().find("wal_validation") != nullptr &&
                      (*(*store)->snapshot())->position() < 2;
    EXPECT_EQ(lost, planted);
  }
}

// A second opening beside a living holder: what recovery_test.cc has to notice.
TEST(StoreMutantLock, ALockThatIsTakenFromALivingHolderIsCaught) {
  for (const bool planted : {false, true}) {
    Bug bug;
    if (planted) bug.takes_any_lock = [](const std::string&) { return true; };
    Recording r(1, plant(bug));
    r.open();
    const auto second = Store::open(testing_util::kDir, r.options());
    EXPECT_EQ(second.has_value(), planted);
  }
}

}  // namespace
}  // namespace defib::store

// Copies of stores, sound and damaged: what is in them, and what is said not to be.

#include "defib/store/maintenance.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <set>
#include <thread>

#include "defib/base/bytes.h"
#include "defib/os/sim_files.h"
#include "defib/store/format.h"
#include "defib/store/log_writer.h"
#include "defib/store/page_file.h"
#include "defib/store/picture.h"
#include "defib/store/plan.h"
#include "defib/store/testing/recording.h"
#include "defib/store/testing/store_util.h"

namespace defib::store {
namespace {

using testing_util::dump;
using testing_util::PacedClock;
using testing_util::State;

constexpr const char* kDir = "/s";

// Of a later run of the machine, in which whoever wrote the stores below is gone.
const os::Clock& later() {
  static os::FakeClock& clock = *[] {
    auto* made = new os::FakeClock;
    made->reboot(std::chrono::seconds(1));
    return made;
  }();
  return clock;
}

Options on(os::Files& files, const os::Clock& clock = later()) {
  Options options;
  options.segment_size = 8 << 20;  // the simulated disk copies what it syncs
  options.files = &files;
  options.clock = &clock;
  options.page_size = 4096;
  options.checkpoint_after = 0;
  options.log_retention = 1 << 30;
  return options;
}

std::string key_of(int number) {
  return fmt::format("key {:05}", number);
}

// A store with a base, two runs and a log behind them, as kill -9 leaves it; and its state after
// each commit.
class Subject {
 public:
  explicit Subject(bool keep_log = true) {
    Options options = on(disk_, os::real_clock());
    if (!keep_log) options.log_retention = 0;
    auto store = *Store::open(kDir, options);
    for (int i = 0; i < 40; ++i) {
      commit(*store, [&](Transaction& transaction) {
        for (int j = 0; j < 20; ++j) {
          put(transaction, i % 4 == 0 ? "accounts" : "orders", key_of(i * 20 + j),
              fmt::format("first value of {}", i * 20 + j));
        }
      });
    }
    EXPECT_TRUE(store->checkpoint());
    for (int round = 0; round < 3; ++round) {
      for (int i = 0; i < 20; ++i) {
        commit(*store, [&](Transaction& transaction) {
          const int number = (i * 37 + round * 11) % 800;
          put(transaction, "orders", key_of(number),
              fmt::format("value of round {}, made long enough to fill blocks {}", round,
                          std::string(100, 'x')));
          erase(transaction, "orders", key_of((number + 400) % 800));
          put(transaction, "accounts", key_of(number), fmt::format("{}", round));
        });
      }
      if (round < 2) {
        EXPECT_TRUE(store->checkpoint());
      }
    }
    store.reset();
    killed_ = disk_.killed(disk_.operations(), 0);
    closed_ = disk_.killed(disk_.operations(), 0);
    auto again = *Store::open(kDir, on(*closed_));
    EXPECT_TRUE(again->close());
  }

  // Copies, to be damaged.
  std::unique_ptr<os::SimFiles> killed() const { return copy(*killed_); }
  std::unique_ptr<os::SimFiles> closed() const { return copy(*closed_); }
  const State& state() const { return states_.back(); }
  const State& state(std::uint64_t commit) const { return states_[commit]; }
  std::uint64_t last() const { return states_.size() - 1; }
  // Every value that a record ever had.
  bool had(const std::pair<std::string, std::string>& key, const std::string& value) const {
    return std::ranges::any_of(states_, [&](const State& state) {
      const auto found = state.find(key);
      return found != state.end() && found->second == value;
    });
  }

  static std::unique_ptr<os::SimFiles> copy(const os::SimFiles& files) {
    return files.killed(files.operations(), 0);
  }

 private:
  template <typename Work>
  void commit(Store& store, const Work& work) {
    next_ = states_.back();
    const auto transaction = *store.begin();
    work(*transaction);
    const auto number = transaction->commit(Durability::kPower);
    ASSERT_TRUE(number.has_value());
    ASSERT_EQ(*number, states_.size());
    states_.push_back(next_);
  }
  void put(Transaction& transaction, const std::string& table, const std::string& key,
           const std::string& value) {
    EXPECT_TRUE(transaction.put(table, key, value));
    next_[{table, key}] = value;
  }
  void erase(Transaction& transaction, const std::string& table, const std::string& key) {
    EXPECT_TRUE(transaction.erase(table, key));
    next_.erase({table, key});
  }

  os::SimFiles disk_;
  std::unique_ptr<os::SimFiles> killed_;
  std::unique_ptr<os::SimFiles> closed_;
  std::vector<State> states_ = {State()};
  State next_;
};

const Subject& subject() {
  static const Subject made;
  return made;
}
// Whose checkpoints let the log behind them go, as by default.
const Subject& subject_without_old_log() {
  static const Subject made(false);
  return made;
}

State state_of(os::Files& files, const std::string& dir) {
  auto store = Store::open(dir, on(files));
  if (!store) {
    ADD_FAILURE() << store.error().to_text();
    return {};
  }
  return dump(**store);
}

std::map<std::string, std::string> contents(const os::SimFiles& files) {
  std::map<std::string, std::string> found;
  for (const std::string& path : files.all_files()) {
    if (path.starts_with("/s/")) found[path] = files.content(path);
  }
  return found;
}

std::string file_named(const os::SimFiles& files, std::string_view ending, int index = 0) {
  for (const std::string& path : files.all_files()) {
    if (path.starts_with("/s/") && path.ends_with(ending) && index-- == 0) return path;
  }
  ADD_FAILURE() << "no file *" << ending;
  return {};
}

bool covers(const Loss& loss, const std::string& table, const std::string& key) {
  switch (loss.kind) {
    case LossKind::kRecords:
    case LossKind::kVersions:
      return (loss.table.empty() || loss.table == table) &&
             (loss.after_key.empty() || key > loss.after_key) &&
             (loss.before_key.empty() || key < loss.before_key);
    case LossKind::kTransactions:
    case LossKind::kTail:
    case LossKind::kTableNames:
    case LossKind::kFile:
      return true;
    case LossKind::kDescription:
      return false;
  }
  return false;
}

// Empty where each difference to what was there is told by a loss.
std::string untold_difference(const Subject& whole, const State& repaired,
                              const std::vector<Loss>& losses) {
  const auto told = [&](const std::pair<std::string, std::string>& key) {
    return std::ranges::any_of(
        losses, [&](const Loss& loss) { return covers(loss, key.first, key.second); });
  };
  for (const auto& [key, value] : whole.state()) {
    const auto found = repaired.find(key);
    if (found != repaired.end() && found->second == value) continue;
    if (!told(key)) return fmt::format("{}/{} is not as it was", key.first, key.second);
  }
  const bool renamed = std::ranges::any_of(
      losses, [](const Loss& loss) { return loss.kind == LossKind::kTableNames; });
  for (const auto& [key, value] : repaired) {
    if (whole.state().contains(key) || renamed) continue;
    if (!told(key)) return fmt::format("{}/{} is there again", key.first, key.second);
  }
  for (const auto& [key, value] : repaired) {
    if (!renamed && !whole.had(key, value)) {
      return fmt::format("{}/{} never had this value", key.first, key.second);
    }
  }
  return {};
}

Result<CopyReport> repaired(os::SimFiles& files, State& state) {
  auto report = repair(kDir, "/new", on(files));
  if (report) state = state_of(files, "/new");
  return report;
}

TEST(StoreRepair, OfASoundStoreLosesNothingAndWritesNothingToIt) {
  for (const auto& files :
       {subject().killed(), subject().closed(), subject_without_old_log().killed()}) {
    const auto before = contents(*files);
    State state;
    const auto report = repaired(*files, state);
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    EXPECT_TRUE(report->losses.empty()) << report->losses.front();
    EXPECT_TRUE(report->remarks.empty()) << report->remarks.front();
    EXPECT_EQ(report->commit, subject().last());
    EXPECT_EQ(report->records, subject().state().size());
    EXPECT_EQ(state, subject().state());
    EXPECT_EQ(contents(*files), before);
    // Numbers that somebody may have seen are not given to other commits.
    auto store = *Store::open("/new", on(*files));
    EXPECT_GT(*put(*store, "t", "k", "v", Durability::kPower), subject().last());
  }
}

TEST(StoreRepair, LosesTheKeysOfADamagedBlockAndNamesTheirRange) {
  const auto files = subject_without_old_log().closed();
  const std::string base = file_named(*files, ".base");
  std::string bytes = files->content(base);
  bytes[4096 + 1000] ^= 1;
  files->set_content(base, bytes);
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  ASSERT_EQ(report->losses.size(), 1U);
  const Loss& loss = report->losses[0];
  EXPECT_EQ(loss.kind, LossKind::kRecords);
  EXPECT_FALSE(loss.before_key.empty());
  EXPECT_GT(loss.bytes, 0U);
  EXPECT_LE(loss.bytes, 4096U);
  EXPECT_EQ(untold_difference(subject(), state, report->losses), "");
  EXPECT_LT(state.size(), subject().state().size());
  EXPECT_GT(state.size(), subject().state().size() - 150);
}

TEST(StoreRepair, TellsThatChangesOfADamagedRunAreMissing) {
  const auto files = subject_without_old_log().closed();
  const std::string run = file_named(*files, ".run");
  std::string bytes = files->content(run);
  bytes[4096 + 500] ^= 1;
  files->set_content(run, bytes);
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  ASSERT_EQ(report->losses.size(), 1U);
  EXPECT_EQ(report->losses[0].kind, LossKind::kVersions);
  EXPECT_EQ(untold_difference(subject(), state, report->losses), "");
}

TEST(StoreRepair, NumbersTheCommitsThatADamagedLogHasLost) {
  const auto files = subject_without_old_log().killed();
  const std::string segment = file_named(*files, ".wal");
  std::string bytes = files->content(segment);
  // The payload of a block in the middle.
  std::vector<std::pair<std::size_t, BlockHeader>> blocks;
  std::string problem;
  for (std::size_t at = kPageSize; at + kBlockHeaderSize <= bytes.size();) {
    const auto header = decode_block_header(std::string_view(bytes).substr(at), problem);
    if (!header) break;
    if (header->count > 0) blocks.emplace_back(at, *header);
    at = align_up(at + kBlockHeaderSize + header->payload_size, kBlockAlignment);
  }
  ASSERT_GT(blocks.size(), 12U);
  for (const std::size_t hit : {4, 9}) bytes[blocks[hit].first + kBlockHeaderSize + 5] ^= 4;
  files->set_content(segment, bytes);
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  ASSERT_EQ(report->losses.size(), 2U);
  for (std::size_t i = 0; i < 2; ++i) {
    const BlockHeader& lost = blocks[i == 0 ? 4 : 9].second;
    EXPECT_EQ(report->losses[i].kind, LossKind::kTransactions);
    EXPECT_EQ(report->losses[i].first_commit, lost.first_lsn);
    EXPECT_EQ(report->losses[i].last_commit, lost.next_lsn() - 1);
    EXPECT_GT(report->losses[i].bytes, 0U);
  }
  EXPECT_EQ(report->commit, subject().last());
}

TEST(StoreRepair, FindsTheTablesNamesInTheDoubleWriteBuffer) {
  const auto files = subject_without_old_log().killed();
  ASSERT_TRUE(files->remove("/s/index.pg"));
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_EQ(state, subject().state());
  EXPECT_FALSE(report->remarks.empty());
}

TEST(StoreRepair, KeepsTheRecordsOfTablesWhoseNamesAreLost) {
  const auto files = subject_without_old_log().closed();
  ASSERT_TRUE(files->remove("/s/index.pg"));
  ASSERT_TRUE(files->remove("/s/dwb.pg"));
  ASSERT_TRUE(files->remove("/s/store.id"));
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  std::multiset<std::pair<std::string, std::string>> expected;
  std::multiset<std::pair<std::string, std::string>> found;
  std::set<std::string> tables;
  for (const auto& [key, value] : subject().state()) expected.emplace(key.second, value);
  for (const auto& [key, value] : state) {
    found.emplace(key.second, value);
    tables.insert(key.first);
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(tables, (std::set<std::string>{"table-1", "table-2"}));
  EXPECT_EQ(std::ranges::count(report->losses, LossKind::kTableNames, &Loss::kind), 2);
  EXPECT_EQ(std::ranges::count(report->losses, LossKind::kDescription, &Loss::kind), 1);
}

TEST(StoreRepair, TellsThatAWholeFileIsMissing) {
  const auto files = subject_without_old_log().closed();
  const std::string base = file_named(*files, ".base");
  ASSERT_TRUE(files->remove(base));
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  ASSERT_EQ(report->losses.size(), 1U);
  EXPECT_EQ(report->losses[0].kind, LossKind::kFile);
  EXPECT_EQ(os::join_path(kDir, report->losses[0].where), base);
}

TEST(StoreRepair, TellsCommitsThatTheCleanMarkKnowsAndNothingHolds) {
  const auto files = subject().closed();
  std::string problem;
  auto record = *decode_clean_record(files->content("/s/.clean_shutdown"), problem);
  record.lsn += 3;
  files->set_content("/s/.clean_shutdown", encode(record));
  State state;
  const auto report = repaired(*files, state);
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  ASSERT_EQ(report->losses.size(), 1U);
  EXPECT_EQ(report->losses[0].first_commit, subject().last() + 1);
  EXPECT_EQ(report->losses[0].last_commit, subject().last() + 3);
}

TEST(StoreRepair, IsRefusedWhileTheStoreIsOpenAndWhereTheTargetIsNotEmpty) {
  const auto files = subject().killed();
  {
    const auto store = *Store::open(kDir, on(*files));
    const auto report = repair(kDir, "/new", on(*files));
    ASSERT_FALSE(report.has_value());
    EXPECT_EQ(report.error().code(), Code::kDatabaseLocked);
    EXPECT_FALSE(files->exists("/new"));
  }
  const auto occupied = repair(kDir, kDir, on(*files));
  ASSERT_FALSE(occupied.has_value());
  EXPECT_EQ(occupied.error().code(), Code::kAlreadyExists);
  const auto nothing = repair("/nowhere", "/new", on(*files));
  ASSERT_FALSE(nothing.has_value());
  EXPECT_EQ(nothing.error().code(), Code::kNotAStore);
  EXPECT_FALSE(files->exists("/new"));
}

TEST(StoreRepair, ThatIsRefusedLeavesWhatAnotherHasMadeAtItsTarget) {
  const auto files = subject().killed();
  const auto store = *Store::open(kDir, on(*files));
  PacedClock clock;
  bool made = false;
  clock.on_sleep = [&] {  // While it looks whether the holder lives.
    if (std::exchange(made, true)) return;
    const auto other = *Store::open("/new", on(*files));
    ASSERT_TRUE(put(*other, "t", "k", "v", Durability::kPower).has_value());
    ASSERT_TRUE(other->close().has_value());
  };
  const auto report = repair(kDir, "/new", on(*files, clock));
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code(), Code::kDatabaseLocked);
  ASSERT_TRUE(made);
  const auto other = Store::open("/new", on(*files));
  ASSERT_TRUE(other.has_value()) << other.error().to_text();
  EXPECT_EQ(*(*(*other)->snapshot())->get("t", "k"), "v");
}

// Whatever is done to one file of the store, each difference is told.
TEST(StoreRepair, TellsEveryDifferenceThatAnyDamageMakes) {
  const std::uint64_t rounds = testing_util::number_from_environment("DEFIB_REPAIR_ROUNDS", 150);
  std::mt19937_64 random(20);
  for (std::uint64_t round = 0; round < rounds; ++round) {
    const auto files =
        round % 2 == 0 ? subject_without_old_log().killed() : subject_without_old_log().closed();
    std::vector<std::string> paths = files->all_files();
    std::erase_if(paths, [&](const std::string& path) {
      return !path.starts_with("/s/") || files->content(path).empty();
    });
    const std::string path = paths[random() % paths.size()];
    std::string bytes = files->content(path);
    const std::size_t end = bytes.find_last_not_of('\0') + 1;  // The log's zeros are uninteresting.
    const std::size_t at = random() % std::max<std::size_t>(end, 1);
    std::string what;
    switch (random() % 4) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        what = "a bit";
        break;
      case 1:
        bytes.resize(at);
        what = "cut";
        break;
      case 2:
        std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at),
                    std::min<std::size_t>(bytes.size() - at, 4096), '\0');
        what = "zeros";
        break;
      default:
        for (std::size_t i = at; i < std::min(bytes.size(), at + 700); ++i) {
          bytes[i] = static_cast<char>(random());
        }
        what = "noise";
        break;
    }
    files->set_content(path, bytes);
    SCOPED_TRACE(fmt::format("round {}: {} of {} at {}", round, what, path, at));
    const auto before = contents(*files);
    State state;
    const auto report = repaired(*files, state);
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    EXPECT_EQ(contents(*files), before);
    ASSERT_EQ(untold_difference(subject(), state, report->losses), "")
        << testing::PrintToString(report->losses) << testing::PrintToString(report->remarks);
  }
}

TEST(StoreBackup, HoldsTheStateOfTheStoreUnderItsCommitNumbers) {
  for (const auto& files : {subject().killed(), subject().closed()}) {
    const auto before = contents(*files);
    const auto report = back_up(kDir, "/copy", on(*files));
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    EXPECT_EQ(report->commit, subject().last());
    EXPECT_EQ(report->records, subject().state().size());
    EXPECT_EQ(contents(*files), before);
    const auto status = *Store::status("/copy", on(*files));
    EXPECT_FALSE(status.recovery_needed);
    EXPECT_EQ(status.last_commit, subject().last());
    EXPECT_TRUE(Store::verify_files("/copy", on(*files))->findings.empty());
    auto store = *Store::open("/copy", on(*files));
    EXPECT_EQ(dump(*store), subject().state());
    EXPECT_EQ(*put(*store, "t", "k", "v", Durability::kPower), subject().last() + 1);
  }
}

TEST(StoreBackup, OfADamagedStoreFailsAndLeavesNoStoreBehind) {
  const auto files = subject_without_old_log().closed();
  const std::string base = file_named(*files, ".base");
  std::string bytes = files->content(base);
  bytes[4096 + 1000] ^= 1;
  files->set_content(base, bytes);
  const auto report = back_up(kDir, "/copy", on(*files));
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code(), Code::kCorrupted);
  EXPECT_FALSE(files->exists("/copy/store.id"));
  for (const std::string& path : files->all_files()) EXPECT_FALSE(path.starts_with("/copy/"));
}

TEST(StoreBackup, BesideAWriterIsTheStateAfterOneCommit) {
  os::SimFiles files;
  Options options = on(files);
  options.checkpoint_after = 64 << 10;
  options.recovery_budget = os::Duration::zero();
  options.checkpoint_rate = 0;
  options.log_retention = 0;
  const auto store = *Store::open(kDir, options);
  ASSERT_TRUE(put(*store, "t", "a", "0", Durability::kProcess));
  std::atomic<bool> stop = false;
  std::thread writer([&] {
    for (int i = 1; !stop; ++i) {
      const auto transaction = *store->begin();
      for (const char* key : {"a", "b", "c"}) {
        EXPECT_TRUE(transaction->put("t", key, fmt::format("{}", i)));
      }
      EXPECT_TRUE(transaction->put("filler", key_of(i % 500), std::string(200, 'f')));
      EXPECT_TRUE(transaction->commit(Durability::kProcess));
    }
  });
  for (int round = 0; round < 5; ++round) {
    const std::string to = fmt::format("/copy{}", round);
    const auto report = back_up(kDir, to, options);
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    const State state = state_of(files, to);
    if (report->commit < 2) continue;
    EXPECT_EQ(state.at({"t", "a"}), fmt::format("{}", report->commit - 1));
    EXPECT_EQ(state.at({"t", "b"}), state.at({"t", "a"}));
    EXPECT_EQ(state.at({"t", "c"}), state.at({"t", "a"}));
  }
  stop = true;
  writer.join();
}

// A backup of commit 50, and the store's log since.
std::unique_ptr<os::SimFiles> with_backup_of(std::uint64_t commit) {
  auto files = subject().killed();
  // Going back to that commit with what the tools offer: an empty backup and the whole log.
  {
    os::SimFiles& disk = *files;
    auto empty = *Store::open("/empty", on(disk));
    EXPECT_TRUE(empty->close());
    const auto report = back_up("/empty", "/nothing", on(disk));
    EXPECT_TRUE(report.has_value());
  }
  const Identity identity = *read_identity(*files, kDir);
  wire::Json origin = *wire::Json::parse(files->content("/nothing/backup.origin"));
  origin.set("store", identity.uuid);
  files->set_content("/nothing/backup.origin", origin.dump());
  const auto restored =
      restore("/nothing", "/then", {.log_of = kDir, .to_commit = commit}, on(*files));
  EXPECT_TRUE(restored.has_value()) << restored.error().to_text();
  const auto copied = back_up("/then", "/backup", on(*files));
  EXPECT_TRUE(copied.has_value()) << copied.error().to_text();
  origin = *wire::Json::parse(files->content("/backup/backup.origin"));
  origin.set("store", identity.uuid);
  // The restored store's own log has blocks of its own.
  wire::Json plain = wire::Json::object(
      {{"schema", origin["schema"]}, {"store", origin["store"]}, {"commit", origin["commit"]}});
  files->set_content("/backup/backup.origin", plain.dump());
  return files;
}

TEST(StoreRestore, GoesToEveryCommitThatTheLogHas) {
  const auto files = with_backup_of(50);
  EXPECT_EQ(state_of(*files, "/backup"), subject().state(50));
  for (const std::uint64_t commit : {std::uint64_t{50}, std::uint64_t{51}, std::uint64_t{77},
                                     std::uint64_t{99}, subject().last()}) {
    const std::string to = fmt::format("/at{}", commit);
    const auto report = restore("/backup", to, {.log_of = kDir, .to_commit = commit}, on(*files));
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    EXPECT_EQ(report->commit, commit);
    EXPECT_EQ(report->replayed, commit - 50);
    EXPECT_TRUE(report->losses.empty());
    EXPECT_EQ(state_of(*files, to), subject().state(commit));
    EXPECT_EQ(Store::status(to, on(*files))->last_commit, commit);
  }
  const auto all = restore("/backup", "/all", {.log_of = kDir, .to_commit = {}}, on(*files));
  ASSERT_TRUE(all.has_value());
  EXPECT_EQ(all->commit, subject().last());
}

TEST(StoreRestore, NamesTheCommitThatCannotBeReached) {
  const auto files = with_backup_of(50);
  const auto beyond =
      restore("/backup", "/a", {.log_of = kDir, .to_commit = subject().last() + 1}, on(*files));
  ASSERT_FALSE(beyond.has_value());
  EXPECT_EQ(beyond.error().code(), Code::kNotFound);
  EXPECT_EQ(beyond.error().field("last"), fmt::format("{}", subject().last()));
  const auto earlier = restore("/backup", "/b", {.log_of = kDir, .to_commit = 49}, on(*files));
  ASSERT_FALSE(earlier.has_value());
  EXPECT_EQ(earlier.error().code(), Code::kNotFound);
  EXPECT_FALSE(files->exists("/b"));
  const auto without = restore("/backup", "/c", {.log_of = "", .to_commit = 60}, on(*files));
  ASSERT_FALSE(without.has_value());
  EXPECT_EQ(without.error().code(), Code::kInvalidArgument);
  // A log that begins after the backup.
  const std::string oldest = file_named(*files, ".wal");
  const std::string second = file_named(*files, ".wal", 1);
  ASSERT_TRUE(files->remove(oldest));
  ASSERT_TRUE(files->remove(second));
  const auto gap = restore("/backup", "/d", {.log_of = kDir, .to_commit = {}}, on(*files));
  ASSERT_FALSE(gap.has_value());
  EXPECT_EQ(gap.error().code(), Code::kNotFound);
  EXPECT_FALSE(files->exists("/d"));
}

TEST(StoreRestore, EndsBeforeDamageOfTheLogAndNeverSkipsIt) {
  const auto pristine = with_backup_of(50);
  std::mt19937_64 random(5);
  for (int round = 0; round < 30; ++round) {
    const auto files = Subject::copy(*pristine);
    const std::string segment = file_named(*files, ".wal", static_cast<int>(1 + random() % 2));
    std::string bytes = files->content(segment);
    const std::size_t end = bytes.find_last_not_of('\0') + 1;
    const std::size_t at = random() % end;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    files->set_content(segment, bytes);
    SCOPED_TRACE(fmt::format("{} at {}", segment, at));
    const auto report = restore("/backup", "/new", {.log_of = kDir, .to_commit = {}}, on(*files));
    ASSERT_TRUE(report.has_value()) << report.error().to_text();
    EXPECT_EQ(state_of(*files, "/new"), subject().state(report->commit));
    if (report->commit < subject().last()) {
      ASSERT_FALSE(report->losses.empty());
      EXPECT_EQ(report->losses[0].first_commit, report->commit + 1);
    }
  }
}

TEST(StoreRestore, EndsBeforeASegmentThatIsMissing) {
  const auto files = with_backup_of(20);
  const std::string middle = file_named(*files, ".wal", 1);
  ASSERT_TRUE(files->remove(middle));
  const std::uint64_t first_lost =
      parse_segment_name(middle.substr(middle.rfind('/') + 1))->first_lsn;
  const auto report = restore("/backup", "/new", {.log_of = kDir, .to_commit = {}}, on(*files));
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_EQ(report->commit, first_lost - 1);
  ASSERT_EQ(report->losses.size(), 1U);
  EXPECT_EQ(state_of(*files, "/new"), subject().state(report->commit));
}

TEST(StoreRestore, RefusesALogThatIsNotTheBackupsContinuation) {
  // Two lives after one crash: commit 2 is not the same in both.
  os::SimFiles first;
  {
    auto store = *Store::open(kDir, on(first));
    ASSERT_TRUE(put(*store, "t", "a", "1", Durability::kPower));
  }
  const auto second = Subject::copy(first);
  for (os::SimFiles* disk : {&first, second.get()}) {
    auto store = *Store::open(kDir, on(*disk));
    const std::string value = disk == &first ? "one" : "another";
    ASSERT_TRUE(put(*store, "t", "b", value, Durability::kPower));
    ASSERT_TRUE(put(*store, "t", "c", value, Durability::kPower));
  }
  ASSERT_TRUE(back_up(kDir, "/backup", on(first)).has_value());
  for (const std::string& path : first.all_files()) {
    if (!path.starts_with("/backup/")) continue;
    ASSERT_TRUE(second->create_dirs(os::parent_dir(path)));
    ASSERT_TRUE(second->open(path, os::OpenMode::kCreate).has_value());
    second->set_content(path, first.content(path));
  }
  for (const char* folder : {"/backup/wal", "/backup/quarantine"}) {
    ASSERT_TRUE(second->create_dirs(folder));
  }
  {
    auto store = *Store::open(kDir, on(*second));
    ASSERT_TRUE(put(*store, "t", "d", "later", Durability::kPower));
  }
  const auto report = restore("/backup", "/new", {.log_of = kDir, .to_commit = {}}, on(*second));
  ASSERT_FALSE(report.has_value());
  EXPECT_EQ(report.error().code(), Code::kInconsistentState);
}

TEST(StoreRestore, KeepsTheNumbersOfCommitsThatOnlyChangedIndexes) {
  os::SimFiles files;
  Options options = on(files);
  {
    auto store = *Store::open(kDir, options);
    ASSERT_TRUE(put(*store, "t", "a", "1", Durability::kPower));
    ASSERT_TRUE(store->close());
  }
  ASSERT_TRUE(back_up(kDir, "/backup", options).has_value());
  options.indexes.push_back(
      {.name = "by_value",
       .table = "t",
       .extract = [](std::string_view, std::string_view value, std::vector<std::string>& keys) {
         keys.emplace_back(value);
       }});
  std::uint64_t last = 0;
  {
    auto store = *Store::open(kDir, options);  // Builds the index, which is a commit.
    last = *put(*store, "t", "b", "2", Durability::kPower);
  }
  EXPECT_GT(last, 2U);
  const auto report = restore("/backup", "/new", {.log_of = kDir, .to_commit = {}}, on(files));
  ASSERT_TRUE(report.has_value()) << report.error().to_text();
  EXPECT_EQ(report->commit, last);
  EXPECT_EQ(state_of(files, "/new"), (State{{{"t", "a"}, "1"}, {{"t", "b"}, "2"}}));
  auto again = *Store::open("/new", options);
  EXPECT_EQ(*(*again->snapshot())->find_by("by_value", "2"), std::vector<std::string>{"b"});
}

TEST(StoreVerification, ComparesIndexEntriesWithTheirRecords) {
  os::SimFiles files;
  Options options = on(files);
  options.indexes.push_back(
      {.name = "by_value",
       .table = "t",
       .unique = true,
       .extract = [](std::string_view, std::string_view value, std::vector<std::string>& keys) {
         keys.emplace_back(value);
       }});
  auto store = *Store::open(kDir, options);
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(put(*store, "t", key_of(i), fmt::format("{}", i), Durability::kPower));
  }
  ASSERT_TRUE(store->close());
  store.reset();
  EXPECT_TRUE(verify_indexes(kDir, on(files))->empty());
  // A log in which a record goes and its index entry does not: no program of ours writes that.
  const Identity identity = *read_identity(files, kDir);
  const auto pages = read_page_file(files, kDir, identity.uuid);
  LogWriter log(files, later(),
                {.dir = kDir,
                 .identity = identity,
                 .epoch = pages->manifest.epoch + 1,
                 .last_lsn = pages->manifest.checkpoint_commit,
                 .chain_crc = pages->manifest.chain_crc,
                 .segment_size = 1 << 20});
  TransactionEncoder encoder;
  encoder.erase("t", key_of(7));
  const std::uint64_t lsn = pages->manifest.checkpoint_commit + 1;
  const std::string payload = encoder.finish(lsn);
  const std::string_view transactions[] = {payload};
  ASSERT_TRUE(log.append(lsn, transactions));
  ASSERT_TRUE(log.sync());
  const auto findings = verify_indexes(kDir, on(files));
  ASSERT_TRUE(findings.has_value()) << findings.error().to_text();
  ASSERT_EQ(findings->size(), 1U);
  EXPECT_NE(findings->front().problem.find("key 00007"), std::string::npos);
}

TEST(StorePlan, SaysWhatRecoveryThenDoesAndWritesNothing) {
  const auto files = subject_without_old_log().killed();
  const std::size_t operations = files->operations();
  const auto plan = plan_recovery(kDir, on(*files));
  ASSERT_TRUE(plan.has_value()) << plan.error().to_text();
  EXPECT_EQ(files->operations(), operations) << "the plan changed something";
  EXPECT_TRUE(plan->needed);
  EXPECT_EQ(plan->obstacle(), nullptr);
  ASSERT_EQ(plan->stages.size(), 12U);
  EXPECT_EQ(plan->last_commit, subject().last());
  EXPECT_GT(plan->replay_bytes, 0U);
  EXPECT_GE(plan->log_bytes, plan->replay_bytes);
  const auto store = *Store::open(kDir, on(*files));
  const recovery::ProcedureResult& result = store->recovery_result();
  ASSERT_EQ(result.stages.size(), plan->stages.size());
  for (std::size_t i = 0; i < plan->stages.size(); ++i) {
    EXPECT_EQ(result.stages[i].name, plan->stages[i].name);
    EXPECT_FALSE(plan->stages[i].action.empty());
  }
  EXPECT_EQ((*store->snapshot())->position(), plan->last_commit);
  // Beside the writer that the store now has.
  const auto beside = plan_recovery(kDir, on(*files));
  ASSERT_TRUE(beside.has_value());
  EXPECT_FALSE(beside->lock_holder.empty());
  EXPECT_EQ(beside->obstacle()->obstacle->code(), Code::kDatabaseLocked);
}

TEST(StorePlan, MeetsTheErrorThatRecoveryMeets) {
  const struct {
    const char* file;
    std::size_t offset;
  } damages[] = {{"store.id", 30}, {"index.pg", 0}, {".wal", kPageSize + 70}, {".base", 0}};
  for (const auto& damage : damages) {
    const auto files = subject_without_old_log().killed();
    const std::string path = file_named(*files, damage.file);
    std::string bytes = files->content(path);
    if (damage.offset == 0) {
      std::fill(bytes.begin(), bytes.end(), '\x5a');
      ASSERT_TRUE(files->remove("/s/dwb.pg"));  // Which could heal the page file.
    } else {
      bytes[damage.offset] ^= 1;
    }
    files->set_content(path, bytes);
    const auto plan = plan_recovery(kDir, on(*files));
    ASSERT_TRUE(plan.has_value()) << plan.error().to_text();
    const auto opened = Store::open(kDir, on(*files));
    ASSERT_FALSE(opened.has_value()) << path;
    ASSERT_NE(plan->obstacle(), nullptr) << path << ": " << opened.error().to_text();
    EXPECT_EQ(plan->obstacle()->obstacle->code(), opened.error().code()) << path;
  }
}

TEST(StoreInspect, ShowsEachPartOfASoundAndOfADamagedStore) {
  const auto files = subject_without_old_log().killed();
  const std::size_t operations = files->operations();
  const auto whole = inspect_store(kDir, "", on(*files));
  ASSERT_TRUE(whole.has_value()) << whole.error().to_text();
  for (const char* part : {"wal", "pages", "dwb", "files", "tables", "checkpoint"}) {
    EXPECT_TRUE(whole->has(part)) << part;
    const auto alone = inspect_store(kDir, part, on(*files));
    ASSERT_TRUE(alone.has_value());
    EXPECT_EQ((*alone)[part], (*whole)[part]);
  }
  EXPECT_EQ((*whole)["files"].size(), 3U);
  EXPECT_EQ((*whole)["tables"].size(), 2U);
  EXPECT_EQ((*whole)["files"].items()[0]["damage"].size(), 0U);
  EXPECT_EQ(files->operations(), operations);
  for (const std::string& path : files->all_files()) {
    if (path.ends_with("store.id") || path.ends_with("LOCK")) continue;
    const auto damaged = Subject::copy(*files);
    damaged->set_content(path, std::string(damaged->content(path).size(), '\x33'));
    EXPECT_TRUE(inspect_store(kDir, "", on(*damaged)).has_value()) << path;
  }
}

}  // namespace
}  // namespace defib::store

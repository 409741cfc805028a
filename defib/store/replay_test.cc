// Replay against applying the same transactions one by one, in their order.

#include "defib/store/replay.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/bytes.h"
#include "defib/os/random.h"
#include "defib/store/executor.h"

namespace defib::store {
namespace {

// (table, key) -> value, or none where it is erased.
using Expected = std::map<std::pair<std::string, std::string>, std::optional<std::string>>;

// Writes segments as the log writer would, block by block.
class LogMaker {
 public:
  LogMaker() { identity_.uuid = std::string(kUuidSize, '7'); }

  void begin_segment() {
    end_segment();
    SegmentHeader header;
    header.uuid = identity_.uuid;
    header.epoch = 1;
    header.first_lsn = next_;
    header.previous_crc = chain_;
    header.boot_id = std::string(36, 'b');
    name_ = segment_name(next_, 1);
    bytes_ = encode(header);
  }
  // The transactions that were added since the last block.
  void end_block() {
    if (count_ == 0) return;
    BlockHeader block;
    block.epoch = 1;
    block.first_lsn = next_ - count_;
    block.count = count_;
    block.payload_size = static_cast<std::uint32_t>(payload_.size());
    block.previous_crc = chain_;
    block.payload_crc = crc32c(payload_);
    block.store_tag = identity_.tag();
    encode(block, bytes_);
    bytes_ += payload_;
    bytes_.resize(align_up(bytes_.size(), kBlockAlignment));
    chain_ = block.header_crc;
    payload_.clear();
    count_ = 0;
  }
  void put(std::string_view table, std::string_view key, std::string_view value) {
    encoder_.put(table, key, value);
    touched_.push_back({{std::string(table), std::string(key)}, std::string(value)});
  }
  void erase(std::string_view table, std::string_view key) {
    encoder_.erase(table, key);
    touched_.push_back({{std::string(table), std::string(key)}, std::nullopt});
  }
  void commit() {
    if (encoder_.changes() == 0) return;
    if (bytes_.empty()) begin_segment();
    changes_.push_back(std::exchange(touched_, {}));
    payload_ += encoder_.finish(next_++);
    ++count_;
  }
  void add_raw(std::string payload) {
    if (bytes_.empty()) begin_segment();
    payload_ += payload;
    ++next_;
    ++count_;
  }

  std::vector<Segment> segments() {
    end_segment();
    std::vector<Segment> scanned;
    for (const auto& [name, bytes] : files_) {
      scanned.push_back(Segment::of(name, bytes));
      scan_segment(scanned.back(), identity_);
    }
    return scanned;
  }
  LogAssessment assess(const std::vector<Segment>& scanned, std::uint64_t after = 0) const {
    LogContext context;
    context.identity = identity_;
    if (after > 0) context.base = LogBase{.lsn = after};
    auto log = assess_log(scanned, context);
    EXPECT_TRUE(log.has_value()) << log.error().to_text();
    return *log;
  }
  Expected expected(std::uint64_t after = 0) const {
    Expected all;
    for (std::size_t i = after; i < changes_.size(); ++i) {
      for (const auto& [key, value] : changes_[i]) all[key] = value;
    }
    return all;
  }
  std::uint64_t last() const { return next_ - 1; }

 private:
  void end_segment() {
    if (bytes_.empty()) return;
    end_block();
    bytes_.resize(align_up(bytes_.size() + kBlockHeaderSize, kPageSize));
    files_.emplace_back(name_, std::exchange(bytes_, {}));
  }

  Identity identity_;
  std::vector<std::pair<std::string, std::string>> files_;
  std::string name_;
  std::string bytes_;
  std::string payload_;
  std::uint32_t count_ = 0;
  std::uint64_t next_ = 1;
  std::uint32_t chain_ = 0;
  TransactionEncoder encoder_;
  std::vector<std::pair<std::pair<std::string, std::string>, std::optional<std::string>>> touched_;
  std::vector<decltype(touched_)> changes_;
};

Expected read(Overlay& overlay, const TableNames& names) {
  Expected all;
  const auto view = overlay.view();
  for (const TableId table : view->tables()) {
    const auto cursor = view->cursor(table);
    for (bool more = cursor->first(); more; more = cursor->next()) {
      std::optional<std::string> value;
      if (!cursor->erased()) value = std::string(cursor->value());
      all[{std::string(names.name(table)), std::string(cursor->key())}] = value;
    }
  }
  return all;
}

void expect_replays(LogMaker& log, std::uint64_t after = 0) {
  Threads threads(3);
  for (Executor* executor : {static_cast<Executor*>(&threads), &no_helpers()}) {
    auto segments = log.segments();
    const auto assessed = log.assess(segments, after);
    TableNames names;
    auto replayed = replay_log(std::move(segments), assessed, after, names, *executor, nullptr);
    ASSERT_TRUE(replayed.has_value()) << replayed.error().to_text();
    EXPECT_EQ(replayed->last_commit, log.last());
    EXPECT_EQ(replayed->transactions, log.last() - after);
    ASSERT_TRUE(replayed->overlay->check().has_value());
    const Expected expected = log.expected(after);
    EXPECT_EQ(replayed->overlay->records(), expected.size());
    EXPECT_TRUE(read(*replayed->overlay, names) == expected);
  }
}

TEST(Replay, AnEmptyLogGivesAnEmptyOverlay) {
  TableNames names;
  auto replayed = replay_log({}, {}, 7, names, no_helpers(), nullptr);
  ASSERT_TRUE(replayed.has_value());
  EXPECT_EQ(replayed->last_commit, 7U);
  ASSERT_NE(replayed->overlay, nullptr);
  EXPECT_EQ(replayed->overlay->records(), 0U);
  // It is an overlay like any other.
  const OverlayChange change{.table = 1, .key = "k", .value = "v"};
  replayed->overlay->apply({&change, 1});
  EXPECT_EQ(replayed->overlay->find(1, "k")->value, "v");
}

TEST(Replay, TheLastChangeOfAKeyWins) {
  LogMaker log;
  log.put("t", "a", "1");
  log.put("t", "a", "2");
  log.put("u", "a", "other table");
  log.commit();
  log.put("t", "b", "1");
  log.commit();
  log.erase("t", "a");
  log.commit();
  log.end_block();
  log.begin_segment();
  log.erase("t", "b");
  log.put("t", "b", "again");
  log.erase("u", "never there");
  log.commit();
  expect_replays(log);
}

// Random transactions in random blocks and segments, over shapes of keys that each take another
// way through the sort.
void random_log(LogMaker& log, os::Random& random, int shape, int commits) {
  const auto key = [&]() -> std::string {
    switch (shape) {
      case 0:
        return std::to_string(random.below(500));
      case 1:
        return "a long common beginning/" + std::to_string(random.below(100'000));
      case 2:
        return std::string(random.below(12), static_cast<char>(random.below(2)));
      case 3:
        return (random.below(2) == 0 ? "position" : "positions/open/") +
               std::to_string(random.below(300));
      default: {
        std::string bytes(16, '\0');
        for (char& c : bytes) c = static_cast<char>(random.below(256));
        return bytes;
      }
    }
  };
  for (int i = 0; i < commits; ++i) {
    for (std::uint64_t changes = random.below(4) + 1; changes > 0; --changes) {
      const std::string table = "table " + std::to_string(random.below(random.below(20) + 1));
      if (random.below(5) == 0) {
        log.erase(table, key());
      } else {
        log.put(table, key(), std::string(random.below(200), 'v') + std::to_string(i));
      }
    }
    log.commit();
    if (random.below(3) == 0) log.end_block();
    if (random.below(1000) == 0) {
      log.end_block();
      log.begin_segment();
    }
  }
}

TEST(Replay, AnyLogGivesWhatApplyingItInOrderGives) {
  os::Random random(42);
  for (int shape = 0; shape < 5; ++shape) {
    SCOPED_TRACE(shape);
    LogMaker log;
    random_log(log, random, shape, 6000);
    expect_replays(log);
  }
}

TEST(Replay, ManyRecordsOfOneTableAreSplitIntoRanges) {
  os::Random random(1);
  for (const bool ordered : {false, true}) {
    LogMaker log;
    for (int i = 0; i < 100'000; ++i) {
      const std::uint64_t number = ordered ? static_cast<std::uint64_t>(i) : random.below(60'000);
      std::string key = std::to_string(number);
      key.insert(0, 16 - key.size(), '0');
      log.put("t", key, std::to_string(i));
      log.commit();
      if (i % 20 == 0) log.end_block();
    }
    expect_replays(log);
  }
}

TEST(Replay, WhatTheFilesAlreadyHoldIsLeftOut) {
  os::Random random(3);
  LogMaker log;
  random_log(log, random, 0, 400);
  for (const std::uint64_t after : {1, 7, 199, 399, 400}) expect_replays(log, after);
}

TEST(Replay, NewTablesGetTheirNumbersInTheOrderOfTheLog) {
  LogMaker log;
  for (const char* table : {"zebra", "known", "ant"}) {
    log.put(table, "k", "v");
    log.commit();
    log.end_block();
  }
  auto segments = log.segments();
  const auto assessed = log.assess(segments);
  TableNames names;
  ASSERT_TRUE(names.insert(5, "known"));
  ASSERT_TRUE(replay_log(std::move(segments), assessed, 0, names, no_helpers(), nullptr));
  EXPECT_EQ(names.find("zebra"), TableId{6});
  EXPECT_EQ(names.find("ant"), TableId{7});
  EXPECT_EQ(names.next(), 8U);
}

TEST(Replay, TheBytesStayWhereTheyAreAndOutliveTheSegments) {
  LogMaker log;
  log.put("t", "key", "value");
  log.commit();
  auto segments = log.segments();
  const auto assessed = log.assess(segments);
  const std::string_view bytes = segments[0].bytes;
  const std::weak_ptr<const os::FileView> view = segments[0].view;
  TableNames names;
  auto replayed = replay_log(std::move(segments), assessed, 0, names, no_helpers(), nullptr);
  const auto found = replayed->overlay->find(1, "key");
  ASSERT_TRUE(found.has_value());
  EXPECT_GE(found->value.data(), bytes.data());
  EXPECT_LT(found->value.data(), bytes.data() + bytes.size());
  EXPECT_FALSE(view.expired());
  replayed->overlay.reset();
  EXPECT_TRUE(view.expired());
}

// Valid checksums around payloads that are none.
TEST(Replay, AMalformedPayloadIsAnErrorThatNamesItsPlace) {
  TransactionEncoder encoder;
  encoder.put("table", "key", "value");
  const std::string good = encoder.finish(1);
  for (std::size_t at = 0; at < good.size(); ++at) {
    for (const int bit : {0, 3, 7}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << bit));
      LogMaker log;
      log.add_raw(bad);
      auto segments = log.segments();
      const auto assessed = log.assess(segments);
      std::string problem;
      const bool is_sound = decode_transactions(bad, 1, 1, problem).has_value();
      TableNames names;
      const auto replayed =
          replay_log(std::move(segments), assessed, 0, names, no_helpers(), nullptr);
      EXPECT_EQ(replayed.has_value(), is_sound) << at << " bit " << bit << ": " << problem;
      if (!replayed) {
        EXPECT_EQ(replayed.error().code(), Code::kInconsistentState);
        EXPECT_NE(replayed.error().message().find("offset 4096"), std::string::npos);
      }
    }
  }
  for (std::size_t size = 0; size < good.size(); ++size) {
    LogMaker log;
    log.add_raw(good.substr(0, size));
    auto segments = log.segments();
    const auto assessed = log.assess(segments);
    TableNames names;
    EXPECT_FALSE(replay_log(std::move(segments), assessed, 0, names, no_helpers(), nullptr));
  }
}

TEST(Replay, ThePulseIsCalledOnTheCallersThreadAndEndsTheWork) {
  os::Random random(5);
  LogMaker log;
  random_log(log, random, 4, 20'000);
  Threads threads(2);
  const auto caller = std::this_thread::get_id();
  std::uint64_t calls = 0;
  const auto run = [&](std::uint64_t stop_at) {
    calls = 0;
    auto segments = log.segments();
    const auto assessed = log.assess(segments);
    TableNames names;
    return replay_log(std::move(segments), assessed, 0, names, threads,
                      [&, stop_at](std::uint64_t) -> Result<> {
                        EXPECT_EQ(std::this_thread::get_id(), caller);
                        if (++calls >= stop_at) return Error(Code::kProcedureAborted, "enough");
                        return {};
                      });
  };
  ASSERT_TRUE(run(~0ULL).has_value());
  const std::uint64_t all = calls;
  EXPECT_GT(all, 10U);
  for (const std::uint64_t stop_at : {1ULL, 2ULL, 5ULL, 10ULL}) {
    const auto stopped = run(stop_at);
    if (stopped) {
      // The others took so much of the work that the caller was not asked that often.
      EXPECT_LT(calls, stop_at);
      EXPECT_GT(stop_at, 1U);
      continue;
    }
    EXPECT_EQ(stopped.error().code(), Code::kProcedureAborted);
    EXPECT_EQ(calls, stop_at) << "nothing is asked after the answer";
  }
}

}  // namespace
}  // namespace defib::store

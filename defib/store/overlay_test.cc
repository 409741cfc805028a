#include "defib/store/overlay.h"

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "defib/os/random.h"

namespace defib::store {
namespace {

using os::Random;

struct ModelRecord {
  std::string value;
  bool erased = false;
  friend bool operator==(const ModelRecord&, const ModelRecord&) = default;
};
using ModelTable = std::map<std::string, ModelRecord>;
using Model = std::map<TableId, ModelTable>;
// A change that owns its bytes.
struct OwnedChange {
  TableId table = 0;
  std::string key;
  std::string value;
  bool erased = false;
};

void apply_all(Overlay& overlay, const std::vector<OwnedChange>& changes) {
  std::vector<OverlayChange> views;
  views.reserve(changes.size());
  for (const auto& change : changes) {
    views.push_back({change.table, change.key, change.value, change.erased});
  }
  overlay.apply(views);
}

void apply_all(Model& model, const std::vector<OwnedChange>& changes) {
  for (const auto& change : changes) {
    model[change.table][change.key] = {change.value, change.erased};
  }
}

void put(Overlay& overlay, TableId table, std::string_view key, std::string_view value) {
  const OverlayChange change{table, key, value, false};
  overlay.apply({&change, 1});
}

// Keys that are hard to tell apart, one family a seed.
std::string hard_key(Random& random, std::uint64_t family) {
  std::string key;
  switch (family % 5) {
    case 0:  // few distinct bytes, all lengths, the empty key too
      for (std::uint64_t i = random.below(12); i > 0; --i) {
        key += std::string_view("\0ab\xff", 4)[random.below(4)];
      }
      return key;
    case 1:  // eight bytes and more in common
      return fmt::format("order:{:010}", random.below(5000));
    case 2: {  // several groups, each with a long common beginning
      key = std::string(random.below(40), static_cast<char>(random.below(2) * 0xff));
      return key + std::to_string(random.below(50));
    }
    case 3:  // zeros behind a common beginning: only the length tells
      key = random.below(2) == 0 ? "prefix" : "prefixes";
      return key + std::string(random.below(300), '\0');
    default:
      for (int i = 0; i < 16; ++i) key += static_cast<char>(random.next());
      return key;
  }
}

std::string some_value(Random& random) {
  const std::uint64_t kind = random.below(100);
  const std::uint64_t size = kind == 0 ? random.below(20000) : random.below(60);
  return std::string(size, static_cast<char>('a' + random.below(26)));
}

ModelRecord at(const LayerCursor& cursor) {
  return {std::string(cursor.value()), cursor.erased()};
}

void expect_walks(LayerCursor& cursor, const ModelTable& table) {
  bool more = cursor.first();
  for (const auto& [key, record] : table) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.key(), key);
    ASSERT_EQ(at(cursor), record);
    more = cursor.next();
  }
  ASSERT_FALSE(more);
  ASSERT_FALSE(cursor.next());
  ASSERT_FALSE(cursor.prev());
  more = cursor.last();
  for (auto it = table.rbegin(); it != table.rend(); ++it) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor.key(), it->first);
    ASSERT_EQ(at(cursor), it->second);
    more = cursor.prev();
  }
  ASSERT_FALSE(more);
  ASSERT_FALSE(cursor.prev());
  ASSERT_FALSE(cursor.next());
}

// Where the cursor says it stands, and where the model's iterator does.
void expect_at(const LayerCursor& cursor, bool found, const ModelTable& table,
               ModelTable::const_iterator it) {
  ASSERT_EQ(found, it != table.end());
  if (!found) return;
  ASSERT_EQ(cursor.key(), it->first);
  ASSERT_EQ(at(cursor), it->second);
}

void expect_seeks(LayerCursor& cursor, const ModelTable& table, const std::string& key) {
  auto it = table.lower_bound(key);
  bool found = cursor.seek(key);
  expect_at(cursor, found, table, it);
  // A few steps to and fro.
  for (int step = 0; found && step < 4; ++step) {
    if (step % 3 == 2) {
      found = cursor.prev();
      it = it == table.begin() ? table.end() : std::prev(it);
    } else {
      found = cursor.next();
      ++it;
    }
    expect_at(cursor, found, table, it);
  }
  it = table.upper_bound(key);
  it = it == table.begin() ? table.end() : std::prev(it);
  found = cursor.seek_for_prev(key);
  expect_at(cursor, found, table, it);
  for (int step = 0; found && step < 4; ++step) {
    found = cursor.prev();
    it = it == table.begin() ? table.end() : std::prev(it);
    expect_at(cursor, found, table, it);
  }
}

void expect_equal(const OverlayView& view, const Model& model, Random& random,
                  std::uint64_t family) {
  std::vector<TableId> ids;
  std::uint64_t records = 0;
  for (const auto& [id, table] : model) {
    ids.push_back(id);
    records += table.size();
  }
  ASSERT_EQ(view.tables(), ids);
  ASSERT_EQ(view.records(), records);
  for (const auto& [id, table] : model) {
    auto cursor = view.cursor(id);
    ASSERT_NE(cursor, nullptr);
    ASSERT_FALSE(cursor->next());
    expect_walks(*cursor, table);
    for (int i = 0; i < 20; ++i) {
      const std::string key = hard_key(random, family);
      expect_seeks(*cursor, table, key);
      const auto found = view.find(id, key);
      const auto it = table.find(key);
      ASSERT_EQ(found.has_value(), it != table.end());
      if (found) {
        ASSERT_EQ(found->value, it->second.value);
        ASSERT_EQ(found->erased, it->second.erased);
      }
    }
    for (const auto& [key, record] : table) ASSERT_TRUE(view.find(id, key).has_value());
  }
  ASSERT_EQ(view.cursor(4'000'000'000), nullptr);
  ASSERT_FALSE(view.find(4'000'000'000, "").has_value());
}

#define EXPECT_SOUND(overlay)                                      \
  do {                                                             \
    const Result<> checked = (overlay).check();                    \
    EXPECT_TRUE(checked.has_value()) << checked.error().to_text(); \
  } while (false)

struct Frozen {
  std::shared_ptr<const OverlayView> view;
  Model model;
};

void run_model_test(std::uint64_t seed) {
  SCOPED_TRACE(fmt::format("seed {}", seed));
  Random random(seed);
  const std::uint64_t tables = 1 + random.below(4);
  const std::uint64_t largest_span = 1 + random.below(100);
  auto overlay = Overlay::make();
  Model model;
  std::vector<Frozen> frozen;
  for (int round = 0; round < 150; ++round) {
    std::vector<OwnedChange> changes(random.below(largest_span + 1));
    for (auto& change : changes) {
      change.table = static_cast<TableId>(random.below(tables) * 7);
      change.key = hard_key(random, seed);
      change.erased = random.below(5) == 0;
      if (!change.erased) change.value = some_value(random);
    }
    apply_all(*overlay, changes);
    apply_all(model, changes);
    if (random.below(6) == 0) frozen.push_back({overlay->view(), model});
    if (!frozen.empty() && random.below(8) == 0) {
      frozen.erase(frozen.begin() + static_cast<std::ptrdiff_t>(random.below(frozen.size())));
    }
    if (random.below(40) == 0) EXPECT_SOUND(*overlay);
  }
  EXPECT_SOUND(*overlay);
  for (const auto& [id, table] : model) {
    for (const auto& [key, record] : table) {
      const auto found = overlay->find(id, key);
      ASSERT_TRUE(found.has_value());
      ASSERT_EQ(found->value, record.value);
      ASSERT_EQ(found->erased, record.erased);
    }
  }
  frozen.push_back({overlay->view(), model});
  overlay.reset();
  for (const auto& [view, then] : frozen) {
    expect_equal(*view, then, random, seed);
    if (testing::Test::HasFatalFailure()) return;
  }
}

TEST(Overlay, ViewsAgreeWithAModelOfTheirMoment) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    run_model_test(seed);
    if (HasFatalFailure()) return;
  }
}

TEST(Overlay, KeysThatDifferOnlyInLengthAndZerosAreOrdered) {
  const std::vector<std::string> keys = {std::string(),
                                         std::string(1, '\0'),
                                         std::string(2, '\0'),
                                         std::string(9, '\0'),
                                         "a",
                                         std::string("a\0", 2),
                                         std::string("a\0\0", 3),
                                         std::string("a\0b", 3),
                                         "aaaaaaaa",
                                         std::string("aaaaaaaa\0", 9),
                                         "aaaaaaaab",
                                         "b",
                                         "\xff",
                                         "\xff\xff",
                                         std::string(9, '\xff')};
  ASSERT_TRUE(std::ranges::is_sorted(keys));
  std::vector<std::size_t> order(keys.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  Random random(5);
  for (int round = 0; round < 50; ++round) {
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
    auto overlay = Overlay::make();
    for (const std::size_t i : order) put(*overlay, 1, keys[i], std::to_string(i));
    const auto view = overlay->view();
    const auto cursor = view->cursor(1);
    std::size_t at = 0;
    for (bool more = cursor->first(); more; more = cursor->next(), ++at) {
      ASSERT_EQ(cursor->key(), keys[at]);
      ASSERT_EQ(cursor->value(), std::to_string(at));
    }
    ASSERT_EQ(at, keys.size());
    for (std::size_t i = 0; i < keys.size(); ++i) {
      ASSERT_EQ(view->find(1, keys[i])->value, std::to_string(i));
    }
    EXPECT_SOUND(*overlay);
  }
}

TEST(Overlay, TheLaterChangeOfAKeyWinsAlsoInOneSpan) {
  auto overlay = Overlay::make();
  std::vector<OwnedChange> changes;
  changes.reserve(1000);
  for (int i = 0; i < 1000; ++i) {
    changes.push_back({1, std::to_string(i % 7), std::to_string(i), i % 11 == 0});
  }
  apply_all(*overlay, changes);
  EXPECT_EQ(overlay->records(), 7U);
  for (int i = 993; i < 1000; ++i) {
    const auto found = overlay->find(1, std::to_string(i % 7));
    EXPECT_EQ(found->value, std::to_string(i));
    EXPECT_EQ(found->erased, i % 11 == 0);
  }
  EXPECT_SOUND(*overlay);
}

TEST(Overlay, AscendingAndDescendingKeysKeepTheTreeSound) {
  for (const bool ascending : {true, false}) {
    auto overlay = Overlay::make();
    const int count = 30'000;
    for (int i = 0; i < count; i += 3) {
      std::vector<OwnedChange> changes;
      for (int j = i; j < i + 3; ++j) {
        const int number = ascending ? j : count - 1 - j;
        changes.push_back({1, fmt::format("{:08}", number), std::to_string(number), false});
      }
      apply_all(*overlay, changes);
    }
    EXPECT_SOUND(*overlay);
    EXPECT_EQ(overlay->records(), static_cast<std::uint64_t>(count));
    const auto view = overlay->view();
    const auto cursor = view->cursor(1);
    int at = 0;
    for (bool more = cursor->first(); more; more = cursor->next(), ++at) {
      ASSERT_EQ(cursor->value(), std::to_string(at));
    }
    EXPECT_EQ(at, count);
  }
}

TEST(Overlay, ASpanMayHoldMoreThanItsGroupsAndManyTables) {
  auto overlay = Overlay::make();
  Model model;
  Random random(17);
  std::vector<OwnedChange> changes;
  changes.reserve(20'000);
  for (int i = 0; i < 20'000; ++i) {
    changes.push_back({static_cast<TableId>(2 * random.below(250)),
                       std::to_string(random.below(100)), std::to_string(i), false});
  }
  apply_all(*overlay, changes);
  apply_all(model, changes);
  const auto before = overlay->view();
  const Model then = model;
  changes.clear();
  for (TableId table = 0; table < 1000; table += 3) changes.push_back({table, "new", "n", false});
  apply_all(*overlay, changes);
  apply_all(model, changes);
  EXPECT_SOUND(*overlay);
  expect_equal(*before, then, random, 0);
  expect_equal(*overlay->view(), model, random, 0);
  // One more in front of all the others but the first.
  apply_all(*overlay, {{1, "one", "1", false}});
  apply_all(model, {{1, "one", "1", false}});
  expect_equal(*overlay->view(), model, random, 0);
}

TEST(Overlay, ValuesMayBeAsLargeAsAStoreTakesThem) {
  auto overlay = Overlay::make();
  const std::string large(kMaxValueSize, 'L');
  const std::string medium(400'000, 'M');
  std::uint64_t bytes = 0;
  for (int i = 0; i < 6; ++i) {
    put(*overlay, 1, fmt::format("large{}", i), i % 2 == 0 ? large : medium);
    put(*overlay, 1, fmt::format("small{}", i), "s");
    bytes += i % 2 == 0 ? large.size() : medium.size();
  }
  // Large values take the bytes that they have, and no chunk beside them.
  EXPECT_LT(overlay->memory(), bytes + (1 << 20));
  EXPECT_EQ(overlay->find(1, "large0")->value, large);
  EXPECT_EQ(overlay->find(1, "large1")->value, medium);
  const auto view = overlay->view();
  const auto cursor = view->cursor(1);
  ASSERT_TRUE(cursor->seek("large4"));
  EXPECT_EQ(cursor->value().size(), large.size());
  const std::string key(kMaxKeySize, 'k');
  put(*overlay, 1, key, large);
  EXPECT_EQ(overlay->find(1, key)->value, large);
  EXPECT_SOUND(*overlay);
}

TEST(Overlay, AnEmptyOneIsSmallAndHasNothing) {
  auto overlay = Overlay::make();
  const auto view = overlay->view();
  EXPECT_TRUE(view->tables().empty());
  EXPECT_EQ(view->records(), 0U);
  EXPECT_EQ(view->cursor(1), nullptr);
  EXPECT_FALSE(view->find(1, "a").has_value());
  EXPECT_FALSE(overlay->find(1, "a").has_value());
  put(*overlay, 1, "a", "1");
  EXPECT_LT(overlay->memory(), 100'000U);
  EXPECT_EQ(view->cursor(1), nullptr);
  EXPECT_SOUND(*overlay);
}

TEST(Overlay, AViewIsTheSameWhileNothingIsApplied) {
  auto overlay = Overlay::make();
  const auto empty = overlay->view();
  EXPECT_EQ(overlay->view(), empty);
  put(*overlay, 1, "a", "1");
  const auto first = overlay->view();
  EXPECT_NE(first, empty);
  EXPECT_EQ(overlay->view(), first);
  overlay->apply({});
  EXPECT_EQ(overlay->view(), first);
  put(*overlay, 1, "a", "1");
  EXPECT_NE(overlay->view(), first);
}

TEST(Overlay, AViewKeepsItsBytesWhenTheOverlayIsGone) {
  auto overlay = Overlay::make();
  put(*overlay, 1, "a", "1");
  auto view = overlay->view();
  put(*overlay, 1, "a", "2");
  overlay.reset();
  EXPECT_EQ(view->find(1, "a")->value, "1");
}

// Fills with `count` records and answers with the keys.
std::vector<std::string> fill(Overlay& overlay, int count) {
  std::vector<std::string> keys;
  Random random(99);
  for (int i = 0; i < count; ++i) {
    keys.push_back(std::to_string(random.next()));
    put(overlay, 1, keys.back(), "1");
  }
  return keys;
}

// The memory of `puts` records that replace others, each of `bytes`.
std::uint64_t room_for(int puts, std::uint64_t bytes) {
  return static_cast<std::uint64_t>(puts) * bytes + (std::uint64_t{4} << 20);
}

TEST(Overlay, NodesAreUsedAgainWhenEveryPutIsSeenByAView) {
  auto overlay = Overlay::make();
  const auto keys = fill(*overlay, 5000);
  const std::uint64_t before = overlay->memory();
  Random random(3);
  const int puts = 50'000;
  for (int i = 0; i < puts; ++i) {
    put(*overlay, 1, keys[random.below(keys.size())], "2");
    overlay->view();
  }
  // Copying alone takes 2.7 KiB a put.
  EXPECT_LT(overlay->memory(), before + room_for(puts, 24));
  EXPECT_SOUND(*overlay);
}

TEST(Overlay, AViewThatLivesLongKeepsOnlyTheNodesThatItSees) {
  auto overlay = Overlay::make();
  const auto keys = fill(*overlay, 5000);
  auto old = overlay->view();
  const std::uint64_t before = overlay->memory();
  Random random(4);
  const int puts = 50'000;
  std::deque<std::shared_ptr<const OverlayView>> some;
  for (int i = 0; i < puts; ++i) {
    put(*overlay, 1, keys[random.below(keys.size())], "2");
    some.push_back(overlay->view());
    if (some.size() > 3) some.pop_front();
  }
  EXPECT_LT(overlay->memory(), 2 * before + room_for(puts, 24));
  EXPECT_SOUND(*overlay);
  for (const auto& key : keys) ASSERT_EQ(old->find(1, key)->value, "1");
}

TEST(Overlay, NothingIsCopiedForAViewThatIsGone) {
  auto overlay = Overlay::make();
  const auto keys = fill(*overlay, 200'000);
  overlay->view();
  const std::uint64_t before = overlay->memory();
  // In nearly every leaf, of which there are 7 MB.
  for (std::size_t i = 0; i < keys.size(); i += 20) put(*overlay, 1, keys[i], "2");
  EXPECT_LE(overlay->memory(), before + (std::uint64_t{2} << 20));
}

TEST(Overlay, ViewsMayGoInAnyOrder) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    auto overlay = Overlay::make();
    const auto keys = fill(*overlay, 1000);
    Random random(seed);
    std::vector<std::shared_ptr<const OverlayView>> views;
    std::uint64_t after_first_round = 0;
    for (int round = 0; round < 6; ++round) {
      for (int i = 0; i < 300; ++i) {
        put(*overlay, 1, keys[random.below(keys.size())], "2");
        if (i % 3 == 0) views.push_back(overlay->view());
      }
      EXPECT_SOUND(*overlay);
      if (round % 3 == 0) std::ranges::reverse(views);
      while (!views.empty()) {
        if (round % 3 == 1) std::swap(views.back(), views[random.below(views.size())]);
        views.pop_back();
        if (views.size() % 10 == 0) put(*overlay, 1, keys[random.below(keys.size())], "3");
      }
      put(*overlay, 1, keys[0], "4");
      EXPECT_SOUND(*overlay);
      if (round == 0) after_first_round = overlay->memory();
    }
    EXPECT_LE(overlay->memory(), after_first_round + (1 << 20));
  }
}

// --- Cursors -----------------------------------------------------------------------------------

TEST(OverlayCursor, TurnsAroundAnywhere) {
  auto overlay = Overlay::make();
  ModelTable table;
  for (int i = 0; i < 3000; ++i) {
    const std::string key = fmt::format("{:05}", i * 7919 % 10'000);
    put(*overlay, 1, key, std::to_string(i));
    table[key] = {std::to_string(i), false};
  }
  const auto view = overlay->view();
  const auto cursor = view->cursor(1);
  Random random(8);
  for (int round = 0; round < 300; ++round) {
    auto it = std::next(table.begin(), static_cast<std::ptrdiff_t>(random.below(table.size())));
    bool found = cursor->seek(it->first);
    for (int leg = 0; leg < 6 && found; ++leg) {
      const bool forward = random.below(2) == 0;
      for (std::uint64_t steps = random.below(150); steps > 0 && found; --steps) {
        if (forward) {
          found = cursor->next();
          ++it;
        } else {
          found = cursor->prev();
          it = it == table.begin() ? table.end() : std::prev(it);
        }
        expect_at(*cursor, found, table, it);
        ASSERT_FALSE(HasFatalFailure());
      }
    }
  }
}

TEST(OverlayCursor, IsNowhereBeforeItsFirstMoveAndBehindTheEnds) {
  auto overlay = Overlay::make();
  put(*overlay, 1, "b", "1");
  const auto view = overlay->view();
  const auto cursor = view->cursor(1);
  EXPECT_FALSE(cursor->next());
  EXPECT_FALSE(cursor->prev());
  EXPECT_FALSE(cursor->seek("c"));
  EXPECT_FALSE(cursor->prev());
  EXPECT_FALSE(cursor->seek_for_prev("a"));
  EXPECT_FALSE(cursor->next());
  EXPECT_TRUE(cursor->seek(""));
  EXPECT_EQ(cursor->key(), "b");
  EXPECT_TRUE(cursor->seek_for_prev("bb"));
  EXPECT_EQ(cursor->key(), "b");
  EXPECT_FALSE(cursor->next());
  EXPECT_FALSE(cursor->prev());
  EXPECT_TRUE(cursor->last());
  EXPECT_FALSE(cursor->prev());
  EXPECT_DEATH(static_cast<void>(cursor->key()), "not on a record");
}

// --- Building ----------------------------------------------------------------------------------

// What a mapped log would be: the bytes of all records, and whether they are still there.
struct Log {
  std::string bytes;
  std::vector<OverlayChange> records;  // ascending
};

std::shared_ptr<Log> make_log(const ModelTable& table) {
  auto log = std::make_shared<Log>();
  std::size_t size = 0;
  for (const auto& [key, record] : table) size += key.size() + record.value.size();
  log->bytes.reserve(size);
  for (const auto& [key, record] : table) {
    const std::size_t at = log->bytes.size();
    log->bytes += key;
    log->bytes += record.value;
    const std::string_view bytes = log->bytes;
    log->records.push_back({0, bytes.substr(at, key.size()),
                            bytes.substr(at + key.size(), record.value.size()), record.erased});
  }
  return log;
}

ModelTable random_table(Random& random, std::uint64_t family, std::uint64_t puts) {
  ModelTable table;
  for (std::uint64_t i = 0; i < puts; ++i) {
    const bool erased = random.below(4) == 0;
    table[hard_key(random, family)] = {erased ? "" : some_value(random), erased};
  }
  return table;
}

std::vector<OverlayPart> build_parts(Random& random, TableId id, const Log& log) {
  std::vector<OverlayPart> parts;
  parts.push_back({id, make_overlay_builder()});
  const std::uint64_t every = 1 + random.below(1000);
  for (const auto& record : log.records) {
    if (random.below(every) == 0) parts.push_back({id, make_overlay_builder()});
    parts.back().builder->append(record.key, record.value, record.erased);
  }
  return parts;
}

TEST(OverlayBuilder, WhatIsBuiltIsLikeWhatIsApplied) {
  for (std::uint64_t seed = 1; seed <= 30; ++seed) {
    SCOPED_TRACE(fmt::format("seed {}", seed));
    Random random(seed);
    Model model;
    std::vector<OverlayPart> parts;
    std::vector<std::shared_ptr<Log>> logs;
    for (TableId id = 0; id < 4; ++id) {
      const ModelTable table = random_table(random, seed, random.below(id == 3 ? 10'000 : 300));
      if (!table.empty()) model[id] = table;
      logs.push_back(make_log(table));
      auto more = build_parts(random, id, *logs.back());
      std::ranges::move(more, std::back_inserter(parts));
    }
    const bool keeps = seed % 2 == 0;
    auto overlay =
        join_overlay(std::move(parts),
                     keeps ? std::make_shared<std::vector<std::shared_ptr<Log>>>(logs) : nullptr);
    logs.clear();
    EXPECT_SOUND(*overlay);
    const auto built = overlay->view();
    const Model then = model;
    for (int i = 0; i < 200; ++i) {
      std::vector<OwnedChange> changes;
      changes.reserve(20);
      for (int j = 0; j < 20; ++j) {
        changes.push_back({static_cast<TableId>(random.below(5)), hard_key(random, seed),
                           some_value(random), false});
      }
      apply_all(*overlay, changes);
      apply_all(model, changes);
    }
    EXPECT_SOUND(*overlay);
    const auto changed = overlay->view();
    overlay.reset();
    expect_equal(*built, then, random, seed);
    expect_equal(*changed, model, random, seed);
    ASSERT_FALSE(HasFatalFailure());
  }
}

TEST(OverlayBuilder, BytesThatAreKeptAreNotCopiedAndGoWithTheLastView) {
  ModelTable table;
  for (int i = 0; i < 1000; ++i) table[fmt::format("{:06}", i)] = {std::string(2000, 'v'), false};
  auto log = make_log(table);
  const std::weak_ptr<Log> watched = log;
  auto builder = make_overlay_builder();
  for (const auto& record : log->records) builder->append(record.key, record.value, false);
  std::vector<OverlayPart> parts;
  parts.push_back({1, std::move(builder)});
  const char* const bytes = log->records[500].value.data();
  auto overlay = join_overlay(std::move(parts), std::move(log));
  EXPECT_LT(overlay->memory(), 200'000U);
  EXPECT_EQ(overlay->find(1, "000500")->value.data(), bytes);
  auto view = overlay->view();
  overlay.reset();
  EXPECT_FALSE(watched.expired());
  EXPECT_EQ(view->find(1, "000500")->value.data(), bytes);
  view.reset();
  EXPECT_TRUE(watched.expired());
}

TEST(OverlayBuilder, ValuesFarFromTheirKeysAreFoundAllTheSame) {
  // Keys in front, values far behind them, and the other way round.
  struct Far {
    std::string bytes = std::string(20 << 20, '.');
  };
  for (const bool keeps : {true, false}) {
    auto far = std::make_shared<Far>();
    const std::string_view bytes = far->bytes;
    const std::size_t half = far->bytes.size() / 2;
    auto builder = make_overlay_builder();
    for (std::size_t i = 0; i < 200; ++i) {
      const std::string key = fmt::format("{:04}", i);
      const std::string value = fmt::format("value{}", i);
      const bool key_first = i % 3 != 0;
      far->bytes.replace((key_first ? 0 : half) + i * 16, key.size(), key);
      far->bytes.replace((key_first ? half : 0) + 8000 + i * 16, value.size(), value);
      builder->append(bytes.substr((key_first ? 0 : half) + i * 16, key.size()),
                      bytes.substr((key_first ? half : 0) + 8000 + i * 16, value.size()), false);
    }
    std::vector<OverlayPart> parts;
    parts.push_back({1, std::move(builder)});
    auto overlay = join_overlay(std::move(parts), keeps ? far : nullptr);
    if (!keeps) far->bytes.assign(far->bytes.size(), 'x');
    for (std::size_t i = 0; i < 200; ++i) {
      ASSERT_EQ(overlay->find(1, fmt::format("{:04}", i))->value, fmt::format("value{}", i));
    }
    EXPECT_SOUND(*overlay);
  }
}

TEST(OverlayBuilder, NothingMayBeBuilt) {
  std::vector<OverlayPart> parts;
  parts.push_back({1, make_overlay_builder()});
  parts.push_back({2, make_overlay_builder()});
  parts.push_back({2, make_overlay_builder()});
  auto overlay = join_overlay(std::move(parts), nullptr);
  EXPECT_TRUE(overlay->view()->tables().empty());
  put(*overlay, 2, "a", "1");
  EXPECT_EQ(overlay->find(2, "a")->value, "1");
  EXPECT_SOUND(*overlay);
  EXPECT_EQ(join_overlay({}, nullptr)->records(), 0U);
}

TEST(OverlayBuilder, KeysThatDoNotAscendAreABug) {
  const auto build = [](const std::vector<std::string>& keys) {
    std::vector<OverlayPart> parts;
    for (const auto& key : keys) {
      if (key == "|" || parts.empty()) parts.push_back({1, make_overlay_builder()});
      if (key != "|") parts.back().builder->append(key, "", false);
    }
    return join_overlay(std::move(parts), nullptr)->records();
  };
  EXPECT_EQ(build({"a", "b", "|", "c"}), 3U);
  EXPECT_DEATH(build({"b", "a"}), "keys must ascend");
  EXPECT_DEATH(build({"a", "a"}), "keys must ascend");
  EXPECT_DEATH(build({"a", "c", "|", "b"}), "parts of a table must ascend");
}

// --- Threads -----------------------------------------------------------------------------------

// Hands views from the writer to the readers.
class Handover {
 public:
  void give(std::shared_ptr<const OverlayView> view, std::uint64_t number) {
    {
      const std::lock_guard lock(mutex_);
      view_ = std::move(view);
      number_ = number;
    }
    changed_.notify_all();
  }
  // Keeps view `number` no more.
  void forget(std::uint64_t number) {
    const std::lock_guard lock(mutex_);
    if (number_ == number) view_ = nullptr;
  }
  void end() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
  }
  // The newest view, once it is another than number `seen`; null at the end.
  std::shared_ptr<const OverlayView> take(std::uint64_t& seen) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_ || number_ != seen; });
    if (number_ == seen) return nullptr;
    seen = number_;
    return view_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<const OverlayView> view_;  // guarded by mutex_, as all here
  std::uint64_t number_ = 0;
  bool ended_ = false;
};

// In version n of the writer's state, key k has the greatest number up to n that leaves the
// remainder k when it is divided by the number of keys.
void expect_version(const OverlayView& view, std::uint64_t version, std::uint64_t keys,
                    Random& random) {
  const std::uint64_t present = std::min(version + 1, keys);
  ASSERT_EQ(view.records(), present);
  const auto expected = [&](std::uint64_t key) {
    return version - (version % keys + keys - key) % keys;
  };
  for (int i = 0; i < 10; ++i) {
    const std::uint64_t key = random.below(present);
    const auto found = view.find(1, fmt::format("{:08}", key));
    ASSERT_TRUE(found.has_value());
    ASSERT_EQ(found->value, std::to_string(expected(key)));
  }
  const auto cursor = view.cursor(1);
  const std::uint64_t from = random.below(present);
  bool more = cursor->seek(fmt::format("{:08}", from));
  for (std::uint64_t key = from; key < std::min(present, from + 100); ++key) {
    ASSERT_TRUE(more);
    ASSERT_EQ(cursor->value(), std::to_string(expected(key)));
    more = cursor->next();
  }
}

TEST(OverlayThreads, ReadersOnOtherThreadsSeeTheirVersionWhileTheWriterGoesOn) {
  constexpr std::uint64_t kKeys = 700;
  constexpr std::uint64_t kPuts = 6000;
  auto overlay = Overlay::make();
  Handover handover;
  std::atomic<std::uint64_t> reads = 0;
  std::vector<std::jthread> readers;
  readers.reserve(3);
  for (std::uint64_t reader = 0; reader < 3; ++reader) {
    readers.emplace_back([&, reader] {
      Random random(reader);
      std::uint64_t seen = 0;
      std::deque<std::pair<std::shared_ptr<const OverlayView>, std::uint64_t>> held;
      while (auto view = handover.take(seen)) {
        held.emplace_back(std::move(view), seen - 1);
        const auto& [some, version] = held[random.below(held.size())];
        expect_version(*some, version, kKeys, random);
        ++reads;
        // Each reader holds on to some views for a while, and drops them in its own order.
        if (held.size() > 4 + reader * 10) {
          held.erase(held.begin() + static_cast<std::ptrdiff_t>(random.below(held.size())));
        }
      }
    });
  }
  for (std::uint64_t i = 0; i < kPuts; ++i) {
    put(*overlay, 1, fmt::format("{:08}", i % kKeys), std::to_string(i));
    handover.give(overlay->view(), i + 1);
  }
  EXPECT_SOUND(*overlay);
  handover.end();
  readers.clear();
  EXPECT_GT(reads.load(), 0U);
  handover.give(nullptr, 0);
  put(*overlay, 1, fmt::format("{:08}", 0), "last");
  EXPECT_SOUND(*overlay);
  // One tree of 700 records, its views and some air.
  EXPECT_LT(overlay->memory(), 4'000'000U);
}

TEST(OverlayThreads, SpansArriveWholeWhileViewsGoBesideThem) {
  auto overlay = Overlay::make();
  Handover handover;
  std::jthread dropper([&] {
    std::uint64_t seen = 0;
    while (handover.take(seen)) handover.forget(seen);
  });
  // Few leaves, so that most changes of a span have their leaf in common with others.
  Random random(1);
  for (std::uint64_t round = 1; round <= 4000; ++round) {
    std::map<std::string, std::string> newest;
    std::vector<OwnedChange> changes;
    for (int i = 0; i < 64; ++i) {
      const std::string key = fmt::format("{:03}", random.below(200));
      changes.push_back({1, key, fmt::format("{} {}", round, i), false});
      newest[key] = changes.back().value;
    }
    // The other thread drops it while the span is applied, sooner or later.
    handover.give(overlay->view(), round);
    apply_all(*overlay, changes);
    for (const auto& [key, value] : newest) ASSERT_EQ(overlay->find(1, key)->value, value);
  }
  handover.end();
  dropper.join();
  EXPECT_SOUND(*overlay);
}

TEST(OverlayThreads, PartsMayBeBuiltOnThreadsOfTheirOwn) {
  Random random(1);
  const ModelTable table = random_table(random, 4, 8000);
  const auto log = make_log(table);
  std::vector<OverlayPart> parts;
  parts.reserve(4);
  for (int i = 0; i < 4; ++i) parts.push_back({1, make_overlay_builder()});
  {
    std::vector<std::jthread> threads;
    threads.reserve(4);
    for (std::size_t i = 0; i < 4; ++i) {
      threads.emplace_back([&, i] {
        const std::size_t size = log->records.size();
        for (std::size_t at = size * i / 4; at < size * (i + 1) / 4; ++at) {
          const auto& record = log->records[at];
          parts[i].builder->append(record.key, record.value, record.erased);
        }
      });
    }
  }
  auto overlay = join_overlay(std::move(parts), log);
  EXPECT_SOUND(*overlay);
  expect_equal(*overlay->view(), {{1, table}}, random, 4);
}

}  // namespace
}  // namespace defib::store

// Sorting by prefixes against the plain stable sort of whole keys.

#include "defib/store/key_sort.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "defib/os/random.h"

namespace defib::store {
namespace {

// Keys in memory with what stands behind them in a log.
class Keys {
 public:
  explicit Keys(const std::vector<std::string>& keys) {
    for (const std::string& key : keys) {
      texts_.push_back(key + "C12345678");
      refs_.emplace_back(texts_.back().data(), key.size(), false);
    }
  }
  std::vector<KeyRef>& refs() { return refs_; }

 private:
  std::deque<std::string> texts_;
  std::vector<KeyRef> refs_;
};

void expect_sorted(const std::vector<std::string>& plain, std::size_t depth = 0) {
  Keys keys(plain);
  std::vector<KeyRef> expected = keys.refs();
  std::ranges::stable_sort(expected, {}, &KeyRef::key);
  std::vector<KeyRef> sorted = keys.refs();
  std::vector<KeyRef> scratch(sorted.size());
  for (KeyRef& key : sorted) key.load_prefix(depth);
  sort_keys(sorted, scratch, depth);
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    ASSERT_EQ(sorted[i].key(), expected[i].key()) << i;
    ASSERT_EQ(sorted[i].data(), expected[i].data()) << "equal keys out of order at " << i;
    const bool last = i + 1 == sorted.size() || sorted[i + 1].key() != sorted[i].key();
    ASSERT_EQ(sorted[i].superseded(), !last) << i;
  }
}

std::string random_key(os::Random& random, std::size_t longest, std::uint64_t letters) {
  std::string key(random.below(longest + 1), '\0');
  for (char& c : key) c = static_cast<char>(random.below(letters));
  return key;
}

TEST(KeySort, AnyKeysComeInTheOrderOfAStableSort) {
  os::Random random(20261120);
  for (const std::uint64_t letters : {1, 2, 3, 256}) {
    for (const std::size_t longest : {0, 1, 7, 8, 9, 16, 17, 40}) {
      for (const std::size_t count : {0, 1, 2, 31, 32, 33, 500, 5000}) {
        std::vector<std::string> keys;
        for (std::size_t i = 0; i < count; ++i) {
          keys.push_back(random_key(random, longest, letters));
        }
        SCOPED_TRACE(testing::Message() << letters << " letters, up to " << longest);
        expect_sorted(keys);
      }
    }
  }
}

TEST(KeySort, LongCommonPrefixesAreSortedWindowByWindow) {
  os::Random random(7);
  std::vector<std::string> keys;
  for (int i = 0; i < 3000; ++i) {
    const char* kinds[] = {"position", "positions", "order/europe/", "order/asia/"};
    keys.push_back(kinds[random.below(4)] + std::string(random.below(3) * 8, 'x') +
                   std::to_string(random.below(700)));
  }
  expect_sorted(keys);
}

TEST(KeySort, AKeyThatEndsInZerosIsNotItsBeginning) {
  std::vector<std::string> keys;
  for (int round = 0; round < 20; ++round) {
    for (std::size_t zeros = 0; zeros < 20; ++zeros) {
      keys.push_back("a" + std::string((zeros * 7) % 20, '\0'));
    }
  }
  expect_sorted(keys);
}

TEST(KeySort, WhatAllKeysShareIsSkipped) {
  std::vector<std::string> keys;
  for (int i = 0; i < 1000; ++i) keys.push_back("customer/" + std::to_string(i * 7919 % 1000));
  expect_sorted(keys, 9);
}

TEST(KeySort, KeysOfTheGreatestLength) {
  std::vector<std::string> keys;
  for (int i = 0; i < 200; ++i) {
    keys.push_back(std::string(4090, 'k') + std::to_string(i * 37 % 100));
  }
  expect_sorted(keys);
}

TEST(KeySort, CommonBytesCountsFromTheStart) {
  EXPECT_EQ(common_bytes("", "abc"), 0U);
  EXPECT_EQ(common_bytes("abc", "abd"), 2U);
  EXPECT_EQ(common_bytes("abcdefghij", "abcdefghij"), 10U);
  EXPECT_EQ(common_bytes("abcdefghij", "abcdefgXij"), 7U);
  EXPECT_EQ(common_bytes("abcdefghijk", "abcdefghiX"), 9U);
}

}  // namespace
}  // namespace defib::store

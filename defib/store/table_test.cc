#include "defib/store/table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>

#include "defib/os/sim_files.h"
#include "defib/store/store.h"

namespace defib::store {

namespace {
enum class Side : std::uint8_t { kBuy = 0, kSell = 1 };
struct Order {
  std::string owner;
  std::int64_t quantity = 0;
  Side side = Side::kBuy;
  friend bool operator==(const Order&, const Order&) = default;
};
}  // namespace

// A codec of a program's own: version, then fields.
template <>
struct Codec<Order> {
  static std::string encode(const Order& order) {
    std::string bytes;
    Writer writer(bytes);
    writer.u8(1);
    writer.text(order.owner);
    writer.i64(order.quantity);
    writer.u8(static_cast<std::uint8_t>(order.side));
    return bytes;
  }
  static std::optional<Order> decode(std::string_view bytes) {
    Reader reader(bytes);
    Order order;
    const std::uint8_t version = reader.u8();
    order.owner = reader.text();
    order.quantity = reader.i64();
    order.side = static_cast<Side>(reader.u8());
    if (version != 1 || !reader.finished()) return std::nullopt;
    return order;
  }
};

namespace {

Options on(os::SimFiles& files) {
  Options options;
  options.segment_size = 8 << 20;  // the simulated disk copies what it syncs
  options.files = &files;
  return options;
}

template <typename Key>
void expect_order_and_return(std::vector<Key> keys) {
  std::ranges::sort(keys);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const std::string bytes = encode_key<Key>(keys[i]);
    const auto back = decode_key<Key>(bytes);
    ASSERT_TRUE(back.has_value());
    EXPECT_EQ(*back, keys[i]);
    if (i > 0 && keys[i - 1] != keys[i]) {
      EXPECT_LT(encode_key<Key>(keys[i - 1]), bytes) << "at " << i;
    }
  }
}

template <typename T>
std::vector<T> numbers() {
  using Limits = std::numeric_limits<T>;
  std::vector<T> found = {Limits::min(), Limits::max(), T(0), T(1), static_cast<T>(-1)};
  std::mt19937_64 random(7);
  for (int i = 0; i < 200; ++i) found.push_back(static_cast<T>(random() >> (random() % 64)));
  for (int i = 0; i < 200; ++i) found.push_back(static_cast<T>(-(random() >> (random() % 64))));
  return found;
}

std::vector<std::string> strings() {
  using namespace std::string_literals;
  std::vector<std::string> found = {"",    "a",     "ab",    "a\0"s,   "a\0b"s,   "a\1"s,
                                    "\0"s, "\0\0"s, "\xff"s, "a\xff"s, "\0\xff"s, "\0\0\xff"s};
  std::mt19937_64 random(11);
  for (int i = 0; i < 300; ++i) {
    std::string text(random() % 5, '\0');
    for (char& c : text) c = "\0\1\xfe\xff"[random() % 4];
    found.push_back(text);
  }
  return found;
}

TEST(KeyCodec, KeepsTheOrderOfNumbersOfEverySizeAndSign) {
  expect_order_and_return(numbers<std::int8_t>());
  expect_order_and_return(numbers<std::uint8_t>());
  expect_order_and_return(numbers<std::int16_t>());
  expect_order_and_return(numbers<std::uint16_t>());
  expect_order_and_return(numbers<std::int32_t>());
  expect_order_and_return(numbers<std::uint32_t>());
  expect_order_and_return(numbers<std::int64_t>());
  expect_order_and_return(numbers<std::uint64_t>());
}

TEST(KeyCodec, KeepsTheOrderOfStringsAloneAndInPairsAndTuples) {
  expect_order_and_return(strings());
  std::vector<std::pair<std::string, std::int32_t>> pairs;
  std::vector<std::tuple<std::string, std::string, bool>> tuples;
  std::mt19937_64 random(13);
  const auto texts = strings();
  for (int i = 0; i < 2000; ++i) {
    const std::string& a = texts[random() % texts.size()];
    const std::string& b = texts[random() % texts.size()];
    pairs.emplace_back(a, static_cast<std::int32_t>(random()));
    tuples.emplace_back(a, b, random() % 2 == 0);
  }
  expect_order_and_return(pairs);
  expect_order_and_return(tuples);
}

TEST(KeyCodec, RefusesBytesThatAreNoKey) {
  using Key = std::tuple<std::uint16_t, std::string, bool>;
  const std::string whole = encode_key<Key>({7, "ab", true});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    EXPECT_FALSE(decode_key<Key>(whole.substr(0, size)).has_value()) << size;
  }
  EXPECT_FALSE(decode_key<Key>(whole + "x").has_value());
  std::mt19937_64 random(17);
  for (int i = 0; i < 5000; ++i) {
    std::string bytes(random() % 12, '\0');
    for (char& c : bytes) c = static_cast<char>(random() % 3 == 0 ? 0 : random());
    const auto key = decode_key<Key>(bytes);
    EXPECT_TRUE(!key || encode_key<Key>(*key) == bytes);
  }
}

// The example of table.h.
TEST(StoreTable, HoldsTypedRecordsAndFindsThemByTypedIndexes) {
  os::SimFiles files;
  const Table<std::uint64_t, Order> orders("orders");
  const auto by_owner = orders.index<std::string>(
      "orders_by_owner", [](std::uint64_t, const Order& order) { return order.owner; });
  const auto large =
      orders.index<std::int64_t>("large_orders", [](std::uint64_t, const Order& order) {
        return order.quantity > 50 ? std::optional(order.quantity) : std::nullopt;
      });
  Options options = on(files);
  options.indexes = {by_owner.definition(), large.definition()};
  auto opened = Store::open("/s", options);
  ASSERT_TRUE(opened.has_value()) << opened.error().to_text();
  Store& store = **opened;
  {
    const auto transaction = *store.begin();
    for (std::uint64_t id = 1; id <= 300; ++id) {
      const Order order{.owner = id % 3 == 0 ? "alice" : "bob",
                        .quantity = static_cast<std::int64_t>(id % 100),
                        .side = Side::kSell};
      ASSERT_TRUE(orders.put(*transaction, id, order));
    }
    ASSERT_TRUE(orders.erase(*transaction, 3));
    EXPECT_EQ((*orders.get(*transaction, 4))->quantity, 4);
    ASSERT_TRUE(transaction->commit(Durability::kPower));
  }
  const auto snapshot = *store.snapshot();
  EXPECT_FALSE((*orders.get(*snapshot, 3)).has_value());
  EXPECT_EQ(**orders.get(*snapshot, 6), (Order{"alice", 6, Side::kSell}));
  const auto found = by_owner.find(*snapshot, "alice");
  ASSERT_TRUE(found.has_value());
  ASSERT_EQ(found->size(), 99U);
  EXPECT_EQ(found->front(), 6U);

  std::uint64_t expected = 255;  // Big-endian keys: 256 comes after 255, not after 1.
  const auto walked = orders.for_each_from(*snapshot, 255, [&](std::uint64_t id, const Order&) {
    EXPECT_EQ(id, expected++);
    return true;
  });
  EXPECT_TRUE(walked.has_value());
  EXPECT_EQ(expected, 301U);

  std::int64_t last = 0;
  std::uint64_t entries = 0;
  ASSERT_TRUE(large.for_each_from(*snapshot, 98, [&](std::int64_t quantity, std::uint64_t id) {
    EXPECT_GE(quantity, std::max<std::int64_t>(last, 98));
    EXPECT_EQ(static_cast<std::int64_t>(id % 100), quantity);
    last = quantity;
    ++entries;
    return true;
  }));
  EXPECT_EQ(entries, 6U);
}

TEST(StoreTable, MovesBothWaysAndStopsWhereTheVisitorSaysSo) {
  os::SimFiles files;
  const Table<std::int32_t, std::string> table("t");
  const auto store = *Store::open("/s", on(files));
  const auto transaction = *store->begin();
  for (const std::int32_t key : {5, -5, 0, -100, 100}) {
    ASSERT_TRUE(table.put(*transaction, key, std::to_string(key)));
  }
  auto cursor = *table.scan(*transaction);
  std::vector<std::int32_t> seen;
  for (bool more = cursor.last(); more; more = cursor.prev()) seen.push_back(*cursor.key());
  EXPECT_EQ(seen, (std::vector<std::int32_t>{100, 5, 0, -5, -100}));
  EXPECT_TRUE(cursor.status().has_value());
  ASSERT_TRUE(cursor.seek_for_prev(-1));
  EXPECT_EQ(*cursor.value(), "-5");
  int visited = 0;
  ASSERT_TRUE(table.for_each(*transaction,
                             [&](std::int32_t, const std::string&) { return ++visited < 2; }));
  EXPECT_EQ(visited, 2);
}

TEST(StoreTable, NamesARecordThatIsNotOfItsType) {
  os::SimFiles files;
  const Table<std::uint32_t, Order> orders("orders");
  const auto store = *Store::open("/s", on(files));
  ASSERT_TRUE(put(*store, "orders", encode_key<std::uint32_t>(7), "rubbish", Durability::kPower));
  const auto snapshot = *store->snapshot();
  const auto got = orders.get(*snapshot, 7);
  ASSERT_FALSE(got.has_value());
  EXPECT_EQ(got.error().code(), Code::kMalformed);
  EXPECT_EQ(got.error().field("table"), "orders");
  const auto walked = orders.for_each(*snapshot, [](std::uint32_t, const Order&) { return true; });
  ASSERT_FALSE(walked.has_value());
  EXPECT_EQ(walked.error().code(), Code::kMalformed);
  ASSERT_TRUE(put(*store, "orders", "long key", "x", Durability::kPower));
  auto cursor = *orders.scan(**store->snapshot());
  ASSERT_TRUE(cursor.last());
  EXPECT_EQ(cursor.key().error().code(), Code::kMalformed);
}

TEST(StoreTable, RefusesACommitWhoseRecordTheIndexCannotRead) {
  os::SimFiles files;
  const Table<std::uint32_t, Order> orders("orders");
  const auto by_owner = orders.index<std::string>(
      "by_owner", [](std::uint32_t, const Order& order) { return order.owner; });
  Options options = on(files);
  options.indexes = {by_owner.definition()};
  const auto store = *Store::open("/s", options);
  const auto done =
      put(*store, "orders", encode_key<std::uint32_t>(7), "rubbish", Durability::kPower);
  ASSERT_FALSE(done.has_value());
  EXPECT_EQ(done.error().code(), Code::kCallbackThrew);
}

}  // namespace
}  // namespace defib::store

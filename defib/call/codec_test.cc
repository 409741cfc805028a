#include "defib/call/codec.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "defib/call/api.h"
#include "defib/call/testcases/victims_api.h"
#include "defib/os/random.h"

namespace {

enum class Side : std::uint8_t { kBuy = 1, kSell = 2 };
enum class Kind : std::int8_t { kFuture = -1, kOption = 4 };
enum class Level : std::uint16_t { kFirst = 1, kLast = 10 };
enum class Switch : bool { kOff, kOn };

struct Date {
  int days = 0;
  Date() = default;
  explicit Date(int of) : days(of) {}
  bool operator==(const Date&) const = default;
};

}  // namespace

template <>
struct defib::call::WireForm<Date> {
  using Type = std::int32_t;
  static Type to(const Date& date) { return date.days; }
  static std::optional<Date> from(Type days) {
    if (days < 0) return std::nullopt;
    return Date(days);
  }
};

template <>
struct defib::call::WireForm<Kind> : defib::call::OneOf<Kind::kFuture, Kind::kOption> {};
template <>
struct defib::call::WireForm<Level> : defib::call::Between<Level::kFirst, Level::kLast> {};

namespace defib::call {
namespace {

using testcases::Leg;
using testcases::Spread;
using testcases::Tick;

struct Order {
  std::int64_t id = 0;
  Side side = Side::kBuy;
  bool live = false;
  std::array<float, 2> range{};
  std::tuple<int, std::string> note;
  std::vector<bool> flags;
  Date due;
  bool operator==(const Order&) const = default;
};

template <typename T>
void goes_there_and_back(const T& value) {
  const std::string bytes = encode(value);
  const auto again = decode<T>(bytes);
  ASSERT_TRUE(again);
  EXPECT_EQ(*again, value);
  // One byte less, or more, is no value.
  EXPECT_FALSE(decode<T>(bytes + "x"));
  ASSERT_FALSE(bytes.empty());
  EXPECT_FALSE(decode<T>(bytes.substr(0, bytes.size() - 1)));
}

TEST(Codec, ValuesGoThereAndBack) {
  goes_there_and_back(std::int8_t{-5});
  goes_there_and_back(std::numeric_limits<std::uint64_t>::max());
  goes_there_and_back(true);
  goes_there_and_back(1.25);
  goes_there_and_back(std::string("a\0b", 3));
  goes_there_and_back(std::vector<std::string>{"", "x", std::string(1000, 'y')});
  goes_there_and_back(std::vector<std::int16_t>{1, -2, 3});
  goes_there_and_back(std::optional<int>());
  goes_there_and_back(std::optional<int>(4));
  goes_there_and_back(std::variant<int, std::string>("text"));
  goes_there_and_back(std::map<std::string, int>{{"a", 1}, {"b", 2}});
  goes_there_and_back(Order{7, Side::kSell, true, {1.F, 2.F}, {3, "n"}, {true, false}, Date(9)});
  goes_there_and_back(Spread{"ES", {{"ESM4", 1.0}}, std::nullopt, 5, {}});
}

TEST(Codec, WhatIsNoValueOfTheTypeIsRefused) {
  EXPECT_FALSE(decode<bool>("\x02"));
  EXPECT_FALSE(decode<Date>(encode(std::int32_t{-1})));
  EXPECT_FALSE((decode<std::variant<int, std::string>>(std::string("\x02\0\0\0\0", 5))));
  EXPECT_FALSE(
      (decode<std::map<int, int>>(encode(std::vector<std::pair<int, int>>{{1, 1}, {1, 2}}))));
}

TEST(Codec, AnEnumerationHasTheValuesThatItIsSaidToHave) {
  goes_there_and_back(Kind::kOption);
  goes_there_and_back(std::vector<Kind>{Kind::kFuture, Kind::kOption});
  goes_there_and_back(Level{7});
  goes_there_and_back(Switch::kOn);
  for (const std::int8_t number : {-2, 0, 3, 5}) EXPECT_FALSE(decode<Kind>(encode(number)));
  for (const std::uint16_t number : {0, 11}) EXPECT_FALSE(decode<Level>(encode(number)));
  EXPECT_FALSE(decode<Switch>("\x02"));
  // Also where it is one of many that lie as they would in memory.
  EXPECT_FALSE(decode<std::vector<Kind>>(encode(std::vector<std::int8_t>{4, 5})));
  EXPECT_FALSE(decode<std::vector<Switch>>(encode(std::vector<std::uint8_t>{1, 2})));
  EXPECT_FALSE((decode<std::array<Level, 2>>(encode(std::array<std::uint16_t, 2>{1, 0}))));
  // Of others each number is one.
  EXPECT_EQ(decode<Side>("\x07"), Side{7});
}

TEST(Codec, ATextThatIsSaidToBeUtf8HoldsNothingElse) {
  for (const std::string text : {"", "plain", "\u00fc", "\u20ac", "\U0001f600", "\xed\x9f\xbf",
                                 "\xf4\x8f\xbf\xbf", "\xe0\xa0\x80"}) {
    goes_there_and_back(Utf8{text});
    EXPECT_FALSE(decode<Utf8>(encode(text + "\x80"))) << text;
  }
  // Latin-1, cut, overlong, a surrogate, beyond the last character, a byte that nothing begins
  // with.
  for (const std::string text :
       {"Z\xfcrich", "\xe2\x82", "\xc0\xaf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xed\xa0\x80",
        "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff", "\x80"}) {
    EXPECT_FALSE(decode<Utf8>(encode(text)));
    EXPECT_FALSE(decode<std::vector<Utf8>>(encode(std::vector<std::string>{"a", text})));
    goes_there_and_back(text);  // It is a text all the same, of bytes.
  }
}

TEST(Codec, ALengthBeyondTheBytesAllocatesNothing) {
  EXPECT_FALSE(decode<std::string>("\xff\xff\xff\xff"));
  EXPECT_FALSE(decode<std::vector<std::int64_t>>(std::string("\xff\xff\xff\x1f") + "12345678"));
  EXPECT_FALSE(decode<std::vector<std::string>>("\xff\xff\xff\x7f"));
}

TEST(Codec, RandomBytesAreRefusedOrAValueThatGoesThereAndBack) {
  os::Random random(7);
  int values = 0;
  for (int i = 0; i < 20'000; ++i) {
    std::string bytes = encode(Spread{"ES", {{"ESM4", 1.0}}, 5, "t", {{"delta", .5}}});
    for (int k = 0; k < 3; ++k) {
      bytes[random.below(bytes.size())] = static_cast<char>(random.below(256));
    }
    if (random.below(4) == 0) bytes.resize(random.below(bytes.size()));
    const auto value = decode<Spread>(bytes);
    if (!value) continue;
    ++values;
    ASSERT_EQ(encode(*decode<Spread>(encode(*value))), encode(*value));
  }
  EXPECT_GT(values, 100);
}

TEST(Schema, TellsTheStructure) {
  EXPECT_EQ(schema<Leg>(), "{s,f8}");
  EXPECT_EQ(schema<Spread>(), "{s,[{s,f8}],?i8,<s|i4|{s,f8}>,m(s,f8)}");
  EXPECT_EQ(schema<Order>(), "{i8,u1,b,2*f4,{i4,s},[b],i4}");
  EXPECT_EQ((schema<std::tuple<Utf8, Kind, Level, Switch>>()), "{s,i1,u2,b}");
  EXPECT_EQ(record_schema<Tick>(), "r64{i8,i8,5*i8,i8}");
  EXPECT_EQ(testcases::EchoApi::Log::signature(), "log(k,s)->s");
}

TEST(AnyBits, AreAValueOfPlainNumbersAndOfNothingElse) {
  EXPECT_TRUE(kAnyBitsAreAValue<Tick>);
  EXPECT_TRUE((kAnyBitsAreAValue<std::array<double, 3>>));
  EXPECT_TRUE(kAnyBitsAreAValue<Side>);
  EXPECT_FALSE(kAnyBitsAreAValue<bool>);
  EXPECT_FALSE(kAnyBitsAreAValue<Switch>);
  EXPECT_FALSE(kAnyBitsAreAValue<Kind>) << "its values are checked";
  EXPECT_FALSE((kAnyBitsAreAValue<std::array<Level, 2>>));
  EXPECT_FALSE(kAnyBitsAreAValue<std::string>);
  EXPECT_FALSE(kAnyBitsAreAValue<Order>);
  EXPECT_FALSE(kAnyBitsAreAValue<const char*>);
}

TEST(Summary, IsShortAndShowsNoSecret) {
  std::string text;
  summarize(text, std::vector<int>(1000, 7));
  EXPECT_EQ(text, "[7, 7, 7, 7, ... 996 more]");
  text.clear();
  summarize(text, Secret{"db-key"});
  EXPECT_EQ(text, "***");
  text.clear();
  summarize(text, std::string("a\n\x1b[31m") + std::string(100, 'x'));
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_LT(text.size(), 60U);
}

}  // namespace
}  // namespace defib::call

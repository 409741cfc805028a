// Calls that work.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "defib/call/client.h"
#include "defib/call/testcases/odd_records.h"
#include "defib/call/testcases/victims_api.h"

namespace {

enum class Answer : std::int32_t { kOne = 1, kTwo = 2 };

}  // namespace

template <>
struct defib::call::WireForm<Answer> : defib::call::OneOf<Answer::kOne, Answer::kTwo> {};

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::Leg;
using testcases::Spread;
using testcases::Tick;
using ::testing::HasSubstr;

const std::string kEcho = DEFIB_PLUGINS "/echo.so";

Client<EchoApi> echo(const ClientOptions& options = {}) {
  auto client = Client<EchoApi>::create(kEcho, options);
  if (!client) ADD_FAILURE() << client.error().to_text();
  return std::move(*client);
}

TEST(Call, AnArgumentGoesThereAndAValueComesBack) {
  auto client = echo();
  const auto value = client.call<EchoApi::Double>(21);
  ASSERT_TRUE(value) << value.error().to_text();
  EXPECT_EQ(*value, 42.0);
  EXPECT_TRUE(client.call<EchoApi::Nothing>());
}

TEST(Call, TextsSpansAndNestedValuesTravel) {
  auto client = echo();
  EXPECT_EQ(client.call<EchoApi::Text>("ab", 3).value(), "ababab");
  std::vector<std::int64_t> many(100'000);
  for (std::size_t i = 0; i < many.size(); ++i) many[i] = static_cast<std::int64_t>(i);
  EXPECT_EQ(client.call<EchoApi::Sum>(std::span<const std::int64_t>(many)).value(), 4'999'950'000);
  const Spread spread{
      "ES", {{"ESM4", 1.0}, {"ESU4", -1.5}}, 20240621, Leg{"x", 2}, {{"delta", .5}}};
  EXPECT_EQ(client.call<EchoApi::Same>(spread).value(), spread);
}

TEST(Call, WhatAMethodThrowsIsAnOrdinaryErrorAndTheClientLivesOn) {
  auto client = echo();
  const auto thrown = client.call<EchoApi::Throw>("no symbol ESZ9");
  ASSERT_FALSE(thrown);
  EXPECT_EQ(thrown.error().code(), Code::kMethodThrew);
  EXPECT_THAT(thrown.error().message(), HasSubstr("throw threw std::out_of_range: no symbol ESZ9"));
  EXPECT_EQ(client.call<EchoApi::Throw>("int").error().field("exception"), "int");
  EXPECT_EQ(client.call<EchoApi::Throw>("memory").error().code(), Code::kNativeOutOfMemory);
  EXPECT_FALSE(client.fault());
  EXPECT_EQ(client.call<EchoApi::Double>(2).value(), 4);
}

TEST(Call, ASecretIsInNoError) {
  auto client = echo();
  EXPECT_EQ(client.call<EchoApi::Log>(Secret{"db-abcdef"}, "trader").value(), "trader:9");
  const auto crash = client.call<EchoApi::Log>(Secret{"crash"}, "trader");
  ASSERT_FALSE(crash);
  EXPECT_EQ(crash.error().field("arguments"), "***, \"trader\"");
  EXPECT_EQ(crash.error().to_text().find("\"crash\""), std::string::npos);
}

// The plugin's interface as a stricter program declares it: the bytes are the same.
struct StrictEchoApi {
  static constexpr std::string_view kName = EchoApi::kName;
  static constexpr std::uint32_t kVersion = EchoApi::kVersion;
  struct Text : Method<"text", Utf8(std::string_view, int)> {};
  struct Wait : Method<"wait", Answer(int milliseconds, bool progress)> {};
  using Methods = call::Methods<EchoApi::Nothing, EchoApi::Double, Text, EchoApi::Sum,
                                EchoApi::Same, EchoApi::Throw, Wait, EchoApi::Log, EchoApi::Ticks,
                                EchoApi::Lines, EchoApi::BadEnd>;
};

TEST(Call, AValueThatItsTypeDoesNotHaveIsABrokenWorker) {
  auto text = Client<StrictEchoApi>::create(kEcho).value();
  EXPECT_EQ(text.call<StrictEchoApi::Text>("\u20ac", 2).value().value, "\u20ac\u20ac");
  const auto latin = text.call<StrictEchoApi::Text>("Z\xfcrich", 1);
  ASSERT_FALSE(latin);
  EXPECT_EQ(latin.error().code(), Code::kNativeProtocol) << latin.error().to_text();
  EXPECT_THAT(latin.error().to_text(), HasSubstr("is not of the declared type"));
  auto number = Client<StrictEchoApi>::create(kEcho).value();
  EXPECT_EQ(number.call<StrictEchoApi::Wait>(2, false).value(), Answer::kTwo);
  EXPECT_EQ(number.call<StrictEchoApi::Wait>(3, false).error().code(), Code::kNativeProtocol);
  EXPECT_TRUE(number.fault());
  EXPECT_FALSE(text.call<StrictEchoApi::Text>("a", 1));
}

TEST(Stream, RecordsArriveInOrderAndThenTheEnd) {
  auto client = echo({.stream_bytes = 64 * 1024});
  for (const int batch : {1, 32}) {
    auto ticks = client.open<EchoApi::Ticks>(5, 100'000, batch);
    ASSERT_TRUE(ticks) << ticks.error().to_text();
    std::int64_t expected = 5;
    for (;;) {
      const auto tick = ticks->next();
      ASSERT_TRUE(tick) << tick.error().to_text();
      if (!*tick) break;
      ASSERT_EQ((*tick)->number, expected++);
      ASSERT_EQ((*tick)->check, (*tick)->number * 7 + 1);
    }
    EXPECT_EQ(expected, 100'005);
    EXPECT_FALSE(ticks->next().value());  // The end stays the end.
  }
}

TEST(Stream, PeekShowsRecordsWhereTheyLie) {
  auto client = echo({.stream_bytes = 64 * 1024});
  auto ticks = client.open<EchoApi::Ticks>(0, 50'000, 16).value();
  std::int64_t expected = 0;
  for (;;) {
    const auto some = ticks.peek();
    ASSERT_TRUE(some) << some.error().to_text();
    if (some->empty()) break;
    for (const Tick& tick : *some) ASSERT_EQ(tick.number, expected++);
    ticks.consume(some->size());
  }
  EXPECT_EQ(expected, 50'000);
}

TEST(Stream, MessagesOfAnySizeWrapAroundTheRing) {
  auto client = echo({.stream_bytes = 4096});
  for (const int size : {0, 1, 3, 100, 1000}) {
    auto lines = client.open<EchoApi::Lines>(500, size).value();
    for (int i = 0; i < 500; ++i) {
      const auto line = lines.next();
      ASSERT_TRUE(line) << line.error().to_text();
      ASSERT_EQ(**line, std::to_string(i) + std::string(static_cast<std::size_t>(size), 'x'));
    }
    EXPECT_FALSE(lines.next().value());
  }
}

TEST(Stream, ARecordLargerThanTheRingIsAnErrorOfTheStream) {
  auto client = echo({.stream_bytes = 4096});
  auto lines = client.open<EchoApi::Lines>(1, 5000).value();
  const auto line = lines.next();
  ASSERT_FALSE(line);
  EXPECT_THAT(line.error().message(), HasSubstr("larger than half of the stream's ring"));
  EXPECT_FALSE(client.fault());
}

TEST(Stream, WhatItsFunctionThrowsComesAfterTheRecords) {
  auto client = echo();
  auto ticks = client.open<EchoApi::BadEnd>(3, "throw").value();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ticks.next().value()->number, i);
  const auto end = ticks.next();
  ASSERT_FALSE(end);
  EXPECT_THAT(end.error().message(), HasSubstr("bad_end threw std::runtime_error: the feed was"));
  EXPECT_FALSE(client.fault());
}

TEST(Stream, AReaderThatLeavesEndsTheWriterAndItsPlaceIsFree) {
  auto client = echo({.max_streams = 1, .stream_bytes = 64 * 1024});
  for (int round = 0; round < 20; ++round) {
    // The place is free when the function has returned, which takes a moment.
    for (int attempt = 0;; ++attempt) {
      auto ticks = client.open<EchoApi::Ticks>(0, std::numeric_limits<std::int64_t>::max() / 2, 1);
      if (ticks) {
        EXPECT_EQ(ticks->next().value()->number, 0);
        break;
      }
      ASSERT_EQ(ticks.error().code(), Code::kLimitExceeded);
      ASSERT_LT(attempt, 1000);
      ASSERT_TRUE(client.call<EchoApi::Wait>(1, false));
    }
  }
}

TEST(Stream, SeveralOfOneClientDoNotMix) {
  auto client = echo();
  auto first = client.open<EchoApi::Ticks>(0, 30'000, 1).value();
  auto second = client.open<EchoApi::Ticks>(1'000'000, 30'000, 32).value();
  for (std::int64_t i = 0; i < 30'000; ++i) {
    ASSERT_EQ(first.next().value()->number, i);
    ASSERT_EQ(second.next().value()->number, 1'000'000 + i);
  }
  EXPECT_EQ(client.call<EchoApi::Double>(1).value(), 2);
}

TEST(Stream, ARecordWithAValueThatIsCheckedIsCheckedEachTime) {
  static_assert(!testcases::OddApi::Orders::kAsItLies);
  auto client = Client<testcases::OddApi>::create(DEFIB_PLUGINS "/odd.so").value();
  auto orders = client.open<testcases::OddApi::Orders>(4).value();
  for (const auto side : {testcases::Side::kBuy, testcases::Side::kSell}) {
    EXPECT_EQ(orders.next().value()->side, side);
  }
  EXPECT_EQ(orders.next().error().code(), Code::kNativeProtocol);
  EXPECT_TRUE(client.fault());
}

TEST(Client, AnotherInterfaceIsAnErrorAtCreation) {
  const auto client = Client<testcases::VictimApi>::create(kEcho);
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), Code::kApiMismatch);
  EXPECT_THAT(client.error().message(), HasSubstr("offers 'echo', and the program wants 'victim'"));
}

TEST(Client, AMissingPluginIsAnErrorWithTheLoadersWords) {
  const auto client = Client<EchoApi>::create("/nowhere/plugin.so");
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().code(), Code::kPluginUnloadable);
  EXPECT_THAT(client.error().message(), HasSubstr("No such file"));
}

}  // namespace
}  // namespace defib::call

#include "defib/wire/json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace defib::wire {
namespace {

Json parsed(std::string_view text) {
  auto json = Json::parse(text);
  EXPECT_TRUE(json.has_value()) << text << ": " << json.error().to_line();
  return json ? *json : Json();
}

TEST(Json, ObjectsKeepTheOrderInWhichMembersWereAdded) {
  Json json;
  json.set("zebra", 1).set("apple", 2).set("mango", Json::array({1, "two", nullptr, true}));
  json.set("zebra", 3);
  EXPECT_EQ(json.dump(), R"({"zebra":3,"apple":2,"mango":[1,"two",null,true]})");
  EXPECT_EQ(parsed(json.dump()).dump(), json.dump());
}

TEST(Json, WholeNumbersStayExactOverAllSixtyFourBits) {
  for (const char* text : {"9223372036854775807", "-9223372036854775808", "18446744073709551615",
                           "9007199254740993", "0", "-1"}) {
    EXPECT_EQ(parsed(text).dump(), text);
  }
  EXPECT_EQ(parsed("9223372036854775807").as_int(), std::numeric_limits<std::int64_t>::max());
  EXPECT_EQ(parsed("18446744073709551615").as_uint(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(parsed("18446744073709551615").as_int(-7), -7);
  EXPECT_EQ(parsed("-1").as_uint(7), 7U);
}

TEST(Json, AWholeNumberBeyondSixtyFourBitsIsRefusedInsteadOfRounded) {
  for (const char* text : {"18446744073709551616", "[-9223372036854775809]"}) {
    const auto json = Json::parse(text);
    ASSERT_FALSE(json.has_value()) << text;
    EXPECT_EQ(json.error().code(), Code::kJsonMalformed);
    EXPECT_NE(json.error().message().find("64 bits"), std::string::npos);
  }
}

TEST(Json, OneNumberHasOneRepresentation) {
  EXPECT_EQ(Json(5UL), Json(5));
  EXPECT_EQ(Json(5ULL), parsed("5"));
  EXPECT_NE(Json(5), Json(5.0));
}

TEST(Json, DoublesSurviveARoundTripAsDoubles) {
  for (const double value :
       {0.1, 1.0, -2.5e-300, 1e21, 123456789.125, std::numeric_limits<double>::max(),
        std::numeric_limits<double>::denorm_min()}) {
    const Json back = parsed(Json(value).dump());
    EXPECT_TRUE(back.is_number() && !back.is_whole());
    EXPECT_EQ(back.as_double(), value);
  }
  EXPECT_EQ(Json(1.0).dump(), "1.0");
  EXPECT_EQ(Json(std::nan("")).dump(), "null");
  EXPECT_EQ(Json(std::numeric_limits<double>::infinity()).dump(), "null");
}

TEST(Json, DumpIsValidJsonWhateverBytesATextHolds) {
  const std::string text(
      "a\0b\x01\x1f\"\\\n\r\t\x7f\xff\xc0\x80\xed\xa0\x80\xf5 \xe2\x82\xac \xe2\x82", 25);
  const Json json = Json::object({{text, text}});
  const Json back = parsed(json.dump());
  const std::string_view value = back.members().at(0).second.as_string();
  EXPECT_EQ(value.substr(0, 11), std::string_view("a\0b\x01\x1f\"\\\n\r\t\x7f", 11));
  EXPECT_NE(value.find("\xe2\x82\xac"), std::string_view::npos) << "valid UTF-8 is kept";
  EXPECT_TRUE(value.ends_with("\xef\xbf\xbd")) << "a cut sequence is replaced";
  EXPECT_EQ(back.dump(), parsed(back.dump()).dump());
}

TEST(Json, EveryPairOfBytesDumpsToParsableText) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string text{static_cast<char>(a), static_cast<char>(b)};
      ASSERT_TRUE(Json::parse(Json(text).dump()).has_value()) << a << " " << b;
    }
  }
}

TEST(Json, AByteThatCannotStandThereIsEscapedWhereverInATextItIs) {
  for (int byte = 0; byte < 256; ++byte) {
    const Json alone(std::string(1, static_cast<char>(byte)));
    const std::string dumped = alone.dump();
    const std::string escaped = dumped.substr(1, dumped.size() - 2);
    for (std::size_t size = 1; size < 20; ++size) {
      for (std::size_t at = 0; at < size; ++at) {
        std::string text(size, 'a'), expected = text;
        text[at] = static_cast<char>(byte);
        expected.replace(at, 1, escaped);
        ASSERT_EQ(Json(text).dump(), '"' + expected + '"') << byte << " at " << at;
      }
    }
  }
}

TEST(Json, EscapesAreDecoded) {
  EXPECT_EQ(parsed(R"("\u00e9\ud83d\ude00\/\b\f")").as_string(), "\xc3\xa9\xf0\x9f\x98\x80/\b\f");
}

TEST(Json, IndentedFormIsStable) {
  const Json json =
      Json::object({{"a", Json::array({1, Json::object()})}, {"b", Json::array()}, {"c", "x"}});
  EXPECT_EQ(json.dump(2), "{\n  \"a\": [\n    1,\n    {}\n  ],\n  \"b\": [],\n  \"c\": \"x\"\n}");
}

struct Malformed {
  std::string text;
  std::size_t offset;
};

TEST(Json, MalformedTextsAreRefusedWithTheirOffset) {
  const std::vector<Malformed> cases = {
      {"", 0},
      {"   ", 3},
      {"{", 1},
      {"[1,]", 3},
      {"[1 2]", 3},
      {"{\"a\":}", 5},
      {"{\"a\" 1}", 5},
      {"{a:1}", 1},
      {"nul", 3},
      {"1 x", 2},
      {"\"ab", 3},
      {"\"\\x\"", 2},
      {"01", 1},
      {"1.", 2},
      {"+1", 0},
      {"\"a\nb\"", 2},
      {"\"\xff\"", 1},
      {"\"\xc0\x80\"", 1},
      {"'a'", 0},
      {"[1]]", 3},
      {"1e999", 4},
      {"\"\\ud800\"", 7},
      {"{\"a\":1,}", 7},
      {"// x\n1", 0},
      {std::string("[1,\0 2]", 7), 3},
      {std::string("1\0", 2), 1},
  };
  for (const Malformed& c : cases) {
    const auto json = Json::parse(c.text);
    ASSERT_FALSE(json.has_value()) << c.text;
    EXPECT_EQ(json.error().code(), Code::kJsonMalformed);
    EXPECT_EQ(json.error().field("offset"), std::to_string(c.offset))
        << c.text << ": " << json.error().message();
    EXPECT_NE(json.error().message().find("at byte " + std::to_string(c.offset)),
              std::string::npos);
  }
}

TEST(Json, ANameThatStandsTwiceIsRefused) {
  const auto json = Json::parse(R"({"a":{"q":1,"x":2,"q":3}})");
  ASSERT_FALSE(json.has_value());
  EXPECT_NE(json.error().message().find("twice"), std::string::npos);
}

TEST(Json, NestingIsBounded) {
  const auto nested = [](int depth) {
    return std::string(static_cast<std::size_t>(depth), '[') +
           std::string(static_cast<std::size_t>(depth), ']');
  };
  EXPECT_TRUE(Json::parse(nested(Json::kMaxDepth)).has_value());
  const auto json = Json::parse(nested(Json::kMaxDepth + 1));
  ASSERT_FALSE(json.has_value());
  EXPECT_EQ(json.error().field("offset"), std::to_string(Json::kMaxDepth + 1));
  EXPECT_FALSE(Json::parse(std::string(1 << 20, '[')).has_value());
}

TEST(Json, ReadingIsTotal) {
  const Json json = parsed(R"({"n":7,"s":"text","f":1.5,"b":true,"a":[1]})");
  EXPECT_EQ(json["n"].as_int(), 7);
  EXPECT_EQ(json["n"].as_double(), 7.0);
  EXPECT_EQ(json["s"].as_int(-1), -1);
  EXPECT_EQ(json["f"].as_int(-1), -1) << "a fraction is never cut off silently";
  EXPECT_EQ(json["n"].as_string(), "");
  EXPECT_TRUE(json["b"].as_bool());
  EXPECT_TRUE(json["missing"]["deeper"].is_null());
  EXPECT_TRUE(json["n"].items().empty());
  EXPECT_TRUE(json["n"].members().empty());
  EXPECT_EQ(json.size(), 5U);
  EXPECT_EQ(json["a"].size(), 1U);
  EXPECT_EQ(json["n"].size(), 0U);
  EXPECT_FALSE(json.has("missing"));
}

TEST(Json, RequiredMembersAreNamedWhereTheyAreAbsentOrOfAnotherType) {
  const Json json = parsed(R"({"n":7,"s":"text","f":1.5})");
  EXPECT_EQ(*json.require_string("s"), "text");
  EXPECT_EQ(*json.require_int("n"), 7);
  const auto missing = json.require_string("id");
  ASSERT_FALSE(missing.has_value());
  EXPECT_EQ(missing.error().code(), Code::kJsonWrongShape);
  EXPECT_EQ(missing.error().message(), "member 'id' is missing, and a text is expected");
  EXPECT_EQ(json.require_string("n").error().message(),
            "member 'n' is a number, and a text is expected");
  EXPECT_EQ(json.require_int("f").error().field("member"), "f");
}

TEST(Json, AnErrorKeepsItsWholeChain) {
  const Error error = Error(Code::kStorePoisoned, "store refuses work")
                          .with("path", "/var/lib/x")
                          .because(Error(Code::kSyncFailed, "fdatasync failed"));
  const Json json = to_json(error);
  EXPECT_EQ(json["code"].as_int(), -86);
  EXPECT_EQ(json["kind"].as_string(), "StorePoisoned");
  EXPECT_EQ(json["class"].as_string(), "critical");
  EXPECT_EQ(json["fields"]["path"].as_string(), "/var/lib/x");
  EXPECT_EQ(json["cause"]["code"].as_int(), -26);
  EXPECT_TRUE(json["cause"]["cause"].is_null());
  EXPECT_FALSE(json["suggested_action"].as_string().empty());
}

}  // namespace
}  // namespace defib::wire

// Calls without types.

#include "defib/call/dynamic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "defib/base/bytes.h"
#include "defib/call/client_json.h"
#include "defib/call/codec.h"
#include "defib/call/json_codec.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using testcases::Spread;
using ::testing::HasSubstr;
using wire::Json;

const std::string kEcho = DEFIB_PLUGINS "/echo.so";

DynamicClient open_plugin(const std::string& name, const ClientOptions& options = {}) {
  auto client = DynamicClient::create(DEFIB_PLUGINS "/" + name, options);
  if (!client) ADD_FAILURE() << client.error().to_text();
  return std::move(*client);
}

Json json(std::string_view text) {
  auto parsed = Json::parse(text);
  if (!parsed) ADD_FAILURE() << parsed.error().to_text();
  return parsed ? std::move(*parsed) : Json();
}

std::string refused(std::string_view type, std::string_view value) {
  const auto signature = parse_signature("m(" + std::string(type) + ")->v");
  const auto bytes = encode_arguments(*signature, Json::array({json(value)}));
  EXPECT_FALSE(bytes) << type << " " << value;
  if (bytes) return "";
  EXPECT_EQ(bytes.error().code(), Code::kInvalidArgument);
  EXPECT_EQ(bytes.error().field("argument"), "1");
  return bytes.error().message();
}

template <typename T>
void expect_form(const T& value, std::string_view text) {
  const auto signature = parse_signature("m(" + schema<T>() + ")->v");
  ASSERT_TRUE(signature) << schema<T>();
  const Decoded decoded = decode_json(signature->parameters[0], encode(value));
  ASSERT_EQ(decoded.problem, DecodeProblem::kNone) << text;
  EXPECT_EQ(decoded.value.dump(), text);
  const auto bytes = encode_arguments(*signature, Json::array({json(text)}));
  ASSERT_TRUE(bytes) << bytes.error().to_text();
  EXPECT_EQ(*bytes, encode(value)) << text;
}

TEST(JsonCodec, EachTypeHasOneForm) {
  expect_form(std::monostate(), "null");
  expect_form(true, "true");
  expect_form(std::int8_t{-128}, "-128");
  expect_form(std::uint8_t{255}, "255");
  expect_form(std::int16_t{-2}, "-2");
  expect_form(std::numeric_limits<std::int64_t>::min(), "-9223372036854775808");
  expect_form(std::numeric_limits<std::uint64_t>::max(), "18446744073709551615");
  expect_form(0.1, "0.1");
  expect_form(0.5F, "0.5");
  expect_form(std::numeric_limits<double>::quiet_NaN(), "\"nan\"");
  expect_form(-std::numeric_limits<float>::infinity(), "\"-inf\"");
  expect_form(std::string("caf\xc3\xa9"), "\"caf\xc3\xa9\"");
  expect_form(std::string("\xff\x01"), "{\"hex\":\"ff01\"}");
  expect_form(Secret{"key"}, "\"key\"");
  expect_form(std::vector<std::int32_t>{1, -2}, "[1,-2]");
  expect_form(std::vector<bool>{true, false}, "[true,false]");
  expect_form(std::array<std::uint16_t, 2>{3, 4}, "[3,4]");
  expect_form(std::pair<std::string, std::int32_t>("a", 1), "[\"a\",1]");
  expect_form(std::optional<std::int32_t>(), "null");
  expect_form(std::optional<std::int32_t>(7), "7");
  expect_form(std::variant<std::string, std::int32_t>(5), "{\"1\":5}");
  expect_form(std::map<std::string, double>{{"a", 1.5}, {"b", -2.5}}, "{\"a\":1.5,\"b\":-2.5}");
  expect_form(std::map<std::int32_t, std::string>{{1, "x"}, {2, "y"}}, "[[1,\"x\"],[2,\"y\"]]");
  expect_form(std::map<std::string, bool>{{"\xff", true}}, "[[{\"hex\":\"ff\"},true]]");
  expect_form(Spread{"ES", {{"ESM4", 1.5}}, 20240621, testcases::Leg{"x", 2.5}, {{"delta", .5}}},
              R"(["ES",[["ESM4",1.5]],20240621,{"2":["x",2.5]},{"delta":0.5}])");
}

TEST(JsonCodec, AWrongArgumentIsNamedWithWhatIsExpected) {
  EXPECT_EQ(refused("i1", "128"),
            "argument 1 of m: a whole number from -128 to 127 is expected, not 128");
  EXPECT_EQ(refused("u1", "-1"),
            "argument 1 of m: a whole number from 0 to 255 is expected, not -1");
  EXPECT_THAT(refused("i8", "18446744073709551615"), HasSubstr("from -9223372036854775808"));
  EXPECT_THAT(refused("i4", "1.0"), HasSubstr("not 1.0"));
  EXPECT_THAT(refused("f8", "\"1\""), HasSubstr("a number is expected, not \"1\""));
  EXPECT_THAT(refused("f4", "1e39"), HasSubstr("32 bits"));
  EXPECT_THAT(refused("s", "5"), HasSubstr("a text is expected, not 5"));
  EXPECT_THAT(refused("s", "{\"hex\":\"f\"}"), HasSubstr("a text is expected, not an object"));
  EXPECT_THAT(refused("b", "1"), HasSubstr("true or false is expected, not 1"));
  EXPECT_THAT(refused("v", "0"), HasSubstr("null is expected"));
  EXPECT_THAT(refused("2*i4", "[1]"),
              HasSubstr("a list of 2 items (2*i4) is expected, not one of 1"));
  EXPECT_THAT(refused("[{s,i4}]", "[[\"a\",1],[\"b\",\"c\"]]"),
              HasSubstr("at [1][1], a whole number from -2147483648 to 2147483647 is expected, "
                        "not \"c\""));
  EXPECT_THAT(refused("m(s,i4)", "{\"a\":1,\"b\":null}"), HasSubstr("at {\"b\"}, a whole"));
  EXPECT_THAT(refused("m(i4,i4)", "[[1,2],[1,3]]"), HasSubstr("a key that stands once"));
  EXPECT_THAT(refused("m(i4,i4)", "[[1]]"), HasSubstr("at [0], a pair [key, value] is expected"));
  EXPECT_THAT(refused("<s|i4>", "{\"2\":1}"), HasSubstr("from 0 to 1"));
  EXPECT_THAT(refused("<s|i4>", "5"), HasSubstr("{\"N\": value}"));
  EXPECT_THAT(refused("?i4", "\"x\""), HasSubstr("a whole number"));
  // A terminal shows it and nothing happens.
  EXPECT_EQ(refused("i4", "\"\\u001b[2J\"").find('\x1b'), std::string::npos);
}

TEST(JsonCodec, NoValueIsShownWhereASecretIsExpected) {
  const auto signature = parse_signature("log(k,i4)->s");
  const auto swapped = encode_arguments(*signature, json("[5,\"db-key\"]"));
  ASSERT_FALSE(swapped);
  EXPECT_EQ(swapped.error().to_text().find("5"), std::string::npos) << swapped.error().to_text();
  const auto late = encode_arguments(*signature, json("[\"x\",\"db-key\"]"));
  EXPECT_EQ(late.error().to_text().find("db-key"), std::string::npos);
  const auto many = encode_arguments(*signature, json("[\"db-key\"]"));
  EXPECT_EQ(many.error().message(), "log(k,i4)->s takes 2 arguments, and 1 were given");
  std::string summary;
  summarize_arguments(summary, *signature, json("[\"db-key\",7]"));
  EXPECT_EQ(summary, "***, 7");
}

TEST(JsonCodec, WhatIsNoValueOfTheTypeIsBroken) {
  const auto broken = [](std::string_view type, std::string_view hex) {
    std::string bytes;
    EXPECT_TRUE(from_hex(hex, bytes));
    return decode_json(*parse_type(type), bytes).problem == DecodeProblem::kBroken;
  };
  EXPECT_TRUE(broken("i4", "010203"));
  EXPECT_TRUE(broken("i4", "0102030405"));
  EXPECT_TRUE(broken("b", "02"));
  EXPECT_TRUE(broken("s", "0500000061"));
  EXPECT_TRUE(broken("s", "ffffffff61"));
  EXPECT_TRUE(broken("[i8]", "ffffffff"));
  EXPECT_TRUE(broken("?v", "02"));
  EXPECT_TRUE(broken("<s|i4>", "0200000000"));
  EXPECT_TRUE(broken("m(u1,u1)", "0200000001020103"));
  EXPECT_FALSE(broken("m(u1,u1)", "0200000001020203"));
  EXPECT_TRUE(broken("v", "00"));
  EXPECT_EQ(decode_record(*parse_type("{i8,i8}"), "short").problem, DecodeProblem::kBroken);
}

TEST(JsonCodec, AShortMessageDoesNotBecomeAllTheMemory) {
  EXPECT_EQ(decode_json(*parse_type("4294967296*v"), "").problem, DecodeProblem::kTooLarge);
  EXPECT_EQ(decode_json(*parse_type("4294967296*4294967296*{}"), "").problem,
            DecodeProblem::kTooLarge);
}

TEST(JsonCodec, ALargeMapIsAListOfPairs) {
  std::map<std::string, std::uint8_t> map;
  for (std::size_t i = 0; i < kMaxObjectMembers; ++i) map[std::to_string(i)] = 1;
  EXPECT_TRUE(decode_json(*parse_type("m(s,u1)"), encode(map)).value.is_object());
  map["one more"] = 1;
  const Json pairs = decode_json(*parse_type("m(s,u1)"), encode(map)).value;
  EXPECT_TRUE(pairs.is_array());
  const auto signature = parse_signature("m(m(s,u1))->v");
  EXPECT_EQ(encode_arguments(*signature, Json::array({pairs})).value(), encode(map));
}

struct Padded {
  std::uint8_t flag;
  double price;
  std::array<std::int16_t, 3> some;
  std::uint8_t last;
};

TEST(JsonCodec, ARecordIsReadAsItLiesInMemory) {
  const Padded record{1, 2.5, {-1, 2, -3}, 9};
  const std::string_view bytes(reinterpret_cast<const char*>(&record), sizeof record);
  const auto type = parse_type(schema<Padded>());
  EXPECT_EQ(decode_record(*type, bytes).value.dump(), "[1,2.5,[-1,2,-3],9]");
}

TEST(Dynamic, MethodsAreCalledByName) {
  auto client = open_plugin("echo.so");
  EXPECT_EQ(client.plugin_name(), "echo");
  EXPECT_EQ(client.plugin_version(), 3u);
  EXPECT_EQ(client.methods().size(), 11u);
  EXPECT_EQ(client.call("double", json("[21]")).value().as_double(), 42.0);
  EXPECT_TRUE(client.call("nothing", json("[]")).value().is_null());
  EXPECT_EQ(client.call("text", json(R"(["ab",3])")).value().as_string(), "ababab");
  EXPECT_EQ(client.call("sum", json("[[1,2,3]]")).value().as_int(), 6);
  const std::string_view spread =
      R"([["ES",[["ESM4",1.5],["ESU4",-1.5]],null,{"1":7},{"delta":0.5}]])";
  EXPECT_EQ(client.call("same", json(spread)).value().dump(), spread.substr(1, spread.size() - 2));
}

TEST(Dynamic, AWrongCallIsAnErrorAndTheClientLivesOn) {
  auto client = open_plugin("echo.so");
  const auto none = client.call("trible", json("[1]"));
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code(), Code::kNotFound);
  EXPECT_THAT(none.error().suggested_action(), HasSubstr("it has: nothing, double, text"));
  EXPECT_THAT(client.call("text", json("[\"a\",\"b\"]")).error().message(),
              HasSubstr("argument 2 of text: a whole number from -2147483648"));
  EXPECT_THAT(client.call("ticks", json("[]")).error().message(), HasSubstr("is a stream"));
  EXPECT_THAT(client.open("double", json("[1]")).error().message(), HasSubstr("is no stream"));
  EXPECT_THAT(client.call("double", json("{}")).error().message(), HasSubstr("are a list"));
  const auto thrown = client.call("throw", json("[\"no symbol\"]"));
  EXPECT_EQ(thrown.error().code(), Code::kMethodThrew);
  EXPECT_EQ(thrown.error().field("arguments"), "\"no symbol\"");
  EXPECT_FALSE(client.fault());
  EXPECT_EQ(client.call("double", json("[2]")).value().as_double(), 4.0);
}

TEST(Dynamic, StreamsGiveEveryRecordAndTheEnd) {
  auto client = open_plugin("echo.so", {.stream_bytes = 64 * 1024});
  auto ticks = client.open("ticks", json("[5,20000,32]"));
  ASSERT_TRUE(ticks) << ticks.error().to_text();
  std::int64_t expected = 5;
  for (;;) {
    const auto tick = ticks->next();
    ASSERT_TRUE(tick) << tick.error().to_text();
    if (!*tick) break;
    const Json& record = **tick;
    ASSERT_EQ(record.items()[0].as_int(), expected);
    ASSERT_EQ(record.items()[2].size(), 5u);
    ASSERT_EQ(record.items()[3].as_int(), expected * 7 + 1);
    ++expected;
  }
  EXPECT_EQ(expected, 20'005);
  EXPECT_EQ(ticks->delivered(), 20'000u);
  EXPECT_FALSE(ticks->next().value());  // The end stays the end.

  auto lines = client.open("lines", json("[300,10]")).value();
  for (int i = 0; i < 300; ++i) {
    ASSERT_EQ(lines.next().value()->as_string(), std::to_string(i) + "xxxxxxxxxx");
  }
  EXPECT_FALSE(lines.next().value());
}

TEST(Dynamic, RecordsAreReadWhereTheyLieAsTheyTellOrNotAtAll) {
  auto client = open_plugin("odd.so");
  auto padded = client.open("padded", json("[3]")).value();
  for (int i = 0; i < 3; ++i) {
    const auto record = padded.next().value();
    EXPECT_EQ(record->items()[1].as_double(), i * 0.5);
    EXPECT_EQ(record->items()[2].dump(), "[" + std::to_string(i) + ",7,-9]");
    EXPECT_EQ(record->items()[3].as_int(), 255);
  }
  const auto aligned = client.open("aligned", json("[3]"));
  ASSERT_FALSE(aligned);
  EXPECT_EQ(aligned.error().code(), Code::kApiMismatch);
  EXPECT_THAT(aligned.error().message(), HasSubstr("take 16 bytes, which their structure {i8}"));
  auto opaque = client.open("opaque", json("[2]")).value();
  EXPECT_EQ(opaque.next().value()->dump(), "{\"hex\":\"0000\"}");
  EXPECT_EQ(opaque.next().value()->dump(), "{\"hex\":\"0100\"}");
  EXPECT_FALSE(opaque.next().value());
}

TEST(Dynamic, AnArgumentThatItsTypeDoesNotHaveIsRefusedAndTheClientLivesOn) {
  auto client = open_plugin("odd.so");
  EXPECT_EQ(client.call("place", json("[2,\"\u20ac\"]")).value().as_string(), "sell \u20ac");
  for (const auto arguments : {R"([3,"a"])", R"([1,{"hex":"ff"}])"}) {
    const auto refused = client.call("place", json(arguments));
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code(), Code::kInvalidArgument) << refused.error().to_text();
    EXPECT_EQ(refused.error().field("method"), "place");
  }
  EXPECT_EQ(client.call("place", json("[1,\"a\"]")).value().as_string(), "buy a");
}

TEST(Dynamic, ACrashIsAnErrorAfterTheRecordsAndAFreshClientWorks) {
  auto client = open_plugin("echo.so");
  auto ticks = client.open("bad_end", json("[3,\"crash\"]")).value();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(ticks.next().value()->items()[0].as_int(), i);
  const auto end = ticks.next();
  ASSERT_FALSE(end);
  EXPECT_EQ(end.error().code(), Code::kNativeCrash);
  EXPECT_EQ(client.call("double", json("[1]")).error().code(), Code::kClientFaulted);
  const auto report = client.report();
  ASSERT_TRUE(report);
  const Json fault = fault_json(*report);
  EXPECT_EQ(fault["method"].as_string(), "bad_end");
  EXPECT_EQ(fault["arguments"].as_string(), "3, \"crash\"");
  EXPECT_EQ(fault["signal"].as_string(), "SIGSEGV");
  EXPECT_EQ(fault["error"]["kind"].as_string(), "NativeCrash");
  EXPECT_GT(fault["backtrace"].size() + fault["no_backtrace_because"].as_string().size(), 0u);
  client = open_plugin("echo.so");
  EXPECT_EQ(client.call("double", json("[1]")).value().as_double(), 2.0);
}

TEST(Dynamic, ASecretIsInNoErrorOfACrash) {
  auto client = open_plugin("echo.so");
  const auto crash = client.call("log", json("[\"crash\",\"trader\"]"));
  ASSERT_FALSE(crash);
  EXPECT_EQ(crash.error().field("arguments"), "***, \"trader\"");
  EXPECT_EQ(crash.error().to_text().find("\"crash\""), std::string::npos);
}

TEST(ClientOptionsJson, MembersAreReadAndWrongOnesNamed) {
  const auto options = client_options_from_json(json(
      R"({"call_timeout_ms":1500,"memory_bytes":1048576,"no_network":true,"writable":["/tmp"],
          "max_streams":2,"backtrace":false})"));
  ASSERT_TRUE(options) << options.error().to_text();
  EXPECT_EQ(options->call_timeout.count(), 1500);
  EXPECT_EQ(options->isolation.memory_bytes, 1048576u);
  EXPECT_TRUE(options->isolation.no_network);
  EXPECT_TRUE(options->isolation.no_processes);
  EXPECT_FALSE(options->backtrace);
  EXPECT_EQ(options->isolation.writable, std::vector<std::string>{"/tmp"});
  const auto wrong = [](std::string_view text) {
    return client_options_from_json(json(text)).error();
  };
  EXPECT_EQ(wrong(R"({"call_timeout_ms":0})").message(),
            "the option call_timeout_ms is a whole number from 1 to 2147483647, not 0");
  EXPECT_EQ(wrong(R"({"no_network":1})").field("option"), "no_network");
  EXPECT_THAT(wrong(R"({"writable":[1]})").message(), HasSubstr("a list of paths"));
  EXPECT_THAT(wrong(R"({"colour":1})").message(), HasSubstr("no option 'colour'"));
  EXPECT_THAT(wrong(R"({"colour":1})").suggested_action(), HasSubstr("memory_bytes"));
  EXPECT_THAT(wrong("[]").message(), HasSubstr("JSON object"));
}

}  // namespace
}  // namespace defib::call

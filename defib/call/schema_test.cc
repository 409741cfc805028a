// Types as text, read back.

#include "defib/call/schema.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/call/api.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call {
namespace {

using testcases::EchoApi;
using ::testing::HasSubstr;

TEST(Schema, EverySignatureOfAPluginIsReadAndWrittenAsTheSameText) {
  for (const std::string& text : describe<EchoApi>().signatures) {
    const auto signature = parse_signature(text);
    ASSERT_TRUE(signature) << signature.error().to_text();
    EXPECT_EQ(to_text(*signature), text);
  }
  const auto same = parse_signature(EchoApi::Same::signature());
  EXPECT_EQ(same->name, "same");
  EXPECT_EQ(same->parameters.size(), 1u);
  EXPECT_EQ(same->parameters[0].parts.size(), 5u);
  EXPECT_EQ(to_text(*same->result), "{s,[{s,f8}],?i8,<s|i4|{s,f8}>,m(s,f8)}");
  EXPECT_TRUE(parse_signature(EchoApi::Log::signature())->has_secret());
  EXPECT_FALSE(same->has_secret());
}

TEST(Schema, AStreamTellsItsRecordsSizeAndStructure) {
  const auto ticks = parse_signature("ticks(i8)=>r64{i8,i8,5*i8,i8}");
  ASSERT_TRUE(ticks) << ticks.error().to_text();
  EXPECT_TRUE(ticks->is_stream);
  EXPECT_EQ(ticks->record_size, 64u);
  EXPECT_EQ(ticks->result->size, 64u);
  const auto bytes = parse_signature("raw()=>r24");
  EXPECT_EQ(bytes->record_size, 24u);
  EXPECT_FALSE(bytes->result);
  const auto lines = parse_signature("lines(i4)=>s");
  EXPECT_EQ(lines->record_size, 0u);
  EXPECT_EQ(lines->result->kind, TypeKind::kText);
}

struct Inner {
  std::uint8_t a;
  std::uint16_t b;
};
struct Mixed {
  std::uint8_t flag;
  double price;
  std::array<Inner, 3> inner;
  std::uint8_t last;
};
struct Small {
  std::uint8_t a;
  std::array<std::uint32_t, 0> none;
  std::monostate nothing;
  std::uint8_t b;
};

TEST(Schema, StructuresLieAsTheCompilerLaysThem) {
  const auto expect_as = []<typename T>(const T*) {
    const auto type = parse_type(schema<T>());
    ASSERT_TRUE(type) << type.error().to_text();
    EXPECT_EQ(type->size, sizeof(T)) << schema<T>();
    EXPECT_EQ(type->align, alignof(T)) << schema<T>();
  };
  expect_as(static_cast<const Inner*>(nullptr));
  expect_as(static_cast<const Mixed*>(nullptr));
  expect_as(static_cast<const testcases::Tick*>(nullptr));
  EXPECT_EQ(parse_type(schema<std::monostate>())->size, sizeof(std::monostate));
  const auto array = parse_type("0*u4");
  EXPECT_EQ(array->size, sizeof(std::array<std::uint32_t, 0>));
  // What has no fixed size, or bits that are no value, does not lie in a record.
  for (const char* text : {"s", "[i4]", "b", "{i8,b}", "2*s", "?i8", "<i4|i8>", "{i8,{s}}"}) {
    EXPECT_EQ(parse_type(text)->size, 0u) << text;
  }
}

TEST(Schema, WhatIsNoSignatureIsRefusedWithItsOffset) {
  const struct {
    std::string text;
    const char* expected;
    int offset;
  } kCases[] = {
      {"", "a name", 0},
      {"price", "a name", 0},
      {"(s)->v", "a name", 0},
      {"pr ice(s)->v", "a name", 0},
      {"price(s", "',' or ')'", 7},
      {"price(s,)->v", "a type", 8},
      {"price(s)", "'->' or '=>'", 8},
      {"price(s)->", "a type", 10},
      {"price(s)->f8x", "the end", 12},
      {"price(i3)->v", "one of the sizes 1248", 7},
      {"price(f2)->v", "one of the sizes 48", 7},
      {"price(03*i4)->v", "without leading zeros", 7},
      {"price(3i4)->v", "'*'", 7},
      {"price(99999999999999999999*i4)->v", "a number of at most", 15},
      {"price([i4)->v", "']'", 9},
      {"price(m(s))->v", "','", 9},
      {"price(<>)->v", "1 to 256 alternatives", 8},
      {"price({i4;i4})->v", "',' or '}'", 9},
      {"ticks()=>r0", "a size above 0", 10},
      {"ticks()=>r", "a number", 10},
      {"ticks()=>r8{i8}}", "the end", 15},
  };
  for (const auto& [text, expected, offset] : kCases) {
    const auto signature = parse_signature(text);
    ASSERT_FALSE(signature) << text;
    EXPECT_EQ(signature.error().code(), Code::kApiMismatch);
    EXPECT_THAT(signature.error().message(), HasSubstr(expected)) << text;
    EXPECT_EQ(signature.error().field("offset"), std::to_string(offset)) << text;
  }
}

TEST(Schema, AHostileTextIsBounded) {
  const std::string deep = std::string(100'000, '[');
  EXPECT_FALSE(parse_type(deep));
  EXPECT_THAT(parse_type(std::string(kMaxTypeDepth, '?') + "v").error().message(),
              HasSubstr("depth"));
  EXPECT_TRUE(parse_type(std::string(kMaxTypeDepth - 1, '?') + "v"));
  std::string many = "{v";
  for (std::size_t i = 0; i < kMaxTypes; ++i) many += ",v";
  EXPECT_THAT(parse_type(many + "}").error().message(), HasSubstr("at most 2048 types"));
  // Sizes that no memory has are none, instead of wrapping around.
  EXPECT_EQ(parse_type("4294967296*4294967296*4294967296*i8")->size, 0u);
  EXPECT_EQ(parse_type("{4000000000*u1,4000000000*u1}")->size, 0u);
  // Control characters do not reach a terminal.
  EXPECT_EQ(parse_signature("a\x1b[2J(s)->v").error().message().find('\x1b'), std::string::npos);
}

TEST(Schema, TypesInWords) {
  EXPECT_EQ(in_words(*parse_type("u1")), "a whole number from 0 to 255");
  EXPECT_EQ(in_words(*parse_type("i8")),
            "a whole number from -9223372036854775808 to 9223372036854775807");
  EXPECT_EQ(in_words(*parse_type("u8")), "a whole number from 0 to 18446744073709551615");
  EXPECT_EQ(in_words(*parse_type("?s")), "null, or a text");
  EXPECT_EQ(in_words(*parse_type("<s|i4>")),
            "{\"N\": value} with an alternative's number N from 0 to 1 (<s|i4>)");
}

}  // namespace
}  // namespace defib::call

// The C face; examples/call_from_python_test.py uses it as a library.

#include "defib/call/call_c.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>

#include "defib/wire/json.h"

namespace defib::call {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using wire::Json;

constexpr char kEcho[] = DEFIB_PLUGINS "/echo.so";

std::string taken(char* text) {
  std::string copy = text == nullptr ? "" : text;
  defib_call_free(text);
  return copy;
}

Json last_error() {
  std::string text(defib_call_last_error(nullptr, 0), '\0');
  defib_call_last_error(text.data(), text.size() + 1);
  const auto json = Json::parse(text);
  return json ? *json : Json();
}

TEST(CallInC, AValueAStreamAnErrorAndACrash) {
  defib_call_error error;
  defib_call_client* echo = defib_call_create(kEcho, R"({"call_timeout_ms":5000})", &error);
  ASSERT_NE(echo, nullptr) << error.message;
  char* text = nullptr;
  ASSERT_EQ(defib_call_invoke(echo, "text", R"(["ab",2])", 0, &text, &error), 0) << error.message;
  EXPECT_EQ(taken(text), "\"abab\"");
  ASSERT_EQ(defib_call_invoke(echo, "nothing", nullptr, 0, &text, nullptr), 0);
  EXPECT_EQ(taken(text), "null");
  ASSERT_EQ(defib_call_methods(echo, &text, &error), 0);
  EXPECT_THAT(taken(text), StartsWith(R"({"plugin":"echo","version":3,"methods":[)"));

  defib_call_stream* lines = defib_call_stream_open(echo, "lines", "[2,1]", &error);
  ASSERT_NE(lines, nullptr) << error.message;
  for (const char* expected : {"\"0x\"", "\"1x\"", ""}) {
    ASSERT_EQ(defib_call_stream_next(lines, 0, &text, &error), 0) << error.message;
    EXPECT_EQ(taken(text), expected);
  }
  defib_call_stream_close(lines);

  EXPECT_EQ(defib_call_invoke(echo, "throw", "[\"odd\"]", 0, &text, &error), -194);
  EXPECT_EQ(text, nullptr);
  EXPECT_STREQ(error.kind, "MethodThrew");
  EXPECT_THAT(error.message, HasSubstr("std::out_of_range: odd"));
  EXPECT_EQ(last_error()["fields"]["text"].as_string(), "odd");
  EXPECT_EQ(defib_call_faulted(echo), 0);
  ASSERT_EQ(defib_call_report(echo, 0, &text, &error), 0);
  EXPECT_EQ(text, nullptr);

  EXPECT_EQ(defib_call_invoke(echo, "log", R"(["crash","x"])", 0, &text, &error), -190);
  EXPECT_EQ(defib_call_faulted(echo), 1);
  ASSERT_EQ(defib_call_report(echo, 10'000, &text, &error), 0);
  EXPECT_EQ(Json::parse(taken(text))->operator[]("method").as_string(), "log");
  EXPECT_EQ(defib_call_invoke(echo, "nothing", nullptr, 0, &text, &error), -191);
  defib_call_close(echo);
}

TEST(CallInC, WrongArgumentsAreErrorsAndNoCrash) {
  defib_call_error error;
  EXPECT_EQ(defib_call_create(nullptr, nullptr, &error), nullptr);
  EXPECT_THAT(error.message, HasSubstr("plugin must not be NULL"));
  EXPECT_EQ(defib_call_create(kEcho, "{", &error), nullptr);
  EXPECT_THAT(error.message, HasSubstr("the options are no JSON text"));
  EXPECT_EQ(defib_call_create(kEcho, R"({"x":1})", nullptr), nullptr);
  EXPECT_EQ(last_error()["kind"].as_string(), "InvalidArgument");
  EXPECT_EQ(defib_call_invoke(nullptr, nullptr, nullptr, 0, nullptr, nullptr), -2);
  EXPECT_EQ(defib_call_stream_open(nullptr, nullptr, nullptr, nullptr), nullptr);
  EXPECT_EQ(defib_call_stream_next(nullptr, 0, nullptr, nullptr), -2);
  EXPECT_EQ(defib_call_methods(nullptr, nullptr, nullptr), -2);
  EXPECT_EQ(defib_call_report(nullptr, 0, nullptr, nullptr), -2);
  EXPECT_EQ(defib_call_faulted(nullptr), 0);
  defib_call_stream_close(nullptr);
  defib_call_close(nullptr);
  defib_call_free(nullptr);
}

TEST(CallInC, TheLastErrorIsTheThreadsOwnAndCutToItsRoom) {
  EXPECT_EQ(defib_call_create(nullptr, nullptr, nullptr), nullptr);
  char small[8];
  std::fill(small, small + sizeof small, 'x');
  const std::size_t size = defib_call_last_error(small, sizeof small);
  EXPECT_GT(size, sizeof small);
  EXPECT_EQ(std::string(small, sizeof small), std::string("{\"code\"", 8));
  std::thread([] { EXPECT_EQ(defib_call_last_error(nullptr, 0), 0u); }).join();
}

TEST(CallInC, AStreamOutlivesItsClosedClient) {
  defib_call_client* echo = defib_call_create(kEcho, nullptr, nullptr);
  ASSERT_NE(echo, nullptr);
  defib_call_stream* ticks = defib_call_stream_open(echo, "ticks", "[0,3,1]", nullptr);
  ASSERT_NE(ticks, nullptr);
  defib_call_close(echo);
  char* text = nullptr;
  ASSERT_EQ(defib_call_stream_next(ticks, 0, &text, nullptr), 0);
  EXPECT_THAT(taken(text), StartsWith("[0,0,"));
  defib_call_stream_close(ticks);
}

}  // namespace
}  // namespace defib::call

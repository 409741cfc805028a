#include "defib/wire/json_writer.h"

#include <gtest/gtest.h>

#include <string>

namespace defib::wire {
namespace {

TEST(JsonWriter, WritesWhatAValueOfTheSameMembersDumps) {
  const Json inner = Json::object({{"a", Json::array({1, "x", nullptr})}, {"b", Json::object()}});
  Json json =
      Json::object({{"text", "a\"b"}, {"number", 7}, {"large", UINT64_MAX}, {"share", 0.5}});
  json.set("yes", true);
  json.set("inner", inner);
  json.set("list", Json::array({Json::object({{"name", "one"}}), Json::array(), "last"}));
  json.set("empty", Json::object());
  for (const int indent : {-1, 0, 2}) {
    JsonWriter writer(indent);
    writer.open_object();
    writer.member("text", "a\"b");
    writer.member("number", 7);
    writer.member("large", UINT64_MAX);
    writer.member("share", 0.5);
    writer.member("yes", true);
    writer.member("inner", inner);
    writer.key("list");
    writer.open_array();
    writer.open_object();
    writer.member("name", std::string("one"));
    writer.close();
    writer.open_array();
    writer.close();
    writer.item("last");
    writer.close();
    writer.key("empty");
    writer.open_object();
    writer.close();
    writer.close();
    EXPECT_EQ(writer.take(), json.dump(indent));
  }
}

TEST(JsonWriterDeathTest, ADocumentThatIsNotCompleteIsNotGivenAway) {
  JsonWriter writer;
  writer.open_object();
  EXPECT_DEATH(writer.take(), "not complete");
  writer.close();
  EXPECT_DEATH(writer.close(), "nothing is open");
}

}  // namespace
}  // namespace defib::wire

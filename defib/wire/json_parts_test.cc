#include "defib/wire/json_parts.h"

#include <gtest/gtest.h>

#include <string>

namespace defib::wire {
namespace {

// Texts that look like the structure around them.
Json sample() {
  Json json = Json::object({{"text", "a\\\"}],{\"crashed\":1"}, {"empty", ""}, {"number", -1.5}});
  json.set("nothing", Json());
  json.set("list", Json::array({1, "]", Json::object({{"in", "}"}}), Json::array(), true}));
  json.set("object", Json::object({{"number", 7}, {"last", "\\\\"}}));
  json.set("end", 9);
  return json;
}

TEST(JsonParts, OfADocumentAreThoseThatItWasMadeOf) {
  const Json json = sample();
  for (const int indent : {-1, 0, 2}) {
    const std::string text = json.dump(indent);
    for (const auto& [name, member] : json.members()) {
      EXPECT_EQ(json_member(text, name), member) << name << " in " << text;
    }
    EXPECT_EQ(json_member_text(text, "in"), "") << "it stands deeper";
    const auto items = json_items(json_member_text(text, "list"));
    ASSERT_EQ(items.size(), json["list"].size()) << text;
    for (std::size_t i = 0; i < items.size(); ++i) {
      EXPECT_EQ(Json::parse(items[i]).value(), json["list"].items()[i]);
    }
  }
}

TEST(JsonParts, OfADocumentThatIsCutAreWholeOrMissing) {
  const Json json = sample();
  const std::string text = json.dump(2);
  for (std::size_t size = 0; size < text.size(); ++size) {
    const std::string cut = text.substr(0, size);  // on its own, for the sanitizer
    for (const auto& [name, member] : json.members()) {
      const Json found = json_member(cut, name);
      // A number alone does not tell that it goes on.
      EXPECT_TRUE(found.is_null() || found.is_number() || found == member) << cut;
    }
    json_items(json_member_text(cut, "list"));
  }
}

TEST(JsonParts, OfAnythingElseAreNone) {
  for (const std::string_view text :
       {"", "7", "[1,2", "]", "{]", "\"", "{\"a\"", "{\"a\":", "{a b}"}) {
    EXPECT_TRUE(json_member(text, "b").is_null()) << text;
    EXPECT_EQ(json_member_text(text, "b"), "") << text;
  }
  EXPECT_TRUE(json_items("{\"a\":[1]}").empty());
  EXPECT_TRUE(json_items("[]").empty());
}

}  // namespace
}  // namespace defib::wire

// Any bytes: parsing ends, and what it accepts dumps to a text that parses to the same value.

#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "defib/base/assert.h"
#include "defib/wire/json.h"
#include "defib/wire/json_parts.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using defib::wire::Json;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto json = Json::parse(text)) {
    const auto again = Json::parse(json->dump());
    DEFIB_ASSERT(again.has_value());
    DEFIB_ASSERT(*again == *json);
    const auto indented = Json::parse(json->dump(2));
    DEFIB_ASSERT(indented.has_value() && *indented == *json);
    for (const auto& [name, member] : json->members()) {
      if (Json(name).dump() != '"' + name + '"') continue;
      DEFIB_ASSERT(defib::wire::json_member(json->dump(2), name) == member);
    }
    DEFIB_ASSERT(defib::wire::json_items(json->dump(2)).size() == json->items().size());
  } else {
    DEFIB_ASSERT(!json.error().field("offset").empty());
  }
  static_cast<void>(defib::wire::json_member_text(text, "a"));
  static_cast<void>(defib::wire::json_items(text));
  // Any bytes are also a text.
  const auto as_text = Json::parse(Json(text).dump());
  DEFIB_ASSERT(as_text.has_value() && as_text->is_string());
  return 0;
}

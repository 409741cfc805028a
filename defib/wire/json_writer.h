// JsonWriter: a JSON document as text, member by member: for a document that is too large to be
// built as a value first. What it writes is what Json::dump() makes of the same members.
//
// Thread rule: one thread.

#pragma once

#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "defib/wire/json.h"

namespace defib::wire {

class JsonWriter {
 public:
  // `indent` as for Json::dump(); `expected_bytes`: about how much it will be, 0 if not known.
  explicit JsonWriter(int indent = -1, std::size_t expected_bytes = 0);

  void open_object() { open('{', '}'); }
  void open_array() { open('[', ']'); }
  void close();
  // The name of the next item, in an object.
  void key(std::string_view name);
  // A value: an array's item, or a member's.
  template <typename T>
  void item(const T& value) {
    if constexpr (std::is_same_v<T, Json>) {
      json(value);
    } else if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      text(value);
    } else {
      json(Json(value));
    }
  }
  template <typename T>
  void member(std::string_view name, const T& value) {
    key(name);
    item(value);
  }
  // The document; everything that was opened has to be closed.
  std::string take();

 private:
  struct Level {
    char end;
    bool has_items;
  };
  void open(char start, char end);
  void text(std::string_view value);
  void json(const Json& value);
  // What stands before an item or a key.
  void next();
  void new_line();

  std::string out_;
  int indent_;
  std::vector<Level> levels_;
  bool after_key_ = false;
};

}  // namespace defib::wire

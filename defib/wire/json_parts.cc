#include "defib/wire/json_parts.h"

#include <array>
#include <cstring>

namespace defib::wire {
namespace {

// What ends a value that is neither text nor container, and what nests.
constexpr std::string_view kMarks = "\"{}[],: \n\r\t";

constexpr std::array<bool, 256> table_of(std::string_view characters) {
  std::array<bool, 256> table{};
  for (const char c : characters) table[static_cast<unsigned char>(c)] = true;
  return table;
}

void skip_blanks(std::string_view& text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\n' || text.front() == '\r' ||
                           text.front() == '\t')) {
    text.remove_prefix(1);
  }
}

// The length of the text in quotes at the start; of one that does not end, all.
std::size_t quoted_length(std::string_view text) {
  for (std::size_t at = 1; at < text.size(); ++at) {
    const auto* quote =
        static_cast<const char*>(std::memchr(text.data() + at, '"', text.size() - at));
    if (quote == nullptr) break;
    at = static_cast<std::size_t>(quote - text.data());
    std::size_t escapes = 0;
    while (text[at - 1 - escapes] == '\\') ++escapes;
    if (escapes % 2 == 0) return at + 1;
  }
  return text.size();
}

std::size_t value_length(std::string_view text) {
  static constexpr auto kIsMark = table_of(kMarks);
  std::size_t depth = 0;
  std::size_t at = 0;
  while (at < text.size()) {
    const char c = text[at];
    if (!kIsMark[static_cast<unsigned char>(c)]) {
      ++at;
      continue;
    }
    if (c == '"') {
      at += quoted_length(text.substr(at));
      if (depth == 0) return at;
      continue;
    }
    if (c == '{' || c == '[') {
      ++depth;
    } else if (depth == 0) {
      return at;  // behind a number or a word
    } else if ((c == '}' || c == ']') && --depth == 0) {
      return at + 1;
    }
    ++at;
  }
  return at;
}

// Takes the next element of a container whose opening mark was taken; false at its end.
bool next_value(std::string_view& text, std::string_view& value) {
  skip_blanks(text);
  if (text.starts_with(',')) text.remove_prefix(1);
  skip_blanks(text);
  value = text.substr(0, value_length(text));
  text.remove_prefix(value.size());
  return !value.empty();
}

bool enter(std::string_view& text, char mark) {
  skip_blanks(text);
  if (!text.starts_with(mark)) return false;
  text.remove_prefix(1);
  return true;
}

}  // namespace

std::string_view json_member_text(std::string_view object, std::string_view key) {
  if (!enter(object, '{')) return {};
  for (std::string_view name, value; next_value(object, name);) {
    skip_blanks(object);
    if (!enter(object, ':') || !next_value(object, value)) return {};
    if (name.size() == key.size() + 2 && name.substr(1, key.size()) == key) return value;
  }
  return {};
}

Json json_member(std::string_view object, std::string_view key) {
  auto value = Json::parse(json_member_text(object, key));
  return value ? std::move(*value) : Json();
}

std::vector<std::string_view> json_items(std::string_view array) {
  std::vector<std::string_view> items;
  if (!enter(array, '[')) return items;
  for (std::string_view item; next_value(array, item);) items.push_back(item);
  return items;
}

}  // namespace defib::wire

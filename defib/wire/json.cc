// Parsing goes through nlohmann-json's SAX interface, whose lexer is iterative; building and
// reading are ours. JsonBuilder keeps the open containers on a stack of its own, so that the depth
// is checked before anything nests.

#include "defib/wire/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "defib/base/assert.h"
#include "defib/wire/json_writer.h"

namespace defib::wire {
namespace {

const Json kNull;
const Json::Array kNoItems;
const Json::Object kNoMembers;

// About how long the dump will be, a little too much rather than too little, so that it need not
// grow while it is made.
std::size_t dumped_size(const Json& value, std::size_t depth, std::size_t indent) {
  constexpr std::size_t kNumberBytes = 8, kMarks = 6;  // two quotes, colon, blank, comma, line end
  std::size_t size = value.is_string() ? value.as_string().size() : kNumberBytes;
  const std::size_t each = kMarks + (depth + 1) * indent;
  for (const Json& item : value.items()) size += each + dumped_size(item, depth + 1, indent);
  for (const auto& [name, member] : value.members()) {
    size += each + name.size() + dumped_size(member, depth + 1, indent);
  }
  return size;
}

// Walks the text and tells how far the lexer has come, which the SAX interface does not.
class CountingIterator {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, const char** furthest) : at_(at), furthest_(furthest) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    *furthest_ = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) {
    return a.at_ == b.at_;
  }

 private:
  const char* at_;
  const char** furthest_;
};

Error malformed(std::size_t offset, std::string_view what) {
  return Error(Code::kJsonMalformed, fmt::format("not valid JSON at byte {}: {}", offset, what))
      .with("offset", static_cast<std::int64_t>(offset));
}

// The part of nlohmann's message that speaks of the text: "invalid literal; last read: '1a'".
std::string_view library_reason(std::string_view what) {
  for (const std::string_view prefix : {"syntax error while parsing ", "[json.exception."}) {
    const std::size_t at = what.find(prefix);
    if (at == std::string_view::npos) continue;
    if (prefix.front() != '[') return what.substr(at + prefix.size());
    const std::size_t end = what.find("] ", at);
    if (end != std::string_view::npos) return what.substr(end + 2);
  }
  return what;
}

std::string_view type_name(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_bool()) return "true or false";
  if (value.is_number()) return "a number";
  if (value.is_string()) return "a text";
  return value.is_array() ? "an array" : "an object";
}

Error wrong_shape(const Json& object, std::string_view key, std::string_view expected) {
  std::string message =
      object.has(key) ? fmt::format("member '{}' is {}, and {} is expected", key,
                                    type_name(object[key]), expected)
                      : fmt::format("member '{}' is missing, and {} is expected", key, expected);
  return Error(Code::kJsonWrongShape, std::move(message)).with("member", key);
}

bool has_duplicate(const Json::Object& members) {
  if (members.size() < 2) return false;
  std::vector<std::string_view> names;
  names.reserve(members.size());
  for (const Json::Member& member : members) names.push_back(member.first);
  std::sort(names.begin(), names.end());
  return std::adjacent_find(names.begin(), names.end()) != names.end();
}

}  // namespace

// The SAX handler: every function returns false to stop the lexer, with error_ set.
class JsonBuilder {
 public:
  explicit JsonBuilder(std::string_view text)
      : text_(text), furthest_(text.data()), error_(Code::kInternal, "not parsed") {}

  Result<Json> parse() {
    // The lexer takes a zero byte for the end of its input.
    if (const std::size_t zero = text_.find('\0'); zero != std::string_view::npos) {
      return malformed(zero, "a zero byte");
    }
    const CountingIterator begin(text_.data(), &furthest_);
    const CountingIterator end(text_.data() + text_.size(), &furthest_);
    if (!nlohmann::json::sax_parse(begin, end, this)) return error_;
    return std::move(root_);
  }

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(std::int64_t value) { return add(Json(value)); }
  bool number_unsigned(std::uint64_t value) { return add(Json(value)); }
  bool number_float(double value, const std::string& digits) {
    if (digits.find_first_of(".eE") == std::string::npos) {
      return fail("a whole number beyond 64 bits, which cannot be kept exactly");
    }
    return add(Json(value));
  }
  bool string(std::string& value) { return add(Json(std::move(value))); }
  bool binary(nlohmann::json::binary_t&) { return fail("binary data"); }

  bool start_object(std::size_t) { return open(Json::object()); }
  bool key(std::string& name) {
    open_.back().key = std::move(name);
    return true;
  }
  bool end_object() {
    if (has_duplicate(open_.back().value.members())) {
      return fail("a member name stands twice in the object that ends here");
    }
    return close();
  }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool end_array() { return close(); }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception& e) {
    // The library counts characters from 1, and its end of input as one more.
    const std::size_t offset = std::min(position == 0 ? 0 : position - 1, text_.size());
    error_ = malformed(offset, library_reason(e.what()));
    return false;
  }

 private:
  struct Open {
    Json value;
    std::string key;  // of the member that comes next
  };

  bool fail(std::string_view what) {
    error_ = malformed(static_cast<std::size_t>(furthest_ - text_.data()), what);
    return false;
  }
  bool open(Json container) {
    if (open_.size() == static_cast<std::size_t>(Json::kMaxDepth)) {
      return fail(fmt::format("nested deeper than {} levels", Json::kMaxDepth));
    }
    open_.push_back({std::move(container), {}});
    return true;
  }
  bool close() {
    Json value = std::move(open_.back().value);
    open_.pop_back();
    return add(std::move(value));
  }
  bool add(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (auto* members = std::get_if<Json::Object>(&open_.back().value.value_)) {
      members->emplace_back(std::move(open_.back().key), std::move(value));
    } else {
      std::get<Json::Array>(open_.back().value.value_).push_back(std::move(value));
    }
    return true;
  }

  std::string_view text_;
  const char* furthest_;
  std::vector<Open> open_;
  Json root_;
  Error error_;
};

Json Json::array(std::initializer_list<Json> items) {
  Json json;
  json.value_ = Array(items);
  return json;
}

Json Json::object(std::initializer_list<Member> members) {
  Json json;
  json.value_ = Object(members);
  DEFIB_ASSERT(!has_duplicate(json.members()));
  return json;
}

bool Json::is_whole() const {
  return std::holds_alternative<std::int64_t>(value_) ||
         std::holds_alternative<std::uint64_t>(value_);
}

bool Json::is_number() const {
  return is_whole() || std::holds_alternative<double>(value_);
}

bool Json::as_bool(bool fallback) const {
  const bool* value = std::get_if<bool>(&value_);
  return value != nullptr ? *value : fallback;
}

std::int64_t Json::as_int(std::int64_t fallback) const {
  const auto* value = std::get_if<std::int64_t>(&value_);
  return value != nullptr ? *value : fallback;
}

std::uint64_t Json::as_uint(std::uint64_t fallback) const {
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) return *value;
  const auto* value = std::get_if<std::int64_t>(&value_);
  return value != nullptr && *value >= 0 ? static_cast<std::uint64_t>(*value) : fallback;
}

double Json::as_double(double fallback) const {
  if (const auto* value = std::get_if<double>(&value_)) return *value;
  if (const auto* value = std::get_if<std::int64_t>(&value_)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*value);
  return fallback;
}

std::string_view Json::as_string() const {
  const auto* value = std::get_if<std::string>(&value_);
  return value != nullptr ? std::string_view(*value) : std::string_view();
}

const Json::Array& Json::items() const {
  const auto* items = std::get_if<Array>(&value_);
  return items != nullptr ? *items : kNoItems;
}

const Json::Object& Json::members() const {
  const auto* members = std::get_if<Object>(&value_);
  return members != nullptr ? *members : kNoMembers;
}

const Json& Json::operator[](std::string_view key) const {
  for (const Member& member : members()) {
    if (member.first == key) return member.second;
  }
  return kNull;
}

bool Json::has(std::string_view key) const {
  return std::any_of(members().begin(), members().end(),
                     [key](const Member& member) { return member.first == key; });
}

Json& Json::set(std::string_view key, Json value) {
  if (is_null()) value_ = Object();
  DEFIB_ASSERT_MESSAGE(is_object(), "a member is set on a JSON value that is no object");
  auto& members = std::get<Object>(value_);
  for (Member& member : members) {
    if (member.first == key) {
      member.second = std::move(value);
      return *this;
    }
  }
  members.emplace_back(std::string(key), std::move(value));
  return *this;
}

Json& Json::push(Json value) {
  if (is_null()) value_ = Array();
  DEFIB_ASSERT_MESSAGE(is_array(), "an item is pushed to a JSON value that is no array");
  std::get<Array>(value_).push_back(std::move(value));
  return *this;
}

std::size_t Json::size() const {
  return is_object() ? members().size() : items().size();
}

Result<std::string> Json::require_string(std::string_view key) const {
  const Json& member = (*this)[key];
  if (!member.is_string()) return wrong_shape(*this, key, "a text");
  return std::string(member.as_string());
}

Result<std::int64_t> Json::require_int(std::string_view key) const {
  const Json& member = (*this)[key];
  if (!std::holds_alternative<std::int64_t>(member.value_)) {
    return wrong_shape(*this, key, "a whole number");
  }
  return member.as_int();
}

std::string Json::dump(int indent) const {
  JsonWriter writer(indent, dumped_size(*this, 0, static_cast<std::size_t>(std::max(indent, 0))));
  writer.item(*this);
  return writer.take();
}

Result<Json> Json::parse(std::string_view text) {
  return JsonBuilder(text).parse();
}

Json to_json(const Error& error) {
  std::vector<const Error*> chain;
  for (const Error* next = &error; next != nullptr; next = next->cause()) chain.push_back(next);
  Json json;
  for (auto next = chain.rbegin(); next != chain.rend(); ++next) {
    Json fields = Json::object();
    for (const Error::Field& field : (*next)->fields()) fields.set(field.key, field.value);
    json = Json::object({{"code", (*next)->number()},
                         {"kind", (*next)->kind()},
                         {"class", to_string((*next)->error_class())},
                         {"message", (*next)->message()},
                         {"suggested_action", (*next)->suggested_action()},
                         {"fields", std::move(fields)},
                         {"cause", std::move(json)}});
  }
  return json;
}

}  // namespace defib::wire

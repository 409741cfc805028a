// Json: a value of any JSON type, for small documents; parse and dump.
//
// Objects keep the order in which their members were added, so that a dump is reproducible (hashes
// are taken over dumps). Whole numbers stay exact (64 bits); money travels as strings.
// Parsing is stricter than RFC 8259 has to be, so that no two readers can understand one text
// differently: a name that stands twice in an object, a whole number beyond 64 bits, invalid UTF-8
// and anything after the value are errors.
// Reading is total: a missing member or another type yields a null Json, zero, false or an empty
// text; the require_* functions return an Error that names the member instead.
// Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "defib/base/error.h"

namespace defib::wire {

class Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() = default;  // null
  Json(std::nullptr_t) {}
  Json(bool value) : value_(value) {}
  Json(int value) : value_(static_cast<std::int64_t>(value)) {}
  Json(unsigned value) : value_(static_cast<std::int64_t>(value)) {}
  Json(long value) : value_(static_cast<std::int64_t>(value)) {}
  Json(long long value) : value_(static_cast<std::int64_t>(value)) {}
  Json(unsigned long value) : Json(static_cast<unsigned long long>(value)) {}
  // One number has one representation: unsigned only where it does not fit a signed one.
  Json(unsigned long long value) {
    if (value <= INT64_MAX) {
      value_ = static_cast<std::int64_t>(value);
    } else {
      value_ = static_cast<std::uint64_t>(value);
    }
  }
  Json(double value) : value_(value) {}
  Json(const char* value) : value_(std::string(value)) {}
  Json(std::string_view value) : value_(std::string(value)) {}
  Json(std::string value) : value_(std::move(value)) {}
  static Json array(std::initializer_list<Json> items = {});
  static Json object(std::initializer_list<Member> members = {});

  bool is_null() const { return std::holds_alternative<std::monostate>(value_); }
  bool is_bool() const { return std::holds_alternative<bool>(value_); }
  bool is_number() const;
  // A number without fraction or exponent, which is exact.
  bool is_whole() const;
  bool is_string() const { return std::holds_alternative<std::string>(value_); }
  bool is_array() const { return std::holds_alternative<Array>(value_); }
  bool is_object() const { return std::holds_alternative<Object>(value_); }

  // The value, or the fallback where the type is another.
  bool as_bool(bool fallback = false) const;
  std::int64_t as_int(std::int64_t fallback = 0) const;
  std::uint64_t as_uint(std::uint64_t fallback = 0) const;
  // Of any number; a whole one beyond 2^53 is rounded.
  double as_double(double fallback = 0) const;
  // A view into this value; empty where it is not a string.
  std::string_view as_string() const;
  // Empty where it is not an array or object.
  const Array& items() const;
  const Object& members() const;

  // The member of that name, or a null Json.
  const Json& operator[](std::string_view key) const;
  bool has(std::string_view key) const;
  // Adds or replaces a member (null becomes an object), returns *this.
  Json& set(std::string_view key, Json value);
  // Appends an item (null becomes an array), returns *this.
  Json& push(Json value);
  std::size_t size() const;  // of an array or object, else 0

  // JsonWrongShape names the member and what stands there.
  Result<std::string> require_string(std::string_view key) const;
  Result<std::int64_t> require_int(std::string_view key) const;

  // Compact, or indented by `indent` spaces. Control characters and invalid UTF-8 are escaped or
  // replaced, so that the result is always valid JSON.
  std::string dump(int indent = -1) const;
  // JsonMalformed names the byte offset (also as the field "offset") and what was expected.
  // Nesting is bounded.
  static constexpr int kMaxDepth = 64;
  static Result<Json> parse(std::string_view text);

  friend bool operator==(const Json&, const Json&) = default;

 private:
  friend class JsonBuilder;
  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      value_;
};

// {"code","kind","class","message","suggested_action","fields","cause"}; the form of every
// program's --json error.
Json to_json(const Error& error);

}  // namespace defib::wire

#include "defib/call/json_codec.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "defib/base/bytes.h"
#include "defib/base/visible_text.h"
#include "defib/call/codec.h"

namespace defib::call {
namespace {

using wire::Json;

constexpr std::string_view kHex = "hex";
constexpr std::size_t kMostShown = 48;

// Where in an argument a value stands: [3][0]{"delta"}. On the stack of who descends.
struct Place {
  const Place* above = nullptr;
  std::string_view key;
  std::size_t index = 0;
};

std::string to_text(const Place* place) {
  std::string text;
  for (; place != nullptr; place = place->above) {
    const std::string step = place->key.data() != nullptr
                                 ? fmt::format("{{\"{}\"}}", visible_text(place->key))
                                 : fmt::format("[{}]", place->index);
    text.insert(0, step);
  }
  return text;
}

std::string_view json_type(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_bool()) return "true or false";
  if (value.is_whole()) return "a whole number";
  if (value.is_number()) return "a number with a fraction";
  if (value.is_string()) return "a text";
  return value.is_array() ? "a list" : "an object";
}

// The bytes of a text that is no UTF-8.
bool from_hex_json(const Json& value, std::string& bytes) {
  return value.is_object() && value.size() == 1 && value[kHex].is_string() &&
         from_hex(value[kHex].as_string(), bytes);
}

class JsonEncoder {
 public:
  JsonEncoder(std::string& out, bool hides_values)
      : out_(out), encoder_(out), hides_values_(hides_values) {}

  // False: error() says why. Its recursion is bounded by the type's depth.
  bool put(const Type& type, const Json& value, const Place* place) {
    switch (type.kind) {
      case TypeKind::kVoid:
        return value.is_null() || wrong(type, value, place);
      case TypeKind::kBool:
        if (!value.is_bool()) return wrong(type, value, place);
        encoder_.put(value.as_bool());
        return true;
      case TypeKind::kSigned:
      case TypeKind::kUnsigned:
        return whole(type, value) || wrong(type, value, place);
      case TypeKind::kFloat:
        return number(type, value) || wrong(type, value, place);
      case TypeKind::kText:
      case TypeKind::kSecret:
        return text(value) || wrong(type, value, place);
      case TypeKind::kList:
        if (!value.is_array()) return wrong(type, value, place);
        return length(value.size(), type, place) && items(type, value, place);
      case TypeKind::kArray:
      case TypeKind::kAggregate:
        return items(type, value, place);
      case TypeKind::kMap:
        return map(type, value, place);
      case TypeKind::kOptional:
        encoder_.put(!value.is_null());
        return value.is_null() || put(type.parts[0], value, place);
      case TypeKind::kVariant:
        return variant(type, value, place);
    }
    return false;
  }
  const std::string& error() const { return error_; }

 private:
  bool wrong(const Type& type, const Json& value, const Place* place) {
    return wrong(place, in_words(type), shown(value));
  }
  bool wrong(const Place* place, std::string_view expected, std::string_view given) {
    const std::string at = to_text(place);
    error_ = fmt::format("{}{}{} is expected, not {}", at.empty() ? "" : "at ", at,
                         fmt::format("{}{}", at.empty() ? "" : ", ", expected), given);
    return false;
  }
  std::string shown(const Json& value) const {
    if (hides_values_ || value.is_array() || value.is_object()) {
      return std::string(json_type(value));
    }
    if (value.is_string()) {
      const std::string text = visible_text(value.as_string().substr(0, kMostShown));
      return fmt::format("\"{}{}\"", text, value.as_string().size() > kMostShown ? "..." : "");
    }
    return value.dump();
  }

  bool whole(const Type& type, const Json& value) {
    if (!value.is_whole()) return false;
    const int bits = type.width * 8;
    if (type.kind == TypeKind::kUnsigned) {
      if (value.as_int() < 0) return false;
      const std::uint64_t number = value.as_uint();
      if (number > std::numeric_limits<std::uint64_t>::max() >> (64 - bits)) return false;
      append_bytes(&number, type.width);
      return true;
    }
    if (value.as_uint() > INT64_MAX) return false;
    const std::int64_t number = value.as_int();
    const std::int64_t most = std::numeric_limits<std::int64_t>::max() >> (64 - bits);
    if (number > most || number < -most - 1) return false;
    append_bytes(&number, type.width);
    return true;
  }

  bool number(const Type& type, const Json& value) {
    double number = value.as_double();
    if (value.is_string()) {
      constexpr double kInfinity = std::numeric_limits<double>::infinity();
      if (value.as_string() == "nan") {
        number = std::numeric_limits<double>::quiet_NaN();
      } else if (value.as_string() == "inf" || value.as_string() == "-inf") {
        number = value.as_string() == "inf" ? kInfinity : -kInfinity;
      } else {
        return false;
      }
    } else if (!value.is_number()) {
      return false;
    }
    if (type.width == sizeof(double)) {
      encoder_.put(number);
      return true;
    }
    const bool fits =
        !std::isfinite(number) || std::abs(number) <= std::numeric_limits<float>::max();
    if (fits) encoder_.put(static_cast<float>(number));
    return fits;
  }

  bool text(const Json& value) {
    std::string bytes;
    if (value.is_string()) {
      encoder_.put(value.as_string());
      return true;
    }
    if (!from_hex_json(value, bytes)) return false;
    encoder_.put(bytes);
    return true;
  }

  bool length(std::size_t size, const Type& type, const Place* place) {
    if (size > std::numeric_limits<std::uint32_t>::max()) {
      return wrong(place, in_words(type), "so many items");
    }
    encoder_.put(static_cast<std::uint32_t>(size));
    return true;
  }

  // Of a list, an array or an aggregate.
  bool items(const Type& type, const Json& value, const Place* place) {
    const bool aggregate = type.kind == TypeKind::kAggregate;
    const bool fixed = type.kind != TypeKind::kList;
    const std::uint64_t count = aggregate ? type.parts.size() : type.count;
    if (!value.is_array()) return wrong(type, value, place);
    if (fixed && value.size() != count) {
      return wrong(place, in_words(type), fmt::format("one of {}", value.size()));
    }
    for (std::size_t i = 0; i < value.size(); ++i) {
      const Place item{place, {}, i};
      if (!put(type.parts[aggregate ? i : 0], value.items()[i], &item)) return false;
    }
    return true;
  }

  bool map(const Type& type, const Json& value, const Place* place) {
    const bool object = value.is_object() && type.parts[0].kind == TypeKind::kText;
    if (!object && !value.is_array()) return wrong(type, value, place);
    if (!length(value.size(), type, place)) return false;
    // The receiver refuses a key that stands twice; here it can be named.
    std::set<std::string> keys;
    const auto entry = [&](const Json& key, const Json& mapped, const Place& at) {
      const std::size_t start = out_.size();
      if (!put(type.parts[0], key, &at)) return false;
      if (!keys.insert(out_.substr(start)).second) {
        return wrong(&at, "a key that stands once", "one that stands twice");
      }
      return put(type.parts[1], mapped, &at);
    };
    if (object) {
      return std::ranges::all_of(value.members(), [&](const Json::Member& member) {
        return entry(Json(member.first), member.second, Place{place, member.first, 0});
      });
    }
    for (std::size_t i = 0; i < value.size(); ++i) {
      const Json& pair = value.items()[i];
      const Place at{place, {}, i};
      if (!pair.is_array() || pair.size() != 2)
        return wrong(&at, "a pair [key, value]", shown(pair));
      if (!entry(pair.items()[0], pair.items()[1], at)) return false;
    }
    return true;
  }

  bool variant(const Type& type, const Json& value, const Place* place) {
    if (!value.is_object() || value.size() != 1) return wrong(type, value, place);
    const auto& [name, held] = value.members()[0];
    for (std::size_t i = 0; i < type.parts.size(); ++i) {
      if (name != std::to_string(i)) continue;
      encoder_.put(static_cast<std::uint8_t>(i));
      const Place at{place, name, 0};
      return put(type.parts[i], held, &at);
    }
    return wrong(type, value, place);
  }

  void append_bytes(const void* number, std::size_t width) {
    out_.append(static_cast<const char*>(number), width);
  }

  std::string& out_;
  Encoder encoder_;
  bool hides_values_;
  std::string error_;
};

Json float_json(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  return value;
}

// A number of the type from as many bytes as it is wide.
Json number_json(const Type& type, const char* bytes) {
  if (type.kind == TypeKind::kFloat) {
    float narrow = 0;
    double wide = 0;
    if (type.width == sizeof wide) {
      std::memcpy(&wide, bytes, sizeof wide);
    } else {
      std::memcpy(&narrow, bytes, sizeof narrow);
      wide = static_cast<double>(narrow);
    }
    return float_json(wide);
  }
  std::uint64_t number = 0;
  std::memcpy(&number, bytes, type.width);
  if (type.kind == TypeKind::kUnsigned) return number;
  const int unused = 64 - type.width * 8;
  return static_cast<std::int64_t>(number << unused) >> unused;
}

class JsonDecoder {
 public:
  explicit JsonDecoder(std::string_view bytes) : left_(bytes) {}

  // Its recursion is bounded by the type's depth.
  bool get(const Type& type, Json& value) {
    if (++values_ > kMaxJsonValues) {
      problem_ = DecodeProblem::kTooLarge;
      return false;
    }
    switch (type.kind) {
      case TypeKind::kVoid:
        value = Json();
        return true;
      case TypeKind::kBool: {
        std::uint8_t byte = 0;
        if (!take(&byte, 1) || byte > 1) return false;
        value = byte == 1;
        return true;
      }
      case TypeKind::kSigned:
      case TypeKind::kUnsigned:
      case TypeKind::kFloat: {
        char bytes[8];
        if (!take(bytes, type.width)) return false;
        value = number_json(type, bytes);
        return true;
      }
      case TypeKind::kText:
      case TypeKind::kSecret: {
        std::string_view bytes;
        if (!text(bytes)) return false;
        value = text_json(bytes);
        return true;
      }
      case TypeKind::kList: {
        std::uint32_t count = 0;
        return length(count) && items(type, count, value);
      }
      case TypeKind::kArray:
        return items(type, type.count, value);
      case TypeKind::kAggregate:
        return items(type, type.parts.size(), value);
      case TypeKind::kMap:
        return map(type, value);
      case TypeKind::kOptional: {
        std::uint8_t has = 0;
        if (!take(&has, 1) || has > 1) return false;
        value = Json();
        return has == 0 || get(type.parts[0], value);
      }
      case TypeKind::kVariant:
        return variant(type, value);
    }
    return false;
  }
  bool done() const { return left_.empty(); }
  DecodeProblem problem() const { return problem_; }

 private:
  bool take(void* to, std::size_t size) {
    if (size > left_.size()) return false;
    std::memcpy(to, left_.data(), size);
    left_.remove_prefix(size);
    return true;
  }
  // Every element takes a byte at least (codec.h), so that a length costs no more than was sent.
  bool length(std::uint32_t& count) { return take(&count, sizeof count) && count <= left_.size(); }
  bool text(std::string_view& bytes) {
    std::uint32_t size = 0;
    if (!length(size)) return false;
    bytes = left_.substr(0, size);
    left_.remove_prefix(size);
    return true;
  }

  bool items(const Type& type, std::uint64_t count, Json& value) {
    value = Json::array();
    const bool aggregate = type.kind == TypeKind::kAggregate;
    for (std::uint64_t i = 0; i < count; ++i) {
      Json item;
      if (!get(type.parts[aggregate ? i : 0], item)) return false;
      value.push(std::move(item));
    }
    return true;
  }

  bool map(const Type& type, Json& value) {
    std::uint32_t count = 0;
    if (!length(count)) return false;
    std::set<std::string_view> keys;
    std::vector<std::pair<Json, Json>> entries;
    bool object = type.parts[0].kind == TypeKind::kText && count <= kMaxObjectMembers;
    for (std::uint32_t i = 0; i < count; ++i) {
      auto& [key, mapped] = entries.emplace_back();
      const std::string_view start = left_;
      if (!get(type.parts[0], key)) return false;
      // By their bytes: JSON has one NaN, and the type may have many.
      if (!keys.insert(start.substr(0, start.size() - left_.size())).second) return false;
      if (!get(type.parts[1], mapped)) return false;
      object = object && key.is_string();
    }
    value = object ? Json::object() : Json::array();
    for (auto& [key, mapped] : entries) {
      if (object) {
        value.set(key.as_string(), std::move(mapped));
      } else {
        Json pair = Json::array();
        pair.push(std::move(key)).push(std::move(mapped));
        value.push(std::move(pair));
      }
    }
    return true;
  }

  bool variant(const Type& type, Json& value) {
    std::uint8_t index = 0;
    if (!take(&index, 1) || index >= type.parts.size()) return false;
    Json held;
    if (!get(type.parts[index], held)) return false;
    value = Json::object();
    value.set(std::to_string(index), std::move(held));
    return true;
  }

  std::string_view left_;
  std::size_t values_ = 0;
  DecodeProblem problem_ = DecodeProblem::kBroken;
};

// A value at its place in a record; the record's size was checked. False: too many values.
bool get_fixed(const Type& type, const char* at, Json& value, std::size_t& values) {
  if (++values > kMaxJsonValues) return false;
  if (type.kind == TypeKind::kVoid) {
    value = Json();
    return true;
  }
  if (type.kind != TypeKind::kArray && type.kind != TypeKind::kAggregate) {
    value = number_json(type, at);
    return true;
  }
  value = Json::array();
  const bool aggregate = type.kind == TypeKind::kAggregate;
  const std::uint64_t count = aggregate ? type.parts.size() : type.count;
  std::uint64_t offset = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    const Type& part = type.parts[aggregate ? i : 0];
    offset = (offset + part.align - 1) / part.align * part.align;
    Json item;
    if (!get_fixed(part, at + offset, item, values)) return false;
    value.push(std::move(item));
    offset += part.size;
  }
  return true;
}

void summarize_json(std::string& out, const Type& type, const Json& value) {
  constexpr std::size_t kMostElements = 4;
  if (out.size() > kMaxSummary) return;
  if (type.kind == TypeKind::kSecret) {
    out += "***";
    return;
  }
  if (type.kind == TypeKind::kOptional) {
    if (value.is_null()) {
      out += "none";
      return;
    }
    return summarize_json(out, type.parts[0], value);
  }
  if (type.kind == TypeKind::kVariant && value.is_object()) {
    const auto& [name, held] = value.members()[0];
    for (std::size_t i = 0; i < type.parts.size(); ++i) {
      if (name == std::to_string(i)) summarize_json(out, type.parts[i], held);
    }
    return;
  }
  if (type.kind == TypeKind::kMap) {
    out += fmt::format("{{{} entries}}", value.size());
    return;
  }
  if (value.is_string()) {
    const std::string_view text = value.as_string();
    out +=
        fmt::format("\"{}{}\"", text.substr(0, kMostShown), text.size() > kMostShown ? "..." : "");
    return;
  }
  if (!value.is_array()) {
    out += value.dump().substr(0, kMostShown);
    return;
  }
  const bool aggregate = type.kind == TypeKind::kAggregate;
  out += aggregate ? '{' : '[';
  std::size_t shown = 0;
  for (const Json& item : value.items()) {
    if ((!aggregate && shown == kMostElements) || out.size() > kMaxSummary) break;
    if (shown > 0) out += ", ";
    summarize_json(out, type.parts[aggregate ? shown : 0], item);
    ++shown;
  }
  if (value.size() > shown) out += fmt::format(", ... {} more", value.size() - shown);
  out += aggregate ? '}' : ']';
}

}  // namespace

Result<std::string> encode_arguments(const Signature& signature, const Json& arguments) {
  const auto wrong = [&](std::string message) {
    return Error(Code::kInvalidArgument, std::move(message))
        .with("method", signature.name)
        .with("signature", call::to_text(signature))
        .suggest("docs/formats/call.md tells how each type is written as JSON");
  };
  if (!arguments.is_array()) {
    return wrong(fmt::format("the arguments of {} are a list ({} of them), not {}", signature.name,
                             signature.parameters.size(), json_type(arguments)));
  }
  if (arguments.size() != signature.parameters.size()) {
    return wrong(fmt::format("{} takes {} arguments, and {} were given", call::to_text(signature),
                             signature.parameters.size(), arguments.size()));
  }
  std::string bytes;
  JsonEncoder encoder(bytes, signature.has_secret());
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    if (encoder.put(signature.parameters[i], arguments.items()[i], nullptr)) continue;
    return wrong(fmt::format("argument {} of {}: {}", i + 1, signature.name, encoder.error()))
        .with("argument", static_cast<std::int64_t>(i + 1));
  }
  return bytes;
}

Decoded decode_json(const Type& type, std::string_view bytes) {
  Decoded decoded;
  JsonDecoder decoder(bytes);
  if (!decoder.get(type, decoded.value)) {
    decoded.problem = decoder.problem();
  } else if (!decoder.done()) {
    decoded.problem = DecodeProblem::kBroken;
  }
  return decoded;
}

Decoded decode_record(const Type& type, std::string_view bytes) {
  Decoded decoded;
  std::size_t values = 0;
  if (type.size == 0 || bytes.size() != type.size) {
    decoded.problem = DecodeProblem::kBroken;
  } else if (!get_fixed(type, bytes.data(), decoded.value, values)) {
    decoded.problem = DecodeProblem::kTooLarge;
  }
  return decoded;
}

Json text_json(std::string_view text) {
  const bool ascii =
      std::ranges::all_of(text, [](char c) { return static_cast<unsigned char>(c) < 0x80; });
  if (ascii) return Json(text);
  // The writer replaces what is no UTF-8, so that such a text does not come back as it was.
  Json json(text);
  const auto back = Json::parse(json.dump());
  if (back && back->as_string() == text) return json;
  return hex_json(text);
}

Json hex_json(std::string_view bytes) {
  return Json::object({{std::string(kHex), to_hex(as_bytes(bytes))}});
}

void summarize_arguments(std::string& out, const Signature& signature, const Json& arguments) {
  for (std::size_t i = 0; i < arguments.size() && i < signature.parameters.size(); ++i) {
    if (i > 0) out += ", ";
    summarize_json(out, signature.parameters[i], arguments.items()[i]);
  }
}

}  // namespace defib::call

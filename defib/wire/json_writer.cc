#include "defib/wire/json_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <iterator>

#include "defib/base/assert.h"

namespace defib::wire {
namespace {

// The length of the well-formed UTF-8 sequence at the start of `text` (Unicode 15, table 3-7), or
// 0 where there is none. `text` is not empty.
std::size_t utf8_length(std::string_view text) {
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto in = [&](std::size_t i, unsigned low, unsigned high) {
    return i < text.size() && at(i) >= low && at(i) <= high;
  };
  const auto tail = [&](std::size_t i) { return in(i, 0x80, 0xBF); };
  const unsigned lead = at(0);
  if (lead < 0x80) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead == 0xE0) return in(1, 0xA0, 0xBF) && tail(2) ? 3 : 0;
  if (lead == 0xED) return in(1, 0x80, 0x9F) && tail(2) ? 3 : 0;
  if (lead >= 0xE1 && lead <= 0xEF) return tail(1) && tail(2) ? 3 : 0;
  if (lead == 0xF0) return in(1, 0x90, 0xBF) && tail(2) && tail(3) ? 4 : 0;
  if (lead == 0xF4) return in(1, 0x80, 0x8F) && tail(2) && tail(3) ? 4 : 0;
  if (lead >= 0xF1 && lead <= 0xF3) return tail(1) && tail(2) && tail(3) ? 4 : 0;
  return 0;
}

// ASCII that stands in a document as it is.
bool is_plain(char c) {
  return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

// How many bytes at the start of the text are plain; eight at a time, since most of them are.
std::size_t plain_length(std::string_view text) {
  constexpr std::uint64_t kOnes = 0x0101010101010101, kTops = kOnes << 7;
  const auto has_zero = [](std::uint64_t bytes) { return (bytes - kOnes) & ~bytes & kTops; };
  std::size_t at = 0;
  for (; at + sizeof(std::uint64_t) <= text.size(); at += sizeof(std::uint64_t)) {
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, text.data() + at, sizeof bytes);
    const std::uint64_t below_blank = (bytes - kOnes * ' ') & ~bytes & kTops;
    const std::uint64_t beyond_tilde = (bytes | (bytes + kOnes)) & kTops;
    if ((below_blank | beyond_tilde | has_zero(bytes ^ kOnes * '"') |
         has_zero(bytes ^ kOnes * '\\')) != 0) {
      break;
    }
  }
  while (at < text.size() && is_plain(text[at])) ++at;
  return at;
}

void dump_string(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const std::size_t plain = plain_length(text);
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const char c = text.front();
    std::size_t length = 1;
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        length = utf8_length(text);
        if (length == 0) {
          out += "\xEF\xBF\xBD";  // U+FFFD, the replacement character.
          length = 1;
        } else if (static_cast<unsigned char>(c) < 0x20) {
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += text.substr(0, length);
        }
    }
    text.remove_prefix(length);
  }
  out += '"';
}

void dump_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += "null";  // JSON has no other word for it.
    return;
  }
  char buffer[32];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  out += text;
  // Stays a double when it is read back.
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

}  // namespace

JsonWriter::JsonWriter(int indent, std::size_t expected_bytes) : indent_(indent) {
  out_.reserve(expected_bytes);
}

void JsonWriter::open(char start, char end) {
  next();
  out_ += start;
  levels_.push_back({end, false});
}

void JsonWriter::close() {
  DEFIB_ASSERT_MESSAGE(!levels_.empty(), "nothing is open in the JSON document");
  const Level level = levels_.back();
  levels_.pop_back();
  if (level.has_items) new_line();
  out_ += level.end;
}

void JsonWriter::key(std::string_view name) {
  next();
  dump_string(out_, name);
  out_ += indent_ < 0 ? ":" : ": ";
  after_key_ = true;
}

std::string JsonWriter::take() {
  DEFIB_ASSERT_MESSAGE(levels_.empty(), "the JSON document is not complete");
  return std::move(out_);
}

void JsonWriter::text(std::string_view value) {
  next();
  dump_string(out_, value);
}

void JsonWriter::json(const Json& value) {
  if (value.is_object()) {
    open_object();
    for (const auto& [name, one] : value.members()) member(name, one);
    close();
  } else if (value.is_array()) {
    open_array();
    for (const Json& one : value.items()) json(one);
    close();
  } else if (value.is_string()) {
    text(value.as_string());
  } else {
    next();
    if (value.is_bool()) {
      out_ += value.as_bool() ? "true" : "false";
    } else if (value.is_null()) {
      out_ += "null";
    } else if (!value.is_whole()) {
      dump_double(out_, value.as_double());
    } else if (const std::int64_t whole = value.as_int(); whole != 0) {
      out_ += fmt::format_int(whole).c_str();
    } else {
      out_ += fmt::format_int(value.as_uint()).c_str();
    }
  }
}

void JsonWriter::next() {
  if (after_key_) {
    after_key_ = false;
    return;
  }
  if (levels_.empty()) return;
  if (levels_.back().has_items) out_ += ',';
  levels_.back().has_items = true;
  new_line();
}

void JsonWriter::new_line() {
  if (indent_ < 0) return;
  out_ += '\n';
  out_.append(static_cast<std::size_t>(indent_) * levels_.size(), ' ');
}

}  // namespace defib::wire

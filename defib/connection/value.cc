#include "defib/connection/value.h"

#include <fmt/core.h>

#include <charconv>

namespace defib::connection {

std::string to_text(const Value& value) {
  struct Visitor {
    std::string operator()(std::monostate) const { return {}; }
    std::string operator()(bool b) const { return b ? "true" : "false"; }
    std::string operator()(std::int64_t i) const { return std::to_string(i); }
    std::string operator()(double d) const { return fmt::format("{}", d); }
    std::string operator()(const std::string& s) const { return s; }
    std::string operator()(const Blob& b) const { return b.bytes; }
  };
  return std::visit(Visitor{}, value);
}

std::optional<std::int64_t> Rows::scalar_int() const {
  const std::string text = scalar();
  std::int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

}  // namespace defib::connection

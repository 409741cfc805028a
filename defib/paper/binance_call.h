// Binance::Call: typed reading of one request's parameters, private to the dialect's .cc files.
//
// The first problem sticks and every later read returns a default, so a handler reads all that it
// needs and asks once, with done().

#pragma once

#include <fmt/core.h>

#include "defib/paper/binance.h"

namespace defib::paper {

struct Binance::Endpoint {
  std::string_view method;
  std::string_view path;
  int weight;  // the usual one; see weight_of()
  bool is_signed;
  Answer (Binance::*handler)(Call& call);
};

class Binance::Call {
 public:
  Call(const Core& core, Parameters& parameters) : core_(core), parameters_(parameters) {}

  static Refused missing(std::string_view name) {
    return {
        400, -1102,
        fmt::format("Mandatory parameter '{}' was not sent, was empty/null, or malformed.", name)};
  }
  static Refused illegal(std::string_view name, std::string_view range) {
    return {400, -1100,
            fmt::format("Illegal characters found in parameter '{}'; legal range is '{}'.", name,
                        range)};
  }
  static Refused not_required(std::string_view name) {
    return {400, -1106, fmt::format("Parameter '{}' sent when not required.", name)};
  }

  void fail(Refused refused) {
    if (!problem_) problem_ = std::move(refused);
  }
  bool has(std::string_view name) const { return parameters_.has(name); }
  // Absent: nullopt; sent but empty: -1105.
  std::optional<std::string_view> optional_text(std::string_view name) {
    const std::optional<std::string_view> value = parameters_.take(name);
    if (value && value->empty()) {
      fail({400, -1105, fmt::format("Parameter '{}' was empty.", name)});
    }
    return value;
  }
  std::string_view text(std::string_view name) {
    const std::optional<std::string_view> value = parameters_.take(name);
    if (!value || value->empty()) fail(missing(name));
    return value.value_or(std::string_view());
  }
  void forbid(std::string_view name) {
    if (parameters_.take(name)) fail(not_required(name));
  }
  // -1102 where `required` and absent, -1121 where it is none of the venue's.
  std::optional<std::uint32_t> symbol(bool required = true) {
    if (!required && !has("symbol")) return std::nullopt;
    const std::string_view name = text("symbol");
    const std::optional<std::uint32_t> found = core_.find_symbol(name);
    if (!found) fail({400, -1121, "Invalid symbol."});
    return found.value_or(0);
  }
  std::vector<std::uint32_t> symbols(bool& as_array);
  std::optional<std::int64_t> integer(std::string_view name);
  Decimal decimal(std::string_view name);
  template <typename Enum>
  Enum choice(std::string_view name, Refused otherwise) {
    const std::string_view value = text(name);
    const std::optional<Enum> found = from_string<Enum>(value);
    if (!found) fail(std::move(otherwise));
    return found.value_or(Enum{});
  }
  // A client order id: '^[a-zA-Z0-9-_]{1,36}$'; empty where absent.
  std::string client_id(std::string_view name);
  std::size_t limit(std::int64_t otherwise, std::int64_t most);
  // What the fault plan does to an order placed by this call.
  void set_fault(std::string names, std::int64_t lag_ms) {
    fault_ = std::move(names);
    lag_ms_ = lag_ms;
  }
  const std::string& fault() const { return fault_; }
  Micros visible_after_us() const { return lag_ms_ * 1000; }
  // The first problem, or -1104 where something was sent that nobody read.
  std::optional<Refused> done();

 private:
  const Core& core_;
  Parameters& parameters_;
  std::optional<Refused> problem_;
  std::string fault_;
  std::int64_t lag_ms_ = 0;
};

}  // namespace defib::paper

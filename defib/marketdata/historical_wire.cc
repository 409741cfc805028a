#include "defib/base/visible_text.h"
#include "defib/marketdata/historical_plugin.h"

namespace defib::marketdata {
namespace {

constexpr std::size_t kMostCauses = 8;

Code code_of(std::int32_t number) {
  for (const CodeInfo& info : all_codes()) {
    if (static_cast<std::int32_t>(info.code) == number) return info.code;
  }
  return Code::kMarketDataBadAnswer;
}

}  // namespace

WireError to_wire(const Error& error) {
  WireError wire{error.number(), error.message(), error.suggested_action(), {}, {}};
  for (const Error::Field& field : error.fields()) wire.fields.emplace_back(field.key, field.value);
  for (const Error* cause = error.cause(); cause != nullptr && wire.causes.size() < kMostCauses;
       cause = cause->cause()) {
    wire.causes.emplace_back(cause->number(), cause->message());
  }
  return wire;
}

// Its texts are the worker's, and may be any bytes.
Error from_wire(const WireError& wire) {
  Error error(code_of(wire.code), visible_text(wire.message));
  for (const auto& [key, value] : wire.fields) {
    error = std::move(error).with(visible_text(key), visible_text(value));
  }
  if (!wire.suggestion.empty()) error = std::move(error).suggest(visible_text(wire.suggestion));
  std::optional<Error> cause;
  for (auto it = wire.causes.rbegin(); it != wire.causes.rend(); ++it) {
    Error one(code_of(it->first), visible_text(it->second));
    cause = cause ? std::move(one).because(*cause) : std::move(one);
  }
  return cause ? std::move(error).because(*cause) : error;
}

}  // namespace defib::marketdata

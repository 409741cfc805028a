#include "defib/venue/rest.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <utility>

#include "defib/os/clock.h"

namespace defib::venue {
namespace {

constexpr std::size_t kDigits = 8;

}  // namespace

Error no_outcome(Effect effect, std::string_view venue, std::string_view what,
                 std::string_view problem) {
  if (effect == Effect::kOrders) {
    return Error(Code::kVenueOutcomeUnknown,
                 fmt::format("{} did not tell what became of {}: {}", venue, what, problem));
  }
  return Error(Code::kVenueUnreachable,
               fmt::format("{} gave no answer to {}: {}", venue, what, problem));
}

Result<wire::HttpResponse> exchange(wire::HttpClient& http, const wire::HttpRequest& request,
                                    Effect effect, std::string_view venue, std::string_view what,
                                    const std::function<void()>& after) {
  Result<wire::HttpResponse> response = http.send(request);
  if (after) after();
  if (response) return response;
  const Error& cause = response.error();
  if (cause.code() == Code::kHttpConnectFailed) {
    return Error(Code::kVenueUnreachable,
                 fmt::format("{} cannot be reached, nothing was sent", venue))
        .with("nothing_sent", "true")
        .because(cause);
  }
  if (cause.code() == Code::kInvalidArgument) return cause;
  return no_outcome(effect, venue, what, "no complete answer came back").because(cause);
}

Error bad_answer(std::string problem) {
  return Error(Code::kVenueBadAnswer, std::move(problem));
}

Result<wire::Json> parse_answer(std::string_view body, std::string_view what) {
  Result<wire::Json> json = wire::Json::parse(body);
  if (json) return json;
  return bad_answer(fmt::format("the answer is not {}", what)).because(json.error());
}

Result<std::string> text_member(const wire::Json& json, std::string_view name,
                                std::string_view what) {
  if (!json[name].is_string()) {
    return bad_answer(fmt::format("`{}` of {} is missing or not a string", name, what));
  }
  return std::string(json[name].as_string());
}

Result<Decimal> parse_amount(std::string_view text, bool cut) {
  const std::size_t point = text.find('.');
  if (cut && point != std::string_view::npos && text.size() - point - 1 > kDigits) {
    text = text.substr(0, point + 1 + kDigits);
  }
  return Decimal::parse(text);
}

Result<Decimal> amount_member(const wire::Json& json, std::string_view name, std::string_view what,
                              bool cut) {
  DEFIB_TRY_ASSIGN(const std::string text, text_member(json, name, what));
  Result<Decimal> value = parse_amount(text, cut);
  if (value) return value;
  return bad_answer(fmt::format("`{}` of {} is not an amount", name, what)).because(value.error());
}

std::int64_t seconds_to_ms(std::string_view text) {
  const std::size_t point = std::min(text.find('.'), text.size());
  std::int64_t whole = 0;
  const auto [end, problem] = std::from_chars(text.data(), text.data() + point, whole);
  if (problem != std::errc() || end != text.data() + point || whole < 0 ||
      whole > INT64_MAX / 1'000)
    return -1;
  std::int64_t ms = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t at = point + 1 + i;
    const char c = at < text.size() ? text[at] : '0';
    if (c < '0' || c > '9') return -1;
    ms = ms * 10 + (c - '0');
  }
  return whole * 1'000 + ms;
}

std::string number_text(const wire::Json& json) {
  return json.is_string() ? std::string(json.as_string()) : json.dump();
}

std::string rfc3339_ms(std::int64_t ms) {
  std::string text = os::format_time(ms * 1'000'000);  // ... .123456789Z
  constexpr std::size_t kCut = 7;                      // six digits and the Z
  text.resize(text.size() - kCut);
  return text + "Z";
}

}  // namespace defib::venue

#include "defib/marketdata/gateway.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "defib/base/visible_text.h"

namespace defib::marketdata {
namespace {

constexpr std::size_t kMaxWords = 500;  // of the service, in an error
constexpr std::string_view kHidden = "[key]";

void replace_all(std::string& text, std::string_view what, std::string_view by) {
  if (what.empty()) return;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at)) {
    text.replace(at, what.size(), by);
    at += by.size();
  }
}

// What the service says of an error: {"detail":{"case","message",...}}, {"detail":"text"}, or a
// list of what is wrong with which parameter.
struct Words {
  std::string kind;
  std::string message;
};

Words words_of(std::string_view body) {
  const auto json = wire::Json::parse(body);
  const wire::Json detail = json ? (*json)["detail"] : wire::Json();
  if (detail.is_string()) return {{}, std::string(detail.as_string())};
  if (detail.is_object()) {
    return {std::string(detail["case"].as_string()), std::string(detail["message"].as_string())};
  }
  if (detail.is_array()) {
    std::string all;
    for (const wire::Json& item : detail.items()) {
      if (!all.empty()) all += "; ";
      for (const wire::Json& part : item["loc"].items()) {
        all += fmt::format("{}: ", part.is_string() ? part.as_string() : part.dump());
      }
      all += item["msg"].as_string();
    }
    return {{}, all};
  }
  return {{}, std::string(body)};
}

std::optional<std::int64_t> retry_after_ms(const wire::HttpResponse& answer) {
  const std::string_view text = answer.header("Retry-After");
  std::int64_t seconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seconds);
  if (error != std::errc() || end != text.data() + text.size() || seconds < 0 || seconds > 86'400) {
    return std::nullopt;  // Also the form with a date, which needs a clock that agrees.
  }
  return seconds * 1000;
}

Code code_of_status(int status) {
  if (status == 401 || status == 403) return Code::kMarketDataAuthFailed;
  if (status == 429) return Code::kMarketDataRateLimited;
  if (status >= 400 && status <= 499) return Code::kMarketDataRejected;
  if (status >= 500) return Code::kMarketDataUnavailable;
  return Code::kMarketDataBadAnswer;
}

}  // namespace

std::string encode_form(const Parameters& parameters) {
  std::string text;
  for (const auto& [name, value] : parameters) {
    if (!text.empty()) text += '&';
    text += name;
    text += '=';
    text += wire::url_encode(value);
  }
  return text;
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t group = 0;
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8 | (at + i < bytes.size() ? static_cast<std::uint8_t>(bytes[at + i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      const bool is_there = at + i <= bytes.size();
      out += is_there ? kDigits[group >> (18 - 6 * i) & 63U] : '=';
    }
  }
  return out;
}

Gateway::Gateway(Settings settings)
    : settings_(std::move(settings)),
      authorization_("Basic " + base64(settings_.key + ":")),
      client_({.connect_timeout = settings_.limits.connect_timeout,
               .timeout = settings_.limits.timeout,
               .max_body = settings_.limits.max_answer,
               .ca_file = settings_.ca_file}) {}

wire::HttpRequest Gateway::request(std::string_view http_method, std::string_view method,
                                   const Parameters& parameters) const {
  wire::HttpRequest request;
  request.method = http_method;
  request.url = fmt::format("{}/v0/{}", settings_.url, method);
  request.headers = {
      {"Authorization", authorization_}, {"Accept", "application/json"}, {"User-Agent", "defib"}};
  const std::string form = encode_form(parameters);
  if (http_method == "POST") {
    request.headers.emplace_back("Content-Type", "application/x-www-form-urlencoded");
    request.body = form;
  } else if (!form.empty()) {
    request.url += '?' + form;
  }
  return request;
}

std::string Gateway::redact(std::string text) const {
  replace_all(text, base64(settings_.key + ":"), kHidden);
  replace_all(text, base64(settings_.key), kHidden);
  replace_all(text, wire::url_encode(settings_.key), kHidden);
  replace_all(text, settings_.key, kHidden);
  return text;
}

Error Gateway::refused(const wire::HttpResponse& answer, std::string_view method) const {
  Words words = words_of(answer.body);
  // Before it is shortened: half of a key is hidden as well as the whole.
  std::string message = visible_text(redact(std::move(words.message)));
  std::replace(message.begin(), message.end(), '\n', ' ');
  if (message.size() > kMaxWords) message = visible_text(message.substr(0, kMaxWords)) + "...";
  const Code code = code_of_status(answer.status);
  Error error =
      Error(code, fmt::format("{}: {} (status {})", method,
                              message.empty() ? "no explanation" : message, answer.status))
          .with("method", method)
          .with("status", answer.status);
  if (!words.kind.empty()) {
    error = std::move(error).with("case", visible_text(redact(std::move(words.kind))));
  }
  if (const auto wait = retry_after_ms(answer); wait && code == Code::kMarketDataRateLimited) {
    error = std::move(error)
                .with("retry_after_ms", *wait)
                .suggest(fmt::format("wait {} s", *wait / 1000));
  }
  return error;
}

Error Gateway::unreachable(const Error& cause, std::string_view method) const {
  return Error(Code::kMarketDataUnavailable,
               fmt::format("{}: no answer from {}", method, settings_.url))
      .with("method", method)
      .because(cause);
}

Result<std::string> Gateway::body_of(Result<wire::HttpResponse> answer,
                                     std::string_view method) const {
  if (!answer) return unreachable(answer.error(), method);
  if (answer->status != 200) return refused(*answer, method);
  return std::move(answer->body);
}

namespace {

Result<wire::Json> parse(const Result<std::string>& body, std::string_view method) {
  if (!body) return body.error();
  auto json = wire::Json::parse(*body);
  if (!json) {
    return Error(Code::kMarketDataBadAnswer, fmt::format("{}: the answer is not JSON", method))
        .with("method", method)
        .because(json.error());
  }
  return std::move(*json);
}

}  // namespace

Result<std::string> Gateway::post_text(std::string_view method, const Parameters& parameters) {
  return body_of(client_.send(request("POST", method, parameters)), method);
}

Result<wire::Json> Gateway::get(std::string_view method, const Parameters& parameters) {
  return parse(body_of(client_.send(request("GET", method, parameters)), method), method);
}

Result<wire::Json> Gateway::post(std::string_view method, const Parameters& parameters) {
  return parse(post_text(method, parameters), method);
}

Result<wire::HttpResponse> Gateway::stream(std::string_view method, const Parameters& parameters,
                                           const wire::HttpClient::OnPart& on_part) {
  bool begun = false;
  auto answer = client_.stream(
      request("POST", method, parameters),
      {.timeout = settings_.limits.stream_timeout, .stall_timeout = settings_.limits.stall_timeout},
      [&](const wire::HttpResponse& head, std::string_view part) {
        begun = true;
        return on_part(head, part);
      });
  if (!answer) return begun ? answer.error() : unreachable(answer.error(), method);
  if (answer->status != 200) return refused(*answer, method);
  return answer;
}

}  // namespace defib::marketdata

#include <fmt/core.h>

#include <algorithm>

#include "defib/alert/message.h"
#include "defib/alert/send.h"
#include "defib/alert/send_deliver.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/wire/http.h"

namespace defib::alert {
namespace {

constexpr std::size_t kMaxBatch = 64;
constexpr std::size_t kMaxAnswer = 1 << 20;
constexpr std::string_view kAlertsPath = "/api/v2/alerts";

// The address may be a secret, and an answer's text is the peer's: neither goes into an error.
std::string without(std::string text, std::string_view url) {
  const std::string_view shown = url.substr(0, url.find('?'));
  for (std::size_t at = text.find(shown); !shown.empty() && at != std::string::npos;
       at = text.find(shown, at)) {
    text.replace(at, shown.size(), "(address)");
  }
  return text;
}

std::string target_of(const Receiver& receiver, std::string url) {
  if (receiver.format != Format::kAlertmanager || url.ends_with(kAlertsPath)) return url;
  while (url.ends_with('/')) url.pop_back();
  return url + std::string(kAlertsPath);
}

}  // namespace

Result<std::string> resolve(const std::string& value_or_reference) {
  if (!value_or_reference.starts_with("env:") && !value_or_reference.starts_with("file:")) {
    return value_or_reference;
  }
  DEFIB_TRY_ASSIGN(const conf::Secret secret, conf::read_secret(value_or_reference));
  return secret.reveal();
}

std::size_t batch_size(const Receiver& receiver) {
  const bool list = receiver.kind == Kind::kWebhook && receiver.format == Format::kAlertmanager;
  return list ? kMaxBatch : 1;
}

Attempt deliver(const Receiver& receiver, const std::vector<Message>& messages) {
  switch (receiver.kind) {
    case Kind::kWebhook:
      return send_webhook(receiver, messages);
    case Kind::kEmail:
      return send_mail(receiver, messages.front());
    case Kind::kCommand:
      return send_command(receiver, messages.front());
  }
  return {false, true, "a receiver of an unknown kind"};
}

Attempt send_webhook(const Receiver& receiver, const std::vector<Message>& messages) {
  const auto url = resolve(receiver.url);
  if (!url) return {false, false, url.error().to_line()};
  wire::HttpRequest request;
  request.method = "POST";
  request.url = target_of(receiver, *url);
  const bool plain = receiver.format == Format::kPlain;
  request.body = (plain ? plain_body(messages.front()) : alertmanager_body(messages)).dump();
  request.headers = {{"Content-Type", "application/json"}, {"User-Agent", "defib"}};
  if (plain) request.headers.emplace_back("X-Defib-Message-Id", messages.front().id);
  if (!receiver.token.empty()) {
    const auto token = resolve(receiver.token);
    if (!token) return {false, false, token.error().to_line()};
    request.headers.emplace_back("Authorization", "Bearer " + *token);
  }
  if (!receiver.secret.empty()) {
    const auto secret = resolve(receiver.secret);
    if (!secret) return {false, false, secret.error().to_line()};
    const std::string now = fmt::format("{}", os::real_clock().wall_ns() / 1'000'000'000);
    request.headers.emplace_back("X-Defib-Timestamp", now);
    request.headers.emplace_back("X-Defib-Signature", signature_of(*secret, now, request.body));
  }
  wire::HttpClient::Options options;
  options.timeout = receiver.timeout;
  options.connect_timeout = std::min<os::Duration>(receiver.timeout, std::chrono::seconds(5));
  options.max_body = kMaxAnswer;
  options.ca_file = receiver.ca_file;
  wire::HttpClient client(options);
  const auto response = client.send(request);
  if (!response) {
    const bool unusable = response.error().code() == Code::kInvalidArgument;
    return {false, unusable, without(response.error().to_line(), request.url)};
  }
  const int status = response->status;
  if (status >= 200 && status < 300) return {true, false, {}};
  // Time-out, conflict, too early, too many: those change by themselves.
  const bool later =
      status >= 500 || status == 408 || status == 409 || status == 425 || status == 429;
  return {false, !later, fmt::format("the receiver answered with status {}", status)};
}

}  // namespace defib::alert

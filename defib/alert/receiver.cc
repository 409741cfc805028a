#include "defib/alert/receiver.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/alert/queue.h"

namespace defib::alert {
namespace {

using namespace std::chrono_literals;

constexpr conf::Range<os::Duration> kAnyTime{0s, 24h * 30};
constexpr conf::Range<os::Duration> kAttemptTime{100ms, 5min};
constexpr conf::Range<os::Duration> kRetryTime{1s, 24h * 30};
constexpr conf::Range<int> kRate{1, 10'000};
constexpr std::uint64_t kMaxFile = 1 << 20;

bool is_reference(std::string_view text) {
  return text.starts_with("env:") || text.starts_with("file:");
}

bool is_printable(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) { return c > 0x20 && c < 0x7f; });
}

// "https://user:password@host/": a secret in plain sight.
bool holds_password(std::string_view url) {
  const std::size_t begin = url.find("://");
  const std::string_view rest = begin == std::string_view::npos ? url : url.substr(begin + 3);
  return rest.substr(0, rest.find_first_of("/?#")).find('@') != std::string_view::npos;
}

// A reference, checked and made independent of the file's directory.
void reference(conf::Section& section, std::string_view key, std::string& out) {
  conf::Secret value;
  section.value(key, value);  // what is wrong with it is told here
  section.secret_reference(key, out);
}

void read_webhook(conf::Section& section, Receiver& receiver) {
  std::string url = section.required<std::string>("url");
  if (is_reference(url)) {
    reference(section, "url", receiver.url);
  } else if (!url.empty()) {
    const bool known = url.starts_with("http://") || url.starts_with("https://");
    if (!known || !is_printable(url)) {
      section.fail("url", "expected http://..., https://..., env:NAME or file:PATH");
    } else if (holds_password(url)) {
      section.fail("url",
                   "a password must not stand in the address; use env:NAME or file:PATH "
                   "for the whole address");
    }
    receiver.url = std::move(url);
  }
  section.word("format", receiver.format,
               {{"plain", Format::kPlain}, {"alertmanager", Format::kAlertmanager}});
  reference(section, "secret", receiver.secret);
  reference(section, "token", receiver.token);
  section.value("ca_file", receiver.ca_file);
}

// What may stand between < and > in an envelope.
bool is_mail_address(std::string_view text) {
  const std::size_t at = text.rfind('@');
  return at != std::string_view::npos && at > 0 && at + 1 < text.size() && is_printable(text) &&
         text.find_first_of("<>(),;:\\\"[]") == std::string_view::npos;
}

void read_email(conf::Section& section, Receiver& receiver) {
  receiver.server = section.required<std::string>("server");
  const bool known =
      receiver.server.starts_with("smtp://") || receiver.server.starts_with("smtps://");
  if (!receiver.server.empty() && (!known || !is_printable(receiver.server))) {
    section.fail("server", "expected smtp://HOST[:PORT] or smtps://HOST[:PORT]");
  } else if (holds_password(receiver.server)) {
    section.fail("server", "a password must not stand in the address; use `user` and `password`");
  }
  section.word("tls", receiver.tls_required, {{"required", true}, {"none", false}});
  section.value("ca_file", receiver.ca_file);
  reference(section, "user", receiver.user);
  reference(section, "password", receiver.password);
  if (receiver.user.empty() != receiver.password.empty()) {
    section.fail(receiver.user.empty() ? "password" : "user", "`user` and `password` go together");
  }
  if (!receiver.tls_required && !receiver.password.empty()) {
    section.fail("tls", "a password is never sent without TLS; use \"required\"");
  }
  receiver.from = section.required<std::string>("from");
  if (!receiver.from.empty() && !is_mail_address(receiver.from)) {
    section.fail("from", fmt::format("'{}' is no mail address", receiver.from));
  }
  receiver.to = section.required<std::vector<std::string>>("to");
  for (const std::string& address : receiver.to) {
    if (!is_mail_address(address)) {
      section.fail("to", fmt::format("'{}' is no mail address", address));
    }
  }
}

Receiver read_receiver(conf::Section& section, std::string name) {
  Receiver receiver;
  receiver.name = std::move(name);
  if (!section.has("kind")) section.required<std::string>("kind");
  section.word("kind", receiver.kind,
               {{"webhook", Kind::kWebhook}, {"email", Kind::kEmail}, {"command", Kind::kCommand}});
  section.word("min_severity", receiver.min_severity,
               {{"info", Severity::kInfo},
                {"warning", Severity::kWarning},
                {"critical", Severity::kCritical}});
  section.value("services", receiver.services);
  section.value("escalate_after", receiver.escalate_after, kAnyTime);
  section.value("send_resolved", receiver.send_resolved);
  section.value("fold_window", receiver.fold_window, kAnyTime);
  section.value("repeat_interval", receiver.repeat_interval, kAnyTime);
  if (receiver.repeat_interval > 0s && receiver.repeat_interval < 1s) {
    section.fail("repeat_interval", "expected 0 (never) or at least 1s");
  }
  section.value("max_per_minute", receiver.max_per_minute, kRate);
  section.value("max_per_service", receiver.max_per_service, kRate);
  section.value("timeout", receiver.timeout, kAttemptTime);
  section.value("retry_for", receiver.retry_for, kRetryTime);
  switch (receiver.kind) {
    case Kind::kWebhook:
      read_webhook(section, receiver);
      break;
    case Kind::kEmail:
      read_email(section, receiver);
      break;
    case Kind::kCommand:
      receiver.command = section.required<std::vector<std::string>>("command");
      if (section.has("command") && (receiver.command.empty() || receiver.command[0].empty())) {
        section.fail("command", "expected a program and its arguments");
      }
      break;
  }
  return receiver;
}

wire::Json texts(const std::vector<std::string>& values) {
  wire::Json json = wire::Json::array();
  for (const std::string& value : values) json.push(value);
  return json;
}

std::vector<std::string> texts_of(const wire::Json& json) {
  std::vector<std::string> values;
  for (const wire::Json& item : json.items()) values.emplace_back(item.as_string());
  return values;
}

wire::Json to_json(const Receiver& r) {
  return wire::Json::object({{"name", r.name},
                             {"kind", static_cast<int>(r.kind)},
                             {"min_severity", to_string(r.min_severity)},
                             {"services", texts(r.services)},
                             {"escalate_after_ns", r.escalate_after.count()},
                             {"send_resolved", r.send_resolved},
                             {"fold_window_ns", r.fold_window.count()},
                             {"repeat_interval_ns", r.repeat_interval.count()},
                             {"max_per_minute", r.max_per_minute},
                             {"max_per_service", r.max_per_service},
                             {"timeout_ns", r.timeout.count()},
                             {"retry_for_ns", r.retry_for.count()},
                             {"url", r.url},
                             {"format", static_cast<int>(r.format)},
                             {"secret", r.secret},
                             {"token", r.token},
                             {"ca_file", r.ca_file},
                             {"server", r.server},
                             {"tls_required", r.tls_required},
                             {"user", r.user},
                             {"password", r.password},
                             {"from", r.from},
                             {"to", texts(r.to)},
                             {"command", texts(r.command)}});
}

// What was written is within the bounds; what is read may have been written by anybody.
Receiver from_json(const wire::Json& json) {
  const auto time = [&](std::string_view name) {
    return std::clamp<os::Duration>(os::Duration(json[name].as_int()), kAnyTime.min, kAnyTime.max);
  };
  const auto rate = [&](std::string_view name) {
    return static_cast<int>(std::clamp<std::int64_t>(json[name].as_int(1), kRate.min, kRate.max));
  };
  Receiver r;
  r.name = json["name"].as_string();
  r.kind = static_cast<Kind>(std::clamp<std::int64_t>(json["kind"].as_int(), 0, 2));
  parse_severity(json["min_severity"].as_string(), r.min_severity);
  r.services = texts_of(json["services"]);
  r.escalate_after = time("escalate_after_ns");
  r.send_resolved = json["send_resolved"].as_bool(true);
  r.fold_window = time("fold_window_ns");
  r.repeat_interval = time("repeat_interval_ns");
  r.max_per_minute = rate("max_per_minute");
  r.max_per_service = rate("max_per_service");
  r.timeout = time("timeout_ns");
  r.retry_for = time("retry_for_ns");
  r.url = json["url"].as_string();
  r.format = json["format"].as_int() == 1 ? Format::kAlertmanager : Format::kPlain;
  r.secret = json["secret"].as_string();
  r.token = json["token"].as_string();
  r.ca_file = json["ca_file"].as_string();
  r.server = json["server"].as_string();
  r.tls_required = json["tls_required"].as_bool(true);
  r.user = json["user"].as_string();
  r.password = json["password"].as_string();
  r.from = json["from"].as_string();
  r.to = texts_of(json["to"]);
  r.command = texts_of(json["command"]);
  return r;
}

std::string receivers_path(const std::string& state_dir) {
  return os::join_path(alerts_dir(state_dir), "receivers.json");
}

}  // namespace

bool Receiver::wants(Severity severity, const std::string& service) const {
  if (severity < min_severity) return false;
  return services.empty() || std::ranges::find(services, service) != services.end();
}

std::vector<Receiver> read_receivers(conf::Section& root) {
  std::vector<Receiver> receivers;
  for (auto& [name, section] : root.named_tables("alert")) {
    receivers.push_back(read_receiver(section, name));
  }
  return receivers;
}

Result<> save_receivers(os::Files& files, const std::string& state_dir,
                        const std::vector<Receiver>& receivers) {
  wire::Json list = wire::Json::array();
  for (const Receiver& receiver : receivers) list.push(to_json(receiver));
  const wire::Json document =
      wire::Json::object({{"schema", "defib.receivers/1"}, {"receivers", std::move(list)}});
  const std::string text = document.dump(1) + "\n";
  if (const auto present = os::read_file(files, receivers_path(state_dir), kMaxFile);
      present && *present == text) {
    return {};
  }
  DEFIB_TRY(files.create_dirs(alerts_dir(state_dir)));
  return os::write_file_atomically(files, receivers_path(state_dir), text);
}

Result<std::vector<Receiver>> load_receivers(os::Files& files, const std::string& state_dir) {
  std::vector<Receiver> receivers;
  const auto text = os::read_file(files, receivers_path(state_dir), kMaxFile);
  if (!text && text.error().code() == Code::kFileNotFound) return receivers;
  if (!text) return text.error();
  DEFIB_TRY_ASSIGN(const wire::Json document, wire::Json::parse(*text));
  for (const wire::Json& one : document["receivers"].items()) receivers.push_back(from_json(one));
  return receivers;
}

}  // namespace defib::alert

#include "defib/alert/message.h"

#include <fmt/core.h>
#include <time.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"

namespace defib::alert {
namespace {

constexpr std::size_t kBlock = 64;     // of SHA-256
constexpr std::size_t kMailLine = 76;  // of base64
constexpr std::size_t kMaxSubject = 200;
constexpr std::int64_t kNoticeLastsNs = 3'600'000'000'000;
constexpr std::int64_t kFiringLastsNs = 24 * kNoticeLastsNs;

std::string time_or_empty(std::int64_t ns) {
  return ns == 0 ? std::string() : os::format_time(ns);
}

std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t at = 0; at < bytes.size(); at += 3) {
    std::uint32_t group = 0;
    const std::size_t have = std::min<std::size_t>(3, bytes.size() - at);
    for (std::size_t i = 0; i < 3; ++i) {
      group = group << 8 | (i < have ? static_cast<unsigned char>(bytes[at + i]) : 0U);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      out += i <= have ? kDigits[group >> (18 - 6 * i) & 63] : '=';
    }
  }
  return out;
}

bool is_plain(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= 0x20 && c < 0x7f; });
}

// A header's text: no line can be forged, and what is not ASCII is encoded (RFC 2047).
std::string header_text(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (text.size() > kMaxSubject) {
    text.resize(kMaxSubject);
    // Not in the middle of a character.
    while (!text.empty() && (static_cast<unsigned char>(text.back()) & 0xc0) == 0x80) {
      text.pop_back();
    }
    if (!text.empty() && (static_cast<unsigned char>(text.back()) & 0x80) != 0) text.pop_back();
    text += "...";
  }
  if (is_plain(text)) return text;
  std::string out;
  constexpr std::size_t kWord = 42;  // bytes of one encoded word, which may have 75 characters
  for (std::size_t at = 0; at < text.size();) {
    std::size_t size = std::min(kWord, text.size() - at);
    while (size > 1 && at + size < text.size() &&
           (static_cast<unsigned char>(text[at + size]) & 0xc0) == 0x80) {
      --size;
    }
    out += fmt::format("{}=?UTF-8?B?{}?=", out.empty() ? "" : "\r\n ",
                       base64(std::string_view(text).substr(at, size)));
    at += size;
  }
  return out;
}

// "Sun, 29 Nov 2026 22:58:10 +0000", in English whatever the locale.
std::string mail_date(std::int64_t wall_ns) {
  constexpr std::string_view kDays[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
  constexpr std::string_view kMonths[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                          "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  const time_t seconds = wall_ns / 1'000'000'000;
  struct tm utc = {};
  gmtime_r(&seconds, &utc);
  return fmt::format("{}, {:02} {} {} {:02}:{:02}:{:02} +0000", kDays[utc.tm_wday], utc.tm_mday,
                     kMonths[utc.tm_mon], utc.tm_year + 1900, utc.tm_hour, utc.tm_min, utc.tm_sec);
}

std::string_view advice_of(const Message& message) {
  if (message.kind == MessageKind::kTest) return "Nothing is wrong: somebody asked for this test.";
  if (message.kind == MessageKind::kResolved) return "";
  if (message.cause == "crash_loop") return "Find the cause first, then `defib reset` the service.";
  if (message.cause == "approval_needed") return "A human has to approve: `defib approve`.";
  if (message.cause == "disk_full") return "Free space: work goes on, and is not recorded.";
  return "";
}

std::string mail_body(const Message& message) {
  std::string body = message.text + "\n\n";
  const auto add = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) body += fmt::format("{:<14}{}\n", key, value);
  };
  add("Status:", std::string(to_string(message.kind)));
  add("Severity:", std::string(to_string(message.severity)));
  add("Service:", message.service);
  add("Cause:", message.cause);
  add("Count:", fmt::format("{} ({} in all)", message.count, message.total));
  add("First:", time_or_empty(message.first_ns));
  add("Last:", time_or_empty(message.last_ns));
  add("Ended:", time_or_empty(message.ended_ns));
  add("Outcome:", message.outcome);
  add("Incident:", message.incident);
  add("Head hash:", message.head);
  add("Alert:", message.alert);
  const std::string_view advice = advice_of(message);
  if (!advice.empty()) body += fmt::format("\n{}\n", advice);
  if (message.kind == MessageKind::kFiring || message.kind == MessageKind::kRepeat) {
    body += fmt::format("\nTake notice:  defib alert ack {}\n", message.alert);
  }
  if (!message.incident.empty()) {
    body += fmt::format("Look at it:   defib incident show {}\n", message.incident);
  }
  return body;
}

}  // namespace

wire::Json plain_body(const Message& message) {
  const bool over = message.kind == MessageKind::kResolved;
  const auto or_null = [](const std::string& text) {
    return text.empty() ? wire::Json() : wire::Json(text);
  };
  return wire::Json::object(
      {{"schema", "defib.alert/1"},
       {"id", message.id},
       {"alert", message.alert},
       {"status", message.kind == MessageKind::kTest ? "test"
                  : over                             ? "resolved"
                                                     : "firing"},
       {"repeat", message.kind == MessageKind::kRepeat},
       {"severity", to_string(message.severity)},
       {"message", message.text},
       {"timestamp",
        os::format_time(over && message.ended_ns != 0 ? message.ended_ns : message.last_ns)},
       {"service", message.service},
       {"cause", message.cause},
       {"incident", or_null(message.incident)},
       {"head_hash", or_null(message.head)},
       {"outcome", or_null(message.outcome)},
       {"count", message.count},
       {"total", message.total},
       {"first_at", os::format_time(message.first_ns)},
       {"last_at", os::format_time(message.last_ns)},
       {"ended_at", or_null(time_or_empty(message.ended_ns))}});
}

wire::Json alertmanager_body(const std::vector<Message>& messages) {
  wire::Json list = wire::Json::array();
  for (const Message& message : messages) {
    // The labels are the alert's identity there: they are the same when it ends.
    wire::Json one = wire::Json::object(
        {{"labels",
          wire::Json::object({{"alertname", "Defib" + std::string(message.kind == MessageKind::kTest
                                                                      ? "Test"
                                                                      : "ServiceFailure")},
                              {"service", message.service},
                              {"cause", message.cause},
                              {"severity", to_string(message.severity)}})},
         {"annotations", wire::Json::object({{"summary", subject_of(message)},
                                             {"description", message.text},
                                             {"incident", message.incident},
                                             {"head_hash", message.head},
                                             {"alert_id", message.alert},
                                             {"message_id", message.id},
                                             {"count", fmt::format("{}", message.total)}})},
         {"startsAt", os::format_time(message.first_ns)}});
    // Alertmanager ends by itself, after minutes, what nobody gives an end.
    const std::int64_t lasts = message.notice ? kNoticeLastsNs : kFiringLastsNs;
    one.set("endsAt",
            os::format_time(message.ended_ns != 0 ? message.ended_ns : message.created_ns + lasts));
    list.push(std::move(one));
  }
  return list;
}

std::string subject_of(const Message& message) {
  const std::string times = message.total > 1 ? fmt::format(" ({} times)", message.total) : "";
  if (message.kind == MessageKind::kTest) return "[test] a test message of defib";
  if (message.kind == MessageKind::kResolved) {
    return fmt::format("[resolved] {}: {}{}", message.service, message.cause, times);
  }
  return fmt::format("[{}] {}: {}{}{}", to_string(message.severity), message.service, message.cause,
                     times, message.kind == MessageKind::kRepeat ? ", still open" : "");
}

std::string mail_text(const Message& message, const Mail& mail) {
  std::string to;
  for (const std::string& address : mail.to) to += (to.empty() ? "" : ",\r\n ") + address;
  std::string text = fmt::format(
      "From: defib <{}>\r\nTo: {}\r\nSubject: {}\r\nDate: {}\r\nMessage-ID: <{}.{}@{}>\r\n"
      "Auto-Submitted: auto-generated\r\nX-Defib-Message-Id: {}\r\nX-Defib-Severity: {}\r\n"
      "MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
      mail.from, to, header_text(subject_of(message)), mail_date(message.created_ns), message.id,
      message.receiver, mail.host, message.id, to_string(message.severity));
  // Base64 carries any text, whatever its lines are like; plain text stays readable on the way.
  const std::string body = mail_body(message);
  bool simple = true;
  std::size_t line = 0;
  for (const char c : body) {
    line = c == '\n' ? 0 : line + 1;
    simple = simple && line < 900 && (c == '\n' || (c >= 0x20 && c < 0x7f));
  }
  if (simple) {
    text += "Content-Transfer-Encoding: 7bit\r\n\r\n";
    for (const char c : body) {
      if (c == '\n') text += '\r';
      text += c;
    }
    return text;
  }
  text += "Content-Transfer-Encoding: base64\r\n\r\n";
  const std::string encoded = base64(body);
  for (std::size_t at = 0; at < encoded.size(); at += kMailLine) {
    text += encoded.substr(at, kMailLine) + "\r\n";
  }
  return text;
}

std::string hmac_sha256_hex(std::string_view key, std::string_view text) {
  std::string block = key.size() > kBlock ? sha256(key) : std::string(key);
  block.resize(kBlock, '\0');
  std::string inner = block, outer = block;
  for (char& c : inner) c = static_cast<char>(c ^ 0x36);
  for (char& c : outer) c = static_cast<char>(c ^ 0x5c);
  return sha256_hex(outer + sha256(inner + std::string(text)));
}

std::string signature_of(std::string_view secret, std::string_view timestamp,
                         std::string_view body) {
  return "sha256=" + hmac_sha256_hex(secret, fmt::format("{}.{}", timestamp, body));
}

}  // namespace defib::alert

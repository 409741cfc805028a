// What a receiver is sent: a Message as a webhook's body, as Alertmanager's list, as a mail.
// docs/alerts.md has the formats. Pure.

#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "defib/alert/book.h"
#include "defib/wire/json.h"

namespace defib::alert {

// {"schema":"defib.alert/1","id","alert","status","severity","message","timestamp",...}
wire::Json plain_body(const Message& message);
// The array that POST /api/v2/alerts takes.
wire::Json alertmanager_body(const std::vector<Message>& messages);
// "[critical] engine: crash_loop (12 times)": one line without line ends.
std::string subject_of(const Message& message);

struct Mail {
  std::string from;
  std::vector<std::string> to;
  std::string host;  // of the Message-ID
};
// A whole message by RFC 5322 with CRLF line ends.
std::string mail_text(const Message& message, const Mail& mail);

// HMAC-SHA256 (RFC 2104) in hexadecimal.
std::string hmac_sha256_hex(std::string_view key, std::string_view text);
// The value of X-Defib-Signature: "sha256=" and the HMAC over "TIMESTAMP.BODY".
std::string signature_of(std::string_view secret, std::string_view timestamp,
                         std::string_view body);

}  // namespace defib::alert

// Receiver: one [alert.NAME] of defib.toml: to whom alerts go, which of them, and how often.
//
// A receiver holds references to secrets ("env:NAME", "file:/path"), never their values; the sender
// resolves them when it needs them. So the supervisor may keep receivers, and write them to
// STATE/alerts/receivers.json, from which the sender works. Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "defib/alert/event.h"
#include "defib/base/error.h"
#include "defib/conf/conf.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::alert {

enum class Kind : std::uint8_t { kWebhook, kEmail, kCommand };
enum class Format : std::uint8_t { kPlain, kAlertmanager };

struct Receiver {
  std::string name;
  Kind kind = Kind::kWebhook;

  // Which alerts.
  Severity min_severity = Severity::kInfo;
  std::vector<std::string> services;  // empty: all
  os::Duration escalate_after{0};     // only what is still open and unacknowledged after so long
  bool send_resolved = true;

  // How often. Equal alerts (service and cause) within `fold_window` of a message are folded into
  // one; the window doubles while they go on, up to an hour.
  os::Duration fold_window = std::chrono::minutes(5);
  os::Duration repeat_interval{0};                  // of an open, unacknowledged alert; 0: never
  int max_per_minute = 30;                          // messages to this receiver
  int max_per_service = 10;                         // of them, a minute and service
  os::Duration timeout = std::chrono::seconds(10);  // of one attempt
  os::Duration retry_for = std::chrono::hours(24);  // then the message is given up

  // Webhook.
  std::string url;  // or a reference, where the address itself is secret
  Format format = Format::kPlain;
  std::string secret;   // signs; a reference; empty: unsigned
  std::string token;    // Authorization: Bearer; a reference; empty: none
  std::string ca_file;  // for https and TLS of SMTP; empty: the system's

  // E-mail.
  std::string server;  // smtp://HOST[:PORT] (STARTTLS), smtps://HOST[:PORT]
  bool tls_required = true;
  std::string user, password;  // references; empty: none
  std::string from;
  std::vector<std::string> to;

  // Command: gets the message as JSON on its standard input.
  std::vector<std::string> command;

  bool wants(Severity severity, const std::string& service) const;
  friend bool operator==(const Receiver&, const Receiver&) = default;
};

// Reads every [alert.NAME] of the document; mistakes are kept by it. Secrets are looked at, so that
// a missing one is told at once, and forgotten.
std::vector<Receiver> read_receivers(conf::Section& root);

// STATE/alerts/receivers.json. No file: no receivers.
Result<> save_receivers(os::Files& files, const std::string& state_dir,
                        const std::vector<Receiver>& receivers);
Result<std::vector<Receiver>> load_receivers(os::Files& files, const std::string& state_dir);

}  // namespace defib::alert

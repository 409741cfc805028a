// Dsn: the name of a data source: which driver, which servers, who asks, and with which options.
//
//   postgresql://USER:PASSWORD@HOST[:PORT][,HOST[:PORT]...]/DATABASE[?OPTION=VALUE&...]   libpq
//   mariadb://... mysql://... mssql://...     the same form, through the ODBC driver
//   sqlite:PATH[?OPTION=VALUE&...]            SQLite's ODBC driver; sqlite::memory: too
//   odbc:Driver={NAME};Server=HOST;Port=...;  any ODBC connection string (`odbc:` may be left out)
//
// In the first forms USER, PASSWORD, DATABASE and values are percent-encoded. In the last one a
// value in braces holds anything, } written twice. Options that are unknown to a driver that we
// know are errors, because the drivers themselves ignore what is misspelt.
// Options of ours, in every form: target=primary|any|standby, connect_timeout=DURATION,
// profile=default|azure, max_redirects=N, password_from=env:NAME|file:PATH, poll_by_query=yes|no.
// Thread rule: like std::string.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/connection/backend.h"

namespace defib::connection {

struct HostPort {
  std::string host;
  std::uint16_t port = 0;
  std::string to_string() const;  // "db1:5432", "[::1]:5432"
  friend bool operator==(const HostPort&, const HostPort&) = default;
};

enum class Target { kAny, kPrimary, kStandby };

class Dsn {
 public:
  enum class Kind { kLibpq, kOdbc };

  static constexpr std::size_t kMaxText = 8192;
  static constexpr std::size_t kMaxHosts = 16;

  // DsnInvalid names the place; OptionUnknown the nearest option.
  static Result<Dsn> parse(std::string_view text);

  Kind kind = Kind::kLibpq;
  Engine engine = Engine::kUnknown;
  DriverKind driver = DriverKind::kUnknown;
  std::string odbc_driver;      // "PostgreSQL Unicode", a path, or empty with an odbc.ini name
  std::vector<HostPort> hosts;  // empty: an embedded engine, or odbc.ini names it
  std::string user, password, database;
  // What goes to the driver, in order.
  std::vector<std::pair<std::string, std::string>> options;
  // Ours.
  Target target = Target::kAny;
  bool target_given = false;
  std::optional<os::Duration> connect_timeout;
  bool azure = false;
  std::optional<int> max_redirects;
  bool poll_by_query = false;

  // The same name with "***" for the password, for messages, logs and reports.
  std::string redacted() const;
  // "postgresql" + hosts + database: the same for all pools of one server.
  std::string server_name() const;
  // max_redirects; where it is not given, as many as SqlClient follows, with Azure's profile two.
  int redirects_allowed() const { return max_redirects.value_or(azure ? 2 : 10); }
  std::string option(std::string_view name) const;  // case-insensitive; empty: absent
};

}  // namespace defib::connection

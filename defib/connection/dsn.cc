#include "defib/connection/dsn.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>
#include <span>

#include "defib/base/text.h"
#include "defib/conf/conf.h"

namespace defib::connection {
namespace {

constexpr std::uint16_t kPostgresPort = 5432, kMariadbPort = 3306, kMssqlPort = 1433;

constexpr std::string_view kOwn[] = {"target",        "connect_timeout", "profile",
                                     "max_redirects", "password_from",   "poll_by_query"};
constexpr std::string_view kLibpq[] = {"sslmode",
                                       "sslrootcert",
                                       "sslcert",
                                       "sslkey",
                                       "sslpassword",
                                       "sslcrl",
                                       "sslcrldir",
                                       "sslsni",
                                       "application_name",
                                       "options",
                                       "client_encoding",
                                       "channel_binding",
                                       "gssencmode",
                                       "krbsrvname",
                                       "gsslib",
                                       "keepalives",
                                       "keepalives_idle",
                                       "keepalives_interval",
                                       "keepalives_count",
                                       "tcp_user_timeout",
                                       "requirepeer",
                                       "passfile",
                                       "fallback_application_name",
                                       "ssl_min_protocol_version",
                                       "ssl_max_protocol_version"};
constexpr std::string_view kPsqlodbc[] = {"sslmode",
                                          "protocol",
                                          "readonly",
                                          "useserversideprepare",
                                          "fetch",
                                          "usedeclarefetch",
                                          "byteaaslongvarbinary",
                                          "boolsaschar",
                                          "maxvarcharsize",
                                          "maxlongvarcharsize",
                                          "connsettings",
                                          "pqopt",
                                          "debug",
                                          "commlog",
                                          "optimizer",
                                          "ksqo",
                                          "keepalivetime",
                                          "keepaliveinterval",
                                          "lfconversion",
                                          "textaslongvarchar",
                                          "unknownsaslongvarchar",
                                          "rowversioning",
                                          "showsystemtables",
                                          "showoidcolumn",
                                          "fakeoidindex",
                                          "updatablecursors",
                                          "trueisminus1",
                                          "bi",
                                          "ab",
                                          "lowercaseidentifier",
                                          "gssauthusegss",
                                          "xaopt",
                                          "extrasystableprefixes",
                                          "uniqueindex",
                                          "parse",
                                          "cancelasfreestmt",
                                          "fetchrefcursors",
                                          "optionalerrors",
                                          "description",
                                          "disallowpremature"};
constexpr std::string_view kMariadb[] = {
    "option",      "socket",        "charset",     "initstmt",    "conntimeout", "forcetls",
    "tlsca",       "sslca",         "tlscapath",   "sslcapath",   "tlscert",     "sslcert",
    "tlskey",      "sslkey",        "tlscipher",   "sslcipher",   "tlsverify",   "sslverify",
    "tlspeerfp",   "tlspeerfplist", "sslcrl",      "sslcrlpath",  "tlsversion",  "plugin_dir",
    "plugindir",   "no_prompt",     "usecursors",  "forwardonly", "description", "no_cache",
    "readtimeout", "writetimeout",  "interactive", "tlskeypwd",   "servercert"};
constexpr std::string_view kFreetds[] = {"servername",
                                         "tds_version",
                                         "app",
                                         "wsid",
                                         "language",
                                         "encryption",
                                         "clientcharset",
                                         "applicationintent",
                                         "trusted_connection",
                                         "attachdbfilename",
                                         "serverspn",
                                         "realm",
                                         "debugflags",
                                         "dumpfile",
                                         "timeout",
                                         "usentlmv2",
                                         "enablequotedident",
                                         "reportedservername",
                                         "hostnameincertificate",
                                         "address",
                                         "mars_connection",
                                         "bulkmode",
                                         "description"};
constexpr std::string_view kSqlite[] = {"timeout",    "stepapi",     "syncpragma", "notxn",
                                        "shortnames", "longnames",   "nocreat",    "nowchar",
                                        "fksupport",  "journalmode", "loadext",    "bigint",
                                        "jdconv",     "oemcp",       "description"};

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  }
  return out;
}

Error invalid(std::size_t offset, std::string_view problem) {
  return Error(Code::kDsnInvalid,
               fmt::format("the data source's name is malformed at character {}: {}", offset + 1,
                           problem))
      .with("offset", static_cast<std::int64_t>(offset));
}

std::span<const std::string_view> options_of(DriverKind driver) {
  switch (driver) {
    case DriverKind::kLibpq:
      return kLibpq;
    case DriverKind::kPsqlodbc:
      return kPsqlodbc;
    case DriverKind::kMariadbOdbc:
      return kMariadb;
    case DriverKind::kFreetds:
      return kFreetds;
    case DriverKind::kSqliteOdbc:
      return kSqlite;
    default:
      return {};
  }
}

Result<> check_option(DriverKind driver, const std::string& name) {
  const std::span<const std::string_view> known = options_of(driver);
  if (known.empty() || std::ranges::find(known, lower(name)) != known.end()) return {};
  if (name.size() > 64) {
    return Error(Code::kOptionUnknown, "an option's name is longer than any that there is");
  }
  std::vector<std::string> words(known.begin(), known.end());
  words.insert(words.end(), std::begin(kOwn), std::end(kOwn));
  const std::string nearest(conf::nearest_word(lower(name), words));
  return Error(Code::kOptionUnknown,
               fmt::format("{} has no option '{}'{}", to_string(driver), name,
                           nearest.empty() ? "" : fmt::format("; the nearest is '{}'", nearest)))
      .with("option", name)
      .with("nearest", nearest);
}

Result<std::string> percent_decoded(std::string_view text, std::size_t offset) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (i + 2 >= text.size() || std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2) {
      return invalid(offset + i, "% is not followed by two hexadecimal digits");
    }
    if (value == 0) return invalid(offset + i, "a zero byte");
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

Result<std::uint16_t> parse_port(std::string_view text, std::size_t offset) {
  unsigned port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0 || port > 65535) {
    return invalid(offset, "a port is a number from 1 to 65535");
  }
  return static_cast<std::uint16_t>(port);
}

Result<HostPort> parse_host(std::string_view text, std::size_t offset, std::uint16_t default_port) {
  HostPort host{.host = {}, .port = default_port};
  std::string_view port;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) return invalid(offset, "[ without ]");
    host.host = text.substr(1, end - 1);
    port = text.substr(end + 1);
    if (!port.empty() && port[0] != ':') return invalid(offset + end, "no : after ]");
    if (!port.empty()) port.remove_prefix(1);
    if (port.empty() && text.ends_with(':')) return invalid(offset, "no port after :");
  } else {
    const std::size_t colon = text.find(':');
    host.host = text.substr(0, colon);
    if (colon != std::string_view::npos) {
      port = text.substr(colon + 1);
      if (port.empty()) return invalid(offset + colon, "no port after :");
    }
  }
  if (host.host.empty()) return invalid(offset, "no host");
  if (!port.empty()) {
    DEFIB_TRY_ASSIGN(host.port, parse_port(port, offset));
  }
  DEFIB_TRY_ASSIGN(host.host, percent_decoded(host.host, offset));
  const auto bad = [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == ';'; };
  if (std::ranges::any_of(host.host, bad)) {
    return invalid(offset, "a blank, a control character or ; in a host");
  }
  return host;
}

Result<bool> take_password_from(Dsn& dsn, const std::string& reference) {
  DEFIB_TRY_ASSIGN(const conf::Secret secret, conf::read_secret(reference));
  dsn.password = secret.reveal();
  return true;
}

// True where the option is one of ours.
Result<bool> take_own(Dsn& dsn, const std::string& name, const std::string& value) {
  const auto wrong = [&](std::string_view allowed) {
    return Error(Code::kDsnInvalid, fmt::format("{} is '{}', not {}", name, value, allowed))
        .with("option", name);
  };
  if (name == "target") {
    dsn.target_given = true;
    if (value == "primary")
      dsn.target = Target::kPrimary;
    else if (value == "standby")
      dsn.target = Target::kStandby;
    else if (value != "any")
      return wrong("primary, any or standby");
    return true;
  }
  if (name == "connect_timeout") {
    const os::Duration duration = os::parse_duration(value);
    if (duration.count() <= 0) return wrong("a duration such as 5s");
    dsn.connect_timeout = duration;
    return true;
  }
  if (name == "profile") {
    if (value != "default" && value != "azure") return wrong("default or azure");
    dsn.azure = value == "azure";
    return true;
  }
  if (name == "max_redirects") {
    if (value.size() != 1 || value[0] < '0' || value[0] > '9') return wrong("a number from 0 to 9");
    dsn.max_redirects = value[0] - '0';
    return true;
  }
  if (name == "poll_by_query") {
    if (value != "yes" && value != "no") return wrong("yes or no");
    dsn.poll_by_query = value == "yes";
    return true;
  }
  if (name == "password_from") return take_password_from(dsn, value);
  return false;
}

Result<> take_option(Dsn& dsn, std::string name, std::string value) {
  DEFIB_TRY_ASSIGN(const bool own, take_own(dsn, lower(name), value));
  if (own) return {};
  DEFIB_TRY(check_option(dsn.driver, name));
  dsn.options.emplace_back(std::move(name), std::move(value));
  return {};
}

Result<> parse_query(Dsn& dsn, std::string_view query, std::size_t offset) {
  if (query.empty()) return {};
  for (const std::string_view part : split(query, '&')) {
    const std::size_t equals = part.find('=');
    if (equals == std::string_view::npos || equals == 0) {
      return invalid(offset, fmt::format("an option without = (see option {})", part.size()));
    }
    DEFIB_TRY_ASSIGN(std::string name, percent_decoded(part.substr(0, equals), offset));
    DEFIB_TRY_ASSIGN(std::string value,
                     percent_decoded(part.substr(equals + 1), offset + equals + 1));
    DEFIB_TRY(take_option(dsn, std::move(name), std::move(value)));
    offset += part.size() + 1;
  }
  return {};
}

struct Scheme {
  std::string_view name;
  Dsn::Kind kind;
  Engine engine;
  DriverKind driver;
  std::string_view odbc_driver;
  std::uint16_t port;
};
constexpr Scheme kSchemes[] = {
    {"postgresql", Dsn::Kind::kLibpq, Engine::kPostgresql, DriverKind::kLibpq, "", kPostgresPort},
    {"postgres", Dsn::Kind::kLibpq, Engine::kPostgresql, DriverKind::kLibpq, "", kPostgresPort},
    {"mariadb", Dsn::Kind::kOdbc, Engine::kMariadb, DriverKind::kMariadbOdbc, "MariaDB Unicode",
     kMariadbPort},
    {"mysql", Dsn::Kind::kOdbc, Engine::kMysql, DriverKind::kMariadbOdbc, "MariaDB Unicode",
     kMariadbPort},
    {"mssql", Dsn::Kind::kOdbc, Engine::kMssql, DriverKind::kFreetds, "FreeTDS", kMssqlPort},
};

Result<Dsn> parse_url(const Scheme& scheme, std::string_view text, std::size_t offset) {
  Dsn dsn;
  dsn.kind = scheme.kind;
  dsn.engine = scheme.engine;
  dsn.driver = scheme.driver;
  dsn.odbc_driver = scheme.odbc_driver;
  const std::size_t question = text.find('?');
  std::string_view query;
  if (question != std::string_view::npos) {
    query = text.substr(question + 1);
    text = text.substr(0, question);
  }
  const std::size_t query_offset = offset + question + 1;
  const std::size_t slash = text.find('/');
  if (slash != std::string_view::npos) {
    DEFIB_TRY_ASSIGN(dsn.database, percent_decoded(text.substr(slash + 1), offset + slash + 1));
    text = text.substr(0, slash);
  }
  const std::size_t at = text.rfind('@');
  if (at != std::string_view::npos) {
    const std::string_view who = text.substr(0, at);
    const std::size_t colon = who.find(':');
    DEFIB_TRY_ASSIGN(dsn.user, percent_decoded(who.substr(0, colon), offset));
    if (colon != std::string_view::npos) {
      DEFIB_TRY_ASSIGN(dsn.password, percent_decoded(who.substr(colon + 1), offset + colon + 1));
    }
    text.remove_prefix(at + 1);
    offset += at + 1;
  }
  for (const std::string_view part : split(text, ',')) {
    DEFIB_TRY_ASSIGN(HostPort host, parse_host(part, offset, scheme.port));
    dsn.hosts.push_back(std::move(host));
    offset += part.size() + 1;
    if (dsn.hosts.size() > Dsn::kMaxHosts) return invalid(offset, "more than 16 hosts");
  }
  DEFIB_TRY(parse_query(dsn, query, query_offset));
  return dsn;
}

Result<Dsn> parse_sqlite(std::string_view text, std::size_t offset) {
  Dsn dsn;
  dsn.kind = Dsn::Kind::kOdbc;
  dsn.engine = Engine::kSqlite;
  dsn.driver = DriverKind::kSqliteOdbc;
  dsn.odbc_driver = "SQLite3";
  const std::size_t question = text.find('?');
  DEFIB_TRY_ASSIGN(dsn.database, percent_decoded(text.substr(0, question), offset));
  if (dsn.database.empty()) return invalid(offset, "no path");
  if (question != std::string_view::npos) {
    DEFIB_TRY(parse_query(dsn, text.substr(question + 1), offset + question + 1));
  }
  return dsn;
}

// Key=Value;Key={Va;}}lue};
Result<std::vector<std::pair<std::string, std::string>>> parse_pairs(std::string_view text,
                                                                     std::size_t offset) {
  std::vector<std::pair<std::string, std::string>> pairs;
  std::size_t i = 0;
  while (i < text.size()) {
    if (text[i] == ';' || text[i] == ' ') {
      ++i;
      continue;
    }
    const std::size_t equals = text.find('=', i);
    const std::size_t semicolon = text.find(';', i);
    if (equals == std::string_view::npos || semicolon < equals) {
      return invalid(offset + i, "a key without =");
    }
    std::string key(text.substr(i, equals - i));
    while (key.ends_with(' ')) key.pop_back();
    if (key.empty()) return invalid(offset + i, "no key before =");
    i = equals + 1;
    std::string value;
    if (i < text.size() && text[i] == '{') {
      for (++i;; ++i) {
        if (i >= text.size()) return invalid(offset + equals, "{ without }");
        if (text[i] != '}') {
          value += text[i];
        } else if (i + 1 < text.size() && text[i + 1] == '}') {
          value += text[i++];
        } else {
          break;
        }
      }
      ++i;
      if (i < text.size() && text[i] != ';') return invalid(offset + i, "no ; after }");
    } else {
      const std::size_t end = std::min(text.find(';', i), text.size());
      value = text.substr(i, end - i);
      i = end;
    }
    if (value.find('\0') != std::string::npos) return invalid(offset + i, "a zero byte");
    pairs.emplace_back(std::move(key), std::move(value));
  }
  return pairs;
}

void recognise_driver(Dsn& dsn) {
  const std::string name = lower(dsn.odbc_driver);
  const auto has = [&](std::string_view word) { return name.find(word) != std::string::npos; };
  if (has("postgres") || has("psqlodbc")) {
    dsn.driver = DriverKind::kPsqlodbc;
    dsn.engine = Engine::kPostgresql;
  } else if (has("maria") || has("maodbc") || has("mysql")) {
    dsn.driver = DriverKind::kMariadbOdbc;
    dsn.engine = Engine::kMariadb;
  } else if (has("freetds") || has("tdsodbc")) {
    dsn.driver = DriverKind::kFreetds;
    dsn.engine = Engine::kMssql;
  } else if (has("msodbcsql") || has("for sql server")) {
    dsn.driver = DriverKind::kMsodbcsql;
    dsn.engine = Engine::kMssql;
  } else if (has("sqlite")) {
    dsn.driver = DriverKind::kSqliteOdbc;
    dsn.engine = Engine::kSqlite;
  }
}

Result<Dsn> parse_odbc(std::string_view text, std::size_t offset) {
  DEFIB_TRY_ASSIGN(const auto pairs, parse_pairs(text, offset));
  Dsn dsn;
  dsn.kind = Dsn::Kind::kOdbc;
  bool names_source = false;
  for (const auto& [key, value] : pairs) {
    if (lower(key) == "driver") dsn.odbc_driver = value;
    if (lower(key) == "dsn" || lower(key) == "filedsn") names_source = true;
  }
  if (dsn.odbc_driver.empty() && !names_source) {
    return invalid(offset, "neither Driver= nor DSN=");
  }
  recognise_driver(dsn);
  std::string port, servers;
  for (const auto& [key, value] : pairs) {
    const std::string name = lower(key);
    if (name == "driver") continue;
    if (name == "server" || (name == "servername" && dsn.driver == DriverKind::kPsqlodbc)) {
      servers = value;
    } else if (name == "port") {
      port = value;
    } else if (name == "uid" || name == "user" || name == "username") {
      dsn.user = value;
    } else if (name == "pwd" || name == "password") {
      dsn.password = value;
    } else if (name == "database") {
      dsn.database = value;
    } else if (name == "dsn" || name == "filedsn") {
      dsn.options.emplace_back(key, value);
    } else {
      DEFIB_TRY(take_option(dsn, key, value));
    }
  }
  const std::uint16_t default_port = dsn.engine == Engine::kPostgresql ? kPostgresPort
                                     : dsn.engine == Engine::kMssql    ? kMssqlPort
                                                                       : kMariadbPort;
  std::uint16_t number = default_port;
  if (!port.empty()) {
    DEFIB_TRY_ASSIGN(number, parse_port(port, offset));
  }
  if (!servers.empty()) {
    for (const std::string_view part : split(servers, ',')) {
      DEFIB_TRY_ASSIGN(HostPort host, parse_host(part, offset, number));
      dsn.hosts.push_back(std::move(host));
      if (dsn.hosts.size() > Dsn::kMaxHosts) return invalid(offset, "more than 16 hosts");
    }
  }
  return dsn;
}

}  // namespace

std::string HostPort::to_string() const {
  const bool is_v6 = host.find(':') != std::string::npos;
  return is_v6 ? fmt::format("[{}]:{}", host, port) : fmt::format("{}:{}", host, port);
}

Result<Dsn> Dsn::parse(std::string_view text) {
  if (text.size() > kMaxText) return invalid(kMaxText, "longer than 8192 characters");
  if (text.find('\0') != std::string_view::npos) return invalid(0, "a zero byte");
  for (const Scheme& scheme : kSchemes) {
    const std::string prefix = std::string(scheme.name) + "://";
    if (!text.starts_with(prefix)) continue;
    return parse_url(scheme, text.substr(prefix.size()), prefix.size());
  }
  if (text.starts_with("sqlite:")) return parse_sqlite(text.substr(7), 7);
  if (text.starts_with("odbc:")) return parse_odbc(text.substr(5), 5);
  const std::size_t scheme_end = text.find("://");
  if (scheme_end != std::string_view::npos && text.find('=') > scheme_end) {
    return invalid(0, "the scheme is none of postgresql, mariadb, mysql, mssql, sqlite, odbc");
  }
  if (text.find('=') == std::string_view::npos) {
    return invalid(0, "neither SCHEME://... nor Key=Value;...");
  }
  return parse_odbc(text, 0);
}

std::string Dsn::server_name() const {
  std::string out(connection::to_string(engine));
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    out += (i == 0 ? "://" : ",") + hosts[i].to_string();
  }
  return hosts.empty() ? out + ":" + database : out + "/" + database;
}

std::string Dsn::redacted() const {
  std::string out = server_name();
  if (!user.empty()) {
    out += " as " + user;
    if (!password.empty()) out += ":***";
  }
  if (!odbc_driver.empty()) out += " through " + odbc_driver;
  return out;
}

std::string Dsn::option(std::string_view name) const {
  for (const auto& [key, value] : options) {
    if (lower(key) == lower(name)) return value;
  }
  return {};
}

}  // namespace defib::connection

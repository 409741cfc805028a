#include "defib/connection/classify.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "defib/base/text.h"

namespace defib::connection {
namespace {

constexpr ClassRow kTable[] = {
#include "defib/connection/class_table.inc"
};

// What a database gives no number of its own for, by the SQLSTATE's class (ISO 9075-2, table 38).
struct StatePrefix {
  std::string_view prefix;
  FailureClass failure_class;
};
constexpr StatePrefix kStatePrefixes[] = {
    {"08", FailureClass::kOutcomeUnknown},    {"40", FailureClass::kRetryNow},
    {"HYT", FailureClass::kOutcomeUnknown},   {"28", FailureClass::kOperator},
    {"53", FailureClass::kRetryAfterBackoff}, {"57P", FailureClass::kOutcomeUnknown},
    {"IM00", FailureClass::kOperator},
};

// Numbers of FreeTDS's own (include/freetds/... and src/odbc/error.c): 20000 to 20999 are the
// client's.
constexpr bool is_freetds_own(std::int64_t native) {
  return native >= 20000 && native < 21000;
}

constexpr std::array<std::string_view, 6> kEngines = {"unknown", "postgresql", "mariadb",
                                                      "mysql",   "mssql",      "sqlite"};
constexpr std::array<std::string_view, 7> kDrivers = {
    "unknown", "libpq", "psqlodbc", "mariadb-odbc", "freetds", "sqliteodbc", "msodbcsql"};
constexpr std::array<std::string_view, 5> kPhases = {"connect", "idle", "statement", "commit",
                                                     "closed"};
constexpr std::array<std::string_view, kFailureClasses> kClasses = {"R0", "RB", "RS", "NC", "NI",
                                                                    "CA", "WF", "AD", "NO"};

template <typename E, std::size_t N>
std::optional<E> find_name(const std::array<std::string_view, N>& names, std::string_view text) {
  const auto at = std::ranges::find(names, text);
  if (at == names.end()) return std::nullopt;
  return static_cast<E>(at - names.begin());
}

// The server has spoken: what it says of a transaction holds also where it hangs up afterwards.
bool is_servers_verdict(FailureClass failure_class) {
  return failure_class == FailureClass::kRetryNow || failure_class == FailureClass::kNever ||
         failure_class == FailureClass::kWrongNode;
}

bool means_loss(FailureClass failure_class) {
  return failure_class == FailureClass::kOutcomeUnknown ||
         failure_class == FailureClass::kNewConnection ||
         failure_class == FailureClass::kCommitAmbiguous;
}

FailureClass loss_class(const Failure& failure) {
  switch (failure.phase) {
    case Phase::kCommit:
      return FailureClass::kCommitAmbiguous;
    case Phase::kStatement:
      // An explicit transaction dies with its session.
      return failure.in_transaction ? FailureClass::kRetryNow : FailureClass::kOutcomeUnknown;
    default:
      return FailureClass::kNewConnection;
  }
}

bool contains(std::string_view text, std::string_view word) {
  return text.find(word) != std::string_view::npos;
}

// psqlodbc reports 08001 for every failure to connect; only its words tell them apart.
std::optional<FailureClass> by_connect_words(std::string_view message) {
  for (const std::string_view word :
       {"password authentication failed", "no password supplied", "does not exist", "certificate",
        "no pg_hba.conf entry", "Access denied", "Login failed"}) {
    if (contains(message, word)) return FailureClass::kOperator;
  }
  return std::nullopt;
}

}  // namespace

std::string_view to_string(Engine engine) {
  return kEngines[static_cast<std::size_t>(engine)];
}
std::string_view to_string(DriverKind driver) {
  return kDrivers[static_cast<std::size_t>(driver)];
}
std::string_view to_string(Phase phase) {
  return kPhases[static_cast<std::size_t>(phase)];
}
std::string_view to_string(FailureClass failure_class) {
  return kClasses[static_cast<std::size_t>(failure_class)];
}
std::optional<Engine> parse_engine(std::string_view text) {
  return find_name<Engine>(kEngines, text);
}
std::optional<FailureClass> parse_class(std::string_view text) {
  return find_name<FailureClass>(kClasses, text);
}

std::span<const ClassRow> class_table() {
  return kTable;
}

Classifier::Classifier() {
  for (const ClassRow& row : kTable) {
    rows_.insert_or_assign({row.engine, std::string(row.code)}, row.failure_class);
  }
}

std::optional<FailureClass> Classifier::find(Engine engine, std::string_view code) const {
  const auto row = rows_.find(std::pair{engine, std::string(code)});
  if (row == rows_.end()) return std::nullopt;
  return row->second;
}

std::optional<Classifier::Verdict> Classifier::by_record(const Failure& failure,
                                                         const Diagnostic& record) const {
  const auto verdict = [&](FailureClass found, std::string code) {
    return Verdict{found, fmt::format("{} {}", to_string(failure.engine), code)};
  };
  if (failure.phase == Phase::kConnect && contains(record.message, "certificate")) {
    return Verdict{FailureClass::kOperator, "a certificate, by its words"};
  }
  const bool by_state = failure.engine == Engine::kPostgresql;
  if (by_state && !record.sqlstate.empty()) {
    if (failure.phase == Phase::kConnect && record.sqlstate == "08001") {
      if (const auto found = by_connect_words(record.message)) {
        return verdict(*found, "08001, by its words");
      }
    }
    if (const auto found = find(failure.engine, record.sqlstate)) {
      return verdict(*found, record.sqlstate);
    }
  }
  if (!by_state && record.native != 0) {
    const std::string number = std::to_string(record.native);
    if (failure.driver == DriverKind::kFreetds && is_freetds_own(record.native)) {
      const bool before = record.native == 20009 || record.native == 20002;
      return Verdict{before ? FailureClass::kNewConnection : FailureClass::kOutcomeUnknown,
                     fmt::format("freetds {}", number)};
    }
    if (const auto found = find(failure.engine, number)) return verdict(*found, number);
  }
  for (const StatePrefix& row : kStatePrefixes) {
    if (record.sqlstate.starts_with(row.prefix)) {
      return verdict(row.failure_class, record.sqlstate);
    }
  }
  return std::nullopt;
}

Classifier::Verdict Classifier::classify(const Failure& failure) const {
  std::optional<Verdict> found;
  for (const Diagnostic& record : failure.records) {
    found = by_record(failure, record);
    if (found) break;
  }
  const std::string_view phase = to_string(failure.phase);
  const bool lost =
      failure.connection_lost || failure.timed_out || (found && means_loss(found->failure_class));
  if (lost) {
    // A number that a person must act upon keeps its meaning; so does a verdict on the transaction,
    // unless our own deadline came first. At a COMMIT only
    // a verdict on the transaction does.
    const bool at_commit = failure.phase == Phase::kCommit;
    if (found && ((found->failure_class == FailureClass::kOperator && !at_commit) ||
                  (is_servers_verdict(found->failure_class) && !failure.timed_out))) {
      return *found;
    }
    const bool busy = found && found->failure_class == FailureClass::kRetryAfterBackoff &&
                      failure.phase == Phase::kConnect;
    if (busy) return *found;
    return {loss_class(failure),
            fmt::format("{} in phase {}{}", failure.timed_out ? "overrun" : "lost", phase,
                        found ? ", " + found->why : std::string())};
  }
  if (found) return *found;
  if (failure.phase == Phase::kCommit && failure.records.empty()) {
    return {FailureClass::kCommitAmbiguous, "a commit failed without a word"};
  }
  // FreeTDS's own words for a session that had died while idle.
  for (const Diagnostic& record : failure.records) {
    if (failure.driver == DriverKind::kFreetds && record.native == 0 &&
        contains(record.message, "Unknown error")) {
      return {loss_class(failure), "freetds HY000/0 Unknown error"};
    }
  }
  if (failure.records.empty()) return {loss_class(failure), "no diagnostic record"};
  if (failure.phase == Phase::kConnect) return {FailureClass::kNewConnection, "phase connect"};
  return {FailureClass::kNever, "a code that no row names"};
}

Result<> Classifier::add(Engine engine, std::string_view code, FailureClass failure_class) {
  const bool sound = !code.empty() && code.size() <= 11 && std::ranges::all_of(code, [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '-';
  });
  if (!sound || engine == Engine::kUnknown) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no SQLSTATE and no number of {}", code, to_string(engine)))
        .with("code", code);
  }
  rows_.insert_or_assign({engine, std::string(code)}, failure_class);
  return {};
}

Result<> Classifier::add_lines(std::string_view text) {
  for (int number = 1; !text.empty(); ++number) {
    std::string line(next_line(text));
    line.resize(std::min(line.find('#'), line.size()));
    std::ranges::replace(line, '\t', ' ');
    std::vector<std::string_view> words;
    for (const std::string_view word : split(line, ' ')) {
      if (!word.empty() && word != "\r") words.push_back(word);
    }
    if (words.empty()) continue;
    const auto engine = parse_engine(words[0]);
    const auto failure_class = words.size() == 3 ? parse_class(words[2]) : std::nullopt;
    if (!engine || !failure_class) {
      return Error(Code::kMalformed,
                   fmt::format("line {}: '{}' is not an engine, a code and a class", number, line))
          .with("line", number)
          .suggest("write for example: postgresql 55006 RB");
    }
    DEFIB_TRY(add(*engine, words[1], *failure_class));
  }
  return {};
}

namespace {

const Error* nearest_with_class(const Error& error) {
  for (const Error* at = &error; at != nullptr; at = at->cause()) {
    if (!at->field("class").empty()) return at;
  }
  return nullptr;
}

}  // namespace

bool has_class(const Error& error) {
  return nearest_with_class(error) != nullptr;
}

FailureClass class_of(const Error& error) {
  const Error* at = nearest_with_class(error);
  if (at == nullptr) return FailureClass::kNever;
  return parse_class(at->field("class")).value_or(FailureClass::kNever);
}

std::int64_t minimum_pause_ms(const Error& error) {
  // EF Core's throttling set, less what is no throttling; 40501's own text asks for 10 s.
  constexpr std::string_view kThrottling[] = {"40501", "49918", "49919", "49920", "49977",
                                              "10929", "10930", "10928", "10936", "40903",
                                              "40890", "41823", "41840"};
  const Error* at = nearest_with_class(error);
  if (at == nullptr || at->field("engine") != "mssql") return 0;
  return std::ranges::find(kThrottling, at->field("native")) == std::end(kThrottling) ? 0 : 10'000;
}

bool server_is_silent(const Error& error) {
  const Error* at = nearest_with_class(error);
  if (at == nullptr) return false;  // the caller's own, such as the source of its credentials
  if (at->code() == Code::kHostUnreachable || at->code() == Code::kDeadlineExceeded) return true;
  if (at->code() != Code::kConnectionFailed) return false;
  const FailureClass found = class_of(*at);
  if (found == FailureClass::kOperator || found == FailureClass::kWrongNode) return false;
  const std::string_view digits = at->field("native"), state = at->field("sqlstate");
  int native = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), native);
  const int thousand = native / 1000;
  switch (parse_engine(at->field("engine")).value_or(Engine::kUnknown)) {
    case Engine::kMariadb:
    case Engine::kMysql:
      // 2000 and 5000: the client library's own numbers; 1053: it stops.
      return native <= 0 || thousand == 2 || thousand == 5 || native == 1053;
    case Engine::kMssql:
      return native <= 0 || thousand == 20;  // FreeTDS's own numbers
    default:
      break;
  }
  if (at->field("driver") == to_string(DriverKind::kPsqlodbc)) {
    // It gives the server's words, and not its code.
    const std::string_view records = at->field("records");
    return records.find("FATAL:") == std::string_view::npos ||
           records.find("the database system is ") != std::string_view::npos;
  }
  return state.empty() || state.starts_with("08") || state.starts_with("HY") ||
         state.starts_with("57P");
}

}  // namespace defib::connection

#include "defib/connection/failure.h"

#include <fmt/core.h>

#include <algorithm>
#include <cctype>
#include <utility>

#include "defib/base/visible_text.h"

namespace defib::connection {
namespace {

constexpr std::size_t kMaxRecords = 16;
constexpr std::size_t kMaxMessage = 600;
constexpr std::size_t kMaxShownSql = 60;

bool has_word(std::string_view text, std::initializer_list<std::string_view> words) {
  return std::ranges::any_of(words, [&](std::string_view word) {
    return std::ranges::search(text, word, [](char a, char b) {
             return std::tolower(static_cast<unsigned char>(a)) ==
                    std::tolower(static_cast<unsigned char>(b));
           }).begin() != text.end();
  });
}

struct CodeAndAdvice {
  Code code;
  std::string advice;
};

bool any_record(const FailedCall& call, std::initializer_list<std::string_view> codes) {
  return std::ranges::any_of(call.records, [&](const Diagnostic& record) {
    const std::string number = std::to_string(record.native);
    return std::ranges::any_of(
        codes, [&](std::string_view code) { return record.sqlstate == code || number == code; });
  });
}

// FreeTDS was sent on, reached that server, and gives up without a word of the server's.
bool is_second_redirect(const FailedCall& call) {
  return !call.target.empty() && !call.failure.timed_out && any_record(call, {"20002"}) &&
         std::ranges::all_of(call.records, [](const Diagnostic& record) {
           return record.native == 0 || record.native == 20002;
         });
}

CodeAndAdvice connect_code(const FailedCall& call, FailureClass found, std::string_view words) {
  const std::string& server = call.server;
  if (has_word(words,
               {"certificate", "unable to get local issuer", "self-signed", "self signed"})) {
    return {Code::kCertificateRejected,
            "give the authority that signed the server's certificate (sslrootcert, TLSCA), or have "
            "the certificate corrected"};
  }
  if (any_record(call, {"IM002", "IM003", "IM005"}) || has_word(words, {"Can't open lib"})) {
    return {Code::kDriverMissing, ""};
  }
  if (is_second_redirect(call)) {
    return {Code::kRedirectRefused,
            fmt::format("name the server behind {} in the data source: this driver follows one "
                        "redirect, whatever max_redirects says",
                        call.target)};
  }
  if (any_record(call, {"3D000", "1049", "911", "4060"}) ||
      (has_word(words, {"database"}) && has_word(words, {"does not exist"}))) {
    return {Code::kDatabaseUnknown, ""};
  }
  if (any_record(call, {"28P01", "28000", "1045", "18456", "1698"}) ||
      has_word(words, {"password authentication failed", "access denied", "login failed",
                       "no pg_hba.conf entry", "no password supplied"})) {
    return {Code::kLoginFailed, ""};
  }
  if (call.failure.timed_out) {
    return {Code::kDeadlineExceeded,
            fmt::format("check whether {} and the network to it are alive, or raise "
                        "connect_timeout",
                        server)};
  }
  if (found == FailureClass::kRetryAfterBackoff) return {Code::kServerBusy, ""};
  if (found == FailureClass::kWrongNode) return {Code::kWrongNode, ""};
  // The server has answered, whatever the driver says beside it.
  const bool answered = std::ranges::any_of(call.records, [&](const Diagnostic& record) {
    return call.failure.engine == Engine::kMssql && record.native > 0 &&
           (record.native < 20000 || record.native >= 21000);
  });
  if (answered) return {Code::kConnectionFailed, ""};
  if (has_word(words, {"refused", "could not translate host name", "unreachable", "no route",
                       "unknown host", "can't connect", "unable to connect", "name or service",
                       "could not connect"})) {
    return {Code::kHostUnreachable,
            fmt::format("check the address {} and that the server runs there", server)};
  }
  return {Code::kConnectionFailed, ""};
}

CodeAndAdvice code_for(const FailedCall& call, FailureClass found, std::string_view words) {
  const Failure& failure = call.failure;
  if (failure.phase == Phase::kConnect) return connect_code(call, found, words);
  if (found == FailureClass::kCommitAmbiguous) return {Code::kCommitUnknown, ""};
  if (failure.timed_out) return {Code::kDeadlineExceeded, ""};
  if (found == FailureClass::kWrongNode) return {Code::kWrongNode, ""};
  if (found == FailureClass::kOutcomeUnknown) return {Code::kStatementOutcomeUnknown, ""};
  if (failure.connection_lost || found == FailureClass::kNewConnection) {
    return {Code::kConnectionLost, ""};
  }
  if (found == FailureClass::kRetryAfterBackoff) return {Code::kServerBusy, ""};
  if (failure.phase == Phase::kCommit && found == FailureClass::kRetryNow) {
    return {Code::kCommitRolledBack, ""};
  }
  return {Code::kStatementFailed, ""};
}

std::string_view outcome_text(Code code) {
  switch (code) {
    case Code::kCommitUnknown:
      return "the outcome of the commit is unknown";
    case Code::kStatementOutcomeUnknown:
      return "the session broke, and whether it was executed is unknown";
    case Code::kConnectionLost:
      return "the session broke";
    case Code::kDeadlineExceeded:
      return "no answer by the deadline";
    default:
      return "failed";
  }
}

bool is_transient(FailureClass found) {
  return found != FailureClass::kOperator && found != FailureClass::kNever &&
         found != FailureClass::kCommitAmbiguous;
}

std::string cleaned(std::string_view message, std::string_view password) {
  std::string text = visible_text(without_password(message, password));
  std::ranges::replace(text, '\n', ' ');
  while (!text.empty() && (text.back() == ' ' || text.back() == '.')) text.pop_back();
  if (text.size() > kMaxMessage) text.resize(kMaxMessage);
  return text;
}

// What follows is hidden up to the same mark: '...', "..." (a name in one engine is a literal in
// another), and PostgreSQL's $$...$$ and $name$...$name$. Empty: it is shown.
std::string_view hidden_mark(std::string_view text) {
  if (text.front() == '\'' || text.front() == '"') return text.substr(0, 1);
  if (text.front() != '$') return {};
  std::size_t end = 1;
  const auto is_name = [](char c) {
    const auto byte = static_cast<unsigned char>(c);
    return std::isalnum(byte) != 0 || c == '_' || byte >= 0x80;
  };
  while (end < text.size() && is_name(text[end])) ++end;
  const bool is_number = end > 1 && text[1] >= '0' && text[1] <= '9';
  if (end >= text.size() || text[end] != '$' || is_number) return {};
  return text.substr(0, end + 1);
}

// With both marks; npos: it cannot be told where it ends, for a backslash before the mark ends the
// literal for one engine and not for another.
std::size_t hidden_size(std::string_view text, std::string_view mark) {
  for (std::size_t at = text.find(mark, mark.size()); at != std::string_view::npos;
       at = text.find(mark, at + 2)) {
    if (mark.size() == 1 && text[at - 1] == '\\') break;
    const bool doubled = mark.size() == 1 && text.substr(at + 1).starts_with(mark);
    if (!doubled) return at + mark.size();
  }
  return std::string_view::npos;
}

// Whether a comment or a quoted name begins here that has quotes in it: they would turn inside out
// what comes behind.
bool begins_with_quotes_inside(std::string_view text) {
  constexpr std::string_view kEnds[][2] = {{"--", "\n"}, {"#", "\n"}, {"/*", "*/"}, {"`", "`"}};
  for (const auto& [begin, end] : kEnds) {
    if (!text.starts_with(begin)) continue;
    const std::string_view inside = text.substr(0, text.find(end, begin.size()));
    if (inside.find_first_of("'\"$") != std::string_view::npos) return true;
  }
  if (text.front() != '[') return false;
  // ['a', 'b'] is an array, [it's] a name.
  const std::string_view inside = text.substr(0, text.find(']'));
  return std::ranges::count(inside, '\'') % 2 != 0;
}

}  // namespace

std::string without_password(std::string_view text, std::string_view password) {
  std::string out(text);
  if (password.empty()) return out;
  const auto is_word = [&](std::size_t at) {
    return at < out.size() && std::isalnum(static_cast<unsigned char>(out[at])) != 0;
  };
  constexpr std::string_view kStars = "***";
  for (std::size_t at = out.find(password); at != std::string::npos;) {
    const bool alone = (at == 0 || !is_word(at - 1)) && !is_word(at + password.size());
    if (password.size() > 3 || alone) {
      out.replace(at, password.size(), kStars);
      at = out.find(password, at + kStars.size());
    } else {
      at = out.find(password, at + 1);
    }
  }
  return out;
}

std::string shown_sql(std::string_view sql) {
  std::string out;
  for (std::size_t i = 0; i < sql.size();) {
    if (out.size() >= kMaxShownSql) return out + "...";
    const std::string_view rest = sql.substr(i);
    const std::string_view mark = hidden_mark(rest);
    if (!mark.empty()) {
      const std::size_t size = hidden_size(rest, mark);
      out += '?';
      if (size == std::string_view::npos) return out + "...";
      i += size;
      continue;
    }
    if (begins_with_quotes_inside(rest)) return out + "?...";
    out += sql[i] == '\n' || sql[i] == '\t' ? ' ' : sql[i];
    ++i;
  }
  return out;
}

Error make_error(FailedCall call, const Classifier& classifier) {
  if (call.records.size() > kMaxRecords) call.records.resize(kMaxRecords);
  call.failure.records = call.records;
  const Classifier::Verdict verdict = classifier.classify(call.failure);
  std::string records, words, sqlstate;
  std::int64_t native = 0;
  for (const Diagnostic& record : call.records) {
    const std::string message = cleaned(record.message, call.password);
    if (sqlstate.empty()) sqlstate = record.sqlstate;
    if (native == 0) native = record.native;
    words += (words.empty() ? "" : "; ") + message;
    records += fmt::format("{}[{}/{}] {}", records.empty() ? "" : "; ", record.sqlstate,
                           record.native, message);
  }
  const CodeAndAdvice chosen = code_for(call, verdict.failure_class, words);
  std::string message =
      fmt::format("{}{}: {}", call.what, call.target.empty() ? "" : ", sent on to " + call.target,
                  outcome_text(chosen.code));
  if (!words.empty()) message += fmt::format("; the driver says: {}", words);
  if (!sqlstate.empty()) message += fmt::format(" (SQLSTATE {})", sqlstate);
  Error error = Error(chosen.code, std::move(message))
                    .with("class", to_string(verdict.failure_class))
                    .with("why", verdict.why)
                    .with("phase", to_string(call.failure.phase))
                    .with("backend", call.backend)
                    .with("engine", to_string(call.failure.engine))
                    .with("driver", to_string(call.failure.driver))
                    .with("server", call.server)
                    .with("transient", is_transient(verdict.failure_class) ? "yes" : "no");
  if (!call.target.empty()) error = std::move(error).with("target", call.target);
  if (!sqlstate.empty()) error = std::move(error).with("sqlstate", sqlstate);
  if (native != 0) error = std::move(error).with("native", native);
  if (!records.empty()) error = std::move(error).with("records", records);
  if (!chosen.advice.empty()) error = std::move(error).suggest(chosen.advice);
  return error;
}

}  // namespace defib::connection

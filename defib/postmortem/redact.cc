#include "defib/postmortem/redact.h"

#include <algorithm>
#include <cctype>

#include "defib/obs/log.h"
#include "defib/os/random.h"

namespace defib::postmortem {
namespace {

constexpr int kMaxDepth = 64;
constexpr std::uint64_t kPrime = (std::uint64_t{1} << 61) - 1;

std::uint64_t multiply(std::uint64_t a, std::uint64_t b) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<std::uint64_t>(Wide{a} * b % kPrime);
}

// Of Karp and Rabin: that of the next place follows from that of this one.
class RollingHash {
 public:
  RollingHash(std::uint64_t key, std::size_t size) : key_(key) {
    for (std::size_t i = 1; i < size; ++i) first_weight_ = multiply(first_weight_, key);
  }
  void push(char c) { value_ = (multiply(value_, key_) + byte(c)) % kPrime; }
  void drop(char first) {
    value_ = (value_ + kPrime - multiply(byte(first), first_weight_)) % kPrime;
  }
  std::uint64_t value() const { return value_; }

 private:
  static std::uint64_t byte(char c) { return static_cast<unsigned char>(c) + std::uint64_t{1}; }
  std::uint64_t key_, value_ = 0, first_weight_ = 1;
};

std::uint64_t hash_of(std::string_view text, std::uint64_t key) {
  RollingHash hash(key, text.size());
  for (const char c : text) hash.push(c);
  return hash.value();
}
constexpr std::size_t kMaxName = 128;

bool is_alnum(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0;
}
bool is_name(char c) {
  return is_alnum(c) || c == '_' || c == '-' || c == '.';
}
bool is_key(char c) {
  return is_alnum(c) || c == '_' || c == '-';
}

// Where the value of such a name is the whole rest of the line.
bool takes_the_line(std::string_view name) {
  std::string lower;
  for (const char c : name) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return lower.ends_with("authorization") || lower.ends_with("cookie");
}

// A key's own form: what it begins with, and how much follows at least.
struct KeyForm {
  std::string_view prefix;
  std::size_t more;
};
constexpr KeyForm kForms[] = {
    {"AKIA", 16},  {"ASIA", 16},  {"ghp_", 30},        {"gho_", 30},     {"ghs_", 30},
    {"ghu_", 30},  {"ghr_", 30},  {"github_pat_", 30}, {"glpat-", 16},   {"xoxb-", 16},
    {"xoxp-", 16}, {"xoxa-", 16}, {"sk_live_", 16},    {"rk_live_", 16}, {"sk-", 20},
    {"AIza", 30},  {"npm_", 30}};

// The length of a key that begins here; 0: none does.
std::size_t key_here(std::string_view text) {
  for (const KeyForm& form : kForms) {
    if (!text.starts_with(form.prefix)) continue;
    std::size_t size = form.prefix.size();
    while (size < text.size() && is_key(text[size])) ++size;
    if (size >= form.prefix.size() + form.more) return size;
  }
  // A JSON web token: {"... in base64, and two points.
  if (text.starts_with("eyJ")) {
    std::size_t size = 0;
    int points = 0;
    while (size < text.size() && (is_key(text[size]) || text[size] == '.')) {
      points += text[size++] == '.' ? 1 : 0;
    }
    if (points >= 2 && size >= 30) return size;
  }
  return 0;
}

constexpr std::string_view kPemBegin = "-----BEGIN ";
constexpr std::string_view kPemKey = "PRIVATE KEY-----";
constexpr std::string_view kPemEnd = "-----END ";

// The end of a PEM private key's body that begins here; 0: none does. One that has no end goes on
// to the end of the text.
std::size_t private_key_here(std::string_view text, std::size_t& body) {
  if (!text.starts_with(kPemBegin)) return 0;
  const std::size_t title = text.find(kPemKey);
  if (title > 64) return 0;  // also where there is none
  body = title + kPemKey.size();
  return std::min(text.find(kPemEnd, body), text.size());
}

// The password in "//user:password@host", where `text` begins with the two slashes.
std::pair<std::size_t, std::size_t> password_here(std::string_view text) {
  const std::size_t end = std::min(text.find_first_of("/ \t\r\n\"'<>?#", 2), text.size());
  // The last one: a careless password holds the sign itself.
  const std::size_t at = text.substr(0, end).rfind('@');
  const std::size_t colon = text.find(':', 2);
  if (at == text.npos || colon >= at) return {0, 0};
  return {colon + 1, at - colon - 1};
}

// Behind a name: "=", ": ", "\":\"", "=>"; then the value's extent.
struct Extent {
  std::size_t start = 0;
  std::size_t size = 0;
};
Extent value_behind(std::string_view text, std::string_view name) {
  std::size_t at = 0;
  const auto skip = [&](std::string_view set) {
    while (at < text.size() && set.find(text[at]) != set.npos) ++at;
  };
  skip("\\\"' \t]");
  if (at >= text.size() || (text[at] != '=' && text[at] != ':')) return {};
  ++at;
  skip("=> \t");
  const std::size_t before_quote = at;
  while (at < text.size() && text[at] == '\\') ++at;
  const char quote = at < text.size() && (text[at] == '"' || text[at] == '\'') ? text[at] : '\0';
  if (quote != '\0') {
    const bool escaped = at > before_quote;
    const std::size_t start = ++at;
    while (at < text.size() && text[at] != quote && text[at] != '\n') {
      if (text[at] == '\\' && escaped) break;  // the closing quote's
      at += text[at] == '\\' ? 2 : 1;
    }
    return {start, std::min(at, text.size()) - start};
  }
  at = before_quote;
  const std::string_view ends = takes_the_line(name)
                                    ? std::string_view("\r\n\"'\\\0", 6)
                                    : std::string_view(" \t\r\n\"',;&)]}<>\\\0", 15);
  std::size_t end = std::min(text.find_first_of(ends, at), text.size());
  return {at, end - at};
}

// "Bearer x" and "Basic x": what follows is the secret.
std::size_t scheme_here(std::string_view text) {
  for (const std::string_view scheme : {"Bearer ", "bearer ", "Basic ", "basic "}) {
    if (text.starts_with(scheme)) return scheme.size();
  }
  return 0;
}

}  // namespace

// What is hidden in our own log, and what foreign programs call theirs.
bool names_a_secret(std::string_view name) {
  if (obs::names_a_secret(name)) return true;
  std::string lower;
  for (const char c : name) {
    if (is_alnum(c)) lower += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  constexpr std::string_view kWords[] = {"pwd", "authkey",    "auth",          "bearer",
                                         "pin", "signingkey", "encryptionkey", "sig"};
  return std::ranges::any_of(kWords, [&](std::string_view word) {
    // Short words only as the whole name: "--pin" is one, "--pinning" is none.
    return word.size() > 4 ? lower.find(word) != std::string::npos : lower == word;
  });
}

namespace {

// Calls `take` with each argument, and whether the option before it makes it a secret.
template <typename Take>
void each_argument(const std::vector<std::string>& arguments, Take take) {
  bool next_is_secret = false;
  for (const std::string& argument : arguments) {
    const bool option = argument.starts_with("-");
    take(argument, next_is_secret && !option);
    next_is_secret = option && argument.find('=') == std::string::npos && names_a_secret(argument);
  }
}

}  // namespace

void Redactor::add(std::string_view secret) {
  if (secret.size() < kMinLearned || learned_.size() >= kMaxLearned) return;
  if (std::ranges::find(learned_, secret) != learned_.end()) return;
  const auto place = std::ranges::find_if(
      learned_, [&](const std::string& other) { return other.size() < secret.size(); });
  learned_.insert(place, std::string(secret));
}

void Redactor::learn(const Environment& environment) {
  for (const auto& [name, value] : environment) {
    // The working directory has the name of a secret by chance.
    if (name == "PWD" || name == "OLDPWD") continue;
    if (names_a_secret(name)) add(value);
    scan(value, nullptr, true);
  }
}

void Redactor::learn_arguments(const std::vector<std::string>& command_line) {
  each_argument(command_line, [this](const std::string& argument, bool secret) {
    if (secret) add(argument);
    scan(argument, nullptr, true);
  });
}

std::string Redactor::replace_learned(std::string_view text) {
  std::string result(text);
  for (const std::string& secret : learned_) {
    for (std::size_t at = result.find(secret); at != std::string::npos;
         at = result.find(secret, at + kRedacted.size())) {
      result.replace(at, secret.size(), kRedacted);
      ++count_;
    }
  }
  return result;
}

wire::Json Redactor::marks() const {
  const std::uint64_t key = os::random_seed() % (kPrime - 2) + 2;
  wire::Json list = wire::Json::array();
  const auto put = [&](const Mark& mark) {
    list.push(wire::Json::object({{"key", mark.key}, {"size", mark.size}, {"hash", mark.hash}}));
  };
  for (const Mark& mark : marks_) put(mark);
  for (const std::string& secret : learned_) {
    if (secret.size() <= kMaxMarked) put({key, secret.size(), hash_of(secret, key)});
  }
  return list;
}

void Redactor::learn_marks(const wire::Json& marks) {
  for (const wire::Json& one : marks.items()) {
    const Mark mark{one["key"].as_uint() % kPrime, one["size"].as_uint(), one["hash"].as_uint()};
    if (mark.size < kMinLearned || mark.size > kMaxMarked || marks_.size() == kMaxMarks) continue;
    const bool known = std::ranges::any_of(marks_, [&](const Mark& other) {
      return other.key == mark.key && other.hash == mark.hash && other.size == mark.size;
    });
    if (!known) marks_.push_back(mark);
  }
}

std::string Redactor::replace_marked(std::string text) {
  for (const Mark& mark : marks_) {
    if (text.size() < mark.size) continue;
    RollingHash hash(mark.key, mark.size);
    std::string result;
    std::size_t kept = 0;  // up to here it is in the result
    for (std::size_t at = 0, filled = 0; at < text.size(); ++at) {
      if (filled == mark.size) {
        hash.drop(text[at - mark.size]);
      } else {
        ++filled;
      }
      hash.push(text[at]);
      if (filled < mark.size || hash.value() != mark.hash) continue;
      result.append(text, kept, at + 1 - mark.size - kept).append(kRedacted);
      kept = at + 1;
      hash = RollingHash(mark.key, mark.size);
      filled = 0;
      ++count_;
    }
    if (kept > 0) text = result.append(text, kept);
  }
  return text;
}

// One walk over the text: what is hidden goes out as [redacted], or is learned.
void Redactor::scan(std::string_view text, std::string* to, bool learning) {
  std::size_t at = 0;
  const auto copy = [&](std::size_t size) {
    if (to != nullptr) to->append(text.substr(at, size));
    at += size;
  };
  const auto hide = [&](std::size_t size) {
    const std::string_view secret = text.substr(at, size);
    at += size;
    if (secret.empty()) return;
    if (learning) add(secret);
    if (to != nullptr) to->append(kRedacted);
    if (to != nullptr && secret != kRedacted) ++count_;
  };
  while (at < text.size()) {
    const std::string_view rest = text.substr(at);
    const bool begins = at == 0 || !is_name(text[at - 1]);
    if (rest.front() == '-') {
      std::size_t body = 0;
      if (const std::size_t end = private_key_here(rest, body); end > 0) {
        copy(body);
        hide(end - body);
        continue;
      }
    }
    if (rest.starts_with("//")) {
      if (const auto [start, size] = password_here(rest); size > 0) {
        copy(start);
        hide(size);
        continue;
      }
    }
    if (!begins || !is_name(rest.front())) {
      copy(1);
      continue;
    }
    if (const std::size_t size = key_here(rest); size > 0) {
      hide(size);
      continue;
    }
    if (const std::size_t size = scheme_here(rest); size > 0) {
      const Extent extent = value_behind("=" + std::string(rest.substr(size, 4096)), {});
      // "Basic usage" is no credential: those are long.
      if (extent.size >= 8 && !rest.substr(size).starts_with(kRedacted)) {
        copy(size);
        hide(extent.start - 1 + extent.size);
        continue;
      }
    }
    std::size_t size = 0;
    while (size < rest.size() && is_name(rest[size])) ++size;
    const std::string_view name = rest.substr(0, size);
    const bool secret = size <= kMaxName && names_a_secret(name);
    copy(size);
    if (!secret) continue;
    const Extent extent = value_behind(text.substr(at), name);
    if (extent.size == 0) continue;
    copy(extent.start);
    if (text.substr(at).starts_with(kRedacted)) {
      copy(kRedacted.size());
    } else {
      hide(extent.size);
    }
  }
}

std::string Redactor::text(std::string_view text) {
  const std::string known = replace_marked(replace_learned(text));
  std::string result;
  result.reserve(known.size());
  scan(known, &result, false);
  return result;
}

std::string Redactor::value(std::string_view name, std::string_view value) {
  if (!names_a_secret(name) || name == "PWD" || name == "OLDPWD") return text(value);
  if (value.empty()) return {};
  ++count_;
  return std::string(kRedacted);
}

wire::Json Redactor::json(const wire::Json& value) {
  return json(value, 0);
}

wire::Json Redactor::json(const wire::Json& value, int depth) {
  if (value.is_string()) return text(value.as_string());
  if (depth == kMaxDepth) return value.is_array() || value.is_object() ? wire::Json() : value;
  if (value.is_array()) {
    wire::Json list = wire::Json::array();
    for (const wire::Json& item : value.items()) list.push(json(item, depth + 1));
    return list;
  }
  if (value.is_object()) {
    wire::Json object = wire::Json::object();
    for (const auto& [name, member] : value.members()) {
      // A name comes from anywhere too.
      const std::string shown = text(name);
      object.set(shown, member.is_string() ? wire::Json(this->value(name, member.as_string()))
                                           : json(member, depth + 1));
    }
    return object;
  }
  return value;
}

std::vector<std::string> Redactor::command_line(const std::vector<std::string>& arguments) {
  std::vector<std::string> result;
  result.reserve(arguments.size());
  each_argument(arguments, [&](const std::string& argument, bool secret) {
    result.push_back(secret ? value("secret", argument) : text(argument));
  });
  return result;
}

std::vector<std::string> parse_arguments(std::string_view bytes) {
  std::vector<std::string> list;
  while (!bytes.empty()) {
    const std::size_t end = std::min(bytes.find('\0'), bytes.size());
    list.emplace_back(bytes.substr(0, end));
    bytes.remove_prefix(std::min(end + 1, bytes.size()));
  }
  return list;
}

Redactor::Environment parse_environment(std::string_view bytes) {
  Redactor::Environment environment;
  for (std::string& entry : parse_arguments(bytes)) {
    const std::size_t equals = entry.find('=');
    if (equals == std::string::npos) continue;
    environment.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  return environment;
}

}  // namespace defib::postmortem

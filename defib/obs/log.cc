// Plain C streams instead of a logging library: spdlog costs the process 1.1 MB of memory
// (docs/obs.md), and the supervisor has 4. An unbuffered stream in append mode turns each fwrite()
// into one write(2), and locks itself.

#include "defib/obs/log.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/fd.h"

namespace defib::obs {
namespace {

constexpr std::size_t kMaxValueBytes = 4096;
constexpr std::string_view kRedacted = "[redacted]";
constexpr std::string_view kLevels = "debug, info, warning, error, off";
constexpr std::string_view kCut = "...[cut]";

// The length of the well-formed UTF-8 sequence at the start of `text`, or 0. Of the forbidden
// sequences (overlong, surrogates) only the lead bytes are checked: a reader replaces the rest.
std::size_t utf8_length(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  const std::size_t length = lead < 0x80                    ? 1
                             : lead >= 0xC2 && lead <= 0xDF ? 2
                             : lead >= 0xE0 && lead <= 0xEF ? 3
                             : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                            : 0;
  if (length == 0 || length > text.size()) return 0;
  const bool tails = std::all_of(text.begin() + 1, text.begin() + static_cast<long>(length),
                                 [](char c) { return (c & 0xC0) == 0x80; });
  return tails ? length : 0;
}

bool needs_quotes(std::string_view value) {
  return value.empty() || std::any_of(value.begin(), value.end(), [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte <= 0x20 || byte >= 0x7f || c == '"' || c == '=' || c == '\\';
         });
}

void append_value(std::string& line, std::string_view value) {
  if (!needs_quotes(value) && value.size() <= kMaxValueBytes) {
    line += value;
    return;
  }
  const std::size_t start = line.size();
  line += '"';
  while (!value.empty()) {
    if (line.size() - start > kMaxValueBytes) {
      line += kCut;
      break;
    }
    std::size_t length = 1;
    const char c = value.front();
    if (c == '"' || c == '\\') {
      line += '\\';
      line += c;
    } else if (c == '\n') {
      line += "\\n";
    } else if (c == '\t') {
      line += "\\t";
    } else if (length = utf8_length(value);
               length == 0 || static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      length = 1;
      fmt::format_to(std::back_inserter(line), "\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      line += value.substr(0, length);
    }
    value.remove_prefix(length);
  }
  line += '"';
}

// A key is a word; what is not one of a word's characters becomes '_'.
void append_key(std::string& line, std::string_view key) {
  for (const char c : key.substr(0, 64)) {
    const bool fits =
        std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_' || c == '.' || c == '-';
    line += fits ? c : '_';
  }
  if (key.empty()) line += '_';
}

void append_field(std::string& line, std::string_view key, std::string_view value) {
  if (!line.empty()) line += ' ';
  append_key(line, key);
  line += '=';
  append_value(line, value);
}

Level level_of_environment() {
  Level level = Level::kInfo;
  const char* word = std::getenv("LOG_LEVEL");
  if (word != nullptr && *word != '\0' && !parse_level(word, level)) {
    const std::string line = format_log_line(
        os::real_clock().wall_ns(), Level::kWarning, "log",
        "LOG_LEVEL is none of debug, info, warning, error, off; taking info", {{"value", word}});
    std::fputs((line + "\n").c_str(), stderr);
  }
  return level;
}

std::atomic<Level>& lowest_level() {
  static std::atomic<Level> level = level_of_environment();
  return level;
}

// Where lines go. Leaked on purpose: destructors of others may log.
class Sink {
 public:
  static Sink& get() {
    static Sink* const sink = new Sink;
    return *sink;
  }

  void write(std::string_view line) {
    const std::lock_guard lock(mutex_);
    if (stream_ == nullptr) {
      std::fwrite(line.data(), 1, line.size(), stderr);
      return;
    }
    if (written_ + line.size() > file_.max_bytes && written_ > 0) rotate();
    written_ += std::fwrite(line.data(), 1, line.size(), stream_);
  }

  Result<> set(LogFile file) {
    std::FILE* stream = nullptr;
    std::uint64_t size = 0;
    if (!file.path.empty()) {
      stream = open(file.path, size);
      if (stream == nullptr) return os::system_error("open", file.path, errno);
    }
    const std::lock_guard lock(mutex_);
    if (stream_ != nullptr) std::fclose(stream_);
    stream_ = stream;
    file_ = std::move(file);
    written_ = size;
    return {};
  }

 private:
  static std::FILE* open(const std::string& path, std::uint64_t& size) {
    std::FILE* stream = std::fopen(path.c_str(), "ae");
    if (stream == nullptr) return nullptr;
    std::setvbuf(stream, nullptr, _IONBF, 0);
    std::fseek(stream, 0, SEEK_END);
    const long at = std::ftell(stream);
    size = at > 0 ? static_cast<std::uint64_t>(at) : 0;
    return stream;
  }

  // Where the new file cannot be opened, the old one goes on, since losing lines is worse.
  void rotate() {
    std::uint64_t size = 0;
    if (std::rename(file_.path.c_str(), (file_.path + ".1").c_str()) == 0) {
      if (std::FILE* stream = open(file_.path, size); stream != nullptr) {
        std::fclose(stream_);
        stream_ = stream;
      }
    }
    written_ = size;
  }

  std::mutex mutex_;  // guards all below
  std::FILE* stream_ = nullptr;
  LogFile file_;
  std::uint64_t written_ = 0;
};

std::string_view trim_line_end(std::string_view text) {
  while (!text.empty() && text.back() == '\n') text.remove_suffix(1);
  return text;
}

}  // namespace

bool parse_level(std::string_view word, Level& out) {
  std::string lower(word);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (lower == "warn") lower = "warning";
  for (const Level level :
       {Level::kDebug, Level::kInfo, Level::kWarning, Level::kError, Level::kOff}) {
    if (lower == to_string(level)) {
      out = level;
      return true;
    }
  }
  return false;
}

std::string_view to_string(Level level) {
  switch (level) {
    case Level::kDebug:
      return "debug";
    case Level::kInfo:
      return "info";
    case Level::kWarning:
      return "warning";
    case Level::kError:
      return "error";
    case Level::kOff:
      return "off";
  }
  return "?";
}

LogField::LogField(std::string_view the_key, double the_value)
    : key(the_key), value(fmt::format("{}", the_value)) {}

bool names_a_secret(std::string_view key) {
  constexpr std::string_view kWords[] = {"secret",     "password",  "passwd",        "passphrase",
                                         "token",      "apikey",    "privatekey",    "accesskey",
                                         "credential", "signature", "authorization", "cookie"};
  // "api_key", "Api-Key" and "apiKey" are one word.
  std::string plain;
  for (const char c : key) {
    if (std::isalnum(static_cast<unsigned char>(c)) != 0) {
      plain += static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
  }
  return std::any_of(std::begin(kWords), std::end(kWords),
                     [&](std::string_view word) { return plain.find(word) != std::string::npos; });
}

std::string format_log_line(std::int64_t wall_ns, Level level, std::string_view component,
                            std::string_view message, std::initializer_list<LogField> fields) {
  std::string line = "time=" + os::format_time(wall_ns);
  append_field(line, "level", to_string(level));
  append_field(line, "component", component);
  append_field(line, "msg", trim_line_end(message));
  for (const LogField& field : fields) {
    append_field(line, field.key, names_a_secret(field.key) ? kRedacted : field.value);
  }
  return line;
}

bool log_enabled(Level level) {
  return level != Level::kOff && level >= lowest_level().load(std::memory_order_relaxed);
}

void set_log_level(Level level) {
  lowest_level().store(level, std::memory_order_relaxed);
}

Result<> configure_logging(int& argc, char** argv) {
  constexpr std::string_view kOption = "--log-level";
  const auto bad = [](std::string message) {
    return Error(Code::kInvalidArgument, std::move(message))
        .suggest("use one of debug, info, warning, error, off");
  };
  Level level = Level::kInfo;
  bool given = false;
  std::vector<char*> kept;
  int i = 0;
  for (; i < argc && std::string_view(argv[i]) != "--"; ++i) {
    const std::string_view argument = argv[i];
    std::string_view value;
    if (i > 0 && argument == kOption) {
      if (i + 1 >= argc) return bad("--log-level needs a level").with("allowed", kLevels);
      value = argv[++i];
    } else if (i > 0 && argument.starts_with(kOption) &&
               argument.substr(kOption.size()).starts_with('=')) {
      value = argument.substr(kOption.size() + 1);
    } else {
      kept.push_back(argv[i]);
      continue;
    }
    given = true;
    if (!parse_level(value, level)) {
      return bad(fmt::format("'{}' of --log-level is no log level", value))
          .with("allowed", kLevels);
    }
  }
  const char* word = std::getenv("LOG_LEVEL");
  if (!given && word != nullptr && *word != '\0' && !parse_level(word, level)) {
    return bad(fmt::format("'{}' in LOG_LEVEL is no log level", word)).with("allowed", kLevels);
  }
  kept.insert(kept.end(), argv + i, argv + argc);
  std::copy(kept.begin(), kept.end(), argv);
  if (static_cast<int>(kept.size()) < argc) argv[kept.size()] = nullptr;
  argc = static_cast<int>(kept.size());
  set_log_level(level);
  return {};
}

Result<> set_log_file(LogFile file) {
  return Sink::get().set(std::move(file));
}

void log(Level level, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields) {
  if (!log_enabled(level)) return;
  const int errno_before = errno;
  Sink::get().write(format_log_line(os::real_clock().wall_ns(), level, component, message, fields) +
                    "\n");
  errno = errno_before;
}

}  // namespace defib::obs

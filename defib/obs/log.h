// Log: one event, one line of key=value text, on stderr or in a bounded file.
//
//   obs::log(obs::Level::kInfo, "process", "service started", {{"service", name}, {"pid", pid}});
//   time=2026-11-20T13:05:58.123456789Z level=info component=process msg="service started"
//   service=engine pid=123                                                      (on one line)
//
// A line is written by one write(2), so lines of several threads and processes do not mix. Fields
// whose key names a secret are redacted. Values are bounded; control characters and invalid UTF-8
// are escaped, so that a log cannot be forged by what it reports.
// Thread rule: any thread; not for signal handlers.

#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>

#include "defib/base/error.h"

namespace defib::obs {

enum class Level : std::uint8_t { kDebug, kInfo, kWarning, kError, kOff };

// "debug", "info", "warning" (also "warn"), "error", "off". False where the word is another.
bool parse_level(std::string_view word, Level& out);
std::string_view to_string(Level level);

struct LogField {
  std::string key;
  std::string value;

  LogField(std::string_view the_key, std::string_view the_value) : key(the_key), value(the_value) {}
  LogField(std::string_view the_key, const char* the_value) : key(the_key), value(the_value) {}
  LogField(std::string_view the_key, const std::string& the_value)
      : key(the_key), value(the_value) {}
  template <std::integral T>
  LogField(std::string_view the_key, T the_value) : key(the_key) {
    if constexpr (std::same_as<T, bool>) {
      value = the_value ? "true" : "false";
    } else {
      value = std::to_string(the_value);
    }
  }
  LogField(std::string_view the_key, double the_value);
  // The whole chain on one line.
  LogField(std::string_view the_key, const Error& error) : key(the_key), value(error.to_line()) {}
};

void log(Level level, std::string_view component, std::string_view message,
         std::initializer_list<LogField> fields = {});
// True where log() would write; for callers whose fields are costly to make.
bool log_enabled(Level level);

// The lowest level written. Before the first call it is LOG_LEVEL of the environment, else info.
void set_log_level(Level level);

// For a program's main(): the level of "--log-level LEVEL" or "--log-level=LEVEL", which are taken
// out of the arguments (what stands after "--" is left alone), else of LOG_LEVEL, else info.
// InvalidArgument names the word, where it came from, and the allowed ones; nothing is changed
// then.
Result<> configure_logging(int& argc, char** argv);

struct LogFile {
  std::string path;                    // empty: stderr
  std::uint64_t max_bytes = 16 << 20;  // then it becomes PATH.1, replacing the one before
};
// Lines go there from now on. Where it fails, they go on to where they went.
Result<> set_log_file(LogFile file);

// The line without its end, as log() writes it. Pure, for tests and for other sinks.
std::string format_log_line(std::int64_t wall_ns, Level level, std::string_view component,
                            std::string_view message, std::initializer_list<LogField> fields);
// True where a key names something secret: password, token, api_key, authorization ...
bool names_a_secret(std::string_view key);

}  // namespace defib::obs

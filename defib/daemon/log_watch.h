// LogWatch: looks for a pattern in the lines of a service's output. Lines are bounded; the rest of
// a longer one is not looked at. Thread rule: one thread.

#pragma once

#include <regex.h>

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "defib/base/error.h"

namespace defib::daemon {

class LogWatch {
 public:
  static constexpr std::size_t kMaxLine = 8192;
  using OnMatch = std::function<void(const std::string& line)>;
  // `pattern` is a POSIX extended regular expression. InvalidArgument says what is wrong with it.
  static Result<std::unique_ptr<LogWatch>> create(const std::string& pattern, OnMatch on_match);
  ~LogWatch();
  LogWatch(const LogWatch&) = delete;
  LogWatch& operator=(const LogWatch&) = delete;

  // Bytes of one stream (1 stdout, 2 stderr), in pieces of any size.
  void push(int stream, std::string_view bytes);

 private:
  explicit LogWatch(OnMatch on_match) : on_match_(std::move(on_match)) {}
  regex_t pattern_ = {};
  OnMatch on_match_;
  std::string partial_[2];
};

}  // namespace defib::daemon

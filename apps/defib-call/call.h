// What `defib call` does, once it knows what is wanted.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/call/session.h"

namespace defib::cli {

inline constexpr int kDone = 0;
inline constexpr int kFailed = 1;
inline constexpr int kWrongUsage = 2;
inline constexpr int kInterrupted = 4;

struct CallCommand {
  std::string plugin;
  std::string method;                  // empty with --list: all
  std::vector<std::string> arguments;  // as they were given
  std::string arguments_file;          // instead of them; "-": standard input
  bool list = false;
  bool json = false;
  std::uint64_t limit = 0;  // records of a stream; 0: all
  call::ClientOptions client;
};

// Its value is the exit code. Errors are printed.
int run_call(const CallCommand& command);
// Prints the error in the command's form, and gives the exit code.
int print_error(const Error& error, bool json);
// From here on what the library prints goes to standard error: standard output is for results.
void take_stdout();
// Bytes for standard output, at once.
void print(std::string_view text);

}  // namespace defib::cli

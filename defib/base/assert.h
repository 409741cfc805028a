// Assertions that are always on: a bug stops the program at once, before it can damage state.
// What the outside world can cause is never asserted; it becomes an Error.

#pragma once

namespace defib {

// Prints "defib: assertion failed: EXPRESSION (MESSAGE) at FILE:LINE" to stderr with one write()
// and aborts. Safe in a signal handler.
[[noreturn]] void assertion_failed(const char* expression, const char* message, const char* file,
                                   int line);

}  // namespace defib

#define DEFIB_ASSERT(expression) \
  (static_cast<bool>(expression) \
       ? static_cast<void>(0)    \
       : ::defib::assertion_failed(#expression, nullptr, __FILE__, __LINE__))
#define DEFIB_ASSERT_MESSAGE(expression, message) \
  (static_cast<bool>(expression)                  \
       ? static_cast<void>(0)                     \
       : ::defib::assertion_failed(#expression, message, __FILE__, __LINE__))
#define DEFIB_UNREACHABLE(message) \
  ::defib::assertion_failed("unreachable", message, __FILE__, __LINE__)

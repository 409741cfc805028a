// Error: what happened, why, and what to do next; Result<T>: a value or an Error.
//
// An Error is one intrusive, immutable, reference-counted pointer: copying costs an atomic
// increment, and many threads may hold the same one. Every code stands once in codes.def.
// Invariant: an Error is never empty; success has no Error.

#pragma once

#include <atomic>
#include <cstdint>
#include <expected>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace defib {

enum class Code : std::int16_t {
#define DEFIB_CODE(number, name, error_class, text, guidance) k##name = number,
#include "defib/base/codes.def"
#undef DEFIB_CODE
};

enum class ErrorClass : std::uint8_t { kNone, kCritical, kRetryable, kRecoverable };

struct CodeInfo {
  Code code;
  std::string_view name;      // "DatabaseLocked"
  ErrorClass error_class;     //
  std::string_view text;      // what happened, in general
  std::string_view guidance;  // what to do next, in general
};

// All codes in the order of the table.
std::span<const CodeInfo> all_codes();
const CodeInfo& code_info(Code code);
// Accepts "-73", "73" and "DatabaseLocked" (case-insensitive).
std::optional<CodeInfo> find_code(std::string_view number_or_name);
// "critical", "retryable", "recoverable", "none".
std::string_view to_string(ErrorClass error_class);

class [[nodiscard]] Error {
 public:
  struct Field {
    std::string key;
    std::string value;
  };

  // `message` is one line in the user's words, without a final full stop.
  explicit Error(Code code, std::string message,
                 std::source_location location = std::source_location::current());
  Error(const Error& other) noexcept;
  Error(Error&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Error& operator=(Error other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~Error();

  // Building; each returns the same Error with one thing more.
  Error with(std::string_view key, std::string_view value) &&;
  Error with(std::string_view key, std::int64_t value) &&;
  Error because(Error cause) &&;
  // Replaces the code table's general guidance by a specific one.
  Error suggest(std::string action) &&;

  Code code() const;
  int number() const { return static_cast<int>(code()); }
  // The code's name: "DatabaseLocked".
  std::string_view kind() const;
  ErrorClass error_class() const;
  const std::string& message() const;
  std::string suggested_action() const;
  std::span<const Field> fields() const;
  // The value of a field, or an empty view.
  std::string_view field(std::string_view key) const;
  // nullptr at the root of the chain.
  const Error* cause() const;
  const Error& root() const;
  std::source_location location() const;
  // Whether repeating the same operation later may succeed although nobody changes anything: the
  // nearest field `transient` in the chain of causes ("yes" or "no"), which is set by who knows;
  // without one, no. Narrower than is_retryable(), which also allows for other parameters.
  bool is_transient() const;

  // "error[-73 DatabaseLocked]: message\ncause: ...\ntry: ..." (no final newline).
  std::string to_text() const;
  // "message: cause's message: ..." on one line, for logs.
  std::string to_line() const;

 private:
  struct State;
  State& own();
  State* state_;
};

// The three questions that automation asks; exactly one is true for a failure.
bool is_critical(const Error& error);
bool is_retryable(const Error& error);
bool is_recoverable(const Error& error);

template <typename T = void>
class [[nodiscard]] Result : public std::expected<T, Error> {
 public:
  using std::expected<T, Error>::expected;
  Result(Error error) : std::expected<T, Error>(std::unexpect, std::move(error)) {}
};

template <>
class [[nodiscard]] Result<void> : public std::expected<void, Error> {
 public:
  using std::expected<void, Error>::expected;
  Result(Error error) : std::expected<void, Error>(std::unexpect, std::move(error)) {}
};

// Returns the error of `expression` from the enclosing function.
#define DEFIB_TRY(expression)                                     \
  do {                                                            \
    if (auto defib_try_result = (expression); !defib_try_result)  \
      return ::defib::Error(std::move(defib_try_result.error())); \
  } while (false)

// auto declaration = value of expression, or return its error.
#define DEFIB_TRY_ASSIGN(declaration, expression) \
  DEFIB_TRY_ASSIGN_IMPL(DEFIB_TRY_CONCAT(defib_try_, __LINE__), declaration, expression)
#define DEFIB_TRY_CONCAT_IMPL(a, b) a##b
#define DEFIB_TRY_CONCAT(a, b) DEFIB_TRY_CONCAT_IMPL(a, b)
#define DEFIB_TRY_ASSIGN_IMPL(temporary, declaration, expression)      \
  auto temporary = (expression);                                       \
  if (!temporary) return ::defib::Error(std::move(temporary.error())); \
  declaration = std::move(*temporary)

}  // namespace defib

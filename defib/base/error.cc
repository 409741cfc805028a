#include "defib/base/error.h"

#include <fmt/core.h>

#include <array>
#include <cctype>
#include <charconv>

#include "defib/base/assert.h"

namespace defib {
namespace {

constexpr std::array kCodes = {
#define DEFIB_CODE(number, name, error_class, text, guidance) \
  CodeInfo{Code::k##name, #name, DEFIB_CLASS_##error_class, text, guidance},
#define DEFIB_CLASS_critical ErrorClass::kCritical
#define DEFIB_CLASS_retryable ErrorClass::kRetryable
#define DEFIB_CLASS_recoverable ErrorClass::kRecoverable
#define DEFIB_CLASS_none ErrorClass::kNone
#include "defib/base/codes.def"
#undef DEFIB_CODE
};

constexpr bool codes_descend() {
  for (std::size_t i = 1; i < kCodes.size(); ++i) {
    if (static_cast<int>(kCodes[i].code) >= static_cast<int>(kCodes[i - 1].code)) return false;
  }
  return true;
}
static_assert(codes_descend(), "codes.def: numbers are unique and in descending order");

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::tolower(static_cast<unsigned char>(a[i])) !=
        std::tolower(static_cast<unsigned char>(b[i]))) {
      return false;
    }
  }
  return true;
}

}  // namespace

std::span<const CodeInfo> all_codes() {
  return kCodes;
}

const CodeInfo& code_info(Code code) {
  for (const CodeInfo& info : kCodes) {
    if (info.code == code) return info;
  }
  DEFIB_UNREACHABLE("a Code that is not in codes.def");
}

std::optional<CodeInfo> find_code(std::string_view text) {
  int number = 0;
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), number);
  const bool numeric = ec == std::errc{} && end == text.data() + text.size();
  for (const CodeInfo& info : kCodes) {
    const int own = static_cast<int>(info.code);
    if (numeric ? (number == own || number == -own) : equals_ignoring_case(text, info.name)) {
      return info;
    }
  }
  return std::nullopt;
}

std::string_view to_string(ErrorClass error_class) {
  switch (error_class) {
    case ErrorClass::kNone:
      return "none";
    case ErrorClass::kCritical:
      return "critical";
    case ErrorClass::kRetryable:
      return "retryable";
    case ErrorClass::kRecoverable:
      return "recoverable";
  }
  DEFIB_UNREACHABLE("ErrorClass");
}

struct Error::State {
  std::atomic<std::uint32_t> references{1};
  Code code;
  std::string message;
  std::string action;
  std::vector<Field> fields;
  std::optional<Error> cause;
  std::source_location location;

  State(Code the_code, std::string the_message, std::source_location the_location)
      : code(the_code), message(std::move(the_message)), location(the_location) {}
  State(const State& other)
      : code(other.code),
        message(other.message),
        action(other.action),
        fields(other.fields),
        cause(other.cause),
        location(other.location) {}
};

Error::Error(Code code, std::string message, std::source_location location)
    : state_(new State(code, std::move(message), location)) {}

Error::Error(const Error& other) noexcept : state_(other.state_) {
  if (state_ != nullptr) state_->references.fetch_add(1, std::memory_order_relaxed);
}

Error::~Error() {
  // The chain of causes is a list of bounded length, so destroying it nests harmlessly.
  if (state_ != nullptr && state_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
    delete state_;
  }
}

Error::State& Error::own() {
  if (state_->references.load(std::memory_order_acquire) != 1) {
    Error copy(state_->code, {});
    delete std::exchange(copy.state_, new State(*state_));
    std::swap(state_, copy.state_);  // `copy` lets go of the shared one.
  }
  return *state_;
}

Error Error::with(std::string_view key, std::string_view value) && {
  own().fields.push_back({std::string(key), std::string(value)});
  return std::move(*this);
}

Error Error::with(std::string_view key, std::int64_t value) && {
  return std::move(*this).with(key, fmt::format("{}", value));
}

Error Error::because(Error cause) && {
  own().cause = std::move(cause);
  return std::move(*this);
}

Error Error::suggest(std::string action) && {
  own().action = std::move(action);
  return std::move(*this);
}

Code Error::code() const {
  return state_->code;
}
std::string_view Error::kind() const {
  return code_info(state_->code).name;
}
ErrorClass Error::error_class() const {
  return code_info(state_->code).error_class;
}
const std::string& Error::message() const {
  return state_->message;
}
std::string Error::suggested_action() const {
  return state_->action.empty() ? std::string(code_info(state_->code).guidance) : state_->action;
}
std::span<const Error::Field> Error::fields() const {
  return state_->fields;
}
std::string_view Error::field(std::string_view key) const {
  for (const Field& field : state_->fields) {
    if (field.key == key) return field.value;
  }
  return {};
}
const Error* Error::cause() const {
  return state_->cause ? &*state_->cause : nullptr;
}
const Error& Error::root() const {
  const Error* error = this;
  while (error->cause() != nullptr) error = error->cause();
  return *error;
}
bool Error::is_transient() const {
  for (const Error* error = this; error != nullptr; error = error->cause()) {
    const std::string_view answer = error->field("transient");
    if (!answer.empty()) return answer == "yes";
  }
  return false;
}

std::source_location Error::location() const {
  return state_->location;
}

std::string Error::to_text() const {
  std::string text = fmt::format("error[{} {}]: {}", number(), kind(), message());
  for (const Error* next = cause(); next != nullptr; next = next->cause()) {
    text += fmt::format("\ncause: [{} {}] {}", next->number(), next->kind(), next->message());
  }
  text += fmt::format("\ntry: {}", suggested_action());
  return text;
}

std::string Error::to_line() const {
  std::string line = fmt::format("[{} {}] {}", number(), kind(), message());
  for (const Error* next = cause(); next != nullptr; next = next->cause()) {
    line += ": " + next->message();
  }
  return line;
}

bool is_critical(const Error& error) {
  return error.error_class() == ErrorClass::kCritical;
}
bool is_retryable(const Error& error) {
  return error.error_class() == ErrorClass::kRetryable;
}
bool is_recoverable(const Error& error) {
  return error.error_class() == ErrorClass::kRecoverable;
}

}  // namespace defib

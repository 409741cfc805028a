// Configuration: a TOML text read into typed values, with errors that name file, line and column.
//
//   DEFIB_TRY_ASSIGN(auto document, conf::Document::parse_file("defib.toml"));
//   conf::Section root = document.root();
//   for (auto& [name, service] : root.named_tables("services")) {
//     auto command = service.required<std::vector<std::string>>("command");
//     service.value("max_restarts", options.max_restarts, {0, 1000});
//     service.value("restart_delay", options.restart_delay, {10ms, 1h});
//     service.word("restart", options.restart, {{"always", Restart::kAlways}, ...});
//   }
//   DEFIB_TRY(document.finish());
//
// A read never fails by itself: it leaves `out` as it was, and the document keeps the error.
// finish() returns the first error, with the others as its chain of causes, so that a user sees
// every mistake at once; nothing that was read may be used before it returned success. Every key
// that nobody asked for is an error too, with the nearest known key named.
// Thread rule: one thread. A Section must not outlive its Document.

#pragma once

#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"

namespace defib::conf {

// A size as Section::size() reads it, for settings that stand elsewhere than in a file; false where
// it is malformed, no whole number of bytes, or beyond 64 bits.
bool parse_size(std::string_view text, std::uint64_t& bytes);

// A value that is never printed: it has no formatter, no stream operator and no conversion.
// In a file it stands as "env:NAME" or "file:PATH" (of mode 0600, relative to the file).
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string value) : value_(std::move(value)) {}
  const std::string& reveal() const { return value_; }
  bool empty() const { return value_.empty(); }

 private:
  std::string value_;
};

// What "env:NAME" or "file:PATH" stands for. The message names the reference, never the value.
Result<Secret> read_secret(std::string_view reference);

// Both ends are allowed.
template <typename T>
struct Range {
  T min;
  T max;
};
inline constexpr Range<std::int64_t> kAnyInteger{INT64_MIN, INT64_MAX};
inline constexpr Range<os::Duration> kAnyDuration{os::Duration(0), os::Duration::max()};
inline constexpr Range<double> kAnyNumber{std::numeric_limits<double>::lowest(),
                                          std::numeric_limits<double>::max()};
inline constexpr Range<std::uint64_t> kAnySize{0, UINT64_MAX};
inline constexpr Range<Decimal> kAnyDecimal{Decimal::from_units(INT64_MIN + 1),
                                            Decimal::from_units(INT64_MAX)};

// The one of `words` that was probably meant by `wrong` (Damerau and Levenshtein's distance), or an
// empty view.
std::string_view nearest_word(std::string_view wrong, const std::vector<std::string>& words);

using StringMap = std::vector<std::pair<std::string, std::string>>;

class Section {
 public:
  // Whether the key stands in the file. Counts as asking for it.
  bool has(std::string_view key) const;
  // Whether the key stands in the file as a text, or as [[key]]: for keys that have several forms.
  bool has_text(std::string_view key) const;
  bool has_tables(std::string_view key) const;
  // False for a sub-table that the file does not have; reading from it yields nothing.
  bool present() const { return table_ != nullptr; }
  // "services.engine"; empty for the root.
  const std::string& path() const { return path_; }

  void value(std::string_view key, bool& out);
  void value(std::string_view key, std::string& out);
  template <std::integral T>
    requires(!std::same_as<T, bool>)
  void value(std::string_view key, T& out,
             std::type_identity_t<Range<T>> range = {std::numeric_limits<T>::min(),
                                                     std::numeric_limits<T>::max()}) {
    // TOML's integers are signed, so a larger bound bounds nothing.
    const auto clamp = [](T bound) {
      return std::in_range<std::int64_t>(bound) ? static_cast<std::int64_t>(bound) : INT64_MAX;
    };
    std::int64_t wide = 0;
    if (read_integer(key, wide, {clamp(range.min), clamp(range.max)})) out = static_cast<T>(wide);
  }
  void value(std::string_view key, double& out, Range<double> range = kAnyNumber);
  // "250ms", "30s", "5m", "1h"; a bare number is seconds.
  void value(std::string_view key, os::Duration& out, Range<os::Duration> range = kAnyDuration);
  // A number or a text, exact in both forms.
  void value(std::string_view key, Decimal& out, Range<Decimal> range = kAnyDecimal);
  void value(std::string_view key, std::vector<std::string>& out);
  // A list of texts and whole numbers, the numbers as texts.
  void words(std::string_view key, std::vector<std::string>& out);
  // A table of texts, such as an environment; in the order of the keys.
  void value(std::string_view key, StringMap& out);
  void value(std::string_view key, Secret& out);
  // The reference itself, for who resolves it later by read_secret(); a relative path becomes one
  // that does not depend on the file's directory. Nothing is checked here.
  void secret_reference(std::string_view key, std::string& out);
  // Bytes: "512KiB", "64MiB", "2GiB" (powers of 1024), "500KB", "64MB" (of 1000); a bare number is
  // bytes.
  void size(std::string_view key, std::uint64_t& out, Range<std::uint64_t> range = kAnySize);

  // As size(), or "unlimited", which is UINT64_MAX.
  void limit(std::string_view key, std::uint64_t& out);

  // One of the listed words.
  template <typename Enum>
  void word(std::string_view key, Enum& out,
            std::initializer_list<std::pair<std::string_view, Enum>> words) {
    std::vector<std::string_view> names;
    for (const auto& [name, value] : words) names.push_back(name);
    const int index = read_word(key, names);
    if (index >= 0) out = (words.begin() + index)->second;
  }

  // As value(), but an absent key is an error. Returns a default value where it failed.
  template <typename T, typename... Rest>
  T required(std::string_view key, Rest... rest) {
    T out{};
    if (require(key)) value(key, out, rest...);
    return out;
  }

  // [key]: present() is false where it is absent.
  Section table(std::string_view key);
  // [[key]], in the order of the file.
  std::vector<Section> tables(std::string_view key);
  // [key.NAME] for every NAME, in the order of the file.
  std::vector<std::pair<std::string, Section>> named_tables(std::string_view key);

  // For checks across keys: an error (ConfigBadValue) at the key's place, or the section's where
  // the key is absent or empty.
  void fail(std::string_view key, std::string_view message);
  // "defib.toml:12:8", as fail() would name it.
  std::string where(std::string_view key = {}) const;

 private:
  friend class Document;
  struct State;
  struct Place {
    std::uint32_t line = 0;
    std::uint32_t column = 0;
  };
  Section(State* state, const void* table, std::string path, Place place);
  const void* find(std::string_view key) const;  // the library's node, or null
  Place place_of(std::string_view key) const;
  void wrong_type(std::string_view key, std::string_view expected);
  void bad_value(std::string_view key, std::string_view expected);
  bool require(std::string_view key);
  bool read_integer(std::string_view key, std::int64_t& out, Range<std::int64_t> range);
  int read_word(std::string_view key, const std::vector<std::string_view>& words);
  std::string full_key(std::string_view key) const;

  State* state_;
  const void* table_;  // the library's table; null where absent
  std::string path_;
  Place place_;  // of the table's header, or of its parent's where it is absent
};

class Document {
 public:
  // The files are those of the system, as are secrets. At most 1 MiB.
  static Result<Document> parse_file(const std::string& path);
  // `name` stands in messages where the file's name would.
  static Result<Document> parse_text(std::string_view text, std::string name = "configuration");
  Document(Document&&) noexcept;
  Document& operator=(Document&&) noexcept;
  ~Document();

  Section root();
  // Success, or the first error in the order of the file, whose chain of causes holds the others
  // (20 at most; the field "errors" tells how many there are). Fields: file, line, column, key.
  Result<> finish();

 private:
  explicit Document(std::unique_ptr<Section::State> state);
  std::unique_ptr<Section::State> state_;
};

}  // namespace defib::conf

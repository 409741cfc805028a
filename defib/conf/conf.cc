#include "defib/conf/conf.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <map>

#define TOML_EXCEPTIONS 0
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::conf {
namespace {

constexpr std::uint64_t kMaxFileBytes = 1 << 20;
constexpr std::size_t kMaxErrors = 20;
constexpr std::size_t kMaxListedKeys = 12;
constexpr std::size_t kMaxSecretBytes = 64 << 10;

// Levenshtein's distance with transpositions of neighbours (optimal string alignment).
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> before(b.size() + 1), previous(b.size() + 1), current(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) previous[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    current[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = previous[j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      current[j] = std::min({previous[j] + 1, current[j - 1] + 1, substituted});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        current[j] = std::min(current[j], before[j - 2] + 1);
      }
    }
    std::swap(before, previous);
    std::swap(previous, current);
  }
  return previous[b.size()];
}

// The word that was probably meant, or an empty view.
template <typename Words>
std::string_view nearest(std::string_view wrong, const Words& words) {
  std::string_view best;
  std::size_t best_distance = std::max<std::size_t>(2, wrong.size() / 3) + 1;
  for (const std::string_view word : words) {
    const std::size_t distance = edit_distance(wrong.substr(0, 64), word);
    if (distance < best_distance && distance < word.size()) {
      best = word;
      best_distance = distance;
    }
  }
  return best;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t kShown = 40;
  const bool cut = text.size() > kShown;
  return fmt::format("\"{}{}\"", escape(text.substr(0, kShown)), cut ? "..." : "");
}

// What stands in the file, in a few words.
std::string describe(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::string:
      return in_quotes(node.as_string()->get());
    case toml::node_type::integer:
      return fmt::format("{}", node.as_integer()->get());
    case toml::node_type::floating_point:
      return fmt::format("{}", node.as_floating_point()->get());
    case toml::node_type::boolean:
      return node.as_boolean()->get() ? "true" : "false";
    case toml::node_type::array:
      return "an array";
    case toml::node_type::table:
      return "a table";
    case toml::node_type::none:
      return "nothing";
    default:
      return "a date or time";
  }
}

// "250ms": as a user would write it.
std::string write_duration(os::Duration duration) {
  struct Unit {
    std::int64_t nanoseconds;
    std::string_view name;
  };
  constexpr Unit kUnits[] = {{3'600'000'000'000, "h"},
                             {60'000'000'000, "m"},
                             {1'000'000'000, "s"},
                             {1'000'000, "ms"},
                             {1'000, "us"}};
  const std::int64_t count = duration.count();
  for (const Unit& unit : kUnits) {
    if (count != 0 && count % unit.nanoseconds == 0) {
      return fmt::format("{}{}", count / unit.nanoseconds, unit.name);
    }
  }
  return count == 0 ? "0s" : fmt::format("{}ns", count);
}

// "512KiB" and the like; false where it is malformed or beyond 64 bits.
bool parse_size(std::string_view text, std::uint64_t& out) {
  struct Unit {
    std::string_view name;
    std::uint64_t bytes;
  };
  constexpr Unit kUnits[] = {{"", 1},
                             {"B", 1},
                             {"KiB", 1ULL << 10},
                             {"MiB", 1ULL << 20},
                             {"GiB", 1ULL << 30},
                             {"TiB", 1ULL << 40},
                             {"KB", 1'000},
                             {"kB", 1'000},
                             {"MB", 1'000'000},
                             {"GB", 1'000'000'000},
                             {"TB", 1'000'000'000'000}};
  const std::size_t digits = std::min(text.find_first_not_of("0123456789."), text.size());
  std::string_view unit_name = text.substr(digits);
  while (unit_name.starts_with(' ')) unit_name.remove_prefix(1);
  const auto number = Decimal::parse(text.substr(0, digits));
  if (!number) return false;
  for (const Unit& unit : kUnits) {
    if (unit.name != unit_name) continue;
    using Wide = unsigned __int128;
    const Wide scaled = static_cast<Wide>(number->units()) * unit.bytes;
    if (scaled % Decimal::kScale != 0 || scaled / Decimal::kScale > UINT64_MAX) return false;
    out = static_cast<std::uint64_t>(scaled / Decimal::kScale);
    return true;
  }
  return false;
}

// A TOML number of up to 15 significant digits is the only decimal of that length near its double,
// so its shortest form is what the user wrote; longer ones must be written as texts.
Result<Decimal> exact_decimal(double value) {
  char buffer[400];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
  const std::string_view text(buffer, static_cast<std::size_t>(end - buffer));
  const auto digits = std::count_if(text.begin(), text.end(), [](char c) { return c != '.'; });
  if (digits > 15) return Error(Code::kMalformed, "too many digits for a number");
  return Decimal::parse(text);
}

struct SecretProblem {
  Code code;
  std::string message;
};

// Never mentions the value.
std::expected<std::string, SecretProblem> resolve_secret(std::string_view reference,
                                                         const std::string& directory) {
  const auto problem = [](Code code, std::string message) {
    return std::unexpected(SecretProblem{code, std::move(message)});
  };
  if (reference.starts_with("env:")) {
    const std::string name(reference.substr(4));
    const char* value = std::getenv(name.c_str());
    if (value != nullptr && *value != '\0') return value;
    return problem(Code::kConfigMissing,
                   fmt::format("the environment variable {} is not set", in_quotes(name)));
  }
  if (!reference.starts_with("file:")) {
    return problem(Code::kConfigSecretExposed,
                   "a secret must not stand in the configuration; write \"env:NAME\" or "
                   "\"file:PATH\"");
  }
  std::string path(reference.substr(5));
  if (!path.starts_with('/')) path = os::join_path(directory, path);
  namespace fs = std::filesystem;
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (failed || status.type() != fs::file_type::regular) {
    return problem(Code::kConfigMissing, fmt::format("the secret's file {} is {}", in_quotes(path),
                                                     failed ? failed.message() : "no file"));
  }
  constexpr fs::perms kOthers = fs::perms::group_all | fs::perms::others_all;
  if ((status.permissions() & kOthers) != fs::perms::none) {
    return problem(Code::kConfigSecretExposed,
                   fmt::format("the secret's file {} has mode {:04o}, and only its owner may have "
                               "access; run `chmod 600`",
                               in_quotes(path), static_cast<unsigned>(status.permissions())));
  }
  auto content = os::read_file(os::real_files(), path, kMaxSecretBytes);
  if (!content) return problem(Code::kConfigMissing, content.error().to_line());
  while (content->ends_with('\n') || content->ends_with('\r')) content->pop_back();
  if (content->empty()) {
    return problem(Code::kConfigMissing,
                   fmt::format("the secret's file {} is empty", in_quotes(path)));
  }
  return std::move(*content);
}

const toml::table& as_table(const void* table) {
  return *static_cast<const toml::table*>(table);
}

}  // namespace

struct Section::State {
  struct Problem {
    Code code;
    Place place;
    std::string key;
    std::string message;  // without the place
  };
  std::string name;       // as messages show it
  std::string directory;  // that relative paths start from
  toml::table root;
  std::vector<Problem> problems;
  // The keys that somebody asked for, by table.
  std::map<const toml::table*, std::vector<std::string>> asked;

  void add(Code code, Place place, std::string key, std::string message) {
    problems.push_back({code, place, std::move(key), std::move(message)});
  }

  void add_unknown_keys(const toml::table& table, const std::vector<std::string>& known) {
    for (const auto& [key, node] : table) {
      if (std::find(known.begin(), known.end(), key.str()) != known.end()) continue;
      std::string message = fmt::format("unknown key {}", in_quotes(key.str()));
      const std::string_view meant = nearest(key.str(), known);
      if (!meant.empty()) {
        message += fmt::format("; did you mean \"{}\"?", meant);
      } else if (!known.empty()) {
        const std::size_t shown = std::min(known.size(), kMaxListedKeys);
        message +=
            fmt::format("; known here: {}{}",
                        fmt::join(known.begin(), known.begin() + static_cast<long>(shown), ", "),
                        shown < known.size() ? ", ..." : "");
      }
      const auto at = key.source().begin;
      add(Code::kConfigUnknownKey, {at.line, at.column}, std::string(key.str()),
          std::move(message));
    }
  }

  Error to_error(const Problem& problem) const {
    return Error(problem.code, fmt::format("{}:{}:{}: {}", name, problem.place.line,
                                           problem.place.column, problem.message))
        .with("file", name)
        .with("line", problem.place.line)
        .with("column", problem.place.column)
        .with("key", problem.key);
  }
};

Section::Section(State* state, const void* table, std::string path, Place place)
    : state_(state), table_(table), path_(std::move(path)), place_(place) {
  if (table_ != nullptr) state_->asked[&as_table(table_)];
}

const void* Section::find(std::string_view key) const {
  if (table_ == nullptr) return nullptr;
  std::vector<std::string>& known = state_->asked[&as_table(table_)];
  if (std::find(known.begin(), known.end(), key) == known.end()) known.emplace_back(key);
  return as_table(table_).get(key);
}

Section::Place Section::place_of(std::string_view key) const {
  const toml::node* node = table_ == nullptr || key.empty() ? nullptr : as_table(table_).get(key);
  if (node == nullptr) return place_;
  return {node->source().begin.line, node->source().begin.column};
}

std::string Section::full_key(std::string_view key) const {
  if (path_.empty()) return std::string(key);
  return key.empty() ? path_ : fmt::format("{}.{}", path_, key);
}

void Section::wrong_type(std::string_view key, std::string_view expected) {
  const auto* node = static_cast<const toml::node*>(find(key));
  state_->add(Code::kConfigWrongType, place_of(key), full_key(key),
              fmt::format("{}: expected {}, found {}", full_key(key), expected, describe(*node)));
}

void Section::bad_value(std::string_view key, std::string_view expected) {
  const auto* node = static_cast<const toml::node*>(find(key));
  state_->add(Code::kConfigBadValue, place_of(key), full_key(key),
              fmt::format("{}: expected {}, found {}", full_key(key), expected, describe(*node)));
}

void Section::fail(std::string_view key, std::string_view message) {
  const std::string full = full_key(key);
  state_->add(Code::kConfigBadValue, place_of(key), full,
              full.empty() ? std::string(message) : fmt::format("{}: {}", full, message));
}

std::string Section::where(std::string_view key) const {
  const Place place = place_of(key);
  return fmt::format("{}:{}:{}", state_->name, place.line, place.column);
}

bool Section::has(std::string_view key) const {
  return find(key) != nullptr;
}

bool Section::require(std::string_view key) {
  if (find(key) != nullptr) return true;
  state_->add(Code::kConfigMissing, place_, full_key(key),
              fmt::format("{}: this key is required", full_key(key)));
  return false;
}

void Section::value(std::string_view key, bool& out) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  if (!node->is_boolean()) return wrong_type(key, "true or false");
  out = node->as_boolean()->get();
}

void Section::value(std::string_view key, std::string& out) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  if (!node->is_string()) return wrong_type(key, "a text in quotes");
  out = node->as_string()->get();
}

bool Section::read_integer(std::string_view key, std::int64_t& out, Range<std::int64_t> range) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return false;
  std::string expected = "a whole number";
  if (range.min != INT64_MIN && range.max != INT64_MAX) {
    expected += fmt::format(" from {} to {}", range.min, range.max);
  } else if (range.min != INT64_MIN) {
    expected += fmt::format(" of at least {}", range.min);
  } else if (range.max != INT64_MAX) {
    expected += fmt::format(" of at most {}", range.max);
  }
  if (!node->is_integer()) {
    wrong_type(key, expected);
    return false;
  }
  const std::int64_t value = node->as_integer()->get();
  if (value < range.min || value > range.max) {
    bad_value(key, expected);
    return false;
  }
  out = value;
  return true;
}

void Section::value(std::string_view key, double& out, Range<double> range) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  const std::string expected = range.min == kAnyNumber.min && range.max == kAnyNumber.max
                                   ? "a number"
                                   : fmt::format("a number from {} to {}", range.min, range.max);
  if (!node->is_number()) return wrong_type(key, expected);
  const double value = node->is_integer() ? static_cast<double>(node->as_integer()->get())
                                          : node->as_floating_point()->get();
  if (!(value >= range.min && value <= range.max)) return bad_value(key, expected);
  out = value;
}

void Section::value(std::string_view key, os::Duration& out, Range<os::Duration> range) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  std::string expected = "a duration such as \"250ms\", \"30s\" or \"5m\"";
  if (range.max != kAnyDuration.max) {
    expected +=
        fmt::format(", from {} to {}", write_duration(range.min), write_duration(range.max));
  } else if (range.min != kAnyDuration.min) {
    expected += fmt::format(", of at least {}", write_duration(range.min));
  }
  os::Duration value(-1);
  if (node->is_string()) {
    value = os::parse_duration(node->as_string()->get());
  } else if (node->is_number()) {  // Seconds, in the same form as the command line has them.
    value = os::parse_duration(describe(*node));
  } else {
    return wrong_type(key, expected);
  }
  if (value < os::Duration(0) || value < range.min || value > range.max) {
    return bad_value(key, expected);
  }
  out = value;
}

void Section::value(std::string_view key, Decimal& out, Range<Decimal> range) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  std::string expected = "a decimal number of at most 8 digits after the point";
  if (range.min != kAnyDecimal.min || range.max != kAnyDecimal.max) {
    expected += fmt::format(", from {} to {}", range.min.to_string(), range.max.to_string());
  }
  if (!node->is_string() && !node->is_number()) return wrong_type(key, expected);
  if (node->is_floating_point()) expected += " (a longer one as a text in quotes)";
  const Result<Decimal> value = node->is_string() ? Decimal::parse(node->as_string()->get())
                                : node->is_integer()
                                    ? Decimal::parse(describe(*node))
                                    : exact_decimal(node->as_floating_point()->get());
  if (!value || *value < range.min || *value > range.max) return bad_value(key, expected);
  out = *value;
}

void Section::value(std::string_view key, std::vector<std::string>& out) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  constexpr std::string_view kExpected = "a list of texts, such as [\"a\", \"b\"]";
  if (!node->is_array()) return wrong_type(key, kExpected);
  std::vector<std::string> texts;
  for (const toml::node& item : *node->as_array()) {
    if (!item.is_string()) {
      const auto at = item.source().begin;
      return state_->add(
          Code::kConfigWrongType, {at.line, at.column}, full_key(key),
          fmt::format("{}: expected {}, found {} in it", full_key(key), kExpected, describe(item)));
    }
    texts.push_back(item.as_string()->get());
  }
  out = std::move(texts);
}

void Section::value(std::string_view key, StringMap& out) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  if (!node->is_table()) return wrong_type(key, "a table of texts, such as {NAME = \"text\"}");
  StringMap map;
  for (const auto& [name, item] : *node->as_table()) {
    if (!item.is_string()) {
      const auto at = item.source().begin;
      return state_->add(Code::kConfigWrongType, {at.line, at.column}, full_key(key),
                         fmt::format("{}.{}: expected a text in quotes, found {}", full_key(key),
                                     name.str(), describe(item)));
    }
    map.emplace_back(std::string(name.str()), item.as_string()->get());
  }
  out = std::move(map);
}

void Section::value(std::string_view key, Secret& out) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  const auto report = [&](Code code, std::string_view message) {
    state_->add(code, place_of(key), full_key(key), fmt::format("{}: {}", full_key(key), message));
  };
  if (!node->is_string()) {
    return report(Code::kConfigWrongType,
                  "expected a reference to a secret, \"env:NAME\" or \"file:PATH\"");
  }
  auto value = resolve_secret(node->as_string()->get(), state_->directory);
  if (!value) return report(value.error().code, value.error().message);
  out = Secret(std::move(*value));
}

void Section::size(std::string_view key, std::uint64_t& out, Range<std::uint64_t> range) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return;
  std::string expected = "a size such as \"512KiB\", \"64MiB\" or a number of bytes";
  if (range.min != kAnySize.min || range.max != kAnySize.max) {
    expected += fmt::format(", from {} to {} bytes", range.min, range.max);
  }
  if (!node->is_string() && !node->is_integer()) return wrong_type(key, expected);
  std::uint64_t value = 0;
  const bool valid =
      parse_size(node->is_string() ? node->as_string()->get() : describe(*node), value);
  if (!valid || value < range.min || value > range.max) return bad_value(key, expected);
  out = value;
}

int Section::read_word(std::string_view key, const std::vector<std::string_view>& words) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node == nullptr) return -1;
  std::string expected = fmt::format("one of \"{}\"", fmt::join(words, "\", \""));
  if (!node->is_string()) {
    wrong_type(key, expected);
    return -1;
  }
  const std::string& value = node->as_string()->get();
  const auto found = std::find(words.begin(), words.end(), value);
  if (found == words.end()) {
    const std::string_view meant = nearest(value, words);
    if (!meant.empty()) expected += fmt::format(" (did you mean \"{}\"?)", meant);
    bad_value(key, expected);
    return -1;
  }
  return static_cast<int>(found - words.begin());
}

Section Section::table(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  if (node != nullptr && !node->is_table()) {
    wrong_type(key, fmt::format("a table, [{}]", full_key(key)));
    node = nullptr;
  }
  return Section(state_, node == nullptr ? nullptr : node->as_table(), full_key(key),
                 place_of(key));
}

std::vector<Section> Section::tables(std::string_view key) {
  const auto* node = static_cast<const toml::node*>(find(key));
  std::vector<Section> sections;
  if (node == nullptr) return sections;
  const toml::array* array = node->as_array();
  const bool valid = array != nullptr && (array->empty() || array->is_array_of_tables());
  if (!valid) {
    wrong_type(key, fmt::format("an array of tables, [[{}]]", full_key(key)));
    return sections;
  }
  for (const toml::node& item : *array) {
    const auto at = item.source().begin;
    sections.push_back(Section(state_, item.as_table(),
                               fmt::format("{}[{}]", full_key(key), sections.size()),
                               {at.line, at.column}));
  }
  return sections;
}

std::vector<std::pair<std::string, Section>> Section::named_tables(std::string_view key) {
  std::vector<std::pair<std::string, Section>> sections;
  Section parent = table(key);
  if (!parent.present()) return sections;
  for (const auto& [name, node] : as_table(parent.table_)) {
    Section section = parent.table(name.str());
    if (section.present()) sections.emplace_back(std::string(name.str()), std::move(section));
  }
  std::sort(sections.begin(), sections.end(), [](const auto& a, const auto& b) {
    const Place x = a.second.place_, y = b.second.place_;
    return std::pair(x.line, x.column) < std::pair(y.line, y.column);
  });
  return sections;
}

Document::Document(std::unique_ptr<Section::State> state) : state_(std::move(state)) {}
Document::Document(Document&&) noexcept = default;
Document& Document::operator=(Document&&) noexcept = default;
Document::~Document() = default;

Result<Document> Document::parse_file(const std::string& path) {
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(os::real_files(), path, kMaxFileBytes));
  DEFIB_TRY_ASSIGN(Document document, parse_text(text, path));
  document.state_->directory = os::parent_dir(path);
  return document;
}

Result<Document> Document::parse_text(std::string_view text, std::string name) {
  toml::parse_result parsed = toml::parse(text);
  auto state = std::make_unique<Section::State>();
  state->name = std::move(name);
  state->directory = ".";
  if (!parsed) {
    const auto at = parsed.error().source().begin;
    return state->to_error({Code::kConfigSyntax,
                            {at.line, at.column},
                            {},
                            fmt::format("not valid TOML: {}", parsed.error().description())});
  }
  state->root = std::move(parsed).table();
  return Document(std::move(state));
}

Section Document::root() {
  return Section(state_.get(), &state_->root, {}, {1, 1});
}

Result<> Document::finish() {
  Section::State& state = *state_;
  for (const auto& [table, known] : state.asked) state.add_unknown_keys(*table, known);
  state.asked.clear();
  if (state.problems.empty()) return {};
  std::stable_sort(state.problems.begin(), state.problems.end(), [](const auto& a, const auto& b) {
    return std::pair(a.place.line, a.place.column) < std::pair(b.place.line, b.place.column);
  });
  const std::size_t shown = std::min(state.problems.size(), kMaxErrors);
  Error error = state.to_error(state.problems[shown - 1]);
  for (std::size_t i = shown - 1; i-- > 0;) {
    error = state.to_error(state.problems[i]).because(std::move(error));
  }
  return std::move(error).with("errors", static_cast<std::int64_t>(state.problems.size()));
}

}  // namespace defib::conf

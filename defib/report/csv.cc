#include "defib/report/csv.h"

#include <algorithm>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/decimal.h"
#include "defib/base/visible_text.h"

namespace defib::report {
namespace {

using wire::Json;

constexpr std::string_view kMore = "more";

class Table {
 public:
  explicit Table(const Json::Array& events) : events_(events) {
    for (const std::string_view name : {"seq", "at", "event"}) add_column(name);
    for (const Json& event : events) {
      for (const auto& [name, value] : event.members()) add_column(name);
    }
  }

  std::string text() const {
    std::string out;
    for (const std::string_view name : names_) cell(out, std::string(name));
    cell(out, std::string(kMore));
    end_line(out);
    std::vector<const Json*> row(names_.size());
    for (const Json& event : events_) line(out, event, row);
    return out;
  }

 private:
  void add_column(std::string_view name) {
    if (names_.size() >= kMaxColumns || !column_.try_emplace(name, names_.size()).second) return;
    names_.push_back(name);
  }

  void line(std::string& out, const Json& event, std::vector<const Json*>& row) const {
    std::ranges::fill(row, nullptr);
    Json more;
    for (const auto& [name, value] : event.members()) {
      if (const auto column = column_.find(name); column != column_.end()) {
        row[column->second] = &value;
      } else {
        more.set(name, value);
      }
    }
    for (const Json* value : row) {
      cell(out, value == nullptr || value->is_null() ? std::string()
                : value->is_string()                 ? harmless(value->as_string())
                                                     : value->dump());
    }
    cell(out, more.is_null() ? std::string() : more.dump());
    end_line(out);
  }

  // As a spreadsheet shows it: a formula is a text.
  static std::string harmless(std::string_view text) {
    std::string shown = visible_text(text);
    const bool formula = !shown.empty() && std::string_view("=+-@").contains(shown.front());
    if (formula && !Decimal::parse(shown)) shown.insert(shown.begin(), '\'');
    return shown;
  }

  static void cell(std::string& out, const std::string& text) {
    if (text.find_first_of(",\"\r\n") == std::string::npos) {
      out += text;
    } else {
      out += '"';
      for (const char c : text) {
        if (c == '"') out += '"';
        out += c;
      }
      out += '"';
    }
    out += ',';
  }
  static void end_line(std::string& out) {
    out.back() = '\r';  // in place of the last comma
    out += '\n';
  }

  const Json::Array& events_;
  std::vector<std::string_view> names_;
  std::map<std::string_view, std::size_t> column_;
};

}  // namespace

std::string to_csv(const Json& incident) {
  return Table(incident["timeline"].items()).text();
}

}  // namespace defib::report

#include "defib/paper/parameters.h"

#include <algorithm>
#include <cctype>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::paper {
namespace {

bool decode(std::string_view text, std::string& out) {
  out.clear();
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i] == '+' ? ' ' : text[i];
      continue;
    }
    std::string byte;
    if (i + 2 >= text.size() || !from_hex(text.substr(i + 1, 2), byte)) return false;
    out += byte;
    i += 2;
  }
  return true;
}

// Calls `each` for every non-empty part between ampersands until it returns false.
template <typename Each>
void for_each_part(std::string_view text, Each each) {
  while (!text.empty()) {
    const std::size_t end = std::min(text.find('&'), text.size());
    const std::string_view part = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!part.empty() && !each(part)) return;
  }
}

constexpr std::string_view kSignature = "signature=";

// Cuts a final "signature=..." with its ampersand off `text`; false where it is not the last.
enum class Cut { kAbsent, kDone, kNotLast };
Cut cut_signature(std::string_view& text) {
  std::size_t at = 0;
  if (!text.starts_with(kSignature)) {
    at = text.find("&signature=");
    if (at == std::string_view::npos) return Cut::kAbsent;
  }
  if (text.find('&', at + 1) != std::string_view::npos) return Cut::kNotLast;
  text = text.substr(0, at);
  return Cut::kDone;
}

}  // namespace

Parameters::Parameters(std::string_view query, std::string_view body) {
  parse(query);
  parse(body);
}

void Parameters::parse(std::string_view text) {
  for_each_part(text, [this](std::string_view part) {
    if (problem_ != Problem::kNone) return false;
    const std::size_t equals = std::min(part.find('='), part.size());
    Item item;
    if (!decode(part.substr(0, equals), item.name) ||
        !decode(part.substr(std::min(equals + 1, part.size())), item.value)) {
      problem_ = Problem::kMalformedEscape;
    } else if (items_.size() == kMaxParameters) {
      problem_ = Problem::kTooMany;
    } else if (has(item.name)) {
      problem_ = Problem::kRepeated;
    } else {
      items_.push_back(std::move(item));
    }
    return true;
  });
}

bool Parameters::has(std::string_view name) const {
  return std::ranges::any_of(items_, [&](const Item& item) { return item.name == name; });
}

std::optional<std::string_view> Parameters::take(std::string_view name) {
  for (Item& item : items_) {
    if (item.name != name) continue;
    item.read = true;
    return item.value;
  }
  return std::nullopt;
}

std::size_t Parameters::read() const {
  return static_cast<std::size_t>(std::ranges::count_if(items_, &Item::read));
}

std::optional<std::string> Parameters::signed_payload(std::string_view query,
                                                      std::string_view body) {
  const Cut in_query = cut_signature(query);
  const Cut in_body = cut_signature(body);
  if (in_query == Cut::kNotLast || in_body == Cut::kNotLast) return std::nullopt;
  if ((in_query == Cut::kDone) == (in_body == Cut::kDone)) return std::nullopt;
  return std::string(query).append(body);
}

}  // namespace defib::paper

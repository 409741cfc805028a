// Parameters: the parameters of one request, from its query string and form body.
//
// The venue's own reading of them, independent of any client's code. Every parameter that a handler
// asks for counts as read, so that what nobody asked for can be refused (-1104).

#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/paper/crypto.h"

namespace defib::paper {

constexpr std::size_t kMaxParameters = 64;

class Parameters {
 public:
  enum class Problem { kNone, kMalformedEscape, kTooMany, kRepeated };

  // Both may be empty. The first problem is kept; the parameters up to it are usable.
  Parameters(std::string_view query, std::string_view body);
  Parameters() = default;

  Problem problem() const { return problem_; }
  bool has(std::string_view name) const;
  // nullopt where it was not sent; marks it as read.
  std::optional<std::string_view> take(std::string_view name);
  std::size_t sent() const { return items_.size(); }
  std::size_t read() const;

  // What the signature covers: query and body joined without a separator, less the signature
  // parameter. nullopt where there is none, or where it is not the last of its part.
  static std::optional<std::string> signed_payload(std::string_view query, std::string_view body);

 private:
  struct Item {
    std::string name;
    std::string value;
    bool read = false;
  };
  void parse(std::string_view text);
  std::vector<Item> items_;
  Problem problem_ = Problem::kNone;
};

}  // namespace defib::paper

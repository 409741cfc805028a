// Story: turns the lines of an incident into sentences and into milestones. Pure; what it knows is
// what stands in the incident, so the show cannot tell more than the record does.

#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "defib/wire/json.h"

namespace defib::demo {

// The moments that the show reports, in the order of the columns.
inline constexpr const char* kMilestones[] = {
    "detected", "captured", "restarted", "classified", "store",    "reconciled", "orders",
    "gates",    "order_1",  "ramp_50",   "ramp_75",    "ramp_100", "closed"};

// A sentence for a person; none for lines that would only be noise.
std::optional<std::string> sentence(const wire::Json& line);

class Timeline {
 public:
  // `crash_mono_ns`: when the fault was injected, as far as the demo knows; the record's own time
  // of the crash replaces it.
  explicit Timeline(std::int64_t crash_mono_ns) : zero_(crash_mono_ns) {}
  void add(const wire::Json& line);
  bool closed() const { return !outcome_.empty(); }
  bool awaiting_approval() const { return awaiting_; }
  const std::string& outcome() const { return outcome_; }
  const std::string& cause() const { return cause_; }
  const std::string& where() const { return where_; }
  // Milliseconds after the crash.
  std::optional<double> at(const std::string& milestone) const;
  double since_crash_ms(std::int64_t mono_ns) const;
  wire::Json to_json() const;

 private:
  void mark(const std::string& milestone, std::int64_t mono_ns);
  std::int64_t zero_;
  std::map<std::string, std::int64_t> marks_;
  std::string outcome_, cause_, where_, incident_;
  bool awaiting_ = false;
};

}  // namespace defib::demo

// CrashGroups: how often each bug of a service was seen, since when, and in which incidents.
//
// Failures are one group where their signatures are equal (postmortem/signature.h). The numbers
// stand in one small file in the service's directory (docs/formats/groups.md), beside the
// incidents, and outlive them.
// The incidents are what is true: the file says which of their lines it has counted, and whoever
// opens it counts what came after. So it is written without a sync, no failure is counted twice,
// and a supervisor that is killed between the two loses none.
// Thread rule: one writer a service, who holds its lock; one thread at a time.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::daemon {

struct CrashGroup {
  std::string id;    // of the signature
  std::string text;  // its words, as of the first time
  std::string cause;
  std::string first_at, last_at;  // RFC 3339
  std::uint64_t count = 0;
  std::vector<std::string> incidents;  // the newest last
  wire::Json to_json() const;
};

class CrashGroups {
 public:
  static constexpr std::size_t kMaxGroups = 200;   // then the one that was seen least lately goes
  static constexpr std::size_t kMaxIncidents = 8;  // of one group
  static constexpr std::size_t kMaxCounted = 32;  // the newest incidents that lines were counted of

  // What the file says. Nothing where it is missing or damaged: the incidents are counted again.
  static CrashGroups read(os::Files& files, const std::string& service_dir);

  // The `number`-th classification of an incident (from 1). False where it was counted before.
  bool count(const std::string& incident, int number, std::string_view at,
             const wire::Json& signature, std::string_view cause);
  // Whether all classifications up to that one are counted.
  bool counted(std::string_view incident, int number) const;
  // Counts what is missing of an incident's lines; whether there was something.
  bool catch_up(const std::string& incident, const std::vector<wire::Json>& lines);
  Result<> save(os::Files& files) const;

  const CrashGroup* find(std::string_view id) const;
  const std::vector<CrashGroup>& groups() const { return groups_; }

 private:
  struct Counted {
    std::string incident;
    int number = 0;
  };
  std::string path_;
  std::vector<CrashGroup> groups_;
  std::vector<Counted> counted_;  // the newest last
  std::uint64_t dropped_ = 0;     // groups
};

}  // namespace defib::daemon

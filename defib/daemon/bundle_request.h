// What a supervising process tells defib-bundle of a failure; it goes through a file in memory, for
// the environment is in it. Thread rule: like a value.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/bundle_retention.h"
#include "defib/wire/json.h"

namespace defib::daemon {

// The descriptor on which defib-bundle finds it.
inline constexpr int kBundleRequestFd = 3;
inline constexpr int kMaxBundledFailures = 4;
// A minute after the failure the bundle is made complete.
inline constexpr os::Duration kBundleAfter = std::chrono::seconds(60);

struct BundleRequest {
  std::string state_dir;
  std::string incident;
  int failure = 1;  // of the incident
  std::string service;
  std::string cause;  // as far as it was known at once
  pid_t pid = 0;
  std::uint64_t generation = 0;
  bool live = false;     // the process goes on
  std::string report;    // of defib-capture, which is there or on its way; empty: none is
  std::string evidence;  // where the output of evidence_command is; empty: there is no such command
  std::int64_t failed_mono_ns = 0;
  std::vector<std::string> command;
  std::vector<std::pair<std::string, std::string>> environment;  // added to the supervisor's
  bool clear_environment = false;
  std::string machine_samples;
  pid_t supervisor = 0;
  postmortem::BundleRules rules;

  std::string incidents_dir() const;
  std::string directory() const;  // STATE/incidents/ID.bundle/N
  std::string service_dir() const;
};

wire::Json to_json(const BundleRequest& request);
// What a process is started with: this one's environment, unless `clear`, and `added`.
std::vector<std::pair<std::string, std::string>> started_environment(
    const std::vector<std::pair<std::string, std::string>>& added, bool clear);
Result<BundleRequest> bundle_request_from(const wire::Json& json);

}  // namespace defib::daemon

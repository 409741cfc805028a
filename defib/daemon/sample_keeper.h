// SampleKeeper: feeds the rings of samples (postmortem/samples.h), on the supervisor's one sampling
// timer: it wakes nobody by itself.
//
// The machine is sampled with the first service of an instant. Thread rule: the loop's thread.

#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "defib/os/clock.h"
#include "defib/postmortem/samples.h"
#include "defib/process/sampler.h"

namespace defib::daemon {

class SampleKeeper {
 public:
  // The machine is sampled at most this often.
  static constexpr os::Duration kMachineInterval = std::chrono::seconds(4);

  SampleKeeper(process::Sampler& sampler, const os::Clock& clock, std::string machine_path);
  ~SampleKeeper();
  SampleKeeper(const SampleKeeper&) = delete;
  SampleKeeper& operator=(const SampleKeeper&) = delete;

  // From now on of this process; `path` is the service's ring.
  void watch(const std::string& service, const std::string& path, pid_t pid,
             std::uint64_t generation, os::Duration interval);
  // Unless another generation is watched by now.
  void forget(const std::string& service, std::uint64_t generation);

 private:
  struct Service {
    std::string path;  // of a ring that was not opened yet, else empty
    std::optional<postmortem::SampleRing> ring;
    pid_t pid = 0;
    std::uint64_t generation = 0;
    process::Sampler::Id id = 0;
  };
  void take(Service& service);
  void take_machine(std::int64_t mono_ns, std::int64_t wall_ns);

  process::Sampler& sampler_;
  const os::Clock& clock_;
  std::map<std::string, Service> services_;
  std::string machine_path_;  // as a service's
  postmortem::MachineSampler machine_;
  std::optional<postmortem::SampleRing> machine_ring_;
  std::int64_t machine_mono_ns_ = 0;
};

}  // namespace defib::daemon

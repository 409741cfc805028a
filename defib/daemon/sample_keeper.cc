#include "defib/daemon/sample_keeper.h"

#include <array>

#include "defib/obs/log.h"
#include "defib/os/files.h"

namespace defib::daemon {
namespace {

std::optional<postmortem::SampleRing> open_ring(const std::string& path,
                                                postmortem::SampleKind kind) {
  auto ring = postmortem::SampleRing::open(path, kind);
  if (ring) return std::move(*ring);
  obs::log(obs::Level::kWarning, "samples", "no samples are kept, so bundles will have no before",
           {{"path", path}, {"error", ring.error()}});
  return std::nullopt;
}

}  // namespace

SampleKeeper::SampleKeeper(process::Sampler& sampler, const os::Clock& clock,
                           std::string machine_path)
    : sampler_(sampler),
      clock_(clock),
      machine_path_(std::move(machine_path)),
      machine_(os::parent_dir(machine_path_)) {}

SampleKeeper::~SampleKeeper() {
  for (auto& [name, service] : services_) {
    if (service.id != 0) sampler_.remove(service.id);
  }
}

void SampleKeeper::watch(const std::string& service, const std::string& path, pid_t pid,
                         std::uint64_t generation, os::Duration interval) {
  Service& own = services_[service];
  own.path = path;
  own.pid = pid;
  own.generation = generation;
  if (own.id != 0) sampler_.remove(own.id);
  own.id = sampler_.add(interval, [this, &own] { take(own); });
}

void SampleKeeper::forget(const std::string& service, std::uint64_t generation) {
  const auto found = services_.find(service);
  if (found == services_.end() || found->second.generation > generation) return;
  if (found->second.id != 0) sampler_.remove(found->second.id);
  found->second.id = 0;
}

void SampleKeeper::take(Service& service) {
  const std::int64_t mono = clock_.mono_ns(), wall = clock_.wall_ns();
  // Opened by the first sample: a hundred services that are taken over do not wait for files.
  if (!machine_path_.empty()) {
    machine_ring_ = open_ring(machine_path_, postmortem::SampleKind::kMachine);
    machine_path_ = {};
  }
  if (!service.path.empty()) {
    if (!service.ring) service.ring = open_ring(service.path, postmortem::SampleKind::kService);
    service.path = {};
  }
  take_machine(mono, wall);
  std::array<std::uint64_t, postmortem::kServiceNumbers> numbers;
  if (!service.ring || !postmortem::sample_process(service.pid, service.generation, numbers)) {
    return;
  }
  // A sample that is lost is a gap in the ring, and told by it.
  static_cast<void>(service.ring->add(mono, wall, numbers).has_value());
}

void SampleKeeper::take_machine(std::int64_t mono_ns, std::int64_t wall_ns) {
  if (!machine_ring_ || mono_ns - machine_mono_ns_ < kMachineInterval.count()) return;
  machine_mono_ns_ = mono_ns;
  std::array<std::uint64_t, postmortem::kMachineNumbers> numbers;
  machine_.sample(numbers);
  static_cast<void>(machine_ring_->add(mono_ns, wall_ns, numbers).has_value());
}

}  // namespace defib::daemon

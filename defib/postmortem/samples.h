// SampleRing: numbers taken every few seconds before anything happens, in a file of fixed size, so
// that after a failure there is a before. docs/formats/samples.md has the format.
//
// The writer holds no memory for it and syncs nothing: one pwrite a sample, into the page cache,
// which outlives the writer. Readers trust nothing in the file.
// Thread rule: one writer a file; each object on one thread.

#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/fd.h"

namespace defib::postmortem {

enum class SampleKind : std::uint32_t { kService = 1, kMachine = 2 };

inline constexpr std::size_t kServiceNumbers = 16;
inline constexpr std::size_t kMachineNumbers = 32;
// Of a record, in their order.
std::span<const std::string_view> sample_names(SampleKind kind);
// Half an hour at a sample in five seconds.
inline constexpr std::uint32_t kRingRecords = 360;
// Descriptors are counted up to here.
inline constexpr std::uint64_t kMaxCountedDescriptors = 4096;

struct Sample {
  std::uint64_t sequence = 0;
  std::int64_t mono_ns = 0;
  std::int64_t wall_ns = 0;
  std::vector<std::uint64_t> numbers;
};

class SampleRing {
 public:
  // Makes the file, or goes on with the one that is there; one that is damaged is begun anew.
  static Result<SampleRing> open(const std::string& path, SampleKind kind);
  Result<> add(std::int64_t mono_ns, std::int64_t wall_ns, std::span<const std::uint64_t> numbers);

 private:
  os::Fd file_;
  std::size_t numbers_ = 0;
  std::uint64_t next_ = 1;
};

// The samples of a ring, oldest first. InvalidArgument where the text is no ring of that kind.
Result<std::vector<Sample>> parse_ring(std::string_view bytes, SampleKind kind);
Result<std::vector<Sample>> read_ring(const std::string& path, SampleKind kind);

// Takes the numbers of one process. False where it has ended.
bool sample_process(pid_t pid, std::uint64_t generation,
                    std::array<std::uint64_t, kServiceNumbers>& to);

// Takes the numbers of the machine, and keeps its files open between the samples.
class MachineSampler {
 public:
  explicit MachineSampler(std::string disk_path) : disk_path_(std::move(disk_path)) {}
  // What cannot be read is 0.
  void sample(std::array<std::uint64_t, kMachineNumbers>& to);

 private:
  static constexpr std::size_t kFiles = 11;
  std::string_view read(std::size_t file);
  std::string disk_path_;
  std::array<os::Fd, kFiles> files_;
  std::vector<char> buffer_;
};

}  // namespace defib::postmortem

// Counters, gauges and histograms in a mapped file: they outlive the process, and another process
// can read them while it lives and after it died.
//
// Counting is one relaxed atomic addition in shared memory (a histogram: three). A Registry that
// opens the file of an earlier run goes on where that one stopped; `kill -9` loses nothing that
// was counted (a power cut may). Handles are values of one pointer, always usable: what does not
// fit (too many names, a name too long, one that is in use for another kind) counts into a spare
// place, and the metric `defib_metrics_refused_total` tells how often that happened.
//
// The file's format is docs/formats/counters.md.
// Thread rule: Registry's functions and the handles from any thread. Handles must not outlive it.

#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"

namespace defib::obs {

using Labels = std::vector<std::pair<std::string, std::string>>;

class Counter {
 public:
  void add(std::uint64_t count = 1) { slot_->fetch_add(count, std::memory_order_relaxed); }
  std::uint64_t value() const { return slot_->load(std::memory_order_relaxed); }

 private:
  friend class Registry;
  explicit Counter(std::atomic<std::uint64_t>* slot) : slot_(slot) {}
  std::atomic<std::uint64_t>* slot_;
};

class Gauge {
 public:
  void set(std::int64_t value) {
    slot_->store(static_cast<std::uint64_t>(value), std::memory_order_relaxed);
  }
  void add(std::int64_t delta) {
    slot_->fetch_add(static_cast<std::uint64_t>(delta), std::memory_order_relaxed);
  }
  std::int64_t value() const {
    return static_cast<std::int64_t>(slot_->load(std::memory_order_relaxed));
  }

 private:
  friend class Registry;
  explicit Gauge(std::atomic<std::uint64_t>* slot) : slot_(slot) {}
  std::atomic<std::uint64_t>* slot_;
};

// Log-linear buckets: 8 to each power of two, so a quantile is at most 12.5 % too large. Values
// up to 2^40 (18 minutes in nanoseconds) are told apart; larger ones share the last bucket.
class Histogram {
 public:
  static constexpr int kSubBuckets = 8;
  static constexpr int kMaxExponent = 40;
  static constexpr int kBuckets = (kMaxExponent - 2) * kSubBuckets + 1;
  // Slots: the buckets, the sum, the largest value.
  static constexpr int kSlots = kBuckets + 2;

  void record(std::uint64_t value);
  void record(os::Duration duration) {
    record(static_cast<std::uint64_t>(duration.count() < 0 ? 0 : duration.count()));
  }
  std::uint64_t count() const;
  // The upper end of the bucket that holds the quantile (0 to 1), 0 where nothing was recorded.
  std::uint64_t quantile(double q) const;

  static int bucket_of(std::uint64_t value);
  // The largest value that falls into the bucket.
  static std::uint64_t upper_end(int bucket);

 private:
  friend class Registry;
  explicit Histogram(std::atomic<std::uint64_t>* slots) : slots_(slots) {}
  std::atomic<std::uint64_t>* slots_;
};

// What the numbers of a histogram or counter are; Prometheus wants base units.
enum class Unit : std::uint8_t { kNone, kNanoseconds };

class Registry {
 public:
  struct Options {
    std::uint32_t max_metrics = 512;  // names, a name with other labels being another one
    std::uint32_t max_slots = 16384;  // a counter or gauge has 1, a histogram Histogram::kSlots;
                                      // another kSlots are the spare place
  };

  // Opens or creates the file. A damaged one, or one of another version or size, is renamed to
  // PATH.replaced and a new one begun; replaced() then tells why. DatabaseLocked where another
  // process writes it.
  static Result<std::unique_ptr<Registry>> open(const std::string& path, Options options);
  static Result<std::unique_ptr<Registry>> open(const std::string& path) {
    return open(path, Options());
  }
  // In memory only.
  static std::unique_ptr<Registry> in_memory(Options options);
  static std::unique_ptr<Registry> in_memory() { return in_memory(Options()); }
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // The same name and labels yield the same metric. Names as Prometheus allows them (an assertion),
  // at most 95 bytes; labels at most 191 bytes together; `help` is cut at 127 bytes.
  // With Unit::kNanoseconds, count nanoseconds and end the name in _seconds_total.
  Counter counter(std::string_view name, std::string_view help, const Labels& labels = {},
                  Unit unit = Unit::kNone);
  Gauge gauge(std::string_view name, std::string_view help, const Labels& labels = {});
  // With Unit::kNanoseconds, record nanoseconds and end the name in _seconds.
  Histogram histogram(std::string_view name, std::string_view help, Unit unit,
                      const Labels& labels = {});

  const std::optional<Error>& replaced() const;
  // The present state, as render_prometheus(path) gives it to another process.
  std::string render_prometheus() const;

 private:
  struct Impl;
  explicit Registry(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// One metric as it was read.
struct MetricSample {
  enum class Kind : std::uint8_t { kCounter = 1, kGauge = 2, kHistogram = 3 };
  Kind kind = Kind::kCounter;
  Unit unit = Unit::kNone;
  std::string name;
  std::string labels;  // in Prometheus' form without braces: service="engine"
  std::string help;
  std::uint64_t value = 0;             // a gauge's is signed
  std::vector<std::uint64_t> buckets;  // of a histogram
  std::uint64_t sum = 0;
  std::uint64_t largest = 0;
};

// Reads the file of a process that may be running, or dead, without writing to it. Corrupted
// where its header fails its checksum.
Result<std::vector<MetricSample>> read_metrics(const std::string& path);

// The text exposition format 0.0.4. Samples of one name stand together under one HELP and TYPE;
// histograms have a bucket for each power of two.
std::string render_prometheus(const std::vector<MetricSample>& samples);

}  // namespace defib::obs

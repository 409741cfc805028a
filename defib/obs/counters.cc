// The layout of the file is docs/formats/counters.md; the structs below are it.
//
// An entry is written in full before its `state` says so (release), and never changes afterwards;
// so an entry that was cut by a crash is a free one. Its checksum tells damage, and lets a reader
// that copies the file in the middle of a registration skip it.

#include "defib/obs/counters.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <span>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/files.h"
#include "defib/os/mapping.h"

namespace defib::obs {
namespace {

using Slot = std::atomic<std::uint64_t>;
static_assert(Slot::is_always_lock_free && sizeof(Slot) == 8, "slots are plain 64-bit words");

constexpr char kMagic[8] = {'D', 'E', 'F', 'I', 'B', 'C', 'T', 'R'};
constexpr std::uint32_t kVersion = 1;
constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kMaxFile = 64 << 20;

//  offset  size  field
//       0     8  magic "DEFIBCTR"
//       8     4  version
//      12     4  max_metrics
//      16     4  max_slots
//      20     4  size of an entry
//      24     8  wall time of its creation
//      32     4  zero
//      36     4  CRC32C of bytes 0 to 35
//      40     8  registrations that were refused (changes; not under the checksum)
struct FileHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t max_metrics;
  std::uint32_t max_slots;
  std::uint32_t entry_size;
  std::int64_t created_wall_ns;
  std::uint32_t zero;
  std::uint32_t checksum;
  Slot refused;
};
static_assert(sizeof(FileHeader) == 48 && offsetof(FileHeader, checksum) == 36);

//  offset  size  field
//       0     4  state: 0 free, 1 in use
//       4     4  CRC32C of bytes 8 to 447
//       8     1  kind
//       9     1  unit
//      10     2  zero
//      12     4  first slot
//      16    96  name, filled up with zero bytes, as are the next two
//     112   192  labels
//     304   128  help
//     432    16  zero
struct Entry {
  std::atomic<std::uint32_t> state;
  std::uint32_t checksum;
  std::uint8_t kind;
  std::uint8_t unit;
  std::uint16_t zero;
  std::uint32_t first_slot;
  char name[96];
  char labels[192];
  char help[128];
  char reserved[16];
};
static_assert(sizeof(Entry) == 448 && offsetof(Entry, kind) == 8 && offsetof(Entry, name) == 16);

using Kind = MetricSample::Kind;

std::uint32_t slots_of(std::uint8_t kind) {
  return kind == static_cast<std::uint8_t>(Kind::kHistogram) ? Histogram::kSlots : 1;
}

std::size_t slots_offset(const Registry::Options& options) {
  const std::size_t end = kPage + options.max_metrics * sizeof(Entry);
  return (end + kPage - 1) / kPage * kPage;
}

std::size_t file_size(const Registry::Options& options) {
  return slots_offset(options) + options.max_slots * sizeof(Slot);
}

std::uint32_t header_checksum(const FileHeader& header) {
  return crc32c({reinterpret_cast<const char*>(&header), offsetof(FileHeader, checksum)});
}

std::uint32_t entry_checksum(const Entry& entry) {
  constexpr std::size_t kStart = offsetof(Entry, kind);
  return crc32c({reinterpret_cast<const char*>(&entry) + kStart, sizeof(Entry) - kStart});
}

template <std::size_t N>
std::string_view text_of(const char (&field)[N]) {
  return {field, strnlen(field, N)};
}

template <std::size_t N>
void set_text(char (&field)[N], std::string_view text) {
  std::memset(field, 0, N);
  std::memcpy(field, text.data(), std::min(text.size(), N - 1));
}

// The parts of a file's image, whose size the caller has checked against `options`.
struct Image {
  std::byte* base = nullptr;
  Registry::Options options;

  FileHeader& header() const { return *reinterpret_cast<FileHeader*>(base); }
  std::span<Entry> entries() const {
    return {reinterpret_cast<Entry*>(base + kPage), options.max_metrics};
  }
  std::span<Slot> slots() const {
    return {reinterpret_cast<Slot*>(base + slots_offset(options)), options.max_slots};
  }
};

Error damaged(std::string message) {
  return Error(Code::kCorrupted, std::move(message));
}

Result<> check_header(const FileHeader& header) {
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) return damaged("no counters file");
  if (header.checksum != header_checksum(header)) return damaged("its header fails its checksum");
  if (header.version != kVersion || header.entry_size != sizeof(Entry)) {
    return damaged(fmt::format("its version is {}, and {} is expected", header.version, kVersion));
  }
  return {};
}

bool is_valid(const Entry& entry, const Registry::Options& options) {
  return entry.checksum == entry_checksum(entry) && entry.kind >= 1 && entry.kind <= 3 &&
         entry.first_slot >= Histogram::kSlots &&
         entry.first_slot + std::uint64_t{slots_of(entry.kind)} <= options.max_slots;
}

std::vector<MetricSample> read_samples(const Image& image) {
  std::vector<MetricSample> samples;
  const auto load = [&](std::size_t slot) {
    return image.slots()[slot].load(std::memory_order_relaxed);
  };
  for (const Entry& entry : image.entries()) {
    if (entry.state.load(std::memory_order_acquire) == 0) break;
    if (!is_valid(entry, image.options)) continue;
    MetricSample sample;
    sample.kind = static_cast<Kind>(entry.kind);
    sample.unit = entry.unit == 1 ? Unit::kNanoseconds : Unit::kNone;
    sample.name = text_of(entry.name);
    sample.labels = text_of(entry.labels);
    sample.help = text_of(entry.help);
    if (sample.kind == Kind::kHistogram) {
      for (int i = 0; i < Histogram::kBuckets; ++i) {
        sample.buckets.push_back(load(entry.first_slot + static_cast<std::size_t>(i)));
      }
      sample.sum = load(entry.first_slot + Histogram::kBuckets);
      sample.largest = load(entry.first_slot + Histogram::kBuckets + 1);
    } else {
      sample.value = load(entry.first_slot);
    }
    samples.push_back(std::move(sample));
  }
  MetricSample refused;
  refused.name = "defib_metrics_refused_total";
  refused.help = "Registrations of metrics that did not fit";
  refused.value = image.header().refused.load(std::memory_order_relaxed);
  samples.push_back(std::move(refused));
  return samples;
}

bool is_metric_name(std::string_view name) {
  const auto valid = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == ':';
  };
  return !name.empty() && !(name[0] >= '0' && name[0] <= '9') &&
         std::all_of(name.begin(), name.end(), valid);
}

// Label values and help texts: a newline and a backslash are escaped; in values the quote too.
std::string escaped(std::string_view text, bool quote) {
  std::string out;
  for (const char c : text) {
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\\' || (quote && c == '"')) {
      out += '\\';
      out += c;
    } else if (c != '\0') {
      out += c;
    }
  }
  return out;
}

std::string render_labels(const Labels& labels) {
  std::string out;
  for (const auto& [name, value] : labels) {
    DEFIB_ASSERT_MESSAGE(is_metric_name(name) && name.find(':') == std::string::npos,
                         "a label's name is malformed");
    if (!out.empty()) out += ',';
    out += fmt::format("{}=\"{}\"", name, escaped(value, true));
  }
  return out;
}

// {labels} or {labels,le="..."}; empty where there are none.
std::string in_braces(std::string_view labels, std::string_view more = {}) {
  if (labels.empty() && more.empty()) return {};
  return fmt::format("{{{}{}{}}}", labels, labels.empty() || more.empty() ? "" : ",", more);
}

std::string in_base_units(std::uint64_t value, Unit unit) {
  if (unit == Unit::kNone) return fmt::format("{}", value);
  return fmt::format("{}", static_cast<double>(value) / 1e9);
}

void render_histogram(std::string& out, const MetricSample& sample) {
  std::uint64_t count = 0;
  for (int i = 0; i < Histogram::kBuckets; ++i) {
    count += sample.buckets[static_cast<std::size_t>(i)];
    const bool ends_power = i % Histogram::kSubBuckets == Histogram::kSubBuckets - 1;
    if (!ends_power) continue;
    const std::string le = in_base_units(Histogram::upper_end(i), sample.unit);
    out += fmt::format("{}_bucket{} {}\n", sample.name,
                       in_braces(sample.labels, fmt::format("le=\"{}\"", le)), count);
  }
  const std::string labels = in_braces(sample.labels);
  out +=
      fmt::format("{}_bucket{} {}\n", sample.name, in_braces(sample.labels, "le=\"+Inf\""), count);
  out += fmt::format("{}_sum{} {}\n", sample.name, labels, in_base_units(sample.sum, sample.unit));
  out += fmt::format("{}_count{} {}\n", sample.name, labels, count);
}

std::string_view to_string(Kind kind) {
  switch (kind) {
    case Kind::kCounter:
      return "counter";
    case Kind::kGauge:
      return "gauge";
    case Kind::kHistogram:
      return "histogram";
  }
  DEFIB_UNREACHABLE("MetricSample::Kind");
}

}  // namespace

// ---- histogram

int Histogram::bucket_of(std::uint64_t value) {
  if (value < kSubBuckets) return static_cast<int>(value);
  const int exponent = std::bit_width(value) - 1;  // at least 3
  if (exponent >= kMaxExponent) return kBuckets - 1;
  const auto sub = static_cast<int>((value >> (exponent - 3)) & (kSubBuckets - 1));
  return (exponent - 2) * kSubBuckets + sub;
}

std::uint64_t Histogram::upper_end(int bucket) {
  DEFIB_ASSERT(bucket >= 0 && bucket < kBuckets);
  if (bucket < kSubBuckets) return static_cast<std::uint64_t>(bucket);
  if (bucket == kBuckets - 1) return UINT64_MAX;
  const int exponent = bucket / kSubBuckets + 2;
  const std::uint64_t end = static_cast<std::uint64_t>(kSubBuckets) +
                            static_cast<std::uint64_t>(bucket % kSubBuckets) + 1;
  return (end << (exponent - 3)) - 1;
}

void Histogram::record(std::uint64_t value) {
  slots_[bucket_of(value)].fetch_add(1, std::memory_order_relaxed);
  slots_[kBuckets].fetch_add(value, std::memory_order_relaxed);
  Slot& largest = slots_[kBuckets + 1];
  std::uint64_t before = largest.load(std::memory_order_relaxed);
  while (before < value &&
         !largest.compare_exchange_weak(before, value, std::memory_order_relaxed)) {
  }
}

std::uint64_t Histogram::count() const {
  std::uint64_t total = 0;
  for (int i = 0; i < kBuckets; ++i) total += slots_[i].load(std::memory_order_relaxed);
  return total;
}

std::uint64_t Histogram::quantile(double q) const {
  const std::uint64_t total = count();
  if (total == 0) return 0;
  const double clamped = std::clamp(q, 0.0, 1.0);
  const auto rank =
      static_cast<std::uint64_t>(std::max(1.0, std::ceil(clamped * static_cast<double>(total))));
  const std::uint64_t largest = slots_[kBuckets + 1].load(std::memory_order_relaxed);
  std::uint64_t seen = 0;
  for (int i = 0; i < kBuckets; ++i) {
    seen += slots_[i].load(std::memory_order_relaxed);
    if (seen >= rank) return std::min(upper_end(i), largest);
  }
  return largest;
}

// ---- registry

struct Registry::Impl {
  std::optional<os::Mapping> mapping;  // or
  std::vector<std::uint64_t> memory;   // in_memory()
  Image image;
  std::optional<Error> replaced;
  std::mutex mutex;  // guards the free entries and the two below
  std::size_t used_entries = 0;
  std::uint32_t next_slot = Histogram::kSlots;  // those before are the spare place

  void begin() {
    FileHeader& header = image.header();
    std::memcpy(header.magic, kMagic, sizeof kMagic);
    header.version = kVersion;
    header.max_metrics = image.options.max_metrics;
    header.max_slots = image.options.max_slots;
    header.entry_size = sizeof(Entry);
    header.created_wall_ns = os::real_clock().wall_ns();
    header.checksum = header_checksum(header);
  }

  // Takes over the entries of an earlier run.
  Result<> adopt() {
    FileHeader& header = image.header();
    const std::string_view bytes(reinterpret_cast<const char*>(&header), sizeof header);
    if (bytes.find_first_not_of('\0') == std::string_view::npos) {
      begin();  // New, or cut before its first write.
      return {};
    }
    DEFIB_TRY(check_header(header));
    if (header.max_metrics != image.options.max_metrics ||
        header.max_slots != image.options.max_slots) {
      return damaged("its bounds are others");
    }
    for (const Entry& entry : image.entries()) {
      if (entry.state.load(std::memory_order_acquire) == 0) break;
      if (!is_valid(entry, image.options) || entry.first_slot != next_slot) {
        return damaged(fmt::format("entry {} is damaged", used_entries));
      }
      next_slot += slots_of(entry.kind);
      ++used_entries;
    }
    return {};
  }

  // The first slot of the metric, which is made where it does not exist.
  Slot* find_or_add(Kind kind, Unit unit, std::string_view name, std::string_view help,
                    const Labels& labels) {
    DEFIB_ASSERT_MESSAGE(is_metric_name(name), "a metric's name is malformed");
    const std::string label_text = render_labels(labels);
    const auto kind_byte = static_cast<std::uint8_t>(kind);
    const auto unit_byte = static_cast<std::uint8_t>(unit);
    const std::lock_guard lock(mutex);
    if (name.size() >= sizeof(Entry::name) || label_text.size() >= sizeof(Entry::labels)) {
      return refuse();
    }
    for (const Entry& entry : image.entries().first(used_entries)) {
      if (text_of(entry.name) != name) continue;
      if (entry.kind != kind_byte || entry.unit != unit_byte) return refuse();
      if (text_of(entry.labels) == label_text) return &image.slots()[entry.first_slot];
    }
    const std::uint32_t slots = slots_of(kind_byte);
    if (used_entries == image.options.max_metrics || slots > image.options.max_slots - next_slot) {
      return refuse();
    }
    Slot* const first = &image.slots()[next_slot];
    // A crash may have left counts here: slots are handed out before their entry is in use.
    for (std::uint32_t i = 0; i < slots; ++i) first[i].store(0, std::memory_order_relaxed);
    Entry& entry = image.entries()[used_entries];
    entry.kind = kind_byte;
    entry.unit = unit_byte;
    entry.zero = 0;
    entry.first_slot = next_slot;
    set_text(entry.name, name);
    set_text(entry.labels, label_text);
    set_text(entry.help, help);
    std::memset(entry.reserved, 0, sizeof entry.reserved);
    entry.checksum = entry_checksum(entry);
    entry.state.store(1, std::memory_order_release);
    next_slot += slots;
    ++used_entries;
    return first;
  }

  Slot* refuse() const {
    image.header().refused.fetch_add(1, std::memory_order_relaxed);
    return &image.slots()[0];
  }
};

Registry::Registry(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Registry::~Registry() = default;
const std::optional<Error>& Registry::replaced() const {
  return impl_->replaced;
}

Result<std::unique_ptr<Registry>> Registry::open(const std::string& path, Options options) {
  DEFIB_ASSERT(options.max_slots > Histogram::kSlots);
  std::optional<Error> replaced;
  // The second attempt meets a new file.
  for (int attempt = 0; attempt < 2; ++attempt) {
    auto impl = std::make_unique<Impl>();
    auto mapping = os::Mapping::open(path, file_size(options));
    Result<> adopted;
    if (mapping) {
      impl->mapping = std::move(*mapping);
      impl->image = {impl->mapping->data(), options};
      adopted = impl->adopt();
    } else {
      adopted = mapping.error();
    }
    if (adopted) {
      impl->replaced = std::move(replaced);
      return std::unique_ptr<Registry>(new Registry(std::move(impl)));
    }
    if (adopted.error().code() != Code::kCorrupted || replaced) return adopted.error();
    replaced = Error(Code::kCorrupted, fmt::format("'{}' was replaced by a new file, and is kept "
                                                   "as '{}.replaced'",
                                                   path, path))
                   .with("path", path)
                   .because(adopted.error());
    DEFIB_TRY(os::real_files().rename(path, path + ".replaced"));
  }
  return *replaced;
}

std::unique_ptr<Registry> Registry::in_memory(Options options) {
  DEFIB_ASSERT(options.max_slots > Histogram::kSlots);
  auto impl = std::make_unique<Impl>();
  impl->memory.resize(file_size(options) / sizeof(std::uint64_t));
  impl->image = {reinterpret_cast<std::byte*>(impl->memory.data()), options};
  impl->begin();
  return std::unique_ptr<Registry>(new Registry(std::move(impl)));
}

Counter Registry::counter(std::string_view name, std::string_view help, const Labels& labels,
                          Unit unit) {
  return Counter(impl_->find_or_add(Kind::kCounter, unit, name, help, labels));
}

Gauge Registry::gauge(std::string_view name, std::string_view help, const Labels& labels) {
  return Gauge(impl_->find_or_add(Kind::kGauge, Unit::kNone, name, help, labels));
}

Histogram Registry::histogram(std::string_view name, std::string_view help, Unit unit,
                              const Labels& labels) {
  return Histogram(impl_->find_or_add(Kind::kHistogram, unit, name, help, labels));
}

std::string Registry::render_prometheus() const {
  return obs::render_prometheus(read_samples(impl_->image));
}

// ---- reading

Result<std::vector<MetricSample>> read_metrics(const std::string& path) {
  // A copy instead of a mapping: a file that shrinks meanwhile would kill a mapping's reader. Only
  // what is in use is copied; the rest of the file is empty entries.
  DEFIB_TRY_ASSIGN(const auto file, os::real_files().open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  const auto refuse = [&](Error cause) {
    return Error(Code::kCorrupted, fmt::format("'{}' cannot be read as counters", path))
        .with("path", path)
        .because(std::move(cause));
  };
  if (size < kPage) return refuse(damaged("it is too short"));
  if (size > kMaxFile) return refuse(damaged("it is too large"));
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  // Zeroed, and not touched where nothing is read into it.
  const std::unique_ptr<void, Free> memory(std::calloc(size / 8 + 1, 8));
  DEFIB_ASSERT_MESSAGE(memory != nullptr, "out of memory");
  char* const base = static_cast<char*>(memory.get());
  const auto copy = [&](std::uint64_t offset, std::uint64_t count) -> Result<> {
    DEFIB_TRY(file->read_at(offset, base + offset, count));
    return {};
  };
  DEFIB_TRY(copy(0, kPage));
  Image image{reinterpret_cast<std::byte*>(base), {}};
  if (auto checked = check_header(image.header()); !checked) return refuse(checked.error());
  image.options = {image.header().max_metrics, image.header().max_slots};
  if (size != file_size(image.options)) return refuse(damaged("it was cut"));
  const std::uint64_t slots = slots_offset(image.options);
  constexpr std::uint64_t kAtOnce = 32 * sizeof(Entry);
  for (std::uint64_t at = kPage; at < slots; at += kAtOnce) {
    DEFIB_TRY(copy(at, std::min(kAtOnce, slots - at)));
    const std::uint64_t last = (at + kAtOnce - kPage) / sizeof(Entry) - 1;
    if (last >= image.options.max_metrics || image.entries()[last].state.load() == 0) break;
  }
  DEFIB_TRY(copy(slots, image.options.max_slots * sizeof(Slot)));
  return read_samples(image);
}

std::string render_prometheus(const std::vector<MetricSample>& samples) {
  std::vector<const MetricSample*> sorted;
  sorted.reserve(samples.size());
  for (const MetricSample& sample : samples) sorted.push_back(&sample);
  std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) {
    return std::pair<std::string_view, std::string_view>(a->name, a->labels) <
           std::pair<std::string_view, std::string_view>(b->name, b->labels);
  });
  std::string out;
  std::string_view name;
  for (const MetricSample* sample : sorted) {
    if (sample->name != name) {
      name = sample->name;
      out += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, escaped(sample->help, false), name,
                         to_string(sample->kind));
    }
    if (sample->kind == Kind::kHistogram) {
      render_histogram(out, *sample);
    } else if (sample->kind == Kind::kGauge) {
      out += fmt::format("{}{} {}\n", name, in_braces(sample->labels),
                         static_cast<std::int64_t>(sample->value));
    } else {
      out += fmt::format("{}{} {}\n", name, in_braces(sample->labels),
                         in_base_units(sample->value, sample->unit));
    }
  }
  return out;
}

}  // namespace defib::obs

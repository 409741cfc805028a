#include "defib/store/segment_supply.h"

#include <fmt/core.h>

#include <algorithm>
#include <mutex>
#include <utility>

namespace defib::store {
namespace {

constexpr std::uint64_t kWriteStep = 16 << 10;      // bytes in one write of zeros
constexpr std::uint64_t kSmallestStep = 256 << 10;  // bytes that are worth waking a thread for
constexpr std::uint64_t kLargestStep = 4 << 20;     // bytes between two looks at what is wanted
// Zeros written for each byte of log, and while the log's segment has to grow for want of a spare.
constexpr std::uint64_t kPace = 2;
constexpr std::uint64_t kHastyPace = 4;
constexpr std::size_t kMaxMaterial = 2;  // files that wait to be zeroed
constexpr std::string_view kSuffix = ".spare";

}  // namespace

bool is_spare_name(std::string_view name) {
  return name.ends_with(kSuffix);
}

std::string spare_name(std::string_view path) {
  return std::string(path) + std::string(kSuffix);
}

// Outlives the supply where a task comes by late.
struct SegmentSupply::State : std::enable_shared_from_this<State> {
  State(os::Files& the_files, Executor& the_executor, Settings the_settings)
      : files(the_files), executor(the_executor), settings(std::move(the_settings)) {}

  void schedule_if_due();
  void run_step();
  Result<bool> fill(std::uint64_t bytes);
  Result<> open_material();
  void end_making();
  std::uint64_t pace() const { return wanted_soon ? kHastyPace : kPace; }
  std::string new_path() {
    return os::join_path(settings.wal_dir,
                         fmt::format("{:08x}.{:08x}{}", settings.epoch, number++, kSuffix));
  }

  os::Files& files;
  Executor& executor;
  const Settings settings;

  // Held while a step works on `making`; before mutex.
  std::mutex step_mutex;
  Spare making;              // no file: none
  std::uint64_t zeroed = 0;  // bytes of it

  std::mutex mutex;  // guards all below
  bool stopped = false;
  bool gave_up = false;
  bool scheduled = false;
  bool wanted_soon = false;
  std::uint64_t written = 0;      // bytes of log since the last step
  std::uint64_t pause_until = 0;  // bytes of log to be written before the next step
  std::uint64_t number = 0;
  std::vector<std::string> material;
  std::optional<Spare> ready;
};

// Precondition: mutex is held.
void SegmentSupply::State::schedule_if_due() {
  if (stopped || gave_up || scheduled || ready) return;
  if (written < pause_until) return;
  if (written * pace() < std::min(kSmallestStep, settings.segment_size)) return;
  pause_until = 0;
  scheduled = true;
  executor.run([self = shared_from_this()] { self->run_step(); });
}

void SegmentSupply::State::run_step() {
  const std::lock_guard step(step_mutex);
  std::uint64_t bytes = 0;
  {
    const std::lock_guard lock(mutex);
    if (stopped || gave_up || ready) {
      scheduled = false;
      return;
    }
    bytes = std::clamp(std::exchange(written, 0) * pace(), kWriteStep, kLargestStep);
  }
  Result<bool> complete = fill(bytes);
  const bool failed = !complete;
  const bool is_full = failed && complete.error().code() == Code::kNoSpace;
  if (failed) end_making();
  const std::lock_guard lock(mutex);
  scheduled = false;
  if (failed) {
    gave_up = gave_up || !is_full;
    pause_until = settings.segment_size / 4;
  } else if (*complete) {
    ready = std::exchange(making, {});
    zeroed = 0;
    return;
  }
  schedule_if_due();
}

// Precondition: step_mutex is held. True when the last zero is on the disk. One piece at a time is
// on its way to the device, and nothing is made durable before the last: so a commit's sync waits
// for little, and for no journal of the file system.
Result<bool> SegmentSupply::State::fill(std::uint64_t bytes) {
  static const std::string zeros(kWriteStep, '\0');
  if (making.file == nullptr) DEFIB_TRY(open_material());
  const std::uint64_t end = std::min(zeroed + bytes, settings.segment_size);
  while (zeroed < end) {
    const std::uint64_t step = std::min(kWriteStep, end - zeroed);
    DEFIB_TRY(making.file->write_at(zeroed, std::string_view(zeros).substr(0, step)));
    DEFIB_TRY(making.file->write_back(zeroed, step));
    zeroed += step;
  }
  if (zeroed < settings.segment_size) return false;
  DEFIB_TRY(making.file->sync());
  return true;
}

Result<> SegmentSupply::State::open_material() {
  zeroed = 0;
  std::string old;
  {
    const std::lock_guard lock(mutex);
    if (!material.empty()) {
      old = std::move(material.back());
      material.pop_back();
    } else {
      making.path = new_path();
    }
  }
  if (old.empty()) {
    DEFIB_TRY_ASSIGN(making.file, files.open(making.path, os::OpenMode::kCreate));
    return making.file->truncate(0);  // A leftover of the same name.
  }
  making.path = std::move(old);
  DEFIB_TRY_ASSIGN(making.file, files.open(making.path, os::OpenMode::kWrite));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, making.file->size());
  return size > settings.segment_size ? making.file->truncate(settings.segment_size) : Result<>();
}

// Precondition: step_mutex is held.
void SegmentSupply::State::end_making() {
  if (making.path.empty()) return;
  making.file.reset();
  (void)files.remove(making.path);  // It is found again as material otherwise.
  making = {};
  zeroed = 0;
}

SegmentSupply::SegmentSupply(os::Files& files, Executor& executor, Settings settings)
    : state_(std::make_shared<State>(files, executor, std::move(settings))) {
  const auto names = files.list(state_->settings.wal_dir);
  if (!names) return;
  for (const std::string& name : *names) {
    if (!is_spare_name(name)) continue;
    const std::string path = os::join_path(state_->settings.wal_dir, name);
    if (state_->material.size() < kMaxMaterial) {
      state_->material.push_back(path);
    } else {
      (void)files.remove(path);
    }
  }
}

SegmentSupply::~SegmentSupply() {
  stop();
}

void SegmentSupply::stop() {
  const std::lock_guard step(state_->step_mutex);
  const std::lock_guard lock(state_->mutex);
  state_->stopped = true;
}

bool SegmentSupply::is_ready() const {
  const std::lock_guard lock(state_->mutex);
  return state_->ready.has_value();
}

std::optional<SegmentSupply::Spare> SegmentSupply::take() {
  const std::lock_guard lock(state_->mutex);
  state_->wanted_soon = false;
  return std::exchange(state_->ready, std::nullopt);
}

void SegmentSupply::appended(std::uint64_t bytes, bool grows) {
  const std::lock_guard lock(state_->mutex);
  state_->written += bytes;
  state_->wanted_soon = grows;
  state_->schedule_if_due();
}

std::optional<std::string> SegmentSupply::wanted_material() {
  const std::lock_guard lock(state_->mutex);
  const bool is_enough = state_->stopped || state_->gave_up;
  if (is_enough || state_->material.size() >= kMaxMaterial) return std::nullopt;
  return state_->new_path();
}

void SegmentSupply::add_material(std::string path) {
  const std::lock_guard lock(state_->mutex);
  state_->material.push_back(std::move(path));
}

bool SegmentSupply::discard() {
  const std::lock_guard step(state_->step_mutex);
  std::vector<std::string> paths;
  if (state_->making.file != nullptr) paths.push_back(state_->making.path);
  state_->making = {};
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->ready) paths.push_back(std::exchange(state_->ready, std::nullopt)->path);
    for (std::string& path : state_->material) paths.push_back(std::move(path));
    state_->material.clear();
    state_->pause_until = state_->settings.segment_size / 4;
    state_->written = 0;
  }
  for (const std::string& path : paths) (void)state_->files.remove(path);
  return !paths.empty();
}

}  // namespace defib::store

#include "defib/store/plan.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/store/lock.h"
#include "defib/store/picture.h"
#include "defib/store/resources.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kMemoryPart = 2;  // of the log's bytes, as resources.cc reckons
constexpr std::uint64_t kAssumedReplayRate = 400 << 20;  // bytes a second, before any measurement
constexpr std::uint64_t kAssumedReadRate = 1 << 30;      // of the log, checksums included
constexpr std::uint64_t kOwnThreads = 3;                 // that opening starts before it looks
constexpr std::uint64_t kSpareForRun = 1 << 20;
constexpr double kSmallStage = 0.001;  // seconds

constexpr std::string_view kStageNames[] = {
    "initialization",         "lock_acquisition", "config_validation",    "resource_check",
    "wal_discovery",          "wal_validation",   "transaction_recovery", "index_reconstruction",
    "consistency_validation", "resource_cleanup", "database_unlock",      "finalization"};

enum StageIndex : std::size_t {
  kInitialization,
  kLock,
  kConfiguration,
  kResources,
  kDiscovery,
  kValidation,
  kTransactions,
  kIndexes,
  kConsistency,
  kCleanup,
  kUnlock,
  kFinalization,
};

class Planner {
 public:
  Planner(os::Files& files, const os::Clock& clock, const std::string& dir, const Options& options)
      : files_(files), clock_(clock), dir_(dir), options_(options) {
    for (const std::string_view name : kStageNames) {
      plan_.stages.push_back({.name = std::string(name)});
    }
  }

  Result<RecoveryPlan> run() {
    auto identity = read_identity(files_, dir_);
    if (!identity && (identity.error().code() == Code::kNotAStore ||
                      identity.error().code() == Code::kStoreFormatUnsupported)) {
      return Error(std::move(identity.error()));
    }
    plan_.indicators = read_indicators(files_, clock_, dir_);
    plan_.needed = any_present(plan_.indicators);
    plan_directory();
    plan_lock();
    if (!identity) {
      fail(kConfiguration, identity.error());
    } else {
      stage(kConfiguration).action =
          fmt::format("accept store {}, format version {}", identity->uuid, identity->version);
      plan_files();
    }
    plan_resources();
    plan_end();
    for (const PlannedStage& planned : plan_.stages) plan_.seconds += planned.seconds;
    return std::move(plan_);
  }

 private:
  PlannedStage& stage(StageIndex index) { return plan_.stages[index]; }
  void fail(StageIndex index, const Error& error) {
    stage(index).obstacle = error;
    stage(index).action = "fail: " + error.message();
  }

  void plan_directory() {
    const auto found = files_.file_system(dir_);
    stage(kInitialization).action =
        found && !found->type.empty()
            ? "look at the directory, on a file system of type " + found->type
            : "look at the directory";
    if (const Result<> usable = check_file_system(files_, dir_); !usable) {
      fail(kInitialization, usable.error());
    }
  }

  void plan_lock() {
    const auto record = read_lock_record(files_, dir_);
    const std::string holder = living_holder(record, clock_);
    PlannedStage& lock = stage(kLock);
    lock.descriptors = 1;
    lock.disk_bytes = 512;
    if (is_denied(os::join_path(dir_, kLockFile), kLock)) return;
    if (!holder.empty() && record->state != "closed") {
      plan_.lock_holder = holder;
      fail(kLock, locked_error(os::join_path(dir_, kLockFile), record, HolderState::kAlive));
    } else if (record && record->state != "closed") {
      lock.action = fmt::format("take the lock over from pid {}, which is gone", record->pid);
    } else {
      lock.action = "take the lock";
    }
  }

  // Everything from the manifest to the leftovers.
  void plan_files() {
    auto picture = look_until(
        files_, dir_, clock_, [this] { return take_picture(files_, clock_, dir_); },
        [](const auto& found) { return found.has_value() && found->log.has_value(); });
    const auto names = list_segments(files_, dir_);
    if (!names) return fail(kResources, missing_log(dir_, names.error()));
    if (!picture) return fail(kDiscovery, picture.error());
    plan_log(*picture);
    plan_access(*names);
    plan_sorted_files(*picture);
    plan_cleanup(*picture);
  }

  // Recovery opens these for writing before it changes anything. Opening alone leaves no trace.
  void plan_access(const std::vector<std::string>& segments) {
    std::vector<std::string> paths;
    for (const std::string_view name : {kPageFile, kDwbFile}) {
      paths.push_back(os::join_path(dir_, name));
    }
    for (const std::string& name : segments) {
      paths.push_back(os::join_path(os::join_path(dir_, kWalDir), name));
    }
    for (const std::string& path : paths) {
      if (plan_.needed && is_denied(path, kDiscovery)) return;
    }
  }

  bool is_denied(const std::string& path, StageIndex index) {
    const auto file = files_.open(path, os::OpenMode::kWrite);
    if (file || file.error().code() != Code::kPermissionDenied) return false;
    fail(index, permission_error(file.error()));
    return true;
  }

  void plan_log(const Picture& picture) {
    const Manifest& manifest = picture.pages.manifest;
    plan_.checkpoint_commit = plan_.last_commit = manifest.checkpoint_commit;
    for (const Segment& segment : picture.segments) {
      plan_.log_bytes += segment.bytes.size();
      last_segment_ = segment.bytes.size();
    }
    segments_ = picture.segments.size();
    stage(kDiscovery).action = fmt::format(
        "{}read the manifest: {} base and run files up to commit {}, {} log segments, "
        "double-write buffer {}",
        plan_.needed ? "sync what the last process left in the page cache, and " : "",
        manifest.files.size(), manifest.checkpoint_commit, segments_, to_string(picture.pages.dwb));
    stage(kDiscovery).descriptors = 2;
    PlannedStage& validation = stage(kValidation);
    validation.read_bytes = plan_.log_bytes;
    validation.descriptors = segments_;
    validation.seconds = static_cast<double>(plan_.log_bytes) / kAssumedReadRate;
    if (!picture.log) return fail(kValidation, picture.log.error());
    const LogAssessment& log = *picture.log;
    plan_.last_commit = log.last_lsn;
    plan_.losses = log.notes;
    plan_.verdict = !log.cut ? "the log ends where it should"
                             : fmt::format("cut {} bytes from offset {} of {}: {}", log.cut->bytes,
                                           log.cut->offset, log.cut->segment, log.cut->reason);
    validation.action = fmt::format("check {} bytes of log; {}", plan_.log_bytes, plan_.verdict);
    for (const std::size_t live : log.live) {
      const std::uint64_t end = picture.segments[live].stop.offset;
      plan_.replay_bytes += end - std::min<std::uint64_t>(end, kPageSize);
    }
    plan_.rate_is_measured = manifest.replay_bytes_per_second > 0;
    plan_.bytes_per_second =
        plan_.rate_is_measured ? manifest.replay_bytes_per_second : kAssumedReplayRate;
    PlannedStage& replay = stage(kTransactions);
    replay.read_bytes = plan_.replay_bytes;
    replay.memory_bytes = plan_.log_bytes / kMemoryPart;
    replay.seconds =
        static_cast<double>(plan_.replay_bytes) / static_cast<double>(plan_.bytes_per_second);
    replay.action = log.last_lsn > plan_.checkpoint_commit
                        ? fmt::format("replay commits {} to {}, {} bytes",
                                      plan_.checkpoint_commit + 1, log.last_lsn, plan_.replay_bytes)
                        : "replay nothing: the files hold every commit";
  }

  void plan_sorted_files(const Picture& picture) {
    PlannedStage& indexes = stage(kIndexes);
    const auto opened = open_sorted_files(files_, dir_, picture.pages.manifest, picture.identity);
    if (!opened) return fail(kIndexes, opened.error());
    std::uint64_t records = 0;
    for (const auto& file : *opened) records += file->info().records;
    indexes.descriptors = opened->size();
    indexes.seconds = kSmallStage;
    indexes.action = fmt::format(
        "open {} base and run files with {} records; an index that is not complete is "
        "built by the program that declares it",
        opened->size(), records);
    stage(kConsistency).action =
        "compare counts and commit numbers, and a sample of each declared index with its table";
    stage(kConsistency).seconds = kSmallStage;
  }

  void plan_cleanup(const Picture& picture) {
    PlannedStage& cleanup = stage(kCleanup);
    std::vector<std::string> steps;
    const DwbState dwb = picture.pages.dwb;
    if (dwb == DwbState::kArmed || dwb == DwbState::kTorn) {
      steps.push_back(fmt::format("put {} pages home from the double-write buffer",
                                  picture.pages.to_restore.size()));
      cleanup.disk_bytes += (picture.pages.to_restore.size() + 1) * picture.pages.page_size;
    }
    if (picture.log && picture.log->cut) {
      steps.push_back("copy the cut bytes to quarantine and cut them");
      cleanup.disk_bytes += std::min(last_segment_, options_.segment_size);
    }
    const auto leftovers = find_leftovers(picture);
    if (!leftovers.empty()) {
      std::string names;
      for (const std::string& name : leftovers) names += (names.empty() ? "" : ", ") + name;
      steps.push_back("remove " + names);
    }
    for (const std::string& step : steps) {
      cleanup.action += (cleanup.action.empty() ? "" : "; ") + step;
    }
    if (steps.empty()) cleanup.action = "nothing to clean up";
    cleanup.seconds = steps.empty() ? 0 : kSmallStage;
  }

  std::vector<std::string> find_leftovers(const Picture& picture) const {
    std::vector<std::string> found;
    if (picture.log && options_.log_retention == 0) found = picture.log->obsolete;
    const std::vector<SortedFileInfo>& named = picture.pages.manifest.files;
    if (const auto names = files_.list(os::join_path(dir_, kDataDir))) {
      for (const std::string& name : *names) {
        const auto is_it = [&](const SortedFileInfo& info) {
          return sorted_file_name(info) == name;
        };
        if (parse_sorted_file_name(name) && !std::ranges::any_of(named, is_it)) {
          found.push_back(name);
        }
      }
    }
    if (const auto names = files_.list(dir_)) {
      for (const std::string& name : *names) {
        if (name.ends_with(".tmp")) found.push_back(name);
      }
    }
    return found;
  }

  void plan_resources() {
    const ResourceNeeds needs = resource_needs(files_, dir_,
                                               {.log_bytes = plan_.log_bytes,
                                                .last_segment_bytes = last_segment_,
                                                .segments = segments_,
                                                .segment_size = options_.segment_size,
                                                .threads_to_start = kOwnThreads,
                                                .is_needed = plan_.needed});
    plan_.memory = needs.memory;
    plan_.address_space = needs.address_space;
    plan_.disk = needs.disk;
    plan_.descriptors = needs.descriptors;
    // Records take no more room in a run than in the log; a page for its list, and a few to spare.
    if (plan_.replay_bytes > 0) plan_.closing_disk.required = plan_.replay_bytes + kSpareForRun;
    plan_.closing_disk.available = needs.disk.available;
    PlannedStage& resources = stage(kResources);
    if (resources.obstacle || stage(kConfiguration).obstacle) return;
    if (const Result<> enough = check_resources(needs, dir_); !enough) {
      return fail(kResources, enough.error());
    }
    resources.action = fmt::format(
        "find enough: {} bytes of memory, {} bytes of disk, {} "
        "descriptors at most",
        plan_.memory.required, plan_.disk.required, plan_.descriptors.required);
  }

  void plan_end() {
    stage(kUnlock).action = "turn the recovery's lock into the store's, without a gap";
    stage(kFinalization).action = files_.exists(os::join_path(dir_, kRecoveryMarker))
                                      ? fmt::format("remove {}", kRecoveryMarker)
                                      : "nothing left to mark";
    bool failed = false;
    for (PlannedStage& planned : plan_.stages) {
      if (failed) {
        planned.action = "not run";
        planned.seconds = 0;
      }
      failed = failed || planned.obstacle.has_value();
    }
  }

  os::Files& files_;
  const os::Clock& clock_;
  const std::string& dir_;
  const Options& options_;
  RecoveryPlan plan_;
  std::uint64_t last_segment_ = 0;  // its size
  std::size_t segments_ = 0;
};

}  // namespace

const PlannedStage* RecoveryPlan::obstacle() const {
  const auto found = std::ranges::find_if(
      stages, [](const PlannedStage& planned) { return planned.obstacle.has_value(); });
  return found == stages.end() ? nullptr : &*found;
}

Result<RecoveryPlan> plan_recovery(const std::string& dir, Options options) {
  os::Files& files = options.files != nullptr ? *options.files : os::real_files();
  const os::Clock& clock = options.clock != nullptr ? *options.clock : os::real_clock();
  return Planner(files, clock, dir, options).run();
}

}  // namespace defib::store

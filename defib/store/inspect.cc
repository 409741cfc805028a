// The store's read-only entries: status, verification and snapshots of a store that is not opened.
// They take no lock and write nothing, so they may catch a live writer's files in motion; then they
// look again.

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/checkpoint.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

constexpr int kMaxLooks = 8;

struct Environment {
  os::Files& files;
  const os::Clock& clock;
};

Environment environment(const Options& options) {
  return {options.files != nullptr ? *options.files : os::real_files(),
          options.clock != nullptr ? *options.clock : os::real_clock()};
}

struct Picture {
  Identity identity;
  std::string checkpoint_path;  // empty: none
  std::optional<CheckpointHeader> checkpoint;
  std::vector<Segment> segments;
  Result<LogAssessment> log = LogAssessment{};
};

Result<Picture> look(const Environment& env, const std::string& dir) {
  Picture picture;
  DEFIB_TRY_ASSIGN(picture.identity, read_identity(env.files, dir));
  // The checkpoint first: segments that vanish meanwhile are in a newer one, and we look again.
  DEFIB_TRY_ASSIGN(const std::string checkpoint, newest_checkpoint(env.files, dir));
  if (!checkpoint.empty()) {
    picture.checkpoint_path = os::join_path(dir, checkpoint);
    auto header = read_checkpoint_header(env.files, picture.checkpoint_path, picture.identity);
    if (!header) return checkpoint_unusable(std::move(header.error()));
    picture.checkpoint = *std::move(header);
  }
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(env.files, dir));
  DEFIB_TRY_ASSIGN(picture.segments,
                   read_segments(env.files, dir, names, picture.identity, nullptr));
  LogContext context;
  context.identity = picture.identity;
  context.base = log_base(picture.checkpoint);
  context.boot_id = env.clock.boot_id();
  picture.log = assess_log(picture.segments, context);
  return picture;
}

Result<Catalog> build_catalog(const Environment& env, const Picture& picture) {
  if (!picture.log) return picture.log.error();
  Catalog catalog;
  if (picture.checkpoint) {
    auto read = read_checkpoint(env.files, picture.checkpoint_path, picture.identity, nullptr);
    if (!read) return checkpoint_unusable(std::move(read.error()));
    catalog = *std::move(read);
  }
  auto transactions = live_transactions(picture.segments, *picture.log, catalog.position);
  if (!transactions) {
    for (TableState& table : catalog.tables) destroy(table.tree);
    return Error(std::move(transactions.error()));
  }
  for (const TransactionView& transaction : *transactions) apply(catalog, transaction);
  catalog.drop_empty_tables();
  return catalog;
}

// Repeats `attempt` while its result may come from files that a live writer was changing.
template <typename Attempt, typename Settled>
auto look_until(const Environment& env, const std::string& dir, const Attempt& attempt,
                const Settled& settled) {
  auto result = attempt();
  for (int looks = 1; looks < kMaxLooks && !settled(result); ++looks) {
    if (living_holder(read_lock_record(env.files, dir), env.clock).empty()) break;
    result = attempt();
  }
  return result;
}

class Verification {
 public:
  Verification(const Environment& env, std::string dir) : env_(env), dir_(std::move(dir)) {}

  Result<VerifyReport> run() {
    auto identity = read_identity(env_.files, dir_);
    if (!identity) {
      if (identity.error().code() != Code::kInconsistentState) {
        return Error(std::move(identity.error()));
      }
      finding(std::string(kIdentityFile), identity.error().message());
      return std::move(report_);
    }
    identity_ = *std::move(identity);
    check_markers();
    DEFIB_TRY(check_checkpoints());
    DEFIB_TRY(check_log());
    return std::move(report_);
  }

 private:
  void finding(std::string where, std::string problem) {
    report_.findings.push_back({std::move(where), std::move(problem)});
  }

  void check_markers() {
    const auto bytes = os::read_file(env_.files, os::join_path(dir_, kCleanMarker), 1 << 16);
    std::string problem;
    if (bytes && !decode_clean_record(*bytes, problem)) {
      finding(std::string(kCleanMarker), problem);
    } else if (bytes) {
      clean_ = decode_clean_record(*bytes, problem);
    }
  }

  Result<> check_checkpoints() {
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_checkpoints(env_.files, dir_));
    for (const std::string& name : names) {
      const std::string path = os::join_path(dir_, name);
      auto header = read_checkpoint_header(env_.files, path, identity_);
      // Damaged further on or not, it says which commits the log need not hold.
      if (header && !checkpoint_) checkpoint_ = *header;
      auto catalog = header ? read_checkpoint(env_.files, path, identity_, nullptr)
                            : Result<Catalog>(header.error());
      if (!catalog) {
        if (catalog.error().code() == Code::kFileNotFound) return Error(catalog.error());
        finding(name, catalog.error().message());
        continue;
      }
      report_.checkpoint_records += catalog->records();
      for (TableState& table : catalog->tables) destroy(table.tree);
    }
    return {};
  }

  Result<> check_log() {
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(env_.files, dir_));
    DEFIB_TRY_ASSIGN(const std::vector<Segment> segments,
                     read_segments(env_.files, dir_, names, identity_, nullptr));
    for (const Segment& segment : segments) check_segment(segment);
    LogContext context;
    context.identity = identity_;
    context.base = log_base(checkpoint_);
    context.boot_id = env_.clock.boot_id();
    const auto log = assess_log(segments, context);
    if (!log) {
      finding("log", log.error().message());
      return {};
    }
    for (const std::string& note : log->notes) finding("log", note);
    if (clean_ && clean_->lsn != log->last_lsn) {
      finding(std::string(kCleanMarker),
              fmt::format("the store was closed after commit {}, its files end with commit {}",
                          clean_->lsn, log->last_lsn));
    }
    return {};
  }

  void check_segment(const Segment& segment) {
    for (const ScannedBlock& block : segment.blocks()) {
      std::string problem;
      const auto transactions = decode_transactions(segment.payload(block), block.header.first_lsn,
                                                    block.header.count, problem);
      if (!transactions) {
        finding(fmt::format("{} at offset {}", segment.name, block.offset), problem);
        continue;
      }
      for (const TransactionView& transaction : *transactions) {
        report_.log_records += transaction.changes.size();
      }
    }
  }

  const Environment& env_;
  std::string dir_;
  Identity identity_;
  std::optional<CheckpointHeader> checkpoint_;
  std::optional<CleanRecord> clean_;
  VerifyReport report_;
};

}  // namespace

Result<std::unique_ptr<Snapshot>> Store::open_read_only(const std::string& dir, Options options) {
  const Environment env = environment(options);
  const auto attempt = [&]() -> Result<Catalog> {
    DEFIB_TRY_ASSIGN(const Picture picture, look(env, dir));
    return build_catalog(env, picture);
  };
  auto catalog = look_until(env, dir, attempt, [](const auto& r) { return r.has_value(); });
  if (!catalog) return Error(std::move(catalog.error()));
  return make_snapshot(std::make_shared<Versions>(*std::move(catalog))->view());
}

Result<Status> Store::status(const std::string& dir, Options options) {
  const Environment env = environment(options);
  auto looked = look_until(
      env, dir, [&] { return look(env, dir); },
      [](const auto& r) { return r.has_value() && r->log.has_value(); });
  Status status;
  status.path = dir;
  status.indicators = read_indicators(env.files, env.clock, dir);
  status.lock_holder = living_holder(read_lock_record(env.files, dir), env.clock);
  status.recovery_needed = any_present(status.indicators) && status.lock_holder.empty();
  if (!looked) {
    // What a damaged checkpoint leaves to be said is still said.
    if (looked.error().code() != Code::kRecoveryImpossible) return Error(looked.error());
    DEFIB_TRY_ASSIGN(const Identity identity, read_identity(env.files, dir));
    status.format_version = identity.version;
    status.page_size = identity.page_size;
    status.uuid = identity.uuid;
    return status;
  }
  const Picture& picture = *looked;
  status.format_version = picture.identity.version;
  status.page_size = picture.identity.page_size;
  status.uuid = picture.identity.uuid;
  if (picture.checkpoint) {
    status.checkpoint_commit = picture.checkpoint->lsn;
    const auto file = env.files.open(picture.checkpoint_path, os::OpenMode::kRead);
    if (file) status.checkpoint_bytes = (*file)->size().value_or(0);
  }
  status.last_commit = status.checkpoint_commit;
  for (const Segment& segment : picture.segments) {
    status.log_bytes += segment.bytes.size();
    if (segment.next_lsn > 0) {
      status.last_commit = std::max(status.last_commit, segment.next_lsn - 1);
    }
  }
  return status;
}

Result<VerifyReport> Store::verify_files(const std::string& dir, Options options) {
  const Environment env = environment(options);
  return look_until(
      env, dir, [&] { return Verification(env, dir).run(); },
      [](const auto& r) { return r.has_value() && r->findings.empty(); });
}

}  // namespace defib::store

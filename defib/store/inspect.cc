// The store's read-only entries: status, verification and snapshots of a store that is not opened.
// They take no lock and write nothing, so they may catch a live writer's files in motion; then they
// look again.

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/executor.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

struct Environment {
  os::Files& files;
  const os::Clock& clock;
};

Environment environment(const Options& options) {
  return {options.files != nullptr ? *options.files : os::real_files(),
          options.clock != nullptr ? *options.clock : os::real_clock()};
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
    context_ = log_context(env_.files, env_.clock, dir_, identity_);
    check_markers();
    DEFIB_TRY(check_pages());
    DEFIB_TRY(check_sorted_files());
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

  Result<> check_pages() {
    DEFIB_TRY_ASSIGN(const std::vector<std::string> problems,
                     verify_page_file(env_.files, dir_, identity_.uuid));
    for (const std::string& problem : problems) finding(std::string(kPageFile), problem);
    auto pages = read_page_file(env_.files, dir_, identity_.uuid);
    if (pages) {
      manifest_ = std::move(pages->manifest);
    } else if (problems.empty()) {
      finding(std::string(kPageFile), pages.error().message());
    }
    return {};
  }

  Result<> check_sorted_files() {
    if (!manifest_) return {};
    for (const SortedFileInfo& info : manifest_->files) {
      const std::string name = os::join_path(kDataDir, sorted_file_name(info));
      const auto file =
          SortedFile::open(env_.files, os::join_path(dir_, name), info, identity_.uuid);
      if (!file) {
        // Gone under a live writer that has merged it: the caller looks again.
        if (file.error().code() == Code::kFileNotFound) {
          finding(name, "the file is missing");
        } else {
          finding(name, file.error().message());
        }
        continue;
      }
      DEFIB_TRY_ASSIGN(const std::vector<SortedDamage> damages, (*file)->verify(nullptr));
      for (const SortedDamage& damage : damages) {
        finding(fmt::format("{} at offset {}, {} bytes", name, damage.offset, damage.size),
                damage.problem);
      }
      report_.checkpoint_records += info.records;
    }
    return {};
  }

  Result<> check_log() {
    OneThread helper;
    DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(env_.files, dir_));
    DEFIB_TRY_ASSIGN(const std::vector<Segment> segments,
                     scan_segments(env_.files, dir_, names, identity_,
                                   {.mode = ReadMode::kCopy, .executor = &helper}, nullptr));
    for (const Segment& segment : segments) check_segment(segment);
    if (manifest_) context_.base = log_base(*manifest_);
    const auto log = assess_log(segments, context_);
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
  std::optional<Manifest> manifest_;
  std::optional<CleanRecord> clean_;
  LogContext context_;
  VerifyReport report_;
};

}  // namespace

Result<std::unique_ptr<Snapshot>> Store::open_read_only(const std::string& dir, Options options) {
  const Environment env = environment(options);
  const auto attempt = [&]() -> Result<ViewPtr> {
    DEFIB_TRY_ASSIGN(Picture picture, take_picture(env.files, env.clock, dir));
    return build_view(env.files, dir, std::move(picture),
                      std::make_shared<MappedMemory>(options.cache_size));
  };
  auto view =
      look_until(env.files, dir, env.clock, attempt, [](const auto& r) { return r.has_value(); });
  if (!view) return Error(std::move(view.error()));
  return make_snapshot(*std::move(view));
}

Result<Status> Store::status(const std::string& dir, Options options) {
  const Environment env = environment(options);
  auto looked = look_until(
      env.files, dir, env.clock, [&] { return take_picture(env.files, env.clock, dir); },
      [](const auto& r) { return r.has_value() && r->log.has_value(); });
  Status status;
  status.path = dir;
  // A writer that closes in between would leave signs that are true no more.
  status.lock_holder = look_until(
      env.files, dir, env.clock,
      [&] {
        status.indicators = read_indicators(env.files, env.clock, dir);
        return living_holder(read_lock_record(env.files, dir), env.clock);
      },
      [&](const std::string& holder) {
        return !holder.empty() || !any_present(status.indicators);
      });
  status.recovery_needed = any_present(status.indicators) && status.lock_holder.empty();
  if (!looked) {
    // What a damaged page file leaves to be said is still said.
    if (looked.error().code() != Code::kRecoveryImpossible) return Error(looked.error());
    DEFIB_TRY_ASSIGN(const Identity identity, read_identity(env.files, dir));
    status.format_version = identity.version;
    status.page_size = identity.page_size;
    status.uuid = identity.uuid;
    return status;
  }
  const Picture& picture = *looked;
  const Manifest& manifest = picture.pages.manifest;
  status.format_version = picture.identity.version;
  status.page_size = picture.identity.page_size;
  status.uuid = picture.identity.uuid;
  status.checkpoint_commit = manifest.checkpoint_commit;
  for (const SortedFileInfo& info : manifest.files) {
    status.checkpoint_bytes += info.size;
    status.runs += info.kind == SortedKind::kRun ? 1 : 0;
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
      env.files, dir, env.clock, [&] { return Verification(env, dir).run(); },
      [](const auto& r) { return r.has_value() && r->findings.empty(); });
}

}  // namespace defib::store

#include "defib/store/picture.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/checkpoint.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kSmallFile = 1 << 16;

Indicator recovery_marker(os::Files& files, const std::string& dir) {
  Indicator indicator{"recovery_marker", false, {}};
  const std::string path = os::join_path(dir, kRecoveryMarker);
  indicator.present = files.exists(path);
  if (!indicator.present) {
    indicator.evidence = "no .recovery_needed";
    return indicator;
  }
  const auto text = os::read_file(files, path, kSmallFile);
  indicator.evidence = text ? ".recovery_needed: " + escape(text->substr(0, text->find('\n')))
                            : ".recovery_needed, unreadable: " + text.error().message();
  return indicator;
}

Indicator no_clean_shutdown(os::Files& files, const std::string& dir, const Identity& identity) {
  Indicator indicator{"no_clean_shutdown", true, {}};
  const std::string path = os::join_path(dir, kCleanMarker);
  if (!files.exists(path)) {
    indicator.evidence = "no .clean_shutdown";
    return indicator;
  }
  const auto text = os::read_file(files, path, kSmallFile);
  std::string problem = text ? "" : text.error().message();
  const auto record = text ? decode_clean_record(*text, problem) : std::nullopt;
  if (!record) {
    indicator.evidence = ".clean_shutdown is not valid: " + problem;
  } else if (record->uuid != identity.uuid) {
    indicator.evidence = ".clean_shutdown is of another store";
  } else {
    indicator.present = false;
    indicator.evidence = fmt::format("closed cleanly after commit {}", record->lsn);
  }
  return indicator;
}

Indicator dwb_armed(os::Files& files, const std::string& dir) {
  const bool exists = files.exists(os::join_path(dir, kDoubleWriteFile));
  return {.name = "dwb_armed",
          .present = exists,
          .evidence = exists ? "dwb.pg exists, but format version 1 does not write one"
                             : "no dwb.pg: nothing is overwritten in place in format version 1"};
}

Indicator stale_recovery_lock(os::Files& files, const os::Clock& clock, const std::string& dir) {
  Indicator indicator{"stale_recovery_lock", false, {}};
  const auto record = read_lock_record(files, dir);
  if (!record) {
    indicator.evidence = "no lock record";
  } else if (record->state != "recovering") {
    indicator.evidence = "the last holder's state is " + record->state;
  } else if (holder_state(*record, clock) == HolderState::kAlive) {
    indicator.evidence = fmt::format("pid {} is recovering now", record->pid);
  } else {
    indicator.present = true;
    indicator.evidence =
        fmt::format("pid {} began a recovery at {} and did not end it", record->pid, record->since);
  }
  return indicator;
}

// The newest segment that the checkpoint does not cover and that holds anything.
Result<std::string> log_tail_evidence(os::Files& files, const std::string& dir,
                                      const Identity& identity) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(files, dir));
  DEFIB_TRY_ASSIGN(const std::string checkpoint, newest_checkpoint(files, dir));
  const std::uint64_t covered = parse_checkpoint_name(checkpoint).value_or(0);
  for (std::size_t i = names.size(); i-- > 0;) {
    const std::string path = os::join_path(os::join_path(dir, kWalDir), names[i]);
    DEFIB_TRY_ASSIGN(const auto file, files.open(path, os::OpenMode::kRead));
    std::string first(kBlockHeaderSize, '\0');
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(kPageSize, first.data(), first.size()));
    first.resize(got);
    const std::uint64_t start = parse_segment_name(names[i])->first_lsn;
    const bool is_empty = got > 0 && first.find_first_not_of('\0') == std::string::npos;
    if (start > covered && !is_empty) {
      return fmt::format("{} begins with commit {}, the checkpoint ends with {}", names[i], start,
                         covered);
    }
    if (start > covered) continue;  // Begun, nothing written to it.
    // It reaches back into the checkpoint: only its last commit tells.
    DEFIB_TRY_ASSIGN(std::string bytes, read_whole(files, path, nullptr));
    Segment segment = Segment::of(names[i], std::move(bytes));
    scan_segment(segment, identity);
    const bool beyond = segment.header && segment.next_lsn > covered + 1;
    if (beyond || segment.stop.kind == StopKind::kBadBlock) {
      return fmt::format("{} goes on to commit {}, the checkpoint ends with {}", names[i],
                         segment.next_lsn - 1, covered);
    }
    return std::string();
  }
  return std::string();
}

Indicator log_tail(os::Files& files, const std::string& dir, const Identity& identity) {
  Indicator indicator{"log_tail", false, {}};
  auto evidence = log_tail_evidence(files, dir, identity);
  indicator.present = !evidence || !evidence->empty();
  indicator.evidence = !evidence            ? "the log is unreadable: " + evidence.error().message()
                       : !evidence->empty() ? *evidence
                                            : "no commit beyond the checkpoint";
  return indicator;
}

Error inconsistent(std::string message, std::string diagnostics) {
  return Error(Code::kInconsistentState, message)
      .with("description", message)
      .with("diagnostics", diagnostics)
      .with("recovery_suggestions", "run `defib store repair DIR --to NEWDIR`")
      .suggest("run `defib store repair DIR --to NEWDIR`; the damaged store stays as it is");
}

}  // namespace

Result<bool> is_unused(os::Files& files, const std::string& dir) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files.list(dir));
  for (const std::string& name : names) {
    if (name == kLockFile || name == std::string(kIdentityFile) + ".tmp") continue;
    if (name != kWalDir && name != kQuarantineDir) return false;
    DEFIB_TRY_ASSIGN(const auto inside, files.list(os::join_path(dir, name)));
    if (!inside.empty()) return false;
  }
  return true;
}

Result<Identity> read_identity(os::Files& files, const std::string& dir) {
  const std::string path = os::join_path(dir, kIdentityFile);
  if (!files.exists(path)) {
    const auto names = files.is_dir(dir) ? files.list(dir) : std::vector<std::string>();
    const auto is_ours = [](const std::string& name) {
      return name == kWalDir || parse_checkpoint_name(name).has_value();
    };
    if (names && std::ranges::any_of(*names, is_ours) && !is_unused(files, dir).value_or(true)) {
      return inconsistent(
          fmt::format("'{}' holds a store's data, but its {} is missing", dir, kIdentityFile),
          path + " does not exist");
    }
    return Error(Code::kNotAStore,
                 fmt::format("'{}' is not a store: it has no {}", dir, kIdentityFile))
        .with("path", dir);
  }
  DEFIB_TRY_ASSIGN(const std::string bytes, os::read_file(files, path, kSmallFile));
  std::string problem;
  auto identity = decode_identity(bytes, problem);
  if (!identity) {
    return inconsistent(fmt::format("'{}' is damaged: {}", path, problem), problem);
  }
  if (identity->version != kFormatVersion) {
    return Error(Code::kStoreFormatUnsupported,
                 fmt::format("'{}' has format version {}; this program reads version {}", dir,
                             identity->version, kFormatVersion))
        .with("version", static_cast<std::int64_t>(identity->version));
  }
  if (identity->page_size != kPageSize) {
    return Error(Code::kRecoveryConfigurationError,
                 fmt::format("'{}' has pages of {} bytes", dir, identity->page_size))
        .with("setting", "page_size")
        .with("issue",
              fmt::format("{} on disk, {} in this program", identity->page_size, kPageSize))
        .with("fix", "use a program that was built for this page size");
  }
  return *std::move(identity);
}

Result<std::string> newest_checkpoint(os::Files& files, const std::string& dir) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_checkpoints(files, dir));
  return names.empty() ? std::string() : names.front();
}

std::vector<Indicator> read_indicators(os::Files& files, const os::Clock& clock,
                                       const std::string& dir) {
  const auto identity = read_identity(files, dir);
  const Identity known = identity ? *identity : Identity{};
  return {recovery_marker(files, dir), no_clean_shutdown(files, dir, known), dwb_armed(files, dir),
          stale_recovery_lock(files, clock, dir), log_tail(files, dir, known)};
}

bool any_present(const std::vector<Indicator>& indicators) {
  return std::ranges::any_of(indicators, &Indicator::present);
}

std::string names_of_present(const std::vector<Indicator>& indicators) {
  std::string names;
  for (const Indicator& indicator : indicators) {
    if (indicator.present) names += (names.empty() ? "" : ", ") + indicator.name;
  }
  return names;
}

Result<std::vector<Segment>> read_segments(os::Files& files, const std::string& dir,
                                           const std::vector<std::string>& names,
                                           const Identity& identity, const Pulse& pulse) {
  const Pulse once = [&](std::uint64_t done) { return pulse(done / 2); };  // Read, and checked.
  return scan_segments(files, dir, names, identity, {}, pulse ? once : Pulse());
}

std::optional<LogBase> log_base(const std::optional<CheckpointHeader>& checkpoint) {
  if (!checkpoint) return std::nullopt;
  return LogBase{.lsn = checkpoint->lsn,
                 .epoch = checkpoint->epoch,
                 .chain_crc = checkpoint->chain_crc,
                 .chain_known = checkpoint->chain_known};
}

Result<std::vector<TransactionView>> live_transactions(const std::vector<Segment>& segments,
                                                       const LogAssessment& log,
                                                       std::uint64_t after_lsn) {
  std::vector<TransactionView> transactions;
  for (const std::size_t index : log.live) {
    const Segment& segment = segments[index];
    for (const ScannedBlock& block : segment.blocks()) {
      if (block.header.next_lsn() <= after_lsn + 1) continue;
      std::string problem;
      auto decoded = decode_transactions(segment.payload(block), block.header.first_lsn,
                                         block.header.count, problem);
      if (!decoded) {
        return inconsistent(fmt::format("{} at offset {}: {}, although the checksum is right",
                                        segment.name, block.offset, problem),
                            problem);
      }
      for (TransactionView& transaction : *decoded) {
        if (transaction.number > after_lsn) transactions.push_back(std::move(transaction));
      }
    }
  }
  return transactions;
}

void apply(Catalog& catalog, const TransactionView& transaction) {
  TreeWriter writer(0, nullptr);
  for (const RecordView& change : transaction.changes) {
    Tree& tree = catalog.find_or_add(change.table);
    if (change.erased) {
      writer.erase(tree, change.key);
    } else {
      writer.put(tree, change.key, change.value);
    }
  }
  catalog.position = transaction.number;
}

Error checkpoint_unusable(Error cause) {
  if (cause.code() != Code::kCorrupted) return cause;
  const std::string reason = cause.message();
  return Error(Code::kRecoveryImpossible,
               "the checkpoint is damaged, and the log behind it is gone")
      .with("reason", reason)
      .because(std::move(cause));
}

}  // namespace defib::store

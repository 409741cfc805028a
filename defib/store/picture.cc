#include "defib/store/picture.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>

#include "defib/base/bytes.h"
#include "defib/store/ack_watermark.h"
#include "defib/store/executor.h"
#include "defib/store/failure_note.h"
#include "defib/store/log_head.h"
#include "defib/store/replay.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kSmallFile = 1 << 16;

Indicator recovery_marker(os::Files& files, const os::Clock& clock, const std::string& dir,
                          const Identity& identity) {
  Indicator indicator{"recovery_marker", false, {}};
  const std::string path = os::join_path(dir, kRecoveryMarker);
  if (!files.exists(path)) {
    indicator.present = failure_is_noted(files, identity.uuid, clock.boot_id());
    indicator.evidence =
        indicator.present
            ? "no .recovery_needed, but a write or sync failed in this run of the machine"
            : "no .recovery_needed";
    return indicator;
  }
  indicator.present = true;
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
  Indicator indicator{"dwb_armed", false, {}};
  const auto state = read_dwb_state(files, dir, &indicator.evidence);
  indicator.present = !state || *state == DwbState::kArmed || *state == DwbState::kTorn;
  if (!state) indicator.evidence = "dwb.pg is unreadable: " + state.error().message();
  return indicator;
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
  DEFIB_TRY_ASSIGN(const PageFilePicture pages, read_page_file(files, dir, identity.uuid));
  const std::uint64_t covered = pages.manifest.checkpoint_commit;
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
    DEFIB_TRY_ASSIGN(const auto segments,
                     scan_segments(files, dir, {names[i]}, identity, {}, nullptr));
    const Segment& segment = segments.front();
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

Error inconsistent(const std::string& message, const std::string& diagnostics) {
  return Error(Code::kInconsistentState, message)
      .with("description", message)
      .with("diagnostics", diagnostics)
      .with("recovery_suggestions", "run `defib store repair DIR --to NEWDIR`")
      .suggest("run `defib store repair DIR --to NEWDIR`; the damaged store stays as it is");
}

Error other_byte_order(const std::string& path) {
  return Error(Code::kStoreFormatUnsupported,
               fmt::format("'{}' was written by a machine of the other byte order", path))
      .with("path", path)
      .suggest(
          "open it on a machine of its own kind, and carry the records over with "
          "`defib store dump` and `defib store load`");
}

// What a stream cannot go on without. `near` is the segment that stands before or after the hole.
Error commits_missing(std::uint64_t first, std::uint64_t last, const std::string& near) {
  return Error(Code::kWalCorrupted,
               fmt::format("commits {} to {} are missing from the log: a segment at {} is gone or "
                           "damaged",
                           first, last, near))
      .with("details", fmt::format("the log goes up to commit {} there", first - 1))
      .with("path", near)
      .with("first_lost_commit", static_cast<std::int64_t>(first))
      .with("last_lost_commit", static_cast<std::int64_t>(last))
      .suggest(
          "bring whoever reads the stream up to date from a backup or a snapshot, and go on "
          "behind the last missing commit");
}

// The version's bytes read from the wrong end: a small number in its high byte.
bool has_other_byte_order(std::string_view bytes) {
  constexpr std::size_t kAt = 8;
  if (bytes.size() < kAt + sizeof(std::uint32_t)) return false;
  const std::uint32_t version = Reader(bytes.substr(kAt)).u32();
  return version > 0xffff && std::byteswap(version) < 0x100;
}

}  // namespace

Result<> check_is_no_file(os::Files& files, const std::string& dir) {
  if (!files.exists(dir) || files.is_dir(dir)) return {};
  return Error(Code::kNotAStore, fmt::format("'{}' is a file; a store is a directory", dir))
      .with("path", dir)
      .suggest(fmt::format("name the store's directory: `ls -ld {}` shows what stands there", dir));
}

Result<> check_file_system(os::Files& files, const std::string& dir) {
  DEFIB_TRY_ASSIGN(const os::FileSystemInfo found, files.file_system(dir));
  if (found.is_read_only) {
    return Error(Code::kRecoveryPermissionError,
                 fmt::format("'{}' lies on a read-only file system", dir))
        .with("path", dir)
        .with("required_permissions", "a file system that is mounted for writing")
        .suggest("see in the kernel's log (`dmesg`) why it is read-only, and mount it for writing");
  }
  if (!found.is_network) return {};
  return Error(Code::kRecoveryConfigurationError,
               fmt::format("'{}' lies on a network file system ({}), whose locks and syncs cannot "
                           "be relied on",
                           dir, found.type))
      .with("setting", "directory")
      .with("issue", "network file system " + found.type)
      .with("fix", "choose a directory on a local disk")
      .suggest(fmt::format("choose a directory on a local disk; `defib store backup {} --to "
                           "NEWDIR` copies a store to one",
                           dir));
}

Error permission_error(const Error& denied) {
  return Error(Code::kRecoveryPermissionError,
               fmt::format("'{}' is not accessible", denied.field("path")))
      .with("path", denied.field("path"))
      .with("required_permissions", "read and write for the user who runs this program")
      .because(denied);
}

Error missing_log(const std::string& dir, const Error& cause) {
  if (cause.code() == Code::kPermissionDenied) return permission_error(cause);
  return Error(Code::kRecoveryDependencyError,
               fmt::format("the log directory '{}' cannot be read", os::join_path(dir, kWalDir)))
      .with("dependency", "write-ahead log")
      .with("issue", cause.message())
      .because(cause)
      .suggest(
          "put the directory back if it was moved; without it, what the other files hold is "
          "saved by `defib store repair DIR --to NEWDIR`");
}

Result<bool> is_unused(os::Files& files, const std::string& dir) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files.list(dir));
  for (const std::string& name : names) {
    const bool own_file = name == kLockFile || name == std::string(kIdentityFile) + ".tmp" ||
                          name == kPageFile || name == kDwbFile || name == kLogHeadFile ||
                          name == std::string(kLogHeadFile) + ".tmp";
    if (own_file) continue;
    if (name != kWalDir && name != kDataDir && name != kQuarantineDir) return false;
    DEFIB_TRY_ASSIGN(const auto inside, files.list(os::join_path(dir, name)));
    if (!inside.empty()) return false;
  }
  return true;
}

namespace {

// There is no store.id, or nobody may look for it: which, and what that means.
Error no_identity(os::Files& files, const std::string& dir, const std::string& path) {
  if (const Result<> is_no_file = check_is_no_file(files, dir); !is_no_file) {
    return is_no_file.error();
  }
  if (!files.is_dir(dir)) {
    return Error(Code::kNotAStore, fmt::format("there is no store in '{}': it does not exist", dir))
        .with("path", dir);
  }
  const auto names = files.list(dir);
  if (!names) {
    const bool denied = names.error().code() == Code::kPermissionDenied;
    return denied ? permission_error(names.error()) : names.error();
  }
  const auto is_ours = [](const std::string& name) {
    return name == kWalDir || name == kDataDir || name == kPageFile;
  };
  const bool is_empty = is_unused(files, dir).value_or(true);
  if (std::ranges::any_of(*names, is_ours) && !is_empty) {
    return inconsistent(
        fmt::format("'{}' holds a store's data, but its {} is missing", dir, kIdentityFile),
        path + " does not exist");
  }
  if (is_empty) {
    return Error(Code::kNotAStore,
                 fmt::format("'{}' is not a store: it has no {}", dir, kIdentityFile))
        .with("path", dir);
  }
  return Error(Code::kNotAStore, fmt::format("'{}' is not a store: it has no {}, but other files, "
                                             "'{}' among them",
                                             dir, kIdentityFile, escape(names->front())))
      .with("path", dir)
      .with("found", escape(names->front()))
      .suggest(fmt::format("name the store's own directory, or an empty one for a new store: "
                           "`ls -la {}` shows what this one holds",
                           dir));
}

}  // namespace

Result<Identity> read_identity(os::Files& files, const std::string& dir) {
  const std::string path = os::join_path(dir, kIdentityFile);
  const auto read = os::read_file(files, path, kSmallFile);
  if (!read && read.error().code() == Code::kPermissionDenied) {
    return permission_error(read.error());
  }
  if (!read && !files.exists(path)) return no_identity(files, dir, path);
  if (!read) return read.error();
  const std::string& bytes = *read;
  std::string problem;
  auto identity = decode_identity(bytes, problem);
  if (!identity && has_other_byte_order(bytes)) return other_byte_order(path);
  if (!identity) {
    return inconsistent(fmt::format("'{}' is damaged: {}", path, problem), problem);
  }
  if (identity->version != kFormatVersion) {
    const bool is_older = identity->version < kFormatVersion;
    Error error(Code::kStoreFormatUnsupported,
                fmt::format("'{}' has format version {}; this program works with version {}", dir,
                            identity->version, kFormatVersion));
    error = std::move(error).with("version", static_cast<std::int64_t>(identity->version));
    return std::move(error).suggest(
        is_older ? fmt::format("run `defib store migrate {}`", dir)
                 : "use a defib that knows this version; nothing was changed");
  }
  const std::uint32_t page = identity->page_size;
  if (!std::has_single_bit(page) || page < kSmallestPage || page > kLargestPage) {
    return Error(Code::kRecoveryConfigurationError,
                 fmt::format("'{}' has pages of {} bytes", dir, page))
        .with("setting", "page_size")
        .with("issue", fmt::format("{} is not a power of two from {} to {}", page, kSmallestPage,
                                   kLargestPage))
        .with("fix", "a store.id that defib wrote: the one of a copy of this store, or a new one")
        .suggest(
            "put the store.id of a copy of this store back; without one, run "
            "`defib store repair DIR --to NEWDIR`, which works without it");
  }
  return *std::move(identity);
}

std::vector<Indicator> read_indicators(os::Files& files, const os::Clock& clock,
                                       const std::string& dir) {
  const auto identity = read_identity(files, dir);
  const Identity known = identity ? *identity : Identity{};
  return {recovery_marker(files, clock, dir, known), no_clean_shutdown(files, dir, known),
          dwb_armed(files, dir), stale_recovery_lock(files, clock, dir),
          log_tail(files, dir, known)};
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

Result<> stream_log(os::Files& files, const std::string& dir, const Identity& identity,
                    std::uint64_t unbroken_from, std::uint64_t from, std::uint64_t last,
                    const std::function<bool(const CommittedTransaction&)>& sink) {
  if (from > last) return {};
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(files, dir));
  const std::uint64_t first =
      names.empty() ? last + 1 : std::max(parse_segment_name(names[0])->first_lsn, unbroken_from);
  if (from < first) {
    return Error(Code::kNotFound, fmt::format("the log reaches back to commit {} only", first))
        .with("first", static_cast<std::int64_t>(first));
  }
  for (std::size_t i = 0; i < names.size(); ++i) {
    if (i + 1 < names.size() && parse_segment_name(names[i + 1])->first_lsn <= from) continue;
    const std::uint64_t begins = parse_segment_name(names[i])->first_lsn;
    if (begins > from) return commits_missing(from, std::min(begins - 1, last), names[i]);
    auto segments = scan_segments(files, dir, {names[i]}, identity, {}, nullptr);
    if (!segments && segments.error().code() == Code::kFileNotFound) {
      // A checkpoint let it go meanwhile; the answer is NotFound now.
      return stream_log(files, dir, identity, unbroken_from, from, last, sink);
    }
    if (!segments) return Error(std::move(segments.error()));
    LogAssessment log;
    log.live = {0};
    DEFIB_TRY_ASSIGN(const std::vector<TransactionView> transactions,
                     live_transactions(*segments, log, from - 1));
    for (const TransactionView& transaction : transactions) {
      if (transaction.number > last) return {};
      if (transaction.number > from) {
        return commits_missing(from, transaction.number - 1, names[i]);
      }
      CommittedTransaction committed{.number = transaction.number, .changes = {}};
      for (const RecordView& change : transaction.changes) {
        if (is_internal(change.table)) continue;
        committed.changes.push_back(
            {std::string(change.table), std::string(change.key),
             change.erased ? std::nullopt : std::optional<std::string>(change.value)});
      }
      if (!sink(committed)) return {};
      from = transaction.number + 1;
      if (from > last) return {};
    }
  }
  return commits_missing(from, last, names.back());
}

Result<std::vector<std::shared_ptr<const SortedFile>>> open_sorted_files(
    os::Files& files, const std::string& dir, const Manifest& manifest, const Identity& identity,
    const Pulse& pulse, const std::shared_ptr<MappedMemory>& memory) {
  std::vector<std::shared_ptr<const SortedFile>> opened;
  const std::string data = os::join_path(dir, kDataDir);
  for (auto info = manifest.files.rbegin(); info != manifest.files.rend(); ++info) {
    if (pulse) DEFIB_TRY(pulse(opened.size()));
    const std::string path = os::join_path(data, sorted_file_name(*info));
    auto file = SortedFile::open(files, path, *info, identity.uuid, memory);
    if (file) {
      opened.push_back(*std::move(file));
      continue;
    }
    const Code code = file.error().code();
    if (code != Code::kCorrupted && code != Code::kFileNotFound) {
      return Error(std::move(file.error()));
    }
    const std::string reason = file.error().message();
    return Error(Code::kRecoveryImpossible,
                 fmt::format("'{}', which the store is made of, {}", path,
                             code == Code::kCorrupted ? "is damaged" : "is missing"))
        .with("path", path)
        .with("reason", reason)
        .because(std::move(file.error()));
  }
  return opened;
}

Result<TableNames> table_names(const Manifest& manifest) {
  TableNames names(manifest.next_table);
  for (const ManifestTable& table : manifest.tables) {
    if (names.insert(table.id, table.name)) continue;
    return inconsistent(fmt::format("the manifest gives table '{}' or number {} twice",
                                    escape(table.name), table.id),
                        "index.pg");
  }
  return names;
}

std::optional<LogBase> log_base(const Manifest& manifest) {
  if (manifest.checkpoint_commit == 0) return std::nullopt;
  return LogBase{.lsn = manifest.checkpoint_commit,
                 .epoch = manifest.epoch,
                 .chain_crc = manifest.chain_crc,
                 .chain_known = manifest.chain_known};
}

std::optional<CleanRecord> read_clean_record(os::Files& files, const std::string& dir,
                                             std::string_view uuid) {
  const auto bytes = os::read_file(files, os::join_path(dir, kCleanMarker), kSmallFile);
  std::string problem;
  auto record = bytes ? decode_clean_record(*bytes, problem) : std::nullopt;
  if (record && record->uuid != uuid) record.reset();
  return record;
}

bool distrusts_cache(os::Files& files, const os::Clock& clock, const std::string& dir,
                     std::string_view uuid) {
  return files.exists(os::join_path(dir, kRecoveryMarker)) ||
         failure_is_noted(files, uuid, clock.boot_id());
}

LogContext log_context(os::Files& files, const os::Clock& clock, const std::string& dir,
                       const Identity& identity) {
  LogContext context;
  context.identity = identity;
  // After an input or output error the log is read from the device. That may lack what was
  // acknowledged against kill -9 only, and hold later blocks without earlier ones, as after a
  // restart: neither the watermark nor the machine's run promises more.
  if (!distrusts_cache(files, clock, dir, identity.uuid)) {
    context.boot_id = clock.boot_id();
    context.ack_word = read_ack_word(files, identity.uuid);
  }
  LogHead head = read_log_head(files, dir, identity.uuid);
  context.newest = std::move(head.newest);
  // The clean mark says where the log ends, whoever asks compares.
  if (!read_clean_record(files, dir, identity.uuid)) {
    context.newest_unknown = std::move(head.problem);
  }
  return context;
}

Result<Picture> take_picture(os::Files& files, const os::Clock& clock, const std::string& dir) {
  Picture picture;
  OneThread helper;
  DEFIB_TRY_ASSIGN(picture.identity, read_identity(files, dir));
  LogContext context = log_context(files, clock, dir, picture.identity);
  // Then the manifest: segments that vanish meanwhile are in a newer one, and we look again.
  DEFIB_TRY_ASSIGN(picture.pages, read_page_file(files, dir, picture.identity.uuid));
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_segments(files, dir));
  DEFIB_TRY_ASSIGN(picture.segments,
                   scan_segments(files, dir, names, picture.identity,
                                 {.mode = ReadMode::kCopy, .executor = &helper}, nullptr));
  context.base = log_base(picture.pages.manifest);
  picture.log = assess_log(picture.segments, context);
  return picture;
}

Result<ViewPtr> build_view(os::Files& files, const std::string& dir, Picture picture,
                           const std::shared_ptr<MappedMemory>& memory) {
  if (!picture.log) return picture.log.error();
  const Manifest& manifest = picture.pages.manifest;
  const auto view = std::make_shared<View>();
  DEFIB_TRY_ASSIGN(view->files,
                   open_sorted_files(files, dir, manifest, picture.identity, {}, memory));
  DEFIB_TRY_ASSIGN(TableNames names, table_names(manifest));
  OneThread helper;
  DEFIB_TRY_ASSIGN(const Replayed replayed,
                   replay_log(std::move(picture.segments), *picture.log, manifest.checkpoint_commit,
                              names, helper, nullptr));
  view->position = replayed.last_commit;
  view->overlays.push_back(replayed.overlay->view());
  view->names = std::make_shared<const TableNames>(std::move(names));
  return ViewPtr(view);
}

}  // namespace defib::store

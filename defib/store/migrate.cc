// Migration of format version 1, whose records stood in one checkpoint file sorted by table name,
// to version 2. The log's format is the same in both.

#include <fmt/core.h>

#include <algorithm>

#include "defib/store/legacy_checkpoint.h"
#include "defib/store/lock.h"
#include "defib/store/maintenance.h"
#include "defib/store/new_store.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

constexpr std::uint32_t kLegacyVersion = 1;
constexpr std::uint32_t kNewPageSize = 16 << 10;
constexpr std::uint64_t kSmallFile = 1 << 16;
constexpr std::uint64_t kSpareDisk = 1 << 20;

class Migration {
 public:
  Migration(os::Files& files, const os::Clock& clock, std::string dir)
      : files_(files), clock_(clock), dir_(std::move(dir)) {}

  Result<MigrationReport> run(os::Duration lock_wait) {
    DEFIB_TRY(read_old_identity());
    DEFIB_TRY_ASSIGN(StoreLock lock, StoreLock::acquire(files_, dir_, clock_, lock_wait));
    DEFIB_TRY(read_old_identity());  // Nobody else changes it from here on.
    report_.from_version = identity_.version;
    report_.to_version = kFormatVersion;
    DEFIB_TRY_ASSIGN(checkpoints_, list_checkpoints(files_, dir_));
    Result<> done;
    if (identity_.version == kLegacyVersion) {
      done = lock.set_state("migrating");  // For whoever asks who holds it.
      if (done) done = rewrite();
    }
    if (done) done = remove_old();
    const Result<> marked = lock.set_state("closed");
    DEFIB_TRY(done);
    DEFIB_TRY(marked);
    return report_;
  }

 private:
  // One that this program can bring up to date, or has brought up to date.
  Result<> read_old_identity() {
    const std::string path = os::join_path(dir_, kIdentityFile);
    const auto bytes = files_.exists(path) ? os::read_file(files_, path, kSmallFile)
                                           : Result<std::string>(std::string());
    std::string problem;
    const auto identity = bytes ? decode_identity(*bytes, problem) : std::nullopt;
    if (identity && identity->version == kLegacyVersion) {
      identity_ = *identity;
      return {};
    }
    // Everything else means what it means to every other reader.
    DEFIB_TRY_ASSIGN(identity_, read_identity(files_, dir_));
    return {};
  }

  Result<> rewrite() {
    DEFIB_TRY(remove_leftovers());
    const auto clean = read_old_clean_record();
    NewStore::Settings settings{.dir = dir_, .identity = identity_};
    settings.identity.version = kFormatVersion;
    settings.identity.page_size = kNewPageSize;
    if (!checkpoints_.empty()) {
      const auto header = read_checkpoint_header(files_, checkpoint_path(), identity_);
      if (!header) return unreadable(header.error());
      DEFIB_TRY(check_space());
      settings.commit = report_.commit = header->lsn;
      settings.epoch = header->epoch;
      settings.chain_crc = header->chain_crc;
      settings.chain_known = header->chain_known;
    }
    const bool was_clean = clean && clean->lsn == settings.commit;
    DEFIB_TRY_ASSIGN(NewStore store, NewStore::create(files_, clock_, settings));
    if (Result<> copied = copy_into(store); !copied) {
      store.discard();
      return copied;
    }
    // From here on the store is one of the new version; the old mark is not valid in it.
    DEFIB_TRY(store.publish(false));
    if (!was_clean) return {};
    const CleanRecord record{.uuid = identity_.uuid,
                             .lsn = settings.commit,
                             .epoch = clean->epoch,
                             .manifest_sequence = 1};
    return os::write_file_atomically(files_, os::join_path(dir_, kCleanMarker), encode(record));
  }

  Result<> copy_into(NewStore& store) {
    std::vector<ManifestTable> tables;
    if (!checkpoints_.empty()) {
      const auto read =
          read_checkpoint(files_, checkpoint_path(), identity_, [&](const RecordView& record) {
            // The file is sorted by name, so numbers in order of appearance sort as well.
            if (tables.empty() || tables.back().name != record.table) {
              tables.push_back(
                  {static_cast<TableId>(tables.size() + 1), std::string(record.table)});
            }
            return store.add(tables.back().id, record.key, record.value);
          });
      if (!read) return unreadable(read.error());
      report_.records = *read;
    }
    const auto next = static_cast<TableId>(tables.size() + 1);
    return store.finish(std::move(tables), next);
  }

  // What an attempt before this one wrote. None of it counts while the store is of version 1.
  Result<> remove_leftovers() {
    const std::string data = os::join_path(dir_, kDataDir);
    if (files_.is_dir(data)) {
      DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_.list(data));
      for (const std::string& name : names) {
        if (parse_sorted_file_name(name)) DEFIB_TRY(files_.remove(os::join_path(data, name)));
      }
      DEFIB_TRY(files_.sync_dir(data));
    }
    for (const std::string_view name : {kPageFile, kDwbFile}) {
      const std::string path = os::join_path(dir_, name);
      if (files_.exists(path)) DEFIB_TRY(files_.remove(path));
    }
    return files_.sync_dir(dir_);
  }

  Result<> remove_old() {
    for (const std::string& name : checkpoints_) {
      DEFIB_TRY(files_.remove(os::join_path(dir_, name)));
    }
    return checkpoints_.empty() ? Result<>() : files_.sync_dir(dir_);
  }

  Result<> check_space() const {
    DEFIB_TRY_ASSIGN(const auto file, files_.open(checkpoint_path(), os::OpenMode::kRead));
    DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
    DEFIB_TRY_ASSIGN(const std::uint64_t available, files_.free_space(dir_));
    const std::uint64_t required = size + size / 8 + kSpareDisk;
    if (available >= required) return {};
    return Error(Code::kInsufficientResources,
                 fmt::format("the migration writes {} bytes to '{}', where {} are free", required,
                             dir_, available))
        .with("resource", "disk space in " + dir_)
        .with("required", fmt::format("{}", required))
        .with("available", fmt::format("{}", available));
  }

  // As version 1 wrote it: without the manifest's sequence, which reads as zero.
  std::optional<CleanRecord> read_old_clean_record() const {
    const auto bytes = os::read_file(files_, os::join_path(dir_, kCleanMarker), kSmallFile);
    if (!bytes) return std::nullopt;
    const auto record = decode_legacy_clean_record(*bytes);
    return record && record->uuid == identity_.uuid ? record : std::nullopt;
  }

  Error unreadable(const Error& error) const {
    const Code code = error.code();
    if (code != Code::kCorrupted && code != Code::kFileNotFound) return error;
    return Error(Code::kRecoveryImpossible, "the records of the store cannot be read")
        .with("path", checkpoint_path())
        .with("reason", error.message())
        .because(error);
  }

  std::string checkpoint_path() const { return os::join_path(dir_, checkpoints_.front()); }

  os::Files& files_;
  const os::Clock& clock_;
  std::string dir_;
  Identity identity_;
  std::vector<std::string> checkpoints_;  // newest first
  MigrationReport report_;
};

}  // namespace

Result<MigrationReport> migrate(const std::string& dir, Options options) {
  os::Files& files = options.files != nullptr ? *options.files : os::real_files();
  const os::Clock& clock = options.clock != nullptr ? *options.clock : os::real_clock();
  return Migration(files, clock, dir).run(options.lock_wait);
}

}  // namespace defib::store

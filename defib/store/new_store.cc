#include "defib/store/new_store.h"

#include <fmt/core.h>

#include "defib/base/assert.h"
#include "defib/os/random.h"
#include "defib/store/log_head.h"
#include "defib/store/log_reader.h"

namespace defib::store {
namespace {

constexpr std::uint64_t kGeneration = 1;  // of the base

}  // namespace

Identity NewStore::new_identity(const os::Clock& clock, std::uint32_t page_size) {
  Identity identity;
  identity.page_size = page_size;
  identity.uuid = os::random_hex(kUuidSize / 2);
  identity.created_wall_ns = clock.wall_ns();
  return identity;
}

Result<NewStore> NewStore::create(os::Files& files, const os::Clock& clock, Settings settings) {
  NewStore store(files, clock, std::move(settings));
  const std::string& dir = store.settings_.dir;
  for (const std::string& path : {store.base_path(), os::join_path(dir, kPageFile)}) {
    if (!files.exists(path)) continue;
    return Error(Code::kAlreadyExists, fmt::format("'{}' exists already", path)).with("path", path);
  }
  if (store.settings_.made != nullptr) *store.settings_.made = true;
  DEFIB_TRY(files.create_dirs(dir));
  for (const std::string_view folder : {kWalDir, kDataDir, kQuarantineDir}) {
    DEFIB_TRY(files.create_dirs(os::join_path(dir, folder)));
  }
  DEFIB_TRY(files.sync_dir(os::parent_dir(dir)));
  return store;
}

std::string NewStore::base_path() const {
  const SortedFileInfo name{.kind = SortedKind::kBase, .generation = kGeneration};
  return os::join_path(os::join_path(settings_.dir, kDataDir), sorted_file_name(name));
}

Result<> NewStore::add(TableId table, std::string_view key, std::string_view value) {
  if (writer_ == nullptr) {
    DEFIB_TRY_ASSIGN(writer_, SortedFileWriter::create(*files_, base_path(),
                                                       {.store_uuid = settings_.identity.uuid,
                                                        .kind = SortedKind::kBase,
                                                        .generation = kGeneration,
                                                        .last_commit = settings_.commit,
                                                        .page_size = settings_.identity.page_size,
                                                        .pace = nullptr}));
  }
  DEFIB_TRY(writer_->add(table, key, value, false));
  ++records_;
  return {};
}

Result<> NewStore::finish(std::vector<ManifestTable> tables, TableId next_table) {
  Manifest manifest;
  manifest.epoch = settings_.epoch;
  manifest.checkpoint_commit = settings_.commit;
  manifest.chain_crc = settings_.chain_crc;
  manifest.chain_known = settings_.chain_known;
  manifest.next_generation = kGeneration + 1;
  manifest.next_table = next_table;
  manifest.wall_ns = static_cast<std::uint64_t>(clock_->wall_ns());
  manifest.tables = std::move(tables);
  if (writer_ != nullptr) {
    DEFIB_TRY_ASSIGN(const SortedFileInfo info, writer_->finish());
    writer_.reset();
    bytes_ = info.size;
    manifest.files.push_back(info);
    DEFIB_TRY(files_->sync_dir(os::join_path(settings_.dir, kDataDir)));
  }
  const Identity& identity = settings_.identity;
  DEFIB_TRY(PageFile::create(*files_, settings_.dir, identity.uuid, identity.page_size, manifest));
  // Of a log that is there already, as where a store is migrated, nobody knows where it ends.
  DEFIB_TRY_ASSIGN(const std::vector<std::string> segments, list_segments(*files_, settings_.dir));
  if (segments.empty()) {
    DEFIB_TRY(write_log_head(*files_, settings_.dir, no_segment(identity.uuid)));
  }
  return files_->sync_dir(settings_.dir);
}

Result<> NewStore::publish(bool mark_clean) {
  const Identity& identity = settings_.identity;
  if (mark_clean) {
    const CleanRecord record{.uuid = identity.uuid,
                             .lsn = settings_.commit,
                             .epoch = settings_.epoch,
                             .manifest_sequence = 1};
    DEFIB_TRY(os::write_file_atomically(*files_, os::join_path(settings_.dir, kCleanMarker),
                                        encode(record)));
  }
  return os::write_file_atomically(*files_, os::join_path(settings_.dir, kIdentityFile),
                                   encode(identity));
}

void NewStore::discard() {
  writer_.reset();
  const std::string& dir = settings_.dir;
  for (const std::string& path :
       {base_path(), os::join_path(dir, kPageFile), os::join_path(dir, kDwbFile),
        os::join_path(dir, kLogHeadFile), os::join_path(dir, kCleanMarker)}) {
    if (files_->exists(path)) (void)files_->remove(path);
  }
}

Result<> require_new_directory(os::Files& files, const std::string& dir) {
  if (!files.exists(dir)) return {};
  const auto names = files.list(dir);
  if (names && names->empty()) return {};
  return Error(Code::kAlreadyExists, fmt::format("'{}' exists and is not empty", dir))
      .with("path", dir)
      .suggest("name a directory that does not exist yet; nothing was changed");
}

}  // namespace defib::store

#include "defib/store/checkpointer.h"

#include <algorithm>
#include <set>

#include "defib/base/assert.h"

namespace defib::store {
namespace {

// A read looks into every run, so there are not to be many.
constexpr std::size_t kMaxRuns = 8;
// Runs that weigh less than this part of the base are merged with each other only.
constexpr std::uint64_t kSmallPart = 4;
constexpr std::uint64_t kPaceRecords = 4096;  // read between two looks at whether to go on

std::uint64_t size_of(const std::vector<std::shared_ptr<const SortedFile>>& files) {
  std::uint64_t size = 0;
  for (const auto& file : files) size += file->info().size;
  return size;
}

}  // namespace

Checkpointer::Checkpointer(os::Files& files, const os::Clock& clock, Start start)
    : disk_(files),
      clock_(clock),
      dir_(std::move(start.dir)),
      data_dir_(os::join_path(dir_, kDataDir)),
      identity_(std::move(start.identity)),
      manifest_(std::move(start.manifest)),
      next_generation_(manifest_.next_generation),
      files_(std::move(start.files)),
      mapped_(std::move(start.mapped)) {}

std::optional<CheckpointFailure> Checkpointer::write_run(const CheckpointStart& start,
                                                         std::uint64_t replay_rate,
                                                         const Pace& pace) {
  std::set<TableId> tables;
  for (const auto& overlay : start.frozen) {
    for (const TableId table : overlay->tables()) tables.insert(table);
  }
  Manifest next = manifest_;
  std::shared_ptr<const SortedFile> added;
  if (!tables.empty()) {
    const auto source = [&](TableId table) {
      std::vector<std::unique_ptr<LayerCursor>> layers;
      for (const auto& overlay : start.frozen) {
        if (auto cursor = overlay->cursor(table)) layers.push_back(std::move(cursor));
      }
      return make_union_cursor(std::move(layers));
    };
    SortedFileInfo info;
    if (auto failed =
            write_sorted(files_.empty() ? SortedKind::kBase : SortedKind::kRun, start.boundary,
                         source, {tables.begin(), tables.end()}, pace, info)) {
      return failed;
    }
    auto opened = SortedFile::open(disk_, os::join_path(data_dir_, sorted_file_name(info)), info,
                                   identity_.uuid, mapped_);
    if (!opened) return CheckpointFailure{std::move(opened.error()), true};
    added = *std::move(opened);
    next.files.push_back(info);
  }
  next.epoch = start.epoch;
  next.checkpoint_commit = start.boundary;
  next.chain_crc = start.chain_crc;
  next.chain_known = true;
  next.replay_bytes_per_second = replay_rate;
  next.tables.clear();
  for (const auto& [id, name] : start.names->all()) next.tables.push_back({id, std::string(name)});
  next.next_table = start.names->next();
  if (Result<> written = write_manifest(std::move(next)); !written) {
    return CheckpointFailure{std::move(written.error())};
  }
  if (added != nullptr) files_.insert(files_.begin(), std::move(added));
  return std::nullopt;
}

bool Checkpointer::merge_is_due() const {
  return files_.size() > kMaxRuns + 1;
}

std::optional<CheckpointFailure> Checkpointer::merge(const Pace& pace) {
  if (files_.size() < 2) return std::nullopt;
  const std::vector<std::shared_ptr<const SortedFile>> runs(files_.begin(), files_.end() - 1);
  const bool whole = size_of(runs) >= files_.back()->info().size / kSmallPart;
  return merge_newest(whole ? files_.size() : runs.size(), pace);
}

std::optional<CheckpointFailure> Checkpointer::merge_all(const Pace& pace) {
  if (files_.size() < 2) return std::nullopt;
  return merge_newest(files_.size(), pace);
}

// Only with the base among them nothing older is left that an erased record would have to hide.
std::optional<CheckpointFailure> Checkpointer::merge_newest(std::size_t count, const Pace& pace) {
  const bool whole = count == files_.size();
  const std::vector<std::shared_ptr<const SortedFile>> merged(
      files_.begin(), files_.begin() + static_cast<std::ptrdiff_t>(count));
  std::set<TableId> tables;
  for (const auto& file : merged) {
    for (const TableId table : file->tables()) tables.insert(table);
  }
  const auto source = [&](TableId table) {
    std::vector<std::unique_ptr<LayerCursor>> layers;
    for (const auto& file : merged) {
      if (auto cursor = file->cursor(table)) layers.push_back(std::move(cursor));
    }
    return make_union_cursor(std::move(layers));
  };
  SortedFileInfo info;
  if (auto failed = write_sorted(whole ? SortedKind::kBase : SortedKind::kRun,
                                 merged.front()->info().last_commit, source,
                                 {tables.begin(), tables.end()}, pace, info)) {
    return failed;
  }
  auto opened = SortedFile::open(disk_, os::join_path(data_dir_, sorted_file_name(info)), info,
                                 identity_.uuid, mapped_);
  if (!opened) return CheckpointFailure{std::move(opened.error()), true};
  Manifest next = manifest_;
  next.files.resize(whole ? 0 : 1);
  next.files.push_back(info);
  if (Result<> written = write_manifest(std::move(next)); !written) {
    return CheckpointFailure{std::move(written.error())};
  }
  for (const auto& file : merged) replaced_.push_back(file->path());
  files_.erase(files_.begin(), files_.begin() + static_cast<std::ptrdiff_t>(merged.size()));
  files_.insert(files_.begin(), *std::move(opened));
  return std::nullopt;
}

std::optional<CheckpointFailure> Checkpointer::write_sorted(
    SortedKind kind, std::uint64_t last_commit,
    const std::function<std::unique_ptr<LayerCursor>(TableId)>& source,
    const std::vector<TableId>& tables, const Pace& pace, SortedFileInfo& info) {
  SortedFileSettings settings{.store_uuid = identity_.uuid,
                              .kind = kind,
                              .generation = next_generation_++,
                              .last_commit = last_commit,
                              .page_size = identity_.page_size,
                              .pace = pace};
  const SortedFileInfo name{.kind = kind, .generation = settings.generation};
  const std::string path = os::join_path(data_dir_, sorted_file_name(name));
  // What an opening before this one left; no manifest names it.
  if (Result<> gone = discard(path); !gone) return CheckpointFailure{std::move(gone.error())};
  const auto give_up = [&](Error error, bool is_reading) {
    // What a failing device leaves waits for the next opening: nothing comes before noting that.
    const Code code = error.code();
    if (is_reading || code == Code::kNoSpace || code == Code::kCancelled) (void)disk_.remove(path);
    return CheckpointFailure{std::move(error), is_reading};
  };
  auto writer = SortedFileWriter::create(disk_, path, settings);
  if (!writer) return give_up(std::move(writer.error()), false);
  std::uint64_t read = 0;
  for (const TableId table : tables) {
    const std::unique_ptr<LayerCursor> cursor = source(table);
    for (bool more = cursor->first(); more; more = cursor->next()) {
      // Where much is erased, little is written, which would not be enough to be stopped by.
      if (++read % kPaceRecords == 0) {
        if (Result<> goes_on = pace(0); !goes_on) {
          return give_up(std::move(goes_on.error()), false);
        }
      }
      if (kind == SortedKind::kBase && cursor->erased()) continue;  // Nothing older to hide.
      Result<> added = (*writer)->add(table, cursor->key(), cursor->value(), cursor->erased());
      if (!added) return give_up(std::move(added.error()), false);
    }
    if (cursor->error() != nullptr) return give_up(*cursor->error(), true);
  }
  auto finished = (*writer)->finish();
  if (!finished) return give_up(std::move(finished.error()), false);
  if (Result<> named = disk_.sync_dir(data_dir_); !named) {
    return give_up(std::move(named.error()), false);
  }
  info = *finished;
  bytes_written_ += info.size;
  return std::nullopt;
}

Result<> Checkpointer::write_manifest(Manifest next) {
  if (!page_file_) {
    // Recovery may have failed to put pages home; that has to succeed before they change.
    DEFIB_TRY(restore_pages(disk_, dir_, identity_.uuid));
    DEFIB_TRY_ASSIGN(page_file_, PageFile::open(disk_, dir_, identity_.uuid));
  }
  next.next_generation = next_generation_;
  next.wall_ns = static_cast<std::uint64_t>(clock_.wall_ns());
  DEFIB_TRY(page_file_->write(next));
  manifest_ = std::move(next);
  return {};
}

Result<> Checkpointer::discard(const std::string& path) {
  return disk_.exists(path) ? disk_.remove(path) : Result<>();
}

Result<> Checkpointer::remove_replaced() {
  if (replaced_.empty()) return {};
  for (const std::string& path : replaced_) DEFIB_TRY(discard(path));
  replaced_.clear();
  return disk_.sync_dir(data_dir_);
}

Result<> Checkpointer::settle() {
  return page_file_ ? page_file_->settle() : Result<>();
}

}  // namespace defib::store

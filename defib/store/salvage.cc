#include "defib/store/salvage.h"

#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <ostream>
#include <set>

#include "defib/base/bytes.h"
#include "defib/store/legacy_checkpoint.h"
#include "defib/store/log_head.h"
#include "defib/store/picture.h"
#include "defib/store/sorted_file_format.h"

namespace defib::store {
namespace {

constexpr std::size_t kReadStep = 1 << 20;
constexpr std::size_t kSmallStep = 4096;  // of what is read around a place that cannot be read
constexpr std::uint64_t kSmallFile = 1 << 16;

// "between 'a' and 'b' (exclusive)", "after 'a'", "all keys".
std::string range_text(const std::string& after, const std::string& before) {
  if (after.empty() && before.empty()) return "all keys";
  if (before.empty()) return fmt::format("keys after '{}'", escape(after));
  if (after.empty()) return fmt::format("keys before '{}'", escape(before));
  return fmt::format("keys between '{}' and '{}'", escape(after), escape(before));
}

std::string place(std::string_view file, std::uint64_t offset) {
  return fmt::format("{} at offset {}", file, offset);
}

class StoreSalvage {
 public:
  StoreSalvage(os::Files& files, const std::string& dir, const SalvageSink& sink)
      : files_(files), dir_(dir), sink_(sink) {}

  Result<Salvaged> run() {
    DEFIB_TRY(learn_identity());
    if (is_legacy_) {
      DEFIB_TRY(take_checkpoint());
    } else {
      choose_files();
      for (const File& file : sorted_files_) DEFIB_TRY(take_file(file));
    }
    DEFIB_TRY(take_log());
    check_clean_record();
    return std::move(result_);
  }

 private:
  // A base or run to be read.
  struct File {
    std::string name;  // without the directory
    bool is_oldest = false;
  };

  Result<> learn_identity();
  std::string uuid_in_log();
  Result<> take_checkpoint();
  void choose_files();
  void choose_all_files(std::uint64_t from_generation);
  std::optional<std::uint64_t> last_commit_of(const std::string& name);
  Result<> take_file(const File& file);
  void note_damage(const File& file, const SortedDamage& damage);
  const std::string& table_name(TableId id);
  Result<> take_log();
  Result<> take_segment(const std::string& name, std::string_view bytes, std::uint64_t limit);
  Result<std::uint64_t> take_block(std::string_view bytes, const std::string& segment,
                                   std::uint64_t limit);
  void check_clean_record();
  void check_log_head(const std::vector<std::string>& names);
  // The log goes on: what was broken before is accounted for.
  void forget_broken() {
    broken_bytes_ = 0;
    is_cut_ = false;
    broken_at_.clear();
  }

  void lose(Loss loss) { result_.losses.push_back(std::move(loss)); }
  void remark(std::string text) { result_.remarks.push_back(std::move(text)); }
  std::uint64_t& position() { return result_.commit; }

  os::Files& files_;
  const std::string& dir_;
  const SalvageSink& sink_;
  bool is_legacy_ = false;
  std::string uuid_;  // empty: not known
  std::vector<File> sorted_files_;
  std::map<TableId, std::string> names_;
  std::set<std::string, std::less<>> taken_names_;
  std::uint64_t broken_bytes_ = 0;  // of the log, since the last whole block
  bool is_cut_ = false;             // a segment without the zeros that end each one, since then
  std::string broken_at_;           // where the first of them stand
  Salvaged result_;
};

Result<> StoreSalvage::learn_identity() {
  const std::string path = os::join_path(dir_, kIdentityFile);
  std::string problem;
  if (files_.exists(path)) {
    const auto bytes = os::read_file(files_, path, kSmallFile);
    if (!bytes) problem = bytes.error().message();
    if (const auto identity = bytes ? decode_identity(*bytes, problem) : std::nullopt) {
      uuid_ = identity->uuid;
      is_legacy_ = identity->version < kFormatVersion;
      if (identity->version <= kFormatVersion) return {};
    }
  }
  const auto identity = read_identity(files_, dir_);
  if (!identity && (identity.error().code() == Code::kNotAStore ||
                    identity.error().code() == Code::kStoreFormatUnsupported)) {
    return identity.error();
  }
  uuid_ = uuid_in_log();
  const auto checkpoints = list_checkpoints(files_, dir_);
  is_legacy_ =
      checkpoints && !checkpoints->empty() && !files_.exists(os::join_path(dir_, kPageFile));
  remark(fmt::format("{} is {}; {}", kIdentityFile,
                     files_.exists(path) ? "damaged: " + problem : "missing",
                     uuid_.empty() ? "nothing else says which store this was"
                                   : "the log says that this was store " + uuid_));
  return {};
}

std::string StoreSalvage::uuid_in_log() {
  const auto names = list_segments(files_, dir_);
  if (!names) return {};
  for (const std::string& name : *names) {
    const auto found =
        read_what_is_readable(files_, os::join_path(os::join_path(dir_, kWalDir), name));
    std::string problem;
    const auto header = found ? decode_segment_header(found->bytes, problem) : std::nullopt;
    if (header) return header->uuid;
  }
  return {};
}

Result<> StoreSalvage::take_checkpoint() {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, list_checkpoints(files_, dir_));
  if (names.empty()) return {};
  const std::string& name = names[0];
  DEFIB_TRY_ASSIGN(const ReadableBytes found,
                   read_what_is_readable(files_, os::join_path(dir_, name)));
  std::string problem;
  if (!decode_checkpoint_header(found.bytes, problem)) {
    remark(fmt::format("the header of {} is damaged ({}); it holds no records", name, problem));
  }
  Result<> passed_on;
  const auto gaps = salvage_checkpoint(found.bytes, [&](const RecordView& record) {
    if (passed_on) passed_on = sink_.put(record.table, record.key, record.value);
  });
  DEFIB_TRY(passed_on);
  for (const CheckpointGap& gap : gaps) {
    // Between two tables, what is missing may be of either, or of one between them.
    const bool one_table = gap.after_table == gap.before_table;
    Loss loss{.kind = LossKind::kRecords, .bytes = gap.bytes, .where = place(name, gap.offset)};
    if (one_table) loss.table = gap.after_table;
    loss.after_key = gap.after_key;
    loss.before_key = gap.before_key;
    loss.text = fmt::format("records after table '{}' key '{}'{} ({}, {} bytes)",
                            escape(gap.after_table), escape(gap.after_key),
                            gap.before_table.empty()
                                ? " up to the end"
                                : fmt::format(" and before table '{}' key '{}'",
                                              escape(gap.before_table), escape(gap.before_key)),
                            loss.where, gap.bytes);
    lose(std::move(loss));
  }
  position() = *parse_checkpoint_name(name);
  return {};
}

void StoreSalvage::choose_files() {
  std::uint64_t from_generation = 0;
  std::optional<Manifest> manifest;
  auto in_force = uuid_.empty() ? Result<PageFilePicture>(Error(Code::kNotFound, "no identity"))
                                : read_page_file(files_, dir_, uuid_);
  if (in_force) {
    manifest = std::move(in_force->manifest);
    from_generation = UINT64_MAX;
  } else if (auto found = salvage_manifest(files_, dir_, uuid_)) {
    manifest = std::move(found->manifest);
    remark(fmt::format("{} cannot be used ({}); the list of files and tables was found in {}",
                       kPageFile, in_force.error().message(), kDwbFile));
    if (found->is_newest) {
      from_generation = UINT64_MAX;
    } else {
      from_generation = manifest->next_generation;
      lose({.kind = LossKind::kDescription,
            .where = std::string(kPageFile),
            .text = fmt::format("the list of files that was found is an older one; files written "
                                "since were added by their names, one that is missing would not "
                                "be noticed ({})",
                                kPageFile)});
    }
  } else {
    lose({.kind = LossKind::kDescription,
          .where = std::string(kPageFile),
          .text = fmt::format("{}: the names of the tables, and the list of files: every file in "
                              "{} was taken in the order in which they were written; one that is "
                              "missing would not be noticed ({})",
                              kPageFile, kDataDir, in_force.error().message())});
  }
  if (manifest) {
    for (const ManifestTable& table : manifest->tables) {
      names_[table.id] = table.name;
      taken_names_.insert(table.name);
    }
    for (const SortedFileInfo& info : manifest->files) {
      sorted_files_.push_back({sorted_file_name(info), false});
    }
    position() = manifest->checkpoint_commit;
  }
  if (from_generation != UINT64_MAX) choose_all_files(from_generation);
  if (!sorted_files_.empty()) sorted_files_.front().is_oldest = true;
}

// Those of this generation and later ones, and how far the complete ones of them go.
void StoreSalvage::choose_all_files(std::uint64_t from_generation) {
  const auto names = files_.list(os::join_path(dir_, kDataDir));
  if (!names) return;
  std::map<std::uint64_t, std::string> by_generation;
  for (const std::string& name : *names) {
    const auto parsed = parse_sorted_file_name(name);
    if (parsed && parsed->generation >= from_generation) by_generation[parsed->generation] = name;
  }
  for (const auto& [generation, name] : by_generation) {
    sorted_files_.push_back({name, false});
    // One that was not finished holds only what the log still has too.
    position() = std::max(position(), last_commit_of(name).value_or(0));
  }
}

// As the footer says; none where there is no sound one.
std::optional<std::uint64_t> StoreSalvage::last_commit_of(const std::string& name) {
  const auto file =
      files_.open(os::join_path(os::join_path(dir_, kDataDir), name), os::OpenMode::kRead);
  const auto size = file ? (*file)->size() : Result<std::uint64_t>(file.error());
  if (!size || *size < sorted::kFilePage) return std::nullopt;
  std::string page(sorted::kFilePage, '\0');
  const std::uint64_t offset = *size - page.size();
  const auto got = (*file)->read_at(offset, page.data(), page.size());
  if (!got || *got != page.size()) return std::nullopt;
  auto header = load<sorted::UnitHeader>(page.data());
  if (!sorted::check_unit_alone(page, header.owner(), offset, header).empty()) return std::nullopt;
  std::string problem;
  const auto footer = sorted::decode_footer(page, problem);
  return footer ? std::optional(footer->last_commit) : std::nullopt;
}

Result<> StoreSalvage::take_file(const File& file) {
  const std::string where = os::join_path(kDataDir, file.name);
  Result<> passed_on;
  const auto damages =
      salvage_sorted_file(files_, os::join_path(dir_, where), [&](const SalvagedRecord& record) {
        if (!passed_on) return;
        const std::string& table = table_name(record.table);
        if (is_internal(table)) return;
        passed_on = record.erased ? sink_.erase(table, record.key)
                                  : sink_.put(table, record.key, record.value);
      });
  DEFIB_TRY(passed_on);
  if (!damages) {
    lose({.kind = LossKind::kFile,
          .where = where,
          .text = fmt::format("{}: {}; {}", where, damages.error().message(),
                              file.is_oldest
                                  ? "records that stood only there are gone"
                                  : "its records are as the older files have them, or gone")});
    return {};
  }
  for (const SortedDamage& damage : *damages) note_damage(file, damage);
  return {};
}

void StoreSalvage::note_damage(const File& file, const SortedDamage& damage) {
  const std::string where = place(os::join_path(kDataDir, file.name), damage.offset);
  if (!damage.holds_records) {
    remark(fmt::format("{}: {}; no record stood there", where, damage.problem));
    return;
  }
  const std::string table = damage.table == 0 ? std::string() : table_name(damage.table);
  if (is_internal(table)) {
    remark(fmt::format("{}: {}; of an index, which is built anew", where, damage.problem));
    return;
  }
  const std::string range =
      fmt::format("{}, {} ({}, {} bytes)",
                  table.empty() ? "any table" : fmt::format("table '{}'", escape(table)),
                  range_text(damage.after_key, damage.before_key), where, damage.size);
  lose({.kind = file.is_oldest ? LossKind::kRecords : LossKind::kVersions,
        .table = table,
        .after_key = damage.after_key,
        .before_key = damage.before_key,
        .bytes = damage.size,
        .where = where,
        .text = file.is_oldest ? "records of " + range
                               : "newer changes to " + range +
                                     ": what is there is older, and may have been erased since"});
}

const std::string& StoreSalvage::table_name(TableId id) {
  const auto known = names_.find(id);
  if (known != names_.end()) return known->second;
  std::string name = fmt::format("table-{}", id);
  while (taken_names_.contains(name)) name += "-of-files";
  lose({.kind = LossKind::kTableNames,
        .table = name,
        .where = std::string(kPageFile),
        .text = fmt::format("the name of table {}: its records are in '{}', without the changes "
                            "that the log has under its own name",
                            id, name)});
  taken_names_.insert(name);
  return names_[id] = std::move(name);
}

Result<> StoreSalvage::take_log() {
  const auto names = list_segments(files_, dir_);
  if (!names) {
    lose({.kind = LossKind::kFile,
          .first_commit = position() + 1,
          .where = std::string(kWalDir),
          .text = fmt::format("every commit after {}: the log cannot be read ({})", position(),
                              names.error().message())});
    return {};
  }
  for (std::size_t i = 0; i < names->size(); ++i) {
    const std::string& name = (*names)[i];
    const auto own = *parse_segment_name(name);
    // What a later opening wrote in its place counts; the rest is of an attempt that was cut off.
    std::uint64_t limit = UINT64_MAX;
    for (std::size_t later = i + 1; later < names->size(); ++later) {
      const auto next = *parse_segment_name((*names)[later]);
      if (next.epoch > own.epoch) limit = std::min(limit, next.first_lsn);
    }
    const auto found =
        read_what_is_readable(files_, os::join_path(os::join_path(dir_, kWalDir), name));
    if (!found) {
      lose({.kind = LossKind::kFile,
            .first_commit = own.first_lsn,
            .where = name,
            .text = fmt::format("{} cannot be opened: {}", name, found.error().message())});
      continue;
    }
    if (found->unreadable > 0) {
      remark(fmt::format("{}: the device does not deliver {} bytes ({})", name, found->unreadable,
                         found->problem));
      broken_bytes_ += found->unreadable;
      if (broken_at_.empty()) broken_at_ = name;
    }
    DEFIB_TRY(take_segment(name, found->bytes, limit));
  }
  check_log_head(*names);
  if (broken_bytes_ > 0 || is_cut_) {
    lose({.kind = LossKind::kTail,
          .first_commit = position() + 1,
          .bytes = broken_bytes_,
          .where = broken_at_,
          .text = fmt::format(
              "{} at the end of the log, which may have been commits after {} ({})",
              broken_bytes_ > 0 ? fmt::format("{} bytes", broken_bytes_) : "what was cut off",
              position(), broken_at_)});
  }
  return {};
}

// The segment that was begun last may be gone without a trace in the others.
void StoreSalvage::check_log_head(const std::vector<std::string>& names) {
  const LogHead head = read_log_head(files_, dir_, uuid_);
  if (!head.newest || head.newest->first_lsn <= position()) return;
  const std::string newest = segment_name(head.newest->first_lsn, head.newest->epoch);
  if (!names.empty() && names.back() >= newest) return;
  lose({.kind = LossKind::kFile,
        .first_commit = position() + 1,
        .where = newest,
        .text = fmt::format("commits after {}: log segment {} was begun, and is missing ({})",
                            position(), newest, kLogHeadFile)});
}

Result<> StoreSalvage::take_segment(const std::string& name, std::string_view bytes,
                                    std::uint64_t limit) {
  std::string problem;
  if (!decode_segment_header(bytes, problem)) {
    remark(fmt::format("{}: the header is damaged ({}); it holds no commits", name, problem));
  }
  std::uint64_t end = kPageSize;  // of the last whole block
  for (std::uint64_t at = end; at < bytes.size();) {
    const std::string_view rest = bytes.substr(at);
    DEFIB_TRY_ASSIGN(const std::uint64_t used, take_block(rest, name, limit));
    if (used > 0) end = align_up(at + used, kBlockAlignment);
    if (used == 0 && rest.substr(0, kBlockAlignment).find_first_not_of('\0') != rest.npos) {
      if (broken_at_.empty()) broken_at_ = place(name, at);
      broken_bytes_ += std::min<std::size_t>(rest.size(), kBlockAlignment);
    }
    at += used > 0 ? align_up(used, kBlockAlignment) : kBlockAlignment;
  }
  if (bytes.size() < end + kBlockAlignment) {
    is_cut_ = true;
    if (broken_at_.empty()) broken_at_ = place(name, bytes.size());
  }
  return {};
}

// The size of the whole block that stands here, or 0.
Result<std::uint64_t> StoreSalvage::take_block(std::string_view bytes, const std::string& segment,
                                               std::uint64_t limit) {
  std::string problem;
  const auto header = decode_block_header(bytes, problem);
  if (!header || header->epoch != parse_segment_name(segment)->epoch) return 0;
  const Identity identity{.uuid = uuid_};
  if (!uuid_.empty() && header->store_tag != identity.tag()) return 0;
  const std::string_view payload = bytes.substr(kBlockHeaderSize).substr(0, header->payload_size);
  if (payload.size() < header->payload_size || crc32c(payload) != header->payload_crc) return 0;
  const auto transactions = decode_transactions(payload, header->first_lsn, header->count, problem);
  if (!transactions) return 0;
  const std::uint64_t size = kBlockHeaderSize + header->payload_size;
  if (header->next_lsn() <= position() + 1 || header->first_lsn >= limit) {
    // Nothing new; but an empty block may still show what is missing before it.
    if (header->first_lsn < limit && header->first_lsn == position() + 1) forget_broken();
    return size;
  }
  if (header->first_lsn > position() + 1) {
    const std::uint64_t last = header->first_lsn - 1;
    lose({.kind = LossKind::kTransactions,
          .first_commit = position() + 1,
          .last_commit = last,
          .bytes = broken_bytes_,
          .where = broken_at_.empty() ? segment : broken_at_,
          .text = fmt::format(
              "commits {} to {} ({}); what follows them is there", position() + 1, last,
              broken_at_.empty() ? "missing before " + segment : "damaged: " + broken_at_)});
    position() = last;
  }
  forget_broken();
  for (const TransactionView& transaction : *transactions) {
    if (transaction.number <= position() || transaction.number >= limit) continue;
    for (const RecordView& change : transaction.changes) {
      if (is_internal(change.table)) continue;
      DEFIB_TRY(change.erased ? sink_.erase(change.table, change.key)
                              : sink_.put(change.table, change.key, change.value));
    }
    position() = transaction.number;
  }
  return size;
}

void StoreSalvage::check_clean_record() {
  const auto bytes = os::read_file(files_, os::join_path(dir_, kCleanMarker), kSmallFile);
  if (!bytes) return;
  std::string problem;
  auto record = decode_clean_record(*bytes, problem);
  if (!record) record = decode_legacy_clean_record(*bytes);
  if (!record || (!uuid_.empty() && record->uuid != uuid_) || record->lsn <= position()) return;
  lose({.kind = LossKind::kTransactions,
        .first_commit = position() + 1,
        .last_commit = record->lsn,
        .where = std::string(kCleanMarker),
        .text = fmt::format("commits {} to {}: the store was closed after commit {}, but nothing "
                            "holds them ({})",
                            position() + 1, record->lsn, record->lsn, kCleanMarker)});
}

}  // namespace

std::string_view to_string(LossKind kind) {
  switch (kind) {
    case LossKind::kRecords:
      return "records";
    case LossKind::kVersions:
      return "versions";
    case LossKind::kTransactions:
      return "transactions";
    case LossKind::kTail:
      return "tail";
    case LossKind::kTableNames:
      return "table_names";
    case LossKind::kFile:
      return "file";
    case LossKind::kDescription:
      return "description";
  }
  return "unknown";
}

std::ostream& operator<<(std::ostream& out, const Loss& loss) {
  return out << to_string(loss.kind) << ": " << loss.text;
}

Result<ReadableBytes> read_what_is_readable(os::Files& files, const std::string& path) {
  DEFIB_TRY_ASSIGN(const auto file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  ReadableBytes found;
  found.bytes.resize(size);
  for (std::uint64_t at = 0; at < size; at += kReadStep) {
    const std::size_t step = std::min<std::uint64_t>(kReadStep, size - at);
    if (const auto got = file->read_at(at, found.bytes.data() + at, step); got) continue;
    // Somewhere in this step: closer.
    for (std::uint64_t small = at; small < at + step; small += kSmallStep) {
      const std::size_t part = std::min<std::uint64_t>(kSmallStep, at + step - small);
      const auto got = file->read_at(small, found.bytes.data() + small, part);
      if (got) continue;
      std::fill_n(found.bytes.begin() + static_cast<std::ptrdiff_t>(small), part, '\0');
      found.unreadable += part;
      found.problem = got.error().message();
    }
  }
  return found;
}

Result<Salvaged> salvage_store(os::Files& files, const std::string& dir, const SalvageSink& sink) {
  return StoreSalvage(files, dir, sink).run();
}

}  // namespace defib::store

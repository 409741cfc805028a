#include "defib/store/maintenance.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/checkpoint.h"
#include "defib/store/picture.h"

namespace defib::store {
namespace {

using wire::Json;

constexpr std::size_t kCopyBatch = 4 << 20;  // bytes in one transaction of a copy

Options filled(Options options) {
  if (options.files == nullptr) options.files = &os::real_files();
  if (options.clock == nullptr) options.clock = &os::real_clock();
  return options;
}

Json inspect_segment(const Segment& segment) {
  Json json = Json::object({{"name", segment.name}, {"bytes", segment.bytes.size()}});
  if (!segment.header) {
    json.set("problem", segment.header_problem);
    return json;
  }
  json.set("epoch", segment.header->epoch);
  json.set("first_commit", segment.header->first_lsn);
  json.set("created_at", os::format_time(segment.header->created_wall_ns));
  json.set("boot_id", segment.header->boot_id);
  Json blocks = Json::array();
  for (const ScannedBlock& block : segment.blocks()) {
    blocks.push(Json::object({{"offset", block.offset},
                              {"first_commit", block.header.first_lsn},
                              {"commits", block.header.count},
                              {"bytes", block.header.payload_size},
                              {"durable_commit", block.header.durable_lsn},
                              {"checksum", fmt::format("{:08x}", block.header.header_crc)}}));
  }
  json.set("blocks", std::move(blocks));
  const Stop& stop = segment.stop;
  json.set("end", Json::object({{"offset", stop.offset},
                                {"next_commit", stop.lsn},
                                {"found", stop.kind == StopKind::kZeros       ? "zeros"
                                          : stop.kind == StopKind::kEndOfFile ? "end of file"
                                                                              : stop.problem},
                                {"rest_is_zero", stop.rest_is_zero},
                                {"later_block", stop.later_block}}));
  return json;
}

Result<Json> inspect_wal(const Options& options, const std::string& dir, const Identity& identity) {
  DEFIB_TRY_ASSIGN(const auto names, list_segments(*options.files, dir));
  DEFIB_TRY_ASSIGN(const auto segments,
                   read_segments(*options.files, dir, names, identity, nullptr));
  Json json = Json::array();
  for (const Segment& segment : segments) json.push(inspect_segment(segment));
  return json;
}

Result<Json> inspect_checkpoints(const Options& options, const std::string& dir,
                                 const Identity& identity) {
  DEFIB_TRY_ASSIGN(const auto names, list_checkpoints(*options.files, dir));
  Json json = Json::array();
  for (const std::string& name : names) {
    const std::string path = os::join_path(dir, name);
    Json own = Json::object({{"name", name}});
    const auto header = read_checkpoint_header(*options.files, path, identity);
    auto catalog = header ? read_checkpoint(*options.files, path, identity, nullptr)
                          : Result<Catalog>(header.error());
    if (header) {
      own.set("commit", header->lsn).set("epoch", header->epoch);
      own.set("created_at", os::format_time(header->created_wall_ns));
    }
    if (catalog) {
      Json tables = Json::object();
      for (TableState& table : catalog->tables) {
        tables.set(escape(table.name), table.tree.count);
        destroy(table.tree);
      }
      own.set("records_by_table", std::move(tables));
    } else {
      own.set("problem", catalog.error().message());
    }
    json.push(std::move(own));
  }
  return json;
}

Result<> require_new(os::Files& files, const std::string& to) {
  if (!files.exists(to)) return {};
  const auto names = files.list(to);
  if (names && names->empty()) return {};
  return Error(Code::kAlreadyExists, fmt::format("'{}' exists and is not empty", to))
      .with("path", to);
}

// Writes records in batches into a fresh store.
class Copier {
 public:
  static Result<Copier> create(const std::string& to, const Options& from) {
    Options options;
    options.files = from.files;
    options.clock = from.clock;
    options.checkpoint_after = 0;
    DEFIB_TRY_ASSIGN(auto store, Store::open(to, options));
    return Copier(std::move(store));
  }
  Result<> add(std::string_view table, std::string_view key, std::string_view value) {
    if (transaction_ == nullptr) {
      DEFIB_TRY_ASSIGN(transaction_, store_->begin());
    }
    DEFIB_TRY(transaction_->put(table, key, value));
    ++records_;
    batch_ += table.size() + key.size() + value.size();
    return batch_ >= kCopyBatch ? flush() : Result<>();
  }
  Result<std::uint64_t> finish() {
    DEFIB_TRY(flush());
    DEFIB_TRY(store_->close());
    return records_;
  }

 private:
  explicit Copier(std::unique_ptr<Store> store) : store_(std::move(store)) {}
  Result<> flush() {
    if (transaction_ == nullptr) return {};
    DEFIB_TRY(transaction_->commit(Durability::kProcess));
    transaction_.reset();
    batch_ = 0;
    return {};
  }
  std::unique_ptr<Store> store_;
  std::unique_ptr<Transaction> transaction_;
  std::size_t batch_ = 0;
  std::uint64_t records_ = 0;
};

// Reads what a damaged store still holds.
class Salvage {
 public:
  Salvage(const Options& options, std::string dir) : files_(*options.files), dir_(std::move(dir)) {}
  Salvage(const Salvage&) = delete;
  Salvage& operator=(const Salvage&) = delete;
  ~Salvage() {
    for (TableState& table : catalog_.tables) destroy(table.tree);
  }

  Result<> run() {
    if (auto identity = read_identity(files_, dir_)) {
      tag_ = identity->tag();
    } else if (identity.error().code() == Code::kInconsistentState) {
      losses_.push_back(identity.error().message() + " (the new store has its own)");
    } else {
      return Error(std::move(identity.error()));
    }
    DEFIB_TRY(read_checkpoint_rest());
    return read_log_rest();
  }
  const Catalog& catalog() const { return catalog_; }
  std::vector<std::string> take_losses() { return std::move(losses_); }

 private:
  Result<> read_checkpoint_rest() {
    DEFIB_TRY_ASSIGN(const auto names, list_checkpoints(files_, dir_));
    if (names.empty()) return {};
    DEFIB_TRY_ASSIGN(const std::string bytes,
                     read_whole(files_, os::join_path(dir_, names[0]), nullptr));
    std::string problem;
    const auto header = decode_checkpoint_header(bytes, problem);
    if (!header) losses_.push_back(fmt::format("the header of {} ({})", names[0], problem));
    TreeWriter writer(0, nullptr);
    const auto losses = salvage_checkpoint(bytes, [&](const RecordView& record) {
      writer.put(catalog_.find_or_add(record.table), record.key, record.value);
    });
    losses_.insert(losses_.end(), losses.begin(), losses.end());
    catalog_.position = *parse_checkpoint_name(names[0]);
    return {};
  }

  Result<> read_log_rest() {
    DEFIB_TRY_ASSIGN(const auto names, list_segments(files_, dir_));
    for (const std::string& name : names) {
      DEFIB_TRY_ASSIGN(
          const std::string bytes,
          read_whole(files_, os::join_path(os::join_path(dir_, kWalDir), name), nullptr));
      std::uint64_t end = kPageSize;  // of the last whole block
      for (std::uint64_t at = end; at + kBlockHeaderSize <= bytes.size();) {
        const std::uint64_t used = take_block(std::string_view(bytes).substr(at), name);
        at += used > 0 ? align_up(used, kBlockAlignment) : kBlockAlignment;
        if (used > 0) end = at;
      }
      // What stands after it may have been commits.
      if (bytes.find_first_not_of('\0', std::min<std::size_t>(end, bytes.size())) !=
          std::string::npos) {
        losses_.push_back(fmt::format("{}: what followed commit {} up to the segment's end", name,
                                      catalog_.position));
      }
    }
    return {};
  }

  // The size of the whole block that stands here, or 0.
  std::uint64_t take_block(std::string_view bytes, const std::string& segment) {
    std::string problem;
    const auto header = decode_block_header(bytes, problem);
    if (!header || header->epoch != parse_segment_name(segment)->epoch) return 0;
    if (tag_ == 0) tag_ = header->store_tag;
    const std::string_view payload = bytes.substr(kBlockHeaderSize).substr(0, header->payload_size);
    if (header->store_tag != tag_ || payload.size() < header->payload_size ||
        crc32c(payload) != header->payload_crc) {
      return 0;
    }
    const auto transactions =
        decode_transactions(payload, header->first_lsn, header->count, problem);
    for (const TransactionView& transaction :
         transactions.value_or(std::vector<TransactionView>())) {
      if (transaction.number <= catalog_.position) continue;
      if (transaction.number > catalog_.position + 1) {
        losses_.push_back(fmt::format("commits {} to {} (damaged in or before {})",
                                      catalog_.position + 1, transaction.number - 1, segment));
      }
      apply(catalog_, transaction);
    }
    return kBlockHeaderSize + header->payload_size;
  }

  os::Files& files_;
  std::string dir_;
  std::uint64_t tag_ = 0;
  Catalog catalog_;
  std::vector<std::string> losses_;
};

}  // namespace

Result<Json> inspect_store(const std::string& dir, std::string_view part, Options given) {
  const Options options = filled(given);
  DEFIB_TRY_ASSIGN(const Identity identity, read_identity(*options.files, dir));
  const std::string none = "format version 1 has no such file: nothing is overwritten in place";
  Json json = Json::object({{"uuid", identity.uuid}, {"format_version", identity.version}});
  if (part.empty() || part == "wal") {
    DEFIB_TRY_ASSIGN(Json wal, inspect_wal(options, dir, identity));
    json.set("wal", std::move(wal));
  }
  if (part.empty() || part == "checkpoint") {
    DEFIB_TRY_ASSIGN(Json checkpoints, inspect_checkpoints(options, dir, identity));
    json.set("checkpoint", std::move(checkpoints));
  }
  if (part.empty() || part == "pages") json.set("pages", none);
  if (part.empty() || part == "dwb") json.set("dwb", none);
  return json;
}

Result<CopyReport> back_up(const std::string& dir, const std::string& to, Options given) {
  const Options options = filled(given);
  DEFIB_TRY(require_new(*options.files, to));
  DEFIB_TRY_ASSIGN(const auto snapshot, Store::open_read_only(dir, options));
  DEFIB_TRY_ASSIGN(Copier copier, Copier::create(to, options));
  for (const std::string& table : snapshot->tables()) {
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot->scan(table));
    for (bool more = cursor->first(); more; more = cursor->next()) {
      DEFIB_TRY(copier.add(table, cursor->key(), cursor->value()));
    }
  }
  CopyReport report;
  report.commit = snapshot->position();
  DEFIB_TRY_ASSIGN(report.records, copier.finish());
  return report;
}

Result<CopyReport> repair(const std::string& dir, const std::string& to, Options given) {
  const Options options = filled(given);
  DEFIB_TRY(require_new(*options.files, to));
  if (const std::string holder =
          living_holder(read_lock_record(*options.files, dir), *options.clock);
      !holder.empty()) {
    return Error(Code::kDatabaseLocked, "the store is in use by " + holder)
        .with("lock_holder", holder);
  }
  Salvage salvage(options, dir);
  DEFIB_TRY(salvage.run());
  DEFIB_TRY_ASSIGN(Copier copier, Copier::create(to, options));
  for (const TableState& table : salvage.catalog().tables) {
    TreeCursor cursor(table.tree);
    for (bool more = cursor.first(); more; more = cursor.next()) {
      DEFIB_TRY(copier.add(table.name, cursor.record().key(), cursor.record().value()));
    }
  }
  CopyReport report;
  report.commit = salvage.catalog().position;
  report.losses = salvage.take_losses();
  DEFIB_TRY_ASSIGN(report.records, copier.finish());
  return report;
}

}  // namespace defib::store

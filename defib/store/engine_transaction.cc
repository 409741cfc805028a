// The engine's transactions, and the indexes that they keep.

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/bytes.h"
#include "defib/store/engine.h"
#include "defib/store/secondary_index.h"

namespace defib::store {
namespace {

constexpr std::size_t kBuildBytes = 4 << 20;  // of one transaction that builds an index

bool contains(const std::vector<std::string>& keys, std::string_view key) {
  return std::ranges::binary_search(keys, key);
}

}  // namespace

EngineTransaction::EngineTransaction(Engine& engine, std::shared_ptr<Engine::Pending> own,
                                     std::shared_ptr<const TableNames> names,
                                     std::uint64_t generation)
    : engine_(engine), generation_(generation), names_(std::move(names)), own_(std::move(own)) {}

void EngineTransaction::end() {
  is_open_ = false;
  if (cursors_are_valid_ != nullptr) *cursors_are_valid_ = false;
}

Result<> EngineTransaction::check(std::string_view table, std::string_view key,
                                  std::string_view value) const {
  if (!is_open_) return Error(Code::kInvalidArgument, "the transaction has ended");
  const auto too_large = [](std::string_view what, std::size_t size, std::size_t limit) {
    return Error(Code::kKeyOrValueTooLarge,
                 fmt::format("a {} of {} bytes; the limit is {}", what, size, limit))
        .with("limit", static_cast<std::int64_t>(limit));
  };
  if (table.empty()) return Error(Code::kInvalidArgument, "a table's name is empty");
  if (is_internal(table)) {
    return Error(Code::kInvalidArgument,
                 "a table's name begins with the byte 01, which the store "
                 "keeps for its own tables");
  }
  if (table.size() > kMaxTableName) return too_large("table name", table.size(), kMaxTableName);
  if (key.size() > kMaxKeySize) return too_large("key", key.size(), kMaxKeySize);
  if (value.size() > kMaxValueSize) return too_large("value", value.size(), kMaxValueSize);
  constexpr std::size_t kOverhead = 64;
  if (own_->changes.bytes() + table.size() + key.size() + value.size() + kOverhead >
      kMaxTransactionSize) {
    return Error(Code::kLimitExceeded,
                 fmt::format("a transaction larger than {} bytes", kMaxTransactionSize))
        .with("limit", static_cast<std::int64_t>(kMaxTransactionSize));
  }
  return {};
}

TableId EngineTransaction::id_of(std::string_view table) {
  if (last_id_ != 0 && last_name_ == table) return last_id_;
  auto id = names_->find(table);
  if (!id) {
    auto more = std::make_shared<TableNames>(*names_);
    id = more->add(table);
    names_ = std::move(more);
  }
  last_name_ = table;
  last_id_ = *id;
  return *id;
}

// Own changes, then those of the commits on their way, then what is published.
Result<std::optional<std::string>> EngineTransaction::read(TableId table, std::string_view key) {
  const auto answer = [](const LayerEntry& entry) {
    return entry.erased ? std::optional<std::string>() : std::string(entry.value);
  };
  if (const auto own = own_->changes.find(table, key)) return answer(*own);
  std::vector<std::shared_ptr<const OverlayView>> frozen;
  std::vector<std::shared_ptr<const SortedFile>> files;
  {
    Engine::Lock lock(engine_.mutex_);
    const auto& pending = engine_.unpublished_;
    for (auto commit = pending.rbegin(); commit != pending.rend(); ++commit) {
      if (const auto found = (*commit)->changes.find(table, key)) return answer(*found);
    }
    engine_.apply_published(lock);
    if (const auto found = engine_.active_->find(table, key)) return answer(*found);
    frozen = engine_.frozen_;
    files = engine_.sorted_files_;
  }
  for (const auto& overlay : frozen) {
    if (const auto found = overlay->find(table, key)) return answer(*found);
  }
  for (const auto& file : files) {
    DEFIB_TRY_ASSIGN(const auto found, file->find(table, key));
    if (found) return answer(*found);
  }
  return std::optional<std::string>();
}

Result<std::optional<std::string>> EngineTransaction::get(std::string_view table,
                                                          std::string_view key) {
  DEFIB_TRY(check(table, key, {}));
  return read(id_of(table), key);
}

Result<std::unique_ptr<Cursor>> EngineTransaction::scan(std::string_view table) {
  if (!is_open_) return Error(Code::kInvalidArgument, "the transaction has ended");
  const TableId id = id_of(table);
  // The cursor keeps the commits whose changes it walks.
  struct Kept {
    ViewPtr view;
    std::vector<std::shared_ptr<Engine::Pending>> pending;
  };
  const auto kept = std::make_shared<Kept>();
  std::vector<std::unique_ptr<LayerCursor>> layers;
  if (auto own = own_->changes.cursor(id)) layers.push_back(std::move(own));
  {
    Engine::Lock lock(engine_.mutex_);
    const auto& pending = engine_.unpublished_;
    for (auto commit = pending.rbegin(); commit != pending.rend(); ++commit) {
      auto cursor = (*commit)->changes.cursor(id);
      if (cursor == nullptr) continue;
      layers.push_back(std::move(cursor));
      (*commit)->is_walked = true;
      kept->pending.push_back(*commit);
    }
    kept->view = engine_.view(lock);
  }
  kept->view->add_cursors(id, layers);
  if (cursors_are_valid_ == nullptr) cursors_are_valid_ = std::make_shared<bool>(true);
  return make_merged_cursor(std::move(layers), kept, cursors_are_valid_);
}

bool EngineTransaction::has_indexes(std::string_view table) const {
  if (engine_.indexes_.contains(table)) return true;
  if (!engine_.any_undeclared_.load(std::memory_order_relaxed)) return false;
  const Engine::Lock lock(engine_.mutex_);
  return engine_.undeclared_.contains(table);
}

Result<> EngineTransaction::put(std::string_view table, std::string_view key,
                                std::string_view value) {
  DEFIB_TRY(check(table, key, value));
  if (has_indexes(table)) {
    DEFIB_TRY_ASSIGN(const auto before, read(id_of(table), key));
    DEFIB_TRY(update_indexes(table, key, before, value));
  }
  put_plain(table, key, value);
  return {};
}

Result<> EngineTransaction::erase(std::string_view table, std::string_view key) {
  DEFIB_TRY(check(table, key, {}));
  const auto before = read(id_of(table), key);
  if (before && !*before) return {};
  if (has_indexes(table)) {
    // Without the record nobody knows its index entries.
    if (!before) return Error(before.error());
    DEFIB_TRY(update_indexes(table, key, *before, std::nullopt));
  }
  erase_plain(table, key);
  return {};
}

void EngineTransaction::put_plain(std::string_view table, std::string_view key,
                                  std::string_view value) {
  own_->changes.put(id_of(table), table, key, value);
}

void EngineTransaction::erase_plain(std::string_view table, std::string_view key) {
  own_->changes.erase(id_of(table), table, key);
}

Result<> EngineTransaction::update_indexes(std::string_view table, std::string_view key,
                                           const std::optional<std::string>& before,
                                           const std::optional<std::string_view>& after) {
  std::vector<std::string> undeclared;
  {
    const Engine::Lock lock(engine_.mutex_);
    const auto found = engine_.undeclared_.find(table);
    if (found != engine_.undeclared_.end() && !contains(dropped_, table)) {
      undeclared = found->second;
    }
  }
  for (const std::string& index : undeclared) erase_plain(kIndexesTable, index);
  if (!undeclared.empty()) {
    dropped_.emplace_back(table);
    std::ranges::sort(dropped_);
  }
  const auto declared = engine_.indexes_.find(table);
  if (declared == engine_.indexes_.end()) return {};
  // All is found out before anything changes: a refused change leaves the transaction as it was.
  struct Difference {
    const IndexDefinition* index;
    std::vector<std::string> gone;
    std::vector<std::string> added;
  };
  std::vector<Difference> differences;
  for (const IndexDefinition* index : declared->second) {
    std::vector<std::string> old_keys;
    std::vector<std::string> new_keys;
    if (before) {
      DEFIB_TRY_ASSIGN(old_keys, extract_keys(*index, key, *before));
    }
    if (after) {
      DEFIB_TRY_ASSIGN(new_keys, extract_keys(*index, key, *after));
    }
    Difference& difference = differences.emplace_back(Difference{index, {}, {}});
    std::ranges::set_difference(old_keys, new_keys, std::back_inserter(difference.gone));
    std::ranges::set_difference(new_keys, old_keys, std::back_inserter(difference.added));
    for (const std::string& secondary : difference.added) {
      if (index->unique) DEFIB_TRY(check_unique(*index, secondary, key));
    }
  }
  for (const Difference& difference : differences) {
    const std::string entries = index_table_name(difference.index->name);
    for (const std::string& secondary : difference.gone) {
      erase_plain(entries, encode_index_entry(secondary, key));
    }
    for (const std::string& secondary : difference.added) {
      put_plain(entries, encode_index_entry(secondary, key), {});
    }
  }
  return {};
}

Result<> EngineTransaction::check_unique(const IndexDefinition& index, std::string_view secondary,
                                         std::string_view key) {
  const std::string prefix = index_entry_prefix(secondary);
  DEFIB_TRY_ASSIGN(const auto cursor, scan(index_table_name(index.name)));
  for (bool more = cursor->seek(prefix); more && cursor->key().starts_with(prefix);
       more = cursor->next()) {
    const std::string_view holder = cursor->key().substr(prefix.size());
    if (holder == key) continue;
    return Error(Code::kIndexViolation,
                 fmt::format("index '{}' has '{}' already, for record '{}' of table '{}'",
                             index.name, escape(secondary), escape(holder), escape(index.table)))
        .with("index", index.name)
        .with("record", escape(holder));
  }
  return cursor->status();
}

Result<std::uint64_t> EngineTransaction::commit(Durability durability) {
  if (!is_open_) return Error(Code::kInvalidArgument, "the transaction has ended");
  end();
  return engine_.commit(*this, durability);
}

void EngineTransaction::rollback() {
  if (!is_open_) return;
  end();
  const Engine::Lock lock(engine_.mutex_);
  engine_.recycle(std::move(own_), lock);
  engine_.end_transaction(lock);
}

Result<> Engine::build_indexes() {
  DEFIB_TRY_ASSIGN(const auto snapshot, this->snapshot());
  DEFIB_TRY_ASSIGN(const auto records, snapshot->scan(kIndexesTable));
  std::map<std::string, IndexRecord, std::less<>> complete;
  for (bool more = records->first(); more; more = records->next()) {
    if (auto record = decode_index_record(records->value())) {
      complete.emplace(records->key(), *std::move(record));
    }
  }
  DEFIB_TRY(records->status());
  for (const IndexDefinition& index : options_.indexes) {
    const auto found = complete.find(index.name);
    const bool is_complete = found != complete.end() && found->second.table == index.table &&
                             found->second.unique == index.unique &&
                             found->second.version == index.version;
    if (found != complete.end()) complete.erase(found);
    if (!is_complete) DEFIB_TRY(build_index(index));
  }
  const Lock lock(mutex_);
  for (const auto& [name, record] : complete) undeclared_[record.table].push_back(name);
  any_undeclared_ = !undeclared_.empty();
  return {};
}

namespace {

Error building_stopped(const IndexDefinition& index, const std::string& dir) {
  return Error(Code::kProcedureAborted,
               fmt::format("opening '{}' was stopped on request while index '{}' was being built; "
                           "the store is as after a crash",
                           dir, escape(index.name)))
      .with("stage", "index building")
      .with("progress", "the recovery had ended")
      .with("files_changed", "yes")
      .with("path", dir)
      .suggest("open it again when there is time; the index is then built from the beginning");
}

}  // namespace

// In pieces of a few MiB: the record that makes the index complete goes first and comes last.
Result<> Engine::build_index(const IndexDefinition& index) {
  const std::string entries = index_table_name(index.name);
  std::unique_ptr<Transaction> transaction;
  const auto piece = [&]() -> Result<EngineTransaction*> {
    if (options_.stop.stop_requested()) return building_stopped(index, dir_);
    auto* open = static_cast<EngineTransaction*>(transaction.get());
    if (open != nullptr && open->own_->changes.bytes() < kBuildBytes) return open;
    if (open != nullptr) DEFIB_TRY(open->commit(Durability::kProcess));
    transaction.reset();
    DEFIB_TRY_ASSIGN(transaction, begin());
    return static_cast<EngineTransaction*>(transaction.get());
  };
  DEFIB_TRY_ASSIGN(const auto before, snapshot());
  {
    DEFIB_TRY_ASSIGN(EngineTransaction* const first, piece());
    DEFIB_TRY_ASSIGN(const auto record, before->get(kIndexesTable, index.name));
    if (record) first->erase_plain(kIndexesTable, index.name);
  }
  DEFIB_TRY_ASSIGN(const auto old_entries, before->scan(entries));
  for (bool more = old_entries->first(); more; more = old_entries->next()) {
    DEFIB_TRY_ASSIGN(EngineTransaction* const open, piece());
    open->erase_plain(entries, old_entries->key());
  }
  // Entries that cannot be read hide behind the new ones or name records that are gone: refuse.
  DEFIB_TRY(old_entries->status());
  DEFIB_TRY_ASSIGN(const auto rows, before->scan(index.table));
  for (bool more = rows->first(); more; more = rows->next()) {
    DEFIB_TRY_ASSIGN(EngineTransaction* const open, piece());
    DEFIB_TRY_ASSIGN(const auto keys, extract_keys(index, rows->key(), rows->value()));
    for (const std::string& secondary : keys) {
      if (index.unique) DEFIB_TRY(open->check_unique(index, secondary, rows->key()));
      open->put_plain(entries, encode_index_entry(secondary, rows->key()), {});
    }
  }
  DEFIB_TRY(rows->status());
  DEFIB_TRY_ASSIGN(EngineTransaction* const last, piece());
  last->put_plain(kIndexesTable, index.name, encode_index_record(index));
  DEFIB_TRY(last->commit(Durability::kPower));
  return {};
}

Result<std::unique_ptr<Store>> Store::open(const std::string& dir, Options options) {
  if (options.files == nullptr) options.files = &os::real_files();
  if (options.clock == nullptr) options.clock = &os::real_clock();
  DEFIB_TRY(check_definitions(options.indexes));
  DEFIB_TRY_ASSIGN(Opened opened, open_files(dir, options));
  auto engine = std::make_unique<Engine>(dir, options, std::move(opened));
  DEFIB_TRY(engine->build_indexes());
  return std::unique_ptr<Store>(std::move(engine));
}

bool is_critical_recovery_failure(const Error& error) {
  const int code = error.number();
  const bool is_recovery = code <= static_cast<int>(Code::kRecoveryImpossible) &&
                           code >= static_cast<int>(Code::kRecoveryVerificationFailed);
  return is_recovery && is_critical(error);
}

Result<std::uint64_t> put(Store& store, std::string_view table, std::string_view key,
                          std::string_view value, Durability durability) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<Transaction> transaction, store.begin());
  DEFIB_TRY(transaction->put(table, key, value));
  return transaction->commit(durability);
}

}  // namespace defib::store

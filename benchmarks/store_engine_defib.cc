// store_bench_defib: the store of this repository under the benchmark's tasks.

#include "benchmarks/store_engine.h"
#include "defib/store/store.h"

namespace defib::bench {
namespace {

constexpr std::string_view kTable = "t";

class DefibSession : public Session {
 public:
  DefibSession(store::Store& store, store::Durability durability)
      : store_(store), durability_(durability) {}

  Result<> commit(std::span<const Record> records) override {
    snapshot_.reset();
    DEFIB_TRY_ASSIGN(const auto transaction, store_.begin());
    for (const Record& record : records) {
      DEFIB_TRY(transaction->put(kTable, record.key, record.value));
    }
    DEFIB_TRY(transaction->commit(durability_));
    return {};
  }

  Result<std::optional<std::string_view>> get(std::string_view key) override {
    DEFIB_TRY(need_snapshot());
    DEFIB_TRY_ASSIGN(value_, snapshot_->get(kTable, key));
    if (!value_) return std::optional<std::string_view>();
    return std::optional<std::string_view>(*value_);
  }

  Result<ScanTotals> scan() override {
    DEFIB_TRY(need_snapshot());
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot_->scan(kTable));
    ScanTotals totals;
    for (bool more = cursor->first(); more; more = cursor->next()) {
      totals.add(cursor->key(), cursor->value());
    }
    DEFIB_TRY(cursor->status());
    return totals;
  }

 private:
  Result<> need_snapshot() {
    if (snapshot_ == nullptr) {
      DEFIB_TRY_ASSIGN(snapshot_, store_.snapshot());
    }
    return {};
  }

  store::Store& store_;
  store::Durability durability_;
  std::unique_ptr<store::Snapshot> snapshot_;
  std::optional<std::string> value_;
};

class DefibEngine : public Engine {
 public:
  DefibEngine(std::unique_ptr<store::Store> store, store::Durability durability)
      : store_(std::move(store)), durability_(durability) {}

  Result<std::unique_ptr<Session>> session() override {
    return std::make_unique<DefibSession>(*store_, durability_);
  }
  Result<> rest() override { return store_->checkpoint(); }
  Result<> close() override { return store_->close(); }

  std::string reported_loss() const override {
    std::string loss;
    for (const recovery::StageRecord& stage : store_->recovery_result().stages) {
      for (const auto& [name, value] : stage.metrics) {
        if (name == "loss_possible") loss += value + "\n";
      }
    }
    return loss;
  }

 private:
  std::unique_ptr<store::Store> store_;
  store::Durability durability_;
};

// Options that the store learned later; a measurement that needs one fails with its name.
template <typename Ours>
Result<> set_newer_options(Ours& ours, const EngineOptions& options) {
  if constexpr (requires { ours.cache_size; }) ours.cache_size = options.cache;
  if constexpr (requires { ours.recovery_budget; }) {
    if (options.recovery_budget.count() != 0) ours.recovery_budget = options.recovery_budget;
  } else if (options.recovery_budget.count() != 0) {
    return engine_error("this store has no recovery_budget");
  }
  return {};
}

store::Status status_of(const std::string& dir) {
  const auto status = store::Store::status(dir, {});
  return status ? *status : store::Status{};
}

}  // namespace

Result<std::unique_ptr<Engine>> open_engine(const std::string& dir, const EngineOptions& options) {
  store::Options ours;
  ours.checkpoint_after = options.all_in_log ? 0 : options.write_buffer;
  if (options.segment_size != 0) ours.segment_size = options.segment_size;
  DEFIB_TRY(set_newer_options(ours, options));
  DEFIB_TRY_ASSIGN(auto store, store::Store::open(dir, ours));
  const auto durability = options.synced ? store::Durability::kPower : store::Durability::kProcess;
  return std::make_unique<DefibEngine>(std::move(store), durability);
}

std::string engine_version() {
  return "defib";
}
std::uint64_t log_bytes(const std::string& dir) {
  return status_of(dir).log_bytes;
}
std::uint64_t resting_bytes(const std::string& dir) {
  return status_of(dir).checkpoint_bytes;
}

}  // namespace defib::bench

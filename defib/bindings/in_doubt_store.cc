#include "defib/bindings/in_doubt_store.h"

namespace defib::bindings {
namespace {

class InDoubtStore : public connection::InDoubtLog {
 public:
  explicit InDoubtStore(store::Store& store) : store_(store) {}

  Result<> put(const std::string& id, const std::string& record) override {
    DEFIB_TRY_ASSIGN(auto transaction, store_.begin());
    DEFIB_TRY(transaction->put(kInDoubtTable, id, record));
    DEFIB_TRY(transaction->commit(store::Durability::kPower));
    return {};
  }

  Result<> erase(const std::string& id) override {
    DEFIB_TRY_ASSIGN(auto transaction, store_.begin());
    DEFIB_TRY(transaction->erase(kInDoubtTable, id));
    DEFIB_TRY(transaction->commit(store::Durability::kProcess));
    return {};
  }

  Result<std::vector<std::pair<std::string, std::string>>> all() override {
    DEFIB_TRY_ASSIGN(const auto snapshot, store_.snapshot());
    DEFIB_TRY_ASSIGN(const auto cursor, snapshot->scan(kInDoubtTable));
    std::vector<std::pair<std::string, std::string>> records;
    for (bool more = cursor->first(); more; more = cursor->next()) {
      records.emplace_back(cursor->key(), cursor->value());
    }
    DEFIB_TRY(cursor->status());
    return records;
  }

 private:
  store::Store& store_;
};

}  // namespace

std::unique_ptr<connection::InDoubtLog> in_doubt_in_store(store::Store& store) {
  return std::make_unique<InDoubtStore>(store);
}

}  // namespace defib::bindings

// Decisions in the store: kept for `defib explain`, and bounded.

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "defib/trading/gates.h"
#include "defib/trading/tables.h"

namespace defib::trading {
namespace {

constexpr std::size_t kDecisionsKept = 200;

}  // namespace

Result<> record_decision(store::Store& store, const recovery::Decision& decision,
                         std::int64_t wall_ns, store::Durability durability) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Transaction> transaction, store.begin());
  const std::string key = fmt::format("{:020}:{}", wall_ns, decision.id);
  DEFIB_TRY(transaction->put(kDecisionTable, key, decision.to_json().dump()));
  std::vector<std::string> old;
  {
    DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor,
                     transaction->scan(kDecisionTable));
    std::size_t kept = 0;
    for (bool found = cursor->last(); found; found = cursor->prev()) {
      if (++kept > kDecisionsKept) old.emplace_back(cursor->key());
    }
  }
  for (const std::string& gone : old) DEFIB_TRY(transaction->erase(kDecisionTable, gone));
  const Result<std::uint64_t> committed = transaction->commit(durability);
  if (!committed) return committed.error();
  return {};
}

Result<recovery::Decision> find_decision(const store::Snapshot& snapshot, std::string_view id) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kDecisionTable));
  for (bool found = cursor->last(); found; found = cursor->prev()) {
    DEFIB_TRY_ASSIGN(const wire::Json json, wire::Json::parse(cursor->value()));
    DEFIB_TRY_ASSIGN(recovery::Decision decision, recovery::Decision::from_json(json));
    if (id == "latest" || decision.id.starts_with(id) || decision.rule == id) return decision;
  }
  return Error(Code::kNotFound, fmt::format("no decision {} was ever made here", id))
      .suggest("give a decision's id, the name of the rule that decided, or latest");
}

Result<std::vector<recovery::Decision>> read_decisions(const store::Snapshot& snapshot) {
  std::vector<recovery::Decision> all;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<store::Cursor> cursor, snapshot.scan(kDecisionTable));
  for (bool found = cursor->last(); found; found = cursor->prev()) {
    DEFIB_TRY_ASSIGN(const wire::Json json, wire::Json::parse(cursor->value()));
    DEFIB_TRY_ASSIGN(recovery::Decision decision, recovery::Decision::from_json(json));
    all.push_back(std::move(decision));
  }
  std::reverse(all.begin(), all.end());
  return all;
}

}  // namespace defib::trading

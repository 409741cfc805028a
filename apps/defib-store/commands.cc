#include "apps/defib-store/commands.h"

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>

#include "apps/defib-store/cures.h"
#include "defib/base/bytes.h"
#include "defib/store/maintenance.h"
#include "defib/store/store.h"
#include "defib/wire/json.h"

namespace defib::store_program {
namespace {

using store::Snapshot;
using store::Store;
using wire::Json;

void print_lines(const std::string& indent, const Json& json) {
  const auto is_simple = [](const Json& value) { return !value.is_array() && !value.is_object(); };
  const auto text = [](const Json& value) {
    return value.is_string() ? std::string(value.as_string()) : value.dump();
  };
  for (const auto& [name, value] : json.members()) {
    if (is_simple(value)) {
      fmt::print("{}{}: {}\n", indent, name, text(value));
    } else {
      fmt::print("{}{}:{}\n", indent, name, value.size() == 0 ? " none" : "");
      print_lines(indent + "  ", value);
    }
  }
  for (const Json& item : json.items()) {
    if (is_simple(item)) {
      fmt::print("{}{}\n", indent, text(item));
      continue;
    }
    std::string line;
    Json rest = Json::object();
    for (const auto& [name, value] : item.members()) {
      if (is_simple(value)) {
        line += fmt::format("{}{}={}", line.empty() ? "" : " ", name, text(value));
      } else {
        rest.set(name, value);
      }
    }
    fmt::print("{}{}\n", indent, line);
    print_lines(indent + "  ", rest);
  }
}

// A state to read: of a live writer's files, of a clean store, or after recovery.
class Reading {
 public:
  static Result<Reading> begin(const Arguments& arguments) {
    Reading reading;
    DEFIB_TRY_ASSIGN(const store::Status status, Store::status(arguments.dir, {}));
    if (status.recovery_needed) {
      store::Options options;
      options.create = false;
      options.recover = !arguments.no_recover;
      DEFIB_TRY_ASSIGN(reading.store_, Store::open(arguments.dir, options));
      DEFIB_TRY_ASSIGN(reading.snapshot_, reading.store_->snapshot());
    } else {
      DEFIB_TRY_ASSIGN(reading.snapshot_, Store::open_read_only(arguments.dir, {}));
    }
    return reading;
  }
  const Snapshot& snapshot() const { return *snapshot_; }
  Result<> end() { return store_ != nullptr ? store_->close() : Result<>(); }

 private:
  std::unique_ptr<Store> store_;
  std::unique_ptr<Snapshot> snapshot_;
};

Result<> dump_table(const Snapshot& snapshot, const std::string& table, bool json) {
  DEFIB_TRY_ASSIGN(const auto cursor, snapshot.scan(table));
  for (bool more = cursor->first(); more; more = cursor->next()) {
    if (json) {
      print(Json::object({{"schema", "defib.store_record/1"},
                          {"table", escape(table)},
                          {"key", escape(cursor->key())},
                          {"value", escape(cursor->value())}}));
    } else {
      fmt::print("{}\t{}\t{}\n", escape(table), escape(cursor->key()), escape(cursor->value()));
    }
  }
  return cursor->status();  // A damaged table must not look like a short one.
}

Result<std::string> raw(const std::string& escaped) {
  std::string bytes;
  if (unescape(escaped, bytes)) return bytes;
  return Error(Code::kInvalidArgument, fmt::format("'{}' has a malformed escape", escaped))
      .suggest("write bytes other than 0x20 to 0x7e, and the backslash, as \\t \\n \\\\ \\xHH");
}

// "the store has orders, trades".
std::string known_tables(const Snapshot& snapshot) {
  constexpr std::size_t kShown = 10;
  std::string names;
  std::size_t count = 0;
  for (const std::string& table : snapshot.tables()) {
    if (++count <= kShown) names += (names.empty() ? "" : ", ") + escape(table);
  }
  if (count == 0) return "the store has no tables yet";
  const std::string rest = count > kShown ? fmt::format(" and {} more", count - kShown) : "";
  return fmt::format("the store has {}{}", names, rest);
}

bool has_table(const Snapshot& snapshot, const std::string& name) {
  const std::vector<std::string> tables = snapshot.tables();
  return std::ranges::find(tables, name) != tables.end();
}

Result<> dump(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::string only, raw(arguments.table));
  DEFIB_TRY_ASSIGN(Reading reading, Reading::begin(arguments));
  bool is_there = only.empty();
  for (const std::string& table : reading.snapshot().tables()) {
    if (only.empty() || table == only) {
      is_there = true;
      DEFIB_TRY(dump_table(reading.snapshot(), table, arguments.json));
    }
  }
  // A table is there as soon as it has a record, so one without any is no error.
  if (!is_there) {
    std::fflush(stdout);
    fmt::print(stderr, "note: table '{}' has no records; {}\n", arguments.table,
               known_tables(reading.snapshot()));
  }
  return reading.end();
}

Result<> get(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::string table, raw(arguments.table));
  DEFIB_TRY_ASSIGN(const std::string key, raw(arguments.key));
  DEFIB_TRY_ASSIGN(Reading reading, Reading::begin(arguments));
  DEFIB_TRY_ASSIGN(const auto value, reading.snapshot().get(table, key));
  const bool is_known = value || has_table(reading.snapshot(), table);
  const std::string known = is_known ? std::string() : known_tables(reading.snapshot());
  DEFIB_TRY(reading.end());
  if (!is_known) {
    return Error(Code::kNotFound, fmt::format("there is no table '{}'; {}", arguments.table, known))
        .with("table", arguments.table)
        .suggest("name one of these tables, escaped as in `defib store dump DIR`");
  }
  if (!value) {
    return Error(Code::kNotFound,
                 fmt::format("table '{}' has no key '{}'", arguments.table, arguments.key))
        .with("table", arguments.table)
        .with("key", arguments.key)
        .suggest(fmt::format("check the key; `{}` shows what the table holds",
                             line_of({"defib", "store", "dump", arguments.dir, arguments.table})));
  }
  if (arguments.json) {
    print(Json::object({{"schema", "defib.store_record/1"},
                        {"table", escape(table)},
                        {"key", escape(key)},
                        {"value", escape(*value)}}));
  } else {
    fmt::print("{}\n", escape(*value));
  }
  return {};
}

Result<> change(const Arguments& arguments, bool is_put) {
  DEFIB_TRY_ASSIGN(const std::string table, raw(arguments.table));
  DEFIB_TRY_ASSIGN(const std::string key, raw(arguments.key));
  DEFIB_TRY_ASSIGN(const std::string value, raw(arguments.value));
  DEFIB_TRY_ASSIGN(const auto store, Store::open(arguments.dir, {}));
  std::uint64_t commit = 0;
  {
    DEFIB_TRY_ASSIGN(const auto transaction, store->begin());
    if (is_put) {
      DEFIB_TRY(transaction->put(table, key, value));
    } else {
      DEFIB_TRY(transaction->erase(table, key));
    }
    DEFIB_TRY_ASSIGN(commit, transaction->commit(store::Durability::kPower));
  }
  DEFIB_TRY(store->close());
  if (arguments.json) {
    print(Json::object({{"schema", "defib.store_commit/1"}, {"commit", commit}}));
  } else {
    fmt::print("ok\n");
  }
  return {};
}

Json to_json(const store::Status& status) {
  Json indicators = Json::object();
  for (const store::Indicator& indicator : status.indicators) {
    indicators.set(indicator.name, Json::object({{"present", indicator.present},
                                                 {"evidence", indicator.evidence}}));
  }
  return Json::object(
      {{"schema", "defib.store_status/1"},
       {"path", status.path},
       {"format_version", status.format_version},
       {"page_size", status.page_size},
       {"uuid", status.uuid},
       {"recovery_needed", status.recovery_needed},
       {"indicators", std::move(indicators)},
       {"last_commit", status.last_commit},
       {"checkpoint", Json::object({{"commit", status.checkpoint_commit},
                                    {"bytes", status.checkpoint_bytes},
                                    {"runs", status.runs}})},
       {"log", Json::object({{"bytes", status.log_bytes},
                             {"first_commit", status.checkpoint_commit + 1},
                             {"last_commit", status.last_commit}})},
       {"lock_holder", status.lock_holder.empty() ? Json() : Json(status.lock_holder)}});
}

Result<> status(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const store::Status status, Store::status(arguments.dir, {}));
  if (arguments.json) {
    print(to_json(status));
    return {};
  }
  fmt::print("{}: store {}, format version {}\n", status.path, status.uuid, status.format_version);
  fmt::print("recovery needed: {}\n", status.recovery_needed ? "yes" : "no");
  for (const store::Indicator& indicator : status.indicators) {
    fmt::print("  {:<20} {:<4} {}\n", indicator.name, indicator.present ? "yes" : "no",
               indicator.evidence);
  }
  fmt::print(
      "last commit:     {}\ncheckpoint:      commit {}, {} bytes, {} runs\n"
      "log:             {} bytes\n",
      status.last_commit, status.checkpoint_commit, status.checkpoint_bytes, status.runs,
      status.log_bytes);
  fmt::print("lock holder:     {}\n", status.lock_holder.empty() ? "nobody" : status.lock_holder);
  return {};
}

Result<int> verify(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(store::VerifyReport report, Store::verify_files(arguments.dir, {}));
  if (report.findings.empty()) {
    DEFIB_TRY_ASSIGN(report.findings, store::verify_indexes(arguments.dir, {}));
  }
  const bool sound = report.findings.empty();
  if (arguments.json) {
    Json findings = Json::array();
    for (const store::FindingDetail& finding : report.findings) {
      findings.push(Json::object({{"where", finding.where}, {"problem", finding.problem}}));
    }
    print(Json::object({{"schema", "defib.store_verify/1"},
                        {"sound", sound},
                        {"checkpoint_records", report.checkpoint_records},
                        {"log_records", report.log_records},
                        {"findings", std::move(findings)}}));
  } else {
    for (const store::FindingDetail& finding : report.findings) {
      fmt::print("{}: {}\n", finding.where, finding.problem);
    }
    fmt::print("{}: {} records in the checkpoint, {} changes in the log, {} findings\n",
               sound ? "sound" : "damaged", report.checkpoint_records, report.log_records,
               report.findings.size());
  }
  return sound ? 0 : 1;
}

Result<> inspect(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const Json found, store::inspect_store(arguments.dir, arguments.part, {}));
  if (!arguments.json) {
    print_lines("", found);
    return {};
  }
  Json json = Json::object({{"schema", "defib.store_inspect/1"}});
  for (const auto& [name, value] : found.members()) json.set(name, value);
  print(json);
  return {};
}

}  // namespace

int run_dump(const Arguments& arguments) {
  return finish(dump(arguments), arguments);
}
int run_get(const Arguments& arguments) {
  return finish(get(arguments), arguments);
}
int run_put(const Arguments& arguments) {
  return finish(change(arguments, true), arguments);
}
int run_del(const Arguments& arguments) {
  return finish(change(arguments, false), arguments);
}
int run_status(const Arguments& arguments) {
  return finish(status(arguments), arguments);
}
int run_verify(const Arguments& arguments) {
  const Result<int> code = verify(arguments);
  return code ? *code : report(code.error(), arguments);
}
int run_inspect(const Arguments& arguments) {
  return finish(inspect(arguments), arguments);
}

}  // namespace defib::store_program

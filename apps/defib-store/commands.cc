#include "apps/defib-store/commands.h"

#include <fmt/core.h>
#include <unistd.h>

#include <cstdio>

#include "defib/base/bytes.h"
#include "defib/store/maintenance.h"
#include "defib/store/store.h"
#include "defib/wire/json.h"

namespace defib::store_program {
namespace {

using store::Snapshot;
using store::Store;
using wire::Json;

int exit_code(const Error& error) {
  switch (error.code()) {
    case Code::kDatabaseLocked:
    case Code::kRecoveryNeeded:
      return 3;
    case Code::kInvalidArgument:
    case Code::kMalformed:
    case Code::kWrongUsage:
    case Code::kAlreadyExists:
    case Code::kNotAStore:
    case Code::kStoreFormatUnsupported:
    case Code::kKeyOrValueTooLarge:
    case Code::kRecoveryConfigurationError:
      return 2;
    default:
      return 1;
  }
}

void print(const Json& json) {
  fmt::print("{}\n", json.dump());
}

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
  return cursor->status();
}

Result<std::string> raw(const std::string& escaped) {
  std::string bytes;
  if (unescape(escaped, bytes)) return bytes;
  return Error(Code::kInvalidArgument, fmt::format("'{}' has a malformed escape", escaped));
}

Result<> dump(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::string only, raw(arguments.table));
  DEFIB_TRY_ASSIGN(Reading reading, Reading::begin(arguments));
  for (const std::string& table : reading.snapshot().tables()) {
    if (only.empty() || table == only) {
      DEFIB_TRY(dump_table(reading.snapshot(), table, arguments.json));
    }
  }
  return reading.end();
}

Result<> get(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const std::string table, raw(arguments.table));
  DEFIB_TRY_ASSIGN(const std::string key, raw(arguments.key));
  DEFIB_TRY_ASSIGN(Reading reading, Reading::begin(arguments));
  DEFIB_TRY_ASSIGN(const auto value, reading.snapshot().get(table, key));
  DEFIB_TRY(reading.end());
  if (!value) {
    return Error(Code::kNotFound,
                 fmt::format("table '{}' has no key '{}'", arguments.table, arguments.key));
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
       {"checkpoint",
        Json::object({{"commit", status.checkpoint_commit}, {"bytes", status.checkpoint_bytes}})},
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
      "last commit:     {}\ncheckpoint:      commit {}, {} bytes\nlog:             {} bytes\n",
      status.last_commit, status.checkpoint_commit, status.checkpoint_bytes, status.log_bytes);
  fmt::print("lock holder:     {}\n", status.lock_holder.empty() ? "nobody" : status.lock_holder);
  return {};
}

// Shows the stages as they pass and keeps them for the report.
class StageWatcher : public recovery::Procedure::Observer {
 public:
  explicit StageWatcher(bool json) : json_(json), terminal_(::isatty(STDERR_FILENO) == 1) {}

  void stage_finished(const recovery::StageRecord& record) override {
    Json stage = Json::object({{"name", record.name},
                               {"outcome", recovery::to_string(record.outcome)},
                               {"duration_ns", record.duration.count()}});
    Json metrics = Json::object();
    for (const auto& [name, value] : record.metrics) metrics.set(name, value);
    stage.set("metrics", std::move(metrics));
    if (record.error) stage.set("error", wire::to_json(*record.error));
    stages_.push(std::move(stage));
    if (json_) return;
    if (terminal_) fmt::print(stderr, "\r\033[K");
    fmt::print("{:<24} {:<12} {:>9}", record.name, recovery::to_string(record.outcome),
               os::format_duration(record.duration));
    for (const auto& [name, value] : record.metrics) fmt::print("  {}={}", name, value);
    fmt::print("\n");
    std::fflush(stdout);
  }

  void progressed(const recovery::Progress& progress) override {
    if (json_ || !terminal_ || progress.total == 0) return;
    fmt::print(stderr, "\r\033[K{} {}%: {} of {} {}", progress.stage,
               progress.done * 100 / progress.total, progress.done, progress.total, progress.what);
    std::fflush(stderr);
  }

  Json take_stages() { return std::move(stages_); }

 private:
  bool json_;
  bool terminal_;
  Json stages_ = Json::array();
};

int recover(const Arguments& arguments) {
  StageWatcher watcher(arguments.json);
  store::Options options;
  options.create = false;
  options.stage_timeout = arguments.stage_timeout;
  options.observer = &watcher;
  auto store = Store::open(arguments.dir, options);
  Json json = Json::object({{"schema", "defib.store_recovery/1"}, {"recovered", false}});
  std::optional<Error> error;
  if (!store) {
    error = store.error();
  } else {
    const auto& result = (*store)->recovery_result();
    json.set("recovered", !result.stages.empty()).set("duration_ns", result.duration.count());
    json.set("last_commit", (*store)->snapshot().value()->position());
    if (!arguments.json && result.stages.empty()) fmt::print("nothing to recover\n");
    if (const Result<> closed = (*store)->close(); !closed) error = closed.error();
  }
  if (!arguments.json) return error ? report(*error, false) : 0;
  json.set("stages", watcher.take_stages());
  if (error) json.set("error", wire::to_json(*error));
  print(json);
  return error ? exit_code(*error) : 0;
}

Result<int> verify(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const store::VerifyReport report, Store::verify_files(arguments.dir, {}));
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

Result<> copy(const Arguments& arguments, bool is_repair) {
  DEFIB_TRY_ASSIGN(const store::CopyReport report,
                   is_repair ? store::repair(arguments.dir, arguments.to, {})
                             : store::back_up(arguments.dir, arguments.to, {}));
  if (arguments.json) {
    Json losses = Json::array();
    for (const store::Loss& loss : report.losses) losses.push(loss.text);
    print(Json::object({{"schema", is_repair ? "defib.store_repair/1" : "defib.store_backup/1"},
                        {"to", arguments.to},
                        {"records", report.records},
                        {"commit", report.commit},
                        {"losses", std::move(losses)}}));
    return {};
  }
  fmt::print("{}: {} records, up to commit {} of {}\n", arguments.to, report.records, report.commit,
             arguments.dir);
  for (const store::Loss& loss : report.losses) fmt::print("lost: {}\n", loss.text);
  if (is_repair && report.losses.empty()) fmt::print("nothing was lost\n");
  return {};
}

int finish(const Result<>& done, bool json) {
  return done ? 0 : report(done.error(), json);
}

}  // namespace

int report(const Error& error, bool json) {
  if (json) {
    print(Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}}));
  } else {
    std::fflush(stdout);
    fmt::print(stderr, "{}\n", error.to_text());
  }
  return exit_code(error);
}

int run_dump(const Arguments& arguments) {
  return finish(dump(arguments), arguments.json);
}
int run_get(const Arguments& arguments) {
  return finish(get(arguments), arguments.json);
}
int run_put(const Arguments& arguments) {
  return finish(change(arguments, true), arguments.json);
}
int run_del(const Arguments& arguments) {
  return finish(change(arguments, false), arguments.json);
}
int run_status(const Arguments& arguments) {
  return finish(status(arguments), arguments.json);
}
int run_recover(const Arguments& arguments) {
  return recover(arguments);
}
int run_verify(const Arguments& arguments) {
  const Result<int> code = verify(arguments);
  return code ? *code : report(code.error(), arguments.json);
}
int run_inspect(const Arguments& arguments) {
  return finish(inspect(arguments), arguments.json);
}
int run_backup(const Arguments& arguments) {
  return finish(copy(arguments, false), arguments.json);
}
int run_repair(const Arguments& arguments) {
  return finish(copy(arguments, true), arguments.json);
}

}  // namespace defib::store_program

// `backup`, `restore`, `repair` and `migrate`.

#include <fmt/core.h>

#include "apps/defib-store/commands.h"
#include "defib/base/bytes.h"
#include "defib/store/maintenance.h"

namespace defib::store_program {
namespace {

using wire::Json;

Json to_json(const store::Loss& loss) {
  const auto number = [](std::uint64_t value) { return value > 0 ? Json(value) : Json(); };
  const auto text = [](const std::string& value) {
    return value.empty() ? Json() : Json(escape(value));
  };
  return Json::object({{"kind", store::to_string(loss.kind)},
                       {"table", text(loss.table)},
                       {"after_key", text(loss.after_key)},
                       {"before_key", text(loss.before_key)},
                       {"first_commit", number(loss.first_commit)},
                       {"last_commit", number(loss.last_commit)},
                       {"bytes", number(loss.bytes)},
                       {"where", loss.where},
                       {"text", loss.text}});
}

void show(const store::CopyReport& report, const Arguments& arguments, std::string_view schema) {
  if (arguments.json) {
    Json losses = Json::array();
    Json details = Json::array();
    for (const store::Loss& loss : report.losses) {
      losses.push(loss.text);
      details.push(to_json(loss));
    }
    Json remarks = Json::array();
    for (const std::string& remark : report.remarks) remarks.push(remark);
    print(Json::object({{"schema", schema},
                        {"to", arguments.to},
                        {"records", report.records},
                        {"bytes", report.bytes},
                        {"commit", report.commit},
                        {"replayed", report.replayed},
                        {"losses", std::move(losses)},
                        {"loss_details", std::move(details)},
                        {"remarks", std::move(remarks)}}));
    return;
  }
  fmt::print("{}: {} records, up to commit {} of {}\n", arguments.to, report.records, report.commit,
             arguments.dir);
  if (report.replayed > 0) {
    fmt::print("{} commits of them from the log of {}\n", report.replayed, arguments.log);
  }
  for (const store::Loss& loss : report.losses) fmt::print("lost: {}\n", loss.text);
  for (const std::string& remark : report.remarks) fmt::print("note: {}\n", remark);
}

Result<> backup(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const store::CopyReport report, store::back_up(arguments.dir, arguments.to, {}));
  show(report, arguments, "defib.store_backup/1");
  return {};
}

Result<> restore(const Arguments& arguments) {
  const store::RestoreSettings settings{.log_of = arguments.log, .to_commit = arguments.to_commit};
  DEFIB_TRY_ASSIGN(const store::CopyReport report,
                   store::restore(arguments.dir, arguments.to, settings, {}));
  show(report, arguments, "defib.store_restore/1");
  return {};
}

Result<> repair(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const store::CopyReport report, store::repair(arguments.dir, arguments.to, {}));
  show(report, arguments, "defib.store_repair/1");
  if (!arguments.json && report.losses.empty()) fmt::print("nothing was lost\n");
  return {};
}

Result<> migrate(const Arguments& arguments) {
  DEFIB_TRY_ASSIGN(const store::MigrationReport report, store::migrate(arguments.dir, {}));
  const bool migrated = report.from_version != report.to_version;
  if (arguments.json) {
    print(Json::object({{"schema", "defib.store_migration/1"},
                        {"migrated", migrated},
                        {"from_version", report.from_version},
                        {"to_version", report.to_version},
                        {"records", report.records},
                        {"commit", report.commit}}));
  } else if (migrated) {
    fmt::print("{}: format version {} became {}, {} records up to commit {} were rewritten\n",
               arguments.dir, report.from_version, report.to_version, report.records,
               report.commit);
  } else {
    fmt::print("{}: format version {} is up to date\n", arguments.dir, report.to_version);
  }
  return {};
}

}  // namespace

int run_backup(const Arguments& arguments) {
  return finish(backup(arguments), arguments);
}
int run_restore(const Arguments& arguments) {
  Arguments own = arguments;
  own.is_restore = true;
  return finish(restore(own), own);
}
int run_repair(const Arguments& arguments) {
  return finish(repair(arguments), arguments);
}
int run_migrate(const Arguments& arguments) {
  return finish(migrate(arguments), arguments);
}

}  // namespace defib::store_program

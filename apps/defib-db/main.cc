// defib-db: checks a database and its driver; `defib db check DSN` runs this program, because the
// supervising one must not load the drivers.

#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "defib/connection/check.h"
#include "defib/connection/libpq_backend.h"
#include "defib/connection/odbc_backend.h"
#include "defib/os/clock.h"
#include "defib/wire/json.h"

namespace {

using namespace defib;
using connection::CheckReport;
using connection::CheckStep;
using wire::Json;

enum ExitCode { kDone = 0, kFailed = 1, kWrongUsage = 2 };

int report_error(const Error& error, bool json) {
  if (json) {
    const Json document =
        Json::object({{"schema", "defib.error/1"}, {"error", wire::to_json(error)}});
    fmt::print("{}\n", document.dump());
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  switch (error.code()) {
    case Code::kWrongUsage:
    case Code::kInvalidArgument:
    case Code::kDsnInvalid:
    case Code::kOptionUnknown:
    case Code::kDriverMissing:
      return kWrongUsage;
    default:
      return kFailed;
  }
}

Result<std::unique_ptr<connection::Backend>> make_backend(
    const connection::Dsn& dsn, const connection::Classifier& classifier) {
  if (dsn.kind == connection::Dsn::Kind::kLibpq) {
    return connection::make_libpq_backend(dsn, classifier);
  }
  return connection::make_odbc_backend(dsn, classifier);
}

std::string_view yes_no(bool value) {
  return value ? "yes" : "no";
}

void print_text(const CheckReport& report) {
  const connection::SessionInfo& info = report.info;
  fmt::print("{}\n", report.data_source);
  fmt::print("  server      {} {}{}\n", connection::to_string(info.engine), info.server_version,
             info.read_only ? " (takes no writes)" : "");
  if (!info.redirected_to.empty()) fmt::print("  sent on to  {}\n", info.redirected_to);
  fmt::print("  backend     {}, driver {}\n", info.backend, info.driver);
  fmt::print("  reset       {}\n",
             info.can.reset ? "the whole session" : "by rollback; sessions with traces are closed");
  fmt::print(
      "  deadline    {}; while connecting {}\n", yes_no(info.can.deadline),
      info.can.connect_deadline ? "too" : "the caller returns and the attempt is left behind");
  fmt::print("  resolution  {}\n", info.can.xid_resolution ? "by transaction number, or by a row"
                                                           : "by a row in a commit table");
  fmt::print("  liveness    {}\n",
             info.can.socket_liveness ? "by a look at the socket" : "no socket to look at");
  fmt::print("  connect     {}\n", os::format_duration(report.connect));
  fmt::print("  query       {} (worst {})\n", os::format_duration(report.query_p50),
             os::format_duration(report.query_max));
  fmt::print("  look        {}\n", os::format_duration(report.look_p50));
  for (const CheckStep& step : report.steps) {
    fmt::print("  {}  {}: {}\n",
               step.skipped  ? "skip"
               : step.passed ? "ok  "
                             : "FAIL",
               step.name, step.error ? step.error->to_line() : step.detail);
  }
}

Json to_json(const CheckReport& report) {
  const connection::SessionInfo& info = report.info;
  Json steps = Json::array();
  for (const CheckStep& step : report.steps) {
    Json one = Json::object({{"name", step.name},
                             {"passed", step.passed},
                             {"skipped", step.skipped},
                             {"took_ns", step.took.count()},
                             {"detail", step.detail}});
    if (step.error) one.set("error", wire::to_json(*step.error));
    steps.push(std::move(one));
  }
  Json supports = Json::object({{"reset", info.can.reset},
                                {"deadline", info.can.deadline},
                                {"connect_deadline", info.can.connect_deadline},
                                {"xid_resolution", info.can.xid_resolution},
                                {"socket_liveness", info.can.socket_liveness},
                                {"kill_session", info.can.kill_session},
                                {"redirects_followed", info.can.redirects_followed}});
  return Json::object({{"schema", "defib.db_check/1"},
                       {"data_source", report.data_source},
                       {"engine", connection::to_string(info.engine)},
                       {"backend", info.backend},
                       {"driver", info.driver},
                       {"server_version", info.server_version},
                       {"read_only", info.read_only},
                       {"redirected_to", info.redirected_to},
                       {"supports", std::move(supports)},
                       {"connect_ns", report.connect.count()},
                       {"query_p50_ns", report.query_p50.count()},
                       {"query_max_ns", report.query_max.count()},
                       {"look_p50_ns", report.look_p50.count()},
                       {"self_test", std::move(steps)},
                       {"passed", report.passed()}});
}

Result<int> check(const std::string& name, bool self_test, const std::string& timeout_text,
                  bool json) {
  const os::Duration timeout = os::parse_duration(timeout_text);
  if (timeout.count() <= 0) {
    return Error(Code::kWrongUsage, fmt::format("--timeout is '{}', no duration", timeout_text))
        .suggest("write for example --timeout 5s");
  }
  DEFIB_TRY_ASSIGN(const connection::Dsn dsn, connection::Dsn::parse(name));
  const connection::Classifier classifier;
  DEFIB_TRY_ASSIGN(const auto backend, make_backend(dsn, classifier));
  DEFIB_TRY_ASSIGN(const CheckReport report,
                   connection::check_database(*backend, dsn, self_test, timeout));
  if (json) {
    fmt::print("{}\n", to_json(report).dump());
  } else {
    print_text(report);
  }
  return report.passed() ? kDone : kFailed;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Databases");
  app.name("defib db");
  app.require_subcommand(1);
  app.footer("Exit codes: 0 done; 1 the database failed; 2 wrong usage, name or driver.");
  std::string name, timeout = "10s";
  bool self_test = false, json = false;
  CLI::App* command =
      app.add_subcommand("check", "Connect, and show what the driver can do and how fast it is");
  command->footer("Example: defib db check postgresql://app@db1,db2/orders?target=primary");
  command->add_option("DSN", name, "The data source; docs/connection.md has the forms")->required();
  command->add_flag("--self-test", self_test,
                    "Also try errors, reset, deadline and a session's end; changes no data");
  command->add_option("--timeout", timeout, "Of connecting and of each statement (default 10s)");
  command->add_flag("--json", json, "Output for machines");
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& success) {
    return app.exit(success);
  } catch (const CLI::ParseError& error) {
    return report_error(Error(Code::kWrongUsage, error.what()), json);
  }
  const Result<int> code = check(name, self_test, timeout, json);
  return code ? *code : report_error(code.error(), json);
}

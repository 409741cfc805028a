// defib-bundle: what was true around a failure, gathered into the incident's bundle, and the bundle
// as one file. Started by the supervising process, and by `defib incident export`.

#include <fmt/format.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>

#include "apps/defib-bundle/collect.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/process/state_dir.h"

namespace defib {
namespace {

constexpr int kDone = 0;
constexpr int kFailed = 1;
constexpr int kWrongUsage = 2;
constexpr std::size_t kMaxRequest = 8 << 20;
// Restarts come first.
constexpr int kNice = 10;

int fail(const Error& error, bool json) {
  if (json) {
    fmt::print("{}\n", wire::Json::object({{"error", wire::to_json(error)}}).dump(2));
  } else {
    fmt::print(stderr, "{}\n", error.to_text());
  }
  return error.code() == Code::kWrongUsage ? kWrongUsage : kFailed;
}

Result<daemon::BundleRequest> read_request() {
  std::string text;
  char buffer[16384];
  while (text.size() < kMaxRequest) {
    const ssize_t got = ::read(daemon::kBundleRequestFd, buffer, sizeof buffer);
    if (got <= 0) break;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  DEFIB_TRY_ASSIGN(const wire::Json json, wire::Json::parse(text));
  return daemon::bundle_request_from(json);
}

int run_by_request(Result<> (*work)(const daemon::BundleRequest&)) {
  ::setpriority(PRIO_PROCESS, 0, kNice);
  const auto request = read_request();
  if (!request) return fail(request.error(), false);
  const auto done = work(*request);
  return done ? kDone : fail(done.error(), false);
}

int run(int argc, char** argv) {
  CLI::App app(
      "Makes the bundle of an incident, and exports it.\n\n"
      "Example: defib incident export latest --out incident.tar.zst");
  app.require_subcommand(1);
  CLI::App* collect = app.add_subcommand("collect", "after a failure; the request is descriptor 3");
  CLI::App* complete = app.add_subcommand("complete", "a minute later");
  CLI::App* note = app.add_subcommand("note", "of a good run, what it was started with");
  CLI::App* exported = app.add_subcommand("export", "an incident and its bundle as one file");
  std::string id, out, state_dir;
  bool json = false;
  exported->add_option("ID", id, "its id, the id's beginning, or \"latest\"")->required();
  exported->add_option("--out", out, "the file (default ID.tar.zst)");
  exported->add_option("--state-dir", state_dir, "where defib keeps its state");
  exported->add_flag("--json", json, "print JSON");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kDone : kWrongUsage;
  }
  if (collect->parsed()) return run_by_request(bundle::collect);
  if (note->parsed()) return run_by_request(bundle::note_good_run);
  if (complete->parsed()) return run_by_request(bundle::complete);
  if (state_dir.empty()) state_dir = process::default_state_dir(false);
  const auto path = bundle::export_bundle(state_dir, id, out);
  if (!path) return fail(path.error(), json);
  if (json) {
    fmt::print("{}\n", wire::Json::object({{"schema", "defib.export/1"}, {"path", *path}}).dump(2));
  } else {
    fmt::print("{}\n", *path);
  }
  return kDone;
}

}  // namespace
}  // namespace defib

int main(int argc, char** argv) {
  return defib::run(argc, argv);
}

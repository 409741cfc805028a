// defib-demo: the main job, live. A paper venue and a supervised trading engine; the engine fails
// in several ways and places; what happens is told from the incident as it is written; the end is
// the proof from the venue's own ledger. Exit code 0 only if the proof holds and every act ended
// well.

#include <fmt/core.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/testbed/testbed.h"
#include "story.h"

namespace {

using namespace defib;
using namespace std::chrono_literals;
using demo::Timeline;
using testbed::Testbed;
using wire::Json;

struct Act {
  std::string title;
  std::string fault;  // for the engine; empty: kill -9 from outside at a random moment
  bool last = false;  // one crash too many: a person must approve
};

std::vector<Act> acts(bool fast) {
  std::vector<Act> all = {
      {"segmentation fault: the intent is durable, the order not sent", "segv@intent_durable:3"},
      {"segmentation fault: the order is sent, the reply not seen", "segv@request_sent:3"},
      {"kill -9 at a random moment", ""},
  };
  if (!fast) {
    all.push_back(
        {"uncaught exception: the reply is seen, not recorded", "exception@reply_seen:2"});
    all.push_back({"deadlock of two threads: the heartbeat stops", "deadlock@tick:5"});
    all.push_back({"stack overflow", "stack_overflow@tick:5"});
    all.push_back({"the connection to the venue is cut, and the engine crashes",
                   "disconnect@before_intent:2"});
  }
  all.push_back(
      {"one crash too many: an assertion fails, and a person must approve", "assert@tick:5", true});
  return all;
}

class Show {
 public:
  Show(Testbed& bed, bool colour) : bed_(bed), colour_(colour) {}

  void headline(const std::string& text) const {
    fmt::print("\n{}{}{}\n", colour_ ? "\033[1m" : "", text, colour_ ? "\033[0m" : "");
  }
  void say(const std::string& text) const {
    fmt::print("  {}\n", text);
    std::fflush(stdout);
  }

  // Plays one act until its incident is closed; approves where the gate asks for it.
  Result<Timeline> play(const Act& act, os::Random& random) {
    (void)bed_.new_incident_lines();  // What belongs to earlier acts.
    os::real_clock().sleep_for(os::Duration(200 + random.below(300)) * 1'000'000);
    Timeline timeline(os::real_clock().mono_ns());
    const pid_t engine = bed_.engine_pid();
    if (act.fault.empty()) {
      DEFIB_TRY(bed_.kill(engine));
    } else {
      DEFIB_TRY(bed_.inject(act.fault));
    }
    const std::int64_t deadline = os::real_clock().mono_ns() + os::Duration(40s).count();
    bool approved = false;
    while (!timeline.closed() || (act.last && timeline.awaiting_approval())) {
      if (os::real_clock().mono_ns() > deadline) {
        return Error(Code::kTimeout, fmt::format("the act '{}' did not end", act.title));
      }
      for (const testbed::IncidentLine& line : bed_.new_incident_lines()) {
        timeline.add(line.line);
        tell(timeline, line.line);
      }
      if (timeline.awaiting_approval() && !approved) {
        say("$ defib approve latest --by \"Demo Risk Officer\"");
        DEFIB_TRY(bed_.approve("Demo Risk Officer"));
        approved = true;
      }
      os::real_clock().sleep_for(10ms);
    }
    if (act.last && !approved) {
      return Error(Code::kGateClosed, "the gate did not ask for an approval, as it had to");
    }
    DEFIB_TRY(bed_.wait_for_state({"running"}, 10s));
    return timeline;
  }

 private:
  void tell(const Timeline& timeline, const Json& line) {
    const auto text = demo::sentence(line);
    if (!text) return;
    // A busy book differs in many lines, all of one kind; the incident holds each of them.
    constexpr int kDifferencesShown = 4;
    if (line["event"].as_string() == "discrepancy" && ++differences_ > kDifferencesShown) return;
    if (line["event"].as_string() == "stage_finished") {
      if (differences_ > kDifferencesShown) {
        say(fmt::format("              ... and {} more", differences_ - kDifferencesShown));
      }
      differences_ = 0;
    }
    fmt::print("  {}{:9.1f} ms{}  {}\n", colour_ ? "\033[2m" : "",
               timeline.since_crash_ms(line["mono_ns"].as_int()), colour_ ? "\033[0m" : "", *text);
    std::fflush(stdout);
  }

  Testbed& bed_;
  bool colour_;
  int differences_ = 0;
};

void print_table(const std::vector<std::pair<Act, Timeline>>& played) {
  fmt::print("  {:11}", "ms after");
  for (const char* name : demo::kMilestones) fmt::print("{:>11}", name);
  fmt::print("\n");
  for (std::size_t i = 0; i < played.size(); ++i) {
    fmt::print("  crash {:<5}", i + 1);
    for (const char* name : demo::kMilestones) {
      const auto when = played[i].second.at(name);
      fmt::print("{:>11}", when ? fmt::format("{:.1f}", *when) : "-");
    }
    fmt::print("  {}\n", played[i].second.cause());
  }
}

struct Options {
  bool fast = false;
  std::string json;
  std::string dir;
  std::uint64_t seed = 7;
};

Result<int> run(const Options& options) {
  const std::vector<Act> plan = acts(options.fast);
  testbed::TestbedOptions testbed_options;
  testbed_options.dir = options.dir;
  testbed_options.seed = options.seed;
  testbed_options.tick = 50ms;
  testbed_options.restart_delay = 0ms;
  testbed_options.max_restarts = 50;
  // The last act is the one crash too many.
  testbed_options.max_crashes = static_cast<int>(plan.size()) - 1;
  DEFIB_TRY_ASSIGN(const auto bed, Testbed::create(testbed_options));
  Show show(*bed, ::isatty(STDOUT_FILENO) == 1);

  show.headline("A trading engine crashes under load, and comes back");
  fmt::print("\nConfiguration ({}), with short waits so that the show is short:\n\n{}\n",
             bed->config_path(), bed->config_text());
  show.say(fmt::format("defib run --max-restarts 50 --restart-delay 0ms --heartbeat-timeout {}ms",
                       testbed_options.heartbeat / 1ms));
  DEFIB_TRY(bed->start_venue());
  DEFIB_TRY(bed->start_supervisor());
  DEFIB_TRY(bed->wait_for_state({"running"}, 20s));
  show.say("paper venue and engine are running; the engine trades");

  os::Random random(options.seed);
  std::vector<std::pair<Act, Timeline>> played;
  for (const Act& act : plan) {
    show.headline(fmt::format("Crash {} of {}: {}", played.size() + 1, plan.size(), act.title));
    DEFIB_TRY_ASSIGN(const Timeline timeline, show.play(act, random));
    played.emplace_back(act, timeline);
  }

  show.headline("The proof");
  DEFIB_TRY(bed->settle_intents(15s));
  DEFIB_TRY(bed->stop_supervisor());
  DEFIB_TRY_ASSIGN(const testbed::Proof proof, bed->prove());
  print_table(played);
  fmt::print(
      "\n  The venue's ledger: {} accepted + {} rejected + {} proved never accepted = {} "
      "intents logged\n  lost {}, duplicated {}: the proof {}\n",
      proof.accepted, proof.rejected, proof.never_accepted, proof.intents, proof.lost,
      proof.duplicated, proof.holds ? "holds" : "DOES NOT HOLD");
  for (const std::string& problem : proof.problems) fmt::print("  {}\n", problem);
  const std::vector<std::string> incidents = bed->incident_files();
  if (!incidents.empty()) {
    fmt::print(
        "\n  Incident report: {}\n  Read it: build/release/bin/defib incident show latest "
        "--state-dir {}\n",
        incidents.back(), bed->state_dir());
  }
  if (!options.json.empty()) {
    Json crashes = Json::array();
    for (const auto& [act, timeline] : played) {
      Json one = timeline.to_json();
      one.set("title", act.title);
      one.set("fault", act.fault.empty() ? "kill -9" : act.fault);
      crashes.push(std::move(one));
    }
    const Json document =
        Json::object({{"schema", "defib.demo/1"},
                      {"seed", options.seed},
                      {"crashes", std::move(crashes)},
                      {"proof", Json::object({{"holds", proof.holds},
                                              {"intents", proof.intents},
                                              {"accepted", proof.accepted},
                                              {"rejected", proof.rejected},
                                              {"never_accepted", proof.never_accepted},
                                              {"lost", proof.lost},
                                              {"duplicated", proof.duplicated}})},
                      {"incident_report", incidents.empty() ? Json() : Json(incidents.back())},
                      {"dir", bed->dir()}});
    DEFIB_TRY(os::write_file_atomically(os::real_files(), options.json, document.dump(1) + "\n"));
  }
  return proof.holds ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"A trading engine crashes under load, again and again, and comes back."};
  Options options;
  app.add_flag("--fast", options.fast, "fewer crashes: within 30 seconds");
  app.add_option("--json", options.json, "also write what happened as data");
  app.add_option("--dir", options.dir, "where to work; kept afterwards");
  app.add_option("--seed", options.seed, "of the market and of the random moments");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  if (options.dir.empty()) {
    char path[] = "/tmp/defib-demo-XXXXXX";
    if (::mkdtemp(path) == nullptr) return 1;
    options.dir = path;
  }
  const auto result = run(options);
  if (result) return *result;
  fmt::print(stderr, "{}\nfiles kept in {}\n", result.error().to_text(), options.dir);
  return 1;
}

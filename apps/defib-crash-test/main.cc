// defib-crash-test: kills the engine, its shim, its supervisor, or the recovery itself at random
// moments, again and again, while the venue trades on, and asks the venue's ledger each time for
// the proof: no order lost, none doubled, none believed to be what it is not.
//
// Exit code 0 only if every round held and the last, complete proof holds too. The seed is printed;
// the same seed gives the same victims and delays.

#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/testbed/testbed.h"

namespace {

using namespace defib;
using namespace std::chrono_literals;
using testbed::Testbed;

enum class Victim {
  kEngine,
  kRecovery,
  kShim,
  kSupervisor,
  kShimAndSupervisor,
  kShimAndEngine,
  kIntentDurable,  // the engine, between "intent durable" and "request sent"
  kRequestSent,    // between "request sent" and "reply seen"
  kReplySeen,      // between "reply seen" and "outcome recorded"
};
constexpr std::array kVictims = {
    Victim::kEngine,        Victim::kRecovery,          Victim::kShim,
    Victim::kSupervisor,    Victim::kShimAndSupervisor, Victim::kShimAndEngine,
    Victim::kIntentDurable, Victim::kRequestSent,       Victim::kReplySeen};

std::string_view to_string(Victim victim) {
  switch (victim) {
    case Victim::kEngine:
      return "engine";
    case Victim::kRecovery:
      return "recovery";
    case Victim::kShim:
      return "shim";
    case Victim::kSupervisor:
      return "supervisor";
    case Victim::kShimAndSupervisor:
      return "shim+supervisor";
    case Victim::kShimAndEngine:
      return "shim+engine";
    case Victim::kIntentDurable:
      return "at intent_durable";
    case Victim::kRequestSent:
      return "at request_sent";
    case Victim::kReplySeen:
      return "at reply_seen";
  }
  return "?";
}

constexpr os::Duration kRecoveryLimit = 30s;

struct Tally {
  std::array<int, kVictims.size()> kills{};
  std::int64_t intents = 0;
};

// A process may end by itself between the look at its pid and the kill: that is a kill as well.
void kill_if_alive(Testbed& bed, pid_t pid) {
  if (pid > 0) (void)bed.kill(pid);
}

Result<> kill_at(Testbed& bed, pid_t engine, const std::string& point, os::Random& random) {
  DEFIB_TRY(bed.inject(fmt::format("kill@{}:{}", point, 1 + random.below(3))));
  DEFIB_TRY(bed.wait_for_new_engine(engine, kRecoveryLimit));
  return {};
}

Result<> strike(Testbed& bed, Victim victim, os::Random& random) {
  const pid_t engine = bed.engine_pid();
  switch (victim) {
    case Victim::kEngine:
      kill_if_alive(bed, engine);
      break;
    case Victim::kRecovery: {
      // Twice: the second blow falls within the recovery from the first.
      kill_if_alive(bed, engine);
      DEFIB_TRY_ASSIGN(const pid_t next, bed.wait_for_new_engine(engine, kRecoveryLimit));
      os::real_clock().sleep_for(os::Duration(static_cast<std::int64_t>(random.below(150)) * 1ms));
      kill_if_alive(bed, next);
      break;
    }
    case Victim::kShim:
      kill_if_alive(bed, bed.shim_pid());
      break;
    case Victim::kSupervisor:
      kill_if_alive(bed, bed.supervisor_pid());
      break;
    case Victim::kShimAndSupervisor:
      kill_if_alive(bed, bed.shim_pid());
      kill_if_alive(bed, bed.supervisor_pid());
      break;
    case Victim::kIntentDurable:
      DEFIB_TRY(kill_at(bed, engine, "intent_durable", random));
      break;
    case Victim::kRequestSent:
      DEFIB_TRY(kill_at(bed, engine, "request_sent", random));
      break;
    case Victim::kReplySeen:
      DEFIB_TRY(kill_at(bed, engine, "reply_seen", random));
      break;
    case Victim::kShimAndEngine:
      kill_if_alive(bed, bed.shim_pid());
      kill_if_alive(bed, engine);
      break;
  }
  if (bed.supervisor_pid() == 0) DEFIB_TRY(bed.start_supervisor());
  return {};
}

Error broken(const testbed::Proof& proof, std::string_view when) {
  Error error(Code::kDuplicateOrder,
              fmt::format("the ledger's proof does not hold {}: {} lost, {} duplicated", when,
                          proof.lost, proof.duplicated));
  for (const std::string& problem : proof.problems) {
    error = std::move(error).with("problem", problem);
  }
  return error;
}

Result<> round(Testbed& bed, int number, Victim victim, os::Random& random, Tally& tally) {
  os::real_clock().sleep_for(os::Duration(static_cast<std::int64_t>(random.below(200)) * 1ms));
  DEFIB_TRY(strike(bed, victim, random));
  DEFIB_TRY(bed.wait_for_single_engine(kRecoveryLimit));
  // The venue stands still for the look, so that ledger and store are of one moment.
  DEFIB_TRY_ASSIGN(const testbed::Proof proof, bed.prove_running());
  if (!proof.holds) return broken(proof, fmt::format("after round {}", number));
  ++tally.kills[static_cast<std::size_t>(victim)];
  tally.intents = proof.intents;
  return {};
}

Result<testbed::Proof> run(const std::string& dir, std::uint64_t seed, int rounds) {
  testbed::TestbedOptions options;
  options.dir = dir;
  options.seed = seed;
  options.tick = 20ms;
  options.recv_window = 300ms;
  options.visibility_lag = 50ms;
  options.settle = 20ms;
  options.watch = 20ms;
  options.check_every = 20ms;
  options.max_crashes = 1'000'000;
  options.max_restarts = 1000;
  options.restart_delay = 0ms;
  options.heartbeat = 5s;
  DEFIB_TRY_ASSIGN(const auto bed, Testbed::create(options));
  DEFIB_TRY(bed->start_venue());
  DEFIB_TRY(bed->start_supervisor());
  DEFIB_TRY(bed->wait_for_state({"running"}, kRecoveryLimit));
  os::Random random(seed);
  Tally tally;
  for (int number = 1; number <= rounds; ++number) {
    const Victim victim = kVictims[random.below(kVictims.size())];
    if (auto held = round(*bed, number, victim, random, tally); !held) {
      return Error(Code::kInternal, fmt::format("round {} ({}) failed", number, to_string(victim)))
          .because(std::move(held.error()));
    }
    if (number % 20 == 0 || number == rounds) {
      fmt::print("round {:4}: {} intents, lost 0, duplicated 0\n", number, tally.intents);
      std::fflush(stdout);
    }
  }
  for (const Victim victim : kVictims) {
    fmt::print("  {:18} killed {} times\n", to_string(victim),
               tally.kills[static_cast<std::size_t>(victim)]);
  }
  DEFIB_TRY(bed->settle_intents(20s));
  DEFIB_TRY(bed->stop_supervisor());
  DEFIB_TRY_ASSIGN(const testbed::Proof tampered, bed->prove_with_one_intent_hidden());
  if (tampered.holds || tampered.lost != 1) {
    return Error(Code::kInternal, "the proof does not notice an order without an intent");
  }
  return bed->prove();
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Kills engine, shim, supervisor and recovery at random, and asks for the proof."};
  int rounds = 200;
  std::uint64_t seed = os::random_seed() % 1'000'000;
  std::string dir;
  app.add_option("--rounds", rounds, "how many kills")->check(CLI::Range(1, 1'000'000));
  app.add_option("--seed", seed, "of victims and delays; printed");
  app.add_option("--dir", dir, "kept afterwards; default: a temporary one, removed on success");
  CLI11_PARSE(app, argc, argv);
  const bool temporary = dir.empty();
  if (temporary) {
    char path[] = "/tmp/defib-crash-XXXXXX";
    dir = ::mkdtemp(path);
  }
  fmt::print("seed {}, {} rounds, in {}\n", seed, rounds, dir);
  const auto proof = run(dir, seed, rounds);
  if (!proof) {
    fmt::print(stderr, "{}\nseed {}, files kept in {}\n", proof.error().to_text(), seed, dir);
    return 1;
  }
  fmt::print(
      "{} intents = {} accepted + {} rejected + {} proved never accepted; lost {}, "
      "duplicated {}\n",
      proof->intents, proof->accepted, proof->rejected, proof->never_accepted, proof->lost,
      proof->duplicated);
  if (!proof->holds) {
    for (const std::string& problem : proof->problems) fmt::print(stderr, "{}\n", problem);
    return 1;
  }
  if (temporary) (void)os::run_command({"rm", "-rf", dir}, 20'000);
  return 0;
}

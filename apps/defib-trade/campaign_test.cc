// Campaigns: engines killed again and again, at every labelled point and at random moments, on each
// dialect of the paper venue, which trades on and does wrong; and recoveries killed while they
// recover. The venue's ledger judges: lost 0, duplicated 0, misattributed 0, nothing unknown.
//
// DEFIB_KILL_ROUNDS: kills a dialect (75); DEFIB_RECOVERY_KILLS: of recoveries, a dialect (12);
// DEFIB_SEED: where the seeds begin (1). Each piece has a venue, an engine and a seed of its own.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "apps/defib-trade/campaign_world.h"
#include "defib/trading/checkpoint.h"
#include "defib/trading/fence.h"

namespace defib::campaign {
namespace {

using namespace std::chrono_literals;

constexpr int kPiece = 75;  // kills
constexpr int kOrdersOfALife = 8;
constexpr std::int64_t kSettleLimitMs = 2'000;  // behind the fence

struct Point {
  std::string name;
  std::uint64_t up_to;  // the greatest number of passings that is tried
};
// Everything that the gateway and the recovery name, and each request to the venue.
const std::vector<Point>& points() {
  static const std::vector<Point> all = {{"before_intent", kOrdersOfALife},
                                         {"intent_durable", kOrdersOfALife},
                                         {"request_sent", kOrdersOfALife},
                                         {"reply_seen", kOrdersOfALife},
                                         {"outcome_recorded", kOrdersOfALife},
                                         {"request", 40},
                                         {"trading_recovery_started", 1},
                                         {"intent_unknown", 2},
                                         {"checkpoint_verdict", 1},
                                         {"state_source", 1},
                                         {"reconciled", 1},
                                         {"intent_settled", 2},
                                         {"decision", 1},
                                         {"ramp_proof", 1},
                                         {"ramp_step", 3},
                                         {"ramp_watch", 1},
                                         {"ramp_completed", 1},
                                         {"trading_report", 1}};
  return all;
}

int number_from(const char* variable, int otherwise) {
  const char* text = ::getenv(variable);
  return text == nullptr ? otherwise : std::atoi(text);
}

std::string fault(const Language& language, std::string_view kind, std::string_view rest) {
  return fmt::format("{{\"kind\":\"{}\",\"method\":\"POST\",\"path\":\"{}\",{}}}\n", kind,
                     language.order_path, rest);
}

// Every way in which the fate of an order stays open, all the time.
std::string all_faults(const Language& language) {
  const auto on_orders = [&](std::string_view kind, std::string_view rest) {
    return fault(language, kind, rest);
  };
  return on_orders("drop_reply", R"("probability":0.06)") +
         on_orders("drop_request", R"("probability":0.05)") +
         on_orders("server_error", R"("probability":0.04,"accepted":true)") +
         on_orders("timeout", R"("probability":0.04,"accepted":true)") +
         on_orders("timeout", R"("probability":0.03,"accepted":false)") +
         on_orders("cut_reply", R"("probability":0.03)") +
         on_orders("garbage_reply", R"("probability":0.02)") +
         on_orders("unknown_fields", R"("probability":0.05)") +
         on_orders("rate_limit", R"("probability":0.01)") +
         on_orders("visibility_lag", R"("probability":0.1,"lag_ms":250)") +
         on_orders("delay_request", R"("probability":0.01,"delay_ms":800)") +
         // Beyond the window; all clocks run ahead by it, so that it is no longer than that needs.
         on_orders("delay_request", R"("probability":0.005,"delay_ms":1500)");
}

struct Tally {
  std::map<std::string, int> kills;  // by point
  int lives = 0;
  os::Duration life{0};  // how long one really lasts that nobody ends
  int killed() const {
    int sum = 0;
    for (const auto& [point, count] : kills) sum += count;
    return sum;
  }
};

std::string name_of(const testing::TestParamInfo<Language>& language) {
  return language.param.kind;
}

class Campaign : public testing::TestWithParam<Language> {
 protected:
  // Each point in turn; between them, moments that nobody chose.
  static Death next_death(const Tally& tally, os::Random& random) {
    if (tally.lives % 2 == 1) {
      return {.after = os::Duration(static_cast<std::int64_t>(
                  1 + random.below(static_cast<std::uint64_t>(tally.life.count()))))};
    }
    const auto turn = static_cast<std::size_t>(tally.lives / 2);
    const Point& point = points()[turn % points().size()];
    return {.point = point.name, .nth = static_cast<int>(1 + random.below(point.up_to))};
  }

  static void kill_one_engine(World& world, os::Random& random, Tally& tally) {
    if (tally.lives == 0) {
      const std::int64_t begun = os::real_clock().mono_ns();
      world.live({.orders = kOrdersOfALife});
      tally.life = os::Duration(os::real_clock().mono_ns() - begun);
    }
    const Death death = next_death(tally, random);
    ++tally.lives;
    const os::ExitStatus status = world.live({.orders = kOrdersOfALife, .death = death});
    if (status.signal == SIGKILL) {
      ++tally.kills[death.point == "none" ? "a random moment" : "at " + death.point];
    }
    // The venue trades on while nobody is there.
    world.clock().advance(std::chrono::milliseconds(random.below(400)));
  }

  static void expect_proved(World& world) {
    world.faults("");
    const os::ExitStatus last = world.live_to_the_end();
    EXPECT_TRUE(last.success()) << last.to_string() << "\n" << world.last_words();
    const Verdict verdict = world.judge();
    EXPECT_EQ(verdict.problems(), "");
    EXPECT_EQ(verdict.audit.misattributed, 0u);
    for (const auto& [id, late_ms] : world.settled()) {
      EXPECT_LE(late_ms, kSettleLimitMs) << id;
    }
    if (HasFailure()) world.keep_files();
  }
};

TEST_P(Campaign, KilledAnywhereTheEngineLosesDuplicatesAndMistakesNothing) {
  const int kills = number_from("DEFIB_KILL_ROUNDS", kPiece);
  auto seed = static_cast<std::uint64_t>(number_from("DEFIB_SEED", 1));
  for (int left = kills; left > 0 && !HasFailure(); left -= kPiece, ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    World world({.language = GetParam(), .seed = seed});
    world.faults(all_faults(GetParam()));
    os::Random random(seed);
    Tally tally;
    const int wanted = std::min(left, kPiece);
    while (tally.killed() < wanted && tally.lives < 4 * wanted + 20) {
      kill_one_engine(world, random, tally);
    }
    EXPECT_GE(tally.killed(), wanted);
    expect_proved(world);
    const auto audit = world.judge().audit;
    const auto settled = world.settled();
    std::int64_t latest = 0;
    for (const auto& [id, late_ms] : settled) latest = std::max(latest, late_ms);
    fmt::print(
        "{}, seed {}: {} kills of {} lives at {} points; {} intents = {} accepted + {} rejected + "
        "{} never accepted; {} were unknown, settled at most {} ms behind their fence\n",
        GetParam().kind, seed, tally.killed(), tally.lives, tally.kills.size(), audit.intents,
        audit.accepted, audit.rejected, audit.never_accepted, settled.size(), latest);
    EXPECT_GT(settled.size(), 0u);
  }
}

// The control: the same venue, the same faults, and an engine that sends again what it lost.
TEST_P(Campaign, AnEngineThatResendsBlindlyIsFoundOut) {
  World world({.language = GetParam(), .seed = 1});
  world.faults(fault(GetParam(), "drop_reply", R"("probability":0.5)"));
  std::uint64_t duplicated = 0;
  for (int i = 0; i < 5 && duplicated == 0; ++i) {
    world.live({.orders = 30, .death = {}, .blind = true});
    duplicated = world.judge().audit.duplicated;
  }
  if (GetParam().kind == "coinbase") {
    EXPECT_EQ(duplicated, 0u);  // there an id is good for one order for ever
  } else {
    EXPECT_GT(duplicated, 0u) << world.last_words();
  }
}

// ---- Kills of the recovery itself.

class RecoveryCampaign : public Campaign {
 protected:
  // An engine that died with requests under way, on a venue whose market then stands still.
  static void crash(World& world, os::Random& random) {
    const Language& language = GetParam();
    world.live({.orders = kOrdersOfALife, .death = {.point = "outcome_recorded", .nth = 8}});
    world.faults(fault(language, "drop_reply", R"("probability":0.3)") +
                 fault(language, "drop_request", R"("probability":0.3)"));
    for (const std::string point : {"request_sent", "intent_durable", "reply_seen"}) {
      world.live({.orders = kOrdersOfALife,
                  .death = {.point = point, .nth = static_cast<int>(3 + random.below(5))}});
    }
    world.faults("");
    world.freeze_venue();
  }
  static Death next_recovery_death(os::Random& random) {
    static const std::vector<Point> kPoints = {
        {"request", 30},           {"trading_recovery_started", 1},
        {"checkpoint_verdict", 1}, {"state_source", 1},
        {"reconciled", 1},         {"intent_settled", 4},
        {"decision", 1},           {"trading_report", 1},
        {"ramp_step", 2}};
    if (random.below(3) == 0) return {.after = std::chrono::microseconds(1 + random.below(40'000))};
    const Point& point = kPoints[random.below(kPoints.size())];
    return {.point = point.name, .nth = static_cast<int>(1 + random.below(point.up_to))};
  }
  static std::string copy_of(const World& world, const std::string& name) {
    const std::string to = world.dir() + "/" + name;
    std::filesystem::remove_all(to);
    std::filesystem::copy(world.state_dir(), to, std::filesystem::copy_options::recursive);
    return to;
  }
};

TEST_P(RecoveryCampaign, HoweverOftenItIsKilledItEndsAsAnUndisturbedOneDoes) {
  constexpr int kKillsOfOne = 4;
  constexpr int kOfOneCrash = 48;
  const int kills = number_from("DEFIB_RECOVERY_KILLS", 12);
  auto seed = static_cast<std::uint64_t>(number_from("DEFIB_SEED", 1));
  for (int left = kills; left > 0 && !HasFailure(); ++seed) {
    SCOPED_TRACE(fmt::format("DEFIB_SEED={}", seed));
    World world({.language = GetParam(), .seed = seed});
    os::Random random(seed);
    crash(world, random);
    const std::uint64_t orders = world.orders_at_venue();
    const int refused_before = world.refused_for_rate();
    const std::string calm = copy_of(world, "calm");
    ASSERT_TRUE(world.live_to_the_end(calm).success()) << world.last_words();
    const std::string wanted = world.final_state(calm);
    EXPECT_EQ(world.judge(calm).problems(), "");
    int done = 0;
    for (int lives = 0; done < std::min(left, kOfOneCrash) && lives < 10 * kOfOneCrash;) {
      const std::string hurt = copy_of(world, "hurt");
      for (int i = 0; i < kKillsOfOne; ++i, ++lives) {
        const os::ExitStatus status =
            world.live({.death = next_recovery_death(random), .state_dir = hurt});
        done += status.signal == SIGKILL ? 1 : 0;
      }
      const os::ExitStatus last = world.live_to_the_end(hurt);
      EXPECT_TRUE(last.success()) << last.to_string() << world.last_words();
      EXPECT_EQ(world.final_state(hurt), wanted);
    }
    EXPECT_EQ(world.orders_at_venue(), orders);  // a recovery places nothing
    EXPECT_EQ(world.refused_for_rate(), refused_before);
    fmt::print("{}, seed {}: {} kills of recoveries from one crash, {} orders at the venue\n",
               GetParam().kind, seed, done, orders);
    if (HasFailure()) world.keep_files();
    left -= std::max(done, 1);
  }
}

// Where the rate limit decides (Kraken's counter), asking for everything takes what was predicted.
TEST(Rebuild, TakesTheTimeThatIsPredictedForIt) {
  constexpr int kTrades = 1'000;
  World world({.language = languages()[2]});
  const std::string symbol = languages()[2].symbols.front();
  const auto trader = world.connect();
  for (int i = 0; i < kTrades; ++i) {
    venue::OrderRequest request;
    request.client_id = fmt::format("tst00001{:08}", i);
    request.symbol = symbol;
    request.side = i % 2 == 0 ? venue::Side::kBuy : venue::Side::kSell;
    request.type = venue::OrderType::kMarket;
    request.quantity = Decimal::parse("0.001").value();
    request.timestamp_ms = world.clock().wall_ns() / 1'000'000;
    request.expires_ms = request.timestamp_ms + trader->recv_window_ms();
    ASSERT_TRUE(trader->place(request));
  }
  world.freeze_venue();
  const auto venue = world.connect();
  const std::int64_t asked = world.clock().mono_ns();
  ASSERT_TRUE(venue->server_time_ms());
  const std::int64_t started = world.clock().mono_ns();
  ASSERT_TRUE(venue->rules());
  ASSERT_TRUE(venue->balances());
  ASSERT_TRUE(venue->open_orders());
  std::map<std::string, venue::FillsFrom> all;
  for (const std::string& each : languages()[2].symbols) all[each];
  const std::size_t fills = venue->fills_of(all)->size();
  const std::int64_t took = world.clock().mono_ns() - started;
  const trading::RebuildCost predicted = trading::estimate_rebuild(
      venue->rebuild_model(), {.symbols = languages()[2].symbols.size(), .fills = fills},
      os::Duration(started - asked));
  fmt::print("{} trades: predicted {}, took {}\n", fills, os::format_duration(predicted.estimate),
             os::format_duration(os::Duration(took)));
  EXPECT_GT(predicted.estimate, 30s);
  EXPECT_NEAR(static_cast<double>(took) / static_cast<double>(predicted.estimate.count()), 1.0,
              0.15);
  EXPECT_EQ(world.refused_for_rate(), 0);
}

INSTANTIATE_TEST_SUITE_P(All, Campaign, testing::ValuesIn(languages()), name_of);
INSTANTIATE_TEST_SUITE_P(All, RecoveryCampaign, testing::ValuesIn(languages()), name_of);

}  // namespace
}  // namespace defib::campaign

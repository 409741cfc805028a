// With the paper venue as another process: crashes and faults of every kind, and the venue's own
// audit as judge. Lost 0, duplicated 0, unknown 0.

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"

namespace defib {
namespace {

using testing::HasSubstr;

class PaperTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "defib-paper-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    dir_ = pattern;
    write("secret.txt", "topsecret\n");
    write("key.txt", "demo\n");
    ::chmod((dir_ + "/secret.txt").c_str(), 0600);
    ::chmod((dir_ + "/key.txt").c_str(), 0600);
    start_venue();
    write_config();
  }
  void TearDown() override {
    if (venue_.valid()) {
      ASSERT_TRUE(venue_.signal(SIGTERM));
      venue_.wait();
    }
    if (!HasFailure()) std::filesystem::remove_all(dir_);
  }

  void write(const std::string& name, std::string_view text) const {
    std::ofstream(dir_ + "/" + name) << text;
  }

  void start_venue() {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    os::SpawnOptions options;
    options.argv = {PAPER_VENUE,
                    "--ledger",
                    ledger(),
                    "--seed",
                    "7",
                    "--api-key",
                    "demo",
                    "--api-secret-file",
                    dir_ + "/secret.txt",
                    "--order-limit",
                    "0",
                    "--weight-limit",
                    "0"};
    options.fds = {{ends[1], 1}};
    options.parent_death_signal = SIGKILL;
    auto child = os::spawn(options);
    ::close(ends[1]);
    ASSERT_TRUE(child) << child.error().to_text();
    venue_ = std::move(*child);
    std::string line;
    char c = 0;
    while (::read(ends[0], &c, 1) == 1 && c != '\n') line += c;
    ::close(ends[0]);
    const auto json = wire::Json::parse(line);
    ASSERT_TRUE(json) << line;
    port_ = (*json)["port"].as_int();
    admin_port_ = (*json)["admin_port"].as_int();
  }

  void write_config(std::string_view extra = "max_crashes = 1000") {
    write("defib.toml", fmt::format(R"(
[venue]
url = "http://127.0.0.1:{}"
api_key = "file:{}/key.txt"
api_secret = "file:{}/secret.txt"
recv_window_ms = 300
visibility_lag_ms = 300
rate_capacity = 0
timeout = "2s"
symbols = ["BTCUSDT", "ETHUSDT"]

[trading]
owner = "tst"
checkpoint_every = "100ms"
strategies = ["child"]

[trading.limits]
max_unknown_intents = 1000
max_orders_per_second = 10000

[trading.gates]
max_volatility = "0.5"
{}

[trading.ramp]
check_after = "10ms"
settle = "0s"
watch = "20ms"
check_every = "10ms"
)",
                                    port_, dir_, dir_, extra));
  }

  void admin(const std::string& method, const std::string& path, const std::string& body = {}) {
    wire::HttpRequest request;
    request.method = method;
    request.url = fmt::format("http://127.0.0.1:{}{}", admin_port_, path);
    request.body = body;
    const auto response = admin_.send(request);
    ASSERT_TRUE(response) << response.error().to_text();
    ASSERT_EQ(response->status / 100, 2) << path << " " << response->body;
  }
  void faults(const std::string& lines) {
    admin("DELETE", "/paper/faults");
    admin("POST", "/paper/faults", lines);
  }

  // One life of the engine; the point "none": to its end.
  os::CommandOutput live(int orders, const std::string& point = "none", int nth = 0) {
    auto output = os::run_command({PAPER_CHILD, dir_ + "/defib.toml", state(),
                                   std::to_string(orders), point, std::to_string(nth)},
                                  120'000);
    EXPECT_TRUE(output) << output.error().to_text();
    return output ? *output : os::CommandOutput();
  }
  void live_and_die(int orders, const std::string& point, int nth) {
    const os::CommandOutput output = live(orders, point, nth);
    EXPECT_EQ(output.status.signal, SIGKILL) << output.status.to_string() << "\n" << output.text;
  }
  void live_to_the_end(int orders) {
    const os::CommandOutput output = live(orders);
    EXPECT_TRUE(output.status.success()) << output.status.to_string() << "\n" << output.text;
  }

  os::CommandOutput trade(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), DEFIB_TRADE);
    arguments.insert(arguments.end(), {"--state-dir", state()});
    auto output = os::run_command(arguments, 60'000);
    EXPECT_TRUE(output) << output.error().to_text();
    return output ? *output : os::CommandOutput();
  }

  // The venue's own verdict over everything that was ever intended.
  wire::Json audit() {
    const os::CommandOutput intents = trade({"intents"});
    EXPECT_TRUE(intents.status.success()) << intents.text;
    write("intents.txt", intents.text);
    const auto output = os::run_command(
        {PAPER_VENUE, "audit", ledger(), "--intents", dir_ + "/intents.txt", "--json"}, 60'000);
    EXPECT_TRUE(output) << output.error().to_text();
    EXPECT_EQ(output->status.code, 0) << output->text.substr(0, 4'000);
    const auto json = wire::Json::parse(output->text);
    EXPECT_TRUE(json) << output->text;
    return json ? *json : wire::Json();
  }
  void expect_reconciled() {
    const os::CommandOutput output = trade({"reconcile", "-c", dir_ + "/defib.toml", "--json"});
    EXPECT_EQ(output.status.code, 0) << output.text;
  }

  std::string ledger() const { return dir_ + "/venue.jsonl"; }
  std::string state() const { return dir_ + "/state"; }

  std::string dir_;
  os::Child venue_;
  std::int64_t port_ = 0;
  std::int64_t admin_port_ = 0;
  wire::HttpClient admin_;
};

constexpr std::string_view kPost = R"("method":"POST","path":"/api/v3/order")";
std::string on_orders(std::string_view kind, std::string_view rest = R"("every":3)") {
  return fmt::format("{{\"kind\":\"{}\",{},{}}}\n", kind, kPost, rest);
}

TEST_F(PaperTest, AnUndisturbedEngineIsProved) {
  live_to_the_end(40);
  const wire::Json verdict = audit();
  EXPECT_GE(verdict["intents"].as_int(verdict["totals"]["intents"].as_int()), 0);
  expect_reconciled();
}

TEST_F(PaperTest, KilledAtEveryFailurePointNothingIsLostAndNothingIsDuplicated) {
  for (const std::string point :
       {"before_intent", "intent_durable", "request_sent", "reply_seen", "outcome_recorded"}) {
    for (const int nth : {1, 4}) live_and_die(10, point, nth);
  }
  live_to_the_end(3);
  audit();
  expect_reconciled();
}

// Each way in which a venue can leave the fate of an order open, one at a time.
struct Trouble {
  std::string name;
  std::string rules;
};
class PaperTrouble : public PaperTest, public testing::WithParamInterface<Trouble> {};

TEST_P(PaperTrouble, TheFateOfEveryOrderIsProved) {
  live_to_the_end(1);  // the baseline, before the trouble begins
  faults(GetParam().rules);
  live_and_die(20, "reply_seen", 9);
  live_to_the_end(20);
  admin("DELETE", "/paper/faults");
  live_to_the_end(0);
  audit();
  expect_reconciled();
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, PaperTrouble,
    testing::Values(
        Trouble{"AcceptedThenReplyDropped", on_orders("drop_reply")},
        Trouble{"RequestDropped", on_orders("drop_request")},
        Trouble{"DelayedBeyondTheFence", on_orders("delay_request", R"("every":7,"delay_ms":700)")},
        Trouble{"DelayedWithinTheFence", on_orders("delay_request", R"("every":5,"delay_ms":150)")},
        Trouble{"ServerErrorWithAcceptance",
                on_orders("server_error", R"("every":3,"accepted":true)")},
        Trouble{"ServerErrorWithout", on_orders("server_error", R"("every":3,"accepted":false)")},
        Trouble{"TimeoutWithAcceptance", on_orders("timeout", R"("every":3,"accepted":true)")},
        Trouble{"TimeoutWithout", on_orders("timeout", R"("every":3,"accepted":false)")},
        Trouble{"CutBody", on_orders("cut_reply")}, Trouble{"Garbage", on_orders("garbage_reply")},
        Trouble{"UnknownFields", R"({"kind":"unknown_fields"})"
                                 "\n"},
        Trouble{"VisibleLate", on_orders("visibility_lag", R"("every":2,"lag_ms":250)") +
                                   on_orders("drop_reply", R"("every":4)")},
        Trouble{"Everything",
                on_orders("drop_reply", R"("probability":0.1)") +
                    on_orders("drop_request", R"("probability":0.1)") +
                    on_orders("server_error", R"("probability":0.1,"accepted":true)") +
                    on_orders("timeout", R"("probability":0.1,"accepted":false)") +
                    on_orders("cut_reply", R"("probability":0.1)") +
                    on_orders("visibility_lag", R"("probability":0.3,"lag_ms":250)")}),
    [](const auto& trouble) { return trouble.param.name; });

TEST_F(PaperTest, AReplyThatOutlastsTheClientIsSettledAfterwards) {
  live_to_the_end(1);
  faults(on_orders("delay_reply", R"("nth":2,"delay_ms":2500)"));
  live_to_the_end(4);
  audit();
}

TEST_F(PaperTest, FillsWhileTheEngineIsDeadAreExplained) {
  live_and_die(12, "outcome_recorded", 12);
  // The market moves through everything that rests.
  for (const std::string price : {"70000", "30000", "50000"}) {
    admin("POST", "/paper/price", R"({"symbol":"BTCUSDT","price":")" + price + "\"}");
  }
  ::usleep(300'000);  // takers come by on the venue's own clock
  const os::CommandOutput output = trade({"recover", "-c", dir_ + "/defib.toml", "--json"});
  const auto json = wire::Json::parse(output.text);
  ASSERT_TRUE(json) << output.text;
  EXPECT_EQ((*json)["report"]["unexplained"].as_int(-1), 0) << output.text;
  audit();
}

TEST_F(PaperTest, AnExternalOrderHoldsTheGateUntilApproved) {
  live_to_the_end(1);
  admin("POST", "/paper/external-order", R"({"symbol":"BTCUSDT","side":"BUY","quantity":"0.01"})");
  const os::CommandOutput refused = trade({"recover", "-c", dir_ + "/defib.toml"});
  EXPECT_EQ(refused.status.code, 3) << refused.text;
  EXPECT_THAT(refused.text, HasSubstr("error[-173 ApprovalRequired]"));
  EXPECT_THAT(refused.text, HasSubstr("try:"));
  const os::CommandOutput explained = trade({"explain", "latest"});
  EXPECT_THAT(explained.text, HasSubstr("unexplained"));
  const os::CommandOutput nobody = trade({"approve", "latest", "--by", " "});
  EXPECT_EQ(nobody.status.code, 3) << nobody.text;
  const os::CommandOutput approved = trade({"approve", "latest", "--by", "ada", "--json"});
  EXPECT_EQ(approved.status.code, 0) << approved.text;
  live_to_the_end(2);  // consumes it and trades on
  const os::CommandOutput again = trade({"recover", "-c", dir_ + "/defib.toml"});
  EXPECT_EQ(again.status.code, 0) << again.text;
}

TEST_F(PaperTest, AKillIsVerifiedRecordedAndHoldsTheGateUntilItIsReleased) {
  const std::string config = dir_ + "/defib.toml";
  live_and_die(12, "outcome_recorded", 12);
  admin("POST", "/paper/external-order",
        R"({"symbol":"BTCUSDT","side":"BUY","quantity":"0.01","price":"30000"})");
  EXPECT_EQ(trade({"kill", "--all", "-c", config}).status.code, 2);  // by nobody
  const os::CommandOutput killed =
      trade({"kill", "--all", "--by", "ada", "--reason", "odd fills", "-c", config, "--json"});
  EXPECT_EQ(killed.status.code, 0) << killed.text;
  const auto report = wire::Json::parse(killed.text);
  ASSERT_TRUE(report) << killed.text;
  EXPECT_TRUE((*report)["verified"].as_bool());
  EXPECT_EQ((*report)["venues"].items()[0]["still_open"].size(), 0U) << killed.text;
  EXPECT_TRUE(std::filesystem::exists(state() + "/incidents/" +
                                      std::string((*report)["incident"].as_string()) + ".jsonl"));
  EXPECT_THAT(trade({"kill", "--status"}).text, HasSubstr("odd fills"));
  const os::CommandOutput refused = trade({"recover", "-c", config});
  EXPECT_EQ(refused.status.code, 3) << refused.text;
  EXPECT_THAT(refused.text, HasSubstr("KillSwitchEngaged"));
  EXPECT_EQ(trade({"kill", "--release", "all", "--by", "ada", "--reason", "over"}).status.code, 0);
  const os::CommandOutput again = trade({"recover", "-c", config});
  EXPECT_THAT(again.text, testing::Not(HasSubstr("KillSwitchEngaged")));
  audit();
}

TEST_F(PaperTest, AVerdictIsReproducedAndTheManualProcedureWalkedByTheCommands) {
  const std::string config = dir_ + "/defib.toml";
  live_to_the_end(1);
  EXPECT_EQ(trade({"recover", "-c", config}).status.code, 0);
  EXPECT_THAT(trade({"explain", "latest"}).text, HasSubstr("byte for byte"));
  const os::CommandOutput saved = trade({"explain", "latest", "--json"});
  write("decision.json", saved.text);
  EXPECT_EQ(trade({"explain", "latest", "--from", dir_ + "/decision.json"}).status.code, 0);
  std::string changed = saved.text;
  const std::size_t at = changed.find("\"crashes\": ");
  ASSERT_NE(at, std::string::npos) << changed;
  changed.insert(at + 11, "9");
  write("changed.json", changed);
  EXPECT_NE(trade({"explain", "latest", "--from", dir_ + "/changed.json"}).status.code, 0);
  EXPECT_THAT(trade({"explain", "gates"}).text, HasSubstr("heap_corruption"));
  // The kill's own incident is one that a person may have to work off.
  EXPECT_EQ(trade({"kill", "--strategy", "child", "--by", "ada", "--reason", "test", "-c", config})
                .status.code,
            0);
  EXPECT_EQ(trade({"checklist", "--manual", "latest"}).status.code, 2);
  EXPECT_EQ(trade({"checklist", "--manual", "latest", "--by", "ada", "--answer",
                   "analyze.report_read=yes", "--answer", "analyze.root_cause=yes:a test"})
                .status.code,
            3);
}

TEST_F(PaperTest, TheCommandsRefuseAndFailAsDocumented) {
  live_to_the_end(1);
  const std::string config = dir_ + "/defib.toml";
  EXPECT_EQ(trade({"recover", "-c", dir_ + "/none.toml"}).status.code, 1);
  EXPECT_EQ(trade({"recover", "--nonsense"}).status.code, 2);
  EXPECT_EQ(trade({"approve", "zzz", "--by", "ada"}).status.code, 2);
  EXPECT_EQ(trade({"approve", "latest", "--by", "ada"}).status.code, 1);
  for (const char* command : {"recover", "checklist", "reconcile"}) {
    const auto fresh = os::run_command(
        {DEFIB_TRADE, command, "-c", config, "--state-dir", dir_ + "/fresh"}, 60'000);
    ASSERT_TRUE(fresh);
    EXPECT_THAT(fresh->text, testing::HasSubstr("has no ledger yet")) << command;
    EXPECT_THAT(fresh->text, testing::HasSubstr("start its engine")) << command;
  }
  EXPECT_EQ(trade({"reconcile", "-c", config, "--apply"}).status.code, 2);
  EXPECT_EQ(trade({"checklist", "-c", config}).status.code, 0);
  EXPECT_EQ(trade({"reconcile", "-c", config}).status.code, 0);
  admin("POST", "/paper/deposit", R"({"asset":"BTC","amount":"1"})");
  EXPECT_EQ(trade({"reconcile", "-c", config}).status.code, 1);
  EXPECT_EQ(trade({"checklist", "-c", config}).status.code, 3);
  const os::CommandOutput applied =
      trade({"reconcile", "-c", config, "--apply", "--reason", "a deposit", "--by", "ada"});
  EXPECT_EQ(applied.status.code, 0) << applied.text;
  EXPECT_EQ(trade({"reconcile", "-c", config}).status.code, 0);
  admin("POST", "/paper/halt", R"({"symbol":"BTCUSDT"})");
  EXPECT_EQ(trade({"recover", "-c", config}).status.code, 3);
}

}  // namespace
}  // namespace defib

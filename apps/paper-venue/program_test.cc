// The program as its users run it: started, killed, started again on the same ledger, audited.

#include <fcntl.h>
#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/process.h"
#include "defib/paper/parameters.h"
#include "defib/wire/http.h"
#include "defib/wire/json.h"

namespace defib {
namespace {

using ::testing::HasSubstr;
using wire::Json;

constexpr int kTimeoutMs = 20'000;

class PaperVenue : public ::testing::Test {
 protected:
  void SetUp() override {
    char pattern[] = "/tmp/paper-venue-XXXXXX";
    directory_ = mkdtemp(pattern);
    write("secret", "s3cret\n");
  }
  void TearDown() override {
    if (child_.valid() && !child_.try_wait()) {
      static_cast<void>(child_.signal(SIGKILL));
      child_.wait();
    }
    std::filesystem::remove_all(directory_);
  }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }
  void write(const std::string& name, const std::string& text) {
    ASSERT_TRUE(os::write_file_atomically(os::real_files(), path(name), text).has_value());
  }
  std::vector<std::string> command(std::vector<std::string> more = {}) const {
    std::vector<std::string> argv = {
        PAPER_VENUE, "--ledger", path("ledger"),      "--seed",      "7",
        "--api-key", "key",      "--api-secret-file", path("secret")};
    argv.insert(argv.end(), more.begin(), more.end());
    return argv;
  }
  // Starts the venue and reads the line that it prints when it is ready.
  void start(std::vector<std::string> more = {}) {
    int ends[2];
    ASSERT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const os::Fd ours(ends[0]);
    const os::Fd theirs(ends[1]);
    os::SpawnOptions options;
    options.argv = command(std::move(more));
    options.fds = {{theirs.get(), 1}, {2, 2}};
    options.parent_death_signal = SIGKILL;
    auto child = os::spawn(options);
    ASSERT_TRUE(child.has_value()) << child.error().to_text();
    child_ = std::move(*child);
    std::string line;
    while (!line.ends_with('\n')) {
      pollfd wait{ours.get(), POLLIN, 0};
      ASSERT_EQ(poll(&wait, 1, kTimeoutMs), 1) << "the venue did not get ready";
      char byte = 0;
      ASSERT_EQ(read(ours.get(), &byte, 1), 1) << "the venue ended: " << line;
      line += byte;
    }
    const Json ready = *Json::parse(line);
    EXPECT_EQ(ready["schema"].as_string(), "defib.paper_venue/1");
    EXPECT_EQ(ready["pid"].as_int(), child_.pid());
    port_ = ready["port"].as_int();
    admin_port_ = ready["admin_port"].as_int();
  }
  os::ExitStatus end(int signal) {
    EXPECT_TRUE(child_.signal(signal).has_value());
    return child_.wait();
  }
  int place(std::string_view id) {
    const std::string payload = fmt::format(
        "symbol=BTCUSDT&side=BUY&type=LIMIT&timeInForce=GTC&quantity=0.01&price=30000&"
        "newClientOrderId={}&timestamp={}",
        id, os::real_clock().wall_ns() / 1'000'000);
    const auto response =
        client_.send({"POST",
                      fmt::format("http://127.0.0.1:{}/api/v3/order?{}&signature={}", port_,
                                  payload, paper::hmac_sha256_hex("s3cret", payload)),
                      {{"X-MBX-APIKEY", "key"}},
                      {}});
    return response ? response->status : 0;
  }
  Json state() {
    const auto response =
        client_.send({"GET", fmt::format("http://127.0.0.1:{}/paper/state", admin_port_), {}, {}});
    return response ? *Json::parse(response->body) : Json();
  }
  static os::CommandOutput run(const std::vector<std::string>& argv) {
    auto output = os::run_command(argv, kTimeoutMs);
    EXPECT_TRUE(output.has_value()) << output.error().to_text();
    return *output;
  }

  std::string directory_;
  os::Child child_;
  std::int64_t port_ = 0;
  std::int64_t admin_port_ = 0;
  wire::HttpClient client_;
};

TEST_F(PaperVenue, KilledAndStartedAgainItGoesOnWithTheSameState) {
  start();
  EXPECT_EQ(place("one"), 200);
  EXPECT_EQ(place("two"), 200);
  const Json before = state();
  EXPECT_EQ(end(SIGKILL).signal, SIGKILL);
  start();
  EXPECT_EQ(state()["digest"].as_string(), before["digest"].as_string());
  EXPECT_EQ(state()["open_orders"].as_int(), 2);
  EXPECT_EQ(place("one"), 400) << "the id is open";
  EXPECT_EQ(place("three"), 200);
  EXPECT_TRUE(end(SIGTERM).success());

  write("intents", "one accepted\ntwo accepted\nthree accepted\nfour never_accepted\n");
  const std::vector<std::string> audit = {PAPER_VENUE, "audit", path("ledger"), "--intents",
                                          path("intents")};
  const os::CommandOutput proved = run(audit);
  EXPECT_EQ(proved.status.code, 0) << proved.text;
  EXPECT_THAT(proved.text, HasSubstr("3 accepted + 0 rejected + 1 never accepted = 4 of 4"));
  write("intents", "one accepted\ntwo rejected\n");
  std::vector<std::string> as_json = audit;
  as_json.push_back("--json");
  const os::CommandOutput refuted = run(as_json);
  EXPECT_EQ(refuted.status.code, 1);
  const Json report = *Json::parse(refuted.text);
  EXPECT_EQ(report["schema"].as_string(), "defib.paper_audit/1");
  EXPECT_EQ(report["lost"].as_int(), 2);
}

TEST_F(PaperVenue, TakesFaultsFromAFile) {
  write("faults", "{\"kind\":\"drop_reply\",\"method\":\"POST\",\"nth\":1}\n");
  start({"--faults", path("faults")});
  EXPECT_EQ(place("lost"), 0);
  EXPECT_EQ(state()["open_orders"].as_int(), 1);
  EXPECT_EQ(end(SIGINT).code, 0);
}

TEST_F(PaperVenue, WrongUsageIsTwoAndALedgerInUseIsThree) {
  EXPECT_EQ(run({PAPER_VENUE, "--nonsense"}).status.code, 2);
  EXPECT_EQ(run({PAPER_VENUE}).status.code, 2);
  EXPECT_EQ(run({PAPER_VENUE, "--help"}).status.code, 0);
  EXPECT_EQ(run(command({"--maker-fee", "2"})).status.code, 2);
  EXPECT_EQ(run(command({"--deposit", "USDT"})).status.code, 2);
  EXPECT_EQ(run({PAPER_VENUE, "audit", path("absent")}).status.code, 1);
  start();
  const os::CommandOutput held = run(command());
  EXPECT_EQ(held.status.code, 3) << held.text;
  EXPECT_THAT(held.text, HasSubstr("try: "));
}

}  // namespace
}  // namespace defib

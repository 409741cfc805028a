#include "defib/daemon/health_check.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

#include "defib/os/process_tree.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;
using recovery::Health;

TEST(ProbeTarget, AddressesAreTakenApart) {
  const auto full = ProbeTarget::parse_url("http://localhost:8080/health?x=1");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->host, "localhost");
  EXPECT_EQ(full->port, "8080");
  EXPECT_EQ(full->path, "/health?x=1");
  const auto bare = ProbeTarget::parse_url("http://[::1]");
  ASSERT_TRUE(bare);
  EXPECT_EQ(bare->host, "::1");
  EXPECT_EQ(bare->port, "80");
  EXPECT_EQ(bare->path, "/");
}

TEST(ProbeTarget, AnAddressNeedsAPort) {
  const auto address = ProbeTarget::parse_address("[::1]:5432");
  ASSERT_TRUE(address);
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->port, "5432");
  for (const char* text : {"", "localhost", ":80", "host:0", "host:x", "a b:1"}) {
    EXPECT_FALSE(ProbeTarget::parse_address(text)) << text;
  }
}

TEST(ProbeTarget, ImpossibleAddressesAreExplained) {
  for (const char* url : {"", "localhost", "ftp://x/", "https://x/", "http://", "http:///x",
                          "http://x:0/", "http://x:70000/", "http://x:8x/", "http://x:/",
                          "http://[::1/", "http://[::1]80/", "http://x/ y", "http://x/\r\ny"}) {
    const auto target = ProbeTarget::parse_url(url);
    ASSERT_FALSE(target) << url;
    EXPECT_EQ(target.error().code(), Code::kInvalidArgument);
  }
}

// Answers each connection with the next of its texts, on the checker's own loop.
class Server {
 public:
  Server(os::EventLoop& loop, std::vector<std::string> answers)
      : loop_(loop), answers_(std::move(answers)) {
    listener_ = os::Fd(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(listener_.get(), 16), 0);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    EXPECT_TRUE(loop.watch(listener_.get(), EPOLLIN, [this](std::uint32_t) { accept_one(); }));
  }
  ~Server() {
    loop_.unwatch(listener_.get());
    for (const auto& [fd, open] : open_) loop_.unwatch(fd);
  }
  std::string url() const { return "http://localhost:" + std::to_string(port_) + "/health"; }
  int connections() const { return connections_; }
  std::uint16_t port() const { return port_; }

 private:
  void accept_one() {
    os::Fd fd(accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) return;
    const auto number = static_cast<std::size_t>(connections_++);
    const std::string& answer = answers_[std::min(number, answers_.size() - 1)];
    const int raw = fd.get();
    open_[raw] = std::move(fd);
    if (answer == "silence") return;
    EXPECT_TRUE(loop_.watch(raw, EPOLLIN, [this, raw, answer](std::uint32_t) {
      char request[1024] = {};
      EXPECT_GT(read(raw, request, sizeof request - 1), 0);
      EXPECT_TRUE(std::string_view(request).starts_with("GET /health HTTP/1.1\r\nHost: "));
      EXPECT_EQ(write(raw, answer.data(), answer.size()), static_cast<ssize_t>(answer.size()));
      loop_.unwatch(raw);
      open_.erase(raw);
    }));
  }
  os::EventLoop& loop_;
  std::vector<std::string> answers_;
  os::Fd listener_;
  std::map<int, os::Fd> open_;
  std::uint16_t port_ = 0;
  int connections_ = 0;
};

ProbeConfig http_probe(const std::string& url) {
  ProbeConfig probe;
  probe.name = "http";
  probe.url = url;
  probe.policy.interval = 2ms;
  return probe;
}

ProbeConfig exec_probe(std::vector<std::string> command) {
  ProbeConfig probe;
  probe.name = "exec";
  probe.kind = ProbeKind::kExec;
  probe.command = std::move(command);
  probe.policy.interval = 2ms;
  probe.policy.failures_to_unhealthy = 1;
  return probe;
}

// The changes of health that a probe tells, until `wanted` have come.
std::vector<HealthChange> changes_of(os::EventLoop& loop, ProbeConfig probe, std::size_t wanted) {
  std::vector<HealthChange> seen;
  HealthChecker::Observer observer;
  observer.on_change = [&](const HealthChange& change) {
    seen.push_back(change);
    if (seen.size() == wanted) loop.stop();
  };
  auto checker = HealthChecker::create(loop, std::move(probe), "service", observer);
  EXPECT_TRUE(checker);
  (*checker)->restart(false);
  const auto limit = loop.run_after(20s, [&] { loop.stop(); });
  EXPECT_TRUE(loop.run());
  loop.cancel(limit);
  EXPECT_EQ(seen.size(), wanted);
  seen.resize(wanted);
  return seen;
}

// Of a server with these answers.
std::vector<HealthChange> changes(std::vector<std::string> answers, std::size_t wanted,
                                  ProbeConfig probe = http_probe("")) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, std::move(answers));
  if (probe.url.empty()) probe.url = server.url();
  return changes_of(*loop, probe, wanted);
}

// Runs the loop until the condition holds.
bool run_until(os::EventLoop& loop, const std::function<bool()>& condition) {
  const auto poll = loop.run_every(1ms, [&] {
    if (condition()) loop.stop();
  });
  const auto limit = loop.run_after(20s, [&] { loop.stop(); });
  EXPECT_TRUE(loop.run());
  loop.cancel(poll);
  loop.cancel(limit);
  return condition();
}

std::string kGood = "HTTP/1.1 204 No Content\r\n\r\n";
std::string kBad = "HTTP/1.1 503 Service Unavailable\r\n\r\n";

TEST(HealthChecker, AGoodAnswerIsHealthyAndThreeBadOnesAreNot) {
  const auto seen = changes({kGood, kBad, kBad, kGood, kBad, kBad, kBad, kGood}, 3);
  EXPECT_EQ(seen[0].health, Health::kHealthy);
  EXPECT_EQ(seen[1].health, Health::kUnhealthy);
  EXPECT_EQ(seen[1].failures, 3);
  EXPECT_NE(seen[1].detail.find("503"), std::string::npos);
  EXPECT_EQ(seen[2].health, Health::kHealthy);
}

TEST(HealthChecker, HealthComesBackAfterSoManySuccessesInARow) {
  ProbeConfig probe = http_probe("");
  probe.policy.failures_to_unhealthy = 1;
  probe.policy.successes_to_healthy = 3;
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {kGood, kGood, kBad, kGood, kGood, kGood});
  probe.url = server.url();
  const auto seen = changes_of(*loop, probe, 2);
  EXPECT_EQ(seen[0].health, Health::kUnhealthy);
  EXPECT_EQ(seen[1].health, Health::kHealthy);
  EXPECT_EQ(server.connections(), 6);
}

TEST(HealthChecker, FailuresWithinTheGraceDoNotCount) {
  ProbeConfig probe = http_probe("");
  probe.policy.failures_to_unhealthy = 1;
  probe.policy.start_grace = 200ms;
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {kBad});
  probe.url = server.url();
  const std::int64_t begun = loop->clock().mono_ns();
  changes_of(*loop, probe, 1);
  EXPECT_GE(loop->clock().mono_ns() - begun, os::Duration(200ms).count());
  EXPECT_GT(server.connections(), 3);
}

TEST(HealthChecker, NonsenseAndSilenceAreUnhealthyWithTheReason) {
  EXPECT_NE(changes({"SSH-2.0-x\r\n"}, 1).at(0).detail.find("not HTTP"), std::string::npos);
  ProbeConfig impatient = http_probe("");
  impatient.policy.timeout = 10ms;
  EXPECT_NE(changes({"silence"}, 1, impatient).at(0).detail.find("no answer within"),
            std::string::npos);
}

TEST(HealthChecker, AClosedPortIsUnhealthy) {
  const auto seen = changes({"silence"}, 1, http_probe("http://127.0.0.1:1/"));
  EXPECT_EQ(seen[0].health, Health::kUnhealthy);
  EXPECT_NE(seen[0].detail.find("refused"), std::string::npos);
}

TEST(HealthChecker, APausedCheckerDoesNotAsk) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {kGood});
  ProbeConfig probe = http_probe(server.url());
  probe.policy.interval = 1ms;
  std::unique_ptr<HealthChecker> checker;
  HealthChecker::Observer observer;
  observer.on_change = [&](const HealthChange&) { checker->pause(); };
  checker = std::move(*HealthChecker::create(*loop, probe, "service", observer));
  checker->restart(false);
  loop->run_after(50ms, [&] { loop->stop(); });
  EXPECT_TRUE(loop->run());
  EXPECT_EQ(server.connections(), 1);
}

TEST(HealthChecker, ATcpProbeConnectsAndNothingMore) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {"silence"});
  ProbeConfig probe = http_probe("");
  probe.kind = ProbeKind::kTcp;
  probe.address = "localhost:" + std::to_string(server.port());
  EXPECT_EQ(changes_of(*loop, probe, 1)[0].health, Health::kHealthy);
  probe.address = "127.0.0.1:1";
  const auto refused = changes_of(*loop, probe, 1);
  EXPECT_EQ(refused[0].health, Health::kUnhealthy);
  EXPECT_EQ(refused[0].failures, 3);
}

TEST(HealthChecker, AnExecProbeGoesByItsExitCodeAndTellsItsLastWords) {
  auto loop = std::move(*os::EventLoop::create());
  EXPECT_EQ(changes_of(*loop, exec_probe({"true"}), 1)[0].health, Health::kHealthy);
  const auto bad = changes_of(
      *loop, exec_probe({"sh", "-c", "echo first; echo \"$DEFIB_SERVICE lags\" >&2; exit 3"}), 1);
  EXPECT_EQ(bad[0].health, Health::kUnhealthy);
  EXPECT_EQ(bad[0].detail, "exit code 3: service lags");
  const auto missing = changes_of(*loop, exec_probe({"/no/such/program"}), 1);
  EXPECT_NE(missing[0].detail.find("/no/such/program"), std::string::npos);
}

// A shell that hangs, with a child of its group and one that left for a session of its own.
TEST(HealthChecker, AHangingExecProbeCostsItsTimeoutAndLeavesNothing) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);  // as the supervisor does
  auto loop = std::move(*os::EventLoop::create());
  ProbeConfig probe =
      exec_probe({"sh", "-c", "sleep 987654321 & setsid sleep 987654321 & sleep 987654321"});
  probe.policy.timeout = 100ms;
  const std::int64_t begun = loop->clock().mono_ns();
  const auto seen = changes_of(*loop, probe, 1);
  EXPECT_EQ(seen[0].health, Health::kUnhealthy);
  EXPECT_NE(seen[0].detail.find("no answer within"), std::string::npos);
  EXPECT_LT(loop->clock().mono_ns() - begun, os::Duration(5s).count());
  const auto none_left = [] { return os::process_descendants(getpid()).empty(); };
  EXPECT_TRUE(run_until(*loop, none_left));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST(HealthChecker, WhatAnExecProbeLeavesBehindIsKilledWithIt) {
  ASSERT_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
  auto loop = std::move(*os::EventLoop::create());
  EXPECT_EQ(changes_of(*loop, exec_probe({"sh", "-c", "sleep 987654321 & exit 0"}), 1)[0].health,
            Health::kHealthy);
  EXPECT_TRUE(run_until(*loop, [] { return os::process_descendants(getpid()).empty(); }));
  prctl(PR_SET_CHILD_SUBREAPER, 0);
}

TEST(HealthChecker, AnExecProbeThatFloodsItsOutputIsBounded) {
  auto loop = std::move(*os::EventLoop::create());
  const auto seen =
      changes_of(*loop, exec_probe({"sh", "-c", "head -c 20000000 /dev/zero; exit 1"}), 1);
  EXPECT_EQ(seen[0].health, Health::kUnhealthy);
  EXPECT_LT(seen[0].detail.size(), 1000u);
}

TEST(HealthChecker, AnAwaitedProbeIsTriedAtOnceAndOftenUntilItPasses) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {kBad, kBad, kBad, kBad, kGood});
  ProbeConfig probe = http_probe(server.url());
  probe.policy.interval = 1h;  // of the time after readiness
  std::vector<HealthChange> seen;
  bool ready = false;
  HealthChecker::Observer observer;
  observer.on_change = [&](const HealthChange& change) { seen.push_back(change); };
  observer.on_first_pass = [&] { ready = true; };
  auto checker = std::move(*HealthChecker::create(*loop, probe, "service", observer));
  checker->restart(true);
  EXPECT_TRUE(run_until(*loop, [&] { return ready; }));
  EXPECT_EQ(server.connections(), 5);
  // The failures before it are the start's, not the service's health.
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].health, Health::kHealthy);
}

// The observer's side of a change may be the end of the checker.
TEST(HealthChecker, MayBeDestroyedByWhatItTells) {
  auto loop = std::move(*os::EventLoop::create());
  for (ProbeConfig probe : {exec_probe({"false"}), exec_probe({"/no/such/program"}),
                            http_probe("http://127.0.0.1:1/")}) {
    probe.policy.failures_to_unhealthy = 1;
    std::unique_ptr<HealthChecker> checker;
    HealthChecker::Observer observer;
    observer.on_change = [&](const HealthChange&) { checker.reset(); };
    checker = std::move(*HealthChecker::create(*loop, probe, "service", observer));
    checker->restart(false);
    EXPECT_TRUE(run_until(*loop, [&] { return checker == nullptr; }));
  }
}

}  // namespace
}  // namespace defib::daemon

#include "defib/recovery/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "defib/os/fd.h"
#include "defib/os/socket.h"

namespace defib::recovery {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::HasSubstr;

ProbeResult good() {
  return {.healthy = true, .detail = "fine"};
}
ProbeResult bad() {
  return {.healthy = false, .detail = "no", .error = Error(Code::kProbeFailed, "no")};
}
std::int64_t at(int second) {
  return std::int64_t{second} * 1'000'000'000;
}

TEST(HealthTracker, FailuresInARowMakeUnhealthyAndOneSuccessHealthy) {
  HealthTracker tracker({.failures_to_unhealthy = 3, .successes_to_healthy = 1}, at(0));
  EXPECT_EQ(tracker.health(), Health::kUnknown);
  EXPECT_TRUE(tracker.add(good(), at(1)));
  EXPECT_EQ(tracker.health(), Health::kHealthy);
  EXPECT_FALSE(tracker.add(bad(), at(2)));
  EXPECT_FALSE(tracker.add(bad(), at(3)));
  EXPECT_FALSE(tracker.add(good(), at(4)));
  EXPECT_EQ(tracker.failures_in_row(), 0);
  EXPECT_FALSE(tracker.add(bad(), at(5)));
  EXPECT_FALSE(tracker.add(bad(), at(6)));
  EXPECT_TRUE(tracker.add(bad(), at(7)));
  EXPECT_EQ(tracker.health(), Health::kUnhealthy);
  ASSERT_TRUE(tracker.last_error());
  EXPECT_EQ(tracker.last_error()->code(), Code::kProbeFailed);
  EXPECT_FALSE(tracker.add(bad(), at(8)));
  EXPECT_TRUE(tracker.add(good(), at(9)));
  EXPECT_EQ(tracker.health(), Health::kHealthy);
  EXPECT_FALSE(tracker.last_error());
}

TEST(HealthTracker, SeveralSuccessesInARowMayBeAskedFor) {
  HealthTracker tracker({.failures_to_unhealthy = 1, .successes_to_healthy = 2}, at(0));
  EXPECT_TRUE(tracker.add(bad(), at(1)));
  EXPECT_FALSE(tracker.add(good(), at(2)));
  EXPECT_FALSE(tracker.add(bad(), at(3)));
  EXPECT_FALSE(tracker.add(good(), at(4)));
  EXPECT_EQ(tracker.health(), Health::kUnhealthy);
  EXPECT_TRUE(tracker.add(good(), at(5)));
  EXPECT_EQ(tracker.health(), Health::kHealthy);
}

TEST(HealthTracker, FailuresWithinTheStartGraceDoNotCount) {
  HealthTracker tracker({.failures_to_unhealthy = 2, .start_grace = seconds(10)}, at(100));
  for (int second = 100; second < 110; ++second) EXPECT_FALSE(tracker.add(bad(), at(second)));
  EXPECT_EQ(tracker.failures_in_row(), 0);
  EXPECT_EQ(tracker.health(), Health::kUnknown);
  EXPECT_FALSE(tracker.add(bad(), at(110)));
  EXPECT_TRUE(tracker.add(bad(), at(111)));
}

// All sequences of ten results against the definition, read off the sequence itself.
TEST(HealthTracker, AllSequencesOfTenResultsFollowTheDefinition) {
  for (const int failures : {1, 2, 3}) {
    for (const int successes : {1, 2, 3}) {
      for (unsigned bits = 0; bits < 1024; ++bits) {
        HealthTracker tracker(
            {.failures_to_unhealthy = failures, .successes_to_healthy = successes}, at(0));
        Health expected = Health::kUnknown;
        for (int i = 0; i < 10; ++i) {
          const Health before = expected;
          int run = 1;
          while (run <= i && ((bits >> (i - run) ^ bits >> i) & 1) == 0) ++run;
          const bool healthy = (bits >> i & 1) != 0;
          if (healthy && run >= successes) expected = Health::kHealthy;
          if (!healthy && run >= failures) expected = Health::kUnhealthy;
          EXPECT_EQ(tracker.add(healthy ? good() : bad(), at(i)), before != expected);
          ASSERT_EQ(tracker.health(), expected) << bits << " at " << i;
        }
      }
    }
  }
}

// Listens on 127.0.0.1; with a backlog that is full it does not answer.
os::Fd listen_tcp(std::uint16_t& port) {
  os::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(fd.get(), 0), 0);
  socklen_t size = sizeof address;
  EXPECT_EQ(::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size), 0);
  port = ntohs(address.sin_port);
  return fd;
}

TEST(TcpProbe, IsHealthyWhereSomebodyListens) {
  std::uint16_t port = 0;
  const os::Fd listener = listen_tcp(port);
  const auto probe = tcp_probe("localhost", port);
  const ProbeResult result = probe->check(seconds(5));
  EXPECT_TRUE(result.healthy) << result.detail;
  EXPECT_THAT(result.detail, HasSubstr("connected in"));
  EXPECT_EQ(probe->name(), "tcp localhost:" + std::to_string(port));
}

TEST(TcpProbe, SaysThatNobodyListens) {
  const auto port = os::free_port();
  ASSERT_TRUE(port);
  const ProbeResult result = tcp_probe("127.0.0.1", *port)->check(seconds(5));
  EXPECT_FALSE(result.healthy);
  ASSERT_TRUE(result.error);
  EXPECT_EQ(result.error->code(), Code::kProbeFailed);
  EXPECT_EQ(result.error->cause()->code(), Code::kUnavailable);
  EXPECT_THAT(result.detail, HasSubstr("refused"));
}

TEST(TcpProbe, EndsAtItsTimeoutWhereNobodyAnswers) {
  std::uint16_t port = 0;
  const os::Fd listener = listen_tcp(port);
  // A full backlog drops further attempts; nobody accepts.
  const auto probe = tcp_probe("127.0.0.1", port);
  std::vector<os::Fd> waiting;
  for (int i = 0; i < 4; ++i) {
    os::Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    static_cast<void>(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address));
    waiting.push_back(std::move(fd));
  }
  const std::int64_t started = os::real_clock().mono_ns();
  const ProbeResult result = probe->check(milliseconds(50));
  const os::Duration took(os::real_clock().mono_ns() - started);
  EXPECT_FALSE(result.healthy);
  EXPECT_EQ(result.error->cause()->code(), Code::kTimeout);
  EXPECT_GE(took, milliseconds(50));
  EXPECT_LT(took, seconds(3));
}

TEST(TcpProbe, AnUnknownNameIsSaid) {
  const ProbeResult result = tcp_probe("no such host", 1)->check(seconds(5));
  EXPECT_FALSE(result.healthy);
  EXPECT_THAT(result.detail, HasSubstr("has no address"));
}

TEST(ExecProbe, ExitCodeZeroIsHealthyAndItsFirstLineIsTheDetail) {
  const auto probe = exec_probe({"sh", "-c", "echo role: master; echo more"});
  const ProbeResult result = probe->check(seconds(10));
  EXPECT_TRUE(result.healthy);
  EXPECT_EQ(result.detail, "exit code 0: role: master");
  EXPECT_EQ(probe->name(), "exec sh");
}

TEST(ExecProbe, OtherExitsSignalsTimeoutsAndMissingProgramsAreNot) {
  const ProbeResult code = exec_probe({"sh", "-c", "echo lag 90s >&2; exit 3"})->check(seconds(10));
  EXPECT_FALSE(code.healthy);
  EXPECT_THAT(code.error->message(), HasSubstr("exit code 3: lag 90s"));
  const ProbeResult killed = exec_probe({"sh", "-c", "kill -9 $$"})->check(seconds(10));
  EXPECT_THAT(killed.error->message(), HasSubstr("SIGKILL"));
  const ProbeResult slow = exec_probe({"sleep", "1000"})->check(milliseconds(30));
  EXPECT_EQ(slow.error->cause()->code(), Code::kTimeout);
  const ProbeResult missing = exec_probe({"/nonexistent/check"})->check(seconds(1));
  EXPECT_EQ(missing.error->cause()->code(), Code::kProgramNotFound);
  EXPECT_FALSE(exec_probe({})->check(seconds(1)).healthy);
}

}  // namespace
}  // namespace defib::recovery

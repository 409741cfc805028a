#include "defib/daemon/health_check.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <vector>

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;
using recovery::Health;

TEST(HttpTarget, AddressesAreTakenApart) {
  const auto full = HttpTarget::parse("http://localhost:8080/health?x=1");
  ASSERT_TRUE(full);
  EXPECT_EQ(full->host, "localhost");
  EXPECT_EQ(full->port, "8080");
  EXPECT_EQ(full->path, "/health?x=1");
  const auto bare = HttpTarget::parse("http://[::1]");
  ASSERT_TRUE(bare);
  EXPECT_EQ(bare->host, "::1");
  EXPECT_EQ(bare->port, "80");
  EXPECT_EQ(bare->path, "/");
}

TEST(HttpTarget, ImpossibleAddressesAreExplained) {
  for (const char* url : {"", "localhost", "ftp://x/", "https://x/", "http://", "http:///x",
                          "http://x:0/", "http://x:70000/", "http://x:8x/", "http://x:/",
                          "http://[::1/", "http://[::1]80/", "http://x/ y", "http://x/\r\ny"}) {
    const auto target = HttpTarget::parse(url);
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

// The changes of health that a server of these answers leads to, until `wanted` have come.
std::vector<std::pair<Health, std::string>> changes(std::vector<std::string> answers,
                                                    std::size_t wanted, HealthCheck check = {}) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, std::move(answers));
  if (check.url.empty()) check.url = server.url();
  check.interval = 2ms;
  std::vector<std::pair<Health, std::string>> seen;
  auto checker = HealthChecker::start(*loop, check, [&](Health health, const std::string& detail) {
    seen.emplace_back(health, detail);
    if (seen.size() == wanted) loop->stop();
  });
  EXPECT_TRUE(checker);
  loop->run_after(20s, [&] { loop->stop(); });
  EXPECT_TRUE(loop->run());
  return seen;
}

TEST(HealthChecker, AGoodAnswerIsHealthyAndThreeBadOnesAreNot) {
  const std::string good = "HTTP/1.1 204 No Content\r\n\r\n";
  const std::string bad = "HTTP/1.1 503 Service Unavailable\r\n\r\n";
  const auto seen = changes({good, bad, bad, good, bad, bad, bad, good}, 3);
  ASSERT_EQ(seen.size(), 3u);
  EXPECT_EQ(seen[0].first, Health::kHealthy);
  EXPECT_EQ(seen[1].first, Health::kUnhealthy);
  EXPECT_NE(seen[1].second.find("503"), std::string::npos);
  EXPECT_EQ(seen[2].first, Health::kHealthy);
}

TEST(HealthChecker, NonsenseAndSilenceAreUnhealthyWithTheReason) {
  EXPECT_NE(changes({"SSH-2.0-x\r\n"}, 1).at(0).second.find("not HTTP"), std::string::npos);
  HealthCheck impatient;
  impatient.timeout = 10ms;
  EXPECT_NE(changes({"silence"}, 1, impatient).at(0).second.find("no answer within"),
            std::string::npos);
}

TEST(HealthChecker, AClosedPortIsUnhealthy) {
  HealthCheck check;
  check.url = "http://127.0.0.1:1/";
  const auto seen = changes({"silence"}, 1, check);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].first, Health::kUnhealthy);
  EXPECT_NE(seen[0].second.find("refused"), std::string::npos);
}

TEST(HealthChecker, APausedCheckerDoesNotAsk) {
  auto loop = std::move(*os::EventLoop::create());
  Server server(*loop, {"HTTP/1.1 200 OK\r\n\r\n"});
  HealthCheck check;
  check.url = server.url();
  check.interval = 1ms;
  std::unique_ptr<HealthChecker> checker;
  checker = std::move(
      *HealthChecker::start(*loop, check, [&](Health, const std::string&) { checker->pause(); }));
  loop->run_after(50ms, [&] { loop->stop(); });
  EXPECT_TRUE(loop->run());
  EXPECT_EQ(server.connections(), 1);
}

}  // namespace
}  // namespace defib::daemon

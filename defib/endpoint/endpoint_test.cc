#include "defib/endpoint/endpoint.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "defib/daemon/http_helper.h"
#include "defib/daemon/metrics.h"
#include "defib/endpoint/exposition.h"

namespace defib::endpoint {
namespace {

using ::testing::HasSubstr;
using What = Route::What;

TEST(Endpoint, ARouteIsKnownOrNothing) {
  EXPECT_EQ(parse_route("/metrics").what, What::kMetrics);
  EXPECT_EQ(parse_route("/metrics?x=1").what, What::kMetrics);
  EXPECT_EQ(parse_route("/health/engine").service, "engine");
  EXPECT_EQ(parse_route("/ready").what, What::kReady);
  const Route change = parse_route("/services/engine-1.a/restart");
  EXPECT_EQ(change.what, What::kChange);
  EXPECT_EQ(change.service, "engine-1.a");
  EXPECT_EQ(change.op, "restart");
  for (const char* bad : {"",
                          "/",
                          "metrics",
                          "/metrics/",
                          "/metricsx",
                          "/health/",
                          "/health/a/b",
                          "/healthx",
                          "/health/..",
                          "/services/a",
                          "/services/a/",
                          "/services//stop",
                          "/services/a/kill",
                          "/services/../stop",
                          "/services/..%2f/stop",
                          "/services/a b/stop",
                          "/services/a/stop/",
                          "/services/.hidden/stop",
                          "/services/a\nb/stop",
                          "http://x/metrics"}) {
    EXPECT_EQ(parse_route(bad).what, What::kNone) << bad;
  }
  EXPECT_EQ(parse_route("/services/" + std::string(65, 'a') + "/stop").what, What::kNone);
}

TEST(Endpoint, TextsAreComparedWhole) {
  EXPECT_TRUE(equal_in_constant_time("abc", "abc"));
  EXPECT_TRUE(equal_in_constant_time("", ""));
  for (const char* other : {"", "ab", "abd", "Abc", "abcd"}) {
    EXPECT_FALSE(equal_in_constant_time("abc", other)) << other;
  }
}

TEST(Endpoint, OnlyThisMachineIsLocal) {
  for (const char* local : {"localhost", "localhost:9464", "127.0.0.1", "127.0.0.1:80",
                            "[::1]:9464", "[::1]", "LOCALHOST:1", "127.1.2.3"}) {
    EXPECT_TRUE(is_local_host(local)) << local;
  }
  for (const char* other : {"example.org", "127.0.0.1.example.org", "localhost.example.org",
                            "10.0.0.1", "[::2]:1", "evil", "1127.0.0.1"}) {
    EXPECT_FALSE(is_local_host(other)) << other;
  }
}

wire::HttpRequest request(const char* method, const char* url, const char* token = nullptr) {
  wire::HttpRequest made;
  made.method = method;
  made.url = url;
  made.headers = {{"Host", "localhost"}};
  if (token != nullptr) made.headers.emplace_back("Authorization", token);
  return made;
}

TEST(Endpoint, ChangingNeedsTheToken) {
  Endpoint::Options options;
  options.state_dir = "/nonexistent";
  Endpoint without(options);
  EXPECT_EQ(without.handle(request("POST", "/services/a/stop", "Bearer x")).status, 403);
  EXPECT_EQ(without.handle(request("POST", "/services/a/stop", "Bearer ")).status, 403);
  options.token = conf::Secret("right");
  Endpoint with(options);
  const auto refused = with.handle(request("POST", "/services/a/stop"));
  EXPECT_EQ(refused.status, 401);
  EXPECT_THAT(std::string(refused.header("WWW-Authenticate")), HasSubstr("Bearer"));
  EXPECT_EQ(with.handle(request("POST", "/services/a/stop", "Basic right")).status, 401);
  EXPECT_EQ(with.handle(request("POST", "/services/a/stop", "Bearer wrong")).status, 403);
  EXPECT_EQ(with.handle(request("POST", "/services/a/stop", "Bearer ")).status, 403);
  // Nobody answers there, but the token was right.
  EXPECT_EQ(with.handle(request("POST", "/services/a/stop", "bearer right")).status, 503);
  EXPECT_EQ(with.handle(request("GET", "/services/a/stop", "Bearer right")).status, 405);
  EXPECT_EQ(with.handle(request("DELETE", "/metrics")).status, 405);
  EXPECT_EQ(with.handle(request("GET", "/metrics")).status, 200);
  wire::HttpRequest rebound = request("GET", "/status");
  rebound.headers = {{"Host", "evil.example.org"}};
  EXPECT_EQ(with.handle(rebound).status, 403);
}

TEST(Endpoint, OthersSeeOnlyHealthWithoutTheToken) {
  Endpoint::Options options;
  options.state_dir = "/nonexistent";
  options.token = conf::Secret("right");
  options.loopback = false;
  Endpoint remote(options);
  EXPECT_EQ(remote.handle(request("GET", "/metrics")).status, 401);
  EXPECT_EQ(remote.handle(request("GET", "/status")).status, 401);
  EXPECT_EQ(remote.handle(request("GET", "/metrics", "Bearer right")).status, 200);
  EXPECT_EQ(remote.handle(request("GET", "/health")).status, 503);
}

TEST(Endpoint, AnAddressForOthersNeedsATokenAndAWord) {
  using daemon::HttpSettings;
  EXPECT_TRUE(daemon::check_http({"127.0.0.1:0", "", false}));
  EXPECT_TRUE(daemon::check_http({"[::1]:9464", "", false}));
  EXPECT_TRUE(daemon::check_http({"localhost:9464", "", false}));
  EXPECT_FALSE(daemon::check_http({"0.0.0.0:9464", "", false}));
  EXPECT_FALSE(daemon::check_http({"0.0.0.0:9464", "env:X", false}));
  EXPECT_FALSE(daemon::check_http({"[::]:9464", "", true}));
  EXPECT_TRUE(daemon::check_http({"0.0.0.0:9464", "env:X", true}));
  for (const char* bad : {"", "9464", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:99999", "::1:80",
                          "example.org:80", "127.0.0.1:80x"}) {
    EXPECT_FALSE(daemon::parse_listen(bad)) << bad;
  }
}

TEST(Endpoint, SeriesOfSeveralProcessesAreOne) {
  char name[] = "/tmp/endpoint-XXXXXX";
  const std::string dir = mkdtemp(name);
  for (const char* file : {"/counters", "/counters.engine"}) {
    daemon::Metrics metrics(dir + file);
    metrics.incident_opened("engine");
  }
  {
    daemon::Metrics again(dir + "/counters");
    process::StartInfo info;
    process::ExitReport exit;
    exit.service = info.service = "engine";
    exit.noticed_mono_ns = 1'000'000'000;
    info.mono_ns = 3'500'000'000;
    info.automatic = true;
    again.exited(exit, "abort");
    again.started(info);
  }
  Page page;
  page.counters = read_counters(dir);
  page.supervised = true;
  const auto status = wire::Json::parse(
      R"({"services":[{"name":"engine","state":"running","pid":1,"supervised":true,)"
      R"("started_at":"2026-11-20T13:05:58.500000000Z","memory_mb":1.5,"cpu_percent":50,)"
      R"("heartbeat_age_ms":1500}]})");
  page.services.push_back(service_from_status((*status)["services"].items()[0]));
  const std::string text = render(page);
  EXPECT_THAT(text, HasSubstr("\ndefib_supervisor_starts_total 3\n"));
  EXPECT_THAT(text, HasSubstr("defib_incidents_opened_total{service=\"engine\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_lost_seconds_total{service=\"engine\"} 2.5\n"));
  EXPECT_THAT(
      text,
      HasSubstr(
          "defib_service_restarts_total{service=\"engine\",cause=\"abort\",kind=\"at_once\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_cpu_ratio{service=\"engine\"} 0.5\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_heartbeat_age_seconds{service=\"engine\"} 1.5\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_memory_bytes{service=\"engine\"} 1572864\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_hangs_total{service=\"engine\"} 0\n"));
  EXPECT_THAT(text, HasSubstr("state=\"running\"} 1\n"));
  std::filesystem::remove_all(dir);
}

TEST(Endpoint, RestartsAreCountedByCauseAndKindInWhateverOrderTheirEventsCome) {
  char dir[] = "/tmp/defib-endpoint-XXXXXX";
  ASSERT_NE(::mkdtemp(dir), nullptr);
  {
    daemon::Metrics metrics(std::string(dir) + "/counters");
    const auto ended = [&](std::uint64_t generation, os::Duration delay) {
      process::ExitReport exit;
      exit.service = "engine";
      exit.generation = generation;
      exit.noticed_mono_ns = static_cast<std::int64_t>(generation) * 1'000'000'000;
      exit.restart_delay = delay;
      metrics.exited(exit, "abort");
    };
    const auto began = [&](std::uint64_t generation) {
      process::StartInfo start;
      start.service = "engine";
      start.generation = generation;
      start.mono_ns = static_cast<std::int64_t>(generation) * 1'000'000'000 - 500'000'000;
      start.automatic = true;
      metrics.started(start);
    };
    const auto promoted = [&](std::uint64_t generation) {
      process::PromotionReport promotion;
      promotion.service = "engine";
      promotion.generation = generation;
      promotion.old_generation = generation - 1;
      metrics.promoted(promotion);
    };
    ended(1, os::Duration(0));
    began(2);
    ended(2, std::chrono::seconds(1));
    began(3);
    ended(3, std::chrono::seconds(1));
    metrics.slow_lane("engine");
    began(4);
    began(5);  // while the one before it dies
    ended(4, os::Duration(0));
    ended(5, os::Duration(0));
    promoted(6);
    promoted(7);  // before the end of the one before it is known
    ended(6, os::Duration(0));
  }
  Page page;
  page.counters = read_counters(dir);
  const auto status = wire::Json::parse(
      R"({"services":[{"name":"engine","state":"backing_off","supervised":true,"slow_lane":true,)"
      R"("log_bytes_dropped":70,"log_dropped_by_rate":50,"journal_dropped":3}]})");
  page.services.push_back(service_from_status((*status)["services"].items()[0]));
  const std::string text = render(page);
  const auto restarts = [](std::string_view kind, int count) {
    return HasSubstr(fmt::format(
        "defib_service_restarts_total{{service=\"engine\",cause=\"abort\",kind=\"{}\"}} {}\n", kind,
        count));
  };
  EXPECT_THAT(text, restarts("at_once", 2));
  EXPECT_THAT(text, restarts("delayed", 1));
  EXPECT_THAT(text, restarts("slow_lane", 1));
  EXPECT_THAT(text, restarts("promotion", 2));
  EXPECT_THAT(text, HasSubstr("defib_service_slow_lane{service=\"engine\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("defib_service_slow_lanes_total{service=\"engine\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("dropped_bytes_total{service=\"engine\",reason=\"rate\"} 50\n"));
  EXPECT_THAT(text, HasSubstr("dropped_bytes_total{service=\"engine\",reason=\"disk\"} 20\n"));
  EXPECT_THAT(text, HasSubstr("journal_dropped_lines_total{service=\"engine\"} 3\n"));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace defib::endpoint

// Starts, stops, reloads and crashes of several services with real processes.

#include "defib/daemon/host.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "defib/os/files.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;
using process::ServiceState;
using testing::ElementsAre;
using testing::HasSubstr;

class HostTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib-host-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    auto loop = os::EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    make_host();
  }
  void TearDown() override {
    if (host_) {
      bool done = false;
      host_->shutdown([&] { done = true; });
      until([&] { return done; });
    }
    host_.reset();
    std::filesystem::remove_all(dir_);
  }

  void make_host() {
    Host::Options options;
    options.state_dir = dir_ + "/state";
    options.on_reload = [this](bool restart) { return host_->apply(next_, restart); };
    auto host = Host::create(*loop_, std::move(options));
    ASSERT_TRUE(host) << host.error().to_text();
    host_ = std::move(*host);
    ASSERT_TRUE(host_->listen(socket()));
  }
  std::string socket() const { return dir_ + "/control"; }

  // Each start and graceful end of a service adds a line to the file `order`.
  ServiceConfig service(const std::string& name, std::vector<std::string> required = {},
                        std::vector<std::string> after = {}) {
    ServiceConfig config;
    config.spec.name = name;
    const std::string log = dir_ + "/order";
    config.spec.argv = {"/bin/sh", "-c",
                        fmt::format("echo +{0} >> {1}; trap 'echo -{0} >> {1}; exit 0' TERM; "
                                    "while :; do sleep 1000 & wait; done",
                                    name, log)};
    config.spec.capture = process::CaptureMode::kNone;
    config.spec.restart_delay = os::Duration(0);
    config.required = std::move(required);
    config.after = std::move(after);
    return config;
  }
  std::vector<std::string> order(std::ptrdiff_t from = 0) const {
    std::vector<std::string> lines;
    const auto text = os::read_file(os::real_files(), dir_ + "/order");
    std::string_view rest = text ? std::string_view(*text) : std::string_view();
    while (!rest.empty()) {
      lines.emplace_back(rest.substr(0, rest.find('\n')));
      rest.remove_prefix(std::min(rest.find('\n') + 1, rest.size()));
    }
    lines.erase(lines.begin(), lines.begin() + std::min(from, std::ssize(lines)));
    return lines;
  }
  void add(const ServiceConfig& config) {
    const auto added = host_->add(config);
    ASSERT_TRUE(added) << added.error().to_text();
  }
  process::ServiceStatus status(const std::string& name) {
    auto status = host_->supervisor().status(name);
    return status ? *status : process::ServiceStatus{};
  }
  bool runs(const std::string& name) { return status(name).state == ServiceState::kRunning; }
  void until(const std::function<bool()>& condition) {
    bool held = condition();
    if (held) return;
    const auto poll = loop_->run_every(1ms, [&] {
      held = condition();
      if (held) loop_->stop();
    });
    const auto limit = loop_->run_after(20s, [&] { loop_->stop(); });
    ASSERT_TRUE(loop_->run());
    loop_->cancel(poll);
    loop_->cancel(limit);
    ASSERT_TRUE(held) << "what was waited for did not happen";
  }
  // A request over the control socket, asked by a thread of its own.
  wire::Json ask(const std::string& op, const std::string& name = {}, bool restart = false) {
    std::optional<Result<wire::Json>> answer;
    std::jthread thread([&] {
      auto got = call_control(
          socket(), wire::Json::object({{"op", op}, {"name", name}, {"restart", restart}}), 20s);
      loop_->post([&, got] { answer = got; });
    });
    until([&] { return answer.has_value(); });
    return *answer ? **answer : wire::to_json(answer->error());
  }

  std::string dir_;
  std::unique_ptr<os::EventLoop> loop_;
  std::vector<ServiceConfig> next_;
  std::unique_ptr<Host> host_;
};

TEST_F(HostTest, ServicesStartBehindWhatTheyRequireAndStopBeforeIt) {
  add(service("web", {"engine"}));
  add(service("engine", {"db"}, {"log"}));
  add(service("log"));
  add(service("db"));
  until([&] { return order().size() == 4 && runs("web"); });
  const auto started = [&](const std::string& name) { return status(name).started_wall_ns; };
  EXPECT_LT(started("db"), started("engine"));
  EXPECT_LT(started("log"), started("engine"));
  EXPECT_LT(started("engine"), started("web"));
  EXPECT_TRUE(ask("stop", "db")["ok"].as_bool());
  EXPECT_THAT(order(4), ElementsAre("-web", "-engine", "-db"));
  EXPECT_TRUE(runs("log")) << "`after` stops nothing";
  EXPECT_TRUE(ask("start", "web")["ok"].as_bool());
  EXPECT_LT(started("db"), started("engine"));
  EXPECT_LT(started("engine"), started("web"));
}

TEST_F(HostTest, ADependantWaitsUntilWhatItRequiresIsReadyAndNotJustStarted) {
  ServiceConfig db = service("db");
  db.spec.expects_ready = true;
  db.spec.argv[2] = fmt::format(
      "echo +db >> {0}/order; while [ ! -e {0}/go ]; do sleep 0.01; done; "
      "exec {1} notify",
      dir_, os::join_path(os::own_program_dir(), "process_victim"));
  add(service("engine", {"db"}));
  add(db);
  until([&] { return !order().empty(); });
  const wire::Json before = ask("status");
  std::string waits;
  for (const wire::Json& one : before["services"].items()) {
    if (one["name"].as_string() == "engine") waits = one["waits_for"].as_string();
  }
  EXPECT_THAT(waits, HasSubstr("requires 'db', which is starting"));
  EXPECT_FALSE(runs("engine"));
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), dir_ + "/go", ""));
  until([&] { return runs("engine") && order().size() == 2; });
  EXPECT_THAT(order(), ElementsAre("+db", "+engine"));
}

TEST_F(HostTest, ARequiredServiceThatFailsIsToldToWhoAskedAndItsComingStartsTheRest) {
  ServiceConfig db = service("db");
  db.spec.argv[2] = fmt::format("[ -e {0}/go ] || exit 3; exec sleep 1000", dir_);
  db.spec.max_restarts = 1;
  add(db);
  until([&] { return status("db").state == ServiceState::kFailed; });
  add(service("engine", {"db"}));
  const wire::Json answer = ask("start", "engine");
  EXPECT_THAT(answer["message"].as_string(), HasSubstr("requires 'db', which is failed"))
      << answer.dump();
  EXPECT_EQ(status("engine").pid, 0);
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), dir_ + "/go", ""));
  EXPECT_TRUE(ask("reset", "db")["ok"].as_bool());
  until([&] { return runs("engine"); });
}

TEST_F(HostTest, WhoWantsItIsRestartedWithWhatItRequires) {
  ServiceConfig engine = service("engine", {"db"});
  engine.restart_with = true;
  add(engine);
  add(service("other", {"db"}));
  add(service("db"));
  until([&] { return runs("engine") && runs("other"); });
  const auto before = status("engine"), other = status("other");
  ASSERT_EQ(::kill(status("db").pid, SIGKILL), 0);
  until([&] { return status("engine").generation > before.generation && runs("engine"); });
  EXPECT_EQ(status("other").pid, other.pid);
  EXPECT_EQ(status("engine").restarts_in_window, 0) << "it did not crash";
}

TEST_F(HostTest, AReloadTouchesOnlyWhatChangedAndSaysWhatNeedsAStart) {
  const ServiceConfig a = service("a"), b = service("b"), c = service("c");
  for (const auto& one : {a, b, c}) add(one);
  until([&] { return runs("a") && runs("b") && runs("c"); });
  const auto pid_a = status("a").pid, pid_b = status("b").pid;
  ServiceConfig live = b, program = c;
  live.spec.max_restarts = 77;
  program.spec.env = {{"X", "1"}};
  next_ = {a, live, program, service("d", {"c"})};
  wire::Json answer = ask("reload");
  EXPECT_EQ(answer["changed"].dump(), R"(["b","c"])") << answer.dump();
  EXPECT_EQ(answer["needs_restart"].dump(), R"(["c"])");
  EXPECT_EQ(answer["added"].dump(), R"(["d"])");
  until([&] { return runs("d"); });
  EXPECT_EQ(status("a").pid, pid_a);
  EXPECT_EQ(status("b").pid, pid_b);
  EXPECT_EQ(status("b").max_restarts, 77);
  const auto old = status("c");
  answer = ask("reload");
  EXPECT_EQ(answer["changed"].dump(), "[]");
  EXPECT_EQ(answer["needs_restart"].dump(), R"(["c"])") << "until it is restarted";
  answer = ask("reload", {}, true);
  EXPECT_EQ(answer["restarted"].dump(), R"(["c"])");
  until([&] { return runs("c") && status("c").generation > old.generation; });
  EXPECT_EQ(ask("reload")["needs_restart"].dump(), "[]");
  EXPECT_EQ(status("a").pid, pid_a);
  next_ = {a};
  EXPECT_EQ(ask("reload")["removed"].dump(), R"(["b","c","d"])");
  until([&] { return host_->supervisor().status().size() == 1; });
  EXPECT_EQ(status("a").pid, pid_a);
}

TEST_F(HostTest, AReloadThatCannotHaveOneOfItsServicesChangesNothing) {
  add(service("a"));
  until([&] { return runs("a"); });
  // Another supervisor has the name.
  auto loop = os::EventLoop::create();
  process::SupervisorObserver nobody;
  auto other = process::Supervisor::create(**loop, {dir_ + "/state", "", nullptr}, nobody);
  ASSERT_TRUE(other);
  ASSERT_TRUE((*other)->add(service("taken").spec));
  ServiceConfig changed = service("a");
  changed.spec.max_restarts = 3;
  next_ = {changed, service("fresh"), service("taken")};
  const wire::Json answer = ask("reload");
  EXPECT_EQ(answer["code"].as_int(), static_cast<int>(Code::kAlreadySupervised)) << answer.dump();
  EXPECT_EQ(status("a").max_restarts, 10);
  until([&] { return host_->supervisor().status().size() == 1; });
}

TEST_F(HostTest, AServiceThatIsTakenOutAndPutBackWhileItStopsComesBack) {
  ServiceConfig slow = service("a");
  slow.spec.argv[2] = fmt::format(
      "trap 'sleep 0.3; exit 0' TERM; echo +a >> {}/order; "
      "while :; do sleep 1000 & wait; done",
      dir_);
  add(slow);
  until([&] { return order().size() == 1; });
  next_ = {};
  EXPECT_EQ(ask("reload")["removed"].dump(), R"(["a"])");
  EXPECT_EQ(status("a").state, ServiceState::kStopping);
  next_ = {slow};
  ask("reload");
  until([&] { return order().size() == 2 && runs("a"); });
}

TEST_F(HostTest, AStartWhileItStopsAndAStopWhileItWaitsAreDone) {
  add(service("db"));
  add(service("engine", {"db"}));
  until([&] { return runs("engine"); });
  const auto generation = status("engine").generation;
  ASSERT_TRUE(host_->supervisor().stop("engine"));
  EXPECT_TRUE(ask("start", "engine")["ok"].as_bool());
  until([&] { return runs("engine") && status("engine").generation == generation + 1; });
  EXPECT_TRUE(ask("stop", "db")["ok"].as_bool());
  EXPECT_EQ(status("engine").state, ServiceState::kStopped);
}

}  // namespace
}  // namespace defib::daemon

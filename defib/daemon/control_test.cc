#include "defib/daemon/control.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "defib/os/files.h"
#include "defib/os/socket.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;

// A server on a loop of its own thread.
class Control : public ::testing::Test {
 protected:
  Control() {
    char name[] = "/tmp/control-XXXXXX";
    dir_ = mkdtemp(name);
    path_ = dir_ + "/control.sock";
    loop_ = std::move(*os::EventLoop::create());
  }
  ~Control() override {
    loop_->stop();
    if (thread_.joinable()) thread_.join();
    server_.reset();
    rmdir(dir_.c_str());
  }
  void serve(ControlServer::Handler handler) {
    server_ = std::move(*ControlServer::listen(*loop_, path_, std::move(handler)));
    thread_ = std::thread([this] { EXPECT_TRUE(loop_->run()); });
  }
  std::string dir_, path_;
  std::unique_ptr<os::EventLoop> loop_;
  std::unique_ptr<ControlServer> server_;
  std::thread thread_;
};

TEST_F(Control, ARequestIsAnswered) {
  serve([](const wire::Json& request, ControlServer::Answer answer) {
    answer(wire::Json::object({{"echo", request["op"]}}));
  });
  for (int i = 0; i < 100; ++i) {
    const auto answer =
        call_control(path_, wire::Json::object({{"op", std::string(i * 1000, 'x')}}), 5s);
    ASSERT_TRUE(answer) << answer.error().to_text();
    EXPECT_EQ((*answer)["echo"].as_string().size(), static_cast<std::size_t>(i) * 1000);
  }
}

TEST_F(Control, AnAnswerMayComeLater) {
  serve([this](const wire::Json&, ControlServer::Answer answer) {
    loop_->run_after(20ms, [answer] { answer(wire::Json::object({{"ok", true}})); });
  });
  EXPECT_TRUE(call_control(path_, wire::Json::object(), 5s));
}

TEST_F(Control, AnErrorTravelsWithItsCauseAndGuidance) {
  serve([](const wire::Json&, ControlServer::Answer answer) {
    const Error error = Error(Code::kCrashLoop, "it crashes")
                            .with("service", "engine")
                            .because(Error(Code::kBudgetExhausted, "10 restarts in 1h"))
                            .suggest("look at it");
    answer(wire::Json::object({{"error", wire::to_json(error)}}));
  });
  const auto answer = call_control(path_, wire::Json::object(), 5s);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kCrashLoop);
  EXPECT_EQ(answer.error().field("service"), "engine");
  EXPECT_EQ(answer.error().suggested_action(), "look at it");
  ASSERT_NE(answer.error().cause(), nullptr);
  EXPECT_EQ(answer.error().cause()->code(), Code::kBudgetExhausted);
}

TEST_F(Control, ARequestOfAnotherUserIsNotHeard) {
  if (geteuid() != 0) GTEST_SKIP() << "only root can be another user";
  std::atomic<int> requests = 0;
  serve([&](const wire::Json&, ControlServer::Answer answer) {
    ++requests;
    answer(wire::Json::object({{"ok", true}}));
  });
  // Where the directory and the socket are open the peer's identity decides alone.
  ASSERT_EQ(chmod(dir_.c_str(), 0777), 0);
  ASSERT_EQ(chmod(path_.c_str(), 0777), 0);
  std::thread([&] {
    constexpr int kNobody = 65534;
    // The kernel's call, unlike the library's, is of this thread alone.
    ASSERT_EQ(syscall(SYS_setresuid, kNobody, kNobody, kNobody), 0);
    const auto answer = call_control(path_, wire::Json::object(), 20s);
    ASSERT_FALSE(answer);
    EXPECT_NE(answer.error().code(), Code::kDaemonNotRunning);
    EXPECT_NE(answer.error().code(), Code::kTimeout);
  }).join();
  EXPECT_EQ(requests, 0);
  EXPECT_TRUE(call_control(path_, wire::Json::object(), 5s));
}

TEST_F(Control, NobodyThereIsDaemonNotRunning) {
  const auto answer = call_control(path_, wire::Json::object(), 1s);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kDaemonNotRunning);
}

TEST_F(Control, ASilentServerIsATimeout) {
  serve([](const wire::Json&, ControlServer::Answer) {});
  const auto answer = call_control(path_, wire::Json::object(), 30ms);
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().code(), Code::kTimeout);
}

TEST_F(Control, ACallerThatLeavesOrTalksNonsenseHarmsNobody) {
  ControlServer::Answer late;
  serve([&](const wire::Json& request, ControlServer::Answer answer) {
    if (request["op"].as_string() == "late") {
      late = answer;
    } else {
      if (late) late(wire::Json::object());
      answer(wire::Json::object({{"ok", true}}));
    }
  });
  EXPECT_FALSE(call_control(path_, wire::Json::object({{"op", "late"}}), 20ms));
  for (const std::string_view bytes : {std::string_view("nonsense nonsense nonsense"),
                                       std::string_view("\xff\xff\xff\xff\0\0\0\0", 8)}) {
    auto fd = os::connect_unix(path_, os::SocketKind::kStream);
    ASSERT_TRUE(fd);
    EXPECT_EQ(write(fd->get(), bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
  }
  EXPECT_TRUE(call_control(path_, wire::Json::object(), 5s));
}

}  // namespace
}  // namespace defib::daemon

// What the supervising process does for alerts, with the real sender and a disk that takes nothing.

#include "defib/daemon/alerter.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "defib/os/files.h"
#include "defib/os/process_tree.h"

namespace defib::daemon {
namespace {

using namespace std::chrono_literals;
using ::testing::ElementsAre;

class AlerterTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/defib-alerter-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    auto loop = os::EventLoop::create();
    ASSERT_TRUE(loop);
    loop_ = std::move(*loop);
    receiver_.name = "page";
    receiver_.kind = alert::Kind::kCommand;
    receiver_.max_per_minute = receiver_.max_per_service = 10'000;
    // One line a message; while there is no gate it says who it is and hangs.
    receiver_.command = {
        "/bin/sh", "-c",
        fmt::format("if [ -e {0}/shut ]; then echo $PPID $$ >{0}/hangs.new; "
                    "mv {0}/hangs.new {0}/hangs; exec sleep 1000; fi; cat >>{0}/told",
                    dir_)};
  }
  void TearDown() override {
    // Nobody may write there any more, nor be started.
    EXPECT_TRUE(alerter_->set_receivers({}));
    // Its end is taken note of by the loop; nothing is left to the tests behind these.
    until([&] { return !sender_runs() && os::process_descendants(::getpid()).empty(); });
    alerter_.reset();
    std::filesystem::remove_all(dir_);
  }

  void start() {
    alerter_ = std::make_unique<Alerter>(*loop_, os::real_files(), dir_ + "/state");
    ASSERT_TRUE(alerter_->set_receivers({receiver_}));
  }
  std::string alerts(const std::string& name) const { return dir_ + "/state/alerts/" + name; }
  // Directories in the files' places: neither book nor queue can be written, as on a full disk.
  void fill_the_disk() {
    for (const char* name : {"queue", "book.tmp"}) {
      std::filesystem::remove(alerts(name));
      std::filesystem::create_directories(alerts(name));
    }
  }
  void free_the_disk() {
    for (const char* name : {"queue", "book.tmp"}) std::filesystem::remove(alerts(name));
  }
  void tell(const std::string& service) {
    alert::Event event;
    event.service = service;
    event.cause = "abort";
    alerter_->tell(event);
  }
  // "service status" of each message, in the order of their arrival, without repeats.
  std::vector<std::string> told() const {
    std::vector<std::string> services;
    std::ifstream file(dir_ + "/told");
    for (std::string line; std::getline(file, line) && !file.eof();) {
      const auto json = wire::Json::parse(line);
      EXPECT_TRUE(json) << line;
      if (json && !(*json)["repeat"].as_bool())
        services.emplace_back((*json)["service"].as_string());
    }
    return services;
  }
  bool sender_runs() const {
    const auto file = os::real_files().open(alerts("sender.lock"), os::OpenMode::kWrite);
    return file && !(*file)->try_lock();
  }
  void until(const std::function<bool()>& condition) {
    bool held = condition();
    if (held) return;
    const auto poll = loop_->run_every(5ms, [&] {
      held = condition();
      if (held) loop_->stop();
    });
    const auto limit = loop_->run_after(20s, [&] { loop_->stop(); });
    ASSERT_TRUE(loop_->run());
    loop_->cancel(poll);
    loop_->cancel(limit);
    ASSERT_TRUE(held) << "what was waited for did not happen";
  }
  void until_told(std::size_t messages) {
    until([&] { return told().size() >= messages; });
  }

  std::string dir_;
  std::unique_ptr<os::EventLoop> loop_;
  alert::Receiver receiver_;
  std::unique_ptr<Alerter> alerter_;
};

// Each further sender is handed the earlier events again, and what is older is sent first.
TEST_F(AlerterTest, OnAFullDiskNothingIsSentTwice) {
  start();
  fill_the_disk();
  for (const std::size_t count : {1U, 2U, 3U}) {
    tell(fmt::format("s{}", count));
    until_told(count);
  }
  EXPECT_THAT(told(), ElementsAre("s1", "s2", "s3"));
  // What was told is written down as soon as it can be.
  free_the_disk();
  until([&] { return std::filesystem::exists(alerts("book")); });
  tell("s4");
  until_told(4);
  EXPECT_THAT(told(), ElementsAre("s1", "s2", "s3", "s4"));
  EXPECT_EQ(alerter_->dropped(), 0U);
}

TEST_F(AlerterTest, OnAFullDiskAnEventReachesASenderThatStays) {
  receiver_.repeat_interval = 1s;  // there is always something due soon
  start();
  fill_the_disk();
  tell("s1");
  until_told(1);
  EXPECT_TRUE(sender_runs());
  tell("s2");
  until_told(2);
  EXPECT_THAT(told(), ElementsAre("s1", "s2"));
}

TEST_F(AlerterTest, OnAFullDiskMoreEventsAreToldThanAreHeld) {
  start();
  fill_the_disk();
  std::size_t count = 0;
  for (const std::size_t more : {50U, 50U, 50U}) {
    for (std::size_t i = 0; i < more; ++i) tell(fmt::format("s{}", ++count));
    until_told(count);
  }
  EXPECT_EQ(told().size(), 150U);
  EXPECT_EQ(alerter_->dropped(), 0U);
}

TEST_F(AlerterTest, OnAFullDiskAKilledSenderLosesNothing) {
  std::ofstream(dir_ + "/shut").flush();
  start();
  fill_the_disk();
  tell("s1");
  until([&] { return std::filesystem::exists(dir_ + "/hangs"); });
  pid_t sender = 0, command = 0;
  std::ifstream(dir_ + "/hangs") >> sender >> command;
  ASSERT_GT(sender, 1);
  ASSERT_GT(command, 1);
  std::filesystem::remove(dir_ + "/shut");
  // As if it had been killed while it wrote there.
  std::filesystem::resize_file(fmt::format("/proc/{}/fd/4", sender), 1);
  ASSERT_EQ(::kill(sender, SIGKILL), 0);
  ASSERT_EQ(::kill(command, SIGKILL), 0);
  until_told(1);
  tell("s2");
  until_told(2);
  EXPECT_THAT(told(), ElementsAre("s1", "s2"));
}

// A reload ends the sender that runs.
TEST_F(AlerterTest, OnAFullDiskOtherReceiversHearWhatWaits) {
  std::ofstream(dir_ + "/shut").flush();
  receiver_.timeout = 200ms;
  start();
  fill_the_disk();
  tell("s1");
  until([&] { return std::filesystem::exists(dir_ + "/hangs"); });
  std::filesystem::remove(dir_ + "/shut");
  ASSERT_TRUE(alerter_->set_receivers({receiver_}));
  until_told(1);
  EXPECT_THAT(told(), ElementsAre("s1"));
}

TEST_F(AlerterTest, ATimeThatWasNotedBeforeTheClockWasSetBackIsNotWaitedFor) {
  start();
  std::ofstream(alerts("due")) << loop_->clock().wall_ns() + std::chrono::nanoseconds(8h).count()
                               << '\n';
  alerter_->wake();
  until([&] {
    const auto due = os::read_file(os::real_files(), alerts("due"));
    return due && *due == "0\n";
  });
}

}  // namespace
}  // namespace defib::daemon

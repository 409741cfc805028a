// The documentation's example program, as it stands there: it compiles, and does what is said of
// it.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <thread>

#include "defib/os/process.h"
#include "defib/process/manager_test_util.h"
#include "defib/process/persisted_state.h"

namespace defib::process {
namespace {

class Example : public testing::Test {
 protected:
  os::Child start(std::vector<std::string> arguments) {
    os::SpawnOptions options;
    options.argv = {os::own_program_dir() + "/process_example_service"};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.env = {{"LOG_LEVEL", "off"}, {"NOTIFY_SOCKET", ""}};
    options.working_directory = dir_.path();
    const os::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
    options.fds = {{null.get(), 0}, {null.get(), 1}, {null.get(), 2}};
    auto child = os::spawn(options);
    EXPECT_TRUE(child);
    return child ? std::move(*child) : os::Child();
  }
  PersistedState state() {
    auto opened = PersistedState::open_or_set_aside(os::real_files(), dir_ / "system_state.json");
    EXPECT_TRUE(opened.damage);
    return std::move(opened.state);
  }
  TemporaryDirectory dir_;
};

TEST_F(Example, StandsInTheDocumentationAsItIsCompiled) {
  const auto program = os::read_file(
      os::real_files(), DEFIB_SOURCE_DIR "/defib/process/testcases/example_service.cc");
  const auto page = os::read_file(os::real_files(), DEFIB_SOURCE_DIR "/docs/agent.md");
  ASSERT_TRUE(program && page);
  EXPECT_NE(page->find("```cpp\n" + *program + "```\n"), std::string::npos)
      << "copy testcases/example_service.cc into docs/agent.md";
}

TEST_F(Example, RecoversFromItsFailuresAndStopsCleanly) {
  EXPECT_TRUE(start({"30"}).wait().success());
  const PersistedState first = state();
  EXPECT_TRUE(first.stopped_cleanly());
  const std::int64_t orders = first.value()["orders"].as_int();
  EXPECT_EQ(orders, 23);  // of 30 turns; after every third order one fails and is recovered from
  EXPECT_TRUE(first.value()["last_error"].is_null());
  EXPECT_EQ(first.value()["recovery_attempts"].as_int(-1), 0);
  EXPECT_EQ(first.value()["active_positions"].as_int(-1), 0);
  EXPECT_TRUE(start({"1"}).wait().success());
  EXPECT_EQ(state().value()["orders"].as_int(), orders + 1);
}

TEST_F(Example, EndsBySigtermAndCountsAKill) {
  for (const int signal : {SIGTERM, SIGINT, SIGKILL}) {
    os::Child service = start({});
    while (!os::real_files().exists(dir_ / "system_state.json") ||
           state().value()["status"].as_string() == "stopped") {
      std::this_thread::yield();
    }
    ASSERT_TRUE(service.signal(signal));
    EXPECT_EQ(service.wait().success(), signal != SIGKILL) << signal;
    EXPECT_EQ(state().stopped_cleanly(), signal != SIGKILL) << signal;
  }
}

TEST_F(Example, RefusesALogLevelThatThereIsNot) {
  const auto run = os::run_command(
      {os::own_program_dir() + "/process_example_service", "--log-level=loud"}, 10'000);
  ASSERT_TRUE(run);
  EXPECT_EQ(run->status.code, 2);
  EXPECT_NE(run->text.find("'loud' of --log-level is no log level"), std::string::npos)
      << run->text;
  EXPECT_NE(run->text.find("debug, info, warning, error, off"), std::string::npos) << run->text;
}

}  // namespace
}  // namespace defib::process

#include "defib/alert/receiver.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

namespace defib::alert {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Parsed {
  std::vector<Receiver> receivers;
  Result<> done;
};

Parsed parse(const std::string& text) {
  auto document = conf::Document::parse_text(text, "defib.toml");
  if (!document) return {{}, document.error()};
  conf::Section root = document->root();
  Parsed parsed;
  parsed.receivers = read_receivers(root);
  parsed.done = document->finish();
  return parsed;
}

TEST(AlertReceiver, IsReadWithItsDefaults) {
  setenv("ALERT_TEST_SECRET", "hush", 1);
  const Parsed parsed = parse(R"(
[alert.hook]
kind = "webhook"
url = "https://example.org/x"
secret = "env:ALERT_TEST_SECRET"
min_severity = "warning"
services = ["engine"]
)");
  ASSERT_TRUE(parsed.done) << parsed.done.error().to_text();
  ASSERT_EQ(parsed.receivers.size(), 1U);
  const Receiver& hook = parsed.receivers[0];
  EXPECT_EQ(hook.name, "hook");
  EXPECT_EQ(hook.secret, "env:ALERT_TEST_SECRET");
  EXPECT_TRUE(hook.wants(Severity::kWarning, "engine"));
  EXPECT_FALSE(hook.wants(Severity::kInfo, "engine"));
  EXPECT_FALSE(hook.wants(Severity::kCritical, "other"));
}

TEST(AlertReceiver, MistakesAreToldWithTheirPlace) {
  setenv("ALERT_TEST_SECRET", "hush", 1);
  struct Case {
    const char* text;
    const char* says;
  };
  const Case cases[] = {
      {"[alert.a]\nurl = \"http://x\"\n", "kind"},
      {"[alert.a]\nkind = \"pager\"\n", "kind"},
      {"[alert.a]\nkind = \"webhook\"\n", "url"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"ftp://x\"\n", "http://"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"http://u:p@x/\"\n", "password"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"http://x\"\nsecret = \"hunter2\"\n", "secret"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"http://x\"\nsecret = \"env:NOT_THERE_AT_ALL\"\n",
       "NOT_THERE_AT_ALL"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"http://x\"\nfromat = \"plain\"\n", "format"},
      {"[alert.a]\nkind = \"webhook\"\nurl = \"http://x\"\nmin_severity = \"high\"\n", "severity"},
      {"[alert.a]\nkind = \"email\"\nserver = \"x:25\"\nfrom = \"a@b\"\nto = [\"c@d\"]\n",
       "smtp://"},
      {"[alert.a]\nkind = \"email\"\nserver = \"smtp://x\"\nfrom = \"a\"\nto = [\"c@d\"]\n",
       "mail"},
      {"[alert.a]\nkind = \"email\"\nserver = \"smtp://x\"\nfrom = \"a@b\"\nto = "
       "[\"c@d>\\r\\n\"]\n",
       "mail"},
      {"[alert.a]\nkind = \"email\"\nserver = \"smtp://x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\n"
       "user = \"env:ALERT_TEST_SECRET\"\n",
       "together"},
      {"[alert.a]\nkind = \"email\"\nserver = \"smtp://x\"\nfrom = \"a@b\"\nto = [\"c@d\"]\n"
       "tls = \"none\"\nuser = \"env:ALERT_TEST_SECRET\"\npassword = \"env:ALERT_TEST_SECRET\"\n",
       "TLS"},
      {"[alert.a]\nkind = \"command\"\n", "command"},
      {"[alert.a]\nkind = \"command\"\ncommand = []\n", "program"},
  };
  for (const Case& one : cases) {
    const Parsed parsed = parse(one.text);
    ASSERT_FALSE(parsed.done) << one.text;
    EXPECT_THAT(parsed.done.error().to_text(), HasSubstr(one.says)) << one.text;
    EXPECT_THAT(parsed.done.error().to_text(), HasSubstr("defib.toml:")) << one.text;
    EXPECT_THAT(parsed.done.error().to_text(), Not(HasSubstr("hunter2")));
  }
}

TEST(AlertReceiver, SurvivesItsFileWhichHoldsNoSecret) {
  char name[] = "/tmp/alert-receiver-XXXXXX";
  const std::string dir = mkdtemp(name);
  const std::string secret = dir + "/secret";
  std::ofstream(secret) << "hush-hush\n";
  chmod(secret.c_str(), 0600);
  const Parsed parsed = parse(
      "[alert.m]\nkind = \"email\"\nserver = \"smtps://mail.example.org\"\nfrom = \"a@b.org\"\n"
      "to = [\"c@d.org\", \"e@f.org\"]\nuser = \"file:" +
      secret + "\"\npassword = \"file:" + secret +
      "\"\nescalate_after = \"15m\"\nmax_per_minute = 3\n"
      "[alert.c]\nkind = \"command\"\ncommand = [\"page\", \"me\"]\nsend_resolved = false\n");
  ASSERT_TRUE(parsed.done) << parsed.done.error().to_text();
  ASSERT_TRUE(save_receivers(os::real_files(), dir, parsed.receivers));
  const auto loaded = load_receivers(os::real_files(), dir);
  ASSERT_TRUE(loaded);
  EXPECT_EQ(*loaded, parsed.receivers);
  const std::string text = *os::read_file(os::real_files(), dir + "/alerts/receivers.json");
  EXPECT_THAT(text, Not(HasSubstr("hush-hush")));
  struct stat status = {};
  ASSERT_EQ(stat((dir + "/alerts/receivers.json").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777U, 0600U);
  // A secret that others may read is refused.
  chmod(secret.c_str(), 0644);
  EXPECT_FALSE(parse("[alert.m]\nkind = \"webhook\"\nurl = \"file:" + secret + "\"\n").done);
  std::filesystem::remove_all(dir);
}

TEST(AlertReceiver, ImpossibleNumbersInItsFileAreBounded) {
  char name[] = "/tmp/alert-receiver-XXXXXX";
  const std::string dir = mkdtemp(name);
  Receiver receiver;
  receiver.name = "r";
  ASSERT_TRUE(save_receivers(os::real_files(), dir, {receiver}));
  const std::string path = dir + "/alerts/receivers.json";
  auto json = wire::Json::parse(*os::read_file(os::real_files(), path));
  ASSERT_TRUE(json);
  wire::Json hostile = (*json)["receivers"].items().at(0);
  hostile.set("max_per_minute", 0);
  hostile.set("max_per_service", -5);
  hostile.set("fold_window_ns", INT64_MAX);
  hostile.set("retry_for_ns", INT64_MIN);
  json->set("receivers", wire::Json::array({hostile}));
  std::ofstream(path) << json->dump();
  const auto loaded = load_receivers(os::real_files(), dir);
  ASSERT_TRUE(loaded && loaded->size() == 1);
  const Receiver& found = loaded->front();
  EXPECT_EQ(found.max_per_minute, 1);
  EXPECT_EQ(found.max_per_service, 1);
  EXPECT_EQ(found.fold_window, std::chrono::days(30));
  EXPECT_EQ(found.retry_for, os::Duration(0));
  std::filesystem::remove_all(dir);
}

}  // namespace
}  // namespace defib::alert

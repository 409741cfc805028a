// What changed since the last good run, in words, and never with a secret's value or hash.

#include "defib/postmortem/bundle_changes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::postmortem {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using wire::Json;

class Changes : public ::testing::Test {
 protected:
  Changes() {
    char name[] = "/tmp/changes-XXXXXX";
    dir_ = mkdtemp(name);
    facts_.exe = write("engine", "program 1");
    facts_.command = {"./engine", "--config", write("engine.toml", "a = 1"), "--token=s3cr3t-one"};
    facts_.environment = {{"MODE", "paper"}, {"API_KEY", "k3y-of-the-venue"}, {"DEFIB_EPOCH", "1"}};
    facts_.settings = Json::object(
        {{"max_restarts", 10}, {"argv", Json::array({"x"})}, {"nested", Json::object({{"a", 1}})}});
    facts_.libraries = {{"/lib/libssl.so.3", "aaaa"}};
    facts_.kernel = "6.1.0";
    facts_.defib = "0.1.0";
  }
  ~Changes() override { (void)os::run_command({"rm", "-r", dir_}, 5000); }
  std::string write(const std::string& name, const std::string& text) {
    const std::string path = os::join_path(dir_, name);
    std::ofstream(path) << text;
    return path;
  }
  std::vector<std::string> since(const RunFacts& after) {
    return run_differences(before_, describe_run(after, "key"));
  }
  void begin() { before_ = describe_run(facts_, "key"); }
  std::string dir_;
  RunFacts facts_;
  Json before_;
};

TEST_F(Changes, OfTheSameRunAreNone) {
  begin();
  RunFacts after = facts_;
  after.environment[2].second = "2";  // ours differs in each run
  EXPECT_THAT(since(after), IsEmpty());
}

TEST_F(Changes, NameTheBinary) {
  begin();
  write("engine", "program 2, which is longer");
  EXPECT_THAT(since(facts_), ElementsAre(HasSubstr("engine replaced at 20")));
  RunFacts other = facts_;
  other.build_id = "bbbb";
  before_ = Json::object({{"program", Json::object({{"path", facts_.exe}, {"build_id", "aaaa"}})}});
  EXPECT_THAT(since(other), Contains(HasSubstr("build id aaaa -> bbbb")));
}

TEST_F(Changes, NameTheConfiguration) {
  begin();
  write("engine.toml", "a = 2");
  RunFacts after = facts_;
  after.settings = Json::object({{"max_restarts", 5}, {"nested", Json::object({{"b", 2}})}});
  after.command[2] = "engine.toml";  // as the service sees it
  after.directory = dir_;
  const auto lines = since(after);
  EXPECT_THAT(lines, Contains(HasSubstr("engine.toml changed at")));
  EXPECT_THAT(lines, Contains("setting max_restarts: 10 -> 5"));
  EXPECT_THAT(lines, Contains("setting nested.a: 1 -> nothing"));
  EXPECT_THAT(lines, Contains("setting nested.b: nothing -> 2"));
  EXPECT_EQ(lines.size(), 5U);  // and the command itself
}

TEST_F(Changes, NameTheEnvironmentAndNoValue) {
  begin();
  RunFacts after = facts_;
  after.environment = {
      {"MODE", "live"}, {"LD_LIBRARY_PATH", "/opt/lib"}, {"API_KEY", "an0ther-key"}};
  EXPECT_THAT(since(after),
              ElementsAre("environment API_KEY changed", "environment LD_LIBRARY_PATH added",
                          "environment MODE changed"));
  after.environment.pop_back();
  EXPECT_THAT(since(after), Contains("environment API_KEY removed"));
}

TEST_F(Changes, NameCommandLibrariesAndKernel) {
  begin();
  RunFacts after = facts_;
  after.command[3] = "--token=s3cr3t-two";
  after.libraries = {{"/lib/libssl.so.3", "bbbb"}, {"/lib/libnew.so", "cccc"}};
  after.kernel = "6.1.1";
  EXPECT_THAT(since(after), ElementsAre("the command's arguments changed in a secret's value",
                                        "library /lib/libssl.so.3 replaced: build id aaaa -> bbbb",
                                        "kernel 6.1.0 -> 6.1.1"));
  after.command.emplace_back("--live");
  EXPECT_THAT(since(after), Contains(HasSubstr("--live`")));
}

TEST_F(Changes, HoldNoSecretAndNoHashThatAGuessCouldBeCheckedAgainst) {
  facts_.settings.set("db_password", "p4ssw0rd-of-the-db");
  const Json one = describe_run(facts_, "key"), other = describe_run(facts_, "another key");
  for (const char* secret : {"s3cr3t-one", "k3y-of-the-venue", "p4ssw0rd-of-the-db"}) {
    EXPECT_THAT(one.dump(), Not(HasSubstr(secret)));
  }
  EXPECT_NE(one["environment"]["API_KEY"], other["environment"]["API_KEY"]);
  EXPECT_NE(one["command"]["hash"], other["command"]["hash"]);
}

TEST_F(Changes, AreKeptOverRunsAndBounded) {
  GoodRuns runs = GoodRuns::read(os::real_files(), dir_);
  const std::string key = runs.key();
  EXPECT_GE(key.size(), 32U);
  Json changes = runs.changes(describe_run(facts_, key));
  EXPECT_TRUE(changes["since"].is_null());
  EXPECT_THAT(std::string(changes["note"].as_string()), HasSubstr("no earlier run was good"));
  for (int i = 0; i < 30; ++i) {
    facts_.environment[0].second = std::to_string(i / 2);  // each twice
    runs.note(describe_run(facts_, key), static_cast<std::uint64_t>(i), "2026-11-20T13:05:58Z");
  }
  ASSERT_TRUE(runs.save(os::real_files()));
  const GoodRuns again = GoodRuns::read(os::real_files(), dir_);
  EXPECT_EQ(again.key(), key);
  const auto text = os::read_file(os::real_files(), os::join_path(dir_, "runs.json"));
  ASSERT_TRUE(text);
  const auto file = Json::parse(*text);
  ASSERT_TRUE(file);
  EXPECT_EQ((*file)["runs"].size(), kMaxRuns);
  EXPECT_EQ((*file)["runs"].items().back()["runs"].as_int(), 2);

  // Nothing changed since it was good: then what had changed before counts.
  changes = again.changes(describe_run(facts_, key));
  EXPECT_EQ(changes["since"]["generation"].as_int(), 29);
  EXPECT_EQ(changes["differences"].size(), 0U);
  EXPECT_EQ(changes["last_change"]["differences"].items().front().as_string(),
            "environment MODE changed");
  facts_.environment[0].second = "live";
  changes = again.changes(describe_run(facts_, key));
  EXPECT_EQ(changes["differences"].items().front().as_string(), "environment MODE changed");
  EXPECT_FALSE(changes.has("last_change"));
}

TEST_F(Changes, ADamagedFileIsNoGoodRun) {
  write("runs.json", R"({"schema":"defib.runs/1","key":"abc","runs":[{"run")");
  const GoodRuns runs = GoodRuns::read(os::real_files(), dir_);
  EXPECT_NE(runs.key(), "abc");
  EXPECT_TRUE(runs.changes(describe_run(facts_, runs.key()))["since"].is_null());
}

TEST_F(Changes, LibrariesAreThoseThatAreMapped) {
  const auto maps = os::read_file(os::real_files(), "/proc/self/maps", 4 << 20);
  ASSERT_TRUE(maps);
  EXPECT_THAT(libraries_of_maps(*maps),
              Contains(::testing::Pair(HasSubstr("libc.so.6"), Not(IsEmpty()))));
  EXPECT_THAT(libraries_of_maps("nonsense\n\n7f"), IsEmpty());
}

}  // namespace
}  // namespace defib::postmortem

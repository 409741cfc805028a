#include "defib/obs/log.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace defib::obs {
namespace {

constexpr std::int64_t kTime = 1'700'000'000'123'456'789;

std::string field_line(std::string_view key, std::string_view value) {
  return format_log_line(kTime, Level::kInfo, "c", "m", {{key, value}});
}

std::string last_field(std::string_view value) {
  const std::string line = field_line("k", value);
  return line.substr(line.find(" k=") + 3);
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  return lines;
}

class LogToFile : public testing::Test {
 protected:
  LogToFile() {
    char pattern[] = "/tmp/defib-log-XXXXXX";
    directory_ = mkdtemp(pattern);
    path_ = directory_ + "/defib.log";
  }
  ~LogToFile() override {
    EXPECT_TRUE(set_log_file({}).has_value());
    set_log_level(Level::kInfo);
    remove(path_.c_str());
    remove((path_ + ".1").c_str());
    remove(directory_.c_str());
  }
  std::string directory_, path_;
};

TEST(Log, ALineIsKeysAndValuesInAFixedOrder) {
  EXPECT_EQ(
      format_log_line(
          kTime, Level::kWarning, "process", "service restarted",
          {{"service", "engine"},
           {"pid", 42},
           {"took", 1.5},
           {"ok", true},
           {"error", Error(Code::kTimeout, "too late").because(Error(Code::kIoError, "disk"))}}),
      "time=2023-11-14T22:13:20.123456789Z level=warning component=process "
      "msg=\"service restarted\" service=engine pid=42 took=1.5 ok=true "
      "error=\"[-6 Timeout] too late: disk\"");
}

TEST(Log, AValueCannotForgeALineOrAField) {
  EXPECT_EQ(last_field("plain"), "plain");
  EXPECT_EQ(last_field(""), "\"\"");
  EXPECT_EQ(last_field("a b"), "\"a b\"");
  EXPECT_EQ(last_field("x level=error"), "\"x level=error\"");
  EXPECT_EQ(last_field("a\nlevel=error"), "\"a\\nlevel=error\"");
  EXPECT_EQ(last_field("say \"no\" \\"), "\"say \\\"no\\\" \\\\\"");
  EXPECT_EQ(last_field("\x1b[31m\r\x7f"), "\"\\x1b[31m\\x0d\\x7f\"");
  EXPECT_EQ(last_field("caf\xc3\xa9 \xff"), "\"caf\xc3\xa9 \\xff\"");
  const std::string line = field_line("bad key\n=", "v");
  EXPECT_EQ(line.substr(line.find("bad")), "bad_key__=v");
}

TEST(Log, AValueIsBounded) {
  EXPECT_LT(last_field(std::string(1 << 20, 'x')).size(), 4200U);
  EXPECT_TRUE(last_field(std::string(1 << 20, 'x')).ends_with("...[cut]\""));
}

TEST(Log, FieldsThatNameSecretsAreRedacted) {
  for (const char* key : {"password", "db_password", "API-Key", "apiKey", "Authorization",
                          "access_token", "client_secret", "X-Signature", "private_key"}) {
    EXPECT_EQ(field_line(key, "hunter2").find("hunter2"), std::string::npos) << key;
  }
  for (const char* key : {"key", "service", "pass", "store_key", "author"}) {
    EXPECT_FALSE(names_a_secret(key)) << key;
  }
}

TEST(Log, LevelsAreReadFromWords) {
  Level level = Level::kOff;
  EXPECT_TRUE(parse_level("WARN", level));
  EXPECT_EQ(level, Level::kWarning);
  EXPECT_TRUE(parse_level("debug", level));
  EXPECT_EQ(level, Level::kDebug);
  EXPECT_FALSE(parse_level("loud", level));
  EXPECT_EQ(level, Level::kDebug);
}

TEST_F(LogToFile, OnlyLevelsThatAreEnabledAreWritten) {
  ASSERT_TRUE(set_log_file({path_}).has_value());
  set_log_level(Level::kWarning);
  log(Level::kInfo, "test", "not written");
  log(Level::kWarning, "test", "first");
  log(Level::kError, "test", "second");
  set_log_level(Level::kOff);
  log(Level::kError, "test", "not written either");
  const auto lines = lines_of(path_);
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NE(lines[0].find("msg=first"), std::string::npos);
  EXPECT_NE(lines[1].find("msg=second"), std::string::npos);
}

TEST_F(LogToFile, LinesOfManyThreadsStayWhole) {
  ASSERT_TRUE(set_log_file({path_}).has_value());
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([t] {
        for (int i = 0; i < 200; ++i) {
          log(Level::kInfo, "test", "line", {{"thread", t}, {"i", i}, {"end", "here"}});
        }
      });
    }
  }
  const auto lines = lines_of(path_);
  EXPECT_EQ(lines.size(), 800U);
  for (const std::string& line : lines) {
    EXPECT_TRUE(line.starts_with("time=") && line.ends_with(" end=here")) << line;
  }
}

TEST_F(LogToFile, AFileIsBoundedAndKeepsOnePredecessor) {
  ASSERT_TRUE(set_log_file({path_, 2000}).has_value());
  for (int i = 0; i < 100; ++i) log(Level::kInfo, "test", "line", {{"i", i}});
  const auto lines = lines_of(path_);
  const auto before = lines_of(path_ + ".1");
  ASSERT_FALSE(lines.empty());
  ASSERT_FALSE(before.empty());
  EXPECT_TRUE(lines.back().ends_with("i=99"));
  EXPECT_LE(lines.size() * lines[0].size(), 2100U);
  const auto number = [](const std::string& line) {
    return std::stoi(line.substr(line.rfind('=') + 1));
  };
  EXPECT_EQ(number(before.back()) + 1, number(lines.front())) << "no line is lost in between";
}

TEST_F(LogToFile, AFileThatCannotBeOpenedIsAnErrorAndTheOldOneGoesOn) {
  ASSERT_TRUE(set_log_file({path_}).has_value());
  const auto result = set_log_file({directory_ + "/missing/x.log"});
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kFileNotFound);
  log(Level::kInfo, "test", "still here");
  EXPECT_EQ(lines_of(path_).size(), 1U);
}

TEST(LogDeathTest, TheEnvironmentSetsTheLevel) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("LOG_LEVEL", "error", 1);
        log(Level::kWarning, "test", "quiet");
        log(Level::kError, "test", "loud");
        exit(0);
      },
      testing::ExitedWithCode(0), "^time=[^ ]* level=error component=test msg=loud\n$");
  EXPECT_EXIT(
      {
        setenv("LOG_LEVEL", "nonsense", 1);
        exit(log_enabled(Level::kInfo) && !log_enabled(Level::kDebug) ? 0 : 1);
      },
      testing::ExitedWithCode(0), "LOG_LEVEL is none of.*value=nonsense");
}

// argv as main() gets it.
struct Arguments {
  explicit Arguments(std::vector<std::string> given) : words(std::move(given)) {
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    count = static_cast<int>(words.size());
  }
  std::vector<std::string> left() const { return {pointers.begin(), pointers.begin() + count}; }
  std::vector<std::string> words;
  std::vector<char*> pointers;
  int count = 0;
};

class ConfigureLogging : public testing::Test {
 protected:
  ~ConfigureLogging() override {
    unsetenv("LOG_LEVEL");
    set_log_level(Level::kInfo);
  }
};

TEST_F(ConfigureLogging, TheOptionIsTakenOutOfTheArgumentsInBothForms) {
  for (const std::vector<std::string>& option :
       {std::vector<std::string>{"--log-level", "error"}, {"--log-level=error"}}) {
    std::vector<std::string> words = {"program", "-x"};
    words.insert(words.end(), option.begin(), option.end());
    words.insert(words.end(), {"last", "--", "--log-level", "debug"});
    Arguments arguments(words);
    ASSERT_TRUE(configure_logging(arguments.count, arguments.pointers.data()));
    EXPECT_EQ(arguments.left(),
              (std::vector<std::string>{"program", "-x", "last", "--", "--log-level", "debug"}));
    EXPECT_EQ(arguments.pointers[static_cast<std::size_t>(arguments.count)], nullptr);
    EXPECT_TRUE(log_enabled(Level::kError));
    EXPECT_FALSE(log_enabled(Level::kWarning));
  }
}

TEST_F(ConfigureLogging, TheOptionComesBeforeTheEnvironmentAndThatBeforeInfo) {
  Arguments none({"program"});
  ASSERT_TRUE(configure_logging(none.count, none.pointers.data()));
  EXPECT_TRUE(log_enabled(Level::kInfo));
  EXPECT_FALSE(log_enabled(Level::kDebug));
  setenv("LOG_LEVEL", "WARN", 1);
  ASSERT_TRUE(configure_logging(none.count, none.pointers.data()));
  EXPECT_FALSE(log_enabled(Level::kInfo));
  Arguments debug({"program", "--log-level=debug"});
  setenv("LOG_LEVEL", "nonsense", 1);  // does not matter here
  ASSERT_TRUE(configure_logging(debug.count, debug.pointers.data()));
  EXPECT_TRUE(log_enabled(Level::kDebug));
}

TEST_F(ConfigureLogging, ALevelThatThereIsNotIsNamedAndNothingIsChanged) {
  set_log_level(Level::kError);
  for (const std::vector<std::string>& words :
       {std::vector<std::string>{"program", "--log-level", "loud"},
        {"program", "--log-level="},
        {"program", "--log-level"}}) {
    Arguments arguments(words);
    const auto configured = configure_logging(arguments.count, arguments.pointers.data());
    ASSERT_FALSE(configured);
    EXPECT_EQ(configured.error().code(), Code::kInvalidArgument);
    EXPECT_NE(configured.error().suggested_action().find("debug, info"), std::string::npos);
    EXPECT_EQ(arguments.left(), words);
  }
  setenv("LOG_LEVEL", "nonsense", 1);
  Arguments arguments({"program"});
  const auto configured = configure_logging(arguments.count, arguments.pointers.data());
  ASSERT_FALSE(configured);
  EXPECT_NE(configured.error().message().find("'nonsense' in LOG_LEVEL"), std::string::npos);
  EXPECT_FALSE(log_enabled(Level::kWarning));
}

}  // namespace
}  // namespace defib::obs

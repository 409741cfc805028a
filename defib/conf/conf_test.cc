#include "defib/conf/conf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>

namespace defib::conf {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using testing::Pair;

Document parsed(std::string_view text) {
  auto document = Document::parse_text(text, "defib.toml");
  EXPECT_TRUE(document.has_value()) << document.error().to_line();
  return std::move(*document);
}

// The messages of all errors that finish() reports.
std::vector<std::string> errors_of(Document& document) {
  std::vector<std::string> messages;
  const auto result = document.finish();
  if (result) return messages;
  for (const Error* error = &result.error(); error != nullptr; error = error->cause()) {
    messages.push_back(error->message());
  }
  return messages;
}

enum class Restart { kAlways, kOnFailure, kNever };

TEST(Conf, EveryTypeIsRead) {
  Document document = parsed(R"(
flag = true
text = "hello"
number = -42
port = 8080
ratio = 0.25
whole_ratio = 3
delay = "250ms"
seconds = 1.5
price = "12.50000001"
step = 0.1
lots = 7
size = "64MiB"
bytes = 4096
command = ["sh", "-c", "true"]
restart = "on-failure"
environment = {B = "2", A = "1"}
)");
  Section root = document.root();
  bool flag = false;
  std::string text;
  int number = 0;
  std::uint16_t port = 0;
  double ratio = 0, whole_ratio = 0;
  os::Duration delay{}, seconds{};
  Decimal price, step, lots;
  std::uint64_t size = 0, bytes = 0;
  std::vector<std::string> command;
  Restart restart = Restart::kNever;
  StringMap environment;
  root.value("flag", flag);
  root.value("text", text);
  root.value("number", number, {-100, 100});
  root.value("port", port, {1, 65535});
  root.value("ratio", ratio, {0, 1});
  root.value("whole_ratio", whole_ratio);
  root.value("delay", delay, {10ms, 1h});
  root.value("seconds", seconds);
  root.value("price", price);
  root.value("step", step);
  root.value("lots", lots);
  root.size("size", size);
  root.size("bytes", bytes, {1, 1 << 20});
  root.value("command", command);
  root.word("restart", restart,
            {{"always", Restart::kAlways},
             {"on-failure", Restart::kOnFailure},
             {"never", Restart::kNever}});
  root.value("environment", environment);
  EXPECT_THAT(errors_of(document), ElementsAre());
  EXPECT_TRUE(flag);
  EXPECT_EQ(text, "hello");
  EXPECT_EQ(number, -42);
  EXPECT_EQ(port, 8080);
  EXPECT_EQ(ratio, 0.25);
  EXPECT_EQ(whole_ratio, 3.0);
  EXPECT_EQ(delay, 250ms);
  EXPECT_EQ(seconds, 1500ms);
  EXPECT_EQ(price.to_string(), "12.50000001");
  EXPECT_EQ(step.to_string(), "0.1");
  EXPECT_EQ(lots.to_string(), "7");
  EXPECT_EQ(size, 64ULL << 20);
  EXPECT_EQ(bytes, 4096U);
  EXPECT_THAT(command, ElementsAre("sh", "-c", "true"));
  EXPECT_EQ(restart, Restart::kOnFailure);
  EXPECT_THAT(environment, ElementsAre(Pair("A", "1"), Pair("B", "2")));
}

TEST(Conf, AnAbsentKeyLeavesTheDefault) {
  Document document = parsed("");
  Section root = document.root();
  int number = 7;
  os::Duration delay = 3s;
  root.value("number", number);
  root.value("delay", delay);
  EXPECT_FALSE(root.has("number"));
  Section absent = root.table("absent");
  EXPECT_FALSE(absent.present());
  absent.value("number", number);
  EXPECT_TRUE(absent.table("deeper").tables("x").empty());
  EXPECT_THAT(errors_of(document), ElementsAre());
  EXPECT_EQ(number, 7);
  EXPECT_EQ(delay, 3s);
}

TEST(Conf, SyntaxErrorsNameLineAndColumn) {
  const auto document = Document::parse_text("a = 1\nb = = 2\n", "defib.toml");
  ASSERT_FALSE(document.has_value());
  EXPECT_EQ(document.error().code(), Code::kConfigSyntax);
  EXPECT_THAT(document.error().message(), HasSubstr("defib.toml:2:5: not valid TOML"));
  EXPECT_EQ(document.error().field("line"), "2");
  EXPECT_EQ(Document::parse_text("a = 1\na = 2\n").error().code(), Code::kConfigSyntax);
}

TEST(Conf, TextsThatBreakTheParsersAssertionsAreSyntaxErrorsOnTheirLine) {
  for (const char* header : {"[=", "[[[1]]]", "[[=", "[[[", "[\n=", "[[]", "\xef\xbb\x9f"}) {
    const auto document = Document::parse_text(std::string("a = 1\n\n") + header + "\nb = 2\n");
    ASSERT_FALSE(document.has_value()) << header;
    EXPECT_EQ(document.error().code(), Code::kConfigSyntax) << header;
    EXPECT_EQ(document.error().field("line"), "3") << header << document.error().to_line();
  }
}

TEST(Conf, AnUnknownKeyIsReportedWithTheNearestKnownOne) {
  Document document = parsed("[services.engine]\ncommand = \"x\"\n  max_restart = 3\nzzz = 1\n");
  std::string command;
  int max_restarts = 0;
  for (auto& [name, section] : document.root().named_tables("services")) {
    EXPECT_EQ(name, "engine");
    section.value("command", command);
    section.value("max_restarts", max_restarts);
  }
  const auto result = document.finish();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kConfigUnknownKey);
  EXPECT_EQ(result.error().message(),
            "defib.toml:3:3: unknown key \"max_restart\"; did you mean \"max_restarts\"?");
  ASSERT_NE(result.error().cause(), nullptr);
  EXPECT_EQ(result.error().cause()->message(),
            "defib.toml:4:1: unknown key \"zzz\"; known here: command, max_restarts");
  EXPECT_EQ(result.error().field("errors"), "2");
}

TEST(Conf, ATableThatNobodyAskedForIsAnUnknownKey) {
  Document document = parsed("[service]\nx = 1\n");
  EXPECT_TRUE(document.root().named_tables("services").empty());
  EXPECT_THAT(errors_of(document), ElementsAre(HasSubstr("did you mean \"services\"?")));
}

struct Wrong {
  const char* text;
  const char* message;
};

TEST(Conf, EveryWrongTypeAndValueNamesItsPlaceWhatWasExpectedAndWhatWasFound) {
  const std::vector<Wrong> cases = {
      {"flag = 1", "1:8: flag: expected true or false, found 1"},
      {"text = 1", "1:8: text: expected a text in quotes, found 1"},
      {"number = \"three\"",
       "1:10: number: expected a whole number from 0 to 1000, found \"three\""},
      {"number = 1001", "1:10: number: expected a whole number from 0 to 1000, found 1001"},
      {"number = 1.5", "1:10: number: expected a whole number from 0 to 1000, found 1.5"},
      {"ratio = 2.0", "1:9: ratio: expected a number from 0 to 1, found 2"},
      {"ratio = nan", "1:9: ratio: expected a number from 0 to 1, found nan"},
      {"ratio = \"x\"", "1:9: ratio: expected a number from 0 to 1, found \"x\""},
      {"delay = \"5 parsecs\"", "found \"5 parsecs\""},
      {"delay = -1", "found -1"},
      {"delay = \"2h\"", "from 10ms to 1h, found \"2h\""},
      {"delay = []",
       "expected a duration such as \"250ms\", \"30s\" or \"5m\", from 10ms to 1h, "
       "found an array"},
      {"price = \"1e3\"", "price: expected a decimal number"},
      {"price = 0.123456789", "found 0.123456789"},
      {"price = 12345678901234567.0", "a longer one as a text in quotes"},
      {"price = true", "found true"},
      {"size = \"5 XB\"", "size: expected a size such as"},
      {"size = -1", "found -1"},
      {"size = \"99999999TiB\"", "found \"99999999TiB\""},
      {"command = \"sh\"", "expected a list of texts, such as [\"a\", \"b\"], found \"sh\""},
      {"command = [\"a\", 1]", "1:17: command: expected a list of texts"},
      {"restart = \"allways\"",
       "one of \"always\", \"never\" (did you mean \"always\"?), found "
       "\"allways\""},
      {"restart = 1", "restart: expected one of"},
      {"environment = {A = 1}", "environment.A: expected a text in quotes, found 1"},
      {"environment = 1", "expected a table of texts"},
      {"table = 1", "expected a table, [table], found 1"},
      {"tables = [1]", "expected an array of tables, [[tables]], found an array"},
      {"tables = {a = 1}", "expected an array of tables, [[tables]], found a table"},
      {"number = 1979-05-27", "found a date or time"},
      {"secret = 1", "expected a reference to a secret"},
  };
  for (const Wrong& wrong : cases) {
    Document document = parsed(wrong.text);
    Section root = document.root();
    bool flag = false;
    std::string text = "default";
    int number = 5;
    double ratio = 0.5;
    os::Duration delay = 1s;
    Decimal price;
    std::uint64_t size = 9;
    std::vector<std::string> command;
    Restart restart = Restart::kNever;
    StringMap environment;
    Secret secret;
    root.value("flag", flag);
    root.value("text", text);
    root.value("number", number, {0, 1000});
    root.value("ratio", ratio, {0, 1});
    root.value("delay", delay, {10ms, 1h});
    root.value("price", price);
    root.size("size", size);
    root.value("command", command);
    root.word("restart", restart, {{"always", Restart::kAlways}, {"never", Restart::kNever}});
    root.value("environment", environment);
    root.table("table");
    root.tables("tables");
    root.value("secret", secret);
    EXPECT_THAT(errors_of(document), ElementsAre(HasSubstr(wrong.message))) << wrong.text;
    EXPECT_EQ(number, 5);
    EXPECT_EQ(ratio, 0.5);
    EXPECT_EQ(delay, 1s);
    EXPECT_EQ(size, 9U);
    EXPECT_EQ(text, "default");
    EXPECT_TRUE(command.empty());
  }
}

TEST(Conf, SizesHaveTheUnitsThatTheyName) {
  for (const auto& [text, bytes] :
       std::vector<std::pair<const char*, std::uint64_t>>{{"1", 1},
                                                          {"1B", 1},
                                                          {"1KiB", 1024},
                                                          {"1.5 MiB", 1572864},
                                                          {"1KB", 1000},
                                                          {"2GB", 2'000'000'000},
                                                          {"3TiB", 3ULL << 40}}) {
    Document document = parsed(std::string("s = \"") + text + "\"");
    std::uint64_t size = 0;
    document.root().size("s", size);
    EXPECT_THAT(errors_of(document), ElementsAre());
    EXPECT_EQ(size, bytes) << text;
  }
}

TEST(Conf, RequiredKeysThatAreMissingAreNamed) {
  Document document = parsed("[a]\nb = 1\n[[list]]\n");
  Section a = document.root().table("a");
  EXPECT_EQ(a.required<int>("b", Range<int>{0, 5}), 1);
  EXPECT_EQ(a.required<std::string>("c"), "");
  for (Section& item : document.root().tables("list")) {
    EXPECT_EQ(item.required<os::Duration>("d"), os::Duration(0));
  }
  const auto result = document.finish();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kConfigMissing);
  EXPECT_EQ(result.error().message(), "defib.toml:1:1: a.c: this key is required");
  EXPECT_EQ(result.error().field("key"), "a.c");
  EXPECT_EQ(result.error().cause()->message(), "defib.toml:3:1: list[0].d: this key is required");
}

TEST(Conf, AllErrorsComeAtOnceInTheOrderOfTheFileUpToTwenty) {
  std::string text;
  for (int i = 0; i < 30; ++i) text += "key" + std::to_string(i) + " = 1\n";
  Document document = parsed(text);
  std::string out;
  document.root().value("key7", out);
  const auto result = document.finish();
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().field("errors"), "30");
  int count = 0;
  for (const Error* error = &result.error(); error != nullptr; error = error->cause()) {
    EXPECT_EQ(error->field("line"), std::to_string(++count));
  }
  EXPECT_EQ(count, 20);
}

TEST(Conf, CallersAddTheirOwnErrorsAtAKeysPlace) {
  Document document = parsed("[a]\nmin = 5\nmax = 3\n");
  Section a = document.root().table("a");
  EXPECT_EQ(a.required<int>("min") - a.required<int>("max"), 2);
  a.fail("max", "must not be below min");
  a.fail("", "is impossible");
  EXPECT_EQ(a.where("max"), "defib.toml:3:7");
  EXPECT_THAT(errors_of(document), ElementsAre("defib.toml:1:1: a: is impossible",
                                               "defib.toml:3:7: a.max: must not be below min"));
}

TEST(Conf, ACallersErrorNamesNoRangeToChooseFrom) {
  Document document = parsed("program = '/nowhere'\n");
  document.root().required<std::string>("program");
  document.root().fail("program", "there is no such file");
  const Result<> finished = document.finish();
  ASSERT_FALSE(finished);
  EXPECT_EQ(finished.error().suggested_action(), "correct that line as the message says");
}

TEST(Conf, NamedTablesComeInTheOrderOfTheFile) {
  Document document = parsed("[services.zebra]\n[services.apple]\n[services.mango]\n");
  std::vector<std::string> names;
  for (const auto& [name, section] : document.root().named_tables("services")) {
    names.push_back(name);
    EXPECT_EQ(section.path(), "services." + name);
  }
  EXPECT_THAT(names, ElementsAre("zebra", "apple", "mango"));
}

TEST(Conf, OutOfRangeSmallIntegersNeverWrap) {
  Document document = parsed("port = 65537\nbyte = 300\nbig = 9223372036854775807\n");
  std::uint16_t port = 1;
  std::int8_t byte = 1;
  std::uint64_t big = 1;
  Section root = document.root();
  root.value("port", port);
  root.value("byte", byte);
  root.value("big", big);
  EXPECT_EQ(errors_of(document).size(), 2U);
  EXPECT_EQ(port, 1);
  EXPECT_EQ(byte, 1);
  EXPECT_EQ(big, 9223372036854775807U);
}

// ---- secrets and files

class ConfFiles : public testing::Test {
 protected:
  ConfFiles() {
    char pattern[] = "/tmp/defib-conf-XXXXXX";
    directory_ = mkdtemp(pattern);
  }
  ~ConfFiles() override {
    for (const std::string& path : files_) remove(path.c_str());
    remove(directory_.c_str());
  }
  std::string write(const std::string& name, std::string_view content, mode_t mode) {
    const std::string path = directory_ + "/" + name;
    std::ofstream(path) << content;
    chmod(path.c_str(), mode);
    files_.push_back(path);
    return path;
  }
  // Reads the secret `reference` from a file in the directory.
  Result<> read_secret(const std::string& reference, Secret& out) {
    const std::string path = write("defib.toml", "key = \"" + reference + "\"\n", 0600);
    DEFIB_TRY_ASSIGN(Document document, Document::parse_file(path));
    document.root().value("key", out);
    return document.finish();
  }
  std::string directory_;
  std::vector<std::string> files_;
};

TEST_F(ConfFiles, SecretsComeFromTheEnvironment) {
  setenv("DEFIB_CONF_TEST_KEY", "hunter2", 1);
  Secret secret;
  EXPECT_TRUE(read_secret("env:DEFIB_CONF_TEST_KEY", secret).has_value());
  EXPECT_EQ(secret.reveal(), "hunter2");
  unsetenv("DEFIB_CONF_TEST_KEY");
  EXPECT_EQ(read_secret("env:DEFIB_CONF_TEST_KEY", secret).error().code(), Code::kConfigMissing);
}

TEST_F(ConfFiles, SecretsComeFromFilesThatOnlyTheOwnerCanRead) {
  write("key", "hunter2\n", 0600);
  Secret secret;
  const auto relative = read_secret("file:key", secret);
  ASSERT_TRUE(relative.has_value()) << relative.error().to_line();
  EXPECT_EQ(secret.reveal(), "hunter2");
  EXPECT_TRUE(read_secret("file:" + directory_ + "/key", secret).has_value());
  for (const mode_t mode : {0640, 0604, 0660, 0666, 0610}) {
    write("key", "hunter2\n", mode);
    const auto exposed = read_secret("file:key", secret);
    ASSERT_FALSE(exposed.has_value()) << mode;
    EXPECT_EQ(exposed.error().code(), Code::kConfigSecretExposed);
    EXPECT_THAT(exposed.error().to_text(), Not(HasSubstr("hunter2")));
  }
  write("key", "\n", 0600);
  EXPECT_EQ(read_secret("file:key", secret).error().code(), Code::kConfigMissing);
  EXPECT_EQ(read_secret("file:missing", secret).error().code(), Code::kConfigMissing);
  EXPECT_EQ(read_secret("file:/", secret).error().code(), Code::kConfigMissing);
}

TEST_F(ConfFiles, ASecretInTheFileItselfIsRefusedAndNotRepeated) {
  Secret secret;
  const auto result = read_secret("hunter2", secret);
  ASSERT_FALSE(result.has_value());
  EXPECT_EQ(result.error().code(), Code::kConfigSecretExposed);
  EXPECT_THAT(result.error().to_text(), Not(HasSubstr("hunter2")));
  EXPECT_TRUE(secret.empty());
}

template <typename T>
concept Printable = requires(std::ostream& stream, const T& value) { stream << value; };
static_assert(!Printable<Secret> && !std::is_convertible_v<Secret, std::string> &&
              !std::is_convertible_v<Secret, std::string_view>);

TEST_F(ConfFiles, AFileThatIsMissingOrTooLargeIsAnError) {
  EXPECT_EQ(Document::parse_file(directory_ + "/missing.toml").error().code(), Code::kFileNotFound);
  const std::string path = write("large.toml", std::string(2 << 20, '#'), 0600);
  EXPECT_EQ(Document::parse_file(path).error().code(), Code::kLimitExceeded);
}

}  // namespace
}  // namespace defib::conf

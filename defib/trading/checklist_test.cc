#include "defib/trading/checklist.h"

#include <set>

#include "defib/trading/runbook.h"
#include "defib/trading/testing.h"

namespace defib::trading {
namespace {

using namespace testing_util;
using namespace std::chrono_literals;
using testing::HasSubstr;

class ChecklistTest : public testing::Test {
 protected:
  void SetUp() override {
    auto log = recovery::IncidentLog::open(os::real_files(), clock_, dir_.path());
    auto incident = log->create("engine", wire::Json::object({{"cause", "heap_corruption"}}));
    ASSERT_TRUE(incident) << incident.error().to_text();
    incident_ = incident->id();
    ASSERT_TRUE(incident->close("failed"));
    clock_.advance(1s);
  }
  Checklist open() {
    auto checklist = Checklist::open(os::real_files(), clock_, dir_.path(), incident_);
    EXPECT_TRUE(checklist) << checklist.error().to_text();
    return std::move(*checklist);
  }
  bool done() { return manual_procedure_done(os::real_files(), dir_.path(), incident_); }

  TemporaryDir dir_;
  os::FakeClock clock_;
  std::string incident_;
};

TEST_F(ChecklistTest, EveryItemBeforeTradingMustBeAffirmed) {
  EXPECT_FALSE(done());
  for (const ChecklistItem& item : checklist_items()) {
    if (!item.before_trading) continue;
    EXPECT_FALSE(done()) << item.key;
    ASSERT_TRUE(open().answer(item.key, AnswerKind::kYes, "done", "ada")) << item.key;
  }
  EXPECT_TRUE(done());
  // A later no counts.
  ASSERT_TRUE(open().answer("tests.venues", AnswerKind::kNo, "one is down", "bob"));
  EXPECT_FALSE(done());
  EXPECT_THAT(open().open_before_trading(), testing::ElementsAre("tests.venues"));
}

TEST_F(ChecklistTest, AnswersAreChainedWithNameAndTimeInAnIncidentOfTheirOwn) {
  ASSERT_TRUE(open().answer("analyze.root_cause", AnswerKind::kYes, "a stale pointer", "ada"));
  ASSERT_TRUE(open().answer("analyze.root_cause", AnswerKind::kYes, "no: two of them", "bob"));
  const std::string record = open().record();
  auto log = recovery::IncidentLog::open(os::real_files(), clock_, dir_.path());
  const auto lines = log->read(record);
  ASSERT_TRUE(lines);
  EXPECT_EQ((*lines)[0]["of_incident"].as_string(), incident_);
  EXPECT_EQ((*lines)[0]["of_head"].as_string().size(), 64u);
  std::vector<std::string> notes, names;
  for (const wire::Json& line : *lines) {
    if (line["event"].as_string() != "checklist_answer") continue;
    notes.emplace_back(line["note"].as_string());
    names.emplace_back(line["by"].as_string());
  }
  EXPECT_THAT(notes, testing::ElementsAre("a stale pointer", "no: two of them"));
  EXPECT_THAT(names, testing::ElementsAre("ada", "bob"));
  EXPECT_TRUE(log->verify(record, {})->intact);
}

TEST_F(ChecklistTest, RefusesWhatIsNoAnswer) {
  Checklist checklist = open();
  const auto code = [&](std::string_view key, AnswerKind kind, std::string_view note,
                        std::string_view by) {
    const auto result = checklist.answer(key, kind, note, by);
    return result ? Code::kInternal : result.error().code();
  };
  EXPECT_EQ(code("nonsense", AnswerKind::kYes, "x", "ada"), Code::kInvalidArgument);
  EXPECT_EQ(code("analyze.logs_read", AnswerKind::kYes, "", " "), Code::kInvalidArgument);
  EXPECT_EQ(code("analyze.root_cause", AnswerKind::kYes, "", "ada"), Code::kInvalidArgument);
  EXPECT_EQ(code("analyze.logs_read", AnswerKind::kNotApplicable, "", "ada"),
            Code::kInvalidArgument);
  EXPECT_TRUE(checklist.answers().empty());
  EXPECT_EQ(checklist.close("ada").error().code(), Code::kChecklistIncomplete);
  EXPECT_EQ(Checklist::open(os::real_files(), clock_, dir_.path(), "2020").error().code(),
            Code::kNotFound);
}

TEST_F(ChecklistTest, IsClosedOnceAndOnlyWhenAllIsAnswered) {
  std::set<std::string_view> keys;
  for (const ChecklistItem& item : checklist_items()) {
    EXPECT_TRUE(keys.insert(item.key).second) << item.key;
    const AnswerKind kind = item.may_not_apply ? AnswerKind::kNotApplicable : AnswerKind::kYes;
    ASSERT_TRUE(open().answer(item.key, kind, "noted", "ada"));
  }
  ASSERT_TRUE(open().close("ada"));
  EXPECT_TRUE(done());
  EXPECT_EQ(open().answer("post.report", AnswerKind::kYes, "", "ada").error().code(),
            Code::kAlreadyExists);
}

TEST_F(ChecklistTest, AChangedFileAllowsNothing) {
  ASSERT_TRUE(open().answer("analyze.logs_read", AnswerKind::kYes, "", "ada"));
  const std::string path = dir_.path() + "/checklists/" + incident_ + ".json";
  ASSERT_TRUE(os::write_file_atomically(os::real_files(), path, "{"));
  EXPECT_FALSE(done());
  EXPECT_EQ(Checklist::open(os::real_files(), clock_, dir_.path(), incident_).error().code(),
            Code::kCorrupted);
  EXPECT_FALSE(manual_procedure_done(os::real_files(), dir_.path(), "../../etc/passwd"));
}

// --- The runbook

struct Context : recovery::StageContext {
  bool should_stop() const override { return stop; }
  Error stop_error() const override { return Error(Code::kProcedureAborted, "stopped"); }
  void progress(std::uint64_t, std::uint64_t, std::string_view) override {}
  void metric(std::string_view name, std::string value) override {
    metrics[std::string(name)] = std::move(value);
  }
  bool stop = false;
  std::map<std::string, std::string> metrics;
};

ExecStep shell(std::string script) {
  ExecStep step;
  step.name = "own";
  step.command = {"/bin/sh", "-c", std::move(script)};
  step.retry_delay = 0s;
  return step;
}

TEST(Runbook, AStepIsDoneWhenItsProgramEndsWithZero) {
  Context context;
  EXPECT_TRUE(run_exec_step(shell("echo released"), os::real_clock(), context));
  EXPECT_EQ(context.metrics["output"], "released");
}

TEST(Runbook, AFailureSaysWhatItMeansAndWhatTheProgramSaid) {
  ExecStep step = shell("echo book is locked; exit 7");
  step.meaning = "the desk has not released the book";
  step.retries = 2;
  Context context;
  const auto result = run_exec_step(step, os::real_clock(), context);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code(), Code::kRunbookStepFailed);
  EXPECT_THAT(result.error().message(), HasSubstr("the desk has not released the book"));
  EXPECT_EQ(result.error().field("output"), "book is locked");
  EXPECT_EQ(context.metrics["attempts"], "3");
}

TEST(Runbook, ATryThatSucceedsEndsTheTries) {
  TemporaryDir dir;
  ExecStep step = shell("n=$(cat " + dir.path() + "/n 2>/dev/null || echo 0); echo $((n+1)) > " +
                        dir.path() + "/n; test $n -ge 1");
  step.retries = 5;
  Context context;
  EXPECT_TRUE(run_exec_step(step, os::real_clock(), context));
  EXPECT_EQ(context.metrics["attempts"], "2");
}

TEST(Runbook, AProgramThatHangsIsEndedAtItsTime) {
  ExecStep step = shell("sleep 60");
  step.timeout = 100ms;
  Context context;
  const std::int64_t begun = os::real_clock().mono_ns();
  EXPECT_FALSE(run_exec_step(step, os::real_clock(), context));
  EXPECT_LT(os::real_clock().mono_ns() - begun, 10'000'000'000);
}

TEST(Runbook, OnlyErrorsThatMayPassAreTriedAgain) {
  const os::FakeClock clock;
  Context context;
  int calls = 0;
  const auto failing = [&](Code code) {
    calls = 0;
    return run_with_retries({.name = "x", .retries = 3}, clock, context,
                            [&](recovery::StageContext&) -> Result<> {
                              ++calls;
                              return Error(code, "no");
                            });
  };
  EXPECT_FALSE(failing(Code::kVenueUnreachable));
  EXPECT_EQ(calls, 4);
  EXPECT_FALSE(failing(Code::kLedgerDamaged));
  EXPECT_EQ(calls, 1);
}

TEST(Runbook, IsReadFromTheConfigurationAndItsMistakesAreNamed) {
  const auto read = [](std::string_view text, Runbook& runbook) {
    auto document = conf::Document::parse_text(text);
    EXPECT_TRUE(document);
    runbook = read_runbook(document->root().table("runbook"));
    return document->finish();
  };
  Runbook runbook;
  ASSERT_TRUE(read(R"(
[runbook.builtin.safety_checks]
timeout = "10s"
retries = 2
[[runbook.steps]]
name = "risk_desk"
before = "gradual_resume"
exec = ["/bin/true"]
on_failure = "continue"
meaning = "not released"
)",
                   runbook));
  ASSERT_EQ(runbook.builtin.size(), 1u);
  EXPECT_EQ(runbook.builtin[0].retries, 2);
  ASSERT_EQ(runbook.steps.size(), 1u);
  EXPECT_FALSE(runbook.steps[0].stop_on_failure);
  for (const char* wrong : {
           "[runbook.builtin.nonsense]\nretries = 1\n",
           "[[runbook.steps]]\nname = \"a\"\nexec = [\"x\"]\n",
           "[[runbook.steps]]\nname = \"a\"\nbefore = \"nonsense\"\nexec = [\"x\"]\n",
           "[[runbook.steps]]\nname = \"analyze\"\nbefore = \"load_state\"\nexec = [\"x\"]\n",
           "[[runbook.steps]]\nname = \"a\"\nbefore = \"load_state\"\n",
       }) {
    EXPECT_FALSE(read(wrong, runbook)) << wrong;
  }
}

}  // namespace
}  // namespace defib::trading

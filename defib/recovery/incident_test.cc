#include "defib/recovery/incident.h"

#include <fmt/core.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "defib/base/bytes.h"
#include "defib/os/pass_through_files.h"
#include "defib/os/process.h"
#include "defib/recovery/testcases/scratch.h"

namespace defib::recovery {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testcases::Gate;
using testcases::GatedFiles;
using testcases::Scratch;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;
using wire::Json;

class IncidentTest : public testing::Test {
 protected:
  IncidentLog log() { return *IncidentLog::open(files_, clock_, dir_.path()); }

  Incident create(std::string_view service = "engine") {
    auto incident = log().create(service, Json::object());
    EXPECT_TRUE(incident) << incident.error().to_text();
    return std::move(*incident);
  }
  // An incident of five lines, closed.
  Incident finished() {
    Incident incident = create();
    EXPECT_TRUE(incident.append("detected", Json::object({{"by", "pidfd"}}), Durability::kSoon));
    EXPECT_TRUE(incident.append(
        "classified",
        Json::object({{"cause", "segmentation_fault"}, {"note", "a \"quoted\"\nline \xc3\xa9"}}),
        Durability::kSync));
    EXPECT_TRUE(incident.append(
        "decision",
        Json::object({{"plan", Json::object({{"a", 1}, {"hash", std::string(kNoHash)}})}}),
        Durability::kSoon));
    EXPECT_TRUE(incident.close("recovered"));
    return incident;
  }
  static std::string text_of(const Incident& incident) { return text_at(incident.path()); }
  static std::string text_at(const std::string& path) {
    return *os::read_file(os::real_files(), path);
  }
  static void write(const std::string& path, std::string_view text) {
    auto file = *os::real_files().open(path, os::OpenMode::kCreate);
    EXPECT_TRUE(file->truncate(0));
    EXPECT_TRUE(file->write_at(0, text));
  }

  Scratch dir_;
  GatedFiles files_{[](std::string_view) { return Gate::kPass; }};  // the kernel's, without syncs
  os::FakeClock clock_;
};

// The checker in Python, which shares no code with the writer.
os::CommandOutput check_independently(const std::string& path, const std::string& head = {}) {
  std::vector<std::string> argv = {"python3", DEFIB_SOURCE_DIR "/tools/verify-incident"};
  if (!head.empty()) argv.insert(argv.end(), {"--head", head});
  argv.push_back(path);
  auto output = os::run_command(argv, 60'000);
  EXPECT_TRUE(output) << output.error().to_text();
  return std::move(*output);
}

TEST_F(IncidentTest, LinesHaveTheDocumentedForm) {
  Incident incident = create();
  ASSERT_TRUE(incident.append("detected", Json::object({{"signal", 11}}), Durability::kSync));
  const std::string text = text_of(incident);
  const std::string first = text.substr(0, text.find('\n'));
  const std::string second = text.substr(first.size() + 1, text.size() - first.size() - 2);
  EXPECT_THAT(first, StartsWith(R"({"seq":1,"at":"2023-11-14T22:13:20.000000000Z",)"
                                R"("mono_ns":1000000000,"boot_id":")"));
  EXPECT_THAT(first, HasSubstr(R"("event":"opened","incident":")" + incident.id() +
                               R"(","service":"engine","previous_incident":"","prev":")" +
                               std::string(kNoHash) + R"(","hash":")"));
  const std::size_t seal = second.rfind(R"(,"hash":")");
  EXPECT_EQ(sha256_hex(second.substr(0, seal)), incident.head_hash());
  EXPECT_THAT(second, HasSubstr(R"("event":"detected","signal":11,"prev":")"));
  EXPECT_THAT(incident.id(), StartsWith("20231114T221320Z-"));
  EXPECT_EQ(incident.id().size(), 23U);
}

TEST_F(IncidentTest, AClosedIncidentIsIntactForBothCheckers) {
  const Incident incident = finished();
  const VerifyResult result = verify_incident(text_of(incident), incident.head_hash());
  EXPECT_TRUE(result.intact) << result.problem;
  EXPECT_EQ(result.lines, 5);
  EXPECT_EQ(result.head_line, 5);
  EXPECT_EQ(result.head_hash, incident.head_hash());
  const auto independent = check_independently(incident.path(), incident.head_hash());
  EXPECT_TRUE(independent.status.success());
  EXPECT_EQ(independent.text, fmt::format("intact: 5 lines, head {}\n", incident.head_hash()));
}

TEST_F(IncidentTest, AnEarlierHeadFromTheAlertHoldsWhileTheIncidentGoesOn) {
  Incident incident = create();
  ASSERT_TRUE(incident.append("detected", Json::object(), Durability::kSync));
  const std::string alerted = incident.head_hash();
  ASSERT_TRUE(incident.append("captured", Json::object(), Durability::kSync));
  const VerifyResult result = verify_incident(text_of(incident), alerted);
  EXPECT_TRUE(result.intact);
  EXPECT_EQ(result.head_line, 2);
  EXPECT_TRUE(check_independently(incident.path(), alerted).status.success());
}

// The Python checker judges thousands of variants in one process, through its own functions.
TEST_F(IncidentTest, EverySingleByteChangeAndEveryTruncationIsDetectedByBothCheckers) {
  const Incident incident = finished();
  const std::string text = text_of(incident);
  for (std::size_t i = 0; i < text.size(); ++i) {
    for (const int flip : {0x01, 0x20, 0x80}) {
      std::string changed = text;
      changed[i] = static_cast<char>(changed[i] ^ flip);
      EXPECT_FALSE(verify_incident(changed, incident.head_hash()).intact)
          << "byte " << i << " xor " << flip;
      // Changes are seen even without the head, which only truncation and rewriting need.
      EXPECT_FALSE(verify_incident(changed).intact) << "byte " << i << " xor " << flip;
    }
  }
  for (std::size_t size = 0; size < text.size(); ++size) {
    EXPECT_FALSE(verify_incident(text.substr(0, size), incident.head_hash()).intact) << size;
  }
  const std::string script = fmt::format(R"(
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("checker", "{}/tools/verify-incident")
sys.dont_write_bytecode = True
checker = importlib.util.module_from_spec(importlib.util.spec_from_loader("checker", loader))
loader.exec_module(checker)
text = open("{}", "rb").read()
head = "{}"
checker.check(text, head)
def refused(variant):
    try:
        checker.check(variant, head)
    except checker.Problem:
        return True
    return False
variants = 0
for i in range(len(text)):
    for flip in (0x01, 0x20, 0x80):
        variants += 1
        assert refused(text[:i] + bytes([text[i] ^ flip]) + text[i + 1:]), (i, flip)
for size in range(len(text)):
    variants += 1
    assert refused(text[:size]), size
print(variants)
)",
                                         DEFIB_SOURCE_DIR, incident.path(), incident.head_hash());
  const auto output = os::run_command({"python3", "-c", script}, 60'000);
  ASSERT_TRUE(output);
  EXPECT_TRUE(output->status.success()) << output->text;
  EXPECT_EQ(output->text, fmt::format("{}\n", text.size() * 4));
}

TEST_F(IncidentTest, TruncationAtEveryLineBorderIsDetectedGivenTheHead) {
  const Incident incident = finished();
  const std::string text = text_of(incident);
  int borders = 0;
  for (std::size_t at = text.find('\n'); at + 1 < text.size(); at = text.find('\n', at + 1)) {
    const std::string cut = text.substr(0, at + 1);
    EXPECT_TRUE(verify_incident(cut).intact) << "without a head a cut cannot be seen";
    EXPECT_FALSE(verify_incident(cut, incident.head_hash()).intact);
    const std::string path = dir_ / "cut.jsonl";
    write(path, cut);
    const auto independent = check_independently(path, incident.head_hash());
    EXPECT_EQ(independent.status.code, 1);
    EXPECT_THAT(independent.text, HasSubstr("cut off or rewritten"));
    ++borders;
  }
  EXPECT_EQ(borders, 4);
}

// Changes the second line and seals everything after it anew, as a careful forger would.
std::string rewritten(const std::string& text) {
  std::string result, previous;
  std::string_view rest = text;
  for (int number = 1; !rest.empty(); ++number) {
    std::string line(rest.substr(0, rest.find('\n')));
    rest.remove_prefix(line.size() + 1);
    line.resize(line.rfind(R"(,"hash":")"));
    if (number == 2) line.replace(line.find("pidfd"), 5, "human");
    if (number > 1) line.replace(line.rfind(R"("prev":")") + 8, 64, previous);
    previous = sha256_hex(line);
    result += line + R"(,"hash":")" + previous + "\"}\n";
  }
  return result;
}

TEST_F(IncidentTest, AFileRewrittenWithNewHashesIsDetectedByTheHeadAlone) {
  const Incident incident = finished();
  const std::string forged = rewritten(text_of(incident));
  EXPECT_TRUE(verify_incident(forged).intact) << "the forger did the work properly";
  EXPECT_FALSE(verify_incident(forged, incident.head_hash()).intact);
  write(incident.path(), forged);
  EXPECT_TRUE(check_independently(incident.path()).status.success());
  EXPECT_EQ(check_independently(incident.path(), incident.head_hash()).status.code, 1);
}

// Seals one line anew without touching the others; `change` works on the line before its seal.
template <typename Change>
std::string with_line_resealed(const std::string& text, int number, const Change& change) {
  std::size_t begin = 0;
  for (int i = 1; i < number; ++i) begin = text.find('\n', begin) + 1;
  const std::size_t end = text.find('\n', begin);
  std::string line = text.substr(begin, end - begin);
  line.resize(line.rfind(R"(,"hash":")"));
  change(line);
  return text.substr(0, begin) + line + R"(,"hash":")" + sha256_hex(line) + "\"}" +
         text.substr(end);
}

TEST_F(IncidentTest, ALineThatIsSealedAloneBreaksTheChainInBothCheckers) {
  const Incident incident = finished();
  const std::string text = text_of(incident);
  const auto expect_problem = [&](const std::string& forged, const std::string& problem) {
    EXPECT_THAT(verify_incident(forged).problem, HasSubstr(problem));
    write(dir_ / "forged.jsonl", forged);
    const auto independent = check_independently(dir_ / "forged.jsonl");
    EXPECT_EQ(independent.status.code, 1);
    EXPECT_THAT(independent.text, HasSubstr(problem));
  };
  expect_problem(with_line_resealed(
                     text, 2, [](std::string& line) { line.replace(line.find("pidfd"), 5, "me"); }),
                 "line 3: it does not continue the line before it");
  expect_problem(with_line_resealed(
                     text, 5, [](std::string& line) { line.replace(line.find(":5"), 2, ":6"); }),
                 "line 5: its sequence number is 6");
  expect_problem(
      with_line_resealed(text, 1,
                         [](std::string& line) { line.replace(line.find("opened"), 6, "reopen"); }),
      "line 1: it does not open an incident");
  expect_problem(with_line_resealed(text, 5, [](std::string& line) { line += ",\"seq\":5"; }),
                 "line 5: ");
}

TEST_F(IncidentTest, NothingMayFollowTheClosingLine) {
  Incident incident = finished();
  EXPECT_TRUE(incident.closed());
  EXPECT_EQ(incident.append("detected", Json::object(), Durability::kSync).error().code(),
            Code::kInvalidArgument);
  EXPECT_FALSE(incident.close("failed"));
  EXPECT_FALSE(log().resume(incident.id()));
  // Also not if it is sealed properly.
  std::string body = R"({"seq":6,"event":"note","prev":")" + incident.head_hash() + '"';
  const std::string text = text_of(incident) + body + R"(,"hash":")" + sha256_hex(body) + "\"}\n";
  EXPECT_THAT(verify_incident(text).problem, StartsWith("line 6: it follows"));
  write(incident.path(), text);
  EXPECT_THAT(check_independently(incident.path()).text, StartsWith("line 6: it follows"));
}

TEST_F(IncidentTest, FieldsThatTheLineHasAlreadyAreRefusedByName) {
  Incident incident = create();
  for (const char* name : {"seq", "at", "mono_ns", "boot_id", "event", "prev", "hash"}) {
    const auto refused = incident.append("detected", Json::object({{name, 1}}), Durability::kSoon);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().field("field"), name);
  }
  EXPECT_FALSE(log().create("x", Json::object({{"previous_incident", "none"}})));
  EXPECT_FALSE(incident.append("closed", Json::object(), Durability::kSoon));
  EXPECT_FALSE(incident.append("", Json::object(), Durability::kSoon));
  EXPECT_FALSE(incident.close("splendid"));
  EXPECT_FALSE(incident.close("recovered", Json::object({{"outcome", "failed"}})));
  EXPECT_TRUE(verify_incident(text_of(incident)).intact);
}

TEST_F(IncidentTest, IncidentsAreChainedAndADeletedOrChangedOneShowsInTheNext) {
  const Incident first = finished();
  clock_.advance(seconds(5));
  const Incident second = finished();
  const auto lines = *log().read(second.id());
  EXPECT_EQ(lines[0]["previous_incident"].as_string(), first.id());
  EXPECT_EQ(lines[0]["prev"].as_string(), first.head_hash());
  EXPECT_TRUE(log().verify(second.id(), second.head_hash())->intact);
  write(first.path(), rewritten(text_of(first)));
  EXPECT_TRUE(log().verify(first.id(), {})->intact);
  EXPECT_THAT(log().verify(second.id(), {})->problem, HasSubstr("was cut off or rewritten"));
  ASSERT_TRUE(os::real_files().remove(first.path()));
  EXPECT_THAT(log().verify(second.id(), {})->problem, HasSubstr("is missing"));
}

TEST_F(IncidentTest, TheOneBeforeMayGoOnAfterwards) {
  Incident first = create("a");
  clock_.advance(seconds(5));
  Incident second = create("b");
  ASSERT_TRUE(first.append("detected", Json::object(), Durability::kSync));
  ASSERT_TRUE(first.close("restarted"));
  EXPECT_TRUE(log().verify(second.id(), {})->intact);
}

TEST_F(IncidentTest, IncidentsOfOneSecondAreChainedInTheOrderOfTheirOpening) {
  std::string previous;
  for (int i = 0; i < 20; ++i) {
    clock_.advance(milliseconds(10));
    const Incident incident = finished();
    EXPECT_EQ((*log().read(incident.id()))[0]["previous_incident"].as_string(), previous);
    previous = incident.id();
  }
}

TEST_F(IncidentTest, ARenamedFileIsNotTheIncidentOfThatName) {
  const Incident incident = finished();
  const std::string other = "20231114T221320Z-ffffff";
  ASSERT_TRUE(os::real_files().rename(incident.path(), dir_ / ("incidents/" + other + ".jsonl")));
  EXPECT_THAT(log().verify(other, {})->problem, HasSubstr("belongs to the incident"));
}

TEST_F(IncidentTest, ATornLastLineIsCutOnResumeAtEveryLengthAndRecorded) {
  Incident incident = create();
  // Longer than the line that records the cut, so that nothing of it may be left behind that one.
  ASSERT_TRUE(incident.append("captured", Json::object({{"stack", std::string(450, 'x')}}),
                              Durability::kSync));
  const std::string whole = text_of(incident);
  const std::size_t border = whole.find('\n') + 1;
  for (std::size_t size = border; size < whole.size(); ++size) {
    write(incident.path(), whole.substr(0, size));
    auto resumed = log().resume(incident.id());
    ASSERT_TRUE(resumed) << resumed.error().to_text();
    const auto lines = *log().read(incident.id());
    ASSERT_EQ(lines.size(), 2U);
    EXPECT_EQ(lines[1]["event"].as_string(), "writer_restarted");
    EXPECT_EQ(lines[1]["cut_bytes"].as_int(), static_cast<std::int64_t>(size - border));
    if (size > border) {
      EXPECT_EQ(lines[1]["cut_sha256"].as_string(),
                sha256_hex(whole.substr(border, size - border)));
    }
    ASSERT_TRUE(resumed->append("captured", Json::object(), Durability::kSync));
    const VerifyResult result = verify_incident(text_of(*resumed), resumed->head_hash());
    EXPECT_TRUE(result.intact) << result.problem;
    EXPECT_EQ(result.lines, 3);
  }
}

TEST_F(IncidentTest, ZeroBytesOfAPowerCutAreCutButAChangedLineIsNot) {
  Incident incident = create();
  ASSERT_TRUE(incident.append("detected", Json::object(), Durability::kSync));
  const std::string whole = text_of(incident);
  std::string zeroed = whole;
  std::fill(zeroed.end() - 100, zeroed.end() - 1, '\0');
  write(incident.path(), zeroed);
  EXPECT_TRUE(log().resume(incident.id()));
  std::string changed = whole;
  changed[changed.size() - 90] ^= 1;
  write(incident.path(), changed);
  const auto refused = log().resume(incident.id());
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code(), Code::kIncidentChainBroken);
  EXPECT_EQ(text_of(incident), changed) << "evidence stays as it was found";
  write(incident.path(), whole.substr(0, 20));
  EXPECT_FALSE(log().resume(incident.id())) << "not even its first line is whole";
}

TEST_F(IncidentTest, ResumeContinuesTheChainAndRemembersTheCause) {
  std::string id;
  {
    Incident incident = create();
    id = incident.id();
    ASSERT_TRUE(
        incident.append("classified", Json::object({{"cause", "deadlock"}}), Durability::kSync));
  }
  auto incident = *log().resume(id);
  ASSERT_TRUE(incident.close("restarted"));
  EXPECT_TRUE(verify_incident(text_of(incident), incident.head_hash()).intact);
  const auto listed = *log().list();
  ASSERT_THAT(listed, SizeIs(1));
  EXPECT_EQ(listed[0].cause, "deadlock");
  EXPECT_EQ(listed[0].outcome, "restarted");
  EXPECT_EQ(log().resume("20231114T221320Z-000000").error().code(), Code::kNotFound);
  EXPECT_EQ(log().resume("../budget").error().code(), Code::kNotFound);
}

TEST_F(IncidentTest, SoonLinesAreSyncedWithinTheDelayAndSyncLinesAtOnce) {
  int syncs = 0;
  GatedFiles files([&](std::string_view operation) {
    syncs += operation == "sync" ? 1 : 0;
    return Gate::kPass;
  });
  auto opened = *IncidentLog::open(files, clock_, dir_.path());
  auto incident = *opened.create("engine", Json::object());
  EXPECT_EQ(syncs, 1);
  EXPECT_EQ(incident.sync_due_mono_ns(), 0);
  ASSERT_TRUE(incident.append("a", Json::object(), Durability::kSoon));
  const std::int64_t due = clock_.mono_ns() + kIncidentSyncDelay.count();
  EXPECT_EQ(incident.sync_due_mono_ns(), due);
  clock_.advance(milliseconds(60));
  ASSERT_TRUE(incident.append("b", Json::object(), Durability::kSoon));
  EXPECT_EQ(incident.sync_due_mono_ns(), due) << "later lines do not put it off";
  ASSERT_TRUE(incident.sync_if_due());
  EXPECT_EQ(syncs, 1);
  clock_.advance(milliseconds(40));
  ASSERT_TRUE(incident.sync_if_due());
  EXPECT_EQ(syncs, 2);
  EXPECT_EQ(incident.sync_due_mono_ns(), 0);
  ASSERT_TRUE(incident.append("c", Json::object(), Durability::kSoon));
  ASSERT_TRUE(incident.append("d", Json::object(), Durability::kSync));
  EXPECT_EQ(syncs, 3);
  EXPECT_EQ(incident.sync_due_mono_ns(), 0) << "a sync covers all lines before it";
  ASSERT_TRUE(incident.append("e", Json::object(), Durability::kSoon));
  ASSERT_TRUE(incident.close("recovered"));
  EXPECT_EQ(syncs, 4) << "the closing hash goes out with the alert";
}

TEST_F(IncidentTest, AFailedWriteLeavesNoPartOfItsLineAndMayBeTriedAgain) {
  Gate answer = Gate::kPass;
  bool truncate_fails = false;
  GatedFiles files([&](std::string_view operation) {
    if (operation == "write") return answer;
    return operation == "truncate" && truncate_fails ? Gate::kFail : Gate::kPass;
  });
  auto opened = *IncidentLog::open(files, clock_, dir_.path());
  auto incident = *opened.create("engine", Json::object());
  for (const bool stuck : {false, true}) {
    truncate_fails = stuck;
    answer = Gate::kHalf;
    const std::string before = incident.head_hash();
    EXPECT_FALSE(incident.append("long", Json::object({{"text", std::string(500, 'x')}}),
                                 Durability::kSync));
    EXPECT_EQ(incident.head_hash(), before);
    answer = Gate::kPass;
    EXPECT_EQ(incident.append("short", Json::object(), Durability::kSync).has_value(), !stuck);
    truncate_fails = false;
    EXPECT_TRUE(incident.append("short", Json::object(), Durability::kSync));
    const VerifyResult result = verify_incident(text_of(incident), incident.head_hash());
    EXPECT_TRUE(result.intact) << result.problem;
  }
}

TEST_F(IncidentTest, AFailedSyncIsNeverTriedAgain) {
  bool broken = false;
  GatedFiles files([&](std::string_view operation) {
    return broken && operation == "sync" ? Gate::kFail : Gate::kPass;
  });
  auto opened = *IncidentLog::open(files, clock_, dir_.path());
  auto incident = *opened.create("engine", Json::object());
  broken = true;
  EXPECT_EQ(incident.append("a", Json::object(), Durability::kSync).error().code(),
            Code::kSyncFailed);
  broken = false;
  EXPECT_EQ(incident.append("b", Json::object(), Durability::kSoon).error().code(),
            Code::kSyncFailed);
  EXPECT_EQ(incident.sync_if_due().error().code(), Code::kSyncFailed);
  EXPECT_FALSE(incident.close("failed"));
}

TEST_F(IncidentTest, AKillAtEveryFileOperationLeavesNoneOrAWholeIncidentThatResumes) {
  bool died = true;
  for (int passes = 0; died; ++passes) {
    const Scratch dir;
    testcases::DyingFiles disk(passes, true);
    {
      auto opened = *IncidentLog::open(disk.files, clock_, dir.path());
      auto incident = opened.create("engine", Json::object());
      if (incident) {
        static_cast<void>(incident->append("detected", Json::object(), Durability::kSync));
        static_cast<void>(incident->append("captured", Json::object(), Durability::kSoon));
        static_cast<void>(incident->close("recovered"));
      }
      died = disk.died();
    }
    auto opened = *IncidentLog::open(os::real_files(), clock_, dir.path());
    const auto listed = *opened.list();
    for (const IncidentSummary& summary : listed) {
      EXPECT_NE(summary.outcome, "failed") << summary.cause;
      if (!summary.closed_at.empty()) continue;
      auto resumed = opened.resume(summary.id);
      ASSERT_TRUE(resumed) << resumed.error().to_text();
      EXPECT_TRUE(resumed->close("restarted"));
      EXPECT_TRUE(opened.verify(summary.id, resumed->head_hash())->intact);
    }
    ASSERT_LT(passes, 100);
  }
}

TEST_F(IncidentTest, TooLongLinesAreRefused) {
  Incident incident = create();
  const Json big = Json::object({{"text", std::string(kMaxIncidentLine, 'x')}});
  EXPECT_EQ(incident.append("big", big, Durability::kSoon).error().code(), Code::kLimitExceeded);
  EXPECT_TRUE(incident.append("ok", Json::object(), Durability::kSync));
  EXPECT_TRUE(verify_incident(text_of(incident)).intact);
}

TEST_F(IncidentTest, ListIsNewestFirstWithCausesAndOutcomes) {
  EXPECT_THAT(*log().list(), SizeIs(0));
  const Incident closed = finished();
  clock_.advance(seconds(5));
  Incident open = create("other");
  ASSERT_TRUE(
      open.append("classified", Json::object({{"cause", "out_of_memory"}}), Durability::kSync));
  clock_.advance(seconds(5));
  Incident waiting = create("third");
  ASSERT_TRUE(
      waiting.append("plan", Json::object({{"outcome", "awaiting_approval"}}), Durability::kSync));
  write(dir_ / "incidents/20200101T000000Z-abcdef.jsonl", "rubbish\n");
  write(dir_ / "incidents/20200101T000000Z-abcdef.jsonl.tmp", "ignored");
  const auto listed = *log().list();
  ASSERT_THAT(listed, SizeIs(4));
  EXPECT_EQ(listed[0].id, waiting.id());
  EXPECT_EQ(listed[0].outcome, "awaiting_approval");
  EXPECT_EQ(listed[0].cause, "unknown");
  EXPECT_EQ(listed[1].id, open.id());
  EXPECT_EQ(listed[1].service, "other");
  EXPECT_EQ(listed[1].outcome, "open");
  EXPECT_EQ(listed[1].cause, "out_of_memory");
  EXPECT_EQ(listed[1].closed_at, "");
  EXPECT_TRUE(listed[1].to_json()["closed_at"].is_null());
  EXPECT_EQ(listed[2].id, closed.id());
  EXPECT_EQ(listed[2].outcome, "recovered");
  EXPECT_EQ(listed[2].cause, "segmentation_fault");
  EXPECT_EQ(listed[2].head_hash, closed.head_hash());
  EXPECT_NE(listed[2].closed_at, "");
  EXPECT_EQ(listed[3].outcome, "failed");
  EXPECT_EQ(listed[3].opened_at, "2020-01-01T00:00:00.000000000Z");
  EXPECT_THAT(listed[3].cause, HasSubstr("JSON"));
}

// Counts the bytes that are read.
class CountingFiles final : public os::PassThroughFiles {
 public:
  CountingFiles() : PassThroughFiles(os::real_files()) {}
  Result<std::unique_ptr<os::File>> open(const std::string& path, os::OpenMode mode) override {
    DEFIB_TRY_ASSIGN(auto file, files_.open(path, mode));
    return std::unique_ptr<os::File>(std::make_unique<Counting>(std::move(file), bytes_read));
  }
  Result<> sync_dir(const std::string&) override { return {}; }
  std::uint64_t bytes_read = 0;

 private:
  class Counting final : public os::PassThroughFile {
   public:
    Counting(std::unique_ptr<os::File> file, std::uint64_t& bytes)
        : PassThroughFile(std::move(file)), bytes_(bytes) {}
    Result<std::size_t> read_at(std::uint64_t offset, char* to, std::size_t size) override {
      auto got = file_->read_at(offset, to, size);
      if (got) bytes_ += *got;
      return got;
    }
    Result<> sync() override { return {}; }

   private:
    std::uint64_t& bytes_;
  };
};

TEST_F(IncidentTest, ListAndCreateReadOnlyTheEndsOfHundredsOfLongIncidents) {
  constexpr int kIncidents = 300;
  constexpr std::size_t kThreads = 40'000;  // bytes of a captured process
  CountingFiles files;
  auto opened = *IncidentLog::open(files, clock_, dir_.path());
  for (int i = 0; i < kIncidents; ++i) {
    clock_.advance(seconds(1));
    auto incident = *opened.create("engine", Json::object());
    ASSERT_TRUE(incident.append("captured", Json::object({{"threads", std::string(kThreads, 't')}}),
                                Durability::kSoon));
    ASSERT_TRUE(
        incident.append("classified", Json::object({{"cause", "deadlock"}}), Durability::kSoon));
    ASSERT_TRUE(incident.close("recovered"));
  }
  files.bytes_read = 0;
  const std::int64_t started = os::real_clock().mono_ns();
  const auto listed = *opened.list();
  const os::Duration took(os::real_clock().mono_ns() - started);
  fmt::print("list of {} incidents, {} MB: {}, {} KB read\n", kIncidents,
             kIncidents * kThreads / 1'000'000, os::format_duration(took), files.bytes_read / 1000);
  ASSERT_THAT(listed, SizeIs(kIncidents));
  for (const IncidentSummary& summary : listed) ASSERT_EQ(summary.cause, "deadlock");
  EXPECT_LT(files.bytes_read, std::uint64_t{kIncidents} * 10'000);
  files.bytes_read = 0;
  EXPECT_TRUE(opened.create("engine", Json::object()));
  EXPECT_LT(files.bytes_read, 30'000U) << "creating one is on the way of a restart";
}

TEST_F(IncidentTest, LinesLongerThanTheFirstReadAreFoundWhole) {
  Incident incident = create();
  ASSERT_TRUE(incident.append("captured", Json::object({{"t", std::string(300'000, 'x')}}),
                              Durability::kSync));
  auto next = log().create("b", Json::object({{"config", std::string(300'000, 'y')}}));
  ASSERT_TRUE(next);
  ASSERT_TRUE(next->close("stopped", Json::object({{"t", std::string(300'000, 'z')}})));
  EXPECT_TRUE(log().verify(next->id(), next->head_hash())->intact);
  const auto listed = log().list();
  for (const IncidentSummary& summary : *listed) {
    EXPECT_NE(summary.outcome, "failed") << summary.cause;
  }
}

TEST_F(IncidentTest, FindTakesLatestIdsAndUniquePrefixes) {
  EXPECT_EQ(log().find("latest").error().code(), Code::kNotFound);
  const std::string first = finished().id();
  clock_.advance(seconds(3600));
  const std::string second = finished().id();
  EXPECT_EQ(*log().find("latest"), second);
  EXPECT_EQ(*log().find(first), first);
  EXPECT_EQ(*log().find(first.substr(0, 13)), first);
  const auto several = log().find("2023");
  ASSERT_FALSE(several);
  EXPECT_EQ(several.error().code(), Code::kInvalidArgument);
  EXPECT_THAT(several.error().message(), HasSubstr(first));
  EXPECT_EQ(log().find("1999").error().code(), Code::kNotFound);
  EXPECT_EQ(log().find("").error().code(), Code::kNotFound);
  EXPECT_EQ(log().read("../x").error().code(), Code::kNotFound);
}

TEST_F(IncidentTest, AnEmptyFileAndRubbishAreProblemsNotCrashes) {
  for (const std::string_view text :
       {std::string_view(""), std::string_view("\n"), std::string_view("{}\n"),
        std::string_view("\0\n", 2), std::string_view("x")}) {
    EXPECT_FALSE(verify_incident(text).intact);
    write(dir_ / "rubbish.jsonl", text);
    EXPECT_EQ(check_independently(dir_ / "rubbish.jsonl").status.code, 1);
  }
  EXPECT_EQ(check_independently(dir_ / "absent.jsonl").status.code, 2);
  EXPECT_EQ(check_independently(dir_ / "rubbish.jsonl", "xyz").status.code, 2);
}

TEST_F(IncidentTest, AForeignFileInPlaceOfTheDirectoryIsRefused) {
  write(dir_ / "incidents", "mine");
  EXPECT_EQ(IncidentLog::open(os::real_files(), clock_, dir_.path()).error().code(),
            Code::kStateDirectoryForeign);
}

}  // namespace
}  // namespace defib::recovery

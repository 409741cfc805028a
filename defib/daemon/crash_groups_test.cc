// Counts of equal failures: each once, over restarts, kills and lost files.

#include "defib/daemon/crash_groups.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "defib/os/sim_files.h"

namespace defib::daemon {
namespace {

using wire::Json;

Json signature(const std::string& id) {
  return Json::object({{"id", id}, {"text", "abort in " + id}});
}
Json classified(const std::string& id, const std::string& at = "2026-11-20T13:05:58Z") {
  return Json::object(
      {{"event", "classified"}, {"at", at}, {"cause", "abort"}, {"signature", signature(id)}});
}
std::string incident(int number) {
  return fmt::format("20261120T13{:02}{:02}Z-1a2b3c", number / 60, number % 60);
}

class Groups : public ::testing::Test {
 protected:
  Groups() { EXPECT_TRUE(files_.create_dirs("/services/engine")); }
  CrashGroups read() { return CrashGroups::read(files_, "/services/engine"); }
  os::SimFiles files_;
};

TEST_F(Groups, CountsEqualSignatures) {
  CrashGroups groups = read();
  EXPECT_TRUE(groups.count(incident(1), 1, "2026-11-20T13:00:01Z", signature("a"), "abort"));
  EXPECT_TRUE(groups.count(incident(2), 1, "2026-11-20T13:00:02Z", signature("b"), "abort"));
  EXPECT_TRUE(groups.count(incident(3), 1, "2026-11-20T13:00:03Z", signature("a"), "abort"));
  EXPECT_TRUE(groups.count(incident(3), 2, "2026-11-20T13:00:04Z", signature("a"), "abort"));
  ASSERT_TRUE(groups.save(files_));
  const CrashGroups again = read();
  const CrashGroup* group = again.find("a");
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(group->count, 3U);
  EXPECT_EQ(group->first_at, "2026-11-20T13:00:01Z");
  EXPECT_EQ(group->last_at, "2026-11-20T13:00:04Z");
  EXPECT_EQ(group->incidents, (std::vector<std::string>{incident(1), incident(3)}));
  EXPECT_EQ(again.find("b")->count, 1U);
  EXPECT_EQ(again.find("c"), nullptr);
}

TEST_F(Groups, CountNothingTwice) {
  CrashGroups groups = read();
  const std::vector<Json> lines = {Json::object({{"event", "opened"}}), classified("a"),
                                   Json::object({{"event", "restarted"}}), classified("a")};
  EXPECT_TRUE(groups.catch_up(incident(1), lines));
  EXPECT_FALSE(groups.catch_up(incident(1), lines));
  ASSERT_TRUE(groups.save(files_));
  groups = read();
  EXPECT_FALSE(groups.catch_up(incident(1), lines));
  EXPECT_EQ(groups.find("a")->count, 2U);
}

// Killed between the incident's line and the file: whoever comes next counts it.
TEST_F(Groups, LoseNothingThatTheIncidentHas) {
  CrashGroups groups = read();
  groups.count(incident(1), 1, "2026-11-20T13:00:01Z", signature("a"), "abort");
  ASSERT_TRUE(groups.save(files_));
  groups.count(incident(1), 2, "2026-11-20T13:00:02Z", signature("a"), "abort");  // and is killed
  groups = read();
  EXPECT_EQ(groups.find("a")->count, 1U);
  EXPECT_TRUE(groups.catch_up(incident(1), {classified("a"), classified("a")}));
  EXPECT_EQ(groups.find("a")->count, 2U);
}

TEST_F(Groups, BeginAnewWhereTheFileIsDamaged) {
  {
    const auto file = files_.open("/services/engine/groups.json", os::OpenMode::kCreate);
    ASSERT_TRUE(file);
  }
  files_.set_content("/services/engine/groups.json", "{\"schema\":\"defib.groups/1\",\"gro");
  CrashGroups groups = read();
  EXPECT_TRUE(groups.groups().empty());
  EXPECT_TRUE(groups.catch_up(incident(1), {classified("a")}));
  EXPECT_TRUE(groups.save(files_));
}

TEST_F(Groups, AreBounded) {
  CrashGroups groups = read();
  for (int i = 0; i < 1000; ++i) {
    groups.count(incident(i), 1, fmt::format("2026-11-20T13:{:02}:{:02}Z", i / 60, i % 60),
                 signature(std::to_string(i % 300)), "abort");
  }
  EXPECT_EQ(groups.groups().size(), CrashGroups::kMaxGroups);
  ASSERT_TRUE(groups.save(files_));
  groups = read();
  EXPECT_EQ(groups.groups().size(), CrashGroups::kMaxGroups);
  EXPECT_FALSE(groups.counted(incident(999), 2));
  EXPECT_TRUE(groups.counted(incident(999), 1));
  EXPECT_TRUE(groups.counted(incident(3), 1));  // long ago
  // One bug a thousand times is one group with a few incidents.
  CrashGroups one = read();
  for (int i = 1000; i < 2000; ++i) {
    one.count(incident(i), 1, "2026-11-20T14:00:00Z", signature("x"), "abort");
  }
  EXPECT_EQ(one.find("x")->count, 1000U);
  EXPECT_EQ(one.find("x")->incidents.size(), CrashGroups::kMaxIncidents);
}

TEST_F(Groups, LeaveOutWhatHasNoSignature) {
  CrashGroups groups = read();
  EXPECT_TRUE(groups.count(incident(1), 1, "2026-11-20T13:00:01Z", Json(), "unknown"));
  EXPECT_TRUE(groups.groups().empty());
  EXPECT_TRUE(groups.counted(incident(1), 1));
}

}  // namespace
}  // namespace defib::daemon

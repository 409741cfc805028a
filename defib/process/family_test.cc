// The end of a service is the end of everything that it started; and its limits are held.
//
// Each is tried with control groups, where this machine has them, and without.

#include <fmt/core.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "defib/base/bytes.h"
#include "defib/process/cgroup_places.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

class Family : public SupervisorTest, public testing::WithParamInterface<bool> {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    CgroupPlaces places;
    const Cgroups& groups = places.find(false, false);
    with_groups_ = GetParam();
    if (with_groups_ && groups.tree_missing) {
      GTEST_SKIP() << "no control groups here: " << groups.tree_missing->to_line();
    }
    tree_dir_ = groups.tree_dir;
  }

  ServiceSpec launched(std::vector<std::string> arguments) const {
    ServiceSpec spec = victim({});
    spec.argv = {program("process_launched")};
    spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
    if (!with_groups_) spec.control_groups = false;
    return spec;
  }

  std::string text_of(const std::string& name) const {
    std::ifstream in(dir_ + "/" + name);
    std::ostringstream out;
    out << in.rdbuf();
    return out.str();
  }

  std::string group_of(std::uint64_t generation) const {
    return fmt::format("{}/victim-{}-{}", tree_dir_, sha256_hex(service_dir()).substr(0, 12),
                       generation);
  }
  // The groups of this test's service that are there, but for that of its next start, which is made
  // in advance.
  std::vector<std::string> groups() {
    std::vector<std::string> found;
    std::error_code ignored;
    const std::string first = group_of(1);
    const std::string prefix = first.substr(0, first.size() - 1);
    const std::string next = supervisor_ ? group_of(status().generation + 1) : "";
    for (const auto& entry : std::filesystem::directory_iterator(tree_dir_, ignored)) {
      const std::string path = entry.path().string();
      if (entry.is_directory() && path.starts_with(prefix) && path != next) found.push_back(path);
    }
    return found;
  }

  bool with_groups_ = false;
  std::string tree_dir_;
};

TEST_P(Family, DoubleForkersInTheirOwnSessionsDieWithTheService) {
  start(launched({"scatter"}));
  run_until([&] { return text_of("scattered") == "done\n"; });
  ASSERT_EQ(processes().size(), 5u);  // The shim, the service, three that left it.
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped; });
  run_until([&] { return processes().size() == 1; });
}

TEST_P(Family, AReplacementMeetsNoneOfThoseThatLeftTheServiceBeforeIt) {
  start(launched({"scatter"}));
  for (std::size_t round = 1; round <= 3; ++round) {
    run_until([&] { return text_of("scattered") == "done\n"; });
    std::filesystem::remove(dir_ + "/scattered");
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == round + 1; });
    run_until([&] { return text_of("scattered") == "done\n"; });
    EXPECT_EQ(processes().size(), 5u);
  }
}

// Each of them is the child of the one before: killed one by one they would outlive the start.
TEST_P(Family, AReplacementMeetsNoneOfALineOfDescendants) {
  start(launched({"line", "8"}));
  for (std::size_t round = 1; round <= 3; ++round) {
    run_until([&] { return text_of("line") == "done\n"; });
    std::filesystem::remove(dir_ + "/line");
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == round + 1; });
    run_until([&] { return text_of("line") == "done\n"; });
    EXPECT_EQ(processes().size(), 10u);
    ASSERT_EQ(text_of("met"), "");
  }
}

TEST_P(Family, AForkBombWithinItsLimitIsKilledToTheLast) {
  ServiceSpec spec = launched({"bomb"});
  spec.stop_timeout = std::chrono::milliseconds(50);
  if (with_groups_) {
    spec.max_processes = 60;
  } else if (::geteuid() == 0) {
    // Limits of processes do not bind root.
    std::filesystem::copy_file(program("process_launched"), dir_ + "/launched");
    ::chmod(dir_.c_str(), 0777);
    spec.argv[0] = dir_ + "/launched";
    spec.user = "60321";
    spec.limits = {{"nproc", 60}};
  } else {
    GTEST_SKIP() << "without groups, only root can give the bomb a user of its own to bind it";
  }
  if (with_groups_) {
    CgroupPlaces places;
    if (const Cgroups& groups = places.find(false, true); groups.pids_missing) {
      GTEST_SKIP() << "nobody counts processes here: " << groups.pids_missing->to_line();
    }
  }
  start(spec);
  for (int round = 0; round < 3; ++round) {
    run_until([&] { return processes().size() > 40; });
    EXPECT_LE(processes().size(), 62u);
    if (round == 2) break;
    kill_service(SIGKILL);
    run_until([&] { return seen_->exits.size() == static_cast<std::size_t>(round) + 1; });
  }
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped; });
  run_until([&] { return processes().size() == 1; });
}

TEST_P(Family, AStopThatCrossesTheStartSendsItsSignalOnce) {
  ServiceSpec spec = launched({"signals", dir_ + "/signals"});
  spec.stop_sequence = {{SIGINT, std::chrono::milliseconds(300)}};
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(spec));
  ASSERT_TRUE(supervisor_->start("victim"));
  // The supervisor has not heard of the start.
  for (int i = 0; i < 2000 && text_of("signals") != "ready\n"; ++i) ::usleep(10'000);
  ASSERT_TRUE(supervisor_->stop("victim"));
  for (int i = 0; i < 2000 && text_of("signals") == "ready\n"; ++i) ::usleep(10'000);
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_EQ(text_of("signals"), "ready\nSIGINT\n");
  EXPECT_EQ(status().state, ServiceState::kStopped);
}

TEST_P(Family, AStopSequenceSendsOneSignalAfterTheOtherAndThenKills) {
  ServiceSpec spec = launched({"signals", dir_ + "/signals"});
  spec.stop_sequence = {{SIGINT, std::chrono::milliseconds(120)},
                        {SIGHUP, std::chrono::milliseconds(80)},
                        {SIGTERM, std::chrono::milliseconds(80)}};
  start(spec);
  run_until([&] { return text_of("signals") == "ready\n"; });
  const std::int64_t begun = loop_->clock().mono_ns();
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_EQ(text_of("signals"), "ready\nSIGINT\nSIGHUP\nSIGTERM\n");
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_GE(seen_->exits.at(0).noticed_mono_ns - begun, 280'000'000);
  EXPECT_EQ(status().state, ServiceState::kStopped);
}

INSTANTIATE_TEST_SUITE_P(, Family, testing::Bool(), [](const auto& chosen) {
  return chosen.param ? "InAGroup" : "WithoutGroups";
});

class Grouped : public Family {};

TEST_P(Grouped, EachStartHasAGroupOfItsOwnAndNoneStaysBehind) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  start(launched({"scatter"}));
  run_until([&] { return text_of("scattered") == "done\n"; });
  const std::vector<std::string> first = groups();
  ASSERT_EQ(first.size(), 1u);
  EXPECT_TRUE(first[0].ends_with("-1"));
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  run_until([&] { return groups().size() == 1 && groups()[0].ends_with("-2"); });
  stop_all();
  supervisor_.reset();
  EXPECT_TRUE(groups().empty());
}

TEST_P(Grouped, TheGroupOfTheNextStartIsMadeInAdvanceAndGoesWithTheService) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  start(launched({"scatter"}));
  run_until([&] { return std::filesystem::exists(group_of(2)); });
  EXPECT_TRUE(status().restart_ready);
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return !std::filesystem::exists(group_of(1)); });
  run_until([&] { return !std::filesystem::exists(group_of(2)); });
}

TEST_P(Grouped, AGroupMadeInAdvanceThatSomebodyRemovedIsMadeAgain) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  start(launched({"scatter"}));
  run_until([&] { return text_of("scattered") == "done\n" && status().restart_ready; });
  run_until([&] { return ::rmdir(group_of(2).c_str()) == 0; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  std::ifstream in(fmt::format("/proc/{}/cgroup", status().pid));
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::string name = std::filesystem::path(group_of(2)).filename().string();
  EXPECT_NE(text.find(name), std::string::npos) << text;
  EXPECT_TRUE(seen_->warnings.empty());
}

// Supervisors in one group share the directory of all their groups; the last one removes it.
TEST_P(Grouped, ADirectoryOfGroupsThatAnotherSupervisorRemovedIsMadeAgain) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  make_supervisor();
  ASSERT_TRUE(supervisor_->add(launched({"scatter"})));
  CgroupPlaces().find(false, false);
  ::rmdir(tree_dir_.c_str());  // Others may be using it just now.
  ASSERT_TRUE(supervisor_->start("victim"));
  run_until([&] { return text_of("scattered") == "done\n"; });
  EXPECT_EQ(groups().size(), 1u);
}

// What was left in the group of a service whose shim died with it belongs to nobody by descent.
TEST_P(Grouped, ThoseThatAKilledShimLeftAreFoundByTheirGroup) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  start(launched({"scatter"}));
  run_until([&] { return text_of("scattered") == "done\n" && status().restart_ready; });
  std::filesystem::remove(dir_ + "/scattered");
  const pid_t service = status().pid;
  kill_shim();
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->starts.size() == 2; });
  run_until([&] { return text_of("scattered") == "done\n"; });
  run_until([&] { return processes().size() == 5; });
  // The group of the dead may be busy for a moment.
  run_until([&] { return groups().size() == 1 && groups()[0].ends_with("-2"); });
}

TEST_P(Grouped, AKilledShimsGroupIsRemovedAlsoWhereNothingIsStartedAgain) {
  if (tree_dir_.empty()) GTEST_SKIP() << "version 2 of control groups is not mounted here";
  ServiceSpec spec = launched({"scatter"});
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return text_of("scattered") == "done\n"; });
  const pid_t service = status().pid;
  kill_shim();
  kill_one(service, SIGKILL);
  run_until([&] { return seen_->exits.size() == 1 && seen_->new_shims.size() == 1; });
  run_until([&] { return groups().empty() && processes().size() == 1; });
}

TEST_P(Grouped, AnAdoptedServiceIsEndedByTheGroupThatItWasStartedIn) {
  start(launched({"scatter"}));
  run_until([&] { return text_of("scattered") == "done\n"; });
  // Those three were the old shim's; they are nobody's now that is known to the new one.
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1 && status().restart_ready; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped; });
  run_until([&] { return processes().size() == 1; });
}

TEST_P(Grouped, WhatGoesBeyondItsMemoryLimitIsKilledByTheKernelAndSaidSo) {
  CgroupPlaces places;
  if (const Cgroups& groups = places.find(true, false); groups.memory_missing) {
    GTEST_SKIP() << "no memory limits here: " << groups.memory_missing->to_line();
  }
  ServiceSpec spec = launched({"swell", "200"});
  spec.memory_limit_bytes = 32u << 20;
  spec.restart = RestartPolicy::kNever;
  start(spec);
  run_until([&] { return seen_->exits.size() == 1; });
  EXPECT_EQ(seen_->exits.at(0).status.signal, SIGKILL);
  EXPECT_EQ(seen_->exits.at(0).reason, StopReason::kNone);
  EXPECT_EQ(seen_->exits.at(0).oom_kills, 1u);
  EXPECT_EQ(seen_->exits.at(0).memory_limit_bytes, 32u << 20);
}

TEST_P(Grouped, AChildThatIsKilledForTheMemoryLimitIsToldWhileTheServiceGoesOn) {
  CgroupPlaces places;
  const Cgroups& found = places.find(true, false);
  if (found.memory_missing) {
    GTEST_SKIP() << "no memory limits here: " << found.memory_missing->to_line();
  }
  if (found.memory_in_tree) GTEST_SKIP() << "version 2 ends the whole group together";
  ServiceSpec spec = launched({"swell-child", "200"});
  spec.memory_limit_bytes = 32u << 20;
  start(spec);
  run_until([&] { return !seen_->oom_reports.empty(); });
  EXPECT_GE(seen_->oom_reports.at(0).kills, 1u);
  EXPECT_EQ(seen_->oom_reports.at(0).limit_bytes, 32u << 20);
  EXPECT_TRUE(seen_->exits.empty());
  EXPECT_EQ(status().state, ServiceState::kRunning);
}

// Two generations do not share a limit: the second one has all of it although the first used it up.
TEST_P(Grouped, AReplacementHasItsWholeMemoryLimit) {
  CgroupPlaces places;
  if (const Cgroups& groups = places.find(true, false); groups.memory_missing) {
    GTEST_SKIP() << "no memory limits here: " << groups.memory_missing->to_line();
  }
  ServiceSpec spec = launched({"swell", "40"});
  spec.memory_limit_bytes = 64u << 20;
  start(spec);
  for (std::size_t round = 1; round <= 3; ++round) {
    run_until([&] { return status().memory_bytes > (40u << 20); });
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == round + 1; });
    EXPECT_EQ(seen_->exits.back().oom_kills, 0u);
  }
}

INSTANTIATE_TEST_SUITE_P(, Grouped, testing::Values(true), [](const auto&) { return "InAGroup"; });

}  // namespace
}  // namespace defib::process

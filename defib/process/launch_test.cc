// How a service is launched: as whom, within which limits, and what bad input gets.

#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>

#include "defib/os/files.h"
#include "defib/process/identity.h"
#include "defib/process/launch_description.h"
#include "defib/process/supervisor_test_util.h"

namespace defib::process {
namespace {

constexpr char kOtherUser[] = "nobody";

class Launched : public SupervisorTest {
 protected:
  void SetUp() override {
    SupervisorTest::SetUp();
    // Another user shall reach program and output, wherever the build lies.
    std::filesystem::copy_file(program("process_launched"), dir_ + "/launched");
    ::chmod(dir_.c_str(), 0777);
    ::chmod((dir_ + "/launched").c_str(), 0755);
  }

  ServiceSpec launched(std::vector<std::string> arguments) const {
    ServiceSpec spec = victim({});
    spec.argv = {dir_ + "/launched"};
    spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
    return spec;
  }

  // Starts it in mode `show`, and what it saw of itself.
  std::map<std::string, std::string> shown(ServiceSpec spec) {
    const std::string file = dir_ + "/shown";
    spec.argv = {dir_ + "/launched", "show", file};
    start(spec);
    run_until([&] { return std::filesystem::exists(file) || !seen_->start_failures.empty(); });
    for (const Error& error : seen_->start_failures) ADD_FAILURE() << error.to_text();
    std::map<std::string, std::string> values;
    std::ifstream in(file);
    std::string line;
    while (std::getline(in, line)) {
      const std::size_t space = line.find(' ');
      values[line.substr(0, space)] = space == std::string::npos ? "" : line.substr(space + 1);
    }
    return values;
  }

  // What start() answers to a command that is wrong in itself.
  Error refused(const ServiceSpec& spec) {
    if (!supervisor_) make_supervisor();
    const auto added = supervisor_->add(spec);
    EXPECT_TRUE(added) << added.error().to_text();
    const auto started = supervisor_->start(spec.name);
    EXPECT_FALSE(started);
    EXPECT_EQ(status().generation, 0u) << "something was started";
    return started ? Error(Code::kInternal, "it was started") : started.error();
  }

  void write_file(const std::string& path, const std::string& text, mode_t mode) {
    std::ofstream(path) << text;
    ::chmod(path.c_str(), mode);
  }
};

#define NEEDS_ROOT() \
  if (::geteuid() != 0) GTEST_SKIP() << "only root can start services as another user"

TEST_F(Launched, AServiceOfAnotherUserHasThatUsersIdentityAndNothingMore) {
  NEEDS_ROOT();
  const passwd* user = ::getpwnam(kOtherUser);
  ASSERT_NE(user, nullptr);
  const std::string uid = std::to_string(user->pw_uid);
  const std::string gid = std::to_string(user->pw_gid);
  ServiceSpec spec = launched({});
  spec.user = kOtherUser;
  const auto shown_values = shown(spec);
  const auto at = [&](const char* key) { return shown_values.at(key); };
  EXPECT_EQ(at("uid"), uid + "\t" + uid + "\t" + uid + "\t" + uid);
  EXPECT_EQ(at("gid"), gid + "\t" + gid + "\t" + gid + "\t" + gid);
  EXPECT_EQ(at("groups"), gid);
  EXPECT_EQ(at("no_new_privs"), "1");
  EXPECT_EQ(at("ambient"), "0000000000000000");
  EXPECT_EQ(at("effective"), "0000000000000000");
  EXPECT_EQ(at("USER"), kOtherUser);
  EXPECT_EQ(at("HOME"), user->pw_dir);
  EXPECT_EQ(at("stdout"), "opened");
  // What defib itself keeps is not for that user.
  struct stat info{};
  ASSERT_EQ(::stat(state_dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(Launched, AServiceOfAnotherUserSpeaksToTheSupervisorAndItsBeatsCount) {
  NEEDS_ROOT();
  std::filesystem::copy_file(program("process_victim"), dir_ + "/victim");
  ::chmod((dir_ + "/victim").c_str(), 0755);
  ServiceSpec spec = victim({});
  spec.argv = {dir_ + "/victim", "notify"};
  spec.user = kOtherUser;
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped; });
  ASSERT_TRUE(supervisor_->remove("victim"));
  run_until([&] { return supervisor_->status().empty(); });
  spec.argv = {dir_ + "/victim", "beat", "10", "5"};
  spec.heartbeat_timeout = std::chrono::milliseconds(200);
  start(spec);
  run_until([&] { return seen_->hangs.size() == 1; });
  EXPECT_EQ(seen_->hangs.at(0).stage, "main");
}

TEST_F(Launched, AUserThatIsAddedLaterStillReachesTheSupervisor) {
  NEEDS_ROOT();
  ServiceSpec spec = launched({"ready"});
  start(spec);
  run_until([&] { return seen_->ready_count == 1; });
  spec.user = kOtherUser;
  ASSERT_TRUE(supervisor_->update(spec));
  ASSERT_TRUE(supervisor_->restart("victim"));
  run_until([&] { return seen_->ready_count == 2; });
  // The next shim listens at the same place.
  kill_shim();
  run_until([&] { return seen_->new_shims.size() == 1; });
  run_until([&] { return status().restart_ready; });
  kill_service(SIGKILL);
  run_until([&] { return seen_->ready_count == 3; });
}

TEST_F(Launched, SomeoneElsesNotificationsAreNotBelieved) {
  NEEDS_ROOT();
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.user = kOtherUser;
  start(spec);
  run_until([&] { return std::filesystem::exists(dir_ + "/out"); });
  const auto say_ready_as = [&](const std::string& uid) {
    // It ends by a signal of its own: whoever could not send has ended by itself before.
    const std::string program = "setpriv --reuid " + uid + " --clear-groups " + dir_ +
                                "/launched ready & sleep 0.05; kill $!; wait $!";
    os::SpawnOptions options;
    options.argv = {"/bin/sh", "-c", program};
    options.env = {{"NOTIFY_SOCKET", abstract_notify_address(service_dir())}};
    auto sender = os::spawn(options);
    ASSERT_TRUE(sender);
    EXPECT_EQ(sender->wait().code, 128 + SIGTERM) << "the message was not sent";
  };
  say_ready_as("65533");  // A third user, to the very address.
  say_ready_as(std::to_string(::getpwnam(kOtherUser)->pw_uid));
  run_until([&] { return !seen_->notifications.empty(); });
  EXPECT_EQ(seen_->ready_count, 1);
  EXPECT_EQ(seen_->notifications.size(), 1u);
}

TEST_F(Launched, GroupsUmaskNiceAndLimitsAreSetInTheProcess) {
  NEEDS_ROOT();
  ServiceSpec spec = launched({});
  spec.user = kOtherUser;
  spec.group = "daemon";
  spec.supplementary_groups = {{"mail", "60123"}};
  spec.umask = 027;
  spec.nice = 5;
  spec.oom_score_adjust = 300;
  spec.limits = {{"core", 0}, {"nofile", 256}};
  spec.working_directory = "/usr";
  spec.no_new_privileges = false;
  const auto values = shown(spec);
  const std::string gid = std::to_string(::getgrnam("daemon")->gr_gid);
  EXPECT_EQ(values.at("gid").substr(0, gid.size()), gid);
  EXPECT_EQ(values.at("groups"), std::to_string(::getgrnam("mail")->gr_gid) + " 60123");
  EXPECT_EQ(values.at("umask"), "027");
  EXPECT_EQ(values.at("nice"), "5");
  EXPECT_EQ(values.at("oom_score_adj"), "300");
  EXPECT_EQ(values.at("core"), "0/0");
  EXPECT_EQ(values.at("nofile"), "256/256");
  EXPECT_EQ(values.at("directory"), "/usr");
  EXPECT_EQ(values.at("no_new_privs"), "0");
}

TEST_F(Launched, AClearedEnvironmentHoldsWhatTheSpecSaysAndAPath) {
  ::setenv("LEFT_OVER", "from the supervisor", 1);
  ServiceSpec spec = launched({});
  EXPECT_EQ(shown(spec).at("LEFT_OVER"), "from the supervisor");
  ASSERT_TRUE(supervisor_->stop("victim"));
  run_until([&] { return status().state == ServiceState::kStopped; });
  ASSERT_TRUE(supervisor_->remove("victim"));
  run_until([&] { return supervisor_->status().empty(); });
  std::filesystem::remove(dir_ + "/shown");
  spec.clear_environment = true;
  const auto values = shown(spec);
  ::unsetenv("LEFT_OVER");
  EXPECT_EQ(values.at("LEFT_OVER"), "-");
  EXPECT_EQ(values.at("VICTIM_DIR"), dir_);
  EXPECT_EQ(values.at("PATH"), "/usr/local/bin:/usr/bin:/bin");
}

// Lowering oom_score_adjust takes a capability that containers often lack: the service runs, and
// the operator is told once what it goes without.
TEST_F(Launched, WhatTheSystemRefusesIsToldOnceAndTheServiceRunsAllTheSame) {
  rlimit present{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &present), 0);
  ServiceSpec spec = launched({});
  spec.oom_score_adjust = -900;
  spec.limits = {{"nofile", static_cast<std::uint64_t>(present.rlim_max) + 1000}};
  spec.nice = ::geteuid() == 0 ? 0 : -5;
  const auto values = shown(spec);
  const bool refused = values.at("oom_score_adj") != "-900";
  kill_service(SIGKILL);
  run_until([&] { return seen_->starts.size() == 2 && status().restart_ready; });
  if (!refused) GTEST_SKIP() << "this system refuses nothing: CAP_SYS_RESOURCE is there";
  const auto told = [&](std::string_view word) {
    return std::ranges::count_if(seen_->warnings, [&](const Error& one) {
      return one.message().find(word) != std::string::npos;
    });
  };
  EXPECT_EQ(told("oom_score_adjust"), 1);
  EXPECT_EQ(told("a limit could not be raised"), 1);
  // The highest that is allowed.
  const std::string highest = std::to_string(present.rlim_max);
  EXPECT_EQ(values.at("nofile"), highest + "/" + highest);
  for (const Error& one : seen_->warnings) {
    EXPECT_EQ(one.code(), Code::kPermissionDenied);
    EXPECT_NE(one.suggested_action().find("CAP_SYS_RESOURCE"), std::string::npos) << one.to_text();
  }
}

TEST_F(Launched, AProgramThatTheUserMayNotExecuteIsAFailureOfThatStage) {
  NEEDS_ROOT();
  ::chmod((dir_ + "/launched").c_str(), 0700);
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.user = kOtherUser;
  start(spec);
  run_until([&] { return !seen_->start_failures.empty(); });
  const Error& error = seen_->start_failures.at(0);
  EXPECT_EQ(error.code(), Code::kStartFailed);
  EXPECT_NE(error.message().find("the program cannot be executed"), std::string::npos);
  EXPECT_EQ(error.root().code(), Code::kPermissionDenied);
  EXPECT_NE(error.suggested_action().find("may read and execute it"), std::string::npos);
}

TEST_F(Launched, AnUnknownUserIsNamedBeforeAnythingIsTouched) {
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.user = "no-such-user-here";
  const Error error = refused(spec);
  EXPECT_EQ(error.code(), Code::kConfigBadValue);
  EXPECT_EQ(error.message(), "there is no user 'no-such-user-here' on this machine");
  EXPECT_NE(error.suggested_action().find("getent passwd"), std::string::npos);
}

TEST_F(Launched, ACommandThatIsNoProgramIsNamedWithWhatIsWrong) {
  struct Case {
    std::string command;
    std::string message;  // a part of it
    std::string advice;   // a part of it
  };
  write_file(dir_ + "/plain", "echo hello\n", 0755);
  write_file(dir_ + "/script", "#!/no/such/interpreter -x\n", 0755);
  write_file(dir_ + "/locked", "#!/bin/sh\n", 0644);
  const std::vector<Case> cases = {
      {"/no/such/program", "there is no '/no/such/program'", ""},
      {"no-such-command", "'no-such-command' is in no directory of PATH", "extend PATH"},
      {dir_, "is a directory, and no program", "the program itself"},
      {"/dev/null", "is a special file, and no program", ""},
      {dir_ + "/locked", "is not executable (its mode is 0644)", "chmod +x"},
      {dir_ + "/plain", "neither a program for this machine nor a script", "#!/bin/sh"},
      {dir_ + "/script", "needs '/no/such/interpreter' to run it, which does not exist",
       "the script's first line"},
  };
  int number = 0;
  for (const Case& one : cases) {
    ServiceSpec spec = launched({});
    spec.name = "victim";
    spec.argv = {one.command};
    const Error error = refused(spec);
    EXPECT_EQ(error.code(), Code::kProgramNotFound) << one.command;
    EXPECT_TRUE(error.message().starts_with("the command of the service 'victim': "));
    EXPECT_NE(error.message().find(one.message), std::string::npos) << error.to_text();
    EXPECT_NE(error.suggested_action().find(one.advice), std::string::npos) << error.to_text();
    ASSERT_TRUE(supervisor_->remove("victim"));
    run_until([&] { return supervisor_->status().empty(); });
    ++number;
  }
  EXPECT_EQ(number, 7);
}

TEST_F(Launched, AHookThatIsNoProgramIsNamedBeforeTheServiceStarts) {
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.post_crash = {"/no/such/hook"};
  EXPECT_EQ(refused(spec).message(),
            "post_crash of the service 'victim': there is no '/no/such/hook'");
}

TEST_F(Launched, AMissingWorkingDirectoryIsNamedBeforeAnythingIsTouched) {
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.working_directory = dir_ + "/nowhere";
  const Error error = refused(spec);
  EXPECT_EQ(error.code(), Code::kFileNotFound);
  EXPECT_NE(error.message().find("the working directory '" + dir_ + "/nowhere'"),
            std::string::npos);
  EXPECT_NE(error.message().find("does not exist"), std::string::npos);
}

TEST_F(Launched, ADirectoryThatTheUserMayNotEnterIsAFailureOfThatStage) {
  NEEDS_ROOT();
  ::mkdir((dir_ + "/closed").c_str(), 0700);
  ServiceSpec spec = launched({"stamp", dir_ + "/out"});
  spec.user = kOtherUser;
  spec.working_directory = dir_ + "/closed";
  start(spec);
  run_until([&] { return !seen_->start_failures.empty(); });
  const Error& error = seen_->start_failures.at(0);
  EXPECT_NE(error.message().find("the working directory cannot be entered"), std::string::npos);
  EXPECT_EQ(error.root().code(), Code::kPermissionDenied);
  EXPECT_EQ(error.root().field("path"), dir_ + "/closed");
}

TEST_F(Launched, AStateDirectoryThatCannotBeMadeIsNamed) {
  Supervisor::Options options;
  options.state_dir = dir_ + "/launched/state";  // below a file
  const auto made = Supervisor::create(*loop_, options, *seen_);
  ASSERT_FALSE(made);
  EXPECT_NE(made.error().to_text().find(dir_ + "/launched"), std::string::npos)
      << made.error().to_text();
}

// A full disk takes no log and no budget; the service is started again all the same.
TEST_F(Launched, OnAFullDiskTheServiceIsStillRestarted) {
  NEEDS_ROOT();
  const std::string disk = dir_ + "/disk";
  ::mkdir(disk.c_str(), 0700);
  if (::mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=512k,mode=0700") != 0) {
    GTEST_SKIP() << "this machine does not let root mount a small disk";
  }
  state_dir_ = disk + "/state";
  start(victim({"run"}));
  run_until([&] { return status().restart_ready; });
  std::ofstream filler(disk + "/filler");
  while (filler << std::string(4096, 'x') << std::flush) {
  }
  filler.close();
  for (std::size_t round = 2; round <= 4; ++round) {
    kill_service(SIGKILL);
    run_until([&] { return seen_->starts.size() == round && status().pid > 0; });
    EXPECT_EQ(seen_->exits.back().status.signal, SIGKILL);
  }
  run_until([&] { return status().last_error.has_value(); });
  EXPECT_FALSE(duplicated());
  stop_all();
  supervisor_.reset();
  ::umount2(disk.c_str(), MNT_DETACH);
}

TEST(CgroupPlace, MountsAndOwnGroupsAreReadAsTheKernelWritesThem) {
  const auto mounts = os::parse_cgroup_mounts(
      "25 1 0:23 / /sys rw shared:7 - sysfs sysfs rw\n"
      "31 25 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
      "32 25 0:28 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
      "33 25 0:29 /docker/ab /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"
      "broken line - cgroup\n");
  ASSERT_EQ(mounts.size(), 3u);
  EXPECT_TRUE(mounts[0].version2);
  EXPECT_EQ(mounts[2].point, "/sys/fs/cgroup/my memory");
  const std::string own =
      "9:name=systemd:/x\n5:cpuacct,cpu:/a\n4:memory:/docker/ab/inner\n"
      "0::/user.slice/defib-supervisor\n";
  EXPECT_EQ(own_cgroup_dir(mounts[0], own), "/sys/fs/cgroup/unified/user.slice");
  EXPECT_EQ(own_cgroup_dir(mounts[1], own), "/sys/fs/cgroup/cpu,cpuacct/a");
  EXPECT_EQ(own_cgroup_dir(mounts[2], own), "/sys/fs/cgroup/my memory/inner");
  EXPECT_EQ(own_cgroup_dir(mounts[2], "4:memory:/elsewhere\n"), "");
  EXPECT_EQ(own_cgroup_dir(mounts[0], "0::/../outside\n"), "");
}

}  // namespace
}  // namespace defib::process

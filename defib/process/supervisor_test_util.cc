#include "defib/process/supervisor_test_util.h"

#include <fmt/core.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "defib/os/files.h"
#include "defib/os/process.h"

namespace defib::process {
namespace {

constexpr std::chrono::seconds kPatience{20};

std::string slurp(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

}  // namespace

void SupervisorTest::SetUp() {
  char name[] = "/tmp/defib-process-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  dir_ = name;
  state_dir_ = dir_ + "/state";
  ::setenv("ASAN_OPTIONS", "verify_asan_link_order=0:detect_leaks=0", 1);
  auto loop = os::EventLoop::create();
  ASSERT_TRUE(loop);
  loop_ = std::move(*loop);
}

void SupervisorTest::TearDown() {
  if (supervisor_) stop_all();
  supervisor_.reset();
  // Orphans whose supervisor was killed were handed to us, by the kernel.
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(5);
  while (!processes().empty() && std::chrono::steady_clock::now() < deadline) {
    while (::waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    ::usleep(5000);
  }
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {
  }
  for (const pid_t pid : processes()) {
    ADD_FAILURE() << "process " << pid
                  << " was left behind: " << slurp(fmt::format("/proc/{}/cmdline", pid));
    ::kill(pid, SIGKILL);
  }
  if (HasFailure()) {
    std::error_code ignored;
    for (const auto& entry :
         std::filesystem::directory_iterator(state_dir_ + "/services", ignored)) {
      const std::string log = slurp(entry.path().string() + "/shim.log");
      if (!log.empty()) std::fprintf(stderr, "shim.log: %s", log.c_str());
    }
  }
  std::filesystem::remove_all(dir_);
}

ServiceSpec SupervisorTest::victim(std::vector<std::string> arguments) const {
  ServiceSpec spec;
  spec.name = "victim";
  spec.argv = {program("process_victim")};
  spec.argv.insert(spec.argv.end(), arguments.begin(), arguments.end());
  spec.env = {{"VICTIM_DIR", dir_}};
  spec.restart_delay = os::Duration(0);
  spec.capture = CaptureMode::kNone;
  return spec;
}

void SupervisorTest::make_supervisor() {
  Supervisor::Options options;
  options.state_dir = state_dir_;
  auto made = Supervisor::create(*loop_, options, *seen_);
  ASSERT_TRUE(made) << made.error().to_text();
  supervisor_ = std::move(*made);
}

void SupervisorTest::start(const ServiceSpec& spec) {
  if (!supervisor_) make_supervisor();
  const auto added = supervisor_->add(spec);
  ASSERT_TRUE(added) << added.error().to_text();
  const auto started = supervisor_->start(spec.name);
  ASSERT_TRUE(started) << started.error().to_text();
}

void SupervisorTest::abandon_supervisor() {
  supervisor_.reset();
}

void SupervisorTest::run_until(const std::function<bool()>& condition) {
  bool held = condition();
  if (held) return;
  const auto poll = loop_->run_every(std::chrono::milliseconds(1), [&] {
    held = condition();
    if (held) loop_->stop();
  });
  const auto limit = loop_->run_after(kPatience, [&] { loop_->stop(); });
  ASSERT_TRUE(loop_->run());
  loop_->cancel(poll);
  loop_->cancel(limit);
  ASSERT_TRUE(held) << "what was waited for did not happen";
}

void SupervisorTest::stop_all() {
  bool done = false;
  supervisor_->shutdown([&] { done = true; });
  run_until([&] { return done; });
}

ServiceStatus SupervisorTest::status() const {
  auto status = supervisor_->status("victim");
  EXPECT_TRUE(status);
  return status ? *status : ServiceStatus{};
}

std::string SupervisorTest::service_dir() const {
  return state_dir_ + "/services/victim";
}

std::string SupervisorTest::all_logs() const {
  std::string text;
  for (int number = 100; number > 0; --number) {
    text += slurp(fmt::format("{}/logs/current.{}", service_dir(), number));
  }
  return text + slurp(service_dir() + "/logs/current");
}

std::vector<pid_t> SupervisorTest::processes() const {
  std::vector<pid_t> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename().string();
    pid_t pid = 0;
    const auto parsed = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (parsed.ptr != name.data() + name.size() || pid == ::getpid()) continue;
    const std::string base = entry.path().string();
    if (slurp(base + "/cmdline").find(dir_) != std::string::npos ||
        slurp(base + "/environ").find(dir_) != std::string::npos) {
      found.push_back(pid);
    }
  }
  return found;
}

bool SupervisorTest::kill_one(pid_t pid, int signal) const {
  EXPECT_GT(pid, 1);
  EXPECT_NE(pid, ::getpid());
  return pid > 1 && pid != ::getpid() && ::kill(pid, signal) == 0;
}

void SupervisorTest::kill_service(int signal) {
  run_until([&] { return status().pid > 0; });
  kill_one(status().pid, signal);
}

void SupervisorTest::kill_shim() {
  run_until([&] { return status().shim_pid > 0; });
  kill_one(status().shim_pid, SIGKILL);
}

bool SupervisorTest::ignores_sigterm() const {
  const pid_t pid = status().pid;
  const std::string text = slurp(fmt::format("/proc/{}/status", pid));
  const auto at = text.find("SigIgn:");
  if (pid <= 0 || at == std::string::npos) return false;
  const std::uint64_t ignored = std::strtoull(text.c_str() + at + 7, nullptr, 16);
  return (ignored & (1u << (SIGTERM - 1))) != 0;
}

bool SupervisorTest::duplicated() const {
  return ::access((dir_ + "/duplicate").c_str(), F_OK) == 0;
}

std::string SupervisorTest::program(const std::string& name) const {
  return os::join_path(os::own_program_dir(), name);
}

}  // namespace defib::process

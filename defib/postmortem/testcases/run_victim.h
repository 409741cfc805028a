// Runs a victim program with the descriptors that it expects, for tests.

#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>
#include <optional>
#include <string>
#include <vector>

#include "defib/os/fd.h"
#include "defib/os/process.h"
#include "defib/postmortem/capture.h"
#include "defib/postmortem/crash_page.h"

namespace defib::postmortem {

inline std::string victim_path(const std::string& name) {
  return fmt::format("{}/victim_{}", DEFIB_VICTIM_DIR, name);
}

// The number of the line that carries the mark, counted from 1.
inline int marked_line(const std::string& source, const std::string& mark = "// fault") {
  std::ifstream in(fmt::format("{}/{}.cc", DEFIB_VICTIM_SOURCE_DIR, source));
  std::string line;
  for (int number = 1; std::getline(in, line); ++number) {
    if (line.find(mark) != line.npos) return number;
  }
  return -1;
}

// A program that crashes, from its start to its end.
class RunningVictim {
 public:
  explicit RunningVictim(const std::string& path, const std::vector<std::string>& arguments = {}) {
    constexpr std::size_t kPageBytes = 4096;
    constexpr std::uint32_t kCaptureTimeoutMs = 60'000;  // generous: the machine may be loaded
    page_fd_ = os::Fd(::memfd_create("page", MFD_CLOEXEC));
    event_fd_ = os::Fd(::eventfd(0, EFD_CLOEXEC));
    const os::Fd log(::memfd_create("log", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(page_fd_.get(), kPageBytes), 0);
    memory_ = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, page_fd_.get(), 0);
    page().capture_timeout_ms = kCaptureTimeoutMs;
    os::SpawnOptions options;
    options.argv = {path};
    options.argv.insert(options.argv.end(), arguments.begin(), arguments.end());
    options.fds = {{log.get(), 1}, {log.get(), 2}, {page_fd_.get(), 3}, {event_fd_.get(), 4}};
    auto child = os::spawn(options);
    EXPECT_TRUE(child) << (child ? "" : child.error().to_text());
    if (child) child_ = std::move(*child);
  }
  ~RunningVictim() {
    if (child_.valid() && !ended_) {
      static_cast<void>(child_.signal(SIGKILL));
      child_.wait();
    }
    ::munmap(memory_, 4096);
  }
  RunningVictim(const RunningVictim&) = delete;
  RunningVictim& operator=(const RunningVictim&) = delete;

  CrashPage& page() { return *static_cast<CrashPage*>(memory_); }
  pid_t pid() const { return child_.pid(); }
  bool wait_for_crash() {
    constexpr int kTimeoutMs = 60'000;
    pollfd waiting = {event_fd_.get(), POLLIN, 0};
    return ::poll(&waiting, 1, kTimeoutMs) == 1 && (waiting.revents & POLLIN) != 0;
  }
  // Waits for the crash, copies the process and lets it die.
  std::optional<Snapshot> capture() {
    if (!wait_for_crash()) return std::nullopt;
    auto snapshot = capture_crash(pid(), page());
    EXPECT_TRUE(snapshot) << (snapshot ? "" : snapshot.error().to_text());
    child_.wait();
    ended_ = true;
    if (!snapshot) return std::nullopt;
    return std::move(*snapshot);
  }

 private:
  os::Fd page_fd_;
  os::Fd event_fd_;
  void* memory_ = nullptr;
  os::Child child_;
  bool ended_ = false;
};

}  // namespace defib::postmortem

#include "defib/daemon/upgrade.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>

#include "defib/os/files.h"
#include "defib/process/shim_link.h"

namespace defib::daemon {
namespace {

constexpr os::Duration kTrialTime = std::chrono::seconds(10);
constexpr std::size_t kMaxOutput = 4096;

Error refused(const std::string& program, std::string_view why) {
  return Error(Code::kStartFailed,
               fmt::format("'{}' is not started in this one's place: {}", program, why))
      .with("program", program)
      .suggest("repair the installation, then `defib upgrade` again; nothing was changed");
}

}  // namespace

Upgrade::~Upgrade() {
  if (timer_ != 0) loop_.cancel(timer_);
  if (!trial_.valid()) return;
  loop_.unwatch(trial_.pidfd());
  (void)trial_.signal(SIGKILL);
  trial_.wait();
}

void Upgrade::try_program(Done done) {
  if (trial_.valid()) {
    return done(Error(Code::kUnavailable, "an upgrade is being tried already"));
  }
  if (command_.empty()) return done(Error(Code::kInternal, "this program's path is not known"));
  if (auto programs = process::find_programs(os::parent_dir(command_[0])); !programs) {
    return done(refused(command_[0], programs.error().message()).because(programs.error()));
  }
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) return done(os::system_error("pipe2"));
  output_ = os::Fd(pipe_fds[0]);
  const os::Fd writer(pipe_fds[1]);
  const os::Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  os::SpawnOptions options;
  options.argv = command_;
  options.argv.insert(std::ranges::find(options.argv, "--"), "--check");
  options.fds = {{null.get(), 0}, {writer.get(), 1}, {writer.get(), 2}};
  options.parent_death_signal = SIGKILL;
  auto child = os::spawn(options);
  if (!child) return done(refused(command_[0], child.error().message()).because(child.error()));
  trial_ = std::move(*child);
  done_ = std::move(done);
  const auto watched =
      loop_.watch(trial_.pidfd(), EPOLLIN, [this](std::uint32_t) { finish(true); });
  if (!watched) return finish(false);
  timer_ = loop_.run_after(kTrialTime, [this] {
    timer_ = 0;
    finish(false);
  });
}

void Upgrade::finish(bool in_time) {
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  loop_.unwatch(trial_.pidfd());
  if (!in_time) (void)trial_.signal(SIGKILL);
  const os::ExitStatus status = trial_.wait();
  trial_ = os::Child{};
  // Not to its end: somebody that it started may hold it open.
  ::fcntl(output_.get(), F_SETFL, O_NONBLOCK);
  std::string text(kMaxOutput, '\0');
  const ssize_t size = ::read(output_.get(), text.data(), text.size());
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(size, 0)));
  while (text.ends_with('\n')) text.pop_back();
  output_ = os::Fd();
  const Done done = std::exchange(done_, nullptr);
  if (!in_time) return done(refused(command_[0], "its trial took too long"));
  if (!status.success()) {
    return done(refused(command_[0], fmt::format("its trial ended with {}: {}", status.to_string(),
                                                 text.substr(0, text.find('\n')))));
  }
  done(text);
}

}  // namespace defib::daemon

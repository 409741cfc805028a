#include "defib/daemon/command_run.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "defib/os/process_tree.h"

namespace defib::daemon {
namespace {

constexpr int kReadsPerRound = 8;
constexpr os::Duration kReapPeriod = std::chrono::milliseconds(20);
constexpr int kReapRounds = 250;  // 5 s: what still lives then is beyond SIGKILL for now

// Whether `pid` (or the group -pid) is gone for good. One that is not our child may become it when
// its own parent dies.
bool gone(pid_t pid) {
  return ::kill(pid, 0) != 0 && errno == ESRCH;
}

// Takes the zombies of the group and of the strays; true when none can come any more.
bool reap(pid_t group, std::vector<pid_t>& strays) {
  while (::waitpid(-group, nullptr, WNOHANG) > 0) {
  }
  std::erase_if(strays,
                [](pid_t pid) { return ::waitpid(pid, nullptr, WNOHANG) == pid || gone(pid); });
  return strays.empty() && gone(-group);
}

void reap_later(os::EventLoop& loop, pid_t group, std::vector<pid_t> strays, int rounds) {
  if (reap(group, strays) || rounds == 0) return;
  loop.run_after(kReapPeriod, [&loop, group, strays = std::move(strays), rounds] {
    reap_later(loop, group, strays, rounds - 1);
  });
}

}  // namespace

Result<std::unique_ptr<CommandRun>> CommandRun::start(os::EventLoop& loop, os::SpawnOptions options,
                                                      os::Duration timeout, Done done) {
  std::unique_ptr<CommandRun> run(new CommandRun(loop, std::move(done)));
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK) != 0) return os::system_error("pipe2");
  run->output_ = os::Fd(pipe_fds[0]);
  const os::Fd write_end(pipe_fds[1]);
  // The command's end blocks like an ordinary pipe.
  ::fcntl(write_end.get(), F_SETFL, 0);
  const os::Fd null(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  options.new_session = true;
  options.parent_death_signal = SIGKILL;
  options.fds = {{null.get(), 0}, {write_end.get(), 1}, {write_end.get(), 2}};
  DEFIB_TRY_ASSIGN(run->child_, os::spawn(options));
  CommandRun* const raw = run.get();
  DEFIB_TRY(loop.watch(raw->output_.get(), EPOLLIN, [raw](std::uint32_t) { raw->read_output(); }));
  DEFIB_TRY(loop.watch(raw->child_.pidfd(), EPOLLIN, [raw](std::uint32_t) { raw->finish(false); }));
  raw->timer_ = loop.run_after(timeout, [raw] {
    raw->timer_ = 0;
    raw->finish(true);
  });
  return run;
}

CommandRun::~CommandRun() {
  if (!ended_ && child_.valid()) end_all(false);
  if (output_.valid()) loop_.unwatch(output_.get());
}

// Bounded a round: a command that floods its output shall not keep the loop.
void CommandRun::read_output() {
  char buffer[4096];
  for (int round = 0; round < kReadsPerRound; ++round) {
    const ssize_t got = ::read(output_.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got == 0) return loop_.unwatch(output_.get());
    if (got < 0) return;
    text_.append(buffer, static_cast<std::size_t>(got));
    if (text_.size() > kKeptOutput) text_.erase(0, text_.size() - kKeptOutput);
  }
}

// The group is killed while its leader, a zombie at most, keeps the number from being used again.
// Nobody waits for one that does not die at once: it may hang in the kernel.
os::ExitStatus CommandRun::end_all(bool has_ended) {
  ended_ = true;
  if (timer_ != 0) loop_.cancel(timer_);
  timer_ = 0;
  loop_.unwatch(child_.pidfd());
  std::vector<pid_t> strays = os::process_descendants(child_.pid());
  ::kill(-child_.pid(), SIGKILL);
  for (const pid_t pid : strays) ::kill(pid, SIGKILL);
  os::ExitStatus status;
  if (has_ended) status = child_.wait();
  reap_later(loop_, child_.pid(), std::move(strays), kReapRounds);
  return status;
}

void CommandRun::finish(bool timed_out) {
  read_output();
  Result result;
  result.status = end_all(!timed_out);
  result.timed_out = timed_out;
  result.output = std::move(text_);
  loop_.unwatch(output_.get());
  // Last: the receiver may destroy this run.
  if (Done done = std::exchange(done_, nullptr)) done(result);
}

}  // namespace defib::daemon

#include "defib/daemon/helper_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "defib/os/files.h"

namespace defib::daemon {
namespace {

constexpr std::size_t kLastWords = 1000;

std::string beside_us(const std::string& program) {
  return program.find('/') != std::string::npos ? program
                                                : os::join_path(os::own_program_dir(), program);
}

}  // namespace

HelperProcess::~HelperProcess() {
  if (child_.valid()) loop_.unwatch(child_.pidfd());
}

Result<> HelperProcess::start(const Options& options, OnExit on_exit) {
  if (child_.valid()) return Error(Code::kAlreadyExists, "the helper program runs already");
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0) return os::system_error("pipe2");
  os::Fd ours(ends[0]);
  const os::Fd theirs(ends[1]);
  // It keeps nobody waiting who reads our own output to its end.
  const os::Fd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null.valid()) return os::system_error("open", "/dev/null");
  os::SpawnOptions spawn;
  spawn.argv = options.argv;
  spawn.argv[0] = beside_us(spawn.argv[0]);
  spawn.fds = {{null.get(), 0}, {null.get(), 1}, {theirs.get(), 2}};
  spawn.fds.insert(spawn.fds.end(), options.fds.begin(), options.fds.end());
  spawn.new_session = true;
  spawn.parent_death_signal = options.dies_with_us ? SIGKILL : 0;
  DEFIB_TRY_ASSIGN(child_, os::spawn(spawn));
  stderr_ = std::move(ours);
  on_exit_ = std::move(on_exit);
  return loop_.watch(child_.pidfd(), EPOLLIN, [this](std::uint32_t) { on_end(); });
}

void HelperProcess::terminate() {
  if (child_.valid()) static_cast<void>(child_.signal(SIGTERM));
}

void HelperProcess::end() {
  if (!child_.valid()) return;
  loop_.unwatch(child_.pidfd());
  static_cast<void>(child_.signal(SIGKILL));
  static_cast<void>(child_.wait());
  child_ = os::Child();
  stderr_.reset();
}

void HelperProcess::on_end() {
  const auto status = child_.try_wait();
  if (!status) return;
  loop_.unwatch(child_.pidfd());
  child_ = os::Child();
  std::string words(kLastWords, '\0');
  const ssize_t got = ::read(stderr_.get(), words.data(), words.size());
  words.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  while (words.ends_with('\n')) words.pop_back();
  stderr_.reset();
  // It may start the next one.
  const OnExit told = std::move(on_exit_);
  if (told) told(*status, words);
}

}  // namespace defib::daemon

// A command as a receiver: the message as JSON on its standard input; exit code 0 is success. No
// shell is involved, and the message is in no argument.

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "defib/alert/message.h"
#include "defib/alert/send_deliver.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"

namespace defib::alert {
namespace {

constexpr std::size_t kMaxOutput = 500;
constexpr int kExitRefused = 65;  // EX_DATAERR of sysexits.h: it will never take this message

Result<os::Fd> file_of(const std::string& text) {
  os::Fd fd(memfd_create("defib-alert", MFD_CLOEXEC));
  if (!fd.valid()) return os::system_error("memfd_create");
  std::string_view rest = text;
  while (!rest.empty()) {
    const ssize_t put = ::write(fd.get(), rest.data(), rest.size());
    if (put < 0 && errno == EINTR) continue;
    if (put <= 0) return os::system_error("write");
    rest.remove_prefix(static_cast<std::size_t>(put));
  }
  if (::lseek(fd.get(), 0, SEEK_SET) != 0) return os::system_error("lseek");
  return fd;
}

// Reads what is there; keeps the first part of it.
void drain(int fd, std::string& output) {
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(fd, buffer, sizeof buffer)) > 0;) {
    const std::size_t room = kMaxOutput - std::min(kMaxOutput, output.size());
    output.append(buffer, std::min(room, static_cast<std::size_t>(got)));
  }
}

Attempt wait_for_end(os::Child& child, int output_fd, os::Duration timeout) {
  const os::Clock& clock = os::real_clock();
  const std::int64_t deadline = clock.mono_ns() + timeout.count();
  std::string output;
  while (true) {
    const std::int64_t left = std::max<std::int64_t>(0, deadline - clock.mono_ns());
    pollfd waiting[2] = {{child.pidfd(), POLLIN, 0}, {output_fd, POLLIN, 0}};
    const timespec limit = {left / 1'000'000'000, left % 1'000'000'000};
    const int ready = ppoll(waiting, 2, &limit, nullptr);
    drain(output_fd, output);
    const auto ended = child.try_wait();
    if (ended) {
      if (ended->success()) return {true, false, {}};
      const bool refused = ended->known && ended->exited && ended->code == kExitRefused;
      return {false, refused,
              fmt::format("the command ended with {}: {}", ended->to_string(), output)};
    }
    if (ready == 0 && left == 0) break;
    // Its output was closed: from now on only its end is of interest.
    if ((waiting[1].revents & (POLLHUP | POLLERR)) != 0) output_fd = -1;
  }
  // It is the leader of a session of its own: its children go with it.
  ::kill(-child.pid(), SIGKILL);
  static_cast<void>(child.wait());
  return {false, false,
          fmt::format("the command did not end within {}", os::format_duration(timeout))};
}

}  // namespace

Attempt send_command(const Receiver& receiver, const Message& message) {
  const auto input = file_of(plain_body(message).dump() + "\n");
  if (!input) return {false, false, input.error().to_line()};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) {
    return {false, false, os::system_error("pipe2").to_line()};
  }
  const os::Fd ours(ends[0]);
  os::Fd theirs(ends[1]);
  if (::fcntl(ours.get(), F_SETFL, O_NONBLOCK) != 0) {
    return {false, false, os::system_error("fcntl").to_line()};
  }
  os::SpawnOptions options;
  options.argv = receiver.command;
  options.new_session = true;
  options.fds = {{input->get(), 0}, {theirs.get(), 1}, {theirs.get(), 2}};
  auto child = os::spawn(options);
  theirs.reset();
  if (!child) return {false, false, child.error().to_line()};
  return wait_for_end(*child, ours.get(), receiver.timeout);
}

}  // namespace defib::alert

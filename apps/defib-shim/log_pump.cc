#include "log_pump.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "defib/process/shim_protocol.h"
#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr size_t kPipeBytes = 1u << 20;
constexpr size_t kChunk = 4096;  // PIPE_BUF: what a ready pipe takes without blocking

void file_name(char* to, size_t capacity, uint32_t number) {
  to[0] = 0;
  append_text(to, capacity, kLogCurrent);
  if (number > 0) {
    append_text(to, capacity, ".");
    append_number(to, capacity, number);
  }
}

// The service's side blocks like an ordinary pipe, whatever an earlier process made of it.
int open_fifo(const char* name, int* reader, int* service) {
  if (mkfifo(name, 0600) != 0 && errno != EEXIST) return -errno;
  *reader = open(name, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (*reader < 0) return -errno;
  *service = open(name, O_RDWR | O_CLOEXEC);
  if (*service < 0) return -errno;
  fcntl(*reader, F_SETPIPE_SZ, kPipeBytes);  // Refused beyond the user's quota: then 64 KiB.
  return 0;
}

bool is_ready_for_writing(int fd) {
  pollfd poll_fd = {fd, POLLOUT, 0};
  return poll(&poll_fd, 1, 0) == 1 && (poll_fd.revents & (POLLOUT | POLLERR | POLLHUP)) != 0;
}

}  // namespace

int LogPump::open_all() {
  const char* names[2] = {kStdoutName, kStderrName};
  for (int i = 0; i < 2; ++i) {
    const int failed = open_fifo(names[i], &streams_[i].fifo_fd, &streams_[i].service_fd);
    if (failed != 0) return failed;
  }
  return open_current();
}

int LogPump::open_current() {
  if (file_ >= 0) close(file_);
  // Not O_APPEND: splice(2) refuses it. The shim's lock makes us the only writer.
  file_ = open(kLogCurrent, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file_ < 0) return -errno;
  struct stat info;
  if (fstat(file_, &info) != 0) return -errno;
  size_ = static_cast<uint64_t>(info.st_size);
  for (Stream& stream : streams_) stream.passed = stream.arrived = size_;
  return 0;
}

void LogPump::rotate() {
  for (const Stream& stream : streams_) {
    if (stream.passed < stream.arrived) return;  // The terminal still reads from this file.
  }
  char from[64], to[64];
  for (uint32_t number = files_; number > 0; --number) {
    file_name(from, sizeof from, number - 1);
    file_name(to, sizeof to, number);
    rename(from, to);
  }
  const int failed = open_current();
  if (failed != 0) complain("cannot open a new log file", -failed);
}

void LogPump::discard(int stream) {
  char buffer[kChunk];
  ssize_t size;
  while ((size = read(streams_[stream].fifo_fd, buffer, sizeof buffer)) > 0) {
    dropped_ += static_cast<uint64_t>(size);
  }
}

void LogPump::feed_range(int stream, uint64_t from, uint64_t to, Feed feed) {
  char buffer[kChunk];
  while (from < to) {
    const uint64_t left = to - from;
    const ssize_t size =
        pread(file_, buffer, left < kChunk ? left : kChunk, static_cast<off_t>(from));
    if (size <= 0) return;
    feed(stream, buffer, static_cast<size_t>(size));
    from += static_cast<uint64_t>(size);
  }
}

void LogPump::pump(int stream, Feed feed) {
  Stream& from = streams_[stream];
  if (waiting(stream)) return;
  loff_t at = static_cast<loff_t>(size_);
  ssize_t moved = splice(from.fifo_fd, nullptr, file_, &at, kPipeBytes, SPLICE_F_NONBLOCK);
  if (moved < 0 && errno == EINVAL) {
    // A file system without splice: copy, with the small risk that a kill between the two calls
    // loses one chunk.
    char buffer[kChunk];
    moved = read(from.fifo_fd, buffer, sizeof buffer);
    if (moved > 0) moved = pwrite(file_, buffer, static_cast<size_t>(moved), at);
  }
  if (moved < 0 && errno != EAGAIN && errno != EINTR) {
    discard(stream);
    return;
  }
  if (moved <= 0) return;
  const uint64_t before = size_;
  size_ += static_cast<uint64_t>(moved);
  if (feed != nullptr) feed_range(stream, before, size_, feed);
  if (from.out_fd >= 0 && !from.broken) {
    from.passed = before;
    from.arrived = size_;
    flush(stream);
  }
  if (size_ < max_bytes_) return;
  char last = '\n';
  const bool whole = pread(file_, &last, 1, static_cast<off_t>(size_ - 1)) != 1 || last == '\n';
  if (whole || size_ >= 2 * max_bytes_) rotate();
}

void LogPump::pass_through(int out, int err) {
  const int fds[2] = {out, err};
  for (int i = 0; i < 2; ++i) {
    Stream& stream = streams_[i];
    if (stream.out_fd >= 0) close(stream.out_fd);
    stream.out_fd = fds[i];
    stream.broken = false;
    stream.passed = stream.arrived = size_;
  }
}

void LogPump::close_out(int stream) {
  close(streams_[stream].out_fd);
  streams_[stream].out_fd = -1;
  streams_[stream].broken = false;
}

bool LogPump::flush(int stream) {
  Stream& to = streams_[stream];
  char buffer[kChunk];
  while (to.passed < to.arrived) {
    if (!is_ready_for_writing(to.out_fd)) return true;
    const uint64_t left = to.arrived - to.passed;
    const ssize_t size =
        pread(file_, buffer, left < kChunk ? left : kChunk, static_cast<off_t>(to.passed));
    const ssize_t put = size > 0 ? write(to.out_fd, buffer, static_cast<size_t>(size)) : -1;
    if (put < 0 && size > 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (put <= 0) {
      // The reader is gone: the log file has it all, and the service shall not suffer.
      to.broken = true;
      to.passed = to.arrived;
      return false;
    }
    to.passed += static_cast<uint64_t>(put);
  }
  return false;
}

}  // namespace defib::process::shim

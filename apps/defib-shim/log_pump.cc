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

constexpr uint64_t kPipeBytes = 1u << 20;
constexpr size_t kChunk = 4096;  // PIPE_BUF: what a ready pipe takes without blocking
// Where a cut has to be made, it is made at the end of a line, if that is no farther than this.
constexpr uint64_t kLineSearch = 64u << 10;
constexpr uint32_t kMaxFiles = 1000;
constexpr char kNextName[] = "logs/next";  // becomes logs/current at the end of a rotation

void file_name(char* to, size_t capacity, uint32_t number, const char* suffix) {
  to[0] = 0;
  append_text(to, capacity, kLogCurrent);
  if (number > 0) {
    append_text(to, capacity, ".");
    append_number(to, capacity, number);
  }
  append_text(to, capacity, suffix);
}

bool exists(uint32_t number, const char* suffix, uint64_t* size) {
  char name[64];
  file_name(name, sizeof name, number, suffix);
  const int fd = open(name, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  struct stat info;
  *size = fstat(fd, &info) == 0 ? static_cast<uint64_t>(info.st_size) : 0;
  close(fd);
  return true;
}

void move_file(uint32_t from, uint32_t to, const char* suffix) {
  char old_name[64], new_name[64];
  file_name(old_name, sizeof old_name, from, suffix);
  file_name(new_name, sizeof new_name, to, suffix);
  rename(old_name, new_name);
}

void remove_file(uint32_t number, const char* suffix) {
  char name[64];
  file_name(name, sizeof name, number, suffix);
  unlink(name);
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

uint64_t smaller(uint64_t a, uint64_t b) {
  return a < b ? a : b;
}

}  // namespace

int LogPump::open_all() {
  const char* names[2] = {kStdoutName, kStderrName};
  for (int i = 0; i < 2; ++i) {
    const int failed = open_fifo(names[i], &streams_[i].fifo_fd, &streams_[i].service_fd);
    if (failed != 0) return failed;
  }
  null_ = open("/dev/null", O_WRONLY | O_CLOEXEC);
  finish_rotation();
  return open_current(-1, nullptr);
}

void LogPump::configure(const LaunchHeader& header, char* const* env) {
  max_bytes_ = header.log_max_bytes;
  files_ = header.log_files < kMaxFiles ? header.log_files : kMaxFiles;
  total_bytes_ = header.log_total_bytes;
  max_age_ns_ = header.log_max_age_ns;
  if (rate_ != header.log_rate || burst_ != header.log_burst) {
    rate_ = header.log_rate;
    burst_ = header.log_burst;
    tokens_ = static_cast<int64_t>(burst_);
    filled_at_ = mono_ns();
    over_rate_ = false;
  }
  const bool forwards = (header.log_flags & kLogToJournal) != 0;
  const bool forwarded = journal_.on();
  journal_.configure(forwards, env);
  if (!forwards) {
    if (index_.header.forwards != 0) {
      index_.header.forwards = 0;
      index_.write_header();
    }
    return;
  }
  if (index_.header.forwards == 0) {
    // From now on: what was written before is not told.
    index_.header.forwards = 1;
    index_.header.forwarded[0] = index_.header.forwarded[1] = size_;
    index_.write_header();
  }
  if (!forwarded) forward_backlog();
  look_at_journal(true);
}

int LogPump::open_current(int fd, const LogIndexHeader* before) {
  // Not O_APPEND: splice(2) refuses it. The shim's lock makes us the only writer.
  if (fd < 0) fd = open(kLogCurrent, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd < 0) return -errno;
  if (file_ >= 0) close(file_);
  file_ = fd;
  struct stat info;
  if (fstat(file_, &info) != 0) return -errno;
  size_ = static_cast<uint64_t>(info.st_size);
  for (Stream& stream : streams_) {
    if (stream.waiting_file < 0) stream.passed = stream.arrived = size_;
  }
  index_.open_for(info.st_ino, size_, before);
  return 0;
}

// A rotation moves the files one by one, the oldest first, each before its index. A shim that was
// killed in between left one index where its log was.
void LogPump::finish_rotation() {
  uint64_t size = 0;
  for (uint32_t number = 0; number < kMaxFiles; ++number) {
    const bool index = exists(number, kLogIndexSuffix, &size);
    const bool log = exists(number, "", &size);
    if (index && !log) move_file(number, number + 1, kLogIndexSuffix);
    if (!index || !log) return;
  }
}

// False where no new file can be made (a full disk): then this one is used further.
bool LogPump::rotate() {
  const int next = open(kNextName, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (next < 0) return false;
  for (int i = 0; i < 2; ++i) {
    Stream& stream = streams_[i];
    if (!waiting(i) || stream.waiting_file >= 0) continue;
    // The terminal still reads from this file.
    stream.waiting_file = fcntl(file_, F_DUPFD_CLOEXEC, 64);
    if (stream.waiting_file < 0) stream.passed = stream.arrived;
  }
  if (journal_.stalled()) {
    // This file is out of reach from now on.
    retry();
    if (journal_.stalled()) {
      journal_.begin_again(true);
      forward_backlog();
      journal_.begin_again(false);
      retry_at_ = retry_delay_ = 0;
    }
  }
  const LogIndexHeader before = index_.header;
  for (uint32_t number = files_; number > 0; --number) {
    move_file(number - 1, number, "");
    move_file(number - 1, number, kLogIndexSuffix);
  }
  rename(kNextName, kLogCurrent);
  const int failed = open_current(next, &before);
  if (failed != 0) complain("cannot begin a new log file", -failed);
  bound_total();
  return true;
}

// The oldest go where all together are too many; also those that a larger log_files left.
void LogPump::bound_total() {
  uint64_t total = max_bytes_;  // what the current one may become
  for (uint32_t number = 1; number <= kMaxFiles; ++number) {
    uint64_t size = 0, index_size = 0;
    if (!exists(number, "", &size)) {
      if (number > files_) return;
      continue;
    }
    exists(number, kLogIndexSuffix, &index_size);
    total += size + index_size;
    if (number <= files_ && (total_bytes_ == 0 || total <= total_bytes_)) continue;
    remove_file(number, "");
    remove_file(number, kLogIndexSuffix);
  }
}

// Zero-copy, and bounded: a service that writes faster than we discard must not keep us here.
void LogPump::discard(int stream, LogRecordKind why) {
  uint64_t gone = 0;
  while (gone < kPipeBytes) {
    ssize_t size = splice(streams_[stream].fifo_fd, nullptr, null_, nullptr,
                          static_cast<size_t>(kPipeBytes - gone), SPLICE_F_NONBLOCK);
    if (size < 0 && errno == EINVAL) {
      char buffer[kChunk];
      size = read(streams_[stream].fifo_fd, buffer, sizeof buffer);
    }
    if (size <= 0) break;
    gone += static_cast<uint64_t>(size);
  }
  if (gone == 0) return;
  streams_[stream].cut = why;
  index_.dropped(size_, stream, why, gone);
}

void LogPump::feed_range(int stream, uint64_t from, uint64_t to) {
  char buffer[kChunk];
  while (from < to) {
    const ssize_t size = pread(file_, buffer, smaller(to - from, kChunk), static_cast<off_t>(from));
    if (size <= 0) return;
    if (feed_ != nullptr) feed_(stream, buffer, static_cast<size_t>(size));
    if (journal_.on() && !journal_.stalled())
      journal_.push(stream, from, buffer, static_cast<size_t>(size), &index_);
    from += static_cast<uint64_t>(size);
  }
}

// What is still to be forwarded: by the index, which knows whose bytes lie where.
void LogPump::forward_backlog() {
  LogIndexRecord record, next;
  for (uint64_t number = 0; index_.read(number, &record) && !journal_.stalled(); ++number) {
    const uint64_t end = index_.read(number + 1, &next) ? smaller(next.offset, size_) : size_;
    const int stream = record.stream - 1;
    const uint64_t done = index_.header.forwarded[stream];
    const uint64_t from = record.offset > done ? record.offset : done;
    if (record.kind == LogRecordKind::kData && from < end) {
      feed_range(stream, from, end);
    }
  }
}

// Nothing waits for journald but a timer of ours, which waits longer each time in vain.
void LogPump::look_at_journal(bool moved) {
  if (!journal_.stalled()) {
    retry_at_ = retry_delay_ = 0;
  } else if (retry_at_ == 0 || moved) {
    constexpr int64_t kFirst = 5'000'000, kLast = 1'000'000'000;
    retry_delay_ = moved || retry_delay_ == 0 ? kFirst
                   : retry_delay_ < kLast / 2 ? 2 * retry_delay_
                                              : kLast;
    retry_at_ = mono_ns() + retry_delay_;
  }
}

void LogPump::retry() {
  retry_at_ = 0;
  const uint64_t before = index_.header.journal_sent;
  journal_.begin_again(false);
  forward_backlog();
  look_at_journal(index_.header.journal_sent > before);
}

// Where the next line of what waits in the FIFO ends; 0: not within kLineSearch. tee(2) leaves the
// bytes where they are.
uint64_t LogPump::bytes_to_line_end(int stream) const {
  int copy[2];
  if (pipe2(copy, O_CLOEXEC | O_NONBLOCK) != 0) return 0;
  ssize_t left = tee(streams_[stream].fifo_fd, copy[1], kLineSearch, SPLICE_F_NONBLOCK);
  uint64_t seen = 0, end = 0;
  char buffer[kChunk];
  while (left > 0 && end == 0) {
    const ssize_t size = read(copy[0], buffer, sizeof buffer);
    if (size <= 0) break;
    for (ssize_t i = 0; i < size && end == 0; ++i) {
      if (buffer[i] == '\n') end = seen + static_cast<uint64_t>(i) + 1;
    }
    seen += static_cast<uint64_t>(size);
    left -= size;
  }
  close(copy[0]);
  close(copy[1]);
  return end;
}

bool LogPump::ends_line() const {
  char last = '\n';
  return size_ == 0 || pread(file_, &last, 1, static_cast<off_t>(size_ - 1)) != 1 || last == '\n';
}

bool LogPump::is_old() const {
  return max_age_ns_ > 0 && size_ > 0 && wall_ns() - index_.header.created_wall_ns >= max_age_ns_;
}

// Moves up to so many bytes from FIFO to file. What was moved, 0: nothing was there, or -errno.
int64_t LogPump::move(int stream, uint64_t bytes) {
  Stream& from = streams_[stream];
  index_.mark(size_, stream);
  loff_t at = static_cast<loff_t>(size_);
  ssize_t moved =
      splice(from.fifo_fd, nullptr, file_, &at, static_cast<size_t>(bytes), SPLICE_F_NONBLOCK);
  if (moved < 0 && errno == EINVAL) {
    // A file system without splice: copy, with the small risk that a kill between the two calls
    // loses one chunk.
    char buffer[kChunk];
    moved = read(from.fifo_fd, buffer, smaller(bytes, sizeof buffer));
    if (moved > 0) moved = pwrite(file_, buffer, static_cast<size_t>(moved), at);
  }
  if (moved < 0) return errno == EAGAIN || errno == EINTR ? 0 : -errno;
  if (moved == 0) return 0;
  size_ += static_cast<uint64_t>(moved);
  tokens_ -= moved;
  index_.moved();
  after_move(stream, size_ - static_cast<uint64_t>(moved));
  return moved;
}

// After dropped bytes the log goes on with a whole line. False: what waits has no end of line yet.
bool LogPump::skip_rest_of_line(int stream) {
  Stream& from = streams_[stream];
  if (from.cut == LogRecordKind{}) return true;
  const uint64_t rest = bytes_to_line_end(stream);
  if (rest == 0) return false;
  const ssize_t gone =
      splice(from.fifo_fd, nullptr, null_, nullptr, static_cast<size_t>(rest), SPLICE_F_NONBLOCK);
  if (gone <= 0) return false;
  index_.dropped(size_, stream, from.cut, static_cast<uint64_t>(gone));
  from.cut = LogRecordKind{};
  return true;
}

// The rate limit: a bucket of burst_ bytes that fills by rate_ a second. Once it is empty, all is
// dropped until it is half full, so that a flood makes few notices, not one a chunk.
bool LogPump::may_go_on() {
  if (rate_ == 0) return true;
  const int64_t now = mono_ns();
  constexpr int64_t kSecond = 1'000'000'000;
  const int64_t elapsed = now - filled_at_ < 60 * kSecond ? now - filled_at_ : 60 * kSecond;
  const auto gained =
      static_cast<int64_t>(static_cast<double>(elapsed) / kSecond * static_cast<double>(rate_));
  if (gained > 0) {
    filled_at_ = now;
    const auto full = static_cast<int64_t>(burst_);
    tokens_ = tokens_ + gained < full ? tokens_ + gained : full;
  }
  if (over_rate_) {
    over_rate_ = tokens_ < static_cast<int64_t>(burst_ / 2);
    return !over_rate_;
  }
  if (tokens_ > 0) return true;
  over_rate_ = true;
  return false;
}

// The line that has begun in the log is ended there before anything is dropped or rotated.
void LogPump::finish_line(int stream) {
  if (ends_line()) return;
  const uint64_t rest = bytes_to_line_end(stream);
  if (rest > 0) move(stream, rest);
}

// What this file still takes. A file that is full is rotated at the end of a line, or at twice its
// size where no line ends.
uint64_t LogPump::room(int stream) {
  if (is_old() && ends_line()) rotate();
  uint64_t used = size_ + index_.size();
  if (used < max_bytes_) return max_bytes_ - used;
  finish_line(stream);
  used = size_ + index_.size();
  if ((ends_line() || used >= 2 * max_bytes_) && rotate()) return max_bytes_;
  return used < 2 * max_bytes_ ? 2 * max_bytes_ - used : kPipeBytes;
}

// How many bytes may be moved now; 0: none, what waits has been dropped.
uint64_t LogPump::allowance(int stream) {
  const LogRecordKind cut = streams_[stream].cut;
  if (!may_go_on()) {
    if (cut == LogRecordKind{}) finish_line(stream);
    discard(stream, LogRecordKind::kDroppedByRate);
    return 0;
  }
  if (!skip_rest_of_line(stream)) {
    discard(stream, cut);
    return 0;
  }
  uint64_t bytes = smaller(room(stream), kPipeBytes);
  if (rate_ > 0 && tokens_ > 0) bytes = smaller(bytes, static_cast<uint64_t>(tokens_));
  return bytes;
}

void LogPump::pump(int stream, Feed feed) {
  if (waiting(stream)) return;
  feed_ = feed;
  const uint64_t bytes = allowance(stream);
  if (bytes > 0 && !waiting(stream) && move(stream, bytes) < 0) {
    discard(stream, LogRecordKind::kDroppedByDisk);
  }
  feed_ = nullptr;
  if (journal_.stalled() && retry_at_ == 0) look_at_journal(false);
}

// The bytes are in the file; now whoever else wants them.
void LogPump::after_move(int stream, uint64_t from) {
  if (feed_ != nullptr || (journal_.on() && !journal_.stalled())) feed_range(stream, from, size_);
  Stream& to = streams_[stream];
  if (to.out_fd < 0 || to.broken) return;
  // Behind what still waits, where a line was ended for the sake of a rotation.
  if (!waiting(stream)) to.passed = from;
  to.arrived = size_;
  flush(stream);
}

void LogPump::pass_through(int out, int err) {
  const int fds[2] = {out, err};
  for (int i = 0; i < 2; ++i) {
    Stream& stream = streams_[i];
    if (stream.out_fd >= 0) close(stream.out_fd);
    if (stream.waiting_file >= 0) close(stream.waiting_file);
    stream.waiting_file = -1;
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
  const int source = to.waiting_file >= 0 ? to.waiting_file : file_;
  char buffer[kChunk];
  while (to.passed < to.arrived) {
    if (!is_ready_for_writing(to.out_fd)) return true;
    const uint64_t left = to.arrived - to.passed;
    const ssize_t size =
        pread(source, buffer, left < kChunk ? left : kChunk, static_cast<off_t>(to.passed));
    const ssize_t put = size > 0 ? write(to.out_fd, buffer, static_cast<size_t>(size)) : -1;
    if (put < 0 && size > 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (put <= 0) {
      // The reader is gone: the log file has it all, and the service shall not suffer.
      to.broken = true;
      to.passed = to.arrived;
      break;
    }
    to.passed += static_cast<uint64_t>(put);
  }
  if (to.waiting_file >= 0) {
    close(to.waiting_file);
    to.waiting_file = -1;
    to.passed = to.arrived = size_;
  }
  return false;
}

}  // namespace defib::process::shim

// The service's notifications, as by sd_notify(3).

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

constexpr size_t kMaxText = 12 * 1024;
constexpr int kMaxPerRound = 64;
constexpr int kMaxFds = 16;  // of one datagram

struct Sender {
  ucred credentials = {};
  bool known = false;
  int fds[kMaxFds];
  int fd_count = 0;
};

void read_control(msghdr& message, Sender* sender) {
  for (cmsghdr* header = CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET) continue;
    if (header->cmsg_type == SCM_CREDENTIALS) {
      memcpy(&sender->credentials, CMSG_DATA(header), sizeof sender->credentials);
      sender->known = true;
    } else if (header->cmsg_type == SCM_RIGHTS) {
      const size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (size_t i = 0; i < count && sender->fd_count < kMaxFds; ++i) {
        memcpy(&sender->fds[sender->fd_count++], CMSG_DATA(header) + i * sizeof(int), sizeof(int));
      }
    }
  }
}

void close_all(const int* fds, int count) {
  for (int i = 0; i < count; ++i) close(fds[i]);
}

// The value of "KEY=value" among the lines, or nullptr.
const char* find_value(const char* text, const char* key, size_t* size) {
  const size_t key_size = strlen(key);
  while (text != nullptr && *text != 0) {
    const char* end = find_first(text, '\n');
    const size_t length = end != nullptr ? static_cast<size_t>(end - text) : strlen(text);
    if (length > key_size && memcmp(text, key, key_size) == 0 && text[key_size] == '=') {
      *size = length - key_size - 1;
      return text + key_size + 1;
    }
    text = end != nullptr ? end + 1 : nullptr;
  }
  return nullptr;
}

}  // namespace

void Shim::on_notify() {
  static char text[kMaxText + 1];
  for (int round = 0; round < kMaxPerRound; ++round) {
    iovec part = {text, kMaxText};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(sizeof(int) * kMaxFds)];
    msghdr message = {};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    const ssize_t size = recvmsg(notify_, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (size < 0) return;
    Sender sender;
    read_control(message, &sender);
    const uid_t uid = sender.credentials.uid;
    const bool trusted = sender.known && (uid == geteuid() || uid == 0);
    const bool whole = (message.msg_flags & MSG_TRUNC) == 0;
    if (trusted && !whole) complain("a notification of more than 12 KiB was dropped", 0);
    if (!trusted || !whole || size == 0) {
      close_all(sender.fds, sender.fd_count);
      continue;
    }
    text[size] = 0;
    store_descriptors(text, sender.fds, sender.fd_count);
    take_notification(text, static_cast<size_t>(size), sender.credentials.pid);
  }
}

// FDSTORE=1, FDNAME=, FDSTOREREMOVE=1. Other descriptors are closed, which ends a barrier
// (sd_notify_barrier).
void Shim::store_descriptors(const char* text, const int* fds, int fd_count) {
  size_t size = 0;
  const char* flag = find_value(text, "FDSTORE", &size);
  const bool stores = flag != nullptr && size == 1 && *flag == '1';
  flag = find_value(text, "FDSTOREREMOVE", &size);
  const bool removes = flag != nullptr && size == 1 && *flag == '1';
  static constexpr char kDefaultName[] = "stored";  // as sd_notify(3) has it
  const char* name = find_value(text, "FDNAME", &size);
  if (removes && name != nullptr && sockets_.remove(name, size) > 0) stored_changed_ = true;
  if (name == nullptr) {
    name = kDefaultName;
    size = sizeof kDefaultName - 1;
  }
  if (!stores || removes) return close_all(fds, fd_count);
  for (int i = 0; i < fd_count; ++i) {
    if (sockets_.store(fds[i], name, size)) {
      stored_changed_ = true;
    } else {
      complain("a descriptor of the service was not stored: no room, or an impossible name", 0);
    }
  }
}

// True where the status record changed.
bool Shim::take_line(Instance& one, const char* line, size_t length) {
  StatusInstance& record = saved(one);
  static constexpr char kStateKey[] = "X_DEFIB_STATE=";
  constexpr size_t kStateSize = sizeof kStateKey - 1;
  uint64_t number = 0;
  if (length == 7 && memcmp(line, "READY=1", 7) == 0) {
    const bool changed = record.ready == 0;
    record.ready = 1;
    return changed;
  }
  if (length > kStateSize && memcmp(line, kStateKey, kStateSize) == 0) {
    size_t word = length - kStateSize;
    if (word >= sizeof record.state_word) word = sizeof record.state_word - 1;
    memset(record.state_word, 0, sizeof record.state_word);
    memcpy(record.state_word, line + kStateSize, word);
    return true;
  }
  if (length > 8 && memcmp(line, "MAINPID=", 8) == 0 &&
      parse_number(line + 8, &number) != nullptr) {
    follow_main_pid(one, static_cast<pid_t>(number));
  }
  return false;
}

void Shim::take_notification(const char* text, size_t size, pid_t sender) {
  Instance* one = find_sender(sender);
  bool changed = false;
  for (const char* line = text; line != nullptr && *line != 0 && one != nullptr;) {
    const char* end = find_first(line, '\n');
    const size_t length = end != nullptr ? static_cast<size_t>(end - line) : strlen(line);
    if (take_line(*one, line, length)) changed = true;
    line = end != nullptr ? end + 1 : nullptr;
  }
  if (changed) status_.write_record();
  const uint64_t generation = one != nullptr ? saved(*one).generation : status_.record.generation;
  const Notify body = {generation, sender, static_cast<uint32_t>(size)};
  journal_.add(Type::kNotify, &body, sizeof body, text, size);
}

}  // namespace defib::process::shim

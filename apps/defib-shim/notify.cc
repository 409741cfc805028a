// The service's notifications, as by sd_notify(3).

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

// The value where the line (of `length` bytes) is "KEYvalue", KEY with its '='; else nullptr.
template <size_t kSize>
const char* value_of(const char* line, size_t length, const char (&key)[kSize]) {
  return length >= kSize - 1 && memcmp(line, key, kSize - 1) == 0 ? line + kSize - 1 : nullptr;
}

bool equals(const char* value, size_t length, const char* word) {
  return length == strlen(word) && memcmp(value, word, length) == 0;
}

}  // namespace

bool Shim::on_notify() {
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
    if (size < 0) return false;
    Sender sender;
    read_control(message, &sender);
    const uid_t uid = sender.credentials.uid;
    const bool trusted = sender.known && (uid == geteuid() || uid == 0 ||
                                          (launch_.loaded() && uid == launch_.service_uid()));
    const bool whole = (message.msg_flags & MSG_TRUNC) == 0;
    if (trusted && !whole) complain("a notification of more than 12 KiB was dropped", 0);
    if (!trusted || !whole || size == 0) {
      close_all(sender.fds, sender.fd_count);
      continue;
    }
    text[size] = 0;
    Instance* const one = find_sender(sender.credentials.pid);
    if (one != nullptr && !may_notify(*one, sender.credentials.pid)) {
      if (!one->stranger_told) complain("a notification was refused by notify_access", 0);
      one->stranger_told = true;
      close_all(sender.fds, sender.fd_count);
      continue;
    }
    if (one != nullptr) take_main_pid(*one, text, sender.fds, sender.fd_count);
    store_descriptors(text, sender.fds, sender.fd_count);
    take_notification(text, static_cast<size_t>(size), sender.credentials.pid);
  }
  return true;
}

// MAINPIDFD=1 and the pidfd itself; or MAINPID=, and where MAINPIDFDID= (the inode of its pidfd) is
// given, only if that number still means the same process.
void Shim::take_main_pid(Instance& one, const char* text, const int* fds, int fd_count) {
  size_t size = 0;
  const char* value = find_value(text, "MAINPIDFD", &size);
  if (value != nullptr && equals(value, size, "1")) {
    if (fd_count != 1) return complain("MAINPIDFD=1 came with no or several descriptors", 0);
    return follow_main_pid(one, pidfd_pid(fds[0]), fds[0]);
  }
  uint64_t number = 0, pidfd_id = 0;
  value = find_value(text, "MAINPID", &size);
  if (value == nullptr || parse_number(value, &number) == nullptr || number > INT32_MAX) return;
  const auto pid = static_cast<pid_t>(number);
  value = find_value(text, "MAINPIDFDID", &size);
  if (value == nullptr || parse_number(value, &pidfd_id) == nullptr || pidfd_id == 0) {
    return follow_main_pid(one, pid, -1);
  }
  const int pidfd = pidfd_open(pid);
  struct stat info = {};
  if (pidfd >= 0 && fstat(pidfd, &info) == 0 && info.st_ino == pidfd_id) {
    follow_main_pid(one, pid, pidfd);
  } else {
    complain("MAINPID= names another process than MAINPIDFDID=", 0);
  }
  if (pidfd >= 0) close(pidfd);
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

// By NOTIFYACCESS=, else by the launch description.
bool Shim::may_notify(const Instance& one, pid_t sender) const {
  const NotifyAccess access = one.access_changed ? one.notify_access
                              : launch_.loaded() ? notify_access_of(launch_.header())
                                                 : NotifyAccess::kAll;
  if (access == NotifyAccess::kAll) return true;
  if (access == NotifyAccess::kNone) return false;
  if (sender == one.pid || (one.announced != 0 && has_announced(one, sender))) return true;
  ProcStat stat;
  return access == NotifyAccess::kExec && supervisor_pid_ > 0 && read_stat(sender, &stat) &&
         stat.parent == supervisor_pid_;
}

// True where the status record changed.
bool Shim::take_line(Instance& one, const char* line, size_t length) {
  StatusInstance& record = saved(one);
  const auto keep_word = [&](const char* word, size_t size) {
    if (size >= sizeof record.state_word) size = sizeof record.state_word - 1;
    memset(record.state_word, 0, sizeof record.state_word);
    memcpy(record.state_word, word, size);
    return true;
  };
  uint64_t number = 0;
  const char* value = nullptr;
  const auto left = [&] { return length - static_cast<size_t>(value - line); };
  if (equals(line, length, "READY=1")) {
    const bool changed = (record.ready & kSaidReady) == 0;
    record.ready |= kSaidReady;
    return changed;
  }
  if (equals(line, length, "WATCHDOG=1")) {
    const bool changed = (record.ready & kSaidWatchdog) == 0;
    record.ready |= kSaidWatchdog;
    return changed;
  }
  // For a supervisor that comes after this one.
  if (equals(line, length, "STOPPING=1")) return keep_word("stopping", 8);
  if ((value = value_of(line, length, "X_DEFIB_STATE=")) != nullptr && left() > 0) {
    return keep_word(value, left());
  }
  if ((value = value_of(line, length, "EXTEND_TIMEOUT_USEC=")) != nullptr) {
    if (parse_number(value, &number) != nullptr) extend_stop(one, number);
  } else if ((value = value_of(line, length, "NOTIFYACCESS=")) != nullptr) {
    static constexpr const char* kWords[] = {"all", "main", "exec", "none"};  // as NotifyAccess
    for (uint32_t i = 0; i < 4; ++i) {
      if (!equals(value, left(), kWords[i])) continue;
      one.notify_access = static_cast<NotifyAccess>(i);
      one.access_changed = true;
    }
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

// What the service said while there was no shim: it is in its page. Only small letters pass, so
// that no word brings a line of its own.
void Shim::take_unheard(Instance& one) {
  const AgentPage* page = one.page.page;
  if (page == nullptr || !may_notify(one, one.pid)) return;
  char word[sizeof page->state_word];
  memcpy(word, page->state_word, sizeof word);
  size_t size = 0;
  while (size < sizeof word && ((word[size] >= 'a' && word[size] <= 'z') || word[size] == '_')) {
    ++size;
  }
  const StatusInstance& record = saved(one);
  const bool ready = page->said_ready == 1 && (record.ready & kSaidReady) == 0;
  const bool state =
      size > 0 && size < sizeof word && word[size] == 0 && strcmp(word, record.state_word) != 0;
  char text[64];
  text[0] = 0;
  if (ready) append_text(text, sizeof text, "READY=1\n");
  if (state) {
    append_text(text, sizeof text, "X_DEFIB_STATE=");
    append_text(text, sizeof text, word);
  }
  if (ready || state) take_notification(text, strlen(text), one.pid);
}

}  // namespace defib::process::shim

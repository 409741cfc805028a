#include "journald.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {
namespace {

constexpr char kDefaultSocket[] = "/run/systemd/journal/socket";
constexpr size_t kKeptPages = 64u << 10;  // what a long line leaves in memory

const char* find_variable(char* const* env, const char* key) {
  const size_t size = strlen(key);
  for (; env != nullptr && *env != nullptr; ++env) {
    if (strncmp(*env, key, size) == 0 && (*env)[size] == '=') return *env + size + 1;
  }
  return nullptr;
}

}  // namespace

void Journald::configure(bool on, char* const* env) {
  on_ = on;
  if (!on) return;
  const char* name = find_variable(env, "DEFIB_SERVICE");
  const char* path = find_variable(env, "DEFIB_JOURNAL_SOCKET");
  name_[0] = path_[0] = 0;
  append_text(name_, sizeof name_, name != nullptr ? name : "defib");
  append_text(path_, sizeof path_, path != nullptr && *path != 0 ? path : kDefaultSocket);
  if (socket_ < 0) socket_ = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
}

void Journald::push(int stream, uint64_t offset, const char* bytes, size_t size, LogIndex* index) {
  LogIndexHeader& header = index->header;
  for (size_t at = 0; at < size;) {
    size_t part = 0;
    bool ended = false;
    while (at + part < size && !ended && size_[stream] + part < kMaxLine) {
      ended = bytes[at + part] == '\n';
      if (!ended) ++part;
    }
    memcpy(text_[stream] + size_[stream], bytes + at, part);
    size_[stream] += part;
    at += part + (ended ? 1 : 0);
    if (!ended && size_[stream] < kMaxLine) return;
    const Sent sent = size_[stream] > 0 ? send_line(stream, header.inode, offset + at) : Sent::kYes;
    if (sent == Sent::kStalled) {
      // Lines that have begun are read again with the rest.
      stalled_ = true;
      size_[0] = size_[1] = 0;
      return;
    }
    if (size_[stream] > 0) {
      ++(sent == Sent::kYes ? header.journal_sent : header.journal_dropped);
    }
    if (size_[stream] > kKeptPages) {
      madvise(text_[stream], kMaxLine, MADV_DONTNEED);
    }
    size_[stream] = 0;
    header.forwarded[stream] = offset + at;
    index->write_header();
  }
}

void Journald::begin_again(bool drop) {
  stalled_ = false;
  drop_ = drop;
  size_[0] = size_[1] = 0;
}

// A leading "<6>" is the line's priority, as with systemd's own services.
Journald::Sent Journald::send_line(int stream, uint64_t inode, uint64_t end_offset) {
  if (drop_) return Sent::kDropped;
  const char* text = text_[stream];
  size_t size = size_[stream];
  char priority[2] = {stream == 0 ? '6' : '4', 0};
  if (size > 3 && text[0] == '<' && text[1] >= '0' && text[1] <= '7' && text[2] == '>') {
    priority[0] = text[1];
    text += 3;
    size -= 3;
  }
  char head[512] = "PRIORITY=";
  append_text(head, sizeof head, priority);
  append_text(head, sizeof head, "\nSYSLOG_IDENTIFIER=");
  append_text(head, sizeof head, name_);
  append_text(head, sizeof head, "\nDEFIB_SERVICE=");
  append_text(head, sizeof head, name_);
  append_text(head, sizeof head, stream == 0 ? "\nDEFIB_STREAM=stdout" : "\nDEFIB_STREAM=stderr");
  append_text(head, sizeof head, "\nDEFIB_LOG_OFFSET=");
  append_number(head, sizeof head, inode);
  append_text(head, sizeof head, ":");
  append_number(head, sizeof head, end_offset);
  append_text(head, sizeof head, "\nMESSAGE=");
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  memcpy(address.sun_path, path_, sizeof path_);
  static char newline[] = "\n";
  iovec parts[3] = {{head, strlen(head)}, {const_cast<char*>(text), size}, {newline, 1}};
  msghdr message = {};
  message.msg_name = &address;
  message.msg_namelen = sizeof address;
  message.msg_iov = parts;
  message.msg_iovlen = 3;
  while (sendmsg(socket_, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    if (errno == EAGAIN || errno == ECONNREFUSED || errno == ENOENT) return Sent::kStalled;
    if (errno == EMSGSIZE || errno == ENOBUFS) {
      if (send_file(parts, 3, &message)) return Sent::kYes;
      return errno == EAGAIN ? Sent::kStalled : Sent::kDropped;
    }
    if (errno != EINTR) return Sent::kDropped;
  }
  return Sent::kYes;
}

// Too large for a datagram: a sealed file is sent in its place.
bool Journald::send_file(const iovec* parts, int count, msghdr* message) {
  const int fd = memfd_create("defib-journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) return false;
  bool sent = true;
  for (int i = 0; i < count; ++i) {
    for (size_t done = 0; sent && done < parts[i].iov_len;) {
      const ssize_t put =
          write(fd, static_cast<const char*>(parts[i].iov_base) + done, parts[i].iov_len - done);
      sent = put > 0;
      done += sent ? static_cast<size_t>(put) : 0;
    }
  }
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL;
  sent = sent && fcntl(fd, F_ADD_SEALS, kSeals) == 0;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  message->msg_iovlen = 0;
  message->msg_iov = nullptr;
  message->msg_control = control;
  message->msg_controllen = sizeof control;
  cmsghdr* attached = CMSG_FIRSTHDR(message);
  attached->cmsg_level = SOL_SOCKET;
  attached->cmsg_type = SCM_RIGHTS;
  attached->cmsg_len = CMSG_LEN(sizeof(int));
  memcpy(CMSG_DATA(attached), &fd, sizeof fd);
  sent = sent && sendmsg(socket_, message, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
  const int failed = errno;
  close(fd);
  errno = failed;
  return sent;
}

}  // namespace defib::process::shim

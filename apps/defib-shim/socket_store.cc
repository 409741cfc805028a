#include "socket_store.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

namespace defib::process::shim {
namespace {

bool is_name(const char* name, size_t size) {
  if (size == 0 || size >= kMaxFdName) return false;
  for (size_t i = 0; i < size; ++i) {
    if (name[i] <= ' ' || name[i] >= 0x7f || name[i] == ':') return false;
  }
  return true;
}

}  // namespace

bool SocketStore::insert(int at, int fd, const char* name, size_t name_size) {
  const int high = is_name(name, name_size) ? fcntl(fd, F_DUPFD_CLOEXEC, kLowestFd) : -1;
  close(fd);
  if (high < 0) return false;
  memmove(entries_ + at + 1, entries_ + at,
          sizeof(Entry) * static_cast<size_t>(listening_ + stored_ - at));
  entries_[at].fd = high;
  memset(entries_[at].name, 0, sizeof entries_[at].name);
  memcpy(entries_[at].name, name, name_size);
  return true;
}

void SocketStore::erase(int at) {
  close(entries_[at].fd);
  memmove(entries_ + at, entries_ + at + 1,
          sizeof(Entry) * static_cast<size_t>(listening_ + stored_ - at - 1));
}

void SocketStore::replace(const Sockets& counts, const char* names, size_t names_size,
                          const int* fds, int fd_count) {
  while (listening_ > 0) {
    erase(0);
    --listening_;
  }
  const bool takes_stored = stored_ == 0;
  const char* const end = names + names_size;
  for (int i = 0; i < fd_count; ++i) {
    size_t size = 0;
    while (names + size < end && names[size] != 0) ++size;
    const bool whole = names + size < end;
    const bool listens = i < static_cast<int>(counts.listening);
    const bool wanted =
        whole && (listens ? listening_ < kMaxSockets : takes_stored && stored_ < kMaxStored);
    if (!wanted) {
      close(fds[i]);
    } else if (insert(listens ? listening_ : listening_ + stored_, fds[i], names, size)) {
      ++(listens ? listening_ : stored_);
    }
    if (whole) names += size + 1;
  }
}

bool SocketStore::store(int fd, const char* name, size_t name_size) {
  if (stored_ == kMaxStored) {
    close(fd);
    return false;
  }
  if (!insert(listening_ + stored_, fd, name, name_size)) return false;
  ++stored_;
  return true;
}

int SocketStore::remove(const char* name, size_t name_size) {
  int removed = 0;
  for (int i = listening_; i < listening_ + stored_;) {
    if (strlen(entries_[i].name) != name_size || memcmp(entries_[i].name, name, name_size) != 0) {
      ++i;
      continue;
    }
    erase(i);
    --stored_;
    ++removed;
  }
  return removed;
}

size_t SocketStore::names(int first, char* to, size_t capacity) const {
  size_t used = 0;
  for (int i = first; i < count(); ++i) {
    const size_t size = strlen(entries_[i].name) + 1;
    if (used + size > capacity) break;
    memcpy(to + used, entries_[i].name, size);
    used += size;
  }
  return used;
}

void SocketStore::descriptors(int first, int* to) const {
  for (int i = first; i < count(); ++i) to[i - first] = entries_[i].fd;
}

}  // namespace defib::process::shim

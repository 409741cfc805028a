// SocketStore: the descriptors that every start of the service is given from 3 on: the sockets of
// its specification, which the supervisor opened, then those that the service stored (FDSTORE=1).
//
// Their numbers in the shim lie above kLowestFd, so that the child of a vfork can put them into
// their places one by one without overwriting one that is still to come.

#pragma once

#include <stddef.h>

#include "defib/process/shim_protocol.h"

namespace defib::process::shim {

class SocketStore {
 public:
  static constexpr int kLowestFd = 64;

  int count() const { return listening_ + stored_; }
  int listening() const { return listening_; }
  int stored() const { return stored_; }
  int fd(int index) const { return entries_[index].fd; }
  const char* name(int index) const { return entries_[index].name; }

  // Takes the descriptors over. The listening ones replace those before; the stored ones count only
  // where none are kept yet, that is for a shim that takes another one's place.
  void replace(const Sockets& counts, const char* names, size_t names_size, const int* fds,
               int fd_count);
  // One more; the descriptor is taken over. False where there is no room, or the name is not one of
  // sd_notify(3): printable, without a colon, and not too long.
  bool store(int fd, const char* name, size_t name_size);
  // Closes all stored ones of that name. The number of them.
  int remove(const char* name, size_t name_size);
  // The names from `first` on, zero-terminated one after the other. Their size.
  size_t names(int first, char* to, size_t capacity) const;
  void descriptors(int first, int* to) const;

 private:
  struct Entry {
    int fd = -1;
    char name[kMaxFdName] = {};
  };
  bool insert(int at, int fd, const char* name, size_t name_size);
  void erase(int at);

  Entry entries_[kMaxSockets + kMaxStored];
  int listening_ = 0;
  int stored_ = 0;
};

}  // namespace defib::process::shim

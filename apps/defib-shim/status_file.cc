#include "status_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "kernel.h"

namespace defib::process::shim {

int StatusFile::open_file() {
  fd_ = open(kStatusName, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (fd_ < 0) return -errno;
  bool found = false;
  uint64_t newest = 0;
  uint32_t version = kStatusVersion;
  for (int slot = 0; slot < 2; ++slot) {
    StatusRecord one;
    const off_t at = static_cast<off_t>(kStatusSlot) * slot;
    if (pread(fd_, &one, sizeof one, at) != sizeof one || !status_whole(one)) continue;
    if (one.sequence >= newest) {
      newest = one.sequence;
      version = one.version;
    }
    if (!status_valid(one) || (found && one.sequence <= record.sequence)) continue;
    record = one;
    found = true;
  }
  if (version != kStatusVersion) return -EPROTONOSUPPORT;
  // Space is taken now, so that a full disk later does not lose an exit status.
  const int failed = posix_fallocate(fd_, 0, static_cast<off_t>(2 * kStatusSlot));
  if (failed != 0 && failed != EOPNOTSUPP) return -failed;
  if (!found) {
    record = StatusRecord{};
    record.magic = kStatusMagic;
    record.version = kStatusVersion;
  }
  return 0;
}

int StatusFile::write_record() {
  ++record.sequence;
  record.crc = status_checksum(record);
  const off_t at = static_cast<off_t>(kStatusSlot) * static_cast<off_t>(record.sequence % 2);
  const ssize_t put = pwrite(fd_, &record, sizeof record, at);
  return put == sizeof record ? 0 : (put < 0 ? -errno : -EIO);
}

}  // namespace defib::process::shim

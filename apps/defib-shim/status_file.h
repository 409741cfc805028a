// StatusFile: the record by which supervisors and later shims recognize the running service.
//
// Two slots, written alternately with one pwrite and never synced: it must outlive processes, not
// the machine (after a boot no service runs).

#pragma once

#include "defib/process/shim_protocol.h"

namespace defib::process::shim {

class StatusFile {
 public:
  // Opens or makes the file and reads the newest valid record. 0 or -errno; -EPROTONOSUPPORT where
  // another version wrote it, which is then left as it is.
  int open_file();
  // Writes `record` with the next sequence and its checksum. Safe between vfork and exec.
  int write_record();

  StatusRecord record = {};

 private:
  int fd_ = -1;
};

}  // namespace defib::process::shim

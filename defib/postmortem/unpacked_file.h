// A debug file with its compressed sections unpacked. elfutils would unpack all of them with zlib,
// which was more than half of the time that a report without kept tables took; this takes a third
// of that, and leaves out what tells where variables lie.
// Thread rule: one thread at a time; only where it may fail (guarded.h).

#pragma once

#include "defib/os/fd.h"

namespace defib::postmortem {

// The file in memory, by a descriptor. Invalid where nothing in it is packed, or where it is better
// left to elfutils: it is damaged, unknown, or very large.
os::Fd unpacked_file(int fd);

}  // namespace defib::postmortem

// Makes a Snapshot and ProcessFacts of a raw snapshot (raw_snapshot.h), after the process was let
// go. Nothing in it is trusted: it came from a process that may be corrupted.
// Thread rule: pure, but for opening the files of the modules.

#pragma once

#include <string_view>

#include "defib/base/error.h"
#include "defib/postmortem/process_facts.h"
#include "defib/postmortem/raw_snapshot.h"
#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// Whether the descriptors that the raw snapshot names are ours, and become the modules' files.
enum class RawFiles : std::uint8_t { kTake, kLeave };

// Adds to `snapshot`, which has what the crash page tells (its threads: the crashed one, or none).
// CaptureFailed says why nothing could be copied; InvalidArgument: these are no such bytes.
Result<> decode_snapshot(std::string_view bytes, RawFiles files, Snapshot& snapshot);

// Adds to `facts`. What is malformed is left out.
void decode_facts(std::string_view bytes, ProcessFacts& facts);

SocketRow socket_row(const raw::Socket& socket);

}  // namespace defib::postmortem

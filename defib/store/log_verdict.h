// What a place where the log stops making sense means: one table of all evidence.
//
// A crash may cut off what nobody was promised; nothing else may be missing. So the question at a
// stop is always whether something acknowledged stood there, and the evidence is what the file, its
// neighbours, the machine and the last process say about it. Each combination of evidence meets
// exactly one row; the test walks through all of them.
//
// Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace defib::store {

// What stands where the next block would begin.
enum class StopKind : std::uint8_t {
  kZeros,      // zeros: how every complete log ends
  kEndOfFile,  // the file ends there; a complete log ends with zeros, so it was cut
  kBadBlock,   // something that is not the next block
};
// What follows in the file, up to its end.
enum class Rest : std::uint8_t { kZeros, kBytes };
// Headers of later blocks of this log further on in the file.
enum class LaterBlock : std::uint8_t {
  kNone,
  kPresent,
  kCovers,  // one says that the missing commit had been synced when it was written
};
// Whether the machine has restarted since the segment was begun: its page cache loses nothing else.
enum class Machine : std::uint8_t { kRestarted, kSameRun };
// The segment after this one. It begins only after everything before it was synced.
enum class Successor : std::uint8_t {
  kNone,
  kContinues,  // with exactly the commit after this one's last
  kGap,
  kMissing,  // log.head names a later one, and there is none
  kUnknown,  // none, and nothing tells whether there was one
};
// What the last process had acknowledged (ack_watermark.h), known in the same run only.
enum class Acknowledged : std::uint8_t {
  kUnknown,
  kBefore,  // only commits before the stop
  kCovers,  // the missing commit too
};

struct StopEvidence {
  StopKind kind = StopKind::kZeros;
  Rest rest = Rest::kZeros;
  LaterBlock later = LaterBlock::kNone;
  Machine machine = Machine::kRestarted;
  Successor successor = Successor::kNone;
  Acknowledged acknowledged = Acknowledged::kUnknown;
};

enum class StopVerdict : std::uint8_t {
  kEnd,        // the log ends here, completely
  kEndReport,  // it does, unless a whole segment after it was taken away: say so
  kCut,        // cut what follows: nothing of it was acknowledged
  kCutReport,  // cut what follows, and say which commits may have been lost
  kRefuse,     // acknowledged history is missing
};
// "end", "end, loss possible", "cut", "cut, loss possible", "refuse".
std::string_view to_string(StopVerdict verdict);

// For each kind of evidence the set of values under which the row applies, one bit a value.
struct VerdictRow {
  std::string_view reason;  // for people: why this verdict
  std::uint8_t kind;
  std::uint8_t rest;
  std::uint8_t later;
  std::uint8_t machine;
  std::uint8_t successor;
  std::uint8_t acknowledged;
  StopVerdict verdict;
};
std::span<const VerdictRow> verdict_rows();
bool applies(const VerdictRow& row, const StopEvidence& evidence);
// The one row that applies.
const VerdictRow& judge_stop(const StopEvidence& evidence);

}  // namespace defib::store

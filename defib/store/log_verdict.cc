#include "defib/store/log_verdict.h"

#include <algorithm>

#include "defib/base/assert.h"

namespace defib::store {
namespace {

template <typename... Values>
constexpr std::uint8_t set(Values... values) {
  return static_cast<std::uint8_t>(((1U << static_cast<unsigned>(values)) | ...));
}
constexpr std::uint8_t kAny = 0xff;

using enum StopVerdict;
constexpr std::uint8_t kAtZeros = set(StopKind::kZeros);
constexpr std::uint8_t kAtOther = set(StopKind::kEndOfFile, StopKind::kBadBlock);
constexpr std::uint8_t kZerosFollow = set(Rest::kZeros);
constexpr std::uint8_t kBytesFollow = set(Rest::kBytes);
constexpr std::uint8_t kNoLater = set(LaterBlock::kNone);
constexpr std::uint8_t kLater = set(LaterBlock::kPresent);
constexpr std::uint8_t kLaterCovers = set(LaterBlock::kCovers);
constexpr std::uint8_t kRestarted = set(Machine::kRestarted);
constexpr std::uint8_t kSameRun = set(Machine::kSameRun);
constexpr std::uint8_t kLast = set(Successor::kNone);
constexpr std::uint8_t kPerhapsLast = set(Successor::kNone, Successor::kUnknown);
constexpr std::uint8_t kUnknown = set(Acknowledged::kUnknown);
constexpr std::uint8_t kBefore = set(Acknowledged::kBefore);
constexpr std::uint8_t kAcknowledged = set(Acknowledged::kCovers);
constexpr std::uint8_t kNotKnownAcknowledged = kUnknown | kBefore;

// From the strongest evidence to the weakest, yet no row relies on the ones above it.
// clang-format off
constexpr VerdictRow kRows[] = {
    // reason, kind, rest, later, machine, successor, acknowledged, verdict
    {"a further segment begins later, and it was begun only after everything before it was synced",
     kAny, kAny, kAny, kAny, set(Successor::kGap), kAny, kRefuse},
    {"the next segment goes on with the next commit",
     kAny, kAny, kAny, kAny, set(Successor::kContinues), kAny, kEnd},
    {"a further segment was begun, and it is gone",
     kAny, kAny, kAny, kAny, set(Successor::kMissing), kAny, kRefuse},
    {"the last process had acknowledged them, and the machine has not restarted since",
     kAny, kAny, kAny, kAny, kPerhapsLast, kAcknowledged, kRefuse},
    {"a later block proves that they were synced",
     kAny, kAny, kLaterCovers, kAny, kPerhapsLast, kNotKnownAcknowledged, kRefuse},
    {"later blocks follow, and the machine has not restarted since",
     kAny, kAny, kLater, kSameRun, kPerhapsLast, kUnknown, kRefuse},
    {"later blocks follow, which a power failure may keep while it loses earlier ones",
     kAny, kAny, kLater, kRestarted, kPerhapsLast, kUnknown, kCutReport},
    {"later blocks follow, but the last process had acknowledged none of them",
     kAny, kAny, kLater, kAny, kPerhapsLast, kBefore, kCut},
    {"zeros to the end of the file",
     kAtZeros, kZerosFollow, kNoLater, kAny, kLast, kNotKnownAcknowledged, kEnd},
    {"zeros to the end of the file, up to which the last process had acknowledged",
     kAtZeros, kZerosFollow, kNoLater, kAny, set(Successor::kUnknown), kBefore, kEnd},
    {"zeros to the end of the file, and nothing tells whether a further segment was begun",
     kAtZeros, kZerosFollow, kNoLater, kAny, set(Successor::kUnknown), kUnknown, kEndReport},
    {"bytes stand after the log's end, and the last process had acknowledged none of them",
     kAtZeros, kBytesFollow, kNoLater, kAny, kPerhapsLast, kBefore, kCut},
    {"bytes stand after the log's end",
     kAtZeros, kBytesFollow, kNoLater, kAny, kPerhapsLast, kUnknown, kCutReport},
    {"a write was cut off, and the last process had not acknowledged it",
     kAtOther, kAny, kNoLater, kAny, kPerhapsLast, kBefore, kCut},
    {"a write was cut off, or it is damaged; nothing can tell which",
     kAtOther, kAny, kNoLater, kAny, kPerhapsLast, kUnknown, kCutReport},
};
// clang-format on

template <typename Value>
bool contains(std::uint8_t values, Value value) {
  return (values & set(value)) != 0;
}

}  // namespace

std::span<const VerdictRow> verdict_rows() {
  return kRows;
}

bool applies(const VerdictRow& row, const StopEvidence& evidence) {
  return contains(row.kind, evidence.kind) && contains(row.rest, evidence.rest) &&
         contains(row.later, evidence.later) && contains(row.machine, evidence.machine) &&
         contains(row.successor, evidence.successor) &&
         contains(row.acknowledged, evidence.acknowledged);
}

const VerdictRow& judge_stop(const StopEvidence& evidence) {
  const auto* row = std::ranges::find_if(
      kRows, [&](const VerdictRow& candidate) { return applies(candidate, evidence); });
  DEFIB_ASSERT_MESSAGE(row != std::end(kRows), "the table of verdicts is complete");
  return *row;
}

std::string_view to_string(StopVerdict verdict) {
  switch (verdict) {
    case kEnd:
      return "end";
    case kEndReport:
      return "end, loss possible";
    case kCut:
      return "cut";
    case kCutReport:
      return "cut, loss possible";
    case kRefuse:
      return "refuse";
  }
  DEFIB_UNREACHABLE("StopVerdict");
}

}  // namespace defib::store

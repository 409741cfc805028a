// What stands behind the last whole block of a log segment may be all that is left of a commit: it
// is copied to DIR/quarantine before anybody cuts it off or removes the segment.
//
// Thread rule: none; two calls for one tail write the same.

#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"

namespace defib::store {

struct TornTail {
  std::string segment;       // name
  std::uint64_t offset = 0;  // from here on
};

// To quarantine/SEGMENT-at-OFFSET.bin, up to the zeros at the end; durable on return. Nothing where
// there are only zeros. `go_on` is asked between reads; its error ends the copy.
Result<> quarantine_tail(os::Files& files, const std::string& dir, const TornTail& tail,
                         const std::function<Result<>()>& go_on = {});
// The same for a segment that is about to go, where `tails` has one of it.
Result<> quarantine_tails_of(os::Files& files, const std::string& dir, const std::string& segment,
                             const std::vector<TornTail>& tails);

}  // namespace defib::store

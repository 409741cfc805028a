// Ledger: the venue's append-only record, one JSON line an event. It is the oracle of what was
// really accepted, filled and cancelled, whatever the client believes.
//
// Guarantees: append() has handed all lines to the kernel before it returns, so they survive the
// end of the process (not the loss of power); the events of one call are one batch, and a batch cut
// by a crash is removed as a whole when the ledger is opened again. Each line carries a CRC32C;
// damage before the last batch is an error, never skipped.
//
// Format: docs/formats/paper_ledger.md. Thread rule: one thread at a time.

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/paper/types.h"

namespace defib::paper {

// One line without newline, with its checksum; `more`: further events of the batch follow.
std::string encode_event(const Event& event, const std::vector<Symbol>& symbols, bool more);
struct DecodedEvent {
  Event event;
  bool more = false;
};
Result<DecodedEvent> decode_event(std::string_view line, const std::vector<Symbol>& symbols);

struct LedgerHead {
  std::uint64_t seed = 0;
  std::uint64_t lines = 0;       // complete ones
  std::uint64_t good_bytes = 0;  // up to the end of the last complete batch
  std::uint64_t torn_bytes = 0;  // behind that
};
// Calls `each` for every event of a complete batch, in order, and stops at its first error.
// Reads only. Corrupted names the line; InvalidArgument where another seed than `seed` stands at
// the head, before any event is handed out.
Result<LedgerHead> read_ledger(os::File& file, const std::vector<Symbol>& symbols,
                               const std::function<Result<>(const Event&)>& each,
                               std::optional<std::uint64_t> seed = std::nullopt);

class Ledger {
 public:
  // Opens or creates it, holds its lock (DatabaseLocked where another venue has it), feeds every
  // event to `replay`, and cuts a torn tail. InvalidArgument where it was made with another seed.
  static Result<std::unique_ptr<Ledger>> open(os::Files& files, const std::string& path,
                                              std::uint64_t seed,
                                              const std::vector<Symbol>& symbols,
                                              const std::function<Result<>(const Event&)>& replay);
  // All events as one batch, by one write. After a failure every further call fails the same way.
  Result<> append(const std::vector<Event>& events);
  std::uint64_t size() const { return size_; }

 private:
  Ledger(std::unique_ptr<os::File> file, const std::vector<Symbol>& symbols, std::uint64_t size)
      : file_(std::move(file)), symbols_(symbols), size_(size) {}
  std::unique_ptr<os::File> file_;
  std::vector<Symbol> symbols_;
  std::uint64_t size_ = 0;
  std::string lines_;
  std::optional<Error> failed_;
};

}  // namespace defib::paper

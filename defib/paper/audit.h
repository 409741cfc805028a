// Audit: proves from the venue's ledger what became of a trader's intents.
//
// The trader hands in every order intent that it ever logged, with its belief. The proof holds when
// accepted + rejected + proved never accepted = intents, each accepted order belongs to exactly one
// intent, nothing is lost and nothing duplicated. Orders that the account's owner placed elsewhere
// (origin external) need no intent. The ledger itself is replayed and checked on the way.
//
// Reads only, and may run beside a living venue.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/paper/types.h"
#include "defib/wire/json.h"

namespace defib::paper {

enum class Belief : std::uint8_t { kAccepted, kRejected, kNeverAccepted, kUnknown };

// What the trader says that it asked for, and what it has booked as filled of it.
struct IntentTerms {
  std::string symbol;
  Side side = Side::kBuy;
  Decimal quantity;
  Decimal price;  // zero: a market order
  Decimal filled;
};
struct Intent {
  std::string client_id;
  Belief belief = Belief::kUnknown;
  std::optional<IntentTerms> terms = {};
};
// One intent a line: the client id, then accepted, rejected, never_accepted or unknown, then, where
// the trader tells them, SYMBOL buy|sell QUANTITY PRICE FILLED; between them white space or a
// comma. Empty lines and lines that start with '#' are skipped. The error names the line.
Result<std::vector<Intent>> parse_intents(std::string_view text);

enum class FindingKind : std::uint8_t {
  kLost,               // the venue accepted it, the trader does not know (no intent, or denied)
  kDuplicated,         // the venue accepted more than one order with this client id
  kPhantom,            // the trader believes in an order that the venue never accepted
  kUnresolved,         // the trader does not know what became of it
  kUnprovedRejection,  // believed rejected, but the venue never said so
  kRepeatedIntent,     // the trader logged two intents with one id
  kMisattributed,      // the order of this id is not what was intended, or not all that was booked
  kLedgerBroken,       // the ledger contradicts itself
};
std::string_view to_string(FindingKind kind);

struct Finding {
  FindingKind kind = FindingKind::kLost;
  std::string client_id;
  std::string detail;
};

struct AuditReport {
  bool with_intents = false;
  // Intents, by the venue's truth where the trader's belief agrees with it.
  std::uint64_t intents = 0, accepted = 0, rejected = 0, never_accepted = 0;
  std::uint64_t lost = 0, duplicated = 0, unresolved = 0, misattributed = 0;
  // The ledger's own content.
  std::uint64_t orders = 0, external_orders = 0, fills = 0, closed = 0;
  std::uint64_t refused = 0, duplicate_requests = 0, dropped = 0;
  std::uint64_t torn_bytes = 0;
  std::uint64_t starts = 0;
  std::string digest;  // of the state at the ledger's end
  std::vector<Finding> findings;

  bool ok() const {
    return findings.empty() && (!with_intents || accepted + rejected + never_accepted == intents);
  }
  wire::Json to_json() const;
  // Some lines for people.
  std::string to_text() const;
};

// Corrupted where the ledger's bytes are damaged; what contradicts itself is a finding.
Result<AuditReport> audit(os::Files& files, const std::string& ledger_path,
                          const std::optional<std::vector<Intent>>& intents,
                          const std::vector<Symbol>& symbols = default_symbols());

}  // namespace defib::paper

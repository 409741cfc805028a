// Report: what a postmortem says, as JSON (schema defib.crash/1, docs/formats/crash.md) and for
// people. Thread rule: pure functions.

#pragma once

#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/classify.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/unwind.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

struct Report {
  Snapshot snapshot;
  std::vector<ThreadStack> threads;
  Classification classification;
  std::optional<Error> capture_error;  // why there is less in it than there should be
  std::string log_tail;                // the last lines of stderr, where given
};

// What the classifier asks, from a snapshot and its stacks. Exit status, log and kernel evidence
// are the caller's to add.
CrashFacts facts_from(const Snapshot& snapshot, const std::vector<ThreadStack>& stacks);

// Unwinds and classifies. `more` brings exit status, log and kernel evidence, and of its threads
// the hot frames.
Report make_report(Snapshot snapshot, CrashFacts more, const SymbolOptions& symbols = {});

wire::Json to_json(const Classification& classification);
wire::Json to_json(const Report& report);
// For a terminal: the cause, its evidence, the stacks.
std::string to_text(const Report& report);

}  // namespace defib::postmortem

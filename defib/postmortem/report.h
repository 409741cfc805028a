// Report: what a postmortem says, as JSON (schema defib.crash/1, docs/formats/crash.md) and for
// people. Thread rule: pure functions.

#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/postmortem/classify.h"
#include "defib/postmortem/signature.h"
#include "defib/postmortem/snapshot.h"
#include "defib/postmortem/source_lines.h"
#include "defib/postmortem/unwind.h"
#include "defib/wire/json.h"

namespace defib::postmortem {

struct Report {
  Snapshot snapshot;
  std::vector<ThreadStack> threads;
  Classification classification;
  std::vector<pid_t> guilty;           // threads that crashed, wait in a circle, or are busy
  Signature signature;                 // what it has in common with other reports of the same bug
  std::optional<Error> capture_error;  // why there is less in it than there should be
  std::string log_tail;                // the last lines of stderr, where given
};

// What the classifier asks, from a snapshot and its stacks. Exit status, log and kernel evidence
// are the caller's to add.
CrashFacts facts_from(const Snapshot& snapshot, const std::vector<ThreadStack>& stacks);

// Unwinds and classifies. `more` brings exit status, log and kernel evidence, and of its threads
// the hot frames. The function that brings it is called once, while the stacks are walked.
Report make_report(Snapshot snapshot, CrashFacts more, const SymbolOptions& symbols = {});
Report make_report_asking(Snapshot snapshot, const std::function<CrashFacts()>& ask_more,
                          const SymbolOptions& symbols = {});

wire::Json to_json(const Classification& classification);
wire::Json to_json(const Signature& signature);  // {"id","text"}, or null
wire::Json to_json(const Report& report);
// The same as text, indented by 2; to build the value first would take several times as long.
std::string to_json_text(const Report& report);

struct TextOptions {
  bool colours = false;             // for a terminal
  std::vector<SourceView> sources;  // shown below the stacks of their threads
};
// For a terminal: the cause, its evidence, the stacks.
std::string to_text(const Report& report, const TextOptions& options = {});

// The lines around the innermost places of the guilty threads, where their files are at hand (under
// `sysroot`, or here).
std::vector<SourceView> source_views(const Report& report, const std::string& sysroot = {});

}  // namespace defib::postmortem

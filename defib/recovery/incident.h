// Incident: the append-only, hash-chained record of one failure from detection to resumption.
//
// A file of JSON lines, INCIDENT_ID.jsonl:
//   {"seq":1,"at":"2026-11-20T13:05:58.123456789Z","mono_ns":...,"boot_id":"...","event":"opened",
//    ...event's own fields...,"prev":"<hash>","hash":"<hash>"}
// "hash" is SHA-256, in hexadecimal, over the line's bytes up to, not including, `,"hash":`; "prev"
// is the hash of the line before; the first line's "prev" is the closing (or last) hash of the
// incident before it, 64 zeros for the first of all, and the first line also carries
// "previous_incident". So truncation and rewriting show, given the head hash that went out with the
// alert. tools/verify-incident is an independent checker of about 100 lines.
//
// Durability: append(..., kSync) returns after the line and all before it are on disk; kSoon lines
// are synced by sync_if_due(), at latest 100 ms later. A torn last line (the writer was killed) is
// cut when the incident is opened again, which is itself recorded as event "writer_restarted" with
// the number and the SHA-256 of the bytes that were cut. A failed write leaves no part of its line
// and may be tried again (a full disk); after a failed sync every append repeats that error.
// Nothing follows the line "closed".
// File format: docs/formats/incident.md. Thread rule: one thread at a time; one writer an incident.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::recovery {

inline constexpr std::string_view kNoHash =
    "0000000000000000000000000000000000000000000000000000000000000000";

struct IncidentSummary {
  std::string id;  // "20261120T130558Z-1a2b3c"
  std::string service;
  std::string opened_at;  // RFC 3339
  std::string closed_at;  // empty: open
  std::string cause;      // the vocabulary of docs/cli.md; "unknown" until classified
  std::string outcome;    // open recovered restarted stopped awaiting_approval failed
  std::string head_hash;
  std::string path;
  wire::Json to_json() const;
};

enum class Durability { kSync, kSoon };

inline constexpr os::Duration kIncidentSyncDelay = std::chrono::milliseconds(100);
inline constexpr std::size_t kMaxIncidentLine = 4 << 20;  // LimitExceeded beyond
inline constexpr std::size_t kMaxIncidentFile = 64 << 20;

class Incident {
 public:
  // One event; `fields` are its own, without seq, times and hashes (InvalidArgument names a field
  // that the line has already). list() shows the text "cause" of the latest "opened", "classified"
  // (is_verdict()) or "closed"; an open incident that waits for a human (waits_for_human()) is
  // shown as "awaiting_approval".
  Result<> append(std::string_view event, const wire::Json& fields, Durability durability);
  // Appends "closed" with the outcome and the last known cause, synced; returns the closing hash.
  // InvalidArgument where the outcome is not one of recovered, restarted, stopped,
  // awaiting_approval, failed.
  Result<std::string> close(std::string_view outcome,
                            const wire::Json& fields = wire::Json::object());
  // Syncs kSoon lines; call from a timer. When the next call is due, or 0.
  Result<> sync_if_due();
  std::int64_t sync_due_mono_ns() const;
  bool closed() const { return closed_; }
  const std::string& id() const { return id_; }
  const std::string& head_hash() const { return head_; }
  const std::string& path() const { return path_; }

 private:
  friend class IncidentLog;
  explicit Incident(const os::Clock& clock) : clock_(&clock) {}
  Result<> append_any(std::string_view event, const wire::Json& fields, Durability durability);
  Result<> write_line(std::string_view line);
  Result<> sync();
  const os::Clock* clock_;
  std::unique_ptr<os::File> file_;
  std::string id_, path_, head_;
  std::string cause_ = "unknown";
  std::uint64_t size_ = 0;
  std::int64_t next_seq_ = 1;
  std::int64_t unsynced_since_ = 0;  // 0: all is synced
  bool has_partial_line_ = false;    // a failed write may have left bytes behind size_
  std::optional<Error> sync_error_;  // sticky
  bool closed_ = false;
};

struct VerifyResult {
  bool intact = false;
  std::int64_t lines = 0;      // before the problem, if there is one
  std::string head_hash;       // of the last of them
  std::int64_t head_line = 0;  // the line whose hash is the expected head; 0: none was expected
  std::string problem;         // empty when intact: "line 7: hash does not match its content"
};
// Checks one incident's text. `expected_head` (from an alert; may be empty) must be the hash of one
// of its lines: an incident goes on after the alert, but never loses what the alert has seen.
VerifyResult verify_incident(std::string_view text, std::string_view expected_head = {});

// Whether the line states the incident's cause as it was found out: a verdict, and not a late one
// on a failure before the newest, which has the member "earlier".
bool is_verdict(const wire::Json& line);

// Whether an open incident waits for a human's approval after this line, where `before` says so of
// the lines before it: from the question (approval_required, the state awaiting_approval, an
// outcome of that name) to the answer, to work, or to the next failure.
bool waits_for_human(const wire::Json& line, bool before);

// The incidents of one state directory, DIR/incidents/*.jsonl.
class IncidentLog {
 public:
  // Writes nothing; the directory is made with the first incident.
  static Result<IncidentLog> open(os::Files& files, const os::Clock& clock, const std::string& dir);
  // Starts a new one, chained to the newest before it; its first line is synced. The file appears
  // with its whole first line or not at all.
  Result<Incident> create(std::string_view service, const wire::Json& fields);
  // Continues one that was left open. IncidentChainBroken where more than its torn end is wrong;
  // nothing is changed then.
  Result<Incident> resume(const std::string& id);
  // Newest first, by the first and last lines alone where an incident is closed. Files that cannot
  // be read appear with outcome "failed" and their error as cause.
  Result<std::vector<IncidentSummary>> list() const;
  // All lines of an incident.
  Result<std::vector<wire::Json>> read(const std::string& id) const;
  // "latest" or a unique prefix of an id. NotFound, or InvalidArgument with the ids that fit.
  Result<std::string> find(std::string_view id_or_prefix) const;
  // As verify_incident(), and that the incident's first line continues the chain of the incident
  // that it names as the one before it.
  Result<VerifyResult> verify(const std::string& id, std::string_view expected_head) const;

 private:
  IncidentLog(os::Files& files, const os::Clock& clock, std::string dir)
      : files_(&files), clock_(&clock), dir_(std::move(dir)) {}
  std::string path_of(const std::string& id) const;
  // Ascending; empty where there is no directory.
  Result<std::vector<std::string>> ids() const;
  Result<std::string> newest() const;
  os::Files* files_;
  const os::Clock* clock_;
  std::string dir_;  // DIR/incidents
};

}  // namespace defib::recovery

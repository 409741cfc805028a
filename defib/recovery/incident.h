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
// cut when the incident is opened again, which is itself recorded as event "writer_restarted".
// Thread rule: one thread at a time.

#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/wire/json.h"

namespace defib::recovery {

inline constexpr std::string_view kNoHash =
    "0000000000000000000000000000000000000000000000000000000000000000";

struct IncidentSummary {
  std::string id;            // "20261120T130558Z-1a2b3c"
  std::string service;
  std::string opened_at;     // RFC 3339
  std::string closed_at;     // empty: open
  std::string cause;         // the vocabulary of docs/cli.md; "unknown" until classified
  std::string outcome;       // open recovered restarted stopped awaiting_approval failed
  std::string head_hash;
  std::string path;
  wire::Json to_json() const;
};

enum class Durability { kSync, kSoon };

class Incident {
 public:
  // One event without seq, times and hashes: {"event":"detected", ...}.
  Result<> append(std::string_view event, wire::Json fields, Durability durability);
  // Appends "closed" with the outcome, synced; returns the closing hash.
  Result<std::string> close(std::string_view outcome, wire::Json fields = wire::Json::object());
  // Syncs kSoon lines; call from a timer. When the next call is due, or 0.
  Result<> sync_if_due();
  std::int64_t sync_due_mono_ns() const;
  bool closed() const { return closed_; }
  const std::string& id() const { return id_; }
  const std::string& head_hash() const { return head_; }
  const std::string& path() const { return path_; }

 private:
  friend class IncidentLog;
  Incident(os::Files& files, const os::Clock& clock) : files_(&files), clock_(&clock) {}
  os::Files* files_;
  const os::Clock* clock_;
  std::unique_ptr<os::File> file_;
  std::string id_, path_, head_;
  std::uint64_t size_ = 0;
  std::int64_t next_seq_ = 1;
  std::int64_t unsynced_since_ = 0;
  bool closed_ = false;
};

// The incidents of one state directory, DIR/incidents/*.jsonl.
class IncidentLog {
 public:
  static Result<IncidentLog> open(os::Files& files, const os::Clock& clock, std::string dir);
  // Starts a new one, chained to the newest before it; its first line is synced.
  Result<Incident> create(std::string_view service, wire::Json fields);
  // Continues one that was left open.
  Result<Incident> resume(const std::string& id);
  // Newest first. Files that cannot be read appear with outcome "failed" and their error as cause.
  Result<std::vector<IncidentSummary>> list() const;
  // All lines of an incident.
  Result<std::vector<wire::Json>> read(const std::string& id) const;
  // "latest" or a unique prefix of an id.
  Result<std::string> find(std::string_view id_or_prefix) const;

 private:
  IncidentLog(os::Files& files, const os::Clock& clock, std::string dir)
      : files_(&files), clock_(&clock), dir_(std::move(dir)) {}
  os::Files* files_;
  const os::Clock* clock_;
  std::string dir_;
};

struct VerifyResult {
  bool intact = false;
  std::int64_t lines = 0;
  std::string head_hash;
  std::string problem;         // empty when intact: "line 7: hash does not match its content"
};
// Checks one incident's text; `expected_head` (from an alert) may be empty.
VerifyResult verify_incident(std::string_view text, std::string_view expected_head = {});

}  // namespace defib::recovery

#include "defib/recovery/incident.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/random.h"

namespace defib::recovery {
namespace {

constexpr std::string_view kHashKey = R"(,"hash":")";
constexpr std::size_t kHashDigits = 64;
// `,"hash":"` + 64 digits + `"}`
constexpr std::size_t kSealSize = kHashKey.size() + kHashDigits + 2;
constexpr std::string_view kSuffix = ".jsonl";
constexpr std::size_t kFirstRead = 4 << 10;
constexpr std::size_t kIdTimeSize = 16;  // "20261120T130558Z"
constexpr std::array<std::string_view, 5> kOutcomes = {"recovered", "restarted", "stopped",
                                                       "awaiting_approval", "failed"};
constexpr std::array<std::string_view, 7> kLineFields = {"seq",   "at",   "mono_ns", "boot_id",
                                                         "event", "prev", "hash"};

bool is_hash(std::string_view text) {
  return text.size() == kHashDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// A line without its line end, taken apart; false where it does not end in a hash.
struct Sealed {
  std::string_view body;
  std::string_view hash;
};
bool unseal(std::string_view line, Sealed& sealed) {
  if (line.size() <= kSealSize || !line.ends_with("\"}")) return false;
  const std::string_view seal = line.substr(line.size() - kSealSize);
  sealed = {line.substr(0, line.size() - kSealSize), seal.substr(kHashKey.size(), kHashDigits)};
  return seal.starts_with(kHashKey) && is_hash(sealed.hash);
}

struct NewLine {
  std::string text;  // with its line end
  std::string hash;
};
NewLine seal(const wire::Json& object) {
  std::string body = object.dump();
  DEFIB_ASSERT(body.ends_with('}'));
  body.pop_back();
  std::string hash = sha256_hex(body);
  body.append(kHashKey).append(hash).append("\"}\n");
  return {std::move(body), std::move(hash)};
}

wire::Json line_head(std::int64_t seq, const os::Clock& clock, std::string_view event) {
  return wire::Json::object({{"seq", seq},
                             {"at", os::format_time(clock.wall_ns())},
                             {"mono_ns", clock.mono_ns()},
                             {"boot_id", clock.boot_id()},
                             {"event", event}});
}

// Adds the event's own fields, none of which may be there already.
Result<> add_fields(wire::Json& line, const wire::Json& fields) {
  for (const auto& [name, value] : fields.members()) {
    if (line.has(name) || std::ranges::find(kLineFields, name) != kLineFields.end()) {
      return Error(
                 Code::kInvalidArgument,
                 fmt::format("an incident's event cannot have a field of its own named '{}'", name))
          .with("field", name);
    }
    line.set(name, value);
  }
  return {};
}

// The cause that a line states, or an empty text.
std::string_view stated_cause(const wire::Json& line) {
  const std::string_view event = line["event"].as_string();
  if (event != "opened" && event != "closed" && !is_verdict(line)) return {};
  return line["cause"].as_string();
}

Error too_long(std::size_t size) {
  return Error(Code::kLimitExceeded,
               fmt::format("an incident's event is {} bytes long, and {} are allowed", size,
                           kMaxIncidentLine))
      .with("limit_bytes", static_cast<std::int64_t>(kMaxIncidentLine));
}

// What a walk over an incident's text found, up to its first problem.
struct Scan {
  std::int64_t lines = 0;
  std::size_t intact_bytes = 0;
  std::string head;
  std::int64_t expected_line = 0;
  bool closed = false;
  std::string cause = "unknown";
  bool waits = false;
  std::string id, previous_id, previous_hash;
  std::string problem;
};

// The problem of the line after those of `scan`, or an empty text, with `scan` moved on.
std::string scan_line(std::string_view line, Scan& scan) {
  if (scan.closed) return "it follows the line that closed the incident";
  Sealed sealed;
  if (!unseal(line, sealed)) return "it does not end in a hash";
  if (sha256_hex(sealed.body) != sealed.hash) return "its hash does not match its content";
  const Result<wire::Json> parsed = wire::Json::parse(line);
  if (!parsed) return parsed.error().message();
  const wire::Json& json = *parsed;
  const std::int64_t seq = json["seq"].as_int(-1);
  if (seq != scan.lines + 1) return fmt::format("its sequence number is {}", seq);
  const std::string_view event = json["event"].as_string();
  if (scan.lines == 0) {
    if (event != "opened" || !json["previous_incident"].is_string()) {
      return "it does not open an incident";
    }
    if (!is_hash(json["prev"].as_string())) return "it does not name the hash before it";
    scan.id = json["incident"].as_string();
    scan.previous_id = json["previous_incident"].as_string();
    scan.previous_hash = json["prev"].as_string();
  } else if (json["prev"].as_string() != scan.head) {
    return "it does not continue the line before it";
  }
  ++scan.lines;
  scan.head = sealed.hash;
  scan.closed = event == "closed";
  scan.waits = waits_for_human(json, scan.waits);
  if (const std::string_view cause = stated_cause(json); !cause.empty()) scan.cause = cause;
  return {};
}

Scan scan_incident(std::string_view text, std::string_view expected_head) {
  Scan scan;
  while (scan.intact_bytes < text.size()) {
    const std::string_view rest = text.substr(scan.intact_bytes);
    const std::size_t end = rest.find('\n');
    std::string problem = end == std::string_view::npos ? "it has no end: cut, or being written"
                                                        : scan_line(rest.substr(0, end), scan);
    if (!problem.empty()) {
      scan.problem = fmt::format("line {}: {}", scan.lines + 1, problem);
      return scan;
    }
    scan.intact_bytes += end + 1;
    if (scan.head == expected_head) scan.expected_line = scan.lines;
  }
  if (scan.lines == 0) {
    scan.problem = "the file is empty";
  } else if (!expected_head.empty() && scan.expected_line == 0) {
    scan.problem = fmt::format(
        "no line has the expected head hash {}: lines were cut off or "
        "rewritten",
        expected_head);
  }
  return scan;
}

VerifyResult to_result(const Scan& scan) {
  return {.intact = scan.problem.empty(),
          .lines = scan.lines,
          .head_hash = scan.head,
          .head_line = scan.expected_line,
          .problem = scan.problem};
}

// The first and the last complete line of a file, however long what lies between.
struct Ends {
  std::string first, last;
};
Result<Ends> read_ends(os::Files& files, const std::string& path) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  Ends ends;
  std::string buffer;
  std::size_t first_end = std::string::npos;
  for (std::size_t want = kFirstRead; want <= 2 * kMaxIncidentLine; want *= 8) {
    buffer.resize(std::min<std::uint64_t>(want, size));
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(0, buffer.data(), buffer.size()));
    buffer.resize(got);
    first_end = buffer.find('\n');
    if (first_end != std::string::npos || got < want) break;
  }
  if (first_end == std::string::npos) {
    return Error(Code::kMalformed, fmt::format("'{}' has no complete line", path))
        .with("path", path);
  }
  ends.first = buffer.substr(0, first_end);
  for (std::size_t want = kFirstRead; want <= 2 * kMaxIncidentLine; want *= 8) {
    const std::uint64_t from = size - std::min<std::uint64_t>(want, size);
    if (from > 0 || buffer.size() != size) {
      buffer.resize(size - from);
      DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(from, buffer.data(), buffer.size()));
      buffer.resize(got);
    }
    const std::size_t end = buffer.rfind('\n');
    if (end == std::string::npos) continue;
    const std::size_t before = end == 0 ? std::string::npos : buffer.rfind('\n', end - 1);
    if (before == std::string::npos && from > 0) continue;
    const std::size_t begin = before == std::string::npos ? 0 : before + 1;
    ends.last = buffer.substr(begin, end - begin);
    return ends;
  }
  return Error(Code::kMalformed, fmt::format("the last line of '{}' is too long", path))
      .with("path", path);
}

bool is_id(std::string_view id) {
  return !id.empty() && id.size() < 128 &&
         std::ranges::all_of(
             id,
             [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                      c == '-' || c == '_';
             });
}

std::string new_id(const os::Clock& clock) {
  std::string id;
  for (const char c : os::format_time(clock.wall_ns())) {
    if (c == '.') break;
    if (c != '-' && c != ':') id += c;
  }
  return id + "Z-" + os::random_hex(3);
}

// "2026-11-20T13:05:58.000000000Z" from an id, for incidents whose first line is lost.
std::string time_of_id(std::string_view id) {
  if (id.size() < kIdTimeSize) return {};
  const std::string text =
      fmt::format("{}-{}-{}T{}:{}:{}.000000000Z", id.substr(0, 4), id.substr(4, 2), id.substr(6, 2),
                  id.substr(9, 2), id.substr(11, 2), id.substr(13, 2));
  return os::parse_time(text) < 0 ? std::string() : text;
}

Error no_such_incident(std::string_view what) {
  return Error(Code::kNotFound, fmt::format("there is no incident '{}'", what))
      .with("incident", what)
      .suggest("`defib incidents` lists them");
}

Result<IncidentSummary> summarize(os::Files& files, const std::string& path) {
  DEFIB_TRY_ASSIGN(const Ends ends, read_ends(files, path));
  DEFIB_TRY_ASSIGN(const wire::Json first, wire::Json::parse(ends.first));
  DEFIB_TRY_ASSIGN(const wire::Json last, wire::Json::parse(ends.last));
  IncidentSummary summary;
  summary.service = first["service"].as_string();
  summary.opened_at = first["at"].as_string();
  summary.head_hash = last["hash"].as_string();
  if (last["event"].as_string() == "closed") {
    summary.closed_at = last["at"].as_string();
    summary.cause = last["cause"].as_string();
    summary.outcome = last["outcome"].as_string();
    return summary;
  }
  // Open: few are, so reading all of it for its classification does not matter.
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(files, path, kMaxIncidentFile));
  const Scan scan = scan_incident(text, {});
  summary.cause = scan.cause;
  summary.outcome = scan.waits ? "awaiting_approval" : "open";
  return summary;
}

}  // namespace

bool is_verdict(const wire::Json& line) {
  return line["event"].as_string() == "classified" && !line["earlier"].as_bool();
}

bool waits_for_human(const wire::Json& line, bool before) {
  const std::string_view event = line["event"].as_string(), state = line["state"].as_string();
  if (line["outcome"].as_string() == "awaiting_approval" || event == "approval_required") {
    return true;
  }
  if (event == "approval_used" || event == "detected" || event == "restarted") return false;
  if (event != "service_state") return before;
  if (state == "ramping" || state == "running") return false;
  return before || state == "awaiting_approval";
}

wire::Json IncidentSummary::to_json() const {
  return wire::Json::object(
      {{"id", id},
       {"service", service},
       {"opened_at", opened_at},
       {"closed_at", closed_at.empty() ? wire::Json() : wire::Json(closed_at)},
       {"cause", cause},
       {"outcome", outcome},
       {"head_hash", head_hash}});
}

Result<> Incident::append(std::string_view event, const wire::Json& fields, Durability durability) {
  if (event.empty() || event == "opened" || event == "closed" || event == "writer_restarted") {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is not an event that can be appended", event));
  }
  return append_any(event, fields, durability);
}

Result<> Incident::append_any(std::string_view event, const wire::Json& fields,
                              Durability durability) {
  if (closed_) {
    return Error(Code::kInvalidArgument, fmt::format("the incident {} is closed", id_))
        .with("incident", id_);
  }
  if (sync_error_) return *sync_error_;
  wire::Json line = line_head(next_seq_, *clock_, event);
  DEFIB_TRY(add_fields(line, fields));
  const std::string cause(stated_cause(line));
  line.set("prev", head_);
  NewLine sealed = seal(line);
  if (sealed.text.size() > kMaxIncidentLine) return too_long(sealed.text.size());
  DEFIB_TRY(write_line(sealed.text));
  ++next_seq_;
  head_ = std::move(sealed.hash);
  if (!cause.empty()) cause_ = cause;
  closed_ = event == "closed";
  if (durability == Durability::kSync) return sync();
  if (unsynced_since_ == 0) unsynced_since_ = std::max<std::int64_t>(1, clock_->mono_ns());
  return {};
}

// Afterwards the line is in the file as a whole, or nothing of it is, or has_partial_line_ is set.
Result<> Incident::write_line(std::string_view line) {
  if (size_ + line.size() > kMaxIncidentFile) {
    return Error(Code::kLimitExceeded,
                 fmt::format("the incident {} has reached {} bytes", id_, kMaxIncidentFile))
        .with("incident", id_)
        .with("limit_bytes", static_cast<std::int64_t>(kMaxIncidentFile));
  }
  if (has_partial_line_) {
    DEFIB_TRY(file_->truncate(size_));
    has_partial_line_ = false;
  }
  if (Result<> written = file_->write_at(size_, line); !written) {
    has_partial_line_ = !file_->truncate(size_).has_value();
    return written;
  }
  size_ += line.size();
  return {};
}

Result<> Incident::sync() {
  if (Result<> synced = file_->sync(); !synced) {
    sync_error_ = synced.error();
    return synced;
  }
  unsynced_since_ = 0;
  return {};
}

Result<std::string> Incident::close(std::string_view outcome, const wire::Json& fields) {
  if (std::ranges::find(kOutcomes, outcome) == kOutcomes.end()) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is not an outcome in which an incident can end", outcome));
  }
  wire::Json all = wire::Json::object({{"outcome", outcome}});
  if (!fields.has("cause")) all.set("cause", cause_);
  DEFIB_TRY(add_fields(all, fields));
  DEFIB_TRY(append_any("closed", all, Durability::kSync));
  return head_;
}

Result<> Incident::sync_if_due() {
  if (sync_error_) return *sync_error_;
  if (unsynced_since_ == 0 || clock_->mono_ns() < sync_due_mono_ns()) return {};
  return sync();
}

std::int64_t Incident::sync_due_mono_ns() const {
  return unsynced_since_ == 0 ? 0 : unsynced_since_ + kIncidentSyncDelay.count();
}

VerifyResult verify_incident(std::string_view text, std::string_view expected_head) {
  return to_result(scan_incident(text, expected_head));
}

Result<IncidentLog> IncidentLog::open(os::Files& files, const os::Clock& clock,
                                      const std::string& dir) {
  std::string incidents = os::join_path(dir, "incidents");
  if (files.exists(incidents) && !files.is_dir(incidents)) {
    return Error(Code::kStateDirectoryForeign, fmt::format("'{}' is not a directory", incidents))
        .with("path", incidents);
  }
  return IncidentLog(files, clock, std::move(incidents));
}

std::string IncidentLog::path_of(const std::string& id) const {
  return os::join_path(dir_, id + std::string(kSuffix));
}

Result<std::vector<std::string>> IncidentLog::ids() const {
  std::vector<std::string> found;
  if (!files_->exists(dir_)) return found;
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files_->list(dir_));
  for (const std::string& name : names) {
    if (!name.ends_with(kSuffix)) continue;
    std::string id = name.substr(0, name.size() - kSuffix.size());
    if (is_id(id)) found.push_back(std::move(id));
  }
  return found;
}

// The id of the incident that was opened last, of those that can be read; empty: none.
Result<std::string> IncidentLog::newest() const {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> all, ids());
  std::string best, best_at;
  for (auto id = all.rbegin(); id != all.rend(); ++id) {
    // Ids tell the second; only within the last one that counts do first lines decide.
    if (!best.empty() && id->substr(0, kIdTimeSize) != best.substr(0, kIdTimeSize)) break;
    const Result<Ends> ends = read_ends(*files_, path_of(*id));
    if (!ends) continue;
    const Result<wire::Json> first = wire::Json::parse(ends->first);
    Sealed last;
    if (!first || !unseal(ends->last, last)) continue;
    const std::string at((*first)["at"].as_string());
    if (best.empty() || at > best_at) {
      best = *id;
      best_at = at;
    }
  }
  return best;
}

Result<Incident> IncidentLog::create(std::string_view service, const wire::Json& fields) {
  if (!files_->exists(dir_)) {
    DEFIB_TRY(files_->create_dirs(dir_));
    DEFIB_TRY(files_->sync_dir(os::parent_dir(dir_)));
  }
  DEFIB_TRY_ASSIGN(const std::string previous, newest());
  std::string previous_hash(kNoHash);
  if (!previous.empty()) {
    DEFIB_TRY_ASSIGN(const Ends ends, read_ends(*files_, path_of(previous)));
    Sealed last;
    if (unseal(ends.last, last)) previous_hash = last.hash;
  }
  Incident incident(*clock_);
  incident.id_ = new_id(*clock_);
  incident.path_ = path_of(incident.id_);
  if (files_->exists(incident.path_)) {
    return Error(Code::kAlreadyExists, fmt::format("the incident {} exists already", incident.id_));
  }
  wire::Json line = line_head(incident.next_seq_++, *clock_, "opened");
  line.set("incident", incident.id_);
  line.set("service", service);
  line.set("previous_incident", previous);
  DEFIB_TRY(add_fields(line, fields));
  if (const std::string_view cause = stated_cause(line); !cause.empty()) incident.cause_ = cause;
  line.set("prev", previous_hash);
  NewLine sealed = seal(line);
  if (sealed.text.size() > kMaxIncidentLine) return too_long(sealed.text.size());
  DEFIB_TRY(os::write_file_atomically(*files_, incident.path_, sealed.text));
  incident.head_ = std::move(sealed.hash);
  incident.size_ = sealed.text.size();
  DEFIB_TRY_ASSIGN(incident.file_, files_->open(incident.path_, os::OpenMode::kWrite));
  return incident;
}

Result<Incident> IncidentLog::resume(const std::string& id) {
  if (!is_id(id) || !files_->exists(path_of(id))) return no_such_incident(id);
  Incident incident(*clock_);
  incident.id_ = id;
  incident.path_ = path_of(id);
  DEFIB_TRY_ASSIGN(const std::string text,
                   os::read_file(*files_, incident.path_, kMaxIncidentFile));
  const Scan scan = scan_incident(text, {});
  const std::string_view tail = std::string_view(text).substr(scan.intact_bytes);
  // A killed writer leaves a line without an end, a power cut also zero bytes where lines should
  // be; neither can be a changed line.
  const bool torn =
      tail.find('\n') == std::string_view::npos || tail.find('\0') != std::string::npos;
  if (!scan.problem.empty() && (scan.lines == 0 || scan.closed || !torn)) {
    return Error(Code::kIncidentChainBroken, fmt::format("incident {}, {}", id, scan.problem))
        .with("incident", id)
        .with("path", incident.path_);
  }
  if (scan.closed) {
    return Error(Code::kInvalidArgument, fmt::format("the incident {} is closed", id))
        .with("incident", id);
  }
  incident.head_ = scan.head;
  incident.cause_ = scan.cause;
  incident.size_ = scan.intact_bytes;
  incident.next_seq_ = scan.lines + 1;
  DEFIB_TRY_ASSIGN(incident.file_, files_->open(incident.path_, os::OpenMode::kWrite));
  wire::Json fields = wire::Json::object({{"cut_bytes", static_cast<std::int64_t>(tail.size())}});
  if (!tail.empty()) {
    fields.set("cut_sha256", sha256_hex(tail));
    DEFIB_TRY(incident.file_->truncate(incident.size_));
  }
  DEFIB_TRY(incident.append_any("writer_restarted", fields, Durability::kSync));
  return incident;
}

Result<std::vector<IncidentSummary>> IncidentLog::list() const {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> all, ids());
  std::vector<IncidentSummary> summaries;
  summaries.reserve(all.size());
  for (const std::string& id : all) {
    Result<IncidentSummary> read = summarize(*files_, path_of(id));
    IncidentSummary summary;
    if (read) {
      summary = std::move(*read);
    } else {
      summary.opened_at = time_of_id(id);
      summary.outcome = "failed";
      summary.cause = read.error().message();
    }
    summary.id = id;
    summary.path = path_of(id);
    summaries.push_back(std::move(summary));
  }
  std::ranges::sort(summaries, [](const IncidentSummary& a, const IncidentSummary& b) {
    return std::tie(a.opened_at, a.id) > std::tie(b.opened_at, b.id);
  });
  return summaries;
}

Result<std::vector<wire::Json>> IncidentLog::read(const std::string& id) const {
  if (!is_id(id) || !files_->exists(path_of(id))) return no_such_incident(id);
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(*files_, path_of(id), kMaxIncidentFile));
  std::vector<wire::Json> lines;
  std::string_view rest = text;
  for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    DEFIB_TRY_ASSIGN(wire::Json line, wire::Json::parse(rest.substr(0, end)));
    lines.push_back(std::move(line));
    rest.remove_prefix(end + 1);
  }
  return lines;
}

Result<std::string> IncidentLog::find(std::string_view id_or_prefix) const {
  if (id_or_prefix == "latest") {
    DEFIB_TRY_ASSIGN(const std::vector<IncidentSummary> all, list());
    if (all.empty()) return no_such_incident(id_or_prefix);
    return all.front().id;
  }
  DEFIB_TRY_ASSIGN(const std::vector<std::string> all, ids());
  std::string found, fitting;
  int count = 0;
  for (const std::string& id : all) {
    if (id == id_or_prefix) return id;
    if (id_or_prefix.empty() || !id.starts_with(id_or_prefix)) continue;
    found = id;
    fitting += (count++ == 0 ? "" : " ") + id;
  }
  if (count == 0) return no_such_incident(id_or_prefix);
  if (count == 1) return found;
  return Error(Code::kInvalidArgument,
               fmt::format("'{}' fits {} incidents: {}", id_or_prefix, count, fitting))
      .with("incidents", fitting);
}

Result<VerifyResult> IncidentLog::verify(const std::string& id,
                                         std::string_view expected_head) const {
  if (!is_id(id) || !files_->exists(path_of(id))) return no_such_incident(id);
  DEFIB_TRY_ASSIGN(const std::string text, os::read_file(*files_, path_of(id), kMaxIncidentFile));
  Scan scan = scan_incident(text, expected_head);
  if (scan.problem.empty() && scan.id != id) {
    scan.problem = fmt::format("line 1: it belongs to the incident {}", scan.id);
  }
  if (scan.problem.empty() && !scan.previous_id.empty()) {
    const std::string& before = scan.previous_id;
    if (!is_id(before) || !files_->exists(path_of(before))) {
      scan.problem = fmt::format("line 1: the incident before it, {}, is missing", before);
    } else {
      DEFIB_TRY_ASSIGN(const std::string previous,
                       os::read_file(*files_, path_of(before), kMaxIncidentFile));
      if (scan_incident(previous, scan.previous_hash).expected_line == 0) {
        scan.problem =
            fmt::format("line 1: the incident before it, {}, was cut off or rewritten", before);
      }
    }
  }
  return to_result(scan);
}

}  // namespace defib::recovery

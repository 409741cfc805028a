#include "defib/trading/kill_switch.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <utility>

#include "defib/os/fd.h"
#include "defib/trading/stop_pace.h"

namespace defib::trading {
namespace {

constexpr std::int64_t kLookEveryNs = 1'000'000;
constexpr std::size_t kMaxFile = 1 << 20;
constexpr std::size_t kMaxRecords = 1'000;
constexpr std::size_t kMaxText = 200;
constexpr std::string_view kSchema = "defib.kill/1";
constexpr int kMaxRounds = 1'000;

bool is_scope(std::string_view scope) {
  if (scope == "all") return true;
  for (const std::string_view kind : {std::string_view("venue:"), std::string_view("strategy:")}) {
    if (scope.starts_with(kind) && scope.size() > kind.size() && scope.size() <= kMaxText) {
      return scope.find_first_of("\n\r") == std::string_view::npos;
    }
  }
  return false;
}

bool is_text(std::string_view text) {
  return text.size() <= kMaxText && text.find_first_not_of(' ') != std::string_view::npos &&
         std::all_of(text.begin(), text.end(),
                     [](unsigned char c) { return c >= 0x20 && c != 0x7f; });
}

Result<> check(std::string_view scope, std::string_view by, std::string_view reason) {
  if (!is_scope(scope)) {
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no scope: all, venue:NAME or strategy:NAME", scope));
  }
  if (!is_text(by) || !is_text(reason)) {
    return Error(Code::kInvalidArgument, "a kill switch needs the name of a person and a reason");
  }
  return {};
}

// What root writes must be readable to the engine's user. Where that fails the switch cannot be
// read, and so stops everything.
void give_to_owner_of(const std::string& dir, int descriptor) {
  struct stat owner{};
  if (descriptor < 0 || ::geteuid() != 0 || ::stat(dir.c_str(), &owner) != 0) return;
  if (owner.st_uid == 0) return;
  (void)!::fchown(descriptor, owner.st_uid, owner.st_gid);
}

}  // namespace

wire::Json KillRecord::to_json() const {
  return wire::Json::object(
      {{"scope", scope}, {"by", by}, {"reason", reason}, {"at", os::format_time(at_wall_ns)}});
}

KillSwitch::KillSwitch(os::Files& files, const os::Clock& clock, const std::string& state_dir)
    : files_(&files),
      clock_(&clock),
      path_(os::join_path(os::join_path(state_dir, "kill"), "engaged.json")) {}

Result<std::vector<KillRecord>> KillSwitch::read() const {
  std::vector<KillRecord> records;
  const Result<std::string> text = os::read_file(*files_, path_, kMaxFile);
  // Only this says that there is none: one that may not be looked at may be engaged.
  if (!text && text.error().code() == Code::kFileNotFound) return records;
  if (!text) return text.error();
  const Result<wire::Json> json = wire::Json::parse(*text);
  const auto damaged = [&](std::string why) {
    return Error(Code::kCorrupted, fmt::format("{} is no kill switch: {}", path_, why))
        .with("path", path_)
        .suggest("everything stays engaged; remove the file by hand once you know what it was");
  };
  if (!json) return damaged("not JSON").because(json.error());
  if ((*json)["schema"].as_string() != kSchema) return damaged("its schema is another one");
  for (const wire::Json& item : (*json)["engaged"].items()) {
    KillRecord record{std::string(item["scope"].as_string()), std::string(item["by"].as_string()),
                      std::string(item["reason"].as_string()),
                      os::parse_time(item["at"].as_string())};
    if (!is_scope(record.scope) || records.size() >= kMaxRecords) return damaged("a bad scope");
    records.push_back(std::move(record));
  }
  return records;
}

Result<> KillSwitch::write(const std::vector<KillRecord>& records) const {
  wire::Json list = wire::Json::array();
  for (const KillRecord& record : records) list.push(record.to_json());
  DEFIB_TRY(prepare());
  // Not write_file_atomically(): a file of root's is made anew, never written through a name that
  // somebody else has put there, and is the engine's before it gets its name.
  const std::string temporary = fmt::format("{}.{}.tmp", path_, ::getpid());
  if (const Result<> removed = files_->remove(temporary);
      !removed && removed.error().code() != Code::kFileNotFound) {
    return removed;
  }
  {
    DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file,
                     files_->open(temporary, os::OpenMode::kCreateNew));
    const wire::Json document =
        wire::Json::object({{"schema", kSchema}, {"engaged", std::move(list)}});
    DEFIB_TRY(file->write_at(0, document.dump(2) + "\n"));
    give_to_owner_of(os::parent_dir(path_), file->descriptor());
    DEFIB_TRY(file->sync());
  }
  DEFIB_TRY(files_->rename(temporary, path_));
  return files_->sync_dir(os::parent_dir(path_));
}

Result<> KillSwitch::prepare() const {
  const std::string dir = os::parent_dir(path_);
  if (files_->is_dir(dir)) return {};
  DEFIB_TRY(files_->create_dirs(dir));
  const os::Fd made(::open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  give_to_owner_of(os::parent_dir(dir), made.get());
  return {};
}

Result<> KillSwitch::engage(std::string_view scope, std::string_view by, std::string_view reason) {
  DEFIB_TRY(check(scope, by, reason));
  Result<std::vector<KillRecord>> records = read();
  // An unreadable switch is engaged already; it is replaced by what is asked for now and all.
  std::vector<KillRecord> next =
      records ? std::move(*records)
              : std::vector<KillRecord>{
                    {"all", "defib", "the switch was unreadable", clock_->wall_ns()}};
  looked_mono_ns_ = 0;
  const bool known = std::any_of(next.begin(), next.end(),
                                 [&](const KillRecord& item) { return item.scope == scope; });
  if (!known) {
    next.push_back({std::string(scope), std::string(by), std::string(reason), clock_->wall_ns()});
  }
  return write(next);
}

Result<> KillSwitch::release(std::string_view scope, std::string_view by, std::string_view reason) {
  DEFIB_TRY(check(scope, by, reason));
  DEFIB_TRY_ASSIGN(std::vector<KillRecord> records, read());
  const std::size_t gone =
      std::erase_if(records, [&](const KillRecord& item) { return item.scope == scope; });
  if (gone == 0) {
    return Error(Code::kNotFound, fmt::format("the kill switch {} is not engaged", scope));
  }
  looked_mono_ns_ = 0;
  return write(records);
}

std::optional<KillRecord> KillSwitch::stops(std::string_view venue, std::string_view strategy) {
  const std::int64_t now = clock_->mono_ns();
  if (looked_mono_ns_ == 0 || now - looked_mono_ns_ >= kLookEveryNs) {
    looked_mono_ns_ = now;
    Result<std::vector<KillRecord>> records = read();
    if (records) {
      seen_ = std::move(*records);
    } else {
      seen_ = {{"all", "defib", records.error().message(), clock_->wall_ns()}};
    }
  }
  for (const KillRecord& record : seen_) {
    const std::string_view scope = record.scope;
    if (scope == "all" || scope == fmt::format("venue:{}", venue) ||
        (!strategy.empty() && scope == fmt::format("strategy:{}", strategy))) {
      return record;
    }
  }
  return std::nullopt;
}

wire::Json KillOutcome::to_json() const {
  wire::Json open = wire::Json::array();
  for (const venue::Order& order : still_open) {
    open.push(wire::Json::object(
        {{"client_id", order.client_id}, {"venue_id", order.venue_id}, {"symbol", order.symbol}}));
  }
  wire::Json problems = wire::Json::array();
  for (const Error& error : errors) problems.push(wire::to_json(error));
  return wire::Json::object({{"venue", venue},
                             {"verified", verified},
                             {"rounds", rounds},
                             {"cancelled", cancelled},
                             {"still_open", std::move(open)},
                             {"dead_mans_switch_armed", switch_armed},
                             {"errors", std::move(problems)}});
}

namespace {

class Kill {
 public:
  Kill(venue::Venue& venue, const os::Clock& clock, const KillOptions& options)
      : venue_(venue),
        clock_(clock),
        options_(options),
        wanted_(options.client_ids.begin(), options.client_ids.end()) {
    outcome_.venue = venue.name();
  }

  KillOutcome run() {
    const std::int64_t window =
        options_.quiet.count() > 0
            ? options_.quiet.count()
            : (venue_.recv_window_ms() + venue_.visibility_lag_ms()) * 1'000'000;
    const std::int64_t quiet_at = clock_.mono_ns() + window;
    StopPace pace(clock_, os::Duration(window) + options_.at_most,
                  os::Duration(window) + options_.named);
    pace_ = &pace;
    while (outcome_.rounds < kMaxRounds) {
      ++outcome_.rounds;
      const bool late = clock_.mono_ns() >= quiet_at;
      if (pace.cancels()) cancel();
      const bool read_all = read();
      outcome_.verified = read_all && outcome_.still_open.empty() && late;
      if (outcome_.verified) break;
      if (!outcome_.still_open.empty()) {
        pace.still_open();
      } else if (read_all) {
        // While nothing is open, only the fence is waited for.
        pace.only_wait(os::Duration(std::max<std::int64_t>(1, quiet_at - clock_.mono_ns())));
      }
      if (!pace.wait()) break;
    }
    if (options_.arm_switch.count() > 0 && venue_.has_dead_mans_switch()) {
      const Result<> armed = venue_.arm_dead_mans_switch(options_.arm_switch);
      outcome_.switch_armed = armed.has_value();
      if (!armed) outcome_.errors.push_back(armed.error());
    }
    return std::move(outcome_);
  }

 private:
  void note(const Error& error) {
    constexpr std::size_t kMaxErrors = 50;
    if (outcome_.errors.size() < kMaxErrors) outcome_.errors.push_back(error);
  }

  void cancel() {
    if (!options_.only_listed) {
      const Result<> done = venue_.cancel_all_of(options_.symbols);
      if (!done) {
        pace_->failed(done.error());
        note(done.error());
      } else {
        pace_->cancelled();
      }
      return;
    }
    for (const venue::Order& order : outcome_.still_open) {
      const auto done = venue_.cancel(order.symbol, order.client_id);
      if (done || done.error().code() == Code::kOrderNotFound) continue;
      pace_->failed(done.error());
      note(done.error());
    }
  }

  bool read() {
    std::vector<venue::Order> open;
    bool complete = true;
    // Where one answer tells of all, one is asked for.
    std::vector<std::vector<std::string>> readings;
    if (venue_.rebuild_model().filtered) {
      for (const std::string& symbol : options_.symbols) readings.push_back({symbol});
    } else {
      readings.push_back(options_.symbols);
    }
    for (const std::vector<std::string>& symbols : readings) {
      Result<std::vector<venue::Order>> listed = venue_.open_orders_of(symbols);
      if (!listed) {
        pace_->reading_failed(listed.error());
        note(listed.error());
        complete = false;
        continue;
      }
      for (venue::Order& order : *listed) {
        if (options_.only_listed && !wanted_.contains(order.client_id)) continue;
        if (seen_.insert(order.venue_id).second) ++outcome_.cancelled;
        open.push_back(std::move(order));
      }
    }
    outcome_.still_open = std::move(open);
    return complete;
  }

  venue::Venue& venue_;
  const os::Clock& clock_;
  const KillOptions& options_;
  StopPace* pace_ = nullptr;  // of run()
  std::set<std::string> wanted_;
  std::set<std::string> seen_;
  KillOutcome outcome_;
};

}  // namespace

KillOutcome kill_venue(venue::Venue& venue, const os::Clock& clock, const KillOptions& options) {
  return Kill(venue, clock, options).run();
}

std::optional<Error> kill_error(const std::vector<KillOutcome>& outcomes) {
  std::string what;
  for (const KillOutcome& outcome : outcomes) {
    if (outcome.verified) continue;
    what += fmt::format("{}{} ({} open when it was read last)", what.empty() ? "" : ", ",
                        outcome.venue, outcome.still_open.size());
  }
  if (what.empty()) return std::nullopt;
  return Error(Code::kKillNotVerified, "not verified: " + what);
}

}  // namespace defib::trading

#include "defib/process/restart_policy.h"

#include <fmt/core.h>
#include <signal.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "defib/base/assert.h"
#include "defib/wire/json_parts.h"

namespace defib::process {
namespace {

constexpr double kSpread = 0.1;  // of the delays, so that many services do not start at once
constexpr std::size_t kMaxCrashesFile = 1 << 20;
constexpr std::size_t kMaxLost = 256;
constexpr std::size_t kFramesOfPrint = 4;
constexpr std::size_t kMessageOfPrint = 100;
constexpr std::uint64_t kSmallAddress = 0x10000;  // below: an offset from a null pointer
constexpr std::string_view kBudgetName = "budget";
constexpr std::string_view kCrashesName = "crashes";
constexpr os::Duration kToleratedStep = std::chrono::seconds(1);
constexpr os::Duration kSoonest = std::chrono::seconds(1);  // between two looks at a full window

// How a program ends by its own fault. Other signals come from outside.
constexpr std::array kFaultSignals = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT, SIGSYS, SIGTRAP};

void add_code(shim::ExitSet& set, unsigned code) {
  set.codes[code / 64] |= std::uint64_t{1} << (code % 64);
}

bool parse_code(std::string_view text, unsigned& out) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), out);
  return failed == std::errc{} && end == text.data() + text.size() && out <= 255;
}

// "SIGTERM" or "TERM"; 0 where it is none.
int signal_named(std::string_view word) {
  const std::string wanted =
      word.starts_with("SIG") ? std::string(word) : fmt::format("SIG{}", word);
  for (int number = 1; number < 32; ++number) {
    if (os::signal_name(number) == wanted) return number;
  }
  return 0;
}

bool add_word(shim::ExitSet& set, std::string_view word) {
  const std::size_t dash = word.find('-');
  unsigned first = 0, last = 0;
  if (parse_code(word.substr(0, dash), first)) {
    last = first;
    if (dash != std::string_view::npos && !parse_code(word.substr(dash + 1), last)) return false;
    for (unsigned code = first; code <= last; ++code) add_code(set, code);
    return first <= last;
  }
  const int signal = signal_named(word);
  if (signal != 0) set.signals |= std::uint64_t{1} << (signal - 1);
  return signal != 0;
}

shim::ExitSet unite(const shim::ExitSet& a, const shim::ExitSet& b) {
  shim::ExitSet all = a;
  for (int i = 0; i < 4; ++i) all.codes[i] |= b.codes[i];
  all.signals |= b.signals;
  return all;
}

shim::ExitSet without(const shim::ExitSet& a, const shim::ExitSet& b) {
  shim::ExitSet left = a;
  for (int i = 0; i < 4; ++i) left.codes[i] &= ~b.codes[i];
  left.signals &= ~b.signals;
  return left;
}

shim::ExitSet overlap(const shim::ExitSet& a, const shim::ExitSet& b) {
  return without(a, without(a, b));
}

shim::ExitSet success(const ServiceSpec& spec) {
  shim::ExitSet set = spec.success_exit_codes;
  add_code(set, 0);
  return set;
}

constexpr shim::ExitSet kEverything = {{~0ULL, ~0ULL, ~0ULL, ~0ULL}, ~0ULL};

Error bad_rule(std::string_view field, std::string message) {
  return Error(Code::kConfigBadValue, fmt::format("{} {}", field, message)).with("field", field);
}

wire::Json moment_json(const recovery::Moment& moment) {
  return wire::Json::object({{"boot_id", moment.boot_id},
                             {"mono_ns", moment.mono_ns},
                             {"at", os::format_time(moment.wall_ns)},
                             {"wall_ns", moment.wall_ns}});
}

// What was written is within these; what is read may have been written by anybody.
constexpr std::int64_t kLatestNs = 4'000'000'000'000'000'000;  // the year 2096
constexpr std::int64_t kLongestNs = 366LL * 24 * 3600 * 1'000'000'000;
constexpr std::int64_t kMostInARow = 1'000'000'000;

recovery::Moment moment_from(const wire::Json& json) {
  const auto time = [&](std::string_view name) {
    return std::clamp<std::int64_t>(json[name].as_int(), 0, kLatestNs);
  };
  return {std::string(json["boot_id"].as_string()), time("mono_ns"), time("wall_ns")};
}

os::Duration duration_from(const wire::Json& json) {
  return os::Duration(std::clamp<std::int64_t>(json.as_int(), 0, kLongestNs));
}

constexpr std::array<std::string_view, 4> kVerdictWords = {"start", "slow", "failed", "stopped"};

recovery::Budget open_budget(os::Files& files, const os::Clock& clock, const std::string& dir,
                             const ServiceSpec& spec, std::optional<Error>& trouble) {
  recovery::Budget::Options options;
  options.path = os::join_path(dir, kBudgetName);
  options.limit = spec.max_restarts;
  options.window = spec.restart_window;
  options.holder_is_asked = true;  // the shim, or what it left
  auto budget = recovery::Budget::open(files, clock, options);
  if (budget) return std::move(*budget);
  // What cannot be counted on any more is kept for a look, and does not keep the service down.
  trouble = budget.error();
  const bool aside = files.rename(options.path, options.path + ".damaged").has_value();
  if (!aside) options.path += ".new";
  budget = recovery::Budget::open(files, clock, options);
  DEFIB_ASSERT_MESSAGE(budget.has_value(), "a budget without a file is an empty one");
  return std::move(*budget);
}

}  // namespace

recovery::BackoffOptions backoff_options(const ServiceSpec& spec) {
  recovery::BackoffOptions options;
  options.base = spec.restart_delay;
  options.cap = spec.restart_delay_cap;
  options.multiplier = 2.0;
  options.spread = kSpread;
  options.first_immediate = true;
  options.reset_after = spec.healthy_after;
  return options;
}

Result<shim::ExitSet> parse_exit_set(const std::vector<std::string>& words) {
  shim::ExitSet set = {};
  for (const std::string& word : words) {
    if (add_word(set, word)) continue;
    return Error(Code::kInvalidArgument,
                 fmt::format("'{}' is no exit code from 0 to 255, no range such as 64-78, and no "
                             "signal such as SIGTERM",
                             word))
        .with("value", word);
  }
  return set;
}

std::vector<std::string> exit_set_words(const shim::ExitSet& set) {
  std::vector<std::string> words;
  const auto has = [&](int code) { return code < 256 && shim::contains(set, code << 8); };
  for (int code = 0; code < 256; ++code) {
    if (!has(code)) continue;
    const int first = code;
    while (has(code + 1)) ++code;
    words.push_back(code > first + 1 ? fmt::format("{}-{}", first, code) : std::to_string(first));
    if (code == first + 1) words.push_back(std::to_string(code));
  }
  for (int signal = 1; signal <= 64; ++signal) {
    if (((set.signals >> (signal - 1)) & 1) != 0) words.push_back(os::signal_name(signal));
  }
  return words;
}

shim::ExitSet restart_after(const ServiceSpec& spec) {
  shim::ExitSet set = {};
  if (spec.restart == RestartPolicy::kAlways) set = kEverything;
  if (spec.restart == RestartPolicy::kOnFailure) set = without(kEverything, success(spec));
  return without(unite(set, spec.restart_exit_codes), spec.no_restart_exit_codes);
}

shim::ShimRestart shim_policy(RestartPolicy policy) {
  switch (policy) {
    case RestartPolicy::kAlways:
      return shim::ShimRestart::kAlways;
    case RestartPolicy::kOnFailure:
      return shim::ShimRestart::kOnFailure;
    case RestartPolicy::kNever:
      return shim::ShimRestart::kNever;
  }
  DEFIB_UNREACHABLE("restart policy");
}

bool may_restart(const ServiceSpec& spec) {
  return spec.restart != RestartPolicy::kNever || restart_after(spec) != shim::ExitSet{};
}

bool wants_restart(const ServiceSpec& spec, const shim::ExitInfo& exit) {
  return shim::wants_restart(shim_policy(spec.restart), restart_after(spec), exit);
}

bool is_clean(const ServiceSpec& spec, const os::ExitStatus& status) {
  if (!status.known) return false;
  return shim::contains(success(spec), status.exited ? status.code << 8 : status.signal);
}

Result<> validate_restart_rules(const ServiceSpec& spec) {
  constexpr os::Duration kNone{0};
  struct Pair {
    std::string_view name;
    const shim::ExitSet& set;
    std::string_view other_name;
    const shim::ExitSet& other;
  };
  const Pair pairs[] = {{"restart_exit_codes", spec.restart_exit_codes, "no_restart_exit_codes",
                         spec.no_restart_exit_codes},
                        {"success_exit_codes", spec.success_exit_codes, "restart_exit_codes",
                         spec.restart_exit_codes}};
  for (const Pair& pair : pairs) {
    const auto both = exit_set_words(overlap(pair.set, pair.other));
    if (both.empty()) continue;
    return bad_rule(pair.name, fmt::format("and {} both name {}", pair.other_name, both.front()));
  }
  if (spec.slow_lane_interval < kSoonest) {
    return bad_rule("slow_lane_interval", "must be 1s or more");
  }
  if (spec.same_crash_limit < 0 || spec.same_crash_limit == 1) {
    return bad_rule("same_crash_limit", "must be 2 or more, or 0 for no such rule");
  }
  if (spec.max_downtime < kNone || spec.max_downtime > spec.restart_window) {
    return bad_rule("max_downtime", "must be from 0 to restart_window, which it is counted in");
  }
  if (spec.monitoring_after < 0) return bad_rule("monitoring_after", "must be 0 or more");
  if (spec.monitoring_after > spec.max_restarts) {
    return bad_rule(
        "monitoring_after",
        fmt::format("must not be more than max_restarts, which is {}", spec.max_restarts));
  }
  return {};
}

std::string CrashPrint::to_string() const {
  if (!stack.empty()) return fmt::format("{} at {}", status, stack);
  return place.empty() ? status : fmt::format("{} at {}", status, place);
}

CrashPrint crash_print(const os::ExitStatus& status, shim::StopReason reason, int pid,
                       const postmortem::CrashPage* page) {
  CrashPrint print;
  if (!status.known || reason != shim::StopReason::kNone) return print;
  if (status.exited) {
    print.wait_status = status.code << 8;
    if (status.code != 0) print.status = fmt::format("exit code {}", status.code);
    return print;
  }
  print.wait_status = status.signal;
  if (std::ranges::find(kFaultSignals, status.signal) == kFaultSignals.end()) return print;
  const bool spoke = page != nullptr && page->state.load() != 0 && page->signal == status.signal;
  // A signal that another process sent says nothing about this one.
  if (spoke && page->signal_code <= 0 && page->sender_pid != 0 && page->sender_pid != pid) {
    return print;
  }
  print.status = os::signal_name(status.signal);
  if (!spoke) return print;
  const std::string_view message(page->message, strnlen(page->message, sizeof page->message));
  if (!message.empty()) {
    print.place = message.substr(0, std::min(message.find('\n'), kMessageOfPrint));
  } else if (status.signal != SIGABRT) {
    // Wherever the loader put the module, the place in its page is the same.
    print.place = fmt::format(
        "pc ..{:03x}, address {}", page->registers[postmortem::kCrashPcRegister] & 0xfff,
        page->fault_address < kSmallAddress ? fmt::format("0x{:x}", page->fault_address)
                                            : fmt::format("..{:03x}", page->fault_address & 0xfff));
  }
  return print;
}

std::string stack_print(std::string_view report) {
  std::string text;
  for (const std::string_view item : wire::json_items(wire::json_member_text(report, "threads"))) {
    if (wire::json_member_text(item, "crashed") != "true") continue;
    std::size_t count = 0;
    for (const std::string_view part : wire::json_items(wire::json_member_text(item, "frames"))) {
      const auto frame = wire::Json::parse(part);
      if (!frame || (*frame)["inlined"].as_bool()) continue;
      if (count++ == kFramesOfPrint) break;
      const std::string_view module = (*frame)["module"].as_string();
      if (module.empty()) continue;  // An address without a module means nothing the next time.
      if (!text.empty()) text += ' ';
      text += fmt::format("{}+{}", module.substr(module.rfind('/') + 1),
                          (*frame)["offset"].as_string());
    }
    break;
  }
  return text;
}

bool same_crash(const CrashPrint& one, const CrashPrint& other) {
  if (!one.counts() || one.status != other.status) return false;
  if (!one.stack.empty() && !other.stack.empty()) return one.stack == other.stack;
  return one.place == other.place;
}

RestartPlanner::RestartPlanner(os::Files& files, const os::Clock& clock, std::string dir,
                               const ServiceSpec& spec, recovery::Budget budget, os::Random random)
    : files_(&files),
      clock_(&clock),
      dir_(std::move(dir)),
      spec_(spec),
      budget_(std::move(budget)),
      backoff_(backoff_options(spec), random),
      random_(random) {}

RestartPlanner RestartPlanner::open(os::Files& files, const os::Clock& clock,
                                    const std::string& dir, const ServiceSpec& spec,
                                    os::Random random) {
  std::optional<Error> trouble;
  recovery::Budget budget = open_budget(files, clock, dir, spec, trouble);
  RestartPlanner planner(files, clock, dir, spec, std::move(budget), random);
  planner.trouble_ = std::move(trouble);
  if (planner.budget_.presumed_spent()) {
    planner.inherited_ = true;
    planner.note(planner.budget_.keep_out());
  }
  planner.load();
  planner.settle();
  return planner;
}

void RestartPlanner::configure(const ServiceSpec& spec) {
  spec_ = spec;
  budget_.set_limit(spec.max_restarts, spec.restart_window);
  const int attempts = backoff_.attempts();
  backoff_ = recovery::Backoff(backoff_options(spec), random_);
  backoff_.resume(attempts);
  delay_generation_ = 0;
}

void RestartPlanner::load() {
  const std::string path = os::join_path(dir_, kCrashesName);
  if (!files_->exists(path)) return;
  const auto text = os::read_file(*files_, path, kMaxCrashesFile);
  const auto json = text ? wire::Json::parse(*text) : Result<wire::Json>(text.error());
  Result<> parsed = json ? parse(*json) : Result<>(json.error());
  if (parsed) return;
  trouble_ =
      Error(Code::kCorrupted,
            fmt::format("what was known of earlier crashes is damaged and set aside: {}", path))
          .because(parsed.error());
  static_cast<void>(files_->rename(path, path + ".damaged").has_value());
}

Result<> RestartPlanner::parse(const wire::Json& json) {
  if (json["schema"].as_string() != "defib.crashes/1") {
    return Error(Code::kCorrupted, "it is no defib.crashes/1");
  }
  last_.status = json["status"].as_string();
  last_.place = json["place"].as_string();
  last_.stack = json["stack"].as_string();
  last_.wait_status = static_cast<int>(json["wait_status"].as_int());
  in_a_row_ = static_cast<int>(std::clamp<std::int64_t>(json["in_a_row"].as_int(), 0, kMostInARow));
  last_at_ = moment_from(json["last"]);
  last_generation_ = json["generation"].as_uint();
  last_is_latest_ = last_.counts();
  if (last_at_.boot_id == clock_->boot_id()) written_offset_ = last_at_.wall_ns - last_at_.mono_ns;
  for (const wire::Json& one : json["lost"].items()) {
    if (lost_.size() == kMaxLost) break;
    lost_.push_back({moment_from(one["end"]), duration_from(one["time_ns"])});
  }
  const wire::Json& decided = json["decided"];
  if (!decided.is_object()) return {};
  const auto word = std::ranges::find(kVerdictWords, decided["verdict"].as_string());
  if (word == kVerdictWords.end()) return Error(Code::kCorrupted, "its verdict is no word of ours");
  pending_ = Pending{static_cast<Verdict>(word - kVerdictWords.begin()),
                     decided["generation"].as_uint(), moment_from(decided["at"]),
                     duration_from(decided["delay_ns"]), std::string(decided["why"].as_string())};
  return {};
}

// Only the latest wall clock is worth comparing with that of another boot.
void RestartPlanner::save() {
  written_offset_ = wall_offset();
  const std::string boot_id = clock_->boot_id();
  const auto stamp = [&](recovery::Moment& moment) {
    if (moment.boot_id == boot_id) moment.wall_ns = moment.mono_ns + written_offset_;
  };
  stamp(last_at_);
  for (Lost& one : lost_) stamp(one.end);
  if (pending_) stamp(pending_->at);
  wire::Json lost = wire::Json::array();
  for (const Lost& one : lost_) {
    lost.push(wire::Json::object({{"end", moment_json(one.end)}, {"time_ns", one.time.count()}}));
  }
  wire::Json json = wire::Json::object({{"schema", "defib.crashes/1"},
                                        {"status", last_.status},
                                        {"place", last_.place},
                                        {"stack", last_.stack},
                                        {"wait_status", last_.wait_status},
                                        {"in_a_row", in_a_row_},
                                        {"generation", last_generation_},
                                        {"last", moment_json(last_at_)},
                                        {"lost", std::move(lost)}});
  if (pending_) {
    json.set(
        "decided",
        wire::Json::object({{"verdict", kVerdictWords[static_cast<std::size_t>(pending_->verdict)]},
                            {"generation", pending_->generation},
                            {"at", moment_json(pending_->at)},
                            {"delay_ns", pending_->delay.count()},
                            {"why", pending_->why}}));
  }
  note(os::write_file_atomically(*files_, os::join_path(dir_, kCrashesName), json.dump() + "\n"));
}

void RestartPlanner::settle() {
  note(budget_.settle());
  const os::Duration stepped(std::abs(wall_offset() - written_offset_));
  if (written_offset_ != 0 && stepped > kToleratedStep) save();
}

void RestartPlanner::note(const Result<>& done) {
  if (!done && !failing_) trouble_ = done.error();
  failing_ = !done;
}

bool RestartPlanner::is_same_crash_loop() const {
  if (spec_.same_crash_limit == 0 || in_a_row_ < spec_.same_crash_limit) return false;
  // An exit code alone is too little to stop a service for; slowing it down, it is not.
  return last_.has_place() || spec_.on_crash_loop == CrashLoopAction::kSlow;
}

os::Duration RestartPlanner::downtime() const {
  os::Duration sum{0};
  for (const Lost& one : lost_) {
    if (recovery::age_of(one.end, *clock_) < spec_.restart_window) sum += one.time;
  }
  if (down_since_mono_ns_ != 0) sum += os::Duration(clock_->mono_ns() - down_since_mono_ns_);
  return sum;
}

bool RestartPlanner::monitors_next() const {
  return spec_.start_in_monitoring ||
         (spec_.monitoring_after > 0 && budget_.used() + 1 >= spec_.monitoring_after);
}

bool RestartPlanner::monitors_this() const {
  return spec_.start_in_monitoring ||
         (spec_.monitoring_after > 0 && budget_.used() >= spec_.monitoring_after);
}

Error RestartPlanner::loop_error(std::string message) const {
  const bool slow = spec_.on_crash_loop == CrashLoopAction::kSlow;
  return Error(Code::kCrashLoop, std::move(message))
      .with("service", spec_.name)
      .suggest(fmt::format("find the cause with `defib incidents`, then `defib reset {}`{}",
                           spec_.name, slow ? "; until then it is tried again slowly" : ""));
}

// The rules that are stricter than the budget.
std::optional<Error> RestartPlanner::loop_reason() const {
  if (last_is_latest_ && is_same_crash_loop()) {
    return loop_error(fmt::format("the service '{}' crashed {} times in a row in the same way: {}",
                                  spec_.name, in_a_row_, last_.to_string()))
        .with("fingerprint", last_.to_string())
        .with("in_a_row", in_a_row_);
  }
  return downtime_reason();
}

std::optional<Error> RestartPlanner::downtime_reason() const {
  if (spec_.max_downtime.count() > 0 && downtime() > spec_.max_downtime) {
    return loop_error(fmt::format(
        "the service '{}' was down for {} within {}, more than its "
        "max_downtime of {}",
        spec_.name, os::format_duration(downtime()), os::format_duration(spec_.restart_window),
        os::format_duration(spec_.max_downtime)));
  }
  return std::nullopt;
}

Result<RestartPlanner::Permit> RestartPlanner::permit(std::uint64_t generation) {
  if (auto reason = downtime_reason()) return std::move(*reason);
  inherited_ = false;
  Permit permit;
  permit.monitoring = monitors_next();
  if (auto prepared = budget_.prepare(); !prepared) {
    if (prepared.error().code() == Code::kBudgetExhausted) return prepared.error();
    // Better a restart that is counted in memory alone than none.
    note(prepared);
    budget_.prepare_unsaved();
  }
  if (delay_generation_ != generation) {
    delay_generation_ = generation;
    delay_ = backoff_.next();
  }
  permit.delay = delay_;
  const bool near = spec_.same_crash_limit > 0 && in_a_row_ >= spec_.same_crash_limit - 1 &&
                    last_.counts() &&
                    (last_.has_place() || spec_.on_crash_loop == CrashLoopAction::kSlow);
  if (near) permit.held_status = last_.wait_status;
  return permit;
}

void RestartPlanner::used() {
  inherited_ = false;
  if (budget_.prepared()) {
    budget_.use_prepared();
  } else {
    budget_.record();
  }
  note(budget_.settle());
}

void RestartPlanner::presume_used() {
  if (inherited_) used();
}

void RestartPlanner::unused() {
  inherited_ = false;
  note(budget_.give_back());
}

void RestartPlanner::started(std::int64_t mono_ns, bool by_request) {
  if (down_since_mono_ns_ != 0 && mono_ns > down_since_mono_ns_) {
    lost_.push_back({recovery::moment_now(*clock_), os::Duration(mono_ns - down_since_mono_ns_)});
    if (spec_.max_downtime.count() == 0) lost_.clear();
    if (lost_.size() > kMaxLost) {
      lost_[1].time += lost_[0].time;  // Nothing is forgotten, only blurred.
      lost_.erase(lost_.begin());
    }
    std::erase_if(lost_, [this](const Lost& one) {
      return recovery::age_of(one.end, *clock_) >= spec_.restart_window;
    });
  }
  down_since_mono_ns_ = 0;
  note(budget_.settle());
  if (by_request) {
    backoff_.reset();
    delay_generation_ = 0;
    in_a_row_ = 0;
  }
  forget_pending();
}

void RestartPlanner::healthy() {
  backoff_.succeeded_for(spec_.healthy_after);
  delay_generation_ = 0;
}

void RestartPlanner::failed(std::uint64_t generation, std::int64_t mono_ns,
                            const CrashPrint& print) {
  if (down_since_mono_ns_ == 0) down_since_mono_ns_ = mono_ns;
  last_is_latest_ = print.counts();
  if (print.counts() && generation != last_generation_) {
    const bool again = in_a_row_ > 0 && same_crash(print, last_) &&
                       recovery::age_of(last_at_, *clock_) < spec_.restart_window;
    in_a_row_ = again ? in_a_row_ + 1 : 1;
    stack_before_ = again ? last_.stack : std::string();
    last_ = print;
    last_at_ = recovery::moment_now(*clock_);
    last_generation_ = generation;
    save();
  } else if (!lost_.empty()) {
    save();
  }
}

void RestartPlanner::start_failed(std::int64_t mono_ns) {
  if (down_since_mono_ns_ == 0) down_since_mono_ns_ = mono_ns;
  last_is_latest_ = false;
  delay_generation_ = 0;
}

void RestartPlanner::captured(const std::string& stack) {
  if (stack.empty() || !last_is_latest_ || last_.stack == stack) return;
  // The same place in another module's page, or reached by another way, is another crash.
  if (!stack_before_.empty() && stack_before_ != stack) in_a_row_ = 1;
  last_.stack = stack;
  save();
}

bool RestartPlanner::capture_decides() const {
  return last_is_latest_ && last_.stack.empty() && !last_.place.empty() && is_same_crash_loop();
}

RestartPlanner::Decision RestartPlanner::decide(std::uint64_t generation) {
  if (auto reason = loop_reason()) return loop(generation, std::move(*reason));
  auto permitted = permit(generation);
  if (!permitted) {
    Error why =
        loop_error(
            fmt::format("the service '{}' failed {} times within {}{}", spec_.name,
                        budget_.used() + 1, os::format_duration(spec_.restart_window),
                        spec_.on_crash_loop == CrashLoopAction::kStop ? " and was stopped" : ""))
            .because(permitted.error());
    return loop(generation, std::move(why));
  }
  Decision decision = {Verdict::kStart, permitted->delay, std::nullopt};
  remember(generation, decision);
  return decision;
}

bool RestartPlanner::gives_up() const {
  if (spec_.on_crash_loop == CrashLoopAction::kSlow && budget_.limit() > 0) return false;
  return loop_reason().has_value() || (!budget_.prepared() && budget_.exhausted());
}

void RestartPlanner::remember_restart(std::uint64_t generation) {
  remember(generation, Decision{Verdict::kStart, os::Duration(0), std::nullopt});
}

RestartPlanner::Decision RestartPlanner::loop(std::uint64_t generation, Error why) {
  Decision decision;
  decision.why = std::move(why);
  const bool slow = spec_.on_crash_loop == CrashLoopAction::kSlow && budget_.limit() > 0;
  decision.verdict = slow ? Verdict::kSlow : Verdict::kGiveUp;
  if (slow) decision.delay = std::max(spec_.slow_lane_interval, budget_.frees_in());
  remember(generation, decision);
  return decision;
}

void RestartPlanner::remember(std::uint64_t generation, const Decision& decision) {
  pending_ = Pending{decision.verdict, generation, recovery::moment_now(*clock_), decision.delay,
                     decision.why ? decision.why->message() : std::string()};
  save();
}

RestartPlanner::Decision RestartPlanner::start_now(std::uint64_t generation) {
  inherited_ = false;
  if (auto prepared = budget_.prepare(); !prepared) {
    if (prepared.error().code() == Code::kBudgetExhausted) {
      if (spec_.on_crash_loop == CrashLoopAction::kStop) return decide(generation);
      return {Verdict::kSlow, std::max(kSoonest, budget_.frees_in()), std::nullopt};
    }
    note(prepared);
    budget_.prepare_unsaved();
  }
  budget_.use_prepared();  // Durable already; its stamp follows the start.
  return {Verdict::kStart, os::Duration(0), std::nullopt};
}

void RestartPlanner::remember_stop(std::uint64_t generation) {
  remember(generation, Decision{Verdict::kStopped, os::Duration(0), std::nullopt});
}

std::optional<RestartPlanner::Decision> RestartPlanner::pending(std::uint64_t generation) const {
  if (!pending_ || pending_->generation != generation) return std::nullopt;
  Decision decision;
  decision.verdict = pending_->verdict;
  decision.delay = std::clamp(pending_->delay - recovery::age_of(pending_->at, *clock_),
                              os::Duration(0), pending_->delay);
  if (!pending_->why.empty()) decision.why = loop_error(pending_->why);
  return decision;
}

void RestartPlanner::forget_pending() {
  if (!pending_) return;
  pending_.reset();
  save();
}

void RestartPlanner::reset() {
  backoff_.reset();
  delay_generation_ = 0;
  last_ = CrashPrint{};
  in_a_row_ = 0;
  last_is_latest_ = false;
  lost_.clear();
  down_since_mono_ns_ = 0;
  pending_.reset();
  inherited_ = false;
  if (files_->exists(os::join_path(dir_, kCrashesName))) save();
  note(budget_.reset());
}

}  // namespace defib::process

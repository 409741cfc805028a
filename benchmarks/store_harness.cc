#include "benchmarks/store_harness.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <sstream>

#include "defib/os/files.h"

namespace defib::bench {
namespace {

using wire::Json;

constexpr auto kTaskTimeout = std::chrono::minutes(10);
constexpr auto kQuietSample = std::chrono::milliseconds(200);
constexpr double kQuietShare = 0.9;  // of all processors' time, idle
constexpr int kPatienceInAll = 120;  // seconds of waiting in a whole run

struct CpuTimes {
  double idle = 0;
  double all = 0;
};
CpuTimes cpu_times() {
  const auto text = os::read_file(os::real_files(), "/proc/stat");
  CpuTimes times;
  if (!text) return times;
  std::istringstream line(text->substr(0, text->find('\n')));
  std::string label;
  line >> label;
  double value = 0;
  for (int field = 0; field < 8 && line >> value; ++field) {
    times.all += value;
    if (field == 3 || field == 4) times.idle += value;  // idle, and waiting for a device
  }
  return times;
}

bool is_quiet_now() {
  const CpuTimes before = cpu_times();
  os::real_clock().sleep_for(kQuietSample);
  const CpuTimes after = cpu_times();
  return after.all == before.all ||
         (after.idle - before.idle) / (after.all - before.all) >= kQuietShare;
}

std::string text_of(const Target& target) {
  switch (target.bound) {
    case Bound::kNone:
      return "";
    case Bound::kRatioAtLeast:
      return fmt::format("ratio >= {:.3g}", target.value);
    case Bound::kRatioAtMost:
      return fmt::format("ratio <= {:.3g}", target.value);
    case Bound::kAtLeast:
      return fmt::format(">= {:.4g}", target.value);
    case Bound::kAtMost:
      return fmt::format("<= {:.4g}", target.value);
  }
  return "";
}

enum class Verdict { kNone, kMet, kMissed };

// kNone where there is nothing to judge, or nothing to judge by.
Verdict judge(const Target& target, std::optional<double> ours, std::optional<double> ratio) {
  const bool by_ratio = target.bound == Bound::kRatioAtLeast || target.bound == Bound::kRatioAtMost;
  const std::optional<double> value = by_ratio ? ratio : ours;
  if (target.bound == Bound::kNone || !value) return Verdict::kNone;
  const bool at_least = target.bound == Bound::kRatioAtLeast || target.bound == Bound::kAtLeast;
  const bool is_met = at_least ? *value >= target.value : *value <= target.value;
  return is_met ? Verdict::kMet : Verdict::kMissed;
}

// "None at all" is asked for at any size: of lost commits, wrong values and the like.
bool is_of_correctness(const Target& target) {
  return target.bound == Bound::kAtMost && target.value == 0;
}

std::string_view text_of(Verdict verdict) {
  switch (verdict) {
    case Verdict::kNone:
      return "";
    case Verdict::kMet:
      return ", met";
    case Verdict::kMissed:
      return ", MISSED";
  }
  return "";
}

Json json_of(Verdict verdict) {
  return verdict == Verdict::kNone ? Json() : Json(verdict == Verdict::kMet);
}

Json json_of(std::optional<double> value) {
  return value ? Json(*value) : Json();
}

}  // namespace

Scale Scale::quick() {
  Scale scale;
  scale.is_quick = true;
  scale.runs = 1;
  scale.long_runs = 1;
  scale.commit_seconds = 0.1;
  scale.put_seconds = 0.5;
  scale.latency_seconds = 0.2;
  scale.small = 20'000;
  scale.medium = 40'000;
  scale.large = 60'000;
  scale.tail = 5'000;
  scale.flip_records = 500;
  scale.flips = 4;
  scale.kills = 3;
  scale.patience_s = 0;
  return scale;
}

std::string word(std::string_view name, std::string_view value) {
  return fmt::format("{}={}", name, value);
}
std::string word(std::string_view name, std::uint64_t value) {
  return fmt::format("{}={}", name, value);
}
std::string word(std::string_view name, double value) {
  return fmt::format("{}={}", name, value);
}

TaskProcess::~TaskProcess() {
  if (!child_.valid() || child_.try_wait()) return;
  kill();
}

std::optional<Json> TaskProcess::line(os::Duration timeout) {
  const std::int64_t deadline = os::real_clock().mono_ns() + timeout.count();
  while (true) {
    const std::size_t end = buffer_.find('\n');
    if (end != std::string::npos) {
      auto parsed = Json::parse(buffer_.substr(0, end));
      buffer_.erase(0, end + 1);
      if (!parsed) return std::nullopt;
      return *std::move(parsed);
    }
    const std::int64_t left_ms = (deadline - os::real_clock().mono_ns()) / 1'000'000;
    if (left_ms <= 0) return std::nullopt;
    pollfd wait{out_.get(), POLLIN, 0};
    if (::poll(&wait, 1, static_cast<int>(std::min<std::int64_t>(left_ms, 1000))) <= 0) continue;
    char bytes[4096];
    const ssize_t count = ::read(out_.get(), bytes, sizeof bytes);
    if (count <= 0) return std::nullopt;
    buffer_.append(bytes, static_cast<std::size_t>(count));
  }
}

os::ExitStatus TaskProcess::kill() {
  [[maybe_unused]] const auto gone_already = child_.signal(SIGKILL);
  return child_.wait();
}

void Samples::add(const Json& result) {
  results_.push_back(result);
}

std::vector<double> Samples::values(std::string_view field) const {
  std::vector<double> values;
  for (const Json& result : results_) {
    const std::size_t dot = field.find('.');
    const Json& value = dot == std::string_view::npos
                            ? result[field]
                            : result[field.substr(0, dot)][field.substr(dot + 1)];
    if (value.is_number()) values.push_back(value.as_double());
  }
  return values;
}

std::optional<double> Samples::median(std::string_view field) const {
  const std::vector<double> all = values(field);
  if (all.empty()) return std::nullopt;
  return bench::median(all);
}
std::optional<double> Samples::largest(std::string_view field) const {
  const std::vector<double> all = values(field);
  if (all.empty()) return std::nullopt;
  return std::ranges::max(all);
}
std::optional<double> Samples::sum(std::string_view field) const {
  const std::vector<double> all = values(field);
  if (all.empty()) return std::nullopt;
  double sum = 0;
  for (const double value : all) sum += value;
  return sum;
}

Harness::Harness(Scale scale, std::string root, bool json)
    : scale_(scale), root_(std::move(root)), json_(json), patience_left_s_(kPatienceInAll) {
  std::filesystem::create_directories(root_);
  // Programs that crash on damaged files must not fill the disk with their cores.
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  const std::string beside = os::own_program_dir();
  ours_ = {"defib", os::join_path(beside, "store_bench_defib"), {}, {}, ""};
  limits_ = {"raw", os::join_path(beside, "store_bench"), {"--limit"}, {}, ""};
}

void Harness::find_peers() {
  const std::string beside = os::own_program_dir();
  const std::vector<Contender> possible = {
      {"RocksDB", os::join_path(beside, "store_bench_rocksdb"), {}, {}, ""},
      {"LevelDB", os::join_path(beside, "store_bench_leveldb"), {}, {}, ""},
      {"LMDB", os::join_path(beside, "store_bench_lmdb"), {}, {}, ""},
      {"LMDB writemap", os::join_path(beside, "store_bench_lmdb"), {}, {"write_map=1"}, ""},
      {"SQLite", os::join_path(beside, "store_bench_sqlite"), {}, {}, ""},
  };
  std::string there;
  for (const Contender& contender : possible) {
    if (!os::real_files().exists(contender.program)) {
      say(fmt::format("{} is not there and left out", contender.name));
      continue;
    }
    const auto described = run(contender, "describe", {});
    if (!described) continue;
    peers_.push_back(contender);
    peers_.back().version = (*described)["version"].as_string();
    if (contender.after.empty()) there += ", " + peers_.back().version;
  }
  say("beside the raw limits" + there);
}

Harness::~Harness() {
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
}

const Contender* Harness::peer(std::string_view name) const {
  const auto found = std::ranges::find(peers_, name, &Contender::name);
  return found == peers_.end() ? nullptr : &*found;
}

std::vector<const Contender*> Harness::contenders(const std::vector<std::string>& names) const {
  std::vector<const Contender*> found = {&ours_};
  for (const std::string& name : names) {
    if (const Contender* contender = peer(name); contender != nullptr) found.push_back(contender);
  }
  return found;
}

std::string Harness::fresh_dir() {
  return os::join_path(root_, fmt::format("{}", ++dirs_));
}

void Harness::drop(const std::string& dir) {
  std::error_code ignored;
  std::filesystem::remove_all(dir, ignored);
}

std::unique_ptr<TaskProcess> Harness::start(const Contender& who, const std::string& task,
                                            const Words& words, bool is_silent) {
  int pipe_fds[2];
  if (::pipe2(pipe_fds, O_CLOEXEC) != 0) give_up("no pipe");
  os::Fd read_end(pipe_fds[0]);
  const os::Fd write_end(pipe_fds[1]);
  const os::Fd nowhere(::open("/dev/null", O_WRONLY | O_CLOEXEC));
  os::SpawnOptions options;
  options.argv = {who.program};
  options.argv.insert(options.argv.end(), who.before.begin(), who.before.end());
  options.argv.push_back(task);
  options.argv.insert(options.argv.end(), words.begin(), words.end());
  options.argv.insert(options.argv.end(), who.after.begin(), who.after.end());
  options.fds = {{write_end.get(), 1}, {is_silent ? nowhere.get() : 2, 2}};
  options.parent_death_signal = SIGKILL;
  auto child = os::spawn(options);
  if (!child) {
    fail(who, child.error().to_line());
    return nullptr;
  }
  return std::make_unique<TaskProcess>(*std::move(child), std::move(read_end));
}

std::optional<Json> Harness::run(const Contender& who, const std::string& task,
                                 const Words& words) {
  auto process = start(who, task, words);
  if (!process) return std::nullopt;
  auto result = process->line(kTaskTimeout);
  const os::ExitStatus status = result ? process->wait() : process->kill();
  if (result && status.success()) return result;
  fail(who, fmt::format("the task '{}' failed: {}", task, status.to_string()));
  return std::nullopt;
}

std::optional<Json> Harness::run_and_kill(const Contender& who, const std::string& task,
                                          const Words& words) {
  auto process = start(who, task, words);
  if (!process) return std::nullopt;
  auto result = process->line(kTaskTimeout);
  const os::ExitStatus status = process->kill();
  if (result) return result;
  fail(who, fmt::format("the task '{}' failed: {}", task, status.to_string()));
  return std::nullopt;
}

std::optional<Json> Harness::measure(const Contender& who, const std::string& task,
                                     const Words& words) {
  settle();
  return run(who, task, words);
}

void Harness::settle() {
  ::sync();
  ++measurements_;
  for (int tries = 0; !is_quiet_now(); ++tries) {
    if (tries >= scale_.patience_s || patience_left_s_ <= 0) {
      ++disturbed_;
      return;
    }
    --patience_left_s_;
    os::real_clock().sleep_for(std::chrono::seconds(1) - kQuietSample);
  }
}

std::map<std::string, Samples> Harness::alternate(const std::vector<const Contender*>& who,
                                                  int runs, const Measurement& measurement) {
  std::map<std::string, Samples> samples;
  for (int i = 0; i < runs; ++i) {
    for (const Contender* contender : who) {
      if (const auto result = measurement(*contender); result) {
        samples[contender->name].add(*result);
      }
    }
  }
  return samples;
}

void Harness::row(const Row& row) {
  std::optional<double> ratio;
  if (row.ours && row.peer && *row.peer != 0) ratio = *row.ours / *row.peer;
  const bool is_judged = !scale_.is_quick || is_of_correctness(row.target);
  const Verdict verdict = is_judged ? judge(row.target, row.ours, ratio) : Verdict::kNone;
  if (is_of_correctness(row.target) && verdict == Verdict::kMissed) is_correct_ = false;
  const std::string target = text_of(row.target);
  if (!json_) {
    fmt::print("{:<44} {:<24} {:>12.5g} {:<10}", row.name, row.metric, row.ours.value_or(0),
               row.unit);
    if (row.peer) fmt::print(" {}: {:.5g}", row.peer_name, *row.peer);
    if (ratio) fmt::print(" ({:.3g}x)", *ratio);
    if (!target.empty()) fmt::print("  [{}{}]", target, text_of(verdict));
    fmt::print("\n");
  } else {
    fmt::print("{}\n", Json::object({{"bench", "store"},
                                     {"case", row.name},
                                     {"metric", row.metric},
                                     {"unit", row.unit},
                                     {"ours", json_of(row.ours)},
                                     {"peer_name", row.peer_name},
                                     {"peer", json_of(row.peer)},
                                     {"ratio", json_of(ratio)},
                                     {"limit", json_of(row.limit)},
                                     {"runs", row.runs},
                                     {"target", target.empty() ? Json() : Json(target)},
                                     {"met", json_of(verdict)}})
                           .dump());
  }
  std::fflush(stdout);
}

void Harness::rows(const std::string& name, const std::string& metric, const std::string& unit,
                   std::string_view field, const std::map<std::string, Samples>& samples,
                   const std::map<std::string, Target>& targets, std::optional<double> limit) {
  const auto ours = samples.find(ours_.name);
  if (ours == samples.end()) return;
  Row base{name, metric, unit, ours->second.median(field),           "",
           {},   limit,  {},   static_cast<int>(ours->second.size())};
  if (const auto own = targets.find(ours_.name); own != targets.end()) {
    base.target = own->second;
    row(base);
  }
  bool is_printed = base.target.bound != Bound::kNone;
  for (const auto& [peer_name, peer_samples] : samples) {
    if (peer_name == ours_.name || !peer_samples.median(field)) continue;
    Row beside = base;
    const auto target = targets.find(peer_name);
    beside.target = target == targets.end() ? Target{} : target->second;
    beside.peer_name = peer_name;
    beside.peer = peer_samples.median(field);
    row(beside);
    is_printed = true;
  }
  if (!is_printed) row(base);
}

void Harness::say(const std::string& text) const {
  fmt::print(stderr, "    {}\n", text);
}

void Harness::require(bool is_right, const std::string& text) {
  if (!is_right) give_up(text);
}

void Harness::say_noise() const {
  if (disturbed_ == 0) {
    say(fmt::format("the machine was quiet before all {} measurements", measurements_));
  } else {
    say(fmt::format("the machine was NOT quiet before {} of {} measurements", disturbed_,
                    measurements_));
  }
}

void Harness::fail(const Contender& who, const std::string& text) {
  if (who.name == ours_.name || who.name == limits_.name) give_up(who.name + ": " + text);
  say(who.name + ": " + text);
}

void Harness::give_up(const std::string& text) {
  fmt::print(stderr, "error: {}\n", text);
  std::error_code ignored;
  std::filesystem::remove_all(root_, ignored);
  std::exit(1);
}

}  // namespace defib::bench

// The rules that tell a hang from starvation: facts in, verdict out, nothing else.

#include <fmt/core.h>

#include <algorithm>

#include "defib/process/starvation.h"

namespace defib::process {
namespace {

using recovery::Evidence;
using recovery::Finding;
using recovery::Rule;
using recovery::Verdict;

// So much of the deadline may have gone elsewhere: nobody runs without any wait.
constexpr int kToleranceShare = 16;
constexpr int kLateShare = 8;
constexpr os::Duration kLateAlways = std::chrono::milliseconds(2);
// With so many runnable threads a processor, what a sleeper waits for may be starved outside of the
// service, where nobody looks: it gets a second deadline.
constexpr double kCrowd = 2.0;
constexpr int kCrowdedDeadlines = 2;
constexpr std::size_t kThreadsShown = 16;

os::Duration duration(const Evidence& evidence, std::string_view name) {
  return os::Duration(evidence[name].as_int());
}

std::string text(os::Duration time) {
  return os::format_duration(time);
}

bool in_cycle(const Evidence& evidence) {
  return evidence["lock"].as_string() == to_string(LockFact::kCycle);
}

// Somebody outside keeps it from running, for all to see: that is told, and nothing is killed.
bool held_from_outside(const Evidence& evidence) {
  return evidence["frozen"].as_bool() || evidence["tracer"].as_int() != 0 ||
         duration(evidence, "disk_wait_ns") >= duration(evidence, "deadline_ns");
}

// Then the rules that weigh doubts have nothing to say.
bool is_plain(const Evidence& evidence) {
  return in_cycle(evidence) || held_from_outside(evidence);
}

Finding allow(std::string input, std::string threshold) {
  return {.verdict = Verdict::kAllow, .input = std::move(input), .threshold = std::move(threshold)};
}

Finding beat_meanwhile(const Evidence& evidence) {
  if (!evidence["has_beaten"].as_bool()) return allow("no beat", "a beat while it was looked at");
  return {.verdict = Verdict::kRefuse,
          .input = "it beat while it was looked at",
          .threshold = "a beat while it was looked at",
          .flips = "no further beat within its deadline"};
}

Finding ending(const Evidence& evidence) {
  if (!evidence["ending"].as_bool()) return allow("it lives", "the process ends");
  return {.verdict = Verdict::kRefuse,
          .input = "the process is ending",
          .threshold = "the process ends",
          .flips = "its end will be noticed by itself"};
}

Finding frozen(const Evidence& evidence) {
  if (!evidence["frozen"].as_bool()) return allow("not frozen", "its control group is frozen");
  return {.verdict = Verdict::kMonitorOnly,
          .input = "its control group is frozen",
          .threshold = "its control group is frozen",
          .flips = "thaw it"};
}

Finding debugged(const Evidence& evidence) {
  const std::int64_t tracer = evidence["tracer"].as_int();
  if (tracer == 0) return allow("no debugger", "a debugger is attached");
  return {.verdict = Verdict::kMonitorOnly,
          .input = fmt::format("process {} traces it", tracer),
          .threshold = "a debugger is attached",
          .flips = "detach the debugger"};
}

Finding supervisor_late(const Evidence& evidence) {
  const os::Duration late = duration(evidence, "supervisor_late_ns");
  const os::Duration limit = lateness_limit(duration(evidence, "deadline_ns"));
  std::string input = fmt::format("the look came {} late", text(late));
  std::string threshold = fmt::format("more than {}", text(limit));
  if (late <= limit || is_plain(evidence)) return allow(std::move(input), std::move(threshold));
  return {.verdict = Verdict::kRefuse,
          .input = std::move(input),
          .threshold = std::move(threshold),
          .flips = "a look in time; perhaps the whole machine stood still"};
}

Finding waits_for_disk(const Evidence& evidence) {
  const os::Duration waited = duration(evidence, "disk_wait_ns");
  const os::Duration deadline = duration(evidence, "deadline_ns");
  std::string input = fmt::format("{} in one wait for a disk", text(waited));
  std::string threshold = fmt::format("{} or more", text(deadline));
  if (waited < deadline) return allow(std::move(input), std::move(threshold));
  return {.verdict = Verdict::kMonitorOnly,
          .input = std::move(input),
          .threshold = std::move(threshold),
          .flips = "the disk or network file system answers; a kill would not end the wait"};
}

Finding kept_from_running(const Evidence& evidence) {
  const os::Duration deadline = duration(evidence, "deadline_ns");
  const os::Duration available = duration(evidence, "available_ns");
  const os::Duration wanted = deadline - deadline / kToleranceShare;
  std::string input =
      fmt::format("it could use {} of {} of silence (hindered by: {})", text(available),
                  text(duration(evidence, "silent_ns")), evidence["hindrance"].as_string());
  std::string threshold =
      fmt::format("less than {} of its deadline of {}", text(wanted), text(deadline));
  if (available >= wanted || is_plain(evidence)) {
    return allow(std::move(input), std::move(threshold));
  }
  return {.verdict = Verdict::kRefuse,
          .input = std::move(input),
          .threshold = std::move(threshold),
          .flips = fmt::format("{} more of silence in which it can run", text(wanted - available))};
}

Finding crowded(const Evidence& evidence) {
  const double runnable = evidence["runnable_per_cpu"].as_double();
  const os::Duration silent = duration(evidence, "silent_ns");
  const os::Duration patience = kCrowdedDeadlines * duration(evidence, "deadline_ns");
  std::string input =
      fmt::format("{:.1f} runnable threads a processor, silent for {}", runnable, text(silent));
  std::string threshold =
      fmt::format("asleep for others' sake, {} or more a processor, silent for less than {}",
                  kCrowd, text(patience));
  const bool applies = evidence["depends_on_others"].as_bool() && runnable >= kCrowd;
  if (!applies || silent >= patience || is_plain(evidence)) {
    return allow(std::move(input), std::move(threshold));
  }
  return {.verdict = Verdict::kRefuse,
          .input = std::move(input),
          .threshold = std::move(threshold),
          .flips = fmt::format("{} more of silence", text(patience - silent))};
}

// The main thread of a program that was not built for defib may sleep where the agent does not see
// it (sleep, sigwait, join): that is rest.
Finding rests_elsewhere(const Evidence& evidence) {
  const std::string_view lock = evidence["lock"].as_string();
  const bool asleep = evidence["state"].as_string() == "S" && lock != to_string(LockFact::kHeld) &&
                      !is_plain(evidence);
  if (!evidence["from_waits"].as_bool() || !asleep) {
    return allow("it beats by itself, or does not rest", "asleep, and no lock's holder is known");
  }
  return {.verdict = Verdict::kRefuse,
          .input = fmt::format("it sleeps in {}", evidence["waits_in"].as_string()),
          .threshold = "asleep, and no lock's holder is known",
          .flips = "a known lock, or processor time without a beat"};
}

const std::vector<Rule>& rules() {
  static const std::vector<Rule> all = {
      {"beat_meanwhile", {"has_beaten"}, beat_meanwhile},
      {"ending", {"ending"}, ending},
      {"supervisor_late", {"supervisor_late_ns", "deadline_ns", "lock"}, supervisor_late},
      {"kept_from_running",
       {"available_ns", "deadline_ns", "silent_ns", "lock", "hindrance", "frozen", "tracer",
        "disk_wait_ns"},
       kept_from_running},
      {"crowded",
       {"runnable_per_cpu", "silent_ns", "deadline_ns", "depends_on_others", "lock"},
       crowded},
      {"rests_elsewhere", {"from_waits", "state", "lock"}, rests_elsewhere},
      {"frozen", {"frozen"}, frozen},
      {"debugged", {"tracer"}, debugged},
      {"waits_for_disk", {"disk_wait_ns", "deadline_ns"}, waits_for_disk},
  };
  return all;
}

wire::Json threads_json(const std::vector<ThreadFacts>& threads) {
  wire::Json shown = wire::Json::array();
  for (const ThreadFacts& thread : threads) {
    if (shown.size() == kThreadsShown) break;
    shown.push(wire::Json::object({{"tid", thread.tid},
                                   {"state", std::string(1, thread.state)},
                                   {"cpu_ns", thread.cpu.count()},
                                   {"run_delay_ns", thread.run_delay.count()},
                                   {"turns", thread.turns}}));
  }
  return shown;
}

}  // namespace

os::Duration lateness_limit(os::Duration deadline) {
  return std::max(deadline / kLateShare, kLateAlways);
}

std::string_view hang_kind(const StallFacts& facts) {
  if (facts.lock == LockFact::kCycle) return "deadlock";
  switch (facts.state) {
    case 'R':
      return "busy_loop";
    case 'T':
      return "stopped";
    case '-':
    case 'Z':
    case 'X':
      return "thread_ended";
    default:
      return "asleep";
  }
}

recovery::Decision judge_stall(const StallFacts& facts, const std::vector<ThreadFacts>& threads) {
  const auto pressure = [](double percent) {
    return percent >= 0 ? wire::Json(percent) : wire::Json();
  };
  Evidence evidence;
  evidence.set("deadline_ns", facts.deadline.count())
      .set("silent_ns", facts.silent.count())
      .set("available_ns", facts.available.count())
      .set("hindrance", to_string(facts.hindrance))
      .set("supervisor_late_ns", facts.supervisor_late.count())
      .set("disk_wait_ns", facts.disk_wait.count())
      .set("has_beaten", facts.has_beaten)
      .set("ending", facts.ending)
      .set("frozen", facts.frozen)
      .set("tracer", facts.tracer)
      .set("from_waits", facts.from_waits)
      .set("tid", facts.tid)
      .set("state", std::string(1, facts.state))
      .set("waits_in", facts.waits_in)
      .set("lock", to_string(facts.lock))
      .set("holder", facts.holder)
      .set("depends_on_others", facts.depends_on_others)
      .set("runnable_per_cpu", facts.runnable_per_cpu)
      .set("load_per_cpu", facts.load_per_cpu)
      .set("cpu_pressure_percent", pressure(facts.cpu_pressure))
      .set("io_pressure_percent", pressure(facts.io_pressure))
      .set("threads", threads_json(threads))
      .set("threads_left_out",
           static_cast<std::int64_t>(threads.size() - std::min(threads.size(), kThreadsShown)));
  return recovery::decide(rules(), std::move(evidence));
}

}  // namespace defib::process

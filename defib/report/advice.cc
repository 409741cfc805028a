#include "defib/report/advice.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "defib/report/wrap.h"

namespace defib::report {
namespace {

constexpr std::size_t kColumns = 96;

// Which facts a step needs.
enum class When { kAlways, kStack, kNoStack, kCore, kChanged, kGivenUp };

// {ID} {NAME} {AT} {EXE} {CORE} are replaced.
struct Step {
  When when;
  std::string_view text;
  std::string_view command;
};

struct Case {
  std::string_view cause;
  std::string_view title;
  std::vector<Step> steps;
  std::string_view resume;
};

constexpr std::string_view kShow = "defib incident show {ID}";
constexpr std::string_view kLogs = "defib logs {NAME} --around {AT} --window 60s";
constexpr std::string_view kFull = "defib analyze {CORE} --full";

constexpr Step kChangedStep = {When::kChanged,
                               "Something changed since the last good run: look there first, and "
                               "go back to the version before if it fits.",
                               "defib report {ID} --format text"};
constexpr Step kStackStep = {When::kStack,
                             "Read the innermost frame of the program's own code, the address and "
                             "the access; the report shows the code around it.",
                             "defib report {ID} --format text"};
constexpr Step kNoStackStep = {
    When::kNoStack,
    "There is no stack: let the next crash be captured, with the agent (dynamic programs), or a "
    "core file.",
    "defib run --help"};
constexpr Step kCoreStep = {When::kCore, "Look at arguments and local variables in the core file.",
                            kFull};
constexpr Step kOutputStep = {When::kAlways, "Read what it wrote around the failure.", kLogs};
constexpr std::string_view kResumeCode =
    "When the fault is understood and repaired, or only the input that led to it can be kept away. "
    "A restart alone is safe for the data if the store verifies, but the same input crashes it "
    "again.";

const std::vector<Case>& cases() {
  // For ever: nothing is destroyed at the end.
  static const std::vector<Case>& kCases = *new std::vector<Case>{
      {"segmentation_fault",
       "Segmentation fault: memory was used that is not the program's",
       {kChangedStep,
        kStackStep,
        kNoStackStep,
        kCoreStep,
        {When::kAlways,
         "Decide what the pointer was: a wild value is mostly a race, an overrun or an object that "
         "was freed. Build with -fsanitize=address and repeat the input that the output shows.",
         kLogs},
        {When::kAlways, "Before it trades again: is its durable state whole?",
         "defib store verify STORE_DIR"}},
       kResumeCode},
      {"null_dereference",
       "Null pointer: something that should be there was not",
       {kChangedStep,
        kStackStep,
        kNoStackStep,
        kCoreStep,
        {When::kAlways,
         "The small address is the member's offset. Find which call gave the null: a lookup that "
         "found nothing, an object that is not made yet, or one that is gone.",
         kLogs}},
       kResumeCode},
      {"stack_overflow",
       "Stack overflow: a recursion without an end, or very large local variables",
       {kChangedStep,
        kStackStep,
        {When::kAlways,
         "The functions that stand again and again in the stack are the circle; bound its depth. "
         "`ulimit -s` only moves the end, unless the depth is known and small.",
         "defib report {ID} --format text"}},
       kResumeCode},
      {"bus_error",
       "Bus error: the memory is the program's, but what is behind it is not there",
       {{When::kAlways,
         "A mapped file that became shorter is the usual cause: who truncates or replaces it while "
         "it is used? Replace files by rename, never in place.",
         kShow},
        {When::kAlways, "Is the disk full, or does the kernel tell of errors of memory or disk?",
         "dmesg --level=err,warn"},
        kStackStep,
        kCoreStep},
       "When the file is whole and nobody changes it in place, and the kernel's log shows no "
       "errors "
       "of the hardware."},
      {"illegal_instruction",
       "Illegal instruction: the program met code that it shall not run, or cannot",
       {kChangedStep,
        {When::kAlways,
         "A trap instruction is the compiler's mark of a place that must never be reached; a bad "
         "opcode is a build for another processor, or a jump into data.",
         "defib report {ID} --format text"},
        kStackStep,
        kCoreStep},
       "When the program is one for this processor, and the way to the trap is understood."},
      {"arithmetic_fault",
       "Arithmetic fault: mostly an integer division by zero",
       {kChangedStep,
        kStackStep,
        kCoreStep,
        {When::kAlways, "Which input made the divisor zero: an empty book, a price of nothing?",
         kLogs}},
       kResumeCode},
      {"assertion_failure",
       "Assertion: the program itself found that something it relies on is not so",
       {kChangedStep,
        {When::kAlways,
         "Read the assertion's text and the function: it names what does not hold. It stopped on "
         "purpose, before it would have done harm; do not build it without assertions.",
         kShow},
        kCoreStep,
        {When::kAlways,
         "If the condition is about durable state, the state may be wrong, not the program: check "
         "it before anything goes on.",
         "defib store verify STORE_DIR"},
        {When::kAlways, "And compare with the venues.", "defib reconcile"}},
       "When the broken condition is explained, and the state that it is about has been verified. "
       "If it was read from disk, a restart meets it again at once."},
      {"uncaught_exception",
       "Uncaught exception: an error that nobody handles ended the program",
       {kChangedStep,
        {When::kAlways, "Type and text are in the evidence; where it was thrown is in the stack.",
         kShow},
        kOutputStep,
        kCoreStep,
        {When::kAlways,
         "An error of the outside (a file, a connection, a message) belongs caught where it can be "
         "answered; an error of logic is a bug like an assertion.",
         ""}},
       "When what threw is repaired or handled; if it came from outside, when that is well again."},
      {"heap_corruption",
       "Heap corruption: memory was freed twice, or written beyond its end",
       {kChangedStep,
        {When::kAlways,
         "The stack shows where it was noticed, not where it was done. Run the same input with "
         "-fsanitize=address, or under valgrind, which name the place.",
         kShow},
        kCoreStep,
        {When::kAlways,
         "What was written to disk since the corruption may be wrong: verify before you trust it.",
         "defib store verify STORE_DIR"}},
       "Only when the writer is found: until then every run may store wrong values before it "
       "dies."},
      {"abort",
       "Abort: the program, or a library in it, gave up by itself",
       {kChangedStep, kOutputStep, kStackStep, kNoStackStep, kCoreStep},
       kResumeCode},
      {"out_of_memory",
       "Out of memory: the kernel killed it, because there was no more",
       {{When::kAlways,
         "Which was full, the service's own limit or the machine? The evidence quotes the kernel.",
         kShow},
        {When::kAlways,
         "Does it grow slowly (a leak), or did one request need that much? The report charts the "
         "memory before the failure.",
         "defib report {ID} --format html"},
        {When::kAlways, "Who else uses the machine's memory?", "ps aux --sort=-rss"},
        kChangedStep,
        {When::kAlways,
         "Against a leak: repair it; until then max_memory with on_limit = \"restart\" replaces it "
         "in good order before the kernel does. If the need is real: give it more.",
         "defib check"},
        {When::kAlways, "It could not end in order: is its durable state whole?",
         "defib store verify STORE_DIR"}},
       "When its memory stays under the limit for as long as it took to fill it, and the limit "
       "leaves the rest of the machine enough."},
      {"out_of_memory/allocator",
       "Out of memory: it asked for memory, and was refused",
       {{When::kStack,
         "Who asked, and for how much? The stack shows where the request was not granted; a size "
         "that came from outside, such as a length in a message, may be nonsense.",
         "defib report {ID} --format text"},
        kNoStackStep,
        {When::kAlways,
         "Was it one request, or did it grow slowly (a leak)? The report charts the memory before "
         "the failure.",
         "defib report {ID} --format html"},
        {When::kAlways,
         "Which limit refused it: the process's own (ulimit -v, a runtime's maximal heap), or the "
         "machine's? The bundle's limits and memory say so.",
         kShow},
        kChangedStep,
        kOutputStep},
       "When it is known what asked for that much, and that it does not do so again, or may have "
       "it."},
      {"deadlock",
       "Deadlock: threads wait for one another in a circle",
       {{When::kAlways,
         "The evidence names each thread, the lock it waits for, and who holds it; the stacks show "
         "both places. Take the locks in one order everywhere, or together (std::scoped_lock).",
         kShow},
        {When::kAlways, "If it hangs again, look while it does: that detaches without harm.",
         "defib analyze PID"},
        kChangedStep,
        kCoreStep,
        {When::kAlways,
         "A hung service may have been silent for a while: what happened at the venues meanwhile?",
         "defib reconcile"}},
       "After a restart it runs until the same two ways meet again. That is safe where a heartbeat "
       "ends it in time; it is repaired only with one order of the locks."},
      {"busy_loop",
       "Busy loop: it computes, and gets nowhere",
       {{When::kAlways, "The evidence names the busy thread; its stack shows the loop.", kShow},
        {When::kAlways, "Look a second time while it does: what stays in the stack is the loop.",
         "defib analyze PID"},
        kChangedStep,
        kOutputStep},
       "When the condition that ends the loop is repaired, or the input that keeps it going is "
       "kept "
       "away."},
      {"heartbeat_lost",
       "Heartbeat lost: a stage stood still for longer than it may",
       {{When::kAlways,
         "Which stage, for how long, and what did its thread do? The verdict says whether it was "
         "blocked, busy, or only kept from running.",
         kShow},
        {When::kAlways, "Did the machine leave it no time? See load, pressure and steal.",
         "defib report {ID} --format html"},
        kOutputStep},
       "When the stage beats again. If only the machine was slow, the deadline is too short for "
       "it."},
      {"health_check_failed",
       "Health check failed: it runs, and does not answer as it should",
       {{When::kAlways, "What did the check say, and how often?", kShow},
        kOutputStep,
        {When::kAlways, "Does it hang?", "defib analyze PID"},
        kChangedStep},
       "When the check passes again, several times in a row."},
      {"memory_limit",
       "Memory limit: it uses more than you allow",
       {{When::kAlways, "How fast did it grow?", "defib report {ID} --format html"},
        {When::kAlways, "Is what it does now more than usual?", "defib status {NAME}"},
        kChangedStep,
        {When::kAlways, "If the need is real, raise max_memory.", "defib check"}},
       "When it stays below the limit under its usual load."},
      {"cpu_limit",
       "CPU limit: it uses more processor time than you allow",
       {{When::kAlways, "What is busy in it?", "defib analyze PID"},
        {When::kAlways, "How long has it been so?", "defib report {ID} --format html"},
        kChangedStep,
        {When::kAlways, "If the work is real, raise max_cpu.", "defib check"}},
       "When it stays below the limit under its usual load."},
      {"resource_limit",
       "Resource limit: the kernel ended it at a limit of the process",
       {{When::kAlways, "Which limit? The report lists them all beside what was used.",
         "defib report {ID} --format text"},
        {When::kAlways, "Change the limit in the service's section, then restart it.",
         "defib check"}},
       "When the limit fits what the service needs for a day, not only for a minute."},
      {"bad_system_call",
       "Bad system call: a filter (seccomp) forbids what it tried",
       {kChangedStep,
        kStackStep,
        {When::kAlways,
         "Allow the call in the filter if it is right; a new version of a library may need other "
         "calls than the one before.",
         kShow}},
       "When filter and program fit one another."},
      {"log_pattern",
       "Log pattern: a line of output says that something is wrong",
       {{When::kAlways, "Read the line and its surroundings.", kLogs},
        {When::kAlways, "Is the service well otherwise?", "defib status {NAME}"}},
       "When what the line tells of is over; the incident closes by itself when it is quiet."},
      {"killed_externally",
       "Killed from outside: somebody sent the signal",
       {{When::kAlways,
         "Who? The evidence names the sender where the kernel tells; of SIGKILL it never does.",
         kShow},
        {When::kAlways, "Look for a script, an orchestrator or an administrator at that time.",
         "last -x"},
        {When::kAlways, "It had no time to end in order: is its durable state whole?",
         "defib store verify STORE_DIR"}},
       "At once where it was meant; else when it is clear that it is not done again."},
      {"venue_disconnected",
       "Exchange disconnected",
       {},
       "When the venue answers, every intent has an outcome, and ledger and venue agree."},
      {"start_failed",
       "Start failed: the program cannot be started, or did not become ready",
       {{When::kAlways, "The evidence has the system's own words.", kShow},
        {When::kAlways, "Would the configuration start?", "defib check"},
        kOutputStep,
        kChangedStep,
        {When::kGivenUp, "When it is repaired, start it.", "defib reset {NAME}"}},
       "When it starts by hand with the same user, directory and environment."},
      {"exit_failure",
       "Exit code: it ended by itself and says that it failed",
       {kOutputStep,
        {When::kAlways, "The last error lines are in the report.",
         "defib report {ID} --format text"},
        kChangedStep,
        {When::kAlways,
         "If that code is no failure for you, say so with success_exit_codes; if a restart cannot "
         "help, with no_restart_exit_codes.",
         "defib check"},
        {When::kGivenUp, "When it is repaired, start it.", "defib reset {NAME}"}},
       "When what its last lines complain of is repaired."},
      {"clean_exit",
       "Clean end: it ended by itself, and says that all is well",
       {{When::kAlways, "Should it run for ever? Then ask why it ended; its last lines may tell.",
         "defib logs {NAME} -n 50"}},
       "At any time."},
      {"unknown",
       "Unknown cause: what is known does not tell why",
       {kOutputStep,
        kStackStep,
        kNoStackStep,
        {When::kAlways, "What the report could not have, and why, is at its end.",
         "defib report {ID} --format text"},
        kChangedStep,
        kCoreStep},
       "When it has been watched for as long as it ran before."},
  };
  return kCases;
}

// Of its own, or beside a crash: what is under way at a venue is the first thing to know.
const std::vector<Step>& disconnect_steps() {
  static const std::vector<Step>& kSteps = *new std::vector<Step>{
      {When::kAlways,
       "The exchange's connection was lost: orders that were on their way may be accepted, "
       "rejected or neither. Send nothing again before each has an outcome; what is unresolved "
       "counts as exposure.",
       "defib reconcile"},
      {When::kAlways,
       "Does the venue itself tell of an outage, or is it our way to it (address, certificate, "
       "clock, rate limit)?",
       kLogs},
      {When::kAlways, "What still keeps the service from trading, gate by gate?",
       "defib checklist"},
      {When::kAlways,
       "If positions cannot wait, cancel at the venue by its own interface, and let the next "
       "reconciliation book it.",
       "defib reconcile --json"}};
  return kSteps;
}

// "out_of_memory", or one subtype of it for which something else is to be done.
bool is_whole_cause(const Case& one) {
  return one.cause.find('/') == one.cause.npos;
}

const Case& case_of(std::string_view cause, std::string_view subtype = {}) {
  for (const std::string& name : {fmt::format("{}/{}", cause, subtype), std::string(cause)}) {
    const auto found = std::ranges::find(cases(), name, &Case::cause);
    if (found != cases().end()) return *found;
  }
  return cases().back();
}

bool applies(When when, const AdviceFacts& facts) {
  switch (when) {
    case When::kAlways:
      return true;
    case When::kStack:
      return facts.has_stack;
    case When::kNoStack:
      return !facts.has_stack;
    case When::kCore:
      return !facts.core.empty();
    case When::kChanged:
      return facts.changed;
    case When::kGivenUp:
      return facts.given_up;
  }
  return false;
}

// As one word of a shell.
std::string quoted(std::string_view word) {
  const bool plain = !word.empty() && word.find_first_not_of(
                                          "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                          "0123456789_-./:+,@%=") == word.npos;
  if (plain) return std::string(word);
  std::string text = "'";
  for (const char c : word) {
    if (c == '\'') {
      text += "'\\''";
    } else if (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f) {
      text += c;
    }
  }
  return text + "'";
}

std::string filled(std::string_view form, const AdviceFacts& facts) {
  std::string text(form);
  const std::array<std::pair<std::string_view, std::string_view>, 5> kNames = {
      {{"{ID}", facts.incident},
       {"{NAME}", facts.service},
       {"{AT}", facts.at.empty() ? std::string_view("TIME") : facts.at},
       {"{EXE}", facts.exe},
       {"{CORE}", facts.core}}};
  for (const auto& [name, value] : kNames) {
    const std::string word = quoted(value);
    for (std::size_t at = text.find(name); at != text.npos; at = text.find(name, at)) {
      text.replace(at, name.size(), word);
      at += word.size();
    }
  }
  return text;
}

void add_steps(const std::vector<Step>& steps, const AdviceFacts& facts, Advice& advice) {
  for (const Step& step : steps) {
    if (!applies(step.when, facts)) continue;
    advice.steps.push_back({std::string(step.text), filled(step.command, facts)});
  }
}

// `defib kill` writes its record as an incident, which has no cause.
Advice advise_of_kill(const AdviceFacts& facts) {
  Advice advice;
  advice.title =
      fmt::format("Kill switch of {}: a person stopped it, nothing has failed", facts.kill_scope);
  if (facts.given_up) {
    advice.steps.push_back(
        {"Not every venue was verified to have nothing open: do it again, or "
         "cancel at the venue by hand.",
         "defib incident show " + quoted(facts.incident)});
  }
  advice.steps.push_back({"What is engaged?", "defib kill --status"});
  advice.steps.push_back(
      {"Compare the ledger with the venues: what was cancelled and filled meanwhile is booked.",
       "defib reconcile"});
  advice.steps.push_back(
      {"When the reason is gone, release it.",
       fmt::format("defib kill --release {} --by NAME --reason WHY", quoted(facts.kill_scope))});
  advice.resume = "When whoever engaged it, or the risk manager, has released it.";
  return advice;
}

// Of a log line or an event: names of errors, and words of people.
bool tells_of_a_disconnect(const wire::Json& entry) {
  const std::string_view event = entry["event"].as_string();
  if (event.find("disconnect") != event.npos) return true;
  if (entry["cause"].as_string() == "venue_disconnected") return true;
  for (const char* key : {"error", "cause"}) {
    if (entry[key]["kind"].as_string().starts_with("Venue")) return true;
  }
  const std::string_view line = entry["line"].as_string();
  return line.find("disconnect") != line.npos || line.find("Disconnect") != line.npos;
}

}  // namespace

AdviceFacts advice_facts(const wire::Json& incident) {
  AdviceFacts facts;
  const wire::Json& found = incident["classification"];
  facts.cause = found["cause"].as_string();
  facts.subtype = found["subtype"].as_string();
  facts.service = incident["service"].as_string();
  facts.incident = incident["id"].as_string();
  facts.at = incident["opened_at"].as_string();
  facts.given_up = incident["outcome"].as_string() == "failed";
  for (const wire::Json& thread : incident["threads"].items()) {
    facts.has_stack = facts.has_stack || thread["frames"].size() > 0;
  }
  for (const wire::Json& entry : incident["timeline"].items()) {
    if (entry["event"].as_string() == "core_dumped" && entry["path"].is_string()) {
      facts.core = entry["path"].as_string();
    }
    facts.venue_disconnected = facts.venue_disconnected || tells_of_a_disconnect(entry);
    if (facts.service == "kill" && entry["event"].as_string() == "opened") {
      facts.kill_scope = entry["scope"].as_string();
    }
  }
  facts.changed = incident["changes"]["differences"].size() > 0;
  return facts;
}

Advice advise(const AdviceFacts& facts) {
  if (!facts.kill_scope.empty()) return advise_of_kill(facts);
  const Case& own = case_of(facts.cause, facts.subtype);
  const bool is_venue = own.cause == "venue_disconnected";
  Advice advice;
  advice.title = own.title;
  if (facts.venue_disconnected && !is_venue) {
    advice.title += "; the exchange's connection was lost as well";
  }
  if (facts.venue_disconnected || is_venue) add_steps(disconnect_steps(), facts, advice);
  add_steps(own.steps, facts, advice);
  advice.resume = own.resume;
  if (facts.venue_disconnected && !is_venue) {
    advice.resume += fmt::format(" And: {}{}", "w", case_of("venue_disconnected").resume.substr(1));
  }
  return advice;
}

wire::Json to_json(const Advice& advice) {
  wire::Json steps = wire::Json::array();
  for (const AdviceStep& step : advice.steps) {
    steps.push(wire::Json::object(
        {{"text", step.text},
         {"command", step.command.empty() ? wire::Json() : wire::Json(step.command)}}));
  }
  return wire::Json::object(
      {{"title", advice.title}, {"steps", std::move(steps)}, {"resume", advice.resume}});
}

std::string to_text(const Advice& advice) {
  std::string text = advice.title + "\n";
  int number = 0;
  for (const AdviceStep& step : advice.steps) {
    append_wrapped(text, step.text, {fmt::format("{:>3}. ", ++number), "     ", kColumns});
    if (!step.command.empty()) text += fmt::format("       {}\n", step.command);
  }
  append_wrapped(text, "Safe to resume: " + advice.resume, {"     ", "     ", kColumns});
  return text;
}

bool is_cause(std::string_view word) {
  return std::ranges::any_of(
      cases(), [word](const Case& one) { return one.cause == word && is_whole_cause(one); });
}

std::vector<std::string_view> advised_causes() {
  std::vector<std::string_view> causes;
  for (const Case& one : cases()) {
    if (is_whole_cause(one)) causes.push_back(one.cause);
  }
  return causes;
}

}  // namespace defib::report

// Harness: child processes, fresh directories, medians, and rows with their targets, for the cases
// of the store's benchmark.
//
// A failure of ours ends the benchmark; a peer that fails is said so once for the measurement and
// left out of its row.
//
// Thread rule: Harness on one thread, but for start(); a Child on the thread that started it.

#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "benchmarks/store_tasks.h"
#include "defib/os/clock.h"
#include "defib/os/fd.h"
#include "defib/os/process.h"
#include "defib/wire/json.h"

namespace defib::bench {

// How much is measured. The quick scale shows that all of it works; its figures mean nothing.
struct Scale {
  bool is_quick = false;
  int runs = 5;
  int long_runs = 3;           // of what takes tens of seconds
  double commit_seconds = 2;   // of synced commits, a run
  double put_seconds = 4;      // at most, of unsynced puts, a run
  double latency_seconds = 4;  // of commits alone, before a checkpoint
  std::uint64_t small = 1'000'000;
  std::uint64_t medium = 5'000'000;
  std::uint64_t large = 10'000'000;
  std::uint64_t tail = 450'000;  // records of 144 bytes in a log of 64 MB
  std::uint64_t flip_records = 10'000;
  int flips = 300;
  int kills = 200;
  int patience_s = 10;  // waiting for a quiet machine, before a measurement

  static Scale quick();
};

using Words = std::vector<std::string>;
// "name=value"
std::string word(std::string_view name, std::string_view value);
std::string word(std::string_view name, std::uint64_t value);
std::string word(std::string_view name, double value);

// A program that can be asked for tasks.
struct Contender {
  std::string name;
  std::string program;
  Words before;  // the task's name
  Words after;   // the task's parameters
  std::string version;
};

// A task in a process of its own, which is killed with this object.
class TaskProcess {
 public:
  TaskProcess(os::Child child, os::Fd out) : child_(std::move(child)), out_(std::move(out)) {}
  TaskProcess(const TaskProcess&) = delete;
  TaskProcess& operator=(const TaskProcess&) = delete;
  ~TaskProcess();
  // The next line it prints; none where it ended, or the time is over.
  std::optional<wire::Json> line(os::Duration timeout);
  // SIGKILL, and waits until it is gone.
  os::ExitStatus kill();
  os::ExitStatus wait() { return child_.wait(); }

 private:
  os::Child child_;
  os::Fd out_;
  std::string buffer_;
};

enum class Bound { kNone, kRatioAtLeast, kRatioAtMost, kAtLeast, kAtMost };
struct Target {
  Bound bound = Bound::kNone;
  double value = 0;
};

struct Row {
  std::string name;  // of the case, for people
  std::string metric;
  std::string unit;
  std::optional<double> ours;
  std::string peer_name;
  std::optional<double> peer;
  std::optional<double> limit;
  Target target;
  int runs = 1;
};

// The values of each field of a measurement's results, one a run.
class Samples {
 public:
  void add(const wire::Json& result);
  std::size_t size() const { return results_.size(); }
  bool empty() const { return results_.empty(); }
  // Of the field over all runs; none where nothing was measured. "a.b" is b in a.
  std::optional<double> median(std::string_view field) const;
  std::optional<double> largest(std::string_view field) const;
  std::optional<double> sum(std::string_view field) const;

 private:
  std::vector<double> values(std::string_view field) const;
  std::vector<wire::Json> results_;
};

class Harness {
 public:
  Harness(Scale scale, std::string root, bool json);
  ~Harness();

  // Looks which peers' programs lie beside this one; without it there are none.
  void find_peers();
  const Scale& scale() const { return scale_; }
  const Contender& ours() const { return ours_; }
  const Contender& limits() const { return limits_; }
  // Null where it is not there.
  const Contender* peer(std::string_view name) const;
  // Ours and the named peers that are there, ours first.
  std::vector<const Contender*> contenders(const std::vector<std::string>& names) const;

  // A path that does not exist yet, and its end.
  std::string fresh_dir();
  void drop(const std::string& dir);

  // A whole task, alone on the machine as far as waiting helps. None: a peer failed.
  std::optional<wire::Json> measure(const Contender& who, const std::string& task,
                                    const Words& words);
  // As measure(), without the wait: what only prepares.
  std::optional<wire::Json> run(const Contender& who, const std::string& task, const Words& words);
  // Starts one and leaves it running; null where a peer cannot start. `is_silent`: its stderr goes
  // nowhere.
  std::unique_ptr<TaskProcess> start(const Contender& who, const std::string& task,
                                     const Words& words, bool is_silent = false);
  // Runs a task that holds at its end, and kills it there.
  std::optional<wire::Json> run_and_kill(const Contender& who, const std::string& task,
                                         const Words& words);
  // Writes back what is dirty, and waits a while for other work to end.
  void settle();

  // Each `measurement` in turn, `runs` times over, so that noise meets all alike. By name.
  using Measurement = std::function<std::optional<wire::Json>(const Contender&)>;
  std::map<std::string, Samples> alternate(const std::vector<const Contender*>& who, int runs,
                                           const Measurement& measurement);

  void row(const Row& row);
  // One row for each peer that was measured, all of one field; `target` by the peer's name.
  void rows(const std::string& name, const std::string& metric, const std::string& unit,
            std::string_view field, const std::map<std::string, Samples>& samples,
            const std::map<std::string, Target>& targets, std::optional<double> limit = {});
  void say(const std::string& text) const;
  // A result of ours that is not as it must be ends the benchmark: its times would mean nothing.
  void require(bool is_right, const std::string& text);
  // Whether no row of ours had something that must never be: a lost commit, a wrong value.
  bool is_correct() const { return is_correct_; }
  // For people on stderr: how quiet it was.
  void say_noise() const;

 private:
  [[noreturn]] void give_up(const std::string& text);
  void fail(const Contender& who, const std::string& text);

  Scale scale_;
  std::string root_;
  bool json_;
  Contender ours_;
  Contender limits_;
  std::vector<Contender> peers_;
  int dirs_ = 0;
  int measurements_ = 0;
  int disturbed_ = 0;  // measurements that began beside other work
  int patience_left_s_;
  bool is_correct_ = true;
};

// The cases, in the order in which they run.
struct Case {
  std::string_view name;
  std::string_view text;
  void (*run)(Harness&);
};
void commit_case(Harness& harness);
void put_case(Harness& harness);
void kill_case(Harness& harness);
void read_case(Harness& harness);
void size_case(Harness& harness);
void memory_case(Harness& harness);
void recovery_case(Harness& harness);
void tail_case(Harness& harness);
void budget_case(Harness& harness);
void flip_case(Harness& harness);
void checkpoint_case(Harness& harness);

// store_limits.cc: what the machine can do, without a store.
Result<wire::Json> run_limit(const std::string& name, const Parameters& parameters);

}  // namespace defib::bench

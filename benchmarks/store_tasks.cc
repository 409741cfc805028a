// The tasks that every engine can do; store_tasks.h says which.

#include "benchmarks/store_tasks.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <memory>
#include <thread>

#include "benchmarks/store_engine.h"
#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::bench {
namespace {

using wire::Json;

std::int64_t now() {
  return os::real_clock().mono_ns();
}
double seconds_since(std::int64_t start) {
  return static_cast<double>(now() - start) / 1e9;
}
double ms_since(std::int64_t start) {
  return static_cast<double>(now() - start) / 1e6;
}

EngineOptions options_of(const Parameters& parameters) {
  EngineOptions options;
  options.synced = parameters.number("synced") != 0;
  options.all_in_log = parameters.number("all_in_log") != 0;
  options.write_map = parameters.number("write_map") != 0;
  options.cache = parameters.number("cache", options.cache);
  options.write_buffer = parameters.number("write_buffer", options.write_buffer);
  options.segment_size = parameters.number("segment_size");
  options.recovery_budget = std::chrono::milliseconds(parameters.number("budget_ms"));
  return options;
}

bool random_keys(const Parameters& parameters) {
  return parameters.text("keys", "random") == "random";
}

// Ends the store as the task is told to, and waits to be killed where it is to be.
Result<Json> finish(const Parameters& parameters, std::unique_ptr<Engine> engine, Json result) {
  const std::string then = parameters.text("then");
  if (then == "rest" || then == "rest_hold") DEFIB_TRY(engine->rest());
  if (then == "rest" || then == "close") DEFIB_TRY(engine->close());
  if (then == "hold" || then == "rest_hold") {
    fmt::print("{}\n", result.dump());
    std::fflush(stdout);
    while (true) ::pause();
  }
  // The process ends without the destructor's courtesy (store_task_main.cc).
  if (then.empty()) [[maybe_unused]]
    Engine* const left = engine.release();
  return result;
}

// A number that outlives this process: eight bytes of a mapped file.
class SharedNumber {
 public:
  static Result<SharedNumber> map(const std::string& path) {
    SharedNumber shared;
    if (path.empty()) return shared;
    const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ::ftruncate(fd, sizeof(std::uint64_t)) != 0) {
      return engine_error("cannot make " + path);
    }
    void* page = ::mmap(nullptr, sizeof(std::uint64_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ::close(fd);
    if (page == MAP_FAILED) return engine_error("cannot map " + path);
    shared.number_ = static_cast<std::uint64_t*>(page);
    return shared;
  }
  void set(std::uint64_t value) {
    if (number_ != nullptr) std::atomic_ref(*number_).store(value, std::memory_order_release);
  }

 private:
  std::uint64_t* number_ = nullptr;
};

// The `count` records from `first` on, in one transaction after the other.
class Loader {
 public:
  Loader(Session& session, bool random, std::size_t batch)
      : session_(session), random_(random), keys_(batch), records_(batch) {}

  Result<> commit(std::uint64_t first, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      keys_[i] = make_key(first + i, random_);
      records_[i] = {keys_[i], make_value(first + i)};
    }
    return session_.commit(std::span(records_).first(count));
  }

  Result<> load(std::uint64_t records) {
    for (std::uint64_t done = 0; done < records;) {
      const std::size_t count = std::min<std::uint64_t>(records_.size(), records - done);
      DEFIB_TRY(commit(done, count));
      done += count;
    }
    return {};
  }

 private:
  Session& session_;
  bool random_;
  std::vector<std::string> keys_;
  std::vector<Record> records_;
};

// The line "NAME: 123" of a file of /proc.
std::uint64_t proc_number(const std::string& path, std::string_view name) {
  const auto text = os::read_file(os::real_files(), path);
  if (!text) return 0;
  const std::size_t at = text->find(std::string(name) + ":");
  if (at == std::string::npos) return 0;
  return std::strtoull(text->c_str() + at + name.size() + 1, nullptr, 10);
}

Result<Json> describe() {
  return Json::object({{"version", engine_version()}});
}

// Single records with new keys from `first` on, until `is_over` says so of the time.
Result<> commit_until(Session& session, std::uint64_t first,
                      const std::function<bool(std::int64_t)>& is_over,
                      std::vector<std::uint32_t>& latencies) {
  for (std::uint64_t number = first;; ++number) {
    const std::string key = make_key(number, true);
    const Record record{key, make_value(number)};
    const std::int64_t start = now();
    if (is_over(start)) return {};
    DEFIB_TRY(session.commit(std::span(&record, 1)));
    latencies.push_back(static_cast<std::uint32_t>(now() - start));
  }
}

Result<Json> commits(const Parameters& parameters) {
  DEFIB_TRY_ASSIGN(auto engine, open_engine(parameters.text("dir"), options_of(parameters)));
  const std::uint64_t threads = parameters.number("threads", 1);
  const auto length = static_cast<std::int64_t>(parameters.real("seconds", 1) * 1e9);
  std::vector<std::vector<std::uint32_t>> latencies(threads);
  std::vector<Result<>> results(threads);
  make_value(0);
  const std::int64_t start = now();
  const auto is_over = [start, length](std::int64_t time) { return time >= start + length; };
  {
    std::vector<std::jthread> workers;
    for (std::uint64_t t = 0; t < threads; ++t) {
      workers.emplace_back([&, t] {
        results[t] = [&]() -> Result<> {
          DEFIB_TRY_ASSIGN(const auto session, engine->session());
          return commit_until(*session, t << 40, is_over, latencies[t]);
        }();
      });
    }
  }
  const double seconds = seconds_since(start);
  std::vector<std::uint32_t> all;
  for (std::uint64_t t = 0; t < threads; ++t) {
    DEFIB_TRY(results[t]);
    all.insert(all.end(), latencies[t].begin(), latencies[t].end());
  }
  return finish(parameters, std::move(engine), latency_json(all, seconds));
}

Result<Json> puts(const Parameters& parameters) {
  const std::string dir = parameters.text("dir");
  const std::uint64_t records = parameters.number("records");
  const std::size_t batch = parameters.number("batch", 1);
  const auto limit = static_cast<std::int64_t>(parameters.real("seconds", 3600) * 1e9);
  make_value(0);
  DEFIB_TRY_ASSIGN(auto acks, SharedNumber::map(parameters.text("acks")));
  DEFIB_TRY_ASSIGN(auto engine, open_engine(dir, options_of(parameters)));
  DEFIB_TRY_ASSIGN(auto session, engine->session());
  Loader loader(*session, random_keys(parameters), batch);
  const std::uint64_t written_before = proc_number("/proc/self/io", "write_bytes");
  const std::uint64_t first = parameters.number("first");
  std::uint64_t done = 0;
  const std::int64_t start = now();
  while (done < records && now() - start < limit) {
    const std::size_t count = std::min<std::uint64_t>(batch, records - done);
    DEFIB_TRY(loader.commit(first + done, count));
    done += count;
    acks.set(first + done);
  }
  const double seconds = seconds_since(start);
  session.reset();
  Json result = Json::object({{"records", done}, {"per_s", static_cast<double>(done) / seconds}});
  if (parameters.number("log") != 0) result.set("log_bytes", log_bytes(dir));
  if (parameters.number("sizes") != 0) {
    result.set("log_bytes", log_bytes(dir));
    DEFIB_TRY(engine->rest());
    DEFIB_TRY(engine->close());
    result.set("resting_bytes", resting_bytes(dir));
    ::sync();
    result.set("written_bytes", proc_number("/proc/self/io", "write_bytes") - written_before);
    return result;
  }
  return finish(parameters, std::move(engine), std::move(result));
}

// Random keys of a bounded space, so that the data stays bounded however long it runs.
Result<Json> churn(const Parameters& parameters) {
  const std::uint64_t key_space = parameters.number("key_space", 1'000'000);
  const std::size_t batch = parameters.number("batch", 100);
  make_value(0);
  DEFIB_TRY_ASSIGN(auto acks, SharedNumber::map(parameters.text("acks")));
  DEFIB_TRY_ASSIGN(const auto engine, open_engine(parameters.text("dir"), options_of(parameters)));
  DEFIB_TRY_ASSIGN(const auto session, engine->session());
  std::uint64_t counter = 0;
  DEFIB_TRY_ASSIGN(const auto before, session->get(kCounterKey));
  if (before && before->size() == 8) counter = load<std::uint64_t>(before->data());
  acks.set(counter);
  fmt::print("{}\n", Json::object({{"counter", counter}}).dump());
  std::fflush(stdout);
  os::Random random(parameters.number("seed", 1));
  std::vector<std::string> keys(batch);
  std::vector<Record> records(batch + 1);
  while (true) {
    for (std::size_t i = 0; i < batch; ++i) {
      const std::uint64_t number = random.below(key_space);
      keys[i] = make_key(number, true);
      records[i] = {keys[i], make_value(number)};
    }
    ++counter;
    records[batch] = {kCounterKey, {reinterpret_cast<const char*>(&counter), sizeof counter}};
    DEFIB_TRY(session->commit(records));
    acks.set(counter);
  }
}

// How many of the records 0..count-1 are missing, or have another value.
struct Audit {
  std::uint64_t missing = 0;
  std::uint64_t wrong = 0;
  std::uint64_t unreadable = 0;  // an error said so
  std::string first_error;
};
Audit audit(Session& session, std::uint64_t count, bool random) {
  Audit found;
  for (std::uint64_t number = 0; number < count; ++number) {
    const auto value = session.get(make_key(number, random));
    if (!value) {
      if (found.unreadable++ == 0) found.first_error = value.error().message();
    } else if (!*value) {
      ++found.missing;
    } else if (**value != make_value(number)) {
      ++found.wrong;
    }
  }
  return found;
}

Result<Json> open(const Parameters& parameters) {
  make_value(0);
  const std::string probe = make_key(parameters.number("probe"), random_keys(parameters));
  const std::int64_t start = now();
  DEFIB_TRY_ASSIGN(auto engine, open_engine(parameters.text("dir"), options_of(parameters)));
  const double open_ms = ms_since(start);
  DEFIB_TRY_ASSIGN(auto session, engine->session());
  DEFIB_TRY_ASSIGN(const auto found, session->get(probe));
  Json result = Json::object(
      {{"open_ms", open_ms}, {"first_read_ms", ms_since(start)}, {"found", found.has_value()}});
  if (parameters.number("count") != 0) {
    DEFIB_TRY_ASSIGN(const ScanTotals totals, session->scan());
    result.set("records", totals.records);
  }
  if (parameters.number("counter") != 0) {
    DEFIB_TRY_ASSIGN(const auto counter, session->get(kCounterKey));
    result.set("counter", counter ? load<std::uint64_t>(counter->data()) : 0);
  }
  if (const std::uint64_t expected = parameters.number("expect"); expected != 0) {
    const Audit audited = audit(*session, expected, random_keys(parameters));
    result.set("missing", audited.missing + audited.unreadable).set("wrong", audited.wrong);
  }
  session.reset();
  return finish(parameters, std::move(engine), std::move(result));
}

Result<Json> reads(const Parameters& parameters) {
  const std::uint64_t records = parameters.number("records");
  const std::uint64_t gets = parameters.number("gets");
  const bool random = random_keys(parameters);
  DEFIB_TRY_ASSIGN(auto engine, open_engine(parameters.text("dir"), options_of(parameters)));
  DEFIB_TRY_ASSIGN(auto session, engine->session());
  if (parameters.number("load") != 0) DEFIB_TRY(Loader(*session, random, 100).load(records));
  DEFIB_TRY_ASSIGN(const ScanTotals warm, session->scan());
  if (warm.records != records) {
    return engine_error(fmt::format("{} records instead of {}", warm.records, records));
  }
  // The keys are made before, so that only reading is timed.
  os::Random order(11);
  std::vector<std::string> keys(gets);
  for (std::string& key : keys) key = make_key(order.below(records), random);
  std::uint64_t checksum = 0;
  const auto read_all = [&](std::size_t count) -> Result<> {
    for (std::size_t i = 0; i < count; ++i) {
      DEFIB_TRY_ASSIGN(const auto value, session->get(keys[i]));
      if (!value) return engine_error("a key is missing");
      checksum += static_cast<unsigned char>(value->front());
    }
    return {};
  };
  DEFIB_TRY(read_all(gets / 10));
  const std::int64_t getting = now();
  DEFIB_TRY(read_all(gets));
  const double get_seconds = seconds_since(getting);
  const std::int64_t scanning = now();
  std::uint64_t scanned = 0;
  while (scanned < 3 * records) {
    DEFIB_TRY_ASSIGN(const ScanTotals totals, session->scan());
    scanned += totals.records;
  }
  const double scan_seconds = seconds_since(scanning);
  session.reset();
  return finish(parameters, std::move(engine),
                Json::object({{"gets_per_s", static_cast<double>(gets) / get_seconds},
                              {"scanned_per_s", static_cast<double>(scanned) / scan_seconds},
                              {"checksum", checksum}}));
}

// The worst that one flipped bit did: a wrong value, a silent loss, an error, or nothing.
Result<Json> flip(const Parameters& parameters) {
  const auto verdict = [](std::string_view outcome, std::uint64_t lost, std::string_view said) {
    return Json::object({{"outcome", outcome}, {"lost", lost}, {"said", said}});
  };
  auto engine = open_engine(parameters.text("dir"), options_of(parameters));
  if (!engine) return verdict("reported", 0, engine.error().message());
  auto session = (*engine)->session();
  if (!session) return verdict("reported", 0, session.error().message());
  const Audit found = audit(**session, parameters.number("records"), true);
  const std::string said = (*engine)->reported_loss() + found.first_error;
  if (found.wrong != 0) return verdict("wrong", found.missing, said);
  if (!said.empty()) return verdict("reported", found.missing, said);
  if (found.missing != 0) return verdict("lost", found.missing, said);
  return verdict("harmless", 0, "");
}

// Of all files but those of the log, which commits make grow.
std::uint64_t bytes_beside_log(const std::string& dir) {
  std::uint64_t bytes = 0;
  std::error_code gone;  // a file that was removed meanwhile counts nothing
  for (auto at = std::filesystem::recursive_directory_iterator(dir, gone);
       at != std::filesystem::recursive_directory_iterator(); at.increment(gone)) {
    if (at->path().filename() == "wal") at.disable_recursion_pending();
    if (at->is_regular_file(gone)) bytes += at->file_size(gone);
    if (gone) break;
  }
  return bytes;
}

// A checkpoint of everything, as many small ones as it takes to merge, and the end of the merging,
// which shows in the sizes of the files.
Result<> checkpoint_and_merge(Engine& engine, const std::string& dir) {
  constexpr int kCheckpoints = 10;
  constexpr auto kPause = std::chrono::milliseconds(200);
  constexpr int kStill = 10;     // pauses without a change: it is over
  constexpr int kLongest = 600;  // pauses, after which it counts as over
  for (int i = 0; i < kCheckpoints; ++i) {
    DEFIB_TRY(engine.rest());
    os::real_clock().sleep_for(kPause);
  }
  std::uint64_t last = bytes_beside_log(dir);
  int still = 0;
  for (int i = 0; i < kLongest && still < kStill; ++i) {
    os::real_clock().sleep_for(kPause);
    const std::uint64_t bytes = bytes_beside_log(dir);
    still = bytes == last ? still + 1 : 0;
    last = bytes;
  }
  return {};
}

// Everything in the log and in memory; then commits alone, then beside checkpoint and merge.
Result<Json> checkpoint_latency(const Parameters& parameters) {
  const std::string dir = parameters.text("dir");
  const std::uint64_t records = parameters.number("records");
  const auto length = static_cast<std::int64_t>(parameters.real("seconds", 4) * 1e9);
  DEFIB_TRY_ASSIGN(auto engine, open_engine(dir, options_of(parameters)));
  DEFIB_TRY_ASSIGN(auto session, engine->session());
  DEFIB_TRY(Loader(*session, true, 10'000).load(records));
  ::sync();
  std::vector<std::uint32_t> idle;
  const std::int64_t idle_start = now();
  DEFIB_TRY(commit_until(
      *session, records, [&](std::int64_t time) { return time >= idle_start + length; }, idle));
  Json result = Json::object({{"idle", latency_json(idle, seconds_since(idle_start))}});

  std::vector<std::uint32_t> busy;
  std::atomic<bool> is_over = false;
  Result<> checkpointed;
  const std::int64_t busy_start = now();
  {
    const std::jthread checkpointing([&] {
      checkpointed = checkpoint_and_merge(*engine, dir);
      is_over = true;
    });
    DEFIB_TRY(
        commit_until(*session, 2 * records, [&](std::int64_t) { return is_over.load(); }, busy));
  }
  DEFIB_TRY(checkpointed);
  const double seconds = seconds_since(busy_start);
  result.set("busy", latency_json(busy, seconds)).set("seconds", seconds);
  session.reset();
  return finish(parameters, std::move(engine), std::move(result));
}

// The largest parts of the proportional memory, in bytes, from here to largest().
struct MemoryUse {
  std::uint64_t anonymous = 0;
  std::uint64_t of_files = 0;  // mapped ones
  static MemoryUse now() {
    constexpr std::string_view kPath = "/proc/self/smaps_rollup";
    return {proc_number(std::string(kPath), "Pss_Anon") * 1024,
            proc_number(std::string(kPath), "Pss_File") * 1024};
  }
};
class MemoryWatch {
 public:
  MemoryWatch() : watcher_([this](const std::stop_token& stop) { watch(stop); }) {}
  MemoryUse largest() {
    watcher_.request_stop();
    watcher_.join();
    sample();
    return largest_;
  }

 private:
  void watch(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      sample();
      os::real_clock().sleep_for(std::chrono::milliseconds(50));
    }
  }
  void sample() {
    const MemoryUse use = MemoryUse::now();
    largest_.anonymous = std::max(largest_.anonymous, use.anonymous);
    largest_.of_files = std::max(largest_.of_files, use.of_files);
  }
  MemoryUse largest_;
  std::jthread watcher_;
};

Result<Json> memory(const Parameters& parameters) {
  const std::uint64_t records = parameters.number("records");
  make_value(0);
  const MemoryUse before = MemoryUse::now();
  DEFIB_TRY_ASSIGN(auto engine, open_engine(parameters.text("dir"), options_of(parameters)));
  DEFIB_TRY_ASSIGN(auto session, engine->session());
  MemoryWatch watch;
  DEFIB_TRY(Loader(*session, true, 100).load(records));
  os::Random random(3);
  for (std::uint64_t i = 0; i < records / 10; ++i) {
    DEFIB_TRY(session->get(make_key(random.below(records), true)));
  }
  DEFIB_TRY(session->scan());
  const MemoryUse largest = watch.largest();
  session.reset();
  return finish(parameters, std::move(engine),
                Json::object({{"anonymous_bytes", largest.anonymous - before.anonymous},
                              {"file_bytes", largest.of_files - before.of_files}}));
}

struct Task {
  std::string_view name;
  Result<Json> (*run)(const Parameters&);
};
constexpr std::array kTasks = {
    Task{"commits", commits}, Task{"puts", puts},
    Task{"churn", churn},     Task{"open", open},
    Task{"reads", reads},     Task{"flip", flip},
    Task{"memory", memory},   Task{"checkpoint_latency", checkpoint_latency},
};

}  // namespace

Result<Json> run_task(const std::string& name, const Parameters& parameters) {
  if (name == "describe") return describe();
  for (const Task& task : kTasks) {
    if (task.name == name) return task.run(parameters);
  }
  return Error(Code::kWrongUsage, "there is no task '" + name + "'");
}

}  // namespace defib::bench

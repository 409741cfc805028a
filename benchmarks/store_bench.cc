// store_bench: the store beside the limits of the disk, measured in the same run.
//
//   durable commits   one thread, one record a commit, against a raw loop of write + fdatasync over
//                     a file that was filled with zeros before
//   shared syncs      16 threads, against raw writes of 16 records a sync
//   kills             commits that survive a kill -9 only; no peer but the raw write without a sync
//   replay            opening after a crash, records a second
//
// Each figure is the median of five runs; ours and the peer's runs alternate. Prints one JSON
// object a line with --json, else a table for people.

#include <fmt/core.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/files.h"
#include "defib/os/random.h"
#include "defib/store/store.h"
#include "defib/wire/json.h"

namespace defib::store {
namespace {

constexpr int kRuns = 5;
constexpr std::size_t kKeySize = 16;
constexpr std::size_t kValueSize = 100;
constexpr std::size_t kRecordSize = kKeySize + kValueSize + 16;

double seconds_of(const std::function<void()>& work) {
  const std::int64_t start = os::real_clock().mono_ns();
  work();
  return static_cast<double>(os::real_clock().mono_ns() - start) / 1e9;
}

void must(const Result<>& done) {
  if (done) return;
  fmt::print(stderr, "{}\n", done.error().to_text());
  std::exit(1);
}
template <typename T>
T must(Result<T> value) {
  if (!value) must(Result<>(value.error()));
  return *std::move(value);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

std::string key_of(std::uint64_t number) {
  return fmt::format("{:016x}", number * 0x9e3779b97f4a7c15);
}

class Bench {
 public:
  Bench(std::string root, bool json) : root_(std::move(root)), json_(json) {}

  void run() {
    compare(
        "durable commits, 1 thread", "commits/s", [this] { return commits(1, 2000); },
        "raw write+fdatasync, zeroed file", [this] { return raw(1, 2000); });
    compare(
        "durable commits, 16 threads", "commits/s", [this] { return commits(16, 600); },
        "raw, 16 records a sync", [this] { return raw(16, 1000); });
    compare(
        "commits that survive kill -9, 1 thread", "commits/s", [this] { return kill_commits(); },
        "raw write without sync", [this] { return raw(0, 100'000); });
    compare(
        "replay of 500,000 random records", "records/s", [this] { return replay(500'000); }, "",
        nullptr);
  }

 private:
  void compare(const std::string& name, const std::string& unit,
               const std::function<double()>& ours, const std::string& peer_name,
               const std::function<double()>& peer) {
    std::vector<double> our_values;
    std::vector<double> peer_values;
    for (int i = 0; i < kRuns; ++i) {
      our_values.push_back(ours());
      if (peer) peer_values.push_back(peer());
    }
    const double our_median = median(our_values);
    wire::Json row = wire::Json::object({{"bench", "store"},
                                         {"case", name},
                                         {"metric", "throughput"},
                                         {"unit", unit},
                                         {"ours", our_median},
                                         {"peer_name", peer_name},
                                         {"peer", wire::Json()},
                                         {"ratio", wire::Json()},
                                         {"limit", wire::Json()},
                                         {"runs", kRuns}});
    if (peer) {
      const double peer_median = median(peer_values);
      row.set("peer", peer_median).set("ratio", our_median / peer_median).set("limit", peer_median);
    }
    if (json_) {
      fmt::print("{}\n", row.dump());
    } else {
      fmt::print("{:<42} {:>12.0f} {}", name, our_median, unit);
      if (peer) {
        fmt::print("   {}: {:.0f}, ratio {:.2f}", peer_name, row["peer"].as_double(),
                   row["ratio"].as_double());
      }
      fmt::print("\n");
    }
    std::fflush(stdout);
  }

  std::string fresh_dir() {
    const std::string dir = os::join_path(root_, fmt::format("{}", ++dirs_));
    if (dirs_ > 1) std::filesystem::remove_all(os::join_path(root_, fmt::format("{}", dirs_ - 1)));
    return dir;
  }

  double commits(int threads, int each) {
    Options options;
    options.checkpoint_after = 0;
    const auto store = must(Store::open(fresh_dir(), options));
    const std::string value(kValueSize, 'v');
    const double seconds = seconds_of([&] {
      std::vector<std::thread> workers;
      for (int t = 0; t < threads; ++t) {
        workers.emplace_back([&, t] {
          for (int i = 0; i < each; ++i) {
            must(put(*store, "t", key_of(static_cast<std::uint64_t>(t * each + i)), value,
                     Durability::kPower));
          }
        });
      }
      for (std::thread& worker : workers) worker.join();
    });
    return threads * each / seconds;
  }

  double kill_commits() {
    constexpr int kCount = 100'000;
    Options options;
    options.checkpoint_after = 0;
    const auto store = must(Store::open(fresh_dir(), options));
    const std::string value(kValueSize, 'v');
    const double seconds = seconds_of([&] {
      for (std::uint64_t i = 0; i < kCount; ++i) {
        must(put(*store, "t", key_of(i), value, Durability::kProcess));
      }
    });
    return kCount / seconds;
  }

  // `batch` records in a write, then a sync; 0: one record in a write, and no sync.
  double raw(int batch, int writes) {
    const std::string dir = fresh_dir();
    must(os::real_files().create_dirs(dir));
    const auto file = must(os::real_files().open(os::join_path(dir, "raw"), os::OpenMode::kCreate));
    const std::size_t size = kRecordSize * static_cast<std::size_t>(std::max(batch, 1));
    const std::string zeros(1 << 20, '\0');
    for (std::uint64_t at = 0; at < size * static_cast<std::size_t>(writes); at += zeros.size()) {
      must(file->write_at(at, zeros));
    }
    must(file->sync());
    const std::string record(size, 'r');
    const double seconds = seconds_of([&] {
      for (int i = 0; i < writes; ++i) {
        must(file->write_at(size * static_cast<std::size_t>(i), record));
        if (batch > 0) must(file->sync());
      }
    });
    return writes * std::max(batch, 1) / seconds;
  }

  double replay(int records) {
    const std::string dir = fresh_dir();
    Options options;
    options.checkpoint_after = 0;
    {
      const auto store = must(Store::open(dir, options));
      const std::string value(kValueSize, 'v');
      std::unique_ptr<Transaction> transaction;
      for (int i = 0; i < records; ++i) {
        if (transaction == nullptr) transaction = must(store->begin());
        must(transaction->put("t", key_of(static_cast<std::uint64_t>(i)), value));
        if (i % 100 == 99) {
          must(transaction->commit(Durability::kProcess));
          transaction.reset();
        }
      }
      if (transaction != nullptr) must(transaction->commit(Durability::kProcess));
      must(store->sync());
    }
    std::unique_ptr<Store> store;
    const double seconds = seconds_of([&] { store = must(Store::open(dir, options)); });
    return records / seconds;
  }

  std::string root_;
  bool json_;
  int dirs_ = 0;
};

}  // namespace
}  // namespace defib::store

int main(int argc, char** argv) {
  const bool json = argc > 1 && std::strcmp(argv[1], "--json") == 0;
  const std::string root =
      (std::filesystem::temp_directory_path() / ("defib-store-bench-" + defib::os::random_hex(4)))
          .string();
  defib::store::Bench(root, json).run();
  std::filesystem::remove_all(root);
  return 0;
}

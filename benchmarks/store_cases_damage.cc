// One flipped bit anywhere in a store's files: what each engine makes of it.
//
// Every trial is a fresh process on a directory of its own: for the peers a copy of one that was
// written once, for ours a store that was written for this trial, since a copy would share its
// identity. Not a timing, so that several trials run at a time.

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <thread>

#include "benchmarks/store_harness.h"
#include "defib/os/files.h"
#include "defib/os/random.h"

namespace defib::bench {
namespace {

using wire::Json;

constexpr std::size_t kBlock = 4096;
constexpr auto kTrialTimeout = std::chrono::seconds(30);
constexpr std::uint64_t kSegment = 4 << 20;  // of our log: little to fill for each trial
constexpr int kWorkers = 4;
constexpr std::array<std::string_view, 5> kOutcomes = {"lost", "wrong", "crash", "reported",
                                                       "harmless"};

struct State {
  std::string name;
  std::string then;  // how the writer ends
  bool all_in_log;
  std::vector<std::string> peers;
};

// The files of a directory in memory, without the blocks that are all zeros: those of a file that
// was made larger in advance are no place where a flipped bit could do harm to anybody.
class Image {
 public:
  static Image of(const std::string& dir) {
    Image image;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(dir)) {
      if (!entry.is_regular_file() || entry.is_symlink()) continue;
      image.add(std::filesystem::relative(entry.path(), dir).string(), entry.path().string(),
                entry.file_size());
    }
    // The order of a directory is the file system's own; a seed is to mean the same bit.
    std::ranges::sort(image.files_, {}, &File::name);
    return image;
  }

  Result<> write_to(const std::string& dir) const {
    for (const File& file : files_) {
      const std::string path = os::join_path(dir, file.name);
      DEFIB_TRY(os::real_files().create_dirs(os::parent_dir(path)));
      DEFIB_TRY_ASSIGN(const auto out, os::real_files().open(path, os::OpenMode::kCreateNew));
      DEFIB_TRY(out->truncate(file.size));
      for (const Block& block : file.blocks) DEFIB_TRY(out->write_at(block.offset, block.bytes));
    }
    return {};
  }

  // In the files of `dir`, which are those of the image.
  Result<> flip_a_bit(const std::string& dir, os::Random& random) const {
    std::uint64_t at = random.below(filled_);
    for (const File& file : files_) {
      for (const Block& block : file.blocks) {
        if (at >= block.bytes.size()) {
          at -= block.bytes.size();
          continue;
        }
        const std::string path = os::join_path(dir, file.name);
        DEFIB_TRY_ASSIGN(const auto out, os::real_files().open(path, os::OpenMode::kWrite));
        const char byte = static_cast<char>(block.bytes[at] ^ (1 << random.below(8)));
        return out->write_at(block.offset + at, {&byte, 1});
      }
    }
    return {};
  }

 private:
  struct Block {
    std::uint64_t offset;
    std::string bytes;
  };
  struct File {
    std::string name;
    std::uint64_t size;
    std::vector<Block> blocks;
  };

  void add(std::string name, const std::string& path, std::uint64_t size) {
    const auto in = os::real_files().open(path, os::OpenMode::kRead);
    if (!in) return;
    File file{std::move(name), size, {}};
    for (std::uint64_t at = 0; at < size; at += kBlock) {
      std::string bytes(kBlock, '\0');
      const auto count = (*in)->read_at(at, bytes.data(), bytes.size());
      if (!count || *count == 0) break;
      bytes.resize(*count);
      if (bytes.find_first_not_of('\0') == std::string::npos) continue;
      filled_ += bytes.size();
      file.blocks.push_back({at, std::move(bytes)});
    }
    files_.push_back(std::move(file));
  }

  std::vector<File> files_;
  std::uint64_t filled_ = 0;  // bytes in blocks
};

Words options_of(const State& state, const std::string& dir) {
  Words words = {word("dir", dir), word("synced", 1.0), word("segment_size", kSegment)};
  if (state.all_in_log) words.push_back(word("all_in_log", 1.0));
  return words;
}

bool write_store(Harness& harness, const Contender& who, const State& state,
                 const std::string& dir) {
  Words words = options_of(state, dir);
  words.push_back(word("records", harness.scale().flip_records));
  words.push_back(word("batch", 100.0));
  words.push_back(word("then", state.then));
  const bool is_killed = state.then.ends_with("hold");
  return (is_killed ? harness.run_and_kill(who, "puts", words) : harness.run(who, "puts", words))
      .has_value();
}

std::string read_store(Harness& harness, const Contender& who, const State& state,
                       const std::string& dir) {
  Words words = options_of(state, dir);
  words.push_back(word("records", harness.scale().flip_records));
  auto reader = harness.start(who, "flip", words, true);
  if (!reader) return "crash";
  const auto result = reader->line(kTrialTimeout);
  const os::ExitStatus status = result ? reader->wait() : reader->kill();
  return result && status.success() ? std::string((*result)["outcome"].as_string()) : "crash";
}

// The trials of one engine in one state.
class Trials {
 public:
  Trials(Harness& harness, const Contender& who, const State& state)
      : harness_(harness), who_(who), state_(state), root_(harness.fresh_dir()) {
    std::filesystem::create_directories(root_);
  }
  ~Trials() { harness_.drop(root_); }

  // How often each outcome; none where the engine could not write its data.
  std::optional<std::map<std::string, int>> run() {
    const bool is_ours = who_.name == harness_.ours().name;
    if (!is_ours) {
      const std::string dir = os::join_path(root_, "first");
      if (!write_store(harness_, who_, state_, dir)) return std::nullopt;
      shared_ = Image::of(dir);
    }
    {
      std::vector<std::jthread> workers;
      for (int first = 0; first < kWorkers; ++first) {
        workers.emplace_back([this, first] {
          for (int i = first; i < harness_.scale().flips; i += kWorkers) trial(i);
        });
      }
    }
    if (failed_) return std::nullopt;
    return outcomes_;
  }

 private:
  void trial(int number) {
    const std::string dir = os::join_path(root_, fmt::format("{}", number));
    const Result<> flipped = prepare(dir, number);
    const std::string outcome = flipped ? read_store(harness_, who_, state_, dir) : "";
    harness_.drop(dir);
    const std::lock_guard lock(mutex_);
    if (flipped) {
      ++outcomes_[outcome];
    } else {
      failed_ = true;
    }
  }

  Result<> prepare(const std::string& dir, int number) {
    os::Random random(static_cast<std::uint64_t>(number) + 1);
    if (shared_) {
      DEFIB_TRY(shared_->write_to(dir));
      return shared_->flip_a_bit(dir, random);
    }
    if (!write_store(harness_, who_, state_, dir)) {
      return Error(Code::kUnavailable, "the store could not be written");
    }
    return Image::of(dir).flip_a_bit(dir, random);
  }

  Harness& harness_;
  const Contender& who_;
  const State& state_;
  std::string root_;
  std::optional<Image> shared_;
  std::mutex mutex_;  // guards what follows
  std::map<std::string, int> outcomes_;
  bool failed_ = false;
};

}  // namespace

void flip_case(Harness& harness) {
  const int flips = harness.scale().flips;
  const std::vector<State> states = {
      {"in the log", "hold", true, {"RocksDB", "LevelDB", "SQLite"}},
      {"checkpointed", "rest_hold", false, {"RocksDB", "LevelDB", "LMDB", "SQLite"}},
      {"closed", "rest", false, {"RocksDB", "LevelDB", "LMDB", "SQLite"}},
  };
  for (const State& state : states) {
    std::map<std::string, std::map<std::string, int>> found;
    for (const Contender* who : harness.contenders(state.peers)) {
      if (const auto outcomes = Trials(harness, *who, state).run(); outcomes) {
        found[who->name] = *outcomes;
      }
    }
    const auto count = [&](const std::string& who, std::string_view outcome) {
      return static_cast<double>(found[who][std::string(outcome)]);
    };
    const std::string name = fmt::format("one flipped bit, {} trials, {}", flips, state.name);
    const std::string ours = harness.ours().name;
    for (const std::string_view outcome : kOutcomes) {
      const bool is_harm = outcome != "reported" && outcome != "harmless";
      const Target target = is_harm ? Target{Bound::kAtMost, 0} : Target{};
      std::string metric(outcome);
      if (outcome == "lost") metric = "acknowledged keys silently lost";
      if (outcome == "wrong") metric = "wrong value returned";
      harness.row({name, metric, "trials", count(ours, outcome), "", {}, {}, target, flips});
      for (const std::string& peer : state.peers) {
        if (!found.contains(peer)) continue;
        harness.row({name,
                     metric,
                     "trials",
                     count(ours, outcome),
                     peer,
                     count(peer, outcome),
                     {},
                     {},
                     flips});
      }
    }
  }
}

}  // namespace defib::bench

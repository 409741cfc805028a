// LogCampaign: the log writer on the simulated disk, crashed after every operation, and the log
// reader over what is left.
//
// The oracle, for a crash after operation n:
//   - the log is accepted, and ends with a commit p: at least the last one that was acknowledged
//     before n (as durable against this kind of crash), at most the last one begun;
//   - the transactions up to p are the ones that were written;
//   - where nothing was on its way, nothing is cut and nothing is reported;
//   - after a mere kill nothing is reported as a possible loss: the watermark knows;
//   - a damaged last block that was acknowledged is found out, after a kill always;
//   - a segment that was removed and held something acknowledged is missed, always;
//   - a further writer goes on from there, and what it makes durable is there after another crash.
//
// Thread rule: one thread.

#pragma once

#include <fmt/core.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "defib/os/clock.h"
#include "defib/os/random.h"
#include "defib/os/sim_files.h"
#include "defib/store/log_head.h"
#include "defib/store/log_reader.h"
#include "defib/store/log_writer.h"
#include "defib/store/testing/recording.h"

namespace defib::store::testing_util {

// How the program above the log misuses it; the log's own bugs sit between it and the disk.
struct LogMisuse {
  bool acknowledges_before_sync = false;
  bool watermark_before_write = false;
  bool watermark_never_stored = false;
  bool reader_ignores_watermark = false;
  bool reader_ignores_head = false;
};
using FilesWrapper = std::function<std::unique_ptr<os::Files>(os::SimFiles&)>;

// What the log builds on, as a manifest would say it.
struct LogBaseAt {
  std::size_t operation = 0;
  LogBase base;
};

class LogRecording {
 public:
  static constexpr std::uint64_t kSegmentSize = 16 << 10;

  LogRecording(std::uint64_t seed, const FilesWrapper& wrapper, LogMisuse misuse)
      : misuse_(misuse), random_(seed) {
    identity_.uuid = std::string(kUuidSize, '7');
    EXPECT_TRUE(disk_.create_dirs("/s/wal").has_value());
    EXPECT_TRUE(disk_.sync_dir("/s").has_value());
    EXPECT_TRUE(disk_.sync_dir("/").has_value());
    EXPECT_TRUE(write_log_head(disk_, "/s", no_segment(identity_.uuid)).has_value());
    if (wrapper) wrapped_ = wrapper(disk_);
    start_operations_ = disk_.operations();
    open();
  }

  os::SimFiles& disk() { return disk_; }
  const Identity& identity() const { return identity_; }
  std::size_t start_operations() const { return start_operations_; }
  LogWriter& log() { return *log_; }
  SteppedExecutor& executor() { return executor_; }
  os::Random& random() { return random_; }

  // Appends a few transactions; the smallest are 40 bytes.
  Result<> append(std::size_t transactions, std::size_t value_size) {
    const std::uint64_t first = log_->written_lsn() + 1;
    std::vector<std::string> own;
    for (std::size_t i = 0; i < transactions; ++i) {
      TransactionEncoder encoder;
      encoder.put("t", fmt::format("key {}", random_.below(50)),
                  std::string(random_.below(value_size + 1), 'v') + std::to_string(first + i));
      own.push_back(encoder.finish(first + i));
    }
    const std::vector<std::string_view> views(own.begin(), own.end());
    begun_.push_back({disk_.operations(), first + transactions - 1});
    // A try on a full disk never happened; its numbers are given again.
    for (std::size_t i = 0; i < transactions; ++i) written_[first + i].push_back(own[i]);
    if (misuse_.watermark_before_write) log_->acknowledge(first + transactions - 1);
    DEFIB_TRY(log_->append(first, views));
    return {};
  }
  void acknowledge_written() {
    if (!misuse_.watermark_never_stored) log_->acknowledge(log_->written_lsn());
    acknowledged_.push_back({disk_.operations(), log_->written_lsn(), false});
  }
  Result<> sync() {
    const std::uint64_t lsn = log_->written_lsn();
    if (misuse_.acknowledges_before_sync) acknowledged_.push_back({disk_.operations(), lsn, true});
    DEFIB_TRY(log_->sync());
    if (!misuse_.watermark_never_stored) log_->acknowledge(lsn);
    acknowledged_.push_back({disk_.operations(), lsn, true});
    return {};
  }
  // As a checkpoint does: ends the segment, notes what the log builds on, lets segments go.
  Result<> retire(std::uint64_t retain_bytes) {
    DEFIB_TRY(log_->rotate());
    acknowledged_.push_back({disk_.operations(), log_->written_lsn(), true});
    bases_.push_back({disk_.operations(),
                      {.lsn = log_->written_lsn(),
                       .epoch = log_->epoch(),
                       .chain_crc = log_->chain_crc(),
                       .chain_known = log_->written_lsn() > 0}});
    return log_->retire(log_->written_lsn(), retain_bytes);
  }
  // Another life of the program, which recovered what is there; the machine goes on.
  void reopen() {
    const std::uint64_t last = log_->written_lsn();
    const std::uint32_t chain = log_->chain_crc();
    EXPECT_TRUE(sync().has_value());
    log_.reset();
    executor_.clear();
    open(last, chain);
  }
  void drop() {
    log_.reset();
    executor_.clear();
  }

  std::uint64_t required(std::size_t operations, bool power) const {
    std::uint64_t lsn = 0;
    for (const Ack& ack : acknowledged_) {
      if (ack.operation <= operations && (ack.power || !power)) lsn = std::max(lsn, ack.lsn);
    }
    return lsn;
  }
  std::uint64_t possible(std::size_t operations) const {
    std::uint64_t lsn = 0;
    for (const auto& [operation, number] : begun_) {
      if (operation <= operations) lsn = std::max(lsn, number);
    }
    return lsn;
  }
  std::optional<LogBase> base(std::size_t operations) const {
    std::optional<LogBase> base;
    for (const LogBaseAt& at : bases_) {
      if (at.operation <= operations) base = at.base;
    }
    return base;
  }
  bool is_written(std::uint64_t lsn, std::string_view payload) const {
    const auto at = written_.find(lsn);
    return at != written_.end() && std::ranges::count(at->second, payload) > 0;
  }

 private:
  struct Ack {
    std::size_t operation;
    std::uint64_t lsn;
    bool power;
  };
  void open(std::uint64_t last = 0, std::uint32_t chain = 0) {
    os::Files& files = wrapped_ != nullptr ? *wrapped_ : disk_;
    log_ = std::make_unique<LogWriter>(files, clock_,
                                       LogWriter::Start{.dir = "/s",
                                                        .identity = identity_,
                                                        .epoch = ++epoch_,
                                                        .last_lsn = last,
                                                        .chain_crc = chain,
                                                        .segment_size = kSegmentSize,
                                                        .executor = &executor_});
  }

  const LogMisuse misuse_;
  os::SimFiles disk_;
  os::FakeClock clock_;
  SteppedExecutor executor_;
  os::Random random_;
  std::unique_ptr<os::Files> wrapped_;
  Identity identity_;
  std::size_t start_operations_ = 0;
  std::uint64_t epoch_ = 0;
  std::unique_ptr<LogWriter> log_;
  std::vector<std::pair<std::size_t, std::uint64_t>> begun_;
  std::vector<Ack> acknowledged_;
  std::vector<LogBaseAt> bases_;
  std::map<std::uint64_t, std::vector<std::string>> written_;
};

class LogCampaign {
 public:
  struct Settings {
    std::uint64_t seed = 1;
    std::uint64_t seeds_per_point = 4;
    FilesWrapper wrapper;
    LogMisuse misuse;
  };
  explicit LogCampaign(Settings settings) : settings_(std::move(settings)) {}

  // Until the first violation.
  void run(const std::function<void(LogRecording&)>& workload) {
    LogRecording recording(settings_.seed, settings_.wrapper, settings_.misuse);
    workload(recording);
    recording.drop();
    const std::size_t operations = recording.disk().operations();
    for (std::size_t n = recording.start_operations(); n <= operations; ++n) {
      for (std::uint64_t i = 0; i <= settings_.seeds_per_point && violation_.empty(); ++i) {
        point(recording, n, settings_.seed * 1'000'003 + n * 101 + i, i > 0);
      }
    }
  }
  std::uint64_t crash_points() const { return crash_points_; }
  const std::string& violation() const { return violation_; }

 private:
  struct Look {
    std::vector<Segment> segments;
    LogAssessment log;
  };

  void point(LogRecording& recording, std::size_t n, std::uint64_t seed, bool power) {
    ++crash_points_;
    where_ = fmt::format("seed {}, {} after operation {} of {} ({}), disk seed {}", settings_.seed,
                         power ? "power failure" : "kill", n, recording.disk().operations(),
                         recording.disk().describe_operation(n - 1), seed);
    const auto image = power ? recording.disk().crashed(n, seed) : recording.disk().killed(n, seed);
    os::FakeClock clock;
    if (power) clock.reboot(std::chrono::seconds(1));
    const std::uint64_t required = recording.required(n, power);
    const std::uint64_t possible = recording.possible(n);
    const std::optional<LogBase> base = recording.base(n);
    const auto look = take_look(*image, recording.identity(), base, clock);
    if (!look) return violate("the log is refused: " + look.error().to_line());
    const LogAssessment& log = look->log;
    if (log.last_lsn < required) {
      return violate(
          fmt::format("commit {} was acknowledged, the log ends with {}", required, log.last_lsn));
    }
    if (log.last_lsn > possible) {
      return violate(fmt::format("commit {} was never begun", log.last_lsn));
    }
    check_content(recording, *look, base ? base->lsn : 0);
    if (required == possible && (log.cut || !log.notes.empty())) {
      return violate("nothing was on its way, but: " +
                     (log.cut ? "cut, " + log.cut->reason : log.notes[0]));
    }
    if (!power && log.cut && log.cut->loss_possible) {
      return violate("a possible loss after a kill: " + log.notes[0]);
    }
    if (violation_.empty()) check_removal(*image, recording, base, clock, *look, required);
    if (!power && violation_.empty()) check_rot(*image, recording, base, clock, *look, required);
    if (violation_.empty()) go_on(*image, recording, base, clock, *look);
  }

  Result<Look> take_look(os::SimFiles& image, const Identity& identity,
                         const std::optional<LogBase>& base, const os::Clock& clock) {
    Look look;
    DEFIB_TRY_ASSIGN(const auto names, list_segments(image, "/s"));
    DEFIB_TRY_ASSIGN(look.segments, scan_segments(image, "/s", names, identity,
                                                  {.mode = ReadMode::kMap}, nullptr));
    LogContext context;
    context.identity = identity;
    context.base = base;
    context.boot_id = clock.boot_id();
    if (!settings_.misuse.reader_ignores_watermark) {
      context.ack_word = read_ack_word(image, identity.uuid);
    }
    if (!settings_.misuse.reader_ignores_head) {
      LogHead head = read_log_head(image, "/s", identity.uuid);
      context.newest = std::move(head.newest);
      context.newest_unknown = std::move(head.problem);
    }
    DEFIB_TRY_ASSIGN(look.log, assess_log(look.segments, context));
    return look;
  }

  void check_removal(os::SimFiles& image, const LogRecording& recording,
                     const std::optional<LogBase>& base, const os::Clock& clock, const Look& look,
                     std::uint64_t required) {
    for (const std::size_t index : look.log.live) {
      const Segment& segment = look.segments[index];
      const auto copy = image.killed(image.operations(), 0);
      EXPECT_TRUE(copy->remove("/s/wal/" + segment.name).has_value());
      const auto found = take_look(*copy, recording.identity(), base, clock);
      if (found && found->log.last_lsn < required) {
        violate(
            fmt::format("segment {} was removed, commit {} was acknowledged, and the log is "
                        "accepted and ends with {}",
                        segment.name, required, found->log.last_lsn));
      }
    }
  }

  void check_content(const LogRecording& recording, const Look& look, std::uint64_t after) {
    std::uint64_t next = after + 1;
    for (const std::size_t index : look.log.live) {
      const Segment& segment = look.segments[index];
      for (const ScannedBlock& block : segment.blocks()) {
        std::string problem;
        const auto decoded = decode_transactions(segment.payload(block), block.header.first_lsn,
                                                 block.header.count, problem);
        if (!decoded) return violate("a block that does not decode: " + problem);
        std::string_view rest = segment.payload(block);
        for (const TransactionView& transaction : *decoded) {
          const std::size_t size = transaction_size(transaction);
          if (transaction.number == next) {
            if (!recording.is_written(next, rest.substr(0, size))) {
              return violate(fmt::format("commit {} is not what was written", next));
            }
            ++next;
          }
          rest.remove_prefix(size);
        }
      }
    }
    if (next != look.log.last_lsn + 1) {
      violate(fmt::format("the log ends with {}, its blocks with {}", look.log.last_lsn, next - 1));
    }
  }
  static std::size_t transaction_size(const TransactionView& transaction) {
    std::size_t size = 13 + 9;
    for (const RecordView& change : transaction.changes) {
      size += 8 + change.table.size() + change.key.size() + change.value.size();
    }
    return size;
  }

  // One bit of the last block that was acknowledged: the reader must not take it for torn.
  void check_rot(os::SimFiles& image, const LogRecording& recording,
                 const std::optional<LogBase>& base, const os::Clock& clock, const Look& look,
                 std::uint64_t required) {
    if (look.log.live.empty() || required <= (base ? base->lsn : 0)) return;
    const Segment& segment = look.segments[look.log.live.back()];
    const ScannedBlock* target = nullptr;
    ScannedBlock found;
    for (const ScannedBlock& block : segment.blocks()) {
      if (block.header.count == 0 || block.header.first_lsn > required) continue;
      found = block;
      target = &found;
    }
    if (target == nullptr) return;
    const std::string path = "/s/wal/" + segment.name;
    const auto copy = image.killed(image.operations(), 0);
    std::string bytes = copy->content(path);
    bytes[target->offset + kBlockHeaderSize + 5] ^= 1;
    copy->set_content(path, std::move(bytes));
    if (take_look(*copy, recording.identity(), base, clock)) {
      violate(fmt::format("commit {} was acknowledged and is damaged, and the log is accepted",
                          target->header.first_lsn));
    }
  }

  // The next life: cut what is torn, append, lose power, and find it again.
  void go_on(os::SimFiles& image, const LogRecording& recording, const std::optional<LogBase>& base,
             const os::FakeClock& clock, const Look& look) {
    // What a killed process wrote may stand in the page cache alone.
    for (const Segment& segment : look.segments) {
      const auto file = *image.open("/s/wal/" + segment.name, os::OpenMode::kWrite);
      EXPECT_TRUE(file->sync().has_value());
    }
    EXPECT_TRUE(image.sync_dir("/s/wal").has_value());
    if (look.log.cut) {
      const auto file = *image.open("/s/wal/" + look.log.cut->segment, os::OpenMode::kWrite);
      const std::uint64_t end = look.log.cut->offset;
      EXPECT_TRUE(file->truncate(end) && file->truncate(align_up(end + 64, kPageSize)) &&
                  file->sync());
    }
    for (const std::string& name : look.log.obsolete) {
      EXPECT_TRUE(image.remove("/s/wal/" + name).has_value());
    }
    SteppedExecutor executor;
    LogWriter log(image, clock,
                  {.dir = "/s",
                   .identity = recording.identity(),
                   .epoch = look.log.epoch + 1,
                   .last_lsn = look.log.last_lsn,
                   .chain_crc = look.log.chain_known ? look.log.chain_crc : 0,
                   .segment_size = LogRecording::kSegmentSize,
                   .executor = &executor});
    TransactionEncoder encoder;
    encoder.put("t", "after", "the crash");
    const std::string payload = encoder.finish(look.log.last_lsn + 1);
    const std::string_view one = payload;
    if (!log.append(look.log.last_lsn + 1, {&one, 1}) || !log.sync()) {
      return violate("no commit after recovery");
    }
    executor.run_all();
    os::FakeClock later;
    later.reboot(std::chrono::seconds(2));
    const auto again = image.crashed(image.operations(), image.operations());
    const auto found = take_look(*again, recording.identity(), base, later);
    if (!found) return violate("a second recovery refuses: " + found.error().to_line());
    if (found->log.last_lsn != look.log.last_lsn + 1) {
      violate(fmt::format("a commit after recovery is gone: the log ends with {}",
                          found->log.last_lsn));
    }
  }

  void violate(std::string what) {
    if (violation_.empty()) violation_ = where_ + ": " + std::move(what);
  }

  Settings settings_;
  std::uint64_t crash_points_ = 0;
  std::string where_;
  std::string violation_;
};

// A bit of everything that the writer can do.
inline void log_workload(LogRecording& r) {
  for (int step = 0; step < 40; ++step) {
    switch (r.random().below(8)) {
      case 0:
      case 1:
        ASSERT_TRUE(r.append(1, 100).has_value());
        if (r.random().below(2) == 0) r.acknowledge_written();
        break;
      case 2:
        ASSERT_TRUE(r.append(r.random().below(30) + 1, 1500).has_value());
        r.acknowledge_written();
        break;
      case 3:
      case 4:
        ASSERT_TRUE(r.append(1, 200).has_value());
        ASSERT_TRUE(r.sync().has_value());
        break;
      case 5:
        ASSERT_TRUE(r.log().seal().has_value());
        ASSERT_TRUE(r.sync().has_value());
        break;
      case 6:
        if (r.random().below(3) == 0) {
          ASSERT_TRUE(r.retire(r.random().below(2) * 40'000).has_value());
        }
        break;
      default:
        if (r.random().below(6) == 0) r.reopen();
        break;
    }
    if (r.random().below(3) > 0) r.executor().step();
  }
  ASSERT_TRUE(r.append(1, 9000).has_value());
  ASSERT_TRUE(r.sync().has_value());
}

}  // namespace defib::store::testing_util

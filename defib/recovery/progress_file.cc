#include "defib/recovery/progress_file.h"

#include <fmt/core.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"
#include "defib/os/process.h"

namespace defib::recovery {
namespace {

constexpr std::string_view kMagic = "DFBPROG1";
constexpr std::size_t kMaxName = 128;
constexpr std::size_t kMaxText = 512;
constexpr int kReadAttempts = 5;

std::string encode(const ProgressReport& report, std::uint64_t sequence) {
  const auto clipped = [](std::string_view text, std::size_t size) { return text.substr(0, size); };
  std::string payload;
  Writer writer(payload);
  writer.u64(sequence);
  writer.text(clipped(report.procedure, kMaxName));
  writer.u8(static_cast<std::uint8_t>(report.state));
  writer.text(clipped(report.progress.stage, kMaxName));
  writer.u32(static_cast<std::uint32_t>(report.progress.stage_number));
  writer.u32(static_cast<std::uint32_t>(report.progress.stage_count));
  writer.u64(report.progress.done);
  writer.u64(report.progress.total);
  writer.text(clipped(report.progress.what, kMaxText));
  writer.i64(report.progress.stage_started_mono_ns);
  writer.i64(report.progress.time_limit.count());
  writer.text(clipped(report.error, kMaxText));
  writer.u32(static_cast<std::uint32_t>(report.writer));
  writer.u64(report.writer_start_time);
  writer.text(clipped(report.boot_id, kMaxName));
  writer.i64(report.started_mono_ns);
  writer.i64(report.updated_mono_ns);
  writer.i64(report.updated_wall_ns);
  std::string slot;
  Writer header(slot);
  header.bytes(kMagic);
  header.u32(crc32c(payload));
  header.u32(static_cast<std::uint32_t>(payload.size()));
  slot += payload;
  DEFIB_ASSERT(slot.size() <= kProgressSlot);
  return slot;
}

// The slot's sequence number, or 0 where it is not whole.
std::uint64_t decode(std::string_view slot, ProgressReport& report) {
  Reader header(slot);
  if (header.bytes(kMagic.size()) != kMagic) return 0;
  const std::uint32_t checksum = header.u32();
  const std::uint32_t size = header.u32();
  const std::string_view payload = header.bytes(size);
  if (!header.ok() || crc32c(payload) != checksum) return 0;
  Reader reader(payload);
  const std::uint64_t sequence = reader.u64();
  report.procedure = reader.text();
  report.state = static_cast<ProcedureState>(reader.u8());
  report.progress.rolling_back = report.state == ProcedureState::kRollingBack;
  report.progress.stage = reader.text();
  report.progress.stage_number = static_cast<int>(reader.u32());
  report.progress.stage_count = static_cast<int>(reader.u32());
  report.progress.done = reader.u64();
  report.progress.total = reader.u64();
  report.progress.what = reader.text();
  report.progress.stage_started_mono_ns = reader.i64();
  report.progress.time_limit = os::Duration(reader.i64());
  report.error = reader.text();
  report.writer = static_cast<pid_t>(reader.u32());
  report.writer_start_time = reader.u64();
  report.boot_id = reader.text();
  report.started_mono_ns = reader.i64();
  report.updated_mono_ns = reader.i64();
  report.updated_wall_ns = reader.i64();
  return reader.finished() && report.state <= ProcedureState::kFailed ? sequence : 0;
}

}  // namespace

std::string_view to_string(ProcedureState state) {
  switch (state) {
    case ProcedureState::kRunning:
      return "running";
    case ProcedureState::kRollingBack:
      return "rolling_back";
    case ProcedureState::kSucceeded:
      return "succeeded";
    case ProcedureState::kFailed:
      return "failed";
  }
  DEFIB_UNREACHABLE("ProcedureState");
}

os::Duration ProgressReport::overrun(std::int64_t now_mono_ns) const {
  if (state != ProcedureState::kRunning || progress.time_limit == os::Duration::zero()) {
    return os::Duration::zero();
  }
  const os::Duration elapsed(now_mono_ns - progress.stage_started_mono_ns);
  return std::max(elapsed - progress.time_limit, os::Duration::zero());
}

wire::Json ProgressReport::to_json() const {
  Progress now = progress;
  now.elapsed = os::Duration(updated_mono_ns - progress.stage_started_mono_ns);
  const auto left = now.time_left();
  wire::Json seconds_left;
  if (left) seconds_left = std::chrono::duration<double>(*left).count();
  return wire::Json::object({{"schema", "defib.progress/1"},
                             {"procedure", procedure},
                             {"state", to_string(state)},
                             {"stage", progress.stage},
                             {"stage_number", progress.stage_number},
                             {"stage_count", progress.stage_count},
                             {"done", progress.done},
                             {"total", progress.total},
                             {"what", progress.what},
                             {"percent", now.percent()},
                             {"seconds_left", std::move(seconds_left)},
                             {"stage_started_mono_ns", progress.stage_started_mono_ns},
                             {"time_limit_ns", progress.time_limit.count()},
                             {"error", error},
                             {"writer", static_cast<std::int64_t>(writer)},
                             {"writer_alive", writer_alive},
                             {"boot_id", boot_id},
                             {"started_mono_ns", started_mono_ns},
                             {"updated_mono_ns", updated_mono_ns},
                             {"updated_at", os::format_time(updated_wall_ns)}});
}

Result<std::unique_ptr<ProgressFile>> ProgressFile::create(os::Files& files, const os::Clock& clock,
                                                           const std::string& path) {
  std::unique_ptr<ProgressFile> progress(new ProgressFile(clock));
  DEFIB_TRY_ASSIGN(progress->file_, files.open(path, os::OpenMode::kCreate));
  DEFIB_TRY(progress->file_->truncate(0));
  progress->report_.writer = ::getpid();
  progress->report_.writer_start_time = os::process_start_time(::getpid()).value_or(0);
  progress->report_.boot_id = clock.boot_id();
  return progress;
}

void ProgressFile::procedure_started(const Procedure& procedure) {
  procedure_ = &procedure;
  report_.procedure = procedure.name();
  report_.state = ProcedureState::kRunning;
  report_.progress = {};
  report_.progress.stage_count = procedure.stage_count();
  report_.error.clear();
  report_.started_mono_ns = clock_.mono_ns();
  write();
}

void ProgressFile::stage_started(const StageRecord&) {
  report_.progress = procedure_->progress();
  write();
}

void ProgressFile::stage_finished(const StageRecord& record) {
  if (record.error) report_.error = record.error->to_line();
  write();
}

void ProgressFile::progressed(const Progress& progress) {
  const bool new_state = progress.rolling_back != report_.progress.rolling_back ||
                         progress.stage != report_.progress.stage;
  report_.progress = progress;
  report_.state = progress.rolling_back ? ProcedureState::kRollingBack : ProcedureState::kRunning;
  const os::Duration since(clock_.mono_ns() - report_.updated_mono_ns);
  if (new_state || since >= kProgressInterval) write();
}

void ProgressFile::rollback_finished(const StageRecord&) {
  write();
}

void ProgressFile::procedure_finished(const ProcedureResult& result) {
  report_.state = result.success() ? ProcedureState::kSucceeded : ProcedureState::kFailed;
  report_.error = result.success() ? std::string() : result.error->to_line();
  write();
}

void ProgressFile::write() {
  if (error_) return;
  report_.updated_mono_ns = clock_.mono_ns();
  report_.updated_wall_ns = clock_.wall_ns();
  ++sequence_;
  const std::uint64_t offset = sequence_ % 2 * kProgressSlot;
  if (const Result<> written = file_->write_at(offset, encode(report_, sequence_)); !written) {
    error_ = written.error();
  }
}

Result<ProgressReport> read_progress(os::Files& files, const os::Clock& clock,
                                     const std::string& path) {
  if (!files.exists(path)) {
    return Error(Code::kNotFound, fmt::format("no progress was written to '{}'", path));
  }
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  std::string content;
  for (int attempt = 0; attempt < kReadAttempts; ++attempt) {
    content.resize(2 * kProgressSlot);
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(0, content.data(), content.size()));
    content.resize(got);
    ProgressReport newest;
    std::uint64_t newest_sequence = 0;
    for (std::size_t at = 0; at < content.size(); at += kProgressSlot) {
      ProgressReport report;
      const std::uint64_t sequence =
          decode(std::string_view(content).substr(at, kProgressSlot), report);
      if (sequence <= newest_sequence) continue;
      newest_sequence = sequence;
      newest = std::move(report);
    }
    if (newest_sequence == 0) continue;
    const auto start_time = os::process_start_time(newest.writer);
    newest.writer_alive =
        start_time && *start_time == newest.writer_start_time && newest.boot_id == clock.boot_id();
    return newest;
  }
  if (content.empty()) {
    return Error(Code::kNotFound, fmt::format("no progress was written to '{}' yet", path));
  }
  return Error(Code::kCorrupted, fmt::format("the progress file '{}' is damaged", path))
      .with("path", path)
      .suggest("remove it; the next run writes it anew");
}

}  // namespace defib::recovery

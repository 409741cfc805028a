#include "defib/alert/queue.h"

#include <fmt/core.h>

#include <algorithm>
#include <charconv>

#include "defib/base/bytes.h"
#include "defib/os/clock.h"
#include "defib/os/random.h"

namespace defib::alert {
namespace {

constexpr std::string_view kMagic = "defib-alerts";
constexpr int kVersion = 1;
constexpr std::size_t kChecksumDigits = 8;
constexpr int kLockTries = 20;
constexpr os::Duration kLockPause = std::chrono::microseconds(100);

std::string header_line(const std::string& generation) {
  return encode_line(
      wire::Json::object({{"magic", kMagic}, {"version", kVersion}, {"generation", generation}}));
}

// The lines of `text` from `at` on that have their end; `at` moves behind the last of them.
template <typename Take>
void for_each_line(std::string_view text, std::size_t& at, Take take) {
  while (at < text.size()) {
    const std::size_t end = text.find('\n', at);
    if (end == std::string_view::npos) return;
    if (end > at) take(text.substr(at, end - at));
    at = end + 1;
  }
}

}  // namespace

std::string alerts_dir(const std::string& state_dir) {
  return os::join_path(state_dir, "alerts");
}

std::string queue_path(const std::string& state_dir) {
  return os::join_path(alerts_dir(state_dir), "queue");
}

std::string encode_line(const wire::Json& json) {
  const std::string text = json.dump();
  return fmt::format("{:08x} {}", crc32c(text), text);
}

Result<wire::Json> decode_line(std::string_view line) {
  std::uint32_t checksum = 0;
  const bool long_enough = line.size() > kChecksumDigits + 1 && line[kChecksumDigits] == ' ';
  if (long_enough) {
    const auto [end, failed] =
        std::from_chars(line.data(), line.data() + kChecksumDigits, checksum, 16);
    const std::string_view text = line.substr(kChecksumDigits + 1);
    if (failed == std::errc{} && end == line.data() + kChecksumDigits && crc32c(text) == checksum) {
      return wire::Json::parse(text);
    }
  }
  return Error(Code::kCorrupted, "a record fails its checksum");
}

Result<std::unique_ptr<os::File>> Queue::open_locked() {
  auto file = files_->open(path_, os::OpenMode::kCreate);
  if (!file && file.error().code() == Code::kFileNotFound) {
    DEFIB_TRY(files_->create_dirs(os::parent_dir(path_)));
    file = files_->open(path_, os::OpenMode::kCreate);
  }
  if (!file) return file.error();
  for (int attempt = 0; attempt < kLockTries; ++attempt) {
    auto locked = (*file)->try_lock();
    if (locked) return std::move(*file);
    if (locked.error().code() != Code::kDatabaseLocked) return locked.error();
    os::real_clock().sleep_for(kLockPause);
  }
  return Error(Code::kUnavailable, "another process writes the alert queue").with("path", path_);
}

Result<> Queue::begin(os::File& file) {
  DEFIB_TRY(file.truncate(0));
  return file.write_at(0, header_line(os::random_hex(8)) + "\n");
}

Result<> Queue::append(const std::vector<Event>& events) {
  std::string bytes;
  for (const Event& event : events) bytes += "\n" + encode_line(event.to_json()) + "\n";
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, open_locked());
  DEFIB_TRY_ASSIGN(std::uint64_t size, file->size());
  if (size == 0) {
    DEFIB_TRY(begin(*file));
    DEFIB_TRY_ASSIGN(size, file->size());
  }
  if (size + bytes.size() > kMaxQueueBytes) {
    return Error(Code::kLimitExceeded, "the alert queue is full: no receiver takes anything")
        .with("path", path_)
        .suggest("look at `defib alert list`");
  }
  auto written = file->write_at(size, bytes);
  // What a full disk left of it goes, so that it is not taken for a torn record later.
  if (!written) static_cast<void>(file->truncate(size));
  return written;
}

bool Queue::has_records() const {
  const auto file = files_->open(path_, os::OpenMode::kRead);
  if (!file) return false;
  const auto size = (*file)->size();
  return size && *size > header_line(std::string(16, '0')).size() + 1;
}

Result<Queue::Batch> Queue::read(const Position& from) const {
  Batch batch;
  auto text = os::read_file(*files_, path_, 2 * kMaxQueueBytes);
  if (!text) {
    if (text.error().code() == Code::kFileNotFound) return batch;
    return text.error();
  }
  // A header that is damaged is a generation like any other: told by its bytes.
  const std::size_t header_end = text->find('\n');
  if (header_end == std::string::npos) return batch;
  batch.end.generation = sha256_hex(text->substr(0, header_end)).substr(0, 16);
  const bool goes_on = from.generation == batch.end.generation && from.offset > header_end &&
                       from.offset <= text->size();
  std::size_t at = goes_on ? from.offset : header_end + 1;
  for_each_line(*text, at, [&](std::string_view line) {
    const auto json = decode_line(line);
    auto event = json ? Event::from_json(*json) : Result<Event>(json.error());
    if (event) {
      batch.events.push_back(std::move(*event));
    } else {
      ++batch.damaged;
    }
  });
  batch.end.offset = at;
  return batch;
}

Result<bool> Queue::empty_if_read(const Position& end) {
  if (!files_->exists(path_)) return true;
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, open_locked());
  // Nobody writes now, so that a line without an end is what a killed writer left.
  DEFIB_TRY_ASSIGN(const Batch rest, read(end));
  if (!rest.events.empty()) return false;
  if (!has_records()) return true;
  DEFIB_TRY(begin(*file));
  return true;
}

}  // namespace defib::alert

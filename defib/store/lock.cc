#include "defib/store/lock.h"

#include <fmt/core.h>

#include <charconv>
#include <cstdlib>
#include <map>

#include "defib/base/bytes.h"
#include "defib/os/process.h"
#include "defib/store/format.h"

namespace defib::store {
namespace {

constexpr std::string_view kRecordStart = "defib-lock 1 ";
constexpr std::string_view kClosed = "closed";
constexpr std::string_view kDropped = "dropped";
constexpr std::size_t kRecordSize = 512;  // padded, so that it is replaced in one write
constexpr os::Duration kPoll = std::chrono::milliseconds(1);
// How long a holder may take between locking the file and saying who it is.
constexpr os::Duration kIntroduction = std::chrono::milliseconds(200);
// A process that has taken its SIGKILL looks alive until the kernel marks it as exiting, for as
// long as it does not get to run; one that is alive in so many looks in a row is.
constexpr int kSureLooks = 20;
constexpr std::uint64_t kExitingFlag = 0x4;  // PF_EXITING in field 9 of /proc/PID/stat

std::uint64_t to_number(std::string_view text, int base = 10) {
  std::uint64_t value = 0;
  std::from_chars(text.data(), text.data() + text.size(), value, base);
  return value;
}

int own_pid() {
  // /proc/self/stat starts with the pid; of our code only `os` makes system calls.
  const auto text = os::read_file(os::real_files(), "/proc/self/stat", 4096);
  return text ? static_cast<int>(to_number(std::string_view(*text).substr(0, text->find(' ')))) : 0;
}

std::string own_program() {
  const auto exe = os::process_exe(own_pid());
  return exe ? exe->substr(exe->rfind('/') + 1) : "unknown";
}

// What is pending is read before the flags: a process goes from a SIGKILL that is pending to one
// that it has taken, and is then exiting; read the other way round, it could pass between the two
// reads.
bool is_dying(int pid) {
  const auto status = os::read_file(os::real_files(), fmt::format("/proc/{}/status", pid), 16384);
  for (const std::string_view key : {"\nSigPnd:\t", "\nShdPnd:\t"}) {
    const std::size_t at = status ? status->find(key) : std::string::npos;
    if (at == std::string::npos) continue;
    const std::string_view mask = std::string_view(*status).substr(at + key.size(), 16);
    if ((to_number(mask, 16) & (1U << 8)) != 0) return true;
  }
  const auto text = os::read_file(os::real_files(), fmt::format("/proc/{}/stat", pid), 4096);
  if (!text) return true;
  const std::size_t close = text->rfind(')');
  if (close == std::string::npos || close + 2 >= text->size()) return false;
  std::string_view rest = std::string_view(*text).substr(close + 2);
  if (rest[0] == 'Z' || rest[0] == 'X') return true;
  for (int field = 3; field < 9; ++field) rest.remove_prefix(rest.find(' ') + 1);
  return (to_number(rest.substr(0, rest.find(' '))) & kExitingFlag) != 0;
}

std::string describe(const LockRecord& record) {
  return fmt::format("pid {} ({}), {} since {}", record.pid, record.program, record.state,
                     record.since);
}

}  // namespace

std::string encode(const LockRecord& record) {
  const std::string body =
      fmt::format("state={} pid={} start={} boot={} since={} program={}", record.state, record.pid,
                  record.start_time, record.boot_id, record.since, record.program.substr(0, 64));
  std::string text = fmt::format("{}crc={:08x} {}", kRecordStart, crc32c(body), body);
  text.resize(kRecordSize - 1, ' ');
  return text + '\n';
}

std::optional<LockRecord> decode_lock_record(std::string_view text) {
  if (!text.starts_with(kRecordStart)) return std::nullopt;
  text.remove_prefix(kRecordStart.size());
  if (!text.starts_with("crc=") || text.size() < 13) return std::nullopt;
  const std::uint64_t crc = to_number(text.substr(4, 8), 16);
  std::string_view body = text.substr(13);
  body = body.substr(0, body.find_last_not_of(" \n") + 1);
  if (crc32c(body) != crc) return std::nullopt;
  std::map<std::string_view, std::string_view> fields;
  while (!body.empty()) {
    const std::string_view field = body.substr(0, body.find(' '));
    const std::size_t equals = field.find('=');
    if (equals == std::string_view::npos) break;
    const std::string_view name = field.substr(0, equals);
    // The program's name comes last and may hold spaces.
    const std::string_view value = (name == "program" ? body : field).substr(equals + 1);
    fields[name] = value;
    if (name == "program" || field.size() == body.size()) break;
    body.remove_prefix(field.size() + 1);
  }
  LockRecord record;
  record.state = fields["state"];
  record.pid = static_cast<int>(to_number(fields["pid"]));
  record.start_time = to_number(fields["start"]);
  record.boot_id = fields["boot"];
  record.since = fields["since"];
  record.program = fields["program"];
  return record;
}

std::optional<LockRecord> read_lock_record(os::Files& files, const std::string& dir) {
  const auto text = os::read_file(files, os::join_path(dir, kLockFile), 1 << 16);
  return text ? decode_lock_record(*text) : std::nullopt;
}

HolderState holder_state(const LockRecord& record, const os::Clock& clock) {
  if (record.state == kClosed || record.state == kDropped) return HolderState::kNone;
  if (record.boot_id != clock.boot_id()) return HolderState::kDead;
  const auto start = os::process_start_time(record.pid);
  if (!start || *start != record.start_time) return HolderState::kDead;
  return is_dying(record.pid) ? HolderState::kDying : HolderState::kAlive;
}

std::string living_holder(const std::optional<LockRecord>& record, const os::Clock& clock) {
  if (!record) return {};
  const HolderState state = holder_state(*record, clock);
  return state == HolderState::kAlive || state == HolderState::kDying ? describe(*record)
                                                                      : std::string();
}

WriterSight see_writer(os::Files& files, const std::string& dir, const os::Clock& clock) {
  WriterSight sight;
  if (auto text = os::read_file(files, os::join_path(dir, kLockFile), 1 << 16)) {
    sight.text = *std::move(text);
  }
  sight.is_held = !living_holder(decode_lock_record(sight.text), clock).empty();
  for (const std::string_view folder : {kWalDir, kDataDir}) {
    const auto names = files.list(os::join_path(dir, folder));
    if (!names) continue;
    for (const std::string& name : *names) sight.text += "/" + name;
  }
  return sight;
}

Error locked_error(const std::string& path, const std::optional<LockRecord>& record,
                   HolderState state) {
  const std::string holder = record ? describe(*record) : "an unknown process";
  if (!record || state == HolderState::kNone || state == HolderState::kDead) {
    // An open file description outlives its process in every child that inherited it.
    return Error(Code::kDatabaseLocked,
                 fmt::format("the store is locked by a process that did not say who it is; the "
                             "last one that did, and is gone, was {}",
                             holder))
        .with("lock_holder", "an unknown process")
        .with("path", path)
        .suggest(fmt::format("find the process with `find /proc -lname {} 2>/dev/null`: a program "
                             "that the last holder started may have inherited its files; end it, "
                             "and repeat",
                             path));
  }
  Error error =
      Error(Code::kDatabaseLocked,
            fmt::format("the store is in use by {}{}", holder,
                        state == HolderState::kDying ? ", which does not finish dying" : ""))
          .with("lock_holder", holder)
          .with("pid", std::int64_t{record->pid})
          .with("path", path);
  if (record->state != "recovering") {
    return std::move(error).suggest(
        fmt::format("wait for process {} to end, or, if it should not run, end it with `kill {}`; "
                    "then repeat",
                    record->pid, record->pid));
  }
  return std::move(error)
      .because(Error(Code::kRecoveryProgress, fmt::format("{} is recovering the store", holder))
                   .suggest(fmt::format("wait; `defib store status {} --json` shows who recovers",
                                        os::parent_dir(path))))
      .suggest(fmt::format("wait for it, and repeat: `tail --pid={} -f /dev/null` returns when "
                           "process {} has ended",
                           record->pid, record->pid));
}

Result<StoreLock> StoreLock::acquire(os::Files& files, const std::string& dir,
                                     const os::Clock& clock, os::Duration wait,
                                     const std::function<bool()>& should_stop) {
  const std::string path = os::join_path(dir, kLockFile);
  DEFIB_TRY_ASSIGN(std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kCreate));
  const std::int64_t start = clock.mono_ns();
  for (int alive_looks = 0;;) {
    Result<> taken = file->try_lock();
    std::optional<LockRecord> record = read_lock_record(files, dir);
    if (taken) return StoreLock(std::move(file), std::move(record), clock);
    if (taken.error().code() != Code::kDatabaseLocked) return Error(std::move(taken.error()));
    const HolderState state = record ? holder_state(*record, clock) : HolderState::kNone;
    alive_looks = state == HolderState::kAlive ? alive_looks + 1 : 0;
    if (alive_looks == kSureLooks) return locked_error(path, record, state);
    // The record's process is gone or going: the kernel is about to release its lock, or a new
    // holder is about to write its name.
    const os::Duration waited(clock.mono_ns() - start);
    const bool introducing = state == HolderState::kNone || state == HolderState::kDead;
    const bool is_alive = state == HolderState::kAlive;  // It is looked at again, for some ms.
    if (!is_alive && waited >= (introducing ? std::max(wait, kIntroduction) : wait)) {
      return locked_error(path, record, state);
    }
    if (should_stop && should_stop()) {
      return Error(Code::kCancelled, "stopped while another process was letting the store go");
    }
    clock.sleep_for(kPoll);
  }
}

StoreLock::~StoreLock() {
  if (file_ != nullptr && is_named_) (void)file_->write_at(0, encode(record(kDropped)));
}

LockRecord StoreLock::record(std::string_view state) const {
  LockRecord record;
  record.state = state;
  record.pid = own_pid();
  if (const auto start_time = os::process_start_time(record.pid)) record.start_time = *start_time;
  record.boot_id = clock_->boot_id();
  record.since = os::format_time(clock_->wall_ns());
  record.program = own_program();
  return record;
}

Result<> StoreLock::set_state(std::string_view state) {
  is_named_ = state != kClosed;
  DEFIB_TRY(file_->write_at(0, encode(record(state))));
  return file_->sync();
}

}  // namespace defib::store

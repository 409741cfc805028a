// What the shim reads: notifications (sd_notify), a supervisor's messages, launch descriptions, log
// indexes and /proc/PID/stat, from arbitrary bytes. The first byte chooses the reader, the rest is
// its input.

#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <new>
#include <string>
#include <string_view>

#include "kernel.h"
#include "log_index.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

void check(bool holds) {
  if (!holds) abort();
}

void write_file(const char* path, std::string_view bytes) {
  const int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  check(fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  close(fd);
}

// In a directory of its own: the shim's paths are relative.
void enter_scratch() {
  static char dir[] = "/tmp/shim-fuzz-XXXXXX";
  check(mkdtemp(dir) != nullptr && chdir(dir) == 0 && mkdir("logs", 0700) == 0);
  atexit([] {
    for (const char* file : {"logs/current.idx", "logs/current.1.idx", kStatusName}) unlink(file);
    rmdir("logs");
    rmdir(dir);
  });
}

}  // namespace

// A shim whose service is this process, without its loop: nothing is started and nobody is killed.
struct ShimFuzz {
  Shim& shim = *new Shim(new Instance[kMaxInstances]);
  int sender = -1;

  ShimFuzz() {
    int pair[2];
    check(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == 0);
    const int on = 1;
    setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    shim.notify_ = pair[0];
    sender = pair[1];
    check(shim.status_.open_file() == 0);
  }

  // As it is when the service has just been started.
  void begin() {
    shim.journal_.acknowledge(UINT64_MAX);
    for (size_t i = 0; i < kMaxInstances; ++i) shim.instances_.include(i);
    for (Instance& one : shim.instances_) one = Instance{};
    StatusRecord& record = shim.status_.record;
    memset(record.instances, 0, sizeof record.instances);
    record.generation = 1;
    record.instances[0].generation = 1;
    record.instances[0].pid = getpid();
    record.instances[0].role = InstanceRole::kActive;
    shim.instances_[0].used = true;
    shim.instances_[0].pid = getpid();
    shim.instances_[0].stranger_told = true;
  }

  void end() const {
    StatusRecord record = shim.status_.record;
    record.crc = status_checksum(record);
    check(status_valid(record));
    Journal::Entry entry;
    uint64_t count = 0;
    for (uint64_t at = 0; shim.journal_.next_after(at, &entry); at = entry.header.sequence) {
      check(entry.size >= sizeof(MessageHeader) && entry.size <= kMaxMessage);
      ++count;
    }
    check(count == shim.journal_.count());
  }

  // Datagrams, divided by the byte 0x1e.
  void notify(std::string_view input) {
    begin();
    while (!input.empty()) {
      const size_t size = input.find('\x1e') < input.size() ? input.find('\x1e') : input.size();
      static_cast<void>(send(sender, input.data(), size, MSG_DONTWAIT));
      input.remove_prefix(size < input.size() ? size + 1 : size);
      shim.on_notify();
    }
    end();
  }

  // Messages: of each its type and size in a byte, then its body.
  void messages(std::string_view input) {
    begin();
    while (input.size() >= 2) {
      const MessageHeader header = {kMessageMagic, kProtocolVersion,
                                    static_cast<Type>(static_cast<unsigned char>(input[0])), 0};
      const size_t wanted = static_cast<unsigned char>(input[1]);
      input.remove_prefix(2);
      const size_t size = wanted < input.size() ? wanted : input.size();
      alignas(8) char body[256];
      memcpy(body, input.data(), size);
      input.remove_prefix(size);
      if (header.type != Type::kPassThrough) shim.handle(header, body, size, nullptr, 0);
    }
    end();
  }
};

namespace {

void fuzz_stat(std::string_view input) {
  const std::string text(input);
  ProcStat stat;
  if (parse_stat(text.c_str(), &stat)) check(stat.start_time != 0 && stat.state != 0);
}

// The header's first bytes are those of a description, so that the rest is looked at.
void fuzz_launch(std::string_view input) {
  std::string bytes(input);
  if (bytes.size() >= sizeof(LaunchHeader)) {
    LaunchHeader header;
    memcpy(&header, bytes.data(), sizeof header);
    header.magic = kLaunchMagic;
    header.version = kLaunchVersion;
    memcpy(bytes.data(), &header, sizeof header);
  }
  const int fd = memfd_create("launch", MFD_CLOEXEC);
  check(fd >= 0 && write(fd, bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  static Launch& launch = *new Launch;
  if (launch.load(fd) <= 0) return;
  static SocketStore none;
  size_t size = 0;
  for (char* const* one = launch.env_for(7, true, none); *one != nullptr; ++one) {
    size += strlen(*one);
  }
  launch.announce_pid(1);
  for (char* const* one = launch.argv(); *one != nullptr; ++one) size += strlen(*one);
  for (const Hook hook : {Hook::kPreStart, Hook::kPostCrash, Hook::kCleanup}) {
    for (char* const* one = launch.hook_argv(hook); *one != nullptr; ++one) size += strlen(*one);
  }
  char extra[] = "A=b";
  char* const variables[] = {extra};
  for (char* const* one = launch.hook_env(7, variables, 1); *one != nullptr; ++one) {
    size += strlen(*one);
  }
  check(size < SIZE_MAX && launch.capture_program() != nullptr);
}

// An index of this file, whose header has the checksum that it should have.
void fuzz_index(std::string_view input) {
  std::string bytes(input);
  if (bytes.size() >= sizeof(LogIndexHeader)) {
    LogIndexHeader header;
    memcpy(&header, bytes.data(), sizeof header);
    header.magic = kLogIndexMagic;
    header.version = kLogIndexVersion;
    header.inode = 1;
    header.crc = index_checksum(header);
    memcpy(bytes.data(), &header, sizeof header);
  }
  for (size_t at = sizeof(LogIndexHeader); at + sizeof(LogIndexRecord) <= bytes.size();
       at += sizeof(LogIndexRecord)) {
    LogIndexRecord record;
    memcpy(&record, bytes.data() + at, sizeof record);
    record.crc = index_checksum(record);
    memcpy(bytes.data() + at, &record, sizeof record);
  }
  write_file("logs/current.idx", bytes);
  static LogIndex& index = *new LogIndex;
  index.open_for(1, 1000, nullptr);
  LogIndexRecord record;
  for (uint64_t number = 0; index.read(number, &record); ++number) {
    check(record.stream == 1 || record.stream == 2);
  }
  index.mark(1000, 0);
  index.moved();
  index.dropped(1001, 1, LogRecordKind::kDroppedByDisk, 7);
  check(index.size() >= kLogIndexHeaderSize);
}

}  // namespace
}  // namespace defib::process::shim

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace defib::process::shim;
  static ShimFuzz& subject = *[] {
    enter_scratch();
    return new ShimFuzz;
  }();
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 5) {
    case 0:
      subject.notify(input);
      break;
    case 1:
      subject.messages(input);
      break;
    case 2:
      fuzz_stat(input);
      break;
    case 3:
      fuzz_launch(input);
      break;
    default:
      fuzz_index(input);
  }
  return 0;
}

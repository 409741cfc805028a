#include "snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "defib/process/agent_page.h"

namespace defib::snapshot {
namespace {

constexpr int kMaxArguments = 32;
constexpr int kCannotBecome = 127;

bool parse_number(const char* text, uint64_t* value) {
  *value = 0;
  if (*text == 0) return false;
  for (; *text != 0; ++text) {
    if (*text < '0' || *text > '9' || *value > UINT32_MAX) return false;
    *value = *value * 10 + static_cast<uint64_t>(*text - '0');
  }
  return true;
}

void put_number(char* to, uint64_t number) {
  char digits[24];
  int count = 0;
  do {
    digits[count++] = static_cast<char>('0' + number % 10);
    number /= 10;
  } while (number != 0);
  while (count > 0) *to++ = digits[--count];
  *to = 0;
}

}  // namespace

void complain(const char* what, int error_number) {
  char text[256] = "defib-snapshot: ";
  size_t size = strlen(text);
  for (; *what != 0 && size + 32 < sizeof text; ++what) text[size++] = *what;
  memcpy(text + size, ": errno ", sizeof ": errno ");
  put_number(text + size + 8, static_cast<uint64_t>(error_number));
  size = strlen(text);
  text[size++] = '\n';
  [[maybe_unused]] const ssize_t written = write(2, text, size);
}

bool parse_options(int argc, char** argv, Options* options) {
  options->page_offset = offsetof(process::AgentPage, crash);
  for (int i = 2; i < argc; ++i) {
    if (strcmp(argv[i], "--minicore") == 0) {
      options->minicore = true;
      continue;
    }
    if (i + 1 >= argc) return false;
    const char* name = argv[i];
    const char* text = argv[++i];
    uint64_t number = 0;
    const bool is_number = parse_number(text, &number);
    if (strcmp(name, "--pid") == 0 && is_number) options->pid = static_cast<pid_t>(number);
    if (strcmp(name, "--page-fd") == 0 && is_number) options->page_fd = static_cast<int>(number);
    if (strcmp(name, "--page-offset") == 0 && is_number) options->page_offset = number;
  }
  return options->pid > 0 && options->page_fd >= 0;
}

postmortem::CrashPage* map_page(const Options& options) {
  struct stat info;
  const size_t size = options.page_offset + sizeof(postmortem::CrashPage);
  if (fstat(options.page_fd, &info) != 0 || static_cast<size_t>(info.st_size) < size) {
    return nullptr;
  }
  void* memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, options.page_fd, 0);
  if (memory == MAP_FAILED) return nullptr;
  return reinterpret_cast<postmortem::CrashPage*>(static_cast<char*>(memory) + options.page_offset);
}

int become_capture(int argc, char** argv, const char* command, int snapshot_fd) {
  char program[4096];
  constexpr char kName[] = "defib-capture";
  const long size =
      syscall(SYS_readlinkat, AT_FDCWD, "/proc/self/exe", program, sizeof program - sizeof kName);
  if (size <= 0) return complain("/proc/self/exe", errno), kCannotBecome;
  program[size] = 0;
  char* name = program + size;
  while (name > program && name[-1] != '/') --name;
  memcpy(name, kName, sizeof kName);
  char fd_text[24];
  static char fd_option[] = "--snapshot-fd";
  char* arguments[kMaxArguments + 3];
  int count = 0;
  for (; count < argc && count < kMaxArguments; ++count) arguments[count] = argv[count];
  arguments[0] = program;
  if (command != nullptr && count > 1) arguments[1] = const_cast<char*>(command);
  if (snapshot_fd >= 0) {
    fcntl(snapshot_fd, F_SETFD, 0);
    put_number(fd_text, static_cast<uint64_t>(snapshot_fd));
    arguments[count++] = fd_option;
    arguments[count++] = fd_text;
  }
  arguments[count] = nullptr;
  execve(program, arguments, environ);
  return complain("cannot become defib-capture", errno), kCannotBecome;
}

}  // namespace defib::snapshot

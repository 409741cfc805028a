// defib-shim DIRECTORY [--connection FD] [--notify-fd FD] [--notify-address NAME]
//            [--page FD:PID]... [--adopt PID:STARTTIME]
//
// The parent of one service, between it and the supervisor. It is started by a supervisor and
// outlives it; by itself it does only what it was allowed to beforehand.
//
// Promises:
//   - One shim a directory (shim.lock), one active process of the service a shim: it starts and
//     promotes none while another one can still run a line of its program.
//   - The service's output goes to logs/current whatever becomes of the supervisor; the death of
//     either never gives the service a SIGPIPE.
//   - Every exit is noticed by pidfd, its status recorded before anything else is told, and the
//     replacement started at once where a ticket allows it. Nothing on that way waits for a disk.
//   - SIGTERM and the like do not end it: the supervisor does (docs/formats/shim.md), or 30 idle
//     seconds without service and supervisor.
//
// Exit codes: 0 done; 2 wrong usage; 3 another shim holds the directory; 4 the service belongs to
// another version of defib; 1 anything else.

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <new>

#include "kernel.h"
#include "shim.h"

namespace defib::process::shim {
namespace {

// Too large for the stack; its untouched pages cost nothing.
alignas(Shim) char storage[sizeof(Shim)];
alignas(Instance) unsigned char instances[sizeof(Instance) * kMaxInstances];

bool parse_options(int argc, char** argv, ShimOptions* options) {
  for (int i = 2; i < argc; i += 2) {
    if (i + 1 >= argc) return false;
    const char* text = argv[i + 1];
    if (strcmp(argv[i], "--notify-address") == 0) {
      options->notify_address = text;
      continue;
    }
    uint64_t number = 0;
    const char* rest = parse_number(text, &number);
    if (rest == nullptr) return false;
    if (strcmp(argv[i], "--adopt") == 0) {
      options->adopt_pid = number;
      if (*rest != ':' || parse_number(rest + 1, &options->adopt_start_time) == nullptr) {
        return false;
      }
      continue;
    }
    if (strcmp(argv[i], "--page") == 0) {
      ShimOptions::Page& page = options->pages[options->pages[0].fd < 0 ? 0 : 1];
      if (*rest != ':' || parse_number(rest + 1, &page.pid) == nullptr || page.fd >= 0) {
        return false;
      }
      page.fd = static_cast<int>(number);
      fcntl(page.fd, F_SETFD, FD_CLOEXEC);
      continue;
    }
    if (number > 1024) return false;
    const int fd = static_cast<int>(number);
    if (strcmp(argv[i], "--connection") == 0) {
      options->connection_fd = fd;
    } else if (strcmp(argv[i], "--notify-fd") == 0) {
      options->notify_fd = fd;
    } else {
      return false;
    }
    fcntl(fd, F_SETFD, FD_CLOEXEC);
  }
  return true;
}

int run(int argc, char** argv) {
  ShimOptions options;
  if (argc < 2 || !parse_options(argc, argv, &options)) {
    complain("usage: defib-shim DIRECTORY [--connection FD] ... (started by defib)", 0);
    return 2;
  }
  if (chdir(argv[1]) != 0) {
    complain("cannot enter the service's directory", errno);
    return 1;
  }
  prctl(PR_SET_NAME, "defib-shim");
  // The service's children that lose their parent become ours.
  if (prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) complain("cannot become a subreaper", errno);
  Shim& instance = *new (storage) Shim(reinterpret_cast<Instance*>(instances));
  const int failed = instance.open_all(options);
  if (failed == -EBUSY) {
    complain("another shim holds this directory", 0);
    return 3;
  }
  if (failed == -EPROTONOSUPPORT) {
    complain("the status file is of another version of defib: it and the service are left alone",
             0);
    return 4;
  }
  if (failed != 0) {
    complain("cannot start", -failed);
    return 1;
  }
  instance.run();
  return 0;
}

}  // namespace
}  // namespace defib::process::shim

int main(int argc, char** argv) {
  return defib::process::shim::run(argc, argv);
}

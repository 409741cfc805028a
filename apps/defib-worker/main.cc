// defib-worker: the zygote of a program's workers. Started by the program (defib/call/host.h), with
// its socket as descriptor 3.

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "defib/call/host.h"
#include "defib/call/worker.h"

namespace {

constexpr int kSocket = 3;

int run_worker(int channel_fd, int event_fd) {
  return defib::call::worker_main(channel_fd, event_fd);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2 || std::strcmp(argv[1], "zygote") != 0 || fcntl(kSocket, F_GETFD) < 0) {
    std::fputs(
        "defib-worker runs native libraries for programs that use defib::call; they start "
        "it themselves\n",
        stderr);
    return 2;
  }
  fcntl(kSocket, F_SETFD, FD_CLOEXEC);
  defib::call::zygote_main(kSocket, run_worker);
}

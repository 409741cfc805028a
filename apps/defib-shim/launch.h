// Launch: the description of how to start the service, and the act of starting it.
//
// start_process() is the shortest way from a decision to the service's main(): one vfork; the child
// writes its own identity into the status file before it executes the program, so that at no moment
// a service runs of which the disk does not know.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "defib/process/agent_page.h"
#include "defib/process/shim_protocol.h"
#include "socket_store.h"
#include "status_file.h"

namespace defib::process::shim {

class Launch {
 public:
  // Takes over the descriptor. 0 or -errno (-EINVAL: the description is malformed); on failure the
  // description before stays in force.
  int load(int memfd);
  bool loaded() const { return memory_ != nullptr; }
  const LaunchHeader& header() const { return *static_cast<const LaunchHeader*>(memory_); }
  const char* program() const { return program_; }
  const char* directory() const { return directory_; }
  const char* capture_program() const { return capture_; }
  char* const* argv() const { return argv_; }
  // As described, with no generation filled in.
  char* const* env() const { return envp_; }
  // With DEFIB_GENERATION, DEFIB_ROLE and (where it gets sockets) the variables of
  // sd_listen_fds(3). LISTEN_PID is written by announce_pid(), in the child.
  char* const* env_for(uint64_t generation, bool standby, const SocketStore& sockets);
  // WATCHDOG_PID too, where the environment has one. Safe between vfork and exec.
  void announce_pid(pid_t pid);

 private:
  static constexpr size_t kExtraVariables = 4;  // the role and LISTEN_*

  void unload();

  void* memory_ = nullptr;
  size_t size_ = 0;
  size_t pointer_bytes_ = 0;
  const char* program_ = nullptr;
  const char* directory_ = nullptr;
  const char* capture_ = nullptr;
  char** argv_ = nullptr;
  char** envp_ = nullptr;
  size_t generation_slot_ = 0;
  size_t watchdog_slot_ = 0;
  char watchdog_text_[40] = {};
  char generation_text_[48] = {};
  char role_text_[24] = {};
  char listen_fds_[24] = {};
  char listen_pid_[32] = {};
  char listen_names_[(kMaxSockets + kMaxStored) * kMaxFdName + 16] = {};
};

// The memory shared with the service. Made anew for each start.
struct PageHandle {
  int fd = -1;
  AgentPage* page = nullptr;
};
// 0 or -errno.
int make_page(uint32_t capture_timeout_ms, PageHandle* handle);
// Maps a page that exists; -EINVAL where the descriptor is no agent page.
int map_page(int fd, PageHandle* handle);
void close_page(PageHandle* handle);

struct ProcessDescriptors {
  int null_fd;
  int stdout_fd;
  int stderr_fd;
  int page_fd;  // -1: none
  int wake_fd;
  const SocketStore* sockets;
};

struct StartOutcome {
  pid_t pid = -1;
  StartStage stage{};  // of the failure, when pid is negative
  int error_number = 0;
};

// Starts the service. On success `instance` of the status file holds pid and start time, in phase
// kStarting.
StartOutcome start_process(Launch& launch, const ProcessDescriptors& fds, StatusFile& status,
                           StatusInstance& instance);

// Starts a helper program in the background with `page_fd` as its descriptor 3. Its pid or -errno.
pid_t start_helper(char* const* argv, int page_fd);

}  // namespace defib::process::shim

// Launch: the description of how to start the service, and the act of starting it.
//
// start_process() is the shortest way from a decision to the service's main(): one vfork; the child
// writes its own identity into the status file before it executes the program, so that at no moment
// a service runs of which the disk does not know. Everything that the service shall have (control
// groups, limits, user) is set by the child itself, in the order that its own rights allow.

#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "cgroup.h"
#include "defib/process/agent_page.h"
#include "defib/process/shim_protocol.h"
#include "socket_store.h"
#include "status_file.h"

namespace defib::process::shim {

class Launch {
 public:
  // Takes over the descriptor. 1; 0: it is the description that is in force already; or -errno
  // (-EINVAL: it is malformed), and the description before stays in force.
  int load(int memfd);
  bool loaded() const { return memory_ != nullptr; }
  const LaunchHeader& header() const { return *static_cast<const LaunchHeader*>(memory_); }
  const char* text(LaunchText which) const { return fixed_[static_cast<size_t>(which)]; }
  const char* capture_program() const { return text(LaunchText::kCapture); }
  char* const* argv() const { return argv_; }
  // As described, with no generation filled in.
  char* const* env() const { return envp_; }
  // With DEFIB_GENERATION, DEFIB_ROLE and (where it gets sockets) the variables of
  // sd_listen_fds(3). LISTEN_PID is written by announce_pid(), in the child.
  char* const* env_for(uint64_t generation, bool standby, const SocketStore& sockets);
  // WATCHDOG_PID too, where the environment has one. Safe between vfork and exec.
  void announce_pid(pid_t pid);
  bool has_hook(Hook hook) const {
    return loaded() && header().hook_argc[static_cast<size_t>(hook)] != 0;
  }
  char* const* hook_argv(Hook hook) const { return hook_argv_[static_cast<size_t>(hook)]; }
  // As it stands in the description, without what concerns the service alone, and with up to
  // kHookVariables more.
  static constexpr size_t kHookVariables = 6;
  char* const* hook_env(uint64_t generation, char* const* variables, size_t count);
  bool sets(uint32_t flag) const { return (header().flags & flag) != 0; }
  // The user whose processes are the service's, besides our own.
  uid_t service_uid() const;
  // A shortfall is told once for each description.
  bool tells(StartStage stage);

 private:
  static constexpr size_t kExtraVariables = 4;  // the role and LISTEN_*

  void unload();
  void set_generation(uint64_t generation);

  void* memory_ = nullptr;
  size_t size_ = 0;
  size_t pointer_bytes_ = 0;
  const char* fixed_[kLaunchFixedStrings] = {};
  char** argv_ = nullptr;
  char** envp_ = nullptr;
  char** hook_argv_[kHooks] = {};
  char** hook_envp_ = nullptr;
  size_t generation_slot_ = 0;
  size_t watchdog_slot_ = 0;
  char watchdog_text_[40] = {};
  uint32_t told_ = 0;
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
// 0 or -errno. Its memory is not touched before fill_page().
int make_page(PageHandle* handle);
void fill_page(const PageHandle& handle, uint32_t capture_timeout_ms);
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
  // By StartStage: why the process goes without it; 0: it has it, or was not to have it.
  int refused[kStartStages] = {};
};

// Starts the service in these groups, which were made for it; `refused` as Cgroup::make() left it.
// Where they cannot be entered they are made anew. On success `instance` of the status file holds
// pid and start time, in phase kStarting.
StartOutcome start_process(Launch& launch, const ProcessDescriptors& fds, Cgroup& groups,
                           int* refused, StatusFile& status, StatusInstance& instance);

// What a hook's process tells the disk before it executes its program.
struct HookNote {
  int fd;
  off_t at;
  struct HookRecord* record;
};
// Starts a hook with the service's user, directory and limits.
StartOutcome start_hook(const Launch& launch, Hook hook, char* const* env,
                        const ProcessDescriptors& fds, const HookNote& note);

// Starts a helper program in the background with `page_fd` as its descriptor 3. Its pid or -errno.
pid_t start_helper(char* const* argv, int page_fd);

}  // namespace defib::process::shim

#include "defib/call/isolation.h"

#include <errno.h>
#include <fcntl.h>
#include <fmt/core.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <charconv>
#include <memory>

#include "defib/os/fd.h"
#include "defib/os/files.h"

namespace defib::call {
namespace {

Result<> limit(int resource, std::string_view name, std::uint64_t value) {
  const rlimit both = {value, value};
  if (setrlimit(static_cast<__rlimit_resource_t>(resource), &both) == 0) return {};
  return os::system_error(fmt::format("setrlimit({})", name));
}

std::uint64_t address_space_bytes() {
  // The first number of statm is the total size in pages (proc(5)).
  const auto text = os::read_file(os::real_files(), "/proc/self/statm", 4096);
  std::uint64_t pages = 0;
  if (text) std::from_chars(text->data(), text->data() + text->size(), pages);
  return pages * static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
}

Result<> set_limits(const Isolation& isolation) {
  DEFIB_TRY(limit(RLIMIT_CORE, "RLIMIT_CORE", 0));
  if (isolation.memory_bytes != 0) {
    DEFIB_TRY(limit(RLIMIT_AS, "RLIMIT_AS", address_space_bytes() + isolation.memory_bytes));
  }
  if (isolation.cpu_seconds != 0) {
    // SIGXCPU at the soft limit, SIGKILL a second later.
    const rlimit both = {isolation.cpu_seconds, isolation.cpu_seconds + 1};
    if (setrlimit(RLIMIT_CPU, &both) != 0) return os::system_error("setrlimit(RLIMIT_CPU)");
  }
  if (isolation.descriptors != 0) {
    DEFIB_TRY(limit(RLIMIT_NOFILE, "RLIMIT_NOFILE", isolation.descriptors));
  }
  return {};
}

// What writes; reading and executing stay free (landlock(7), ABI 1 and later).
constexpr std::uint64_t kWrites = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
                                  LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR |
                                  LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                                  LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
                                  LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;

Result<> forbid_writing(const std::vector<std::string>& writable) {
  landlock_ruleset_attr rules = {};
  rules.handled_access_fs = kWrites;
  const os::Fd set(static_cast<int>(syscall(SYS_landlock_create_ruleset, &rules, sizeof rules, 0)));
  if (!set.valid()) {
    return Error(Code::kUnavailable, "this kernel cannot make files read-only for one process")
        .because(os::system_error("landlock_create_ruleset"))
        .suggest("boot a kernel with Landlock (lsm=...,landlock), or set read_only_files to false");
  }
  for (const std::string& path : writable) {
    const os::Fd place(open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!place.valid()) return os::system_error("open", path);
    landlock_path_beneath_attr beneath = {};
    beneath.allowed_access = kWrites;
    beneath.parent_fd = place.get();
    if (syscall(SYS_landlock_add_rule, set.get(), LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0) {
      return os::system_error("landlock_add_rule", path);
    }
  }
  if (syscall(SYS_landlock_restrict_self, set.get(), 0) != 0) {
    return os::system_error("landlock_restrict_self");
  }
  return {};
}

Result<> drop_capabilities() {
  // Out of the bounding set, so that no program that is executed gets them back.
  for (int capability = 0; prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);  // Refused to who has none to drop.
  }
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2] = {};
  if (syscall(SYS_capset, &header, none) != 0) return os::system_error("capset");
  return {};
}

struct ReleaseFilter {
  void operator()(void* filter) const { seccomp_release(filter); }
};
using Filter = std::unique_ptr<void, ReleaseFilter>;

// The number of libseccomp's errors is a negative errno.
Result<> failed(std::string_view what, int rc) {
  return os::system_error(what, {}, -rc);
}

Result<> deny(void* filter, std::uint32_t action, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR) continue;  // Not on this machine.
    if (const int rc = seccomp_rule_add(filter, action, number, 0); rc != 0) {
      return failed(fmt::format("seccomp_rule_add({})", name), rc);
    }
  }
  return {};
}

Result<> forbid_processes(void* filter) {
  DEFIB_TRY(deny(filter, SCMP_ACT_ERRNO(EAGAIN), {"fork", "vfork"}));
  // A clone without CLONE_THREAD makes a process. What clone3 is asked for lies in memory, where a
  // filter cannot look; the C library falls back to clone.
  DEFIB_TRY(deny(filter, SCMP_ACT_ERRNO(ENOSYS), {"clone3"}));
  const scmp_arg_cmp is_process = {0, SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0};
  const int rc =
      seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(EAGAIN), SCMP_SYS(clone), 1, &is_process);
  return rc == 0 ? Result<>() : failed("seccomp_rule_add(clone)", rc);
}

Result<> forbid_network(void* filter) {
  const scmp_arg_cmp is_network = {0, SCMP_CMP_NE, AF_UNIX, 0};
  const int rc =
      seccomp_rule_add_array(filter, SCMP_ACT_ERRNO(EACCES), SCMP_SYS(socket), 1, &is_network);
  return rc == 0 ? Result<>() : failed("seccomp_rule_add(socket)", rc);
}

Result<> filter_system_calls(const Isolation& isolation) {
  if (!isolation.no_processes && !isolation.no_network && !isolation.strict_system_calls) return {};
  const Filter filter(seccomp_init(SCMP_ACT_ALLOW));
  if (filter == nullptr) return os::system_error("seccomp_init", {}, ENOMEM);
  if (isolation.no_processes) DEFIB_TRY(forbid_processes(filter.get()));
  if (isolation.no_network) DEFIB_TRY(forbid_network(filter.get()));
  if (isolation.strict_system_calls) {
    DEFIB_TRY(deny(filter.get(), SCMP_ACT_TRAP,
                   {"ptrace",
                    "process_vm_readv",
                    "process_vm_writev",
                    "kcmp",
                    "mount",
                    "umount2",
                    "pivot_root",
                    "chroot",
                    "setns",
                    "unshare",
                    "init_module",
                    "finit_module",
                    "delete_module",
                    "kexec_load",
                    "kexec_file_load",
                    "reboot",
                    "swapon",
                    "swapoff",
                    "settimeofday",
                    "clock_settime",
                    "clock_adjtime",
                    "adjtimex",
                    "bpf",
                    "perf_event_open",
                    "userfaultfd",
                    "keyctl",
                    "add_key",
                    "request_key",
                    "acct",
                    "quotactl",
                    "open_by_handle_at",
                    "io_uring_setup",
                    "personality"}));
  }
  if (const int rc = seccomp_load(filter.get()); rc != 0) return failed("seccomp_load", rc);
  return {};
}

}  // namespace

Result<> apply_isolation(const Isolation& isolation) {
  DEFIB_TRY(set_limits(isolation));
  // A program with other rights, or a set-user-id bit, gets none of them.
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return os::system_error("prctl(no_new_privs)");
  if (isolation.read_only_files) DEFIB_TRY(forbid_writing(isolation.writable));
  if (isolation.drop_capabilities) DEFIB_TRY(drop_capabilities());
  return filter_system_calls(isolation);
}

}  // namespace defib::call

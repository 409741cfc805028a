#include "defib/process/agent_core.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "defib/os/life_lock.h"
#include "defib/postmortem/crash_hook_sigsafe.h"

namespace defib::process::agent_core {
namespace {

pthread_mutex_t attach_mutex = PTHREAD_MUTEX_INITIALIZER;  // guards the two below
bool attach_tried = false;
Attached attach_result = Attached::kNotSupervised;

// Set once; nullptr again in a forked child. An atomic, because beats come from any thread.
std::atomic<AgentPage*> current_page{nullptr};

// A number from the environment, or -1.
int descriptor_from_environment() {
  const char* text = getenv("DEFIB_AGENT_FD");
  if (text == nullptr || *text == '\0') return -1;
  char* end = nullptr;
  const long value = strtol(text, &end, 10);
  return *end == '\0' && value >= 0 && value < 1 << 20 ? static_cast<int>(value) : -1;
}

// The descriptor's number may long be used for something else; the shim's memfd has these seals.
bool is_sealed_page(int fd) {
  struct stat status;
  if (fstat(fd, &status) != 0 || status.st_size != static_cast<off_t>(kAgentPageSize)) return false;
  const int seals = fcntl(fd, F_GET_SEALS);
  return seals >= 0 && (seals & F_SEAL_SHRINK) != 0;
}

// Differs for every exec: the kernel gives each image 16 random bytes.
std::uint32_t image_id() {
  std::uint32_t id = 0;
  // NOLINTNEXTLINE(performance-no-int-to-ptr): so the kernel gives it.
  const auto* random = reinterpret_cast<const void*>(getauxval(AT_RANDOM));
  if (random != nullptr) memcpy(&id, random, sizeof id);
  return id | 1;
}

// In a forked child: private, zeroed memory in the page's place. Beats go on costing nothing and
// mean nothing, and a crash of the child is not taken for one of its parent.
void detach_forked_child() {
  AgentPage* page = current_page.load(std::memory_order_relaxed);
  if (page == nullptr) return;
  current_page.store(nullptr, std::memory_order_relaxed);
  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
  [[maybe_unused]] const void* own =
      mmap(page, kAgentPageSize, PROT_READ | PROT_WRITE, kPrivate, -1, 0);
}

// An image that replaced another one by exec finds the other one's stages: they are gone with it.
void free_all_stages(AgentPage* page) {
  for (HeartbeatStage& stage : page->stages) {
    stage.in_use.store(static_cast<std::uint32_t>(StageUse::kFree), std::memory_order_release);
    stage.beats.store(0, std::memory_order_relaxed);
  }
}

// The kernel tells the shim when the thread that holds this lock ends, or executes another program:
// before it tears down the memory. The main thread lives as long as the process, as a rule; from
// another thread the lock is not taken, as its end would mean nothing.
void hold_life(AgentPage* page) {
  const auto tid = static_cast<pid_t>(syscall(SYS_gettid));
  if (tid != getpid()) return;
  if (!os::hold_life_lock(page->life)) return;
  page->life_tid.store(tid, std::memory_order_release);
  ring();
}

// Makes the page ours, or says whose it is.
Attached claim(AgentPage* page, bool crash_hook) {
  if (page->magic != kAgentPageMagic) return Attached::kNotOurs;
  if (page->version != kAgentPageVersion) return Attached::kVersion;
  const std::int32_t own_pid = getpid();
  std::int32_t holder = 0;
  const bool first = page->agent_pid.compare_exchange_strong(holder, own_pid);
  if (!first && holder != own_pid) return Attached::kNotOurs;

  const std::uint32_t image = image_id();
  const bool first_in_image = page->image_id.exchange(image) != image;
  if (!first && first_in_image) free_all_stages(page);
  current_page.store(page, std::memory_order_release);
  // A second copy of the agent in one image (linked in, and preloaded) leaves it to the first one.
  if (first_in_image && crash_hook) {
    postmortem::install_crash_hook(&page->crash, page->event_fd, {.only_default = true});
  }
  if (first_in_image) hold_life(page);
  pthread_atfork(nullptr, nullptr, detach_forked_child);
  return Attached::kYes;
}

Attached attach_once(bool crash_hook) {
  if (getenv("DEFIB_AGENT_FD") == nullptr) return Attached::kNotSupervised;
  const int fd = descriptor_from_environment();
  if (fd < 0 || !is_sealed_page(fd)) return Attached::kNotOurs;
  void* memory = mmap(nullptr, kAgentPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) return Attached::kSystem;
  const Attached outcome = claim(static_cast<AgentPage*>(memory), crash_hook);
  if (outcome != Attached::kYes) munmap(memory, kAgentPageSize);
  return outcome;
}

}  // namespace

Attached attach(bool crash_hook) {
  const int saved_errno = errno;
  pthread_mutex_lock(&attach_mutex);
  if (!attach_tried) {
    attach_tried = true;
    attach_result = attach_once(crash_hook);
  }
  const Attached result = attach_result;
  pthread_mutex_unlock(&attach_mutex);
  if (result != Attached::kSystem) errno = saved_errno;
  return result;
}

AgentPage* page() {
  return current_page.load(std::memory_order_acquire);
}

void note_ready() {
  if (AgentPage* own = page(); own != nullptr) own->said_ready = 1;
}

void note_state(const char* word, std::size_t size) {
  AgentPage* own = page();
  if (own == nullptr || size >= sizeof own->state_word) return;
  memset(own->state_word, 0, sizeof own->state_word);
  memcpy(own->state_word, word, size);
}

HeartbeatStage* claim_stage(const char* name, std::size_t name_size, std::uint32_t deadline_ms,
                            std::uint32_t flags) {
  AgentPage* own = page();
  if (own == nullptr) return nullptr;
  for (HeartbeatStage& stage : own->stages) {
    auto expected = static_cast<std::uint32_t>(StageUse::kFree);
    if (!stage.in_use.compare_exchange_strong(expected,
                                              static_cast<std::uint32_t>(StageUse::kClaiming))) {
      continue;
    }
    stage.beats.store(0, std::memory_order_relaxed);
    stage.beat_mono_ns.store(0, std::memory_order_relaxed);
    stage.tid.store(0, std::memory_order_relaxed);
    stage.deadline_ms.store(deadline_ms, std::memory_order_relaxed);
    stage.flags = flags;
    const std::size_t size = name_size < sizeof stage.name ? name_size : sizeof stage.name - 1;
    memcpy(stage.name, name, size);
    memset(stage.name + size, 0, sizeof stage.name - size);
    stage.in_use.store(static_cast<std::uint32_t>(StageUse::kWatched), std::memory_order_release);
    return &stage;
  }
  return nullptr;
}

void release_stage(HeartbeatStage* stage) {
  // After a fork the slot lies in private memory, and this changes nothing.
  if (stage != nullptr) {
    stage->in_use.store(static_cast<std::uint32_t>(StageUse::kFree), std::memory_order_release);
  }
}

void first_beat(HeartbeatStage& stage, bool stamped) {
  stage.tid.store(static_cast<std::int32_t>(syscall(SYS_gettid)), std::memory_order_relaxed);
  stage.beat_mono_ns.store(stamped ? now_mono_ns() : 0, std::memory_order_relaxed);
  stage.beats.store(1, std::memory_order_release);
  ring();
}

void rest(HeartbeatStage& stage) {
  // Of a counting stage nobody would know since when it rests: its resume() rings.
  if (stage.beat_mono_ns.load(std::memory_order_relaxed) != 0) {
    stage.beat_mono_ns.store(now_mono_ns(), std::memory_order_relaxed);
  }
  stage.in_use.store(static_cast<std::uint32_t>(StageUse::kPaused), std::memory_order_release);
}

// The supervisor looks once more, a deadline later, at a stage that it found at rest, and not again
// if that same rest still goes on. So a rest of less than half a deadline needs no ring.
void resume(HeartbeatStage& stage) {
  const std::int64_t rested_at = stage.beat_mono_ns.load(std::memory_order_relaxed);
  const std::uint64_t beats = stage.beats.load(std::memory_order_relaxed);
  const std::int64_t half_deadline =
      std::int64_t{stage.deadline_ms.load(std::memory_order_relaxed)} * 500'000;
  const bool stamped = rested_at != 0;
  const std::int64_t now = stamped ? now_mono_ns() : 0;
  if (beats != 0) {
    stage.beat_mono_ns.store(now, std::memory_order_relaxed);
    stage.beats.store(beats + 1, std::memory_order_release);
  }
  stage.in_use.store(static_cast<std::uint32_t>(StageUse::kWatched), std::memory_order_release);
  if (beats == 0) return first_beat(stage, false);
  if (!stamped || half_deadline == 0 || now - rested_at >= half_deadline) ring();
}

void ring() {
  AgentPage* own = page();
  if (own == nullptr || own->event_fd < 0) return;
  const int saved_errno = errno;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(own->event_fd, &one, sizeof one);
  errno = saved_errno;
}

namespace {

bool has_role(const AgentPage& own, Role role) {
  return own.role.load(std::memory_order_acquire) == static_cast<std::uint32_t>(role);
}

bool was_started_as_standby() {
  const char* role = getenv("DEFIB_ROLE");
  return role != nullptr && strcmp(role, "standby") == 0;
}

std::int64_t now_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000LL + now.tv_nsec / 1'000'000;
}

}  // namespace

bool is_active() {
  const AgentPage* own = page();
  // Without the page nobody could promote it: then it must not believe that it was.
  return own != nullptr ? has_role(*own, Role::kActive) : !was_started_as_standby();
}

bool wait_until_active(std::int64_t timeout_ms) {
  AgentPage* own = page();
  if (own == nullptr) return is_active();
  const std::int64_t until = timeout_ms < 0 ? 0 : now_ms() + timeout_ms;
  const int saved_errno = errno;
  while (has_role(*own, Role::kStandby)) {
    timespec limit = {};
    if (timeout_ms >= 0) {
      const std::int64_t left = until - now_ms();
      if (left <= 0) break;
      limit = {left / 1000, left % 1000 * 1'000'000};
    }
    syscall(SYS_futex, &own->role, FUTEX_WAIT, static_cast<std::uint32_t>(Role::kStandby),
            timeout_ms >= 0 ? &limit : nullptr, nullptr, 0);
  }
  errno = saved_errno;
  return has_role(*own, Role::kActive);
}

std::uint64_t epoch() {
  const AgentPage* own = page();
  if (own == nullptr || !has_role(*own, Role::kActive)) return 0;
  return own->epoch.load(std::memory_order_acquire);
}

}  // namespace defib::process::agent_core

#include "defib/postmortem/stack_walk.h"

#include <algorithm>

#include "defib/postmortem/unwind.h"

namespace defib::postmortem {
namespace {

bool set_registers(Dwfl_Thread* thread, void* thread_arg) {
  const Registers& registers = static_cast<ThreadSnapshot*>(thread_arg)->registers;
  if (registers.machine == Machine::kX86_64) {
    // 0..15, and 16, the return address column, which is the program counter.
    Dwarf_Word words[17];
    std::copy_n(registers.values.begin(), 16, words);
    words[16] = registers.pc();
    return dwfl_thread_state_registers(thread, 0, 17, words);
  }
  if (registers.machine == Machine::kAArch64) {
    dwfl_thread_state_register_pc(thread, registers.pc());
    return dwfl_thread_state_registers(thread, 0, 32, registers.values.data());
  }
  return false;
}

bool is_executable(const Snapshot& snapshot, std::uint64_t address) {
  const Mapping* mapping = find_mapping(snapshot.maps, address);
  return mapping != nullptr && mapping->executable;
}

// A call through a wild pointer: the program counter is nowhere, but the caller is known, since
// the call has just left the return address on the stack, or in the link register.
bool step_out_of_wild_call(const Snapshot& snapshot, Registers& registers) {
  if (snapshot.maps.empty() || is_executable(snapshot, registers.pc())) return false;
  if (registers.machine == Machine::kAArch64) {
    constexpr std::size_t kLinkRegister = 30;
    registers.set_pc(registers.values[kLinkRegister]);
    return true;
  }
  const auto caller = snapshot.memory.read_u64(registers.sp());
  if (!caller || !is_executable(snapshot, *caller)) return false;
  registers.set_pc(*caller);
  registers.values[registers.sp_index()] += sizeof(std::uint64_t);
  return true;
}

// libdwfl says of a return from a handler and of the function that was interrupted alike, and of
// the innermost frame, that their instruction itself is meant; so the former come in pairs.
void mark_signal_returns(std::vector<Step>& steps) {
  for (std::size_t i = 0; i < steps.size();) {
    const std::size_t first = i;
    while (i < steps.size() && steps[i].exact) ++i;
    const bool has_innermost = first == 0 && i % 2 == 1;
    for (std::size_t at = first + (has_innermost ? 1 : 0); at + 1 < i; at += 2) {
      steps[at].is_signal = true;
    }
    while (i < steps.size() && !steps[i].exact) ++i;
  }
}

// What is called while a thread is walked.
struct WalkState {
  Walk walk;
  const ElfSession& session;
  const std::function<void(std::size_t)>& about_to_read;
};

}  // namespace

Walk walk_frame_pointers(const Snapshot& snapshot, const ThreadSnapshot& thread) {
  Walk walk;
  Registers registers = thread.registers;
  walk.steps.push_back({registers.pc(), true, false});
  if (thread.crashed && step_out_of_wild_call(snapshot, registers)) {
    walk.steps.push_back({registers.pc(), false, false});
  }
  std::uint64_t frame = registers.frame_pointer();
  while (true) {
    const auto next = snapshot.memory.read_u64(frame);
    const auto caller = snapshot.memory.read_u64(frame + sizeof(std::uint64_t));
    if (!next || !caller || *caller == 0) return walk;
    if (!snapshot.maps.empty() && !is_executable(snapshot, *caller)) return walk;
    if (walk.steps.size() >= kMaxFrames) {
      walk.truncated = true;
      return walk;
    }
    walk.steps.push_back({*caller, false, false});
    if (*next <= frame) return walk;  // A stack grows downwards: the callers lie above.
    frame = *next;
  }
}

const Dwfl_Thread_Callbacks StackWalker::kThreadCallbacks = {next_thread,   get_thread, read_word,
                                                             set_registers, nullptr,    nullptr};

StackWalker::StackWalker(const Snapshot& snapshot, ElfSession& session,
                         std::function<void(std::size_t)> about_to_read)
    : snapshot_(snapshot),
      session_(session),
      about_to_read_(std::move(about_to_read)),
      starts_(snapshot.threads) {
  for (ThreadSnapshot& thread : starts_) {
    stepped_.push_back(thread.crashed && step_out_of_wild_call(snapshot, thread.registers));
  }
  ready_ = session.dwfl() != nullptr &&
           dwfl_attach_state(session.dwfl(), nullptr, snapshot.pid, &kThreadCallbacks, this);
}

pid_t StackWalker::next_thread(Dwfl*, void* arg, void** thread_arg) {
  auto& starts = static_cast<StackWalker*>(arg)->starts_;
  auto* thread = static_cast<ThreadSnapshot*>(*thread_arg);
  thread = thread == nullptr ? starts.data() : thread + 1;
  if (thread == starts.data() + starts.size()) return 0;
  *thread_arg = thread;
  return thread->tid;
}

bool StackWalker::get_thread(Dwfl*, pid_t tid, void* arg, void** thread_arg) {
  auto& starts = static_cast<StackWalker*>(arg)->starts_;
  const auto found = std::ranges::find(starts, tid, &ThreadSnapshot::tid);
  if (found == starts.end()) return false;
  *thread_arg = &*found;
  return true;
}

bool StackWalker::read_word(Dwfl*, Dwarf_Addr address, Dwarf_Word* result, void* arg) {
  return static_cast<StackWalker*>(arg)->snapshot_.memory.read(address, result, sizeof *result);
}

int StackWalker::on_frame(Dwfl_Frame* frame, void* arg) {
  auto& state = *static_cast<WalkState*>(arg);
  Dwarf_Addr pc = 0;
  bool activation = false;
  if (!dwfl_frame_pc(frame, &pc, &activation)) return DWARF_CB_ABORT;
  // A thread's first function returns to nowhere.
  if (pc == 0 && !state.walk.steps.empty()) return DWARF_CB_ABORT;
  if (state.walk.steps.size() >= kMaxFrames) {
    state.walk.truncated = true;
    return DWARF_CB_ABORT;
  }
  state.walk.steps.push_back({pc, activation, false});
  if (const auto module = state.session.find(pc)) state.about_to_read(*module);
  return DWARF_CB_OK;
}

Walk StackWalker::walk(std::size_t index) {
  const ThreadSnapshot& thread = snapshot_.threads[index];
  if (!ready_) {
    Walk walk = walk_frame_pointers(snapshot_, thread);
    walk.error = "no module of the process can be read";
    return walk;
  }
  WalkState state{{}, session_, about_to_read_};
  if (const auto module = session_.find(thread.registers.pc())) about_to_read_(*module);
  const int result = dwfl_getthread_frames(session_.dwfl(), thread.tid, on_frame, &state);
  if (result == -1) state.walk.error = dwfl_errmsg(-1);
  mark_signal_returns(state.walk.steps);
  if (stepped_[index]) {
    if (!state.walk.steps.empty()) state.walk.steps.front().exact = false;
    state.walk.steps.insert(state.walk.steps.begin(), {thread.registers.pc(), true, false});
  }
  if (state.walk.steps.empty()) state.walk.steps.push_back({thread.registers.pc(), true, false});
  return std::move(state.walk);
}

}  // namespace defib::postmortem

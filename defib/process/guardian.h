// The supervisor's side of its guardian (apps/defib-guardian, docs/process.md), and the locks that
// outlive one supervisor for the next: of a guardian's next child, or of the program that an
// upgrade executes in this one's place.
//
// What was given by the environment is the process's own, so this is state of the process: attach
// once, before anything is started. Without a guardian every function does nothing or answers no.
// Thread rule: the main thread.

#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "defib/base/error.h"
#include "defib/os/files.h"
#include "defib/process/guardian_protocol.h"

namespace defib::process {

// Takes what the environment tells and removes it there, so that no service sees it.
void attach_guardian();
bool is_guarded();
// A supervisor before this one was at work, and was killed or upgraded.
bool is_resumed();
// The pid by which users know this supervisor: the guardian's, or our own.
pid_t public_pid();
void tell_guardian(shim::GuardianRequest request);

// The lock on the file: one that was kept for us, or a new one. While its holder is dead and only
// not quite gone, it is waited for, at most a second. DatabaseLocked where somebody has it. The
// file's text is the holder's public pid.
Result<std::unique_ptr<os::File>> take_lock(os::Files& files, const std::string& path);
// The guardian gives this lock to whoever follows us, until it is forgotten.
void keep_lock(const os::File& lock);
// The same for exec_upgraded(), where there is no guardian.
void keep_lock_for_upgrade(const os::File& lock);
void forget_lock(const os::File& lock);
// The locks that were kept for us and that nobody took: given up.
void forget_untaken_locks();
// 0 where nobody holds it.
pid_t lock_holder(const std::string& path);

// Executes defib-guardian in the place of this process, to run `arguments` under it. Returns only
// where that failed.
Error exec_guardian(const std::string& guardian, const std::vector<std::string>& arguments);
// Executes `arguments` in the place of this process; it is resumed, and gets the kept locks.
// Returns only where that failed.
Error exec_upgraded(const std::vector<std::string>& arguments);

}  // namespace defib::process

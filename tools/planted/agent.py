"""Bugs of what a service links: agent, heartbeats' side of the page, recovery manager, its state."""

CORE = "defib/process/agent_core.cc"
STATE = "defib/process/persisted_state.cc"
CALLBACKS = "defib/process/recovery_callbacks.cc"
MANAGER = "defib/process/recovery_manager.cc"
HEALTH = "defib/process/health_monitor.cc"

BUGS = [
    ("a forked child goes on beating for its parent", "Agent.AForkedChild*", [
        (CORE, "      mmap(page, kAgentPageSize, PROT_READ | PROT_WRITE, kPrivate, -1, 0);\n",
         "      page;\n"),
        (CORE, "  current_page.store(nullptr, std::memory_order_relaxed);\n"
               "  constexpr int kPrivate = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;\n", "")]),
    ("a page that is another process's is taken", "Agent.APageThatBelongs*", [
        (CORE, "  if (!first && holder != own_pid) return Attached::kNotOurs;\n", "")]),
    ("a new image keeps the stages of the one before", "Agent.AnImage*", [
        (CORE, "  if (!first && first_in_image) free_all_stages(page);\n",
         "  if (first && !first_in_image) free_all_stages(page);\n")]),
    ("state files are readable for others", "PersistedStateFile.IsPrivate*", [
        ("defib/os/files.cc", "    Fd fd(::open(path.c_str(), flags, 0600));\n",
         "    Fd fd(::open(path.c_str(), flags, 0644));\n")]),
    ("a state that fails its checksum is believed", "PersistedStateFile.*", [
        (STATE, "    if (checksum != crc32c(body(content, (*document)[\"pid\"].as_int()).dump())) {\n",
         "    if (checksum < 0) {\n")]),
    ("a damaged state is overwritten", "PersistedStateFile.Damaged*:RecoveryManagerTest.ADamaged*", [
        (STATE, "  DEFIB_TRY(files.rename(path, to));\n", "")]),
    ("a state is written over the one before", "PersistedStateFile.AFailed*:PersistedStateFile.AKill*", [
        (STATE, "  DEFIB_TRY(os::write_file_atomically(*files_, path_, format(content, getpid())));\n",
         "  DEFIB_TRY_ASSIGN(auto file, files_->open(path_, os::OpenMode::kCreate));\n"
         "  DEFIB_TRY(file->truncate(0));\n"
         "  DEFIB_TRY(file->write_at(0, format(content, getpid())));\n")]),
    ("recovery callbacks run in the reverse order", "RecoveryManagerTest.*", [
        (CALLBACKS, "  if (run.reverse) std::ranges::reverse(entries);\n",
         "  if (!run.reverse) std::ranges::reverse(entries);\n")]),
    ("a callback that overruns is not told to stop", "RecoveryManagerTest.ACallbackThatOverruns*", [
        (CALLBACKS, "    call->stop.request_stop();\n    return Error(Code::kTimeout,",
         "    return Error(Code::kTimeout,")]),
    ("a callback that still runs is called again", "RecoveryManagerTest.ACallbackThatOverruns*:"
     "RecoveryManagerTest.Overruns*", [
        (CALLBACKS, "    if (entry->call != nullptr && !entry->call->is_done()) {\n",
         "    if (left_behind < 0) {\n")]),
    ("callbacks that overrun are not bounded", "RecoveryManagerTest.Overruns*", [
        (CALLBACKS, "    if (left_behind >= kMaxOverruns) {\n", "    if (left_behind < 0) {\n")]),
    ("a failure joins the recovery that runs already", "RecoveryManagerTest.ARecoveryCovers*", [
        (MANAGER, "    if (next == nullptr) next = std::make_shared<Flight>();\n"
                  "    flight = next;\n",
         "    flight = running != nullptr ? running : next;\n"
         "    flight_ended.wait(lock, [&] { return flight->done; });\n"
         "    return flight->outcome;\n")]),
    ("attempts are never given back", "RecoveryManagerTest.ALongTime*", [
        (MANAGER, "      now - last_failure_mono_ns > options.attempts_reset_after.count()) {\n",
         "      now < last_failure_mono_ns) {\n")]),
    ("a new process finds its attempts used up", "RecoveryManagerTest.ANewProcess*", [
        (MANAGER, "std::max(options.max_recovery_attempts - 1, 0)));\n",
         "std::max(options.max_recovery_attempts, 0)));\n")]),
    ("a forked child saves the state of its parent", "RecoveryManagerTest.AForkedChild*", [
        (MANAGER, "  if (::getpid() != owner) {\n", "  if (owner < 0) {\n")]),
    ("an alarm has no hysteresis", "HealthMonitor.TellsEachCrossing*", [
        (HEALTH, "percent > threshold - options_.hysteresis : percent >= threshold;",
         "percent >= threshold : percent >= threshold;")]),
]

# The same, for races: a test has to fail by the thread sanitizer's word.
RACES = [
    ("race: the outcome of a callback is written without its lock", "RecoveryManagerTest.*", [
        (CALLBACKS, "        const std::lock_guard lock(call.mutex);\n"
                    "        call.outcome = std::move(outcome);\n"
                    "        call.done = true;\n",
         "        call.outcome = std::move(outcome);\n        call.done = true;\n"
         "        const std::lock_guard lock(call.mutex);\n")]),
]

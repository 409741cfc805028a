"""Bugs of the supervisor and of the shim."""

CONTROL = "apps/defib-shim/control.cc"
DYING = "apps/defib-shim/dying.cc"
ENDING = "apps/defib-shim/ending.cc"
FENCE = "apps/defib-shim/fence.cc"
FLOW = "apps/defib-shim/launch_flow.cc"
HOOKS = "apps/defib-shim/hooks.cc"
KERNEL = "apps/defib-shim/kernel.cc"
LAUNCH = "apps/defib-shim/launch.cc"
NOTIFY = "apps/defib-shim/notify.cc"
PUMP = "apps/defib-shim/log_pump.cc"
SERVICE = "apps/defib-shim/service.cc"
STATUS = "apps/defib-shim/status_file.cc"
GUARDIAN = "defib/process/guardian.cc"
HEARTBEAT = "defib/process/heartbeat.cc"
HUNG = "defib/process/supervised_heartbeat.cc"
POLICY = "defib/process/restart_policy.cc"
PROTOCOL = "defib/process/shim_protocol.h"
SOCKETS = "defib/process/kept_sockets.cc"
STALL = "defib/process/stall_rules.cc"
STARVATION = "defib/process/starvation.cc"
SUPERVISED = "defib/process/supervised.cc"
SUPERVISED_SHIM = "defib/process/supervised_shim.cc"

CAPTURE = "apps/defib-shim/capture.cc"
TRACE = "apps/defib-snapshot/trace.cc"

BUGS = [
    # Captures.
    ("a hang's report comes unannounced", "Preload.ComputingFor*", [
        (HUNG, "  if (kills) report.capture_path = hang_report_path();\n", "")]),
    ("a capture that is late is left to itself", "Capturing.AHelperThatHolds*", [
        (CAPTURE, "  kill(-capture.pid, SIGKILL);\n  kill(capture.pid, SIGKILL);\n", "")]),
    ("a report is told before the end that it belongs to", "Capturing.AReportThatIsDone*", [
        (CAPTURE, "  if (find_generation(generation) != nullptr) {\n    capture.pid = kEarly;",
         "  if (generation == 0) {\n    capture.pid = kEarly;")]),
    ("a helper may sleep on where its process is gone", "Capturing.AHelperThatSleepsIs*", [
        (CAPTURE, "    if (was_copied(capture)) {\n",
         "    if (was_copied(capture) || find_generation(capture.generation) == nullptr) {\n")]),
    ("what the page tells is not reported", "Capturing.AHelperThatSleeps*:"
     "Capturing.AHelperThatIsKilled*", [
        (CAPTURE, "  if (!reported && !capture.by_page) {\n",
         "  if (!reported && !capture.by_page && capture.pid < 0) {\n")]),
    ("a stopped tracer keeps a dead process", "Tracing.ATracerThatStandsStill*", [
        (ENDING, "    end_tracer(one);\n    if (!take_exit(one, &exit)) return;\n",
         "    return;\n")]),
    ("the death of a tracer is not told", "Tracing.TheDeathOfTheTracer*", [
        (CAPTURE, "  one.tracer = 0;\n  const bool killed", "  one.tracer = 0;\n  if (wait_status != 0) return;\n  const bool killed")]),
    ("a signal with a handler counts as a crash", "Tracing.AHandlerOfTheProgram*", [
        (TRACE, "  if (is_fault(signal) && is_default(options_.pid, signal))",
         "  if (is_fault(signal) && options_.pid > 0)")]),
    ("a tracer swallows signals", "Tracing.AHandlerOfTheProgram*:Tracing.AStaticProgram*", [
        (TRACE, "return on_crash(tid, signal);\n  trace(PTRACE_CONT, tid, 0, signal);",
         "return on_crash(tid, signal);\n  trace(PTRACE_CONT, tid, 0, 0);")]),
    # Two at once.
    ("a process is replaced before it is fenced", "DyingService.AnotherProgram*:"
     "DyingService.TheEndOfTheMainThread*:StandbyService.AnActiveOne*", [
        (DYING, "  if (look.fence == Fence::kFenced) return fenced(one, look);\n",
         "  if (look.fence == Fence::kFenced || one.life.fired()) return fenced(one, look);\n")]),
    ("the end of the main thread counts as the end of all", "DyingService.TheEndOfTheMainThread*:"
     "StandbyService.AnActiveOne*", [
        (FENCE, "    const Pass pass = walk(pid, quick);\n",
         "    const Pass pass = pid > 0 ? Pass{} : walk(pid, quick);\n")]),
    ("a standby is promoted without an epoch of its own", "StandbyService.IsPromoted*", [
        (DYING, "  promoted.epoch = ++record.epoch;\n", "  promoted.epoch = record.epoch;\n")]),
    ("the standby of a service that ended well stays", "StandbyService.ACleanEnd*", [
        (ENDING, "  end_standby();\n  if (ticket_.id != 0 &&", "  if (ticket_.id != 0 &&")]),
    ("a number that was used again counts as the service", "Takeover.*", [
        (KERNEL, "read_stat(pid, &stat) && stat.start_time == start_time && stat.state != 'Z' &&\n",
         "read_stat(pid, &stat) && start_time != 0 && stat.state != 'Z' &&\n")]),
    ("two supervisors hold one name", "StateDirTest.TheLock*:Supervision.ASecond*", [
        (GUARDIAN, "  if (!locked) return locked.error();\n", "")]),
    ("the agent's lock is not robust", "DyingService.DeathIsTold*", [
        ("defib/os/life_lock.h",
         "pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0 &&",
         "pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_STALLED) == 0 &&")]),
    # What is left behind.
    ("what a dead service left is not killed", "*Family.DoubleForkers*:"
     "Supervision.ADescendant*", [
        (ENDING, "  if (!has_successor && one.group > 0) kill(-one.group, SIGKILL);\n", ""),
        (ENDING, "    if (is_leftover(pid)) {\n", "    if (is_leftover(pid) && pid < 0) {\n"),
        (FLOW, "  if (one.groups.kill_all()) return;\n  one.used = false;",
         "  if (!one.groups.kill_all() || one.used) return;\n  one.used = false;")]),
    ("descendants are looked for among the children only", "*Family.DoubleForkers*:"
     "*Family.AReplacementMeetsNoneOfALine*", [
        (FLOW, "  kill_descendants(getpid(), spared, count);\n", "  (void)count;\n"),
        (ENDING, "  await_leftovers();\n    request_start(true, report->ticket_id);\n",
         "  request_start(true, report->ticket_id);\n")]),
    ("a service that ignores its stop signal is not killed", "Supervision.AServiceThatIgnores*", [
        (SERVICE, "    if (one.kill_at != 0 && now >= one.kill_at && !next_stop_signal(one, now)) {\n",
         "    if (one.kill_at != 0 && now >= one.kill_at && !next_stop_signal(one, now) &&\n"
         "        now < 0) {\n")]),
    ("a hook's timeout is ignored", "HookTest.AHangingHook*", [
        (HOOKS, "                                           : header.hook_timeout_ns);\n",
         "                                           : INT64_MAX / 2);\n")]),
    ("a hook's group outlives its timeout", "HookTest.AHangingHook*", [
        (HOOKS, "  kill_descendants(slot.record.pid, nullptr, 0);\n"
                "  // It is our child and not waited for, so the number is its own, and its group's.\n"
                "  kill(slot.record.pid, SIGKILL);\n  kill(-slot.record.pid, SIGKILL);\n",
         "  kill(slot.record.pid, SIGKILL);\n"),
        (HOOKS, "    kill(-pid, SIGKILL);  // What it left in the background does not outlive it.\n",
         "")]),
    ("a hook that failed lets the service start", "HookTest.APreStartThatFails*", [
        (FLOW, "    if (ended.success) {\n", "    if (ended.is_hook) {\n")]),
    ("a group that somebody removed is not made again", "*Grouped.AGroupMadeInAdvance*", [
        (LAUNCH, "    if (groups.tree_fd() >= 0) groups.make(launch, instance.generation, refused);\n",
         "")]),
    ("what was made for a start stays when nothing follows", "*Grouped.TheGroupOfTheNextStart*", [
        (ENDING, "  forget_prepared();  // Nothing follows at once.\n", "")]),
    # What is remembered.
    ("an end counts as told before anybody heard of it", "Takeover.*:Torture.*", [
        (ENDING, "  exit.number = ++record.exit_number;\n",
         "  exit.number = ++record.exit_number;\n  record.acknowledged = exit.number;\n")]),
    ("an end that was told is told again", "Takeover.AnAcknowledged*", [
        (CONTROL, "  record.acknowledged = acknowledged;\n", "")]),
    ("the program runs before the disk knows of it", "Strikes.TheShimIsKilledAtEachWrite*", [
        (LAUNCH, "  if (status.write_record() != 0 && status.write_record() != 0) {\n",
         "  if (status.record.magic == 0) {\n")]),
    ("the status file is written in one place", "Takeover.TheRecordBefore*", [
        (STATUS, "static_cast<off_t>(record.sequence % 2);", "static_cast<off_t>(record.sequence * 0);")]),
    ("a stop that the supervisor before asked for is asked of no further shim",
     "Takeover.AStopThatTheSupervisorBefore*", [
         (SUPERVISED_SHIM, "    stop_asked_ = graceful_stop(spec_, welcome.stopping, requested ? 0 : "
          "active.generation);\n    kill_at_mono_ns_ = context_.clock.mono_ns() + "
          "stop_asked_->grace_ns;\n", "")]),
    ("a stop of a start that has not begun is forgotten", "Takeover.AStopOfAStart*", [
        (SUPERVISED, "state_ == ServiceState::kStopped && !start_asked_ && replay_left_ == 0;",
         "state_ != ServiceState::kBackingOff;")]),
    ("a second stop forgets the first", "Takeover.ASecondStop*", [
        (SUPERVISED, "  if (!rests) planner_->remember_stop(generation_);",
         "  if (!rests) planner_->remember_stop(generation_); else planner_->forget_pending();")]),
    ("a start does not wait for what the stop before it finds", "CommandRace.AStartAfter*", [
        (SUPERVISED, "  restart_requested_ = stop_unanswered_ != 0;\n",
         "  restart_requested_ = false;\n")]),
    ("a stop that found nothing is not answered where that cannot be said",
     "CommandRace.AStopIsAnswered*", [
         (CONTROL, "sizeof body, nullptr, 0, nullptr, 0)) drop_connection();",
          "sizeof body, nullptr, 0, nullptr, 0)) return;")]),
    ("a stop that nobody heard is forgotten", "Takeover.AStopThatNobodyHeard*", [
        (SUPERVISED, "  if (stop_requested() && report.reason != StopReason::kRequested) "
                     "return call_off_start();\n", "")]),
    ("a start that was called off between fence and end is waited for",
     "DyingService.AStopBetween*", [
         (SUPERVISED_SHIM, "(exited.ticket_id != 0 && !called_off)", "exited.ticket_id != 0")]),
    ("a takeover begins the log anew", "Torture.*:ServiceOutput.AFloodThrough*", [
        (PUMP, "  if (fd < 0) fd = open(kLogCurrent, O_RDWR | O_CREAT | O_CLOEXEC, 0600);\n",
         "  if (fd < 0) fd = open(kLogCurrent, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);\n")]),
    ("a full log file cuts a line", "Supervision.OutputGoesToTheLog*:ServiceOutput.*", [
        (PUMP, "  if ((ends_line() || used >= 2 * max_bytes_) && rotate()) return max_bytes_;\n",
         "  if (rotate()) return max_bytes_;\n"),
        (PUMP, "  finish_line(stream);\n  used = size_", "  used = size_")]),
    ("a flood has no rate", "ServiceOutput.AFloodIsCut*", [
        (PUMP, "  if (rate_ == 0) return true;\n", "  if (rate_ != 1) return true;\n")]),
    ("the sockets of a service die with its shim", "SocketService.KeepsThem*:SocketService.GetsBack*", [
        (SOCKETS, "  stored_ = std::move(stored);\n", "  stored_.clear();\n")]),
    ("a crash is not written down", "Planner.WhatIsKnown*", [
        (POLICY, "    last_generation_ = generation;\n    save();\n",
         "    last_generation_ = generation;\n")]),
    ("a decision is not written down before it is carried out", "Planner.ADelayed*", [
        (POLICY, "  Decision decision = {Verdict::kStart, permitted->delay, std::nullopt};\n"
                 "  remember(generation, decision);\n",
         "  Decision decision = {Verdict::kStart, permitted->delay, std::nullopt};\n")]),
    ("a restart is written down after it", "CrashHistory.*", [
        (POLICY, "  inherited_ = false;\n  Permit permit;\n  permit.monitoring = monitors_next();\n"
                 "  if (auto prepared = budget_.prepare(); !prepared) {\n",
         "  inherited_ = false;\n  Permit permit;\n  permit.monitoring = monitors_next();\n"
         "  if (!budget_.exhausted()) budget_.prepare_unsaved();\n"
         "  if (auto prepared = budget_.prepared() ? Result<>() : budget_.prepare(); !prepared) {\n")]),
    # When it is started again.
    ("the list of exit codes is inverted", "RestartRules.*", [
        (POLICY, "  return without(unite(set, spec.restart_exit_codes), spec.no_restart_exit_codes);\n",
         "  return without(unite(set, spec.no_restart_exit_codes), spec.restart_exit_codes);\n")]),
    ("a stop on request is restarted", "Ticket.*", [
        (PROTOCOL, "  if (exit.reason == StopReason::kRequested || "
                   "exit.reason == StopReason::kReboot) return false;\n", "")]),
    ("a healthy time does not reset the delays", "Supervision.AHealthyTime*", [
        (POLICY, "  backoff_.succeeded_for(spec_.healthy_after);\n", "")]),
    ("delays have no jitter", "Planner.TheFirstRestart*", [
        (POLICY, "  options.spread = kSpread;\n", "  options.jitter = false;\n")]),
    ("equal crashes are not recognised", "Planner.TheThirdEqualCrash*", [
        (POLICY, "    in_a_row_ = again ? in_a_row_ + 1 : 1;\n", "    in_a_row_ = 1;\n")]),
    ("a restart that has happened is not counted", "Supervision.ACrashLoop*:Planner.*", [
        (POLICY, "  if (budget_.prepared()) {\n    budget_.use_prepared();\n  } else {\n"
                 "    budget_.record();\n  }\n  note(budget_.settle());\n",
         "  note(budget_.give_back());\n")]),
    ("a stop does not call the waiting start off", "Takeover.ASecondStop*", [
        (SERVICE, "    ticket_ = Ticket{};\n    pending_ = Ticket{};\n    start_at_ = 0;\n"
                  "    cancel_waiting();\n", "    ticket_ = Ticket{};\n")]),
    ("a stop that only the disk knows is not told to the shim", "Takeover.AStopThatOnlyTheDisk*", [
        (SUPERVISED, "    if (stopped && shim_waits_) {", "    if (stopped && !shim_waits_) {")]),
    ("the supervisor starts twice what the shim starts", "Takeover.TheNextSupervisorAdopts*", [
        (FLOW, "  if (alive()) return;\n  start_at_ = 0;\n", "  start_at_ = 0;\n"),
        (CONTROL, "        if (start_when_gone_) return;\n        return refuse(type, EALREADY);\n",
         "        if (start_when_gone_) return;\n"),
        (SUPERVISED, "  if (alive()) {\n    // Of a process that is on its way out",
         "  if (alive() && state_ == ServiceState::kStopping) {\n"
         "    // Of a process that is on its way out")]),
    # Who hangs.
    ("starvation is told as a hang", "Stall.*:StallRules.*", [
        (STALL, "  if (available >= wanted || is_plain(evidence)) {\n",
         "  if (available >= os::Duration(0) || is_plain(evidence)) {\n")]),
    ("a hang is never told", "HeartbeatTest.ACounting*:HeartbeatTest.AStamped*", [
        (HEARTBEAT, "  if (mono_ns >= deadline_at && mono_ns >= slot.held_until_ns) {\n",
         "  if (mono_ns < 0 && mono_ns >= slot.held_until_ns) {\n")]),
    ("a debugged service is killed", "Stall.ADebugged*:StallRules.*", [
        (STALL, "  if (tracer == 0) return allow(\"no debugger\", \"a debugger is attached\");\n",
         "  if (tracer >= 0) return allow(\"no debugger\", \"a debugger is attached\");\n")]),
    ("a cycle of locks in which somebody moves is a deadlock", "StallOnLocks.ACycleOf*", [
        (STARVATION, "now->turns != before->turns ||\n", "\n")]),
    ("our own lateness is taken for the service's silence", "Stall.ALookThatCame*:StallRules.*", [
        (STALL, "  if (late <= limit || is_plain(evidence)) return allow(std::move(input), "
                "std::move(threshold));\n",
         "  if (late >= os::Duration(0) || is_plain(evidence)) return allow(std::move(input), "
         "std::move(threshold));\n")]),
    ("a beat of the future is believed", "HeartbeatTest.AStampInTheFuture*", [
        (HEARTBEAT, "    slot.stamped = reading.stamp_ns > 0 && "
                    "reading.stamp_ns <= mono_ns + kStampAheadNs;\n",
         "    slot.stamped = reading.stamp_ns > 0;\n"),
        (HEARTBEAT, "slot.stamped ? std::min(reading.stamp_ns, mono_ns) : mono_ns;",
         "slot.stamped ? reading.stamp_ns : mono_ns;")]),
    # Who is believed.
    ("anybody's notifications are believed", "Launched.SomeoneElses*", [
        (NOTIFY, "    const bool trusted = sender.known && (uid == geteuid() || uid == 0 ||\n",
         "    const bool trusted = sender.known && (uid == geteuid() || uid != 0 || uid == 0 ||\n")]),
    ("any process of the service may notify", "NotifyProtocol.OnlyTheMain*", [
        (NOTIFY, "  if (access == NotifyAccess::kNone) return false;\n",
         "  return access != NotifyAccess::kNone;\n")]),
    ("anybody may take the shim over", "Takeover.*:Launched.*", [
        (KERNEL, "  return peer.uid == geteuid() || peer.uid == 0;\n",
         "  return peer.uid == geteuid() || peer.pid != 0;\n")]),
    ("a stop that crosses the start signals twice", "Family.AStopThatCrosses*", [
        ("apps/defib-shim/service.cc", "  if (one.kill_at != 0 && request.number != 0 && same) return;\n",
         "  if (same && one.pid < 0) return;\n")]),
    ("what is said while there is no shim is lost", "NotifyProtocol.WhatTheAgentSays*", [
        ("apps/defib-shim/service.cc", "  take_unheard(one);\n", "")]),
    ("a stop signals whoever has the number that was announced", "NotifyProtocol.AStopSignals*", [
        ("apps/defib-shim/service.cc",
         "    if (is_same_and_alive(one.announced, one.announced_start)) {\n",
         "    if (one.announced > 0) {\n")]),
    ("a hook is not told that the output asked", "HookTest.AHookKnows*", [
        ("apps/defib-shim/hooks.cc", '"log_pattern"};', '""};')]),
    ("without a descriptor a stop is the kill after its time", "Strikes.AStopIsASignal*", [
        ("apps/defib-shim/service.cc",
         "  } else if (one.is_child || is_same_and_alive(one.pid, saved(one).start_time)) {\n",
         "  } else if (one.pid < 0) {\n")]),
    ("an adopted service that cannot be watched at once is not watched", "Strikes.AnAdopted*", [
        ("apps/defib-shim/service.cc", "    one.watch_again_at = mono_ns() + kWatchAgainNs;\n", "")]),
]

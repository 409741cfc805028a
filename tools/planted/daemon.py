"""Bugs of the supervising process around the supervisor."""

CONTROL = "defib/daemon/control.cc"
DEPENDENCIES = "defib/daemon/dependencies.cc"
ORDER = "defib/daemon/host_order.cc"
HOST = "defib/daemon/host.cc"
LOG_WATCH = "defib/daemon/log_watch.cc"
LOG = "defib/daemon/service_log.cc"
HEALTH = "defib/daemon/health_check.cc"
RECORDER = "defib/daemon/incident_recorder.cc"
VERDICT = "defib/daemon/incident_verdict.cc"
FINDINGS = "defib/daemon/incident_findings.cc"
INCIDENT = "defib/recovery/incident.cc"
ALERTS = "defib/daemon/alert_events.cc"
CORE = "defib/daemon/core_file.cc"
GROUPS = "defib/daemon/crash_groups.cc"
ALERTER = "defib/daemon/alerter.cc"
RUNS = "defib/daemon/run_keeper.cc"

BUGS = [
    ("on a full disk each sender begins anew", "AlerterTest.OnAFullDiskNothing*", [
        (ALERTER, "    options.fds.emplace_back(book_memory_.get(), kMemoryFd);\n",
         "    book_memory_ = os::Fd(memfd_create(\"none\", MFD_CLOEXEC));\n"
         "    options.fds.emplace_back(book_memory_.get(), kMemoryFd);\n")]),
    ("on a full disk events wait for a sender that stays", "AlerterTest.OnAFullDiskAnEvent*", [
        (ALERTER, "  if (sender_.running()) return relieve_sender();\n",
         "  if (sender_.running()) return;\n")]),
    ("on a full disk events that senders have keep others out", "AlerterTest.OnAFullDiskMore*", [
        (ALERTER, "    if (handed_over_ == 0) {\n", "    if (handed_over_ <= kMaxHomeless) {\n")]),
    ("on a full disk a killed sender takes its events along", "AlerterTest.OnAFullDiskAKilled*", [
        (ALERTER, "  if (status.success()) {\n", "  if (status.success() || status.signal != 0) {\n")]),
    ("a time noted before the clock was set back is waited for", "AlerterTest.ATimeThat*", [
        (ALERTER, "  if (wait_ns > alert::Book::kMaxWindowNs) return start_sender();\n", "")]),
    ("what the service said and nobody heard is not told", "Recorder.WhatTheServiceSaid*", [
        (RECORDER, "  if (event.key == \"X_DEFIB_DROPPED\") return messages_lost(own, event.value);\n",
         "")]),
    ("a failure is counted twice", "Groups.CountNothingTwice:Groups.LoseNothing*", [
        (GROUPS, "  if (counted(incident, number)) return false;\n", "")]),
    ("what a killed recorder did not count is lost", "Recorder.EqualFailures*", [
        (GROUPS, "  for (const wire::Json& line : lines) {\n    if (line[\"event\"]",
         "  for (const wire::Json& line : lines) {\n    if (number >= 0 || line[\"event\"]")]),
    ("an end is forgotten for the next one", "Recorder.EachOfTwoQuick*", [
        (VERDICT, "  own.earlier.push_back(std::move(before));\n", "")]),
    ("a report is that of whatever failed last", "Recorder.AReportThatComes*", [
        (VERDICT, "waiting(own, of_warned ? 0 : report.generation);\n",
         "waiting(own, own.failed.generation);\n")]),
    ("the late verdict on an earlier end is the cause", "Recorder.ALateVerdict*", [
        (INCIDENT, " && !line[\"earlier\"].as_bool();\n", ";\n")]),
    ("the verdict on an earlier end is replayed as the newest one's",
     "Recorder.AKilledRecorderIsContinuedWith*", [
        (RECORDER, "    own.classified = own.classified || !earlier;\n",
         "    own.classified = own.classified || !earlier || generation != 0;\n")]),
    ("an incident is closed without a verdict on each end", "Recorder.AnIncidentThatIsClosed*", [
        (RECORDER, "  for (std::size_t left = own.earlier.size(); left > 0; --left) {\n",
         "  for (std::size_t left = own.earlier.size(); left > 100; --left) {\n")]),
    ("the report of a hang is not waited for", "Recorder.AReportOfAHang*", [
        (RECORDER, "  own.failed.report_due = !report_path.empty();\n",
         "  own.failed.report_path.clear();\n"),
        (VERDICT, "std::ranges::find(own.earlier, generation, &Failure::generation);\n",
         "std::ranges::find_if(own.earlier, [&](const Failure& one) {\n"
         "    return one.generation == generation && one.report_due;\n  });\n")]),
    ("a finding is the verdict on an end", "Recorder.AFindingIsNot*", [
        (FINDINGS, "own.failed.generation != 0 || finding.ends_service", "finding.ends_service")]),
    ("the end of a hung process counts as told", "Recorder.TheEndOfAHung*", [
        (RECORDER, "report.generation <= own.ended_generation) {\n",
         "own.process_failed &&\n      report.generation <= own.failed.generation) {\n")]),
    ("one that is killed for a hang was restarted well", "Recorder.AServiceThatIsKilled*", [
        (RECORDER, "  if (kills) own.replaced = own.healthy = own.recovering = false;\n", "")]),
    ("of a row of failed incidents one runs again", "Recorder.AllIncidentsThatFailed*", [
        (RECORDER, "  if (row.size() == kMaxFailedRow) row.pop_back();\n", "  row.clear();\n")]),
    ("the ends of two incidents become one alert", "AlertEvents.TheEnds*", [
        (ALERTS, " && !ends_another;\n", ";\n")]),
    ("a run that ended badly is good", "RunKeeperTest.*", [
        (RUNS, "  if (well && long_enough && !run.told)", "  if (long_enough && !run.told)")]),
    ("a run is good while something is wrong", "RunKeeperTest.While*", [
        (RUNS, "    if (!healthy_(service)) return arm(service, run);\n", "")]),
    ("the groups have no end", "Groups.AreBounded", [
        (GROUPS, "    if (groups_.size() == kMaxGroups) {\n", "    if (groups_.size() == 100 * kMaxGroups) {\n")]),
    ("secrets in the output reach the incident", "Recorder.SecretsInTheOutput*", [
        (VERDICT, "    output.err = redactor.text(output.err);\n", ""),
        (VERDICT, "    output.out = redactor.text(output.out);\n", "")]),
    ("anybody's requests are carried out", "Control.*", [
        (CONTROL, "  if (!peer || (*peer != geteuid() && *peer != 0)) {\n", "  if (!peer) {\n")]),
    ("an answer that comes late goes to whoever calls next", "Control.ACallerThatLeaves*", [
        (CONTROL, "  const std::uint64_t id = next_id_++;\n",
         "  const std::uint64_t id = 0 * next_id_;\n")]),
    ("services start before what they depend on", "Dependencies.*", [
        (DEPENDENCIES, "      order.push_back(node.name);\n",
         "      order.insert(order.begin(), node.name);\n")]),
    ("a dependant does not wait until the other is ready", "HostTest.ADependant*", [
        (ORDER, "status->state != ServiceState::kStarting &&\n", "\n")]),
    ("services stop in no order", "HostTest.ServicesStart*", [
        (ORDER, "    if (!free) continue;\n", "    if (!free && name->empty()) continue;\n")]),
    ("a reload restarts nobody's dependants", "HostTest.WhoWants*", [
        (ORDER, "  for (const std::string& other : order().restarted_with(name)) {\n",
         "  for (const std::string& other : std::vector<std::string>()) {\n")]),
    ("a reload that fails keeps half of it", "HostTest.AReloadThatCannot*", [
        (HOST, "      for (const wire::Json& name : added.items()) "
               "remove(std::string(name.as_string()));\n", "")]),
    ("a hole in the output joins two lines", "LogWatch.AHole*", [
        (LOG_WATCH, "      one.in_hole = true;\n", "")]),
    ("matching takes all the time that there is", "LogWatch.MatchingGets*:LogWatch.AFlood*", [
        (LOG_WATCH, "  if (!may_match()) return skip(from, bytes);\n",
         "  if (!may_match() && feed_lost > (1ULL << 60)) return skip(from, bytes);\n")]),
    ("a pattern that is a bomb is taken", "LogWatch.PatternsThat*", [
        (LOG_WATCH, "    if (size > kMaxProgram) {\n", "    if (size < 0) {\n")]),
    ("bytes without a whole index are left out", "ServiceLogTest.ADamagedIndex*", [
        (LOG, "    ++part.next_record;\n    part.record.reset();\n    return true;\n",
         "    ++part.next_record;\n    part.record.reset();\n    part.offset = size;\n"
         "    return true;\n")]),
    ("a check that hangs is waited for", "HealthChecker.NonsenseAndSilence*:"
     "HealthChecker.AHanging*", [
        (HEALTH, "    deadline_ = 0;\n    attempt_->abandon();\n", "    deadline_ = 0;\n"
                 "    if (config_.name.size() < 1000) return;\n")]),
    ("an exit that is told twice counts twice", "Recorder.AKilledRecorder*", [
        (RECORDER, "report.generation != 0 && report.generation <= own.ended_generation) {\n",
         "report.generation == 0) {\n")]),
    ("a file that took a core's name is removed", "Cores.AFileThat*", [
        (CORE, "    const bool same = now && now->device == entry.device && "
               "now->inode == entry.inode;\n", "    const bool same = now.has_value();\n")]),
]

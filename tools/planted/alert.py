"""Bugs of the alerts: queue, book, messages."""

BOOK = "defib/alert/book.cc"
JSON = "defib/alert/book_json.cc"
FILE = "defib/alert/book_file.cc"
QUEUE = "defib/alert/queue.cc"
MESSAGE = "defib/alert/message.cc"

BUGS = [
    ("equal alerts are not folded into one", "BookTest.EqualFailures*:BookTest.AStorm*", [
        (BOOK, "           alert.cause == event.cause;\n",
         "           alert.cause == event.cause && alert.count == 0;\n")]),
    ("an event that is told twice counts twice", "BookTest.AnEventThatIsToldTwice*:BookTest.Nothing*", [
        (BOOK, "  if (std::ranges::find(seen_, event.id) != seen_.end()) return;\n", "")]),
    ("windows do not grow in a storm", "BookTest.AStorm*", [
        (BOOK, "    delivery.window_ns = std::min(std::max(kMaxWindowNs, base), "
               "delivery.window_ns * 2);\n", "    delivery.window_ns = base;\n")]),
    ("what is under way is not kept", "BookTest.Nothing*", [
        (JSON, "  if (d.outgoing) json.set(\"outgoing\", message_to_json(*d.outgoing));\n",
         "  if (d.outgoing && d.messages < 0) json.set(\"outgoing\", message_to_json(*d.outgoing));\n")]),
    ("a message that goes out again has a new id", "BookTest.*", [
        (BOOK, "    if (!own.outgoing) {\n      if (token_ns", "    {\n      if (token_ns")]),
    ("an acknowledged alert is repeated", "BookTest.AnAcknowledged*", [
        (BOOK, "  if (!alert.resolved && !acknowledged && receiver.repeat_interval.count() > 0) {\n",
         "  if (!alert.resolved && receiver.repeat_interval.count() > 0) {\n")]),
    ("an acknowledged alert is escalated", "BookTest.AnAcknowledged*", [
        (BOOK, "    if (acknowledged) return {};\n", "")]),
    ("an acknowledgement outlives what was acknowledged", "BookTest.AnAcknowledgementEnds*", [
        (BOOK, "  if (alert.resolved || event.severity > alert.severity) {\n",
         "  if (event.severity > Severity::kCritical) {\n")]),
    ("an acknowledgement is one of what is graver too", "BookTest.AnAcknowledgementIsNot*", [
        (BOOK, "  if (alert.resolved || event.severity > alert.severity) {\n",
         "  if (alert.resolved) {\n")]),
    ("what was told before the clock was set back is waited for",
     "BookTest.AClockThatIsSetBackHoldsUpNoFolded*:BookTest.Nothing*", [
         (BOOK, "      happened(delivery.told_ns);\n", "")]),
    ("an alert from before the clock was set back waits", "BookTest.AClockThatIsSetBackHoldsUpNoFirst*", [
        (BOOK, "    happened(alert.first_ns);\n", "")]),
    ("a receiver rests until the clock has caught up", "BookTest.AClockThatIsSetBackLetsNobody*", [
        (BOOK, "    rests(state.retry_ns);\n", "")]),
    ("a refused message rests until the clock has caught up", "BookTest.AClockThatIsSetBackLetsNobody*", [
        (BOOK, "      if (delivery.outgoing) rests(delivery.outgoing->next_try_ns);\n", "")]),
    ("tokens come back when the clock has caught up", "BookTest.AClockThatIsSetBackGives*", [
        (BOOK, "    for (auto& [service, bucket] : state.buckets) happened(bucket.at_ns);\n", "")]),
    ("what a full disk does not take is kept nowhere", "BookFileTest.WhatTheDisk*", [
        (FILE, "  in_memory_ = memory_->write_at(0, kept).has_value();\n",
         "  in_memory_ = kept.empty();\n")]),
    ("an old book in memory hides the disk's", "BookFileTest.WhatAnother*", [
        (FILE, "  if (!json || (*json)[\"follows\"].as_string() != on_disk_) return std::nullopt;\n",
         "  if (!json) return std::nullopt;\n")]),
    ("there is no rate", "BookTest.TheRate*", [
        (BOOK, "    const double missing = 1.0 - bucket->second.tokens;\n",
         "    const double missing = 0.0 * bucket->second.tokens;\n")]),
    ("a refused message is tried for ever", "BookTest.ARefused*", [
        (BOOK, "  if (once || too_old || outgoing.refusals >= kMaxRefusals) "
               "give_up(Message(outgoing), now_ns);\n",
         "  if (once || too_old) give_up(Message(outgoing), now_ns);\n")]),
    ("the book grows without a bound", "BookTest.EverythingIsBounded", [
        (BOOK, "  if (alerts_.size() < kMaxAlerts) return;\n  prune(now_ns);\n",
         "  if (now_ns != 0) return;\n  prune(now_ns);\n")]),
    ("the queue is emptied of what nobody has read", "QueueTest.IsEmptied*", [
        (QUEUE, "  if (!rest.events.empty()) return false;\n", "")]),
    ("a torn record takes the one behind it along", "QueueTest.ATornRecordCosts*", [
        (QUEUE, "bytes += \"\\n\" + encode_line(event.to_json()) + \"\\n\";",
         "bytes += encode_line(event.to_json()) + \"\\n\";")]),
    ("records are believed without their checksum", "QueueTest.EveryFlippedBit*", [
        (QUEUE, " && end == line.data() + kChecksumDigits && crc32c(text) == checksum) {\n",
         " && end == line.data() + kChecksumDigits) {\n")]),
    ("writers of the queue do not lock it", "QueueTest.Writers*", [
        (QUEUE, "    auto locked = (*file)->try_lock();\n", "    Result<> locked;\n")]),
    ("a text may bring its own lines into a mail's header", "AlertMessage.NoTextForges*", [
        (MESSAGE, "header_text(subject_of(message))",
         "message.id.empty() ? header_text(subject_of(message)) : subject_of(message)")]),
]

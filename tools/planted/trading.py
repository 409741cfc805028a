"""Bugs of trading: gates, kill switch, parents, ramp, checkpoint, checklist."""

CHECKLIST = "defib/trading/checklist.cc"
CHECKPOINT = "defib/trading/checkpoint.cc"
DAMAGE = "defib/trading/damage.cc"
FENCE = "defib/trading/fence.cc"
GATES = "defib/trading/gates.cc"
GATEWAY = "defib/trading/gateway.cc"
KILL = "defib/trading/kill_switch.cc"
LEDGER = "defib/trading/ledger.cc"
PACE = "defib/trading/stop_pace.cc"
RAMP = "defib/trading/ramp.cc"
RECONCILE = "defib/trading/reconcile.cc"
RESUME = "defib/trading/resume.cc"
RUNBOOK = "defib/trading/runbook.cc"

BUGS = [
    ("an order leaves while a kill switch is engaged", "KillSwitchTest.ARunningEngine*", [
        (GATEWAY, "  DEFIB_TRY(check_kill_switch(draft));\n", "")]),
    ("a kill is verified before the last fence", "KillSwitchTest.AKillIsVerified*", [
        (KILL, "  const bool late = clock_.mono_ns() >= quiet_at;\n",
         "  const bool late = clock_.mono_ns() >= 0;\n")]),
    ("a kill switch that cannot be read stops nothing", "KillSwitchTest.WhatCannotBeRead*", [
        (KILL, 'seen_ = {{"all", "defib", records.error().message(), clock_->wall_ns()}};',
         "seen_.clear();")]),
    ("a blocked proof waits for its turn though the trade has an owner", "FenceTest.ABlocked*", [
        (FENCE, "(suspicious_fill(intent) != nullptr ? wait : 0)", "wait")]),
    ("an order is not looked for before its fence", "FenceTest.ATradeOfAnOrderThatIsFound*", [
        (FENCE, "    if (!stands_against) continue;\n", "    if (stands_against) continue;\n")]),
    ("a trade that could be its own does not block the proof", "FenceTest.ATradeThat*", [
        (FENCE, "  if (const venue::Fill* fill = suspicious_fill(intent)) {\n",
         "  if (const venue::Fill* fill = nullptr) {\n")]),
    ("a new ledger has no checkpoint until it has decided", "RecoveryTest.AKillBetween*", [
        (LEDGER, "  if (!checkpoint_.empty()) {\n", "  if (checkpoint_.size() == 1) {\n")]),
    ("an order that is hidden for a lag is missing at once", "Reconcile.AnOrderThatWasJust*", [
        (RECONCILE, "    if (!complete && may_be_hidden(here)) {\n",
         "    if (!complete && may_be_hidden(here) && here.symbol.empty()) {\n")]),
    ("an order that is missing for long is hidden", "Reconcile.AnOrderThatWasJust*", [
        (RECONCILE, "visibility_lag_ms + kReadingMs;", "visibility_lag_ms + 1'000 * kReadingMs;")]),
    ("an order without a price weighs nothing", "Exposure.AnOpenOrder*", [
        (LEDGER, "    if (price.is_zero() && !left.is_zero()) exposure.unpriced.insert(order.symbol);\n", "")]),
    ("a stop order is expected to lock its money", "Reconcile.AStopOrder*", [
        (RECONCILE, "      if (buy && order.market_at_trigger) {\n", "      if (buy && order.market_at_trigger && order.symbol.empty()) {\n")]),
    ("more is sent for a parent than it wants", "ParentTest.NoMoreIsSent*", [
        (GATEWAY, "  if (wanted > Decimal() && total > wanted) {\n", "  if (total < Decimal()) {\n")]),
    ("the parents are counted anew after a restart", "ParentTest.NoMoreIsSent*", [
        (GATEWAY, "    ++count.orders;\n    // What has ended can be filled no further.\n",
         "    // What has ended can be filled no further.\n    continue;\n")]),
    ("a verdict is not compared with what its evidence gives", "Gates.AChangedVerdict*", [
        (GATES, "  if (again.to_json().dump() == saved.to_json().dump()) return again;\n",
         "  if (!again.id.empty()) return again;\n")]),
    ("a refusal can be made milder by configuration", "Gates.AVerdictIsConfigurable*", [
        (GATES, "  if (gate->otherwise == Verdict::kRefuse && verdict != Verdict::kRefuse) {\n",
         "  if (gate->otherwise == Verdict::kWarn && verdict == Verdict::kRefuse) {\n")]),
    ("heap corruption holds nothing", "Gates.*", [
        (GATES, '  const bool corrupted = cause == "heap_corruption";\n',
         '  const bool corrupted = cause == "none at all";\n')]),
    ("an amount without a rate is as good as any", "Gates.AnAmountWithout*", [
        (GATES, "  if (unpriced.size() != 0) {\n", "  if (unpriced.size() > 1'000) {\n")]),
    ("the ramp begins without the comprehensive check", "Ramp.NothingTradesBefore*", [
        (RAMP, "  if (options_.check_after.count() == 0) return start_step(0, now_ns);\n",
         "  if (options_.check_after.count() >= 0) return start_step(0, now_ns);\n")]),
    ("a checkpoint's checksum is not compared", "CheckpointTest.NoMutation*:CheckpointTest.AnyChanged*", [
        (CHECKPOINT, '    if ((*json)["checksum"].as_string() != wanted) {\n',
         '    if ((*json)["checksum"].as_string().empty()) {\n')]),
    ("the checkpoint of another venue is taken", "CheckpointTest.AVersionOne*", [
        (CHECKPOINT, "    check_venue(checkpoint);\n", "")]),
    ("a no counts as done", "ChecklistTest.EveryItem*", [
        (CHECKLIST, "  return found->second.kind == AnswerKind::kYes ||\n",
         "  return found->second.kind != AnswerKind::kNotApplicable ||\n")]),
    ("an answer is not chained", "ChecklistTest.AnswersAreChained*", [
        (CHECKLIST,
         '  DEFIB_TRY(record.append("checklist_answer", fields, recovery::Durability::kSync));\n',
         "")]),
    ("a step whose program fails is done", "Runbook.*", [
        (RUNBOOK, "  if (output.status.success()) return tail(output.text);\n",
         "  if (output.status.known) return tail(output.text);\n")]),
    ("every error of a step is tried again", "Runbook.OnlyErrors*", [
        (RUNBOOK, " || !is_retryable(result.error())) return result;\n", ") return result;\n")]),
    ("what one reading shows beside an engine counts", "ReconcileBesideAnEngine.*", [
        (RECONCILE, "    if (stood.contains({item.kind, item.subject})) continue;\n",
         "    if (!stood.empty()) continue;\n")]),
    ("what an engine moves while it is read hides what stands", "ReconcileBesideAnEngine.*", [
        (RECONCILE, "    if (stood.contains({item.kind, item.subject})) continue;\n", "")]),
    ("a duplicate that one reading shows is a movement", "ReconcileBesideAnEngine.*", [
        (RECONCILE, "    if (item.explained || is_duplicate(item)) continue;\n",
         "    if (item.explained) continue;\n")]),
    ("strict mode forgives what is explained", "Reconcile*Strict*:ReconcileModes.*", [
        (RECONCILE, "    if (tolerance_.strict) trust_nothing();\n", "")]),
    ("damage is forgotten once the store opens again", "RecoveryTest.DamageHolds*", [
        (DAMAGE, "  // Only this says that there is none: one that may not be looked at may be there.\n",
         "  if (text) return std::nullopt;\n")]),
    ("a record of damage that may not be looked at is none", "RecoveryTest.*MayNotBeLookedAt*", [
        (DAMAGE, "  if (!text && text.error().code() == Code::kFileNotFound) return std::nullopt;\n",
         "  if (!text) return std::nullopt;\n")]),
    ("a kill switch that may not be looked at is not engaged", "KillSwitchTest.OneThatMayNot*", [
        (KILL, "  if (!text && text.error().code() == Code::kFileNotFound) return records;\n",
         "  if (!text) return records;\n")]),
    ("what root engages is root's alone", "KillSwitchTest.WhatRootEngages*", [
        (KILL, "    give_to_owner_of(os::parent_dir(path_), file->descriptor());\n", "")]),
    ("a stop ends before the venue listens again", "GatewayTest.AnEmergencyWaitsForAVenue*:KillSwitchTest.AKillWaits*", [
        (PACE, "  const std::int64_t end = named ? named_end_ns_ : end_ns_;\n  if (clock_->mono_ns() + next_.count() > end) return false;\n",
         "  const std::int64_t end = named ? named_end_ns_ : end_ns_;\n  if (named || end == 0) return false;\n")]),
    ("a stop cancels away what its reading waits for", "GatewayTest.AnEmergencyThatHasCancelled*", [
        (PACE, "  owes_reading_ = refused_ && !soon_ && (cancelled_ || owes_reading_);\n", "  owes_reading_ = false;\n")]),
    ("a venue that names its time is asked before it", "GatewayTest.AnEmergencyWaitsForAVenue*", [
        (PACE, "    next_ = *named_;\n", "    next_ = kFirstPause;\n")]),
    ("a stop is verified while an accepted order is hidden", "GatewayTest.AnEmergencyIsNotVerified*", [
        (GATEWAY, "    until = std::max(until, std::max({order.created_ms, order.updated_ms, replied_ms_}) + lag);\n", "")]),
    ("a stop that could not be verified is given up", "RecoveryTest.AStopThatCould*", [
        (RESUME, "    stop_next = parts.clock->mono_ns() + wait.count();\n", "")]),
    ("each try of a stop is told", "RecoveryTest.AStopThatCould*", [
        (RESUME, "  if (told == told_stop) return;\n", "")]),
    ("two orders for one id are only told", "GatewayTest.TwoOrders*:RecoveryTest.TwoOrdersForOneIdStop*", [
        (GATEWAY, "    hard_stop_ = error;\n", "")]),
    ("two orders for one id stop the next order alone", "RecoveryTest.TwoOrdersForOneIdStop*", [
        (RESUME, "  const std::optional<Error>& met = duplicate ? duplicate : parts.gateway->hard_stop();\n",
         "  const std::optional<Error>& met = duplicate;\n")]),
    ("a reconciliation that is never answered passes", "RecoveryTest.NoStepPassesWhile*", [
        (RESUME, "now - reconcile_answered > patience", "now < 0")]),
    ("a suspicion that is never looked at again passes", "RecoveryTest.NoStepPassesOn*", [
        (RESUME, "  return !suspected.empty() || now - ", "  return now - ")]),
    ("a record of damage that cannot be read is none", "RecoveryTest.ARecordOfDamage*", [
        (DAMAGE, "  unreadable.store_dir = store_dir;\n  return unreadable;\n",
         "  unreadable.store_dir = store_dir;\n  return std::nullopt;\n")]),
    ("after damage the epochs are counted on as before", "RecoveryTest.AfterDamage*", [
        ("defib/trading/ids.cc", "std::clamp(least_epoch, last + 1, kMaxEpoch);",
         "std::clamp(least_epoch - least_epoch, last + 1, kMaxEpoch);")]),
    ("a venue that says slower stops everything", "RecoveryTest.*SaysSlower*", [
        (RESUME, "  if (error.code() == Code::kVenueRateLimited) {\n",
         "  if (error.code() == Code::kInternal) {\n")]),
    ("a venue that says slower for ever is healthy", "RecoveryTest.AVenueThatSaysSlower*", [
        (RESUME, "now - unanswered_since < patience.count()", "now >= unanswered_since")]),
    ("what is known here waits for the venue's answer", "RecoveryTest.ALossIsSeen*", [
        (RESUME, "  // First what is known here, whatever the venue answers.\n",
         '  if (const auto at = parts.gateway->sync_clock(); !at) return unanswered("venue", at.error());\n')]),
    ("the baseline's time is not kept", "LedgerTest.WhereTheHistory*", [
        (LEDGER, "    update.set_since(symbol, settled_ms);\n", "")]),
    ("symbols with histories of their own settle each other", "LedgerTest.OneHistory*", [
        (LEDGER, "  const bool one_history = !venue.rebuild_model().filtered;\n",
         "  const bool one_history = true;\n")]),
    ("a booked trade falls out of the reading as time is settled", "LedgerTest.ATradeWhose*", [
        (LEDGER, "    first->second.since_ms = std::min(first->second.since_ms, fill.time_ms);\n", "")]),
    ("settled time leaves the trades behind it unsettled", "LedgerTest.ATradeOfAnother*", [
        (LEDGER, "    set_cursor(symbol, fill->trade_id);\n", "")]),
    ("a silent symbol is never settled", "GatewayTest.WhereOneHistory*", [
        (LEDGER, "    for (const auto& [symbol, instrument] : instruments_) symbols.push_back(symbol);\n", "")]),
    ("nothing is settled where nothing trades", "GatewayTest.WhereOneHistory*", [
        (GATEWAY, "  venue_read_ms_ = venue_ms;\n", "")]),
    ("a reconciliation settles nothing", "LedgerTest.AReconciliationSettles*", [
        ("defib/trading/reconcile_apply.cc", "update_.settle_before(symbol, snapshot_.settled_ms);\n", "continue;\n")]),
    ("what is settled is known only behind the lists", "LedgerTest.AReconciliationSettles*", [
        ("defib/trading/venue_snapshot.cc", "  DEFIB_TRY_ASSIGN(snapshot.server_ms, venue.server_time_ms());\n",
         "  DEFIB_TRY_ASSIGN(snapshot.server_ms, venue.server_time_ms());\n"
         "  snapshot.settled_ms = shown_before(venue, snapshot.server_ms);\n")]),
    ("an approval covers whatever comes up later", "RecoveryTest.AnApprovalCovers*", [
        (RESUME, "    approved = plan->covers(make_plan());\n", "")]),
    ("any plan covers any other", "PlanTest.*:RecoveryTest.ADifferenceThatCame*", [
        ("defib/trading/approval.cc", "         all_among(wanted.discrepancies, discrepancies);\n", "         true;\n")]),
    ("an approval applies the snapshot that was shown", "RecoveryTest.WhatIsFilled*", [
        (RESUME, "  DEFIB_TRY(reconcile_once());\n  rules = snapshot.rules;\n",
         "  DEFIB_TRY_ASSIGN(rules, parts.venue->rules());\n")]),
    ("a difference is another one after each trade", "RecoveryTest.WhatIsFilled*:RecoveryTest.WhatNothingExplainsIsSeen*", [
        (RECONCILE, "difference.same_while.empty() ? sides : difference.same_while", "sides")]),
    ("an approval's reading is tried again at once", "RecoveryTest.AnApprovalWaits*", [
        (RESUME, "  if (now < approval_not_before) return {};\n", "")]),
    ("a comprehensive check never saves up for itself", "RecoveryTest.TheComprehensive*", [
        (RESUME, "    const bool costly = proving && unanswered_since != 0;\n",
         "    const bool costly = proving && unanswered_since < 0;\n")]),
    ("a clock that was set opens nothing", "RecoveryTest.AClockTwoSeconds*", [
        (RESUME, "  DEFIB_TRY_ASSIGN(evidence.clock_skew_ms, parts.gateway->sync_clock());\n", "")]),
]

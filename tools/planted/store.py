"""Bugs of the store; tools/plant-bugs tells what they are and how they are written."""

LOG = "defib/store/log_writer.cc"
FORMAT = "defib/store/format.cc"
LOCK = "defib/store/lock.cc"
OPENING = "defib/store/opening.cc"
RESOURCES = "defib/store/resources.cc"
PAGES = "defib/store/page_file.cc"
VERDICT = "defib/store/log_verdict.cc"
READER = "defib/store/log_reader.cc"
PICTURE = "defib/store/picture.cc"
SORTED = "defib/store/sorted_file_format.cc"
LOOK = "defib/store/page_look.cc"
ENGINE = "defib/store/engine.cc"
OVERLAY = "defib/store/overlay.cc"
TRANSACTION = "defib/store/engine_transaction.cc"
CHECKPOINTER = "defib/store/checkpointer.cc"
EXECUTOR = "defib/store/executor.cc"
INDEXES = "*StoreCrash*ndexes*"
RETAINED = "*StoreCrash*retained*"
MERGES = "*StoreCrash*compaction*:*StoreCrash*merges_of*"
SYNC = "  if (auto synced = file->sync(); !synced) return fail(std::move(synced.error()));\n"

# Name, tests of which one has to fail, and the edits: file, text, replacement.
BUGS = [
    ("the log's sync is left out", "*StoreCrash*:StoreKill*", [(LOG, SYNC, "")]),
    ("a commit counts as durable before the sync that covers it", "StoreFault*", [
        (LOG, "  const std::int64_t begun = clock_.mono_ns();\n",
         "  const std::int64_t begun = clock_.mono_ns();\n"
         "  durable_lsn_.store(covered, std::memory_order_release);\n"
         "  round_.fetch_add(1);\n  round_.notify_all();\n")]),
    ("a failed sync is not remembered", "StoreFault*:*StoreCrash*", [
        (LOG, "  failed_.store(true, std::memory_order_release);\n", "")]),
    ("a failed sync is retried", "StoreFault*", [
        (LOG, SYNC, "  if (auto synced = file->sync(); !synced) {\n"
                    "    if (auto again = file->sync(); !again) {\n"
                    "      return fail(std::move(again.error()));\n    }\n  }\n")]),
    ("a segment's name is not synced", "*StoreCrash*", [
        (LOG, "  if (done) done = files_.sync_dir(wal_dir_);\n", "")]),
    ("a segment is left unsynced when the next begins", "*StoreCrash*", [
        (LOG, "  if (durable_lsn() < written_lsn()) DEFIB_TRY(sync_file());\n", "")]),
    ("a block's commit number, count and length are not under its checksum",
     "*StoreDamage*:Log*", [
        (FORMAT, "header.header_crc = crc32c({to + 8, kBlockHeaderSize - 8});",
         "header.header_crc = crc32c({to + 32, kBlockHeaderSize - 32});"),
        (FORMAT, "const std::uint32_t computed = crc32c(bytes.substr(8, kBlockHeaderSize - 8));",
         "const std::uint32_t computed = crc32c(bytes.substr(32, kBlockHeaderSize - 32));")]),
    ("the chain of blocks is not written", "Log*:Store.*", [
        (LOG, "  header.previous_crc = previous_crc;\n", "  header.previous_crc = previous_crc & 0;\n")]),
    ("durable_lsn is what was written, not what was synced", "*StoreCrash*:*StoreDamage*", [
        (LOG, "  header.durable_lsn = durable_lsn();", "  header.durable_lsn = written_lsn();")]),
    ("what a full disk leaves of a block is not cut", "StoreFault*:*StoreCrash*:Log*", [
        (LOG, "  Result<> cut = file_->truncate(offset_);\n"
              "  if (cut) cut = file_->truncate(zeroed_to_);\n", "  Result<> cut;\n")]),
    ("zeros after the last commit are the end, whatever stood there", "Log*:*StoreDamage*", [
        (VERDICT, "kAny, kAny, kAny, kAny, kPerhapsLast, kAcknowledged, kRefuse",
         "kAny, kAny, kAny, kAny, kPerhapsLast, kAcknowledged, kCut")]),
    ("later blocks after a bad one are cut with it", "Log*:*StoreDamage*", [
        (VERDICT, "kAny, kAny, kLaterCovers, kAny, kPerhapsLast, kNotKnownAcknowledged, kRefuse",
         "kAny, kAny, kLaterCovers, kAny, kPerhapsLast, kNotKnownAcknowledged, kCut")]),
    ("a failure is not noted in memory", "StoreFault*:StoreDeviceLoss*", [
        (LOG, "  failure_note_.note();\n", "")]),
    ("a failed recovery is not noted in memory", "StoreFault*:StoreDeviceLoss*", [
        (OPENING, "  if (!done && is_of_device(done.error())) {\n", "  if (false) {\n"),
        (OPENING, "  note_failures(result);\n", "  if (false) note_failures(result);\n")]),
    ("a recovery that was stopped counts as a failing device", "FailureNote*", [
        (OPENING, "  if (!done && is_of_device(done.error())) {\n", "  if (!done) {\n")]),
    ("a torn tail goes with its segment", "StoreRecovery.ATornTail*", [
        (LOG, "    if (!quarantine_tails_of(files_, start_.dir, name, start_.torn)) continue;\n", "")]),
    ("a commit that finds no space forgets an index that nobody declares", "StoreFullDisk*", [
        (ENGINE, "  DEFIB_TRY(wait_written(own, lock));\n  own = nullptr;\n",
         "  for (const std::string& table : transaction.dropped_) undeclared_.erase(table);\n"
         "  DEFIB_TRY(wait_written(own, lock));\n  own = nullptr;\n")]),
    ("a copy that is refused removes what another has made", "StoreRepair.That*", [
        ("defib/store/copy.cc", "  if (!report && made) remove_copy", "  if (!report) remove_copy")]),
    ("the note of a failure goes before the recovery has ended", "StoreDeviceLoss*", [
        (OPENING, "  if (needed_) DEFIB_TRY(note_failure(sync_found_files(context)));\n",
         "  FailureNote(files_, opened_.identity.uuid, options_.clock->boot_id()).clear();\n"
         "  if (needed_) DEFIB_TRY(sync_found_files(context));\n")]),
    ("data files are believed as the page cache shows them", "StoreDeviceLoss*", [
        (OPENING, "      if (parse_sorted_file_name(name)) paths.push_back(os::join_path(data, name));\n",
         "      if (name.empty()) paths.push_back(os::join_path(data, name));\n")]),
    ("log.head is not written", "Log*:StoreMissingSegment*", [
        (LOG, "  DEFIB_TRY(name_in_head(header));\n", "")]),
    ("log.head goes on naming an empty segment that is let go", "Log*:StoreMissingSegment*", [
        (LOG, "parse_segment_name(names.back())->first_lsn > boundary) {",
         "parse_segment_name(names.back())->first_lsn > boundary + 1000) {")]),
    ("an empty segment ends like any other", "Log*:StoreMissingSegment*:StoreFullDisk*:*StoreCrash*", [
        (LOG, "  if (file_ != nullptr && offset_ == kPageSize) return {};  "
              "// log.head names it: it has to stay.\n", "")]),
    ("a missing segment is not missed", "Log*:*StoreDamage*", [
        (READER, "    newest_is_missing_ = look_for_newest();\n", "")]),
    ("nobody says that log.head is missing", "StoreMissingSegment*", [
        (VERDICT, "set(Successor::kUnknown), kUnknown, kEndReport", "set(Successor::kUnknown), kUnknown, kEnd")]),
    ("a stream passes over a missing segment", "StoreStream*", [
        (PICTURE, "    if (begins > from) return commits_missing(from, std::min(begins - 1, last), names[i]);\n",
         "    from = std::max(from, begins);\n")]),
    ("a stream that ends early is complete", "StoreStream*", [
        (PICTURE, "  return commits_missing(from, last, names.back());\n", "  return {};\n")]),
    ("a block is believed whatever its index says", "*MisplacedUnits*:StoreDamageOnTheWay*", [
        (SORTED, "  if (header.type != type || header.crc != ref.crc || header.size != ref.size ||",
         "  if (header.type != type || header.size != ref.size ||")]),
    ("a page is believed whatever the superblock says", "PageDamage*:StoreDamageOnTheWay*", [
        (LOOK, "    state.in_force = found == lsn;\n", "    state.in_force = true;\n")]),
    ("a lock is taken whoever holds it", "Store*:-*StoreCrash*:*StoreMutant*", [
        (LOCK, "    if (taken.error().code() != Code::kDatabaseLocked) "
               "return Error(std::move(taken.error()));",
         "    return StoreLock(std::move(file), std::move(record), clock);")]),
    ("a process number that was used before counts as the holder", "LockOfProcesses*", [
        (LOCK, "  if (!start || *start != record.start_time) return HolderState::kDead;",
         "  if (!start) return HolderState::kDead;")]),
    ("a store of another format is marked by who cannot read it", "Contract*", [
        (OPENING, "    if (!read_identity(files_, dir_)) return {};\n", "")]),
    ("a lock is left in a directory with somebody else's files", "Contract*", [
        (OPENING, "      if (!identity) return identity.error();  // It may have been made just now.\n",
         "")]),
    ("a limited address space is not looked at", "Resources*", [
        (RESOURCES, "  if (falls_short(needs.address_space)) "
                    "return too_little_address_space(needs.address_space, dir);\n", "")]),
    ("a dying holder is not waited for", "StoreKill*:Store.*:*Lock*", [
        (LOCK, "    alive_looks = state == HolderState::kAlive ? alive_looks + 1 : 0;",
         "    alive_looks = state != HolderState::kNone ? alive_looks + 1 : 0;")]),
    ("a holder is taken for alive at the first look", "LockOfProcesses*:StoreKill*", [
        (LOCK, "constexpr int kSureLooks = 20;", "constexpr int kSureLooks = 1;"),
        (LOCK, "    if ((to_number(mask, 16) & (1U << 8)) != 0) return true;\n",
         "    (void)mask;\n")]),
    ("the lock's record is not under its checksum", "*StoreDamage*:StoreRecovery*:*Lock*", [
        (LOCK, "  if (crc32c(body) != crc) return std::nullopt;\n", "  (void)crc;\n")]),
    ("the double-write buffer is emptied before the pages are home", "PageFile*:PageCrash*", [
        (PAGES, "  DEFIB_TRY(bring_home(next));\n", ""),
        (PAGES, "  if (auto emptied = empty_buffer(*buffer_, done); !emptied) "
                "return poisoned(emptied.error());\n",
         "  if (auto emptied = empty_buffer(*buffer_, done); !emptied) "
         "return poisoned(emptied.error());\n  DEFIB_TRY(bring_home(next));\n")]),
    ("the pages are written without the double-write buffer", "PageFile*:PageCrash*", [
        (PAGES, "  DEFIB_TRY(arm(next));\n", "")]),
    ("the pages are not synced before the buffer is emptied", "PageFile*:PageCrash*", [
        (PAGES, "    return home_->sync();\n", "    return {};\n")]),
    ("closing does not wait for commits that are on their way", "StoreConcurrency.AStoreThatIsClosed*", [
        (ENGINE, "    changed_.wait(lock, [this] { return !writing_ && unwritten_.empty(); });\n", "")]),
    ("the index entry of an old value is not erased", INDEXES, [
        (TRANSACTION, "      erase_plain(entries, encode_index_entry(secondary, key));\n",
         "      (void)secondary;\n")]),
    ("an index of another version is not built anew", INDEXES, [
        (TRANSACTION, "                             found->second.version == index.version;",
         "                             found->second.version != 0;")]),
    ("an index that is built anew keeps its old entries", INDEXES, [
        (TRANSACTION, "    open->erase_plain(entries, old_entries->key());\n", "    (void)open;\n")]),
    ("an index that a writer does not know is not dropped", INDEXES, [
        (TRANSACTION, "  for (const std::string& index : undeclared) erase_plain(kIndexesTable, index);\n",
         "")]),
    ("a unique index takes a second record", INDEXES, [
        (TRANSACTION, "      if (index->unique) DEFIB_TRY(check_unique(*index, secondary, key));\n",
         "      if (secondary.empty()) DEFIB_TRY(check_unique(*index, secondary, key));\n")]),
    ("retention drops one segment too many", RETAINED, [
        (LOG, "    retain_bytes -= std::min(size, retain_bytes);\n",
         "    if (size >= retain_bytes) break;\n    retain_bytes -= size;\n")]),
    ("retention leaves a hole", RETAINED, [
        (LOG, "    if (!quarantine_tails_of(files_, start_.dir, name, start_.torn)) continue;\n",
         "    if (!quarantine_tails_of(files_, start_.dir, name, start_.torn)) continue;\n"
         "    if (names.size() > 1 && &name == &names.front()) continue;\n")]),
    ("a hole that a power failure left is taken for history", RETAINED, [
        (READER, "if (!is_ours || segment.next_lsn != result_.unbroken_from) return;",
         "if (!is_ours) return;")]),
    ("a recovery drops the log that is to be kept", RETAINED, [
        (OPENING, "    if (options_.log_retention == 0) from_log",
         "    from_log")]),
    ("a merge of runs forgets what was erased, and the base still has it", MERGES, [
        (CHECKPOINTER, "if (kind == SortedKind::kBase && cursor->erased()) continue;",
         "if (cursor->erased()) continue;")]),
    ("compaction keeps what was erased", MERGES + ":StoreCompact*", [
        (CHECKPOINTER, "if (kind == SortedKind::kBase && cursor->erased()) continue;",
         "")]),
    ("compaction removes the old files before the manifest is durable", MERGES, [
        (CHECKPOINTER, "  next.files.resize(whole ? 0 : 1);\n",
         "  next.files.resize(whole ? 0 : 1);\n"
         "  for (const auto& file : merged) (void)disk_.remove(file->path());\n")]),
    ("the new base counts before its name is durable", MERGES, [
        (CHECKPOINTER, "  if (Result<> named = disk_.sync_dir(data_dir_); !named) {\n"
                       "    return give_up(std::move(named.error()), false);\n  }\n", "")]),
    ("compaction leaves out a file", MERGES, [
        (CHECKPOINTER, "  return merge_newest(files_.size(), pace);\n",
         "  return merge_newest(files_.size() - 1, pace);\n")]),
    ("close() waits for a compaction to its end", "StoreCompact*", [
        (ENGINE, "    if (waiting_to_close_ == 0) return pace(bytes);\n",
         "    if (waiting_to_close_ >= 0) return pace(bytes);\n")]),
    ("a stop is not asked for while the log is checked", "StoreStop*", [
        (OPENING, "    if (context_.should_stop()) return context_.stop_error();\n    done_ =",
         "    done_ =")]),
    ("a stop is not passed on", "StoreStop*", [
        (OPENING, "[&procedure] { procedure.abort(); }", "[] {}")]),
    ("who waits for other threads hears of nothing", "ParallelFor*", [
        (EXECUTOR, "      meanwhile();\n", "")]),
]
# The same, for races: a test has to fail by the thread sanitizer's word.
RACES = [
    ("race: a view is made without the engine's mutex", "StoreConcurrency.EveryReader*", [
        (ENGINE, "    Lock lock(mutex_);\n    if (closed_) return is_closed();\n"
                 "    now = view(lock);\n",
         "    static std::mutex another;\n    Lock lock(another);\n"
         "    if (closed_) return is_closed();\n    now = view(lock);\n")]),
    ("race: new files are installed without the engine's mutex", "StoreConcurrency.EveryReader*", [
        (ENGINE, "  const Lock lock(mutex_);\n  sorted_files_ = checkpointer_.files();\n",
         "  const Lock lock(mutex_, std::defer_lock);\n"
         "  sorted_files_ = checkpointer_.files();\n")]),
    ("race: nodes are used again without having acquired the views that go",
     "OverlayThreads*:StoreConcurrency.Snapshots*", [
        (OVERLAY, "dropped_.exchange(nullptr, std::memory_order_acquire)",
         "dropped_.exchange(nullptr, std::memory_order_relaxed)")]),
]

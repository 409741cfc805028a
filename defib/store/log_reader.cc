#include "defib/store/log_reader.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/store/ack_watermark.h"

namespace defib::store {
namespace {

Error damaged(std::string message, const std::string& details) {
  return Error(Code::kWalCorrupted, std::move(message)).with("details", details);
}

// Chooses the segments that matter: those that no later segment makes unnecessary.
class Assessor {
 public:
  Assessor(const std::vector<Segment>& segments, const LogContext& context)
      : segments_(segments), context_(context) {
    if (context.base) covered_ = context.base->lsn;
  }

  Result<LogAssessment> run() {
    result_.last_lsn = covered_;
    if (context_.base) {
      result_.epoch = context_.base->epoch;
      result_.chain_crc = context_.base->chain_crc;
      result_.chain_known = context_.base->chain_known;
    }
    for (std::size_t i = 0; i < segments_.size(); ++i) DEFIB_TRY(sort_out(i));
    newest_is_missing_ = look_for_newest();
    if (result_.live.empty()) {
      if (newest_is_missing_) return missing_segment(covered_);
      if (!context_.newest_unknown.empty()) note_unknown_end(covered_);
      follow_history();
      return std::move(result_);
    }
    DEFIB_TRY(check_start());
    for (std::size_t i = 0; i < result_.live.size(); ++i) DEFIB_TRY(check_link(i));
    follow_history();
    return std::move(result_);
  }

 private:
  // The next readable segment after `index`, or null.
  const Segment* successor(std::size_t index) const {
    for (std::size_t i = index + 1; i < segments_.size(); ++i) {
      if (segments_[i].header) return &segments_[i];
    }
    return nullptr;
  }

  Result<> sort_out(std::size_t index) {
    const Segment& segment = segments_[index];
    const Segment* next = successor(index);
    if (next != nullptr && next->header->first_lsn <= covered_ + 1) {
      result_.obsolete.push_back(segment.name);
      result_.epoch = std::max(result_.epoch, parse_segment_name(segment.name)->epoch);
      return {};
    }
    const SegmentName name = *parse_segment_name(segment.name);
    result_.epoch = std::max(result_.epoch, name.epoch);
    if (!segment.header) {
      const bool next_replaces = next == nullptr || next->header->first_lsn == name.first_lsn;
      if (segment.holds_blocks || !next_replaces) {
        return damaged(fmt::format("log segment {} has an unreadable header: {}", segment.name,
                                   segment.header_problem),
                       segment.header_problem)
            .with("path", segment.name);
      }
      result_.notes.push_back(fmt::format(
          "segment {} was never completed ({}): commits from {} on, if it held any, are lost",
          segment.name, segment.header_problem, name.first_lsn));
      result_.obsolete.push_back(segment.name);
      return {};
    }
    if (segment.header->uuid != context_.identity.uuid) {
      return Error(Code::kInconsistentState,
                   fmt::format("log segment {} belongs to another store", segment.name))
          .with("description", "a segment carries the identity " + segment.header->uuid)
          .with("diagnostics", "this store is " + context_.identity.uuid)
          .with("recovery_suggestions", "move the foreign segment out of the wal directory");
    }
    if (segment.header->first_lsn != name.first_lsn || segment.header->epoch != name.epoch) {
      return Error(Code::kInconsistentState,
                   fmt::format("log segment {} was renamed: it is {}", segment.name,
                               segment_name(segment.header->first_lsn, segment.header->epoch)))
          .with("description", "a segment's name and header disagree")
          .with("diagnostics", segment.name)
          .with("recovery_suggestions", "give the segment its own name back");
    }
    result_.live.push_back(index);
    return {};
  }

  // Whether the segment that was begun last, and every later one, is neither here nor covered.
  bool look_for_newest() const {
    const auto& newest = context_.newest;
    if (!newest || newest->epoch == 0 || newest->first_lsn <= covered_) return false;
    return std::ranges::none_of(segments_, [&](const Segment& segment) {
      const auto& header = segment.header;
      if (!header) return false;
      return std::pair(header->first_lsn, header->epoch) >=
             std::pair(newest->first_lsn, newest->epoch);
    });
  }

  // `last` is the last commit that there is.
  Error missing_segment(std::uint64_t last) const {
    const std::string name = segment_name(context_.newest->first_lsn, context_.newest->epoch);
    const auto acked = decode_ack(context_.ack_word, *context_.newest, context_.boot_id);
    std::string lost = fmt::format("commits from {} on, if it held any, are missing", last + 1);
    if (acked && *acked > last) {
      lost = fmt::format("commits {} to {} are missing, which were acknowledged", last + 1, *acked);
    }
    Error error =
        damaged(fmt::format("log segment {} is gone or has no readable header: {}", name, lost),
                fmt::format("{} says that this segment was begun", kLogHeadFile))
            .with("path", name)
            .with("first_lost_commit", static_cast<std::int64_t>(last + 1));
    if (!acked || *acked <= last) return error;
    return std::move(error).with("last_lost_commit", static_cast<std::int64_t>(*acked));
  }

  void note_unknown_end(std::uint64_t last) {
    result_.notes.push_back(fmt::format(
        "{}: nothing tells whether a log segment after commit {} was taken away; commits from {} "
        "on, if there were any, are lost",
        context_.newest_unknown, last, last + 1));
  }

  Result<> check_start() const {
    const Segment& first = segments_[result_.live[0]];
    const std::uint64_t start = first.header->first_lsn;
    if (start > covered_ + 1) {
      const std::string lost = fmt::format("commits {} to {}", covered_ + 1, start - 1);
      if (!context_.base) {
        return Error(Code::kInconsistentState, lost + " are neither in a checkpoint nor in the log")
            .with("description", "the checkpoint that the log builds on is missing")
            .with("diagnostics", "the log begins with " + first.name)
            .with("recovery_suggestions",
                  "restore the checkpoint file, or run `defib store repair DIR --to NEWDIR`");
      }
      return damaged(lost + " are missing: their log segment is gone",
                     "the first segment after the checkpoint is " + first.name)
          .with("first_lost_commit", static_cast<std::int64_t>(covered_ + 1));
    }
    if (start == covered_ + 1 && context_.base && context_.base->chain_known &&
        first.header->previous_crc != context_.base->chain_crc) {
      return damaged(
          fmt::format("log segment {} does not follow the checkpoint's last commit", first.name),
          "the chain of checksums is broken between checkpoint and log");
    }
    return {};
  }

  Result<> check_link(std::size_t position) {
    const std::size_t index = result_.live[position];
    const Segment& segment = segments_[index];
    const Segment* next =
        position + 1 < result_.live.size() ? &segments_[result_.live[position + 1]] : nullptr;
    if (next != nullptr && next->header->first_lsn < segment.next_lsn) {
      return Error(Code::kInconsistentState,
                   fmt::format("log segments {} and {} both hold commit {}", segment.name,
                               next->name, next->header->first_lsn))
          .with("description", "two segments overlap")
          .with("diagnostics", segment.name + ", " + next->name)
          .with("recovery_suggestions", "move the one that was copied here out of the directory");
    }
    const VerdictRow& row = judge_stop(evidence_of(segment, next));
    switch (row.verdict) {
      case StopVerdict::kEnd:
        break;
      case StopVerdict::kEndReport:
        note_unknown_end(std::max(covered_, segment.next_lsn - 1));
        break;
      case StopVerdict::kCut:
      case StopVerdict::kCutReport:
        note_cut(segment, row);
        break;
      case StopVerdict::kRefuse:
        return damage_at(segment, next, row);
    }
    if (segment.next_lsn - 1 >= covered_) {
      result_.chain_crc = segment.chain_crc;
      result_.chain_known = true;
    }
    result_.last_lsn = std::max(covered_, segment.next_lsn - 1);
    if (segment.has_blocks()) result_.log_end_lsn = segment.next_lsn - 1;
    return {};
  }

  // Backwards from the end as far as each segment ends where the next begins. Behind the checkpoint
  // that need not be so: a power failure may have kept the removal of one name and not of another.
  void follow_history() {
    result_.unbroken_from = result_.last_lsn + 1;
    for (std::size_t i = segments_.size(); i-- > 0;) {
      const Segment& segment = segments_[i];
      if (!segment.header) continue;
      const bool is_ours = segment.header->uuid == context_.identity.uuid;
      if (!is_ours || segment.next_lsn != result_.unbroken_from) return;
      result_.unbroken_from = segment.header->first_lsn;
    }
  }

  StopEvidence evidence_of(const Segment& segment, const Segment* next) const {
    const Stop& stop = segment.stop;
    StopEvidence evidence{.kind = stop.kind};
    if (!stop.rest_is_zero) evidence.rest = Rest::kBytes;
    if (stop.later_block) evidence.later = LaterBlock::kPresent;
    if (stop.later_block_covers) evidence.later = LaterBlock::kCovers;
    if (segment.header->boot_id == context_.boot_id) evidence.machine = Machine::kSameRun;
    if (next != nullptr) {
      const bool continues = next->header->first_lsn == segment.next_lsn &&
                             next->header->previous_crc == segment.chain_crc;
      evidence.successor = continues ? Successor::kContinues : Successor::kGap;
    }
    if (next == nullptr && newest_is_missing_) {
      evidence.successor = Successor::kMissing;
    } else if (next == nullptr && !context_.newest_unknown.empty()) {
      evidence.successor = Successor::kUnknown;
    }
    if (const auto acked = decode_ack(context_.ack_word, *segment.header, context_.boot_id)) {
      evidence.acknowledged = *acked >= stop.lsn ? Acknowledged::kCovers : Acknowledged::kBefore;
    }
    return evidence;
  }

  void note_cut(const Segment& segment, const VerdictRow& row) {
    const Stop& stop = segment.stop;
    LogCut cut;
    cut.segment = segment.name;
    cut.offset = stop.offset;
    cut.bytes = segment.bytes.size() - std::min<std::uint64_t>(stop.offset, segment.bytes.size());
    cut.lsn = stop.lsn;
    cut.loss_possible = row.verdict == StopVerdict::kCutReport;
    cut.reason = stop.kind == StopKind::kEndOfFile ? "the file ends before the log's end mark"
                 : stop.kind == StopKind::kZeros   ? "bytes stand after the log's end"
                                                   : stop.problem;
    if (cut.loss_possible) {
      result_.notes.push_back(fmt::format(
          "torn tail in {} at offset {}, {} bytes: {}; commits from {} on, if there were any, were "
          "not acknowledged as durable or are lost",
          cut.segment, cut.offset, cut.bytes, cut.reason, cut.lsn));
    }
    result_.cut = std::move(cut);
  }

  Error damage_at(const Segment& segment, const Segment* next, const VerdictRow& row) const {
    const Stop& stop = segment.stop;
    if (next == nullptr && newest_is_missing_) {
      return missing_segment(std::max(covered_, segment.next_lsn - 1));
    }
    const std::string why(row.reason);
    std::string what = stop.kind == StopKind::kBadBlock    ? stop.problem
                       : stop.kind == StopKind::kEndOfFile ? "the file ends too early"
                                                           : "zeros stand where a block belongs";
    if (next != nullptr && next->header->first_lsn == segment.next_lsn) {
      what = "its last block is not the one that the next segment follows";
    }
    Error error =
        damaged(fmt::format("log segment {} is damaged at offset {}: commits from {} on are "
                            "affected, and {}",
                            segment.name, stop.offset, stop.lsn, why),
                what)
            .with("path", segment.name)
            .with("offset", static_cast<std::int64_t>(stop.offset))
            .with("first_lost_commit", static_cast<std::int64_t>(stop.lsn));
    if (next == nullptr) return error;
    return std::move(error).with("next_good_commit",
                                 static_cast<std::int64_t>(next->header->first_lsn));
  }

  const std::vector<Segment>& segments_;
  const LogContext& context_;
  std::uint64_t covered_ = 0;  // commits up to here are in the checkpoint
  bool newest_is_missing_ = false;
  LogAssessment result_;
};

}  // namespace

Result<LogAssessment> assess_log(const std::vector<Segment>& segments, const LogContext& context) {
  return Assessor(segments, context).run();
}

}  // namespace defib::store

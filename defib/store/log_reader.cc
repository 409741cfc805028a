#include "defib/store/log_reader.h"

#include <fmt/core.h>

#include <algorithm>

#include "defib/base/assert.h"
#include "defib/base/bytes.h"

namespace defib::store {
namespace {

constexpr std::size_t kReadStep = 1 << 20;

bool all_zero(std::string_view bytes) {
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

// A block of this store whose header and payload are whole, at `offset`.
std::optional<BlockHeader> whole_block(std::string_view bytes, std::uint64_t offset,
                                       std::uint64_t tag, std::string& problem) {
  const auto header = decode_block_header(bytes.substr(offset), problem);
  if (!header) return std::nullopt;
  if (header->store_tag != tag) {
    problem = "the block belongs to another store";
    return std::nullopt;
  }
  const std::string_view rest = bytes.substr(offset + kBlockHeaderSize);
  if (header->payload_size > rest.size()) {
    problem = fmt::format("the block's {} bytes reach beyond the file", header->payload_size);
    return std::nullopt;
  }
  const std::uint32_t crc = crc32c(rest.substr(0, header->payload_size));
  if (crc != header->payload_crc) {
    problem = fmt::format("payload checksum {:08x}, computed {:08x}", header->payload_crc, crc);
    return std::nullopt;
  }
  return header;
}

// What a whole block must also be to come next.
bool continues(const BlockHeader& header, const Segment& segment, std::string& problem) {
  if (header.epoch != segment.header->epoch) {
    problem = fmt::format("a block of epoch {} in a segment of epoch {}", header.epoch,
                          segment.header->epoch);
  } else if (header.first_lsn != segment.next_lsn) {
    problem = fmt::format("commit {} stands where {} belongs", header.first_lsn, segment.next_lsn);
  } else if (header.previous_crc != segment.chain_crc) {
    problem = "the block does not follow the one before it";
  } else if (header.durable_lsn >= std::max<std::uint64_t>(header.first_lsn, 1)) {
    problem = "the block says that it was synced before it was written";
  } else {
    return true;
  }
  return false;
}

void look_ahead(Segment& segment, std::uint64_t tag) {
  Stop& stop = segment.stop;
  const std::string_view bytes = segment.bytes;
  stop.rest_is_zero = all_zero(bytes.substr(std::min<std::size_t>(stop.offset, bytes.size())));
  if (stop.rest_is_zero) return;
  std::string ignored;
  for (std::uint64_t at = align_up(stop.offset, kBlockAlignment);
       at + kBlockHeaderSize <= bytes.size(); at += kBlockAlignment) {
    const auto header = whole_block(bytes, at, tag, ignored);
    // Commits before the stop are old copies, perhaps inside a value, and prove nothing.
    if (!header || header->epoch != segment.header->epoch || header->first_lsn < stop.lsn) continue;
    stop.later_block = true;
    if (header->durable_lsn >= stop.lsn) stop.later_block_covers = true;
  }
}

bool holds_any_block(std::string_view bytes, std::uint64_t tag) {
  std::string ignored;
  for (std::uint64_t at = 0; at + kBlockHeaderSize <= bytes.size(); at += kBlockAlignment) {
    const auto header = decode_block_header(bytes.substr(at), ignored);
    if (header && header->store_tag == tag) return true;
  }
  return false;
}

Error damaged(std::string message, std::string details) {
  return Error(Code::kWalCorrupted, std::move(message)).with("details", details);
}

// Chooses the segments that matter: those that no later segment makes unnecessary.
class Assessor {
 public:
  Assessor(const std::vector<Segment>& segments, const LogContext& context)
      : segments_(segments), context_(context) {
    if (context.checkpoint) covered_ = context.checkpoint->lsn;
  }

  Result<LogAssessment> run() {
    result_.last_lsn = covered_;
    if (context_.checkpoint) {
      result_.epoch = context_.checkpoint->epoch;
      result_.chain_crc = context_.checkpoint->chain_crc;
      result_.chain_known = context_.checkpoint->chain_known;
    }
    for (std::size_t i = 0; i < segments_.size(); ++i) DEFIB_TRY(sort_out(i));
    if (result_.live.empty()) return std::move(result_);
    DEFIB_TRY(check_start());
    for (std::size_t i = 0; i < result_.live.size(); ++i) DEFIB_TRY(check_link(i));
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

  Result<> check_start() const {
    const Segment& first = segments_[result_.live[0]];
    const std::uint64_t start = first.header->first_lsn;
    if (start > covered_ + 1) {
      const std::string lost = fmt::format("commits {} to {}", covered_ + 1, start - 1);
      if (!context_.checkpoint) {
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
    if (start == covered_ + 1 && context_.checkpoint && context_.checkpoint->chain_known &&
        first.header->previous_crc != context_.checkpoint->chain_crc) {
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
    const Stop& stop = segment.stop;
    if (next != nullptr && next->header->first_lsn < segment.next_lsn) {
      return Error(Code::kInconsistentState,
                   fmt::format("log segments {} and {} both hold commit {}", segment.name,
                               next->name, next->header->first_lsn))
          .with("description", "two segments overlap")
          .with("diagnostics", segment.name + ", " + next->name)
          .with("recovery_suggestions", "move the one that was copied here out of the directory");
    }
    const StopEvidence evidence{
        .kind = stop.kind,
        .rest_is_zero = stop.rest_is_zero,
        .later_block = stop.later_block,
        .later_block_covers = stop.later_block_covers,
        .same_boot = segment.header->boot_id == context_.boot_id,
        .has_successor = next != nullptr,
        .successor_continues = next != nullptr && next->header->first_lsn == segment.next_lsn &&
                               next->header->previous_crc == segment.chain_crc};
    switch (judge_stop(evidence)) {
      case StopVerdict::kEnd:
        break;
      case StopVerdict::kTorn:
        note_cut(segment);
        break;
      case StopVerdict::kDamaged:
        return damage_at(segment, next);
    }
    if (segment.next_lsn - 1 >= covered_) {
      result_.chain_crc = segment.chain_crc;
      result_.chain_known = true;
    }
    result_.last_lsn = std::max(covered_, segment.next_lsn - 1);
    if (!segment.blocks.empty()) result_.log_end_lsn = segment.next_lsn - 1;
    return {};
  }

  void note_cut(const Segment& segment) {
    const Stop& stop = segment.stop;
    LogCut cut;
    cut.segment = segment.name;
    cut.offset = stop.offset;
    cut.bytes = segment.bytes.size() - std::min<std::uint64_t>(stop.offset, segment.bytes.size());
    cut.lsn = stop.lsn;
    cut.reason = stop.kind == StopKind::kEndOfFile ? "the file ends before the log's end mark"
                 : stop.kind == StopKind::kZeros   ? "bytes stand after the log's end"
                                                   : stop.problem;
    result_.notes.push_back(fmt::format(
        "torn tail in {} at offset {}, {} bytes: {}; commits from {} on, if there were any, were "
        "not acknowledged as durable or are lost",
        cut.segment, cut.offset, cut.bytes, cut.reason, cut.lsn));
    result_.cut = std::move(cut);
  }

  Error damage_at(const Segment& segment, const Segment* next) const {
    const Stop& stop = segment.stop;
    const std::string why =
        next != nullptr ? fmt::format("segment {} proves that they were synced", next->name)
        : stop.later_block_covers ? "a later block proves that they were synced"
                                  : "later blocks follow, and the machine has not restarted since";
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
  LogAssessment result_;
};

}  // namespace

std::string_view Segment::payload(const ScannedBlock& block) const {
  return std::string_view(bytes).substr(block.offset + kBlockHeaderSize, block.header.payload_size);
}

void scan_segment(Segment& segment, const Identity& identity) {
  const std::string_view bytes = segment.bytes;
  const std::uint64_t tag = identity.tag();
  segment.header = decode_segment_header(bytes, segment.header_problem);
  if (!segment.header) {
    segment.holds_blocks = holds_any_block(bytes, tag);
    return;
  }
  segment.next_lsn = segment.header->first_lsn;
  segment.chain_crc = segment.header->previous_crc;
  std::uint64_t offset = kPageSize;
  Stop& stop = segment.stop;
  for (;;) {
    stop.offset = offset;
    stop.lsn = segment.next_lsn;
    if (offset + kBlockHeaderSize > bytes.size()) {
      stop.kind = StopKind::kEndOfFile;
      break;
    }
    if (all_zero(bytes.substr(offset, kBlockHeaderSize))) {
      stop.kind = StopKind::kZeros;
      break;
    }
    const auto header = whole_block(bytes, offset, tag, stop.problem);
    if (!header || !continues(*header, segment, stop.problem)) {
      stop.kind = StopKind::kBadBlock;
      break;
    }
    segment.blocks.push_back({offset, *header});
    segment.next_lsn = header->next_lsn();
    segment.chain_crc = header->header_crc;
    offset = align_up(offset + kBlockHeaderSize + header->payload_size, kBlockAlignment);
  }
  look_ahead(segment, tag);
}

StopVerdict judge_stop(const StopEvidence& evidence) {
  // From the strongest evidence to the weakest; the first row that applies decides.
  const struct {
    bool applies;
    StopVerdict verdict;
  } rows[] = {
      // A segment begins only after everything before it was synced.
      {evidence.has_successor && !evidence.successor_continues, StopVerdict::kDamaged},
      {evidence.has_successor, StopVerdict::kEnd},
      // A block that knew the missing one to be durable outlived it.
      {evidence.later_block_covers, StopVerdict::kDamaged},
      // Without a restart of the machine no write can be lost before a later one.
      {evidence.later_block && evidence.same_boot, StopVerdict::kDamaged},
      {evidence.kind == StopKind::kZeros && evidence.rest_is_zero, StopVerdict::kEnd},
      {true, StopVerdict::kTorn},
  };
  for (const auto& row : rows) {
    if (row.applies) return row.verdict;
  }
  DEFIB_UNREACHABLE("the last row always applies");
}

std::string_view to_string(StopVerdict verdict) {
  switch (verdict) {
    case StopVerdict::kEnd:
      return "end";
    case StopVerdict::kTorn:
      return "torn";
    case StopVerdict::kDamaged:
      return "damaged";
  }
  DEFIB_UNREACHABLE("StopVerdict");
}

Result<LogAssessment> assess_log(const std::vector<Segment>& segments, const LogContext& context) {
  return Assessor(segments, context).run();
}

Result<std::vector<std::string>> list_segments(os::Files& files, const std::string& dir,
                                               std::vector<std::string>* strangers) {
  DEFIB_TRY_ASSIGN(const std::vector<std::string> names, files.list(os::join_path(dir, kWalDir)));
  std::vector<std::string> segments;
  for (const std::string& name : names) {
    if (parse_segment_name(name)) {
      segments.push_back(name);
    } else if (strangers != nullptr) {
      strangers->push_back(name);
    }
  }
  return segments;
}

Result<std::string> read_whole(os::Files& files, const std::string& path, const Pulse& pulse) {
  DEFIB_TRY_ASSIGN(const std::unique_ptr<os::File> file, files.open(path, os::OpenMode::kRead));
  DEFIB_TRY_ASSIGN(const std::uint64_t size, file->size());
  std::string bytes;
  bytes.resize(size);
  std::uint64_t done = 0;
  while (done < size) {
    const std::size_t step = std::min<std::uint64_t>(kReadStep, size - done);
    DEFIB_TRY_ASSIGN(const std::size_t got, file->read_at(done, bytes.data() + done, step));
    done += got;
    if (pulse) DEFIB_TRY(pulse(done));
    if (got < step) break;  // It was cut meanwhile.
  }
  bytes.resize(done);
  return bytes;
}

}  // namespace defib::store

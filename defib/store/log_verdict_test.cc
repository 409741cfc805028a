// The table of verdicts against all evidence there can be.

#include "defib/store/log_verdict.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>
#include <vector>

namespace defib::store {
namespace {

std::vector<StopEvidence> all_evidence() {
  std::vector<StopEvidence> all;
  for (const StopKind kind : {StopKind::kZeros, StopKind::kEndOfFile, StopKind::kBadBlock}) {
    for (const Rest rest : {Rest::kZeros, Rest::kBytes}) {
      for (const LaterBlock later :
           {LaterBlock::kNone, LaterBlock::kPresent, LaterBlock::kCovers}) {
        for (const Machine machine : {Machine::kRestarted, Machine::kSameRun}) {
          for (const Successor successor :
               {Successor::kNone, Successor::kContinues, Successor::kGap, Successor::kMissing,
                Successor::kUnknown}) {
            for (const Acknowledged acknowledged :
                 {Acknowledged::kUnknown, Acknowledged::kBefore, Acknowledged::kCovers}) {
              all.push_back({kind, rest, later, machine, successor, acknowledged});
            }
          }
        }
      }
    }
  }
  return all;
}

TEST(LogVerdict, ExactlyOneRowAppliesToEachCombinationOfEvidence) {
  const auto all = all_evidence();
  ASSERT_EQ(all.size(), 3U * 2 * 3 * 2 * 5 * 3);
  for (std::size_t i = 0; i < all.size(); ++i) {
    std::vector<std::string_view> matching;
    for (const VerdictRow& row : verdict_rows()) {
      if (applies(row, all[i])) matching.push_back(row.reason);
    }
    ASSERT_EQ(matching.size(), 1U)
        << "combination " << i << ": " << testing::PrintToString(matching);
    EXPECT_EQ(judge_stop(all[i]).reason, matching[0]);
  }
}

TEST(LogVerdict, EachRowAppliesToSomething) {
  std::set<std::string_view> met;
  for (const StopEvidence& evidence : all_evidence()) met.insert(judge_stop(evidence).reason);
  EXPECT_EQ(met.size(), verdict_rows().size());
}

// What the table must say, derived from the promises and not from the rows.
TEST(LogVerdict, EveryVerdictIsTheOneThatThePromisesDemand) {
  for (const StopEvidence& evidence : all_evidence()) {
    const StopVerdict verdict = judge_stop(evidence).verdict;
    if (evidence.successor == Successor::kContinues) {
      EXPECT_EQ(verdict, StopVerdict::kEnd);
      continue;
    }
    if (evidence.successor == Successor::kGap || evidence.successor == Successor::kMissing) {
      EXPECT_EQ(verdict, StopVerdict::kRefuse);
      continue;
    }
    const bool was_synced = evidence.later == LaterBlock::kCovers;
    const bool was_acknowledged = evidence.acknowledged == Acknowledged::kCovers;
    const bool was_not_acknowledged = evidence.acknowledged == Acknowledged::kBefore;
    // In the same run no write is lost before a later one.
    const bool out_of_order =
        evidence.later == LaterBlock::kPresent && evidence.machine == Machine::kSameRun;
    const bool complete = evidence.kind == StopKind::kZeros && evidence.rest == Rest::kZeros &&
                          evidence.later == LaterBlock::kNone;
    if (was_acknowledged || was_synced || (out_of_order && !was_not_acknowledged)) {
      EXPECT_EQ(verdict, StopVerdict::kRefuse);
    } else if (complete) {
      // The word of the last process is about this segment: it had begun no other one.
      const bool may_go_on = evidence.successor == Successor::kUnknown && !was_not_acknowledged;
      EXPECT_EQ(verdict, may_go_on ? StopVerdict::kEndReport : StopVerdict::kEnd);
    } else if (was_not_acknowledged) {
      EXPECT_EQ(verdict, StopVerdict::kCut);
    } else {
      EXPECT_EQ(verdict, StopVerdict::kCutReport);
    }
  }
}

TEST(LogVerdict, MoreKnowledgeOfAcknowledgementNeverLosesWhatLessWouldKeep) {
  for (StopEvidence evidence : all_evidence()) {
    evidence.acknowledged = Acknowledged::kCovers;
    const StopVerdict known = judge_stop(evidence).verdict;
    // Nothing that was acknowledged is ever cut.
    EXPECT_TRUE(known == StopVerdict::kRefuse || known == StopVerdict::kEnd);
    EXPECT_EQ(known == StopVerdict::kEnd, evidence.successor == Successor::kContinues);
  }
}

}  // namespace
}  // namespace defib::store

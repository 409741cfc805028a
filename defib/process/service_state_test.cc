#include "defib/process/service_state.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace defib::process {
namespace {

using S = ServiceState;
using E = ServiceEvent;

template <typename Visit>
void for_all_pairs(Visit visit) {
  for (int s = 0; s < kServiceStates; ++s) {
    for (int e = 0; e < kServiceEvents; ++e) visit(static_cast<S>(s), static_cast<E>(e));
  }
}

bool is_exit(E event) {
  return event == E::kExitedFinal || event == E::kExitedFailed || event == E::kExitedRestart;
}

TEST(ServiceState, NothingButAStartBringsALivingStateFromADeadOne) {
  for_all_pairs([](S state, E event) {
    const auto next = next_state(state, event);
    if (is_alive(state) || !next || !is_alive(*next)) return;
    EXPECT_EQ(event, E::kStarted) << to_string(state) << " " << to_string(event);
    EXPECT_EQ(*next, S::kStarting);
  });
}

TEST(ServiceState, EveryLivingStateEndsWithEveryKindOfExit) {
  for_all_pairs([](S state, E event) {
    if (!is_alive(state) || !is_exit(event)) return;
    const auto next = next_state(state, event);
    ASSERT_TRUE(next) << to_string(state) << " " << to_string(event);
    EXPECT_FALSE(is_alive(*next));
  });
}

TEST(ServiceState, OnlyAnExitLeadsFromALivingStateToADeadOne) {
  for_all_pairs([](S state, E event) {
    const auto next = next_state(state, event);
    if (!is_alive(state) || !next || is_alive(*next)) return;
    EXPECT_TRUE(is_exit(event)) << to_string(state) << " " << to_string(event);
  });
}

TEST(ServiceState, WhatIsBeingStoppedLeavesThatStateOnlyByItsEnd) {
  for (int e = 0; e < kServiceEvents; ++e) {
    const E event = static_cast<E>(e);
    EXPECT_EQ(next_state(S::kStopping, event).has_value(), is_exit(event)) << to_string(event);
  }
}

TEST(ServiceState, EveryLivingStateCanBeKilled) {
  for (int s = 0; s < kServiceStates; ++s) {
    const S state = static_cast<S>(s);
    const bool can = next_state(state, E::kKilling) == S::kStopping;
    EXPECT_EQ(can, is_alive(state) && state != S::kStopping) << to_string(state);
  }
}

TEST(ServiceState, AFailureIsLeftOnlyByAResetAStartOrAStop) {
  for (int e = 0; e < kServiceEvents; ++e) {
    const E event = static_cast<E>(e);
    const bool may = event == E::kReset || event == E::kStarted || event == E::kExitedFinal;
    EXPECT_EQ(next_state(S::kFailed, event).has_value(), may) << to_string(event);
  }
}

TEST(ServiceState, NoEventLeadsAStateToItself) {
  for_all_pairs([](S state, E event) {
    EXPECT_NE(next_state(state, event), std::optional(state))
        << to_string(state) << " " << to_string(event);
  });
}

TEST(ServiceState, EveryStateAndEventHasANameOfItsOwn) {
  std::set<std::string_view> names;
  for (int s = 0; s < kServiceStates; ++s) names.insert(to_string(static_cast<S>(s)));
  for (int e = 0; e < kServiceEvents; ++e) names.insert(to_string(static_cast<E>(e)));
  EXPECT_EQ(names.size(), static_cast<std::size_t>(kServiceStates + kServiceEvents));
}

TEST(ServiceState, TheServicesWordsAreThoseOfTheStatesItMaySay) {
  for (const S state : {S::kRunning, S::kDegraded, S::kRecovering, S::kMonitoring, S::kRamping,
                        S::kStandby, S::kAwaitingApproval}) {
    const auto event = event_for_word(to_string(state));
    ASSERT_TRUE(event) << to_string(state);
    EXPECT_EQ(next_state(S::kStarting, *event), state);
  }
  for (const std::string_view word : {"stopped", "failed", "starting", "", "RUNNING"}) {
    EXPECT_FALSE(event_for_word(word)) << word;
  }
}

}  // namespace
}  // namespace defib::process

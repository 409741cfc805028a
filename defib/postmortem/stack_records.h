// How stacks come from the child that walks them (guarded.h). Its writer may have gone wild.
// Thread rule: pure functions.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "defib/postmortem/unwind.h"

namespace defib::postmortem {

struct StackRecord {
  std::uint32_t thread = 0;  // its index in the snapshot
  ThreadStack stack;         // without what the snapshot knows: tid, name
};

std::string encode_stack(std::uint32_t thread, const ThreadStack& stack);
std::string encode_gap(std::string_view line);
// nullopt: it is another record, or none.
std::optional<StackRecord> decode_stack(std::string_view record);
std::optional<std::string> decode_gap(std::string_view record);

}  // namespace defib::postmortem

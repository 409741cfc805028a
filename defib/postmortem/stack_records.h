// How stacks come from the child that walks them (guarded.h). Its writer may have gone wild.
//
// Threads stand in the same functions, and a C++ function's name may have a thousand letters: each
// text is written once, and named by its number from then on.
// Thread rule: one thread at a time.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "defib/postmortem/unwind.h"

namespace defib::postmortem {

struct StackRecord {
  std::uint32_t thread = 0;  // its index in the snapshot
  ThreadStack stack;         // without what the snapshot knows: tid, name
};

class StackEncoder {
 public:
  std::string stack(std::uint32_t thread, const ThreadStack& stack);

 private:
  // The text's number; one that is new is appended to new_texts_.
  std::uint32_t text(const std::string& text);
  std::unordered_map<std::string, std::uint32_t> numbers_;
  std::string new_texts_;
};

// Of the records of one encoder, in their order; they must live as long as it.
class StackDecoder {
 public:
  // nullopt: it is another record, or none.
  std::optional<StackRecord> stack(std::string_view record);

 private:
  std::vector<std::string_view> texts_;
};

std::string encode_gap(std::string_view line);
std::optional<std::string> decode_gap(std::string_view record);

}  // namespace defib::postmortem

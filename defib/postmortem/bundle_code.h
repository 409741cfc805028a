// Instructions around a fault, as text (capstone). Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "defib/postmortem/snapshot.h"

namespace defib::postmortem {

// A line an instruction: address, bytes, text; that at `pc` is marked "=>". Where the bytes before
// it cannot be told apart into instructions, or are none, they are shown as bytes.
std::string disassemble(Machine machine, std::uint64_t address, std::string_view code,
                        std::uint64_t pc);

}  // namespace defib::postmortem

// What runtimes and servers write when they end: read from the output of the one run that is asked
// about. Python, Node.js, Go, Rust, Redis, and servers that tell of a child's crash.
//
// Text is evidence, and weaker than what the kernel or the crash page knows: a rule asks for the
// exit status that its runtime ends with, and, where a runtime speaks last, that nothing but its
// own text follows. A traceback that a program logged and outlived decides nothing.
// Thread rule: pure.

#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "defib/postmortem/classify.h"

namespace defib::postmortem {

// How the process ended.
struct Ending {
  int exit_code = -1;  // -1: by a signal
  int signal = 0;      // 0: by an exit code
};

// By stderr, else by stdout; nothing where no rule fits. Where the text names a fault with its
// address, the verdict on it is the one of the same fault without registers and maps.
std::optional<Classification> told_by_output(const CrashFacts& facts, const Ending& ending);

// The last lines that are not empty, oldest first.
std::vector<std::string> last_lines(std::string_view text, std::size_t count);

}  // namespace defib::postmortem

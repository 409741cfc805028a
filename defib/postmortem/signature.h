// Signature: what two reports of the same bug have in common, as a short text and its hash, so that
// equal crashes are counted as one.
//
// It is made of the cause and of the functions on the crashed thread's stack: names, or places in
// a module where there are none; no addresses, no lines, no numbers of processes or threads. So it
// stays the same over address randomization, restarts, and builds that changed other code. Frames
// of the runtime (C and C++ library, loader, agent) say how the program was ended, not where it
// went wrong, and are left out, as are the numbers that compilers give to lambdas and clones.
//
// It groups reports for people. What decides about restarts is the fingerprint of
// process/restart_policy.h: known before any name is, and another one after every build, so that a
// repaired program is given a new chance.
// Thread rule: pure functions.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace defib::postmortem {

struct SignatureFrame {
  std::string module;        // path; empty: no module holds the address
  std::uint64_t offset = 0;  // in it
  std::string function;      // demangled; empty: not known
};

struct SignatureFacts {
  std::string cause;    // of docs/cli.md
  std::string subtype;  // counts where there is no stack, and for exceptions
  std::string message;  // of an assertion: which one of its function
  std::string detail;   // counts where there is no stack: "exit code 3"
  // Innermost first: the crashed thread; of a deadlock, each thread of the cycle.
  std::vector<std::vector<SignatureFrame>> stacks;
};

struct Signature {
  std::string id;    // 16 hexadecimal digits; empty: there is nothing that it could be made of
  std::string text;  // "null_dereference in read_level < main"
};

Signature sign(const SignatureFacts& facts);

// "f(int) [clone .constprop.0]" and "f(int)" are one: without what compilers and linkers add.
std::string plain_function(std::string_view function);
// Code that every program shares: the C and C++ runtime, the loader, defib's agent.
bool is_runtime_module(std::string_view path);

}  // namespace defib::postmortem

// How a frame reads in a report, and which one of a stack is the program's own.
// Thread rule: pure functions.

#pragma once

#include <string>
#include <string_view>

#include "defib/postmortem/unwind.h"

namespace defib::postmortem {

// A library of the system: its waiting and locking is not what a reader looks for.
bool is_system_library(std::string_view path);

// "settle() at bank.cc:41", "engine+0x1234".
std::string place_of(const Frame& frame);

// Of the program's code: neither in a library of the system nor of a header of its.
bool is_own(const Frame& frame);

// The place of the innermost frame of the program's own, else of one that was compiled into the
// program; empty: there is none.
std::string where_of(const ThreadStack& stack);

}  // namespace defib::postmortem

// The parts of the trading benchmark that need no process (trading_micro.cc).

#pragma once

#include <string>

namespace defib::bench {

// Prints its rows; `dir` is for files.
void trading_micro(const std::string& dir);

}  // namespace defib::bench

// A victim: a plugin whose method `break` fails in one way, and whose `add` works.

#pragma once

#include <string>

#include "defib/call/plugin.h"
#include "defib/call/testcases/victims_api.h"

namespace defib::call::testcases {

inline int add(int a, int b) {
  return a + b;
}

}  // namespace defib::call::testcases

// NOLINTNEXTLINE(cppcoreguidelines-macro-usage)
#define DEFIB_VICTIM(function)                                             \
  DEFIB_CALL_PLUGIN(                                                       \
      defib::call::testcases::VictimApi,                                   \
      defib::call::On<defib::call::testcases::VictimApi::Break, function>, \
      defib::call::On<defib::call::testcases::VictimApi::Add, defib::call::testcases::add>)

// Victim: memory eater.

#include <string.h>

#include <vector>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  std::vector<char*> all;
  for (;;) {
    all.push_back(new char[1 << 20]);
    memset(all.back(), 1, 1 << 20);
  }
}

}  // namespace

DEFIB_VICTIM(break_it)

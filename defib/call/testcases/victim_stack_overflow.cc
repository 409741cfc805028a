// Victim: stack overflow.

#include "defib/call/testcases/victim.h"

namespace {
int deeper(int depth) {
  volatile char room[4096];
  room[0] = static_cast<char>(depth);
  return depth == -1 ? room[0] : deeper(depth + 1) + room[0];
}
}  // namespace

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  return deeper(1);
}

}  // namespace

DEFIB_VICTIM(break_it)

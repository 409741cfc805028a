// Victim: socket opener.

#include <sys/socket.h>

#include <stdexcept>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  if (socket(AF_INET, SOCK_STREAM, 0) < 0) throw std::runtime_error("no socket");
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)

// Victim: file writer.

#include <fcntl.h>

#include <stdexcept>

#include "defib/call/testcases/victim.h"

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  if (open(argument == 0 ? "/tmp/defib-file-writer" : text.c_str(), O_WRONLY | O_CREAT, 0600) < 0)
    throw std::runtime_error("no file");
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)

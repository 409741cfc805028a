#include "defib/postmortem/testcases/victim.h"

namespace {

const char kTable[4096] = {1, 2, 3};

VICTIM_FUNCTION void patch_table(char* table) {
  table[1] = 9;  // fault
}

}  // namespace

int main() {
  victim::start();
  patch_table(victim::opaque(const_cast<char*>(kTable)));
  return kTable[1];
}

#include "defib/postmortem/testcases/victim.h"

namespace {

VICTIM_FUNCTION int read_quote(const int* quote) {
  return quote[1];  // fault
}

}  // namespace

int main() {
  victim::start();
  return read_quote(victim::opaque(reinterpret_cast<const int*>(0x4141424243434444)));
}

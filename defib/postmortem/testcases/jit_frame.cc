// The fault lies below a function that was made at run time, which no file holds.

#include <cstring>

#include "defib/postmortem/testcases/victim.h"

namespace {

struct Quote {
  long bid;
  long ask;
};

VICTIM_FUNCTION void price_quote(Quote* quote) {
  quote->ask = 1;  // fault
}

using Compiled = void (*)(void (*)(Quote*), Quote*);

// Calls its first argument with its second, with a frame pointer.
VICTIM_FUNCTION Compiled compile() {
#if defined(__x86_64__)
  constexpr unsigned char kCode[] = {0x55, 0x48, 0x89, 0xe5, 0x48, 0x89, 0xf8,
                                     0x48, 0x89, 0xf7, 0xff, 0xd0, 0x5d, 0xc3};
#else
  constexpr unsigned kCode[] = {0xa9bf7bfd, 0x910003fd, 0xaa0003e8, 0xaa0103e0,
                                0xd63f0100, 0xa8c17bfd, 0xd65f03c0};
#endif
  void* memory = mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::memcpy(memory, kCode, sizeof kCode);
  mprotect(memory, 4096, PROT_READ | PROT_EXEC);
  __builtin___clear_cache(static_cast<char*>(memory), static_cast<char*>(memory) + sizeof kCode);
  return reinterpret_cast<Compiled>(memory);
}

VICTIM_FUNCTION void run_strategy(Compiled compiled) {
  compiled(price_quote, victim::opaque<Quote*>(nullptr));  // call
}

}  // namespace

int main() {
  victim::start();
  run_strategy(compile());
  return 0;
}

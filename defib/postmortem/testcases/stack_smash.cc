#include <cstring>

#include "defib/postmortem/testcases/victim.h"

namespace {

[[gnu::noinline, gnu::noclone, gnu::optimize("stack-protector-strong")]] int parse_name(
    std::size_t size) {
  char name[16];
  std::memset(victim::opaque(name), 'A', size);
  return name[3];
}  // fault

}  // namespace

int main() {
  victim::start();
  return parse_name(victim::opaque(std::size_t{64}));
}

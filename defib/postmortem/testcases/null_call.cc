#include "defib/postmortem/testcases/victim.h"

namespace {

using Callback = int (*)(int);

VICTIM_FUNCTION int notify_listener(Callback callback) {
  const int answer = callback(7);  // fault
  return answer + 1;
}

}  // namespace

int main() {
  victim::start();
  return notify_listener(victim::opaque<Callback>(nullptr));
}

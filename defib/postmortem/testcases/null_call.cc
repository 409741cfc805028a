#include "defib/postmortem/testcases/victim.h"

namespace {

using Callback = int (*)(int);

VICTIM_FUNCTION int notify_listener(Callback callback) {
  callback(7);  // fault
  return 8;     // where the call would return to: another line than that of the call
}

}  // namespace

int main() {
  victim::start();
  return notify_listener(victim::opaque<Callback>(nullptr));
}

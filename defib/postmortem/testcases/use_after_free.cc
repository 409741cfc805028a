#include "defib/postmortem/testcases/victim.h"

namespace {

struct Handler {
  virtual ~Handler() = default;
  virtual int on_fill(int quantity) { return quantity; }
};

VICTIM_FUNCTION int deliver_fill(Handler* handler) {
  return handler->on_fill(7) + 1;  // fault
}

}  // namespace

int main() {
  victim::start(false);
  Handler* handler = new Handler;
  delete victim::opaque(handler);
  return deliver_fill(victim::opaque(handler));
}

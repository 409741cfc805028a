// Victim: pure virtual.

#include "defib/call/testcases/victim.h"

namespace {
struct Base;
void run(Base* base);
struct Base {
  Base() { run(this); }
  virtual ~Base() = default;
  virtual void work() = 0;
};
struct Derived : Base {
  void work() override {}
};
__attribute__((noipa)) void run(Base* base) {
  base->work();
}
}  // namespace

namespace {

int break_it(std::string text, int argument) {
  (void)text;
  (void)argument;
  const Derived derived;
  return 0;
}

}  // namespace

DEFIB_VICTIM(break_it)

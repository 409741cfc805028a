// The thrown type has another polymorphic base before std::exception's, so that the pointer to the
// object is none to its std::exception.

#include <stdexcept>

#include "defib/postmortem/testcases/victim.h"

namespace {

struct Tagged {
  virtual ~Tagged() = default;
  long tag = 7;
};
struct UnknownSymbol : Tagged, std::runtime_error {
  using std::runtime_error::runtime_error;
};

VICTIM_FUNCTION void look_up(int symbol) {
  if (symbol < 0) throw UnknownSymbol("no such symbol: XYZ");  // fault
}

}  // namespace

int main() {
  victim::start();
  look_up(victim::opaque(-1));
  return 0;
}

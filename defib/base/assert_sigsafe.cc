#include <unistd.h>

#include <cstdlib>
#include <cstring>

#include "defib/base/assert.h"

namespace defib {
namespace {

struct Line {
  char text[512];
  std::size_t size = 0;

  void add(const char* more) {
    for (; *more != '\0' && size < sizeof(text) - 1; ++more) text[size++] = *more;
  }
  void add(int number) {
    char digits[12];
    int count = 0;
    do {
      digits[count++] = static_cast<char>('0' + number % 10);
      number /= 10;
    } while (number > 0);
    while (count > 0 && size < sizeof(text) - 1) text[size++] = digits[--count];
  }
};

}  // namespace

void assertion_failed(const char* expression, const char* message, const char* file, int line) {
  Line out;
  out.add("defib: assertion failed: ");
  out.add(expression);
  if (message != nullptr) {
    out.add(" (");
    out.add(message);
    out.add(")");
  }
  out.add(" at ");
  out.add(file);
  out.add(":");
  out.add(line);
  out.add("\n");
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, out.text, out.size);
  std::abort();
}

}  // namespace defib

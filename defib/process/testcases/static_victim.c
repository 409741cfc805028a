/* A static program: no library can be preloaded into it. */
#include <unistd.h>

int main(void) {
  while (1) pause();
}

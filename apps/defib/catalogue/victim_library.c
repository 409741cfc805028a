/* A library that a program loads: it crashes in its constructor, or ends the program. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

__attribute__((constructor)) static void begin_library(void) {
  const char* mode = getenv("VICTIM_LIBRARY");
  if (mode != 0 && strcmp(mode, "crash") == 0) *(volatile int*)0 = 1;
  if (mode != 0 && strcmp(mode, "exit") == 0) {
    fprintf(stderr, "vendor library: no licence\n");
    exit(4);
  }
}

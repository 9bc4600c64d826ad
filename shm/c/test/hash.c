// Prints heddle_hash64 of each input: u64 length, u64 seed, bytes.
#include <stdio.h>
#include <stdlib.h>

#include "heddle_hash.h"

int main(void) {
  uint64_t head[2];
  while (fread(head, sizeof head, 1, stdin) == 1) {
    unsigned char *data = malloc(head[0] + 1);
    if (head[0] != 0 && fread(data + 1, head[0], 1, stdin) != 1) // off by one: unaligned
      return 1;
    printf("%016llx\n", (unsigned long long)heddle_hash64(data + 1, head[0], head[1]));
    free(data);
  }
  return 0;
}

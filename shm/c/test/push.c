// Pushes argv[1] launches with one dependency and 48 parameter bytes, for callgrind: run with two counts, the difference is the cost.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heddle_ring.h"

#define BYTES (143360 + (1 << 22))

int main(int argc, char **argv) {
  unsigned char *session = aligned_alloc(4096, BYTES);
  struct heddle_wire_doorbell *bell = aligned_alloc(4096, 4096);
  memset(session, 0, 143360);
  memset(bell, 0, 4096);
  struct heddle_wire_session_header h = {
      .magic = HEDDLE_WIRE_MAGIC, .layout_hash = HEDDLE_WIRE_LAYOUT_HASH, .version = HEDDLE_WIRE_VERSION,
      .lanes = HEDDLE_WIRE_LANES, .file_bytes = BYTES, .status_offset = 4096, .producer_offset = 4224,
      .consumer_offset = 4352, .replies_offset = 8192, .lanes_offset = 12288, .ring_offset = 143360,
      .ring_bytes = 1 << 22, .replies = HEDDLE_WIRE_REPLIES};
  memcpy(session, &h, sizeof h);
  bell->magic = HEDDLE_WIRE_DOORBELL_MAGIC;
  bell->layout_hash = HEDDLE_WIRE_LAYOUT_HASH;
  struct heddle_ring ring;
  if (argc != 2 || heddle_ring_init(&ring, session, BYTES, bell) != 0)
    return 3;
  unsigned char params[48] = {1};
  for (int i = 1, n = atoi(argv[1]); i <= n; i++) {
    struct heddle_wire_dep dep = {2, (uint32_t)i};
    struct heddle_wire_launch launch = {.kernel = 5, .grid_x = 64, .grid_y = 1, .grid_z = 1, .block_x = 256, .block_y = 1, .block_z = 1, .param_bytes = sizeof params};
    unsigned char *body = heddle_record_begin(&ring, HEDDLE_WIRE_KIND_LAUNCH, 0, 1, (uint32_t)i, 0, &dep, 1, sizeof launch + sizeof params, NULL);
    if (body == NULL)
      return 4;
    memcpy(body, &launch, sizeof launch);
    memcpy(body + sizeof launch, params, sizeof params);
    heddle_ring_publish(&ring);
  }
  return 0;
}

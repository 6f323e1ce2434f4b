/* call.h: a prepared call. */
#ifndef TWIRE_CALL_H
#define TWIRE_CALL_H

#include "layout.h"

struct twire_call {
  size_t references; /* the caller's, and one for each reply under way */
  uint8_t *metadata;
  size_t metadata_length, input_count, dim_count;
  bool fixed;            /* its dims are in the metadata: too many of them for DIMS (SPEC 18.4) */
  twire_tensor *inputs;  /* name, dtype, kind, rank, and shape if fixed */
  uint64_t *dims;        /* scratch of one submit */
  struct iovec *body;    /* scratch of one submit: up to two buffers and two paddings a tensor */
  twire_layout *answers; /* how the last reply was laid out */
};

int twire__call_gather(twire_call *call, const twire_tensor *inputs, size_t *iovecs, char *text_, size_t text_size);

#endif

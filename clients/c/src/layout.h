/* layout.h: verified metadata, and the places of tensors in a body. */
#ifndef TWIRE_LAYOUT_H
#define TWIRE_LAYOUT_H

#include "bytes.h"

/* Immutable; shared by a call and the replies that were laid out by it, hence counted. */
struct twire_layout {
  size_t references;
  const char *model, *version;
  const uint8_t *metadata; /* our copy; names point into it, each followed by its zero byte */
  size_t metadata_length;
  size_t dim_count; /* numbers that DIMS must hold */
  size_t tensor_count;
  twire_tensor tensors[];
};

/* What one tensor takes: rows (strings, ragged rows), bytes of its first buffer and, if it has two, of its second. `items`
 * is the length that travels in DIMS. False: a size above the caps. */
typedef struct extent {
  uint64_t rows, first, second;
} extent;

/* Of a number known to be a dtype. */
static inline size_t item_size(twire_dtype dtype) { return ((size_t)dtype & 0xff) / 8; }

/* A message is refused: TWIRE_INVALID_ARGUMENT, and why. */
int twire__failed(const char **reason, const char *text_);
/* An argument is NULL: TWIRE_E_ARGUMENT. */
int twire__unsuitable(const char **reason);
bool twire__tensor_extent(const twire_tensor *t, uint64_t items, extent *x);
bool twire__offsets_valid(const uint8_t *offsets, uint64_t rows, uint64_t last, const uint8_t *strings);

#endif

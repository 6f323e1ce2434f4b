/* layout.c: sizes and places of tensors in a body (SPEC 18.4 to 18.7): products that cannot overflow, padding, offsets, bools. */
#include "layout.h"

/* *product *= factor, with dims of 0 counted as 1; false above SIZE_CAP. */
static bool grow(uint64_t *product, uint64_t factor) {
  return factor <= 1 || (!__builtin_mul_overflow(*product, factor, product) && *product <= SIZE_CAP);
}

bool twire__tensor_extent(const twire_tensor *t, uint64_t items, extent *x) {
  uint64_t size = item_size(t->dtype), product = t->kind == TWIRE_STRING ? 1 : size;
  bool empty = false;
  if (t->kind == TWIRE_RAGGED && !grow(&product, items)) return false;
  for (uint32_t i = t->kind == TWIRE_RAGGED; i < t->dim_count; i++) {
    if (!grow(&product, (uint64_t)t->shape[i])) return false;
    empty |= t->shape[i] == 0;
  }
  if (empty) product = 0;
  if (t->kind == TWIRE_DENSE) {
    *x = (extent){0, product, 0};
    return true;
  }
  x->rows = t->kind == TWIRE_STRING ? product : (uint64_t)t->shape[0];
  x->first = 8 * (x->rows + 1);
  x->second = t->kind == TWIRE_STRING ? items : items ? product : 0;
  return true;
}

/* The next buffer's offset; *end moves behind it. False above SIZE_CAP. */
static bool place_buffer(uint64_t *end, uint64_t size, uint64_t *offset) {
  *offset = 0;
  if (size == 0) return true;
  *offset = (*end + ALIGNMENT - 1) & ~(uint64_t)(ALIGNMENT - 1);
  if (size > SIZE_CAP || *offset > SIZE_CAP - size) return false;
  *end = *offset + size;
  return true;
}

/* Every byte of the body's gaps is zero. */
static bool all_zero(const uint8_t *p, size_t length) {
  uint8_t any = 0;
  for (size_t i = 0; i < length; i++) any |= p[i];
  return any == 0;
}

static bool bools_valid(const uint8_t *p, size_t length) {
  uint8_t any = 0;
  for (size_t i = 0; i < length; i++) any |= p[i];
  return any <= 1;
}

/* `rows` + 1 offsets that begin at 0, never fall and end at `last`; strings between them are UTF-8 each. Read by memcpy:
 * the body's memory may be unaligned, if the caller gave it. */
bool twire__offsets_valid(const uint8_t *offsets, uint64_t rows, uint64_t last, const uint8_t *strings) {
  uint64_t before = load64(offsets), next;
  if (before != 0) return false;
  for (uint64_t i = 1; i <= rows; i++, before = next) {
    next = load64(offsets + 8 * i);
    if (next < before || next > last) return false;
    if (strings && !twire__utf8_valid(strings + before, (size_t)(next - before))) return false;
  }
  return before == last;
}

/* One tensor's shape with its free dims filled in; *dims moves on. Its second buffer's length, 0 if it has none. */
static uint64_t fill_dims(twire_tensor *t, const uint64_t **dims) {
  for (uint32_t d = 0; d < t->dim_count; d++)
    if (t->shape[d] == -1) t->shape[d] = (int64_t) * (*dims)++;
  return t->kind == TWIRE_DENSE ? 0 : *(*dims)++;
}

int twire_layout_length(const twire_layout *layout, const uint64_t *dims, size_t dim_count, uint64_t *length,
                        const char **reason) {
  uint64_t end = 0, at;
  if (!layout || !length || (!dims && dim_count)) return twire__unsuitable(reason);
  if (dim_count != layout->dim_count) return twire__failed(reason, "DIMS holds more or fewer numbers than the metadata asks for");
  for (size_t i = 0; i < dim_count; i++)
    if (dims[i] > DIM_CAP) return twire__failed(reason, "a dim is above 2^48");
  for (size_t i = 0; i < layout->tensor_count; i++) {
    twire_tensor t = layout->tensors[i];
    extent x;
    uint64_t items = fill_dims(&t, &dims);
    if (!twire__tensor_extent(&t, items, &x) || !place_buffer(&end, x.first, &at) || !place_buffer(&end, x.second, &at))
      return twire__failed(reason, "a tensor, or the body, has more than 2^56 bytes");
  }
  *length = end;
  return TWIRE_OK;
}

int twire_layout_views(const twire_layout *layout, const uint64_t *dims, size_t dim_count, const void *body,
                       uint64_t body_length, twire_tensor *tensors, const char **reason) {
  uint64_t length, end = 0, seen = 0, first_at, second_at;
  const uint8_t *bytes = body;
  int status = twire_layout_length(layout, dims, dim_count, &length, reason);
  if (status) return status;
  if (length != body_length) return twire__failed(reason, "the body is longer or shorter than its tensors");
  if ((!body && length) || (!tensors && layout->tensor_count)) return twire__unsuitable(reason);
  for (size_t i = 0; i < layout->tensor_count; i++) {
    twire_tensor *t = &tensors[i];
    extent x;
    *t = layout->tensors[i];
    uint64_t items = fill_dims(t, &dims);
    (void)twire__tensor_extent(t, items, &x); /* did not fail above */
    for (int second = 0; second < 2; second++) {
      uint64_t size = second ? x.second : x.first, *at = second ? &second_at : &first_at;
      (void)place_buffer(&end, size, at);
      if (size == 0) continue;
      if (!all_zero(bytes + seen, (size_t)(*at - seen))) return twire__failed(reason, "padding between tensors is not zero");
      seen = *at + size;
    }
    uint64_t size = t->kind == TWIRE_DENSE ? x.first : x.second;
    t->size = (size_t)size;
    t->data = size ? bytes + (t->kind == TWIRE_DENSE ? first_at : second_at) : NULL;
    if (t->dtype == TWIRE_BOOL && !bools_valid(t->data, t->size)) return twire__failed(reason, "a bool is neither 0 nor 1");
    if (t->kind == TWIRE_DENSE) continue;
    t->offsets = (const int64_t *)(const void *)(bytes + first_at);
    if (!twire__offsets_valid(bytes + first_at, x.rows, items, t->kind == TWIRE_STRING ? t->data : NULL))
      return twire__failed(reason, t->kind == TWIRE_STRING ? "offsets of strings fall, miss the blob's end, or cut a character"
                                                    : "offsets of rows fall, or miss the values' end");
  }
  return TWIRE_OK;
}

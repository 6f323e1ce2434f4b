/* extension.c: the extension of a frame: read, checked, written (SPEC 4). */
#include "extension.h"

bool twire_extension_read(const void *bytes, size_t length, twire_extension *x) {
  const uint8_t *p = bytes, *end;
  uint8_t last = 0, last_size = 0;
  if (!x || (!bytes && length)) return false;
  end = length ? p + length : p;
  x->dim_count = 0;
  x->has_body_length = x->has_trace = x->has_timing = x->has_retry_after = x->has_queue_estimate = false;
  while (p != end) {
    if (end - p < 2 || end - p - 2 < p[1]) return false;
    uint8_t type = p[0], size = p[1];
    p += 2;
    if (type < last || (type == last && (type != ITEM_DIMS || last_size != 248))) return false;
    switch (type) {
      case ITEM_DIMS:
        if (size == 0 || size % 8) return false;
        if (x->dim_count + size / 8u > sizeof x->dims / sizeof *x->dims) return false;
        memcpy(x->dims + x->dim_count, p, size);
        x->dim_count += size / 8u;
        break;
      case ITEM_BODY_LENGTH:
        if (size != 8) return false;
        x->has_body_length = true;
        x->body_length = load64(p);
        break;
      case ITEM_TRACE:
        if (size != 25) return false;
        x->has_trace = true;
        memcpy(x->trace, p, 25);
        break;
      case ITEM_TIMING:
        if (size != 28) return false;
        x->has_timing = true;
        memcpy(&x->timing, p, 28);
        break;
      case ITEM_RETRY:
        if (size != 4) return false;
        x->has_retry_after = true;
        x->retry_after_us = load32(p);
        break;
      case ITEM_QUEUE:
        if (size != 4) return false;
        x->has_queue_estimate = true;
        x->queue_estimate_us = load32(p);
        break;
      default: return false;
    }
    last = type;
    last_size = size;
    p += size;
  }
  return true;
}

/* The items of a region as a set of ITEM bits, once it is well-formed; UINT32_MAX if it is not. */
uint32_t twire__extension_items(const uint8_t *bytes, size_t length, uint64_t *body_length) {
  twire_extension x;
  if (length == 0) return 0;
  if (!twire_extension_read(bytes, length, &x)) return UINT32_MAX;
  *body_length = x.has_body_length ? x.body_length : 0;
  return (x.dim_count ? ITEM(ITEM_DIMS) : 0) | (x.has_body_length ? ITEM(ITEM_BODY_LENGTH) : 0) |
         (x.has_trace ? ITEM(ITEM_TRACE) : 0) | (x.has_timing ? ITEM(ITEM_TIMING) : 0) |
         (x.has_retry_after ? ITEM(ITEM_RETRY) : 0) | (x.has_queue_estimate ? ITEM(ITEM_QUEUE) : 0);
}

/* Bytes that these items need. */
size_t twire__extension_size(size_t dim_count, bool body_length, bool trace) {
  return dim_count * 8 + (dim_count + 30) / 31 * 2 + (body_length ? 10 : 0) + (trace ? 27 : 0);
}

void twire__extension_write(uint8_t *p, const uint64_t *dims, size_t dim_count, uint64_t body_length,
                            const uint8_t *trace) {
  while (dim_count) {
    size_t n = dim_count < 31 ? dim_count : 31;
    *p++ = ITEM_DIMS;
    *p++ = (uint8_t)(n * 8);
    memcpy(p, dims, n * 8);
    p += n * 8;
    dims += n;
    dim_count -= n;
  }
  if (body_length) {
    *p++ = ITEM_BODY_LENGTH;
    *p++ = 8;
    store64(p, body_length);
    p += 8;
  }
  if (trace) {
    *p++ = ITEM_TRACE;
    *p++ = 25;
    memcpy(p, trace, 25);
  }
}

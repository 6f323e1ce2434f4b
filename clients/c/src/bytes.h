/* bytes.h: limits of the wire, and bytes as they lie there. The first header of every file here. */
#ifndef TWIRE_BYTES_H
#define TWIRE_BYTES_H

#include "../twire_core.h"

#include <string.h>

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "twire hands out tensors as they are on the wire: it needs a little-endian machine"
#endif

#define HEADER 32u
#define EXTENSION_CAP 1024u
#define METADATA_CAP 65536u
#define TEXT_CAP 1024u
#define ENTRIES_CAP 4096u
#define CHUNK_LEAST 16384u
#define CHUNK_MOST 1048576u
#define CHUNK_DEFAULT 262144u
#define RECEIVE_LEAST 262144u /* holds the largest frame that is not a chunk: 132,128 bytes */
#define ALIGNMENT 64u
#define SIZE_CAP (UINT64_C(1) << 56) /* SPEC 18.7 */
#define DIM_CAP (UINT64_C(1) << 48)
#define ESCAPED_TEXT (4 * TEXT_CAP + 1)
#define NO_STREAM UINT64_MAX /* GOAWAY's "I will say later" */

static inline uint16_t load16(const uint8_t *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline uint32_t load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static inline void store16(uint8_t *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static inline void store32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static inline void store64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

/* memcpy that allows n = 0 with NULL, which C does not. */
static inline void copy(void *to, const void *from, size_t n) {
  if (n) memcpy(to, from, n);
}

static inline bool same(const void *a, size_t a_length, const void *b, size_t b_length) {
  return a_length == b_length && (a_length == 0 || memcmp(a, b, a_length) == 0);
}

static inline uint64_t or_default(uint64_t value, uint64_t otherwise) { return value ? value : otherwise; }

/* system.c */
bool twire__negative(uint64_t duration);
uint64_t twire__time_after(uint64_t duration);

/* text.c */
bool twire__utf8_valid(const uint8_t *p, size_t length);
void twire__escape(char *out, size_t size, const uint8_t *in, size_t length);
/* Keep the text for twire_connect_error; returns the code. */
int twire__say(int code, const char *format, ...);
/* Nothing is wrong yet. */
void twire__say_nothing(void);

#endif

/*
 * twire.c: the thin tensorwire client in C. twire.h says how it is used; protocol/SPEC.md is the law of the wire, and each
 * part below names the section that it follows.
 *
 * In this order: small tools (bytes, UTF-8, names) · extension · metadata: verify, write, lay out · READY's msgpack · keys,
 * proofs and tags · the core: streams, records, sending, handshake, receiving, events · replies · the client on a socket.
 *
 * What must not live here: anything that sends before it was asked to, allocates by a length that was not checked, or
 * keeps a global. Every number from the peer is hostile; sums and products of them are checked before they are used.
 *
 * The hot path, for a small call: twire_core_open writes header, extension and metadata into the slot's own `head`;
 * twire_core_output makes two iovecs of it (head, tensor); twire_core_poll_event finds the slot by its stream id and hands
 * out pointers into the receive buffer. Nothing on it allocates, and one writev and one recv serve a whole batch.
 */
#define _GNU_SOURCE /* getrandom, ppoll */

#include "twire.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifdef TWIRE_CRYPTO
#define OPENSSL_SUPPRESS_DEPRECATED /* SHA256_CTX: see `mac` */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#endif

#if !defined(__BYTE_ORDER__) || __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "twire.c hands out tensors as they are on the wire: it needs a little-endian machine"
#endif

/* ------------------------------------------------------------------------------------------------------ small tools */

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

static uint16_t load16(const uint8_t *p) {
  uint16_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static uint32_t load32(const uint8_t *p) {
  uint32_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, sizeof v);
  return v;
}
static void store16(uint8_t *p, uint16_t v) { memcpy(p, &v, sizeof v); }
static void store32(uint8_t *p, uint32_t v) { memcpy(p, &v, sizeof v); }
static void store64(uint8_t *p, uint64_t v) { memcpy(p, &v, sizeof v); }

/* memcpy that allows n = 0 with NULL, which C does not. */
static void copy(void *to, const void *from, size_t n) {
  if (n) memcpy(to, from, n);
}

static bool same(const void *a, size_t a_length, const void *b, size_t b_length) {
  return a_length == b_length && (a_length == 0 || memcmp(a, b, a_length) == 0);
}

uint64_t twire_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool twire_random(void *bytes, size_t length) {
  size_t done = 0;
  if (!bytes && length) return false;
  while (done < length) {
    ssize_t n = getrandom((uint8_t *)bytes + done, length - done, 0);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) done += (size_t)n;
  }
  return true;
}

const char *twire_strerror(int code) {
  static const char *const statuses[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",   "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
      "UNIMPLEMENTED",  "INTERNAL",  "UNAVAILABLE",       "DATA_LOSS",          "UNAUTHENTICATED"};
  static const char *const local[] = {"E_LOST",    "E_CLOSED", "E_AGAIN",   "E_ARGUMENT", "E_MEMORY",
                                      "E_SYSTEM",  "E_ADDRESS", "E_REFUSED", "E_PROTOCOL", "E_BUSY",
                                      "E_AUTH"};
  if (code >= 0 && code <= TWIRE_UNAUTHENTICATED) return statuses[code];
  if (code < 0 && code >= TWIRE_E_AUTH) return local[-code - 1];
  return "no code of twire";
}

const char *twire_close_name(uint32_t code) {
  static const char *const names[] = {"NO_ERROR",  "PROTOCOL", "FRAME",   "TOO_LARGE", "STREAM",
                                      "EXTENSION", "HANDSHAKE", "VERSION", "FEATURE",   "MAC",
                                      "AUTHENTICATION", "TIMEOUT", "CALM",  "SHUTDOWN",  "INTERNAL", "NOT_TENSORWIRE"};
  return code < sizeof names / sizeof *names ? names[code] : "PROTOCOL";
}

/* The length of the UTF-8 character at p, 0 if it is not one (SPEC 18.2: no surrogates, no overlong forms). */
static size_t utf8_character(const uint8_t *p, size_t left) {
  uint8_t a = p[0];
  if (a < 0x80) return 1;
  if (a < 0xc2 || a > 0xf4) return 0;
  size_t n = a < 0xe0 ? 2 : a < 0xf0 ? 3 : 4;
  if (left < n) return 0;
  for (size_t i = 1; i < n; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  if ((a == 0xe0 && p[1] < 0xa0) || (a == 0xed && p[1] > 0x9f)) return 0;
  if ((a == 0xf0 && p[1] < 0x90) || (a == 0xf4 && p[1] > 0x8f)) return 0;
  return n;
}

static bool utf8_valid(const uint8_t *p, size_t length) {
  for (size_t i = 0; i < length;) {
    uint64_t word; /* eight ASCII characters at once */
    if (length - i >= 8 && (memcpy(&word, p + i, 8), (word & UINT64_C(0x8080808080808080)) == 0)) {
      i += 8;
      continue;
    }
    size_t n = utf8_character(p + i, length - i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

/* Make the peer's words fit to print (SPEC 5.2): controls and invisible directions escaped, bad UTF-8 replaced. */
static void escape(char *out, size_t size, const uint8_t *in, size_t length) {
  size_t at = 0;
  for (size_t i = 0; i < length;) {
    char piece[8];
    size_t n = utf8_character(in + i, length - i), m;
    uint32_t c = in[i];
    if (n == 2) c = (uint32_t)((in[i] & 0x1f) << 6 | (in[i + 1] & 0x3f));
    if (n == 3) c = (uint32_t)((in[i] & 0x0f) << 12 | (in[i + 1] & 0x3f) << 6 | (in[i + 2] & 0x3f));
    if (n == 0) {
      n = 1;
      m = 3;
      memcpy(piece, "\xef\xbf\xbd", 3);
    } else if (c < 0x20 || c == 0x7f) {
      m = (size_t)snprintf(piece, sizeof piece, "\\x%02x", (unsigned)c);
    } else if (n < 4 && ((c >= 0x80 && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))) {
      m = (size_t)snprintf(piece, sizeof piece, "\\u%04x", (unsigned)(c & 0xffff));
    } else {
      m = n;
      memcpy(piece, in + i, n);
    }
    if (at + m + 1 > size) break;
    memcpy(out + at, piece, m);
    at += m;
    i += n;
  }
  out[at] = 0;
}

/* ---------------------------------------------------------------------------------------------------------- dtypes */

static const struct {
  twire_dtype dtype;
  const char *name;
} DTYPES[] = {
    {TWIRE_BOOL, "bool"},
    {TWIRE_INT8, "int8"},
    {TWIRE_INT16, "int16"},
    {TWIRE_INT32, "int32"},
    {TWIRE_INT64, "int64"},
    {TWIRE_UINT8, "uint8"},
    {TWIRE_UINT16, "uint16"},
    {TWIRE_UINT32, "uint32"},
    {TWIRE_UINT64, "uint64"},
    {TWIRE_FLOAT16, "float16"},
    {TWIRE_FLOAT32, "float32"},
    {TWIRE_FLOAT64, "float64"},
    {TWIRE_BFLOAT16, "bfloat16"},
    {TWIRE_COMPLEX64, "complex64"},
    {TWIRE_COMPLEX128, "complex128"},
    {TWIRE_FLOAT8_E3M4, "float8_e3m4"},
    {TWIRE_FLOAT8_E4M3, "float8_e4m3"},
    {TWIRE_FLOAT8_E4M3B11FNUZ, "float8_e4m3b11fnuz"},
    {TWIRE_FLOAT8_E4M3FN, "float8_e4m3fn"},
    {TWIRE_FLOAT8_E4M3FNUZ, "float8_e4m3fnuz"},
    {TWIRE_FLOAT8_E5M2, "float8_e5m2"},
    {TWIRE_FLOAT8_E5M2FNUZ, "float8_e5m2fnuz"},
    {TWIRE_FLOAT8_E8M0FNU, "float8_e8m0fnu"},
};
#define DTYPE_COUNT (sizeof DTYPES / sizeof *DTYPES)

const char *twire_dtype_name(twire_dtype dtype) {
  for (size_t i = 0; i < DTYPE_COUNT; i++)
    if (DTYPES[i].dtype == dtype) return DTYPES[i].name;
  return NULL;
}

twire_dtype twire_dtype_of(const char *name) {
  for (size_t i = 0; name && i < DTYPE_COUNT; i++)
    if (strcmp(DTYPES[i].name, name) == 0) return DTYPES[i].dtype;
  return (twire_dtype)0;
}

/* Of a number known to be a dtype. */
static size_t item_size(twire_dtype dtype) { return ((size_t)dtype & 0xff) / 8; }

size_t twire_dtype_size(twire_dtype dtype) { return twire_dtype_name(dtype) ? item_size(dtype) : 0; }

twire_tensor twire_dense(const char *name, twire_dtype dtype, const void *data, uint32_t dim_count,
                         const int64_t *shape) {
  twire_tensor t;
  memset(&t, 0, sizeof t);
  t.name = name;
  t.dtype = dtype;
  t.data = data;
  t.dim_count = dim_count;
  size_t size = (dim_count < TWIRE_MAX_DIMS ? dim_count : TWIRE_MAX_DIMS) * sizeof *shape;
  if (shape) copy(t.shape, shape, size);
  else memset(t.shape, 0xff, size); /* -1: of no size yet */
  return t;
}

/* --------------------------------------------------------------------------------------------- extension (SPEC 4) */

enum { ITEM_DIMS = 1, ITEM_BODY_LENGTH = 2, ITEM_TRACE = 5, ITEM_TIMING = 6, ITEM_RETRY = 7, ITEM_QUEUE = 8 };
#define ITEM(type) (1u << (type))

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
static uint32_t extension_items(const uint8_t *bytes, size_t length, uint64_t *body_length) {
  twire_extension x;
  if (length == 0) return 0;
  if (!twire_extension_read(bytes, length, &x)) return UINT32_MAX;
  *body_length = x.has_body_length ? x.body_length : 0;
  return (x.dim_count ? ITEM(ITEM_DIMS) : 0) | (x.has_body_length ? ITEM(ITEM_BODY_LENGTH) : 0) |
         (x.has_trace ? ITEM(ITEM_TRACE) : 0) | (x.has_timing ? ITEM(ITEM_TIMING) : 0) |
         (x.has_retry_after ? ITEM(ITEM_RETRY) : 0) | (x.has_queue_estimate ? ITEM(ITEM_QUEUE) : 0);
}

/* Bytes that these items need. */
static size_t extension_size(size_t dim_count, bool body_length, bool trace) {
  return dim_count * 8 + (dim_count + 30) / 31 * 2 + (body_length ? 10 : 0) + (trace ? 27 : 0);
}

static void extension_write(uint8_t *p, const uint64_t *dims, size_t dim_count, uint64_t body_length,
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

/* --------------------------------------------------------------------------- metadata: verify and read (SPEC 18.2) */

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

typedef struct table {
  size_t at, size, vtable, fields;
} table;

typedef struct text {
  size_t at, length;
} text;

/* Verifier of one buffer. Each visit is bounded by the caps of names, dims and tensors, and tensors cannot share a table
 * (their names differ): it visits less than four times the buffer, the budget of SPEC 18.2. */
typedef struct verifier {
  const uint8_t *bytes;
  size_t length;
  const char *reason;
} verifier;

static bool refuse(verifier *v, const char *reason) {
  v->reason = reason;
  return false;
}

static bool verify_table(verifier *v, size_t at, size_t known_fields, table *t) {
  if (at % 4 || at > v->length || v->length - at < 4) return refuse(v, "a table is out of bounds or not aligned");
  int64_t vtable = (int64_t)at - (int32_t)load32(v->bytes + at);
  if (vtable < 0 || vtable % 2 || vtable > (int64_t)v->length - 4)
    return refuse(v, "a vtable is out of bounds or not aligned");
  size_t size = load16(v->bytes + vtable);
  t->at = at;
  t->vtable = (size_t)vtable;
  t->size = load16(v->bytes + vtable + 2);
  if (size < 4 || size % 2 || size > v->length - t->vtable) return refuse(v, "a vtable's length is impossible");
  t->fields = size / 2 - 2;
  if (t->fields > known_fields) return refuse(v, "a table has a field that the schema lacks");
  if (t->size < 4 || t->size > v->length - at) return refuse(v, "a table's length is impossible");
  return true;
}

/* Where field `index` of `size` bytes lies; 0 = absent. */
static bool verify_field(verifier *v, const table *t, size_t index, size_t size, size_t alignment, size_t *at) {
  size_t offset = index < t->fields ? load16(v->bytes + t->vtable + 4 + 2 * index) : 0;
  *at = 0;
  if (offset == 0) return true;
  if (offset < 4 || offset > t->size || t->size - offset < size) return refuse(v, "a field lies outside its table");
  if ((t->at + offset) % alignment) return refuse(v, "a field is not aligned");
  *at = t->at + offset;
  return true;
}

/* Follow an offset to a table, vector or string: there are at least 4 bytes. */
static bool verify_offset(verifier *v, size_t at, size_t *target) {
  uint32_t offset = load32(v->bytes + at);
  if (offset < 4 || offset > v->length - at || v->length - at - offset < 4)
    return refuse(v, "an offset leads out of the buffer");
  *target = at + offset;
  if (*target % 4) return refuse(v, "an offset leads to a place that is not aligned");
  return true;
}

static bool verify_vector(verifier *v, size_t at, size_t item, size_t most, size_t *start, size_t *count) {
  *count = load32(v->bytes + at);
  *start = at + 4;
  if (*count > most) return refuse(v, most == TWIRE_MAX_DIMS ? "a shape has more than 8 dims" : "too many tensors");
  if (*count * item > v->length - *start) return refuse(v, "a vector runs out of the buffer");
  return true;
}

static bool verify_string(verifier *v, const table *t, size_t index, text *s, bool *present) {
  size_t field, at;
  s->at = s->length = 0;
  *present = false;
  if (!verify_field(v, t, index, 4, 4, &field)) return false;
  if (field == 0) return true;
  if (!verify_offset(v, field, &at)) return false;
  s->length = load32(v->bytes + at);
  s->at = at + 4;
  if (s->length >= v->length - s->at) return refuse(v, "a string runs out of the buffer");
  if (v->bytes[s->at + s->length]) return refuse(v, "a string is not followed by a zero byte");
  if (s->length > TWIRE_MAX_NAME) return refuse(v, "a name has more than 256 bytes");
  if (!utf8_valid(v->bytes + s->at, s->length)) return refuse(v, "a name is not UTF-8");
  *present = true;
  return true;
}

static bool verify_name(verifier *v, const table *t, size_t index, text *s, const char *missing) {
  bool present;
  if (!verify_string(v, t, index, s, &present)) return false;
  return s->length ? true : refuse(v, missing);
}

static bool verify_tensor(verifier *v, size_t at, twire_tensor *out) {
  table t;
  text name;
  size_t dtype, kind, shape, start, count = 0;
  if (!verify_table(v, at, 4, &t)) return false;
  if (!verify_name(v, &t, 0, &name, "a tensor has no name")) return false;
  if (!verify_field(v, &t, 1, 4, 2, &dtype)) return false;
  if (dtype == 0) return refuse(v, "a tensor has no dtype");
  if (!verify_field(v, &t, 2, 1, 1, &kind)) return false;
  if (!verify_field(v, &t, 3, 4, 4, &shape)) return false;
  out->name = (const char *)v->bytes + name.at;
  out->name_length = name.length;
  out->dtype = (twire_dtype)(v->bytes[dtype] << 8 | v->bytes[dtype + 1]);
  if (load16(v->bytes + dtype + 2) != 1 || !twire_dtype_name(out->dtype)) return refuse(v, "a dtype is in no table");
  unsigned number = kind ? v->bytes[kind] : 0;
  if (number > TWIRE_RAGGED) return refuse(v, "a kind is unknown");
  out->kind = (twire_kind)number;
  if (shape) {
    if (!verify_offset(v, shape, &start) || !verify_vector(v, start, 8, TWIRE_MAX_DIMS, &start, &count)) return false;
    if (count && start % 8) return refuse(v, "the numbers of a shape are not aligned");
    for (size_t i = 0; i < count; i++) {
      int64_t dim = (int64_t)load64(v->bytes + start + 8 * i);
      if (dim < -1 || dim > (int64_t)DIM_CAP) return refuse(v, "a dim is neither -1 nor 0 to 2^48");
      out->shape[i] = dim;
    }
  }
  out->dim_count = (uint32_t)count;
  if (out->kind == TWIRE_STRING && out->dtype != TWIRE_UINT8) return refuse(v, "the dtype of strings is not uint8");
  if (out->kind == TWIRE_RAGGED && count == 0) return refuse(v, "a ragged tensor has no dim");
  return true;
}

static bool verify_all(verifier *v, twire_layout *out, size_t vector, size_t count) {
  for (size_t i = 0; i < count; i++) {
    twire_tensor *tensor = &out->tensors[i];
    size_t at;
    if (!verify_offset(v, vector + 4 * i, &at) || !verify_tensor(v, at, tensor)) return false;
    for (size_t j = 0; j < i; j++)
      if (same(tensor->name, tensor->name_length, out->tensors[j].name, out->tensors[j].name_length))
        return refuse(v, "two tensors have one name");
    for (uint32_t d = 0; d < tensor->dim_count; d++) out->dim_count += tensor->shape[d] == -1;
    out->dim_count += tensor->kind != TWIRE_DENSE;
  }
  return true;
}

/* The root table: its strings, and where its vector of tensors is. */
static bool verify_root(verifier *v, text *model, text *version, size_t *vector, size_t *count) {
  table root;
  size_t at, field;
  bool present;
  if (v->length > METADATA_CAP) return refuse(v, "it has more than 65,536 bytes");
  if (v->length < 8 || memcmp(v->bytes + 4, "TWM1", 4)) return refuse(v, "it is no FlatBuffer of tensor.fbs (TWM1)");
  if (!verify_offset(v, 0, &at) || !verify_table(v, at, 3, &root)) return false;
  if (!verify_name(v, &root, 0, model, "it names no model")) return false;
  if (!verify_string(v, &root, 1, version, &present)) return false;
  if (!verify_field(v, &root, 2, 4, 4, &field)) return false;
  if (field == 0) return refuse(v, "it has no tensors");
  return verify_offset(v, field, &at) && verify_vector(v, at, 4, TWIRE_MAX_TENSORS, vector, count);
}

static int failed(const char **reason, const char *text_) {
  if (reason) *reason = text_;
  return TWIRE_INVALID_ARGUMENT;
}

static int unsuitable(const char **reason) {
  if (reason) *reason = "an argument is NULL";
  return TWIRE_E_ARGUMENT;
}

int twire_layout_read(const void *metadata, size_t length, twire_layout **layout, const char **reason) {
  verifier v = {metadata, length, NULL};
  text model, version;
  size_t vector, count;
  if (layout) *layout = NULL;
  if (!layout || (!metadata && length)) return unsuitable(reason);
  if (verify_root(&v, &model, &version, &vector, &count)) {
    size_t head = sizeof(twire_layout) + count * sizeof(twire_tensor);
    twire_layout *made = calloc(1, head + length + 1);
    if (!made) return TWIRE_E_MEMORY;
    uint8_t *own = (uint8_t *)made + head;
    memcpy(own, metadata, length);
    v.bytes = own; /* so that names point into our copy */
    made->references = 1;
    made->metadata = own;
    made->metadata_length = length;
    made->model = (const char *)own + model.at;
    made->version = version.length ? (const char *)own + version.at : "";
    made->tensor_count = count;
    if (verify_all(&v, made, vector, count)) {
      *layout = made;
      return TWIRE_OK;
    }
    free(made);
  }
  return failed(reason, v.reason);
}

void twire_layout_free(twire_layout *layout) {
  if (layout && --layout->references == 0) free(layout);
}

const char *twire_layout_model(const twire_layout *layout) { return layout ? layout->model : ""; }
const char *twire_layout_version(const twire_layout *layout) { return layout ? layout->version : ""; }
const twire_tensor *twire_layout_tensors(const twire_layout *layout, size_t *count) {
  if (count) *count = layout ? layout->tensor_count : 0;
  return layout ? layout->tensors : NULL;
}

/* ------------------------------------------------------------------------------- sizes and places (SPEC 18.4 to 18.7) */

/* *product *= factor, with dims of 0 counted as 1; false above SIZE_CAP. */
static bool grow(uint64_t *product, uint64_t factor) {
  return factor <= 1 || (!__builtin_mul_overflow(*product, factor, product) && *product <= SIZE_CAP);
}

/* What one tensor takes: rows (strings, ragged rows), bytes of its first buffer and, if it has two, of its second. `items`
 * is the length that travels in DIMS. False: a size above the caps. */
typedef struct extent {
  uint64_t rows, first, second;
} extent;

static bool tensor_extent(const twire_tensor *t, uint64_t items, extent *x) {
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
static bool offsets_valid(const uint8_t *offsets, uint64_t rows, uint64_t last, const uint8_t *strings) {
  uint64_t before = load64(offsets), next;
  if (before != 0) return false;
  for (uint64_t i = 1; i <= rows; i++, before = next) {
    next = load64(offsets + 8 * i);
    if (next < before || next > last) return false;
    if (strings && !utf8_valid(strings + before, (size_t)(next - before))) return false;
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
  if (!layout || !length || (!dims && dim_count)) return unsuitable(reason);
  if (dim_count != layout->dim_count) return failed(reason, "DIMS holds more or fewer numbers than the metadata asks for");
  for (size_t i = 0; i < dim_count; i++)
    if (dims[i] > DIM_CAP) return failed(reason, "a dim is above 2^48");
  for (size_t i = 0; i < layout->tensor_count; i++) {
    twire_tensor t = layout->tensors[i];
    extent x;
    uint64_t items = fill_dims(&t, &dims);
    if (!tensor_extent(&t, items, &x) || !place_buffer(&end, x.first, &at) || !place_buffer(&end, x.second, &at))
      return failed(reason, "a tensor, or the body, has more than 2^56 bytes");
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
  if (length != body_length) return failed(reason, "the body is longer or shorter than its tensors");
  if ((!body && length) || (!tensors && layout->tensor_count)) return unsuitable(reason);
  for (size_t i = 0; i < layout->tensor_count; i++) {
    twire_tensor *t = &tensors[i];
    extent x;
    *t = layout->tensors[i];
    uint64_t items = fill_dims(t, &dims);
    (void)tensor_extent(t, items, &x); /* did not fail above */
    for (int second = 0; second < 2; second++) {
      uint64_t size = second ? x.second : x.first, *at = second ? &second_at : &first_at;
      (void)place_buffer(&end, size, at);
      if (size == 0) continue;
      if (!all_zero(bytes + seen, (size_t)(*at - seen))) return failed(reason, "padding between tensors is not zero");
      seen = *at + size;
    }
    uint64_t size = t->kind == TWIRE_DENSE ? x.first : x.second;
    t->size = (size_t)size;
    t->data = size ? bytes + (t->kind == TWIRE_DENSE ? first_at : second_at) : NULL;
    if (t->dtype == TWIRE_BOOL && !bools_valid(t->data, t->size)) return failed(reason, "a bool is neither 0 nor 1");
    if (t->kind == TWIRE_DENSE) continue;
    t->offsets = (const int64_t *)(const void *)(bytes + first_at);
    if (!offsets_valid(bytes + first_at, x.rows, items, t->kind == TWIRE_STRING ? t->data : NULL))
      return failed(reason, t->kind == TWIRE_STRING ? "offsets of strings fall, miss the blob's end, or cut a character"
                                                    : "offsets of rows fall, or miss the values' end");
  }
  return TWIRE_OK;
}

/* ---------------------------------------------------------------------------------- prepared calls (SPEC 5.4, 18.2) */

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

/* Dims that always fit, with BODY_LENGTH and TRACE beside them. */
#define FREE_DIMS 122u

static _Thread_local char connect_error[ESCAPED_TEXT + 512];

const char *twire_connect_error(void) { return connect_error; }

static int say(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(connect_error, sizeof connect_error, format, arguments);
  va_end(arguments);
  return code;
}

/* A FlatBuffer of the fixed schema, written from front to back: each offset is known once its target is reached. */
typedef struct writer {
  uint8_t *bytes;
  size_t at;
} writer;

static void write32(writer *w, uint32_t v) {
  store32(w->bytes + w->at, v);
  w->at += 4;
}
static void write16s(writer *w, const uint16_t *v, size_t count) {
  memcpy(w->bytes + w->at, v, count * 2);
  w->at += count * 2;
}
/* The offset kept free at `slot` leads here. */
static void write_target(writer *w, size_t slot) { store32(w->bytes + slot, (uint32_t)(w->at - slot)); }

static void write_string(writer *w, size_t slot, const char *s) {
  size_t n = strlen(s);
  write_target(w, slot);
  write32(w, (uint32_t)n);
  memcpy(w->bytes + w->at, s, n);
  w->at += (n + 4) & ~(size_t)3; /* its zero byte and padding: the buffer is zeroed */
}

static void write_tensor(writer *w, size_t slot, const twire_tensor *t, bool fixed) {
  bool kind = t->kind != TWIRE_DENSE;
  const uint16_t vtable[6] = {12, kind ? 20 : 16, 4, 8, kind ? 16 : 0, t->dim_count ? 12 : 0};
  write16s(w, vtable, 6);
  write_target(w, slot);
  size_t table_at = w->at;
  write32(w, 12);
  w->at += 4;
  write32(w, (uint32_t)t->dtype >> 8 | ((uint32_t)t->dtype & 0xff) << 8 | 1u << 16);
  w->at += 4;
  if (kind) write32(w, t->kind);
  if (t->dim_count) {
    w->at += (12 - w->at % 8) % 8; /* its numbers, behind the count, lie at a multiple of 8 */
    write_target(w, table_at + 12);
    write32(w, t->dim_count);
    for (uint32_t d = 0; d < t->dim_count; d++, w->at += 8)
      store64(w->bytes + w->at, fixed ? (uint64_t)t->shape[d] : UINT64_MAX);
  }
  write_string(w, table_at + 4, t->name);
}

static void write_metadata(writer *w, const char *model, const char *version, const twire_call *call) {
  const uint16_t vtable[6] = {10, 16, 4, *version ? 8 : 0, 12, 0};
  write32(w, 20);
  write32(w, 0x314d5754); /* TWM1 */
  write16s(w, vtable, 6);
  write32(w, 12);
  w->at += 12;
  store32(w->bytes + 32, 4);
  write32(w, (uint32_t)call->input_count);
  size_t slots = w->at;
  w->at += 4 * call->input_count;
  for (size_t i = 0; i < call->input_count; i++) write_tensor(w, slots + 4 * i, &call->inputs[i], call->fixed);
  write_string(w, 24, model);
  if (*version) write_string(w, 28, version);
}

static bool name_fits(const char *name, bool may_be_empty) {
  size_t n = name ? strlen(name) : 0;
  return (n || may_be_empty) && n <= TWIRE_MAX_NAME && utf8_valid((const uint8_t *)name, n);
}

/* The caller's inputs are what a message may hold; counts the free dims. */
static int check_inputs(const twire_tensor *inputs, size_t count, size_t *dims) {
  *dims = 0;
  if (!inputs && count) return say(TWIRE_E_ARGUMENT, "inputs is NULL: expected %zu of them", count);
  if (count > TWIRE_MAX_TENSORS) return say(TWIRE_E_ARGUMENT, "%zu inputs: a call has at most 1024", count);
  for (size_t i = 0; i < count; i++) {
    const twire_tensor *t = &inputs[i];
    if (!name_fits(t->name, false)) return say(TWIRE_E_ARGUMENT, "input %zu: its name needs 1 to 256 bytes of UTF-8", i);
    if (!twire_dtype_name(t->dtype)) return say(TWIRE_E_ARGUMENT, "input '%s': %d is no dtype", t->name, (int)t->dtype);
    if ((unsigned)t->kind > TWIRE_RAGGED) return say(TWIRE_E_ARGUMENT, "input '%s': %d is no kind", t->name, (int)t->kind);
    if (t->dim_count > TWIRE_MAX_DIMS)
      return say(TWIRE_E_ARGUMENT, "input '%s': %u dims; a tensor has at most 8", t->name, t->dim_count);
    if (t->kind == TWIRE_STRING && t->dtype != TWIRE_UINT8)
      return say(TWIRE_E_ARGUMENT, "input '%s': the dtype of strings is uint8, that of their bytes", t->name);
    if (t->kind == TWIRE_RAGGED && t->dim_count == 0)
      return say(TWIRE_E_ARGUMENT, "input '%s': a ragged tensor has at least one dim, its rows", t->name);
    for (size_t j = 0; j < i; j++)
      if (strcmp(t->name, inputs[j].name) == 0) return say(TWIRE_E_ARGUMENT, "two inputs are named '%s'", t->name);
    *dims += t->dim_count + (t->kind != TWIRE_DENSE);
  }
  return TWIRE_OK;
}

static int call_fill(twire_call *call, const char *model, const char *version, const twire_tensor *inputs) {
  size_t lengths = 0, bound = 64 + strlen(model) + strlen(version) + 16;
  for (size_t i = 0; i < call->input_count; i++) {
    twire_tensor *t = &call->inputs[i];
    *t = inputs[i];
    t->data = t->offsets = NULL;
    if (!(t->name = strdup(inputs[i].name))) return TWIRE_E_MEMORY;
    lengths += t->kind != TWIRE_DENSE;
    bound += 4 + 12 + 20 + 8 + 4 + 8 * t->dim_count + 8 + strlen(t->name);
    for (uint32_t d = 0; call->fixed && d < t->dim_count; d++)
      if (t->shape[d] < 0 || t->shape[d] > (int64_t)DIM_CAP)
        return say(TWIRE_E_ARGUMENT,
                   "input '%s': this call has more than %u dims, so that their sizes are fixed when it is made: give its shape",
                   t->name, FREE_DIMS);
  }
  if (call->fixed) call->dim_count = lengths;
  if (call->dim_count > FREE_DIMS)
    return say(TWIRE_E_ARGUMENT, "%zu inputs of strings or ragged rows: a call has at most %u", lengths, FREE_DIMS);
  if (!(call->metadata = calloc(1, bound))) return TWIRE_E_MEMORY;
  writer w = {call->metadata, 0};
  write_metadata(&w, model, version, call);
  call->metadata_length = w.at;
  if (w.at > METADATA_CAP) return say(TWIRE_E_ARGUMENT, "the names of these inputs take %zu bytes of at most 65,536", w.at);
  return TWIRE_OK;
}

int twire_call_new(const char *model, const char *version, const twire_tensor *inputs, size_t input_count,
                   twire_call **call) {
  size_t dims;
  *connect_error = 0;
  if (!call) return say(TWIRE_E_ARGUMENT, "no place for the call: its argument is NULL");
  *call = NULL;
  if (!version) version = "";
  if (!name_fits(model, false)) return say(TWIRE_E_ARGUMENT, "the model's name needs 1 to 256 bytes of UTF-8");
  if (!name_fits(version, true)) return say(TWIRE_E_ARGUMENT, "a version has at most 256 bytes of UTF-8");
  int status = check_inputs(inputs, input_count, &dims);
  if (status) return status;
  twire_call *made = calloc(1, sizeof *made);
  if (!made) return say(TWIRE_E_MEMORY, "no memory");
  made->references = 1;
  made->input_count = input_count;
  made->dim_count = dims;
  made->fixed = dims > FREE_DIMS;
  made->inputs = calloc(input_count + 1, sizeof *made->inputs);
  made->dims = calloc(dims + 1, sizeof *made->dims);
  made->body = calloc(4 * input_count + 1, sizeof *made->body);
  status = made->inputs && made->dims && made->body ? call_fill(made, model, version, inputs) : TWIRE_E_MEMORY;
  if (status) {
    if (status == TWIRE_E_MEMORY) say(status, "no memory");
    twire_call_free(made);
    return status;
  }
  *call = made;
  return TWIRE_OK;
}

void twire_call_free(twire_call *call) {
  if (!call || --call->references) return;
  for (size_t i = 0; call->inputs && i < call->input_count; i++) free((void *)(uintptr_t)call->inputs[i].name);
  twire_layout_free(call->answers);
  free(call->metadata);
  free(call->inputs);
  free(call->dims);
  free(call->body);
  free(call);
}

const void *twire_call_metadata(const twire_call *call, size_t *length) {
  if (length) *length = call ? call->metadata_length : 0;
  return call ? call->metadata : NULL;
}

static const uint8_t ZEROS[ALIGNMENT];

/* A buffer of the caller's memory behind its padding. */
static void gather(twire_call *call, size_t *count, uint64_t *end, const void *memory, uint64_t size) {
  if (size == 0) return;
  uint64_t padding = (ALIGNMENT - *end % ALIGNMENT) % ALIGNMENT;
  if (padding) call->body[(*count)++] = (struct iovec){(void *)(uintptr_t)ZEROS, (size_t)padding};
  call->body[(*count)++] = (struct iovec){(void *)(uintptr_t)memory, (size_t)size};
  *end += padding + size;
}

/* The input of that name: nearly always the one in its place, else one of those behind it, or before. NULL: none is named so. */
static const twire_tensor *input_named(const char *name, const twire_tensor *inputs, size_t count, size_t place) {
  for (size_t i = 0, at = place; i < count; i++, at = at + 1 == count ? 0 : at + 1)
    if (inputs[at].name && strcmp(inputs[at].name, name) == 0) return &inputs[at];
  return NULL;
}

/* DIMS and gather list of one call over the caller's memory. As the call's names differ, and each has its input, no input is
 * left over. The error text, if any, goes to `text_`. */
static int call_gather(twire_call *call, const twire_tensor *inputs, size_t *iovecs, char *text_, size_t text_size) {
  size_t dims = 0, count = 0;
  uint64_t end = 0;
  for (size_t i = 0; i < call->input_count; i++) {
    const twire_tensor *made = &call->inputs[i], *t = input_named(made->name, inputs, call->input_count, i);
    if (!t) {
      snprintf(text_, text_size, "input '%s' is missing: where the call was made with it stands %s%s%s", made->name,
               inputs[i].name ? "'" : "one without a name", inputs[i].name ? inputs[i].name : "", inputs[i].name ? "'" : "");
      return TWIRE_E_ARGUMENT;
    }
    if (t->dtype != made->dtype || t->kind != made->kind || t->dim_count != made->dim_count) {
      snprintf(text_, text_size, "input '%s': dtype, kind or number of dims is not what the call was made with", made->name);
      return TWIRE_E_ARGUMENT;
    }
    for (uint32_t d = 0; d < t->dim_count; d++) {
      if (t->shape[d] < 0 || t->shape[d] > (int64_t)DIM_CAP || (call->fixed && t->shape[d] != made->shape[d])) {
        snprintf(text_, text_size, "input '%s': dim %u is %lld: below 0, above 2^48, or not that of the call", made->name, d,
                 (long long)t->shape[d]);
        return TWIRE_E_ARGUMENT;
      }
      if (!call->fixed) call->dims[dims++] = (uint64_t)t->shape[d];
    }
    extent x;
    uint64_t items = 0;
    if (t->kind != TWIRE_DENSE) {
      if (t->offsets && tensor_extent(t, 0, &x)) items = load64((const uint8_t *)t->offsets + 8 * x.rows);
      else items = UINT64_MAX;
      if (items > DIM_CAP || !offsets_valid((const uint8_t *)t->offsets, x.rows, items, NULL)) {
        snprintf(text_, text_size, "input '%s': offsets are missing, do not begin at 0, fall, or end above 2^48", made->name);
        return TWIRE_E_ARGUMENT;
      }
      call->dims[dims++] = items;
    }
    if (!tensor_extent(t, items, &x) || x.first > SIZE_CAP || x.second > SIZE_CAP) {
      snprintf(text_, text_size, "input '%s': its shape makes more than 2^56 bytes", made->name);
      return TWIRE_E_ARGUMENT;
    }
    uint64_t size = t->kind == TWIRE_DENSE ? x.first : x.second;
    if ((t->size && t->size != size) || (size && !t->data)) {
      snprintf(text_, text_size, "input '%s': its shape makes %llu bytes, but data is %s%zu", made->name,
               (unsigned long long)size, t->data ? "" : "NULL, size ", t->size);
      return TWIRE_E_ARGUMENT;
    }
    if (t->kind == TWIRE_DENSE) {
      gather(call, &count, &end, t->data, x.first);
    } else {
      gather(call, &count, &end, t->offsets, x.first);
      gather(call, &count, &end, t->data, x.second);
    }
  }
  *iovecs = count;
  return TWIRE_OK;
}

/* ------------------------------------------------------------------------------ READY's msgpack (SPEC 9.8, 16.2) */

#define MSGPACK_VALUES 16384u
#define MSGPACK_DEPTH 8u

typedef struct msgpack {
  const uint8_t *bytes;
  size_t at, length, values;
} msgpack;

typedef enum pack_type { PACK_BAD, PACK_NIL, PACK_BOOL, PACK_INT, PACK_FLOAT, PACK_STR, PACK_BIN, PACK_LIST, PACK_MAP } pack_type;

static bool pack_number(msgpack *m, size_t width, uint64_t *n) {
  *n = 0;
  if (m->length - m->at < width) return false;
  for (size_t i = 0; i < width; i++) *n = *n << 8 | m->bytes[m->at++];
  return true;
}

/* The head of one value: its type, and the length or count that follows. The bytes of str and bin are passed over. */
static pack_type pack_head(msgpack *m, uint64_t *n) {
  *n = 0;
  if (m->at == m->length || ++m->values > MSGPACK_VALUES) return PACK_BAD;
  uint8_t b = m->bytes[m->at++];
  pack_type type = PACK_BAD;
  size_t width = 0;
  if (b < 0x80 || b >= 0xe0) return PACK_INT;
  if (b < 0xc0) {
    type = b < 0x90 ? PACK_MAP : b < 0xa0 ? PACK_LIST : PACK_STR;
    *n = b & (b < 0xa0 ? 0x0f : 0x1f);
  } else {
    static const struct {
      uint8_t type, width;
    } heads[32] = {
        {PACK_NIL, 0},   {PACK_BAD, 0},   {PACK_BOOL, 0}, {PACK_BOOL, 0},           /* c0 .. */
        {PACK_BIN, 1},   {PACK_BIN, 2},   {PACK_BIN, 4},  {PACK_BAD, 0},            /* c4 .. */
        {PACK_BAD, 0},   {PACK_BAD, 0},   {PACK_FLOAT, 4}, {PACK_FLOAT, 8},         /* c8 .. */
        {PACK_INT, 1},   {PACK_INT, 2},   {PACK_INT, 4},  {PACK_INT, 8},            /* cc .. */
        {PACK_INT, 1},   {PACK_INT, 2},   {PACK_INT, 4},  {PACK_INT, 8},            /* d0 .. */
        {PACK_BAD, 0},   {PACK_BAD, 0},   {PACK_BAD, 0},  {PACK_BAD, 0},            /* d4 .. */
        {PACK_BAD, 0},   {PACK_STR, 1},   {PACK_STR, 2},  {PACK_STR, 4},            /* d8 .. */
        {PACK_LIST, 2},  {PACK_LIST, 4},  {PACK_MAP, 2},  {PACK_MAP, 4},            /* dc .. */
    };
    type = (pack_type)heads[b - 0xc0].type;
    width = heads[b - 0xc0].width;
  }
  if (width && !pack_number(m, width, n)) return PACK_BAD;
  if (type == PACK_STR || type == PACK_BIN) {
    if (*n > m->length - m->at) return PACK_BAD;
    if (type == PACK_STR && !utf8_valid(m->bytes + m->at, (size_t)*n)) return PACK_BAD;
    m->at += (size_t)*n;
  } else if ((type == PACK_LIST || type == PACK_MAP) && *n > MSGPACK_VALUES) {
    return PACK_BAD;
  }
  return type;
}

/* Where keys of the map under way lie, in a hash table of twice their number: none may come twice. */
typedef struct key_set {
  uint32_t *at, *length;
  size_t mask;
} key_set;

static bool key_is_new(key_set *keys, const uint8_t *bytes, size_t at, size_t length) {
  uint32_t hash = 2166136261u;
  for (size_t i = 0; i < length; i++) hash = (hash ^ bytes[at + i]) * 16777619u;
  size_t i = hash & keys->mask;
  for (; keys->at[i]; i = (i + 1) & keys->mask)
    if (same(bytes + keys->at[i], keys->length[i], bytes + at, length)) return false;
  keys->at[i] = (uint32_t)at;
  keys->length[i] = (uint32_t)length;
  return true;
}

static pack_type pack_value(msgpack *m, unsigned depth);

static bool pack_map(msgpack *m, uint64_t count, unsigned depth) {
  key_set keys = {NULL, NULL, 1};
  bool good = true;
  if (count * 2 > m->length - m->at) return false; /* each entry has two bytes at least */
  while (keys.mask < 2 * count) keys.mask = keys.mask * 2 + 1;
  keys.at = calloc(2 * (keys.mask + 1), sizeof *keys.at);
  if (!keys.at) return false;
  keys.length = keys.at + keys.mask + 1;
  for (uint64_t i = 0; good && i < count; i++) {
    uint64_t n;
    good = pack_head(m, &n) == PACK_STR && key_is_new(&keys, m->bytes, m->at - (size_t)n, (size_t)n) &&
           pack_value(m, depth) != PACK_BAD;
  }
  free(keys.at);
  return good;
}

/* Pass over one value, whole. */
static pack_type pack_value(msgpack *m, unsigned depth) {
  uint64_t n;
  pack_type type = pack_head(m, &n);
  if (type != PACK_LIST && type != PACK_MAP) return type;
  if (depth >= MSGPACK_DEPTH) return PACK_BAD;
  if (type == PACK_MAP) return pack_map(m, n, depth + 1) ? type : PACK_BAD;
  for (uint64_t i = 0; i < n; i++)
    if (pack_value(m, depth + 1) == PACK_BAD) return PACK_BAD;
  return type;
}

/* All `count` values of a list, or of a map behind its keys, are of this type (or, in a map, nil); the head has been read. */
static bool pack_all(msgpack *m, uint64_t count, bool map, pack_type wanted) {
  for (uint64_t i = 0; i < count; i++) {
    uint64_t n;
    if (map) (void)pack_head(m, &n);
    pack_type type = pack_value(m, 2);
    if (type != wanted && !(map && type == PACK_NIL)) return false;
  }
  return true;
}

/* The fields of READY that SPEC 9.8 names. */
static bool ready_valid(const uint8_t *bytes, size_t length) {
  msgpack m = {bytes, 0, length, 0};
  uint64_t count, n;
  bool principal = false;
  if (length > METADATA_CAP || pack_value(&m, 0) != PACK_MAP || m.at != length) return false;
  m.at = m.values = 0;
  (void)pack_head(&m, &count);
  for (uint64_t i = 0; i < count; i++) {
    (void)pack_head(&m, &n);
    const uint8_t *key = bytes + m.at - n;
    size_t key_length = (size_t)n, before = m.at;
    pack_type type = pack_head(&m, &n);
    bool good = true, read = false;
    if (same(key, key_length, "principal", 9)) good = principal = type == PACK_STR;
    else if (type == PACK_NIL) continue; /* the same as a key that is missing (SPEC 16.2) */
    else if (same(key, key_length, "rate", 4)) good = type == PACK_FLOAT || type == PACK_INT;
    else if (same(key, key_length, "server", 6)) good = type == PACK_MAP;
    else if (same(key, key_length, "models", 6)) good = read = type == PACK_LIST && pack_all(&m, n, false, PACK_STR);
    else if (same(key, key_length, "limits", 6)) good = read = type == PACK_MAP && pack_all(&m, n, true, PACK_INT);
    if (!good) return false;
    if (read) continue;
    m.at = before;
    m.values = 0; /* counted whole above */
    (void)pack_value(&m, 1);
  }
  return principal;
}

/* ------------------------------------------------------------------------------------ keys, proofs and tags (SPEC 11) */

#define TAG 16u
#define RECORD_PREFIX 4u
#define RECORD_HEAD (RECORD_PREFIX + HEADER) /* n, and the header of the record's first frame */
#define RECORD_BATCH 65536u                  /* bytes of several frames in one record */
#define FRAME_MOST (HEADER + EXTENSION_CAP + METADATA_CAP + TWIRE_INLINE_BODY) /* a frame that is no chunk */
#define KEY_ID_CAP 64u
#define SECRET 32u
#define PROOF 32u
#define HASH 32u
#define SECRET_TEXT 43u /* base64url of 32 bytes, without padding */

enum { MAC_NONE, MAC_HMAC_SHA256, MAC_AES_256_GMAC, MACS };
static const char *const MAC_NAMES[MACS] = {"none", "hmac-sha256", "aes-256-gmac"};

/* Who we are, and what we take for signing. */
typedef struct credentials {
  size_t id_length; /* 0 = no key */
  size_t mac_count;
  uint8_t macs[MACS]; /* the most wanted first */
  char id[KEY_ID_CAP];
  uint8_t secret[SECRET];
} credentials;

static void wipe(void *memory, size_t size) {
#ifdef TWIRE_CRYPTO
  OPENSSL_cleanse(memory, size);
#else
  memset(memory, 0, size); /* such a build holds no secret */
#endif
}

static bool key_id_valid(const char *id, size_t length) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (length < 1 || length > KEY_ID_CAP) return false;
  for (size_t i = 0; i < length; i++)
    if (!id[i] || !strchr(letters, id[i])) return false;
  return true;
}

/* The one way to write these 32 bytes: the two bits left over are zero. */
static bool secret_decode(const char *text_, uint8_t secret[SECRET]) {
  uint32_t bits = 0;
  size_t held = 0, at = 0;
  if (strnlen(text_, SECRET_TEXT + 1) != SECRET_TEXT) return false;
  for (size_t i = 0; i < SECRET_TEXT; i++) {
    char c = text_[i];
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '-'             ? 62
                : c == '_'             ? 63
                                       : -1;
    if (value < 0) return false;
    bits = bits << 6 | (uint32_t)value;
    for (held += 6; held >= 8; held -= 8) secret[at++] = (uint8_t)(bits >> (held - 8));
  }
  return (bits & 3) == 0;
}

static bool macs_read(const char *names, credentials *c) {
  for (c->mac_count = 0; *names;) {
    size_t length = strcspn(names, ","), i = 0;
    while (i < MACS && !same(names, length, MAC_NAMES[i], strlen(MAC_NAMES[i]))) i++;
    if (i == MACS || c->mac_count == MACS || memchr(c->macs, (int)i, c->mac_count)) return false;
    c->macs[c->mac_count++] = (uint8_t)i;
    names += length;
    if (*names && !*++names) return false;
  }
  return c->mac_count > 0;
}

/* The key and MACs of the options. What is wrong with them, NULL if nothing is; never a part of a secret. */
static const char *credentials_read(const twire_options *o, credentials *c) {
  bool text_given = o->key && *o->key, parts_given = o->key_id || o->secret;
  memset(c, 0, sizeof *c);
  if (text_given && parts_given) return "options: give the key as text (key), or in parts (key_id and secret), not both";
#ifndef TWIRE_CRYPTO
  if (text_given || parts_given)
    return "a key is given, but this library was built without libcrypto: install its headers (libssl-dev) and build again "
           "(make -C clients/c), or compile with -DTWIRE_CRYPTO and link -lcrypto";
#endif
  if (parts_given) {
    if (!o->key_id || !o->secret || !key_id_valid(o->key_id, strnlen(o->key_id, KEY_ID_CAP + 1)))
      return "options: key_id and secret belong together; expected an id of 1 to 64 letters, digits, '.', '_', '-'";
    c->id_length = strlen(o->key_id);
    memcpy(c->id, o->key_id, c->id_length);
    memcpy(c->secret, o->secret, SECRET);
  } else if (text_given) {
    size_t length = strcspn(o->key, ":");
    if (!key_id_valid(o->key, length) || !o->key[length] || !secret_decode(o->key + length + 1, c->secret))
      return "the key is malformed (it is not shown, being a secret): expected ID:SECRET, an id of 1 to 64 letters, digits, "
             "'.', '_', '-', and 43 characters of base64url, as `tensorwire keys new` prints it";
    c->id_length = length;
    memcpy(c->id, o->key, length);
  }
  const char *macs = o->macs ? o->macs : c->id_length ? "aes-256-gmac,hmac-sha256" : "none";
  if (!macs_read(macs, c))
    return "options: macs is malformed: expected names of hmac-sha256, aes-256-gmac and none, separated by commas, each once";
  if (!c->id_length && (c->mac_count > 1 || c->macs[0] != MAC_NONE))
    return "options: macs names a MAC that needs a key, and there is none: give one (key, or TENSORWIRE_KEY)";
  return NULL;
}

/*
 * The tags of one direction, one after the other. HMAC copies two SHA-256 states that have hashed the pads of its key: a tag
 * of 300 bytes costs 260 ns; EVP_MAC costs 370 and two allocations, hence the older functions. GMAC sets the nonce of a cipher whose key
 * stands.
 */
typedef struct mac {
  int kind;
  bool chunk, failed;
  uint64_t counter; /* of the record under way */
  uint8_t head[RECORD_HEAD];
#ifdef TWIRE_CRYPTO
  SHA256_CTX inner, outer, running;
  EVP_CIPHER_CTX *cipher;
#endif
} mac;

/* A record that is one frame of this header, and a chunk by its looks alone: GMAC takes its body as AAD (SPEC 11.6). */
static bool chunk_shaped(const uint8_t *header_, uint32_t n) {
  uint32_t length = load32(header_);
  return header_[4] == 6 /* DATA */ && length == n - HEADER && length >= CHUNK_LEAST && load32(header_ + 24) == 0 &&
         load16(header_ + 28) == 0;
}

#ifdef TWIRE_CRYPTO

/* Two states that have hashed the pads of an HMAC key of at most 64 bytes. */
static void hmac_key(SHA256_CTX *inner, SHA256_CTX *outer, const uint8_t *key, size_t length) {
  uint8_t pad[SHA256_CBLOCK];
  for (int second = 0; second < 2; second++) {
    memset(pad, second ? 0x5c : 0x36, sizeof pad);
    for (size_t i = 0; i < length; i++) pad[i] ^= key[i];
    SHA256_Init(second ? outer : inner);
    SHA256_Update(second ? outer : inner, pad, sizeof pad);
  }
  wipe(pad, sizeof pad);
}

static void hmac_finish(SHA256_CTX *running, const SHA256_CTX *outer, uint8_t out[HASH]) {
  SHA256_Final(out, running);
  *running = *outer;
  SHA256_Update(running, out, HASH);
  SHA256_Final(out, running);
}

static void hmac_sha256(const uint8_t *key, size_t length, const void *data, size_t size, uint8_t out[HASH]) {
  SHA256_CTX inner, outer;
  hmac_key(&inner, &outer, key, length);
  SHA256_Update(&inner, data, size);
  hmac_finish(&inner, &outer, out);
  wipe(&inner, sizeof inner);
  wipe(&outer, sizeof outer);
}

/* key(label) of SPEC 11.3: HKDF-Expand of one block (RFC 5869). */
static void label_key(const uint8_t prk[HASH], const char *label, const uint8_t th[HASH], uint8_t out[HASH]) {
  uint8_t info[64];
  size_t n = (size_t)snprintf((char *)info, sizeof info, "tensorwire 1 %s", label) + 1; /* with its 0x00 */
  memcpy(info + n, th, HASH);
  info[n + HASH] = 1;
  hmac_sha256(prk, HASH, info, n + HASH + 1, out);
}

static bool mac_begin_key(mac *m, int kind, const uint8_t key[HASH]) {
  m->kind = kind;
  if (kind == MAC_HMAC_SHA256) {
    hmac_key(&m->inner, &m->outer, key, HASH);
    return true;
  }
  m->cipher = EVP_CIPHER_CTX_new();
  return m->cipher && EVP_EncryptInit_ex(m->cipher, EVP_aes_256_gcm(), NULL, key, NULL) == 1;
}

static void mac_free(mac *m) {
  EVP_CIPHER_CTX_free(m->cipher); /* clears its key */
  wipe(m, sizeof *m);
}

/* Plaintext of GCM; the ciphertext is thrown away. */
static void gmac_text(mac *m, const uint8_t *p, size_t n) {
  uint8_t scratch[4096];
  int made;
  for (size_t part; n; p += part, n -= part) {
    part = n < sizeof scratch ? n : sizeof scratch;
    m->failed |= EVP_EncryptUpdate(m->cipher, scratch, &made, p, (int)part) != 1;
  }
}

/* A record begins: its n and the header of its first frame. The rest comes by mac_add, in order. */
static void mac_begin(mac *m, const uint8_t head[RECORD_HEAD]) {
  uint8_t block[12 + RECORD_HEAD] = {0};
  store64(block, m->counter);
  m->chunk = chunk_shaped(head + RECORD_PREFIX, load32(head));
  m->failed = false;
  if (m->kind == MAC_HMAC_SHA256) {
    memcpy(block + 8, head, RECORD_HEAD);
    m->running = m->inner;
    SHA256_Update(&m->running, block, 8 + RECORD_HEAD);
    return;
  }
  m->failed = EVP_EncryptInit_ex(m->cipher, NULL, NULL, NULL, block) != 1;
  if (m->chunk) memcpy(m->head, head, RECORD_HEAD); /* AAD comes before the plaintext */
  else gmac_text(m, head, RECORD_HEAD);
}

static void mac_add(mac *m, const void *p, size_t n) {
  int made;
  if (m->kind == MAC_HMAC_SHA256) SHA256_Update(&m->running, p, n);
  else if (!m->chunk) gmac_text(m, p, n);
  else if (n) m->failed |= EVP_EncryptUpdate(m->cipher, NULL, &made, p, (int)n) != 1; /* a chunk: at most 1 MiB */
}

/* The tag of the record that ends here. False: libcrypto failed. */
static bool mac_end(mac *m, uint8_t tag[TAG]) {
  uint8_t digest[HASH];
  int made;
  m->counter++;
  if (m->kind == MAC_HMAC_SHA256) {
    hmac_finish(&m->running, &m->outer, digest);
    memcpy(tag, digest, TAG);
    return true;
  }
  if (m->chunk) gmac_text(m, m->head, RECORD_HEAD);
  m->failed |= EVP_EncryptFinal_ex(m->cipher, digest, &made) != 1;
  m->failed |= EVP_CIPHER_CTX_ctrl(m->cipher, EVP_CTRL_AEAD_GET_TAG, (int)TAG, tag) != 1;
  return !m->failed;
}

/* The record that ends here has this tag. */
static bool mac_right(mac *m, const uint8_t *tag) {
  uint8_t own[TAG];
  return mac_end(m, own) && CRYPTO_memcmp(own, tag, TAG) == 0;
}

#else

static void mac_free(mac *m) { (void)m; }
static void mac_begin(mac *m, const uint8_t head[RECORD_HEAD]) { m->chunk = chunk_shaped(head + RECORD_PREFIX, load32(head)); }
static void mac_add(mac *m, const void *p, size_t n) { (void)m, (void)p, (void)n; }
static bool mac_end(mac *m, uint8_t tag[TAG]) { return (void)m, (void)tag, false; } /* not reached: nothing is signed */
static bool mac_right(mac *m, const uint8_t *tag) { return (void)m, (void)tag, false; }

#endif

/* ------------------------------------------------------------------------------------------------- the core: its state */

enum {
  HELLO = 1,
  WELCOME = 2,
  AUTH = 3,
  READY = 4,
  OPEN = 5,
  DATA = 6,
  END = 7,
  CANCEL = 8,
  PING = 11,
  PONG = 12,
  GOAWAY = 13,
  CLOSE = 15
};
enum { END_STREAM = 1, MORE = 2, WANT_TIMING = 4, NOT_STARTED = 32 };

#define SEGMENTS 1024u      /* of the output ring; a power of two */
#define FRAME_SEGMENTS 300u /* room that is kept for one frame, see set_body */
#define OUTPUT_BYTES 262144u /* what is cut ahead of the socket: a small frame waits behind no more than this */
#define BLOCK 16u           /* slots that are allocated together */
#define FEW 8u              /* pieces of a body that are taken as they come */
#define SMALL_PIECE 512u
#define HEAD (HEADER + EXTENSION_CAP)

/* One piece of the byte stream that is to be written, in order. Frames are cut into the ring as late as can be. */
typedef struct segment {
  const uint8_t *data;
  size_t length;
  void *owned;   /* freed when this is written: a copy made because its owner took the memory back */
  uint32_t slot; /* whose memory it is, + 1; 0 = the core's */
  bool starts_frame, is_open;
  bool is_body; /* of the tensors' memory */
  uint8_t bytes[HEADER + 8]; /* the frame itself, if it is short */
} segment;

typedef enum slot_state {
  SLOT_FREE,
  SLOT_QUEUED,   /* its OPEN is not yet cut: it has no stream id */
  SLOT_OPEN,
  SLOT_CANCELLED /* given up by us; kept until the server's terminal (SPEC 13.5), or until it is ENDING */
} slot_state;

enum { QUEUE_NONE, QUEUE_OPENS, QUEUE_MESSAGES, QUEUE_CHUNKS, QUEUE_CANCELS, QUEUES };

/* One stream, used again by later ones. */
typedef struct slot {
  slot_state state;
  uint32_t index, generation;
  uint64_t stream;
  void *tag;
  uint64_t deadline;
  size_t heap_at; /* 1 + place in the heap of deadlines; 0 = none */
  bool written;   /* a byte of its OPEN went out: it may have started */
  bool replied;

  /* the message that is being sent */
  int queue;              /* which list it waits in */
  struct slot *next;      /* in that list */
  uint32_t out_seq;       /* of the next message */
  bool half_closed, sending;
  uint16_t flags;
  uint8_t priority;
  size_t ext_length, meta_length;
  const uint8_t *metadata; /* NULL = it stands in head, behind the extension */
  struct iovec few[FEW], *body, *many;
  size_t many_room, body_count, body_at, body_skip; /* next piece, and bytes of it that are cut */
  uint8_t *gathered;                               /* small pieces of a body of many, put together */
  size_t gathered_room;
  uint64_t body_left;
  uint32_t segments; /* in the ring */

  /* the message that is being received in chunks */
  uint32_t in_seq;
  bool receiving, in_end_stream;
  uint8_t in_priority;
  uint8_t *in_body; /* NULL = dropped */
  uint64_t in_length, in_filled;
  uint8_t *first; /* extension and metadata of its first frame */
  size_t first_room, first_ext, first_meta;

  /* what the owner is yet to be told: memory that will not be filled, and the end */
  struct slot *next_notice;
  bool notice;
  void *aborted;
  uint64_t aborted_length;
  bool ending, end_not_started;
  int end_status;
  const char *end_text;

  uint8_t head[HEAD];
} slot;

typedef struct slot_list {
  slot *first, *last;
} slot_list;

typedef enum core_state { CORE_WELCOME, CORE_READY, CORE_OPEN, CORE_CLOSED } core_state;

/*
 * Record layer. With MAC none, frames follow each other directly (SPEC 11.1). Signing adds two places and no more: what one
 * cut_frames puts into the ring is closed into records there, and next_record hands on to frames what a tag has vouched for. Bytes
 * of a chunk go straight to their place, hashed as they come, and count once the tag behind them is right.
 */
struct twire_core {
  core_state state;
  bool draining, eof, told_closed, exact;
  uint64_t now, handshake_deadline;
  uint32_t own_chunk, chunk;
  uint64_t own_max_message, max_message, connection_id;
  uint32_t max_streams;
  uint64_t last_stream, goaway_last;
  twire_place place;
  void *place_context;

  slot **blocks;
  size_t block_count, block_room;
  slot_list free_slots, queues[QUEUES], notices;
  size_t used, open; /* slots not free; streams on the wire without terminal */
  uint32_t *table;   /* stream id -> slot index + 1: open addressing */
  size_t table_mask;
  unsigned table_shift;
  slot **heap;
  size_t heap_count, heap_room;

  segment *ring;
  size_t ring_first, ring_count, ring_bytes;
  bool ping_due, pong_due;
  uint8_t ping[8], pong[8];
  uint8_t hello[512];
  size_t hello_length;
  uint8_t close_frame[HEADER + TEXT_CAP];

  uint8_t *buffer;
  size_t buffer_size, start, end;
  slot *chunk_slot; /* whose chunk is being received */
  uint64_t chunk_left;
  bool chunk_more, chunk_end_stream;

  credentials key;              /* wiped once the handshake is done */
  uint8_t auth[HEADER + 4 + PROOF];
  bool sealed;                  /* both directions are records */
  mac out, in;
  size_t record, record_from;   /* being cut: 1 + place of its n in the ring (0 = none), ring_bytes behind that */
  size_t record_left;           /* bytes of whole frames at `start` whose tag was right */
  bool streaming;               /* chunk_slot's chunk is a record whose tag is yet to come */

  uint32_t close_code;
  bool close_remote;
  size_t sweep; /* slots that were told of the end */
  const uint8_t *raw_text;
  size_t raw_text_length;
  char close_text[ESCAPED_TEXT + 256];
  char text[ESCAPED_TEXT];
};

static void list_push(slot_list *list, slot *s) {
  s->next = NULL;
  if (list->last) list->last->next = s;
  else list->first = s;
  list->last = s;
}

static slot *list_pop(slot_list *list) {
  slot *s = list->first;
  if (s && !(list->first = s->next)) list->last = NULL;
  return s;
}

static void list_remove(slot_list *list, slot *s) {
  slot *before = NULL;
  for (slot *i = list->first; i; before = i, i = i->next) {
    if (i != s) continue;
    if (before) before->next = s->next;
    else list->first = s->next;
    if (list->last == s) list->last = before;
    return;
  }
}

static void notify(twire_core *core, slot *s) {
  if (s->notice) return;
  s->notice = true;
  s->next_notice = NULL;
  if (core->notices.last) core->notices.last->next_notice = s;
  else core->notices.first = s;
  core->notices.last = s;
}

/* ------------------------------------------------------------------------------------ slots, ids, deadlines */

static slot *slot_at(const twire_core *core, size_t index) { return &core->blocks[index / BLOCK][index % BLOCK]; }

static size_t hash_of(const twire_core *core, uint64_t stream) {
  return (size_t)(stream * UINT64_C(0x9E3779B97F4A7C15) >> core->table_shift);
}

static slot *find_stream(const twire_core *core, uint64_t stream) {
  for (size_t i = hash_of(core, stream); core->table[i]; i = (i + 1) & core->table_mask) {
    slot *s = slot_at(core, core->table[i] - 1);
    if (s->stream == stream) return s;
  }
  return NULL;
}

static void table_add(twire_core *core, slot *s) {
  size_t i = hash_of(core, s->stream);
  while (core->table[i]) i = (i + 1) & core->table_mask;
  core->table[i] = s->index + 1;
}

/* Remove, and close the gap: later ones of the same run move up to where a search for them begins. */
static void table_remove(twire_core *core, const slot *s) {
  size_t mask = core->table_mask, gap = hash_of(core, s->stream);
  while (core->table[gap] != s->index + 1) gap = (gap + 1) & mask;
  for (size_t i = (gap + 1) & mask; core->table[i]; i = (i + 1) & mask) {
    size_t home = hash_of(core, slot_at(core, core->table[i] - 1)->stream);
    if (((i - home) & mask) < ((i - gap) & mask)) continue;
    core->table[gap] = core->table[i];
    gap = i;
  }
  core->table[gap] = 0;
}

/* A table twice as large; ids of streams under way are put in anew. */
static bool table_grow(twire_core *core) {
  size_t size = core->table ? 2 * (core->table_mask + 1) : 64;
  uint32_t *larger = calloc(size, sizeof *larger);
  if (!larger) return false;
  free(core->table);
  core->table = larger;
  core->table_mask = size - 1;
  core->table_shift = 64;
  while (size > 1) size /= 2, core->table_shift--;
  for (size_t i = 0; i < core->block_count * BLOCK; i++)
    if (slot_at(core, i)->state != SLOT_FREE && slot_at(core, i)->stream) table_add(core, slot_at(core, i));
  return true;
}

/* Sixteen more slots, with room for them in table and heap: so nothing allocates until they are used up. */
static bool slots_grow(twire_core *core) {
  size_t wanted = (core->block_count + 1) * BLOCK;
  if (wanted >= UINT32_MAX / 4) return false;
  if (core->block_count == core->block_room) {
    size_t room = core->block_room ? 2 * core->block_room : 8;
    slot **blocks = realloc(core->blocks, room * sizeof *blocks);
    if (!blocks) return false;
    core->blocks = blocks;
    core->block_room = room;
  }
  if (core->heap_room < wanted) {
    size_t room = wanted * 2;
    slot **heap = realloc(core->heap, room * sizeof(slot *));
    if (!heap) return false;
    core->heap = heap;
    core->heap_room = room;
  }
  if ((!core->table || core->table_mask + 1 < 2 * wanted) && !table_grow(core)) return false;
  slot *block = calloc(BLOCK, sizeof *block);
  if (!block) return false;
  core->blocks[core->block_count] = block;
  for (uint32_t i = 0; i < BLOCK; i++) {
    block[i].index = (uint32_t)(core->block_count * BLOCK) + i;
    block[i].generation = 1;
    list_push(&core->free_slots, &block[i]);
  }
  core->block_count++;
  return true;
}

static twire_handle handle_of(const slot *s) { return (uint64_t)s->generation << 32 | (s->index + 1); }

static slot *slot_of(const twire_core *core, twire_handle handle) {
  uint64_t index = (handle & UINT32_MAX) - 1;
  if ((handle & UINT32_MAX) == 0 || index >= core->block_count * BLOCK) return NULL;
  slot *s = slot_at(core, (size_t)index);
  return s->state != SLOT_FREE && s->generation == handle >> 32 ? s : NULL;
}

static void heap_put(twire_core *core, size_t at, slot *s) {
  core->heap[at] = s;
  s->heap_at = at + 1;
}

static void heap_settle(twire_core *core, size_t at, slot *s) {
  while (at && core->heap[(at - 1) / 2]->deadline > s->deadline) {
    heap_put(core, at, core->heap[(at - 1) / 2]);
    at = (at - 1) / 2;
  }
  for (size_t child; (child = 2 * at + 1) < core->heap_count; at = child) {
    if (child + 1 < core->heap_count && core->heap[child + 1]->deadline < core->heap[child]->deadline) child++;
    if (core->heap[child]->deadline >= s->deadline) break;
    heap_put(core, at, core->heap[child]);
  }
  heap_put(core, at, s);
}

static void heap_remove(twire_core *core, slot *s) {
  if (!s->heap_at) return;
  size_t at = s->heap_at - 1;
  slot *last = core->heap[--core->heap_count];
  s->heap_at = 0;
  if (last != s) heap_settle(core, at, last);
}

static slot *slot_take(twire_core *core) {
  if (!core->free_slots.first && !slots_grow(core)) return NULL;
  slot *s = list_pop(&core->free_slots);
  /* all but identity and the memory that is kept */
  s->stream = s->deadline = s->in_length = s->in_filled = s->body_left = s->aborted_length = 0;
  s->heap_at = 0;
  s->written = s->replied = s->half_closed = s->sending = s->receiving = s->ending = false;
  s->queue = QUEUE_NONE;
  s->notice = false;
  s->out_seq = s->in_seq = s->segments = 0;
  s->in_body = NULL;
  s->aborted = NULL;
  core->used++;
  return s;
}

static void slot_free(twire_core *core, slot *s) {
  s->state = SLOT_FREE;
  s->generation++;
  s->next = core->free_slots.first; /* the warmest first */
  core->free_slots.first = s;
  if (!core->free_slots.last) core->free_slots.last = s;
  core->used--;
}

/* ------------------------------------------------------------------------------------------ the ring of output */

static segment *ring_at(const twire_core *core, size_t i) { return &core->ring[(core->ring_first + i) & (SEGMENTS - 1)]; }

static segment *ring_push(twire_core *core, slot *s, const void *data, size_t length, bool starts_frame) {
  segment *g = ring_at(core, core->ring_count++);
  g->data = data;
  g->length = length;
  g->owned = NULL;
  g->slot = s ? s->index + 1 : 0;
  g->starts_frame = starts_frame;
  g->is_open = g->is_body = false;
  if (s) s->segments++;
  core->ring_bytes += length;
  return g;
}

static void ring_pop(twire_core *core) {
  segment *g = ring_at(core, 0);
  if (g->slot) slot_at(core, g->slot - 1)->segments--;
  free(g->owned);
  core->ring_first = (core->ring_first + 1) & (SEGMENTS - 1);
  core->ring_count--;
}

static void write_header(uint8_t *p, uint32_t length, uint8_t type, uint8_t priority, uint16_t flags, uint64_t stream,
                         uint32_t seq, uint32_t aux, uint32_t meta_length, uint16_t ext_length) {
  store32(p, length);
  p[4] = type;
  p[5] = priority;
  store16(p + 6, flags);
  store64(p + 8, stream);
  store32(p + 16, seq);
  store32(p + 20, aux);
  store32(p + 24, meta_length);
  store16(p + 28, ext_length);
  store16(p + 30, 0);
}

static void push_control(twire_core *core, uint8_t type, uint64_t stream, const uint8_t *payload) {
  segment *g = ring_push(core, NULL, NULL, HEADER + (payload ? 8 : 0), true);
  write_header(g->bytes, payload ? 8 : 0, type, 0, 0, stream, 0, 0, 0, 0);
  if (payload) memcpy(g->bytes + HEADER, payload, 8);
  g->data = g->bytes;
}

/* What becomes of frames that are cut, when their owner takes the slot's memory back. A frame that is begun is finished, and a
 * sealed record goes out whole; of the others: */
typedef enum detach {
  DETACH_KEEP,  /* an OPEN goes out: its id is given (SPEC 8.1) */
  DETACH_DROP,  /* none goes out: the connection ends */
  DETACH_UNREAD /* as KEEP, but the body's memory is not read: it may be gone. OPEN goes without its body, and can only fail */
} detach;

/* What must still be written of a slot is copied, chunks not yet begun are dropped (SPEC 7.7, 8.5). Rare: only when the socket
 * is full. False: no memory for the copy, or a part of the body must go out and may not be read. */
static bool ring_detach(twire_core *core, slot *s, detach how) {
  bool drop = false, bare = false; /* the frame that g is a part of; the first one may be half written */
  for (size_t i = 0; i < core->ring_count && s->segments; i++) {
    segment *g = ring_at(core, i);
    if (g->starts_frame) {
      drop = !core->sealed && (how == DETACH_DROP || !g->is_open);
      bare = !core->sealed && how == DETACH_UNREAD;
    }
    if (g->slot != s->index + 1) continue;
    g->slot = 0;
    s->segments--;
    if (bare && g->is_open) store32(s->head, (uint32_t)(s->ext_length + s->meta_length));
    if (drop || (bare && g->is_body)) {
      core->ring_bytes -= g->length;
      g->length = 0;
    } else if (g->length) {
      if (g->is_body && how == DETACH_UNREAD) return false;
      if (g->is_open) s->written = true; /* it goes out, and its terminal comes */
      if (!(g->owned = malloc(g->length))) return false;
      memcpy(g->owned, g->data, g->length);
      g->data = g->owned;
    }
  }
  return true;
}

static void ring_clear(twire_core *core) {
  while (core->ring_count) ring_pop(core);
  core->ring_bytes = 0;
}

/* -------------------------------------------------------------------------------------- how connections and calls end */

static void enqueue(twire_core *core, slot *s, int queue) {
  s->queue = queue;
  list_push(&core->queues[queue], s);
}

static void dequeue(twire_core *core, slot *s) {
  if (s->queue == QUEUE_NONE) return;
  list_remove(&core->queues[s->queue], s);
  s->queue = QUEUE_NONE;
}

static void core_end(twire_core *core, uint32_t code, bool remote) {
  core->state = CORE_CLOSED;
  core->close_code = code;
  core->close_remote = remote;
  core->chunk_slot = NULL;
  core->ping_due = core->pong_due = false;
}

/* The peer ended it, or we cannot go on: nothing more is written. */
static void core_stop(twire_core *core, uint32_t code, bool remote, const char *text_) {
  if (core->state == CORE_CLOSED) return;
  snprintf(core->close_text, sizeof core->close_text, "%s", text_);
  for (size_t i = 0; i < core->block_count * BLOCK; i++) slot_at(core, i)->segments = 0;
  for (size_t i = 0; i < core->ring_count; i++) ring_at(core, i)->slot = 0;
  ring_clear(core);
  core_end(core, code, remote);
}

static void core_lost(twire_core *core, uint32_t code, const char *text_) { core_stop(core, code, true, text_); }

/* ---- records (SPEC 11.2): frames that are cut between these two are one */

static void record_open(twire_core *core) {
  if (!core->sealed || core->record) return;
  segment *g = ring_push(core, NULL, NULL, RECORD_PREFIX, false);
  g->data = g->bytes;
  core->record = core->ring_count;
  core->record_from = core->ring_bytes;
}

static void record_close(twire_core *core) {
  if (!core->record) return;
  uint8_t head[RECORD_HEAD];
  size_t at = core->record - 1, n = core->ring_bytes - core->record_from;
  segment *prefix = ring_at(core, at), *g = ring_at(core, at + 1);
  core->record = 0;
  if (n == 0) { /* the call that was to be in it had passed its deadline */
    core->ring_count--;
    core->ring_bytes -= RECORD_PREFIX;
    return;
  }
  store32(prefix->bytes, (uint32_t)n);
  memcpy(head, prefix->bytes, RECORD_PREFIX);
  memcpy(head + RECORD_PREFIX, g->data, HEADER); /* a header is one piece */
  mac_begin(&core->out, head);
  mac_add(&core->out, g->data + HEADER, g->length - HEADER);
  for (at += 2; at < core->ring_count; at++) mac_add(&core->out, ring_at(core, at)->data, ring_at(core, at)->length);
  segment *tag = ring_push(core, NULL, NULL, TAG, false);
  tag->data = tag->bytes;
  if (!mac_end(&core->out, tag->bytes)) core_stop(core, TWIRE_CLOSE_INTERNAL, false, "libcrypto could not make a tag");
}

/* Room for a frame of `size` bytes in the record under way, or a new one. */
static void record_room(twire_core *core, uint64_t size) {
  if (core->record && core->ring_bytes - core->record_from + size > RECORD_BATCH) record_close(core);
  record_open(core);
}

/* We end the connection: what was begun is finished, then CLOSE (SPEC 6.12); a foreign server gets no answer (10.4). */
static void core_fail(twire_core *core, uint32_t code, const char *format, ...) {
  va_list arguments;
  if (core->state == CORE_CLOSED) return;
  va_start(arguments, format);
  vsnprintf(core->close_text, sizeof core->close_text, format, arguments);
  va_end(arguments);
  bool kept = true;
  for (size_t i = 0; kept && i < core->block_count * BLOCK; i++) {
    slot *s = slot_at(core, i);
    if (!s->segments) continue;
    kept = ring_detach(core, s, DETACH_DROP);
  }
  if (!kept || code == TWIRE_CLOSE_NOT_TENSORWIRE) ring_clear(core);
  core_end(core, code, false);
  if (!kept || code == TWIRE_CLOSE_NOT_TENSORWIRE) return;
  size_t n = strnlen(core->close_text, TEXT_CAP);
  write_header(core->close_frame, (uint32_t)n, CLOSE, 0, 0, 0, 0, code, (uint32_t)n, 0);
  memcpy(core->close_frame + HEADER, core->close_text, n);
  record_open(core);
  ring_push(core, NULL, core->close_frame, HEADER + n, true);
  record_close(core);
}


/* Nothing of this call's memory is used from here on. What is left of it: the stream until its terminal, if it has one, and
 * what the owner is yet to be told. */
static void slot_give_up(twire_core *core, slot *s, detach how) {
  bool queued = s->state == SLOT_QUEUED;
  dequeue(core, s);
  heap_remove(core, s);
  s->sending = false;
  if (s->in_body) {
    s->aborted = s->in_body;
    s->aborted_length = s->in_length;
    s->in_body = NULL;
    notify(core, s);
  }
  s->state = SLOT_CANCELLED;
  if (queued) return;
  if (s->segments && !ring_detach(core, s, how)) {
    if (how == DETACH_UNREAD)
      core_stop(core, TWIRE_CLOSE_NO_ERROR, false, "a call was dropped within a frame that it was sending");
    else core_fail(core, TWIRE_CLOSE_INTERNAL, "no memory");
    return;
  }
  enqueue(core, s, QUEUE_CANCELS);
}

static void slot_end(twire_core *core, slot *s, int status, bool not_started, const char *text_) {
  slot_give_up(core, s, DETACH_KEEP);
  s->ending = true;
  s->end_status = status;
  s->end_not_started = not_started;
  s->end_text = text_;
  notify(core, s);
}

/* The stream has had its terminal. */
static void slot_finish(twire_core *core, slot *s) {
  dequeue(core, s);
  heap_remove(core, s);
  if (s->segments && !ring_detach(core, s, DETACH_KEEP)) core_fail(core, TWIRE_CLOSE_INTERNAL, "no memory");
  table_remove(core, s);
  core->open--;
  slot_free(core, s);
}

/* ------------------------------------------------------------------------------------------------ sending (SPEC 6.3, 7) */

/* Take over the gather list. Of many pieces the small ones are put together, so that no frame needs more than FRAME_SEGMENTS
 * of the ring; up to FEW are taken as they are. */
static int set_body(slot *s, const struct iovec *body, size_t count) {
  s->body_at = s->body_skip = 0;
  s->body_count = count;
  s->body = s->few;
  if (count <= FEW) {
    copy(s->few, body, count * sizeof *body);
    return TWIRE_OK;
  }
  size_t small = 0, filled = 0, n = 0;
  for (size_t i = 0; i < count; i++) small += body[i].iov_len < SMALL_PIECE ? body[i].iov_len : 0;
  if (s->many_room < count) {
    struct iovec *many = realloc(s->many, count * sizeof *many);
    if (!many) return TWIRE_E_MEMORY;
    s->many = many;
    s->many_room = count;
  }
  if (s->gathered_room < small) {
    uint8_t *gathered = realloc(s->gathered, small);
    if (!gathered) return TWIRE_E_MEMORY;
    s->gathered = gathered;
    s->gathered_room = small;
  }
  for (size_t i = 0; i < count; i++) {
    if (body[i].iov_len >= SMALL_PIECE) {
      s->many[n++] = body[i];
    } else if (body[i].iov_len) {
      memcpy(s->gathered + filled, body[i].iov_base, body[i].iov_len);
      if (n && (uint8_t *)s->many[n - 1].iov_base + s->many[n - 1].iov_len == s->gathered + filled)
        s->many[n - 1].iov_len += body[i].iov_len;
      else
        s->many[n++] = (struct iovec){s->gathered + filled, body[i].iov_len};
      filled += body[i].iov_len;
    }
  }
  s->body = s->many;
  s->body_count = n;
  return TWIRE_OK;
}

/* Its memory is there. */
static bool complete(const twire_message *m) {
  if (!m || (!m->metadata && m->metadata_length) || (!m->dims && m->dim_count) || (!m->body && m->body_count)) return false;
  for (size_t i = 0; i < m->body_count; i++)
    if (!m->body[i].iov_base && m->body[i].iov_len) return false;
  return true;
}

static int set_message(twire_core *core, slot *s, const twire_message *m) {
  uint64_t total = 0;
  for (size_t i = 0; i < m->body_count; i++) {
    if (m->body[i].iov_len > SIZE_CAP - total) return TWIRE_E_ARGUMENT;
    total += m->body[i].iov_len;
  }
  if (total > core->max_message) return TWIRE_RESOURCE_EXHAUSTED;
  bool chunked = total > TWIRE_INLINE_BODY;
  if (m->dim_count > EXTENSION_CAP / 8 || m->metadata_length > METADATA_CAP) return TWIRE_E_ARGUMENT;
  s->ext_length = extension_size(m->dim_count, chunked, m->trace != NULL);
  if (s->ext_length > EXTENSION_CAP) return TWIRE_E_ARGUMENT;
  int status = set_body(s, m->body, m->body_count);
  if (status) return status;
  extension_write(s->head + HEADER, m->dims, m->dim_count, chunked ? total : 0, m->trace);
  s->metadata = m->metadata;
  s->meta_length = m->metadata_length;
  if (s->meta_length <= EXTENSION_CAP - s->ext_length) {
    copy(s->head + HEADER + s->ext_length, m->metadata, s->meta_length);
    s->metadata = NULL;
  }
  s->body_left = total;
  s->flags = m->flags;
  s->priority = m->priority;
  s->sending = true;
  return TWIRE_OK;
}

int twire_core_open(twire_core *core, const twire_message *message, uint64_t deadline, void *tag,
                    twire_handle *handle) {
  if (handle) *handle = 0;
  if (!core || !complete(message)) return TWIRE_E_ARGUMENT;
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (core->state != CORE_OPEN || core->draining) return TWIRE_UNAVAILABLE;
  if (message->flags & ~(END_STREAM | WANT_TIMING)) return TWIRE_E_ARGUMENT;
  slot *s = slot_take(core);
  if (!s) return TWIRE_E_MEMORY;
  int status = set_message(core, s, message);
  if (status) {
    slot_free(core, s);
    return status;
  }
  s->state = SLOT_QUEUED;
  s->tag = tag;
  s->deadline = deadline;
  if (deadline) heap_settle(core, core->heap_count++, s);
  enqueue(core, s, QUEUE_OPENS);
  if (handle) *handle = handle_of(s);
  return TWIRE_OK;
}

int twire_core_send(twire_core *core, twire_handle handle, const twire_message *message) {
  if (!core || !complete(message)) return TWIRE_E_ARGUMENT;
  slot *s = slot_of(core, handle);
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (!s || s->state == SLOT_CANCELLED || s->half_closed || message->flags & ~END_STREAM || message->trace)
    return TWIRE_E_ARGUMENT;
  if (s->sending || s->segments) return TWIRE_E_BUSY;
  int status = set_message(core, s, message);
  if (status == TWIRE_OK) enqueue(core, s, QUEUE_MESSAGES);
  return status;
}

static bool core_cancel(twire_core *core, slot *s, detach how) {
  if (s->state == SLOT_CANCELLED) {
    bool was = s->ending;
    s->ending = false;
    return was;
  }
  slot_give_up(core, s, how);
  if (!s->stream && !s->notice) slot_free(core, s);
  return true;
}

bool twire_core_cancel(twire_core *core, twire_handle handle) {
  slot *s = core && core->state != CORE_CLOSED ? slot_of(core, handle) : NULL;
  return s && core_cancel(core, s, DETACH_KEEP);
}

bool twire_core_forget(twire_core *core, twire_handle handle) {
  slot *s = core ? slot_of(core, handle) : NULL;
  if (!s) return false;
  if (core->state != CORE_CLOSED || s->state == SLOT_CANCELLED) return core_cancel(core, s, DETACH_UNREAD);
  s->state = SLOT_CANCELLED; /* next_outcome passes over it */
  return true;
}

int twire_core_ping(twire_core *core, const uint8_t payload[8]) {
  if (!core || !payload) return TWIRE_E_ARGUMENT;
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (core->state != CORE_OPEN) return TWIRE_UNAVAILABLE;
  if (core->ping_due) return TWIRE_E_BUSY;
  core->ping_due = true;
  memcpy(core->ping, payload, 8);
  return TWIRE_OK;
}

void twire_core_close(twire_core *core, uint32_t code, const char *text_) {
  if (core) core_fail(core, code, "%s", text_ ? text_ : "");
}

/* Pieces of the body into the ring: `amount` bytes, or fewer if `least` are there and they are many. */
static uint64_t push_body(twire_core *core, slot *s, uint64_t amount, uint64_t least) {
  uint64_t taken = 0;
  for (size_t pieces = 0; taken < amount && !(pieces >= FRAME_SEGMENTS / 2 && taken >= least); pieces++) {
    struct iovec *piece = &s->body[s->body_at];
    uint64_t n = piece->iov_len - s->body_skip;
    if (n > amount - taken) n = amount - taken;
    if (n) ring_push(core, s, (uint8_t *)piece->iov_base + s->body_skip, (size_t)n, false)->is_body = true;
    s->body_skip += (size_t)n;
    taken += n;
    if (s->body_skip == piece->iov_len) {
      s->body_at++;
      s->body_skip = 0;
    }
  }
  s->body_left -= taken;
  return taken;
}

static void message_sent(slot *s) {
  s->sending = false;
  s->out_seq++;
  s->half_closed = s->flags & END_STREAM;
}

/* OPEN, or the first frame of a later message. */
static void cut_first(twire_core *core, slot *s) {
  bool is_open = s->stream == 0, chunked = s->body_left > TWIRE_INLINE_BODY;
  uint64_t left = 0;
  if (is_open) {
    if (s->deadline) {
      left = s->deadline > core->now ? (s->deadline - core->now) / 1000 : 0;
      if (s->deadline <= core->now) {
        slot_end(core, s, TWIRE_DEADLINE_EXCEEDED, true, "the deadline passed before the call was sent");
        return;
      }
      if (left == 0) left = 1;
      if (left > UINT32_MAX) left = 0; /* too long for the wire: ours alone (SPEC 13.1) */
    }
    s->stream = ++core->last_stream;
    s->state = SLOT_OPEN;
    core->open++;
    table_add(core, s);
  }
  size_t in_head = HEADER + s->ext_length + (s->metadata ? 0 : s->meta_length);
  uint64_t body = chunked ? 0 : s->body_left;
  write_header(s->head, (uint32_t)(s->ext_length + s->meta_length + body), is_open ? OPEN : DATA, s->priority,
               (uint16_t)(s->flags | (chunked ? MORE : 0)), s->stream, s->out_seq, (uint32_t)left,
               (uint32_t)s->meta_length, (uint16_t)s->ext_length);
  ring_push(core, s, s->head, in_head, true)->is_open = is_open;
  if (s->metadata) ring_push(core, s, s->metadata, s->meta_length, false);
  if (chunked) {
    enqueue(core, s, QUEUE_CHUNKS);
    return;
  }
  push_body(core, s, body, body);
  message_sent(s);
}

/* The next chunk: strictly by priority, streams of one priority in turn (SPEC 7.10). */
static void cut_chunk(twire_core *core) {
  slot *s = core->queues[QUEUE_CHUNKS].first;
  for (slot *i = s; i; i = i->next)
    if (i->priority > s->priority) s = i;
  dequeue(core, s);
  segment *header = ring_push(core, s, NULL, HEADER, true);
  uint64_t taken = push_body(core, s, s->body_left < core->chunk ? s->body_left : core->chunk, CHUNK_LEAST);
  uint16_t flags = s->body_left ? MORE : s->flags & END_STREAM;
  write_header(header->bytes, (uint32_t)taken, DATA, s->priority, flags, s->stream, s->out_seq, 0, 0, 0);
  header->data = header->bytes;
  if (s->body_left) enqueue(core, s, QUEUE_CHUNKS);
  else message_sent(s);
}

/* Cut frames into the ring as far as one write goes: control, then small frames in their order, then chunks. */
static void cut_frames(twire_core *core) {
  slot_list *queues = core->queues;
  while (core->state == CORE_OPEN && core->ring_bytes < OUTPUT_BYTES && SEGMENTS - core->ring_count >= FRAME_SEGMENTS) {
    slot *s;
    if (core->pong_due) {
      core->pong_due = false;
      record_room(core, HEADER + 8);
      push_control(core, PONG, 0, core->pong);
    } else if (core->ping_due) {
      core->ping_due = false;
      record_room(core, HEADER + 8);
      push_control(core, PING, 0, core->ping);
    } else if ((s = queues[QUEUE_CANCELS].first)) {
      dequeue(core, s);
      record_room(core, HEADER);
      push_control(core, CANCEL, s->stream, NULL);
    } else if ((s = queues[QUEUE_MESSAGES].first) ||
               (core->open < core->max_streams && (s = queues[QUEUE_OPENS].first))) {
      dequeue(core, s);
      record_room(core, HEADER + s->ext_length + s->meta_length + (s->body_left > TWIRE_INLINE_BODY ? 0 : s->body_left));
      cut_first(core, s);
    } else if (queues[QUEUE_CHUNKS].first) {
      record_room(core, RECORD_BATCH + 1); /* each chunk is a record of its own */
      cut_chunk(core);
      record_close(core);
    } else {
      break;
    }
  }
  record_close(core);
}

size_t twire_core_output(twire_core *core, struct iovec *buffers, size_t max, uint64_t now) {
  size_t count = 0;
  if (!core || !buffers) return 0;
  core->now = now;
  cut_frames(core);
  for (size_t i = 0; i < core->ring_count && count < max; i++) {
    segment *g = ring_at(core, i);
    if (g->length) buffers[count++] = (struct iovec){(void *)(uintptr_t)g->data, g->length};
  }
  return count;
}

void twire_core_sent(twire_core *core, size_t count) {
  if (!core) return;
  if (count > core->ring_bytes) count = core->ring_bytes;
  core->ring_bytes -= count;
  while (core->ring_count) {
    segment *g = ring_at(core, 0);
    if (g->is_open && count && g->slot) slot_at(core, g->slot - 1)->written = true;
    if (g->length > count) {
      g->data += count;
      g->length -= count;
      if (count) g->starts_frame = g->is_open = false; /* begun: it will be finished */
      return;
    }
    count -= g->length;
    ring_pop(core);
  }
}

bool twire_core_wants_write(const twire_core *core) {
  if (!core) return false;
  if (core->ring_bytes) return true;
  if (core->state != CORE_OPEN) return false;
  return core->pong_due || core->ping_due || core->queues[QUEUE_CANCELS].first || core->queues[QUEUE_MESSAGES].first ||
         core->queues[QUEUE_CHUNKS].first || (core->queues[QUEUE_OPENS].first && core->open < core->max_streams);
}

/* ------------------------------------------------------------------------------------------- handshake (SPEC 9) */

enum {
  ENTRY_VERSIONS = 1,
  ENTRY_DRAFT = 2,
  ENTRY_NONCE = 3,
  ENTRY_FEATURES = 4,
  ENTRY_MAC = 6,
  ENTRY_KEY_ID = 7,
  ENTRY_LIMITS = 8,
  ENTRY_AGENT = 9,
  ENTRY_CONNECTION_ID = 10,
  ENTRY_BOOT_ID = 11,
  ENTRY_PROOF = 13,
  ENTRIES /* one more than the last that is read */
};

static const uint8_t PREFACE[8] = {0x89, 'T', 'W', 'P', '\r', '\n', 0x1a, '\n'};

static uint8_t *put_entry(uint8_t *p, uint16_t type, const void *value, size_t length) {
  store16(p, type);
  store16(p + 2, (uint16_t)length);
  memcpy(p + 4, value, length);
  return p + 4 + length;
}

/* Preface and HELLO, the first output. */
static void push_hello(twire_core *core, const uint8_t nonce[32], const char *agent) {
  uint8_t limits[16], versions[4], draft[4], feature[2], *start = core->hello + sizeof PREFACE, *p = start + HEADER;
  store16(versions, TWIRE_PROTOCOL_VERSION);
  store16(versions + 2, TWIRE_PROTOCOL_VERSION);
  store32(draft, TWIRE_PROTOCOL_DRAFT);
  store16(feature, (uint16_t)((nonce[0] >> 4) * 0x1000 + 0x0a0a)); /* one that is none: servers must ignore it (SPEC 9.5) */
  store32(limits, core->own_chunk);
  store32(limits + 4, 0);
  store64(limits + 8, core->own_max_message);
  p = put_entry(p, ENTRY_VERSIONS, versions, sizeof versions);
  p = put_entry(p, ENTRY_DRAFT, draft, sizeof draft);
  p = put_entry(p, ENTRY_NONCE, nonce, 32);
  p = put_entry(p, ENTRY_FEATURES, feature, sizeof feature);
  p = put_entry(p, ENTRY_MAC, core->key.macs, core->key.mac_count);
  if (core->key.id_length) p = put_entry(p, ENTRY_KEY_ID, core->key.id, core->key.id_length);
  p = put_entry(p, ENTRY_LIMITS, limits, sizeof limits);
  p = put_entry(p, ENTRY_AGENT, agent, strlen(agent));
  uint32_t length = (uint32_t)(p - start) - HEADER;
  memcpy(core->hello, PREFACE, sizeof PREFACE);
  write_header(start, length, HELLO, 0, 0, 0, 0, 0, length, 0);
  core->hello_length = (size_t)(p - core->hello);
  ring_push(core, NULL, core->hello, core->hello_length, true);
}

#ifdef TWIRE_CRYPTO

/* TH of SPEC 11.3, without binding: there is no TLS here. PROOF in the WELCOME frame is zero by now. */
static void transcript(const twire_core *core, const uint8_t *welcome, size_t length, uint8_t th[HASH]) {
  uint8_t size[4];
  SHA256_CTX hash;
  SHA256_Init(&hash);
  SHA256_Update(&hash, PREFACE, sizeof PREFACE);
  store32(size, (uint32_t)(core->hello_length - sizeof PREFACE));
  SHA256_Update(&hash, size, 4);
  SHA256_Update(&hash, core->hello + sizeof PREFACE, core->hello_length - sizeof PREFACE);
  store32(size, (uint32_t)length);
  SHA256_Update(&hash, size, 4);
  SHA256_Update(&hash, welcome, length);
  store32(size, 0);
  SHA256_Update(&hash, size, 4);
  SHA256_Final(th, &hash);
}

/* AUTH with our proof (SPEC 11.4). */
static void make_auth(twire_core *core, const uint8_t prk[HASH], const uint8_t th[HASH]) {
  uint8_t key[HASH], said[HASH + 4 + sizeof core->auth], *entries = core->auth + HEADER;
  static const uint8_t zeros[PROOF];
  write_header(core->auth, 4 + PROOF, AUTH, 0, 0, 0, 0, 0, 4 + PROOF, 0);
  (void)put_entry(entries, ENTRY_PROOF, zeros, PROOF);
  memcpy(said, th, HASH);
  store32(said + HASH, sizeof core->auth);
  memcpy(said + HASH + 4, core->auth, sizeof core->auth);
  label_key(prk, "client proof", th, key);
  hmac_sha256(key, HASH, said, sizeof said, entries + 4);
  wipe(key, sizeof key);
}

/* Check the server's proof, make ours, and the keys of both directions. What is wrong, NULL if nothing is. The secret goes. */
static const char *authenticate(twire_core *core, uint8_t *welcome, size_t length, const uint8_t *server_nonce, uint8_t *proof,
                                int kind) {
  uint8_t nonces[64], th[HASH], prk[HASH], key[HASH], right[HASH], said[PROOF];
  const uint8_t *own_nonce = core->hello + sizeof PREFACE + HEADER + 20; /* behind VERSIONS, DRAFT and NONCE's own head */
  const char *wrong = NULL;
  memcpy(said, proof, PROOF);
  memset(proof, 0, PROOF);
  transcript(core, welcome, length, th);
  memcpy(nonces, own_nonce, 32);
  memcpy(nonces + 32, server_nonce, 32);
  hmac_sha256(nonces, sizeof nonces, core->key.secret, SECRET, prk); /* HKDF-Extract */
  wipe(core->key.secret, SECRET);
  label_key(prk, "server proof", th, key);
  hmac_sha256(key, HASH, th, HASH, right);
  if (CRYPTO_memcmp(right, said, PROOF) != 0) {
    wrong = "the server's proof does not fit this key: unknown key, wrong secret, or a key that is not valid now; "
            "check both with whoever runs the server";
  } else {
    make_auth(core, prk, th);
    if (kind != MAC_NONE) {
      label_key(prk, "server record", th, key);
      if (!mac_begin_key(&core->in, kind, key)) wrong = "libcrypto has no AES-256-GCM, or no memory";
      label_key(prk, "client record", th, key);
      if (!mac_begin_key(&core->out, kind, key)) wrong = "libcrypto has no AES-256-GCM, or no memory";
    }
  }
  wipe(prk, sizeof prk);
  wipe(key, sizeof key);
  wipe(right, sizeof right);
  return wrong;
}

#else

static const char *authenticate(twire_core *core, uint8_t *welcome, size_t length, const uint8_t *server_nonce, uint8_t *proof,
                                int kind) {
  (void)core, (void)welcome, (void)length, (void)server_nonce, (void)proof, (void)kind;
  return "built without libcrypto"; /* not reached: there is no key */
}

#endif

/* Entries of a region by type; false if it is malformed. Unknown types are passed over. */
static bool read_entries(const uint8_t *p, size_t length, const uint8_t *values[ENTRIES], size_t lengths[ENTRIES]) {
  uint32_t last = 0;
  bool any = false;
  for (size_t at = 0; at != length;) {
    if (length - at < 4 || load16(p + at + 2) > length - at - 4) return false;
    uint16_t type = load16(p + at), n = load16(p + at + 2);
    if (any && type <= last) return false;
    any = true;
    last = type;
    if (type < ENTRIES) {
      values[type] = p + at + 4;
      lengths[type] = n;
    }
    at += 4u + n;
  }
  return true;
}

static void on_welcome(twire_core *core, uint8_t *metadata, size_t length) {
  static const uint8_t needed[][2] = {{ENTRY_VERSIONS, 4}, {ENTRY_DRAFT, 4},          {ENTRY_NONCE, 32},
                                      {ENTRY_MAC, 1},      {ENTRY_LIMITS, 16},        {ENTRY_CONNECTION_ID, 8},
                                      {ENTRY_BOOT_ID, 16}};
  const uint8_t *v[ENTRIES] = {NULL};
  size_t n[ENTRIES] = {0};
  if (length == 0 || !read_entries(metadata, length, v, n) || !v[ENTRY_FEATURES] || n[ENTRY_FEATURES] % 2 ||
      (v[ENTRY_AGENT] && (n[ENTRY_AGENT] < 1 || n[ENTRY_AGENT] > 128)) || (v[ENTRY_PROOF] && n[ENTRY_PROOF] != PROOF)) {
    core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: entries are malformed, or FEATURES is missing");
    return;
  }
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    if (v[needed[i][0]] && n[needed[i][0]] == needed[i][1]) continue;
    core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: entry %d is missing, or not %d bytes long", needed[i][0], needed[i][1]);
    return;
  }
  unsigned low = load16(v[ENTRY_VERSIONS]), high = load16(v[ENTRY_VERSIONS] + 2);
  uint32_t draft = load32(v[ENTRY_DRAFT]), chunk = load32(v[ENTRY_LIMITS]);
  core->max_streams = load32(v[ENTRY_LIMITS] + 4);
  core->max_message = load64(v[ENTRY_LIMITS] + 8);
  for (int i = 0; i < 8; i++) core->connection_id = core->connection_id << 8 | v[ENTRY_CONNECTION_ID][i];
  if (low != high)
    core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: versions %u..%u are no choice", low, high);
  else if (low != TWIRE_PROTOCOL_VERSION || draft != TWIRE_PROTOCOL_DRAFT)
    core_fail(core, TWIRE_CLOSE_VERSION, "version: client speaks %d..%d draft %d, server chose %u draft %u",
              TWIRE_PROTOCOL_VERSION, TWIRE_PROTOCOL_VERSION, TWIRE_PROTOCOL_DRAFT, low, draft);
  else if (n[ENTRY_FEATURES])
    core_fail(core, TWIRE_CLOSE_FEATURE, "the server chose feature %u, which was not offered", load16(v[ENTRY_FEATURES]));
  else if (!memchr(core->key.macs, v[ENTRY_MAC][0], core->key.mac_count))
    core_fail(core, TWIRE_CLOSE_MAC, "the server chose MAC %u, which was not offered (0 none, 1 hmac-sha256, 2 aes-256-gmac)",
              v[ENTRY_MAC][0]);
  else if (chunk < CHUNK_LEAST || chunk > CHUNK_MOST || core->max_streams == 0 || core->max_message < TWIRE_INLINE_BODY)
    core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: chunk %u, max_streams %u or max_message %llu is out of its bounds", chunk,
              core->max_streams, (unsigned long long)core->max_message);
  if (core->state == CORE_CLOSED) return;
  core->chunk = chunk < core->own_chunk ? chunk : core->own_chunk;
  if (!core->key.id_length) {
    core->state = CORE_READY;
    push_control(core, AUTH, 0, NULL);
    return;
  }
  int kind = v[ENTRY_MAC][0];
  const char *wrong = "the server gave no proof that it knows our key: it may run without keys, or be none of ours";
  if (v[ENTRY_PROOF])
    wrong = authenticate(core, metadata - HEADER, HEADER + length, v[ENTRY_NONCE], metadata + (v[ENTRY_PROOF] - metadata), kind);
  if (wrong) {
    core_fail(core, TWIRE_CLOSE_AUTHENTICATION, "%s", wrong);
    return;
  }
  core->state = CORE_READY;
  ring_push(core, NULL, core->auth, sizeof core->auth, true);
  core->sealed = kind != MAC_NONE;
}

/* ----------------------------------------------------------------------------------------------- receiving (SPEC 3.2) */

typedef struct header {
  uint32_t length, seq, aux, meta, body;
  uint16_t flags, ext;
  uint8_t type, priority;
  uint64_t stream;
} header;

static bool known_type(uint8_t type) { return (type >= HELLO && type <= CANCEL) || (type >= PING && type <= GOAWAY) || type == CLOSE; }

/* May the server send this type now (SPEC 6.1, 9.1)? */
static bool allowed_now(const twire_core *core, uint8_t type) {
  if (type == CLOSE) return true;
  if (core->state == CORE_WELCOME) return type == WELCOME;
  if (core->state == CORE_READY) return type == READY;
  return type == DATA || type == END || type == PING || type == PONG || type == GOAWAY;
}

static bool is_chunk(const slot *s, const header *h) {
  return s && s->receiving && h->ext == 0 && h->meta == 0 && h->seq == s->in_seq;
}

/* Steps 5 to 7 of SPEC 3.2 for DATA. */
static uint32_t check_data(const twire_core *core, const header *h, const slot *s, bool reserved) {
  bool late = s && s->state == SLOT_CANCELLED, bare = h->ext == 0 && h->meta == 0;
  bool chunk = late ? bare : is_chunk(s, h);
  uint32_t cap = chunk ? core->chunk : TWIRE_INLINE_BODY;
  if (late && cap < TWIRE_INLINE_BODY) cap = TWIRE_INLINE_BODY; /* a chunk or a message: both are dropped */
  if (h->body > cap) return TWIRE_CLOSE_TOO_LARGE;
  if (chunk && !late && h->body == 0) return TWIRE_CLOSE_FRAME;
  if (reserved || h->flags & ~(END_STREAM | MORE) || h->aux) return TWIRE_CLOSE_FRAME;
  if (!s || !s->written) return TWIRE_CLOSE_STREAM;
  if (late) return 0;
  if (!chunk) {
    if (s->receiving || h->seq != s->in_seq) return TWIRE_CLOSE_STREAM;
    return h->flags & MORE && h->body ? TWIRE_CLOSE_FRAME : 0;
  }
  uint64_t left = s->in_length - s->in_filled;
  bool last = h->body == left, more = h->flags & MORE, end = h->flags & END_STREAM;
  if (h->body > left || more == last || end != (last && s->in_end_stream)) return TWIRE_CLOSE_STREAM;
  return !last && h->body < CHUNK_LEAST ? TWIRE_CLOSE_CALM : 0;
}

/* All of SPEC 3.2, in its order; 0 = fine. *s is the stream's slot, if it is under way. */
static uint32_t check_header(const twire_core *core, const uint8_t *p, header *h, slot **s) {
  bool reserved = load16(p + 30);
  *h = (header){load32(p),      load32(p + 16), load32(p + 20), load32(p + 24), 0,
                load16(p + 6),  load16(p + 28), p[4],           p[5],           load64(p + 8)};
  *s = NULL;
  if (!known_type(h->type)) return TWIRE_CLOSE_FRAME;
  if (!allowed_now(core, h->type)) return TWIRE_CLOSE_PROTOCOL;
  bool call = h->type == DATA || h->type == END;
  uint32_t meta_cap = h->type == WELCOME                       ? ENTRIES_CAP
                      : h->type == READY || h->type == DATA    ? METADATA_CAP
                      : h->type == PING || h->type == PONG     ? 0
                                                               : TEXT_CAP;
  if (h->ext > (call ? EXTENSION_CAP : 0) || h->meta > meta_cap) return TWIRE_CLOSE_TOO_LARGE;
  if (h->ext + h->meta > h->length) return TWIRE_CLOSE_FRAME; /* no overflow: both are below their caps */
  h->body = h->length - h->ext - h->meta;
  if (call && h->stream) *s = find_stream(core, h->stream);
  if (h->type == DATA) return check_data(core, h, *s, reserved);
  if (h->body != (h->type == PING || h->type == PONG ? 8 : 0)) return TWIRE_CLOSE_FRAME;
  if (reserved || h->priority || h->seq) return TWIRE_CLOSE_FRAME;
  switch (h->type) {
    case END:
      if (h->flags & ~NOT_STARTED) return TWIRE_CLOSE_FRAME;
      if (!*s || !(*s)->written) return TWIRE_CLOSE_STREAM;
      if (h->aux > TWIRE_UNAUTHENTICATED) return TWIRE_CLOSE_FRAME; /* SPEC 6.5, after all of 3.2 */
      return h->flags && (h->aux == 0 || (*s)->replied) ? TWIRE_CLOSE_FRAME : 0;
    case GOAWAY:
      if (h->flags) return TWIRE_CLOSE_FRAME;
      return h->stream > core->goaway_last ? TWIRE_CLOSE_STREAM : 0;
    case CLOSE: return h->flags || h->stream ? TWIRE_CLOSE_FRAME : 0;
    default: return h->flags || h->stream || h->aux ? TWIRE_CLOSE_FRAME : 0;
  }
}

static void event_stream(twire_event *ev, twire_event_type type, const slot *s) {
  ev->type = type;
  ev->handle = handle_of(s);
  ev->tag = s->tag;
  ev->stream = s->stream;
}

static bool event_aborted(twire_event *ev, slot *s, void *body, uint64_t length) {
  event_stream(ev, TWIRE_EVENT_ABORTED, s);
  ev->body = body;
  ev->body_length = length;
  ev->placed = true;
  return true;
}

static void event_text(twire_core *core, twire_event *ev, const uint8_t *p, size_t length) {
  escape(core->text, sizeof core->text, p, length);
  ev->text = core->text;
  ev->raw_text = p;
  ev->raw_text_length = length;
}

/* The items of a DATA or END are well-formed and belong there (SPEC 4.3, 4.4, 7.2). */
static bool check_items(twire_core *core, const header *h, const uint8_t *ext, uint64_t *body_length) {
  uint32_t items = extension_items(ext, h->ext, body_length), allowed = 0;
  bool more = h->flags & MORE;
  *body_length = items & ITEM(ITEM_BODY_LENGTH) ? *body_length : 0;
  if (h->type == END) allowed = ITEM(ITEM_TIMING) | ITEM(ITEM_RETRY) | ITEM(ITEM_QUEUE);
  else allowed = ITEM(ITEM_DIMS) | (more ? ITEM(ITEM_BODY_LENGTH) : 0) | (h->flags & END_STREAM ? ITEM(ITEM_TIMING) : 0);
  if (items & ~allowed || (h->type == DATA && more != (*body_length > TWIRE_INLINE_BODY))) {
    core_fail(core, TWIRE_CLOSE_EXTENSION, "stream %llu: its extension is malformed, or holds an item that does not belong there",
              (unsigned long long)h->stream);
    return false;
  }
  return true;
}

static bool keep_first(slot *s, const header *h, const uint8_t *ext) {
  size_t length = h->ext + h->meta;
  if (s->first_room < length) {
    uint8_t *first = realloc(s->first, length);
    if (!first) return false;
    s->first = first;
    s->first_room = length;
  }
  copy(s->first, ext, length);
  s->first_ext = h->ext;
  s->first_meta = h->meta;
  return true;
}

/* The first frame of a large message: memory for its body, or no (SPEC 7.9). */
static void begin_large(twire_core *core, slot *s, const header *h, const uint8_t *ext, uint64_t body_length) {
  twire_incoming incoming = {handle_of(s), s->tag, s->stream, ext, ext + h->ext, h->ext, h->meta, body_length};
  s->receiving = true;
  s->in_end_stream = h->flags & END_STREAM;
  s->in_priority = h->priority;
  s->in_length = body_length;
  s->in_filled = 0;
  core->exact = true;
  if (body_length > core->own_max_message || body_length > SIZE_MAX / 2)
    slot_end(core, s, TWIRE_RESOURCE_EXHAUSTED, false, "the reply is larger than max_message allows: raise it in twire_options");
  else if (!keep_first(s, h, ext) || !core->place || !(s->in_body = core->place(core->place_context, &incoming)))
    slot_end(core, s, TWIRE_RESOURCE_EXHAUSTED, false, "there is no memory for the reply's body");
}

/* A whole message. False: it was the first frame of a large one, or late. */
static bool on_data(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev) {
  uint64_t body_length = 0;
  if (!check_items(core, h, ext, &body_length)) return false;
  bool final = h->flags & END_STREAM && !(h->flags & MORE);
  if (s->state == SLOT_CANCELLED) {
    if (final) slot_finish(core, s);
    return false;
  }
  s->replied = true;
  if (h->flags & MORE) {
    begin_large(core, s, h, ext, body_length);
    return false;
  }
  event_stream(ev, TWIRE_EVENT_MESSAGE, s);
  ev->end_stream = final;
  ev->seq = s->in_seq++;
  ev->priority = h->priority;
  ev->extension = ext;
  ev->extension_length = h->ext;
  ev->metadata = ext + h->ext;
  ev->metadata_length = h->meta;
  ev->body = ext + h->ext + h->meta;
  ev->body_length = h->body;
  core->exact = false;
  if (final) slot_finish(core, s);
  return true;
}

/* The chunk under way has come to its end: is the message whole? */
static bool on_chunk_end(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  core->chunk_slot = NULL;
  if (s->state == SLOT_CANCELLED) {
    if (!core->chunk_more && core->chunk_end_stream) slot_finish(core, s);
    return false;
  }
  if (s->in_filled < s->in_length) return false;
  event_stream(ev, TWIRE_EVENT_MESSAGE, s);
  ev->end_stream = s->in_end_stream;
  ev->placed = true;
  ev->seq = s->in_seq++;
  ev->priority = s->in_priority;
  ev->extension = s->first;
  ev->extension_length = s->first_ext;
  ev->metadata = s->first ? s->first + s->first_ext : NULL;
  ev->metadata_length = s->first_meta;
  ev->body = s->in_body;
  ev->body_length = s->in_length;
  s->in_body = NULL;
  s->receiving = false;
  if (s->in_end_stream) slot_finish(core, s);
  return true;
}

static bool on_end(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev) {
  uint64_t ignored;
  if (!check_items(core, h, ext, &ignored)) return false;
  bool told = s->state == SLOT_CANCELLED;
  if (!told) {
    event_stream(ev, TWIRE_EVENT_ENDED, s);
    ev->status = (int)h->aux;
    ev->not_started = h->flags & NOT_STARTED;
    ev->remote = true;
    ev->extension = ext;
    ev->extension_length = h->ext;
    event_text(core, ev, ext + h->ext, h->meta);
  }
  slot_finish(core, s);
  return !told;
}

static bool on_goaway(twire_core *core, const header *h, const uint8_t *text_, twire_event *ev) {
  core->draining = true;
  core->goaway_last = h->stream;
  for (slot *s; (s = core->queues[QUEUE_OPENS].first);)
    slot_end(core, s, TWIRE_UNAVAILABLE, true, "the server drains and takes no new calls on this connection: connect anew");
  ev->type = TWIRE_EVENT_GOAWAY;
  ev->stream = h->stream;
  ev->code = h->aux;
  event_text(core, ev, text_, h->meta);
  return true;
}

static bool on_control(twire_core *core, const header *h, uint8_t *p, twire_event *ev) {
  switch (h->type) {
    case WELCOME: on_welcome(core, p, h->meta); return false;
    case READY:
      if (!ready_valid(p, h->meta)) {
        core_fail(core, TWIRE_CLOSE_HANDSHAKE, "READY: no map of msgpack with a principal");
        return false;
      }
      core->state = CORE_OPEN;
      ev->type = TWIRE_EVENT_READY;
      ev->metadata = p;
      ev->metadata_length = h->meta;
      return true;
    case PING:
      core->pong_due = true; /* one answer for all that came since the last (SPEC 15.3) */
      memcpy(core->pong, p, 8);
      return false;
    case PONG:
      ev->type = TWIRE_EVENT_PONG;
      ev->body = p;
      ev->body_length = 8;
      return true;
    case GOAWAY: return on_goaway(core, h, p, ev);
    default: /* CLOSE */
      escape(core->text, sizeof core->text, p, h->meta);
      core_lost(core, h->aux, core->text);
      core->raw_text = p;
      core->raw_text_length = h->meta;
      return false;
  }
}

/* SPEC 10.4: the first bytes from a server that is none of ours. */
static bool foreign(const uint8_t *p, size_t length) {
  if (length >= 3 && p[0] >= 0x14 && p[0] <= 0x17 && p[1] == 3 && p[2] >= 1 && p[2] <= 4) return true;
  return length >= 5 && !known_type(p[4]);
}

static void fail_foreign(twire_core *core, const uint8_t *p, size_t length) {
  char shown[4 * 48 + 1];
  const char *guess = "";
  if (length >= 4 && memcmp(p, "HTTP", 4) == 0) guess = ": this port speaks HTTP (tensorwire's admin port does, 7412 by default)";
  else if (length >= 3 && p[0] == 0x16) guess = ": this port speaks TLS";
  else if (length >= 3 && memcmp(p, "SSH", 3) == 0) guess = ": this port speaks SSH";
  escape(shown, sizeof shown, p, length < 48 ? length : 48);
  if (length) core_fail(core, TWIRE_CLOSE_NOT_TENSORWIRE, "not a tensorwire server: its first bytes are '%s'%s", shown, guess);
  else core_fail(core, TWIRE_CLOSE_NOT_TENSORWIRE, "the server closed the connection without a word: is it a tensorwire server?");
}

typedef enum progress { WAIT, GO_ON, GIVE } progress;

/* Bytes of the buffer that may be read as frames; and some of them have been. */
static size_t readable(const twire_core *core) { return core->sealed ? core->record_left : core->end - core->start; }

static void consume(twire_core *core, size_t n) {
  core->start += n;
  if (!core->sealed || n == 0) return;
  core->record_left -= n;
  if (core->record_left == 0) core->start += TAG;
}

static progress wrong_tag(twire_core *core) {
  core_fail(core, TWIRE_CLOSE_AUTHENTICATION,
            "a record's tag is wrong: its bytes were changed, lost, repeated or put in another order on their way");
  return GO_ON;
}

/* A record whose one frame is a chunk that is due: the one look before the tag (SPEC 21). Its body need not wait for it. */
static bool begin_streaming(twire_core *core, const uint8_t *p, uint32_t n) {
  header h;
  slot *s;
  if (!chunk_shaped(p + RECORD_PREFIX, n) || check_header(core, p + RECORD_PREFIX, &h, &s)) return false;
  if (s->state != SLOT_CANCELLED && !s->receiving) return false;
  mac_begin(&core->in, p);
  core->start += RECORD_HEAD;
  core->streaming = true;
  core->chunk_slot = s;
  core->chunk_left = h.body;
  core->chunk_more = h.flags & MORE;
  core->chunk_end_stream = h.flags & END_STREAM;
  return true;
}

/* The next record: its frames may be read once its tag has passed (SPEC 11.2). */
static progress next_record(twire_core *core) {
  const uint8_t *p = core->buffer + core->start;
  size_t have = core->end - core->start;
  if (have < RECORD_PREFIX) return WAIT;
  uint32_t n = load32(p), most = HEADER + core->chunk > FRAME_MOST ? HEADER + core->chunk : FRAME_MOST;
  if (n < HEADER || n > most) {
    core_fail(core, n < HEADER ? TWIRE_CLOSE_FRAME : TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes; expected %u to %u", n, HEADER,
              most);
    return GO_ON;
  }
  if (have < RECORD_HEAD) return WAIT;
  if (have < RECORD_PREFIX + n + TAG) {
    if (begin_streaming(core, p, n)) return GO_ON;
    if (n <= FRAME_MOST) return WAIT;
    core_fail(core, TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes that is no chunk; expected %u at most", n, FRAME_MOST);
    return GO_ON;
  }
  mac_begin(&core->in, p);
  mac_add(&core->in, p + RECORD_HEAD, n - HEADER);
  if (!mac_right(&core->in, p + RECORD_PREFIX + n)) return wrong_tag(core);
  if (n > RECORD_BATCH && load32(p + RECORD_PREFIX) != n - HEADER) {
    core_fail(core, TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes of several frames; expected %u at most", n, RECORD_BATCH);
    return GO_ON;
  }
  core->start += RECORD_PREFIX;
  core->record_left = n;
  return GO_ON;
}

/* The chunk that is a record: the bytes of it that lie in the buffer, and the tag at its end. */
static progress next_streamed(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  const uint8_t *p = core->buffer + core->start;
  size_t have = core->end - core->start;
  size_t n = have < core->chunk_left ? have : (size_t)core->chunk_left;
  mac_add(&core->in, p, n);
  if (s->in_body) {
    copy(s->in_body + s->in_filled, p, n);
    s->in_filled += n;
  }
  core->start += n;
  core->chunk_left -= n;
  if (core->chunk_left || core->end - core->start < TAG) return WAIT;
  core->streaming = false;
  if (!mac_right(&core->in, core->buffer + core->start)) return wrong_tag(core);
  core->start += TAG;
  return on_chunk_end(core, ev) ? GIVE : GO_ON;
}

/* The next frame of the buffer, or what is there of it. */
static progress next_frame(twire_core *core, twire_event *ev) {
  uint8_t *p = core->buffer + core->start;
  size_t have = readable(core);
  header h;
  slot *s;
  if (core->state == CORE_WELCOME && foreign(p, have)) {
    fail_foreign(core, p, have);
    return GO_ON;
  }
  if (have < HEADER && !core->sealed) return WAIT;
  uint32_t wrong = have < HEADER ? TWIRE_CLOSE_FRAME : check_header(core, p, &h, &s);
  if (wrong && have >= HEADER) {
    core_fail(core, wrong, "a frame of type %u on stream %llu breaks the protocol: %s", h.type, (unsigned long long)h.stream,
              twire_close_name(wrong));
    return GO_ON;
  }
  if (wrong || (core->sealed && have - HEADER < h.length)) {
    core_fail(core, TWIRE_CLOSE_FRAME, "a frame does not end where its record ends");
    return GO_ON;
  }
  bool bare = h.type == DATA && h.ext == 0 && h.meta == 0;
  if (bare && (s->state == SLOT_CANCELLED || s->receiving)) {
    consume(core, HEADER);
    core->chunk_slot = s;
    core->chunk_left = h.body;
    core->chunk_more = h.flags & MORE;
    core->chunk_end_stream = h.flags & END_STREAM;
    return GO_ON;
  }
  if (have - HEADER < h.length) return WAIT;
  if (h.type == END && s->in_body) { /* tell of the memory first; this frame is read again after that */
    event_aborted(ev, s, s->in_body, s->in_length);
    s->in_body = NULL;
    return GIVE;
  }
  consume(core, HEADER + h.length);
  p += HEADER;
  if (h.type == DATA) return on_data(core, &h, s, p, ev) ? GIVE : GO_ON;
  if (h.type == END) return on_end(core, &h, s, p, ev) ? GIVE : GO_ON;
  return on_control(core, &h, p, ev) ? GIVE : GO_ON;
}

/* Bytes of the chunk that came together with other frames: these few are copied once. */
static progress next_chunk(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  size_t have = readable(core);
  size_t n = have < core->chunk_left ? have : (size_t)core->chunk_left;
  if (s->in_body) {
    copy(s->in_body + s->in_filled, core->buffer + core->start, n);
    s->in_filled += n;
  }
  consume(core, n);
  core->chunk_left -= n;
  if (core->chunk_left) return WAIT;
  return on_chunk_end(core, ev) ? GIVE : GO_ON;
}

/* What slot_give_up and slot_end have left to tell. */
static bool next_notice(twire_core *core, twire_event *ev) {
  slot *s = core->notices.first;
  if (s->aborted) {
    event_aborted(ev, s, s->aborted, s->aborted_length);
    s->aborted = NULL;
    return true;
  }
  if (!(core->notices.first = s->next_notice)) core->notices.last = NULL;
  s->notice = false;
  bool told = s->ending;
  if (told) {
    event_stream(ev, TWIRE_EVENT_ENDED, s);
    ev->status = s->end_status;
    ev->not_started = s->end_not_started;
    ev->text = s->end_text;
    s->ending = false;
  }
  if (!s->stream) slot_free(core, s);
  return told;
}

/* After the end: each call's own outcome (SPEC 13.6, 15.5), then CLOSED. */
static bool next_outcome(twire_core *core, twire_event *ev) {
  for (; core->sweep < core->block_count * BLOCK; core->sweep++) {
    slot *s = slot_at(core, core->sweep);
    if (s->state == SLOT_FREE) continue;
    if (s->in_body) {
      event_aborted(ev, s, s->in_body, s->in_length);
      s->in_body = NULL;
      return true;
    }
    bool tell = s->state != SLOT_CANCELLED;
    if (tell) {
      event_stream(ev, TWIRE_EVENT_ENDED, s);
      ev->not_started = !s->written || s->stream > core->goaway_last;
      ev->status = ev->not_started ? TWIRE_UNAVAILABLE : TWIRE_E_LOST;
      ev->text = core->close_text;
    }
    slot_free(core, s);
    if (tell) return true;
  }
  if (core->told_closed) return false;
  core->told_closed = true;
  ev->type = TWIRE_EVENT_CLOSED;
  ev->code = core->close_code;
  ev->remote = core->close_remote;
  ev->text = core->close_text;
  ev->raw_text = core->raw_text;
  ev->raw_text_length = core->raw_text_length;
  return true;
}

static void on_eof(twire_core *core) {
  if (core->state == CORE_WELCOME) fail_foreign(core, core->buffer + core->start, core->end - core->start);
  else if (core->start != core->end || core->chunk_slot)
    core_lost(core, TWIRE_CLOSE_NO_ERROR, "the connection was cut within a frame");
  else core_lost(core, TWIRE_CLOSE_NO_ERROR, "the server's connection ended without CLOSE");
}

bool twire_core_poll_event(twire_core *core, twire_event *ev) {
  if (!ev) return false;
  memset(ev, 0, sizeof *ev);
  if (!core) return false;
  for (;;) {
    if (core->notices.first) {
      if (next_notice(core, ev)) return true;
      continue;
    }
    if (core->state == CORE_CLOSED) return next_outcome(core, ev);
    progress made;
    if (core->chunk_slot) made = core->streaming ? next_streamed(core, ev) : next_chunk(core, ev);
    else made = core->sealed && !core->record_left ? next_record(core) : next_frame(core, ev);
    if (made == GIVE) return true;
    if (made == GO_ON) continue;
    if (!core->eof) return false;
    on_eof(core);
  }
}

int twire_core_next_buffers(twire_core *core, struct iovec buffers[2]) {
  int count = 0;
  if (!core || !buffers) return 0;
  size_t wanted = SIZE_MAX, needed, have, head = core->sealed ? RECORD_HEAD : HEADER;
  if (core->start == core->end) core->start = core->end = 0;
  have = core->end - core->start;
  needed = head + (core->streaming ? TAG : 0);
  if (core->chunk_slot && core->chunk_slot->in_body && core->chunk_left) {
    buffers[count++] = (struct iovec){core->chunk_slot->in_body + core->chunk_slot->in_filled, (size_t)core->chunk_left};
    wanted = needed; /* up to the next frame's header, so that a further chunk begins in its place */
  } else {
    if (have >= head && !core->chunk_slot) /* both checked */
      needed = (core->sealed ? RECORD_PREFIX + TAG : HEADER) + load32(core->buffer + core->start);
    if (core->exact && (!core->chunk_slot || core->chunk_left == 0)) wanted = needed - have;
    if (core->start && (core->buffer_size - core->start < needed || core->buffer_size - core->end < core->buffer_size / 4)) {
      memmove(core->buffer, core->buffer + core->start, have);
      core->start = 0;
      core->end = have;
    }
  }
  size_t room = core->buffer_size - core->end;
  buffers[count++] = (struct iovec){core->buffer + core->end, wanted < room ? wanted : room};
  return count;
}

void twire_core_next_buffer(twire_core *core, void **pointer, size_t *length) {
  struct iovec buffers[2] = {{0}};
  (void)twire_core_next_buffers(core, buffers);
  if (pointer) *pointer = buffers[0].iov_base;
  if (length) *length = buffers[0].iov_len;
}

void twire_core_received(twire_core *core, size_t count, uint64_t now) {
  if (!core) return;
  slot *s = core->chunk_slot;
  core->now = now;
  if (core->state == CORE_CLOSED) return;
  if (s && s->in_body) {
    size_t n = count < core->chunk_left ? count : (size_t)core->chunk_left;
    if (core->streaming) mac_add(&core->in, s->in_body + s->in_filled, n);
    s->in_filled += n;
    core->chunk_left -= n;
    count -= n;
  }
  core->end += count < core->buffer_size - core->end ? count : core->buffer_size - core->end;
}

void twire_core_eof(twire_core *core) {
  if (core) core->eof = true;
}

uint64_t twire_core_next_deadline(const twire_core *core) {
  if (!core || core->state == CORE_CLOSED) return 0;
  if (core->state != CORE_OPEN) return core->handshake_deadline;
  return core->heap_count ? core->heap[0]->deadline : 0;
}

void twire_core_timer(twire_core *core, uint64_t now) {
  if (!core) return;
  core->now = now;
  if (core->state == CORE_CLOSED) return;
  if (core->state != CORE_OPEN && core->handshake_deadline && core->handshake_deadline <= now)
    core_fail(core, TWIRE_CLOSE_TIMEOUT, "the handshake was not done in time");
  while (core->heap_count && core->heap[0]->deadline <= now) {
    slot *s = core->heap[0];
    slot_end(core, s, TWIRE_DEADLINE_EXCEEDED, s->stream == 0,
             s->stream ? "the deadline passed before the reply came" : "the deadline passed before the call was sent");
  }
}

/* A duration that went below 0 before it became unsigned. UINT64_MAX is "as long as it takes". */
static bool negative(uint64_t duration) { return duration > INT64_MAX && duration != UINT64_MAX; }

/* The time that is a duration from now; 0 = never. */
static uint64_t time_after(uint64_t duration) {
  uint64_t now = twire_now();
  return duration > UINT64_MAX - now ? 0 : now + duration;
}

static int check_options(const twire_options *o) {
  if (o->agent && (strlen(o->agent) < 1 || strlen(o->agent) > 128))
    return say(TWIRE_E_ARGUMENT, "options: agent has %zu bytes; expected 1 to 128", strlen(o->agent));
  if (o->chunk && (o->chunk < CHUNK_LEAST || o->chunk > CHUNK_MOST))
    return say(TWIRE_E_ARGUMENT, "options: chunk is %u; expected 16384 to 1048576", o->chunk);
  if (o->max_message && o->max_message < TWIRE_INLINE_BODY)
    return say(TWIRE_E_ARGUMENT, "options: max_message is %llu; expected at least 65536", (unsigned long long)o->max_message);
  if (negative(o->timeout) || negative(o->connect_timeout) || o->spin > INT64_MAX)
    return say(TWIRE_E_ARGUMENT, "options: timeout, connect_timeout or spin is above 2^63 ns: is it a difference below 0?");
  if (!o->allocator.allocate != !o->allocator.release)
    return say(TWIRE_E_ARGUMENT, "options: an allocator needs both functions, allocate and release");
  credentials key;
  const char *wrong = credentials_read(o, &key);
  wipe(&key, sizeof key);
  return wrong ? say(TWIRE_E_ARGUMENT, "%s", wrong) : TWIRE_OK;
}

static uint64_t or_default(uint64_t value, uint64_t otherwise) { return value ? value : otherwise; }

twire_core *twire_core_new(const twire_core_config *config) {
  static const twire_options none;
  *connect_error = 0;
  if (!config) {
    (void)say(TWIRE_E_ARGUMENT, "config is NULL");
    return NULL;
  }
  const twire_options *o = config->options ? config->options : &none;
  const char *agent = o->agent ? o->agent : "twire-c/" TWIRE_VERSION;
  uint64_t chunk = or_default(o->chunk, CHUNK_DEFAULT), max_message = or_default(o->max_message, UINT64_C(1) << 40);
  if (check_options(o)) return NULL;
  twire_core *core = calloc(1, sizeof *core);
  if (!core) return NULL;
  (void)credentials_read(o, &core->key); /* checked */
  core->own_chunk = core->chunk = (uint32_t)chunk;
  core->own_max_message = max_message;
  core->buffer_size = o->receive_buffer > RECEIVE_LEAST ? o->receive_buffer : RECEIVE_LEAST;
  core->goaway_last = NO_STREAM;
  core->place = config->place;
  core->place_context = config->place_context;
  core->now = config->now;
  core->handshake_deadline = config->handshake_deadline;
  core->ring = calloc(SEGMENTS, sizeof *core->ring);
  core->buffer = malloc(core->buffer_size);
  if (!core->ring || !core->buffer || !slots_grow(core)) {
    twire_core_free(core);
    return NULL;
  }
  push_hello(core, config->nonce, agent);
  return core;
}

void twire_core_free(twire_core *core) {
  if (!core) return;
  for (size_t i = 0; core->ring && i < core->ring_count; i++) free(ring_at(core, i)->owned);
  for (size_t i = 0; i < core->block_count; i++) {
    for (size_t j = 0; j < BLOCK; j++) {
      free(core->blocks[i][j].many);
      free(core->blocks[i][j].gathered);
      free(core->blocks[i][j].first);
    }
    free(core->blocks[i]);
  }
  free(core->blocks);
  free(core->table);
  free(core->heap);
  free(core->ring);
  free(core->buffer);
  mac_free(&core->in);
  mac_free(&core->out);
  wipe(&core->key, sizeof core->key);
  free(core);
}

bool twire_core_ready(const twire_core *core) { return core && core->state == CORE_OPEN && !core->draining; }
size_t twire_core_open_streams(const twire_core *core) { return core ? core->used : 0; }
uint64_t twire_core_connection_id(const twire_core *core) { return core ? core->connection_id : 0; }

const char *twire_request_id(uint64_t connection_id, uint64_t stream, char text_[TWIRE_REQUEST_ID]) {
  if (!text_) return "";
  snprintf(text_, TWIRE_REQUEST_ID, "%016llx-%llu", (unsigned long long)connection_id, (unsigned long long)stream);
  return text_;
}

/* ------------------------------------------------------------------------------------------------------------- replies */

enum { REPLY_IDLE, REPLY_SUBMITTED, REPLY_DONE };

struct twire_reply {
  void *user;
  int state, status;
  bool not_started, has_timing, answered;
  twire_timing timing;
  uint32_t retry_after_us, queue_estimate_us;
  uint64_t connection_id, stream;

  twire_layout *layout;
  twire_tensor *tensors;
  size_t tensor_room, tensor_count;
  void *body;
  uint64_t body_length;
  void *own, *given; /* memory of the allocator; memory of the caller */
  size_t own_size, given_size;
  twire_allocator allocator; /* that `own` is from */

  /* under way */
  twire_client *client;
  twire_call *call;
  twire_handle handle;
  struct twire_reply *next;
  int refused; /* why `place` gave no memory */

  size_t text_room;
  char *text_, none[1];
};

static void *default_allocate(void *context, size_t size) {
  (void)context;
  return size > SIZE_MAX - ALIGNMENT ? NULL : aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
}

static void default_release(void *context, void *memory, size_t size) {
  (void)context;
  (void)size;
  free(memory);
}

twire_reply *twire_reply_new(void) {
  twire_reply *reply = calloc(1, sizeof *reply);
  if (reply) reply->text_ = reply->none;
  return reply;
}

static void reply_release(twire_reply *reply) {
  if (reply->own) reply->allocator.release(reply->allocator.context, reply->own, reply->own_size);
  reply->own = NULL;
  reply->own_size = 0;
}

void twire_reply_set_user(twire_reply *reply, void *user) {
  if (reply) reply->user = user;
}
void *twire_reply_user(const twire_reply *reply) { return reply ? reply->user : NULL; }
int twire_reply_status(const twire_reply *reply) { return reply ? reply->status : TWIRE_E_ARGUMENT; }
bool twire_reply_not_started(const twire_reply *reply) { return !reply || reply->not_started; }
const char *twire_reply_text(const twire_reply *reply) { return reply ? reply->text_ : "E_ARGUMENT: there is no reply"; }
const twire_tensor *twire_reply_tensors(const twire_reply *reply) { return reply ? reply->tensors : NULL; }
size_t twire_reply_tensor_count(const twire_reply *reply) { return reply ? reply->tensor_count : 0; }
uint32_t twire_reply_retry_after_us(const twire_reply *reply) { return reply ? reply->retry_after_us : 0; }
uint32_t twire_reply_queue_estimate_us(const twire_reply *reply) { return reply ? reply->queue_estimate_us : 0; }

const twire_tensor *twire_reply_tensor(const twire_reply *reply, const char *name) {
  size_t n = name ? strlen(name) : 0;
  for (size_t i = 0; name && i < twire_reply_tensor_count(reply); i++)
    if (same(reply->tensors[i].name, reply->tensors[i].name_length, name, n)) return &reply->tensors[i];
  return NULL;
}

const char *twire_reply_model(const twire_reply *reply) {
  return reply && reply->status == TWIRE_OK && reply->layout ? reply->layout->model : "";
}

const char *twire_reply_version(const twire_reply *reply) {
  return reply && reply->status == TWIRE_OK && reply->layout ? reply->layout->version : "";
}

const void *twire_reply_body(const twire_reply *reply, uint64_t *length) {
  if (length) *length = reply ? reply->body_length : 0;
  return reply ? reply->body : NULL;
}

bool twire_reply_timing(const twire_reply *reply, twire_timing *timing) {
  if (!reply || !reply->has_timing) return false;
  if (timing) *timing = reply->timing;
  return true;
}

const char *twire_reply_request_id(const twire_reply *reply, char text_[TWIRE_REQUEST_ID]) {
  if (!text_) return "";
  text_[0] = 0;
  return reply && reply->stream ? twire_request_id(reply->connection_id, reply->stream, text_) : text_;
}

static void reply_reset(twire_reply *reply) {
  reply->status = TWIRE_OK;
  reply->not_started = reply->has_timing = reply->answered = false;
  reply->retry_after_us = reply->queue_estimate_us = 0;
  reply->connection_id = reply->stream = 0;
  reply->tensor_count = 0;
  reply->body = NULL;
  reply->body_length = 0;
  reply->refused = TWIRE_OK;
  reply->text_[0] = 0;
}

/* The outcome is an error: "NOT_FOUND: model 'x': no such model (request 5f0c1d2e3b4a5968-17)". */
static void reply_fail(twire_reply *reply, int status, bool not_started, const char *detail) {
  char id[TWIRE_REQUEST_ID];
  reply->status = status;
  reply->not_started = not_started;
  reply->tensor_count = 0;
  reply->body = NULL;
  reply->body_length = 0;
  twire_reply_request_id(reply, id);
  if (*id && strstr(detail, id)) *id = 0; /* the server's own words name it already */
  size_t room = strlen(detail) + 128;
  if (reply->text_room < room) {
    char *text_ = malloc(room);
    if (!text_) {
      reply->text_[0] = 0;
      return;
    }
    if (reply->text_ != reply->none) free(reply->text_);
    reply->text_ = text_;
    reply->text_room = room;
  }
  snprintf(reply->text_, reply->text_room, "%s%s%s%s%s%s%s", twire_strerror(status), *detail ? ": " : "", detail,
           not_started ? " (not started: safe to retry)" : "", *id ? " (request " : "", id, *id ? ")" : "");
}

/* Memory for a body: the caller's, or the reply's own, which grows and stays. */
static void *reply_room(twire_reply *reply, const twire_allocator *allocator, size_t size) {
  if (reply->given) return size <= reply->given_size ? reply->given : NULL;
  if (size <= reply->own_size) return reply->own;
  reply_release(reply);
  reply->allocator = *allocator;
  reply->own = allocator->allocate(allocator->context, size);
  reply->own_size = reply->own ? size : 0;
  return reply->own;
}

/* The layout that goes with these metadata bytes: the call's last one, as nearly always, or read anew (SPEC 5.3). */
static int reply_layout(twire_reply *reply, const uint8_t *metadata, size_t length, const char **reason) {
  twire_layout *known = reply->call->answers;
  if (!known || !same(known->metadata, known->metadata_length, metadata, length)) {
    int status = twire_layout_read(metadata, length, &known, reason);
    if (status) return status;
    twire_layout_free(reply->call->answers);
    reply->call->answers = known;
  }
  if (reply->layout != known) {
    twire_layout_free(reply->layout);
    reply->layout = known;
    known->references++;
  }
  if (reply->tensor_room >= known->tensor_count && reply->tensors) return TWIRE_OK;
  free(reply->tensors);
  reply->tensor_room = 0;
  reply->tensors = calloc(known->tensor_count + 1, sizeof *reply->tensors);
  if (!reply->tensors) return TWIRE_E_MEMORY;
  reply->tensor_room = known->tensor_count;
  return TWIRE_OK;
}

/* -------------------------------------------------------------------------------------------- the client on a socket */

#define DRAIN_AFTER 1000000u      /* ns without a read, after which what has arrived is read before a send (SPEC 15.4) */
#define PORT "7411"
#define KEY_VARIABLE "TENSORWIRE_KEY"
#define WRITE_BUFFERS 512
#define WRITE_BYTES 4194304u /* in one turn: then the clock, and what has arrived, have theirs */
#define STREAMS "the model answers with a stream of messages: use twire_core for it"

struct twire_client {
  int fd;
  twire_core *core;
  twire_allocator allocator;
  uint64_t timeout, spin, last_read;
  uint64_t receive_timeout; /* SO_RCVTIMEO as it stands, 0 = none */
  size_t in_flight;         /* submitted, not yet handed out */
  twire_reply *done, *done_last;
  bool ready, closed;
  uint32_t close_code;
  bool close_remote;
  char error[ESCAPED_TEXT + 512];
};

static void reply_done(twire_client *client, twire_reply *reply) {
  twire_call_free(reply->call);
  reply->call = NULL;
  reply->state = REPLY_DONE;
  reply->next = NULL;
  if (client->done_last) client->done_last->next = reply;
  else client->done = reply;
  client->done_last = reply;
}

/* It is its owner's again. */
static void reply_hand_back(twire_client *client, twire_reply *reply) {
  reply->state = REPLY_IDLE;
  reply->client = NULL;
  client->in_flight--;
}

static twire_reply *take_done(twire_client *client) {
  twire_reply *reply = client->done;
  if (!reply) return NULL;
  if (!(client->done = reply->next)) client->done_last = NULL;
  reply_hand_back(client, reply);
  return reply;
}

/* This one of those that are done. */
static void take_this(twire_client *client, twire_reply *reply) {
  twire_reply *before = NULL;
  for (twire_reply *i = client->done; i != reply; i = i->next) before = i;
  if (before) before->next = reply->next;
  else client->done = reply->next;
  if (client->done_last == reply) client->done_last = before;
  reply_hand_back(client, reply);
}

/* A large reply is about to come: its layout must ask for exactly this length before there is memory for it. */
static void *client_place(void *context, const twire_incoming *incoming) {
  twire_client *client = context;
  twire_reply *reply = incoming->tag;
  twire_extension x;
  const char *reason = "no memory";
  uint64_t length = 0;
  reply->stream = incoming->stream;
  if (reply->answered) {
    reply->refused = TWIRE_UNIMPLEMENTED;
    reply_fail(reply, reply->refused, false, STREAMS);
    return NULL;
  }
  (void)twire_extension_read(incoming->extension, incoming->extension_length, &x); /* the core has checked it */
  reply->refused = reply_layout(reply, incoming->metadata, incoming->metadata_length, &reason);
  if (!reply->refused) reply->refused = twire_layout_length(reply->layout, x.dims, x.dim_count, &length, &reason);
  if (!reply->refused && length != incoming->body_length) {
    reason = "the body is longer or shorter than its tensors";
    reply->refused = TWIRE_INVALID_ARGUMENT;
  }
  if (reply->refused) {
    reply_fail(reply, reply->refused, false, reason);
    return NULL;
  }
  void *memory = reply_room(reply, &client->allocator, (size_t)length);
  if (!memory) {
    char text_[128];
    reply->refused = TWIRE_RESOURCE_EXHAUSTED;
    snprintf(text_, sizeof text_, "the reply has %llu bytes: %s", (unsigned long long)length,
             reply->given ? "more than twire_reply_memory gave" : "there is no memory for it");
    reply_fail(reply, TWIRE_RESOURCE_EXHAUSTED, false, text_);
  }
  return memory;
}

/* A message of the server has come whole. Its views are made, or reply says why not. */
static void take_message(twire_client *client, twire_reply *reply, const twire_event *ev) {
  twire_extension x;
  const char *reason = "no memory";
  reply->stream = ev->stream;
  (void)twire_extension_read(ev->extension, ev->extension_length, &x);
  int status = reply_layout(reply, ev->metadata, ev->metadata_length, &reason);
  if (status) {
    reply_fail(reply, status, false, reason);
    return;
  }
  void *body = (void *)(uintptr_t)ev->body;
  if (!ev->placed) {
    body = reply_room(reply, &client->allocator, ev->body_length ? (size_t)ev->body_length : 1);
    if (!body) {
      reply_fail(reply, TWIRE_RESOURCE_EXHAUSTED, false,
                 reply->given ? "the reply is larger than twire_reply_memory allows" : "there is no memory for the reply");
      return;
    }
    copy(body, ev->body, (size_t)ev->body_length); /* the one copy: out of the receive buffer */
  }
  status = twire_layout_views(reply->layout, x.dims, x.dim_count, body, ev->body_length, reply->tensors, &reason);
  if (status) {
    reply_fail(reply, status, false, reason);
    return;
  }
  reply->answered = true;
  reply->tensor_count = reply->layout->tensor_count;
  reply->body = body;
  reply->body_length = ev->body_length;
  if (x.has_timing) {
    reply->has_timing = true;
    reply->timing = x.timing;
  }
}

/* A message of a unary call: the last, or one that END OK will follow (SPEC 6.5). */
static void on_message(twire_client *client, const twire_event *ev) {
  twire_reply *reply = ev->tag;
  if (reply->answered) {
    reply_fail(reply, TWIRE_UNIMPLEMENTED, false, STREAMS);
    reply->answered = false;
  } else {
    take_message(client, reply, ev);
  }
  if (!ev->end_stream) {
    if (reply->status == TWIRE_OK) return; /* END follows */
    twire_core_cancel(client->core, ev->handle);
  }
  reply_done(client, reply);
}

static void on_ended(twire_client *client, const twire_event *ev) {
  twire_reply *reply = ev->tag;
  twire_extension x;
  reply->stream = ev->stream;
  if (ev->extension_length && twire_extension_read(ev->extension, ev->extension_length, &x)) {
    reply->has_timing = x.has_timing;
    if (x.has_timing) reply->timing = x.timing;
    if (x.has_retry_after) reply->retry_after_us = x.retry_after_us;
    if (x.has_queue_estimate) reply->queue_estimate_us = x.queue_estimate_us;
  }
  if (reply->refused) { /* client_place has said why */
  } else if (ev->status == TWIRE_E_LOST) {
    char text_[ESCAPED_TEXT + 64];
    snprintf(text_, sizeof text_, "%s: the call may or may not have run", *ev->text ? ev->text : "the connection was closed");
    reply_fail(reply, ev->status, false, text_);
  } else if (ev->status != TWIRE_OK) {
    reply_fail(reply, ev->status, ev->not_started, ev->text ? ev->text : "");
  } else if (!reply->answered) {
    reply_fail(reply, TWIRE_INTERNAL, false, "the server ended the call with OK, but sent no reply");
  }
  reply_done(client, reply);
}

static void handle_events(twire_client *client) {
  twire_event ev;
  while (twire_core_poll_event(client->core, &ev)) {
    switch (ev.type) {
      case TWIRE_EVENT_MESSAGE: on_message(client, &ev); break;
      case TWIRE_EVENT_ENDED: on_ended(client, &ev); break;
      case TWIRE_EVENT_READY: client->ready = true; break;
      case TWIRE_EVENT_GOAWAY:
        snprintf(client->error, sizeof client->error, "the server drains (%s)%s%s", twire_close_name(ev.code),
                 *ev.text ? ": " : "", ev.text);
        break;
      case TWIRE_EVENT_CLOSED:
        client->closed = true;
        client->close_code = ev.code;
        client->close_remote = ev.remote;
        snprintf(client->error, sizeof client->error, "%s%s%s", ev.code ? twire_close_name(ev.code) : "", ev.code ? ": " : "",
                 ev.text);
        break;
      default: break;
    }
  }
}

/* Read once. 1: something came; 0: nothing now (flags has MSG_DONTWAIT, or SO_RCVTIMEO passed); events are handled. */
static int read_once(twire_client *client, int flags) {
  struct iovec buffers[2];
  struct msghdr message = {0};
  message.msg_iov = buffers;
  message.msg_iovlen = (size_t)twire_core_next_buffers(client->core, buffers);
  ssize_t n = message.msg_iovlen == 1 ? recv(client->fd, buffers[0].iov_base, buffers[0].iov_len, flags)
                                      : recvmsg(client->fd, &message, flags);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  if (n > 0) {
    client->last_read = twire_now();
    twire_core_received(client->core, (size_t)n, client->last_read);
  } else {
    twire_core_eof(client->core);
  }
  handle_events(client);
  return 1;
}

/* Write what the socket takes, up to WRITE_BYTES. True: nothing is left to write. */
static bool write_some(twire_client *client) {
  struct iovec buffers[WRITE_BUFFERS];
  uint64_t now = twire_now();
  size_t written = 0;
  while (twire_core_wants_write(client->core)) {
    if (written >= WRITE_BYTES) return false;
    struct msghdr message = {0};
    message.msg_iov = buffers;
    message.msg_iovlen = twire_core_output(client->core, buffers, WRITE_BUFFERS, now);
    if (message.msg_iovlen == 0) break; /* all that was queued had passed its deadline */
    ssize_t n = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      while (!client->closed && read_once(client, MSG_DONTWAIT) == 1) continue; /* its last words may say why */
      if (!client->closed) twire_core_eof(client->core);
      handle_events(client);
      return true;
    }
    twire_core_sent(client->core, (size_t)n);
    written += (size_t)n;
  }
  return true;
}

/* Sleep until the socket is readable (or writable, if there is something to write), or until `until` (0 = for ever). */
static void wait_socket(twire_client *client, uint64_t until, bool write) {
  struct pollfd p = {client->fd, (short)(write ? POLLIN | POLLOUT : POLLIN), 0};
  struct timespec t, *limit = NULL;
  if (until) {
    uint64_t now = twire_now(), left = until > now ? until - now : 0;
    t = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    limit = &t;
  }
  (void)ppoll(&p, 1, limit, NULL);
}

/*
 * Read, sleeping inside recv where it can be done: one system call, not two. SO_RCVTIMEO is coarse (a tick of the kernel), so
 * it is only used for the first three quarters of a wait, and stands as long as waits are alike; ppoll does the rest.
 */
static void read_waiting(twire_client *client, uint64_t until) {
  uint64_t now = 0;
  if (client->spin || until) now = twire_now();
  for (uint64_t end = now + client->spin; client->spin && now < end && !(until && now >= until); now = twire_now())
    if (read_once(client, MSG_DONTWAIT)) return;
  uint64_t left = until > now ? until - now : 0, margin = 20000000u;
  if (until && left < 2 * margin) {
    wait_socket(client, until, false);
    (void)read_once(client, MSG_DONTWAIT);
    return;
  }
  uint64_t stands = client->receive_timeout;
  if (until && (stands == 0 || stands > left - margin || stands < left / 4)) {
    stands = left / 4 * 3 < left - margin ? left / 4 * 3 : left - margin;
    struct timeval t = {(time_t)(stands / 1000000000u), (suseconds_t)(stands % 1000000000u / 1000)};
    if (setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0) client->receive_timeout = stands;
  }
  (void)read_once(client, 0);
}

/* What arrived while nobody read, GOAWAY and CLOSE among it, is seen before anything is sent (SPEC 15.4). */
static void drain_before_write(twire_client *client) {
  if (!client->closed && twire_core_wants_write(client->core) && twire_now() - client->last_read > DRAIN_AFTER)
    (void)read_once(client, MSG_DONTWAIT);
}

/* End calls whose deadline has passed. False: there were none. */
static bool expire(twire_client *client) {
  uint64_t deadline = twire_core_next_deadline(client->core), now;
  if (!deadline || (now = twire_now()) < deadline) return false;
  twire_core_timer(client->core, now);
  handle_events(client);
  return true;
}

/* Of a call that is not over something is yet to be written. */
static bool sends(const twire_core *core) {
  for (size_t i = 0; i < core->block_count * BLOCK; i++) {
    const slot *s = slot_at(core, i);
    if (s->state == SLOT_QUEUED || (s->state == SLOT_OPEN && (s->sending || s->segments))) return true;
  }
  return false;
}

/* Once: write what can be written, then read, waiting up to `until`. What is done shows in client->done. */
static void turn(twire_client *client, uint64_t until) {
  uint64_t deadline = twire_core_next_deadline(client->core);
  if (deadline && (!until || deadline < until)) until = deadline;
  drain_before_write(client);
  if (client->done) return;
  bool written = write_some(client);
  handle_events(client); /* calls whose deadline passed in the queue */
  if (client->closed || client->done) return;
  if (written) {
    read_waiting(client, until);
  } else {
    wait_socket(client, until, true);
    (void)read_once(client, MSG_DONTWAIT);
  }
  if (!client->done) (void)expire(client);
}

int twire_flush(twire_client *client) {
  if (!client) return TWIRE_E_ARGUMENT;
  int status = TWIRE_OK;
  drain_before_write(client);
  while (!status && !client->closed && !write_some(client)) {
    if (!sends(client->core)) {
      status = TWIRE_E_AGAIN;
      break;
    }
    wait_socket(client, twire_core_next_deadline(client->core), true);
    (void)read_once(client, MSG_DONTWAIT);
    if (expire(client)) status = TWIRE_DEADLINE_EXCEEDED;
  }
  handle_events(client);
  return client->closed ? TWIRE_E_CLOSED : status;
}

int twire_step(twire_client *client) {
  if (!client) return TWIRE_E_ARGUMENT;
  drain_before_write(client);
  if (!client->closed) (void)write_some(client);
  handle_events(client); /* calls whose deadline passed in the queue */
  if (!client->closed) (void)read_once(client, MSG_DONTWAIT);
  (void)expire(client);
  return client->closed ? TWIRE_E_CLOSED : TWIRE_OK;
}

bool twire_wants_write(const twire_client *client) {
  return client && !client->closed && twire_core_wants_write(client->core);
}

uint64_t twire_next_deadline(const twire_client *client) {
  if (!client) return 0;
  return client->done ? 1 : twire_core_next_deadline(client->core);
}

int twire_submit(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                 twire_reply *reply) {
  static const twire_call_options none;
  char text_[512];
  size_t iovecs;
  if (!options) options = &none;
  if (!reply) return TWIRE_E_ARGUMENT;
  if (reply->state != REPLY_IDLE) return TWIRE_E_BUSY;
  reply_reset(reply);
  if (!client || !call || (!inputs && call->input_count)) {
    reply_fail(reply, TWIRE_E_ARGUMENT, true, !client ? "there is no client" : !call ? "there is no call" : "there are no inputs");
    return TWIRE_E_ARGUMENT;
  }
  int status = call_gather(call, inputs, &iovecs, text_, sizeof text_);
  if (status) {
    reply_fail(reply, status, true, text_);
    return status;
  }
  uint64_t timeout = options->timeout ? options->timeout : client->timeout;
  uint64_t deadline = timeout == 0 ? 0 : time_after(negative(timeout) ? 0 : timeout);
  twire_message message = {call->metadata,
                           call->metadata_length,
                           call->dims,
                           call->dim_count,
                           options->trace,
                           call->body,
                           iovecs,
                           (uint16_t)(END_STREAM | (options->want_timing ? WANT_TIMING : 0)),
                           options->priority};
  status = twire_core_open(client->core, &message, deadline, reply, &reply->handle);
  if (status) {
    reply_fail(reply, status, true,
               status == TWIRE_RESOURCE_EXHAUSTED ? "the inputs are larger than the server's max_message"
               : *client->error                   ? client->error
                                                  : "the connection takes no calls");
    return status;
  }
  reply->connection_id = twire_core_connection_id(client->core);
  reply->client = client;
  reply->call = call;
  call->references++;
  reply->state = REPLY_SUBMITTED;
  client->in_flight++;
  return TWIRE_OK;
}

int twire_poll(twire_client *client, uint64_t timeout, twire_reply **reply) {
  if (reply) *reply = NULL;
  if (!client || !reply) return TWIRE_E_ARGUMENT;
  if (negative(timeout)) timeout = 0;
  uint64_t until = timeout && timeout != UINT64_MAX ? time_after(timeout) : 0;
  while (!(*reply = take_done(client))) {
    if (timeout == 0) {
      (void)twire_step(client);
      *reply = take_done(client);
      return *reply ? TWIRE_OK : TWIRE_E_AGAIN;
    }
    if (client->in_flight == 0 || client->closed) return TWIRE_E_AGAIN;
    if (until && twire_now() >= until) return TWIRE_E_AGAIN;
    turn(client, until);
  }
  return TWIRE_OK;
}

int twire_infer(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                twire_reply *reply) {
  int status = twire_submit(client, call, inputs, options, reply);
  if (status) return status;
  while (reply->state == REPLY_SUBMITTED) {
    twire_reply *others = client->done, *last = client->done_last;
    client->done = client->done_last = NULL; /* so that `turn` waits for news */
    turn(client, 0);
    if (others) {
      last->next = client->done;
      if (!client->done) client->done_last = last;
      client->done = others;
    }
  }
  take_this(client, reply);
  return reply->status;
}

void twire_cancel(twire_client *client, twire_reply *reply) {
  if (!client || !reply || reply->state != REPLY_SUBMITTED || reply->client != client) return;
  if (twire_core_cancel(client->core, reply->handle)) {
    reply_fail(reply, TWIRE_CANCELLED, false, "cancelled by the caller");
    reply_done(client, reply);
  } else {
    handle_events(client); /* the connection has just ended, and this call with it */
  }
}

/* The client knows this reply no more, nor does it read the tensors of its call: they may have gone before it. */
static void reply_forget(twire_reply *reply) {
  twire_client *client = reply->client;
  if (reply->state == REPLY_DONE) take_this(client, reply);
  if (reply->state == REPLY_IDLE) return;
  (void)twire_core_forget(client->core, reply->handle);
  twire_call_free(reply->call);
  reply->call = NULL;
  reply_hand_back(client, reply);
  handle_events(client); /* it may have cost the connection */
}

void twire_reply_free(twire_reply *reply) {
  if (!reply) return;
  reply_forget(reply);
  reply_release(reply);
  twire_layout_free(reply->layout);
  free(reply->tensors);
  if (reply->text_ != reply->none) free(reply->text_);
  free(reply);
}

void twire_reply_memory(twire_reply *reply, void *memory, size_t size) {
  if (!reply) return;
  if (reply->state == REPLY_SUBMITTED) twire_cancel(reply->client, reply);
  if (reply->state == REPLY_DONE && reply->given && reply->body == reply->given)
    reply_fail(reply, TWIRE_CANCELLED, false, "its memory was taken back before it was handed out");
  reply->given = memory;
  reply->given_size = memory ? size : 0;
}

size_t twire_in_flight(const twire_client *client) { return client ? client->in_flight : 0; }
int twire_fd(const twire_client *client) { return client ? client->fd : -1; }
bool twire_alive(const twire_client *client) { return client && !client->closed && twire_core_ready(client->core); }
const char *twire_error(const twire_client *client) { return client ? client->error : "there is no client"; }
uint64_t twire_connection_id(const twire_client *client) { return client ? twire_core_connection_id(client->core) : 0; }

/* ---------------------------------------------------------------------------------------------- connecting (SPEC 19.6) */

#define ADDRESSES 16u             /* of one name, under way at once */
#define NEXT_ADDRESS 250000000u   /* ns that one address has before the next is tried too (RFC 8305, 5) */

/* A socket whose connect is under way or done, or -1 and errno. */
static int begin_connect(const struct sockaddr *address, socklen_t size) {
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;
  if (fd < 0 || connect(fd, address, size) == 0 || errno == EINPROGRESS || errno == EINTR) return fd;
  error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* 0, or why it is not connected. */
static int finish_connect(int fd) {
  int error = 0, one = 1, lowat = (int)OUTPUT_BYTES;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)) return errno;
  if (!error && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0) error = errno; /* recv sleeps; writes say DONTWAIT */
  if (error) return error;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* refused by a Unix socket, which needs none of it */
  (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat); /* little unsent in the kernel (SPEC 7.10) */
  return 0;
}

/* Sleep until one of the connects under way is done, or until `wake`; 0 = never. */
static void wait_connects(struct pollfd *tries, size_t count, uint64_t wake) {
  uint64_t now = twire_now(), left = wake > now ? (wake - now + 999999) / 1000000 : 0;
  for (size_t i = 0; i < count; i++) tries[i].revents = 0; /* poll leaves them as they are when it fails */
  (void)poll(tries, (nfds_t)count, !wake ? -1 : left > INT_MAX ? INT_MAX : (int)left);
}

/* The first address that answers: the next is tried beside the last once that has failed or been silent for a while. A connected
 * socket, or -1 and errno. */
static int open_socket(const struct addrinfo *next, uint64_t until) {
  struct pollfd tries[ADDRESSES];
  size_t count = 0;
  uint64_t due = 0; /* when the next one is tried */
  int error = ETIMEDOUT, fd = -1;
  while (fd < 0 && (count || next)) {
    uint64_t now = twire_now(), wake = until;
    if (until && now >= until) {
      error = ETIMEDOUT;
      break;
    }
    if (next && count < ADDRESSES && (now >= due || count == 0)) {
      int begun = begin_connect(next->ai_addr, next->ai_addrlen);
      if (begun < 0) error = errno;
      else tries[count++] = (struct pollfd){begun, POLLOUT, 0}, due = now + NEXT_ADDRESS;
      next = next->ai_next;
      continue;
    }
    if (next && count < ADDRESSES && (!wake || due < wake)) wake = due;
    wait_connects(tries, count, wake);
    for (size_t i = 0; i < count && fd < 0;) {
      if (!tries[i].revents && ++i) continue;
      int wrong = finish_connect(tries[i].fd);
      if (wrong) close(tries[i].fd), error = wrong, due = 0;
      else fd = tries[i].fd;
      tries[i] = tries[--count];
    }
  }
  while (count) close(tries[--count].fd);
  errno = error;
  return fd;
}

static int dial_unix(const char *url, const char *path, uint64_t until, int *fd) {
  struct sockaddr_un address = {0};
  address.sun_family = AF_UNIX;
  if (*path != '/' || strlen(path) >= sizeof address.sun_path)
    return say(TWIRE_E_ADDRESS, "'%s': expected tw+unix:///path, with a path of at most %zu bytes", url,
               sizeof address.sun_path - 1);
  memcpy(address.sun_path, path, strlen(path));
  const struct addrinfo only = {.ai_addr = (struct sockaddr *)&address, .ai_addrlen = sizeof address};
  *fd = open_socket(&only, until);
  return *fd >= 0 ? TWIRE_OK : say(TWIRE_E_SYSTEM, "cannot connect to %s: %s. Does the server run?", url, strerror(errno));
}

/* "host", "host:port", "[v6]:port" into host and port. */
static bool split_address(const char *text_, char host[256], char port[6]) {
  const char *end = text_ + strlen(text_), *colon = strrchr(text_, ':'), *from = text_, *to;
  if (end > text_ && end[-1] == '/') end--; /* tw://host:port/ */
  if (*text_ == '[') {
    from = text_ + 1;
    to = strchr(text_, ']');
    if (!to || (to + 1 != end && to[1] != ':')) return false;
    colon = to + 1 == end ? NULL : to + 1;
  } else {
    to = colon ? colon : end;
  }
  snprintf(port, 6, "%s", PORT);
  if (colon) {
    size_t n = (size_t)(end - colon - 1);
    if (n < 1 || n > 5 || strspn(colon + 1, "0123456789") < n) return false;
    snprintf(port, 6, "%.*s", (int)n, colon + 1);
    if (atoi(port) < 1 || atoi(port) > 65535) return false;
  }
  size_t length = (size_t)(to - from);
  if (length < 1 || length > 255 || memchr(from, '/', length)) return false;
  memcpy(host, from, length);
  host[length] = 0;
  return true;
}

static int dial_tcp(const char *url, const char *rest, uint64_t until, int *fd) {
  char host[256], port[6];
  struct addrinfo hints = {0}, *found = NULL;
  if (!split_address(rest, host, port)) return say(TWIRE_E_ADDRESS, "'%s': expected tw://host:port, port 1 to 65535", url);
  hints.ai_socktype = SOCK_STREAM;
  int error = getaddrinfo(host, port, &hints, &found);
  if (error) return say(TWIRE_E_ADDRESS, "'%s': %s", url, gai_strerror(error));
  *fd = open_socket(found, until);
  error = errno;
  freeaddrinfo(found);
  return *fd >= 0 ? TWIRE_OK : say(TWIRE_E_SYSTEM, "cannot connect to %s: %s. Does the server run?", url, strerror(error));
}

static int dial(const char *url, uint64_t until, int *fd) {
  const char *host = strstr(url, "://");
  if (host && memchr(host + 3, '@', strcspn(host + 3, "/"))) /* what stands before it may be a secret */
    return say(TWIRE_E_ADDRESS, "the address has an '@': expected tw://host:port; a key is given by twire_options.key, or %s",
               KEY_VARIABLE);
  if (strncmp(url, "tw+unix://", 10) == 0) return dial_unix(url, url + 10, until, fd);
  if (strncmp(url, "tw://", 5) == 0) return dial_tcp(url, url + 5, until, fd);
  return say(TWIRE_E_ADDRESS, "'%s': expected tw://host:port or tw+unix:///path", url);
}

/* The handshake has failed: what to tell the caller. */
static int handshake_error(const twire_client *client, const char *url) {
  int code = TWIRE_E_PROTOCOL;
  if (client->close_code == TWIRE_CLOSE_AUTHENTICATION) code = TWIRE_E_AUTH;
  else if (client->close_remote) code = client->close_code ? TWIRE_E_REFUSED : TWIRE_E_LOST;
  else if (client->close_code == TWIRE_CLOSE_TIMEOUT) code = TWIRE_DEADLINE_EXCEEDED;
  return say(code, "%s: %s", url, client->error);
}

int twire_connect(const char *url, const twire_options *options, twire_client **client) {
  static const twire_options none;
  twire_core_config config = {0};
  *connect_error = 0;
  if (client) *client = NULL;
  if (!url || !client) return say(TWIRE_E_ARGUMENT, "%s is NULL", url ? "client" : "url");
  twire_options own = options ? *options : none;
  options = &own;
  if (!own.key && !own.key_id && !own.secret) own.key = getenv(KEY_VARIABLE);
  int status = check_options(options);
  if (status) return status;
  uint64_t until = time_after(or_default(options->connect_timeout, UINT64_C(5000000000)));
  twire_client *made = calloc(1, sizeof *made);
  if (!made) return say(TWIRE_E_MEMORY, "no memory");
  made->fd = -1;
  made->timeout = options->timeout;
  made->spin = options->spin;
  made->allocator = options->allocator;
  if (!made->allocator.allocate) made->allocator = (twire_allocator){default_allocate, default_release, NULL};
  config.options = options;
  config.place = client_place;
  config.place_context = made;
  config.now = made->last_read = twire_now();
  config.handshake_deadline = until;
  if (!twire_random(config.nonce, sizeof config.nonce)) status = say(TWIRE_E_SYSTEM, "getrandom: %s", strerror(errno));
  else if (!(made->core = twire_core_new(&config))) status = say(TWIRE_E_MEMORY, "no memory");
  else status = dial(url, until, &made->fd);
  while (!status && !made->ready && !made->closed) turn(made, until);
  if (!status && made->closed) status = handshake_error(made, url);
  if (status) {
    twire_close(made);
    return status;
  }
  *client = made;
  return TWIRE_OK;
}

void twire_close(twire_client *client) {
  if (!client) return;
  if (client->core && !client->closed) {
    /* behind a frame that is half written no CLOSE can go; the rest of it is of tensors that may be gone by now */
    if (client->core->ring_bytes) core_stop(client->core, TWIRE_CLOSE_NO_ERROR, false, "");
    else twire_core_close(client->core, TWIRE_CLOSE_NO_ERROR, "");
    handle_events(client);
  }
  if (client->fd >= 0) {
    if (client->core) (void)write_some(client);
    close(client->fd);
  }
  while (take_done(client)) continue;
  twire_core_free(client->core);
  free(client);
}

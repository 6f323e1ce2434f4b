/* ready.c: READY's msgpack (SPEC 9.8, 16.2): passed over whole, its named fields checked. */
#include "core.h"

#include <stdlib.h>

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
    if (type == PACK_STR && !twire__utf8_valid(m->bytes + m->at, (size_t)*n)) return PACK_BAD;
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
bool twire__ready_valid(const uint8_t *bytes, size_t length) {
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

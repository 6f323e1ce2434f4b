/*
 * fuzz_signed.c: somebody between a server and the core who has no key, for libFuzzer (`make fuzz-signed`). The input edits
 * what an honest server says in a signed session: he copies, leaves out, repeats, changes and adds bytes, while the caller
 * opens and cancels calls. Rules beside those of fuzz.c: the core tells of no more events than the records hold that
 * came whole and untouched from the beginning on, and of no end by the server unless all did.
 *
 * Input: byte 0 = bits (1: aes-256-gmac, 2: places refuse); then steps, each a byte n. n < 100: n + 1 bytes of his own follow.
 * n < 164: the next (n - 99) * 64 bytes of the server. n < 180: the next k + 1, k the byte behind it. n < 190: go on at the
 * server's byte k (u16). else: the caller does something, and a byte says more of it.
 *
 * The server is made here, from SPEC 11 and libcrypto's one-shot functions, and shares no line with the client.
 */
#include "twire_core.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/sha.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 16
#define CHUNK 16384u
#define LARGE 66000u /* bytes of the large reply */
#define ROOM 90000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t SECRET[32] = {7, 7, 7};
static uint8_t large[LARGE];

/* What the server says, with each record's end and the events that are due by then. */
typedef struct session {
  uint8_t bytes[ROOM];
  size_t length, ends[16], events[16], count;
  int kind; /* 1 hmac-sha256, 2 aes-256-gmac */
  uint8_t key[32];
  uint64_t counter;
} session;

static session sessions[2];

static void require(bool rule) {
  if (!rule) abort();
}

static void put32(uint8_t *p, uint32_t v) { memcpy(p, &v, 4); }

/* ---------------------------------------------------------------------------------------------------- the honest server */

static void hash(const uint8_t *key, size_t key_length, const uint8_t *data, size_t length, uint8_t out[32]) {
  unsigned n;
  require(HMAC(EVP_sha256(), key, (int)key_length, data, length, out, &n) != NULL && n == 32);
}

static void derive(const uint8_t prk[32], const char *label, const uint8_t th[32], uint8_t out[32]) {
  uint8_t info[80];
  size_t n = (size_t)snprintf((char *)info, sizeof info, "tensorwire 1 %s", label) + 1;
  memcpy(info + n, th, 32);
  info[n + 32] = 1;
  hash(prk, 32, info, n + 33, out);
}

static void tag_of(const session *s, const uint8_t *record, size_t n, bool chunk, uint8_t tag[16]) {
  static uint8_t scratch[ROOM];
  if (s->kind == 1) {
    uint8_t digest[32];
    memcpy(scratch, &s->counter, 8);
    memcpy(scratch + 8, record, 4 + n);
    hash(s->key, 32, scratch, 12 + n, digest);
    memcpy(tag, digest, 16);
    return;
  }
  uint8_t nonce[12] = {0};
  size_t text = chunk ? 36 : 4 + n;
  int made;
  memcpy(nonce, &s->counter, 8);
  EVP_CIPHER_CTX *gcm = EVP_CIPHER_CTX_new();
  require(gcm && EVP_EncryptInit_ex(gcm, EVP_aes_256_gcm(), NULL, s->key, nonce) == 1);
  if (chunk) require(EVP_EncryptUpdate(gcm, NULL, &made, record + 36, (int)(n - 32)) == 1);
  require(EVP_EncryptUpdate(gcm, scratch, &made, record, (int)text) == 1 && EVP_EncryptFinal_ex(gcm, scratch, &made) == 1);
  require(EVP_CIPHER_CTX_ctrl(gcm, EVP_CTRL_AEAD_GET_TAG, 16, tag) == 1);
  EVP_CIPHER_CTX_free(gcm);
}

static size_t put_frame(uint8_t *p, uint8_t type, uint16_t flags, uint64_t stream, uint32_t aux, const void *ext, size_t ext_length,
                        const void *meta, size_t meta_length, const void *body, size_t body_length) {
  uint16_t short_ext = (uint16_t)ext_length;
  memset(p, 0, 32);
  put32(p, (uint32_t)(ext_length + meta_length + body_length));
  p[4] = type;
  memcpy(p + 6, &flags, 2);
  memcpy(p + 8, &stream, 8);
  put32(p + 20, aux);
  put32(p + 24, (uint32_t)meta_length);
  memcpy(p + 28, &short_ext, 2);
  if (ext_length) memcpy(p + 32, ext, ext_length);
  if (meta_length) memcpy(p + 32 + ext_length, meta, meta_length);
  if (body_length) memcpy(p + 32 + ext_length + meta_length, body, body_length);
  return 32 + ext_length + meta_length + body_length;
}

/* The `n` bytes of frames that were written 4 behind s->length become a record, by whose end `events` more are due. */
static void seal(session *s, size_t n, bool chunk, size_t events) {
  uint8_t *p = s->bytes + s->length;
  put32(p, (uint32_t)n);
  tag_of(s, p, n, chunk, p + 4 + n);
  s->counter++;
  s->length += 4 + n + 16;
  s->ends[s->count] = s->length;
  s->events[s->count] = s->events[s->count - 1] + events;
  s->count++;
}

static uint8_t *put_entry(uint8_t *p, uint16_t type, const void *value, uint16_t length) {
  memcpy(p, &type, 2);
  memcpy(p + 2, &length, 2);
  memcpy(p + 4, value, length);
  return p + 4 + length;
}

/* WELCOME for this HELLO (with the preface before it), and the key of the server's records. */
static void welcome(session *s, const uint8_t *hello, size_t hello_length) {
  static const uint8_t zeros[32];
  uint8_t entries[256], *p = entries, limits[16] = {0}, mac = (uint8_t)s->kind;
  uint8_t th[32], prk[32], key[32], proof[32], salt[64] = {0};
  put32(limits, CHUNK);
  put32(limits + 4, CALLS);
  put32(limits + 8, 1 << 20);
  p = put_entry(p, 1, (uint8_t[]){1, 0, 1, 0}, 4);
  p = put_entry(p, 2, (uint8_t[]){1, 0, 0, 0}, 4);
  p = put_entry(p, 3, zeros, 32);
  p = put_entry(p, 4, zeros, 0);
  p = put_entry(p, 6, &mac, 1);
  p = put_entry(p, 8, limits, 16);
  p = put_entry(p, 10, zeros, 8);
  p = put_entry(p, 11, zeros, 16);
  p = put_entry(p, 13, zeros, 32);
  size_t length = put_frame(s->bytes, 2, 0, 0, 0, NULL, 0, entries, (size_t)(p - entries), NULL, 0);
  static uint8_t said[4096];
  size_t n = hello_length;
  memcpy(said, hello, 8);
  put32(said + 8, (uint32_t)(hello_length - 8));
  memcpy(said + 12, hello + 8, hello_length - 8);
  n += 4;
  put32(said + n, (uint32_t)length);
  memcpy(said + n + 4, s->bytes, length);
  put32(said + n + 4 + length, 0);
  SHA256(said, n + 8 + length, th);
  hash(salt, sizeof salt, SECRET, 32, prk);
  derive(prk, "server proof", th, key);
  hash(key, 32, th, 32, proof);
  memcpy(s->bytes + length - 32, proof, 32);
  derive(prk, "server record", th, s->key);
  s->length = s->ends[0] = length;
  s->count = 1;
}

static void make(session *s, int kind, const uint8_t *hello, size_t hello_length) {
  uint8_t item[10] = {2, 8};
  uint64_t whole = LARGE;
  uint8_t *p;
  s->kind = kind;
  welcome(s, hello, hello_length);
  memcpy(item + 2, &whole, 8);
#define FRAME(...) put_frame(p = s->bytes + s->length + 4, __VA_ARGS__)
  seal(s, FRAME(4, 0, 0, 0, NULL, 0, "\x81\xa9principal\xa1x", 13, NULL, 0), false, 1);
  seal(s, FRAME(6, 1, 1, 0, NULL, 0, "meta", 4, "body", 4), false, 1);
  seal(s, FRAME(6, 3, 2, 0, item, 10, "meta", 4, NULL, 0), false, 0);
  for (size_t at = 0; at < LARGE; at += CHUNK) {
    size_t n = LARGE - at < CHUNK ? LARGE - at : CHUNK;
    bool last = at + n == LARGE;
    seal(s, FRAME(6, last ? 1 : 2, 2, 0, NULL, 0, NULL, 0, large + at, n), n >= CHUNK, last);
  }
  size_t n = FRAME(11, 0, 0, 0, NULL, 0, NULL, 0, "question", 8);
  n += put_frame(p + n, 7, 0, 3, 5, NULL, 0, "no such model", 13, NULL, 0);
  seal(s, n, false, 1);
  seal(s, FRAME(13, 0, 4, 13, NULL, 0, "bye", 3, NULL, 0), false, 1);
  seal(s, FRAME(15, 0, 0, 13, NULL, 0, "bye", 3, NULL, 0), false, 1); /* the last event: CLOSED */
#undef FRAME
  require(s->length <= ROOM && s->count <= 16);
}

/* ----------------------------------------------------------------------------------------------------- core and caller */

typedef struct caller {
  twire_core *core;
  const session *server;
  uint64_t now;
  bool refuse, closed, diverged;
  size_t matched; /* bytes from the beginning that were the server's, in order */
  size_t told;    /* events that a server has caused */
  size_t opened, outcomes, cancelled, placed, returned;
  twire_handle handles[CALLS];
  bool over[CALLS];
} caller;

static void *place(void *context, const twire_incoming *incoming) {
  caller *c = context;
  if (c->refuse) return NULL;
  require(incoming->body_length == LARGE);
  c->placed++;
  return malloc(LARGE);
}

static void outcome(caller *c, const twire_event *e) {
  size_t index = (size_t)((char *)e->tag - (char *)c);
  require(index < CALLS && !c->over[index]);
  c->over[index] = true;
  c->outcomes++;
}

/* The server has caused one more event: enough whole records of its own have come. */
static void told(caller *c) {
  size_t due = 0;
  for (size_t i = 0; i < c->server->count && c->server->ends[i] <= c->matched; i++) due = c->server->events[i];
  require(++c->told <= due);
}

static void open_call(caller *c, uint8_t kind) {
  static const uint64_t dims[1] = {3};
  struct iovec piece = {large, kind & 1 ? LARGE : 100};
  twire_message m = {0};
  if (c->opened == CALLS) return;
  m.body = &piece;
  m.body_count = 1;
  m.metadata = "meta";
  m.metadata_length = 4;
  m.dims = dims;
  m.dim_count = 1;
  m.flags = TWIRE_END_STREAM;
  void *tag = (char *)c + c->opened;
  if (twire_core_open(c->core, &m, kind & 4 ? c->now + 1000 : 0, tag, &c->handles[c->opened]) == TWIRE_OK) c->opened++;
}

static void output(caller *c, size_t most);

static void events(caller *c) {
  twire_event e;
  while (twire_core_poll_event(c->core, &e)) {
    require(!c->closed);
    if (e.placed) {
      c->returned++;
      if (e.type == TWIRE_EVENT_MESSAGE) require(e.body_length == LARGE && memcmp(e.body, large, LARGE) == 0);
      free((void *)(uintptr_t)e.body);
    }
    switch (e.type) {
      case TWIRE_EVENT_READY:
        told(c);
        for (uint8_t i = 0; i < 4; i++) open_call(c, i);
        output(c, SIZE_MAX);
        break;
      case TWIRE_EVENT_MESSAGE:
        told(c);
        require(e.end_stream && (e.placed || (e.body_length == 4 && memcmp(e.body, "body", 4) == 0)));
        outcome(c, &e);
        break;
      case TWIRE_EVENT_ENDED:
        if (e.remote) told(c);
        outcome(c, &e);
        break;
      case TWIRE_EVENT_ABORTED: break;
      case TWIRE_EVENT_GOAWAY: told(c); break;
      case TWIRE_EVENT_CLOSED:
        if (e.remote && e.code) require(c->matched == 0 || c->matched == c->server->length); /* a CLOSE before WELCOME is unsigned */
        c->closed = true;
        break;
      default: abort();
    }
  }
}

static void output(caller *c, size_t most) {
  struct iovec buffers[64];
  size_t total = 0, n = twire_core_output(c->core, buffers, 64, c->now);
  for (size_t i = 0; i < n; i++) {
    volatile uint8_t last = ((const uint8_t *)buffers[i].iov_base)[buffers[i].iov_len - 1]; /* still readable */
    (void)last;
    total += buffers[i].iov_len;
  }
  twire_core_sent(c->core, total < most ? total : most);
}

static void receive(caller *c, const uint8_t *p, size_t length) {
  for (size_t i = 0; i < length && !c->diverged; i++) {
    c->diverged = c->matched == c->server->length || p[i] != c->server->bytes[c->matched];
    c->matched += !c->diverged;
  }
  while (length) {
    struct iovec buffers[2];
    size_t taken = 0;
    events(c);
    int count = twire_core_next_buffers(c->core, buffers);
    for (int i = 0; i < count; i++) {
      size_t n = length < buffers[i].iov_len ? length : buffers[i].iov_len;
      memcpy(buffers[i].iov_base, p, n);
      p += n;
      length -= n;
      taken += n;
    }
    twire_core_received(c->core, taken, ++c->now);
    if (taken == 0) break;
  }
  events(c);
}

static void act(caller *c, uint8_t what, uint8_t argument) {
  size_t index = argument % CALLS;
  switch (what % 5) {
    case 0: open_call(c, argument); break;
    case 1:
      if (index < c->opened && (argument & 128 ? twire_core_forget : twire_core_cancel)(c->core, c->handles[index])) {
        require(!c->over[index]);
        c->over[index] = true;
        c->cancelled++;
      }
      break;
    case 2: output(c, argument == 255 ? SIZE_MAX : (size_t)argument * argument); break;
    case 3:
      c->now += 600;
      twire_core_timer(c->core, c->now);
      break;
    default:
      if (argument == 255) twire_core_eof(c->core);
      if (argument == 254) twire_core_close(c->core, 0, "done");
  }
  events(c);
}

static twire_core *new_core(caller *c, int kind) {
  twire_options options = {0};
  twire_core_config config = {0};
  options.chunk = CHUNK;
  options.key_id = "fuzz";
  options.secret = SECRET;
  options.macs = kind == 1 ? "hmac-sha256" : "aes-256-gmac";
  config.options = &options;
  config.place = place;
  config.place_context = c;
  config.now = 1000;
  config.handshake_deadline = 100000;
  return twire_core_new(&config);
}

static void make_sessions(void) {
  for (size_t i = 0; i < sizeof large; i++) large[i] = (uint8_t)(i % 251);
  for (int kind = 1; kind <= 2; kind++) {
    struct iovec buffers[8];
    twire_core *core = new_core(NULL, kind);
    require(core && twire_core_output(core, buffers, 8, 1000) == 1); /* preface and HELLO, of zero nonces */
    make(&sessions[kind - 1], kind, buffers[0].iov_base, buffers[0].iov_len);
    twire_core_free(core);
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (!sessions[0].length) make_sessions();
  if (size < 1) return 0;
  caller c = {0};
  size_t cursor = 0;
  c.server = &sessions[data[0] & 1];
  c.refuse = data[0] & 2;
  c.now = 1000;
  c.core = new_core(&c, c.server->kind);
  if (!c.core) return 0;
  output(&c, SIZE_MAX);
  for (size_t at = 1; at < size;) {
    uint8_t n = data[at++];
    if (n < 100) {
      size_t length = n + 1u < size - at ? n + 1u : size - at;
      receive(&c, data + at, length);
      at += length;
    } else if (n < 180) {
      size_t length = n < 164 ? (n - 99u) * 64 : (at < size ? data[at++] : 0) + 1u;
      if (length > c.server->length - cursor) length = c.server->length - cursor;
      receive(&c, c.server->bytes + cursor, length);
      cursor += length;
    } else if (n < 190) {
      if (size - at < 2) break;
      cursor = (data[at] | (size_t)data[at + 1] << 8) % c.server->length;
      at += 2;
    } else if (at < size) {
      act(&c, n, data[at++]);
    }
  }
  if (!c.closed) twire_core_eof(c.core);
  events(&c);
  output(&c, SIZE_MAX);
  require(c.closed);
  require(c.outcomes + c.cancelled == c.opened);
  require(c.placed == c.returned);
  if (c.matched == c.server->length && !c.diverged && !c.cancelled && !c.refuse && c.opened == 4) require(c.outcomes == 4);
  twire_core_free(c.core);
  return 0;
}

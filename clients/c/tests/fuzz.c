/*
 * fuzz.c: a hostile server against the core, for libFuzzer (`make fuzz`). The input is what the server sends, with what the
 * caller does in between; every large reply is read as the client would read it. Only crashes, leaks and undefined behaviour
 * count, and these rules: each call has exactly one outcome; memory that `place` gave comes back exactly once; after CLOSED
 * there is nothing.
 *
 * Input: byte 0 = bits (1: the handshake is done for it, 2: a small chunk size, 4: places refuse); then pieces, each a byte n.
 * n < 199: n + 1 bytes from the server follow; 199: a byte k follows, for (k % 64 + 1) KiB of 0x11 from the server, so that
 * short inputs reach the end of large messages; else the caller does something, and a byte says more of it.
 */
#include "twire_core.h"

#include <stdlib.h>
#include <string.h>

#define CALLS 32

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t WELCOME[] = {
    0x7e, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x7e, 0, 0, 0, 0, 0, 0, 0,             /* */
    1, 0, 4, 0, 1, 0, 1, 0, 2, 0, 4, 0, 1, 0, 0, 0, 3, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, /* */
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 6, 0, 1, 0, 0, 8, 0, 16, 0, 0, 0x40, 0, 0, 4, 0, 0, 0,       /* */
    0, 0, 0x10, 0, 0, 0, 0, 0, 9, 0, 9, 0, 'v', 'e', 'c', 't', 'o', 'r', 's', '/', '1', 10, 0, 8, 0, 1, 2, 3, 4, 5, 6, /* */
    7, 8, 11, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
static const uint8_t READY[] = {0x1f, 0,    0,   0,   4,   0,   0,   0,   0,   0,   0,    0,   0,   0,   0,   0,
                                0,    0,    0,   0,   0,   0,   0,   0,   0x1f, 0,  0,    0,   0,   0,   0,   0,
                                0x82, 0xa9, 'p', 'r', 'i', 'n', 'c', 'i', 'p', 'a', 'l',  0xa9, 'a', 'n', 'o', 'n',
                                'y',  'm',  'o', 'u', 's', 0xa6, 'm', 'o', 'd', 'e', 'l', 's', 0x91, 0xa1, '*'};

typedef struct caller {
  twire_core *core;
  uint64_t now;
  bool refuse, closed;
  size_t opened, outcomes, cancelled, placed, returned;
  twire_handle handles[CALLS];
  bool over[CALLS];
} caller;

static void *place(void *context, const twire_incoming *incoming) {
  caller *c = context;
  if (c->refuse || incoming->body_length > 1 << 20) return NULL;
  c->placed++;
  return malloc((size_t)incoming->body_length);
}

static void require(bool rule) {
  if (!rule) abort();
}

/* What a client does with a message: verify, lay out, view. */
static void read_message(const twire_event *e) {
  twire_extension x;
  twire_layout *layout;
  const char *reason = NULL;
  require(twire_extension_read(e->extension, e->extension_length, &x));
  if (twire_layout_read(e->metadata, e->metadata_length, &layout, &reason)) {
    require(reason != NULL);
    return;
  }
  size_t count;
  (void)twire_layout_tensors(layout, &count);
  twire_tensor *views = calloc(count + 1, sizeof *views);
  if (views && twire_layout_views(layout, x.dims, x.dim_count, e->body, e->body_length, views, &reason) == TWIRE_OK)
    for (size_t i = 0; i < count; i++) {
      volatile uint8_t last = views[i].size ? ((const uint8_t *)views[i].data)[views[i].size - 1] : 0;
      (void)last;
    }
  free(views);
  twire_layout_free(layout);
}

static void outcome(caller *c, const twire_event *e) {
  size_t index = (size_t)((char *)e->tag - (char *)c);
  require(index < CALLS && !c->over[index]);
  c->over[index] = true;
  c->outcomes++;
}

static void events(caller *c) {
  twire_event e;
  while (twire_core_poll_event(c->core, &e)) {
    require(!c->closed);
    switch (e.type) {
      case TWIRE_EVENT_MESSAGE:
        read_message(&e);
        if (e.placed) {
          c->returned++;
          free((void *)(uintptr_t)e.body);
        }
        if (e.end_stream) outcome(c, &e);
        break;
      case TWIRE_EVENT_ABORTED:
        c->returned++;
        free((void *)(uintptr_t)e.body);
        break;
      case TWIRE_EVENT_ENDED:
        require(e.text != NULL && strlen(e.text) <= 4096 + 256);
        outcome(c, &e);
        break;
      case TWIRE_EVENT_CLOSED:
        require(e.text != NULL);
        c->closed = true;
        break;
      case TWIRE_EVENT_GOAWAY:
      case TWIRE_EVENT_PONG:
      case TWIRE_EVENT_READY: break;
      default: abort();
    }
  }
}

static void output(caller *c, size_t most) {
  struct iovec buffers[16];
  size_t total = 0, n = twire_core_output(c->core, buffers, 16, c->now);
  for (size_t i = 0; i < n; i++) {
    volatile uint8_t last = ((const uint8_t *)buffers[i].iov_base)[buffers[i].iov_len - 1]; /* still readable */
    (void)last;
    total += buffers[i].iov_len;
  }
  twire_core_sent(c->core, total < most ? total : most);
  events(c);
}

static void receive(caller *c, const uint8_t *p, size_t length) {
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

/* A call of every shape: no body, inline, chunked, of many pieces; with and without deadline. */
static void open_call(caller *c, uint8_t kind) {
  static uint8_t body[100000];
  static const uint64_t dims[2] = {1, 3};
  struct iovec pieces[12];
  twire_message m = {0};
  if (c->opened == CALLS) return;
  m.body = pieces;
  m.body_count = kind % 3 == 0 ? 0 : kind % 3 == 1 ? 1 : 12;
  for (size_t i = 0; i < m.body_count; i++) pieces[i] = (struct iovec){body, kind & 8 ? sizeof body : 100 * i + kind};
  m.metadata = body;
  m.metadata_length = kind & 16 ? 60000 : 100;
  m.dims = dims;
  m.dim_count = 2;
  m.priority = kind & 3;
  m.flags = kind & 32 ? 0 : TWIRE_END_STREAM;
  void *tag = (char *)c + c->opened;
  if (twire_core_open(c->core, &m, kind & 4 ? c->now + 1000 : 0, tag, &c->handles[c->opened]) == TWIRE_OK) c->opened++;
}

static void act(caller *c, uint8_t what, uint8_t argument) {
  size_t index = argument % CALLS;
  switch (what % 7) {
    case 0: open_call(c, argument); break;
    case 1:
      if (index < c->opened && (argument & 128 ? twire_core_forget : twire_core_cancel)(c->core, c->handles[index])) {
        require(!c->over[index]);
        c->over[index] = true;
        c->cancelled++;
      }
      break;
    case 2: output(c, SIZE_MAX); break;
    case 3: output(c, argument); break;
    case 4:
      c->now += 600;
      twire_core_timer(c->core, c->now);
      break;
    case 5:
      if (index < c->opened) {
        twire_message m = {0};
        m.flags = argument & 64 ? TWIRE_END_STREAM : 0;
        (void)twire_core_send(c->core, c->handles[index], &m);
      }
      break;
    default:
      if (argument == 255) twire_core_eof(c->core);
      else if (argument == 254) twire_core_close(c->core, 0, "done");
      else (void)twire_core_ping(c->core, (const uint8_t *)"12345678");
  }
  events(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 1) return 0;
  caller c = {0};
  twire_options options = {0};
  twire_core_config config = {0};
  options.chunk = data[0] & 2 ? 16384 : 0;
  c.refuse = data[0] & 4;
  config.options = &options;
  config.place = place;
  config.place_context = &c;
  config.now = c.now = 1000;
  config.handshake_deadline = 100000;
  c.core = twire_core_new(&config);
  if (!c.core) return 0;
  if (data[0] & 1) {
    output(&c, SIZE_MAX);
    receive(&c, WELCOME, sizeof WELCOME);
    receive(&c, READY, sizeof READY);
    require(twire_core_ready(c.core));
    for (uint8_t i = 0; i < 4; i++) open_call(&c, i);
    output(&c, SIZE_MAX);
  }
  for (size_t at = 1; at < size;) {
    uint8_t n = data[at++];
    if (n == 199) {
      static uint8_t run[65536];
      memset(run, 0x11, sizeof run);
      receive(&c, run, 1024 * (size_t)((at < size ? data[at++] : 0) % 64 + 1));
    } else if (n < 199) {
      size_t length = n + 1u < size - at ? n + 1u : size - at;
      receive(&c, data + at, length);
      at += length;
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
  twire_core_free(c.core);
  return 0;
}

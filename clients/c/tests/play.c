/*
 * play.c: runs vectors of tests/vectors against the C core. One command a line on stdin, one answer a line on stdout;
 * tests/c/test_c_vectors.py writes the commands from the JSON and compares the answers.
 *
 *   core NONCE AGENT CHUNK MAX_MESSAGE SPLIT   a fresh client; SPLIT: bytes handed over at a time, 0 = all
 *   core-with-deadline ...                     the same, with a handshake that may take 2 s
 *   key ID SECRET MACS                         what the next cores sign with; ID '-' = without key
 *   flips FROM TO CALLS BYTES                  for each bit of BYTES from byte FROM to TO: a core like the last, which makes
 *                                              CALLS calls when ready, receives BYTES with this bit turned, then the end:
 *                                              how many were ended by an error of the server's own, and the most
 *                                              events that any of them got from it; the same of BYTES untouched
 *   window N                                   the socket takes N more bytes, then no more (until the next `window`)
 *   reserve grant|refuse                       what `place` answers from here on
 *   open FLAGS DEADLINE_US PRIORITY DIMS TRACE METADATA BODY
 *   send HANDLE-OF-STREAM FLAGS PRIORITY DIMS METADATA BODY
 *   cancel STREAM | forget STREAM | ping PAYLOAD | close CODE | eof | clock US | timer
 *   receive BYTES                              answers with events as they come
 *   sends                                      "sent BYTES": all since the last
 *   extension BYTES | metadata METADATA DIMS BODY
 *
 * Bytes are runs joined by '+': hex, or hex*times. '-' is none. What must not live here: what is right or wrong.
 */
#define _DEFAULT_SOURCE /* strsep, getline */

#include "twire_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct bytes {
  uint8_t *at;
  size_t length;
} bytes;

static void die(const char *why) {
  fprintf(stderr, "play: %s\n", why);
  exit(2);
}

static void *must(void *memory) {
  if (!memory) die("no memory");
  return memory;
}

static unsigned digit(char c) {
  if (c >= '0' && c <= '9') return (unsigned)(c - '0');
  if (c >= 'a' && c <= 'f') return (unsigned)(c - 'a' + 10);
  die("a digit that is not hex");
  return 0;
}

/* Each into memory of exactly its length, so that AddressSanitizer sees the first byte read past it. */
static bytes parse(const char *text) {
  bytes b = {NULL, 0};
  if (strcmp(text, "-") == 0) {
    b.at = must(malloc(1));
    return b;
  }
  while (*text) {
    size_t n = strcspn(text, "*+"), times = 1;
    if (text[n] == '*') times = strtoull(text + n + 1, NULL, 10);
    b.at = must(realloc(b.at, b.length + n / 2 * times + 1));
    for (size_t i = 0; i < times; i++)
      for (size_t j = 0; j + 1 < n; j += 2) b.at[b.length++] = (uint8_t)(digit(text[j]) << 4 | digit(text[j + 1]));
    text += n;
    text += strcspn(text, "+");
    text += *text == '+';
  }
  b.at = must(realloc(b.at, b.length ? b.length : 1));
  return b;
}

static void show(const char *name, const void *data, uint64_t length) {
  const uint8_t *p = data;
  printf(" %s=", name);
  for (uint64_t i = 0; i < length; i++) printf("%02x", p[i]);
  if (length == 0) printf("-");
}

/* ------------------------------------------------------------------------------------------------------ connections */

typedef struct kept {
  twire_handle handle;
  struct iovec body;
  bytes memory[5];
} kept;

static twire_core *core;
static uint64_t now;
static size_t split, window;
static bool grant;
static bytes sent;
static char start_arguments[512], key_id[65], macs[64];
static uint8_t secret[32];
static kept calls[64];
static size_t call_count;

static void *place(void *context, const twire_incoming *incoming) {
  (void)context;
  return grant ? malloc((size_t)incoming->body_length) : NULL;
}

static void forget(kept *k) {
  for (size_t i = 0; i < 5; i++) free(k->memory[i].at);
  memset(k, 0, sizeof *k);
}

/* A call is over: by contract its memory is ours again, so let the sanitizer see who still reads it. */
static void release(twire_handle handle) {
  for (size_t i = 0; i < call_count; i++)
    if (calls[i].handle == handle) {
      for (size_t j = 0; j < 5; j++) {
        free(calls[i].memory[j].at);
        calls[i].memory[j].at = NULL;
      }
    }
}

/* Write as a socket would, a few bytes or all. */
static void write_out(void) {
  struct iovec buffers[64];
  size_t n;
  while (window && (n = twire_core_output(core, buffers, 64, now))) {
    size_t total = 0, most = split && split < window ? split : window;
    for (size_t i = 0; i < n; i++) {
      size_t take = buffers[i].iov_len;
      if (take > most - total) take = most - total;
      sent.at = must(realloc(sent.at, sent.length + take + 1));
      memcpy(sent.at + sent.length, buffers[i].iov_base, take);
      sent.length += take;
      total += take;
      if (total == most) break;
    }
    window -= total;
    twire_core_sent(core, total);
  }
}

static void events(void) {
  twire_event e;
  while (twire_core_poll_event(core, &e)) {
    switch (e.type) {
      case TWIRE_EVENT_READY:
        printf("ready");
        show("payload", e.metadata, e.metadata_length);
        break;
      case TWIRE_EVENT_MESSAGE:
        printf("message stream=%llu seq=%u end_stream=%d priority=%u", (unsigned long long)e.stream, e.seq, e.end_stream,
               e.priority);
        show("extension", e.extension, e.extension_length);
        show("metadata", e.metadata, e.metadata_length);
        show("body", e.body, e.body_length);
        if (e.placed) free((void *)(uintptr_t)e.body);
        if (e.end_stream) release(e.handle);
        break;
      case TWIRE_EVENT_ABORTED:
        printf("message_aborted stream=%llu", (unsigned long long)e.stream);
        free((void *)(uintptr_t)e.body);
        break;
      case TWIRE_EVENT_ENDED:
        printf("%s stream=%llu status=%d not_started=%d", e.remote ? "ended" : "outcome", (unsigned long long)e.stream,
               e.status, e.not_started);
        show("detail", e.raw_text, e.raw_text_length);
        show("extension", e.extension, e.extension_length);
        release(e.handle);
        break;
      case TWIRE_EVENT_PONG:
        printf("pong");
        show("payload", e.body, e.body_length);
        break;
      case TWIRE_EVENT_GOAWAY:
        printf("goaway last_stream=%llu code=%u", (unsigned long long)e.stream, e.code);
        show("detail", e.raw_text, e.raw_text_length);
        break;
      case TWIRE_EVENT_CLOSED: printf("closed code=%u remote=%d", e.code, e.remote); break;
      default: die("an event without type");
    }
    printf("\n");
  }
}

/* One read of at most this much. */
static size_t hand_over(const uint8_t *p, size_t length) {
  struct iovec buffers[2];
  size_t taken = 0;
  int count = twire_core_next_buffers(core, buffers);
  for (int i = 0; i < count; i++) {
    size_t n = length - taken < buffers[i].iov_len ? length - taken : buffers[i].iov_len;
    memcpy(buffers[i].iov_base, p + taken, n);
    taken += n;
  }
  twire_core_received(core, taken, now);
  return taken;
}

static void receive(const uint8_t *p, size_t length) {
  while (length) {
    events();
    size_t taken = hand_over(p, split && split < length ? split : length);
    if (taken == 0) break; /* closed: nothing is read any more */
    p += taken;
    length -= taken;
  }
  events();
}

static void start(const char *arguments, uint64_t handshake) {
  char nonce[65], agent[129];
  if (arguments != start_arguments) snprintf(start_arguments, sizeof start_arguments, "%s", arguments);
  unsigned chunk;
  unsigned long long max_message;
  if (sscanf(arguments, "%64s %128s %u %llu %zu", nonce, agent, &chunk, &max_message, &split) != 5) die("core: arguments");
  twire_options options = {0};
  twire_core_config config = {0};
  options.agent = agent;
  options.chunk = chunk;
  options.max_message = max_message;
  if (*key_id) {
    options.key_id = key_id;
    options.secret = secret;
    options.macs = macs;
  }
  bytes random = parse(nonce);
  memcpy(config.nonce, random.at, 32);
  free(random.at);
  config.options = &options;
  config.place = place;
  config.now = now = 1000000000;
  config.handshake_deadline = handshake ? now + handshake : 0;
  twire_core_free(core);
  for (size_t i = 0; i < call_count; i++) forget(&calls[i]);
  call_count = sent.length = 0;
  window = SIZE_MAX;
  grant = true;
  core = must(twire_core_new(&config));
}

static void set_key(const char *arguments) {
  char text[65] = "";
  *key_id = 0;
  if (*arguments == '-') return;
  if (sscanf(arguments, "%64s %64s %63s", key_id, text, macs) != 3) die("key: arguments");
  bytes b = parse(text);
  if (b.length != sizeof secret) die("key: a secret has 32 bytes");
  memcpy(secret, b.at, sizeof secret);
  free(b.at);
}

static char *word(char **rest) {
  char *found = strsep(rest, " ");
  return found ? found : (die("an argument is missing"), "");
}

static void send_message(char *arguments, bool is_open) {
  if (call_count == sizeof calls / sizeof *calls) die("too many calls");
  kept *k = &calls[call_count];
  twire_message m = {0};
  if (!is_open) k->handle = calls[strtoull(word(&arguments), NULL, 10) - 1].handle;
  m.flags = (uint16_t)atoi(word(&arguments));
  uint64_t deadline = is_open ? strtoull(word(&arguments), NULL, 10) : 0;
  m.priority = (uint8_t)atoi(word(&arguments));
  k->memory[0] = parse(word(&arguments));
  if (is_open) k->memory[1] = parse(word(&arguments));
  k->memory[2] = parse(word(&arguments));
  k->memory[3] = parse(word(&arguments));
  m.dims = (const uint64_t *)(const void *)k->memory[0].at;
  m.dim_count = k->memory[0].length / 8;
  m.trace = k->memory[1].length ? k->memory[1].at : NULL;
  m.metadata = k->memory[2].at;
  m.metadata_length = k->memory[2].length;
  k->body = (struct iovec){k->memory[3].at, k->memory[3].length};
  m.body = &k->body;
  m.body_count = k->memory[3].length ? 1 : 0;
  int status = is_open ? twire_core_open(core, &m, deadline ? now + deadline * 1000 : 0, k, &k->handle)
                       : twire_core_send(core, k->handle, &m);
  if (status) {
    printf("refused status=%s\n", twire_strerror(status));
    forget(k);
    return;
  }
  call_count++;
}

/* ------------------------------------------------------------------------------------------------------- turned bits */

typedef struct outcome {
  size_t messages; /* events that a server has caused */
  bool closed, verified;
} outcome;

static void judge(outcome *o, size_t calls_made) {
  twire_event e;
  while (twire_core_poll_event(core, &e)) {
    if (e.placed) free((void *)(uintptr_t)e.body);
    if (e.type == TWIRE_EVENT_READY) {
      twire_message m = {0};
      m.flags = TWIRE_END_STREAM;
      for (size_t i = 0; i < calls_made; i++)
        if (twire_core_open(core, &m, 0, NULL, NULL)) die("flips: open");
      write_out();
    } else if (e.type == TWIRE_EVENT_CLOSED) {
      o->closed = true;
      o->verified = e.remote && e.code != TWIRE_CLOSE_NO_ERROR;
    } else if (e.type != TWIRE_EVENT_ABORTED && (e.type != TWIRE_EVENT_ENDED || e.remote)) {
      o->messages++;
    }
  }
}

static outcome whole_session(const bytes *b, size_t calls_made) {
  outcome o = {0, false, false};
  start(start_arguments, 0);
  write_out();
  for (size_t at = 0; at < b->length && !o.closed;) {
    size_t n = hand_over(b->at + at, b->length - at);
    if (n == 0) die("flips: a read without room");
    at += n;
    judge(&o, calls_made);
  }
  twire_core_eof(core);
  judge(&o, calls_made);
  return o;
}

static void flips(char *arguments) {
  size_t from = strtoull(word(&arguments), NULL, 10), to = strtoull(word(&arguments), NULL, 10);
  size_t calls_made = strtoull(word(&arguments), NULL, 10), ended_well = 0, most = 0;
  bytes b = parse(word(&arguments));
  for (size_t bit = 8 * from; bit < 8 * to; bit++) {
    b.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
    outcome o = whole_session(&b, calls_made);
    b.at[bit / 8] ^= (uint8_t)(1 << bit % 8);
    if (!o.closed) die("flips: a connection that did not end");
    ended_well += o.verified;
    if (o.messages > most) most = o.messages;
  }
  outcome o = whole_session(&b, calls_made);
  printf("flips bits=%zu ended_well=%zu messages=%zu untouched=%zu,%d\n", 8 * (to - from), ended_well, most, o.messages, o.verified);
  free(b.at);
}

/* ------------------------------------------------------------------------------------------- extension and metadata */

static void extension(const char *text) {
  bytes b = parse(text);
  twire_extension x;
  if (!twire_extension_read(b.at, b.length, &x)) {
    printf("refused\n");
  } else {
    printf("items");
    if (x.dim_count) show("dims", x.dims, x.dim_count * 8);
    if (x.has_body_length) printf(" body_length=%llu", (unsigned long long)x.body_length);
    if (x.has_trace) show("trace", x.trace, 25);
    if (x.has_timing)
      printf(" timing=%u,%u,%u,%u,%u,%u,%u", x.timing.receive, x.timing.queue, x.timing.batch_wait, x.timing.copy_in,
             x.timing.compute, x.timing.copy_out, x.timing.server_total);
    if (x.has_retry_after) printf(" retry_after=%u", x.retry_after_us);
    if (x.has_queue_estimate) printf(" queue_estimate=%u", x.queue_estimate_us);
    printf("\n");
  }
  free(b.at);
}

static void shape(const char *name, const twire_tensor *t) {
  printf(" %s=", name);
  for (uint32_t d = 0; d < t->dim_count; d++) printf("%s%lld", d ? "," : "", (long long)t->shape[d]);
  if (t->dim_count == 0) printf("-");
}

static void show_tensors(const twire_layout *layout, const twire_tensor *views) {
  static const char *const kinds[] = {"dense", "string", "ragged"};
  size_t count;
  const twire_tensor *declared = twire_layout_tensors(layout, &count);
  for (size_t i = 0; i < count; i++) {
    const twire_tensor *t = &views[i];
    printf("tensor dtype=%s kind=%s", twire_dtype_name(t->dtype), kinds[t->kind]);
    show("name", t->name, t->name_length);
    shape("declared", &declared[i]);
    shape("shape", t);
    show("data", t->data, t->size);
    uint64_t rows = t->kind == TWIRE_STRING ? 1 : t->kind == TWIRE_RAGGED ? (uint64_t)t->shape[0] : 0;
    for (uint32_t d = 0; t->kind == TWIRE_STRING && d < t->dim_count; d++) rows *= (uint64_t)t->shape[d];
    if (t->offsets) show("offsets", t->offsets, 8 * (rows + 1));
    printf("\n");
  }
}

static void metadata(char *arguments) {
  bytes m = parse(word(&arguments)), dims = parse(word(&arguments));
  char *body_text = word(&arguments);
  twire_layout *layout = NULL;
  const char *reason = "?";
  uint64_t length = 0;
  size_t count = 0;
  const uint64_t *numbers = (const uint64_t *)(const void *)dims.at;
  if (twire_layout_read(m.at, m.length, &layout, &reason)) {
    printf("refused stage=metadata reason=%s\n", reason);
  } else if (dims.length % 8 || twire_layout_length(layout, numbers, dims.length / 8, &length, &reason)) {
    printf("refused stage=dims reason=%s\n", reason);
  } else {
    (void)twire_layout_tensors(layout, &count);
    twire_tensor *views = must(calloc(count + 1, sizeof *views));
    bytes body = parse(strcmp(body_text, "?") ? body_text : "-");
    bool absent = strcmp(body_text, "?") == 0;
    if (!absent && twire_layout_views(layout, numbers, dims.length / 8, body.at, body.length, views, &reason)) {
      printf("refused stage=body reason=%s\n", reason);
    } else {
      printf("accepted body_length=%llu", (unsigned long long)length);
      show("model", twire_layout_model(layout), strlen(twire_layout_model(layout)));
      show("version", twire_layout_version(layout), strlen(twire_layout_version(layout)));
      printf("\n");
      if (!absent) show_tensors(layout, views);
    }
    free(body.at);
    free(views);
  }
  twire_layout_free(layout);
  free(m.at);
  free(dims.at);
}

static void command(char *name, char *rest) {
  if (!strcmp(name, "extension")) extension(rest);
  else if (!strcmp(name, "metadata")) metadata(rest);
  else if (!strcmp(name, "core")) start(rest, 0);
  else if (!strcmp(name, "core-with-deadline")) start(rest, 2000000000);
  else if (!strcmp(name, "key")) set_key(rest);
  else if (!core) die("no core yet");
  else if (!strcmp(name, "flips")) flips(rest);
  else if (!strcmp(name, "reserve")) grant = !strcmp(rest, "grant");
  else if (!strcmp(name, "window")) window = strtoull(rest, NULL, 10);
  else if (!strcmp(name, "open")) send_message(rest, true);
  else if (!strcmp(name, "send")) send_message(rest, false);
  else if (!strcmp(name, "cancel")) {
    uint64_t stream = strtoull(rest, NULL, 10);
    if (!stream || stream > call_count) die("cancel: no such call");
    twire_core_cancel(core, calls[stream - 1].handle);
    release(calls[stream - 1].handle);
  } else if (!strcmp(name, "forget")) { /* as cancel, but the memory goes first */
    uint64_t stream = strtoull(rest, NULL, 10);
    if (!stream || stream > call_count) die("forget: no such call");
    release(calls[stream - 1].handle);
    twire_core_forget(core, calls[stream - 1].handle);
  } else if (!strcmp(name, "ping")) {
    bytes b = parse(rest);
    twire_core_ping(core, b.at);
    free(b.at);
  } else if (!strcmp(name, "close")) twire_core_close(core, (uint32_t)atoi(rest), "");
  else if (!strcmp(name, "eof")) twire_core_eof(core);
  else if (!strcmp(name, "clock")) now += strtoull(rest, NULL, 10) * 1000;
  else if (!strcmp(name, "timer")) twire_core_timer(core, now);
  else if (!strcmp(name, "receive")) {
    bytes b = parse(rest);
    receive(b.at, b.length);
    free(b.at);
  } else if (!strcmp(name, "sends")) {
    printf("sent");
    show("bytes", sent.at, sent.length);
    printf("\n");
    sent.length = 0;
  } else die(name);
}

int main(void) {
  char *line = NULL;
  size_t room = 0;
  while (getline(&line, &room, stdin) > 0) {
    char *rest = line;
    line[strcspn(line, "\n")] = 0;
    char *name = strsep(&rest, " ");
    command(name, rest ? rest : (char[]){""});
    if (core) {
      events();
      write_out();
      events();
    }
    printf(".\n");
  }
  twire_core_free(core);
  for (size_t i = 0; i < call_count; i++) forget(&calls[i]);
  free(sent.at);
  free(line);
  return 0;
}

/*
 * call.c: the blocking client, driven by tests/c/test_c_client.py. One command a line on stdin, its answer on stdout.
 *
 *   connect URL TIMEOUT_MS [MAX_MESSAGE [KEY [MACS]]]   "connected" or "failed CODE TEXT"; KEY '-' = as without
 *   model NAME INPUT DTYPE SHAPE           what the next calls go to; SHAPE as 1,3 ('-' = scalar); data is a pattern
 *   values V...                            as `model`'s data: float32 or int64 numbers, the rest is 0
 *   infer TIMEOUT_MS TIMING                "reply STATUS NOT_STARTED SAME TENSORS TEXT", SAME: bytes came back as sent
 *   memory BYTES                           replies of `infer` go to a buffer of this size, 0 = the library's own
 *   submit N TIMEOUT_MS                    "submitted"
 *   queue N TIMEOUT_MS | flush             the two halves of submit: "submitted", "flushed STATUS"
 *   poll N TIMEOUT_MS                      N lines of "reply ..." as for infer, or "again"
 *   cancel                                 the first submitted
 *   alive                                  "alive 0|1 TEXT"
 *   strings | ragged                       echo of such a tensor: "reply ..." and what came back
 *   misuse                                 every wrong argument that must be refused: "refused N"
 *   close
 */
#define _DEFAULT_SOURCE /* getline */

#include "twire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REPLIES 256

static twire_client *client;
static twire_call *call;
static twire_tensor input;
static char input_name[64];
static uint8_t *data, *given;
static twire_reply *replies[REPLIES], *single;
static size_t submitted;

static void die(const char *why) {
  fprintf(stderr, "call: %s\n", why);
  exit(2);
}

static void *must(void *memory) {
  if (!memory) die("no memory");
  return memory;
}

static void model(const char *name, const char *dtype, const char *shape) {
  int64_t dims[TWIRE_MAX_DIMS];
  uint32_t count = 0;
  size_t bytes = twire_dtype_size(twire_dtype_of(dtype));
  for (const char *p = shape; *p && *p != '-'; p += strcspn(p, ","), p += *p == ',') {
    dims[count] = strtoll(p, NULL, 10);
    bytes *= (size_t)dims[count++];
  }
  free(data);
  data = must(malloc(bytes + 1));
  for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(strcmp(dtype, "bool") ? (i * 131 + 7) % 120 : i % 2);
  input = twire_dense(input_name, twire_dtype_of(dtype), data, count, dims);
  input.size = bytes;
  twire_call_free(call);
  if (twire_call_new(name, NULL, &input, 1, &call)) die(twire_connect_error());
}

static void values(char *rest) {
  memset(data, 0, input.size);
  for (size_t i = 0; *rest; i++) {
    if (input.dtype == TWIRE_FLOAT32) {
      float v = strtof(rest, &rest);
      memcpy(data + i * sizeof v, &v, sizeof v);
    } else {
      long long v = strtoll(rest, &rest, 10);
      memcpy(data + i * sizeof v, &v, sizeof v);
    }
    rest += strspn(rest, " ");
  }
}

static void show(const twire_reply *reply) {
  const twire_tensor *t = twire_reply_tensors(reply);
  size_t count = twire_reply_tensor_count(reply);
  int equal = count && t->size == input.size && (t->size == 0 || memcmp(t->data, data, t->size) == 0);
  twire_timing timing;
  printf("reply %s %d %d %zu %s", twire_strerror(twire_reply_status(reply)), twire_reply_not_started(reply), equal, count,
         twire_reply_text(reply));
  if (twire_reply_timing(reply, &timing)) printf("total=%u", timing.server_total);
  printf("\n");
}

static void poll_replies(size_t count, uint64_t timeout) {
  while (count--) {
    twire_reply *reply;
    if (twire_poll(client, timeout, &reply)) {
      printf("again\n");
      return;
    }
    show(reply);
    submitted--;
  }
}

static void echo(twire_tensor *t) {
  twire_call *other;
  if (twire_call_new(t->name, NULL, t, 1, &other)) die(twire_connect_error());
  twire_infer(client, other, t, NULL, single);
  show(single);
  const twire_tensor *back = twire_reply_tensors(single);
  if (twire_reply_status(single) == TWIRE_OK)
    printf("same %d %d\n", back->size == t->size && memcmp(back->data, t->data, t->size) == 0,
           back->offsets && memcmp(back->offsets, t->offsets, 3 * sizeof *t->offsets) == 0);
  twire_call_free(other);
}

static void misuse(void) {
  int64_t wide[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1}, negative[2] = {1, -1}, huge[2] = {INT64_C(1) << 40, INT64_C(1) << 40};
  float x[4] = {0};
  char long_name[300];
  memset(long_name, 'n', sizeof long_name - 1);
  long_name[sizeof long_name - 1] = 0;
  twire_tensor good = twire_dense("x", TWIRE_FLOAT32, x, 2, (int64_t[]){1, 4}), bad[7];
  twire_tensor twice[2] = {good, good};
  int refused = 0;
  twire_call *made;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) bad[i] = good;
  bad[0].name = "";
  bad[1].name = long_name;
  bad[2].dtype = (twire_dtype)0x0221;
  bad[3].kind = (twire_kind)3;
  bad[4] = twire_dense("x", TWIRE_FLOAT32, x, 9, wide);
  bad[5].name = "\xff";
  bad[6].kind = TWIRE_STRING;
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
    refused += twire_call_new("echo", NULL, &bad[i], 1, &made) == TWIRE_E_ARGUMENT && *twire_connect_error();
  refused += twire_call_new("", NULL, &good, 1, &made) == TWIRE_E_ARGUMENT;
  refused += twire_call_new("echo", long_name, &good, 1, &made) == TWIRE_E_ARGUMENT;
  refused += twire_call_new("echo", NULL, twice, 2, &made) == TWIRE_E_ARGUMENT;
  if (twire_call_new("echo", NULL, &good, 1, &made)) die("a good call");
  twire_tensor wrong[5] = {good, good, good, good, good};
  wrong[0] = twire_dense("x", TWIRE_FLOAT32, x, 2, negative);
  wrong[1] = twire_dense("x", TWIRE_FLOAT32, x, 2, huge);
  wrong[2].dtype = TWIRE_INT32;
  wrong[3].size = 15;
  wrong[4].data = NULL;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    refused += twire_infer(client, made, &wrong[i], NULL, single) == TWIRE_E_ARGUMENT && *twire_reply_text(single);
  twire_call_free(made);
  printf("refused %d\n", refused);
}

static void connect_to(const char *url, unsigned long timeout, unsigned long long max_message, const char *key, const char *macs) {
  twire_options options = {0};
  options.agent = "call/1";
  options.connect_timeout = timeout * 1000000u;
  options.max_message = max_message;
  if (*key && strcmp(key, "-")) options.key = key;
  if (*macs) options.macs = macs;
  int status = twire_connect(url, &options, &client);
  if (status) printf("failed %s %s\n", twire_strerror(status), twire_connect_error());
  else printf("connected\n");
}

static void command(char *line) {
  char a[512] = "", b[64] = "", c[64] = "", d[256] = "", e[64] = "";
  int n = sscanf(line, "%*s %511s %63s %63s %255s %63s", a, b, c, d, e);
  if (!strncmp(line, "connect ", 8)) connect_to(a, strtoul(b, NULL, 10), n > 2 ? strtoull(c, NULL, 10) : 0, d, e);
  else if (!strncmp(line, "model ", 6)) {
    snprintf(input_name, sizeof input_name, "%s", b);
    model(a, c, d);
  } else if (!strncmp(line, "values ", 7)) values(line + 7);
  else if (!strncmp(line, "infer ", 6)) {
    twire_call_options options = {0};
    options.timeout = strtoull(a, NULL, 10) * 1000000u;
    options.want_timing = atoi(b);
    twire_infer(client, call, &input, &options, single);
    show(single);
  } else if (!strncmp(line, "memory ", 7)) {
    size_t size = strtoull(a, NULL, 10);
    free(given);
    given = size ? must(malloc(size)) : NULL;
    twire_reply_memory(single, given, size);
  } else if (!strncmp(line, "flush", 5)) printf("flushed %s\n", twire_strerror(twire_flush(client)));
  else if (!strncmp(line, "submit ", 7) || !strncmp(line, "queue ", 6)) {
    twire_call_options options = {0};
    options.timeout = strtoull(b, NULL, 10) * 1000000u;
    int status = TWIRE_OK;
    for (size_t i = 0, wanted = strtoull(a, NULL, 10); i < wanted && !status; i++) {
      status = twire_submit(client, call, &input, &options, replies[i]);
      if (!status) submitted++;
    }
    if (!status && *line == 's') (void)twire_flush(client);
    printf("submitted %s %s\n", twire_strerror(status), status ? twire_reply_text(replies[0]) : "");
  } else if (!strncmp(line, "poll ", 5)) poll_replies(strtoull(a, NULL, 10), strtoull(b, NULL, 10) * 1000000u);
  else if (!strncmp(line, "cancel", 6)) twire_cancel(client, replies[0]);
  else if (!strncmp(line, "alive", 5)) {
    twire_reply *none;
    (void)twire_poll(client, 0, &none);
    printf("alive %d %s\n", twire_alive(client), twire_error(client));
  } else if (!strncmp(line, "strings", 7)) {
    twire_tensor t = twire_dense("strings", TWIRE_UINT8, "hi\xe2\x82\xac", 1, (int64_t[]){2});
    t.kind = TWIRE_STRING;
    t.size = 5;
    t.offsets = (int64_t[]){0, 2, 5};
    echo(&t);
  } else if (!strncmp(line, "ragged", 6)) {
    twire_tensor t = twire_dense("ragged", TWIRE_FLOAT32, (float[]){1, 2, 3, 4, 5}, 1, (int64_t[]){2});
    t.kind = TWIRE_RAGGED;
    t.size = 20;
    t.offsets = (int64_t[]){0, 2, 5};
    echo(&t);
  } else if (!strncmp(line, "misuse", 6)) misuse();
  else if (!strncmp(line, "close", 5)) {
    twire_close(client);
    client = NULL;
    submitted = 0;
  } else die(line);
}

int main(void) {
  char *line = NULL;
  size_t room = 0;
  single = must(twire_reply_new());
  for (size_t i = 0; i < REPLIES; i++) replies[i] = must(twire_reply_new());
  while (getline(&line, &room, stdin) > 0) {
    line[strcspn(line, "\n")] = 0;
    command(line);
    printf(".\n");
    fflush(stdout);
  }
  twire_close(client);
  for (size_t i = 0; i < REPLIES; i++) twire_reply_free(replies[i]);
  twire_reply_free(single);
  twire_call_free(call);
  free(data);
  free(given);
  free(line);
  return 0;
}

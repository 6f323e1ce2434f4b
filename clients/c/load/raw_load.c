/*
 * raw-load: the floor under twire-load. The same loop, but the bytes mean nothing: it counts them.
 *
 * What lives here: the wire of the raw echo reference (bench/peers/raw_client.py). A connection begins with three
 * little-endian u32: the bytes of a request, those of a reply, and 1 if a reply is the request itself, or 0 if it is bytes that
 * count up from 0, ready before. Then each request is answered by a reply, in order.
 * What must not: anything of tensorwire.
 */
#define _GNU_SOURCE
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "load.h"

enum { BUFFER = 262144 /* bytes; as much as the C client receives at once */, BLOCK = 65536 };

static uint32_t request_bytes, reply_bytes;
static bool echo;
static uint8_t *block; /* whole requests, one after the other */
static size_t block_bytes;

typedef struct raw {
  uint8_t *buffer;
  size_t size;
  bool checked; /* the first reply was what it must be */
  uint64_t unsent;         /* bytes of the calls that are queued */
  size_t phase;            /* where in the block the next byte to send is */
  uint64_t got;            /* bytes of replies not yet whole */
  load_slot *first, **last; /* in flight, in order */
} raw;

static void raw_begin(load_connection *connection) {
  raw *self = calloc(1, sizeof *self);
  size_t size = reply_bytes > BUFFER ? reply_bytes : BUFFER;
  if (!self || !(self->buffer = malloc(size))) load_fatal(LOAD_FAILED, "out of memory");
  self->size = size;
  self->last = &self->first;
  connection->state = self;
  uint32_t preface[3] = {htole32(request_bytes), htole32(reply_bytes), htole32(echo)};
  if (send(connection->fd, preface, sizeof preface, MSG_NOSIGNAL) != sizeof preface)
    load_fatal(LOAD_NO_CONNECTION, "the server closed the connection at once");
  connection->ready = true;
}

static void raw_end(load_connection *connection) {
  raw *self = connection->state;
  free(self->buffer);
  free(self);
}

static bool raw_start(load_connection *connection, load_slot *slot, uint64_t now) {
  (void)now;
  raw *self = connection->state;
  slot->next = NULL;
  *self->last = slot;
  self->last = &slot->next;
  self->unsent += request_bytes;
  return true;
}

static int raw_buffers(load_connection *connection, struct iovec buffers[2]) {
  raw *self = connection->state;
  size_t used = reply_bytes > BUFFER ? self->got : 0; /* a large reply lies in one piece, a small one just passes */
  buffers[0] = (struct iovec){self->buffer + used, self->size - used};
  return 1;
}

static load_slot *raw_next(raw *self) {
  load_slot *slot = self->first;
  if (slot && !(self->first = slot->next)) self->last = &self->first;
  return slot;
}

/* Compare the first reply, of which `self->got` bytes were there before. */
static void check(raw *self, const uint8_t *bytes, size_t count) {
  for (size_t i = 0; i < count && self->got + i < reply_bytes; i++) {
    size_t at = self->got + i;
    uint8_t right = echo ? block[at % request_bytes] : (uint8_t)at;
    if (bytes[i] != right) load_fatal(LOAD_FAILED, "wrong reply: byte %zu is %u, expected %u", at, bytes[i], right);
  }
  self->checked = self->got + count >= reply_bytes;
}

static void raw_received(load_connection *connection, size_t count, uint64_t now) {
  raw *self = connection->state;
  load_slot *slot;
  if (count == 0) {
    connection->draining = true; /* or else each would start a new call */
    while ((slot = raw_next(self))) load_failed(slot, "E_LOST", "the server closed the connection", now);
    return;
  }
  if (!self->checked) check(self, self->buffer + (reply_bytes > BUFFER ? self->got : 0), count);
  for (self->got += count; self->got >= reply_bytes; self->got -= reply_bytes) {
    if (!(slot = raw_next(self))) load_fatal(LOAD_FAILED, "the server sent more than it was asked for");
    load_done(slot, now);
  }
}

static size_t raw_output(load_connection *connection, struct iovec *buffers, size_t max, uint64_t now) {
  (void)now;
  raw *self = connection->state;
  size_t count = 0, from = self->phase;
  for (uint64_t left = self->unsent; left && count < max; count++, from = 0) {
    size_t part = block_bytes - from < left ? block_bytes - from : left;
    buffers[count] = (struct iovec){block + from, part};
    left -= part;
  }
  return count;
}

static void raw_sent(load_connection *connection, size_t count) {
  raw *self = connection->state;
  self->unsent -= count;
  self->phase = (self->phase + count) % block_bytes;
}

static const load_protocol RAW = {
    .begin = raw_begin, .end = raw_end, .start = raw_start, .buffers = raw_buffers,
    .received = raw_received, .output = raw_output, .sent = raw_sent,
};

static void help(void) {
  printf("Usage: raw-load --address HOST:PORT --request BYTES --reply BYTES [OPTIONS]\n\n"
         "Put load on a raw echo server: BYTES out, BYTES back, nothing understood. The floor under twire-load.\n\n"
         "  --address ADDR    host:port, or the path of a Unix socket\n"
         "  --request BYTES   of each request\n"
         "  --reply BYTES     of each reply\n"
         "  --echo            the reply is the request: the server waits for all of it\n%s",
         load_help);
}

int main(int argc, char **argv) {
  static const struct option options[] = {{"address", required_argument, NULL, 'a'},
                                          {"request", required_argument, NULL, 'q'},
                                          {"reply", required_argument, NULL, 'y'},
                                          {"echo", no_argument, NULL, 'e'},
                                          LOAD_OPTIONS,
                                          {0}};
  load_test *load = load_new(&RAW);
  const char *address = NULL;
  for (int code; (code = getopt_long(argc, argv, "h", options, NULL)) != -1;) switch (code) {
      case 'h': help(); load_free(load); return 0;
      case 'a': address = optarg; break;
      case 'q': request_bytes = (uint32_t)load_number("--request", optarg, 1, 1u << 30); break;
      case 'y': reply_bytes = (uint32_t)load_number("--reply", optarg, 1, 1u << 30); break;
      case 'e': echo = true; break;
      default: load_option(load, code, optarg);
    }
  load_options_done(load, argc, argv);
  if (!address || !request_bytes || !reply_bytes) load_fatal(LOAD_USAGE, "needs --address, --request and --reply; see --help");
  load->target = address;
  block_bytes = request_bytes > BLOCK ? request_bytes : BLOCK / request_bytes * request_bytes;
  if (echo && request_bytes != reply_bytes) load_fatal(LOAD_USAGE, "--echo: --request and --reply must be the same");
  if (echo && load->in_flight > 1) load_fatal(LOAD_USAGE, "--echo: the server takes one in flight");
  if (!(block = malloc(block_bytes))) load_fatal(LOAD_FAILED, "out of memory");
  for (size_t i = 0; i < block_bytes; i++) block[i] = (uint8_t)(i % request_bytes % 251);
  int status = load_run(load, address);
  free(block);
  load_free(load);
  return status;
}

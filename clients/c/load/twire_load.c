/*
 * twire-load: the native load generator for a tensorwire server, on the bring-your-own-loop core of twire.h.
 *
 * What lives here: one call site, its inputs, the checks of its replies; the core as a load_protocol.
 * What must not: the loop and the clock (load.c), what bytes mean (the core).
 *
 * Each slot sends other values, a window that moves along one pattern, so that a reply given to the wrong call is seen.
 * A reply whose metadata, extension and length are those of a reply that was read in full has its layout; its contents are
 * compared for the first reply of each connection and for every 1,000th after it.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load.h"
#include "twire_core.h"

enum { MOST_TENSORS = 16, CHECK_EVERY = 1000, MOST_METADATA = 65536 /* SPEC 19.4 */ };

/* A tensor as the command line says it. `pattern` holds its elements and one more for each slot. */
typedef struct expected {
  char name[TWIRE_MAX_NAME + 1];
  twire_dtype dtype;
  uint32_t dim_count;
  int64_t shape[TWIRE_MAX_DIMS];
  size_t elements, item, size; /* item: bytes of one element; size: of all */
  uint8_t *pattern;
} expected;

/* The beginning and the length of a reply that was read in full. */
typedef struct known {
  uint8_t metadata[MOST_METADATA], extension[1024];
  size_t metadata_length, extension_length;
  uint64_t body_length;
  bool valid;
} known;

static expected inputs[MOST_TENSORS], outputs[MOST_TENSORS];
static size_t input_count, output_count;
static bool echo;
static uint64_t deadline; /* a duration; 0 = none */
static const char *key, *macs; /* as in twire_options */
static twire_call *site;
static twire_message message; /* all but the body */
static uint64_t dims[MOST_TENSORS * TWIRE_MAX_DIMS];
static known seen;

/* What a connection has beside its core. */
typedef struct link {
  twire_core *core;
  uint32_t unchecked; /* replies until contents are compared again */
} link_state;

/* ------------------------------------------------------------------------------------------------------ the tensors */

/* Read "x=float32:1x16"; no ":" is a scalar. */
static void read_tensor(const char *option, const char *text, expected *list, size_t *count) {
  if (*count == MOST_TENSORS) load_fatal(LOAD_USAGE, "%s: %d tensors are the most here", option, MOST_TENSORS);
  expected *tensor = &list[(*count)++];
  char dtype[32] = "";
  int after = 0;
  if (sscanf(text, "%256[^=]=%31[^:]%n", tensor->name, dtype, &after) != 2 || !after)
    load_fatal(LOAD_USAGE, "%s %s: expected NAME=DTYPE:SHAPE, such as x=float32:1x16", option, text);
  tensor->dtype = twire_dtype_of(dtype);
  if (!tensor->dtype) load_fatal(LOAD_USAGE, "%s %s: %s is no dtype; float32, int64, bool ... are", option, text, dtype);
  tensor->elements = 1;
  tensor->item = twire_dtype_size(tensor->dtype);
  for (const char *at = text + after; *at; tensor->dim_count++) {
    char *rest;
    unsigned long long dim = at[1] >= '0' && at[1] <= '9' ? strtoull(at + 1, &rest, 10) : UINT64_MAX;
    if ((*at != ':' && *at != 'x') || (*at == ':') != (tensor->dim_count == 0) || dim > 1u << 30)
      load_fatal(LOAD_USAGE, "%s %s: expected a shape such as 1x3x224x224 after the colon", option, text);
    if (tensor->dim_count == TWIRE_MAX_DIMS) load_fatal(LOAD_USAGE, "%s %s: above %d dims", option, text, TWIRE_MAX_DIMS);
    tensor->shape[tensor->dim_count] = (int64_t)dim;
    if (__builtin_mul_overflow(tensor->elements, dim, &tensor->elements) || tensor->elements > (1u << 30) / tensor->item)
      load_fatal(LOAD_USAGE, "%s %s: above 1 GiB", option, text);
    at = rest;
  }
  tensor->size = tensor->elements * tensor->item;
}

/* The bits of element `i`: small whole numbers, or floats in [1, 2); finite in every dtype. */
static uint64_t element(twire_dtype dtype, size_t i) {
  uint64_t step = i % 101;
  switch (dtype) {
    case TWIRE_BOOL: return i % 2;
    case TWIRE_FLOAT16: return 0x3c00 + step;
    case TWIRE_BFLOAT16: return 0x3f80 + step;
    case TWIRE_FLOAT32: return 0x3f800000 + (step << 16);
    case TWIRE_FLOAT64: return 0x3ff0000000000000 + (step << 45);
    case TWIRE_COMPLEX64: return 0x3f8000003f800000 + (step << 16);
    case TWIRE_COMPLEX128: return 0x3ff0000000000000 + (step << 45);
    default: return (dtype >> 8) >= (TWIRE_FLOAT8_E3M4 >> 8) ? 0x30 + step % 8 : step;
  }
}

static void fill(expected *tensor, size_t slots) {
  size_t count = tensor->elements + slots, half = tensor->dtype == TWIRE_COMPLEX128 ? 8 : tensor->item;
  tensor->pattern = malloc(count * tensor->item);
  if (!tensor->pattern) load_fatal(LOAD_FAILED, "out of memory for the input %s", tensor->name);
  for (size_t i = 0; i < count * (tensor->item / half); i++) {
    uint64_t bits = element(tensor->dtype, i); /* little-endian, as on the wire: twire.h is for such machines */
    memcpy(tensor->pattern + i * half, &bits, half);
  }
}

static const uint8_t *data_of(const expected *tensor, const load_slot *slot) {
  return tensor->pattern + slot->index * tensor->item;
}

static void prepare_call(const char *model, const char *version, size_t slots) {
  twire_tensor tensors[MOST_TENSORS];
  for (size_t i = 0; i < input_count; i++) {
    fill(&inputs[i], slots);
    tensors[i] = twire_dense(inputs[i].name, inputs[i].dtype, inputs[i].pattern, inputs[i].dim_count, inputs[i].shape);
    for (uint32_t d = 0; d < inputs[i].dim_count; d++) dims[message.dim_count++] = (uint64_t)inputs[i].shape[d];
  }
  if (message.dim_count > 124) load_fatal(LOAD_USAGE, "--input: above 124 dims in all");
  if (twire_call_new(model, version, tensors, input_count, &site)) load_fatal(LOAD_USAGE, "%s", twire_connect_error());
  message.metadata = twire_call_metadata(site, &message.metadata_length);
  message.dims = dims;
  message.flags = TWIRE_END_STREAM;
}

/* ------------------------------------------------------------------------------------------------------ the replies */

/* What a tensor is, for people: "y float32 [1, 16]". Its name may be the server's: nothing in it reaches a terminal as it is. */
static const char *shown(const char *name, twire_dtype dtype, uint32_t dim_count, const int64_t *shape, char text[512]) {
  int at = snprintf(text, 512, "%.200s", name);
  for (char *c = text; *c; c++)
    if (*c < ' ' || *c > '~') *c = '?';
  at += snprintf(text + at, 512 - (size_t)at, " %s [", twire_dtype_name(dtype));
  for (uint32_t d = 0; d < dim_count; d++) at += snprintf(text + at, 512 - (size_t)at, "%s%lld", d ? ", " : "", (long long)shape[d]);
  snprintf(text + at, 512 - (size_t)at, "]");
  return text;
}

static void check_tensor(const twire_tensor *got, const expected *right, const char *name) {
  char one[512], other[512];
  bool same = got->kind == TWIRE_DENSE && got->dtype == right->dtype && got->dim_count == right->dim_count &&
              memcmp(got->shape, right->shape, right->dim_count * sizeof right->shape[0]) == 0 && strcmp(got->name, name) == 0;
  if (!same)
    load_fatal(LOAD_FAILED, "wrong reply: %s, expected %s", shown(got->name, got->dtype, got->dim_count, got->shape, one),
               shown(name, right->dtype, right->dim_count, right->shape, other));
}

/* The reply in full: verified metadata, a body of the right length, and what --output and --echo ask for. */
static void check_whole(const load_slot *slot, const twire_event *event) {
  static twire_tensor tensors[TWIRE_MAX_TENSORS];
  twire_extension extension;
  twire_layout *layout;
  const char *reason = "malformed extension";
  size_t count;
  if (!twire_extension_read(event->extension, event->extension_length, &extension) ||
      twire_layout_read(event->metadata, event->metadata_length, &layout, &reason) ||
      twire_layout_views(layout, extension.dims, extension.dim_count, event->body, event->body_length, tensors, &reason))
    load_fatal(LOAD_FAILED, "wrong reply: %s", reason);
  twire_layout_tensors(layout, &count);
  size_t wanted = output_count ? output_count : echo ? input_count : count;
  if (count != wanted) load_fatal(LOAD_FAILED, "wrong reply: %zu tensors, expected %zu", count, wanted);
  for (size_t i = 0; i < output_count; i++) check_tensor(&tensors[i], &outputs[i], outputs[i].name);
  for (size_t i = 0; echo && i < count; i++) {
    check_tensor(&tensors[i], &inputs[i], tensors[i].name); /* echoed under another name */
    if (inputs[i].size && memcmp(tensors[i].data, data_of(&inputs[i], slot), inputs[i].size) != 0)
      load_fatal(LOAD_FAILED, "wrong reply: the values of output %zu are not those of input %s", i, inputs[i].name);
  }
  twire_layout_free(layout);
}

static bool is_known(const twire_event *event) {
  return seen.valid && event->body_length == seen.body_length && event->metadata_length == seen.metadata_length &&
         event->extension_length == seen.extension_length &&
         memcmp(event->metadata, seen.metadata, seen.metadata_length) == 0 &&
         memcmp(event->extension, seen.extension, seen.extension_length) == 0;
}

static void check_reply(link_state *link, const load_slot *slot, const twire_event *event) {
  if (link->unchecked > 0 && is_known(event)) {
    link->unchecked--;
    return;
  }
  check_whole(slot, event);
  slot->connection->load->checked += echo;
  link->unchecked = CHECK_EVERY - 1;
  seen.valid = event->metadata_length <= sizeof seen.metadata && event->extension_length <= sizeof seen.extension;
  if (!seen.valid) return;
  memcpy(seen.metadata, event->metadata, seen.metadata_length = event->metadata_length);
  memcpy(seen.extension, event->extension, seen.extension_length = event->extension_length);
  seen.body_length = event->body_length;
}

/* ------------------------------------------------------------------------------------------------------ the protocol */

/* Large replies go to memory of their slot, taken once. */
static void *place(void *context, const twire_incoming *incoming) {
  (void)context;
  load_slot *slot = incoming->tag;
  if (slot->memory_size < incoming->body_length) {
    free(slot->memory);
    slot->memory_size = (size_t)(incoming->body_length + 63) / 64 * 64;
    slot->memory = aligned_alloc(64, slot->memory_size);
    if (!slot->memory) slot->memory_size = 0;
  }
  return slot->memory;
}

static void twire_begin(load_connection *connection) {
  link_state *link = calloc(1, sizeof *link);
  const twire_options options = {.agent = "twire-load/" TWIRE_VERSION, .key = key, .macs = macs};
  twire_core_config config = {.options = &options, .place = place, .now = load_now()};
  if (!link || !twire_random(config.nonce, sizeof config.nonce) || !(link->core = twire_core_new(&config)))
    load_fatal(*twire_connect_error() ? LOAD_USAGE : LOAD_FAILED, "%s", *twire_connect_error() ? twire_connect_error() : "out of memory");
  connection->state = link;
}

static void twire_close_connection(load_connection *connection) {
  twire_core_close(((link_state *)connection->state)->core, TWIRE_CLOSE_NO_ERROR, "");
}

static void twire_end(load_connection *connection) {
  link_state *link = connection->state;
  twire_core_free(link->core);
  free(link);
}

static bool twire_start(load_connection *connection, load_slot *slot, uint64_t now) {
  static const uint8_t zeros[64];
  link_state *link = connection->state;
  struct iovec body[2 * MOST_TENSORS];
  size_t count = 0, end = 0;
  for (size_t i = 0; i < input_count; i++) { /* SPEC 18.6: buffers begin at multiples of 64 */
    if (inputs[i].size == 0) continue;
    if (end % 64) body[count++] = (struct iovec){(void *)zeros, 64 - end % 64};
    end = (end + 63) / 64 * 64 + inputs[i].size;
    body[count++] = (struct iovec){(void *)data_of(&inputs[i], slot), inputs[i].size};
  }
  message.body = body;
  message.body_count = count;
  twire_handle handle;
  int error = twire_core_open(link->core, &message, deadline ? now + deadline : 0, slot, &handle);
  if (error == TWIRE_E_ARGUMENT || error == TWIRE_E_MEMORY) load_fatal(LOAD_FAILED, "twire_core_open: %s", twire_strerror(error));
  return error == TWIRE_OK;
}

static int twire_buffers(load_connection *connection, struct iovec buffers[2]) {
  return twire_core_next_buffers(((link_state *)connection->state)->core, buffers);
}

static void handle_event(load_connection *connection, const twire_event *event, uint64_t now) {
  load_slot *slot = event->tag;
  switch (event->type) {
    case TWIRE_EVENT_READY: connection->ready = true; break;
    case TWIRE_EVENT_MESSAGE:
      check_reply(connection->state, slot, event);
      if (event->end_stream) load_done(slot, now);
      break;
    case TWIRE_EVENT_ENDED:
      if (event->status == TWIRE_OK) load_done(slot, now);
      else load_failed(slot, twire_strerror(event->status), event->text, now);
      break;
    case TWIRE_EVENT_GOAWAY: connection->draining = true; break;
    case TWIRE_EVENT_CLOSED:
      if (!connection->ready) load_fatal(LOAD_NO_CONNECTION, "%s: %s", twire_close_name(event->code), event->text);
      load_lost(connection, event->text);
      break;
    default: break; /* ABORTED: the memory stays with the slot */
  }
}

static void events(load_connection *connection, uint64_t now) {
  link_state *link = connection->state;
  twire_event event;
  while (twire_core_poll_event(link->core, &event)) handle_event(connection, &event, now);
  connection->dirty |= twire_core_wants_write(link->core);
}

static void twire_received(load_connection *connection, size_t count, uint64_t now) {
  link_state *link = connection->state;
  if (count) twire_core_received(link->core, count, now);
  else twire_core_eof(link->core);
  events(connection, now);
}

static size_t twire_output(load_connection *connection, struct iovec *buffers, size_t max, uint64_t now) {
  return twire_core_output(((link_state *)connection->state)->core, buffers, max, now);
}

static void twire_sent(load_connection *connection, size_t count) {
  twire_core_sent(((link_state *)connection->state)->core, count);
}

static uint64_t twire_deadline(load_connection *connection) {
  return twire_core_next_deadline(((link_state *)connection->state)->core);
}

static void twire_timer(load_connection *connection, uint64_t now) {
  twire_core_timer(((link_state *)connection->state)->core, now);
  events(connection, now);
}

static const load_protocol TWIRE = {
    .begin = twire_begin, .close = twire_close_connection, .end = twire_end, .start = twire_start,
    .buffers = twire_buffers, .received = twire_received, .output = twire_output, .sent = twire_sent,
    .next_deadline = twire_deadline, .timer = twire_timer,
};

/* ------------------------------------------------------------------------------------------------------ the program */

static void help(void) {
  printf("Usage: twire-load --model NAME --input NAME=DTYPE:SHAPE [OPTIONS]\n\n"
         "Put load on a tensorwire server and print percentiles. One thread.\n\n"
         "  --url URL         tw://host:port, or tw+unix:///path (default tw://127.0.0.1:7411)\n"
         "  --model NAME      the model\n"
         "  --model-version V its version (default: the server chooses)\n"
         "  --input I         an input, such as x=float32:1x16; repeat it for each input of the model\n"
         "  --output O        what must come back, such as y=float32:1x1000; repeat it for each output\n"
         "  --echo            the model answers its inputs: compare values (the first reply of each connection and\n"
         "                    every %dth)\n"
         "  --deadline MS     of each call, in milliseconds (default none)\n"
         "  --mac LIST        hmac-sha256, aes-256-gmac, none: the most wanted first (default aes-256-gmac,hmac-sha256)\n"
         "A key, ID:SECRET, is taken from TENSORWIRE_KEY: whoever lists processes would see it here.\n%s",
         CHECK_EVERY, load_help);
}

/* The address that load_connect takes. */
static const char *address_of(const char *url) {
  static char address[300];
  if (strncmp(url, "tw+unix://", 10) == 0 && url[10] == '/') return url + 10;
  size_t length = strcspn(url, "/") == 3 ? strlen(url + 5) : 0;
  if (strncmp(url, "tw://", 5) != 0 || !length || length > 255 || strpbrk(url + 5, "/?#@"))
    load_fatal(LOAD_USAGE, "--url %s: expected tw://host:port or tw+unix:///path", url);
  const char *bracket = strchr(url + 5, ']');
  snprintf(address, sizeof address, "%s%s", url + 5, strchr(bracket ? bracket : url + 5, ':') ? "" : ":7411");
  return address;
}

int main(int argc, char **argv) {
  static const struct option options[] = {
      {"url", required_argument, NULL, 'u'},           {"model", required_argument, NULL, 'o'},
      {"model-version", required_argument, NULL, 'v'}, {"input", required_argument, NULL, 'i'},
      {"output", required_argument, NULL, 'y'},        {"echo", no_argument, NULL, 'e'},
      {"deadline", required_argument, NULL, 'l'},      {"mac", required_argument, NULL, 'a'},
      LOAD_OPTIONS,
      {0}};
  load_test *load = load_new(&TWIRE);
  const char *url = "tw://127.0.0.1:7411", *model = NULL, *version = NULL;
  for (int code; (code = getopt_long(argc, argv, "hi:", options, NULL)) != -1;) switch (code) {
      case 'h': help(); load_free(load); return 0;
      case 'u': url = optarg; break;
      case 'o': model = optarg; break;
      case 'v': version = optarg; break;
      case 'i': read_tensor("--input", optarg, inputs, &input_count); break;
      case 'y': read_tensor("--output", optarg, outputs, &output_count); break;
      case 'e': echo = true; break;
      case 'a': macs = optarg; break;
      case 'l': deadline = (uint64_t)(load_seconds("--deadline", optarg) * 1e6); break;
      default: load_option(load, code, optarg);
    }
  load_options_done(load, argc, argv);
  key = getenv("TENSORWIRE_KEY");
  if (!model || !input_count) load_fatal(LOAD_USAGE, "needs --model and --input; see --help");
  char target[600];
  snprintf(target, sizeof target, "%.200s at %.300s", model, url);
  load->target = target;
  const char *address = address_of(url);
  prepare_call(model, version, (size_t)load->connection_count * load->in_flight);
  int status = load_run(load, address);
  twire_call_free(site);
  for (size_t i = 0; i < input_count; i++) free(inputs[i].pattern);
  load_free(load);
  return status;
}

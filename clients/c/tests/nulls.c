/*
 * nulls.c: every function of twire.h with NULL for each of its pointers, and durations that went below 0. `nulls URL` prints one
 * line a call: the function and what it answered; tests/c/test_c_misuse.py knows what is right, and that no function is missing.
 */
#include "twire_core.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CODE(call) printf("%s = %s\n", #call, twire_strerror(call))
#define NUMBER(call) printf("%s = %" PRId64 "\n", #call, (int64_t)(call))
#define TEXT(call) printf("%s = \"%s\"\n", #call, call)
#define POINTER(call) printf("%s = %s\n", #call, (call) ? "something" : "NULL")
#define NOTHING(call) ((call), printf("%s = nothing\n", #call))

static twire_client *client;
static twire_call *call, *made;
static twire_reply *reply;
static twire_layout *layout;
static twire_tensor input, views[4];
static const void *metadata;
static size_t length, count;
static uint64_t number;
static const char *reason;
static float x[4] = {1, 2, 3, 4};
static const uint64_t dims[2] = {1, 4};

static void die(const char *why) {
  fprintf(stderr, "nulls: %s\n", why);
  exit(2);
}

static void tensors_and_calls(void) {
  NUMBER(twire_random(NULL, 1));
  NUMBER(twire_random(NULL, 0));
  NUMBER(twire_dtype_of(NULL));
  NUMBER(twire_dense(NULL, TWIRE_FLOAT32, NULL, 2, NULL).shape[1]);
  CODE(twire_call_new(NULL, NULL, &input, 1, &made));
  CODE(twire_call_new("echo", NULL, NULL, 1, &made));
  CODE(twire_call_new("echo", NULL, &input, 1, NULL));
  twire_tensor nameless = input;
  nameless.name = NULL;
  CODE(twire_call_new("echo", NULL, &nameless, 1, &made));
  NOTHING(twire_call_free(NULL));
  POINTER(twire_call_metadata(NULL, &length));
  POINTER(twire_call_metadata(NULL, NULL));
  POINTER(twire_call_metadata(call, NULL));
  CODE(twire_layout_read(NULL, 100, &layout, &reason));
  CODE(twire_layout_read(metadata, length, NULL, NULL));
  metadata = twire_call_metadata(call, &length);
  CODE(twire_layout_read(metadata, length, &layout, NULL));
  NOTHING(twire_layout_free(NULL));
  TEXT(twire_layout_model(NULL));
  TEXT(twire_layout_version(NULL));
  POINTER(twire_layout_tensors(NULL, &count));
  POINTER(twire_layout_tensors(layout, NULL));
  CODE(twire_layout_length(NULL, dims, 2, &number, &reason));
  CODE(twire_layout_length(layout, NULL, 2, &number, NULL));
  CODE(twire_layout_length(layout, dims, 2, NULL, NULL));
  CODE(twire_layout_length(layout, dims, 2, &number, NULL));
  CODE(twire_layout_views(NULL, dims, 2, x, sizeof x, views, &reason));
  CODE(twire_layout_views(layout, NULL, 2, x, sizeof x, views, NULL));
  CODE(twire_layout_views(layout, dims, 2, NULL, sizeof x, views, NULL));
  CODE(twire_layout_views(layout, dims, 2, x, sizeof x, NULL, NULL));
  CODE(twire_layout_views(layout, dims, 2, x, sizeof x, views, NULL));
  twire_layout_free(layout);
  twire_extension extension;
  NUMBER(twire_extension_read(NULL, 4, &extension));
  NUMBER(twire_extension_read(NULL, 0, &extension));
  NUMBER(twire_extension_read(x, 4, NULL));
  POINTER(twire_strerror(12345));
  POINTER(twire_close_name(12345));
  POINTER(twire_dtype_name((twire_dtype)1));
  NUMBER(twire_dtype_size((twire_dtype)1));
  NUMBER(twire_now() != 0);
}

static void the_core(void) {
  static const uint8_t payload[8];
  struct iovec buffers[8], nowhere = {NULL, 5};
  twire_event event;
  twire_handle handle;
  twire_message message = {0};
  twire_core_config config = {0};
  void *pointer;
  POINTER(twire_core_new(NULL));
  TEXT(twire_connect_error());
  twire_core *core = twire_core_new(&config);
  if (!core) die("core");
  NOTHING(twire_core_free(NULL));
  NUMBER(twire_core_next_buffers(NULL, buffers));
  NUMBER(twire_core_next_buffers(core, NULL));
  NOTHING(twire_core_next_buffer(NULL, &pointer, &length));
  NOTHING(twire_core_next_buffer(core, NULL, NULL));
  NOTHING(twire_core_received(NULL, 1, 1));
  NOTHING(twire_core_eof(NULL));
  NUMBER(twire_core_poll_event(NULL, &event));
  NUMBER(twire_core_poll_event(core, NULL));
  NUMBER(twire_core_output(NULL, buffers, 8, 1));
  NUMBER(twire_core_output(core, NULL, 8, 1));
  NOTHING(twire_core_sent(NULL, 1));
  NUMBER(twire_core_wants_write(NULL));
  NUMBER(twire_core_next_deadline(NULL));
  NOTHING(twire_core_timer(NULL, 1));
  CODE(twire_core_open(NULL, &message, 0, NULL, &handle));
  CODE(twire_core_open(core, NULL, 0, NULL, &handle));
  CODE(twire_core_open(core, &message, 0, NULL, NULL));
  twire_message bad[4] = {{0}, {0}, {0}, {0}};
  bad[0].metadata_length = bad[1].dim_count = bad[2].body_count = bad[3].body_count = 1;
  bad[3].body = &nowhere;
  for (size_t i = 0; i < 4; i++) CODE(twire_core_open(core, &bad[i], 0, NULL, NULL));
  CODE(twire_core_send(core, 1, &bad[0]));
  CODE(twire_core_send(NULL, 1, &message));
  CODE(twire_core_send(core, 1, NULL));
  NUMBER(twire_core_cancel(NULL, 1));
  NUMBER(twire_core_forget(NULL, 1));
  CODE(twire_core_ping(NULL, payload));
  CODE(twire_core_ping(core, NULL));
  NOTHING(twire_core_close(NULL, 0, "text"));
  NUMBER(twire_core_ready(NULL));
  NUMBER(twire_core_open_streams(NULL));
  NUMBER(twire_core_connection_id(NULL));
  TEXT(twire_request_id(1, 1, NULL));
  NOTHING(twire_core_close(core, 0, NULL));
  twire_core_free(core);
}

static void replies(void) {
  char id[TWIRE_REQUEST_ID];
  twire_timing timing;
  POINTER(reply = twire_reply_new());
  NOTHING(twire_reply_free(NULL));
  NOTHING(twire_reply_memory(NULL, x, 4));
  NOTHING(twire_reply_memory(reply, NULL, 4));
  NOTHING(twire_reply_set_user(NULL, x));
  POINTER(twire_reply_user(NULL));
  CODE(twire_reply_status(NULL));
  NUMBER(twire_reply_not_started(NULL));
  TEXT(twire_reply_text(NULL));
  POINTER(twire_reply_tensors(NULL));
  NUMBER(twire_reply_tensor_count(NULL));
  POINTER(twire_reply_tensor(NULL, "y"));
  POINTER(twire_reply_tensor(reply, NULL));
  TEXT(twire_reply_model(NULL));
  TEXT(twire_reply_version(NULL));
  POINTER(twire_reply_body(NULL, &number));
  POINTER(twire_reply_body(reply, NULL));
  NUMBER(twire_reply_timing(NULL, &timing));
  NUMBER(twire_reply_timing(reply, NULL));
  NUMBER(twire_reply_retry_after_us(NULL));
  NUMBER(twire_reply_queue_estimate_us(NULL));
  TEXT(twire_reply_request_id(NULL, id));
  TEXT(twire_reply_request_id(reply, NULL));
}

static void the_client(const char *url) {
  twire_reply *done;
  CODE(twire_connect(NULL, NULL, &client));
  TEXT(twire_connect_error());
  CODE(twire_connect(url, NULL, NULL));
  CODE(twire_connect(url, NULL, &client));
  CODE(twire_submit(NULL, call, &input, NULL, reply));
  TEXT(twire_reply_text(reply));
  CODE(twire_submit(client, NULL, &input, NULL, reply));
  CODE(twire_submit(client, call, NULL, NULL, reply));
  CODE(twire_submit(client, call, &input, NULL, NULL));
  CODE(twire_infer(NULL, call, &input, NULL, reply));
  CODE(twire_infer(client, NULL, &input, NULL, reply));
  CODE(twire_infer(client, call, NULL, NULL, reply));
  CODE(twire_infer(client, call, &input, NULL, NULL));
  CODE(twire_flush(NULL));
  CODE(twire_step(NULL));
  NUMBER(twire_wants_write(NULL));
  NUMBER(twire_next_deadline(NULL));
  CODE(twire_poll(NULL, 0, &done));
  CODE(twire_poll(client, 0, NULL));
  NOTHING(twire_cancel(NULL, reply));
  NOTHING(twire_cancel(client, NULL));
  NUMBER(twire_in_flight(NULL));
  NUMBER(twire_fd(NULL));
  NUMBER(twire_alive(NULL));
  TEXT(twire_error(NULL));
  NUMBER(twire_connection_id(NULL));
  NOTHING(twire_close(NULL));
  CODE(twire_infer(client, call, &input, NULL, reply));
}

/* What `deadline - now` is when the deadline has passed. */
static void durations(const char *url) {
  twire_options options = {0};
  twire_call_options late = {0};
  twire_client *none;
  twire_reply *done;
  late.timeout = (uint64_t)-1000000;
  CODE(twire_infer(client, call, &input, &late, reply));
  NUMBER(twire_reply_not_started(reply));
  CODE(twire_submit(client, call, &input, &late, reply));
  CODE(twire_poll(client, (uint64_t)-1000000, &done));
  CODE(twire_reply_status(reply));
  late.timeout = UINT64_MAX;
  CODE(twire_infer(client, call, &input, &late, reply));
  options.timeout = (uint64_t)-1000000;
  CODE(twire_connect(url, &options, &none));
  options.timeout = 0;
  options.connect_timeout = (uint64_t)-1000000;
  CODE(twire_connect(url, &options, &none));
  TEXT(twire_connect_error());
  options.connect_timeout = options.timeout = UINT64_MAX;
  CODE(twire_connect(url, &options, &none));
  twire_close(none);
}

int main(int argument_count, char **arguments) {
  if (argument_count != 2) die("usage: nulls URL");
  input = twire_dense("x", TWIRE_FLOAT32, x, 2, (int64_t[]){1, 4});
  if (twire_call_new("echo", NULL, &input, 1, &call)) die(twire_connect_error());
  tensors_and_calls();
  the_core();
  replies();
  the_client(arguments[1]);
  durations(arguments[1]);
  twire_close(client);
  twire_reply_free(reply);
  twire_call_free(call);
  return 0;
}

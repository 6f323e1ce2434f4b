/* reply.c: replies: memory that is used again, and what is read from it. */
#include "reply.h"

#include <stdio.h>
#include <stdlib.h>

void *twire__default_allocate(void *context, size_t size) {
  (void)context;
  return size > SIZE_MAX - ALIGNMENT ? NULL : aligned_alloc(ALIGNMENT, (size + ALIGNMENT - 1) & ~(size_t)(ALIGNMENT - 1));
}

void twire__default_release(void *context, void *memory, size_t size) {
  (void)context;
  (void)size;
  free(memory);
}

twire_reply *twire_reply_new(void) {
  twire_reply *reply = calloc(1, sizeof *reply);
  if (reply) reply->text_ = reply->none;
  return reply;
}

void twire__reply_release(twire_reply *reply) {
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

void twire__reply_reset(twire_reply *reply) {
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
void twire__reply_fail(twire_reply *reply, int status, bool not_started, const char *detail) {
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
void *twire__reply_room(twire_reply *reply, const twire_allocator *allocator, size_t size) {
  if (reply->given) return size <= reply->given_size ? reply->given : NULL;
  if (size <= reply->own_size) return reply->own;
  twire__reply_release(reply);
  reply->allocator = *allocator;
  reply->own = allocator->allocate(allocator->context, size);
  reply->own_size = reply->own ? size : 0;
  return reply->own;
}

/* The layout that goes with these metadata bytes: the call's last one, as nearly always, or read anew (SPEC 5.3). */
int twire__reply_layout(twire_reply *reply, const uint8_t *metadata, size_t length, const char **reason) {
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

/* client_events.c: what the core tells a client, made into replies. */
#include "client.h"

#include <stdio.h>

#define STREAMS "the model answers with a stream of messages: use twire_core for it"

void twire__reply_done(twire_client *client, twire_reply *reply) {
  twire_call_free(reply->call);
  reply->call = NULL;
  reply->state = REPLY_DONE;
  reply->next = NULL;
  if (client->done_last) client->done_last->next = reply;
  else client->done = reply;
  client->done_last = reply;
}

/* It is its owner's again. */
void twire__reply_hand_back(twire_client *client, twire_reply *reply) {
  reply->state = REPLY_IDLE;
  reply->client = NULL;
  client->in_flight--;
}

twire_reply *twire__take_done(twire_client *client) {
  twire_reply *reply = client->done;
  if (!reply) return NULL;
  if (!(client->done = reply->next)) client->done_last = NULL;
  twire__reply_hand_back(client, reply);
  return reply;
}

/* This one of those that are done. */
void twire__take_this(twire_client *client, twire_reply *reply) {
  twire_reply *before = NULL;
  for (twire_reply *i = client->done; i != reply; i = i->next) before = i;
  if (before) before->next = reply->next;
  else client->done = reply->next;
  if (client->done_last == reply) client->done_last = before;
  twire__reply_hand_back(client, reply);
}

/* A large reply is about to come: its layout must ask for exactly this length before there is memory for it. */
void *twire__client_place(void *context, const twire_incoming *incoming) {
  twire_client *client = context;
  twire_reply *reply = incoming->tag;
  twire_extension x;
  const char *reason = "no memory";
  uint64_t length = 0;
  reply->stream = incoming->stream;
  if (reply->answered) {
    reply->refused = TWIRE_UNIMPLEMENTED;
    twire__reply_fail(reply, reply->refused, false, STREAMS);
    return NULL;
  }
  (void)twire_extension_read(incoming->extension, incoming->extension_length, &x); /* the core has checked it */
  reply->refused = twire__reply_layout(reply, incoming->metadata, incoming->metadata_length, &reason);
  if (!reply->refused) reply->refused = twire_layout_length(reply->layout, x.dims, x.dim_count, &length, &reason);
  if (!reply->refused && length != incoming->body_length) {
    reason = "the body is longer or shorter than its tensors";
    reply->refused = TWIRE_INVALID_ARGUMENT;
  }
  if (reply->refused) {
    twire__reply_fail(reply, reply->refused, false, reason);
    return NULL;
  }
  void *memory = twire__reply_room(reply, &client->allocator, (size_t)length);
  if (!memory) {
    char text_[128];
    reply->refused = TWIRE_RESOURCE_EXHAUSTED;
    snprintf(text_, sizeof text_, "the reply has %llu bytes: %s", (unsigned long long)length,
             reply->given ? "more than twire_reply_memory gave" : "there is no memory for it");
    twire__reply_fail(reply, TWIRE_RESOURCE_EXHAUSTED, false, text_);
  }
  return memory;
}

/* A message of the server has come whole. Its views are made, or reply says why not. */
static void take_message(twire_client *client, twire_reply *reply, const twire_event *ev) {
  twire_extension x;
  const char *reason = "no memory";
  reply->stream = ev->stream;
  (void)twire_extension_read(ev->extension, ev->extension_length, &x);
  int status = twire__reply_layout(reply, ev->metadata, ev->metadata_length, &reason);
  if (status) {
    twire__reply_fail(reply, status, false, reason);
    return;
  }
  void *body = (void *)(uintptr_t)ev->body;
  if (!ev->placed) {
    body = twire__reply_room(reply, &client->allocator, ev->body_length ? (size_t)ev->body_length : 1);
    if (!body) {
      twire__reply_fail(reply, TWIRE_RESOURCE_EXHAUSTED, false,
                        reply->given ? "the reply is larger than twire_reply_memory allows" : "there is no memory for the reply");
      return;
    }
    copy(body, ev->body, (size_t)ev->body_length); /* the one copy: out of the receive buffer */
  }
  status = twire_layout_views(reply->layout, x.dims, x.dim_count, body, ev->body_length, reply->tensors, &reason);
  if (status) {
    twire__reply_fail(reply, status, false, reason);
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
    twire__reply_fail(reply, TWIRE_UNIMPLEMENTED, false, STREAMS);
    reply->answered = false;
  } else {
    take_message(client, reply, ev);
  }
  if (!ev->end_stream) {
    if (reply->status == TWIRE_OK) return; /* END follows */
    twire_core_cancel(client->core, ev->handle);
  }
  twire__reply_done(client, reply);
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
    twire__reply_fail(reply, ev->status, false, text_);
  } else if (ev->status != TWIRE_OK) {
    twire__reply_fail(reply, ev->status, ev->not_started, ev->text ? ev->text : "");
  } else if (!reply->answered) {
    twire__reply_fail(reply, TWIRE_INTERNAL, false, "the server ended the call with OK, but sent no reply");
  }
  twire__reply_done(client, reply);
}

void twire__handle_events(twire_client *client) {
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

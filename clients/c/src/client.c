/* client.c: calls on a client: submit, poll, flush, step, cancel. */
#include "client.h"
#include "core.h"

#include <stdlib.h>
#include <sys/socket.h>

int twire_flush(twire_client *client) {
  if (!client) return TWIRE_E_ARGUMENT;
  int status = TWIRE_OK;
  twire__drain_before_write(client);
  while (!status && !client->closed && !twire__write_some(client)) {
    if (!twire__sends(client->core)) {
      status = TWIRE_E_AGAIN;
      break;
    }
    twire__wait_socket(client, twire_core_next_deadline(client->core), true);
    (void)twire__read_once(client, MSG_DONTWAIT);
    if (twire__expire(client)) status = TWIRE_DEADLINE_EXCEEDED;
  }
  twire__handle_events(client);
  return client->closed ? TWIRE_E_CLOSED : status;
}

int twire_step(twire_client *client) {
  if (!client) return TWIRE_E_ARGUMENT;
  twire__drain_before_write(client);
  if (!client->closed) (void)twire__write_some(client);
  twire__handle_events(client); /* calls whose deadline passed in the queue */
  if (!client->closed) (void)twire__read_once(client, MSG_DONTWAIT);
  (void)twire__expire(client);
  return client->closed ? TWIRE_E_CLOSED : TWIRE_OK;
}

bool twire_wants_write(const twire_client *client) {
  return client && !client->closed && twire_core_wants_write(client->core);
}

uint64_t twire_next_deadline(const twire_client *client) {
  if (!client) return 0;
  return client->done ? 1 : twire_core_next_deadline(client->core);
}

int twire_submit(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                 twire_reply *reply) {
  static const twire_call_options none;
  char text_[512];
  size_t iovecs;
  if (!options) options = &none;
  if (!reply) return TWIRE_E_ARGUMENT;
  if (reply->state != REPLY_IDLE) return TWIRE_E_BUSY;
  twire__reply_reset(reply);
  if (!client || !call || (!inputs && call->input_count)) {
    twire__reply_fail(reply, TWIRE_E_ARGUMENT, true,
                      !client ? "there is no client" : !call ? "there is no call" : "there are no inputs");
    return TWIRE_E_ARGUMENT;
  }
  int status = twire__call_gather(call, inputs, &iovecs, text_, sizeof text_);
  if (status) {
    twire__reply_fail(reply, status, true, text_);
    return status;
  }
  uint64_t timeout = options->timeout ? options->timeout : client->timeout;
  uint64_t deadline = timeout == 0 ? 0 : twire__time_after(twire__negative(timeout) ? 0 : timeout);
  twire_message message = {call->metadata,
                           call->metadata_length,
                           call->dims,
                           call->dim_count,
                           options->trace,
                           call->body,
                           iovecs,
                           (uint16_t)(END_STREAM | (options->want_timing ? WANT_TIMING : 0)),
                           options->priority};
  status = twire_core_open(client->core, &message, deadline, reply, &reply->handle);
  if (status) {
    twire__reply_fail(reply, status, true,
                      status == TWIRE_RESOURCE_EXHAUSTED ? "the inputs are larger than the server's max_message"
                      : *client->error                   ? client->error
                                                         : "the connection takes no calls");
    return status;
  }
  reply->connection_id = twire_core_connection_id(client->core);
  reply->client = client;
  reply->call = call;
  call->references++;
  reply->state = REPLY_SUBMITTED;
  client->in_flight++;
  return TWIRE_OK;
}

int twire_poll(twire_client *client, uint64_t timeout, twire_reply **reply) {
  if (reply) *reply = NULL;
  if (!client || !reply) return TWIRE_E_ARGUMENT;
  if (twire__negative(timeout)) timeout = 0;
  uint64_t until = timeout && timeout != UINT64_MAX ? twire__time_after(timeout) : 0;
  while (!(*reply = twire__take_done(client))) {
    if (timeout == 0) {
      (void)twire_step(client);
      *reply = twire__take_done(client);
      return *reply ? TWIRE_OK : TWIRE_E_AGAIN;
    }
    if (client->in_flight == 0 || client->closed) return TWIRE_E_AGAIN;
    if (until && twire_now() >= until) return TWIRE_E_AGAIN;
    twire__turn(client, until);
  }
  return TWIRE_OK;
}

int twire_infer(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                twire_reply *reply) {
  int status = twire_submit(client, call, inputs, options, reply);
  if (status) return status;
  while (reply->state == REPLY_SUBMITTED) {
    twire_reply *others = client->done, *last = client->done_last;
    client->done = client->done_last = NULL; /* so that `turn` waits for news */
    twire__turn(client, 0);
    if (others) {
      last->next = client->done;
      if (!client->done) client->done_last = last;
      client->done = others;
    }
  }
  twire__take_this(client, reply);
  return reply->status;
}

void twire_cancel(twire_client *client, twire_reply *reply) {
  if (!client || !reply || reply->state != REPLY_SUBMITTED || reply->client != client) return;
  if (twire_core_cancel(client->core, reply->handle)) {
    twire__reply_fail(reply, TWIRE_CANCELLED, false, "cancelled by the caller");
    twire__reply_done(client, reply);
  } else {
    twire__handle_events(client); /* the connection has just ended, and this call with it */
  }
}

/* The client knows this reply no more, nor does it read the tensors of its call: they may have gone before it. */
static void reply_forget(twire_reply *reply) {
  twire_client *client = reply->client;
  if (reply->state == REPLY_DONE) twire__take_this(client, reply);
  if (reply->state == REPLY_IDLE) return;
  (void)twire_core_forget(client->core, reply->handle);
  twire_call_free(reply->call);
  reply->call = NULL;
  twire__reply_hand_back(client, reply);
  twire__handle_events(client); /* it may have cost the connection */
}

void twire_reply_free(twire_reply *reply) {
  if (!reply) return;
  reply_forget(reply);
  twire__reply_release(reply);
  twire_layout_free(reply->layout);
  free(reply->tensors);
  if (reply->text_ != reply->none) free(reply->text_);
  free(reply);
}

void twire_reply_memory(twire_reply *reply, void *memory, size_t size) {
  if (!reply) return;
  if (reply->state == REPLY_SUBMITTED) twire_cancel(reply->client, reply);
  if (reply->state == REPLY_DONE && reply->given && reply->body == reply->given)
    twire__reply_fail(reply, TWIRE_CANCELLED, false, "its memory was taken back before it was handed out");
  reply->given = memory;
  reply->given_size = memory ? size : 0;
}

size_t twire_in_flight(const twire_client *client) { return client ? client->in_flight : 0; }
int twire_fd(const twire_client *client) { return client ? client->fd : -1; }
bool twire_alive(const twire_client *client) { return client && !client->closed && twire_core_ready(client->core); }
const char *twire_error(const twire_client *client) { return client ? client->error : "there is no client"; }
uint64_t twire_connection_id(const twire_client *client) { return client ? twire_core_connection_id(client->core) : 0; }

/* reply.h: a reply, and what a client does with it. */
#ifndef TWIRE_REPLY_H
#define TWIRE_REPLY_H

#include "call.h"

enum { REPLY_IDLE, REPLY_SUBMITTED, REPLY_DONE };

struct twire_reply {
  void *user;
  int state, status;
  bool not_started, has_timing, answered;
  twire_timing timing;
  uint32_t retry_after_us, queue_estimate_us;
  uint64_t connection_id, stream;

  twire_layout *layout;
  twire_tensor *tensors;
  size_t tensor_room, tensor_count;
  void *body;
  uint64_t body_length;
  void *own, *given; /* memory of the allocator; memory of the caller */
  size_t own_size, given_size;
  twire_allocator allocator; /* that `own` is from */

  /* under way */
  twire_client *client;
  twire_call *call;
  twire_handle handle;
  struct twire_reply *next;
  int refused; /* why `place` gave no memory */

  size_t text_room;
  char *text_, none[1];
};

void *twire__default_allocate(void *context, size_t size);
void twire__default_release(void *context, void *memory, size_t size);
void twire__reply_release(twire_reply *reply);
void twire__reply_reset(twire_reply *reply);
void twire__reply_fail(twire_reply *reply, int status, bool not_started, const char *detail);
void *twire__reply_room(twire_reply *reply, const twire_allocator *allocator, size_t size);
int twire__reply_layout(twire_reply *reply, const uint8_t *metadata, size_t length, const char **reason);

#endif

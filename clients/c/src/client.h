/* client.h: a client, and what its files do for each other. */
#ifndef TWIRE_CLIENT_H
#define TWIRE_CLIENT_H

#include "reply.h"

struct twire_client {
  int fd;
  twire_core *core;
  twire_allocator allocator;
  uint64_t timeout, spin, last_read;
  uint64_t receive_timeout; /* SO_RCVTIMEO as it stands, 0 = none */
  size_t in_flight;         /* submitted, not yet handed out */
  twire_reply *done, *done_last;
  bool ready, closed;
  uint32_t close_code;
  bool close_remote;
  char error[ESCAPED_TEXT + 512];
};

/* client_events.c */
void twire__reply_done(twire_client *client, twire_reply *reply);
void twire__reply_hand_back(twire_client *client, twire_reply *reply);
twire_reply *twire__take_done(twire_client *client);
void twire__take_this(twire_client *client, twire_reply *reply);
void *twire__client_place(void *context, const twire_incoming *incoming);
void twire__handle_events(twire_client *client);

/* client_io.c */
int twire__read_once(twire_client *client, int flags);
bool twire__write_some(twire_client *client);
void twire__wait_socket(twire_client *client, uint64_t until, bool write);
void twire__drain_before_write(twire_client *client);
bool twire__expire(twire_client *client);
void twire__turn(twire_client *client, uint64_t until);

#endif

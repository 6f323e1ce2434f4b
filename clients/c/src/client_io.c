/* client_io.c: the socket of a client: reading, writing, waiting. No rule of the wire. */
#define _GNU_SOURCE /* ppoll */

#include "client.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>

#define DRAIN_AFTER 1000000u      /* ns without a read, after which what has arrived is read before a send (SPEC 15.4) */

#define WRITE_BUFFERS 512
#define WRITE_BYTES 4194304u /* in one turn: then the clock, and what has arrived, have theirs */

/* Read once. 1: something came; 0: nothing now (flags has MSG_DONTWAIT, or SO_RCVTIMEO passed); events are handled. */
int twire__read_once(twire_client *client, int flags) {
  struct iovec buffers[2];
  struct msghdr message = {0};
  message.msg_iov = buffers;
  message.msg_iovlen = (size_t)twire_core_next_buffers(client->core, buffers);
  ssize_t n = message.msg_iovlen == 1 ? recv(client->fd, buffers[0].iov_base, buffers[0].iov_len, flags)
                                      : recvmsg(client->fd, &message, flags);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  if (n > 0) {
    client->last_read = twire_now();
    twire_core_received(client->core, (size_t)n, client->last_read);
  } else {
    twire_core_eof(client->core);
  }
  twire__handle_events(client);
  return 1;
}

/* Write what the socket takes, up to WRITE_BYTES. True: nothing is left to write. */
bool twire__write_some(twire_client *client) {
  struct iovec buffers[WRITE_BUFFERS];
  uint64_t now = twire_now();
  size_t written = 0;
  while (twire_core_wants_write(client->core)) {
    if (written >= WRITE_BYTES) return false;
    struct msghdr message = {0};
    message.msg_iov = buffers;
    message.msg_iovlen = twire_core_output(client->core, buffers, WRITE_BUFFERS, now);
    if (message.msg_iovlen == 0) break; /* all that was queued had passed its deadline */
    ssize_t n = sendmsg(client->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
      if (errno == EINTR) continue;
      if (errno == EAGAIN || errno == EWOULDBLOCK) return false;
      while (!client->closed && twire__read_once(client, MSG_DONTWAIT) == 1) continue; /* its last words may say why */
      if (!client->closed) twire_core_eof(client->core);
      twire__handle_events(client);
      return true;
    }
    twire_core_sent(client->core, (size_t)n);
    written += (size_t)n;
  }
  return true;
}

/* Sleep until the socket is readable (or writable, if there is something to write), or until `until` (0 = for ever). */
void twire__wait_socket(twire_client *client, uint64_t until, bool write) {
  struct pollfd p = {client->fd, (short)(write ? POLLIN | POLLOUT : POLLIN), 0};
  struct timespec t, *limit = NULL;
  if (until) {
    uint64_t now = twire_now(), left = until > now ? until - now : 0;
    t = (struct timespec){(time_t)(left / 1000000000u), (long)(left % 1000000000u)};
    limit = &t;
  }
  (void)ppoll(&p, 1, limit, NULL);
}

/*
 * Read, sleeping inside recv where it can be done: one system call, not two. SO_RCVTIMEO is coarse (a tick of the kernel), so
 * it is only used for the first three quarters of a wait, and stands as long as waits are alike; ppoll does the rest.
 */
static void read_waiting(twire_client *client, uint64_t until) {
  uint64_t now = 0;
  if (client->spin || until) now = twire_now();
  for (uint64_t end = now + client->spin; client->spin && now < end && !(until && now >= until); now = twire_now())
    if (twire__read_once(client, MSG_DONTWAIT)) return;
  uint64_t left = until > now ? until - now : 0, margin = 20000000u;
  if (until && left < 2 * margin) {
    twire__wait_socket(client, until, false);
    (void)twire__read_once(client, MSG_DONTWAIT);
    return;
  }
  uint64_t stands = client->receive_timeout;
  if (until && (stands == 0 || stands > left - margin || stands < left / 4)) {
    stands = left / 4 * 3 < left - margin ? left / 4 * 3 : left - margin;
    struct timeval t = {(time_t)(stands / 1000000000u), (suseconds_t)(stands % 1000000000u / 1000)};
    if (setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t) == 0) client->receive_timeout = stands;
  }
  (void)twire__read_once(client, 0);
}

/* What arrived while nobody read, GOAWAY and CLOSE among it, is seen before anything is sent (SPEC 15.4). */
void twire__drain_before_write(twire_client *client) {
  if (!client->closed && twire_core_wants_write(client->core) && twire_now() - client->last_read > DRAIN_AFTER)
    (void)twire__read_once(client, MSG_DONTWAIT);
}

/* End calls whose deadline has passed. False: there were none. */
bool twire__expire(twire_client *client) {
  uint64_t deadline = twire_core_next_deadline(client->core), now;
  if (!deadline || (now = twire_now()) < deadline) return false;
  twire_core_timer(client->core, now);
  twire__handle_events(client);
  return true;
}

/* Once: write what can be written, then read, waiting up to `until`. What is done shows in client->done. */
void twire__turn(twire_client *client, uint64_t until) {
  uint64_t deadline = twire_core_next_deadline(client->core);
  if (deadline && (!until || deadline < until)) until = deadline;
  twire__drain_before_write(client);
  if (client->done) return;
  bool written = twire__write_some(client);
  twire__handle_events(client); /* calls whose deadline passed in the queue */
  if (client->closed || client->done) return;
  if (written) {
    read_waiting(client, until);
  } else {
    twire__wait_socket(client, until, true);
    (void)twire__read_once(client, MSG_DONTWAIT);
  }
  if (!client->done) (void)twire__expire(client);
}

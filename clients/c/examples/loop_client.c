/*
 * loop_client: the client in an event loop of one's own, here epoll, beside whatever else the program waits for, here stdin. No
 * step waits: a server that has stopped costs calls their deadline and the loop nothing.
 *
 *     echo '300 1000' | loop_client tw://127.0.0.1:7411 echo x 16
 *
 * Each line is a round of calls with a float32 [1, 16]: how many at once, and how many milliseconds they have.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "twire.h"

#define MOST 1000

static void die(const char *what, const char *why) {
  fprintf(stderr, "loop_client: %s: %s\n", what, why);
  exit(1);
}

typedef struct round_state {
  long calls, over, good, late;
} round_state;

/* The next line of stdin, if a round is over; false at its end. */
static bool begin(round_state *round, twire_client *client, twire_call *call, const twire_tensor *input, twire_reply **replies) {
  char line[64];
  unsigned long milliseconds;
  *round = (round_state){0};
  if (!fgets(line, sizeof line, stdin)) return false;
  if (sscanf(line, "%ld %lu", &round->calls, &milliseconds) != 2 || round->calls < 1 || round->calls > MOST)
    die("stdin", "expected CALLS (1 to 1000) MILLISECONDS");
  twire_call_options options = {.timeout = milliseconds * 1000000};
  for (long i = 0; i < round->calls; i++)
    if (twire_submit(client, call, input, &options, replies[i])) die("submit", twire_reply_text(replies[i]));
  return true;
}

/* The calls that are over. True: they were the last of the round. */
static bool take(round_state *round, twire_client *client) {
  twire_reply *reply;
  bool any = false;
  while (twire_poll(client, 0, &reply) == TWIRE_OK) {
    any = true;
    round->over++;
    round->good += twire_reply_status(reply) == TWIRE_OK;
    round->late += twire_reply_status(reply) == TWIRE_DEADLINE_EXCEEDED;
  }
  return any && round->over == round->calls;
}

static void watch(int epoll, int operation, int fd, uint32_t events) {
  struct epoll_event event = {.events = events, .data.fd = fd};
  if (epoll_ctl(epoll, operation, fd, &event)) die("epoll_ctl", strerror(errno));
}

int main(int argc, char **argv) {
  long width = argc == 5 ? atol(argv[4]) : 0;
  if (width < 1) die("usage", "loop_client URL MODEL INPUT WIDTH");
  float *values = calloc((size_t)width, sizeof *values);
  twire_tensor input = twire_dense(argv[3], TWIRE_FLOAT32, values, 2, (int64_t[]){1, width});
  twire_client *client;
  twire_call *call;
  static twire_reply *replies[MOST];
  for (int i = 0; i < MOST; i++)
    if (!(replies[i] = twire_reply_new()) || !values) die("replies", "out of memory");
  if (twire_call_new(argv[2], NULL, &input, 1, &call) || twire_connect(argv[1], NULL, &client)) die(argv[1], twire_connect_error());

  setvbuf(stdin, NULL, _IONBF, 0);
  int epoll = epoll_create1(0);
  watch(epoll, EPOLL_CTL_ADD, STDIN_FILENO, EPOLLIN);
  watch(epoll, EPOLL_CTL_ADD, twire_fd(client), EPOLLIN);
  round_state round = {0};
  int status = TWIRE_OK;
  for (bool more = true; more && status == TWIRE_OK;) {
    bool idle = round.over == round.calls; /* one round at a time */
    watch(epoll, EPOLL_CTL_MOD, STDIN_FILENO, idle ? EPOLLIN : 0);
    watch(epoll, EPOLL_CTL_MOD, twire_fd(client), EPOLLIN | (twire_wants_write(client) ? EPOLLOUT : 0));
    uint64_t now = twire_now(), deadline = twire_next_deadline(client);
    int wait = !deadline ? -1 : deadline <= now ? 0 : (int)((deadline - now) / 1000000 + 1);
    struct epoll_event events[2];
    int count = epoll_wait(epoll, events, 2, wait);
    for (int i = 0; i < count; i++)
      if (events[i].data.fd == STDIN_FILENO && idle) more = begin(&round, client, call, &input, replies);
    status = twire_step(client);
    if (take(&round, client)) {
      printf("%ld calls: %ld good, %ld late, %ld failed\n", round.calls, round.good, round.late,
             round.calls - round.good - round.late);
      fflush(stdout);
    }
  }
  if (status) fprintf(stderr, "loop_client: closed: %s\n", twire_error(client));
  twire_close(client);
  twire_call_free(call);
  for (int i = 0; i < MOST; i++) twire_reply_free(replies[i]);
  close(epoll);
  free(values);
  return status != TWIRE_OK;
}

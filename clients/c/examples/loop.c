/*
 * loop: the protocol in an event loop of one's own. The core does no I/O: bytes and a clock go in, events and iovecs come out.
 *
 *     loop 127.0.0.1 7411 echo x 5      5 calls with a float32 [1, 4], at once
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "twire_core.h"

static void die(const char *what, const char *why) {
  fprintf(stderr, "loop: %s: %s\n", what, why);
  exit(1);
}

static int dial(const char *host, const char *port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
  if (inet_pton(AF_INET, host, &address.sin_addr) != 1) die(host, "no IPv4 address");
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (fd < 0 || (connect(fd, (struct sockaddr *)&address, sizeof address) && errno != EINPROGRESS)) die(host, strerror(errno));
  return fd;
}

/* Put `calls` calls under way: the metadata of a prepared call, one value for each free dim, and the caller's own memory. */
static void open_calls(twire_core *core, const twire_call *call, long calls) {
  static const uint64_t dims[] = {1, 4};
  static const float values[] = {1, 2, 3, 4};
  const struct iovec body = {(void *)values, sizeof values};
  twire_message message = {.dims = dims, .dim_count = 2, .body = &body, .body_count = 1, .flags = TWIRE_END_STREAM};
  message.metadata = twire_call_metadata(call, &message.metadata_length);
  for (long i = 0; i < calls; i++) {
    twire_handle handle;
    int error = twire_core_open(core, &message, twire_now() + 1000000000, NULL, &handle); /* 1 s for each */
    if (error) die("twire_core_open", twire_strerror(error));
  }
}

/* Handle what came. Returns how many calls are over. */
static long take_events(twire_core *core, const twire_call *call, long calls) {
  long over = 0;
  for (twire_event event; twire_core_poll_event(core, &event);) {
    if (event.type == TWIRE_EVENT_READY) open_calls(core, call, calls);
    if (event.type == TWIRE_EVENT_CLOSED) die("closed", event.text);
    if (event.type == TWIRE_EVENT_ENDED) printf("stream %llu: %s\n", (unsigned long long)event.stream, event.text), over++;
    if (event.type != TWIRE_EVENT_MESSAGE) continue;
    printf("stream %llu: %llu bytes\n", (unsigned long long)event.stream, (unsigned long long)event.body_length);
    over += event.end_stream;
  }
  return over;
}

static void write_all(twire_core *core, int fd) {
  struct iovec buffers[64];
  for (size_t count; (count = twire_core_output(core, buffers, 64, twire_now())) > 0;) {
    ssize_t sent = writev(fd, buffers, (int)count);
    twire_core_sent(core, sent > 0 ? (size_t)sent : 0);
    if (sent < 0) return; /* full: epoll says when it is not; broken: the next read says so */
  }
}

int main(int argc, char **argv) {
  if (argc != 6) die("usage", "loop HOST PORT MODEL INPUT CALLS");
  long calls = atol(argv[5]), over = 0;
  twire_tensor input = twire_dense(argv[4], TWIRE_FLOAT32, NULL, 2, (int64_t[]){1, 4});
  twire_call *call;
  if (calls < 1 || twire_call_new(argv[3], NULL, &input, 1, &call)) die(argv[3], twire_connect_error());
  twire_core_config config = {.now = twire_now(), .handshake_deadline = twire_now() + 5000000000};
  twire_core *core = twire_random(config.nonce, sizeof config.nonce) ? twire_core_new(&config) : NULL;
  if (!core) die("core", "out of memory");
  int fd = dial(argv[1], argv[2]), epoll = epoll_create1(0);
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN | EPOLLOUT});

  while (over < calls) {
    uint64_t now = twire_now(), deadline = twire_core_next_deadline(core);
    int wait = !deadline ? -1 : deadline <= now ? 0 : (int)((deadline - now) / 1000000 + 1);
    struct epoll_event event = {0};
    if (epoll_wait(epoll, &event, 1, wait) < 0) die("epoll_wait", strerror(errno));
    if (event.events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
      struct iovec buffers[2];
      ssize_t got = readv(fd, buffers, twire_core_next_buffers(core, buffers));
      if (got > 0) twire_core_received(core, (size_t)got, twire_now());
      else if (got == 0 || errno != EAGAIN) twire_core_eof(core);
    }
    twire_core_timer(core, twire_now());
    over += take_events(core, call, calls);
    write_all(core, fd);
    epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &(struct epoll_event){.events = EPOLLIN | (twire_core_wants_write(core) ? EPOLLOUT : 0)});
  }
  twire_core_close(core, TWIRE_CLOSE_NO_ERROR, "done");
  write_all(core, fd);
  close(fd);
  close(epoll);
  twire_core_free(core);
  twire_call_free(call);
  return 0;
}

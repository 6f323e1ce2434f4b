/*
 * The load engine (load.h): sockets, the schedule, and the epoll loop with its turns.
 *
 * What must not live here: options and printing (load_cli.c), what a call looks like on the wire (a load_protocol).
 *
 * A turn of a connection: one readv, what came of it (each call that is over starts the next), one writev.
 */
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MOST_BUFFERS = 1024 /* IOV_MAX of Linux */, MOST_EVENTS = 64 };
static const uint64_t SECOND = 1000000000, MILLISECOND = 1000000;
/* Nothing came for so long while calls were in flight: the server hangs, and so would we. */
static const uint64_t SILENCE = 30 * UINT64_C(1000000000);
/* Before an intended send of an open loop the sockets are polled, not slept on: waking up takes about so long. */
static const uint64_t WAKE_UP = 50000;

static volatile sig_atomic_t interrupted;

static void interrupt(int number) {
  (void)number;
  interrupted = 1;
}

uint64_t load_now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static double cpu_seconds(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

/* ------------------------------------------------------------------------------------------------------ sockets */

static int connect_unix(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) load_fatal(LOAD_USAGE, "%s: a socket's path has at most 107 bytes", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address))
    load_fatal(LOAD_NO_CONNECTION, "no connection to %s: %s; is the server running?", path, strerror(errno));
  return fd;
}

int load_connect(const char *address) {
  if (address[0] == '/') return connect_unix(address);
  char host[256];
  const char *colon = strrchr(address, ':');
  if (!colon || colon == address || (size_t)(colon - address) >= sizeof host)
    load_fatal(LOAD_USAGE, "%s is no address: expected host:port, or the path of a Unix socket", address);
  bool bracketed = address[0] == '[' && colon[-1] == ']'; /* [::1]:7411 */
  snprintf(host, sizeof host, "%.*s", (int)(colon - address) - 2 * bracketed, address + bracketed);
  struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
  int error = getaddrinfo(host, colon + 1, &hints, &found);
  if (error) load_fatal(LOAD_USAGE, "%s: %s", address, gai_strerror(error));
  int fd = -1;
  for (struct addrinfo *one = found; one && fd < 0; one = one->ai_next) {
    fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0) break;
    if (fd >= 0) close(fd);
    fd = -1;
  }
  freeaddrinfo(found);
  if (fd < 0) load_fatal(LOAD_NO_CONNECTION, "no connection to %s: %s; is the server running?", address, strerror(errno));
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
  return fd;
}

void load_lost(load_connection *connection, const char *text) {
  if (!connection->open) return;
  load_test *load = connection->load;
  if (load->lost++ == 0) fprintf(stderr, "%s: connection %u is lost: %s\n", program_invocation_short_name, connection->index, text);
  close(connection->fd); /* which also takes it out of the epoll set */
  connection->open = false;
  connection->draining = true;
}

/* ------------------------------------------------------------------------------------------------------ the calls */

static bool may_start(load_test *load, uint64_t due) {
  return !interrupted && due < load->end && load->started < load->calls;
}

/* Send a call that was due then. False: this connection takes no more; the slot is free again. */
static bool start(load_slot *slot, uint64_t due, uint64_t now) {
  load_connection *connection = slot->connection;
  load_test *load = connection->load;
  slot->due = due;
  slot->recorded = due >= load->record_begin;
  if (connection->draining || !load->protocol->start(connection, slot, now)) {
    connection->draining = true;
    slot->next = connection->free;
    connection->free = slot;
    return false;
  }
  slot->in_flight = true;
  connection->dirty = true;
  load->under_way++;
  load->started += slot->recorded;
  return true;
}

static load_slot *take(load_connection *connection) {
  load_slot *slot = connection->free;
  if (slot) connection->free = slot->next;
  return slot;
}

/* A call is over. A closed loop starts the next; in an open loop the schedule does. */
static void over(load_slot *slot, uint64_t now) {
  load_connection *connection = slot->connection;
  load_test *load = connection->load;
  slot->in_flight = false;
  load->under_way--;
  if (slot->recorded) load->last_done = now;
  if (load->rate == 0 && may_start(load, now)) {
    start(slot, now, now);
    return;
  }
  slot->next = connection->free;
  connection->free = slot;
}

void load_done(load_slot *slot, uint64_t now) {
  if (slot->recorded) histogram_record(&slot->connection->load->latencies, now - slot->due);
  over(slot, now);
}

void load_failed(load_slot *slot, const char *name, const char *text, uint64_t now) {
  load_test *load = slot->connection->load;
  if (slot->recorded) {
    if (load->error_count++ == 0)
      fprintf(stderr, "%s: first failed call: %s: %s\n", program_invocation_short_name, name, text);
    load_error *error = load->errors;
    while (error->name && strcmp(error->name, name) != 0 && error + 1 < load->errors + MOST_ERRORS) error++;
    error->name = name;
    error->count++;
  }
  over(slot, now);
}

/* The next connection that has a free slot, in turn; NULL if none has. */
static load_slot *take_any(load_test *load) {
  for (uint32_t tried = 0; tried < load->connection_count; tried++) {
    load_connection *connection = &load->connections[load->next];
    load->next = load->next + 1 == load->connection_count ? 0 : load->next + 1;
    if (connection->free && !connection->draining) return take(connection);
  }
  return NULL;
}

static uint64_t next_due(const load_test *load) {
  return load->begin + (uint64_t)((double)load->scheduled * 1e9 / load->rate);
}

/* Open loop: start what is due. Returns when the next call is due; 0 = when a slot is free, or never. */
static uint64_t start_due(load_test *load, uint64_t now) {
  for (;;) {
    uint64_t due = next_due(load);
    if (!may_start(load, due)) return 0;
    if (due > now) return due;
    load_slot *slot = take_any(load);
    if (!slot) return 0;
    if (!start(slot, due, now)) continue;
    load->scheduled++;
    if (slot->recorded && now - due > load->lateness) load->lateness = now - due;
  }
}

/* ------------------------------------------------------------------------------------------------------ the turns */

/* Receive once. Returns when that was. */
static uint64_t read_some(load_connection *connection) {
  load_test *load = connection->load;
  struct iovec buffers[2];
  int count = load->protocol->buffers(connection, buffers);
  ssize_t got = count == 1 ? recv(connection->fd, buffers[0].iov_base, buffers[0].iov_len, 0)
                           : readv(connection->fd, buffers, count);
  if (got < 0) {
    if (errno == EAGAIN || errno == EINTR) return load_now();
    got = 0; /* a reset: the end, too */
  }
  uint64_t now = load_now();
  load->last_heard = now;
  load->bytes_in += (size_t)got;
  load->protocol->received(connection, (size_t)got, now);
  if (got == 0) load_lost(connection, "the server closed it");
  return now;
}

static void watch(load_connection *connection, bool blocked) {
  if (connection->blocked == blocked) return;
  connection->blocked = blocked;
  struct epoll_event event = {.events = EPOLLIN | (blocked ? EPOLLOUT : 0), .data.ptr = connection};
  epoll_ctl(connection->load->epoll, EPOLL_CTL_MOD, connection->fd, &event);
}

static void write_some(load_connection *connection, uint64_t now) {
  load_test *load = connection->load;
  struct iovec buffers[MOST_BUFFERS];
  connection->dirty = false;
  while (connection->open) {
    size_t count = load->protocol->output(connection, buffers, MOST_BUFFERS, now);
    if (count == 0) {
      watch(connection, false);
      return;
    }
    struct msghdr message = {.msg_iov = buffers, .msg_iovlen = count};
    ssize_t sent = sendmsg(connection->fd, &message, MSG_NOSIGNAL);
    int error = errno;
    load->protocol->sent(connection, sent > 0 ? (size_t)sent : 0);
    if (sent > 0) {
      load->bytes_out += (size_t)sent;
    } else if (error == EAGAIN) {
      watch(connection, true);
      return;
    } else if (error != EINTR) {
      return; /* broken: what the server said before that is still to be read, then the end */
    }
  }
}

static void turn(load_connection *connection, uint32_t events, uint64_t now) {
  if (!connection->open) return;
  if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) now = read_some(connection);
  if ((connection->dirty && !connection->blocked) || (events & EPOLLOUT)) write_some(connection, now);
}

/* Whether any connection still takes calls. */
static bool usable(const load_test *load) {
  for (uint32_t i = 0; i < load->connection_count; i++)
    if (!load->connections[i].draining) return true;
  return false;
}

/* Calls whose deadline is over. Returns when to look again; 0 = never. */
static uint64_t run_timers(load_test *load, uint64_t now) {
  uint64_t first = 0;
  if (!load->protocol->timer) return 0;
  for (uint32_t i = 0; i < load->connection_count; i++) {
    load_connection *connection = &load->connections[i];
    if (!connection->open) continue;
    uint64_t deadline = load->protocol->next_deadline(connection);
    if (deadline && deadline <= now) {
      load->protocol->timer(connection, now);
      if (connection->open) write_some(connection, now);
      deadline = connection->open ? load->protocol->next_deadline(connection) : 0;
    }
    if (deadline && (!first || deadline < first)) first = deadline;
  }
  return first;
}

/* The warm-up is over: what is counted is counted from here. */
static void begin_recording(load_test *load) {
  load->recording = true;
  load->bytes_in = load->bytes_out = 0;
  load->cpu_begin = cpu_seconds();
}

/* Sleep until a socket has something or the time has come; 0 = as long as it takes, but see SILENCE. */
static int wait_for(load_test *load, struct epoll_event *events, uint64_t until, bool exact, uint64_t now) {
  if (!until || until > now + SECOND) until = now + SECOND;
  uint64_t span = until > now ? until - now : 0;
  if (exact) span = span > WAKE_UP ? span - WAKE_UP : 0;
  if (load->spin) span = 0;
  struct timespec time = {.tv_sec = (time_t)(span / SECOND), .tv_nsec = (long)(span % SECOND)};
  int count = span % MILLISECOND == 0 /* as most are; every kernel and callgrind know this call */
                  ? epoll_wait(load->epoll, events, MOST_EVENTS, (int)(span / MILLISECOND))
                  : epoll_pwait2(load->epoll, events, MOST_EVENTS, &time, NULL);
  if (count < 0 && errno != EINTR) load_fatal(LOAD_FAILED, "waiting: %s; epoll_pwait2 needs Linux 5.11", strerror(errno));
  return count;
}

/* Closed loop: every slot's first call. */
static void start_all(load_test *load, uint64_t now) {
  for (uint32_t i = 0; i < load->connection_count; i++) {
    load_connection *connection = &load->connections[i];
    while (connection->free && !connection->draining && may_start(load, now)) start(take(connection), now, now);
  }
}

static void write_dirty(load_test *load, uint64_t now) {
  for (uint32_t i = 0; i < load->connection_count; i++) {
    load_connection *connection = &load->connections[i];
    if (connection->dirty && connection->open && !connection->blocked) write_some(connection, now);
  }
}

static uint64_t earlier(uint64_t one, uint64_t other) {
  return one && (!other || one < other) ? one : other;
}

static void check_silence(const load_test *load, uint64_t now) {
  if (load->under_way == 0 || now < load->last_heard + SILENCE) return;
  load_fatal(LOAD_LOST, "no reply for %u s with %llu calls in flight: the server hangs", (unsigned)(SILENCE / SECOND),
             (unsigned long long)load->under_way);
}

static void loop(load_test *load) {
  struct epoll_event events[MOST_EVENTS];
  uint64_t now = load->begin;
  if (load->rate == 0) start_all(load, now);
  for (;;) {
    uint64_t due = load->rate > 0 ? start_due(load, now) : 0, timer = run_timers(load, now);
    write_dirty(load, now);
    bool more = usable(load) && may_start(load, load->rate > 0 ? next_due(load) : now);
    if (load->under_way == 0 && !more) return;
    check_silence(load, now);
    if (!load->recording && now >= load->record_begin) begin_recording(load);
    uint64_t until = earlier(due, timer);
    if (!load->recording) until = earlier(load->record_begin, until);
    int count = wait_for(load, events, until, due && until == due, now);
    now = load_now();
    for (int i = 0; i < count; i++) turn(events[i].data.ptr, events[i].events, now);
    if (load->rate > 0) now = load_now();
    load_progress(load, now);
  }
}

/* ------------------------------------------------------------------------------------------------------ the run */

/* Connect and shake hands, one connection after the other: servers bound how many may be at it at once. */
static void open_connection(load_connection *connection, const char *address) {
  load_test *load = connection->load;
  connection->fd = load_connect(address);
  connection->open = true;
  load->protocol->begin(connection);
  uint64_t limit = load_now() + 10 * SECOND;
  while (!connection->ready) {
    write_some(connection, load_now());
    struct pollfd poll_fd = {.fd = connection->fd, .events = POLLIN};
    if (load_now() > limit) load_fatal(LOAD_NO_CONNECTION, "%s: no handshake within 10 s", address);
    if (poll(&poll_fd, 1, 1000) > 0) read_some(connection);
    if (!connection->open) load_fatal(LOAD_NO_CONNECTION, "%s: no handshake", address);
  }
  struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
  if (fcntl(connection->fd, F_SETFL, O_NONBLOCK) || epoll_ctl(load->epoll, EPOLL_CTL_ADD, connection->fd, &event))
    load_fatal(LOAD_FAILED, "epoll_ctl: %s", strerror(errno));
}

static void prepare(load_test *load, const char *address) {
  if (load->pin >= 0) {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET((size_t)load->pin, &cores);
    if (sched_setaffinity(0, sizeof cores, &cores)) load_fatal(LOAD_USAGE, "--pin %d: %s", load->pin, strerror(errno));
  }
  prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL); /* sends of an open loop are due to the microsecond; default: 50 us late */
  struct sigaction action = {.sa_handler = interrupt};
  action.sa_flags |= (int)SA_RESETHAND; /* a second Ctrl-C ends at once */
  sigaction(SIGINT, &action, NULL);
  load->epoll = epoll_create1(EPOLL_CLOEXEC);
  load->connections = calloc(load->connection_count, sizeof *load->connections);
  load->slots = calloc((size_t)load->connection_count * load->in_flight, sizeof *load->slots);
  if (load->epoll < 0 || !load->connections || !load->slots) load_fatal(LOAD_FAILED, "out of memory or descriptors");
  for (uint32_t i = 0; i < load->connection_count; i++) {
    load_connection *connection = &load->connections[i];
    *connection = (load_connection){.load = load, .index = i};
    for (uint32_t j = load->in_flight; j-- > 0;) {
      load_slot *slot = &load->slots[(size_t)i * load->in_flight + j];
      *slot = (load_slot){.next = connection->free, .connection = connection, .index = i * load->in_flight + j};
      connection->free = slot;
    }
    open_connection(connection, address);
  }
}

static void close_all(load_test *load) {
  for (uint32_t i = 0; i < load->connection_count; i++) {
    load_connection *connection = &load->connections[i];
    if (connection->open && load->protocol->close) {
      load->protocol->close(connection);
      write_some(connection, load_now());
    }
    if (connection->open) close(connection->fd);
    load->protocol->end(connection);
  }
  for (size_t i = 0; i < (size_t)load->connection_count * load->in_flight; i++) free(load->slots[i].memory);
  free(load->slots);
  free(load->connections);
  close(load->epoll);
}

int load_run(load_test *load, const char *address) {
  prepare(load, address);
  load->begin = load->last_heard = load_now();
  load->record_begin = load->last_done = load->begin + load->warmup;
  load->end = load->duration ? load->record_begin + load->duration : UINT64_MAX;
  if (load->warmup == 0) begin_recording(load);
  loop(load);
  load->seconds = (double)(load->last_done - load->record_begin) / 1e9;
  if (load->duration && !interrupted && !load->lost) /* a slow open loop ends with a pause */
    if (load->seconds < (double)load->duration / 1e9) load->seconds = (double)load->duration / 1e9;
  load->cpu_seconds = cpu_seconds() - load->cpu_begin;
  load_report(load);
  close_all(load);
  return load->lost ? LOAD_LOST : load->error_count ? LOAD_FAILED : LOAD_FINE;
}

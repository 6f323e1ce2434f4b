/*
 * The load engine of twire-load and raw-load: one thread, K connections, N calls in flight on each, one epoll loop.
 *
 * What lives here: schedule (closed loop, or open loop at a rate), sockets, turns, latencies, options, the report.
 * What must not: what a call looks like on the wire. That is a load_protocol, whose functions queue calls and take bytes.
 *
 * Every call is timed from the moment it was meant to be sent, so that a server that stalls cannot hide the calls that had
 * to wait. In a closed loop that is the moment when the call before it was over. Times are nanoseconds of CLOCK_MONOTONIC.
 * Memory is taken before the first call, none per call.
 */
#ifndef LOAD_H
#define LOAD_H

#include <getopt.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "histogram.h"

enum { MOST_ERRORS = 32 /* names of failures that are told apart */ };

/* Exit statuses; those of `tensorwire bench`. */
enum { LOAD_FINE = 0, LOAD_FAILED = 1, LOAD_USAGE = 2, LOAD_NO_CONNECTION = 3, LOAD_LOST = 5 };

typedef struct load_test load_test;
typedef struct load_connection load_connection;

/* A call that may be in flight. It belongs to one connection. */
typedef struct load_slot {
  struct load_slot *next; /* the next free one; in flight: the protocol's to use */
  load_connection *connection;
  uint64_t due;   /* when it was meant to be sent */
  uint32_t index; /* 0 .. connections * in_flight - 1 */
  bool in_flight;
  bool recorded; /* due after the warm-up */
  void *memory;  /* the protocol's to use; freed with free */
  size_t memory_size;
} load_slot;

struct load_connection {
  load_test *load;
  void *state; /* the protocol's */
  int fd;
  uint32_t index;
  bool ready;    /* set by the protocol: calls may be started */
  bool draining; /* set by the protocol: no further calls may be started */
  bool open;
  bool dirty;    /* there may be something to write */
  bool blocked;  /* the socket is full: waiting until it can be written */
  load_slot *free;
};

/* What a connection speaks. Functions without a result end the program by load_fatal, or the connection by load_lost. */
typedef struct load_protocol {
  void (*begin)(load_connection *connection); /* make `state`; the socket is connected and still blocking */
  void (*close)(load_connection *connection); /* queue what ends a connection well; NULL: nothing does */
  void (*end)(load_connection *connection);   /* free `state` */
  bool (*start)(load_connection *connection, load_slot *slot, uint64_t now); /* queue a call. False: set draining */
  int (*buffers)(load_connection *connection, struct iovec buffers[2]);      /* where to receive; how many */
  void (*received)(load_connection *connection, size_t count, uint64_t now); /* 0 = the stream has ended */
  size_t (*output)(load_connection *connection, struct iovec *buffers, size_t max, uint64_t now);
  void (*sent)(load_connection *connection, size_t count);
  uint64_t (*next_deadline)(load_connection *connection); /* both NULL: there are no timers */
  void (*timer)(load_connection *connection, uint64_t now);
} load_protocol;

/* Names of failures, counted. */
typedef struct load_error {
  const char *name; /* static */
  uint64_t count;
} load_error;

struct load_test {
  const load_protocol *protocol;
  /* Options; see load_help. */
  uint32_t connection_count, in_flight;
  uint64_t calls;    /* UINT64_MAX = until the duration is over */
  uint64_t duration; /* 0 = until the calls are made */
  uint64_t warmup;
  double rate; /* calls per second of an open loop; 0 = closed loop */
  bool json, spin;
  int pin; /* -1 = no core */
  const char *target; /* for the report */
  /* State of the run. */
  int epoll;
  load_connection *connections;
  load_slot *slots;
  uint32_t usable;     /* connections on which calls may be started */
  uint32_t next;       /* connection whose turn it is in an open loop */
  uint64_t scheduled;  /* calls of the open loop so far */
  uint64_t begin, record_begin, end;
  uint64_t last_heard; /* when bytes last came */
  uint64_t last_done;
  uint64_t under_way, started; /* calls in flight; recorded calls started */
  uint64_t checked;    /* replies whose contents were compared; counted by the protocol */
  uint64_t lateness;   /* the longest by which a send of the open loop left late */
  uint64_t bytes_in, bytes_out;
  double seconds;      /* that were recorded */
  double cpu_begin, cpu_seconds;
  uint64_t next_progress;
  uint64_t lost;       /* connections */
  bool recording;
  load_histogram latencies;
  uint64_t error_count;
  load_error errors[MOST_ERRORS];
};

/* A run with the defaults; never NULL. */
load_test *load_new(const load_protocol *protocol);
void load_free(load_test *load);

/* The options of every load program, for getopt_long: put LOAD_OPTIONS into the array, give other codes to load_option. */
#define LOAD_OPTIONS                                                                                                     \
  {"connections", required_argument, NULL, 'c'}, {"in-flight", required_argument, NULL, 'n'},                           \
      {"calls", required_argument, NULL, 'm'}, {"duration", required_argument, NULL, 'd'},                              \
      {"rate", required_argument, NULL, 'r'}, {"warmup", required_argument, NULL, 'w'},                                 \
      {"pin", required_argument, NULL, 'p'}, {"threads", required_argument, NULL, 't'}, {"spin", no_argument, NULL, 's'}, \
      {"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}
extern const char load_help[]; /* the lines of --help on them */
void load_option(load_test *load, int code, const char *value);
/* After the last option: what contradicts is refused. */
void load_options_done(load_test *load, int argc, char **argv);
/* A whole number within bounds, or a usage error that names `what`. */
uint64_t load_number(const char *what, const char *text, uint64_t least, uint64_t most);
double load_seconds(const char *what, const char *text);

/* A connected TCP ("host:port") or Unix ("/path") socket. Ends the program if there is none. */
int load_connect(const char *address);
uint64_t load_now(void);
/* Make the run: connect to `address`, load, report. Returns the exit status. */
int load_run(load_test *load, const char *address);

/* What the engine prints: the report on standard output, and while it runs a line on a terminal. */
void load_report(const load_test *load);
void load_progress(load_test *load, uint64_t now);

/* For protocols: how a call in flight went. Each gives the slot back, and may start the next call at once. */
void load_done(load_slot *slot, uint64_t now);
void load_failed(load_slot *slot, const char *name, const char *text, uint64_t now);
/* The connection is over. Calls still in flight on it must be failed by the protocol. */
void load_lost(load_connection *connection, const char *text);
/* One line on standard error, then exit. */
_Noreturn void load_fatal(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif

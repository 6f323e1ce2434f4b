/*
 * twire_core.h: the tensorwire protocol as a state machine without I/O, for those who have sockets and an event loop of their
 * own. Bytes and a clock go in, events and iovecs come out. Most programs need twire.h alone, which says what units, errors,
 * ownership and threads are here, too.
 */
#ifndef TWIRE_CORE_H
#define TWIRE_CORE_H

#include "twire.h"

#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC visibility push(default) /* the library is built with -fvisibility=hidden */
#endif

/* ------------------------------------------------------------------------------------------- reading a message */

/* Verified metadata of a message: who answered and how the body is cut. Immutable. */
typedef struct twire_layout twire_layout;

/*
 * Verify metadata (SPEC 18.1 to 18.3) and make a layout of it; the bytes are copied. `reason` (may be NULL) gets a static
 * text on error. Errors: TWIRE_INVALID_ARGUMENT, TWIRE_E_MEMORY. Free: twire_layout_free.
 */
int twire_layout_read(const void *metadata, size_t length, twire_layout **layout, const char **reason);
void twire_layout_free(twire_layout *layout); /* NULL is allowed */
const char *twire_layout_model(const twire_layout *layout);
const char *twire_layout_version(const twire_layout *layout); /* "" if absent */
/* The tensors as declared: name, dtype, kind, shape with -1 for a free dim; no data. */
const twire_tensor *twire_layout_tensors(const twire_layout *layout, size_t *count);
/*
 * The length of the body that goes with these dims (SPEC 18.4, 18.6), overflow-safe. TWIRE_INVALID_ARGUMENT if their number
 * is not what the layout asks for, or a size does not fit.
 */
int twire_layout_length(const twire_layout *layout, const uint64_t *dims, size_t dim_count, uint64_t *length,
                        const char **reason);
/*
 * Cut a body: fill tensors[0 .. count of the layout) with shapes and views of `body`, whose length must be exact. Checks
 * padding, offsets and bools (SPEC 18.3, 18.5, 18.6). Names point into the layout. Errors: TWIRE_INVALID_ARGUMENT.
 */
int twire_layout_views(const twire_layout *layout, const uint64_t *dims, size_t dim_count, const void *body,
                       uint64_t body_length, twire_tensor *tensors, const char **reason);
/* --------------------------------------------------------------------------------------------- the core */

/* What an extension holds (SPEC 4.4). */
typedef struct twire_extension {
  uint64_t dims[128];
  size_t dim_count;
  bool has_body_length, has_trace, has_timing, has_retry_after, has_queue_estimate;
  uint64_t body_length;
  uint8_t trace[25];
  twire_timing timing;
  uint32_t retry_after_us, queue_estimate_us;
} twire_extension;

/* Read an extension region. False: malformed (SPEC 4.1 to 4.4, of any frame). */
bool twire_extension_read(const void *bytes, size_t length, twire_extension *extension);

typedef struct twire_core twire_core;

/* One stream of a core; never reused within a connection. 0 is no stream. */
typedef uint64_t twire_handle;

/* Flags of a message that is sent, as on the wire (SPEC 3.3). */
enum { TWIRE_END_STREAM = 0x0001, TWIRE_WANT_TIMING = 0x0004 };

/* A message to send. All memory but this struct, `body`'s array and `dims` stays in use until the message is sent, or
 * the stream has had its last event. */
typedef struct twire_message {
  const void *metadata; /* a FlatBuffer of codec/tensor.fbs, at most 65,536 bytes */
  size_t metadata_length;
  const uint64_t *dims; /* free dims and lengths (SPEC 18.4); at most 124 */
  size_t dim_count;
  const uint8_t *trace; /* 25 bytes as in W3C Trace Context, or NULL */
  const struct iovec *body;
  size_t body_count;
  uint16_t flags;
  uint8_t priority; /* larger is more urgent; 0 is ordinary */
} twire_message;

typedef enum twire_event_type {
  TWIRE_EVENT_NONE = 0,
  TWIRE_EVENT_READY,   /* the handshake is done: calls may be opened */
  TWIRE_EVENT_MESSAGE, /* a whole message of the server. With end_stream: success, and the stream's last event */
  TWIRE_EVENT_ABORTED, /* `body`, memory that `place` gave, will not be filled: it is the owner's again */
  TWIRE_EVENT_ENDED,   /* the stream's last event: `status`, which is TWIRE_E_LOST if its outcome is unknown */
  TWIRE_EVENT_PONG,    /* answer to twire_core_ping; `body` has its 8 bytes */
  TWIRE_EVENT_GOAWAY,  /* the server drains: open no new streams here. `stream` is the last it serves, 2^64 - 1 = not said yet */
  TWIRE_EVENT_CLOSED   /* the last event: `code`, `remote`, `text`. Send what is left to send, then close the socket */
} twire_event_type;

/*
 * What happened. Pointers are valid until the next call of any core function, except `body` of a large message, which is
 * the memory that `place` gave.
 */
typedef struct twire_event {
  twire_event_type type;
  twire_handle handle; /* of the stream; 0 if the event is the connection's */
  void *tag;           /* as given to twire_core_open */
  uint64_t stream;     /* its id on the wire; 0 = its OPEN was never sent */
  bool end_stream;     /* MESSAGE */
  bool placed;         /* MESSAGE, ABORTED: `body` is memory that `place` gave */
  bool not_started;    /* ENDED: the model has not seen this call; a retry cannot run it twice */
  bool remote;         /* ENDED, CLOSED: the server said so */
  uint32_t seq;        /* MESSAGE */
  uint8_t priority;    /* MESSAGE */
  int status;          /* ENDED: 0..16, or TWIRE_E_LOST */
  uint32_t code;       /* CLOSED, GOAWAY: error code of SPEC 19.2 */
  const uint8_t *extension; /* MESSAGE, ENDED: raw; already checked. twire_extension_read reads it */
  size_t extension_length;
  const uint8_t *metadata; /* MESSAGE: of the first frame, not verified. READY: the msgpack map, checked */
  size_t metadata_length;
  const void *body; /* MESSAGE */
  uint64_t body_length;
  const char *text; /* ENDED, CLOSED, GOAWAY: for people; NUL-terminated, escaped */
  const uint8_t *raw_text; /* the server's words as they came; escape before printing */
  size_t raw_text_length;
} twire_event;

/* The large body that is about to be received. */
typedef struct twire_incoming {
  twire_handle handle;
  void *tag;
  uint64_t stream;
  const uint8_t *extension, *metadata;
  size_t extension_length, metadata_length;
  uint64_t body_length; /* above 65,536 and at most max_message */
} twire_incoming;

/* Give `body_length` bytes of memory for it, or NULL to refuse: the core cancels the stream (SPEC 7.9), whose last event
 * follows. Called inside twire_core_poll_event; must not call the core. */
typedef void *(*twire_place)(void *context, const twire_incoming *incoming) TWIRE_NOEXCEPT;

/* Random bytes and clock are arguments, so that a session can be replayed byte by byte. */
typedef struct twire_core_config {
  const twire_options *options; /* agent, max_message, chunk, receive_buffer, key or its parts, macs are read; may be NULL */
  uint8_t nonce[32];            /* fresh random bytes for every connection (twire_random) */
  twire_place place;            /* NULL = every large reply is refused */
  void *place_context;
  uint64_t now;
  uint64_t handshake_deadline; /* a time; 0 = none */
} twire_core_config;

/* Fill from the kernel's generator. False if there is none. */
bool twire_random(void *bytes, size_t length);

/* A connection about to begin; preface and HELLO are its first output. NULL: no memory, or an option that is wrong, then
 * twire_connect_error says which. */
twire_core *twire_core_new(const twire_core_config *config);
void twire_core_free(twire_core *core); /* NULL is allowed; gives no events */

/*
 * Where the next bytes from the peer go: 1 or 2 buffers, for readv or recvmsg. Bodies of large messages are received
 * straight into their place. Valid until the next call of the core. Call only after twire_core_poll_event has said NONE.
 */
int twire_core_next_buffers(twire_core *core, struct iovec buffers[2]);
/* The first of them alone, for recv. */
void twire_core_next_buffer(twire_core *core, void **pointer, size_t *length);
/* `count` bytes were put there; then poll events. 0 is allowed and does nothing. */
void twire_core_received(twire_core *core, size_t count, uint64_t now);
/* The peer's byte stream has ended; then poll events. */
void twire_core_eof(twire_core *core);
/* The next event, in wire order. False (and type NONE) when there is none. */
bool twire_core_poll_event(twire_core *core, twire_event *event);

/*
 * What to write next: up to `max` iovecs (at least 8), for writev; 0 = nothing. Stream ids and remaining times are fixed
 * here. Then write and say by twire_core_sent how much of it went out; call nothing else of the core in between.
 */
size_t twire_core_output(twire_core *core, struct iovec *buffers, size_t max, uint64_t now);
void twire_core_sent(twire_core *core, size_t count);
/* Is there anything to write? */
bool twire_core_wants_write(const twire_core *core);

/* When twire_core_timer wants to be called; 0 = never. */
uint64_t twire_core_next_deadline(const twire_core *core);
/* Time has passed: ends calls whose deadline is over (DEADLINE_EXCEEDED, and CANCEL to the server). Then poll events. */
void twire_core_timer(twire_core *core, uint64_t now);

/*
 * Open a stream; nothing is sent before twire_core_output. `deadline` is a time, 0 = none. Calls above the server's
 * max_streams wait in the queue. Errors: TWIRE_E_CLOSED, TWIRE_UNAVAILABLE (draining, or not READY yet), TWIRE_E_ARGUMENT,
 * TWIRE_E_MEMORY; then there is no stream and no event.
 */
int twire_core_open(twire_core *core, const twire_message *message, uint64_t deadline, void *tag, twire_handle *handle);
/* A further message of a stream opened without TWIRE_END_STREAM. TWIRE_E_BUSY while the last one is not yet sent. */
int twire_core_send(twire_core *core, twire_handle handle, const twire_message *message);
/* Give a call up: its memory is the caller's again and no further event of it comes (but ABORTED, if `place` gave memory).
 * Unknown handles are ignored. True: there was such a call. */
bool twire_core_cancel(twire_core *core, twire_handle handle);
/*
 * The same when the memory of its body may be gone already: of the message only the metadata is read. Frames of it that are not
 * begun go out without it. If a part of the body stands in a frame that is begun, or in a record that is signed, the stream of
 * bytes cannot go on: the connection ends, its other calls by TWIRE_E_LOST. To keep the connection, use twire_core_cancel.
 */
bool twire_core_forget(twire_core *core, twire_handle handle);
/* Ask for a PONG. TWIRE_E_BUSY while an earlier PING is unsent. */
int twire_core_ping(twire_core *core, const uint8_t payload[8]);
/* End the connection with CLOSE; open streams end at once. Send the output, then close the socket. */
void twire_core_close(twire_core *core, uint32_t code, const char *text);

bool twire_core_ready(const twire_core *core);    /* READY has come, and neither GOAWAY nor the end */
size_t twire_core_open_streams(const twire_core *core); /* streams under way or queued, cancelled ones without END too */
uint64_t twire_core_connection_id(const twire_core *core); /* as the request id shows it; 0 before WELCOME */
/* "5f0c1d2e3b4a5968-17" (SPEC 19.5) into `text`; returns it. */
const char *twire_request_id(uint64_t connection_id, uint64_t stream, char text[TWIRE_REQUEST_ID]);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif

/*
 * twire.h: the thin tensorwire client in C. Tensors in, tensors out, over one TCP or Unix socket.
 *
 * What lives here: tensors and prepared calls (what a message holds: no I/O, no connection), and the client (twire_connect,
 * twire_infer, twire_submit, twire_poll ...): calls on a socket, blocking, or in steps that do not. Whoever has sockets of their
 * own takes twire_core.h. What must not: rules of the wire that protocol/SPEC.md does not state. Both were written from it alone.
 *
 * The usual program:
 *
 *     twire_client *client;
 *     twire_call *call;
 *     twire_reply *reply = twire_reply_new();
 *     float x[3] = {1, 2, 3};
 *     twire_tensor input = twire_dense("x", TWIRE_FLOAT32, x, 2, (int64_t[]){1, 3});
 *
 *     if (twire_connect("tw://127.0.0.1:7411", NULL, &client)) die(twire_connect_error());
 *     if (twire_call_new("echo", NULL, &input, 1, &call)) die("echo");
 *     if (twire_infer(client, call, &input, NULL, reply)) die(twire_reply_text(reply));
 *     const float *y = twire_reply_tensors(reply)[0].data;
 *
 * Units. Sizes are bytes. Times are nanoseconds of CLOCK_MONOTONIC (twire_now); durations too, unless the name ends in
 * _us (microseconds, as on the wire). 0 as a time or duration means "none". UINT64_MAX as a duration means "as long as it takes";
 * others above INT64_MAX are differences that went below 0: calls and polls are over at once, options are refused.
 *
 * Errors. Functions that return int return TWIRE_OK (0), a status of the server (1..16), or a local TWIRE_E_* code
 * (negative). twire_strerror names any of them; the objects hold a text that says what was wrong, what was expected and
 * what to do, with control characters of the server's words escaped. NULL where something is needed is TWIRE_E_ARGUMENT;
 * functions that return no code answer as if there were nothing: 0, -1 (twire_fd), false, NULL, or a text that is never NULL.
 *
 * Ownership. What a *_new function or twire_connect makes, the caller frees with the function named beside it, in any order,
 * at any time: a reply that is freed gives its call up, a client that is closed hands its replies back. Tensor memory stays the
 * caller's: it is read while it is sent, never copied, and must not change until the call is over or its reply or client freed.
 *
 * Threads. A client (or core), its calls and its replies belong to one thread at a time, and freeing a reply that is submitted
 * uses its client; the library keeps no global state but a text per thread (twire_connect_error). Use one client per thread.
 * Nothing here raises a signal, calls exit or prints. Functions of yours that are called from here (allocator, place) must not
 * call the library and must not throw: in C++17 one that is not noexcept does not compile.
 */
#ifndef TWIRE_H
#define TWIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifdef __GNUC__
#pragma GCC visibility push(default) /* the library is built with -fvisibility=hidden */
#endif

#if defined(__cplusplus) && __cplusplus >= 201703L
#define TWIRE_NOEXCEPT noexcept
#else
#define TWIRE_NOEXCEPT
#endif

#define TWIRE_VERSION "0.2.0-dev"

/* What this implementation speaks (SPEC 9.4). */
#define TWIRE_PROTOCOL_VERSION 1
#define TWIRE_PROTOCOL_DRAFT 1

#define TWIRE_MAX_DIMS 8       /* dims of one tensor */
#define TWIRE_MAX_TENSORS 1024 /* tensors of one message */
#define TWIRE_MAX_NAME 256     /* bytes of a model's, version's or tensor's name */
#define TWIRE_INLINE_BODY 65536
#define TWIRE_REQUEST_ID 40 /* bytes that hold any request id and its NUL (SPEC 19.5) */

/* ------------------------------------------------------------------------------------------------ outcomes of a call */

/* The server's status codes: gRPC's seventeen, by name and number (SPEC 19.1). Local outcomes are negative. */
enum {
  TWIRE_OK = 0,
  TWIRE_CANCELLED = 1,
  TWIRE_UNKNOWN = 2,
  TWIRE_INVALID_ARGUMENT = 3,
  TWIRE_DEADLINE_EXCEEDED = 4,
  TWIRE_NOT_FOUND = 5,
  TWIRE_ALREADY_EXISTS = 6,
  TWIRE_PERMISSION_DENIED = 7,
  TWIRE_RESOURCE_EXHAUSTED = 8,
  TWIRE_FAILED_PRECONDITION = 9,
  TWIRE_ABORTED = 10,
  TWIRE_OUT_OF_RANGE = 11,
  TWIRE_UNIMPLEMENTED = 12,
  TWIRE_INTERNAL = 13,
  TWIRE_UNAVAILABLE = 14,
  TWIRE_DATA_LOSS = 15,
  TWIRE_UNAUTHENTICATED = 16,

  TWIRE_E_LOST = -1,     /* the connection ended before the outcome was known: the call may or may not have run */
  TWIRE_E_CLOSED = -2,   /* the connection is closed: nothing was sent; connect anew */
  TWIRE_E_AGAIN = -3,    /* nothing has finished within the time given; not an error */
  TWIRE_E_ARGUMENT = -4, /* the caller's arguments contradict each other; nothing was sent */
  TWIRE_E_MEMORY = -5,   /* malloc failed */
  TWIRE_E_SYSTEM = -6,   /* a system call failed; the text names it and errno */
  TWIRE_E_ADDRESS = -7,  /* the URL is malformed, or its host is not found */
  TWIRE_E_REFUSED = -8,  /* the server closed the handshake: version, feature, MAC; the text is its own */
  TWIRE_E_PROTOCOL = -9, /* the server broke the protocol, or speaks another one (HTTP, TLS ...) */
  TWIRE_E_BUSY = -10,    /* the stream still sends an earlier message; or too much is queued: drain first */
  TWIRE_E_AUTH = -11,    /* the key is missing, unknown, wrong or not valid now; or the server could not prove that it knows it */
};

/* Name of a code, such as "NOT_FOUND" or "E_LOST"; never NULL. Static. */
const char *twire_strerror(int code);

/* Why a connection ended: error codes of SPEC 19.2. */
enum {
  TWIRE_CLOSE_NO_ERROR = 0,
  TWIRE_CLOSE_PROTOCOL = 1,
  TWIRE_CLOSE_FRAME = 2,
  TWIRE_CLOSE_TOO_LARGE = 3,
  TWIRE_CLOSE_STREAM = 4,
  TWIRE_CLOSE_EXTENSION = 5,
  TWIRE_CLOSE_HANDSHAKE = 6,
  TWIRE_CLOSE_VERSION = 7,
  TWIRE_CLOSE_FEATURE = 8,
  TWIRE_CLOSE_MAC = 9,
  TWIRE_CLOSE_AUTHENTICATION = 10,
  TWIRE_CLOSE_TIMEOUT = 11,
  TWIRE_CLOSE_CALM = 12,
  TWIRE_CLOSE_SHUTDOWN = 13,
  TWIRE_CLOSE_INTERNAL = 14,
  TWIRE_CLOSE_NOT_TENSORWIRE = 15
};

/* Name of such a code, such as "STREAM"; of an unknown one "PROTOCOL". Static. */
const char *twire_close_name(uint32_t code);

/* CLOCK_MONOTONIC in nanoseconds: the clock of every `now` and deadline below. */
uint64_t twire_now(void);

/* --------------------------------------------------------------------------------------------------- 1a. the tensors */

/* Element types: DLPack's type code << 8 | bits of an element (SPEC 18.3). */
typedef enum twire_dtype {
  TWIRE_BOOL = 0x0608, /* one byte, 0 or 1 */
  TWIRE_INT8 = 0x0008,
  TWIRE_INT16 = 0x0010,
  TWIRE_INT32 = 0x0020,
  TWIRE_INT64 = 0x0040,
  TWIRE_UINT8 = 0x0108,
  TWIRE_UINT16 = 0x0110,
  TWIRE_UINT32 = 0x0120,
  TWIRE_UINT64 = 0x0140,
  TWIRE_FLOAT16 = 0x0210,
  TWIRE_FLOAT32 = 0x0220,
  TWIRE_FLOAT64 = 0x0240,
  TWIRE_BFLOAT16 = 0x0410,
  TWIRE_COMPLEX64 = 0x0540,
  TWIRE_COMPLEX128 = 0x0580,
  TWIRE_FLOAT8_E3M4 = 0x0708,
  TWIRE_FLOAT8_E4M3 = 0x0808,
  TWIRE_FLOAT8_E4M3B11FNUZ = 0x0908,
  TWIRE_FLOAT8_E4M3FN = 0x0a08,
  TWIRE_FLOAT8_E4M3FNUZ = 0x0b08,
  TWIRE_FLOAT8_E5M2 = 0x0c08,
  TWIRE_FLOAT8_E5M2FNUZ = 0x0d08,
  TWIRE_FLOAT8_E8M0FNU = 0x0e08
} twire_dtype;

/* Bytes of one element, or 0 if the number is no dtype. */
size_t twire_dtype_size(twire_dtype dtype);
/* SPEC's name, such as "float32"; NULL if the number is no dtype. Static. */
const char *twire_dtype_name(twire_dtype dtype);
/* The dtype of a name; 0 if there is none of that name. */
twire_dtype twire_dtype_of(const char *name);

/* How the bytes of a tensor are laid out (SPEC 18.5). */
typedef enum twire_kind {
  TWIRE_DENSE = 0,  /* data: product(shape) elements, C order, little-endian */
  TWIRE_STRING = 1, /* product(shape) strings; string i is data[offsets[i]] .. data[offsets[i + 1]], UTF-8 */
  TWIRE_RAGGED = 2  /* shape[0] rows; row i is items offsets[i] .. offsets[i + 1] of [items, shape[1], ...] in data */
} twire_kind;

/* One tensor: what the caller sends, or a view of what was received. Zero what you do not set. */
typedef struct twire_tensor {
  const char *name; /* NUL-terminated; received names may hold further NULs: see name_length */
  size_t name_length; /* set on received tensors; ignored on those sent */
  twire_dtype dtype;
  twire_kind kind;
  uint32_t dim_count; /* 0 = a scalar */
  int64_t shape[TWIRE_MAX_DIMS];
  const void *data;       /* the elements, the blob of a STRING, the values of a RAGGED; may be NULL if size is 0 */
  size_t size;            /* bytes of data. Sending DENSE: 0 = as the shape says */
  const int64_t *offsets; /* STRING and RAGGED: rows + 1 numbers from 0, never decreasing. DENSE: NULL */
} twire_tensor;

/* A dense tensor of `dim_count` dims over the caller's memory. `shape` NULL: enough for twire_call_new, not for a call. */
twire_tensor twire_dense(const char *name, twire_dtype dtype, const void *data, uint32_t dim_count,
                         const int64_t *shape);

/* -------------------------------------------------------------------------------------------------- 1b. prepared calls */

/*
 * A call site: model, version, and name, dtype, kind and rank of each input. Its metadata bytes are built once, here, and
 * sent with every call of it (SPEC 5.4); shapes may differ from call to call. It also remembers how its last reply was laid
 * out, so that a reply of the same layout is not verified again. Make it once, use it a million times.
 */
typedef struct twire_call twire_call;

/*
 * Make a call site. `version` NULL or "" = the server chooses. Of `inputs` only name, dtype, kind and dim_count are read.
 * Errors: TWIRE_E_ARGUMENT (a name empty, too long, twice, or not UTF-8; unknown dtype or kind; too many dims or tensors;
 * more dims than the extension of a frame holds, 124), TWIRE_E_MEMORY. Strings are copied. Free: twire_call_free.
 */
int twire_call_new(const char *model, const char *version, const twire_tensor *inputs, size_t input_count,
                   twire_call **call);
void twire_call_free(twire_call *call); /* NULL is allowed. What a call under way needs of it is kept until that is over */
/* The metadata bytes that it sends; they live as long as the call. */
const void *twire_call_metadata(const twire_call *call, size_t *length);

/* --------------------------------------------------------------------------------------------------------- 1c. options */

/* Where received bodies go. Defaults: aligned_alloc(64) and free. */
typedef struct twire_allocator {
  void *(*allocate)(void *context, size_t size) TWIRE_NOEXCEPT; /* 64-byte aligned; NULL = refused: that call fails, no other */
  void (*release)(void *context, void *memory, size_t size) TWIRE_NOEXCEPT;
  void *context; /* used until the last reply with memory from here is freed */
} twire_allocator;

/* All may be zero. Give NULL for all defaults. */
typedef struct twire_options {
  const char *agent;         /* name and version of your program, for the server's log; 1 to 128 bytes; "twire-c/..." */
  uint64_t max_message;      /* largest body that this side will receive; 65,536 or more; default 2^40 */
  uint32_t chunk;            /* largest chunk body to receive, 16,384 to 1,048,576; default 262,144 */
  uint32_t receive_buffer;   /* bytes of the receive buffer; default and least 262,144 */
  uint64_t connect_timeout;  /* for connecting and the handshake; default 5 s. The look-up of a name takes what the system lets it */
  uint64_t timeout;          /* deadline of every call that names none; default none */
  uint64_t spin;             /* wait for replies without sleeping for so long first: buys latency with a core */
  twire_allocator allocator; /* for large bodies that are received */
  /* The key, in one of two forms; read, never kept. Needs a library that was built with libcrypto (TWIRE_CRYPTO). */
  const char *key;       /* "ID:SECRET", as `tensorwire keys new` prints it. NULL: twire_connect reads TENSORWIRE_KEY; "" = none */
  const char *key_id;    /* or its id, 1 to 64 of [A-Za-z0-9._-] ... */
  const uint8_t *secret; /* ... and its 32 bytes */
  const char *macs;      /* what to sign with, the most wanted first: names separated by commas. "aes-256-gmac" and "hmac-sha256"
                            (default with a key, in this order: small calls cost alike, large bodies a fifth), "none" */
} twire_options;

/* Timing of a call inside the server, in microseconds (SPEC 14.1). */
typedef struct twire_timing {
  uint32_t receive, queue, batch_wait, copy_in, compute, copy_out, server_total;
} twire_timing;

/* ----------------------------------------------------------------------------------------------- 2a. replies */

/*
 * The outcome of one call, in memory that is used again by the next: make one for each call in flight. From twire_submit
 * until twire_poll hands it back the client fills it; tensors in it are valid until it is submitted again or freed.
 */
typedef struct twire_reply twire_reply;

twire_reply *twire_reply_new(void); /* NULL: no memory */
/*
 * NULL is allowed. May outlive its client. While it is submitted: gives the call up; twire_poll will not return it. The memory of
 * its tensors may be gone before it, hence as twire_core_forget: a call that is half sent costs the connection. To give up such a
 * call alone, twire_cancel it first.
 */
void twire_reply_free(twire_reply *reply);
/* Receive bodies into the caller's memory: 64-byte aligned if tensors shall be. A larger reply fails with RESOURCE_EXHAUSTED
 * and says its size. NULL: the library's own memory again. While it is submitted: as twire_cancel, since its memory goes. */
void twire_reply_memory(twire_reply *reply, void *memory, size_t size);
/* A pointer of yours, kept untouched. */
void twire_reply_set_user(twire_reply *reply, void *user);
void *twire_reply_user(const twire_reply *reply);

int twire_reply_status(const twire_reply *reply);      /* 0, a status of the server, or TWIRE_E_* */
bool twire_reply_not_started(const twire_reply *reply); /* it certainly did not run: a retry is safe */
const char *twire_reply_text(const twire_reply *reply); /* code, detail and request id in one line; "" if it succeeded */
const twire_tensor *twire_reply_tensors(const twire_reply *reply);
size_t twire_reply_tensor_count(const twire_reply *reply);
/* The tensor of that name, or NULL. */
const twire_tensor *twire_reply_tensor(const twire_reply *reply, const char *name);
const char *twire_reply_model(const twire_reply *reply);   /* who answered; "" after an error */
const char *twire_reply_version(const twire_reply *reply);
/* The body as received, all tensors in one piece. */
const void *twire_reply_body(const twire_reply *reply, uint64_t *length);
/* False: timing was not asked for, or not sent. */
bool twire_reply_timing(const twire_reply *reply, twire_timing *timing);
uint32_t twire_reply_retry_after_us(const twire_reply *reply);    /* 0 = not said */
uint32_t twire_reply_queue_estimate_us(const twire_reply *reply); /* 0 = not said */
/* Its request id, as the server's log shows it; "" if it was never sent. */
const char *twire_reply_request_id(const twire_reply *reply, char text[TWIRE_REQUEST_ID]);

/* ----------------------------------------------------------------------------------------------- 2b. the client */

typedef struct twire_client twire_client;

/* Of one call. All may be zero; NULL for defaults. */
typedef struct twire_call_options {
  uint64_t timeout;     /* a duration: the call's deadline is that far away. 0 = that of twire_options */
  bool want_timing;     /* twire_reply_timing */
  uint8_t priority;     /* larger is more urgent; 0 is ordinary */
  const uint8_t *trace; /* 25 bytes, W3C Trace Context; NULL = none */
} twire_call_options;

/*
 * Connect: "tw://host:port" (port 7411 if missing) or "tw+unix:///path". Blocks until the handshake is done. Of a name with
 * several addresses the next is tried too when one has been silent for 250 ms (RFC 8305). Errors:
 * TWIRE_E_ADDRESS, TWIRE_E_SYSTEM, TWIRE_E_REFUSED, TWIRE_E_AUTH, TWIRE_E_PROTOCOL, TWIRE_DEADLINE_EXCEEDED,
 * TWIRE_E_MEMORY, TWIRE_E_ARGUMENT; the text is twire_connect_error(). Never tries a second version or transport (SPEC 9.9).
 */
int twire_connect(const char *url, const twire_options *options, twire_client **client);
/* Why this thread's last twire_connect, twire_core_new or twire_call_new failed; "" if it did not, or for want of memory. */
const char *twire_connect_error(void);
/* Say CLOSE, close the socket, free the client. Calls under way end (their replies with TWIRE_E_LOST or CANCELLED) and are
 * the caller's again. NULL is allowed. */
void twire_close(twire_client *client);

/*
 * One call, from start to end: returns the reply's status. `inputs` are the call's, as many as it was made with, matched by name in
 * any order (in its own order fastest), with shapes and data.
 * Other calls under way go on meanwhile; twire_poll hands them out later.
 */
int twire_infer(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                twire_reply *reply);

/*
 * Queue one call. Nothing is written before twire_flush or a twire_poll that has to wait: submit N, then poll, is one write.
 * `inputs` (the array) may go at once; the tensors' memory and `reply` are in use until twire_poll returns the reply.
 * Errors: TWIRE_E_ARGUMENT (and the reason in twire_reply_text), TWIRE_E_CLOSED, TWIRE_UNAVAILABLE (the server drains:
 * connect anew), TWIRE_E_MEMORY; then nothing is under way, and reply has the status too.
 */
int twire_submit(twire_client *client, twire_call *call, const twire_tensor *inputs, const twire_call_options *options,
                 twire_reply *reply);
/*
 * Write what is queued, reading meanwhile if the socket is full; waits no longer than to the next deadline of a call under way.
 * TWIRE_OK: all is written. TWIRE_DEADLINE_EXCEEDED: a deadline passed first; twire_poll hands that call out, flush again for the
 * others. TWIRE_E_AGAIN: what is left is of calls that are over; later calls write it. TWIRE_E_CLOSED: the connection ended.
 */
int twire_flush(twire_client *client);
/*
 * The next call that is over. Waits up to `timeout` (a duration; 0 = does not wait; UINT64_MAX = as long as it takes).
 * Returns TWIRE_OK with *reply, whatever that reply's status; TWIRE_E_AGAIN if none is over in time, or none is under
 * way. A lost connection ends every call, each with its own outcome.
 */
int twire_poll(twire_client *client, uint64_t timeout, twire_reply **reply);
/* Give a submitted call up. Its reply comes from twire_poll with CANCELLED (if it was not over already). */
void twire_cancel(twire_client *client, twire_reply *reply);

/*
 * For a loop of your own (examples/loop_client.c): wait until twire_fd is readable, or writable while twire_wants_write, or
 * until twire_next_deadline; level-triggered. Then twire_step, then twire_poll(client, 0, ...) until it says TWIRE_E_AGAIN.
 */
/* Write, read, and end calls whose deadline has passed, as far as it goes without waiting. TWIRE_OK, or TWIRE_E_CLOSED: the
 * connection has ended; take its descriptor out of the loop, and the last replies by twire_poll. twire_poll with 0 does it too. */
int twire_step(twire_client *client);
bool twire_wants_write(const twire_client *client); /* something is to be written: a step will, once the socket takes it */
/* The time at which the next step is due, whatever the socket says; 0 = none. In the past if a reply waits for twire_poll. */
uint64_t twire_next_deadline(const twire_client *client);

size_t twire_in_flight(const twire_client *client); /* submitted and not yet handed back */
int twire_fd(const twire_client *client);           /* for poll or epoll; it stays the client's */
bool twire_alive(const twire_client *client);       /* new calls can be submitted: neither drained nor closed */
/* Why the connection ended or what last went wrong on it, in one line; "" if all is well. */
const char *twire_error(const twire_client *client);
/* "5f0c1d2e3b4a5968": the connection's part of request ids. */
uint64_t twire_connection_id(const twire_client *client);

#ifdef __GNUC__
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif

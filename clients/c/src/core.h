/*
 * core.h: the state of a core, and what its files do for each other.
 *
 * What must not live in any of them: anything that sends before it was asked to, allocates by a length that was not checked, or
 * keeps a global. Every number from the peer is hostile; sums and products of them are checked before they are used.
 *
 * The hot path, for a small call: twire_core_open writes header, extension and metadata into the slot's own `head`;
 * twire_core_output makes two iovecs of it (head, tensor); twire_core_poll_event finds the slot by its stream id and hands
 * out pointers into the receive buffer. Nothing on it allocates, and one writev and one recv serve a whole batch.
 */
#ifndef TWIRE_CORE_STATE_H
#define TWIRE_CORE_STATE_H

#include "mac.h"

enum {
  HELLO = 1,
  WELCOME = 2,
  AUTH = 3,
  READY = 4,
  OPEN = 5,
  DATA = 6,
  END = 7,
  CANCEL = 8,
  PING = 11,
  PONG = 12,
  GOAWAY = 13,
  CLOSE = 15
};
enum { END_STREAM = 1, MORE = 2, WANT_TIMING = 4, NOT_STARTED = 32 };

#define SEGMENTS 1024u      /* of the output ring; a power of two */
#define FRAME_SEGMENTS 300u /* room that is kept for one frame, see set_body */
#define OUTPUT_BYTES 262144u /* what is cut ahead of the socket: a small frame waits behind no more than this */
#define BLOCK 16u           /* slots that are allocated together */
#define FEW 8u              /* pieces of a body that are taken as they come */
#define SMALL_PIECE 512u
#define HEAD (HEADER + EXTENSION_CAP)

/* One piece of the byte stream that is to be written, in order. Frames are cut into the ring as late as can be. */
typedef struct segment {
  const uint8_t *data;
  size_t length;
  void *owned;   /* freed when this is written: a copy made because its owner took the memory back */
  uint32_t slot; /* whose memory it is, + 1; 0 = the core's */
  bool starts_frame, is_open;
  bool is_body; /* of the tensors' memory */
  uint8_t bytes[HEADER + 8]; /* the frame itself, if it is short */
} segment;

typedef enum slot_state {
  SLOT_FREE,
  SLOT_QUEUED,   /* its OPEN is not yet cut: it has no stream id */
  SLOT_OPEN,
  SLOT_CANCELLED /* given up by us; kept until the server's terminal (SPEC 13.5), or until it is ENDING */
} slot_state;

enum { QUEUE_NONE, QUEUE_OPENS, QUEUE_MESSAGES, QUEUE_CHUNKS, QUEUE_CANCELS, QUEUES };

/* One stream, used again by later ones. */
typedef struct slot {
  slot_state state;
  uint32_t index, generation;
  uint64_t stream;
  void *tag;
  uint64_t deadline;
  size_t heap_at; /* 1 + place in the heap of deadlines; 0 = none */
  bool written;   /* a byte of its OPEN went out: it may have started */
  bool replied;

  /* the message that is being sent */
  int queue;              /* which list it waits in */
  struct slot *next;      /* in that list */
  uint32_t out_seq;       /* of the next message */
  bool half_closed, sending;
  uint16_t flags;
  uint8_t priority;
  size_t ext_length, meta_length;
  const uint8_t *metadata; /* NULL = it stands in head, behind the extension */
  struct iovec few[FEW], *body, *many;
  size_t many_room, body_count, body_at, body_skip; /* next piece, and bytes of it that are cut */
  uint8_t *gathered;                               /* small pieces of a body of many, put together */
  size_t gathered_room;
  uint64_t body_left;
  uint32_t segments; /* in the ring */

  /* the message that is being received in chunks */
  uint32_t in_seq;
  bool receiving, in_end_stream;
  uint8_t in_priority;
  uint8_t *in_body; /* NULL = dropped */
  uint64_t in_length, in_filled;
  uint8_t *first; /* extension and metadata of its first frame */
  size_t first_room, first_ext, first_meta;

  /* what the owner is yet to be told: memory that will not be filled, and the end */
  struct slot *next_notice;
  bool notice;
  void *aborted;
  uint64_t aborted_length;
  bool ending, end_not_started;
  int end_status;
  const char *end_text;

  uint8_t head[HEAD];
} slot;

typedef struct slot_list {
  slot *first, *last;
} slot_list;

typedef enum core_state { CORE_WELCOME, CORE_READY, CORE_OPEN, CORE_CLOSED } core_state;

/*
 * Record layer. With MAC none, frames follow each other directly (SPEC 11.1). Signing adds two places and no more: what one
 * cut_frames puts into the ring is closed into records there, and next_record hands on to frames what a tag has vouched for.
 * Bytes of a chunk go straight to their place, hashed as they come, and count once the tag behind them is right.
 */
struct twire_core {
  core_state state;
  bool draining, eof, told_closed, exact;
  uint64_t now, handshake_deadline;
  uint32_t own_chunk, chunk;
  uint64_t own_max_message, max_message, connection_id;
  uint32_t max_streams;
  uint64_t last_stream, goaway_last;
  twire_place place;
  void *place_context;

  slot **blocks;
  size_t block_count, block_room;
  slot_list free_slots, queues[QUEUES], notices;
  size_t used, open; /* slots not free; streams on the wire without terminal */
  uint32_t *table;   /* stream id -> slot index + 1: open addressing */
  size_t table_mask;
  unsigned table_shift;
  slot **heap;
  size_t heap_count, heap_room;

  segment *ring;
  size_t ring_first, ring_count, ring_bytes;
  bool ping_due, pong_due;
  uint8_t ping[8], pong[8];
  uint8_t hello[512];
  size_t hello_length;
  uint8_t close_frame[HEADER + TEXT_CAP];

  uint8_t *buffer;
  size_t buffer_size, start, end;
  slot *chunk_slot; /* whose chunk is being received */
  uint64_t chunk_left;
  bool chunk_more, chunk_end_stream;

  credentials key;              /* wiped once the handshake is done */
  uint8_t auth[HEADER + 4 + PROOF];
  bool sealed;                  /* both directions are records */
  mac out, in;
  size_t record, record_from;   /* being cut: 1 + place of its n in the ring (0 = none), ring_bytes behind that */
  size_t record_left;           /* bytes of whole frames at `start` whose tag was right */
  bool streaming;               /* chunk_slot's chunk is a record whose tag is yet to come */

  uint32_t close_code;
  bool close_remote;
  size_t sweep; /* slots that were told of the end */
  const uint8_t *raw_text;
  size_t raw_text_length;
  char close_text[ESCAPED_TEXT + 256];
  char text[ESCAPED_TEXT];
};

typedef struct header {
  uint32_t length, seq, aux, meta, body;
  uint16_t flags, ext;
  uint8_t type, priority;
  uint64_t stream;
} header;

static inline bool known_type(uint8_t type) {
  return (type >= HELLO && type <= CANCEL) || (type >= PING && type <= GOAWAY) || type == CLOSE;
}

static inline void list_push(slot_list *list, slot *s) {
  s->next = NULL;
  if (list->last) list->last->next = s;
  else list->first = s;
  list->last = s;
}

static inline slot *list_pop(slot_list *list) {
  slot *s = list->first;
  if (s && !(list->first = s->next)) list->last = NULL;
  return s;
}

static inline slot *slot_at(const twire_core *core, size_t index) { return &core->blocks[index / BLOCK][index % BLOCK]; }

static inline twire_handle handle_of(const slot *s) { return (uint64_t)s->generation << 32 | (s->index + 1); }

static inline segment *ring_at(const twire_core *core, size_t i) { return &core->ring[(core->ring_first + i) & (SEGMENTS - 1)]; }

static inline segment *ring_push(twire_core *core, slot *s, const void *data, size_t length, bool starts_frame) {
  segment *g = ring_at(core, core->ring_count++);
  g->data = data;
  g->length = length;
  g->owned = NULL;
  g->slot = s ? s->index + 1 : 0;
  g->starts_frame = starts_frame;
  g->is_open = g->is_body = false;
  if (s) s->segments++;
  core->ring_bytes += length;
  return g;
}

static inline void write_header(uint8_t *p, uint32_t length, uint8_t type, uint8_t priority, uint16_t flags, uint64_t stream,
                         uint32_t seq, uint32_t aux, uint32_t meta_length, uint16_t ext_length) {
  store32(p, length);
  p[4] = type;
  p[5] = priority;
  store16(p + 6, flags);
  store64(p + 8, stream);
  store32(p + 16, seq);
  store32(p + 20, aux);
  store32(p + 24, meta_length);
  store16(p + 28, ext_length);
  store16(p + 30, 0);
}

/* slots.c */
void twire__list_remove(slot_list *list, slot *s);
void twire__notify(twire_core *core, slot *s);
slot *twire__find_stream(const twire_core *core, uint64_t stream);
void twire__table_add(twire_core *core, slot *s);
void twire__table_remove(twire_core *core, const slot *s);
bool twire__slots_grow(twire_core *core);
slot *twire__slot_of(const twire_core *core, twire_handle handle);
void twire__heap_settle(twire_core *core, size_t at, slot *s);
void twire__heap_remove(twire_core *core, slot *s);
slot *twire__slot_take(twire_core *core);
void twire__slot_free(twire_core *core, slot *s);

static inline void enqueue(twire_core *core, slot *s, int queue) {
  s->queue = queue;
  list_push(&core->queues[queue], s);
}

static inline void dequeue(twire_core *core, slot *s) {
  if (s->queue == QUEUE_NONE) return;
  twire__list_remove(&core->queues[s->queue], s);
  s->queue = QUEUE_NONE;
}

/* ring.c */
typedef enum detach {
  DETACH_KEEP,  /* an OPEN goes out: its id is given (SPEC 8.1) */
  DETACH_DROP,  /* none goes out: the connection ends */
  DETACH_UNREAD /* as KEEP, but the body's memory is not read: it may be gone. OPEN goes without its body, and can only fail */
} detach;
void twire__ring_pop(twire_core *core);
void twire__push_control(twire_core *core, uint8_t type, uint64_t stream, const uint8_t *payload);
bool twire__ring_detach(twire_core *core, slot *s, detach how);
void twire__ring_clear(twire_core *core);
void twire__record_open(twire_core *core);
void twire__record_close(twire_core *core);

/* Room for a frame of `size` bytes in the record under way, or a new one. */
static inline void record_room(twire_core *core, uint64_t size) {
  if (!core->sealed) return;
  if (core->record && core->ring_bytes - core->record_from + size > RECORD_BATCH) twire__record_close(core);
  twire__record_open(core);
}

/* ends.c */
void twire__core_stop(twire_core *core, uint32_t code, bool remote, const char *text_);
void twire__core_lost(twire_core *core, uint32_t code, const char *text_);
void twire__core_fail(twire_core *core, uint32_t code, const char *format, ...);
void twire__slot_give_up(twire_core *core, slot *s, detach how);
void twire__slot_end(twire_core *core, slot *s, int status, bool not_started, const char *text_);
void twire__slot_finish(twire_core *core, slot *s);

/* handshake.c */
void twire__push_hello(twire_core *core, const uint8_t nonce[32], const char *agent);
void twire__on_welcome(twire_core *core, uint8_t *metadata, size_t length);

/* ready.c */
bool twire__ready_valid(const uint8_t *bytes, size_t length);

/* check.c */
uint32_t twire__check_header(const twire_core *core, const uint8_t *p, header *h, slot **s);

/* messages.c */
void twire__event_stream(twire_event *ev, twire_event_type type, const slot *s);
bool twire__event_aborted(twire_event *ev, slot *s, void *body, uint64_t length);
bool twire__on_data(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev);
bool twire__on_chunk_end(twire_core *core, twire_event *ev);
bool twire__on_end(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev);
bool twire__on_control(twire_core *core, const header *h, uint8_t *p, twire_event *ev);

/* core.c */
int twire__check_options(const twire_options *o);
bool twire__sends(const twire_core *core);

#endif

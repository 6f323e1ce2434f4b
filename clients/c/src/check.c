/* check.c: headers of frames, checked in the order of SPEC 3.2. Nothing is done about a frame here. */
#include "core.h"

/* May the server send this type now (SPEC 6.1, 9.1)? */
static bool allowed_now(const twire_core *core, uint8_t type) {
  if (type == CLOSE) return true;
  if (core->state == CORE_WELCOME) return type == WELCOME;
  if (core->state == CORE_READY) return type == READY;
  return type == DATA || type == END || type == PING || type == PONG || type == GOAWAY;
}

static bool is_chunk(const slot *s, const header *h) {
  return s && s->receiving && h->ext == 0 && h->meta == 0 && h->seq == s->in_seq;
}

/* Steps 5 to 7 of SPEC 3.2 for DATA. */
static uint32_t check_data(const twire_core *core, const header *h, const slot *s, bool reserved) {
  bool late = s && s->state == SLOT_CANCELLED, bare = h->ext == 0 && h->meta == 0;
  bool chunk = late ? bare : is_chunk(s, h);
  uint32_t cap = chunk ? core->chunk : TWIRE_INLINE_BODY;
  if (late && cap < TWIRE_INLINE_BODY) cap = TWIRE_INLINE_BODY; /* a chunk or a message: both are dropped */
  if (h->body > cap) return TWIRE_CLOSE_TOO_LARGE;
  if (chunk && !late && h->body == 0) return TWIRE_CLOSE_FRAME;
  if (reserved || h->flags & ~(END_STREAM | MORE) || h->aux) return TWIRE_CLOSE_FRAME;
  if (!s || !s->written) return TWIRE_CLOSE_STREAM;
  if (late) return 0;
  if (!chunk) {
    if (s->receiving || h->seq != s->in_seq) return TWIRE_CLOSE_STREAM;
    return h->flags & MORE && h->body ? TWIRE_CLOSE_FRAME : 0;
  }
  uint64_t left = s->in_length - s->in_filled;
  bool last = h->body == left, more = h->flags & MORE, end = h->flags & END_STREAM;
  if (h->body > left || more == last || end != (last && s->in_end_stream)) return TWIRE_CLOSE_STREAM;
  return !last && h->body < CHUNK_LEAST ? TWIRE_CLOSE_CALM : 0;
}

/* All of SPEC 3.2, in its order; 0 = fine. *s is the stream's slot, if it is under way. */
uint32_t twire__check_header(const twire_core *core, const uint8_t *p, header *h, slot **s) {
  bool reserved = load16(p + 30);
  *h = (header){load32(p),      load32(p + 16), load32(p + 20), load32(p + 24), 0,
                load16(p + 6),  load16(p + 28), p[4],           p[5],           load64(p + 8)};
  *s = NULL;
  if (!known_type(h->type)) return TWIRE_CLOSE_FRAME;
  if (!allowed_now(core, h->type)) return TWIRE_CLOSE_PROTOCOL;
  bool call = h->type == DATA || h->type == END;
  uint32_t meta_cap = h->type == WELCOME                       ? ENTRIES_CAP
                      : h->type == READY || h->type == DATA    ? METADATA_CAP
                      : h->type == PING || h->type == PONG     ? 0
                                                               : TEXT_CAP;
  if (h->ext > (call ? EXTENSION_CAP : 0) || h->meta > meta_cap) return TWIRE_CLOSE_TOO_LARGE;
  if (h->ext + h->meta > h->length) return TWIRE_CLOSE_FRAME; /* no overflow: both are below their caps */
  h->body = h->length - h->ext - h->meta;
  if (call && h->stream) *s = twire__find_stream(core, h->stream);
  if (h->type == DATA) return check_data(core, h, *s, reserved);
  if (h->body != (h->type == PING || h->type == PONG ? 8 : 0)) return TWIRE_CLOSE_FRAME;
  if (reserved || h->priority || h->seq) return TWIRE_CLOSE_FRAME;
  switch (h->type) {
    case END:
      if (h->flags & ~NOT_STARTED) return TWIRE_CLOSE_FRAME;
      if (!*s || !(*s)->written) return TWIRE_CLOSE_STREAM;
      if (h->aux > TWIRE_UNAUTHENTICATED) return TWIRE_CLOSE_FRAME; /* SPEC 6.5, after all of 3.2 */
      return h->flags && (h->aux == 0 || (*s)->replied) ? TWIRE_CLOSE_FRAME : 0;
    case GOAWAY:
      if (h->flags) return TWIRE_CLOSE_FRAME;
      return h->stream > core->goaway_last ? TWIRE_CLOSE_STREAM : 0;
    case CLOSE: return h->flags || h->stream ? TWIRE_CLOSE_FRAME : 0;
    default: return h->flags || h->stream || h->aux ? TWIRE_CLOSE_FRAME : 0;
  }
}

/* messages.c: frames that have come whole, made into events. */
#include "core.h"
#include "extension.h"

#include <stdlib.h>

void twire__event_stream(twire_event *ev, twire_event_type type, const slot *s) {
  ev->type = type;
  ev->handle = handle_of(s);
  ev->tag = s->tag;
  ev->stream = s->stream;
}

bool twire__event_aborted(twire_event *ev, slot *s, void *body, uint64_t length) {
  twire__event_stream(ev, TWIRE_EVENT_ABORTED, s);
  ev->body = body;
  ev->body_length = length;
  ev->placed = true;
  return true;
}

static void event_text(twire_core *core, twire_event *ev, const uint8_t *p, size_t length) {
  twire__escape(core->text, sizeof core->text, p, length);
  ev->text = core->text;
  ev->raw_text = p;
  ev->raw_text_length = length;
}

/* The items of a DATA or END are well-formed and belong there (SPEC 4.3, 4.4, 7.2). */
static bool check_items(twire_core *core, const header *h, const uint8_t *ext, uint64_t *body_length) {
  uint32_t items = twire__extension_items(ext, h->ext, body_length), allowed = 0;
  bool more = h->flags & MORE;
  *body_length = items & ITEM(ITEM_BODY_LENGTH) ? *body_length : 0;
  if (h->type == END) allowed = ITEM(ITEM_TIMING) | ITEM(ITEM_RETRY) | ITEM(ITEM_QUEUE);
  else allowed = ITEM(ITEM_DIMS) | (more ? ITEM(ITEM_BODY_LENGTH) : 0) | (h->flags & END_STREAM ? ITEM(ITEM_TIMING) : 0);
  if (items & ~allowed || (h->type == DATA && more != (*body_length > TWIRE_INLINE_BODY))) {
    twire__core_fail(core, TWIRE_CLOSE_EXTENSION,
                     "stream %llu: its extension is malformed, or holds an item that does not belong there",
                     (unsigned long long)h->stream);
    return false;
  }
  return true;
}

static bool keep_first(slot *s, const header *h, const uint8_t *ext) {
  size_t length = h->ext + h->meta;
  if (s->first_room < length) {
    uint8_t *first = realloc(s->first, length);
    if (!first) return false;
    s->first = first;
    s->first_room = length;
  }
  copy(s->first, ext, length);
  s->first_ext = h->ext;
  s->first_meta = h->meta;
  return true;
}

/* The first frame of a large message: memory for its body, or no (SPEC 7.9). */
static void begin_large(twire_core *core, slot *s, const header *h, const uint8_t *ext, uint64_t body_length) {
  twire_incoming incoming = {handle_of(s), s->tag, s->stream, ext, ext + h->ext, h->ext, h->meta, body_length};
  s->receiving = true;
  s->in_end_stream = h->flags & END_STREAM;
  s->in_priority = h->priority;
  s->in_length = body_length;
  s->in_filled = 0;
  core->exact = true;
  if (body_length > core->own_max_message || body_length > SIZE_MAX / 2)
    twire__slot_end(core, s, TWIRE_RESOURCE_EXHAUSTED, false,
                    "the reply is larger than max_message allows: raise it in twire_options");
  else if (!keep_first(s, h, ext) || !core->place || !(s->in_body = core->place(core->place_context, &incoming)))
    twire__slot_end(core, s, TWIRE_RESOURCE_EXHAUSTED, false, "there is no memory for the reply's body");
}

/* A whole message. False: it was the first frame of a large one, or late. */
bool twire__on_data(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev) {
  uint64_t body_length = 0;
  if (!check_items(core, h, ext, &body_length)) return false;
  bool final = h->flags & END_STREAM && !(h->flags & MORE);
  if (s->state == SLOT_CANCELLED) {
    if (final) twire__slot_finish(core, s);
    return false;
  }
  s->replied = true;
  if (h->flags & MORE) {
    begin_large(core, s, h, ext, body_length);
    return false;
  }
  twire__event_stream(ev, TWIRE_EVENT_MESSAGE, s);
  ev->end_stream = final;
  ev->seq = s->in_seq++;
  ev->priority = h->priority;
  ev->extension = ext;
  ev->extension_length = h->ext;
  ev->metadata = ext + h->ext;
  ev->metadata_length = h->meta;
  ev->body = ext + h->ext + h->meta;
  ev->body_length = h->body;
  core->exact = false;
  if (final) twire__slot_finish(core, s);
  return true;
}

/* The chunk under way has come to its end: is the message whole? */
bool twire__on_chunk_end(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  core->chunk_slot = NULL;
  if (s->state == SLOT_CANCELLED) {
    if (!core->chunk_more && core->chunk_end_stream) twire__slot_finish(core, s);
    return false;
  }
  if (s->in_filled < s->in_length) return false;
  twire__event_stream(ev, TWIRE_EVENT_MESSAGE, s);
  ev->end_stream = s->in_end_stream;
  ev->placed = true;
  ev->seq = s->in_seq++;
  ev->priority = s->in_priority;
  ev->extension = s->first;
  ev->extension_length = s->first_ext;
  ev->metadata = s->first ? s->first + s->first_ext : NULL;
  ev->metadata_length = s->first_meta;
  ev->body = s->in_body;
  ev->body_length = s->in_length;
  s->in_body = NULL;
  s->receiving = false;
  if (s->in_end_stream) twire__slot_finish(core, s);
  return true;
}

bool twire__on_end(twire_core *core, const header *h, slot *s, const uint8_t *ext, twire_event *ev) {
  uint64_t ignored;
  if (!check_items(core, h, ext, &ignored)) return false;
  bool told = s->state == SLOT_CANCELLED;
  if (!told) {
    twire__event_stream(ev, TWIRE_EVENT_ENDED, s);
    ev->status = (int)h->aux;
    ev->not_started = h->flags & NOT_STARTED;
    ev->remote = true;
    ev->extension = ext;
    ev->extension_length = h->ext;
    event_text(core, ev, ext + h->ext, h->meta);
  }
  twire__slot_finish(core, s);
  return !told;
}

static bool on_goaway(twire_core *core, const header *h, const uint8_t *text_, twire_event *ev) {
  core->draining = true;
  core->goaway_last = h->stream;
  for (slot *s; (s = core->queues[QUEUE_OPENS].first);)
    twire__slot_end(core, s, TWIRE_UNAVAILABLE, true,
                    "the server drains and takes no new calls on this connection: connect anew");
  ev->type = TWIRE_EVENT_GOAWAY;
  ev->stream = h->stream;
  ev->code = h->aux;
  event_text(core, ev, text_, h->meta);
  return true;
}

bool twire__on_control(twire_core *core, const header *h, uint8_t *p, twire_event *ev) {
  switch (h->type) {
    case WELCOME: twire__on_welcome(core, p, h->meta); return false;
    case READY:
      if (!twire__ready_valid(p, h->meta)) {
        twire__core_fail(core, TWIRE_CLOSE_HANDSHAKE, "READY: no map of msgpack with a principal");
        return false;
      }
      core->state = CORE_OPEN;
      ev->type = TWIRE_EVENT_READY;
      ev->metadata = p;
      ev->metadata_length = h->meta;
      return true;
    case PING:
      core->pong_due = true; /* one answer for all that came since the last (SPEC 15.3) */
      memcpy(core->pong, p, 8);
      return false;
    case PONG:
      ev->type = TWIRE_EVENT_PONG;
      ev->body = p;
      ev->body_length = 8;
      return true;
    case GOAWAY: return on_goaway(core, h, p, ev);
    default: /* CLOSE */
      twire__escape(core->text, sizeof core->text, p, h->meta);
      twire__core_lost(core, h->aux, core->text);
      core->raw_text = p;
      core->raw_text_length = h->meta;
      return false;
  }
}

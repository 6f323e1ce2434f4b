/* ring.c: the ring of output: pieces of frames, and the records that close over them (SPEC 11.2). */
#include "core.h"

#include <stdlib.h>

void twire__ring_pop(twire_core *core) {
  segment *g = ring_at(core, 0);
  if (g->slot) slot_at(core, g->slot - 1)->segments--;
  free(g->owned);
  core->ring_first = (core->ring_first + 1) & (SEGMENTS - 1);
  core->ring_count--;
}

void twire__push_control(twire_core *core, uint8_t type, uint64_t stream, const uint8_t *payload) {
  segment *g = ring_push(core, NULL, NULL, HEADER + (payload ? 8 : 0), true);
  write_header(g->bytes, payload ? 8 : 0, type, 0, 0, stream, 0, 0, 0, 0);
  if (payload) memcpy(g->bytes + HEADER, payload, 8);
  g->data = g->bytes;
}

/* What must still be written of a slot is copied, chunks not yet begun are dropped (SPEC 7.7, 8.5). Rare: only when the socket
 * is full. False: no memory for the copy, or a part of the body must go out and may not be read. */
bool twire__ring_detach(twire_core *core, slot *s, detach how) {
  bool drop = false, bare = false; /* the frame that g is a part of; the first one may be half written */
  for (size_t i = 0; i < core->ring_count && s->segments; i++) {
    segment *g = ring_at(core, i);
    if (g->starts_frame) {
      drop = !core->sealed && (how == DETACH_DROP || !g->is_open);
      bare = !core->sealed && how == DETACH_UNREAD;
    }
    if (g->slot != s->index + 1) continue;
    g->slot = 0;
    s->segments--;
    if (bare && g->is_open) store32(s->head, (uint32_t)(s->ext_length + s->meta_length));
    if (drop || (bare && g->is_body)) {
      core->ring_bytes -= g->length;
      g->length = 0;
    } else if (g->length) {
      if (g->is_body && how == DETACH_UNREAD) return false;
      if (g->is_open) s->written = true; /* it goes out, and its terminal comes */
      if (!(g->owned = malloc(g->length))) return false;
      memcpy(g->owned, g->data, g->length);
      g->data = g->owned;
    }
  }
  return true;
}

void twire__ring_clear(twire_core *core) {
  while (core->ring_count) twire__ring_pop(core);
  core->ring_bytes = 0;
}

void twire__record_open(twire_core *core) {
  if (!core->sealed || core->record) return;
  segment *g = ring_push(core, NULL, NULL, RECORD_PREFIX, false);
  g->data = g->bytes;
  core->record = core->ring_count;
  core->record_from = core->ring_bytes;
}

void twire__record_close(twire_core *core) {
  if (!core->record) return;
  uint8_t head[RECORD_HEAD];
  size_t at = core->record - 1, n = core->ring_bytes - core->record_from;
  segment *prefix = ring_at(core, at), *g = ring_at(core, at + 1);
  core->record = 0;
  if (n == 0) { /* the call that was to be in it had passed its deadline */
    core->ring_count--;
    core->ring_bytes -= RECORD_PREFIX;
    return;
  }
  store32(prefix->bytes, (uint32_t)n);
  memcpy(head, prefix->bytes, RECORD_PREFIX);
  memcpy(head + RECORD_PREFIX, g->data, HEADER); /* a header is one piece */
  twire__mac_begin(&core->out, head);
  twire__mac_add(&core->out, g->data + HEADER, g->length - HEADER);
  for (at += 2; at < core->ring_count; at++) twire__mac_add(&core->out, ring_at(core, at)->data, ring_at(core, at)->length);
  segment *tag = ring_push(core, NULL, NULL, TAG, false);
  tag->data = tag->bytes;
  if (!twire__mac_end(&core->out, tag->bytes))
    twire__core_stop(core, TWIRE_CLOSE_INTERNAL, false, "libcrypto could not make a tag");
}

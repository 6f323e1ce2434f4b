/* ends.c: how connections and calls end, whoever ends them. */
#define _GNU_SOURCE /* strnlen */

#include "core.h"

#include <stdarg.h>
#include <stdio.h>

static void core_end(twire_core *core, uint32_t code, bool remote) {
  core->state = CORE_CLOSED;
  core->close_code = code;
  core->close_remote = remote;
  core->chunk_slot = NULL;
  core->ping_due = core->pong_due = false;
}

/* The peer ended it, or we cannot go on: nothing more is written. */
void twire__core_stop(twire_core *core, uint32_t code, bool remote, const char *text_) {
  if (core->state == CORE_CLOSED) return;
  snprintf(core->close_text, sizeof core->close_text, "%s", text_);
  for (size_t i = 0; i < core->block_count * BLOCK; i++) slot_at(core, i)->segments = 0;
  for (size_t i = 0; i < core->ring_count; i++) ring_at(core, i)->slot = 0;
  twire__ring_clear(core);
  core_end(core, code, remote);
}

void twire__core_lost(twire_core *core, uint32_t code, const char *text_) { twire__core_stop(core, code, true, text_); }

/* We end the connection: what was begun is finished, then CLOSE (SPEC 6.12); a foreign server gets no answer (10.4). */
void twire__core_fail(twire_core *core, uint32_t code, const char *format, ...) {
  va_list arguments;
  if (core->state == CORE_CLOSED) return;
  va_start(arguments, format);
  vsnprintf(core->close_text, sizeof core->close_text, format, arguments);
  va_end(arguments);
  bool kept = true;
  for (size_t i = 0; kept && i < core->block_count * BLOCK; i++) {
    slot *s = slot_at(core, i);
    if (!s->segments) continue;
    kept = twire__ring_detach(core, s, DETACH_DROP);
  }
  if (!kept || code == TWIRE_CLOSE_NOT_TENSORWIRE) twire__ring_clear(core);
  core_end(core, code, false);
  if (!kept || code == TWIRE_CLOSE_NOT_TENSORWIRE) return;
  size_t n = strnlen(core->close_text, TEXT_CAP);
  write_header(core->close_frame, (uint32_t)n, CLOSE, 0, 0, 0, 0, code, (uint32_t)n, 0);
  memcpy(core->close_frame + HEADER, core->close_text, n);
  twire__record_open(core);
  ring_push(core, NULL, core->close_frame, HEADER + n, true);
  twire__record_close(core);
}

/* Nothing of this call's memory is used from here on. What is left of it: the stream until its terminal, if it has one, and
 * what the owner is yet to be told. */
void twire__slot_give_up(twire_core *core, slot *s, detach how) {
  bool queued = s->state == SLOT_QUEUED;
  dequeue(core, s);
  twire__heap_remove(core, s);
  s->sending = false;
  if (s->in_body) {
    s->aborted = s->in_body;
    s->aborted_length = s->in_length;
    s->in_body = NULL;
    twire__notify(core, s);
  }
  s->state = SLOT_CANCELLED;
  if (queued) return;
  if (s->segments && !twire__ring_detach(core, s, how)) {
    if (how == DETACH_UNREAD)
      twire__core_stop(core, TWIRE_CLOSE_NO_ERROR, false, "a call was dropped within a frame that it was sending");
    else twire__core_fail(core, TWIRE_CLOSE_INTERNAL, "no memory");
    return;
  }
  enqueue(core, s, QUEUE_CANCELS);
}

void twire__slot_end(twire_core *core, slot *s, int status, bool not_started, const char *text_) {
  twire__slot_give_up(core, s, DETACH_KEEP);
  s->ending = true;
  s->end_status = status;
  s->end_not_started = not_started;
  s->end_text = text_;
  twire__notify(core, s);
}

/* The stream has had its terminal. */
void twire__slot_finish(twire_core *core, slot *s) {
  dequeue(core, s);
  twire__heap_remove(core, s);
  if (s->segments && !twire__ring_detach(core, s, DETACH_KEEP)) twire__core_fail(core, TWIRE_CLOSE_INTERNAL, "no memory");
  twire__table_remove(core, s);
  core->open--;
  twire__slot_free(core, s);
}

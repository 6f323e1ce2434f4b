/* send.c: sending (SPEC 6.3, 7): messages taken over, cut into frames as late as can be, handed to the socket. */
#include "core.h"
#include "extension.h"

#include <stdlib.h>

/* Take over the gather list. Of many pieces the small ones are put together, so that no frame needs more than FRAME_SEGMENTS
 * of the ring; up to FEW are taken as they are. */
static int set_body(slot *s, const struct iovec *body, size_t count) {
  s->body_at = s->body_skip = 0;
  s->body_count = count;
  s->body = s->few;
  if (count <= FEW) {
    copy(s->few, body, count * sizeof *body);
    return TWIRE_OK;
  }
  size_t small = 0, filled = 0, n = 0;
  for (size_t i = 0; i < count; i++) small += body[i].iov_len < SMALL_PIECE ? body[i].iov_len : 0;
  if (s->many_room < count) {
    struct iovec *many = realloc(s->many, count * sizeof *many);
    if (!many) return TWIRE_E_MEMORY;
    s->many = many;
    s->many_room = count;
  }
  if (s->gathered_room < small) {
    uint8_t *gathered = realloc(s->gathered, small);
    if (!gathered) return TWIRE_E_MEMORY;
    s->gathered = gathered;
    s->gathered_room = small;
  }
  for (size_t i = 0; i < count; i++) {
    if (body[i].iov_len >= SMALL_PIECE) {
      s->many[n++] = body[i];
    } else if (body[i].iov_len) {
      memcpy(s->gathered + filled, body[i].iov_base, body[i].iov_len);
      if (n && (uint8_t *)s->many[n - 1].iov_base + s->many[n - 1].iov_len == s->gathered + filled)
        s->many[n - 1].iov_len += body[i].iov_len;
      else
        s->many[n++] = (struct iovec){s->gathered + filled, body[i].iov_len};
      filled += body[i].iov_len;
    }
  }
  s->body = s->many;
  s->body_count = n;
  return TWIRE_OK;
}

/* Its memory is there. */
static bool complete(const twire_message *m) {
  if (!m || (!m->metadata && m->metadata_length) || (!m->dims && m->dim_count) || (!m->body && m->body_count)) return false;
  for (size_t i = 0; i < m->body_count; i++)
    if (!m->body[i].iov_base && m->body[i].iov_len) return false;
  return true;
}

static int set_message(twire_core *core, slot *s, const twire_message *m) {
  uint64_t total = 0;
  for (size_t i = 0; i < m->body_count; i++) {
    if (m->body[i].iov_len > SIZE_CAP - total) return TWIRE_E_ARGUMENT;
    total += m->body[i].iov_len;
  }
  if (total > core->max_message) return TWIRE_RESOURCE_EXHAUSTED;
  bool chunked = total > TWIRE_INLINE_BODY;
  if (m->dim_count > EXTENSION_CAP / 8 || m->metadata_length > METADATA_CAP) return TWIRE_E_ARGUMENT;
  s->ext_length = twire__extension_size(m->dim_count, chunked, m->trace != NULL);
  if (s->ext_length > EXTENSION_CAP) return TWIRE_E_ARGUMENT;
  int status = set_body(s, m->body, m->body_count);
  if (status) return status;
  twire__extension_write(s->head + HEADER, m->dims, m->dim_count, chunked ? total : 0, m->trace);
  s->metadata = m->metadata;
  s->meta_length = m->metadata_length;
  if (s->meta_length <= EXTENSION_CAP - s->ext_length) {
    copy(s->head + HEADER + s->ext_length, m->metadata, s->meta_length);
    s->metadata = NULL;
  }
  s->body_left = total;
  s->flags = m->flags;
  s->priority = m->priority;
  s->sending = true;
  return TWIRE_OK;
}

int twire_core_open(twire_core *core, const twire_message *message, uint64_t deadline, void *tag,
                    twire_handle *handle) {
  if (handle) *handle = 0;
  if (!core || !complete(message)) return TWIRE_E_ARGUMENT;
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (core->state != CORE_OPEN || core->draining) return TWIRE_UNAVAILABLE;
  if (message->flags & ~(END_STREAM | WANT_TIMING)) return TWIRE_E_ARGUMENT;
  slot *s = twire__slot_take(core);
  if (!s) return TWIRE_E_MEMORY;
  int status = set_message(core, s, message);
  if (status) {
    twire__slot_free(core, s);
    return status;
  }
  s->state = SLOT_QUEUED;
  s->tag = tag;
  s->deadline = deadline;
  if (deadline) twire__heap_settle(core, core->heap_count++, s);
  enqueue(core, s, QUEUE_OPENS);
  if (handle) *handle = handle_of(s);
  return TWIRE_OK;
}

int twire_core_send(twire_core *core, twire_handle handle, const twire_message *message) {
  if (!core || !complete(message)) return TWIRE_E_ARGUMENT;
  slot *s = twire__slot_of(core, handle);
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (!s || s->state == SLOT_CANCELLED || s->half_closed || message->flags & ~END_STREAM || message->trace)
    return TWIRE_E_ARGUMENT;
  if (s->sending || s->segments) return TWIRE_E_BUSY;
  int status = set_message(core, s, message);
  if (status == TWIRE_OK) enqueue(core, s, QUEUE_MESSAGES);
  return status;
}

static bool core_cancel(twire_core *core, slot *s, detach how) {
  if (s->state == SLOT_CANCELLED) {
    bool was = s->ending;
    s->ending = false;
    return was;
  }
  twire__slot_give_up(core, s, how);
  if (!s->stream && !s->notice) twire__slot_free(core, s);
  return true;
}

bool twire_core_cancel(twire_core *core, twire_handle handle) {
  slot *s = core && core->state != CORE_CLOSED ? twire__slot_of(core, handle) : NULL;
  return s && core_cancel(core, s, DETACH_KEEP);
}

bool twire_core_forget(twire_core *core, twire_handle handle) {
  slot *s = core ? twire__slot_of(core, handle) : NULL;
  if (!s) return false;
  if (core->state != CORE_CLOSED || s->state == SLOT_CANCELLED) return core_cancel(core, s, DETACH_UNREAD);
  s->state = SLOT_CANCELLED; /* next_outcome passes over it */
  return true;
}

int twire_core_ping(twire_core *core, const uint8_t payload[8]) {
  if (!core || !payload) return TWIRE_E_ARGUMENT;
  if (core->state == CORE_CLOSED) return TWIRE_E_CLOSED;
  if (core->state != CORE_OPEN) return TWIRE_UNAVAILABLE;
  if (core->ping_due) return TWIRE_E_BUSY;
  core->ping_due = true;
  memcpy(core->ping, payload, 8);
  return TWIRE_OK;
}

void twire_core_close(twire_core *core, uint32_t code, const char *text_) {
  if (core) twire__core_fail(core, code, "%s", text_ ? text_ : "");
}

/* Pieces of the body into the ring: `amount` bytes, or fewer if `least` are there and they are many. */
static uint64_t push_body(twire_core *core, slot *s, uint64_t amount, uint64_t least) {
  uint64_t taken = 0;
  for (size_t pieces = 0; taken < amount && !(pieces >= FRAME_SEGMENTS / 2 && taken >= least); pieces++) {
    struct iovec *piece = &s->body[s->body_at];
    uint64_t n = piece->iov_len - s->body_skip;
    if (n > amount - taken) n = amount - taken;
    if (n) ring_push(core, s, (uint8_t *)piece->iov_base + s->body_skip, (size_t)n, false)->is_body = true;
    s->body_skip += (size_t)n;
    taken += n;
    if (s->body_skip == piece->iov_len) {
      s->body_at++;
      s->body_skip = 0;
    }
  }
  s->body_left -= taken;
  return taken;
}

static void message_sent(slot *s) {
  s->sending = false;
  s->out_seq++;
  s->half_closed = s->flags & END_STREAM;
}

/* OPEN, or the first frame of a later message. */
static void cut_first(twire_core *core, slot *s) {
  bool is_open = s->stream == 0, chunked = s->body_left > TWIRE_INLINE_BODY;
  uint64_t left = 0;
  if (is_open) {
    if (s->deadline) {
      left = s->deadline > core->now ? (s->deadline - core->now) / 1000 : 0;
      if (s->deadline <= core->now) {
        twire__slot_end(core, s, TWIRE_DEADLINE_EXCEEDED, true, "the deadline passed before the call was sent");
        return;
      }
      if (left == 0) left = 1;
      if (left > UINT32_MAX) left = 0; /* too long for the wire: ours alone (SPEC 13.1) */
    }
    s->stream = ++core->last_stream;
    s->state = SLOT_OPEN;
    core->open++;
    twire__table_add(core, s);
  }
  size_t in_head = HEADER + s->ext_length + (s->metadata ? 0 : s->meta_length);
  uint64_t body = chunked ? 0 : s->body_left;
  write_header(s->head, (uint32_t)(s->ext_length + s->meta_length + body), is_open ? OPEN : DATA, s->priority,
               (uint16_t)(s->flags | (chunked ? MORE : 0)), s->stream, s->out_seq, (uint32_t)left,
               (uint32_t)s->meta_length, (uint16_t)s->ext_length);
  ring_push(core, s, s->head, in_head, true)->is_open = is_open;
  if (s->metadata) ring_push(core, s, s->metadata, s->meta_length, false);
  if (chunked) {
    enqueue(core, s, QUEUE_CHUNKS);
    return;
  }
  push_body(core, s, body, body);
  message_sent(s);
}

/* The next chunk: strictly by priority, streams of one priority in turn (SPEC 7.10). */
static void cut_chunk(twire_core *core) {
  slot *s = core->queues[QUEUE_CHUNKS].first;
  for (slot *i = s; i; i = i->next)
    if (i->priority > s->priority) s = i;
  dequeue(core, s);
  segment *head = ring_push(core, s, NULL, HEADER, true);
  uint64_t taken = push_body(core, s, s->body_left < core->chunk ? s->body_left : core->chunk, CHUNK_LEAST);
  uint16_t flags = s->body_left ? MORE : s->flags & END_STREAM;
  write_header(head->bytes, (uint32_t)taken, DATA, s->priority, flags, s->stream, s->out_seq, 0, 0, 0);
  head->data = head->bytes;
  if (s->body_left) enqueue(core, s, QUEUE_CHUNKS);
  else message_sent(s);
}

/* Cut frames into the ring as far as one write goes: control, then small frames in their order, then chunks. */
static void cut_frames(twire_core *core) {
  slot_list *queues = core->queues;
  while (core->state == CORE_OPEN && core->ring_bytes < OUTPUT_BYTES && SEGMENTS - core->ring_count >= FRAME_SEGMENTS) {
    slot *s;
    if (core->pong_due) {
      core->pong_due = false;
      record_room(core, HEADER + 8);
      twire__push_control(core, PONG, 0, core->pong);
    } else if (core->ping_due) {
      core->ping_due = false;
      record_room(core, HEADER + 8);
      twire__push_control(core, PING, 0, core->ping);
    } else if ((s = queues[QUEUE_CANCELS].first)) {
      dequeue(core, s);
      record_room(core, HEADER);
      twire__push_control(core, CANCEL, s->stream, NULL);
    } else if ((s = queues[QUEUE_MESSAGES].first) ||
               (core->open < core->max_streams && (s = queues[QUEUE_OPENS].first))) {
      dequeue(core, s);
      record_room(core, HEADER + s->ext_length + s->meta_length + (s->body_left > TWIRE_INLINE_BODY ? 0 : s->body_left));
      cut_first(core, s);
    } else if (queues[QUEUE_CHUNKS].first) {
      record_room(core, RECORD_BATCH + 1); /* each chunk is a record of its own */
      cut_chunk(core);
      twire__record_close(core);
    } else {
      break;
    }
  }
  twire__record_close(core);
}

size_t twire_core_output(twire_core *core, struct iovec *buffers, size_t max, uint64_t now) {
  size_t count = 0;
  if (!core || !buffers) return 0;
  core->now = now;
  cut_frames(core);
  for (size_t i = 0; i < core->ring_count && count < max; i++) {
    segment *g = ring_at(core, i);
    if (g->length) buffers[count++] = (struct iovec){(void *)(uintptr_t)g->data, g->length};
  }
  return count;
}

void twire_core_sent(twire_core *core, size_t count) {
  if (!core) return;
  if (count > core->ring_bytes) count = core->ring_bytes;
  core->ring_bytes -= count;
  while (core->ring_count) {
    segment *g = ring_at(core, 0);
    if (g->is_open && count && g->slot) slot_at(core, g->slot - 1)->written = true;
    if (g->length > count) {
      g->data += count;
      g->length -= count;
      if (count) g->starts_frame = g->is_open = false; /* begun: it will be finished */
      return;
    }
    count -= g->length;
    twire__ring_pop(core);
  }
}

bool twire_core_wants_write(const twire_core *core) {
  if (!core) return false;
  if (core->ring_bytes) return true;
  if (core->state != CORE_OPEN) return false;
  return core->pong_due || core->ping_due || core->queues[QUEUE_CANCELS].first || core->queues[QUEUE_MESSAGES].first ||
         core->queues[QUEUE_CHUNKS].first || (core->queues[QUEUE_OPENS].first && core->open < core->max_streams);
}

/* receive.c: receiving: where bytes go, records opened, frames found, events handed out in wire order. */
#include "core.h"

/* SPEC 10.4: the first bytes from a server that is none of ours. */
static bool foreign(const uint8_t *p, size_t length) {
  if (length >= 3 && p[0] >= 0x14 && p[0] <= 0x17 && p[1] == 3 && p[2] >= 1 && p[2] <= 4) return true;
  return length >= 5 && !known_type(p[4]);
}

static void fail_foreign(twire_core *core, const uint8_t *p, size_t length) {
  char shown[4 * 48 + 1];
  const char *guess = "";
  if (length >= 4 && memcmp(p, "HTTP", 4) == 0) guess = ": this port speaks HTTP (tensorwire's admin port does, 7412 by default)";
  else if (length >= 3 && p[0] == 0x16) guess = ": this port speaks TLS";
  else if (length >= 3 && memcmp(p, "SSH", 3) == 0) guess = ": this port speaks SSH";
  twire__escape(shown, sizeof shown, p, length < 48 ? length : 48);
  if (length)
    twire__core_fail(core, TWIRE_CLOSE_NOT_TENSORWIRE, "not a tensorwire server: its first bytes are '%s'%s", shown, guess);
  else
    twire__core_fail(core, TWIRE_CLOSE_NOT_TENSORWIRE,
                     "the server closed the connection without a word: is it a tensorwire server?");
}

typedef enum progress { WAIT, GO_ON, GIVE } progress;

/* Bytes of the buffer that may be read as frames; and some of them have been. */
static size_t readable(const twire_core *core) { return core->sealed ? core->record_left : core->end - core->start; }

static void consume(twire_core *core, size_t n) {
  core->start += n;
  if (!core->sealed || n == 0) return;
  core->record_left -= n;
  if (core->record_left == 0) core->start += TAG;
}

static progress wrong_tag(twire_core *core) {
  twire__core_fail(core, TWIRE_CLOSE_AUTHENTICATION,
                   "a record's tag is wrong: its bytes were changed, lost, repeated or put in another order on their way");
  return GO_ON;
}

/* A record whose one frame is a chunk that is due: the one look before the tag (SPEC 21). Its body need not wait for it. */
static bool begin_streaming(twire_core *core, const uint8_t *p, uint32_t n) {
  header h;
  slot *s;
  if (!twire__chunk_shaped(p + RECORD_PREFIX, n) || twire__check_header(core, p + RECORD_PREFIX, &h, &s)) return false;
  if (s->state != SLOT_CANCELLED && !s->receiving) return false;
  twire__mac_begin(&core->in, p);
  core->start += RECORD_HEAD;
  core->streaming = true;
  core->chunk_slot = s;
  core->chunk_left = h.body;
  core->chunk_more = h.flags & MORE;
  core->chunk_end_stream = h.flags & END_STREAM;
  return true;
}

/* The next record: its frames may be read once its tag has passed (SPEC 11.2). */
static progress next_record(twire_core *core) {
  const uint8_t *p = core->buffer + core->start;
  size_t have = core->end - core->start;
  if (have < RECORD_PREFIX) return WAIT;
  uint32_t n = load32(p), most = HEADER + core->chunk > FRAME_MOST ? HEADER + core->chunk : FRAME_MOST;
  if (n < HEADER || n > most) {
    twire__core_fail(core, n < HEADER ? TWIRE_CLOSE_FRAME : TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes; expected %u to %u", n,
                     HEADER, most);
    return GO_ON;
  }
  if (have < RECORD_HEAD) return WAIT;
  if (have < RECORD_PREFIX + n + TAG) {
    if (begin_streaming(core, p, n)) return GO_ON;
    if (n <= FRAME_MOST) return WAIT;
    twire__core_fail(core, TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes that is no chunk; expected %u at most", n, FRAME_MOST);
    return GO_ON;
  }
  twire__mac_begin(&core->in, p);
  twire__mac_add(&core->in, p + RECORD_HEAD, n - HEADER);
  if (!twire__mac_right(&core->in, p + RECORD_PREFIX + n)) return wrong_tag(core);
  if (n > RECORD_BATCH && load32(p + RECORD_PREFIX) != n - HEADER) {
    twire__core_fail(core, TWIRE_CLOSE_TOO_LARGE, "a record of %u bytes of several frames; expected %u at most", n, RECORD_BATCH);
    return GO_ON;
  }
  core->start += RECORD_PREFIX;
  core->record_left = n;
  return GO_ON;
}

/* The chunk that is a record: the bytes of it that lie in the buffer, and the tag at its end. */
static progress next_streamed(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  const uint8_t *p = core->buffer + core->start;
  size_t have = core->end - core->start;
  size_t n = have < core->chunk_left ? have : (size_t)core->chunk_left;
  twire__mac_add(&core->in, p, n);
  if (s->in_body) {
    copy(s->in_body + s->in_filled, p, n);
    s->in_filled += n;
  }
  core->start += n;
  core->chunk_left -= n;
  if (core->chunk_left || core->end - core->start < TAG) return WAIT;
  core->streaming = false;
  if (!twire__mac_right(&core->in, core->buffer + core->start)) return wrong_tag(core);
  core->start += TAG;
  return twire__on_chunk_end(core, ev) ? GIVE : GO_ON;
}

/* The next frame of the buffer, or what is there of it. */
static progress next_frame(twire_core *core, twire_event *ev) {
  uint8_t *p = core->buffer + core->start;
  size_t have = readable(core);
  header h;
  slot *s;
  if (core->state == CORE_WELCOME && foreign(p, have)) {
    fail_foreign(core, p, have);
    return GO_ON;
  }
  if (have < HEADER && !core->sealed) return WAIT;
  uint32_t wrong = have < HEADER ? TWIRE_CLOSE_FRAME : twire__check_header(core, p, &h, &s);
  if (wrong && have >= HEADER) {
    twire__core_fail(core, wrong, "a frame of type %u on stream %llu breaks the protocol: %s", h.type,
                     (unsigned long long)h.stream, twire_close_name(wrong));
    return GO_ON;
  }
  if (wrong || (core->sealed && have - HEADER < h.length)) {
    twire__core_fail(core, TWIRE_CLOSE_FRAME, "a frame does not end where its record ends");
    return GO_ON;
  }
  bool bare = h.type == DATA && h.ext == 0 && h.meta == 0;
  if (bare && (s->state == SLOT_CANCELLED || s->receiving)) {
    consume(core, HEADER);
    core->chunk_slot = s;
    core->chunk_left = h.body;
    core->chunk_more = h.flags & MORE;
    core->chunk_end_stream = h.flags & END_STREAM;
    return GO_ON;
  }
  if (have - HEADER < h.length) return WAIT;
  if (h.type == END && s->in_body) { /* tell of the memory first; this frame is read again after that */
    twire__event_aborted(ev, s, s->in_body, s->in_length);
    s->in_body = NULL;
    return GIVE;
  }
  consume(core, HEADER + h.length);
  p += HEADER;
  if (h.type == DATA) return twire__on_data(core, &h, s, p, ev) ? GIVE : GO_ON;
  if (h.type == END) return twire__on_end(core, &h, s, p, ev) ? GIVE : GO_ON;
  return twire__on_control(core, &h, p, ev) ? GIVE : GO_ON;
}

/* Bytes of the chunk that came together with other frames: these few are copied once. */
static progress next_chunk(twire_core *core, twire_event *ev) {
  slot *s = core->chunk_slot;
  size_t have = readable(core);
  size_t n = have < core->chunk_left ? have : (size_t)core->chunk_left;
  if (s->in_body) {
    copy(s->in_body + s->in_filled, core->buffer + core->start, n);
    s->in_filled += n;
  }
  consume(core, n);
  core->chunk_left -= n;
  if (core->chunk_left) return WAIT;
  return twire__on_chunk_end(core, ev) ? GIVE : GO_ON;
}

/* What slot_give_up and slot_end have left to tell. */
static bool next_notice(twire_core *core, twire_event *ev) {
  slot *s = core->notices.first;
  if (s->aborted) {
    twire__event_aborted(ev, s, s->aborted, s->aborted_length);
    s->aborted = NULL;
    return true;
  }
  if (!(core->notices.first = s->next_notice)) core->notices.last = NULL;
  s->notice = false;
  bool told = s->ending;
  if (told) {
    twire__event_stream(ev, TWIRE_EVENT_ENDED, s);
    ev->status = s->end_status;
    ev->not_started = s->end_not_started;
    ev->text = s->end_text;
    s->ending = false;
  }
  if (!s->stream) twire__slot_free(core, s);
  return told;
}

/* After the end: each call's own outcome (SPEC 13.6, 15.5), then CLOSED. */
static bool next_outcome(twire_core *core, twire_event *ev) {
  for (; core->sweep < core->block_count * BLOCK; core->sweep++) {
    slot *s = slot_at(core, core->sweep);
    if (s->state == SLOT_FREE) continue;
    if (s->in_body) {
      twire__event_aborted(ev, s, s->in_body, s->in_length);
      s->in_body = NULL;
      return true;
    }
    bool tell = s->state != SLOT_CANCELLED;
    if (tell) {
      twire__event_stream(ev, TWIRE_EVENT_ENDED, s);
      ev->not_started = !s->written || s->stream > core->goaway_last;
      ev->status = ev->not_started ? TWIRE_UNAVAILABLE : TWIRE_E_LOST;
      ev->text = core->close_text;
    }
    twire__slot_free(core, s);
    if (tell) return true;
  }
  if (core->told_closed) return false;
  core->told_closed = true;
  ev->type = TWIRE_EVENT_CLOSED;
  ev->code = core->close_code;
  ev->remote = core->close_remote;
  ev->text = core->close_text;
  ev->raw_text = core->raw_text;
  ev->raw_text_length = core->raw_text_length;
  return true;
}

static void on_eof(twire_core *core) {
  if (core->state == CORE_WELCOME) fail_foreign(core, core->buffer + core->start, core->end - core->start);
  else if (core->start != core->end || core->chunk_slot)
    twire__core_lost(core, TWIRE_CLOSE_NO_ERROR, "the connection was cut within a frame");
  else twire__core_lost(core, TWIRE_CLOSE_NO_ERROR, "the server's connection ended without CLOSE");
}

bool twire_core_poll_event(twire_core *core, twire_event *ev) {
  if (!ev) return false;
  memset(ev, 0, sizeof *ev);
  if (!core) return false;
  for (;;) {
    if (core->notices.first) {
      if (next_notice(core, ev)) return true;
      continue;
    }
    if (core->state == CORE_CLOSED) return next_outcome(core, ev);
    progress made;
    if (core->chunk_slot) made = core->streaming ? next_streamed(core, ev) : next_chunk(core, ev);
    else made = core->sealed && !core->record_left ? next_record(core) : next_frame(core, ev);
    if (made == GIVE) return true;
    if (made == GO_ON) continue;
    if (!core->eof) return false;
    on_eof(core);
  }
}

int twire_core_next_buffers(twire_core *core, struct iovec buffers[2]) {
  int count = 0;
  if (!core || !buffers) return 0;
  size_t wanted = SIZE_MAX, needed, have, head = core->sealed ? RECORD_HEAD : HEADER;
  if (core->start == core->end) core->start = core->end = 0;
  have = core->end - core->start;
  needed = head + (core->streaming ? TAG : 0);
  if (core->chunk_slot && core->chunk_slot->in_body && core->chunk_left) {
    buffers[count++] = (struct iovec){core->chunk_slot->in_body + core->chunk_slot->in_filled, (size_t)core->chunk_left};
    wanted = needed; /* up to the next frame's header, so that a further chunk begins in its place */
  } else {
    if (have >= head && !core->chunk_slot) /* both checked */
      needed = (core->sealed ? RECORD_PREFIX + TAG : HEADER) + load32(core->buffer + core->start);
    if (core->exact && (!core->chunk_slot || core->chunk_left == 0)) wanted = needed - have;
    if (core->start && (core->buffer_size - core->start < needed || core->buffer_size - core->end < core->buffer_size / 4)) {
      memmove(core->buffer, core->buffer + core->start, have);
      core->start = 0;
      core->end = have;
    }
  }
  size_t room = core->buffer_size - core->end;
  buffers[count++] = (struct iovec){core->buffer + core->end, wanted < room ? wanted : room};
  return count;
}

void twire_core_next_buffer(twire_core *core, void **pointer, size_t *length) {
  struct iovec buffers[2] = {{0}};
  (void)twire_core_next_buffers(core, buffers);
  if (pointer) *pointer = buffers[0].iov_base;
  if (length) *length = buffers[0].iov_len;
}

void twire_core_received(twire_core *core, size_t count, uint64_t now) {
  if (!core) return;
  slot *s = core->chunk_slot;
  core->now = now;
  if (core->state == CORE_CLOSED) return;
  if (s && s->in_body) {
    size_t n = count < core->chunk_left ? count : (size_t)core->chunk_left;
    if (core->streaming) twire__mac_add(&core->in, s->in_body + s->in_filled, n);
    s->in_filled += n;
    core->chunk_left -= n;
    count -= n;
  }
  core->end += count < core->buffer_size - core->end ? count : core->buffer_size - core->end;
}

void twire_core_eof(twire_core *core) {
  if (core) core->eof = true;
}

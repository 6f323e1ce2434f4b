/* core.c: a core from its options to its end, and its clock. */
#include "core.h"

#include <stdio.h>
#include <stdlib.h>

uint64_t twire_core_next_deadline(const twire_core *core) {
  if (!core || core->state == CORE_CLOSED) return 0;
  if (core->state != CORE_OPEN) return core->handshake_deadline;
  return core->heap_count ? core->heap[0]->deadline : 0;
}

void twire_core_timer(twire_core *core, uint64_t now) {
  if (!core) return;
  core->now = now;
  if (core->state == CORE_CLOSED) return;
  if (core->state != CORE_OPEN && core->handshake_deadline && core->handshake_deadline <= now)
    twire__core_fail(core, TWIRE_CLOSE_TIMEOUT, "the handshake was not done in time");
  while (core->heap_count && core->heap[0]->deadline <= now) {
    slot *s = core->heap[0];
    twire__slot_end(core, s, TWIRE_DEADLINE_EXCEEDED, s->stream == 0,
                    s->stream ? "the deadline passed before the reply came" : "the deadline passed before the call was sent");
  }
}

int twire__check_options(const twire_options *o) {
  if (o->agent && (strlen(o->agent) < 1 || strlen(o->agent) > 128))
    return twire__say(TWIRE_E_ARGUMENT, "options: agent has %zu bytes; expected 1 to 128", strlen(o->agent));
  if (o->chunk && (o->chunk < CHUNK_LEAST || o->chunk > CHUNK_MOST))
    return twire__say(TWIRE_E_ARGUMENT, "options: chunk is %u; expected 16384 to 1048576", o->chunk);
  if (o->max_message && o->max_message < TWIRE_INLINE_BODY)
    return twire__say(TWIRE_E_ARGUMENT, "options: max_message is %llu; expected at least 65536",
                      (unsigned long long)o->max_message);
  if (twire__negative(o->timeout) || twire__negative(o->connect_timeout) || o->spin > INT64_MAX)
    return twire__say(TWIRE_E_ARGUMENT,
                      "options: timeout, connect_timeout or spin is above 2^63 ns: is it a difference below 0?");
  if (!o->allocator.allocate != !o->allocator.release)
    return twire__say(TWIRE_E_ARGUMENT, "options: an allocator needs both functions, allocate and release");
  credentials key;
  const char *wrong = twire__credentials_read(o, &key);
  twire__wipe(&key, sizeof key);
  return wrong ? twire__say(TWIRE_E_ARGUMENT, "%s", wrong) : TWIRE_OK;
}

twire_core *twire_core_new(const twire_core_config *config) {
  static const twire_options none;
  twire__say_nothing();
  if (!config) {
    (void)twire__say(TWIRE_E_ARGUMENT, "config is NULL");
    return NULL;
  }
  const twire_options *o = config->options ? config->options : &none;
  const char *agent = o->agent ? o->agent : "twire-c/" TWIRE_VERSION;
  uint64_t chunk = or_default(o->chunk, CHUNK_DEFAULT), max_message = or_default(o->max_message, UINT64_C(1) << 40);
  if (twire__check_options(o)) return NULL;
  twire_core *core = calloc(1, sizeof *core);
  if (!core) return NULL;
  (void)twire__credentials_read(o, &core->key); /* checked */
  core->own_chunk = core->chunk = (uint32_t)chunk;
  core->own_max_message = max_message;
  core->buffer_size = o->receive_buffer > RECEIVE_LEAST ? o->receive_buffer : RECEIVE_LEAST;
  core->goaway_last = NO_STREAM;
  core->place = config->place;
  core->place_context = config->place_context;
  core->now = config->now;
  core->handshake_deadline = config->handshake_deadline;
  core->ring = calloc(SEGMENTS, sizeof *core->ring);
  core->buffer = malloc(core->buffer_size);
  if (!core->ring || !core->buffer || !twire__slots_grow(core)) {
    twire_core_free(core);
    return NULL;
  }
  twire__push_hello(core, config->nonce, agent);
  return core;
}

void twire_core_free(twire_core *core) {
  if (!core) return;
  for (size_t i = 0; core->ring && i < core->ring_count; i++) free(ring_at(core, i)->owned);
  for (size_t i = 0; i < core->block_count; i++) {
    for (size_t j = 0; j < BLOCK; j++) {
      free(core->blocks[i][j].many);
      free(core->blocks[i][j].gathered);
      free(core->blocks[i][j].first);
    }
    free(core->blocks[i]);
  }
  free(core->blocks);
  free(core->table);
  free(core->heap);
  free(core->ring);
  free(core->buffer);
  twire__mac_free(&core->in);
  twire__mac_free(&core->out);
  twire__wipe(&core->key, sizeof core->key);
  free(core);
}

bool twire_core_ready(const twire_core *core) { return core && core->state == CORE_OPEN && !core->draining; }
size_t twire_core_open_streams(const twire_core *core) { return core ? core->used : 0; }
uint64_t twire_core_connection_id(const twire_core *core) { return core ? core->connection_id : 0; }

const char *twire_request_id(uint64_t connection_id, uint64_t stream, char text_[TWIRE_REQUEST_ID]) {
  if (!text_) return "";
  snprintf(text_, TWIRE_REQUEST_ID, "%016llx-%llu", (unsigned long long)connection_id, (unsigned long long)stream);
  return text_;
}

/* Of a call that is not over something is yet to be written. */
bool twire__sends(const twire_core *core) {
  for (size_t i = 0; i < core->block_count * BLOCK; i++) {
    const slot *s = slot_at(core, i);
    if (s->state == SLOT_QUEUED || (s->state == SLOT_OPEN && (s->sending || s->segments))) return true;
  }
  return false;
}

/* slots.c: slots of streams: found by stream id or handle, their deadlines in a heap, used again by later streams. */
#include "core.h"

#include <stdlib.h>

void twire__list_remove(slot_list *list, slot *s) {
  slot *before = NULL;
  for (slot *i = list->first; i; before = i, i = i->next) {
    if (i != s) continue;
    if (before) before->next = s->next;
    else list->first = s->next;
    if (list->last == s) list->last = before;
    return;
  }
}

void twire__notify(twire_core *core, slot *s) {
  if (s->notice) return;
  s->notice = true;
  s->next_notice = NULL;
  if (core->notices.last) core->notices.last->next_notice = s;
  else core->notices.first = s;
  core->notices.last = s;
}

static size_t hash_of(const twire_core *core, uint64_t stream) {
  return (size_t)(stream * UINT64_C(0x9E3779B97F4A7C15) >> core->table_shift);
}

slot *twire__find_stream(const twire_core *core, uint64_t stream) {
  for (size_t i = hash_of(core, stream); core->table[i]; i = (i + 1) & core->table_mask) {
    slot *s = slot_at(core, core->table[i] - 1);
    if (s->stream == stream) return s;
  }
  return NULL;
}

void twire__table_add(twire_core *core, slot *s) {
  size_t i = hash_of(core, s->stream);
  while (core->table[i]) i = (i + 1) & core->table_mask;
  core->table[i] = s->index + 1;
}

/* Remove, and close the gap: later ones of the same run move up to where a search for them begins. */
void twire__table_remove(twire_core *core, const slot *s) {
  size_t mask = core->table_mask, gap = hash_of(core, s->stream);
  while (core->table[gap] != s->index + 1) gap = (gap + 1) & mask;
  for (size_t i = (gap + 1) & mask; core->table[i]; i = (i + 1) & mask) {
    size_t home = hash_of(core, slot_at(core, core->table[i] - 1)->stream);
    if (((i - home) & mask) < ((i - gap) & mask)) continue;
    core->table[gap] = core->table[i];
    gap = i;
  }
  core->table[gap] = 0;
}

/* A table twice as large; ids of streams under way are put in anew. */
static bool table_grow(twire_core *core) {
  size_t size = core->table ? 2 * (core->table_mask + 1) : 64;
  uint32_t *larger = calloc(size, sizeof *larger);
  if (!larger) return false;
  free(core->table);
  core->table = larger;
  core->table_mask = size - 1;
  core->table_shift = 64;
  while (size > 1) size /= 2, core->table_shift--;
  for (size_t i = 0; i < core->block_count * BLOCK; i++)
    if (slot_at(core, i)->state != SLOT_FREE && slot_at(core, i)->stream) twire__table_add(core, slot_at(core, i));
  return true;
}

/* Sixteen more slots, with room for them in table and heap: so nothing allocates until they are used up. */
bool twire__slots_grow(twire_core *core) {
  size_t wanted = (core->block_count + 1) * BLOCK;
  if (wanted >= UINT32_MAX / 4) return false;
  if (core->block_count == core->block_room) {
    size_t room = core->block_room ? 2 * core->block_room : 8;
    slot **blocks = realloc(core->blocks, room * sizeof *blocks);
    if (!blocks) return false;
    core->blocks = blocks;
    core->block_room = room;
  }
  if (core->heap_room < wanted) {
    size_t room = wanted * 2;
    slot **heap = realloc(core->heap, room * sizeof(slot *));
    if (!heap) return false;
    core->heap = heap;
    core->heap_room = room;
  }
  if ((!core->table || core->table_mask + 1 < 2 * wanted) && !table_grow(core)) return false;
  slot *block = calloc(BLOCK, sizeof *block);
  if (!block) return false;
  core->blocks[core->block_count] = block;
  for (uint32_t i = 0; i < BLOCK; i++) {
    block[i].index = (uint32_t)(core->block_count * BLOCK) + i;
    block[i].generation = 1;
    list_push(&core->free_slots, &block[i]);
  }
  core->block_count++;
  return true;
}

slot *twire__slot_of(const twire_core *core, twire_handle handle) {
  uint64_t index = (handle & UINT32_MAX) - 1;
  if ((handle & UINT32_MAX) == 0 || index >= core->block_count * BLOCK) return NULL;
  slot *s = slot_at(core, (size_t)index);
  return s->state != SLOT_FREE && s->generation == handle >> 32 ? s : NULL;
}

static void heap_put(twire_core *core, size_t at, slot *s) {
  core->heap[at] = s;
  s->heap_at = at + 1;
}

void twire__heap_settle(twire_core *core, size_t at, slot *s) {
  while (at && core->heap[(at - 1) / 2]->deadline > s->deadline) {
    heap_put(core, at, core->heap[(at - 1) / 2]);
    at = (at - 1) / 2;
  }
  for (size_t child; (child = 2 * at + 1) < core->heap_count; at = child) {
    if (child + 1 < core->heap_count && core->heap[child + 1]->deadline < core->heap[child]->deadline) child++;
    if (core->heap[child]->deadline >= s->deadline) break;
    heap_put(core, at, core->heap[child]);
  }
  heap_put(core, at, s);
}

void twire__heap_remove(twire_core *core, slot *s) {
  if (!s->heap_at) return;
  size_t at = s->heap_at - 1;
  slot *last = core->heap[--core->heap_count];
  s->heap_at = 0;
  if (last != s) twire__heap_settle(core, at, last);
}

slot *twire__slot_take(twire_core *core) {
  if (!core->free_slots.first && !twire__slots_grow(core)) return NULL;
  slot *s = list_pop(&core->free_slots);
  /* all but identity and the memory that is kept */
  s->stream = s->deadline = s->in_length = s->in_filled = s->body_left = s->aborted_length = 0;
  s->heap_at = 0;
  s->written = s->replied = s->half_closed = s->sending = s->receiving = s->ending = false;
  s->queue = QUEUE_NONE;
  s->notice = false;
  s->out_seq = s->in_seq = s->segments = 0;
  s->in_body = NULL;
  s->aborted = NULL;
  core->used++;
  return s;
}

void twire__slot_free(twire_core *core, slot *s) {
  s->state = SLOT_FREE;
  s->generation++;
  s->next = core->free_slots.first; /* the warmest first */
  core->free_slots.first = s;
  if (!core->free_slots.last) core->free_slots.last = s;
  core->used--;
}

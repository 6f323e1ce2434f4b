/* call.c: prepared calls (SPEC 5.4, 18.2): metadata written once, the caller's memory gathered for each submit. */
#define _GNU_SOURCE /* strdup */

#include "call.h"

#include <stdio.h>
#include <stdlib.h>

/* Dims that always fit, with BODY_LENGTH and TRACE beside them. */
#define FREE_DIMS 122u

/* A FlatBuffer of the fixed schema, written from front to back: each offset is known once its target is reached. */
typedef struct writer {
  uint8_t *bytes;
  size_t at;
} writer;

static void write32(writer *w, uint32_t v) {
  store32(w->bytes + w->at, v);
  w->at += 4;
}
static void write16s(writer *w, const uint16_t *v, size_t count) {
  memcpy(w->bytes + w->at, v, count * 2);
  w->at += count * 2;
}
/* The offset kept free at `slot` leads here. */
static void write_target(writer *w, size_t slot) { store32(w->bytes + slot, (uint32_t)(w->at - slot)); }

static void write_string(writer *w, size_t slot, const char *s) {
  size_t n = strlen(s);
  write_target(w, slot);
  write32(w, (uint32_t)n);
  memcpy(w->bytes + w->at, s, n);
  w->at += (n + 4) & ~(size_t)3; /* its zero byte and padding: the buffer is zeroed */
}

static void write_tensor(writer *w, size_t slot, const twire_tensor *t, bool fixed) {
  bool kind = t->kind != TWIRE_DENSE;
  const uint16_t vtable[6] = {12, kind ? 20 : 16, 4, 8, kind ? 16 : 0, t->dim_count ? 12 : 0};
  write16s(w, vtable, 6);
  write_target(w, slot);
  size_t table_at = w->at;
  write32(w, 12);
  w->at += 4;
  write32(w, (uint32_t)t->dtype >> 8 | ((uint32_t)t->dtype & 0xff) << 8 | 1u << 16);
  w->at += 4;
  if (kind) write32(w, t->kind);
  if (t->dim_count) {
    w->at += (12 - w->at % 8) % 8; /* its numbers, behind the count, lie at a multiple of 8 */
    write_target(w, table_at + 12);
    write32(w, t->dim_count);
    for (uint32_t d = 0; d < t->dim_count; d++, w->at += 8)
      store64(w->bytes + w->at, fixed ? (uint64_t)t->shape[d] : UINT64_MAX);
  }
  write_string(w, table_at + 4, t->name);
}

static void write_metadata(writer *w, const char *model, const char *version, const twire_call *call) {
  const uint16_t vtable[6] = {10, 16, 4, *version ? 8 : 0, 12, 0};
  write32(w, 20);
  write32(w, 0x314d5754); /* TWM1 */
  write16s(w, vtable, 6);
  write32(w, 12);
  w->at += 12;
  store32(w->bytes + 32, 4);
  write32(w, (uint32_t)call->input_count);
  size_t slots = w->at;
  w->at += 4 * call->input_count;
  for (size_t i = 0; i < call->input_count; i++) write_tensor(w, slots + 4 * i, &call->inputs[i], call->fixed);
  write_string(w, 24, model);
  if (*version) write_string(w, 28, version);
}

static bool name_fits(const char *name, bool may_be_empty) {
  size_t n = name ? strlen(name) : 0;
  return (n || may_be_empty) && n <= TWIRE_MAX_NAME && twire__utf8_valid((const uint8_t *)name, n);
}

/* The caller's inputs are what a message may hold; counts the free dims. */
static int check_inputs(const twire_tensor *inputs, size_t count, size_t *dims) {
  *dims = 0;
  if (!inputs && count) return twire__say(TWIRE_E_ARGUMENT, "inputs is NULL: expected %zu of them", count);
  if (count > TWIRE_MAX_TENSORS) return twire__say(TWIRE_E_ARGUMENT, "%zu inputs: a call has at most 1024", count);
  for (size_t i = 0; i < count; i++) {
    const twire_tensor *t = &inputs[i];
    if (!name_fits(t->name, false)) return twire__say(TWIRE_E_ARGUMENT, "input %zu: its name needs 1 to 256 bytes of UTF-8", i);
    if (!twire_dtype_name(t->dtype)) return twire__say(TWIRE_E_ARGUMENT, "input '%s': %d is no dtype", t->name, (int)t->dtype);
    if ((unsigned)t->kind > TWIRE_RAGGED) return twire__say(TWIRE_E_ARGUMENT, "input '%s': %d is no kind", t->name, (int)t->kind);
    if (t->dim_count > TWIRE_MAX_DIMS)
      return twire__say(TWIRE_E_ARGUMENT, "input '%s': %u dims; a tensor has at most 8", t->name, t->dim_count);
    if (t->kind == TWIRE_STRING && t->dtype != TWIRE_UINT8)
      return twire__say(TWIRE_E_ARGUMENT, "input '%s': the dtype of strings is uint8, that of their bytes", t->name);
    if (t->kind == TWIRE_RAGGED && t->dim_count == 0)
      return twire__say(TWIRE_E_ARGUMENT, "input '%s': a ragged tensor has at least one dim, its rows", t->name);
    for (size_t j = 0; j < i; j++)
      if (strcmp(t->name, inputs[j].name) == 0) return twire__say(TWIRE_E_ARGUMENT, "two inputs are named '%s'", t->name);
    *dims += t->dim_count + (t->kind != TWIRE_DENSE);
  }
  return TWIRE_OK;
}

static int call_fill(twire_call *call, const char *model, const char *version, const twire_tensor *inputs) {
  size_t lengths = 0, bound = 64 + strlen(model) + strlen(version) + 16;
  for (size_t i = 0; i < call->input_count; i++) {
    twire_tensor *t = &call->inputs[i];
    *t = inputs[i];
    t->data = t->offsets = NULL;
    if (!(t->name = strdup(inputs[i].name))) return TWIRE_E_MEMORY;
    lengths += t->kind != TWIRE_DENSE;
    bound += 4 + 12 + 20 + 8 + 4 + 8 * t->dim_count + 8 + strlen(t->name);
    for (uint32_t d = 0; call->fixed && d < t->dim_count; d++)
      if (t->shape[d] < 0 || t->shape[d] > (int64_t)DIM_CAP)
        return twire__say(TWIRE_E_ARGUMENT,
                          "input '%s': this call has more than %u dims, so that their sizes are fixed when it is made: "
                          "give its shape",
                          t->name, FREE_DIMS);
  }
  if (call->fixed) call->dim_count = lengths;
  if (call->dim_count > FREE_DIMS)
    return twire__say(TWIRE_E_ARGUMENT, "%zu inputs of strings or ragged rows: a call has at most %u", lengths, FREE_DIMS);
  if (!(call->metadata = calloc(1, bound))) return TWIRE_E_MEMORY;
  writer w = {call->metadata, 0};
  write_metadata(&w, model, version, call);
  call->metadata_length = w.at;
  if (w.at > METADATA_CAP)
    return twire__say(TWIRE_E_ARGUMENT, "the names of these inputs take %zu bytes of at most 65,536", w.at);
  return TWIRE_OK;
}

int twire_call_new(const char *model, const char *version, const twire_tensor *inputs, size_t input_count,
                   twire_call **call) {
  size_t dims;
  twire__say_nothing();
  if (!call) return twire__say(TWIRE_E_ARGUMENT, "no place for the call: its argument is NULL");
  *call = NULL;
  if (!version) version = "";
  if (!name_fits(model, false)) return twire__say(TWIRE_E_ARGUMENT, "the model's name needs 1 to 256 bytes of UTF-8");
  if (!name_fits(version, true)) return twire__say(TWIRE_E_ARGUMENT, "a version has at most 256 bytes of UTF-8");
  int status = check_inputs(inputs, input_count, &dims);
  if (status) return status;
  twire_call *made = calloc(1, sizeof *made);
  if (!made) return twire__say(TWIRE_E_MEMORY, "no memory");
  made->references = 1;
  made->input_count = input_count;
  made->dim_count = dims;
  made->fixed = dims > FREE_DIMS;
  made->inputs = calloc(input_count + 1, sizeof *made->inputs);
  made->dims = calloc(dims + 1, sizeof *made->dims);
  made->body = calloc(4 * input_count + 1, sizeof *made->body);
  status = made->inputs && made->dims && made->body ? call_fill(made, model, version, inputs) : TWIRE_E_MEMORY;
  if (status) {
    if (status == TWIRE_E_MEMORY) twire__say(status, "no memory");
    twire_call_free(made);
    return status;
  }
  *call = made;
  return TWIRE_OK;
}

void twire_call_free(twire_call *call) {
  if (!call || --call->references) return;
  for (size_t i = 0; call->inputs && i < call->input_count; i++) free((void *)(uintptr_t)call->inputs[i].name);
  twire_layout_free(call->answers);
  free(call->metadata);
  free(call->inputs);
  free(call->dims);
  free(call->body);
  free(call);
}

const void *twire_call_metadata(const twire_call *call, size_t *length) {
  if (length) *length = call ? call->metadata_length : 0;
  return call ? call->metadata : NULL;
}

static const uint8_t ZEROS[ALIGNMENT];

/* A buffer of the caller's memory behind its padding. */
static void gather(twire_call *call, size_t *count, uint64_t *end, const void *memory, uint64_t size) {
  if (size == 0) return;
  uint64_t padding = (ALIGNMENT - *end % ALIGNMENT) % ALIGNMENT;
  if (padding) call->body[(*count)++] = (struct iovec){(void *)(uintptr_t)ZEROS, (size_t)padding};
  call->body[(*count)++] = (struct iovec){(void *)(uintptr_t)memory, (size_t)size};
  *end += padding + size;
}

/* The input of that name: nearly always the one in its place, else one of those behind it, or before. NULL: none is named so. */
static const twire_tensor *input_named(const char *name, const twire_tensor *inputs, size_t count, size_t place) {
  for (size_t i = 0, at = place; i < count; i++, at = at + 1 == count ? 0 : at + 1)
    if (inputs[at].name && strcmp(inputs[at].name, name) == 0) return &inputs[at];
  return NULL;
}

/* DIMS and gather list of one call over the caller's memory. As the call's names differ, and each has its input, no input is
 * left over. The error text, if any, goes to `text_`. */
int twire__call_gather(twire_call *call, const twire_tensor *inputs, size_t *iovecs, char *text_, size_t text_size) {
  size_t dims = 0, count = 0;
  uint64_t end = 0;
  for (size_t i = 0; i < call->input_count; i++) {
    const twire_tensor *made = &call->inputs[i], *t = input_named(made->name, inputs, call->input_count, i);
    if (!t) {
      snprintf(text_, text_size, "input '%s' is missing: where the call was made with it stands %s%s%s", made->name,
               inputs[i].name ? "'" : "one without a name", inputs[i].name ? inputs[i].name : "", inputs[i].name ? "'" : "");
      return TWIRE_E_ARGUMENT;
    }
    if (t->dtype != made->dtype || t->kind != made->kind || t->dim_count != made->dim_count) {
      snprintf(text_, text_size, "input '%s': dtype, kind or number of dims is not what the call was made with", made->name);
      return TWIRE_E_ARGUMENT;
    }
    for (uint32_t d = 0; d < t->dim_count; d++) {
      if (t->shape[d] < 0 || t->shape[d] > (int64_t)DIM_CAP || (call->fixed && t->shape[d] != made->shape[d])) {
        snprintf(text_, text_size, "input '%s': dim %u is %lld: below 0, above 2^48, or not that of the call", made->name, d,
                 (long long)t->shape[d]);
        return TWIRE_E_ARGUMENT;
      }
      if (!call->fixed) call->dims[dims++] = (uint64_t)t->shape[d];
    }
    extent x;
    uint64_t items = 0;
    if (t->kind != TWIRE_DENSE) {
      if (t->offsets && twire__tensor_extent(t, 0, &x)) items = load64((const uint8_t *)t->offsets + 8 * x.rows);
      else items = UINT64_MAX;
      if (items > DIM_CAP || !twire__offsets_valid((const uint8_t *)t->offsets, x.rows, items, NULL)) {
        snprintf(text_, text_size, "input '%s': offsets are missing, do not begin at 0, fall, or end above 2^48", made->name);
        return TWIRE_E_ARGUMENT;
      }
      call->dims[dims++] = items;
    }
    if (!twire__tensor_extent(t, items, &x) || x.first > SIZE_CAP || x.second > SIZE_CAP) {
      snprintf(text_, text_size, "input '%s': its shape makes more than 2^56 bytes", made->name);
      return TWIRE_E_ARGUMENT;
    }
    uint64_t size = t->kind == TWIRE_DENSE ? x.first : x.second;
    if ((t->size && t->size != size) || (size && !t->data)) {
      snprintf(text_, text_size, "input '%s': its shape makes %llu bytes, but data is %s%zu", made->name,
               (unsigned long long)size, t->data ? "" : "NULL, size ", t->size);
      return TWIRE_E_ARGUMENT;
    }
    if (t->kind == TWIRE_DENSE) {
      gather(call, &count, &end, t->data, x.first);
    } else {
      gather(call, &count, &end, t->offsets, x.first);
      gather(call, &count, &end, t->data, x.second);
    }
  }
  *iovecs = count;
  return TWIRE_OK;
}

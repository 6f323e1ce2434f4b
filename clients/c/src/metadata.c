/*
 * metadata.c: metadata verified and read into a layout (SPEC 18.1 to 18.3). Every offset of the peer is checked before it is
 * followed.
 */
#include "layout.h"

#include <stdlib.h>

typedef struct table {
  size_t at, size, vtable, fields;
} table;

typedef struct text {
  size_t at, length;
} text;

/* Verifier of one buffer. Each visit is bounded by the caps of names, dims and tensors, and tensors cannot share a table
 * (their names differ): it visits less than four times the buffer, the budget of SPEC 18.2. */
typedef struct verifier {
  const uint8_t *bytes;
  size_t length;
  const char *reason;
} verifier;

static bool refuse(verifier *v, const char *reason) {
  v->reason = reason;
  return false;
}

static bool verify_table(verifier *v, size_t at, size_t known_fields, table *t) {
  if (at % 4 || at > v->length || v->length - at < 4) return refuse(v, "a table is out of bounds or not aligned");
  int64_t vtable = (int64_t)at - (int32_t)load32(v->bytes + at);
  if (vtable < 0 || vtable % 2 || vtable > (int64_t)v->length - 4)
    return refuse(v, "a vtable is out of bounds or not aligned");
  size_t size = load16(v->bytes + vtable);
  t->at = at;
  t->vtable = (size_t)vtable;
  t->size = load16(v->bytes + vtable + 2);
  if (size < 4 || size % 2 || size > v->length - t->vtable) return refuse(v, "a vtable's length is impossible");
  t->fields = size / 2 - 2;
  if (t->fields > known_fields) return refuse(v, "a table has a field that the schema lacks");
  if (t->size < 4 || t->size > v->length - at) return refuse(v, "a table's length is impossible");
  return true;
}

/* Where field `index` of `size` bytes lies; 0 = absent. */
static bool verify_field(verifier *v, const table *t, size_t index, size_t size, size_t alignment, size_t *at) {
  size_t offset = index < t->fields ? load16(v->bytes + t->vtable + 4 + 2 * index) : 0;
  *at = 0;
  if (offset == 0) return true;
  if (offset < 4 || offset > t->size || t->size - offset < size) return refuse(v, "a field lies outside its table");
  if ((t->at + offset) % alignment) return refuse(v, "a field is not aligned");
  *at = t->at + offset;
  return true;
}

/* Follow an offset to a table, vector or string: there are at least 4 bytes. */
static bool verify_offset(verifier *v, size_t at, size_t *target) {
  uint32_t offset = load32(v->bytes + at);
  if (offset < 4 || offset > v->length - at || v->length - at - offset < 4)
    return refuse(v, "an offset leads out of the buffer");
  *target = at + offset;
  if (*target % 4) return refuse(v, "an offset leads to a place that is not aligned");
  return true;
}

static bool verify_vector(verifier *v, size_t at, size_t item, size_t most, size_t *start, size_t *count) {
  *count = load32(v->bytes + at);
  *start = at + 4;
  if (*count > most) return refuse(v, most == TWIRE_MAX_DIMS ? "a shape has more than 8 dims" : "too many tensors");
  if (*count * item > v->length - *start) return refuse(v, "a vector runs out of the buffer");
  return true;
}

static bool verify_string(verifier *v, const table *t, size_t index, text *s, bool *present) {
  size_t field, at;
  s->at = s->length = 0;
  *present = false;
  if (!verify_field(v, t, index, 4, 4, &field)) return false;
  if (field == 0) return true;
  if (!verify_offset(v, field, &at)) return false;
  s->length = load32(v->bytes + at);
  s->at = at + 4;
  if (s->length >= v->length - s->at) return refuse(v, "a string runs out of the buffer");
  if (v->bytes[s->at + s->length]) return refuse(v, "a string is not followed by a zero byte");
  if (s->length > TWIRE_MAX_NAME) return refuse(v, "a name has more than 256 bytes");
  if (!twire__utf8_valid(v->bytes + s->at, s->length)) return refuse(v, "a name is not UTF-8");
  *present = true;
  return true;
}

static bool verify_name(verifier *v, const table *t, size_t index, text *s, const char *missing) {
  bool present;
  if (!verify_string(v, t, index, s, &present)) return false;
  return s->length ? true : refuse(v, missing);
}

static bool verify_tensor(verifier *v, size_t at, twire_tensor *out) {
  table t;
  text name;
  size_t dtype, kind, shape, start, count = 0;
  if (!verify_table(v, at, 4, &t)) return false;
  if (!verify_name(v, &t, 0, &name, "a tensor has no name")) return false;
  if (!verify_field(v, &t, 1, 4, 2, &dtype)) return false;
  if (dtype == 0) return refuse(v, "a tensor has no dtype");
  if (!verify_field(v, &t, 2, 1, 1, &kind)) return false;
  if (!verify_field(v, &t, 3, 4, 4, &shape)) return false;
  out->name = (const char *)v->bytes + name.at;
  out->name_length = name.length;
  out->dtype = (twire_dtype)(v->bytes[dtype] << 8 | v->bytes[dtype + 1]);
  if (load16(v->bytes + dtype + 2) != 1 || !twire_dtype_name(out->dtype)) return refuse(v, "a dtype is in no table");
  unsigned number = kind ? v->bytes[kind] : 0;
  if (number > TWIRE_RAGGED) return refuse(v, "a kind is unknown");
  out->kind = (twire_kind)number;
  if (shape) {
    if (!verify_offset(v, shape, &start) || !verify_vector(v, start, 8, TWIRE_MAX_DIMS, &start, &count)) return false;
    if (count && start % 8) return refuse(v, "the numbers of a shape are not aligned");
    for (size_t i = 0; i < count; i++) {
      int64_t dim = (int64_t)load64(v->bytes + start + 8 * i);
      if (dim < -1 || dim > (int64_t)DIM_CAP) return refuse(v, "a dim is neither -1 nor 0 to 2^48");
      out->shape[i] = dim;
    }
  }
  out->dim_count = (uint32_t)count;
  if (out->kind == TWIRE_STRING && out->dtype != TWIRE_UINT8) return refuse(v, "the dtype of strings is not uint8");
  if (out->kind == TWIRE_RAGGED && count == 0) return refuse(v, "a ragged tensor has no dim");
  return true;
}

static bool verify_all(verifier *v, twire_layout *out, size_t vector, size_t count) {
  for (size_t i = 0; i < count; i++) {
    twire_tensor *tensor = &out->tensors[i];
    size_t at;
    if (!verify_offset(v, vector + 4 * i, &at) || !verify_tensor(v, at, tensor)) return false;
    for (size_t j = 0; j < i; j++)
      if (same(tensor->name, tensor->name_length, out->tensors[j].name, out->tensors[j].name_length))
        return refuse(v, "two tensors have one name");
    for (uint32_t d = 0; d < tensor->dim_count; d++) out->dim_count += tensor->shape[d] == -1;
    out->dim_count += tensor->kind != TWIRE_DENSE;
  }
  return true;
}

/* The root table: its strings, and where its vector of tensors is. */
static bool verify_root(verifier *v, text *model, text *version, size_t *vector, size_t *count) {
  table root;
  size_t at, field;
  bool present;
  if (v->length > METADATA_CAP) return refuse(v, "it has more than 65,536 bytes");
  if (v->length < 8 || memcmp(v->bytes + 4, "TWM1", 4)) return refuse(v, "it is no FlatBuffer of tensor.fbs (TWM1)");
  if (!verify_offset(v, 0, &at) || !verify_table(v, at, 3, &root)) return false;
  if (!verify_name(v, &root, 0, model, "it names no model")) return false;
  if (!verify_string(v, &root, 1, version, &present)) return false;
  if (!verify_field(v, &root, 2, 4, 4, &field)) return false;
  if (field == 0) return refuse(v, "it has no tensors");
  return verify_offset(v, field, &at) && verify_vector(v, at, 4, TWIRE_MAX_TENSORS, vector, count);
}

int twire__failed(const char **reason, const char *text_) {
  if (reason) *reason = text_;
  return TWIRE_INVALID_ARGUMENT;
}

int twire__unsuitable(const char **reason) {
  if (reason) *reason = "an argument is NULL";
  return TWIRE_E_ARGUMENT;
}

int twire_layout_read(const void *metadata, size_t length, twire_layout **layout, const char **reason) {
  verifier v = {metadata, length, NULL};
  text model, version;
  size_t vector, count;
  if (layout) *layout = NULL;
  if (!layout || (!metadata && length)) return twire__unsuitable(reason);
  if (verify_root(&v, &model, &version, &vector, &count)) {
    size_t head = sizeof(twire_layout) + count * sizeof(twire_tensor);
    twire_layout *made = calloc(1, head + length + 1);
    if (!made) return TWIRE_E_MEMORY;
    uint8_t *own = (uint8_t *)made + head;
    memcpy(own, metadata, length);
    v.bytes = own; /* so that names point into our copy */
    made->references = 1;
    made->metadata = own;
    made->metadata_length = length;
    made->model = (const char *)own + model.at;
    made->version = version.length ? (const char *)own + version.at : "";
    made->tensor_count = count;
    if (verify_all(&v, made, vector, count)) {
      *layout = made;
      return TWIRE_OK;
    }
    free(made);
  }
  return twire__failed(reason, v.reason);
}

void twire_layout_free(twire_layout *layout) {
  if (layout && --layout->references == 0) free(layout);
}

const char *twire_layout_model(const twire_layout *layout) { return layout ? layout->model : ""; }
const char *twire_layout_version(const twire_layout *layout) { return layout ? layout->version : ""; }
const twire_tensor *twire_layout_tensors(const twire_layout *layout, size_t *count) {
  if (count) *count = layout ? layout->tensor_count : 0;
  return layout ? layout->tensors : NULL;
}

/* dtypes.c: element types, and dense tensors made of them (SPEC 18.3). */
#include "layout.h"

/* ---------------------------------------------------------------------------------------------------------- dtypes */

static const struct {
  twire_dtype dtype;
  const char *name;
} DTYPES[] = {
    {TWIRE_BOOL, "bool"},
    {TWIRE_INT8, "int8"},
    {TWIRE_INT16, "int16"},
    {TWIRE_INT32, "int32"},
    {TWIRE_INT64, "int64"},
    {TWIRE_UINT8, "uint8"},
    {TWIRE_UINT16, "uint16"},
    {TWIRE_UINT32, "uint32"},
    {TWIRE_UINT64, "uint64"},
    {TWIRE_FLOAT16, "float16"},
    {TWIRE_FLOAT32, "float32"},
    {TWIRE_FLOAT64, "float64"},
    {TWIRE_BFLOAT16, "bfloat16"},
    {TWIRE_COMPLEX64, "complex64"},
    {TWIRE_COMPLEX128, "complex128"},
    {TWIRE_FLOAT8_E3M4, "float8_e3m4"},
    {TWIRE_FLOAT8_E4M3, "float8_e4m3"},
    {TWIRE_FLOAT8_E4M3B11FNUZ, "float8_e4m3b11fnuz"},
    {TWIRE_FLOAT8_E4M3FN, "float8_e4m3fn"},
    {TWIRE_FLOAT8_E4M3FNUZ, "float8_e4m3fnuz"},
    {TWIRE_FLOAT8_E5M2, "float8_e5m2"},
    {TWIRE_FLOAT8_E5M2FNUZ, "float8_e5m2fnuz"},
    {TWIRE_FLOAT8_E8M0FNU, "float8_e8m0fnu"},
};
#define DTYPE_COUNT (sizeof DTYPES / sizeof *DTYPES)

const char *twire_dtype_name(twire_dtype dtype) {
  for (size_t i = 0; i < DTYPE_COUNT; i++)
    if (DTYPES[i].dtype == dtype) return DTYPES[i].name;
  return NULL;
}

twire_dtype twire_dtype_of(const char *name) {
  for (size_t i = 0; name && i < DTYPE_COUNT; i++)
    if (strcmp(DTYPES[i].name, name) == 0) return DTYPES[i].dtype;
  return (twire_dtype)0;
}

size_t twire_dtype_size(twire_dtype dtype) { return twire_dtype_name(dtype) ? item_size(dtype) : 0; }

twire_tensor twire_dense(const char *name, twire_dtype dtype, const void *data, uint32_t dim_count,
                         const int64_t *shape) {
  twire_tensor t;
  memset(&t, 0, sizeof t);
  t.name = name;
  t.dtype = dtype;
  t.data = data;
  t.dim_count = dim_count;
  size_t size = (dim_count < TWIRE_MAX_DIMS ? dim_count : TWIRE_MAX_DIMS) * sizeof *shape;
  if (shape) copy(t.shape, shape, size);
  else memset(t.shape, 0xff, size); /* -1: of no size yet */
  return t;
}

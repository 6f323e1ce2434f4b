/*
 * classify: one blocking call. Shows the usual program: connect, make the call site once, infer, read the outputs.
 *
 *     classify tw://127.0.0.1:7411 classifier x photo.npy           float32 from a .npy file, with its shape
 *     classify tw://127.0.0.1:7411 classifier x 1x3x224x224 f.raw   float32 from a file of nothing else
 *     classify tw://127.0.0.1:7411 classifier x 1x3x224x224         random values
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "twire.h"

static void die(const char *what, const char *why) {
  fprintf(stderr, "classify: %s: %s\n", what, why);
  exit(1);
}

static size_t elements(const twire_tensor *tensor) {
  size_t count = 1;
  for (uint32_t d = 0; d < tensor->dim_count; d++)
    if (__builtin_mul_overflow(count, (size_t)tensor->shape[d], &count) || count > SIZE_MAX / 64) die("shape", "too large");
  return count;
}

/* Read dims that are parted by one character. Returns where the first thing is that is none. */
static const char *read_shape(const char *text, char part, twire_tensor *tensor) {
  for (char *rest; *text >= '0' && *text <= '9'; text = rest) {
    if (tensor->dim_count == TWIRE_MAX_DIMS) die("shape", "above 8 dims");
    tensor->shape[tensor->dim_count++] = strtoll(text, &rest, 10);
    while (*rest == part || (part == ',' && *rest == ' ')) rest++;
  }
  return text;
}

/* Exactly the tensor's bytes. */
static void *read_data(FILE *file, const char *path, twire_tensor *tensor) {
  size_t size = elements(tensor) * sizeof(float);
  float *data = malloc(size + 1);
  if (!data) die(path, "out of memory");
  if (fread(data, 1, size + 1, file) != size) die(path, "its length is not that of float32 values in this shape");
  fclose(file);
  return data;
}

static FILE *open_file(const char *path) {
  FILE *file = fopen(path, "rb");
  if (!file) die(path, strerror(errno));
  return file;
}

/* https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html, versions 1 and 2 */
static void *read_npy(const char *path, twire_tensor *tensor) {
  FILE *file = open_file(path);
  unsigned char start[12] = {0};
  char header[4096] = "";
  if (fread(start, 1, 10, file) != 10 || memcmp(start, "\x93NUMPY", 6) != 0) die(path, "no .npy file");
  if (start[6] > 1 && fread(start + 10, 1, 2, file) != 2) die(path, "no .npy file");
  size_t length = start[8] | (size_t)start[9] << 8 | (size_t)start[10] << 16 | (size_t)start[11] << 24;
  if (length >= sizeof header || fread(header, 1, length, file) != length) die(path, "its header is too long");
  const char *shape = strstr(header, "'shape': (");
  if (!shape || !strstr(header, "'descr': '<f4'") || !strstr(header, "'fortran_order': False"))
    die(path, "expected float32 in C order: np.save(path, np.ascontiguousarray(x, np.float32))");
  read_shape(shape + strlen("'shape': ("), ',', tensor);
  return read_data(file, path, tensor);
}

static void *random_data(twire_tensor *tensor) {
  size_t count = elements(tensor);
  float *data = malloc(count * sizeof *data + 1);
  if (!data) die("input", "out of memory");
  for (size_t i = 0; i < count; i++) data[i] = (float)rand() / (float)RAND_MAX;
  return data;
}

static void print_tensor(const twire_tensor *tensor) {
  for (const char *c = tensor->name; *c; c++) putchar(*c < ' ' || *c > '~' ? '?' : *c); /* the server's words: no control codes */
  printf(" %s [", twire_dtype_name(tensor->dtype));
  for (uint32_t d = 0; d < tensor->dim_count; d++) printf("%s%lld", d ? ", " : "", (long long)tensor->shape[d]);
  printf("], %zu bytes\n", tensor->size);
  if (tensor->dtype != TWIRE_FLOAT32 || tensor->kind != TWIRE_DENSE || tensor->size == 0) return;
  const float *values = tensor->data;
  size_t count = tensor->size / sizeof *values, largest = 0;
  for (size_t i = 1; i < count; i++)
    if (values[i] > values[largest]) largest = i;
  for (size_t i = 0; i < count && i < 8; i++) printf("%s%g", i ? " " : "  ", (double)values[i]);
  printf("%s\n  largest: %g at %zu\n", count > 8 ? " ..." : "", (double)values[largest], largest);
}

int main(int argc, char **argv) {
  if (argc < 5 || argc > 6) die("usage", "classify URL MODEL INPUT FILE.npy | SHAPE [FILE.raw]");
  twire_tensor input = {.name = argv[3], .dtype = TWIRE_FLOAT32};
  size_t length = strlen(argv[4]);
  bool npy = length > 4 && strcmp(argv[4] + length - 4, ".npy") == 0;
  if (!npy && *read_shape(argv[4], 'x', &input)) die(argv[4], "expected a shape such as 1x3x224x224, or a file that ends in .npy");
  void *data = npy ? read_npy(argv[4], &input) : argc == 6 ? read_data(open_file(argv[5]), argv[5], &input) : random_data(&input);
  input.data = data;

  twire_client *client;
  twire_call *call;
  twire_reply *reply = twire_reply_new();
  const twire_options options = {.agent = "classify/1", .timeout = 10000000000 /* 10 s for each call */};
  if (!reply) die("reply", "out of memory");
  if (twire_connect(argv[1], &options, &client)) die(argv[1], twire_connect_error());
  if (twire_call_new(argv[2], NULL, &input, 1, &call)) die(argv[2], twire_connect_error());

  const twire_call_options ask = {.want_timing = true};
  int status = twire_infer(client, call, &input, &ask, reply);
  if (status) fprintf(stderr, "classify: %s\n", twire_reply_text(reply));
  for (size_t i = 0; i < twire_reply_tensor_count(reply); i++) print_tensor(&twire_reply_tensors(reply)[i]);
  twire_timing timing;
  if (!status && twire_reply_timing(reply, &timing))
    printf("%u us in the server, %u of them in the model\n", timing.server_total, timing.compute);

  twire_reply_free(reply);
  twire_call_free(call);
  twire_close(client);
  free(data);
  return status ? 1 : 0;
}

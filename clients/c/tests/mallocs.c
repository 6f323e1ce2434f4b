/* mallocs.c: preloaded (LD_PRELOAD) it counts allocations and says at exit how many there were; for tests/c/test_c_signed.py. glibc. */
#include <stddef.h>
#include <stdio.h>

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t count, size_t size);
void *__libc_realloc(void *memory, size_t size);
void *malloc(size_t size);
void *calloc(size_t count, size_t size);
void *realloc(void *memory, size_t size);

static unsigned long mallocs;

void *malloc(size_t size) { return mallocs++, __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return mallocs++, __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { return mallocs++, __libc_realloc(memory, size); }

__attribute__((destructor)) static void say(void) { fprintf(stderr, "mallocs %lu\n", mallocs); }

/* system.c: what is asked of the system: the clock, random bytes. */
#define _GNU_SOURCE /* getrandom */

#include "bytes.h"

#include <errno.h>
#include <sys/random.h>
#include <time.h>

uint64_t twire_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

bool twire_random(void *bytes, size_t length) {
  size_t done = 0;
  if (!bytes && length) return false;
  while (done < length) {
    ssize_t n = getrandom((uint8_t *)bytes + done, length - done, 0);
    if (n < 0 && errno != EINTR) return false;
    if (n > 0) done += (size_t)n;
  }
  return true;
}

/* A duration that went below 0 before it became unsigned. UINT64_MAX is "as long as it takes". */
bool twire__negative(uint64_t duration) { return duration > INT64_MAX && duration != UINT64_MAX; }

/* The time that is a duration from now; 0 = never. */
uint64_t twire__time_after(uint64_t duration) {
  uint64_t now = twire_now();
  return duration > UINT64_MAX - now ? 0 : now + duration;
}

/*
 * A histogram of durations with three significant digits: log-linear buckets, as HdrHistogram has them.
 *
 * What lives here: recording (a few instructions, no memory) and percentiles. What must not: clocks, printing.
 *
 * Values below 2,048 have a bucket each. Above, each power of two is cut into 1,024 buckets, so that a bucket is less than
 * 0.1% of its values wide. The longest value is 2^44 - 1 ns (4.8 hours); longer ones are counted as that.
 */
#ifndef LOAD_HISTOGRAM_H
#define LOAD_HISTOGRAM_H

#include <stdint.h>

enum { HISTOGRAM_BITS = 10, HISTOGRAM_VALUE_BITS = 44 };
enum { HISTOGRAM_BUCKETS = (HISTOGRAM_VALUE_BITS - HISTOGRAM_BITS + 1) << HISTOGRAM_BITS };

typedef struct load_histogram {
  uint64_t count, max; /* values recorded, the largest of them */
  uint64_t buckets[HISTOGRAM_BUCKETS];
} load_histogram;

static inline uint32_t histogram_bucket(uint64_t value) {
  if (value >> HISTOGRAM_VALUE_BITS) value = (UINT64_C(1) << HISTOGRAM_VALUE_BITS) - 1;
  int bits = 64 - __builtin_clzll(value | 1);
  int shift = bits > HISTOGRAM_BITS + 1 ? bits - HISTOGRAM_BITS - 1 : 0;
  return ((uint32_t)shift << HISTOGRAM_BITS) + (uint32_t)(value >> shift);
}

/* The largest value of a bucket. */
static inline uint64_t histogram_top(uint32_t bucket) {
  int shift = bucket < 2u << HISTOGRAM_BITS ? 0 : (int)(bucket >> HISTOGRAM_BITS) - 1;
  uint64_t value = bucket - ((uint64_t)shift << HISTOGRAM_BITS);
  return ((value + 1) << shift) - 1;
}

static inline void histogram_record(load_histogram *histogram, uint64_t value) {
  histogram->buckets[histogram_bucket(value)]++;
  histogram->count++;
  if (value > histogram->max) histogram->max = value;
}

/* The value that `percent` per cent of the values did not exceed (nearest rank); 0 if there are none. */
static inline uint64_t histogram_percentile(const load_histogram *histogram, double percent) {
  double exact = (double)histogram->count * percent / 100;
  uint64_t rank = (uint64_t)exact, seen = 0;
  if ((double)rank + 1e-6 < exact) rank++;
  if (rank == 0) rank = 1;
  for (uint32_t bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
    seen += histogram->buckets[bucket];
    if (seen < rank) continue;
    uint64_t top = histogram_top(bucket);
    return top < histogram->max ? top : histogram->max;
  }
  return histogram->max;
}

#endif

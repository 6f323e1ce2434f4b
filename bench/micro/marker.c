/* What a Python program tells callgrind through ctypes: count from now on, write down what was counted under a name. */
#include <valgrind/callgrind.h>

void start(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void dump(const char *name) { CALLGRIND_DUMP_STATS_AT(name); }

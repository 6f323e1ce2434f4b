/*
 * tag.c: the tags of src/mac.c by themselves, for tests/c/test_c_signed_vectors.py. One line on stdin, MAC KEY COUNTER BYTES (hex;
 * n and frames), is one line on stdout, "tag bytes=HEX", and a dot. It reaches past the public headers.
 */
#include "../src/mac.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static size_t unhex(const char *text_, uint8_t *out) {
  static const char digits[] = "0123456789abcdef";
  size_t n = 0;
  for (; text_[0] && text_[0] != '\n'; text_ += 2) {
    const char *high = strchr(digits, text_[0]), *low = text_[1] ? strchr(digits, text_[1]) : NULL;
    if (!high || !low) exit(2);
    out[n++] = (uint8_t)((high - digits) << 4 | (low - digits));
  }
  return n;
}

int main(void) {
  static char line[4u << 20];
  static uint8_t bytes[2u << 20];
  while (fgets(line, sizeof line, stdin)) {
    char name[16], key_text[65];
    uint8_t key[HASH], tag[TAG];
    int at = 0;
    mac m;
    memset(&m, 0, sizeof m);
    if (sscanf(line, "%15s %64s %" SCNu64 " %n", name, key_text, &m.counter, &at) != 3 || unhex(key_text, key) != HASH) return 2;
    uint64_t counter = m.counter;
    size_t n = unhex(line + at, bytes);
    if (n < RECORD_HEAD || !twire__mac_begin_key(&m, strcmp(name, "hmac-sha256") ? MAC_AES_256_GMAC : MAC_HMAC_SHA256, key)) return 2;
    m.counter = counter;
    twire__mac_begin(&m, bytes);
    for (size_t i = RECORD_HEAD, piece; i < n; i += piece) { /* in pieces of odd sizes, as they may come from a socket */
      piece = n - i < 4099 ? n - i : 4099;
      twire__mac_add(&m, bytes + i, piece);
    }
    if (!twire__mac_end(&m, tag)) return 2;
    twire__mac_free(&m);
    printf("tag bytes=");
    for (size_t i = 0; i < TAG; i++) printf("%02x", tag[i]);
    printf("\n.\n");
  }
  return 0;
}

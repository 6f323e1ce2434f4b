/* key.h: the key and the MACs of one connection. */
#ifndef TWIRE_KEY_H
#define TWIRE_KEY_H

#include "bytes.h"

#define KEY_ID_CAP 64u
#define SECRET 32u
#define PROOF 32u
#define HASH 32u
#define SECRET_TEXT 43u /* base64url of 32 bytes, without padding */

enum { MAC_NONE, MAC_HMAC_SHA256, MAC_AES_256_GMAC, MACS };

/* Who we are, and what we take for signing. */
typedef struct credentials {
  size_t id_length; /* 0 = no key */
  size_t mac_count;
  uint8_t macs[MACS]; /* the most wanted first */
  char id[KEY_ID_CAP];
  uint8_t secret[SECRET];
} credentials;

void twire__wipe(void *memory, size_t size);
const char *twire__credentials_read(const twire_options *o, credentials *c);

#endif

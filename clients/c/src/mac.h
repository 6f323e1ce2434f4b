/* mac.h: the tags of one direction (SPEC 11). */
#ifndef TWIRE_MAC_H
#define TWIRE_MAC_H

#include "key.h"

#ifdef TWIRE_CRYPTO
#define OPENSSL_SUPPRESS_DEPRECATED /* SHA256_CTX: see `mac` */
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/sha.h>
#endif

#define TAG 16u
#define RECORD_PREFIX 4u
#define RECORD_HEAD (RECORD_PREFIX + HEADER) /* n, and the header of the record's first frame */
#define RECORD_BATCH 65536u                  /* bytes of several frames in one record */
#define FRAME_MOST (HEADER + EXTENSION_CAP + METADATA_CAP + TWIRE_INLINE_BODY) /* a frame that is no chunk */

/*
 * The tags of one direction, one after the other. HMAC copies two SHA-256 states that have hashed the pads of its key: a tag
 * of 300 bytes costs 260 ns; EVP_MAC costs 370 and two allocations, hence the older functions. GMAC sets the nonce of a cipher
 * whose key stands.
 */
typedef struct mac {
  int kind;
  bool chunk, failed;
  uint64_t counter; /* of the record under way */
  uint8_t head[RECORD_HEAD];
#ifdef TWIRE_CRYPTO
  SHA256_CTX inner, outer, running;
  EVP_CIPHER_CTX *cipher;
#endif
} mac;

bool twire__chunk_shaped(const uint8_t *header_, uint32_t n);
void twire__mac_free(mac *m);
void twire__mac_begin(mac *m, const uint8_t head[RECORD_HEAD]);
void twire__mac_add(mac *m, const void *p, size_t n);
bool twire__mac_end(mac *m, uint8_t tag[TAG]);
bool twire__mac_right(mac *m, const uint8_t *tag);

#ifdef TWIRE_CRYPTO
bool twire__mac_begin_key(mac *m, int kind, const uint8_t key[HASH]);
void twire__hmac_sha256(const uint8_t *key, size_t length, const void *data, size_t size, uint8_t out[HASH]);
void twire__label_key(const uint8_t prk[HASH], const char *label, const uint8_t th[HASH], uint8_t out[HASH]);
#endif

#endif

/* mac.c: tags of records by HMAC-SHA256 and AES-256-GMAC, and keys from labels (SPEC 11.3 to 11.6). */
#include "mac.h"

#include <stdio.h>

/* A record that is one frame of this header, and a chunk by its looks alone: GMAC takes its body as AAD (SPEC 11.6). */
bool twire__chunk_shaped(const uint8_t *header_, uint32_t n) {
  uint32_t length = load32(header_);
  return header_[4] == 6 /* DATA */ && length == n - HEADER && length >= CHUNK_LEAST && load32(header_ + 24) == 0 &&
         load16(header_ + 28) == 0;
}

#ifdef TWIRE_CRYPTO

/* Two states that have hashed the pads of an HMAC key of at most 64 bytes. */
static void hmac_key(SHA256_CTX *inner, SHA256_CTX *outer, const uint8_t *key, size_t length) {
  uint8_t pad[SHA256_CBLOCK];
  for (int second = 0; second < 2; second++) {
    memset(pad, second ? 0x5c : 0x36, sizeof pad);
    for (size_t i = 0; i < length; i++) pad[i] ^= key[i];
    SHA256_Init(second ? outer : inner);
    SHA256_Update(second ? outer : inner, pad, sizeof pad);
  }
  twire__wipe(pad, sizeof pad);
}

static void hmac_finish(SHA256_CTX *running, const SHA256_CTX *outer, uint8_t out[HASH]) {
  SHA256_Final(out, running);
  *running = *outer;
  SHA256_Update(running, out, HASH);
  SHA256_Final(out, running);
}

void twire__hmac_sha256(const uint8_t *key, size_t length, const void *data, size_t size, uint8_t out[HASH]) {
  SHA256_CTX inner, outer;
  hmac_key(&inner, &outer, key, length);
  SHA256_Update(&inner, data, size);
  hmac_finish(&inner, &outer, out);
  twire__wipe(&inner, sizeof inner);
  twire__wipe(&outer, sizeof outer);
}

/* key(label) of SPEC 11.3: HKDF-Expand of one block (RFC 5869). */
void twire__label_key(const uint8_t prk[HASH], const char *label, const uint8_t th[HASH], uint8_t out[HASH]) {
  uint8_t info[64];
  size_t n = (size_t)snprintf((char *)info, sizeof info, "tensorwire 1 %s", label) + 1; /* with its 0x00 */
  memcpy(info + n, th, HASH);
  info[n + HASH] = 1;
  twire__hmac_sha256(prk, HASH, info, n + HASH + 1, out);
}

bool twire__mac_begin_key(mac *m, int kind, const uint8_t key[HASH]) {
  m->kind = kind;
  if (kind == MAC_HMAC_SHA256) {
    hmac_key(&m->inner, &m->outer, key, HASH);
    return true;
  }
  m->cipher = EVP_CIPHER_CTX_new();
  return m->cipher && EVP_EncryptInit_ex(m->cipher, EVP_aes_256_gcm(), NULL, key, NULL) == 1;
}

void twire__mac_free(mac *m) {
  EVP_CIPHER_CTX_free(m->cipher); /* clears its key */
  twire__wipe(m, sizeof *m);
}

/* Plaintext of GCM; the ciphertext is thrown away. */
static void gmac_text(mac *m, const uint8_t *p, size_t n) {
  uint8_t scratch[4096];
  int made;
  for (size_t part; n; p += part, n -= part) {
    part = n < sizeof scratch ? n : sizeof scratch;
    m->failed |= EVP_EncryptUpdate(m->cipher, scratch, &made, p, (int)part) != 1;
  }
}

/* A record begins: its n and the header of its first frame. The rest comes by mac_add, in order. */
void twire__mac_begin(mac *m, const uint8_t head[RECORD_HEAD]) {
  uint8_t block[12 + RECORD_HEAD] = {0};
  store64(block, m->counter);
  m->chunk = twire__chunk_shaped(head + RECORD_PREFIX, load32(head));
  m->failed = false;
  if (m->kind == MAC_HMAC_SHA256) {
    memcpy(block + 8, head, RECORD_HEAD);
    m->running = m->inner;
    SHA256_Update(&m->running, block, 8 + RECORD_HEAD);
    return;
  }
  m->failed = EVP_EncryptInit_ex(m->cipher, NULL, NULL, NULL, block) != 1;
  if (m->chunk) memcpy(m->head, head, RECORD_HEAD); /* AAD comes before the plaintext */
  else gmac_text(m, head, RECORD_HEAD);
}

void twire__mac_add(mac *m, const void *p, size_t n) {
  int made;
  if (m->kind == MAC_HMAC_SHA256) SHA256_Update(&m->running, p, n);
  else if (!m->chunk) gmac_text(m, p, n);
  else if (n) m->failed |= EVP_EncryptUpdate(m->cipher, NULL, &made, p, (int)n) != 1; /* a chunk: at most 1 MiB */
}

/* The tag of the record that ends here. False: libcrypto failed. */
bool twire__mac_end(mac *m, uint8_t tag[TAG]) {
  uint8_t digest[HASH];
  int made;
  m->counter++;
  if (m->kind == MAC_HMAC_SHA256) {
    hmac_finish(&m->running, &m->outer, digest);
    memcpy(tag, digest, TAG);
    return true;
  }
  if (m->chunk) gmac_text(m, m->head, RECORD_HEAD);
  m->failed |= EVP_EncryptFinal_ex(m->cipher, digest, &made) != 1;
  m->failed |= EVP_CIPHER_CTX_ctrl(m->cipher, EVP_CTRL_AEAD_GET_TAG, (int)TAG, tag) != 1;
  return !m->failed;
}

/* The record that ends here has this tag. */
bool twire__mac_right(mac *m, const uint8_t *tag) {
  uint8_t own[TAG];
  return twire__mac_end(m, own) && CRYPTO_memcmp(own, tag, TAG) == 0;
}

#else

void twire__mac_free(mac *m) { (void)m; }
void twire__mac_begin(mac *m, const uint8_t head[RECORD_HEAD]) {
  m->chunk = twire__chunk_shaped(head + RECORD_PREFIX, load32(head));
}
void twire__mac_add(mac *m, const void *p, size_t n) { (void)m, (void)p, (void)n; }
bool twire__mac_end(mac *m, uint8_t tag[TAG]) { return (void)m, (void)tag, false; } /* not reached: nothing is signed */
bool twire__mac_right(mac *m, const uint8_t *tag) { return (void)m, (void)tag, false; }

#endif

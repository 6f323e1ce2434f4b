/* key.c: the key and the MACs of the options. No text made here holds a part of a secret. */
#define _GNU_SOURCE /* strnlen */

#include "key.h"

#ifdef TWIRE_CRYPTO
#include <openssl/crypto.h>
#endif

static const char *const MAC_NAMES[MACS] = {"none", "hmac-sha256", "aes-256-gmac"};

void twire__wipe(void *memory, size_t size) {
#ifdef TWIRE_CRYPTO
  OPENSSL_cleanse(memory, size);
#else
  memset(memory, 0, size); /* such a build holds no secret */
#endif
}

static bool key_id_valid(const char *id, size_t length) {
  static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
  if (length < 1 || length > KEY_ID_CAP) return false;
  for (size_t i = 0; i < length; i++)
    if (!id[i] || !strchr(letters, id[i])) return false;
  return true;
}

/* The one way to write these 32 bytes: the two bits left over are zero. */
static bool secret_decode(const char *text_, uint8_t secret[SECRET]) {
  uint32_t bits = 0;
  size_t held = 0, at = 0;
  if (strnlen(text_, SECRET_TEXT + 1) != SECRET_TEXT) return false;
  for (size_t i = 0; i < SECRET_TEXT; i++) {
    char c = text_[i];
    int value = c >= 'A' && c <= 'Z'   ? c - 'A'
                : c >= 'a' && c <= 'z' ? c - 'a' + 26
                : c >= '0' && c <= '9' ? c - '0' + 52
                : c == '-'             ? 62
                : c == '_'             ? 63
                                       : -1;
    if (value < 0) return false;
    bits = bits << 6 | (uint32_t)value;
    for (held += 6; held >= 8; held -= 8) secret[at++] = (uint8_t)(bits >> (held - 8));
  }
  return (bits & 3) == 0;
}

static bool macs_read(const char *names, credentials *c) {
  for (c->mac_count = 0; *names;) {
    size_t length = strcspn(names, ","), i = 0;
    while (i < MACS && !same(names, length, MAC_NAMES[i], strlen(MAC_NAMES[i]))) i++;
    if (i == MACS || c->mac_count == MACS || memchr(c->macs, (int)i, c->mac_count)) return false;
    c->macs[c->mac_count++] = (uint8_t)i;
    names += length;
    if (*names && !*++names) return false;
  }
  return c->mac_count > 0;
}

/* The key and MACs of the options. What is wrong with them, NULL if nothing is; never a part of a secret. */
const char *twire__credentials_read(const twire_options *o, credentials *c) {
  bool text_given = o->key && *o->key, parts_given = o->key_id || o->secret;
  memset(c, 0, sizeof *c);
  if (text_given && parts_given) return "options: give the key as text (key), or in parts (key_id and secret), not both";
#ifndef TWIRE_CRYPTO
  if (text_given || parts_given)
    return "a key is given, but this library was built without libcrypto: install its headers (libssl-dev) and build again "
           "(make -C clients/c), or compile with -DTWIRE_CRYPTO and link -lcrypto";
#endif
  if (parts_given) {
    if (!o->key_id || !o->secret || !key_id_valid(o->key_id, strnlen(o->key_id, KEY_ID_CAP + 1)))
      return "options: key_id and secret belong together; expected an id of 1 to 64 letters, digits, '.', '_', '-'";
    c->id_length = strlen(o->key_id);
    memcpy(c->id, o->key_id, c->id_length);
    memcpy(c->secret, o->secret, SECRET);
  } else if (text_given) {
    size_t length = strcspn(o->key, ":");
    if (!key_id_valid(o->key, length) || !o->key[length] || !secret_decode(o->key + length + 1, c->secret))
      return "the key is malformed (it is not shown, being a secret): expected ID:SECRET, an id of 1 to 64 letters, digits, "
             "'.', '_', '-', and 43 characters of base64url, as `tensorwire keys new` prints it";
    c->id_length = length;
    memcpy(c->id, o->key, length);
  }
  const char *macs = o->macs ? o->macs : c->id_length ? "aes-256-gmac,hmac-sha256" : "none";
  if (!macs_read(macs, c))
    return "options: macs is malformed: expected names of hmac-sha256, aes-256-gmac and none, separated by commas, each once";
  if (!c->id_length && (c->mac_count > 1 || c->macs[0] != MAC_NONE))
    return "options: macs names a MAC that needs a key, and there is none: give one (key, or TENSORWIRE_KEY)";
  return NULL;
}

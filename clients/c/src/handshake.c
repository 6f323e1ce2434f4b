/* handshake.c: the handshake (SPEC 9): HELLO, WELCOME, proofs, AUTH. */
#include "core.h"

enum {
  ENTRY_VERSIONS = 1,
  ENTRY_DRAFT = 2,
  ENTRY_NONCE = 3,
  ENTRY_FEATURES = 4,
  ENTRY_MAC = 6,
  ENTRY_KEY_ID = 7,
  ENTRY_LIMITS = 8,
  ENTRY_AGENT = 9,
  ENTRY_CONNECTION_ID = 10,
  ENTRY_BOOT_ID = 11,
  ENTRY_PROOF = 13,
  ENTRIES /* one more than the last that is read */
};

static const uint8_t PREFACE[8] = {0x89, 'T', 'W', 'P', '\r', '\n', 0x1a, '\n'};

static uint8_t *put_entry(uint8_t *p, uint16_t type, const void *value, size_t length) {
  store16(p, type);
  store16(p + 2, (uint16_t)length);
  memcpy(p + 4, value, length);
  return p + 4 + length;
}

/* Preface and HELLO, the first output. */
void twire__push_hello(twire_core *core, const uint8_t nonce[32], const char *agent) {
  uint8_t limits[16], versions[4], draft[4], feature[2], *start = core->hello + sizeof PREFACE, *p = start + HEADER;
  store16(versions, TWIRE_PROTOCOL_VERSION);
  store16(versions + 2, TWIRE_PROTOCOL_VERSION);
  store32(draft, TWIRE_PROTOCOL_DRAFT);
  store16(feature, (uint16_t)((nonce[0] >> 4) * 0x1000 + 0x0a0a)); /* one that is none: servers must ignore it (SPEC 9.5) */
  store32(limits, core->own_chunk);
  store32(limits + 4, 0);
  store64(limits + 8, core->own_max_message);
  p = put_entry(p, ENTRY_VERSIONS, versions, sizeof versions);
  p = put_entry(p, ENTRY_DRAFT, draft, sizeof draft);
  p = put_entry(p, ENTRY_NONCE, nonce, 32);
  p = put_entry(p, ENTRY_FEATURES, feature, sizeof feature);
  p = put_entry(p, ENTRY_MAC, core->key.macs, core->key.mac_count);
  if (core->key.id_length) p = put_entry(p, ENTRY_KEY_ID, core->key.id, core->key.id_length);
  p = put_entry(p, ENTRY_LIMITS, limits, sizeof limits);
  p = put_entry(p, ENTRY_AGENT, agent, strlen(agent));
  uint32_t length = (uint32_t)(p - start) - HEADER;
  memcpy(core->hello, PREFACE, sizeof PREFACE);
  write_header(start, length, HELLO, 0, 0, 0, 0, 0, length, 0);
  core->hello_length = (size_t)(p - core->hello);
  ring_push(core, NULL, core->hello, core->hello_length, true);
}

#ifdef TWIRE_CRYPTO

/* TH of SPEC 11.3, without binding: there is no TLS here. PROOF in the WELCOME frame is zero by now. */
static void transcript(const twire_core *core, const uint8_t *welcome, size_t length, uint8_t th[HASH]) {
  uint8_t size[4];
  SHA256_CTX hash;
  SHA256_Init(&hash);
  SHA256_Update(&hash, PREFACE, sizeof PREFACE);
  store32(size, (uint32_t)(core->hello_length - sizeof PREFACE));
  SHA256_Update(&hash, size, 4);
  SHA256_Update(&hash, core->hello + sizeof PREFACE, core->hello_length - sizeof PREFACE);
  store32(size, (uint32_t)length);
  SHA256_Update(&hash, size, 4);
  SHA256_Update(&hash, welcome, length);
  store32(size, 0);
  SHA256_Update(&hash, size, 4);
  SHA256_Final(th, &hash);
}

/* AUTH with our proof (SPEC 11.4). */
static void make_auth(twire_core *core, const uint8_t prk[HASH], const uint8_t th[HASH]) {
  uint8_t key[HASH], said[HASH + 4 + sizeof core->auth], *entries = core->auth + HEADER;
  static const uint8_t zeros[PROOF];
  write_header(core->auth, 4 + PROOF, AUTH, 0, 0, 0, 0, 0, 4 + PROOF, 0);
  (void)put_entry(entries, ENTRY_PROOF, zeros, PROOF);
  memcpy(said, th, HASH);
  store32(said + HASH, sizeof core->auth);
  memcpy(said + HASH + 4, core->auth, sizeof core->auth);
  twire__label_key(prk, "client proof", th, key);
  twire__hmac_sha256(key, HASH, said, sizeof said, entries + 4);
  twire__wipe(key, sizeof key);
}

/* Check the server's proof, make ours, and the keys of both directions. What is wrong, NULL if nothing is. The secret goes. */
static const char *authenticate(twire_core *core, uint8_t *welcome, size_t length, const uint8_t *server_nonce, uint8_t *proof,
                                int kind) {
  uint8_t nonces[64], th[HASH], prk[HASH], key[HASH], right[HASH], said[PROOF];
  const uint8_t *own_nonce = core->hello + sizeof PREFACE + HEADER + 20; /* behind VERSIONS, DRAFT and NONCE's own head */
  const char *wrong = NULL;
  memcpy(said, proof, PROOF);
  memset(proof, 0, PROOF);
  transcript(core, welcome, length, th);
  memcpy(nonces, own_nonce, 32);
  memcpy(nonces + 32, server_nonce, 32);
  twire__hmac_sha256(nonces, sizeof nonces, core->key.secret, SECRET, prk); /* HKDF-Extract */
  twire__wipe(core->key.secret, SECRET);
  twire__label_key(prk, "server proof", th, key);
  twire__hmac_sha256(key, HASH, th, HASH, right);
  if (CRYPTO_memcmp(right, said, PROOF) != 0) {
    wrong = "the server's proof does not fit this key: unknown key, wrong secret, or a key that is not valid now; "
            "check both with whoever runs the server";
  } else {
    make_auth(core, prk, th);
    if (kind != MAC_NONE) {
      twire__label_key(prk, "server record", th, key);
      if (!twire__mac_begin_key(&core->in, kind, key)) wrong = "libcrypto has no AES-256-GCM, or no memory";
      twire__label_key(prk, "client record", th, key);
      if (!twire__mac_begin_key(&core->out, kind, key)) wrong = "libcrypto has no AES-256-GCM, or no memory";
    }
  }
  twire__wipe(prk, sizeof prk);
  twire__wipe(key, sizeof key);
  twire__wipe(right, sizeof right);
  return wrong;
}

#else

static const char *authenticate(twire_core *core, uint8_t *welcome, size_t length, const uint8_t *server_nonce, uint8_t *proof,
                                int kind) {
  (void)core, (void)welcome, (void)length, (void)server_nonce, (void)proof, (void)kind;
  return "built without libcrypto"; /* not reached: there is no key */
}

#endif

/* Entries of a region by type; false if it is malformed. Unknown types are passed over. */
static bool read_entries(const uint8_t *p, size_t length, const uint8_t *values[ENTRIES], size_t lengths[ENTRIES]) {
  uint32_t last = 0;
  bool any = false;
  for (size_t at = 0; at != length;) {
    if (length - at < 4 || load16(p + at + 2) > length - at - 4) return false;
    uint16_t type = load16(p + at), n = load16(p + at + 2);
    if (any && type <= last) return false;
    any = true;
    last = type;
    if (type < ENTRIES) {
      values[type] = p + at + 4;
      lengths[type] = n;
    }
    at += 4u + n;
  }
  return true;
}

void twire__on_welcome(twire_core *core, uint8_t *metadata, size_t length) {
  static const uint8_t needed[][2] = {{ENTRY_VERSIONS, 4}, {ENTRY_DRAFT, 4},          {ENTRY_NONCE, 32},
                                      {ENTRY_MAC, 1},      {ENTRY_LIMITS, 16},        {ENTRY_CONNECTION_ID, 8},
                                      {ENTRY_BOOT_ID, 16}};
  const uint8_t *v[ENTRIES] = {NULL};
  size_t n[ENTRIES] = {0};
  if (length == 0 || !read_entries(metadata, length, v, n) || !v[ENTRY_FEATURES] || n[ENTRY_FEATURES] % 2 ||
      (v[ENTRY_AGENT] && (n[ENTRY_AGENT] < 1 || n[ENTRY_AGENT] > 128)) || (v[ENTRY_PROOF] && n[ENTRY_PROOF] != PROOF)) {
    twire__core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: entries are malformed, or FEATURES is missing");
    return;
  }
  for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
    if (v[needed[i][0]] && n[needed[i][0]] == needed[i][1]) continue;
    twire__core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: entry %d is missing, or not %d bytes long",
                     needed[i][0], needed[i][1]);
    return;
  }
  unsigned low = load16(v[ENTRY_VERSIONS]), high = load16(v[ENTRY_VERSIONS] + 2);
  uint32_t draft = load32(v[ENTRY_DRAFT]), chunk = load32(v[ENTRY_LIMITS]);
  core->max_streams = load32(v[ENTRY_LIMITS] + 4);
  core->max_message = load64(v[ENTRY_LIMITS] + 8);
  for (int i = 0; i < 8; i++) core->connection_id = core->connection_id << 8 | v[ENTRY_CONNECTION_ID][i];
  if (low != high)
    twire__core_fail(core, TWIRE_CLOSE_HANDSHAKE, "WELCOME: versions %u..%u are no choice", low, high);
  else if (low != TWIRE_PROTOCOL_VERSION || draft != TWIRE_PROTOCOL_DRAFT)
    twire__core_fail(core, TWIRE_CLOSE_VERSION, "version: client speaks %d..%d draft %d, server chose %u draft %u",
                     TWIRE_PROTOCOL_VERSION, TWIRE_PROTOCOL_VERSION, TWIRE_PROTOCOL_DRAFT, low, draft);
  else if (n[ENTRY_FEATURES])
    twire__core_fail(core, TWIRE_CLOSE_FEATURE, "the server chose feature %u, which was not offered", load16(v[ENTRY_FEATURES]));
  else if (!memchr(core->key.macs, v[ENTRY_MAC][0], core->key.mac_count))
    twire__core_fail(core, TWIRE_CLOSE_MAC,
                     "the server chose MAC %u, which was not offered (0 none, 1 hmac-sha256, 2 aes-256-gmac)",
                     v[ENTRY_MAC][0]);
  else if (chunk < CHUNK_LEAST || chunk > CHUNK_MOST || core->max_streams == 0 || core->max_message < TWIRE_INLINE_BODY)
    twire__core_fail(core, TWIRE_CLOSE_HANDSHAKE,
                     "WELCOME: chunk %u, max_streams %u or max_message %llu is out of its bounds", chunk,
                     core->max_streams, (unsigned long long)core->max_message);
  if (core->state == CORE_CLOSED) return;
  core->chunk = chunk < core->own_chunk ? chunk : core->own_chunk;
  if (!core->key.id_length) {
    core->state = CORE_READY;
    twire__push_control(core, AUTH, 0, NULL);
    return;
  }
  int kind = v[ENTRY_MAC][0];
  const char *wrong = "the server gave no proof that it knows our key: it may run without keys, or be none of ours";
  if (v[ENTRY_PROOF])
    wrong = authenticate(core, metadata - HEADER, HEADER + length, v[ENTRY_NONCE], metadata + (v[ENTRY_PROOF] - metadata), kind);
  if (wrong) {
    twire__core_fail(core, TWIRE_CLOSE_AUTHENTICATION, "%s", wrong);
    return;
  }
  core->state = CORE_READY;
  ring_push(core, NULL, core->auth, sizeof core->auth, true);
  core->sealed = kind != MAC_NONE;
}

/* text.c: names of codes, UTF-8, the peer's words made fit to print, and why this thread's last call failed. */
#include "bytes.h"

#include <stdarg.h>
#include <stdio.h>

const char *twire_strerror(int code) {
  static const char *const statuses[] = {
      "OK",        "CANCELLED",      "UNKNOWN",           "INVALID_ARGUMENT",   "DEADLINE_EXCEEDED",   "NOT_FOUND",
      "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
      "UNIMPLEMENTED",  "INTERNAL",  "UNAVAILABLE",       "DATA_LOSS",          "UNAUTHENTICATED"};
  static const char *const local[] = {"E_LOST",    "E_CLOSED", "E_AGAIN",   "E_ARGUMENT", "E_MEMORY",
                                      "E_SYSTEM",  "E_ADDRESS", "E_REFUSED", "E_PROTOCOL", "E_BUSY",
                                      "E_AUTH"};
  if (code >= 0 && code <= TWIRE_UNAUTHENTICATED) return statuses[code];
  if (code < 0 && code >= TWIRE_E_AUTH) return local[-code - 1];
  return "no code of twire";
}

const char *twire_close_name(uint32_t code) {
  static const char *const names[] = {"NO_ERROR",  "PROTOCOL", "FRAME",   "TOO_LARGE", "STREAM",
                                      "EXTENSION", "HANDSHAKE", "VERSION", "FEATURE",   "MAC",
                                      "AUTHENTICATION", "TIMEOUT", "CALM",  "SHUTDOWN",  "INTERNAL", "NOT_TENSORWIRE"};
  return code < sizeof names / sizeof *names ? names[code] : "PROTOCOL";
}

/* The length of the UTF-8 character at p, 0 if it is not one (SPEC 18.2: no surrogates, no overlong forms). */
static size_t utf8_character(const uint8_t *p, size_t left) {
  uint8_t a = p[0];
  if (a < 0x80) return 1;
  if (a < 0xc2 || a > 0xf4) return 0;
  size_t n = a < 0xe0 ? 2 : a < 0xf0 ? 3 : 4;
  if (left < n) return 0;
  for (size_t i = 1; i < n; i++)
    if ((p[i] & 0xc0) != 0x80) return 0;
  if ((a == 0xe0 && p[1] < 0xa0) || (a == 0xed && p[1] > 0x9f)) return 0;
  if ((a == 0xf0 && p[1] < 0x90) || (a == 0xf4 && p[1] > 0x8f)) return 0;
  return n;
}

bool twire__utf8_valid(const uint8_t *p, size_t length) {
  for (size_t i = 0; i < length;) {
    uint64_t word; /* eight ASCII characters at once */
    if (length - i >= 8 && (memcpy(&word, p + i, 8), (word & UINT64_C(0x8080808080808080)) == 0)) {
      i += 8;
      continue;
    }
    size_t n = utf8_character(p + i, length - i);
    if (n == 0) return false;
    i += n;
  }
  return true;
}

/* Make the peer's words fit to print (SPEC 5.2): controls and invisible directions escaped, bad UTF-8 replaced. */
void twire__escape(char *out, size_t size, const uint8_t *in, size_t length) {
  size_t at = 0;
  for (size_t i = 0; i < length;) {
    char piece[8];
    size_t n = utf8_character(in + i, length - i), m;
    uint32_t c = in[i];
    if (n == 2) c = (uint32_t)((in[i] & 0x1f) << 6 | (in[i + 1] & 0x3f));
    if (n == 3) c = (uint32_t)((in[i] & 0x0f) << 12 | (in[i + 1] & 0x3f) << 6 | (in[i + 2] & 0x3f));
    if (n == 0) {
      n = 1;
      m = 3;
      memcpy(piece, "\xef\xbf\xbd", 3);
    } else if (c < 0x20 || c == 0x7f) {
      m = (size_t)snprintf(piece, sizeof piece, "\\x%02x", (unsigned)c);
    } else if (n < 4 && ((c >= 0x80 && c < 0xa0) || (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069))) {
      m = (size_t)snprintf(piece, sizeof piece, "\\u%04x", (unsigned)(c & 0xffff));
    } else {
      m = n;
      memcpy(piece, in + i, n);
    }
    if (at + m + 1 > size) break;
    memcpy(out + at, piece, m);
    at += m;
    i += n;
  }
  out[at] = 0;
}

static _Thread_local char connect_error[ESCAPED_TEXT + 512];

const char *twire_connect_error(void) { return connect_error; }

void twire__say_nothing(void) { *connect_error = 0; }

int twire__say(int code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(connect_error, sizeof connect_error, format, arguments);
  va_end(arguments);
  return code;
}

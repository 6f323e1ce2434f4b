/* connect.c: connecting (SPEC 19.6): addresses, sockets, the handshake; and closing. */
#define _GNU_SOURCE /* SOCK_CLOEXEC */

#include "client.h"
#include "core.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PORT "7411"
#define KEY_VARIABLE "TENSORWIRE_KEY"

#define ADDRESSES 16u             /* of one name, under way at once */
#define NEXT_ADDRESS 250000000u   /* ns that one address has before the next is tried too (RFC 8305, 5) */

/* A socket whose connect is under way or done, or -1 and errno. */
static int begin_connect(const struct sockaddr *address, socklen_t size) {
  int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), error;
  if (fd < 0 || connect(fd, address, size) == 0 || errno == EINPROGRESS || errno == EINTR) return fd;
  error = errno;
  close(fd);
  errno = error;
  return -1;
}

/* 0, or why it is not connected. */
static int finish_connect(int fd) {
  int error = 0, one = 1, lowat = (int)OUTPUT_BYTES;
  socklen_t size = sizeof error;
  if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size)) return errno;
  if (!error && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK) < 0) error = errno; /* recv sleeps; writes say DONTWAIT */
  if (error) return error;
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one); /* refused by a Unix socket, which needs none of it */
  (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
  (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof lowat); /* little unsent in the kernel (SPEC 7.10) */
  return 0;
}

/* Sleep until one of the connects under way is done, or until `wake`; 0 = never. */
static void wait_connects(struct pollfd *tries, size_t count, uint64_t wake) {
  uint64_t now = twire_now(), left = wake > now ? (wake - now + 999999) / 1000000 : 0;
  for (size_t i = 0; i < count; i++) tries[i].revents = 0; /* poll leaves them as they are when it fails */
  (void)poll(tries, (nfds_t)count, !wake ? -1 : left > INT_MAX ? INT_MAX : (int)left);
}

/* The first address that answers: the next is tried beside the last once that has failed or been silent for a while. A connected
 * socket, or -1 and errno. */
static int open_socket(const struct addrinfo *next, uint64_t until) {
  struct pollfd tries[ADDRESSES];
  size_t count = 0;
  uint64_t due = 0; /* when the next one is tried */
  int error = ETIMEDOUT, fd = -1;
  while (fd < 0 && (count || next)) {
    uint64_t now = twire_now(), wake = until;
    if (until && now >= until) {
      error = ETIMEDOUT;
      break;
    }
    if (next && count < ADDRESSES && (now >= due || count == 0)) {
      int begun = begin_connect(next->ai_addr, next->ai_addrlen);
      if (begun < 0) error = errno;
      else tries[count++] = (struct pollfd){begun, POLLOUT, 0}, due = now + NEXT_ADDRESS;
      next = next->ai_next;
      continue;
    }
    if (next && count < ADDRESSES && (!wake || due < wake)) wake = due;
    wait_connects(tries, count, wake);
    for (size_t i = 0; i < count && fd < 0;) {
      if (!tries[i].revents && ++i) continue;
      int wrong = finish_connect(tries[i].fd);
      if (wrong) close(tries[i].fd), error = wrong, due = 0;
      else fd = tries[i].fd;
      tries[i] = tries[--count];
    }
  }
  while (count) close(tries[--count].fd);
  errno = error;
  return fd;
}

static int dial_unix(const char *url, const char *path, uint64_t until, int *fd) {
  struct sockaddr_un address = {0};
  address.sun_family = AF_UNIX;
  if (*path != '/' || strlen(path) >= sizeof address.sun_path)
    return twire__say(TWIRE_E_ADDRESS, "'%s': expected tw+unix:///path, with a path of at most %zu bytes", url,
                      sizeof address.sun_path - 1);
  memcpy(address.sun_path, path, strlen(path));
  const struct addrinfo only = {.ai_addr = (struct sockaddr *)&address, .ai_addrlen = sizeof address};
  *fd = open_socket(&only, until);
  return *fd >= 0 ? TWIRE_OK : twire__say(TWIRE_E_SYSTEM, "cannot connect to %s: %s. Does the server run?", url, strerror(errno));
}

/* "host", "host:port", "[v6]:port" into host and port. */
static bool split_address(const char *text_, char host[256], char port[6]) {
  const char *end = text_ + strlen(text_), *colon = strrchr(text_, ':'), *from = text_, *to;
  if (end > text_ && end[-1] == '/') end--; /* tw://host:port/ */
  if (*text_ == '[') {
    from = text_ + 1;
    to = strchr(text_, ']');
    if (!to || (to + 1 != end && to[1] != ':')) return false;
    colon = to + 1 == end ? NULL : to + 1;
  } else {
    to = colon ? colon : end;
  }
  snprintf(port, 6, "%s", PORT);
  if (colon) {
    size_t n = (size_t)(end - colon - 1);
    if (n < 1 || n > 5 || strspn(colon + 1, "0123456789") < n) return false;
    snprintf(port, 6, "%.*s", (int)n, colon + 1);
    if (atoi(port) < 1 || atoi(port) > 65535) return false;
  }
  size_t length = (size_t)(to - from);
  if (length < 1 || length > 255 || memchr(from, '/', length)) return false;
  memcpy(host, from, length);
  host[length] = 0;
  return true;
}

static int dial_tcp(const char *url, const char *rest, uint64_t until, int *fd) {
  char host[256], port[6];
  struct addrinfo hints = {0}, *found = NULL;
  if (!split_address(rest, host, port)) return twire__say(TWIRE_E_ADDRESS, "'%s': expected tw://host:port, port 1 to 65535", url);
  hints.ai_socktype = SOCK_STREAM;
  int error = getaddrinfo(host, port, &hints, &found);
  if (error) return twire__say(TWIRE_E_ADDRESS, "'%s': %s", url, gai_strerror(error));
  *fd = open_socket(found, until);
  error = errno;
  freeaddrinfo(found);
  return *fd >= 0 ? TWIRE_OK : twire__say(TWIRE_E_SYSTEM, "cannot connect to %s: %s. Does the server run?", url, strerror(error));
}

static int dial(const char *url, uint64_t until, int *fd) {
  const char *host = strstr(url, "://");
  if (host && memchr(host + 3, '@', strcspn(host + 3, "/"))) /* what stands before it may be a secret */
    return twire__say(TWIRE_E_ADDRESS,
                      "the address has an '@': expected tw://host:port; a key is given by twire_options.key, or %s",
                      KEY_VARIABLE);
  if (strncmp(url, "tw+unix://", 10) == 0) return dial_unix(url, url + 10, until, fd);
  if (strncmp(url, "tw://", 5) == 0) return dial_tcp(url, url + 5, until, fd);
  return twire__say(TWIRE_E_ADDRESS, "'%s': expected tw://host:port or tw+unix:///path", url);
}

/* The handshake has failed: what to tell the caller. */
static int handshake_error(const twire_client *client, const char *url) {
  int code = TWIRE_E_PROTOCOL;
  if (client->close_code == TWIRE_CLOSE_AUTHENTICATION) code = TWIRE_E_AUTH;
  else if (client->close_remote) code = client->close_code ? TWIRE_E_REFUSED : TWIRE_E_LOST;
  else if (client->close_code == TWIRE_CLOSE_TIMEOUT) code = TWIRE_DEADLINE_EXCEEDED;
  return twire__say(code, "%s: %s", url, client->error);
}

int twire_connect(const char *url, const twire_options *options, twire_client **client) {
  static const twire_options none;
  twire_core_config config = {0};
  twire__say_nothing();
  if (client) *client = NULL;
  if (!url || !client) return twire__say(TWIRE_E_ARGUMENT, "%s is NULL", url ? "client" : "url");
  twire_options own = options ? *options : none;
  options = &own;
  if (!own.key && !own.key_id && !own.secret) own.key = getenv(KEY_VARIABLE);
  int status = twire__check_options(options);
  if (status) return status;
  uint64_t until = twire__time_after(or_default(options->connect_timeout, UINT64_C(5000000000)));
  twire_client *made = calloc(1, sizeof *made);
  if (!made) return twire__say(TWIRE_E_MEMORY, "no memory");
  made->fd = -1;
  made->timeout = options->timeout;
  made->spin = options->spin;
  made->allocator = options->allocator;
  if (!made->allocator.allocate) made->allocator = (twire_allocator){twire__default_allocate, twire__default_release, NULL};
  config.options = options;
  config.place = twire__client_place;
  config.place_context = made;
  config.now = made->last_read = twire_now();
  config.handshake_deadline = until;
  if (!twire_random(config.nonce, sizeof config.nonce)) status = twire__say(TWIRE_E_SYSTEM, "getrandom: %s", strerror(errno));
  else if (!(made->core = twire_core_new(&config))) status = twire__say(TWIRE_E_MEMORY, "no memory");
  else status = dial(url, until, &made->fd);
  while (!status && !made->ready && !made->closed) twire__turn(made, until);
  if (!status && made->closed) status = handshake_error(made, url);
  if (status) {
    twire_close(made);
    return status;
  }
  *client = made;
  return TWIRE_OK;
}

void twire_close(twire_client *client) {
  if (!client) return;
  if (client->core && !client->closed) {
    /* behind a frame that is half written no CLOSE can go; the rest of it is of tensors that may be gone by now */
    if (client->core->ring_bytes) twire__core_stop(client->core, TWIRE_CLOSE_NO_ERROR, false, "");
    else twire_core_close(client->core, TWIRE_CLOSE_NO_ERROR, "");
    twire__handle_events(client);
  }
  if (client->fd >= 0) {
    if (client->core) (void)twire__write_some(client);
    close(client->fd);
  }
  while (twire__take_done(client)) continue;
  twire_core_free(client->core);
  free(client);
}

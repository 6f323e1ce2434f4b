/* The load generator for peers that carry bytes: K connections, N requests in flight on each, one thread and epoll.
 *
 * usage: raw_load HOST PORT REQUEST REPLY ECHO CONNECTIONS IN_FLIGHT CALLS
 *
 * Each read answers some calls and as many requests leave in one write. Every call is timed from the write that sent it.
 * The first reply of each connection is compared with what it must be. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 1 << 18 };

struct connection {
    int fd;
    size_t got;                /* bytes of the current reply */
    size_t unsent, position;   /* request bytes to send, and where in the repeated request they begin */
    uint64_t *sent_at;         /* ring of the times of the requests in flight */
    size_t head, in_flight;
    int checked;
};

static size_t request, reply, depth;
static int echo;
static long to_send, done, calls;
static unsigned char *requests, *into;
static size_t requests_size;
static uint64_t *latencies;

static void fail(const char *why) {
    fprintf(stderr, "raw_load: %s%s%s\n", why, errno ? ": " : "", errno ? strerror(errno) : "");
    exit(1);
}

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Put requests under way until IN_FLIGHT are, and write what the socket takes; returns whether all was written. */
static int fill(struct connection *c) {
    uint64_t at = now();
    while (c->in_flight < depth && to_send > 0) {
        c->sent_at[(c->head + c->in_flight++) % depth] = at;
        c->unsent += request;
        to_send--;
    }
    while (c->unsent) {
        size_t size = requests_size - c->position;
        if (size > c->unsent) size = c->unsent;
        ssize_t n = send(c->fd, requests + c->position, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0) {
            if (errno == EAGAIN) return 0;
            fail("send");
        }
        c->unsent -= (size_t)n;
        c->position = (c->position + (size_t)n) % requests_size;
    }
    return 1;
}

static void check(struct connection *c, size_t n) {
    for (size_t i = 0; i < n && c->got + i < reply; i++) {
        unsigned char right = echo ? requests[(c->got + i) % request] : (unsigned char)((c->got + i));
        if (into[i] != right) {
            errno = 0;
            fail("the first reply holds wrong bytes");
        }
    }
    c->checked = c->got + n >= reply;
}

static void receive(struct connection *c) {
    ssize_t n = recv(c->fd, into, BUFFER, MSG_DONTWAIT);
    if (n == 0) errno = ECONNRESET;
    if (n == 0 || (n < 0 && errno != EAGAIN)) fail("receive");
    if (n < 0) return;
    if (!c->checked) check(c, (size_t)n);
    c->got += (size_t)n;
    uint64_t at = now();
    for (; c->got >= reply; c->got -= reply) {
        if (!c->in_flight) {
            errno = 0;
            fail("more replies than requests");
        }
        latencies[done++] = at - c->sent_at[c->head];
        c->head = (c->head + 1) % depth;
        c->in_flight--;
    }
}

static void join(struct connection *c, const char *host, int port, uint32_t preface[3]) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int yes = 1;
    if (inet_pton(AF_INET, host, &address.sin_addr) != 1) fail("HOST is no IPv4 address");
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (send(c->fd, preface, 12, MSG_NOSIGNAL) != 12) fail("send the preface");
    c->sent_at = calloc(depth, sizeof *c->sent_at);
    if (!c->sent_at) fail("memory");
}

static int ascending(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double percentile(double percent) {
    long rank = (long)(percent / 100 * (double)done + 0.999999);
    return (double)latencies[rank < 1 ? 0 : rank - 1] / 1000;
}

int main(int argc, char **argv) {
    if (argc != 9) {
        fprintf(stderr, "usage: raw_load HOST PORT REQUEST REPLY ECHO CONNECTIONS IN_FLIGHT CALLS\n");
        return 2;
    }
    request = strtoul(argv[3], NULL, 10), reply = strtoul(argv[4], NULL, 10), echo = atoi(argv[5]);
    int count = atoi(argv[6]);
    depth = strtoul(argv[7], NULL, 10), calls = atol(argv[8]);
    if (!request || !reply || count < 1 || !depth || calls < 1) fail("sizes and counts must be positive");
    uint32_t preface[3] = {(uint32_t)request, (uint32_t)reply, (uint32_t)echo};
    requests_size = request * (request < 65536 ? depth : 1);
    requests = malloc(requests_size), into = malloc(BUFFER);
    latencies = malloc((size_t)calls * sizeof *latencies);
    struct connection *all = calloc((size_t)count, sizeof *all);
    if (!requests || !into || !latencies || !all) fail("memory");
    for (size_t i = 0; i < requests_size; i++) requests[i] = (unsigned char)(i % request * 7);
    int epoll = epoll_create1(0);
    struct epoll_event events[64];
    for (int i = 0; i < count; i++) {
        join(&all[i], argv[1], atoi(argv[2]), preface);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &all[i]};
        epoll_ctl(epoll, EPOLL_CTL_ADD, all[i].fd, &event);
    }
    to_send = calls;
    uint64_t began = now();
    for (int first = 1; done < calls; first = 0) {
        int ready = first ? count : epoll_wait(epoll, events, 64, 10000);
        if (ready <= 0) fail("no reply within 10 s");
        for (int i = 0; i < ready; i++) {
            struct connection *c = first ? &all[i] : events[i].data.ptr;
            if (!first && events[i].events & EPOLLIN) receive(c);
            struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
            if (!fill(c)) event.events |= EPOLLOUT;
            if (c->unsent || (!first && events[i].events & EPOLLOUT)) epoll_ctl(epoll, EPOLL_CTL_MOD, c->fd, &event);
        }
    }
    double seconds = (double)(now() - began) / 1e9;
    qsort(latencies, (size_t)done, sizeof *latencies, ascending);
    printf("{\"calls\": %ld, \"seconds\": %.9f, \"percentiles_us\": {\"50\": %.3f, \"90\": %.3f, \"99\": %.3f, "
           "\"99.9\": %.3f}}\n",
           done, seconds, percentile(50), percentile(90), percentile(99), percentile(99.9));
    return 0;
}

/* The raw echo's server in C: one thread, epoll, level-triggered. What a loop can do at most on one core.
 *
 * A connection begins with three little-endian u32: request bytes, reply bytes, and 1 where the reply is the request
 * itself. Otherwise the reply is byte i = i mod 256, made once. What cannot be sent at once waits, and the connection
 * is not read meanwhile.
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
#include <unistd.h>

enum { BUFFER = 1 << 18, EVENTS = 256, PREFACE = 12 };

struct ready { /* one a size of reply, shared by all connections, kept for ever */
    struct ready *next;
    uint32_t reply;
    size_t size;
    unsigned char bytes[];
};

struct peer {
    int fd;
    uint32_t request, reply, echo;
    size_t preface_got; /* bytes of the preface so far */
    unsigned char preface[PREFACE];
    size_t got;     /* bytes of the current request */
    size_t pending; /* reply bytes not yet sent */
    size_t sent_of; /* position in the reply that is being sent */
    unsigned char *body; /* the request, where it is echoed */
    struct ready *ready; /* the reply, repeated, where it is not */
};

static unsigned char buffer[BUFFER];

static void drop(struct peer *p) {
    close(p->fd);
    free(p->body);
    free(p);
}

static struct ready *ready_for(uint32_t reply) {
    static struct ready *all;
    for (struct ready *r = all; r; r = r->next)
        if (r->reply == reply) return r;
    size_t size = (reply < 65536 ? 65536 / reply : 1) * (size_t)reply;
    struct ready *made = malloc(sizeof *made + size);
    if (!made) return NULL;
    for (size_t i = 0; i < size; i++) made->bytes[i] = (unsigned char)(i % reply);
    made->next = all, made->reply = reply, made->size = size;
    return all = made;
}

static int start(struct peer *p) {
    memcpy(&p->request, p->preface, 4);
    memcpy(&p->reply, p->preface + 4, 4);
    memcpy(&p->echo, p->preface + 8, 4);
    if (!p->request || !p->reply) return -1;
    if (p->echo) {
        p->body = malloc(p->request);
        return p->body ? 0 : -1;
    }
    p->ready = ready_for(p->reply);
    return p->ready ? 0 : -1;
}

/* Send what is pending: 1 all gone, 0 the socket is full, -1 closed. */
static int flush(struct peer *p) {
    while (p->pending) {
        const unsigned char *from = p->echo ? p->body + p->sent_of : p->ready->bytes + p->sent_of;
        size_t size = p->echo ? p->pending : p->ready->size - p->sent_of;
        if (size > p->pending) size = p->pending;
        ssize_t n = send(p->fd, from, size, MSG_NOSIGNAL);
        if (n < 0) return errno == EAGAIN ? 0 : -1;
        p->pending -= (size_t)n;
        p->sent_of += (size_t)n;
        if (!p->echo) p->sent_of %= p->ready->size;
    }
    p->sent_of = p->echo ? 0 : p->sent_of % p->reply;
    return 1;
}

/* Read once and answer: 1 go on, 0 wait for room to write, -1 closed. */
static int serve(struct peer *p) {
    unsigned char *into = p->echo ? p->body + p->got : buffer;
    size_t room = p->echo ? p->request - p->got : BUFFER;
    if (p->preface_got < PREFACE) {
        into = p->preface + p->preface_got;
        room = PREFACE - p->preface_got;
    }
    ssize_t n = recv(p->fd, into, room, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return -1;
    if (n < 0) return 1;
    if (p->preface_got < PREFACE) {
        p->preface_got += (size_t)n;
        return p->preface_got == PREFACE ? (start(p) ? -1 : 1) : 1;
    }
    p->got += (size_t)n;
    if (p->got < p->request) return 1;
    p->pending += p->echo ? p->request : p->got / p->request * (size_t)p->reply;
    p->got %= p->request;
    return flush(p);
}

int main(void) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), yes = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) || listen(listener, 1024)) {
        perror("epoll_echo: listen");
        return 1;
    }
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("listening 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN}, events[EVENTS];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            struct peer *p = events[i].data.ptr;
            if (!p) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
                p = calloc(1, sizeof *p);
                if (!p) return 1;
                p->fd = fd;
                event = (struct epoll_event){.events = EPOLLIN, .data.ptr = p};
                epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
                continue;
            }
            int was_full = p->pending != 0, state = was_full ? flush(p) : serve(p);
            if (state < 0) {
                drop(p);
            } else if (was_full != !state) {
                event = (struct epoll_event){.events = state ? EPOLLIN : EPOLLOUT, .data.ptr = p};
                epoll_ctl(epoll, EPOLL_CTL_MOD, p->fd, &event);
            }
        }
    }
}

/* What the two programs share: a growing row of bytes, the clock, sockets. */
#ifndef BYTES_H
#define BYTES_H

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* Every content chunk carries  s=<stream, 8 digits>;k=<number, 6 digits>;at=<CLOCK_MONOTONIC ns, 19 digits>;  */
#define STAMP_FORMAT "s=%08u;k=%06u;at=%019llu;"
#define STAMP_BYTES 43

typedef struct {
    char *at;
    size_t used, room;
} Bytes;

static inline void out_of(const char *what)
{
    perror(what);
    exit(2);
}

static inline void *grown(void *old, size_t bytes)
{
    void *fresh = realloc(old, bytes);
    if (!fresh)
        out_of("memory");
    return fresh;
}

static inline void reserve(Bytes *row, size_t more)
{
    if (row->used + more <= row->room)
        return;
    row->room = (row->used + more) * 2;
    row->at = grown(row->at, row->room);
}

static inline void append(Bytes *row, const void *from, size_t length)
{
    reserve(row, length);
    memcpy(row->at + row->used, from, length);
    row->used += length;
}

/* Forget the first bytes. */
static inline void cut(Bytes *row, size_t length)
{
    row->used -= length;
    if (length && row->used)
        memmove(row->at, row->at + length, row->used);
}

static inline uint64_t nanoseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Wait for events until `due` (0: for ever). */
static inline int wait_until(int poll, struct epoll_event *found, int room, uint64_t due)
{
    struct timespec left, *limit = NULL;
    if (due) {
        uint64_t now = nanoseconds(), more = due > now ? due - now : 0;
        left.tv_sec = (time_t)(more / 1000000000u);
        left.tv_nsec = (long)(more % 1000000000u);
        limit = &left;
    }
    int count = epoll_pwait2(poll, found, room, limit, NULL);
    if (count < 0 && errno != EINTR)
        out_of("epoll_pwait2");
    return count < 0 ? 0 : count;
}

static inline void at_once(int fd)
{
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in place = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    place.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return place;
}

static inline void many_files(void)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    signal(SIGPIPE, SIG_IGN);
}

#endif

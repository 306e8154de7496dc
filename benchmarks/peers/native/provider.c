/* The provider: OpenAI chat completions, as a stream or as one document, over HTTP/1.1 with keep-alive.
 *
 *   provider PORT
 *
 *   POST any path           the completion; streamed if the body asks for it, each chunk in a write of its own
 *   GET /set?chunks=&gap_us=   how many content chunks a stream has, and how far apart they are; forgets what was counted
 *   GET /counts             {"requests":…,"open":…,"finished":…,"departed":…}
 *   GET /departures         a line "stream ns" for each stream whose connection the other side closed before its end
 *
 * One thread. Streams that wait for their next chunk stand in a list by due time: as all have the same gap, a stream
 * is put in at the end of it.
 */
#include "bytes.h"

typedef struct Peer {
    struct Peer *before, *after; /* in the list of those that wait */
    uint64_t due, last;          /* of the next chunk (0: does not wait), and of the one before it */
    Bytes in, out;
    size_t gone;                 /* bytes of `out` that are sent */
    uint32_t stream, next, total;
    int fd;
    bool streams, reports_usage, blocked;
} Peer;

static struct { uint64_t requests, open, finished; } counts;
static struct Departure { uint32_t stream; uint64_t at; } *departures;
static size_t departed, departures_room;
static uint32_t chunks = 1, last_stream;
static uint64_t gap;
static int poll_fd;
static Peer waiting = {.before = &waiting, .after = &waiting};

static char piece[1024];
static size_t piece_bytes, stamp_place;

#define HEAD "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench\"," \
             "\"system_fingerprint\":\"fp_bench\","

static void prepare_piece(void)
{
    char event[768], stamp[STAMP_BYTES + 1];
    snprintf(stamp, sizeof stamp, STAMP_FORMAT, 0u, 0u, 0ull);
    int length = snprintf(event, sizeof event,
        "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{\"content\":\"%s a word\"},\"logprobs\":null,"
        "\"finish_reason\":null}]}\n\n", stamp);
    piece_bytes = (size_t)snprintf(piece, sizeof piece, "%x\r\n%s\r\n", length, event);
    stamp_place = (size_t)(strstr(piece, "s=00000000;") - piece);
}

static void digits(char *at, int width, uint64_t value)
{
    while (width--) {
        at[width] = (char)('0' + value % 10);
        value /= 10;
    }
}

static void lay_chunk(Peer *peer)
{
    append(&peer->out, piece, piece_bytes);
    char *stamp = peer->out.at + peer->out.used - piece_bytes + stamp_place;
    digits(stamp + 2, 8, peer->stream);
    digits(stamp + 13, 6, peer->next++);
    digits(stamp + 23, 19, nanoseconds());
}

static void lay_piece(Bytes *out, const char *text)
{
    char size[16];
    append(out, size, (size_t)snprintf(size, sizeof size, "%zx\r\n", strlen(text)));
    append(out, text, strlen(text));
    append(out, "\r\n", 2);
}

static void lay_end(Peer *peer)
{
    lay_piece(&peer->out, "data: " HEAD "\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n");
    if (peer->reports_usage) {
        char usage[512];
        snprintf(usage, sizeof usage, "data: " HEAD "\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":%u,"
                 "\"total_tokens\":%u}}\n\n", peer->total, peer->total + 9);
        lay_piece(&peer->out, usage);
    }
    lay_piece(&peer->out, "data: [DONE]\n\n");
    append(&peer->out, "0\r\n\r\n", 5);
}

static void stop_waiting(Peer *peer)
{
    if (!peer->due)
        return;
    peer->before->after = peer->after;
    peer->after->before = peer->before;
    peer->due = 0;
}

static void wait_for(Peer *peer, uint64_t due)
{
    Peer *last = waiting.before;
    while (last != &waiting && last->due > due)
        last = last->before;
    peer->due = due;
    peer->before = last;
    peer->after = last->after;
    last->after->before = peer;
    last->after = peer;
}

static void depart(Peer *peer)
{
    stop_waiting(peer);
    if (peer->streams) {
        counts.open--;
        if (departed == departures_room)
            departures = grown(departures, (departures_room = departures_room * 2 + 64) * sizeof *departures);
        departures[departed++] = (struct Departure){peer->stream, nanoseconds()};
    }
    close(peer->fd);
    free(peer->in.at);
    free(peer->out.at);
    free(peer);
}

/* Send what waits; false if the other side is gone. */
static bool flush(Peer *peer)
{
    while (peer->gone < peer->out.used) {
        ssize_t sent = send(peer->fd, peer->out.at + peer->gone, peer->out.used - peer->gone, 0);
        if (sent < 0 && errno != EAGAIN)
            return false;
        if (sent < 0) {
            if (!peer->blocked) {
                struct epoll_event wish = {.events = EPOLLIN | EPOLLRDHUP | EPOLLOUT, .data.ptr = peer};
                epoll_ctl(poll_fd, EPOLL_CTL_MOD, peer->fd, &wish);
                peer->blocked = true;
            }
            return true;
        }
        peer->gone += (size_t)sent;
    }
    peer->gone = peer->out.used = 0;
    if (peer->blocked) {
        struct epoll_event wish = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = peer};
        epoll_ctl(poll_fd, EPOLL_CTL_MOD, peer->fd, &wish);
        peer->blocked = false;
    }
    return true;
}

/* Write chunks, each at once, until the next one is not due, the socket is full, or others have waited for 32 of ours.
 * The end goes with the last chunk. False if the other side is gone. */
static bool play(Peer *peer)
{
    for (int turn = 0; peer->streams && !peer->blocked && !peer->due; turn++) {
        if (turn == 32) {
            wait_for(peer, nanoseconds());
            return true;
        }
        if (peer->next < peer->total)
            lay_chunk(peer);
        if (peer->next == peer->total) {
            lay_end(peer);
            peer->streams = false;
            counts.open--;
            counts.finished++;
        } else if (gap) {
            wait_for(peer, (peer->last ? peer->last : nanoseconds()) + gap);
            peer->last = peer->due;
        }
        if (!flush(peer))
            return false;
    }
    return true;
}

static uint64_t setting(const char *line, const char *name, uint64_t otherwise)
{
    const char *found = strstr(line, name);
    return found ? strtoull(found + strlen(name), NULL, 10) : otherwise;
}

static void answer_whole(Peer *peer, const char *kind, const char *body, size_t length)
{
    char head[256];
    append(&peer->out, head, (size_t)snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n", kind, length));
    append(&peer->out, body, length);
}

static void control(Peer *peer, const char *line)
{
    Bytes body = {0};
    char text[160];
    if (!strncmp(line, "GET /set?", 9)) {
        chunks = (uint32_t)setting(line, "chunks=", chunks);
        gap = setting(line, "gap_us=", gap / 1000) * 1000;
        departed = 0;
        counts.requests = counts.finished = 0;
    } else if (!strncmp(line, "GET /departures", 15)) {
        for (size_t each = 0; each < departed; each++)
            append(&body, text, (size_t)snprintf(text, sizeof text, "%u %llu\n", departures[each].stream,
                                                 (unsigned long long)departures[each].at));
    }
    if (!body.used)
        append(&body, text, (size_t)snprintf(text, sizeof text,
            "{\"requests\":%llu,\"open\":%llu,\"finished\":%llu,\"departed\":%zu}\n", (unsigned long long)counts.requests,
            (unsigned long long)counts.open, (unsigned long long)counts.finished, departed));
    answer_whole(peer, "text/plain", body.at, body.used);
    free(body.at);
}

static bool asks(const char *body, size_t length, const char *name)
{
    const char *found = memmem(body, length, name, strlen(name)), *end = body + length;
    for (found = found ? found + strlen(name) : end; found < end && (*found == ' ' || *found == ':'); found++)
        ;
    return found < end && *found == 't';
}

static void complete(Peer *peer, const char *body, size_t length)
{
    static const char head[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                               "Transfer-Encoding: chunked\r\n\r\n";
    counts.requests++;
    if (!asks(body, length, "\"stream\"")) {
        char text[768], stamp[STAMP_BYTES + 1];
        snprintf(stamp, sizeof stamp, STAMP_FORMAT, ++last_stream, 0u, (unsigned long long)nanoseconds());
        int size = snprintf(text, sizeof text,
            "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench\",\"choices\":[{"
            "\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"%s a word\"},\"logprobs\":null,\"finish_reason\":"
            "\"stop\"}],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1,\"total_tokens\":10}}", stamp);
        answer_whole(peer, "application/json", text, (size_t)size);
        counts.finished++;
        return;
    }
    append(&peer->out, head, sizeof head - 1);
    peer->streams = true;
    peer->reports_usage = asks(body, length, "\"include_usage\"");
    peer->stream = ++last_stream;
    peer->next = 0;
    peer->last = 0;
    peer->total = chunks;
    counts.open++;
}

/* Take one request, if it is there whole; false if not. */
static bool take_request(Peer *peer)
{
    append(&peer->in, "", 1);
    peer->in.used--;
    char *end = memmem(peer->in.at, peer->in.used, "\r\n\r\n", 4);
    if (!end)
        return false;
    size_t head = (size_t)(end - peer->in.at) + 4, body = 0;
    *end = 0;
    char *announced = strcasestr(peer->in.at, "\r\ncontent-length:");
    if (announced)
        body = strtoull(announced + 17, NULL, 10);
    bool whole = peer->in.used >= head + body;
    if (whole && !strncmp(peer->in.at, "GET ", 4))
        control(peer, peer->in.at);
    else if (whole)
        complete(peer, peer->in.at + head, body);
    *end = '\r';
    if (whole)
        cut(&peer->in, head + body);
    return whole;
}

static bool hear(Peer *peer)
{
    for (;;) {
        reserve(&peer->in, 16384);
        ssize_t got = recv(peer->fd, peer->in.at + peer->in.used, 16384, 0);
        if (got < 0 && errno == EAGAIN)
            break;
        if (got <= 0)
            return false;
        peer->in.used += (size_t)got;
        if (got < 16384)
            break;
    }
    while (!peer->streams && peer->in.used && take_request(peer))
        if (!play(peer) || !flush(peer))
            return false;
    return true;
}

int main(int argc, char **argv)
{
    if (argc != 2)
        return fprintf(stderr, "usage: provider PORT\n"), 2;
    many_files();
    prepare_piece();
    struct sockaddr_in place = loopback(atoi(argv[1]));
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&place, sizeof place) || listen(listener, 4096))
        out_of("listen");
    poll_fd = epoll_create1(0);
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = NULL}, found[256];
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &wish);
    for (;;) {
        int count = wait_until(poll_fd, found, 256, waiting.after->due);
        for (int each = 0; each < count; each++) {
            Peer *peer = found[each].data.ptr;
            if (!peer) {
                int fd;
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    at_once(fd);
                    peer = memset(grown(NULL, sizeof *peer), 0, sizeof *peer);
                    peer->fd = fd;
                    struct epoll_event mine = {.events = EPOLLIN | EPOLLRDHUP, .data.ptr = peer};
                    epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &mine);
                }
                continue;
            }
            bool here = !(found[each].events & (EPOLLERR | EPOLLHUP | EPOLLRDHUP));
            if (here && found[each].events & EPOLLIN)
                here = hear(peer);
            if (here && found[each].events & EPOLLOUT)
                here = flush(peer) && play(peer);
            if (!here)
                depart(peer);
        }
        for (uint64_t now = nanoseconds(); waiting.after != &waiting && waiting.after->due <= now;) {
            Peer *peer = waiting.after;
            stop_waiting(peer);
            if (!play(peer))
                depart(peer);
        }
    }
}

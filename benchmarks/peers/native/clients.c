/* The clients: many connections that ask for completions, and note when what they get was written.
 *
 *   clients PORT [-c connections] [-n requests] [-r new connections a second] [-j] [-x chunks] [-o] [-t seconds] [-H header]…
 *
 *   -j   ask for JSON documents, not streams
 *   -x   leave a stream after so many of its chunks: close the connection, open another for the next request
 *   -o   open one stream a connection and hold it: a line "open" goes to standard output as soon as each has its first
 *        chunk; when standard input ends, all are closed at once
 *
 * Prints one JSON object. ttft: from sending the request to the first content; delay: from the provider's writing a
 * chunk to our reading it (both microseconds, as [p50, p99]); left: [stream, ns] of the closings.
 */
#include "bytes.h"

typedef struct {
    uint32_t *at;
    size_t used, room;
} Row;

enum Body { HEAD, SIZE, DATA, DATA_END, TRAILER, LENGTH, UNTIL_CLOSE };

typedef struct {
    Bytes in, text; /* as it came; body without HTTP framing */
    uint64_t asked_at, left;
    uint32_t stream, next;
    int fd, status;
    enum Body state;
    bool busy, had_first, had_done, is_stream, closes, is_reused;
} Client;

static Client *clients;
static int port, wanted_connections = 1, leave_after, poll_fd;
static uint64_t wanted_requests = 1, started, answered, chunks, errors, refused, unfinished, disordered, had_first;
static bool wants_json, holds;
static Bytes request, left_list;
static Row ttft, delay;

static void note(Row *row, uint64_t nanos)
{
    if (row->used == row->room)
        row->at = grown(row->at, (row->room = row->room * 2 + 1024) * sizeof *row->at);
    row->at[row->used++] = (uint32_t)(nanos / 1000);
}

static int ascending(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static void print_row(const char *name, Row *row)
{
    if (!row->used) {
        printf("\"%s\":null,", name);
        return;
    }
    qsort(row->at, row->used, sizeof *row->at, ascending);
    printf("\"%s\":[%u,%u],", name, row->at[(row->used - 1) / 2], row->at[(row->used - 1) * 99 / 100]);
}

static void connect_to(Client *client)
{
    struct sockaddr_in place = loopback(port);
    client->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (client->fd < 0 || connect(client->fd, (struct sockaddr *)&place, sizeof place))
        out_of("connect");
    fcntl(client->fd, F_SETFL, O_NONBLOCK);
    at_once(client->fd);
    struct epoll_event wish = {.events = EPOLLIN, .data.ptr = client};
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, client->fd, &wish);
    client->is_reused = false;
}

static void hang_up(Client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    client->fd = -1;
}

/* Start the next request on this connection, if one is left. */
static void ask(Client *client)
{
    client->in.used = client->text.used = 0;
    client->state = HEAD;
    client->had_first = client->had_done = client->is_stream = client->closes = false;
    client->stream = client->next = 0;
    client->status = 0;
    client->busy = started < wanted_requests;
    if (!client->busy)
        return;
    started++;
    if (client->fd < 0)
        connect_to(client);
    client->asked_at = nanoseconds();
    if (send(client->fd, request.at, request.used, 0) != (ssize_t)request.used) {
        hang_up(client); /* closed while it was idle */
        connect_to(client);
        if (send(client->fd, request.at, request.used, 0) != (ssize_t)request.used)
            out_of("send");
    }
}

/* The exchange is over, one way or the other. */
static void finish(Client *client, bool failed)
{
    answered++;
    if (failed)
        errors++;
    else if (client->status != 200)
        refused++;
    else if (!wants_json && !client->had_done)
        unfinished++;
    if (failed || client->closes)
        hang_up(client);
    client->is_reused = true;
    ask(client);
}

static void leave(Client *client)
{
    char line[64];
    uint64_t now = nanoseconds();
    hang_up(client);
    append(&left_list, line, (size_t)snprintf(line, sizeof line, "%s[%u,%llu]", left_list.used ? "," : "", client->stream,
                                              (unsigned long long)now));
}

static void read_line(Client *client, const char *line, size_t length)
{
    uint64_t now = nanoseconds();
    if (length >= 12 && !memcmp(line, "data: [DONE]", 12))
        client->had_done = true;
    const char *end = line + length, *stamp = line;
    for (;; stamp++) {
        stamp = memmem(stamp, (size_t)(end - stamp), "s=", 2);
        if (!stamp || end - stamp < STAMP_BYTES)
            return;
        if (!memcmp(stamp + 10, ";k=", 3) && !memcmp(stamp + 19, ";at=", 4))
            break;
    }
    uint32_t number = (uint32_t)strtoul(stamp + 13, NULL, 10);
    if (!client->had_first) {
        client->had_first = true;
        client->stream = (uint32_t)strtoul(stamp + 2, NULL, 10);
        had_first++;
        note(&ttft, now - client->asked_at);
    }
    if (number != client->next++)
        disordered++;
    chunks++;
    note(&delay, now - strtoull(stamp + 23, NULL, 10));
}

static void read_text(Client *client, const char *from, size_t length)
{
    append(&client->text, from, length);
    size_t done = 0;
    char *end;
    while ((end = memchr(client->text.at + done, '\n', client->text.used - done))) {
        read_line(client, client->text.at + done, (size_t)(end - client->text.at) - done);
        done = (size_t)(end - client->text.at) + 1;
    }
    cut(&client->text, done);
}

static const char *header(const char *head, const char *name)
{
    const char *found = strcasestr(head, name);
    return found ? found + strlen(name) : NULL;
}

static void read_head(Client *client, char *head)
{
    client->status = atoi(head + 9);
    const char *kind = header(head, "\r\ntransfer-encoding:"), *length = header(head, "\r\ncontent-length:");
    const char *connection = header(head, "\r\nconnection:");
    client->closes = connection && !strncasecmp(connection + strspn(connection, " "), "close", 5);
    if (kind) {
        client->state = SIZE;
    } else if (length) {
        client->state = LENGTH;
        client->left = strtoull(length, NULL, 10);
    } else {
        client->state = UNTIL_CLOSE;
        client->closes = true;
    }
}

/* Read on in what has come. True if the answer is complete. */
static bool parse(Client *client)
{
    size_t done = 0;
    bool complete = false;
    while (!complete && done < client->in.used) {
        char *here = client->in.at + done, *end;
        size_t rest = client->in.used - done;
        if (client->state == HEAD) {
            if (!(end = memmem(here, rest, "\r\n\r\n", 4)))
                break;
            *end = 0;
            read_head(client, here);
            done += (size_t)(end - here) + 4;
            complete = client->state == LENGTH && !client->left;
        } else if (client->state == UNTIL_CLOSE || client->state == LENGTH || client->state == DATA) {
            size_t take = client->state == UNTIL_CLOSE || rest < client->left ? rest : client->left;
            read_text(client, here, take);
            done += take;
            client->left -= client->state == UNTIL_CLOSE ? 0 : take;
            if (!client->left && client->state == DATA)
                client->state = DATA_END;
            else if (client->state == LENGTH)
                complete = !client->left;
        } else {
            if (!(end = memmem(here, rest, "\r\n", 2)))
                break;
            done += (size_t)(end - here) + 2;
            if (client->state == SIZE) {
                client->left = strtoull(here, NULL, 16);
                client->state = client->left ? DATA : TRAILER;
            } else if (client->state == DATA_END) {
                client->state = SIZE;
            } else {
                complete = end == here; /* the empty line after the last chunk and its trailers */
            }
        }
    }
    cut(&client->in, done);
    if (complete && client->text.used) { /* a JSON document ends without a newline */
        read_line(client, client->text.at, client->text.used);
        client->text.used = 0;
    }
    return complete;
}

static void hear(Client *client)
{
    reserve(&client->in, 65536);
    ssize_t got = recv(client->fd, client->in.at + client->in.used, 65536, 0);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got <= 0) {
        if (!client->busy) {
            hang_up(client);
        } else if (client->is_reused && client->state == HEAD && !client->in.used) {
            hang_up(client); /* the idle connection was closed under the request: ask again on a new one */
            started--;
            ask(client);
        } else {
            finish(client, client->state != UNTIL_CLOSE);
        }
        return;
    }
    client->in.used += (size_t)got;
    if (parse(client)) {
        finish(client, false);
    } else if (leave_after && client->next >= (uint32_t)leave_after) {
        leave(client);
        answered++;
        ask(client);
    }
}

static void make_request(int headers, char **lines)
{
    char body[256], head[256];
    int length = snprintf(body, sizeof body,
        "{\"model\":\"bench\",\"messages\":[{\"role\":\"user\",\"content\":\"Tell me about the river.\"}]%s}",
        wants_json ? "" : ",\"stream\":true");
    append(&request, head, (size_t)snprintf(head, sizeof head,
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Type: application/json\r\nAccept: */*\r\n"
        "Content-Length: %d\r\n", port, length));
    for (int each = 0; each < headers; each++) {
        append(&request, lines[each], strlen(lines[each]));
        append(&request, "\r\n", 2);
    }
    append(&request, "\r\n", 2);
    append(&request, body, (size_t)length);
}

int main(int argc, char **argv)
{
    char *headers[16];
    int header_count = 0, option;
    double rate = 0, seconds = 60;
    if (argc < 2)
        return fprintf(stderr, "usage: clients PORT [options]\n"), 2;
    port = atoi(argv[1]);
    optind = 2;
    while ((option = getopt(argc, argv, "c:n:r:jx:ot:H:")) != -1) {
        if (option == 'c') wanted_connections = atoi(optarg);
        else if (option == 'n') wanted_requests = strtoull(optarg, NULL, 10);
        else if (option == 'r') rate = atof(optarg);
        else if (option == 'j') wants_json = true;
        else if (option == 'x') leave_after = atoi(optarg);
        else if (option == 'o') holds = true;
        else if (option == 't') seconds = atof(optarg);
        else if (option == 'H' && header_count < 16) headers[header_count++] = optarg;
        else return 2;
    }
    if (holds)
        wanted_requests = (uint64_t)wanted_connections;
    many_files();
    make_request(header_count, headers);
    poll_fd = epoll_create1(0);
    clients = memset(grown(NULL, sizeof *clients * (size_t)wanted_connections), 0, sizeof *clients * (size_t)wanted_connections);
    if (holds) {
        struct epoll_event wish = {.events = EPOLLIN, .data.ptr = NULL};
        epoll_ctl(poll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &wish);
    }
    uint64_t begun = nanoseconds(), limit = begun + (uint64_t)(seconds * 1e9), step = rate > 0 ? (uint64_t)(1e9 / rate) : 0;
    int open = 0;
    bool over = false, said_open = false;
    struct epoll_event found[256];
    while (!over && answered < wanted_requests && nanoseconds() < limit) {
        uint64_t due = limit;
        while (open < wanted_connections) {
            uint64_t mine = begun + step * (uint64_t)open;
            if (mine > nanoseconds()) {
                due = mine;
                break;
            }
            clients[open].fd = -1;
            ask(&clients[open++]);
            if (open % 32 == 0)
                break; /* look at what has come in between */
        }
        if (open < wanted_connections && open % 32 == 0 && !step)
            due = 1;
        int count = wait_until(poll_fd, found, 256, due);
        for (int each = 0; each < count; each++) {
            if (found[each].data.ptr)
                hear(found[each].data.ptr);
            else
                over = true;
        }
        if (holds && !said_open && had_first == (uint64_t)wanted_connections) {
            said_open = true;
            printf("open\n");
            fflush(stdout);
        }
    }
    double took = (double)(nanoseconds() - begun) / 1e9;
    if (holds)
        for (int each = 0; each < open; each++)
            if (clients[each].fd >= 0 && clients[each].had_first)
                leave(&clients[each]);
    if (holds && !said_open)
        printf("late\n");
    printf("{\"seconds\":%.6f,\"answered\":%llu,\"chunks\":%llu,\"errors\":%llu,\"refused\":%llu,\"unfinished\":%llu,"
           "\"disordered\":%llu,\"missing\":%llu,", took, (unsigned long long)answered, (unsigned long long)chunks,
           (unsigned long long)errors, (unsigned long long)refused, (unsigned long long)unfinished,
           (unsigned long long)disordered, (unsigned long long)(holds ? wanted_requests - had_first : wanted_requests - answered));
    print_row("ttft", &ttft);
    print_row("delay", &delay);
    printf("\"left\":[%.*s]}\n", (int)left_list.used, left_list.used ? left_list.at : "");
    return 0;
}

/* The two ends of a tunnel benchmark: a shim that calls as fast as it is answered, and an agent that answers.
 *
 *   load echo PATH                               serve at the unix socket PATH until killed
 *   load call PATH CONNECTIONS SECONDS WHAT SIZE one call outstanding per connection; WHAT: read (SIZE bytes come
 *                                                back) or copy (SIZE bytes go out); prints "go", then a JSON line
 *   load idle PATH CONNECTIONS                   one small call on each connection, prints "idle", waits for stdin's end
 *
 * A % sign in PATH stands for the connection's number. Everything is ttrpc as the kata shim and agent speak it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 10, REQUEST = 1, RESPONSE = 2, EVENTS = 256, READ_AT_ONCE = 256 << 10 };
enum { CONTAINER_ID = 64, WARM_UP_MS = 200 };

typedef struct {
    int fd;
    uint8_t *in, *out;            /* the frame that is arriving; the frame that is leaving */
    size_t in_size, in_room;
    size_t out_size, out_sent, out_room;
    uint32_t stream;
    uint64_t called_at;
} peer;

typedef struct {
    uint8_t *bytes;
    size_t size;
} buffer;

static void fail(const char *what) {
    fprintf(stderr, "load: %s: %s\n", what, errno ? strerror(errno) : "stopped");
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void *grown(void *memory, size_t size) {
    void *bigger = realloc(memory, size);
    if (!bigger) fail("out of memory");
    return bigger;
}

/* -- protobuf, as much of it as two messages need ---------------------------------------------------------------- */

static size_t put_varint(uint8_t *to, uint64_t value) {
    size_t size = 0;
    for (; value > 127; value >>= 7) to[size++] = (uint8_t)(value | 128);
    to[size++] = (uint8_t)value;
    return size;
}

static size_t put_number(uint8_t *to, int field, uint64_t value) {
    size_t size = put_varint(to, (uint64_t)field << 3);
    return size + put_varint(to + size, value);
}

static size_t put_bytes(uint8_t *to, int field, const void *bytes, size_t length) {
    size_t size = put_varint(to, (uint64_t)field << 3 | 2);
    size += put_varint(to + size, length);
    if (bytes) memcpy(to + size, bytes, length);
    else memset(to + size, 0x5a, length);
    return size + length;
}

/* The next field from *at on: its number (0 at the end), its value or length; a byte field's content starts at *content. */
static int next_field(const uint8_t **at, const uint8_t *end, uint64_t *value, const uint8_t **content) {
    uint64_t parts[2] = {0, 0};
    if (*at >= end) return 0;
    for (int i = 0; i < 2; i++)
        for (int shift = 0; *at < end; shift += 7) {
            uint8_t byte = *(*at)++;
            parts[i] |= (uint64_t)(byte & 127) << shift;
            if (byte < 128) break;
        }
    *value = parts[1];
    *content = *at;
    if ((parts[0] & 7) == 2) *at += parts[1];
    return (int)(parts[0] >> 3);
}

/* -- frames ------------------------------------------------------------------------------------------------------ */

static void put_header(uint8_t *to, size_t length, uint32_t stream, uint8_t type) {
    uint32_t words[2] = {htonl((uint32_t)length), htonl(stream)};
    memcpy(to, words, 8);
    to[8] = type;
    to[9] = 0;
}

static uint32_t word(const uint8_t *at) {
    uint32_t value;
    memcpy(&value, at, 4);
    return ntohl(value);
}

static buffer request_frame(const char *what, size_t size) {
    static const char service[] = "grpc.AgentService", path[] = "/run/kata-containers/shared/containers/0123456789abcdef";
    char id[CONTAINER_ID];
    memset(id, 'f', sizeof id);
    int copies = !strcmp(what, "copy");
    const char *method = copies ? "CopyFile" : "ReadStdout";
    uint8_t *message = grown(NULL, size + 1024), *frame = grown(NULL, size + 2048);
    size_t length = 0, end = HEADER;
    if (copies) {
        length += put_bytes(message + length, 1, path, sizeof path - 1);
        length += put_number(message + length, 2, size);
        length += put_bytes(message + length, 8, NULL, size);
    } else {
        length += put_bytes(message + length, 1, id, sizeof id);
        length += put_bytes(message + length, 2, id, sizeof id);
        length += put_number(message + length, 3, size);
    }
    end += put_bytes(frame + end, 1, service, sizeof service - 1);
    end += put_bytes(frame + end, 2, method, strlen(method));
    end += put_bytes(frame + end, 3, message, length);
    end += put_number(frame + end, 4, 60000000000u);
    put_header(frame, end - HEADER, 1, REQUEST);
    free(message);
    return (buffer){frame, end};
}

/* How many bytes this request wants back: ReadStdout says it, every other call is answered with an empty message. */
static size_t wanted(const uint8_t *at, size_t length) {
    const uint8_t *end = at + length, *content;
    uint64_t value;
    int reads = 0;
    for (int field; (field = next_field(&at, end, &value, &content));) {
        if (field == 2) reads = value == 10 && !memcmp(content, "ReadStdout", 10);
        if (field == 3 && reads) {
            const uint8_t *inner = content, *inner_end = content + value;
            while ((field = next_field(&inner, inner_end, &value, &content)))
                if (field == 3) return value;
        }
    }
    return 0;
}

static void room_to_send(peer *p, size_t size) {
    if (p->out_room >= size) return;
    p->out = grown(p->out, size);
    p->out_room = size;
}

static void prepare_answer(peer *p, const uint8_t *frame, size_t length) {
    size_t size = wanted(frame + HEADER, length), end = HEADER;
    room_to_send(p, size + 64);
    if (size) {
        uint8_t inner[16];
        size_t prefix = put_varint(inner, 1 << 3 | 2);
        prefix += put_varint(inner + prefix, size);
        end += put_bytes(p->out + end, 2, NULL, prefix + size);
        memcpy(p->out + end - prefix - size, inner, prefix);
    }
    put_header(p->out, end - HEADER, word(frame + 4), RESPONSE);
    p->out_size = end;
    p->out_sent = 0;
}

/* -- sockets ----------------------------------------------------------------------------------------------------- */

static struct sockaddr_un address(const char *pattern, int number) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    const char *mark = strchr(pattern, '%');
    int size = mark ? snprintf(a.sun_path, sizeof a.sun_path, "%.*s%d%s", (int)(mark - pattern), pattern, number, mark + 1)
                    : snprintf(a.sun_path, sizeof a.sun_path, "%s", pattern);
    if (size >= (int)sizeof a.sun_path) fail("the path is too long");
    return a;
}

static void connect_peer(peer *p, const char *pattern, int number) {
    struct sockaddr_un a = address(pattern, number);
    p->fd = socket(AF_UNIX, SOCK_STREAM, 0);
    if (p->fd < 0 || connect(p->fd, (struct sockaddr *)&a, sizeof a)) fail(a.sun_path);
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
}

static void watch(int epoll, int operation, peer *p, int writes) {
    struct epoll_event e = {.events = EPOLLIN | (writes ? EPOLLOUT : 0), .data.ptr = p};
    if (epoll_ctl(epoll, operation, p->fd, &e)) fail("epoll_ctl");
}

/* Sends what is left of p->out; watches for writability exactly while there is. Returns 0 if the peer is gone. */
static int send_rest(int epoll, peer *p, int was_blocked) {
    while (p->out_sent < p->out_size) {
        ssize_t n = send(p->fd, p->out + p->out_sent, p->out_size - p->out_sent, MSG_NOSIGNAL);
        if (n < 0 && errno == EAGAIN) {
            if (!was_blocked) watch(epoll, EPOLL_CTL_MOD, p, 1);
            return 1;
        }
        if (n < 0) return 0;
        p->out_sent += (size_t)n;
    }
    if (was_blocked) watch(epoll, EPOLL_CTL_MOD, p, 0);
    return 1;
}

/* Reads once; returns the payload's length + 1 when a frame is complete at p->in, 0 when not, -1 at the end. */
static int64_t receive(peer *p) {
    size_t room = p->in_size + READ_AT_ONCE;
    if (p->in_size >= HEADER && room < HEADER + word(p->in)) room = HEADER + word(p->in);
    if (p->in_room < room) {
        p->in = grown(p->in, room);
        p->in_room = room;
    }
    ssize_t n = recv(p->fd, p->in + p->in_size, p->in_room - p->in_size, 0);
    if (n == 0 || (n < 0 && errno != EAGAIN)) return -1;
    if (n > 0) p->in_size += (size_t)n;
    if (p->in_size < HEADER || p->in_size < HEADER + (size_t)word(p->in)) return 0;
    return (int64_t)word(p->in) + 1;
}

static void drop_frame(peer *p, size_t length) {
    p->in_size -= HEADER + length;
    memmove(p->in, p->in + HEADER + length, p->in_size);
}

/* -- echo -------------------------------------------------------------------------------------------------------- */

static int listen_at(const char *path) {
    struct sockaddr_un a = address(path, 0);
    unlink(a.sun_path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof a) || listen(fd, 4096)) fail(path);
    return fd;
}

static int serve_peer(int epoll, peer *p, uint32_t events) {
    int blocked = p->out_sent < p->out_size;
    if (events & EPOLLOUT && !send_rest(epoll, p, blocked)) return 0;
    if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)) || p->out_sent < p->out_size) return 1;
    int64_t found = receive(p);
    if (found <= 0) return found == 0;
    prepare_answer(p, p->in, (size_t)found - 1);
    drop_frame(p, (size_t)found - 1);
    return send_rest(epoll, p, 0);
}

static void echo(const char *path) {
    peer listener = {.fd = listen_at(path)};
    int epoll = epoll_create1(0);
    struct epoll_event events[EVENTS];
    watch(epoll, EPOLL_CTL_ADD, &listener, 0);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            peer *p = events[i].data.ptr;
            if (p == &listener) {
                int fd = accept4(listener.fd, NULL, NULL, SOCK_NONBLOCK);
                if (fd < 0) continue;
                p = grown(NULL, sizeof *p);
                *p = (peer){.fd = fd};
                watch(epoll, EPOLL_CTL_ADD, p, 0);
            } else if (!serve_peer(epoll, p, events[i].events)) {
                close(p->fd);
                free(p->in);
                free(p->out);
                free(p);
            }
        }
    }
}

/* -- calls ------------------------------------------------------------------------------------------------------- */

static void begin_call(int epoll, peer *p, buffer request) {
    room_to_send(p, request.size);
    if (!p->out_size) memcpy(p->out, request.bytes, request.size);
    p->out_size = request.size;
    p->out_sent = 0;
    p->stream += p->stream ? 2 : 1;
    put_header(p->out, request.size - HEADER, p->stream, REQUEST);
    p->called_at = now_ns();
    if (!send_rest(epoll, p, 0)) fail("the tunnel ended");
}

static int ascending(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

typedef struct {
    uint32_t *tenths; /* of a microsecond, per call */
    size_t count, room;
} latencies;

static void note(latencies *l, uint64_t ns) {
    if (l->count == l->room) {
        l->room = l->room ? l->room * 2 : 1 << 16;
        l->tenths = grown(l->tenths, l->room * sizeof *l->tenths);
    }
    l->tenths[l->count++] = (uint32_t)(ns / 100);
}

static void report(latencies *l, double seconds) {
    if (!l->count) fail("not one call was answered");
    qsort(l->tenths, l->count, sizeof *l->tenths, ascending);
    printf("{\"calls\": %zu, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", l->count, seconds,
           l->tenths[l->count / 2] / 10.0, l->tenths[l->count * 99 / 100] / 10.0);
    fflush(stdout);
}

/* Every connection has been answered at least once and the warm-up is over: what is measured begins. */
static void call(const char *pattern, int connections, double seconds, const char *what, size_t size) {
    buffer request = request_frame(what, size);
    peer *peers = calloc((size_t)connections, sizeof *peers);
    int epoll = epoll_create1(0), silent = connections;
    struct epoll_event events[EVENTS];
    latencies seen = {0};
    uint64_t begin = 0, end = 0, warm = 0;
    for (int i = 0; i < connections; i++) {
        connect_peer(&peers[i], pattern, i);
        watch(epoll, EPOLL_CTL_ADD, &peers[i], 0);
        begin_call(epoll, &peers[i], request);
    }
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, 5000);
        uint64_t now = now_ns();
        if (count <= 0) fail("no answer in 5 s");
        if (!silent && !warm) warm = now + WARM_UP_MS * 1000000u;
        if (warm && !begin && now >= warm) {
            puts("go");
            fflush(stdout);
            begin = now_ns();
            end = begin + (uint64_t)(seconds * 1e9);
        }
        if (begin && now >= end) break;
        for (int i = 0; i < count; i++) {
            peer *p = events[i].data.ptr;
            if (events[i].events & EPOLLOUT && !send_rest(epoll, p, 1)) fail("the tunnel ended");
            if (!(events[i].events & ~(uint32_t)EPOLLOUT)) continue;
            int64_t found = receive(p);
            if (found < 0) fail("the tunnel ended");
            if (!found) continue;
            if (word(p->in + 4) != p->stream || (*what == 'r' && (size_t)found < size)) fail("a wrong answer came back");
            if (p->stream == 1) silent--;
            if (begin) note(&seen, now_ns() - p->called_at);
            drop_frame(p, (size_t)found - 1);
            begin_call(epoll, p, request);
        }
    }
    report(&seen, (double)(now_ns() - begin) / 1e9);
}

static void idle(const char *pattern, int connections) {
    buffer request = request_frame("read", 100);
    for (int i = 0; i < connections; i++) {
        peer p = {0};
        connect_peer(&p, pattern, i);
        fcntl(p.fd, F_SETFL, 0);
        if (send(p.fd, request.bytes, request.size, 0) != (ssize_t)request.size) fail("the tunnel ended");
        int64_t found;
        while (!(found = receive(&p)));
        if (found < 0) fail("the tunnel ended");
        free(p.in);
    }
    puts("idle");
    fflush(stdout);
    while (getchar() != EOF);
}

int main(int count, char **words) {
    signal(SIGPIPE, SIG_IGN);
    if (count == 3 && !strcmp(words[1], "echo")) echo(words[2]);
    else if (count == 7 && !strcmp(words[1], "call"))
        call(words[2], atoi(words[3]), atof(words[4]), words[5], strtoul(words[6], NULL, 10));
    else if (count == 4 && !strcmp(words[1], "idle")) idle(words[2], atoi(words[3]));
    else {
        fprintf(stderr, "usage: load echo PATH | call PATH CONNECTIONS SECONDS read|copy SIZE | idle PATH CONNECTIONS\n");
        return 2;
    }
    return 0;
}

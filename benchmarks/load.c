/*
 * The load client of the benchmarks: many event streams on one thread, counted in bulk.
 *
 * Owns the connections and the counting; knows nothing of scenarios. It says one line of JSON when
 * all streams are open ("open"), one when all have got what they came for ("done"), and one for
 * each line "mark" on its standard input: what has come since the mark before. "stall N" makes the
 * first N streams stop reading. It ends at the end of its input, and after --seconds in any case.
 *
 * An event is counted when its line that begins with --line ("data:") is complete. If the data begins with
 * "@" and digits, that is the time it was made, in nanoseconds of CLOCK_MONOTONIC, and the delay
 * goes into a histogram with 32 steps to each doubling.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CARRY 128          /* bytes of an incomplete line that are kept for the next read */
#define BLOCK (512 * 1024) /* bytes of one read */
#define STEPS 32
#define BUCKETS (40 * STEPS)
#define AT_ONCE 64 /* connections that are being opened at the same time */

enum phase { CLOSED, CONNECTING, HEAD, BODY, FINISHED };

struct stream {
    int fd;
    enum phase phase;
    int carried;
    int stalled;
    uint64_t events;
    uint64_t since_mark;
    char carry[CARRY];
};

static struct options {
    const char *path, *token, *header;
    int port, connections, seconds, addresses;
    uint64_t events, total;
} options = {.path = "/", .token = "data:", .header = "", .connections = 1, .seconds = 60, .addresses = 100};

static struct stream *streams;
static int epoll_fd, opening, open_streams, finished, refused, next_address;
static uint64_t started_total, completed_total;
static uint64_t histogram[BUCKETS], delays, longest_delay;
static uint64_t events, bytes, reads, began, last_event, first_event;
static double cpu_began;
static char request[4096], block[CARRY + BLOCK];
static size_t request_size, token_size;

static uint64_t now_ns(void) {
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (uint64_t)at.tv_sec * 1000000000u + (uint64_t)at.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage used;
    getrusage(RUSAGE_SELF, &used);
    return (double)(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           (double)(used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

static void fail(const char *what) {
    perror(what);
    exit(2);
}

static int bucket_of(uint64_t micros) {
    if (micros < STEPS) return (int)micros;
    int doubling = 63 - __builtin_clzll(micros) - 5; /* 2^5 == STEPS */
    int bucket = (doubling + 1) * STEPS + (int)((micros >> doubling) - STEPS);
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static double micros_of(int bucket) {
    if (bucket < STEPS) return bucket;
    int doubling = bucket / STEPS - 1;
    return (double)((uint64_t)(STEPS + bucket % STEPS) << doubling);
}

static double percentile(double share) {
    uint64_t wanted = (uint64_t)(share * (double)delays), seen = 0;
    for (int bucket = 0; bucket < BUCKETS; bucket++)
        if ((seen += histogram[bucket]) > wanted) return micros_of(bucket) / 1000;
    return (double)longest_delay / 1e6;
}

static void say(const char *state) {
    uint64_t now = now_ns(), least = UINT64_MAX, most = 0;
    for (int i = 0; i < options.connections; i++) {
        if (streams[i].stalled) continue;
        if (streams[i].since_mark < least) least = streams[i].since_mark;
        if (streams[i].since_mark > most) most = streams[i].since_mark;
    }
    printf("{\"state\": \"%s\", \"seconds\": %.6f, \"to_last\": %.6f, \"events\": %llu, \"bytes\": %llu,"
           " \"reads\": %llu, \"least\": %llu, \"most\": %llu, \"open\": %d, \"completed\": %llu,"
           " \"refused\": %d, \"delays\": %llu, \"p50_ms\": %.3f, \"p99_ms\": %.3f, \"max_ms\": %.3f,"
           " \"first_ns\": %llu, \"last_ns\": %llu, \"cpu\": %.4f}\n",
           state, (double)(now - began) / 1e9, last_event ? (double)(last_event - began) / 1e9 : 0.0,
           (unsigned long long)events, (unsigned long long)bytes, (unsigned long long)reads,
           (unsigned long long)(least == UINT64_MAX ? 0 : least), (unsigned long long)most,
           open_streams - finished, (unsigned long long)completed_total, refused,
           (unsigned long long)delays, percentile(0.50), percentile(0.99), (double)longest_delay / 1e6,
           (unsigned long long)first_event, (unsigned long long)last_event, cpu_seconds() - cpu_began);
    fflush(stdout);
}

static void mark(void) {
    memset(histogram, 0, sizeof histogram);
    events = bytes = reads = delays = longest_delay = last_event = first_event = 0;
    for (int i = 0; i < options.connections; i++) streams[i].since_mark = 0;
    began = now_ns();
    cpu_began = cpu_seconds();
}

static void begin(struct stream *one) {
    one->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (one->fd < 0) fail("socket");
    int on = 1;
    setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    /* Many addresses of the loopback network: the ports of one run out. */
    struct sockaddr_in from = {.sin_family = AF_INET};
    from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + (uint32_t)(next_address++ % options.addresses));
    setsockopt(one->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    if (bind(one->fd, (struct sockaddr *)&from, sizeof from) < 0) fail("bind");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)options.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(one->fd, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS) fail("connect");
    one->phase = CONNECTING;
    one->carried = 0;
    one->events = 0;
    opening++;
    started_total++;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = one};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event) < 0) fail("epoll_ctl");
}

static void finish(struct stream *one) {
    if (one->phase == HEAD || one->phase == CONNECTING) opening--;
    if (one->phase == BODY) finished++;
    if (one->phase != FINISHED) completed_total++;
    one->phase = FINISHED;
}

static void hang_up(struct stream *one) {
    if (one->phase == HEAD || one->phase == CONNECTING) {
        refused++;
        open_streams++;
        finished++;
    }
    finish(one);
    close(one->fd);
    one->fd = -1;
}

/* Counts the complete events in a piece; returns how many bytes at its end are to be kept. */
static int count(struct stream *one, char *from, char *end, uint64_t now) {
    char *at = from;
    uint64_t found = 0;
    for (;;) {
        char *token = memmem(at, (size_t)(end - at), options.token, token_size);
        if (token == NULL) {
            at = end - from < (long)token_size - 1 ? from : end - (token_size - 1);
            break;
        }
        char *value = token + token_size;
        char *line_end = memchr(value, '\n', (size_t)(end - value));
        if (line_end == NULL) {
            if (end - token < CARRY) { /* otherwise it's long enough to be counted now */
                at = token;
                break;
            }
            line_end = value;
        }
        found++;
        if (value < end && *value == ' ') value++;
        if (value < end && *value == '@') {
            uint64_t made = 0;
            for (value++; value < end && *value >= '0' && *value <= '9'; value++)
                made = made * 10 + (uint64_t)(*value - '0');
            uint64_t delay = now > made ? now - made : 0;
            if (delay > longest_delay) longest_delay = delay;
            histogram[bucket_of(delay / 1000)]++;
            delays++;
        }
        at = line_end;
    }
    if (found) {
        if (first_event == 0) first_event = now;
        last_event = now;
        events += found;
        one->events += found;
        one->since_mark += found;
    }
    return (int)(end - at);
}

/* The end of a chunked body, and of a body that the server ends by closing. */
static int ends_here(const char *end, ssize_t size) {
    return size >= 5 && memcmp(end - 5, "0\r\n\r\n", 5) == 0 && (size == 5 || end[-6] == '\n');
}

static void get(struct stream *one) {
    char *at = block + CARRY;
    ssize_t size = recv(one->fd, at, BLOCK, 0);
    if (size < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (size <= 0) {
        hang_up(one);
        return;
    }
    uint64_t now = now_ns();
    bytes += (uint64_t)size;
    reads++;
    char *end = at + size, *from = at - one->carried;
    memcpy(from, one->carry, (size_t)one->carried);
    if (one->phase == HEAD) {
        char *body = memmem(from, (size_t)(end - from), "\r\n\r\n", 4);
        if (body == NULL) {
            one->carried = 3;
            memcpy(one->carry, end - 3, 3);
            return;
        }
        if (end - from > 12 && memcmp(from, "HTTP/1.1 200", 12) != 0) refused++;
        from = body + 4;
        one->phase = BODY;
        opening--;
        open_streams++;
        if (open_streams == options.connections && options.total == 0) say("open");
    }
    int keep = count(one, from, end, now);
    one->carried = keep < CARRY ? keep : CARRY;
    memcpy(one->carry, end - one->carried, (size_t)one->carried);
    if (one->phase == BODY && options.events && one->events >= options.events) finish(one);
    if (ends_here(end, size)) {
        if (options.total) hang_up(one);
        else finish(one);
    }
}

static void ready(struct stream *one, uint32_t what) {
    if (one->phase == CONNECTING) {
        int error = 0;
        socklen_t size = sizeof error;
        getsockopt(one->fd, SOL_SOCKET, SO_ERROR, &error, &size);
        if (error || send(one->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) {
            hang_up(one);
            return;
        }
        one->phase = HEAD;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &event);
    } else if (what & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        get(one);
    }
}

static int obey(void) {
    char line[256];
    ssize_t size = read(STDIN_FILENO, line, sizeof line - 1);
    if (size <= 0) return 0;
    line[size] = 0;
    if (strncmp(line, "mark", 4) == 0) {
        say("mark");
        mark();
    } else if (strncmp(line, "stall ", 6) == 0) {
        int wanted = atoi(line + 6);
        for (int i = 0; i < wanted && i < options.connections; i++) {
            streams[i].stalled = 1;
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, streams[i].fd, NULL);
        }
        printf("{\"state\": \"stalled\"}\n");
        fflush(stdout);
    }
    return 1;
}

int main(int argc, char **argv) {
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (!strcmp(name, "--port")) options.port = atoi(value);
        else if (!strcmp(name, "--path")) options.path = value;
        else if (!strcmp(name, "--connections")) options.connections = atoi(value);
        else if (!strcmp(name, "--events")) options.events = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--total")) options.total = strtoull(value, NULL, 10);
        else if (!strcmp(name, "--line")) options.token = value;
        else if (!strcmp(name, "--header")) options.header = value;
        else if (!strcmp(name, "--seconds")) options.seconds = atoi(value);
        else {
            fprintf(stderr, "unknown option %s\n", name);
            return 2;
        }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    token_size = strlen(options.token);
    request_size = (size_t)snprintf(request, sizeof request,
                                    "GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n%s%s\r\n",
                                    options.path, options.header, *options.header ? "\r\n" : "");
    streams = calloc((size_t)options.connections, sizeof *streams);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (streams == NULL || epoll_fd < 0) fail("epoll_create1");
    struct epoll_event input = {.events = EPOLLIN, .data.ptr = NULL};
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, STDIN_FILENO, &input);

    mark();
    uint64_t until = began + (uint64_t)options.seconds * 1000000000u;
    int next = 0, told = 0;
    struct epoll_event found[512];
    while (now_ns() < until) {
        while (next < options.connections && opening < AT_ONCE) begin(&streams[next++]);
        int count_found = epoll_wait(epoll_fd, found, 512, 100);
        for (int i = 0; i < count_found; i++) {
            struct stream *one = found[i].data.ptr;
            if (one == NULL) {
                if (!obey()) return 0;
                continue;
            }
            if (one->fd >= 0) ready(one, found[i].events);
            if (options.total && one->fd < 0 && started_total < options.total) begin(one);
        }
        int all = options.total ? completed_total >= options.total
                                : finished >= options.connections;
        if (all && !told) {
            told = 1;
            say("done");
        }
    }
    say("late");
    return 3;
}

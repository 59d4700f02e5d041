/* Preloaded into a program that valgrind runs: where counting begins and ends, and a clock that doesn't know
 * how slow valgrind is. Each look at that clock is a microsecond later than the one before, so a run of the
 * same program is the same run. */

#include <stdint.h>
#include <sys/time.h>
#include <time.h>
#include <valgrind/callgrind.h>

static int64_t nanoseconds = 1700000000000000000;

void advance(int64_t by) { nanoseconds += by; }

void begin_counting(void) {
    CALLGRIND_START_INSTRUMENTATION;
    CALLGRIND_ZERO_STATS;
}

void end_counting(const char *name) {
    CALLGRIND_DUMP_STATS_AT(name);
    CALLGRIND_STOP_INSTRUMENTATION;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    nanoseconds += 1000;
    now->tv_sec = nanoseconds / 1000000000;
    now->tv_nsec = nanoseconds % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec precise;
    clock_gettime(CLOCK_REALTIME, &precise);
    if (now) *now = precise.tv_sec;
    return precise.tv_sec;
}

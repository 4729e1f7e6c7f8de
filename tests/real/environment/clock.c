/* The clock of a machine that boots in the past and is set later, for one process (LD_PRELOAD): nobody's real clock is moved
 * for a test. The file that FOREBAY_TEST_CLOCK names says by how many seconds the wall clock is off, and whether the kernel
 * says that it is synchronised: "-1800000000 0". It is read at each look at the clock. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static void told(long *off_s, int *synchronised) {
    const char *path = getenv("FOREBAY_TEST_CLOCK");
    FILE *file = path ? fopen(path, "re") : NULL;
    if (!file || fscanf(file, "%ld %d", off_s, synchronised) != 2)
        abort();
    fclose(file);
}

int clock_gettime(clockid_t id, struct timespec *now) {
    int outcome = (int)syscall(SYS_clock_gettime, id, now);
    if (outcome == 0 && id == CLOCK_REALTIME) {
        long off_s;
        int synchronised;
        told(&off_s, &synchronised);
        now->tv_sec += off_s;
    }
    return outcome;
}

int adjtimex(struct timex *answer) {
    long off_s;
    int synchronised;
    told(&off_s, &synchronised);
    answer->maxerror = synchronised ? 1000 : 16000000;
    answer->status = synchronised ? 0 : STA_UNSYNC;
    return synchronised ? TIME_OK : TIME_ERROR;
}

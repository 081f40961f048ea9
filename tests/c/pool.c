/*
 * The pool of fastdrop/pool.h under load: three callers at once, calls of any size, workers of which
 * some come late. Each element of a call must be done once, in ranges of whole units, and no one may be
 * at it when the call is over. tests/test_threads.py builds it, with the thread sanitizer where there is
 * one.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool.h"

enum { CALLERS = 3, WORKERS = 5, CALLS = 5000, LARGEST = 4000 };

typedef struct {
    unsigned char counts[LARGEST];
    uint64_t n, unit;
} work;

static void count(const void *context, uint64_t begin, uint64_t n) {
    work *w = (work *)context;
    const int is_last = begin + n == w->n;
    if (n == 0 || begin + n > w->n || begin % w->unit || (n % w->unit && !is_last)) {
        printf("%d elements from %d on were no range\n", (int)n, (int)begin);
        exit(1);
    }
    for (uint64_t i = begin; i < begin + n; i++) w->counts[i]++;
}

static void *serve(void *unused) {
    fd_pool_serve();
    return unused;
}

static void *caller(void *number) {
    uint32_t random = 7 + *(uint32_t *)number;
    work w;
    intptr_t shared = 0;
    for (int call = 0; call < CALLS; call++) {
        random = random * 1664525u + 1013904223u;
        memset(w.counts, 0, sizeof w.counts);
        w.n = 1 + (random >> 16) % LARGEST, w.unit = 1 + (random >> 8) % 16;
        const uint64_t smallest = w.unit * (1 + (random >> 12) % 20);
        if (fd_pool_run(count, &w, w.n, w.unit, smallest, 1 + (int)(random >> 4) % WORKERS))
            shared++;
        else
            count(&w, 0, w.n);
        for (uint64_t i = 0; i < LARGEST; i++)
            if (w.counts[i] != (i < w.n)) {
                printf("element %d of %d was done %d times\n", (int)i, (int)w.n, w.counts[i]);
                exit(1);
            }
        if (call % 97 == 0) nanosleep(&(struct timespec){0, 50000}, NULL); /* the workers sleep */
    }
    return (void *)shared;
}

#if FD_KEEPS_OFF
/* Whether fd_keep_off and fd_come_back do what they say. */
static int moves(void) {
    fd_processors mine;
    cpu_set_t before, now;
    const int32_t cpu = fd_cpu();
    sched_getaffinity(0, sizeof before, &before);
    if (CPU_COUNT(&before) == 1) return !fd_keep_off(&mine, cpu);
    if (!fd_keep_off(&mine, cpu) || fd_cpu() == cpu) return 0;
    sched_getaffinity(0, sizeof now, &now);
    if (CPU_ISSET(cpu, &now) || CPU_COUNT(&now) != CPU_COUNT(&before) - 1) return 0;
    fd_come_back(&mine);
    sched_getaffinity(0, sizeof now, &now);
    if (!CPU_EQUAL(&now, &before)) return 0;
    /* what somebody else says meanwhile stays */
    fd_keep_off(&mine, cpu);
    CPU_ZERO(&now);
    CPU_SET(cpu, &now);
    sched_setaffinity(0, sizeof now, &now);
    fd_come_back(&mine);
    sched_getaffinity(0, sizeof now, &now);
    const int stays = CPU_COUNT(&now) == 1 && CPU_ISSET(cpu, &now);
    sched_setaffinity(0, sizeof before, &before);
    return stays;
}
#else
static int moves(void) { return 1; }
#endif

int main(void) {
    static uint32_t number[CALLERS] = {0, 1, 2};
    pthread_t worker, callers[CALLERS];
    intptr_t shared = 0;
    while (fd_pool_hire(WORKERS)) pthread_create(&worker, NULL, serve, NULL);
    for (int i = 0; i < CALLERS; i++) pthread_create(&callers[i], NULL, caller, &number[i]);
    for (int i = 0; i < CALLERS; i++) {
        void *had;
        pthread_join(callers[i], &had);
        shared += (intptr_t)had;
    }
    if (!moves()) puts("a thread did not leave its processor, or did not come back");
    puts(shared > CALLS / 10 ? "ok" : "hardly any call had the pool");
    return 0;
}

/*
 * The pool of fastdrop/pool.h under load: three callers at once, calls of any size, workers of which
 * some come late. Each element of a call must be done once, and no one may be at it when the call is
 * over. tests/test_threads.py builds it, with the thread sanitizer where there is one.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "pool.h"

enum { CALLERS = 3, WORKERS = 5, CALLS = 5000, LARGEST = 4000 };

static void count(const void *counts, uint64_t begin, uint64_t n) {
    for (uint64_t i = begin; i < begin + n; i++) ((unsigned char *)counts)[i]++;
}

static void *serve(void *unused) {
    fd_pool_serve();
    return unused;
}

static void *caller(void *number) {
    uint32_t random = 7 + *(uint32_t *)number;
    unsigned char counts[LARGEST];
    intptr_t shared = 0;
    for (int call = 0; call < CALLS; call++) {
        random = random * 1664525u + 1013904223u;
        const uint64_t n = 1 + (random >> 16) % LARGEST, size = 1 + (random >> 8) % 300;
        memset(counts, 0, sizeof counts);
        if (fd_pool_run(count, counts, n, size, 1 + (int)(random >> 4) % WORKERS))
            shared++;
        else
            count(counts, 0, n);
        for (uint64_t i = 0; i < LARGEST; i++)
            if (counts[i] != (i < n)) {
                printf("element %d of %d was done %d times\n", (int)i, (int)n, counts[i]);
                exit(1);
            }
        if (call % 97 == 0) nanosleep(&(struct timespec){0, 50000}, NULL); /* the workers sleep */
    }
    return (void *)shared;
}

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
    puts(shared > CALLS / 10 ? "ok" : "hardly any call had the pool");
    return 0;
}

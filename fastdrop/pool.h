/*
 * One call split over threads: workers that wait, and how they are handed a call.
 *
 * The workers are Python threads (threads.py starts them), so that fork, exit and tracing are the
 * interpreter's affair; but they spend their lives in fd_pool_serve, without the GIL, and are handed a
 * call by one atomic and one system call for all of them. Nothing here calls Python, raises or
 * allocates: a call can neither fail nor be interrupted half-way.
 *
 * A call is cut into a share for each thread, and calls of one size into the same ones, so that what a
 * thread has in its caches is there for the next call. A thread claims ranges of its own share, large
 * ones at first and small ones at last, and then of the others': so they end together, although they do
 * not begin together, and a worker that comes late finds nothing. One call has the pool at a time; any
 * other does its own work. For one translation unit: kernels.pyx.
 */
#ifndef FD_POOL_H
#define FD_POOL_H

#include <stddef.h>
#include <stdint.h>

/* ---- atomics, all sequentially consistent ------------------------------------------------------ */

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define FD_OWN_LINES __declspec(align(128))
#define fd_load(at) ((int32_t)_InterlockedOr((volatile long *)(at), 0))
#define fd_store(at, v) ((void)_InterlockedExchange((volatile long *)(at), (long)(v)))
#define fd_add(at, v) ((int32_t)_InterlockedExchangeAdd((volatile long *)(at), (long)(v)))
#define fd_swap(at, old, new_) \
    (_InterlockedCompareExchange((volatile long *)(at), (long)(new_), (long)(old)) == (long)(old))
#define fd_load64(at) ((uint64_t)_InterlockedOr64((volatile __int64 *)(at), 0))
#define fd_store64(at, v) ((void)_InterlockedExchange64((volatile __int64 *)(at), (__int64)(v)))
#define fd_swap64(at, old, new_)                                                                 \
    (_InterlockedCompareExchange64((volatile __int64 *)(at), (__int64)(new_), (__int64)(old)) == \
     (__int64)(old))
#define fd_load_pointer(at) _InterlockedCompareExchangePointer((void *volatile *)(at), NULL, NULL)
#define fd_store_pointer(at, v) ((void)_InterlockedExchangePointer((void *volatile *)(at), v))
#else
#define FD_OWN_LINES __attribute__((aligned(128)))
#define fd_load(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
#define fd_store(at, v) __atomic_store_n(at, v, __ATOMIC_SEQ_CST)
#define fd_add(at, v) __atomic_fetch_add(at, v, __ATOMIC_SEQ_CST)
#define fd_swap(at, old, new_) \
    __atomic_compare_exchange_n(at, &(int32_t){old}, new_, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define fd_load64(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
#define fd_store64(at, v) __atomic_store_n(at, v, __ATOMIC_SEQ_CST)
#define fd_swap64(at, old, new_) \
    __atomic_compare_exchange_n(at, &(uint64_t){old}, new_, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)
#define fd_load_pointer(at) __atomic_load_n(at, __ATOMIC_SEQ_CST)
#define fd_store_pointer(at, v) __atomic_store_n(at, v, __ATOMIC_SEQ_CST)
#endif

static inline void fd_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(_M_X64) || defined(_M_IX86)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

/* ---- waiting until a number changes ------------------------------------------------------------ */

static void fd_pool_forget(void);

#ifndef _WIN32
#include <pthread.h>
#endif

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#ifndef SYS_futex
#define SYS_futex SYS_futex_time64 /* 32-bit systems whose time has 64 bits from the start */
#endif
/* FUTEX_WAIT_PRIVATE and FUTEX_WAKE_PRIVATE of linux/futex.h, which Alpine has in a package of its own */
enum { FD_FUTEX_WAIT = 128, FD_FUTEX_WAKE = 129 };
static void fd_wait(int32_t *at, int32_t seen) {
    syscall(SYS_futex, at, FD_FUTEX_WAIT, seen, NULL, NULL, 0);
}
static void fd_wake(int32_t *at, int n) { syscall(SYS_futex, at, FD_FUTEX_WAKE, n, NULL, NULL, 0); }
static void fd_wait_forget(void) {}

#elif defined(_WIN32)
#include <windows.h>
static void fd_wait(int32_t *at, int32_t seen) { WaitOnAddress(at, &seen, sizeof seen, INFINITE); }
static void fd_wake(int32_t *at, int n) {
    (void)n;
    WakeByAddressAll(at);
}

#else
static pthread_mutex_t fd_wait_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t fd_wait_changed = PTHREAD_COND_INITIALIZER;
static void fd_wait(int32_t *at, int32_t seen) {
    pthread_mutex_lock(&fd_wait_lock);
    if (fd_load(at) == seen) pthread_cond_wait(&fd_wait_changed, &fd_wait_lock);
    pthread_mutex_unlock(&fd_wait_lock);
}
static void fd_wake(int32_t *at, int n) {
    (void)at, (void)n;
    pthread_mutex_lock(&fd_wait_lock);
    pthread_cond_broadcast(&fd_wait_changed);
    pthread_mutex_unlock(&fd_wait_lock);
}
static void fd_wait_forget(void) {
    fd_wait_lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    fd_wait_changed = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
}
#endif

/* ---- time -------------------------------------------------------------------------------------- */

#if defined(_WIN32)
static uint64_t fd_now(void) {
    LARGE_INTEGER now, a_second;
    QueryPerformanceCounter(&now);
    QueryPerformanceFrequency(&a_second);
    return (uint64_t)(1e9 * (double)now.QuadPart / (double)a_second.QuadPart);
}
#else
#include <time.h>
static uint64_t fd_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return 1000000000 * (uint64_t)now.tv_sec + (uint64_t)now.tv_nsec;
}
#endif

/* ---- processors -------------------------------------------------------------------------------- */

#if defined(__linux__)
#include <sched.h>
#define FD_KEEPS_OFF 1
static int32_t fd_cpu(void) { return sched_getcpu(); }

/* The processors of a thread, and what fd_keep_off leaves of them. */
typedef struct {
    cpu_set_t all, left;
} fd_processors;

/* Moves this thread off a processor until fd_come_back; 0 where it has no other. */
static int fd_keep_off(fd_processors *mine, int32_t cpu) {
    if (sched_getaffinity(0, sizeof mine->all, &mine->all) != 0) return 0;
    mine->left = mine->all;
    CPU_CLR(cpu, &mine->left);
    return CPU_COUNT(&mine->left) != 0 && sched_setaffinity(0, sizeof mine->left, &mine->left) == 0;
}

/* Gives the thread its processors back, unless somebody else has changed them. */
static void fd_come_back(const fd_processors *mine) {
    cpu_set_t now;
    if (sched_getaffinity(0, sizeof now, &now) == 0 && CPU_EQUAL(&now, &mine->left))
        sched_setaffinity(0, sizeof mine->all, &mine->all);
}
#else
#define FD_KEEPS_OFF 0
typedef int fd_processors;
static int32_t fd_cpu(void) { return -1; }
static int fd_keep_off(fd_processors *mine, int32_t cpu) { return (void)mine, (void)cpu, 0; }
static void fd_come_back(const fd_processors *mine) { (void)mine; }
#endif

/* ---- the pool ---------------------------------------------------------------------------------- */

typedef void fd_work(const void *context, uint64_t begin, uint64_t n);

/* A call. It lies on its caller's stack. */
typedef struct {
    fd_work *work;
    const void *context;
    uint64_t unit;     /* elements: a range is a multiple of it, */
    uint64_t smallest; /* and no less than this, unless it is what is left of a share */
    int32_t n_shares;
} fd_split;

/* A thread's part of the call. */
typedef struct {
    FD_OWN_LINES uint64_t next; /* the first element that nobody has claimed */
    uint64_t end;               /* the first that is another's */
} fd_share;

/* Of more threads than these some have a share together. */
enum { FD_SHARES = 64 };
static fd_share fd_shares[FD_SHARES];

/* Nanoseconds that a thread looks at a number before it sleeps: more than the others' last ranges take, for one
 * call whose caller slept at its end finds its workers asleep, and so does each after it. */
enum { FD_SPIN_NS = 10000 };
enum { FD_LOOKS = 16 }; /* at the number, between two at the clock */

static struct {
    FD_OWN_LINES int32_t turn;   /* changes with each call; what the workers wait for */
    int32_t places;              /* workers that may still take part */
    int32_t cpu;                 /* where the caller is; -1: not known */
    fd_split *call;              /* NULL: none, or it is over */
    FD_OWN_LINES int32_t inside; /* workers that may look at the call */
    int32_t caller_waits;
    FD_OWN_LINES int32_t asleep; /* workers that the system has to wake */
    int32_t busy;                /* whether a call has the pool */
    int32_t workers;             /* started, or about to be */
    int32_t serving;             /* started */
} fd_pool;

/* Claims one of so many parts of what is left of a share: n elements from `at` on; 0 where nothing is. */
static uint64_t fd_claim(fd_share *share, const fd_split *call, int32_t parts, uint64_t *at) {
    for (uint64_t next; (next = fd_load64(&share->next)) < share->end;) {
        const uint64_t left = share->end - next;
        uint64_t n = left / (uint64_t)parts / call->unit * call->unit;
        if (n < call->smallest) n = call->smallest;
        if (n > left) n = left;
        if (fd_swap64(&share->next, next, next + n)) {
            *at = next;
            return n;
        }
    }
    return 0;
}

/* Does one's own share, a quarter of what is left of it at a time, then the others', of which each thread that
 * is done takes its part. */
static void fd_do_ranges(const fd_split *call, int32_t own) {
    for (int32_t i = 0; i < call->n_shares; i++) {
        fd_share *share = &fd_shares[(own + i) % call->n_shares];
        const int32_t parts = i == 0 ? 4 : call->n_shares;
        for (uint64_t at, n; (n = fd_claim(share, call, parts, &at)) != 0;)
            call->work(call->context, at, n);
    }
}

/* Waits until a number is no longer what was seen. */
static void fd_wait_spinning(int32_t *at, int32_t seen, int32_t *waits) {
    const uint64_t end = fd_now() + FD_SPIN_NS;
    do {
        for (int i = 0; i < FD_LOOKS; i++) {
            if (fd_load(at) != seen) return;
            fd_pause();
        }
    } while (fd_now() < end);
    fd_add(waits, 1);
    while (fd_load(at) == seen) fd_wait(at, seen);
    fd_add(waits, -1);
}

/* What a worker does, for ever. */
static void fd_pool_serve(void) {
    const int32_t number = fd_add(&fd_pool.serving, 1) + 1; /* 0 is the caller */
    fd_processors mine;
    for (int32_t seen = fd_load(&fd_pool.turn) - 1;;) {
        fd_wait_spinning(&fd_pool.turn, seen, &fd_pool.asleep);
        seen = fd_load(&fd_pool.turn);
        /* Where another library's threads spin on all other processors, Linux wakes the worker on the caller's
         * again and again, where it can only take the caller's time. */
        const int32_t cpu = fd_cpu();
        const int kept_off = cpu >= 0 && cpu == fd_load(&fd_pool.cpu) && fd_keep_off(&mine, cpu);
        /* whoever is inside before the call is over is waited for, so the call is there to be read */
        fd_add(&fd_pool.inside, 1);
        fd_split *call = (fd_split *)fd_load_pointer(&fd_pool.call);
        const int32_t place = call ? fd_add(&fd_pool.places, -1) : 0;
        /* the share of its number in each call, unless there are fewer than workers */
        if (place > 0) fd_do_ranges(call, number < call->n_shares ? number : place);
        if (fd_add(&fd_pool.inside, -1) == 1 && fd_load(&fd_pool.caller_waits))
            fd_wake(&fd_pool.inside, 1);
        if (kept_off) fd_come_back(&mine);
    }
}

/* Cuts n elements into the call's shares, in whole units. */
static void fd_cut(const fd_split *call, uint64_t n) {
    uint64_t begin = 0;
    for (int32_t i = 0; i < call->n_shares; i++) {
        const uint64_t units = (n - begin) / call->unit / (uint64_t)(call->n_shares - i);
        const uint64_t end = i + 1 < call->n_shares ? begin + units * call->unit : n;
        fd_shares[i].end = end;
        fd_store64(&fd_shares[i].next, begin);
        begin = end;
    }
}

/* Does a call of n elements, with so many workers at most; of its ranges see fd_split. Returns 0 where
 * another has the pool: then nothing is done. */
static int fd_pool_run(fd_work *work, const void *context, uint64_t n, uint64_t unit,
                       uint64_t smallest, int workers) {
    fd_split call = {work, context, unit, smallest, workers < FD_SHARES ? workers + 1 : FD_SHARES};
    if (!fd_swap(&fd_pool.busy, 0, 1)) return 0;
    fd_cut(&call, n);
    fd_store(&fd_pool.cpu, fd_cpu());
    fd_store(&fd_pool.places, workers);
    fd_store_pointer(&fd_pool.call, &call);
    fd_add(&fd_pool.turn, 1);
    if (fd_load(&fd_pool.asleep)) fd_wake(&fd_pool.turn, workers);
    fd_do_ranges(&call, 0);
    fd_store_pointer(&fd_pool.call, NULL);
    for (int32_t inside; (inside = fd_load(&fd_pool.inside)) != 0;)
        fd_wait_spinning(&fd_pool.inside, inside, &fd_pool.caller_waits);
    fd_store(&fd_pool.busy, 0);
    return 1;
}

/* Takes the place of a worker that is to be started; 0 where there are enough. */
static int fd_pool_hire(int enough) {
    for (int32_t now; (now = fd_load(&fd_pool.workers)) < enough;)
        if (fd_swap(&fd_pool.workers, now, now + 1)) {
#ifndef _WIN32
            if (now == 0) {
                static int32_t registered;
                if (fd_swap(&registered, 0, 1)) pthread_atfork(NULL, NULL, fd_pool_forget);
            }
#endif
            return 1;
        }
    return 0;
}

/* That worker could not be started. */
static void fd_pool_fire(void) { fd_add(&fd_pool.workers, -1); }

/* In a forked child: the workers are not here, nor is whoever had the pool. */
static void fd_pool_forget(void) {
#ifndef _WIN32
    fd_wait_forget();
#endif
    fd_pool.call = NULL;
    fd_pool.places = fd_pool.inside = fd_pool.caller_waits = 0;
    fd_pool.asleep = fd_pool.busy = fd_pool.workers = fd_pool.serving = 0;
}

#endif

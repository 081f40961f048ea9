/*
 * Windows of n-dimensional masks and shared axes, over the range kernels of any ISA: walks the
 * array in C order and calls a kernel once for each run along the last axis. Along a shared last
 * axis one decision serves the whole run, which is then a scaled copy or a fill: the same kernels
 * with drop_threshold 0 or 2^40.
 */
#include "fd_stream.h"

void fd_window_init(fd_window *w, int ndim, const uint64_t *shape, const uint64_t *stride,
                    uint64_t first) {
    /* from the last axis outwards, in reverse; an axis joins its inner neighbour where together
     * they are one arithmetic progression */
    uint64_t size[FD_MAX_NDIM + 1], step[FD_MAX_NDIM + 1];
    int n = 0;
    for (int axis = ndim - 1; axis >= 0; axis--) {
        if (shape[axis] == 1) continue;
        if (n && stride[axis] == step[n - 1] * size[n - 1]) {
            size[n - 1] *= shape[axis];
            continue;
        }
        if (n == 0 && stride[axis] > 1) size[n] = 1, step[n++] = 1; /* runs of one element */
        size[n] = shape[axis], step[n++] = stride[axis];
    }
    if (n == 0) size[n] = 1, step[n++] = 1;
    w->ndim = n;
    w->first = first;
    for (int axis = 0; axis < n; axis++) {
        w->shape[axis] = size[n - 1 - axis];
        w->stride[axis] = step[n - 1 - axis];
    }
}

enum { CACHED = 8 * FD_BLOCK }; /* decisions of shared runs, generated together */

typedef struct job {
    /* elements offset .. offset+n-1 of the window are index .. index+n-1 of stream */
    void (*run)(const struct job *, uint64_t offset, uint64_t index, uint64_t n,
                const fd_stream *stream);
    const fd_kernels *kernels;
    const fd_stream *stream;
    /* of an apply job */
    fd_apply_fn *apply;
    size_t item_bytes;
    int bypass;
    const fd_values *values;
    const char *x;
    char *y;
    /* of a bits job */
    uint8_t *out;
    /* keep bits cached .. cached+CACHED-1, once any are */
    int any_cached;
    uint64_t cached;
    uint8_t cache[CACHED / 8];
} job;

static void run_apply(const job *j, uint64_t offset, uint64_t index, uint64_t n,
                      const fd_stream *stream) {
    j->apply(j->y + offset * j->item_bytes, j->x + offset * j->item_bytes, index, (size_t)n, stream,
             j->values, j->bypass);
}

static void run_bits(const job *j, uint64_t offset, uint64_t index, uint64_t n,
                     const fd_stream *stream) {
    j->kernels->bits(j->out, offset, index, (size_t)n, stream);
}

static int keeps(job *j, uint64_t index) {
    if (!j->any_cached || index - j->cached >= CACHED) {
        j->cached = index / FD_BLOCK * FD_BLOCK;
        const uint64_t left = (1ull << 58) - j->cached;
        j->kernels->bits(j->cache, 0, j->cached, (size_t)(left < CACHED ? left : CACHED),
                         j->stream);
        j->any_cached = 1;
    }
    const uint64_t bit = index - j->cached;
    return j->cache[bit / 8] >> bit % 8 & 1;
}

static void walk(job *j, const fd_window *w, uint64_t begin, uint64_t n) {
    const int last = w->ndim - 1;
    const fd_stream all = {0, 0, FD_KEEP_ALL}, none = {0, 0, FD_DROP_ALL};
    uint64_t at[FD_MAX_NDIM + 1], index = w->first, rest = begin;
    if (n == 0) return;
    for (int axis = last; axis >= 0; axis--) {
        at[axis] = rest % w->shape[axis], rest /= w->shape[axis];
        index += at[axis] * w->stride[axis];
    }
    for (;;) {
        const uint64_t left = w->shape[last] - at[last], count = n < left ? n : left;
        if (w->stride[last])
            j->run(j, begin, index, count, j->stream);
        else
            j->run(j, begin, 0, count, keeps(j, index) ? &all : &none);
        begin += count, n -= count;
        if (n == 0) return;
        /* the run is done: back to its start and on along the next axis that is not */
        index -= at[last] * w->stride[last];
        at[last] = 0;
        for (int axis = last - 1;; axis--) {
            index += w->stride[axis];
            if (++at[axis] < w->shape[axis]) break;
            index -= at[axis] * w->stride[axis];
            at[axis] = 0;
        }
    }
}

static const size_t item_bytes[FD_DTYPES] = {2, 2, 4, 8};

/* Bytes of output from which no last-level cache is expected to hold it: caches of one core complex
 * or desktop part end here, and so does what CPUID can be trusted to say under a hypervisor. */
enum { BYPASS_FROM = 32 << 20 };

static job apply_job(const fd_kernels *k, fd_apply_fn *apply, fd_dtype dtype, const fd_window *w,
                     void *y, const void *x, const fd_stream *stream, const fd_values *values) {
    uint64_t n_bytes = item_bytes[dtype];
    for (int axis = 0; axis < w->ndim; axis++) n_bytes *= w->shape[axis];
    return (job){.run = run_apply,
                 .kernels = k,
                 .stream = stream,
                 .apply = apply,
                 .item_bytes = item_bytes[dtype],
                 .bypass = x != y && n_bytes >= BYPASS_FROM,
                 .values = values,
                 .x = (const char *)x,
                 .y = (char *)y};
}

void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_values *values) {
    job j = apply_job(k, k->plain[dtype], dtype, w, y, x, stream, values);
    walk(&j, w, begin, n);
}

void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                      const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                      const fd_values *values) {
    job j = apply_job(k, k->affine[dtype], dtype, w, y, x, stream, values);
    walk(&j, w, begin, n);
}

void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                    uint64_t n, const fd_stream *stream) {
    job j = {.run = run_bits, .kernels = k, .stream = stream, .out = out};
    walk(&j, w, begin, n);
}

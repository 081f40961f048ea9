/*
 * Windows of n-dimensional masks and shared axes, over the kernels of any ISA.
 *
 * The array is walked in C order, run by run along its last axis. Long runs of consecutive decisions
 * go to the range kernels. Otherwise the keep bits of a strip of elements are put together first: the
 * blocks that its runs touch are generated up to 16 at a time, in whatever order they come, and each
 * run takes its bits from them, or one bit for all its elements where the axis is shared.
 */
#include "fd_stream.h"

enum {
    LONG_RUN = 2 * FD_TILE, /* elements from which a range kernel's tiles are worth their edges */
    STRIP = FD_TILE,
    PIECES = 256,
};

#define REGION (FD_BLOCK * (1ull << 27)) /* elements */

/* Bytes of output from which no last-level cache is expected to hold it: the caches of one core
 * complex or desktop part end here, and what CPUID says under a hypervisor cannot be trusted. */
enum { BYPASS_FROM = 32 << 20 };

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

/* A place in a window, and what is left of the run there. */
typedef struct {
    const fd_window *w;
    uint64_t at[FD_MAX_NDIM + 1], index;
} cursor;

static void cursor_init(cursor *c, const fd_window *w, uint64_t element) {
    c->w = w;
    c->index = w->first;
    for (int axis = w->ndim - 1; axis >= 0; axis--) {
        c->at[axis] = element % w->shape[axis], element /= w->shape[axis];
        c->index += c->at[axis] * w->stride[axis];
    }
}

static uint64_t run_left(const cursor *c) {
    const int last = c->w->ndim - 1;
    return c->w->shape[last] - c->at[last];
}

/* n elements on, at most to the end of the run, which is then the start of the next. */
static void advance(cursor *c, uint64_t n) {
    const fd_window *w = c->w;
    int axis = w->ndim - 1;
    c->index += n * w->stride[axis];
    c->at[axis] += n;
    while (c->at[axis] == w->shape[axis] && axis > 0) {
        c->index -= c->at[axis] * w->stride[axis];
        c->at[axis--] = 0;
        c->index += w->stride[axis];
        c->at[axis]++;
    }
}

/* Runs that wait for their blocks. */
typedef struct {
    const fd_kernels *kernels;
    fd_schedule schedule;
    uint64_t *strip; /* where their keep bits go; 0 before */
    unsigned n_blocks, n_pieces;
    uint64_t block[FD_TILE_BLOCKS + 2];
    struct {
        uint16_t to, n; /* bits of the strip */
        uint16_t from;  /* first bit of the blocks' */
    } piece[PIECES];
} pending;

/* The low n bits of w, 0 < n <= 64, into bits [to, to+n) of a strip, which has a word to spare: to
 * ask whether they reach into the next word is to mispredict. */
FD_INLINE void put(uint64_t *strip, unsigned to, uint64_t w, unsigned n) {
    const unsigned shift = to % 64;
    w &= ~0ull >> (64 - n);
    strip[to / 64] |= w << shift;
    strip[to / 64 + 1] |= w >> 1 >> (63 - shift);
}

static void flush(pending *p, int shared) {
    uint64_t keep[FD_TILE_WORDS + 2] = {0};
    if (p->n_blocks) p->kernels->blocks(keep, p->block, p->n_blocks, &p->schedule);
    for (unsigned i = 0; i < p->n_pieces; i++) {
        unsigned to = p->piece[i].to, n = p->piece[i].n, from = p->piece[i].from;
        if (shared && !(keep[from / 64] >> from % 64 & 1)) continue;
        for (;; to += 64, n -= 64) {
            uint64_t w = ~0ull;
            if (!shared) {
                w = keep[from / 64] >> from % 64;
                w |= keep[from / 64 + 1] << 1 << (63 - from % 64);
                from += 64;
            }
            put(p->strip, to, w, n < 64 ? n : 64);
            if (n <= 64) break;
        }
    }
    p->n_blocks = p->n_pieces = 0;
}

/* Keep bits of the next n <= STRIP elements into a strip, which is 0. */
static void put_strip(pending *p, cursor *c, unsigned n) {
    const int shared = c->w->stride[c->w->ndim - 1] == 0;
    unsigned slot = 0; /* of the run before: its first block, and that block's place */
    uint64_t slot_block = 0, slot_end = 0;
    for (unsigned to = 0; to < n;) {
        const unsigned bit = c->index % FD_BLOCK;
        const uint64_t first = c->index / FD_BLOCK, left = run_left(c);
        unsigned count = n - to;
        if (count > left) count = (unsigned)left;
        /* within 16 blocks that have b div 2^27 in common */
        const uint64_t region = REGION - c->index % REGION;
        if (!shared && count > FD_TILE - bit) count = FD_TILE - bit;
        if (!shared && count > region) count = (unsigned)region;
        const uint64_t end = shared ? first + 1 : first + (bit + count + FD_BLOCK - 1) / FD_BLOCK;
        /* the blocks of the run before serve again where they can: equal or nested rows */
        if (p->n_pieces == PIECES || first < slot_block || end > slot_end) {
            if (p->n_pieces == PIECES || p->n_blocks + (end - first) > FD_TILE_BLOCKS ||
                (p->n_blocks && p->block[0] / (REGION / FD_BLOCK) != first / (REGION / FD_BLOCK)))
                flush(p, shared);
            slot = p->n_blocks, slot_block = first, slot_end = end;
            /* short runs have one block or two: both are written, lest a branch on it mispredict */
            p->block[slot] = first, p->block[slot + 1] = first + 1;
            for (unsigned b = 2; b < end - first; b++) p->block[slot + b] = first + b;
            p->n_blocks += (unsigned)(end - first);
        }
        p->piece[p->n_pieces].to = (uint16_t)to;
        p->piece[p->n_pieces].n = (uint16_t)count;
        p->piece[p->n_pieces++].from = (uint16_t)((slot + (first - slot_block)) * FD_BLOCK + bit);
        advance(c, count);
        to += count;
    }
    flush(p, shared);
}

static int has_long_runs(const fd_window *w) {
    const int last = w->ndim - 1;
    return w->stride[last] == 1 && (w->ndim == 1 || w->shape[last] >= LONG_RUN);
}

static const size_t item_bytes[FD_DTYPES] = {2, 2, 4, 8};

static void apply(const fd_kernels *k, fd_dtype dtype, const fd_window *w, char *y, const char *x,
                  uint64_t begin, uint64_t n, const fd_stream *stream, const fd_values *values,
                  int affine) {
    const size_t item = item_bytes[dtype];
    uint64_t n_bytes = item;
    for (int axis = 0; axis < w->ndim; axis++) n_bytes *= w->shape[axis];
    if (n == 0) return;
    const int bypass = x != y && n_bytes >= BYPASS_FROM;
    cursor c;
    cursor_init(&c, w, begin);
    x += begin * item, y += begin * item;
    if (has_long_runs(w)) {
        fd_apply_fn *kernel = affine ? k->affine[dtype] : k->plain[dtype];
        while (n) {
            const uint64_t left = run_left(&c), count = n < left ? n : left;
            kernel(y, x, c.index, (size_t)count, stream, values, bypass);
            advance(&c, count);
            x += count * item, y += count * item, n -= count;
        }
        return;
    }
    pending p = {.kernels = k};
    fd_schedule_init(&p.schedule, stream);
    /* a first strip as short as makes all others start aligned */
    uint64_t count = (64 - (uintptr_t)y % 64) % 64 / item;
    if (count == 0 || count > n) count = n < STRIP ? n : STRIP;
    int aligned = count == STRIP;
    while (n) {
        uint64_t strip[STRIP / 64 + 1] = {0};
        p.strip = strip;
        put_strip(&p, &c, (unsigned)count);
        k->given[dtype](y, x, strip, (size_t)count, values, affine, bypass && aligned);
        x += count * item, y += count * item, n -= count;
        count = n < STRIP ? n : STRIP;
        aligned = 1;
    }
    if (bypass) k->fence();
}

void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_values *values) {
    apply(k, dtype, w, (char *)y, (const char *)x, begin, n, stream, values, 0);
}

void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                      const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                      const fd_values *values) {
    apply(k, dtype, w, (char *)y, (const char *)x, begin, n, stream, values, 1);
}

void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                    uint64_t n, const fd_stream *stream) {
    if (n == 0) return;
    cursor c;
    cursor_init(&c, w, begin);
    pending p = {.kernels = k};
    fd_schedule_init(&p.schedule, stream);
    while (n && !has_long_runs(w)) {
        uint64_t strip[STRIP / 64 + 1] = {0};
        const unsigned count = n < STRIP ? (unsigned)n : STRIP;
        p.strip = strip;
        put_strip(&p, &c, count);
        fd_copy_bits(out, begin, strip, 0, count);
        begin += count, n -= count;
    }
    while (n) {
        const uint64_t left = run_left(&c), count = n < left ? n : left;
        k->bits(out, begin, c.index, (size_t)count, stream);
        advance(&c, count);
        begin += count, n -= count;
    }
}

/*
 * Windows of n-dimensional masks and shared axes, over the kernels of any ISA.
 *
 * The array is walked in C order, run by run along its last axis. Runs of whole blocks go to the kernels in
 * one call, where each tile has the next 16 of them; other long runs of consecutive decisions in a call each.
 * Otherwise keep bits are put together first, in a strip of words: the blocks that runs touch are
 * generated up to 16 at a time, in whatever order they come, and each run takes its bits from them, or one
 * bit for all its elements where the axis is shared.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

enum {
    LONG_RUN = 2 * FD_TILE, /* elements from which a range kernel's tiles are worth their edges */
    STRIP = FD_TILE,
};

#define REGION (1ull << 27) /* blocks; see fd_tile */

/* Bytes of x from which it is fetched ahead, as measured on Intel: where bits take long, beyond the second-level
 * cache (10 to 35 % less time from there on); where there are no tails, and often few planes, beyond the last
 * level (2 to 25 %; between the two 3 % more). */
enum { FETCH_FROM = 2 << 20, FETCH_WITHOUT_TAILS_FROM = 64 << 20 };

/* On AMD, as measured on Zen 4: bytes of x from which it is fetched ahead, and planes and bytes from which, up to
 * there, what is applied next is fetched from the caches (2 to 25 % less time out of place; at one plane 3 to 5 % less
 * with AVX2, 6 % more with AVX-512). */
enum { AMD_FETCH_FROM = 64 << 20 };
enum { AMD_NEXT_FROM_PLANES = 2, AMD_NEXT_FROM = 16 << 10 };

/* Whether AMD's processors leave room for fetches from afar: a plane may ask for the 16 lines that it does where an
 * element has as many bytes as there are planes; with AVX-512, where two ask at once, for less. Those of fewer planes,
 * and those beside a second array, take longer than what the processor fetches by itself: 4 to 35 %. */
static int amd_has_room(const fd_kernels *k, size_t item, int beside, int planes) {
    const int at_least = (int)item + (k->needs & FD_CPU_AVX512 ? 1 : 0);
    return planes >= at_least && !beside;
}

static int hint_to_fetch(const fd_kernels *k, uint64_t n_bytes, size_t item, int beside,
                         uint64_t drop_threshold) {
    const uint64_t from = fd_has_tails(drop_threshold) ? FETCH_FROM : FETCH_WITHOUT_TAILS_FROM;
    const int planes = fd_planes_read(drop_threshold);
    if (!fd_cpu_is_amd()) return n_bytes >= from ? FD_HINT_FETCH : 0;
    if (n_bytes >= AMD_FETCH_FROM) return amd_has_room(k, item, beside, planes) ? FD_HINT_FETCH : 0;
    return planes >= AMD_NEXT_FROM_PLANES && n_bytes >= AMD_NEXT_FROM ? FD_HINT_NEXT : 0;
}

/* n_bytes are those of y, `item` those of an element of x. */
static int hints_for(const fd_kernels *k, uint64_t n_bytes, size_t item, int in_place, int beside,
                     const fd_stream *stream) {
    const int bypass = !in_place && n_bytes >= FD_BYPASS_FROM ? FD_HINT_BYPASS : 0;
    return bypass | hint_to_fetch(k, n_bytes, item, beside, stream->drop_threshold);
}

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

/* Keep bits on their way from the runs that have them to the elements in their order: bits
 * [begin, end), of elements that are still to be done. */
typedef struct {
    unsigned begin, end;
    uint64_t keep[STRIP / 64 + 2]; /* a word of space for less than a word that was left, and one */
} strip;                           /* for the garbage that follows */

/* Where the blocks of the latest run are in the list. */
typedef struct {
    uint64_t first; /* its first block */
    unsigned slot,
        n_slots; /* the place of that in the list, and how many follow each other there */
} placed;

/* Puts blocks first .. first+wanted-1 into the list, unless the run before left them there. Returns how
 * many of them are there, 0 where the list is full. */
static unsigned place_blocks(fd_runs *runs, placed *p, uint64_t first, unsigned wanted) {
    /* rows that are equal, and decisions in one block, have their blocks in the list already */
    if (first == p->first && wanted <= p->n_slots) return wanted;
    unsigned space = FD_TILE_BLOCKS - runs->n_blocks;
    if (runs->n_blocks && runs->region != first / REGION) return 0;
    runs->region = first / REGION; /* which all of them have in common */
    if (space > REGION - first % REGION) space = (unsigned)(REGION - first % REGION);
    if (wanted > space) wanted = space;
    if (wanted == 0) return 0;
    p->first = first, p->slot = runs->n_blocks, p->n_slots = wanted;
    /* short runs have one block or two: both are written, for a branch on that would be mispredicted */
    runs->block[p->slot] = (uint32_t)first, runs->block[p->slot + 1] = (uint32_t)first + 1;
    for (unsigned b = 2; b < wanted; b++) runs->block[p->slot + b] = (uint32_t)first + b;
    runs->n_blocks += wanted;
    return wanted;
}

/* Lists the runs of the next elements, up to n: as many as 16 blocks have, or there is space for. */
static void list_runs(fd_runs *runs, strip *s, fd_cursor *c, uint64_t n) {
    placed p = {0, 0, 0};
    runs->shared = c->w->stride[c->w->ndim - 1] == 0, runs->to = s->end;
    runs->n_blocks = runs->n_runs = 0;
    memset(runs->block, 0, sizeof runs->block);
    if (n > STRIP + 64 - s->end) n = STRIP + 64 - s->end;
    for (unsigned count; n && runs->n_runs < FD_MAX_RUNS; n -= count, fd_advance(c, count)) {
        const uint64_t index = fd_index_at(c), left = fd_run_left(c);
        const unsigned bit = index % FD_BLOCK;
        count = n < left ? (unsigned)n : (unsigned)left;
        const unsigned wanted = runs->shared ? 1 : (bit + count + FD_BLOCK - 1) / FD_BLOCK;
        const unsigned blocks = place_blocks(runs, &p, index / FD_BLOCK, wanted);
        if (blocks == 0) break;
        if (blocks < wanted) count = blocks * FD_BLOCK - bit;
        const unsigned from = p.slot * FD_BLOCK + bit;
        runs->run[runs->n_runs++] = (fd_run){(uint16_t)count, (uint16_t)from};
        s->end += count;
    }
}

/* Puts bits of the n elements that are left into a strip, and returns of how many elements to use
 * them: so many that whole words are used up, or the last. */
static unsigned fill_strip(strip *s, fd_cursor *c, uint64_t n, const fd_kernels *k,
                           fd_schedule *schedule, size_t item) {
    do {
        fd_runs runs;
        list_runs(&runs, s, c, n - (s->end - s->begin));
        k->gather(s->keep, &runs, schedule, item);
    } while (s->end < 64 && s->end - s->begin < n);
    return (s->end - s->begin == n ? s->end : s->end / 64 * 64) - s->begin;
}

/* The bits of n elements are used. */
static void drop_from_strip(strip *s, unsigned n) {
    const unsigned word = (s->begin + n) / 64;
    s->keep[0] = s->keep[word];
    s->begin = (s->begin + n) % 64, s->end -= 64 * word;
}

static int has_long_runs(const fd_window *w) {
    const int last = w->ndim - 1;
    return w->stride[last] == 1 && (w->ndim == 1 || w->shape[last] >= LONG_RUN);
}

/* Whether it has more than one run, all of whole blocks from element `begin` on, and lies in one region. */
static int has_whole_blocks(const fd_window *w, uint64_t begin) {
    const int last = w->ndim - 1;
    if (w->ndim == 1 || w->stride[last] != 1) return 0;
    uint64_t any = w->first | w->shape[last] | begin, last_index = w->first + w->shape[last] - 1;
    for (int axis = 0; axis < last; axis++) {
        any |= w->stride[axis];
        last_index += (w->shape[axis] - 1) * w->stride[axis];
    }
    return any % FD_BLOCK == 0 && w->first / FD_BLOCK / REGION == last_index / FD_BLOCK / REGION;
}

void fd_tile_rows(fd_tile *tile, fd_schedule *s, fd_cursor *rows, unsigned n) {
    unsigned slot = 0;
    fd_schedule_for(s, fd_index_at(rows) / FD_BLOCK);
    if (n != FD_TILE) memset(tile->tied, 0, sizeof tile->tied);
    tile->in_order = n <= fd_run_left(rows);
    memset(tile->block, 0, sizeof tile->block);
    for (unsigned count; n; n -= count, fd_advance(rows, count)) {
        const uint64_t left = fd_run_left(rows);
        uint32_t block = (uint32_t)(fd_index_at(rows) / FD_BLOCK);
        count = n < left ? n : (unsigned)left;
        if (tile->in_order) {
            tile->block[0] = block;
            continue;
        }
        for (unsigned done = 0; done < count; done += FD_BLOCK) tile->block[slot++] = block++;
    }
}

/* x so many bytes on; NULL stays NULL. */
static const char *advanced(const char *x, uint64_t n_bytes) { return x ? x + n_bytes : NULL; }

static void apply(const fd_kernels *k, fd_dtype dtype, const fd_window *w, char *y, const char *x,
                  uint64_t begin, uint64_t n, const fd_stream *stream, const fd_values *values,
                  int affine) {
    const size_t item = fd_dtype_bytes[dtype];
    uint64_t n_bytes = item;
    for (int axis = 0; axis < w->ndim; axis++) n_bytes *= w->shape[axis];
    if (n == 0) return;
    const int hints = hints_for(k, n_bytes, item, x == y, 0, stream);
    fd_cursor c;
    fd_cursor_init(&c, w, begin);
    x = advanced(x, begin * item), y += begin * item;
    fd_apply_fn *kernel = affine ? k->affine[dtype] : k->plain[dtype];
    if (has_whole_blocks(w, begin)) {
        kernel(y, x, 0, &c, (size_t)n, stream, values, hints);
        return;
    }
    if (has_long_runs(w)) {
        while (n) {
            const uint64_t left = fd_run_left(&c), count = n < left ? n : left;
            kernel(y, x, fd_index_at(&c), NULL, (size_t)count, stream, values, hints);
            fd_advance(&c, count);
            x = advanced(x, count * item), y += count * item, n -= count;
        }
        return;
    }
    fd_schedule schedule;
    fd_schedule_init(&schedule, stream);
    schedule.ahead.to_l1 = hints & FD_HINT_NEXT;
    const size_t fetched = x && hints & FD_HINTS_TO_FETCH ? item : 0;
    strip s;
    s.begin = s.end = (unsigned)((uintptr_t)y % 64 / item); /* where y is aligned, words begin */
    s.keep[0] = 0;
    for (unsigned count; n; x = advanced(x, count * item), y += count * item, n -= count) {
        schedule.ahead.at = advanced(x, fd_distance(hints));
        count = fill_strip(&s, &c, n, k, &schedule, fetched);
        k->given[dtype](y, x, s.keep, s.begin, count, values, affine, hints & FD_HINT_BYPASS);
        drop_from_strip(&s, count);
    }
    if (hints & FD_HINT_BYPASS) k->fence();
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

void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t at,
                    uint64_t begin, uint64_t n, const fd_stream *stream) {
    if (n == 0) return;
    fd_cursor c;
    fd_cursor_init(&c, w, begin);
    if (has_whole_blocks(w, begin)) {
        k->bits(out, at, 0, &c, n, stream);
        return;
    }
    fd_schedule schedule;
    fd_schedule_init(&schedule, stream);
    strip s;
    s.begin = s.end = 0, s.keep[0] = 0;
    for (unsigned count; n && !has_long_runs(w); at += count, n -= count) {
        count = fill_strip(&s, &c, n, k, &schedule, 0);
        fd_copy_bits(out, at, s.keep, s.begin, count);
        drop_from_strip(&s, count);
    }
    while (n) {
        const uint64_t left = fd_run_left(&c), count = n < left ? n : left;
        k->bits(out, at, fd_index_at(&c), NULL, count, stream);
        fd_advance(&c, count);
        at += count, n -= count;
    }
}

void fd_window_noise(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream, double sd,
                     int additive) {
    if (n == 0) return;
    fd_cursor c;
    fd_cursor_init(&c, w, begin);
    while (n) {
        const uint64_t left = fd_run_left(&c), count = n < left ? n : left;
        const size_t at = (size_t)begin * fd_dtype_bytes[dtype];
        k->noise[dtype]((char *)y + at, (const char *)x + at, fd_index_at(&c), (size_t)count,
                        stream, sd, additive);
        fd_advance(&c, count);
        begin += count, n -= count;
    }
}

void fd_range_fused(const fd_kernels *k, fd_dtype x_dtype, fd_dtype y_dtype, void *y, const void *x,
                    uint64_t size, uint64_t first, uint64_t begin, uint64_t n,
                    const fd_stream *stream, double scale, const fd_fused *fused) {
    fd_fused part = *fused;
    const size_t x_item = fd_dtype_bytes[x_dtype], y_item = fd_dtype_bytes[y_dtype];
    const int in_place = x == y || part.beside == y;
    const int hints = hints_for(k, size * y_item, x_item, in_place, part.beside != NULL, stream);
    fd_fused_fn *kernel = x_dtype == y_dtype  ? k->fused[x_dtype]
                          : y_dtype == FD_F32 ? k->fused_to_f32[x_dtype]
                                              : k->fused_from_f32[y_dtype];
    if (n == 0) return;
    part.beside = advanced((const char *)part.beside, begin * y_item);
    part.column = (part.column + begin) % part.period;
    kernel((char *)y + begin * y_item, (const char *)x + begin * x_item, first + begin, (size_t)n,
           stream, scale, &part, hints);
}

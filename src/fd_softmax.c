/*
 * Dropout of a softmax along the last axis, and its gradient, over the kernels of any ISA.
 *
 * A row is worked in blocks that stay in the first-level cache, in the compute type. The first pass over a
 * row finds its maximum and, relative to that, the sum of its exponentials (and for the gradient the sum
 * of them times what comes from above), both corrected where a later block has a larger one. The second
 * pass writes. A row of one block is read from memory once, and longer ones, whose exponentials are worked
 * out again, twice.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

enum {
    BLOCK = FD_TILE,   /* elements */
    AHEAD = 8 * BLOCK, /* elements whose keep bits are made together */
};

/* Bytes of x from which the next block of each array is fetched while exponentials are made. There
 * backward's three exceed a second-level cache of 2 MiB: it takes 13 % less time, forward 2 %; from 2 MiB on both
 * 20 to 45 %. Below up to 5 % more. */
enum { FETCH_FROM = 768 << 10 };

/* Elements of a row of n, with what fills it up for the kernels. */
#define PADDED(n) (((n) + FD_MAX_STEP - 1) / FD_MAX_STEP * FD_MAX_STEP)

typedef struct {
    const fd_kernels *k;
    fd_dtype dtype;
    const fd_window *w;
    const fd_stream *stream;
    int fetch, bypass;
    uint64_t row; /* elements */
    uint64_t from, to,
        end; /* elements of the window whose bits are made, and where the call ends */
    uint64_t bits[AHEAD / 64 + 1];
    uint64_t keep[BLOCK / 64];
    double space[2 * BLOCK + 8]; /* or floats */
} softmax;

/* The keep bits of rows of n elements from an element on, as the kernels want them. */
static const uint64_t *keep_of(softmax *s, uint64_t element, size_t n, unsigned rows) {
    if (element < s->from || element + n * rows > s->to) {
        /* whole rows, so that the bits of none have to be made twice */
        const uint64_t most = s->row < AHEAD ? AHEAD / s->row * s->row : AHEAD;
        s->from = element, s->to = s->end - element < most ? s->end : element + most;
        fd_window_bits(s->k, s->w, (uint8_t *)s->bits, 0, element, s->to - element, s->stream);
        if (FD_BIG_ENDIAN)
            for (unsigned word = 0; word < AHEAD / 64; word++)
                s->bits[word] = fd_little_endian(s->bits[word]);
    }
    unsigned from = (unsigned)(element - s->from);
    if (from % 64 == 0 && (rows == 1 || n % 64 == 0)) return s->bits + from / 64;
    uint64_t *keep = s->keep;
    for (; rows; rows--, from += (unsigned)n)
        for (unsigned bit = 0; bit < n; bit += 64) *keep++ = fd_word_at(s->bits, from + bit);
    return s->keep;
}

/* Whether the kernels can work on the elements of rows of n where they lie. */
static int is_direct(fd_dtype d, size_t n) { return d >= FD_F32 && n % FD_MAX_STEP == 0; }

/* Rows of n elements as the kernels want them: in `to` filled up with a value, unless they are so. */
static const void *bring(const softmax *s, void *to, const char *x, size_t n, unsigned rows,
                         double fill) {
    const fd_dtype d = s->dtype;
    const size_t padded = PADDED(n);
    if (is_direct(d, n)) return x;
    for (unsigned r = 0; r < rows; r++, x += n * fd_dtype_bytes[d]) {
        double *wide = (double *)to + r * padded;
        float *single = (float *)to + r * padded;
        if (d == FD_F64)
            memcpy(wide, x, n * sizeof *wide);
        else if (d == FD_F32)
            memcpy(single, x, n * sizeof *single);
        else
            s->k->widen[d](single, (const uint16_t *)x, n);
        for (size_t i = n; i < padded; i++)
            if (d == FD_F64)
                wide[i] = fill;
            else
                single[i] = (float)fill;
    }
    return to;
}

/* The way back. */
static void put(const softmax *s, char *y, const void *from, size_t n, unsigned rows) {
    const fd_dtype d = s->dtype;
    const size_t item = fd_dtype_bytes[d], padded = PADDED(n);
    for (unsigned r = 0; r < rows; r++, y += n * item)
        if (s->bypass)
            s->k->put_around(y, (const char *)from + r * padded * item, n * item);
        else if (d >= FD_F32)
            memcpy(y, (const char *)from + r * padded * item, n * item);
        else
            s->k->narrow[d]((uint16_t *)y, (const float *)from + r * padded, n);
}

/* So many rows, more than one where they fit into a block, from an element of the window on. */
static void do_rows(softmax *s, char *y, const char *x, const char *grad, uint64_t element,
                    unsigned rows, double scale) {
    const fd_kernels *k = s->k;
    const size_t item = fd_dtype_bytes[s->dtype];
    const int real = s->dtype == FD_F64;
    double *e = s->space + (64 - (uintptr_t)s->space % 64) % 64 / sizeof *e, *beside = e + BLOCK;
    fd_softmax_row row[FD_BLOCK_ROWS];
    for (unsigned r = 0; r < rows; r++) row[r] = (fd_softmax_row){-INFINITY, 0, 0};
    for (int pass = 0; pass < 2; pass++)
        for (uint64_t at = 0; at < s->row; at += BLOCK) {
            const size_t n = s->row - at < BLOCK ? (size_t)(s->row - at) : BLOCK;
            const size_t padded = PADDED(n), here = at * item, next = (at + n * rows) * item;
            const unsigned lines = FD_MAX_STEP * (unsigned)item / 64;
            fd_ahead ahead[3] = {{x + next, lines, 0},
                                 {y + next, s->bypass ? 0 : lines, 0},
                                 {grad ? grad + next : x, grad ? lines : 0, 0}};
            fd_softmax_row again = row[0];
            const int wants_keep = pass == 1 || grad != NULL;
            const uint64_t *keep = wants_keep ? keep_of(s, element + at, n, rows) : NULL;
            const void *above = grad ? bring(s, beside, grad + here, n, rows, 0) : NULL;
            if (pass == 0 || s->row > BLOCK)
                k->exps[real](e, bring(s, e, x + here, n, rows, -INFINITY), pass ? NULL : above,
                              keep, padded, rows, pass ? &again : row, s->fetch ? ahead : NULL);
            if (pass == 0) continue;
            const int directly = is_direct(s->dtype, n) && !s->bypass;
            void *result = directly ? y + here : (char *)beside;
            k->soft[real](result, e, above, keep, padded, rows, row, scale);
            if (!directly) put(s, y + here, result, n, rows);
        }
}

void fd_window_softmax(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                       const void *x, const void *grad, uint64_t row, uint64_t begin, uint64_t n,
                       const fd_stream *stream, double scale) {
    softmax s;
    const uint64_t item = fd_dtype_bytes[dtype];
    uint64_t most = row <= BLOCK ? BLOCK / PADDED(row) : 1; /* rows */
    uint64_t n_bytes = item;
    for (int axis = 0; axis < w->ndim; axis++) n_bytes *= w->shape[axis];
    s.k = k, s.dtype = dtype, s.w = w, s.stream = stream, s.row = row;
    s.fetch = n_bytes >= FETCH_FROM;
    s.bypass = n_bytes >= FD_BYPASS_FROM && dtype >= FD_F32 && y != x && y != grad;
    s.from = s.to = begin, s.end = begin + n;
    for (uint64_t at = begin; at < s.end; at += most * row) {
        if (most > (s.end - at) / row) most = (s.end - at) / row;
        do_rows(&s, (char *)y + at * item, (const char *)x + at * item,
                grad ? (const char *)grad + at * item : NULL, at, (unsigned)most, scale);
    }
    if (s.bypass) k->fence();
}

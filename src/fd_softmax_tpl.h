/*
 * Softmax in the compute type FD_REAL, by blocks of rows (see fd_kernels.h), over the primitives of
 * fd_apply_tpl.h and
 *
 *   sub     with one rounding
 *   max     a > b ? a : b; so where one is a NaN it is b
 *   pow2    2^n, where the lowest bits of the fraction hold n plus the exponent's bias; 0 where that is 0
 *
 * e^x is wanted for x of 0 or below. With t = x / log 2 and n the integer nearest to it, it is
 * 2^n 2^(t-n), whose second factor is a polynomial that was fitted for this (tools/fit_exp.py). There is no
 * operation but IEEE +, - and x, none is contracted, and sums go in Horner's order: the same bits
 * everywhere. e^0 is 1; with u the unit roundoff, 2^-24 of float and 2^-53 of double, the error is at most
 * (1.3 |x| + 3.5) u of the result. Results below the normal numbers may be 0, and a NaN stays one.
 *
 * Four vectors are worked side by side, which keeps the processor busy. Sums are those of FD_MAX_STEP lanes,
 * on every ISA, so that they round alike.
 */

#include "fd_exp.h"

#define FD_FN(op) FD_CAT(FD_CAT(op, FD_REAL), FD_ISA)
#define FD_REAL_T FD_CAT(v, FD_REAL)
#define FD_SPLAT FD_CAT(splat, FD_REAL)
#define FD_MUL FD_CAT(mul, FD_REAL)
#define FD_ADD FD_CAT(add, FD_REAL)
#define FD_SUB FD_CAT(sub, FD_REAL)
#define FD_MAX FD_CAT(max, FD_REAL)
#define FD_POW2 FD_CAT(pow2, FD_REAL)
#define FD_LOAD FD_CAT(load, FD_REAL)
#define FD_STORE FD_CAT(store, FD_REAL)
#define FD_KEPT FD_CAT(kept, FD_REAL)
#define FD_KEEP_OR_ZERO FD_CAT(keep_or_zero, FD_REAL)
#define FD_ELEM FD_CAT(fd_elem, FD_REAL)

enum {
    FD_FN(fd_width) = sizeof(FD_REAL_T) / sizeof(FD_ELEM),
    FD_FN(fd_four) = 4 * FD_FN(fd_width),
};

FD_INLINE FD_REAL_T FD_FN(fd_exp)(FD_REAL_T x) {
    const fd_exp_numbers *c = &FD_CAT(fd_exp_of, FD_REAL);
    const FD_REAL_T t = FD_MAX(FD_SPLAT(c->least), FD_MUL(x, FD_SPLAT(1.4426950408889634)));
    const FD_REAL_T biased = FD_ADD(t, FD_SPLAT(c->round));
    const FD_REAL_T f = FD_SUB(t, FD_SUB(biased, FD_SPLAT(c->round)));
    FD_REAL_T sum = FD_SPLAT(c->polynomial[0]);
    FD_UNROLL
    for (int k = 1; k <= c->degree; k++) sum = FD_ADD(FD_MUL(sum, f), FD_SPLAT(c->polynomial[k]));
    return FD_MUL(sum, FD_POW2(biased));
}

/* So many lanes, a power of two up to FD_MAX_STEP, added up, or the largest of them: each half with the
 * other, until one is left. */
FD_INLINE FD_ELEM FD_FN(fd_reduce)(FD_REAL_T *lanes, unsigned n, int largest) {
    FD_ELEM one[FD_FN(fd_width)];
    for (unsigned half = n / FD_FN(fd_width) / 2; half; half /= 2)
        for (unsigned i = 0; i < half; i++)
            lanes[i] =
                largest ? FD_MAX(lanes[i], lanes[i + half]) : FD_ADD(lanes[i], lanes[i + half]);
    FD_STORE(one, lanes[0]);
    FD_UNROLL
    for (int level = 3; level >= 0; level--) {
        const unsigned half = 1u << level;
        if (half >= FD_FN(fd_width)) continue;
        for (unsigned i = 0; i < half; i++) {
            const FD_ELEM a = one[i], b = one[i + half];
            one[i] = !largest ? a + b : a > b ? a : b;
        }
    }
    return one[0];
}

/* The sum of n elements' products with what was kept of a gradient; or without one, of their exponentials,
 * which are made of x. */
FD_INLINE FD_ELEM FD_FN(fd_sum)(FD_ELEM *e, const FD_ELEM *x, FD_REAL_T shift, const FD_ELEM *grad,
                                const uint64_t *keep, size_t n, fd_ahead *ahead) {
    FD_REAL_T lanes[FD_MAX_STEP / FD_FN(fd_width)];
    for (unsigned i = 0; i < FD_MAX_STEP / FD_FN(fd_width); i++) lanes[i] = FD_SPLAT(0.0);
    for (size_t i = 0; i < n; i += FD_FN(fd_four)) {
        FD_REAL_T *lane = lanes + i % FD_MAX_STEP / FD_FN(fd_width);
        if (ahead && i % FD_MAX_STEP == 0) fd_fetch(ahead, 3);
        FD_UNROLL
        for (unsigned j = 0; j < FD_FN(fd_four); j += FD_FN(fd_width), lane++) {
            FD_REAL_T v;
            if (grad) {
                v = FD_MUL(FD_LOAD(e + i + j), FD_LOAD(grad + i + j));
                v = FD_KEEP_OR_ZERO(FD_KEPT(keep, (unsigned)i, j), v);
            } else {
                v = FD_FN(fd_exp)(FD_SUB(FD_LOAD(x + i + j), shift));
                FD_STORE(e + i + j, v);
            }
            *lane = FD_ADD(*lane, v);
        }
    }
    return FD_FN(fd_reduce)(lanes, FD_MAX_STEP, 0);
}

static void FD_FN(fd_exps)(void *e_, const void *x_, size_t n, unsigned rows, fd_softmax_row *row,
                           fd_ahead *ahead) {
    FD_ELEM *e = (FD_ELEM *)e_, max[FD_BLOCK_ROWS];
    const FD_ELEM *x = (const FD_ELEM *)x_;
    /* all maxima first: the rows' chains of operations overlap more */
    for (unsigned r = 0; r < rows; r++) {
        FD_REAL_T lanes[4];
        for (unsigned i = 0; i < 4; i++) lanes[i] = FD_SPLAT(row[r].max);
        for (size_t i = 0; i < n; i += FD_FN(fd_four)) {
            FD_UNROLL
            for (unsigned j = 0; j < 4; j++)
                lanes[j] = FD_MAX(FD_LOAD(x + r * n + i + j * FD_FN(fd_width)), lanes[j]);
        }
        max[r] = FD_FN(fd_reduce)(lanes, FD_FN(fd_four), 1);
    }
    for (unsigned r = 0; r < rows; r++, e += n, x += n, row++) {
        /* where nothing is above -infinity, all are e^-infinity */
        const FD_REAL_T shift = FD_SPLAT(max[r] == -INFINITY ? 0.0 : max[r]);
        if (row->sum != 0 && max[r] != row->max) { /* of an earlier block */
            FD_ELEM by[FD_FN(fd_width)];
            FD_STORE(by, FD_FN(fd_exp)(FD_SUB(FD_SPLAT(row->max), shift)));
            row->sum *= by[0], row->dot *= by[0];
        }
        row->max = max[r];
        row->sum += FD_FN(fd_sum)(e, x, shift, NULL, NULL, n, ahead);
    }
}

static void FD_FN(fd_dots)(const void *e_, const void *grad_, const uint64_t *keep, size_t n,
                           unsigned rows, fd_softmax_row *row) {
    FD_ELEM *e = (FD_ELEM *)e_;
    const FD_ELEM *grad = (const FD_ELEM *)grad_;
    for (; rows; rows--, row++, e += n, grad += n, keep += n / 64)
        row->dot += FD_FN(fd_sum)(e, NULL, FD_SPLAT(0.0), grad, keep, n, NULL);
}

FD_INLINE void FD_FN(fd_soft_rows)(FD_ELEM *y, const FD_ELEM *e, const FD_ELEM *grad,
                                   const uint64_t *keep, size_t n, unsigned rows,
                                   const fd_softmax_row *row, double scale, int forward) {
    for (; rows; rows--, row++, e += n, y += n, keep += n / 64) {
        const double inverse = row->sum == 0 ? 0.0 : 1 / row->sum; /* 0: all are -infinity */
        const FD_REAL_T by = FD_SPLAT(forward ? inverse : inverse * scale);
        const FD_REAL_T last = FD_SPLAT(forward ? scale : row->dot * inverse);
        for (size_t i = 0; i < n; i += FD_FN(fd_four)) {
            FD_UNROLL
            for (unsigned j = 0; j < FD_FN(fd_four); j += FD_FN(fd_width)) {
                FD_REAL_T soft = FD_MUL(FD_LOAD(e + i + j), by), v;
                v = forward ? FD_MUL(soft, last) : FD_LOAD(grad + i + j);
                v = FD_KEEP_OR_ZERO(FD_KEPT(keep, (unsigned)i, j), v);
                FD_STORE(y + i + j, forward ? v : FD_MUL(soft, FD_SUB(v, last)));
            }
        }
        if (!forward) grad += n;
    }
}

static void FD_FN(fd_soft)(void *y_, const void *e_, const void *grad, const uint64_t *keep,
                           size_t n, unsigned rows, const fd_softmax_row *row, double scale) {
    FD_ELEM *y = (FD_ELEM *)y_;
    const FD_ELEM *e = (const FD_ELEM *)e_;
    if (grad)
        FD_FN(fd_soft_rows)(y, e, (const FD_ELEM *)grad, keep, n, rows, row, scale, 0);
    else
        FD_FN(fd_soft_rows)(y, e, NULL, keep, n, rows, row, scale, 1);
}

#undef FD_FN
#undef FD_REAL_T
#undef FD_SPLAT
#undef FD_MUL
#undef FD_ADD
#undef FD_SUB
#undef FD_MAX
#undef FD_POW2
#undef FD_LOAD
#undef FD_STORE
#undef FD_KEPT
#undef FD_KEEP_OR_ZERO
#undef FD_ELEM

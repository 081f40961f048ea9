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
 * Four vectors are worked side by side, each step for all of them, for a step waits for the one before it:
 * with AVX-512 exponentials take 5 to 15 % less time than vector by vector, and forward with AVX2, which has half
 * the registers, up to 4 % more. Sums are those of FD_MAX_STEP lanes, on every
 * ISA, so that they round alike.
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

/* x = e^x of n vectors, up to 4. */
FD_INLINE void FD_FN(fd_exp)(FD_REAL_T *x, unsigned n) {
    const fd_exp_numbers *c = &FD_CAT(fd_exp_of, FD_REAL);
    FD_REAL_T biased[4], sum[4];
#define FD_EACH \
    FD_UNROLL   \
    for (unsigned i = 0; i < n; i++)
    FD_EACH x[i] = FD_MUL(x[i], FD_SPLAT(1.4426950408889634));
    FD_EACH x[i] = FD_MAX(FD_SPLAT(c->least), x[i]);
    FD_EACH biased[i] = FD_ADD(x[i], FD_SPLAT(c->round));
    FD_EACH x[i] = FD_SUB(x[i], FD_SUB(biased[i], FD_SPLAT(c->round)));
    FD_EACH sum[i] = FD_SPLAT(c->polynomial[0]);
    FD_UNROLL
    for (int k = 1; k <= c->degree; k++)
        FD_EACH sum[i] = FD_ADD(FD_MUL(sum[i], x[i]), FD_SPLAT(c->polynomial[k]));
    FD_EACH x[i] = FD_MUL(sum[i], FD_POW2(biased[i]));
#undef FD_EACH
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

/* e = e^(x - shift) of n elements. Adds the sum of e, and where there is a gradient that of its products with
 * what was kept of it. */
FD_INLINE void FD_FN(fd_sums)(FD_ELEM *e, const FD_ELEM *x, FD_REAL_T shift, const FD_ELEM *grad,
                              const uint64_t *keep, size_t n, fd_softmax_row *row,
                              fd_ahead *ahead) {
    enum { LANES = FD_MAX_STEP / FD_FN(fd_width) };
    FD_REAL_T sums[LANES], dots[LANES];
    for (unsigned i = 0; i < LANES; i++) sums[i] = dots[i] = FD_SPLAT(0.0);
    for (size_t i = 0; i < n; i += FD_FN(fd_four)) {
        const size_t lane = i % FD_MAX_STEP / FD_FN(fd_width);
        FD_REAL_T v[4];
        if (ahead && lane == 0)
            for (int array = 0; array < 3; array++) fd_fetch(ahead + array);
        FD_UNROLL
        for (unsigned j = 0; j < 4; j++) v[j] = FD_SUB(FD_LOAD(x + i + j * FD_FN(fd_width)), shift);
        FD_FN(fd_exp)(v, 4);
        FD_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            FD_STORE(e + i + j * FD_FN(fd_width), v[j]);
            sums[lane + j] = FD_ADD(sums[lane + j], v[j]);
        }
        if (!grad) continue;
        FD_UNROLL
        for (unsigned j = 0; j < 4; j++) {
            const unsigned at = j * FD_FN(fd_width);
            v[j] = FD_MUL(v[j], FD_LOAD(grad + i + at));
            v[j] = FD_KEEP_OR_ZERO(FD_KEPT(keep, (unsigned)i, at), v[j]);
            dots[lane + j] = FD_ADD(dots[lane + j], v[j]);
        }
    }
    row->sum += FD_FN(fd_reduce)(sums, FD_MAX_STEP, 0);
    if (grad) row->dot += FD_FN(fd_reduce)(dots, FD_MAX_STEP, 0);
}

static void FD_FN(fd_exps)(void *e_, const void *x_, const void *grad_, const uint64_t *keep,
                           size_t n, unsigned rows, fd_softmax_row *row, fd_ahead *ahead) {
    FD_ELEM *e = (FD_ELEM *)e_, max[FD_BLOCK_ROWS];
    const FD_ELEM *x = (const FD_ELEM *)x_, *grad = (const FD_ELEM *)grad_;
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
            FD_REAL_T v = FD_SUB(FD_SPLAT(row->max), shift);
            FD_FN(fd_exp)(&v, 1);
            FD_STORE(by, v);
            row->sum *= by[0], row->dot *= by[0];
        }
        row->max = max[r];
        FD_FN(fd_sums)(e, x, shift, grad, keep, n, row, ahead);
        if (grad) grad += n, keep += n / 64;
    }
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

/*
 * What is done with the elements of one dtype, step by step, and the kernels that do it to a whole call.
 * Parameters:
 *
 *   FD_DTYPE   name of x's dtype: load and the element type carry it
 *   FD_TO      name of y's, and of what is read beside x, where it is another; then FD_WIDENS is 1 where
 *              y's is the wider one, which FD_RESIDUAL alone knows, and 0 for FD_BIAS_GRAD alone
 *   FD_REAL    name of the compute type, f32 or f64: the arithmetic carries it
 *   FD_OWN_PLAIN  1 where the including file has a faster step for FD_PLAIN of this dtype:
 *                 plain(y, x, keep, i, scale, bypass)
 *
 * and, over the primitives of the including file,
 *
 *   FD_STEP              elements that are applied together, in one or more vectors; <= FD_MAX_STEP
 *   load, store          elements to and from the compute type; store rounds to nearest even
 *   FD_BYPASSES          1 where there is a
 *   bypass               store around the caches, to aligned memory; fence() once all are done
 *   splat                a double, rounded once to the compute type, in every lane
 *   mul, add             with one rounding each; never contracted into one
 *   kept(keep, i, lane)  keep bits from i + lane on as a lane mask; i is a multiple of FD_STEP, or of
 *                        four vectors' elements (fd_softmax_tpl.h), and lane, less than that, a constant
 *   positive             a lane mask of what is above 0, as no NaN is; number: of what is no NaN
 *   relu                 +0 for what is 0 or below; a NaN stays one
 *   keep_or_zero         selects lanes; dropped ones are never looked at
 *   mul_or_zero          likewise, from the product of two
 *   keep_or              likewise, from two vectors
 *
 * What is done with an element is a constant of each instance:
 *
 *   FD_PLAIN      y = keep ? x * scale : +0
 *   FD_ONES       y = keep ? scale : +0
 *   FD_AFFINE     y = keep ? x * scale + shift : fill
 *   FD_SCALED     y = keep ? x * scales : +0, a scale for each element
 *   FD_RESIDUAL   y = beside + (keep ? (x + bias) * scale : +0)
 *   FD_RELU       y = keep ? relu(x + bias) * scale : +0
 *   FD_BIAS_GRAD  FD_PLAIN, and bias_grad += y before it is rounded to the dtype
 *   FD_RELU_GRAD  likewise, where keep is beside > 0
 *
 * fd_given applies keep bits that were made elsewhere (fd_window.c).
 */

#ifdef FD_TO
#define FD_Y FD_TO
#define FD_FN(op) FD_CAT(FD_CAT(FD_CAT(op, FD_DTYPE), FD_TO), FD_ISA)
#else
#define FD_Y FD_DTYPE
#define FD_FN(op) FD_CAT(FD_CAT(op, FD_DTYPE), FD_ISA)
#endif
#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_ELEM FD_CAT(fd_elem, FD_DTYPE)
#define FD_LOAD_Y FD_CAT(load, FD_Y)
#define FD_STORE FD_CAT(store, FD_Y)
#define FD_BYPASS FD_CAT(bypass, FD_Y)
#define FD_ELEM_Y FD_CAT(fd_elem, FD_Y)
#define FD_SUM FD_CAT(fd_elem, FD_REAL)
#define FD_LOAD_SUM FD_CAT(load, FD_REAL)
#define FD_STORE_SUM FD_CAT(store, FD_REAL)
#define FD_REAL_T FD_CAT(v, FD_REAL)
#define FD_SPLAT FD_CAT(splat, FD_REAL)
#define FD_MUL FD_CAT(mul, FD_REAL)
#define FD_ADD FD_CAT(add, FD_REAL)
#define FD_KEPT FD_CAT(kept, FD_REAL)
#define FD_POSITIVE FD_CAT(positive, FD_REAL)
#define FD_NUMBER FD_CAT(number, FD_REAL)
#define FD_RELU_OF FD_CAT(relu, FD_REAL)
#define FD_KEEP_OR_ZERO FD_CAT(keep_or_zero, FD_REAL)
#define FD_MUL_OR_ZERO FD_CAT(mul_or_zero, FD_REAL)
#define FD_KEEP_OR FD_CAT(keep_or, FD_REAL)

enum { FD_FN(fd_lanes) = sizeof(FD_REAL_T) / sizeof(FD_SUM) };

/* All that is the same for a whole call: the arrays, and the values in every lane. */
typedef struct {
    FD_ELEM_Y *y;
    const FD_ELEM *x;
    const FD_ELEM_Y *beside, *bias;
    FD_SUM *bias_grad;
    const FD_SUM *scales;
    size_t period, column; /* see fd_fused */
    FD_REAL_T scale, shift, fill;
} FD_FN(fd_call);

FD_INLINE FD_FN(fd_call)
    FD_FN(fd_call_init)(void *y, const void *x, const fd_values *values, const fd_fused *fused) {
    FD_FN(fd_call) call;
    memset(&call, 0, sizeof call);
    call.y = (FD_ELEM_Y *)y, call.x = (const FD_ELEM *)(x ? x : y); /* FD_ONES reads neither */
    if (fused) {
        call.beside = (const FD_ELEM_Y *)fused->beside, call.bias = (const FD_ELEM_Y *)fused->bias;
        call.bias_grad = (FD_SUM *)fused->bias_grad;
        call.period = (size_t)fused->period, call.column = (size_t)fused->column;
    }
    call.scale = FD_SPLAT(values->scale);
    call.shift = FD_SPLAT(values->shift), call.fill = FD_SPLAT(values->fill);
    return call;
}

FD_INLINE fd_arrays FD_FN(fd_arrays_of)(const FD_FN(fd_call) * call) {
    return (fd_arrays){(const char *)call->y, (const char *)call->x, (const char *)call->beside,
                       sizeof *call->y, sizeof *call->x};
}

/* FD_STEP elements in a row of one column after the other, whose keep bits start at i, a multiple of
 * FD_STEP. */
FD_INLINE void FD_FN(fd_step)(FD_ELEM_Y *y, const FD_ELEM *x, const FD_ELEM_Y *beside,
                              size_t column, const FD_FN(fd_call) * call, const uint64_t *keep,
                              unsigned i, int op, int bypass) {
#if FD_OWN_PLAIN
    if (op == FD_PLAIN) {
        FD_CAT(plain, FD_DTYPE)(y, x, keep, i, call->scale, bypass);
        return;
    }
#endif
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += FD_FN(fd_lanes)) {
        FD_REAL_T v = op == FD_ONES ? call->scale : FD_LOAD(x + lane);
        if (op == FD_RESIDUAL || op == FD_RELU)
            v = FD_ADD(v, FD_LOAD_Y(call->bias + column + lane));
        if (op == FD_RELU) v = FD_RELU_OF(v);
        if (op == FD_AFFINE)
            v = FD_KEEP_OR(FD_KEPT(keep, i, lane), FD_ADD(FD_MUL(v, call->scale), call->shift),
                           call->fill);
        else if (op == FD_ONES)
            v = FD_KEEP_OR_ZERO(FD_KEPT(keep, i, lane), v);
        else if (op == FD_SCALED)
            v = FD_MUL_OR_ZERO(FD_KEPT(keep, i, lane), v,
                               FD_LOAD_SUM(call->scales + column + lane));
        else if (op == FD_RELU_GRAD)
            v = FD_MUL_OR_ZERO(FD_POSITIVE(FD_LOAD_Y(beside + lane)), v, call->scale);
        else
            v = FD_MUL_OR_ZERO(FD_KEPT(keep, i, lane), v, call->scale);
        if (op == FD_RESIDUAL) v = FD_ADD(FD_LOAD_Y(beside + lane), v);
        if (FD_SUMS(op)) {
            FD_SUM *sum = call->bias_grad + column + lane;
            FD_STORE_SUM(sum, FD_ADD(FD_LOAD_SUM(sum), v));
        }
#if defined(FD_TO) && !FD_WIDENS
        /* whose bits store_bf16 looks at: in one that was a float all may be set */
        v = FD_KEEP_OR(FD_NUMBER(v), v, call->fill);
#endif
        if (bypass)
            FD_BYPASS(y + lane, v);
        else
            FD_STORE(y + lane, v);
    }
    if (FD_SUMS(op) && column + FD_STEP > call->period) {
        /* at once, so that each column's rows are summed in their order, whatever FD_STEP is */
        FD_SUM *sum = call->bias_grad, *beyond = sum + call->period;
        for (unsigned lane = 0; lane < FD_STEP; lane += FD_FN(fd_lanes)) {
            FD_STORE_SUM(sum + lane, FD_ADD(FD_LOAD_SUM(sum + lane), FD_LOAD_SUM(beyond + lane)));
            FD_STORE_SUM(beyond + lane, FD_SPLAT(0.0));
        }
    }
}

/* n elements within one step, from element `at` of the call and keep bit i on. */
FD_INLINE void FD_FN(fd_part)(const FD_FN(fd_call) * call, size_t at, size_t column,
                              const uint64_t *keep, unsigned i, unsigned n, int op) {
    FD_ELEM from[FD_STEP] = {0};
    FD_ELEM_Y beside[FD_STEP] = {0}, to[FD_STEP];
    const unsigned skip = i % FD_STEP;
    if (op != FD_ONES) memcpy(from + skip, call->x + at, n * sizeof *from);
    if (FD_READS_BESIDE(op)) memcpy(beside + skip, call->beside + at, n * sizeof *beside);
    if (column < skip) column += call->period;
    FD_FN(fd_step)(to, from, beside, column - skip, call, keep, i - skip, op, 0);
    memcpy(call->y + at, to + skip, n * sizeof *to);
}

/* n elements, from element `at` of the call and keep bit i on. */
FD_INLINE void FD_FN(fd_steps)(const FD_FN(fd_call) * call, size_t at, const uint64_t *keep,
                               unsigned i, unsigned n, int op, int bypass) {
    const int in_columns = op == FD_RESIDUAL || op == FD_RELU || op == FD_SCALED || FD_SUMS(op);
    size_t column = in_columns ? (call->column + at) % call->period : 0;
    if (i % FD_STEP) {
        const unsigned left = FD_STEP - i % FD_STEP, head = n < left ? n : left;
        FD_FN(fd_part)(call, at, column, keep, i, head, op);
        at += head, i += head, n -= head;
        if (in_columns && (column += head) >= call->period) column -= call->period;
    }
    const FD_ELEM *x = call->x + at;
    const FD_ELEM_Y *beside = FD_READS_BESIDE(op) ? call->beside + at : NULL;
    FD_ELEM_Y *y = call->y + at;
    for (; n >= FD_STEP; n -= FD_STEP, i += FD_STEP, x += FD_STEP, y += FD_STEP, at += FD_STEP) {
        if (bypass && op == FD_RELU_GRAD) { /* takes 5 to 10 % less time than by pieces */
            FD_UNROLL
            for (unsigned byte = 0; byte < FD_STEP * sizeof *x; byte += 64) {
                FD_PREFETCH((const char *)x + byte + FD_AHEAD);
                FD_PREFETCH((const char *)beside + byte + FD_AHEAD);
            }
        }
        FD_FN(fd_step)(y, x, beside, column, call, keep, i, op, bypass);
        if (FD_READS_BESIDE(op)) beside += FD_STEP;
        if (in_columns && (column += FD_STEP) >= call->period) column -= call->period;
    }
    if (n) FD_FN(fd_part)(call, at, column, keep, i, n, op);
}

/* The steps of each operation by itself, in line and not. */
#define FD_STEPS_OF(name, op, bypass)                                                           \
    FD_INLINE void FD_FN(name##_in_line)(const void *call, size_t at, const uint64_t *keep,     \
                                         unsigned i, unsigned n) {                              \
        FD_FN(fd_steps)((const FD_FN(fd_call) *)call, at, keep, i, n, op, bypass);              \
    }                                                                                           \
    FD_NOINLINE void FD_FN(name)(const void *call, size_t at, const uint64_t *keep, unsigned i, \
                                 unsigned n) {                                                  \
        /* in registers, for no store can change it there */                                    \
        const FD_FN(fd_call) mine = *(const FD_FN(fd_call) *)call;                              \
        FD_FN(fd_steps)(&mine, at, keep, i, n, op, bypass);                                     \
    }
#if FD_BYPASSES
#define FD_STEPS(name, op) FD_STEPS_OF(name, op, 0) FD_STEPS_OF(name##_around, op, 1)
#define FD_BOTH(name) {FD_FN(name), FD_FN(name##_around)}
#else
#define FD_STEPS(name, op) FD_STEPS_OF(name, op, 0)
#define FD_BOTH(name) {FD_FN(name), FD_FN(name)}
#endif

#if !defined(FD_TO) || FD_WIDENS
FD_STEPS(fd_steps_residual, FD_RESIDUAL)
#endif
#if !defined(FD_TO) || !FD_WIDENS
FD_STEPS(fd_steps_bias_grad, FD_BIAS_GRAD)
#endif
#ifndef FD_TO
FD_STEPS(fd_steps_plain, FD_PLAIN)
FD_STEPS(fd_steps_ones, FD_ONES)
FD_STEPS(fd_steps_affine, FD_AFFINE)
FD_STEPS_OF(fd_steps_scaled, FD_SCALED, 0)
FD_STEPS(fd_steps_relu, FD_RELU)
FD_STEPS(fd_steps_relu_grad, FD_RELU_GRAD)
#endif

static fd_steps_fn *const FD_FN(fd_steps_of)[][2] = {
#if !defined(FD_TO) || FD_WIDENS
    [FD_RESIDUAL] = FD_BOTH(fd_steps_residual),
#endif
#if !defined(FD_TO) || !FD_WIDENS
    [FD_BIAS_GRAD] = FD_BOTH(fd_steps_bias_grad),
#endif
#ifndef FD_TO
    [FD_PLAIN] = FD_BOTH(fd_steps_plain),         [FD_ONES] = FD_BOTH(fd_steps_ones),
    [FD_AFFINE] = FD_BOTH(fd_steps_affine),       [FD_RELU] = FD_BOTH(fd_steps_relu),
    [FD_RELU_GRAD] = FD_BOTH(fd_steps_relu_grad),
#endif
};

/* Any operation, its steps called. */
static void FD_FN(fd_apply_any)(void *y, const void *x, uint64_t first, fd_cursor *rows, size_t n,
                                const fd_stream *stream, const fd_values *values,
                                const fd_fused *fused, int op, int hints) {
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, fused);
    const fd_arrays arrays = FD_FN(fd_arrays_of)(&call);
    if (n < FD_ALIGNED_FROM) hints &= ~FD_HINT_BYPASS;
    FD_CAT(fd_tiles_any, FD_ISA)(&call, FD_FN(fd_steps_of)[op][hints & FD_HINT_BYPASS], &arrays,
                                 first, rows, n, stream, hints);
}

static void FD_FN(fd_fused)(void *y, const void *x, uint64_t first, size_t n,
                            const fd_stream *stream, double scale, const fd_fused *fused,
                            int hints) {
    static const int op[FD_FUSIONS] = {[FD_FUSED_RESIDUAL] = FD_RESIDUAL,
                                       [FD_FUSED_BIAS_GRAD] = FD_BIAS_GRAD,
                                       [FD_FUSED_RELU] = FD_RELU,
                                       [FD_FUSED_RELU_GRAD] = FD_RELU_GRAD};
    const fd_values values = {scale, 0.0, NAN};
    if (FD_BYPASSES && fused->op == FD_FUSED_RELU_GRAD && hints & FD_HINT_BYPASS)
        hints &= ~FD_HINT_FETCH; /* its steps do */
    FD_FN(fd_apply_any)(y, x, first, NULL, n, stream, &values, fused, op[fused->op], hints);
}

#ifndef FD_TO
static void FD_FN(fd_plain)(void *y, const void *x, uint64_t first, fd_cursor *rows, size_t n,
                            const fd_stream *stream, const fd_values *values, int hints) {
    if (x == NULL) {
        hints &= FD_HINT_BYPASS;
        FD_FN(fd_apply_any)(y, x, first, rows, n, stream, values, NULL, FD_ONES, hints);
        return;
    }
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, NULL);
    const fd_arrays arrays = FD_FN(fd_arrays_of)(&call);
#if FD_BYPASSES
    if (hints & FD_HINT_BYPASS && n >= FD_ALIGNED_FROM) {
        FD_CAT(fd_tiles, FD_ISA)(&call, FD_FN(fd_steps_plain_around_in_line), &arrays, first, rows,
                                 n, stream, hints);
        return;
    }
#endif
    FD_CAT(fd_tiles, FD_ISA)(&call, FD_FN(fd_steps_plain_in_line), &arrays, first, rows, n, stream,
                             hints & ~FD_HINT_BYPASS);
}

static void FD_FN(fd_affine)(void *y, const void *x, uint64_t first, fd_cursor *rows, size_t n,
                             const fd_stream *stream, const fd_values *values, int hints) {
    FD_FN(fd_apply_any)(y, x, first, rows, n, stream, values, NULL, FD_AFFINE, hints);
}

static void FD_FN(fd_given)(void *y, const void *x, const uint64_t *keep, unsigned i, unsigned n,
                            const fd_values *values, int affine, int bypass) {
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, NULL);
    const int op = affine ? FD_AFFINE : x == NULL ? FD_ONES : FD_PLAIN;
    FD_FN(fd_steps_of)[op][bypass](&call, 0, keep, i, n);
}

static void FD_FN(fd_scaled)(void *y, const void *x, const uint64_t *keep, size_t n,
                             const void *scales) {
    const fd_values unused = {1.0, 0.0, 0.0};
    FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, &unused, NULL);
    call.scales = (const FD_SUM *)scales, call.period = n + FD_STEP; /* one row */
    FD_FN(fd_steps_scaled)(&call, 0, keep, 0, (unsigned)n);
}
#endif

#undef FD_Y
#undef FD_FN
#undef FD_LOAD
#undef FD_ELEM
#undef FD_LOAD_Y
#undef FD_STORE
#undef FD_BYPASS
#undef FD_ELEM_Y
#undef FD_SUM
#undef FD_LOAD_SUM
#undef FD_STORE_SUM
#undef FD_REAL_T
#undef FD_SPLAT
#undef FD_MUL
#undef FD_ADD
#undef FD_KEPT
#undef FD_POSITIVE
#undef FD_NUMBER
#undef FD_RELU_OF
#undef FD_KEEP_OR_ZERO
#undef FD_MUL_OR_ZERO
#undef FD_KEEP_OR
#undef FD_STEPS_OF
#undef FD_STEPS
#undef FD_BOTH

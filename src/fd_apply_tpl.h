/*
 * The one tile loop, for one dtype: makes the keep bits of a tile, and between its groups applies
 * those of the tile before, so that arithmetic and memory overlap. Parameters:
 *
 *   FD_DTYPE   name of the dtype: load, store, bypass and the element type carry it
 *   FD_REAL    name of its compute type, f32 or f64: the arithmetic carries it
 *
 * and, over the primitives of the including file,
 *
 *   FD_STEP              elements that are applied together, in one or more vectors; <= FD_MAX_STEP
 *   load, store          elements to and from the compute type; store rounds to nearest even
 *   bypass               store around the caches, to aligned memory; fence() once all are done
 *   splat                a double, rounded once to the compute type, in every lane
 *   mul, add             with one rounding each; never contracted into one
 *   kept(keep, i, lane)  keep bits from i + lane on as a lane mask; i is a multiple of FD_STEP and
 *                        lane, less than FD_STEP, a constant
 *   keep_or_zero         selects lanes; dropped ones are never looked at
 *   keep_or              likewise, from two vectors
 *
 * What is done with an element is a constant of each instance:
 *
 *   FD_PLAIN      y = keep ? x * scale : +0
 *   FD_ONES       y = keep ? scale : +0
 *   FD_AFFINE     y = keep ? x * scale + shift : fill
 *   FD_RESIDUAL   y = residual + (keep ? (x + bias) * scale : +0)
 *   FD_BIAS_GRAD  FD_PLAIN, and bias_grad += y before it is rounded to the dtype
 *
 * fd_given applies keep bits that were made elsewhere (fd_window.c).
 */

#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_STORE FD_CAT(store, FD_DTYPE)
#define FD_BYPASS FD_CAT(bypass, FD_DTYPE)
#define FD_ELEM FD_CAT(fd_elem, FD_DTYPE)
#define FD_SUM FD_CAT(fd_elem, FD_REAL)
#define FD_LOAD_SUM FD_CAT(load, FD_REAL)
#define FD_STORE_SUM FD_CAT(store, FD_REAL)
#define FD_REAL_T FD_CAT(v, FD_REAL)
#define FD_SPLAT FD_CAT(splat, FD_REAL)
#define FD_MUL FD_CAT(mul, FD_REAL)
#define FD_ADD FD_CAT(add, FD_REAL)
#define FD_KEPT FD_CAT(kept, FD_REAL)
#define FD_KEEP_OR_ZERO FD_CAT(keep_or_zero, FD_REAL)
#define FD_KEEP_OR FD_CAT(keep_or, FD_REAL)
#define FD_FN(op) FD_CAT(FD_CAT(op, FD_DTYPE), FD_ISA)

/* Elements from which it pays to align the stores. */
#define FD_ALIGNED_FROM (2 * FD_TILE)

enum { FD_FN(fd_lanes) = sizeof(FD_REAL_T) / sizeof(FD_SUM) };

/* All that is the same for a whole call: the arrays, and the values in every lane. */
typedef struct {
    FD_ELEM *y;
    const FD_ELEM *x, *residual, *bias;
    FD_SUM *bias_grad;
    size_t period, column; /* see fd_fused */
    FD_REAL_T scale, shift, fill;
} FD_FN(fd_call);

FD_INLINE FD_FN(fd_call)
    FD_FN(fd_call_init)(void *y, const void *x, const fd_values *values, const fd_fused *fused) {
    FD_FN(fd_call) call;
    memset(&call, 0, sizeof call);
    call.y = (FD_ELEM *)y, call.x = (const FD_ELEM *)(x ? x : y); /* FD_ONES reads neither */
    if (fused) {
        call.residual = (const FD_ELEM *)fused->residual, call.bias = (const FD_ELEM *)fused->bias;
        call.bias_grad = (FD_SUM *)fused->bias_grad;
        call.period = (size_t)fused->period, call.column = (size_t)fused->column;
    }
    call.scale = FD_SPLAT(values->scale);
    call.shift = FD_SPLAT(values->shift), call.fill = FD_SPLAT(values->fill);
    return call;
}

/* FD_STEP elements in a row of one column after the other, whose keep bits start at i, a multiple of
 * FD_STEP. */
FD_INLINE void FD_FN(fd_step)(FD_ELEM *y, const FD_ELEM *x, const FD_ELEM *residual, size_t column,
                              const FD_FN(fd_call) * call, const uint64_t *keep, unsigned i, int op,
                              int bypass) {
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += FD_FN(fd_lanes)) {
        FD_REAL_T v = op == FD_ONES ? call->scale : FD_LOAD(x + lane);
        if (op == FD_RESIDUAL) v = FD_ADD(v, FD_LOAD(call->bias + column + lane));
        if (op != FD_ONES) v = FD_MUL(v, call->scale);
        if (op == FD_AFFINE)
            v = FD_KEEP_OR(FD_KEPT(keep, i, lane), FD_ADD(v, call->shift), call->fill);
        else
            v = FD_KEEP_OR_ZERO(FD_KEPT(keep, i, lane), v);
        if (op == FD_RESIDUAL) v = FD_ADD(FD_LOAD(residual + lane), v);
        if (op == FD_BIAS_GRAD) {
            FD_SUM *sum = call->bias_grad + column + lane;
            FD_STORE_SUM(sum, FD_ADD(FD_LOAD_SUM(sum), v));
        }
        if (bypass)
            FD_BYPASS(y + lane, v);
        else
            FD_STORE(y + lane, v);
    }
    if (op == FD_BIAS_GRAD && column + FD_STEP > call->period) {
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
    FD_ELEM from[FD_STEP] = {0}, residual[FD_STEP] = {0}, to[FD_STEP];
    const unsigned skip = i % FD_STEP;
    if (op != FD_ONES) memcpy(from + skip, call->x + at, n * sizeof *from);
    if (op == FD_RESIDUAL) memcpy(residual + skip, call->residual + at, n * sizeof *from);
    if (column < skip) column += call->period;
    FD_FN(fd_step)(to, from, residual, column - skip, call, keep, i - skip, op, 0);
    memcpy(call->y + at, to + skip, n * sizeof *to);
}

/* n elements, from element `at` of the call and keep bit i on. */
FD_INLINE void FD_FN(fd_steps)(const FD_FN(fd_call) * call, size_t at, const uint64_t *keep,
                               unsigned i, unsigned n, int op, int bypass) {
    const int in_columns = op == FD_RESIDUAL || op == FD_BIAS_GRAD;
    size_t column = in_columns ? (call->column + at) % call->period : 0;
    if (i % FD_STEP) {
        const unsigned left = FD_STEP - i % FD_STEP, head = n < left ? n : left;
        FD_FN(fd_part)(call, at, column, keep, i, head, op);
        at += head, i += head, n -= head;
        if (in_columns && (column += head) >= call->period) column -= call->period;
    }
    const FD_ELEM *x = call->x + at, *residual = op == FD_RESIDUAL ? call->residual + at : NULL;
    FD_ELEM *y = call->y + at;
    for (; n >= FD_STEP; n -= FD_STEP, i += FD_STEP, x += FD_STEP, y += FD_STEP, at += FD_STEP) {
        FD_FN(fd_step)(y, x, residual, column, call, keep, i, op, bypass);
        if (op == FD_RESIDUAL) residual += FD_STEP;
        if (in_columns && (column += FD_STEP) >= call->period) column -= call->period;
    }
    if (n) FD_FN(fd_part)(call, at, column, keep, i, n, op);
}

/* The steps of each operation by itself. What is called most has them in tile loops of its own; the
 * others, whose loops would take half of the compiler's time, call them from one loop for all. */
typedef struct {
    const FD_FN(fd_call) * call;
    size_t at;
    const uint64_t *keep;
    unsigned i, n;
} FD_FN(fd_some);
typedef void FD_FN(fd_steps_fn)(const FD_FN(fd_some) *);

FD_INLINE void FD_FN(fd_steps_of_some)(const FD_FN(fd_some) * some, int op, int bypass) {
    const FD_FN(fd_call) call = *some->call; /* in registers, for no store can change it there */
    FD_FN(fd_steps)(&call, some->at, some->keep, some->i, some->n, op, bypass);
}

#define FD_STEPS(name, op, bypass)                           \
    FD_NOINLINE void FD_FN(name)(const FD_FN(fd_some) * s) { \
        FD_FN(fd_steps_of_some)(s, op, bypass);              \
    }
FD_STEPS(fd_steps_plain, FD_PLAIN, 0)
FD_STEPS(fd_steps_plain_around, FD_PLAIN, 1)
FD_STEPS(fd_steps_ones, FD_ONES, 0)
FD_STEPS(fd_steps_ones_around, FD_ONES, 1)
FD_STEPS(fd_steps_affine, FD_AFFINE, 0)
FD_STEPS(fd_steps_affine_around, FD_AFFINE, 1)
FD_STEPS(fd_steps_residual, FD_RESIDUAL, 0)
FD_STEPS(fd_steps_residual_around, FD_RESIDUAL, 1)
FD_STEPS(fd_steps_bias_grad, FD_BIAS_GRAD, 0)
FD_STEPS(fd_steps_bias_grad_around, FD_BIAS_GRAD, 1)
#undef FD_STEPS

static FD_FN(fd_steps_fn) *const FD_FN(fd_steps_of)[][2] = {
    [FD_PLAIN] = {FD_FN(fd_steps_plain), FD_FN(fd_steps_plain_around)},
    [FD_ONES] = {FD_FN(fd_steps_ones), FD_FN(fd_steps_ones_around)},
    [FD_AFFINE] = {FD_FN(fd_steps_affine), FD_FN(fd_steps_affine_around)},
    [FD_RESIDUAL] = {FD_FN(fd_steps_residual), FD_FN(fd_steps_residual_around)},
    [FD_BIAS_GRAD] = {FD_FN(fd_steps_bias_grad), FD_FN(fd_steps_bias_grad_around)},
};

/*
 * The tile loop. Three countings of elements meet in it:
 *
 *   of the stream   first              first + n
 *                     |                    |
 *   tiles       |-----+-----|-----------|--+--------|     number tile0, tile0 + 1, ...; FD_TILE each
 *                    lo    tile_at        end             from the start of tile0: t * FD_TILE, done
 *   steps     |--+--|-----|-----|-----|---+-|             skew elements before the tiles, so that
 *             <>                                          their stores are aligned to 64 bytes
 *            skew
 *
 * keep has the bits of tile t, by tiles. A strip has as many by steps: those of tile t shifted up by
 * skew, the first of which are the last of tile t - 1. While the groups of tile t are made, the
 * steps of the strip before it are applied, up to `until`; so the loop runs once more than there are
 * tiles. In memory, element `done` is y[done - lo].
 */
FD_INLINE void FD_FN(fd_apply)(const FD_FN(fd_call) * call, uint64_t first, size_t n,
                               const fd_stream *stream, int op, int hints,
                               FD_FN(fd_steps_fn) * steps) {
    const int bypass = hints & FD_HINT_BYPASS;
    const uint64_t tile0 = first / FD_TILE, lo = first % FD_TILE, end = lo + n;
    const unsigned to_aligned = (unsigned)((64 - (uintptr_t)call->y % 64) % 64 / sizeof(FD_ELEM));
    const unsigned skew = n < FD_ALIGNED_FROM ? 0 : (unsigned)(0 - lo - to_aligned) % FD_STEP;
    uint64_t keep[1 + FD_TILE_WORDS + 1] = {0}, strip[FD_TILE_WORDS];
    fd_schedule s;
    fd_tile tile;
    fd_schedule_init(&s, stream);
    if (s.last_plane < 0) fd_fill_keep(strip, &s);
    if (hints & FD_HINT_FETCH) fd_schedule_fetch(&s, FD_GROUP * sizeof(FD_ELEM));
    uint64_t done = lo; /* elements before it are applied */
    for (uint64_t t = 0; done < end; t++) {
        /* tile t, as far as it is wanted, and the strip before it, as far as it is there */
        const uint64_t tile_at = t * FD_TILE;
        const unsigned tile_lo = t ? 0 : (unsigned)lo;
        const unsigned tile_hi = end <= tile_at            ? 0
                                 : end - tile_at < FD_TILE ? (unsigned)(end - tile_at)
                                                           : FD_TILE;
        const int wanted = s.last_plane >= 0 && tile_hi != 0;
        if (wanted) fd_tile_range(&tile, &s, tile0 + t, tile_hi - tile_lo);
        for (unsigned group = 0; group < FD_GROUPS; group++) {
            if (s.ahead.lines) {
                s.ahead.x = (const char *)(call->x + (done - lo)) + FD_AHEAD;
                if (op == FD_RESIDUAL)
                    s.ahead.residual = (const char *)(call->residual + (done - lo)) + FD_AHEAD;
            }
            if (wanted && fd_touches(group, tile_lo, tile_hi))
                fd_tile_group(keep + 1, &tile, &s, group);
            if (t == 0) continue;
            uint64_t until = tile_at - FD_TILE + (group + 1) * FD_GROUP - skew;
            if (until > end) until = end;
            if (done >= until) continue;
            const unsigned count = (unsigned)(until - done);
            const unsigned i = (unsigned)(done + skew) % FD_TILE;
            if (steps)
                steps(&(FD_FN(fd_some)){call, (size_t)(done - lo), strip, i, count});
            else
                FD_FN(fd_steps)(call, (size_t)(done - lo), strip, i, count, op, bypass);
            done = until;
        }
        if (wanted && s.tails) fd_tile_tails(keep + 1, &tile, &s);
        if (s.last_plane >= 0) {
            fd_shift_keep(strip, keep, skew);
            keep[0] = keep[FD_TILE_WORDS];
        }
    }
    if (bypass) fence();
}

/* Any operation, its steps called. */
FD_NOINLINE void FD_FN(fd_apply_any)(void *y, const void *x, uint64_t first, size_t n,
                                     const fd_stream *stream, const fd_values *values,
                                     const fd_fused *fused, int op, int hints) {
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, fused);
    if (n < FD_ALIGNED_FROM) hints &= ~FD_HINT_BYPASS;
    FD_FN(fd_apply)(&call, first, n, stream, op, hints,
                    FD_FN(fd_steps_of)[op][hints & FD_HINT_BYPASS]);
}

static void FD_FN(fd_plain)(void *y, const void *x, uint64_t first, size_t n,
                            const fd_stream *stream, const fd_values *values, int hints) {
    if (x == NULL) {
        FD_FN(fd_apply_any)(y, x, first, n, stream, values, NULL, FD_ONES, hints & ~FD_HINT_FETCH);
        return;
    }
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, NULL);
    if (hints & FD_HINT_BYPASS && n >= FD_ALIGNED_FROM)
        FD_FN(fd_apply)(&call, first, n, stream, FD_PLAIN, hints | FD_HINT_BYPASS, NULL);
    else
        FD_FN(fd_apply)(&call, first, n, stream, FD_PLAIN, hints & ~FD_HINT_BYPASS, NULL);
}

static void FD_FN(fd_affine)(void *y, const void *x, uint64_t first, size_t n,
                             const fd_stream *stream, const fd_values *values, int hints) {
    if (hints & FD_HINT_BYPASS && n >= FD_ALIGNED_FROM) {
        FD_FN(fd_apply_any)(y, x, first, n, stream, values, NULL, FD_AFFINE, hints);
        return;
    }
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, NULL);
    FD_FN(fd_apply)(&call, first, n, stream, FD_AFFINE, hints & ~FD_HINT_BYPASS, NULL);
}

static void FD_FN(fd_residual)(void *y, const void *x, uint64_t first, size_t n,
                               const fd_stream *stream, double scale, const fd_fused *fused,
                               int hints) {
    const fd_values values = {scale, 0.0, 0.0};
    FD_FN(fd_apply_any)(y, x, first, n, stream, &values, fused, FD_RESIDUAL, hints);
}

static void FD_FN(fd_bias_grad)(void *y, const void *x, uint64_t first, size_t n,
                                const fd_stream *stream, double scale, const fd_fused *fused,
                                int hints) {
    const fd_values values = {scale, 0.0, 0.0};
    FD_FN(fd_apply_any)(y, x, first, n, stream, &values, fused, FD_BIAS_GRAD, hints);
}

static void FD_FN(fd_given)(void *y, const void *x, const uint64_t *keep, unsigned i, unsigned n,
                            const fd_values *values, int affine, int bypass) {
    const FD_FN(fd_call) call = FD_FN(fd_call_init)(y, x, values, NULL);
    const int op = affine ? FD_AFFINE : x == NULL ? FD_ONES : FD_PLAIN;
    FD_FN(fd_steps_of)[op][bypass && !affine](&(FD_FN(fd_some)){&call, 0, keep, i, n});
}

#undef FD_ALIGNED_FROM
#undef FD_LOAD
#undef FD_STORE
#undef FD_BYPASS
#undef FD_ELEM
#undef FD_SUM
#undef FD_LOAD_SUM
#undef FD_STORE_SUM
#undef FD_REAL_T
#undef FD_SPLAT
#undef FD_MUL
#undef FD_ADD
#undef FD_KEPT
#undef FD_KEEP_OR_ZERO
#undef FD_KEEP_OR
#undef FD_FN

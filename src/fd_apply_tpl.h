/*
 * The one tile loop, for one dtype: makes the keep bits of a tile, and between its groups applies
 * those of the tile before, so that arithmetic and memory overlap. Parameters:
 *
 *   FD_DTYPE   name of the dtype: load, store, bypass and the element type carry it
 *   FD_REAL    name of its compute type, f32 or f64: the arithmetic carries it
 *
 * and, over the primitives of the including file,
 *
 *   FD_STEP              elements that are applied together, in one or more vectors
 *   load, store          elements to and from the compute type; store rounds to nearest even
 *   bypass               store around the caches, to aligned memory; fence() once all are done
 *   splat                a double, rounded once to the compute type, in every lane
 *   mul, add             with one rounding each; never contracted into one
 *   kept(keep, i, lane)  keep bits from i + lane on as a lane mask; i is a multiple of FD_STEP and
 *                        lane, less than FD_STEP, a constant
 *   keep_or_zero         selects lanes; dropped ones are never looked at
 *   keep_or              likewise, from two vectors
 *
 * fd_given applies keep bits that were made elsewhere (fd_window.c).
 */

#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_STORE FD_CAT(store, FD_DTYPE)
#define FD_BYPASS FD_CAT(bypass, FD_DTYPE)
#define FD_ELEM FD_CAT(fd_elem, FD_DTYPE)
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

enum { FD_FN(fd_lanes) = sizeof(FD_REAL_T) / sizeof(FD_CAT(fd_elem, FD_REAL)) };

/* FD_STEP elements, whose keep bits start at i, a multiple of FD_STEP. */
FD_INLINE void FD_FN(fd_step)(FD_ELEM *y, const FD_ELEM *x, const uint64_t *keep, unsigned i,
                              const FD_REAL_T values[3], int affine, int bypass) {
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += FD_FN(fd_lanes)) {
        FD_REAL_T v = FD_MUL(FD_LOAD(x + lane), values[0]);
        if (affine)
            v = FD_KEEP_OR(FD_KEPT(keep, i, lane), FD_ADD(v, values[1]), values[2]);
        else
            v = FD_KEEP_OR_ZERO(FD_KEPT(keep, i, lane), v);
        if (bypass)
            FD_BYPASS(y + lane, v);
        else
            FD_STORE(y + lane, v);
    }
}

/* n elements within one step, from keep bit i on. */
FD_INLINE void FD_FN(fd_part)(FD_ELEM *y, const FD_ELEM *x, const uint64_t *keep, unsigned i,
                              unsigned n, const FD_REAL_T values[3], int affine) {
    FD_ELEM from[FD_STEP] = {0}, to[FD_STEP];
    const unsigned skip = i % FD_STEP;
    memcpy(from + skip, x, n * sizeof *x);
    FD_FN(fd_step)(to, from, keep, i - skip, values, affine, 0);
    memcpy(y, to + skip, n * sizeof *y);
}

/* n elements, from keep bit i on. */
FD_INLINE void FD_FN(fd_steps)(FD_ELEM *y, const FD_ELEM *x, const uint64_t *keep, unsigned i,
                               unsigned n, const FD_REAL_T values[3], int affine, int bypass) {
    if (i % FD_STEP) {
        const unsigned left = FD_STEP - i % FD_STEP, head = n < left ? n : left;
        FD_FN(fd_part)(y, x, keep, i, head, values, affine);
        x += head, y += head, i += head, n -= head;
    }
    for (; n >= FD_STEP; n -= FD_STEP, i += FD_STEP, x += FD_STEP, y += FD_STEP)
        FD_FN(fd_step)(y, x, keep, i, values, affine, bypass);
    if (n) FD_FN(fd_part)(y, x, keep, i, n, values, affine);
}

FD_INLINE void FD_FN(fd_apply)(FD_ELEM *y, const FD_ELEM *x, uint64_t first, size_t n,
                               const fd_stream *stream, const fd_values *scalars, int affine,
                               int bypass) {
    const FD_REAL_T values[3] = {FD_SPLAT(scalars->scale), FD_SPLAT(scalars->shift),
                                 FD_SPLAT(scalars->fill)};
    /* From here on elements are counted from the start of the first tile: lo .. end-1. Steps are
     * laid skew elements before the tiles', so that their stores are aligned; a strip is the tile's
     * worth of steps, tile t shifted by skew, whose first bits are the last of tile t-1. */
    const uint64_t tile0 = first / FD_TILE, lo = first % FD_TILE, end = lo + n;
    const unsigned to_aligned = (unsigned)((64 - (uintptr_t)y % 64) % 64 / sizeof *y);
    const unsigned skew = n < FD_ALIGNED_FROM ? 0 : (unsigned)(0 - lo - to_aligned) % FD_STEP;
    uint64_t keep[1 + FD_TILE_WORDS + 1] = {0}, strip[FD_TILE_WORDS];
    fd_schedule s;
    fd_tile tile;
    fd_schedule_init(&s, stream);
    if (s.last_plane < 0) fd_fill_keep(strip, &s);
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
            if (wanted && fd_touches(group, tile_lo, tile_hi))
                fd_tile_group(keep + 1, &tile, &s, group);
            if (t == 0) continue;
            uint64_t until = tile_at - FD_TILE + (group + 1) * FD_GROUP - skew;
            if (until > end) until = end;
            if (done >= until) continue;
            const unsigned count = (unsigned)(until - done);
            const unsigned i = (unsigned)(done + skew) % FD_TILE;
            FD_FN(fd_steps)(y + (done - lo), x + (done - lo), strip, i, count, values, affine,
                            bypass);
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

static void FD_FN(fd_plain)(void *y, const void *x, uint64_t first, size_t n,
                            const fd_stream *stream, const fd_values *values, int bypass) {
    if (bypass && n >= FD_ALIGNED_FROM)
        FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 0, 1);
    else
        FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 0, 0);
}

static void FD_FN(fd_affine)(void *y, const void *x, uint64_t first, size_t n,
                             const fd_stream *stream, const fd_values *values, int bypass) {
    if (bypass && n >= FD_ALIGNED_FROM)
        FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 1, 1);
    else
        FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 1, 0);
}

static void FD_FN(fd_given)(void *y_, const void *x_, const uint64_t *keep, size_t n,
                            const fd_values *scalars, int affine, int bypass) {
    FD_ELEM *y = (FD_ELEM *)y_;
    const FD_ELEM *x = (const FD_ELEM *)x_;
    const FD_REAL_T values[3] = {FD_SPLAT(scalars->scale), FD_SPLAT(scalars->shift),
                                 FD_SPLAT(scalars->fill)};
    if (affine)
        FD_FN(fd_steps)(y, x, keep, 0, (unsigned)n, values, 1, 0);
    else if (bypass)
        FD_FN(fd_steps)(y, x, keep, 0, (unsigned)n, values, 0, 1);
    else
        FD_FN(fd_steps)(y, x, keep, 0, (unsigned)n, values, 0, 0);
}

#undef FD_ALIGNED_FROM
#undef FD_LOAD
#undef FD_STORE
#undef FD_BYPASS
#undef FD_ELEM
#undef FD_REAL_T
#undef FD_SPLAT
#undef FD_MUL
#undef FD_ADD
#undef FD_KEPT
#undef FD_KEEP_OR_ZERO
#undef FD_KEEP_OR
#undef FD_FN
#undef FD_DTYPE
#undef FD_REAL

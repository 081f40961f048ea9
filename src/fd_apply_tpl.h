/*
 * The one tile loop, for one dtype: makes the keep bits of a tile and applies them. Parameters:
 *
 *   FD_DTYPE   name of the dtype: load, store and the element type carry it
 *   FD_REAL    name of its compute type, f32 or f64: the arithmetic carries it
 *
 * and, over the primitives of the including file,
 *
 *   FD_LANES                      elements in a vector of the compute type
 *   load, store                   elements to and from the compute type; store rounds to nearest
 * even splat                         a double, rounded once to the compute type, in every lane mul,
 * add                      with one rounding each; never contracted into one kept(keep, i) keep
 * bits i .. i+lanes-1 of a tile as a lane mask; 32 divides i - (i mod 32), so the mask of a step is
 * made from one word keep_or_zero, keep_or         selects lanes; dropped lanes are never looked at
 */

#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_STORE FD_CAT(store, FD_DTYPE)
#define FD_ELEM FD_CAT(fd_elem, FD_DTYPE)
#define FD_REAL_T FD_CAT(v, FD_REAL)
#define FD_SPLAT FD_CAT(splat, FD_REAL)
#define FD_MUL FD_CAT(mul, FD_REAL)
#define FD_ADD FD_CAT(add, FD_REAL)
#define FD_KEPT FD_CAT(kept, FD_REAL)
#define FD_KEEP_OR_ZERO FD_CAT(keep_or_zero, FD_REAL)
#define FD_KEEP_OR FD_CAT(keep_or, FD_REAL)
#define FD_FN(op) FD_CAT(FD_CAT(op, FD_DTYPE), FD_ISA)

enum { FD_FN(fd_lanes) = sizeof(FD_REAL_T) / sizeof(FD_CAT(fd_elem, FD_REAL)) };

/* FD_STEP elements from a multiple of FD_STEP of the tile on. */
FD_INLINE void FD_FN(fd_step)(FD_ELEM *y, const FD_ELEM *x, const uint64_t *keep, unsigned i,
                              const FD_REAL_T values[3], int affine) {
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += FD_FN(fd_lanes)) {
        FD_REAL_T v = FD_MUL(FD_LOAD(x + lane), values[0]);
        if (affine)
            v = FD_KEEP_OR(FD_KEPT(keep, i + lane), FD_ADD(v, values[1]), values[2]);
        else
            v = FD_KEEP_OR_ZERO(FD_KEPT(keep, i + lane), v);
        FD_STORE(y + lane, v);
    }
}

/* Elements [i, i+n) of the tile, all within one step. */
FD_INLINE void FD_FN(fd_part)(FD_ELEM *y, const FD_ELEM *x, const uint64_t *keep, unsigned i,
                              unsigned n, const FD_REAL_T values[3], int affine) {
    FD_ELEM from[FD_STEP] = {0}, to[FD_STEP];
    const unsigned skip = i % FD_STEP;
    memcpy(from + skip, x, n * sizeof *x);
    FD_FN(fd_step)(to, from, keep, i - skip, values, affine);
    memcpy(y, to + skip, n * sizeof *y);
}

FD_INLINE void FD_FN(fd_apply)(FD_ELEM *y, const FD_ELEM *x, uint64_t first, size_t n,
                               const fd_stream *stream, const fd_values *scalars, int affine) {
    const FD_REAL_T values[3] = {FD_SPLAT(scalars->scale), FD_SPLAT(scalars->shift),
                                 FD_SPLAT(scalars->fill)};
    fd_schedule s;
    uint64_t keep[FD_TILE_WORDS];
    fd_schedule_init(&s, stream);
    for (uint64_t tile = first / FD_TILE; n; tile++) {
        unsigned i = (unsigned)(first % FD_TILE);
        const unsigned end = n < FD_TILE - i ? i + (unsigned)n : FD_TILE;
        first += end - i, n -= end - i;
        fd_tile_bits(keep, &s, tile, i, end);
        while (i < end) {
            unsigned count = FD_STEP - i % FD_STEP;
            if (count > end - i) count = end - i;
            if (count == FD_STEP)
                FD_FN(fd_step)(y, x, keep, i, values, affine);
            else
                FD_FN(fd_part)(y, x, keep, i, count, values, affine);
            i += count, x += count, y += count;
        }
    }
}

static void FD_FN(fd_plain)(void *y, const void *x, uint64_t first, size_t n,
                            const fd_stream *stream, const fd_values *values) {
    FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 0);
}

static void FD_FN(fd_affine)(void *y, const void *x, uint64_t first, size_t n,
                             const fd_stream *stream, const fd_values *values) {
    FD_FN(fd_apply)((FD_ELEM *)y, (const FD_ELEM *)x, first, n, stream, values, 1);
}

#undef FD_LOAD
#undef FD_STORE
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

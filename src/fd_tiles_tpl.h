/*
 * The one tile loop of an ISA: makes the keep bits of a tile, and between its groups applies those of
 * the tile before, so that arithmetic and memory overlap. What is done with the elements are `steps`, a
 * constant where the compiler is to make a loop for them alone.
 */

/* Elements from which it pays to align the stores. */
#define FD_ALIGNED_FROM (2 * FD_TILE)

/* Applies n keep bits, from bit i on, to the elements of a call from element `at` on. */
typedef void fd_steps_fn(const void *call, size_t at, const uint64_t *keep, unsigned i, unsigned n);

/* The arrays of a call, and the bytes of their elements. What is read beside x is of y's type. */
typedef struct {
    const char *y, *x, *beside; /* NULL: nothing beside x */
    unsigned y_item, x_item;
} fd_arrays;

/*
 * Three countings of elements meet here:
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
 * tiles. In memory, element `done` is y[done - lo]. Where there are rows, each tile has their next blocks
 * instead, whatever their numbers, and lo is 0.
 */
FD_INLINE void FD_CAT(fd_tiles, FD_ISA)(const void *call, fd_steps_fn *steps,
                                        const fd_arrays *arrays, uint64_t first, fd_cursor *rows,
                                        size_t n, const fd_stream *stream, int hints) {
    const uint64_t tile0 = first / FD_TILE, lo = first % FD_TILE, end = lo + n;
    const unsigned to_aligned = (unsigned)((64 - (uintptr_t)arrays->y % 64) % 64 / arrays->y_item);
    const unsigned skew = n < FD_ALIGNED_FROM ? 0 : (unsigned)(0 - lo - to_aligned) % FD_STEP;
    FD_ALIGNED uint64_t words[8 + FD_TILE_WORDS + 1] = {0}, strip[FD_TILE_WORDS];
    uint64_t *const keep = words + 7; /* so that the tile's are aligned */
    fd_schedule s;
    fd_tile tile;
    fd_schedule_init(&s, stream);
    if (s.last_plane < 0) fd_fill_keep(strip, &s);
    if (hints & FD_HINTS_TO_FETCH) {
        s.ahead.lines = fd_lines_a_plane(&s, FD_GROUP * arrays->x_item);
        s.ahead.to_l1 = hints & FD_HINT_NEXT;
    }
    uint64_t done = lo; /* elements before it are applied */
    for (uint64_t t = 0; done < end; t++) {
        /* tile t, as far as it is wanted, and the strip before it, as far as it is there */
        const uint64_t tile_at = t * FD_TILE;
        const unsigned tile_lo = t ? 0 : (unsigned)lo;
        const unsigned tile_hi = end <= tile_at            ? 0
                                 : end - tile_at < FD_TILE ? (unsigned)(end - tile_at)
                                                           : FD_TILE;
        const int wanted = s.last_plane >= 0 && tile_hi != 0;
        if (wanted && rows)
            fd_tile_rows(&tile, &s, rows, tile_hi);
        else if (wanted)
            fd_tile_range(&tile, &s, tile0 + t, tile_hi - tile_lo);
        for (unsigned group = 0; group < FD_GROUPS; group++) {
            if (s.ahead.lines)
                s.ahead.at = arrays->x + (done - lo) * arrays->x_item + fd_distance(hints);
            if (wanted && fd_touches(group, tile_lo, tile_hi))
                fd_tile_group(keep + 1, &tile, &s, group);
            if (t == 0) continue;
            uint64_t until = tile_at - FD_TILE + (group + 1) * FD_GROUP - skew;
            if (until > end) until = end;
            if (done >= until) continue;
            const unsigned i = (unsigned)(done + skew) % FD_TILE;
            steps(call, (size_t)(done - lo), strip, i, (unsigned)(until - done));
            done = until;
        }
        if (wanted && s.tails) fd_tile_tails(keep + 1, &tile, &s);
        if (s.last_plane >= 0) {
            fd_shift_keep(strip, keep, skew);
            keep[0] = keep[FD_TILE_WORDS];
        }
    }
    if (hints & FD_HINT_BYPASS) fence();
}

/* Other steps, with a fetch before each piece. */
typedef struct {
    fd_steps_fn *steps;
    const void *call;
    const fd_arrays *arrays;
    int x_too; /* not only what is read beside it */
} fd_fetched_steps;

/* Elements of a piece. With 128 or 512 float32 take 2 to 5 % longer. */
enum { FD_PIECE = 256 };

FD_INLINE void fd_fetch_piece(const char *x, size_t at, unsigned item) {
    fd_ahead ahead = {x + at * item + FD_AHEAD, FD_PIECE * item / 64, 0};
    fd_fetch(&ahead);
}

static void FD_CAT(fd_steps_by_piece, FD_ISA)(const void *fetched_, size_t at, const uint64_t *keep,
                                              unsigned i, unsigned n) {
    const fd_fetched_steps *fetched = (const fd_fetched_steps *)fetched_;
    const fd_arrays *arrays = fetched->arrays;
    for (unsigned count; n; at += count, i += count, n -= count) {
        if (fetched->x_too) fd_fetch_piece(arrays->x, at, arrays->x_item);
        if (arrays->beside) fd_fetch_piece(arrays->beside, at, arrays->y_item);
        count = FD_PIECE - i % FD_PIECE;
        if (count > n) count = n;
        fetched->steps(fetched->call, at, keep, i, count);
    }
}

/* Any steps, called: what is called most has loops of its own, but such of all operations and types
 * would take most of the compiler's time. */
FD_NOINLINE void FD_CAT(fd_tiles_any, FD_ISA)(const void *call, fd_steps_fn *steps,
                                              const fd_arrays *arrays, uint64_t first,
                                              fd_cursor *rows, size_t n, const fd_stream *stream,
                                              int hints) {
    const int few_planes = !fd_has_tails(stream->drop_threshold);
    const fd_fetched_steps fetched = {steps, call, arrays, few_planes};
    if (hints & FD_HINT_FETCH && (few_planes || arrays->beside)) {
        /* Few planes take little time: with a residual beside x it is 8 % less in all this way, with x alone none
         * to 7 %; steps in line would take 3 to 8 % more. Many planes have time for x but not for what is
         * beside it (2 to 14 % more with AVX-512, nothing with AVX2). */
        call = &fetched, steps = FD_CAT(fd_steps_by_piece, FD_ISA);
        if (few_planes) hints &= ~FD_HINT_FETCH;
    }
    FD_CAT(fd_tiles, FD_ISA)(call, steps, arrays, first, rows, n, stream, hints);
}

/*
 * Keep bits that are made already, on their way: runs of them put together, shifted, copied.
 */
#ifndef FD_BITS_H
#define FD_BITS_H

#include "fd_cursor.h"
#include "fd_schedule.h"

/*
 * Runs of up to 16 blocks, in any order, that all have b div 2^27 in common: run r takes n bits from
 * bit `from` of the list of blocks on (of 128 bits each), or one bit n times where runs are shared.
 * They follow each other in a strip, from bit `to` on; bits after the last are garbage, for which
 * there is a word more than the strip needs.
 */
enum { FD_MAX_RUNS = 256 };
typedef struct {
    uint16_t n, from;
} fd_run;
typedef struct fd_runs {
    int shared;
    unsigned to, n_blocks, n_runs;
    uint64_t region;                    /* b div 2^27 */
    uint32_t block[FD_TILE_BLOCKS + 1]; /* b mod 2^32; those after n_blocks are any */
    fd_run run[FD_MAX_RUNS];
} fd_runs;

FD_INLINE void fd_tile_list(fd_tile *tile, fd_schedule *s, const fd_runs *runs) {
    memcpy(tile->block, runs->block, sizeof tile->block);
    tile->in_order = 0;
    fd_schedule_for(s, runs->region << 27);
    memset(tile->tied, 0, sizeof tile->tied);
}

/* fd_window.c: the next n elements, up to a tile, of a walk whose runs are of whole blocks of one region. */
void fd_tile_rows(fd_tile *tile, fd_schedule *s, fd_cursor *rows, unsigned n);

/* The keep words of a tile where D decides all, p = 0 or 1. */
FD_INLINE void fd_fill_keep(uint64_t *keep, const fd_schedule *s) {
    memset(keep, s->drop_threshold == FD_KEEP_ALL ? 0xFF : 0, FD_TILE_WORDS * sizeof *keep);
}

/* The tile's keep words keep[1..] moved up by skew < 64 bits, into which keep[0]'s last come. */
FD_INLINE void fd_shift_keep(uint64_t *strip, const uint64_t *keep, unsigned skew) {
    if (skew == 0)
        memcpy(strip, keep + 1, FD_TILE_WORDS * sizeof *strip);
    else
        for (int w = 0; w < FD_TILE_WORDS; w++)
            strip[w] = keep[w + 1] << skew | keep[w] >> (64 - skew);
}

/* 64 bits from bit i of keep words on. */
FD_INLINE uint64_t fd_word_at(const uint64_t *keep, unsigned i) {
    return keep[i / 64] >> (i % 64) | keep[i / 64 + 1] << 1 << (63 - i % 64);
}

/* Copies n bits of a tile's keep words, from bit lo on, into bits [begin, begin+n) of out. */
FD_INLINE void fd_copy_bits(uint8_t *out, uint64_t begin, const uint64_t *keep, unsigned lo,
                            unsigned n) {
    out += begin / 8;
    unsigned shift = (unsigned)(begin % 8);
    if (!FD_BIG_ENDIAN && shift == 0 && lo % 64 == 0) { /* whole words to whole bytes */
        const unsigned words = n / 64;
        memcpy(out, keep + lo / 64, 8 * words);
        n -= 64 * words, lo += 64 * words, out += 8 * words;
    }
    while (n) {
        /* the next 64 bits, or what there is of them; up to n of them are wanted */
        uint64_t w = keep[lo / 64] >> (lo % 64);
        if (lo % 64 && n > 64 - lo % 64) w |= keep[lo / 64 + 1] << (64 - lo % 64);
        if (shift == 0 && n >= 64) {
            const uint64_t bytes = fd_little_endian(w);
            memcpy(out, &bytes, 8);
            out += 8, lo += 64, n -= 64;
        } else {
            const unsigned count = n < 8 - shift ? n : 8 - shift;
            const unsigned mask = ((1u << count) - 1) << shift;
            *out = (uint8_t)((*out & ~mask) | ((unsigned)(w << shift) & mask));
            lo += count, n -= count, shift = (shift + count) % 8;
            out += shift == 0;
        }
    }
}

#endif

/*
 * Stream v1: which random bits decide which element. Fixed for ever; never ISA-dependent.
 *
 * Philox4x32-10 with the seed as its key. Counter words of position s, tag t, block b (56 bits):
 *
 *     c0 = b mod 2^32     c1 = t * 2^24 + b div 2^32     c2 = s mod 2^32     c3 = s div 2^32
 *
 * Element i (0 <= i < 2^58, the C-order logical index) has a 40-bit uniform number U, most
 * significant bit first: bit 39-t is bit (i mod 128) of block (i div 128) under tag t = 0..7, a
 * "plane"; the low 32 bits are word (i mod 4) of block (i div 4) under tag 8, the "tail". The
 * element is dropped iff U < D, D = drop_threshold = round_half_even(p * 2^40).
 *
 * Only as many planes are read as D has significant bits among its top 8, and a tail only where
 * all 8 planes agree with D (1 element in 256), and none at all where D's low 32 bits are zero.
 */
#ifndef FD_STREAM_H
#define FD_STREAM_H

#include "fd_philox.h"
#include "fastdrop.h"

enum { FD_STREAM_VERSION = 1 }; /* what everything that is saved carries */

/* Every tag in use. A plane's tag is its number. 11..255 are reserved. */
enum {
    FD_TAG_TAIL = 8,
    FD_TAG_SPAWN = 9,   /* seeds of a generator's children: words 0 and 1 of block = child number */
    FD_TAG_NORMAL = 10, /* Gaussian noise: word i mod 4 of block i div 4; see fd_normal_tpl.h */
    FD_TAGS
};

enum {
    FD_PLANES = 8,                       /* tags 0..7 */
    FD_BLOCK = 128,                      /* elements that one block of a plane decides */
    FD_TILE_BLOCKS = 16,                 /* 16 blocks from a multiple of 16: no carry */
    FD_TILE = FD_TILE_BLOCKS * FD_BLOCK, /* elements */
    FD_TILE_WORDS = FD_TILE / 64,        /* 64-bit words of bits; bit j of word w is   */
                                         /* element 64w + j of the tile                */
};

#define FD_KEEP_ALL 0ull         /* drop_threshold of p = 0 */
#define FD_DROP_ALL (1ull << 40) /* drop_threshold of p = 1 */

FD_INLINE void fd_stream_block(uint32_t out[4], uint64_t seed, uint64_t position, unsigned tag,
                               uint64_t block) {
    const uint32_t counter[4] = {(uint32_t)block,
                                 (uint32_t)tag << 24 | (uint32_t)(block >> 32 & 0xFFFFFF),
                                 (uint32_t)position, (uint32_t)(position >> 32)};
    fd_philox_block(out, counter, seed);
}

/*
 * What the lanes of a group of blocks share, worked out once in scalar code. All blocks of a group
 * have the same key, position and high block bits, and planes differ in nothing but the tag, so
 *
 *   round 1   c0 = high(M1 c2) ^ c1 ^ k0    one scalar a tag
 *             c1 = low(M1 c2)               one scalar
 *             c2, c3                        vectors, the same for every tag
 *   round 2   M0 c0                         one scalar product a tag: its high word enters c2
 *                                           (enter2), its low word is c3 (enter3)
 *             c0, c1                        vectors, the same for every tag
 *   round 3   M0 c0                         one vector product, the same for every tag
 *
 * A tag then costs one product in round 3 and two in each of rounds 4 to 10.
 */
typedef struct fd_schedule {
    uint32_t k0[FD_PHILOX_ROUNDS], k1[FD_PHILOX_ROUNDS]; /* round keys */
    uint32_t c2, c3;                                     /* the position */
    uint32_t block_high; /* b div 2^32 that enter2, enter3 are for */
    uint32_t round1_c1;
    uint32_t enter2[FD_TAGS], enter3[FD_TAGS]; /* by tag */
    uint64_t drop_threshold;
    int last_plane; /* the least significant plane that is read; -1: none (p = 0 or 1) */
    int tails;      /* whether ties are settled by tails */
} fd_schedule;

/* The scalars of one block_high for tag t. */
FD_INLINE void fd_schedule_tag(fd_schedule *s, unsigned tag, uint32_t block_high) {
    const uint64_t p1 = (uint64_t)FD_PHILOX_M1 * s->c2;
    const uint32_t c0 = (uint32_t)(p1 >> 32) ^ ((uint32_t)tag << 24 | block_high) ^ s->k0[0];
    const uint64_t p0 = (uint64_t)FD_PHILOX_M0 * c0;
    s->enter2[tag] = (uint32_t)(p0 >> 32);
    s->enter3[tag] = (uint32_t)p0;
}

FD_INLINE void fd_schedule_planes(fd_schedule *s, uint32_t block_high) {
    s->block_high = block_high;
    for (int tag = 0; tag <= s->last_plane; tag++) fd_schedule_tag(s, (unsigned)tag, block_high);
}

FD_INLINE void fd_schedule_init(fd_schedule *s, const fd_stream *stream) {
    const uint64_t d = stream->drop_threshold;
    uint32_t k0 = (uint32_t)stream->seed, k1 = (uint32_t)(stream->seed >> 32);
    for (int round = 0; round < FD_PHILOX_ROUNDS; round++) {
        s->k0[round] = k0, s->k1[round] = k1;
        k0 += FD_PHILOX_W0, k1 += FD_PHILOX_W1;
    }
    s->c2 = (uint32_t)stream->position, s->c3 = (uint32_t)(stream->position >> 32);
    s->round1_c1 = (uint32_t)FD_PHILOX_M1 * s->c2;
    s->drop_threshold = d;
    s->tails = (uint32_t)d != 0;
    if (d == FD_KEEP_ALL || d == FD_DROP_ALL)
        s->last_plane = -1;
    else
        s->last_plane = s->tails ? FD_PLANES - 1 : 39 - (int)fd_ctz64(d);
    fd_schedule_planes(s, 0);
}

/* Whether plane t's bit of D is 1. */
FD_INLINE int fd_schedule_bit(const fd_schedule *s, int plane) {
    return (int)(s->drop_threshold >> (39 - plane) & 1);
}

/*
 * Up to 16 blocks of the planes whose bits are made together: a range's, or any that have b div 2^27
 * in common, so that the high counter words of planes and of tails are the same for all.
 */
typedef struct {
    int in_order;                       /* whether each block follows the one before it: then */
    uint32_t block[FD_TILE_BLOCKS + 1]; /* only the first is here. b mod 2^32; the 17th is any */
    uint32_t tail_high;                 /* high block word of the tails */
    uint64_t tied[FD_TILE_WORDS];       /* elements that the planes leave undecided */
} fd_tile;

FD_INLINE void fd_tile_init(fd_tile *tile, fd_schedule *s, uint64_t block) {
    /* block b of the planes has the elements of blocks 32b .. 32b+31 of the tails */
    tile->tail_high = (uint32_t)(block >> 27);
    if ((uint32_t)(block >> 32) != s->block_high) fd_schedule_planes(s, (uint32_t)(block >> 32));
}

/* Tile number `number` of the stream, of which n elements are wanted. */
FD_INLINE void fd_tile_range(fd_tile *tile, fd_schedule *s, uint64_t number, unsigned n) {
    const uint64_t block = number * FD_TILE_BLOCKS;
    tile->block[0] = (uint32_t)block;
    tile->in_order = 1;
    fd_tile_init(tile, s, block);
    if (n != FD_TILE) memset(tile->tied, 0, sizeof tile->tied);
}

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
    fd_tile_init(tile, s, runs->region << 27);
    memset(tile->tied, 0, sizeof tile->tied);
}

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
    if (shift == 0 && lo % 64 == 0) /* whole words to whole bytes */
        for (; n >= 64; n -= 64, lo += 64, out += 8) {
            const uint64_t bytes = fd_little_endian(keep[lo / 64]);
            memcpy(out, &bytes, 8);
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

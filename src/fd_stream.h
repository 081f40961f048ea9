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
    FD_TILE_WORDS = FD_TILE / 64         /* 64-bit words of bits; bit j of word w is */
                                         /* element 64w + j of the tile              */
};

#define FD_KEEP_ALL 0ull         /* drop_threshold of p = 0 */
#define FD_DROP_ALL (1ull << 40) /* drop_threshold of p = 1 */

/* round_half_even(p * 2^40), whatever the rounding mode; the product is exact. */
FD_INLINE uint64_t fd_drop_threshold(double p) {
    const double product = p * 0x1p40;
    const uint64_t whole = (uint64_t)product;
    const double rest = product - (double)whole;
    return whole + (rest > 0.5 || (rest == 0.5 && whole % 2));
}

/* Whether ties remain after the planes, of which all are made then, and are settled by tails. */
FD_INLINE int fd_has_tails(uint64_t drop_threshold) { return (uint32_t)drop_threshold != 0; }

/* The planes that are made, from the most significant on; 0: D alone decides all. */
FD_INLINE int fd_planes_read(uint64_t drop_threshold) {
    if (drop_threshold == FD_KEEP_ALL || drop_threshold == FD_DROP_ALL) return 0;
    return fd_has_tails(drop_threshold) ? FD_PLANES : 40 - (int)fd_ctz64(drop_threshold);
}

/* 1 / (1-p); 0 where no element is kept and none is ever scaled. */
FD_INLINE double fd_scale(double p) {
    return fd_drop_threshold(p) < FD_DROP_ALL ? 1.0 / (1.0 - p) : 0.0;
}

FD_INLINE void fd_stream_block(uint32_t out[4], uint64_t seed, uint64_t position, unsigned tag,
                               uint64_t block) {
    const uint32_t counter[4] = {(uint32_t)block,
                                 (uint32_t)tag << 24 | (uint32_t)(block >> 32 & 0xFFFFFF),
                                 (uint32_t)position, (uint32_t)(position >> 32)};
    fd_philox_block(out, counter, seed);
}

#endif

/*
 * How the stream's bits are made fast: what the blocks of a group and the planes of a block share, worked
 * out once. fd_stream.h says which bits they are.
 */
#ifndef FD_SCHEDULE_H
#define FD_SCHEDULE_H

#include "fd_stream.h"

/*
 * Memory that will be read next, or some thousand bytes on. It is fetched while bits are made, a few lines a
 * plane, so that bits do not wait for memory nor memory for bits.
 */
typedef struct fd_ahead {
    const char *at;
    unsigned lines; /* of 64 bytes, a plane; 0: none */
    int to_l1;      /* not to the second-level cache */
} fd_ahead;

/*
 * What the lanes of a group of blocks share, worked out once in scalar code. All blocks of a group
 * have the same key, position and high block bits, and planes differ in nothing but the tag, so
 *
 *   round 1   c0 = high(M1 c2) ^ c1 ^ k0    one scalar a tag
 *             c1 = low(M1 c2)               one scalar
 *             c2, c3                        vectors, the same for every tag
 *   round 2   M0 c0                         one scalar product a tag: its high word enters c2
 *                                           (enter2), its low word is c3, which enters c2 of
 *                                           round 3 with that round's key (enter3)
 *             c0, c1                        vectors, the same for every tag
 *   round 3   M0 c0                         one vector product, the same for every tag
 *
 * A tag then costs one product in round 3 and two in each of rounds 4 to 10.
 */
typedef struct fd_schedule {
    uint32_t k0[FD_PHILOX_ROUNDS], k1[FD_PHILOX_ROUNDS]; /* round keys */
    uint32_t c2, c3;                                     /* the position */
    uint32_t region; /* b div 2^27 that enter2, enter3 are for; see fd_words_fn */
    uint32_t round1_c1;
    uint32_t enter2[FD_TAGS], enter3[FD_TAGS]; /* by tag */
    uint64_t drop_threshold;
    int last_plane; /* the least significant plane that is read; -1: none (p = 0 or 1) */
    int tails;      /* whether ties are settled by tails */
    fd_ahead ahead; /* of x, fetched while the next group's bits are made */
} fd_schedule;

/* The scalars of one block_high for tag t. */
FD_INLINE void fd_schedule_tag(fd_schedule *s, unsigned tag, uint32_t block_high) {
    const uint64_t p1 = (uint64_t)FD_PHILOX_M1 * s->c2;
    const uint32_t c0 = (uint32_t)(p1 >> 32) ^ ((uint32_t)tag << 24 | block_high) ^ s->k0[0];
    const uint64_t p0 = (uint64_t)FD_PHILOX_M0 * c0;
    s->enter2[tag] = (uint32_t)(p0 >> 32);
    s->enter3[tag] = (uint32_t)p0 ^ s->k1[2];
}

/* Those of all planes, and of the tails, for blocks of one region. */
FD_INLINE void fd_schedule_region(fd_schedule *s, uint32_t region) {
    s->region = region;
    for (int tag = 0; tag <= s->last_plane; tag++) fd_schedule_tag(s, (unsigned)tag, region >> 5);
    if (s->tails) fd_schedule_tag(s, FD_TAG_TAIL, region);
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
    s->tails = fd_has_tails(d);
    s->last_plane = fd_planes_read(d) - 1;
    fd_schedule_region(s, 0);
    s->ahead = (fd_ahead){NULL, 0, 0};
}

/* The lines a plane by which a group's planes fetch so many bytes. */
FD_INLINE unsigned fd_lines_a_plane(const fd_schedule *s, size_t n_bytes) {
    const unsigned planes = (unsigned)s->last_plane + 1;
    return planes ? ((unsigned)n_bytes / 64 + planes - 1) / planes : 0;
}

/* The next lines. */
FD_INLINE void fd_fetch(fd_ahead *ahead) {
    const size_t n_bytes = 64 * (size_t)ahead->lines;
    if (ahead->to_l1)
        for (size_t at = 0; at < n_bytes; at += 64) FD_PREFETCH_FIRST(ahead->at + at);
    else
        for (size_t at = 0; at < n_bytes; at += 64) FD_PREFETCH(ahead->at + at);
    ahead->at += n_bytes;
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
    FD_ALIGNED uint64_t tied[FD_TILE_WORDS]; /* elements that the planes leave undecided */
    int in_order;                       /* whether each block follows the one before it: then */
    uint32_t block[FD_TILE_BLOCKS + 1]; /* only the first is here. b mod 2^32; the 17th is any */
} fd_tile;

/* The tile's blocks, of which `block` is one, are made next. */
FD_INLINE void fd_schedule_for(fd_schedule *s, uint64_t block) {
    if ((uint32_t)(block >> 27) != s->region) fd_schedule_region(s, (uint32_t)(block >> 27));
}

/* Tile number `number` of the stream, of which n elements are wanted. */
FD_INLINE void fd_tile_range(fd_tile *tile, fd_schedule *s, uint64_t number, unsigned n) {
    const uint64_t block = number * FD_TILE_BLOCKS;
    tile->block[0] = (uint32_t)block;
    tile->in_order = 1;
    fd_schedule_for(s, block);
    if (n != FD_TILE) memset(tile->tied, 0, sizeof tile->tied);
}

#endif

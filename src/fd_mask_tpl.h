/*
 * Keep bits of one tile, and of ranges and short runs by themselves, written once over the vector
 * primitives of the including file:
 *
 *   V_BLOCKS             blocks in a group, one a lane
 *   V_PLANES             planes of a group that are worked side by side, 1 or 2
 *   v_word               one 32-bit word of each block; bits above the word are ignored
 *   v_set1, v_iota       a scalar in every lane; base + lane number
 *   v_for_group          V_BLOCKS words from memory, in the order of v_iota
 *   v_xor, v_xor3        exclusive or of two, of three, the first of which is known last
 *   v_mul                the v_prod of a word and a scalar: 32 x 32 -> 64 bits
 *   v_hi, v_lo           their high and low words
 *   v_pair, v_pair_of    v_pair_of(prod, before, k): the words (low of prod, high ^ low of before ^ k) of
 *                        each lane, densely
 *   v_and v_or v_andnot  on v_pair; v_andnot(a, b) is ~a & b
 *   v_ones               a v_pair of ones
 *   v_put(dst, p01, p23) 2 * V_BLOCKS 64-bit words of bits in stream order, from the pairs
 *                        (c1, c0) and (c3, c2)
 *   fence                makes stores around the caches visible
 *   v_nonzero(words)     bit j: word j of the tile's FD_TILE_WORDS is not zero
 *
 * and over these, in whose lanes blocks are in the order of memory, so that v_put is not for them:
 *
 *   v_ties               V_BLOCKS elements of a tile, 16 bits each
 *   v_ties_of, v_put_ties  one element in all places; to memory
 *   v_push(ties, e)      e before all but the last
 *   v_quarters(ties, b)  the v_word b + e / 4 of each
 *   v_for_ties           V_BLOCKS words from memory, read one by one (see fd_scalar)
 *   v_put_tails(dst, ties, p01, p23)  word e mod 4 of each one's block
 *
 * A group of V_BLOCKS blocks is worked plane by plane, V_PLANES at a time, least significant first. With u the bit of
 * a plane and d the same bit of D, keep = (U >= D) obeys
 *
 *     keep = d ? keep & u : keep | u       from the less significant planes on
 *
 * and a tie, U and D equal in all planes, is an AND of u or ~u. Bits stay in the order in which the
 * lanes produce them until the last plane is done.
 */

#define FD_GROUP_WORDS (2 * V_BLOCKS)
#define FD_GROUP (V_BLOCKS * FD_BLOCK)
#define FD_GROUPS (FD_TILE / FD_GROUP)

/* What the tags of a group share, after round 3 (see fd_schedule). */
typedef struct {
    v_word round2_c2; /* c3 ^ k1 of round 2: lacks enter2 */
    v_word round3_c0; /* c1 ^ k0 of round 3: lacks high(M1 c2) */
    v_word round3_c2; /* high(M0 c0) of round 3: lacks enter3 */
    v_word round4_c2; /* c3 ^ k1 of round 4: lacks high(M0 c0) */
} fd_group;

FD_INLINE void fd_group_begin(fd_group *g, const fd_schedule *s, v_word c0) {
    v_prod p0 = v_mul(c0, FD_PHILOX_M0);
    v_word c2 = v_xor(v_hi(p0), v_set1(s->c3 ^ s->k1[0]));
    v_word c3 = v_lo(p0);
    v_prod p1 = v_mul(c2, FD_PHILOX_M1);
    c0 = v_xor(v_hi(p1), v_set1(s->round1_c1 ^ s->k0[1]));
    g->round2_c2 = v_xor(c3, v_set1(s->k1[1]));
    g->round3_c0 = v_xor(v_lo(p1), v_set1(s->k0[2]));
    p0 = v_mul(c0, FD_PHILOX_M0);
    g->round3_c2 = v_hi(p0);
    g->round4_c2 = v_xor(v_lo(p0), v_set1(s->k1[3]));
}

/*
 * The blocks' 128 bits under each of n tags, from `tag` down, as the pairs (c1, c0) and (c3, c2). Rounds of all
 * stand side by side: while one tag's waits for the round before, the other's goes on.
 */
FD_INLINE void fd_group_tags(v_pair *p01, v_pair *p23, const fd_group *g, const fd_schedule *s,
                             int tag, int n) {
    v_prod p0[V_PLANES], p1[V_PLANES];
    v_word c0[V_PLANES], c1[V_PLANES], c2[V_PLANES], c3[V_PLANES];
    FD_UNROLL
    for (int i = 0; i < n; i++) {
        p1[i] = v_mul(v_xor(g->round2_c2, v_set1(s->enter2[tag - i])), FD_PHILOX_M1);
        c0[i] = v_xor(v_hi(p1[i]), g->round3_c0);
        c1[i] = v_lo(p1[i]);
        c2[i] = v_xor(g->round3_c2, v_set1(s->enter3[tag - i]));
        p0[i] = v_mul(c0[i], FD_PHILOX_M0);
        p1[i] = v_mul(c2[i], FD_PHILOX_M1);
        c0[i] = v_xor3(v_hi(p1[i]), c1[i], v_set1(s->k0[3]));
        c2[i] = v_xor(v_hi(p0[i]), g->round4_c2);
    }
    FD_UNROLL
    for (int round = 4; round < FD_PHILOX_ROUNDS - 1; round++) {
        FD_UNROLL
        for (int i = 0; i < n; i++) {
            c1[i] = v_lo(p1[i]);
            c3[i] = v_lo(p0[i]);
            p0[i] = v_mul(c0[i], FD_PHILOX_M0);
            p1[i] = v_mul(c2[i], FD_PHILOX_M1);
            c0[i] = v_xor3(v_hi(p1[i]), c1[i], v_set1(s->k0[round]));
            c2[i] = v_xor3(v_hi(p0[i]), c3[i], v_set1(s->k1[round]));
        }
    }
    FD_UNROLL
    for (int i = 0; i < n; i++) {
        p01[i] = v_pair_of(v_mul(c2[i], FD_PHILOX_M1), p1[i], s->k0[FD_PHILOX_ROUNDS - 1]);
        p23[i] = v_pair_of(v_mul(c0[i], FD_PHILOX_M0), p0[i], s->k1[FD_PHILOX_ROUNDS - 1]);
    }
}

/* What the planes so far have decided of a group: keep bits, ties counted as dropped, and the ties themselves. */
typedef struct {
    v_pair keep01, keep23, tied01, tied23;
} fd_decided;

/* What V_PLANES more planes decide, whose bits are u; bit i of d, which is a constant, is D's bit of the i-th. */
FD_INLINE void fd_group_decide(fd_decided *k, const v_pair *u01, const v_pair *u23, unsigned d) {
    FD_UNROLL
    for (int i = 0; i < V_PLANES; i++) {
        if (d >> i & 1) {
            k->keep01 = v_and(k->keep01, u01[i]), k->keep23 = v_and(k->keep23, u23[i]);
            k->tied01 = v_and(k->tied01, u01[i]), k->tied23 = v_and(k->tied23, u23[i]);
        } else {
            k->keep01 = v_or(k->keep01, u01[i]), k->keep23 = v_or(k->keep23, u23[i]);
            k->tied01 = v_andnot(u01[i], k->tied01), k->tied23 = v_andnot(u23[i], k->tied23);
        }
    }
}

/* Keep bits of one group, ties counted as dropped, and the ties themselves; what lies ahead is fetched. */
FD_INLINE void fd_group_bits(uint64_t *keep, uint64_t *tied, const fd_schedule *s, v_word c0,
                             fd_ahead *ahead) {
    fd_group g;
    fd_decided k;
    v_pair u01[V_PLANES], u23[V_PLANES];
    int plane = s->last_plane;
    fd_group_begin(&g, s, c0);
    if ((plane + 1) % V_PLANES == 0 && V_PLANES > 1) { /* in pairs from the start */
        k.keep01 = k.keep23 = s->tails ? v_andnot(v_ones(), v_ones()) : v_ones();
        k.tied01 = k.tied23 = v_ones();
    } else { /* the last plane by itself */
        fd_group_tags(&k.keep01, &k.keep23, &g, s, plane, 1);
        if (ahead) fd_fetch(ahead);
        k.tied01 = k.keep01, k.tied23 = k.keep23;
        if (!fd_schedule_bit(s, plane)) { /* only where tails follow: else D's last bit is 1 */
            k.tied01 = v_andnot(k.tied01, v_ones());
            k.tied23 = v_andnot(k.tied23, v_ones());
        } else if (s->tails) {
            k.keep01 = v_andnot(v_ones(), k.keep01);
            k.keep23 = v_andnot(v_ones(), k.keep23);
        }
        plane--;
    }
    for (; plane >= 0; plane -= V_PLANES) {
        fd_group_tags(u01, u23, &g, s, plane, V_PLANES);
        for (int i = 0; ahead && i < V_PLANES; i++) fd_fetch(ahead);
        switch (s->drop_threshold >> (39 - plane) & ((1 << V_PLANES) - 1)) {
            case 0:
                fd_group_decide(&k, u01, u23, 0);
                break;
            case 1:
                fd_group_decide(&k, u01, u23, 1);
                break;
            case 2:
                fd_group_decide(&k, u01, u23, 2);
                break;
            case 3:
                fd_group_decide(&k, u01, u23, 3);
                break;
        }
    }
    v_put(keep, k.keep01, k.keep23);
    if (s->tails) v_put(tied, k.tied01, k.tied23);
}

/* Group number `group` of a tile, into its place in the tile's keep and tied words. */
FD_INLINE void fd_group_of_tile(uint64_t *keep, fd_tile *tile, const fd_schedule *s, unsigned group,
                                fd_ahead *ahead) {
    const unsigned first = group * V_BLOCKS, word = group * FD_GROUP_WORDS;
    const v_word c0 =
        tile->in_order ? v_iota(tile->block[0] + first) : v_for_group(tile->block + first);
    fd_group_bits(keep + word, tile->tied + word, s, c0, ahead);
}

FD_NOINLINE void fd_group_alone(uint64_t *keep, fd_tile *tile, const fd_schedule *s,
                                unsigned group) {
    fd_group_of_tile(keep, tile, s, group, NULL);
}

FD_NOINLINE void fd_group_fetching(uint64_t *keep, fd_tile *tile, fd_schedule *s, unsigned group) {
    fd_ahead ahead = s->ahead;
    fd_group_of_tile(keep, tile, s, group, &ahead);
    s->ahead = ahead;
}

/* The 128 bits of each of 16 blocks under one tag, from a multiple of 16 on: see fd_words_fn. */
FD_INLINE void fd_tag_words(uint64_t *words, fd_schedule *s, unsigned tag, uint64_t block) {
    fd_schedule_tag(s, tag, (uint32_t)(block >> 32));
    FD_UNROLL
    for (unsigned group = 0; group < FD_TILE_BLOCKS; group += V_BLOCKS) {
        fd_group g;
        v_pair p01, p23;
        fd_group_begin(&g, s, v_iota((uint32_t)block + group));
        fd_group_tags(&p01, &p23, &g, s, (int)tag, 1);
        v_put(words + 2 * group, p01, p23);
    }
}

static void FD_CAT(fd_words, FD_ISA)(uint64_t *words, fd_schedule *s, unsigned tag,
                                     uint64_t block) {
    fd_tag_words(words, s, tag, block);
}

/* Keep bits of elements whose tails decide. */
FD_INLINE void fd_settle(uint64_t *keep, const fd_tile *tile, const fd_schedule *s, v_ties ties) {
    const uint32_t threshold = (uint32_t)s->drop_threshold;
    FD_ALIGNED uint16_t e[V_BLOCKS];
    FD_ALIGNED uint32_t tail[V_BLOCKS];
    v_word block;
    v_pair p01, p23;
    fd_group g;
    v_put_ties(e, ties);
    /* a block of the planes has the elements of 32 blocks of tails */
    if (tile->in_order) {
        block = v_quarters(ties, 32 * tile->block[0]);
    } else {
        uint32_t blocks[V_BLOCKS];
        FD_UNROLL
        for (unsigned lane = 0; lane < V_BLOCKS; lane++)
            blocks[lane] = 32 * tile->block[e[lane] / FD_BLOCK] + e[lane] % FD_BLOCK / 4;
        block = v_for_ties(blocks);
    }
    fd_group_begin(&g, s, block);
    fd_group_tags(&p01, &p23, &g, s, FD_TAG_TAIL, 1);
    v_put_tails(tail, ties, p01, p23);
    FD_UNROLL
    for (unsigned lane = 0; lane < V_BLOCKS; lane++)
        keep[e[lane] / 64] |= (uint64_t)(tail[lane] >= threshold) << (e[lane] % 64);
}

/*
 * Settles the ties of a tile by their tails, V_BLOCKS at a time. A tile has 8 on average; where fewer are
 * left, the others are element FD_TILE, for which keep has a word to spare.
 */
FD_NOINLINE void fd_tile_tails(uint64_t *keep, const fd_tile *tile, const fd_schedule *s) {
    uint32_t words = v_nonzero(tile->tied); /* whose ties are still to be settled, */
    uint64_t bits = 0;                      /* after those of word w */
    unsigned w = 0;
    while (words || bits) {
        v_ties ties = v_ties_of(FD_TILE);
        for (unsigned n = 0; n < V_BLOCKS; n++) {
            if (bits == 0) {
                if (words == 0) break;
                w = fd_ctz64(words), words &= words - 1;
                bits = tile->tied[w];
            }
            ties = v_push(ties, 64 * w + fd_ctz64(bits));
            bits &= bits - 1;
        }
        fd_settle(keep, tile, s, ties);
    }
}

FD_INLINE void fd_tile_group(uint64_t *keep, fd_tile *tile, fd_schedule *s, unsigned group) {
    if (s->ahead.lines)
        fd_group_fetching(keep, tile, s, group);
    else
        fd_group_alone(keep, tile, s, group);
}

FD_INLINE int fd_touches(unsigned group, unsigned lo, unsigned hi) {
    return lo < (group + 1) * FD_GROUP && group * FD_GROUP < hi;
}

/* Keep bits of elements [lo, hi) of a tile into their places in keep. */
FD_INLINE void fd_tile_bits(uint64_t *keep, fd_tile *tile, fd_schedule *s, unsigned lo,
                            unsigned hi) {
    if (s->last_plane < 0) {
        fd_fill_keep(keep, s);
        return;
    }
    for (unsigned group = 0; group < FD_GROUPS; group++)
        if (fd_touches(group, lo, hi)) fd_tile_group(keep, tile, s, group);
    if (s->tails) fd_tile_tails(keep, tile, s);
}

/* Keep bits alone: see fd_bits_fn. */
static void FD_CAT(fd_bits, FD_ISA)(uint8_t *out, uint64_t begin, uint64_t first, fd_cursor *rows,
                                    uint64_t n, const fd_stream *stream) {
    fd_schedule s;
    fd_tile tile;
    FD_ALIGNED uint64_t keep[FD_TILE_WORDS + 1];
    fd_schedule_init(&s, stream);
    while (n) {
        const unsigned lo = (unsigned)(first % FD_TILE);
        const unsigned count = n < FD_TILE - lo ? (unsigned)n : FD_TILE - lo;
        if (rows)
            fd_tile_rows(&tile, &s, rows, count);
        else
            fd_tile_range(&tile, &s, first / FD_TILE, count);
        fd_tile_bits(keep, &tile, &s, lo, lo + count);
        fd_copy_bits(out, begin, keep, lo, count);
        first += count, begin += count, n -= count;
    }
}

/* Keep bits of short runs: see fd_runs. */
static void FD_CAT(fd_gather, FD_ISA)(uint64_t *strip, const fd_runs *runs, fd_schedule *s,
                                      size_t item) {
    fd_tile tile;
    FD_ALIGNED uint64_t keep[FD_TILE_WORDS + 2];
    unsigned to = runs->to;
    s->ahead.lines = fd_lines_a_plane(s, FD_GROUP * item);
    fd_tile_list(&tile, s, runs);
    memset(keep, 0, sizeof keep);
    fd_tile_bits(keep, &tile, s, 0, runs->n_blocks * FD_BLOCK);
    uint64_t word = strip[to / 64]; /* of the strip, being filled */
    for (const fd_run *r = runs->run; r < runs->run + runs->n_runs; r++) {
        unsigned from = r->from, n = r->n, at = to % 64;
        const uint64_t one = 0 - (keep[from / 64] >> (from % 64) & 1);
        const uint64_t w = runs->shared ? one : fd_word_at(keep, from);
        word = (word & ((1ull << at) - 1)) | w << at;
        strip[to / 64] = word;
        if (n <= 64) {
            /* no branch on whether they fill the word, for it would be mispredicted */
            const uint64_t full = 0 - (uint64_t)((at + n) / 64);
            word = (word & ~full) | (w >> 1 >> (63 - at) & full);
        } else {
            uint64_t *rest = strip + to / 64 + 1;
            const unsigned words = (at + n) / 64 - 1;
            from += 64 - at;
            for (unsigned i = 0; i < words; i++)
                rest[i] = runs->shared ? one : fd_word_at(keep + i, from);
            word = runs->shared ? one : fd_word_at(keep + words, from);
        }
        to += n;
    }
    strip[to / 64] = word;
}

static void FD_CAT(fd_fence, FD_ISA)(void) { fence(); }

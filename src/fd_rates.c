/*
 * Elements with a rate each. The stream's numbers U are made by the tile, their upper 8 bits as bytes; a
 * byte decides against that of the element's threshold, and where they are equal, once in 256 elements, the
 * 32 bits below do.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

/* One tile's numbers. Windows come to the same tile again and again, so the last one is kept. */
typedef struct {
    const fd_kernels *k;
    fd_schedule schedule;
    uint64_t number; /* of the tile; none at first */
    uint8_t top[FD_TILE];
    uint64_t piece; /* which 64 elements tails are of; none at first */
    uint64_t tails[2 * FD_TILE_BLOCKS];
} numbers;

#define NONE UINT64_MAX

static void numbers_init(numbers *u, const fd_kernels *k, const fd_stream *stream) {
    u->k = k;
    fd_schedule_init(&u->schedule, stream);
    u->number = u->piece = NONE;
}

/* Swaps what mask has of b with what it has of a, shift bits up. */
FD_INLINE void swap_bits(uint64_t *a, uint64_t *b, uint64_t mask, int shift) {
    const uint64_t differ = (*a >> shift ^ *b) & mask;
    *b ^= differ, *a ^= differ << shift;
}

/* The transpose of an 8 x 8 matrix of bits, a byte a row. */
FD_INLINE uint64_t transposed(uint64_t m) {
    uint64_t t = (m ^ m >> 7) & 0x00AA00AA00AA00AA;
    m ^= t ^ t << 7;
    t = (m ^ m >> 14) & 0x0000CCCC0000CCCC;
    m ^= t ^ t << 14;
    t = (m ^ m >> 28) & 0x00000000F0F0F0F0;
    return m ^ t ^ t << 28;
}

/* The bytes of 64 elements from eight words of bits, of which row[7] is the most significant. */
FD_INLINE void bytes_of(uint8_t *top, uint64_t row[8]) {
    for (int i = 0; i < 4; i++) swap_bits(&row[i], &row[i + 4], 0x00000000FFFFFFFF, 32);
    for (int i = 0; i < 8; i += i % 2 ? 3 : 1)
        swap_bits(&row[i], &row[i + 2], 0x0000FFFF0000FFFF, 16);
    for (int i = 0; i < 8; i += 2) swap_bits(&row[i], &row[i + 1], 0x00FF00FF00FF00FF, 8);
    for (int i = 0; i < 8; i++) {
        const uint64_t bytes = fd_little_endian(transposed(row[i]));
        memcpy(top + 8 * i, &bytes, sizeof bytes);
    }
}

/* The upper bytes of the elements of a tile. */
static const uint8_t *tops_of(numbers *u, uint64_t number) {
    if (u->number == number) return u->top;
    uint64_t planes[FD_PLANES][FD_TILE_WORDS];
    for (unsigned plane = 0; plane < FD_PLANES; plane++)
        u->k->words(planes[plane], &u->schedule, plane, number * FD_TILE_BLOCKS);
    for (unsigned word = 0; word < FD_TILE_WORDS; word++) {
        uint64_t row[FD_PLANES];
        for (int plane = 0; plane < FD_PLANES; plane++) row[7 - plane] = planes[plane][word];
        bytes_of(u->top + 64 * word, row);
    }
    u->number = number;
    return u->top;
}

/* The lower 32 bits of an element's number. */
static uint32_t tail_of(numbers *u, uint64_t index) {
    if (u->piece != index / 64) {
        u->piece = index / 64;
        u->k->words(u->tails, &u->schedule, FD_TAG_TAIL, u->piece * FD_TILE_BLOCKS);
    }
    return (uint32_t)(u->tails[index % 64 / 2] >> 32 * (index % 2));
}

/* ---- decisions ------------------------------------------------------------------------------- */

/* Bit j of a word from byte j of eight, each 0 or 1; the first byte in memory is the lowest. */
FD_INLINE uint64_t packed(const uint8_t *bytes) {
    uint64_t m;
    memcpy(&m, bytes, sizeof m);
    return fd_little_endian(m) * 0x0102040810204080 >> 56;
}

/* Elements that follow each other in the stream, at most FD_TILE, and their rates. */
typedef struct {
    uint64_t index; /* of the first */
    unsigned n;
    const double *p;
} segment;

/* Its keep bits, from bit 0 on; those after the last are any. */
static void decide(uint64_t *keep, numbers *u, const segment *s) {
    const uint8_t *top = tops_of(u, s->index / FD_TILE) + s->index % FD_TILE;
    uint8_t bound[FD_TILE], above[FD_TILE + 64], equal[FD_TILE + 64];
    /* p rounds down here and to nearest in its threshold: where that makes a difference, and where all are
     * dropped, the number ties, for it is below (bound + 1) / 256 or dropped for certain */
    for (unsigned j = 0; j < s->n; j++) {
        const int floor = (int)(s->p[j] * 256);
        bound[j] = (uint8_t)(floor < 255 ? floor : 255);
    }
    for (unsigned j = 0; j < s->n; j++) above[j] = top[j] > bound[j];
    for (unsigned j = 0; j < s->n; j++) equal[j] = top[j] == bound[j];
    memset(above + s->n, 0, 64), memset(equal + s->n, 0, 64);
    for (unsigned word = 0; word * 64 < s->n; word++) {
        uint64_t kept = 0, tied = 0;
        for (unsigned byte = 0; byte < 64; byte += 8) {
            kept |= packed(above + 64 * word + byte) << byte;
            tied |= packed(equal + 64 * word + byte) << byte;
        }
        for (; tied; tied &= tied - 1) {
            const unsigned bit = fd_ctz64(tied), j = 64 * word + bit;
            const uint64_t number = (uint64_t)top[j] << 32 | tail_of(u, s->index + j);
            kept |= (uint64_t)(number >= fd_drop_threshold(s->p[j])) << bit;
        }
        keep[word] = kept;
    }
}

/* As many of n elements as follow each other, in the stream, in one tile, and in the rates. */
static segment next_segment(const fd_cursor *c, uint64_t element, uint64_t n,
                            const fd_rates *rates) {
    const uint64_t index = fd_index_at(c), at = element % rates->period;
    const int in_order = c->w->stride[c->w->ndim - 1] == 1;
    uint64_t most = in_order ? fd_run_left(c) : 1;
    if (most > FD_TILE - index % FD_TILE) most = FD_TILE - index % FD_TILE;
    if (most > rates->period - at) most = rates->period - at;
    if (most > n) most = n;
    return (segment){index, (unsigned)most, rates->p + at};
}

/* The scales of a segment in the compute type. */
static void work_out_scales(void *scales, const segment *s, const fd_rates *rates, int is_double) {
    const double *given = rates->scales ? rates->scales + (s->p - rates->p) : NULL;
    double *to = (double *)scales;
    float *to_floats = (float *)scales;
    for (unsigned j = 0; j < s->n; j++) {
        const double q = 1.0 - s->p[j]; /* 0: never scaled, for none is kept */
        const double v = given ? given[j] : 1.0 / (q == 0.0 ? 1.0 : q);
        if (is_double)
            to[j] = v;
        else
            to_floats[j] = (float)v;
    }
}

/* Elements of a window, segment by segment: into y, or where that is NULL their keep bits into out. */
static void each_segment(const fd_kernels *k, fd_dtype dtype, const fd_window *w, char *y,
                         const char *x, uint8_t *out, uint64_t begin, uint64_t n,
                         const fd_stream *stream, const fd_rates *rates) {
    const size_t item = fd_dtype_bytes[dtype];
    uint64_t keep[FD_TILE_WORDS + 1];
    double scales[FD_TILE + FD_MAX_STEP] = {0}; /* or floats */
    numbers u;
    fd_cursor c;
    if (n == 0) return;
    numbers_init(&u, k, stream);
    fd_cursor_init(&c, w, begin);
    while (n) {
        const segment s = next_segment(&c, begin, n, rates);
        decide(keep, &u, &s);
        if (y) {
            work_out_scales(scales, &s, rates, dtype == FD_F64);
            k->scaled[dtype](y + begin * item, x + begin * item, keep, s.n, scales);
        } else {
            fd_copy_bits(out, begin, keep, 0, s.n);
        }
        fd_advance(&c, s.n);
        begin += s.n, n -= s.n;
    }
}

void fd_window_rates(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_rates *rates) {
    each_segment(k, dtype, w, (char *)y, (const char *)x, NULL, begin, n, stream, rates);
}

void fd_window_rates_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                          uint64_t n, const fd_stream *stream, const fd_rates *rates) {
    each_segment(k, FD_F32, w, NULL, NULL, out, begin, n, stream, rates);
}

void fd_window_uniforms(const fd_kernels *k, const fd_window *w, uint64_t *out, uint64_t begin,
                        uint64_t n, const fd_stream *stream) {
    numbers u;
    fd_cursor c;
    if (n == 0) return;
    numbers_init(&u, k, stream);
    fd_cursor_init(&c, w, begin);
    while (n--) {
        const uint64_t index = fd_index_at(&c);
        const uint8_t top = tops_of(&u, index / FD_TILE)[index % FD_TILE];
        *out++ = (uint64_t)top << 32 | tail_of(&u, index);
        fd_advance(&c, 1);
    }
}

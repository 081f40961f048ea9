/*
 * Runs the kernels of one ISA without Python, so that they can run under an emulator or a
 * sanitizer. Knows src/ by fastdrop.h alone; tools/emulate.py builds it and asks.
 *
 *     driver ISA < requests
 *
 * One request a line, one line in answer to each:
 *
 *     usable                                          1 where this processor runs that ISA, else 0
 *     mask SEED POSITION START N THRESHOLD            keep bits, packed, in hexadecimal
 *     window SEED POSITION THRESHOLD FIRST NDIM SHAPE... STRIDE...         likewise
 *     parity                                          "ok" and the number of calls compared
 *
 * `parity` compares that ISA's kernels with the model below, which shares nothing with src/:
 * results bit for bit, any NaN for a NaN, and nothing read or written outside them. ISAs that pass
 * agree. At the first difference it says "mismatch: ..." and exits with 1. A bad request exits
 * with 2.
 */
#define _DEFAULT_SOURCE /* MAP_ANONYMOUS */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "fastdrop.h"

static const uint64_t LARGEST = 1ull << 58; /* elements in one mask */

static _Noreturn void quit(int status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    exit(status);
}

/* ---- the model: stream v1 and the values, one element at a time ------------------------------ */

static void philox(uint32_t c[4], uint64_t seed) {
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
        c[0] = (uint32_t)(p1 >> 32) ^ c[1] ^ k0, c[1] = (uint32_t)p1;
        c[2] = (uint32_t)(p0 >> 32) ^ c[3] ^ k1, c[3] = (uint32_t)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

static void block(uint32_t c[4], const fd_stream *s, uint64_t tag, uint64_t number) {
    c[0] = (uint32_t)number, c[1] = (uint32_t)(tag << 24 | number >> 32);
    c[2] = (uint32_t)s->position, c[3] = (uint32_t)(s->position >> 32);
    philox(c, s->seed);
}

/* The 40-bit number of element i. */
static uint64_t uniform(const fd_stream *s, uint64_t i) {
    uint64_t u = 0;
    uint32_t words[4];
    for (unsigned plane = 0; plane < 8; plane++) {
        block(words, s, plane, i / 128);
        u = u << 1 | (words[i % 128 / 32] >> i % 32 & 1);
    }
    block(words, s, 8, i / 4);
    return u << 32 | words[i % 4];
}

/* Of each dtype: bytes, bits of the fraction, bias of the exponent. Elements travel as bits. */
static const size_t item[FD_DTYPES] = {2, 2, 4, 8};
static const int fraction[FD_DTYPES] = {10, 7, 23, 52};
static const uint64_t bias[FD_DTYPES] = {15, 127, 127, 1023};

static uint64_t sign_bit(fd_dtype d) { return 1ull << (8 * item[d] - 1); }
static uint64_t infinity(fd_dtype d) { return sign_bit(d) - (1ull << fraction[d]); }
static int is_nan(fd_dtype d, uint64_t bits) { return (bits & (sign_bit(d) - 1)) > infinity(d); }

static uint64_t get(fd_dtype d, const void *array, size_t i) {
    const char *p = (const char *)array + i * item[d];
    uint16_t half;
    uint32_t word;
    uint64_t bits;
    switch (item[d]) {
        case 2:
            memcpy(&half, p, sizeof half);
            return half;
        case 4:
            memcpy(&word, p, sizeof word);
            return word;
        default:
            memcpy(&bits, p, sizeof bits);
            return bits;
    }
}

static void put(fd_dtype d, void *array, size_t i, uint64_t bits) {
    char *p = (char *)array + i * item[d];
    const uint16_t half = (uint16_t)bits;
    const uint32_t word = (uint32_t)bits;
    switch (item[d]) {
        case 2:
            memcpy(p, &half, sizeof half);
            break;
        case 4:
            memcpy(p, &word, sizeof word);
            break;
        default:
            memcpy(p, &bits, sizeof bits);
            break;
    }
}

static double value_of(fd_dtype d, uint64_t bits) {
    if (d == FD_F64) {
        double v;
        memcpy(&v, &bits, sizeof v);
        return v;
    }
    const uint64_t magnitude = bits & (sign_bit(d) - 1), unit = 1ull << fraction[d];
    const int exponent = (int)(magnitude >> fraction[d]), least = 1 - (int)bias[d] - fraction[d];
    double v = exponent ? ldexp((double)(magnitude % unit + unit), exponent - 1 + least)
                        : ldexp((double)magnitude, least);
    if (magnitude == infinity(d)) v = INFINITY;
    if (magnitude > infinity(d)) v = NAN;
    return bits & sign_bit(d) ? -v : v;
}

/* To nearest even. */
static uint64_t bits_of(fd_dtype d, double v) {
    const uint64_t sign = signbit(v) ? sign_bit(d) : 0;
    int exponent;
    if (d == FD_F64) {
        uint64_t bits;
        memcpy(&bits, &v, sizeof bits);
        return bits;
    }
    if (isnan(v)) return infinity(d) + 1;
    if (isinf(v)) return sign | infinity(d);
    frexp(v, &exponent);
    exponent += (int)bias[d] - 1; /* as it is stored; 1 serves the subnormals too */
    if (exponent < 1 || v == 0) exponent = 1;
    const double steps = rint(ldexp(fabs(v), (int)bias[d] + fraction[d] - exponent));
    const uint64_t bits = ((uint64_t)(exponent - 1) << fraction[d]) + (uint64_t)steps;
    return sign | (bits < infinity(d) ? bits : infinity(d));
}

/* A kept element. */
static uint64_t kept(fd_dtype d, int affine, uint64_t bits, const fd_values *values) {
    const double x = value_of(d, bits);
    if (d == FD_F64) {
        const double product = x * values->scale, sum = product + values->shift;
        return bits_of(d, affine ? sum : product);
    }
    /* by assignments, for an expression may be worked in double */
    const float scale = (float)values->scale, product = (float)x * scale;
    const float sum = product + (float)values->shift;
    return bits_of(d, (double)(affine ? sum : product));
}

static uint64_t dropped(fd_dtype d, int affine, const fd_values *values) {
    if (!affine) return 0;
    return bits_of(d, d == FD_F64 ? values->fill : (double)(float)values->fill);
}

/* ---- what is tried --------------------------------------------------------------------------- */

enum {
    MOST = 4 * 2048 + 77, /* elements of the longest range */
    LONG = 3000,          /* elements; longer ranges are tried with fewer thresholds */
    GUARD = 256,          /* bytes watched on either side of a result */
    SHIFTS = 16,
    OFFSETS = 97, /* from where in the pool the inputs are taken */
    POOL = MOST + OFFSETS,
    SETS = 4,
};

static const size_t sizes[] = {0,   1,   2,   7,    8,    9,    31,   32,   33,   63,   64,  65,
                               127, 128, 129, 2047, 2048, 2049, 4095, 4096, 4097, 6170, MOST};
enum { SIZES = sizeof sizes / sizeof *sizes };

static const uint64_t starts[] = {
    0,
    1,
    31,
    63,
    127,
    2047,
    (1ull << 32) - 1,
    (1ull << 39) - 1000, /* where the block number outgrows a word */
    1ull << 40,
    1ull << 57,
    (1ull << 58) - MOST, /* up to the last element */
};
enum { STARTS = sizeof starts / sizeof *starts };

static const uint64_t thresholds[] = {
    0,
    1ull << 40,
    1ull << 39,      /* p = .5 */
    1ull << 38,      /* .25 */
    3ull << 38,      /* .75 */
    109951162778ull, /* .1 */
    989560464998ull, /* .9 */
    1099512ull,      /* 1e-6 */
    1,               /* only tails, from here */
    (1ull << 32) - 1,
    1ull << 32, /* only the last plane */
    (1ull << 39) + 1,
    255ull << 32, /* all planes, no tails */
    (1ull << 40) - 1,
};
enum { THRESHOLDS = sizeof thresholds / sizeof *thresholds };

static fd_values value_sets[SETS] = {
    {2.0, 0.25, 0.0},
    {1 / 0.9, -0.3, -0.77},
    {1e-3, -0.0, INFINITY},
    {1.5, 1e-5, NAN},
};

static uint64_t random_state = 1;
static uint64_t random64(void) { /* splitmix64 */
    uint64_t z = random_state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Zeros, subnormals, ones, the largest, infinities, NaNs of both kinds; then any bits; then
 * ordinary numbers. */
static uint64_t specimen(fd_dtype d, size_t i) {
    const uint64_t unit = 1ull << fraction[d], one = bias[d] << fraction[d];
    const uint64_t special[] = {0,
                                1,
                                unit - 1,
                                unit,
                                one,
                                one + 1,
                                infinity(d) - 1,
                                infinity(d),
                                infinity(d) + 1,
                                infinity(d) + unit / 2};
    const uint64_t r = random64();
    uint64_t bits;
    switch (i % 4) {
        case 0:
            bits = special[(r >> 1) % 10] | (r & 1 ? sign_bit(d) : 0);
            break;
        case 1:
            bits = r;
            break;
        default:
            bits = one + (r >> 40) % 8 * unit - 4 * unit + r % unit;
            break;
    }
    return (i % 4 == 3 ? bits | sign_bit(d) : bits) & (sign_bit(d) * 2 - 1);
}

/* Input elements, and what each becomes when kept. */
static uint64_t pool[FD_DTYPES][POOL], pool_kept[FD_DTYPES][2][SETS][POOL];
static uint64_t uniforms[STARTS][MOST];
static fd_stream streams[STARTS];

static void prepare(void) {
    for (int d = 0; d < FD_DTYPES; d++)
        for (size_t i = 0; i < POOL; i++) {
            pool[d][i] = specimen((fd_dtype)d, i);
            for (int set = 0; set < SETS; set++)
                for (int affine = 0; affine < 2; affine++)
                    pool_kept[d][affine][set][i] =
                        kept((fd_dtype)d, affine, pool[d][i], &value_sets[set]);
        }
    for (int s = 0; s < STARTS; s++) {
        streams[s].seed = s == 0 ? 0 : s == 1 ? UINT64_MAX : random64();
        streams[s].position = s == 0 ? 0 : s == 2 ? UINT64_MAX : random64();
        for (size_t i = 0; i < MOST; i++) uniforms[s][i] = uniform(&streams[s], starts[s] + i);
    }
}

/* Memory between two pages that nobody may touch. */
typedef struct {
    unsigned char *low, *high;
} arena;

static arena new_arena(size_t n_bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    n_bytes = (n_bytes + page - 1) / page * page;
    unsigned char *p =
        mmap(NULL, n_bytes + 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || mprotect(p, page, PROT_NONE) ||
        mprotect(p + page + n_bytes, page, PROT_NONE))
        quit(2, "error: no memory with guard pages");
    return (arena){p + page, p + page + n_bytes};
}

static arena x_arena, y_arena;
static unsigned long long calls;

static unsigned char *later(unsigned char *p, unsigned char *q) { return p > q ? p : q; }
static unsigned char *earlier(unsigned char *p, unsigned char *q) { return p < q ? p : q; }

/* ---- arrays ---------------------------------------------------------------------------------- */

/* One call: elements first .. first+n-1 of `stream`, of which element j is keep[j], from the bits
 * x[j], which become x_kept[j]. */
typedef struct {
    const fd_kernels *kernels;
    fd_dtype dtype;
    int affine;
    uint64_t first;
    size_t n;
    fd_stream stream;
    fd_values values;
    const unsigned char *keep;
    const uint64_t *x, *x_kept;
    /* where the arrays lie: so many elements from the lower or the upper end of their arena */
    int upper, in_place, bypass;
    size_t x_shift, y_shift;
    /* instead of the range kernels: elements begin .. begin+n-1 of a window; or given keep words */
    const fd_window *window;
    size_t begin;
    const uint64_t *words;
} apply_call;

static _Noreturn void mismatch(const apply_call *c, const char *what) {
    quit(1,
         "mismatch: %s %s %s%s: %s\n"
         "  seed %llu position %llu threshold %llu first %llu n %zu scale %g shift %g fill %g\n"
         "  x %zu and y %zu elements from the %s end%s%s",
         c->kernels->name, c->affine ? "affine" : "plain", fd_dtype_names[c->dtype],
         c->window  ? " of a window"
         : c->words ? " of given bits"
                    : "",
         what, (unsigned long long)c->stream.seed, (unsigned long long)c->stream.position,
         (unsigned long long)c->stream.drop_threshold,
         (unsigned long long)(c->window ? c->window->first : c->first), c->n, c->values.scale,
         c->values.shift, c->values.fill, c->x_shift, c->y_shift, c->upper ? "upper" : "lower",
         c->in_place ? ", in place" : "", c->bypass ? ", around the caches" : "");
}

static void check_apply(const apply_call *c) {
    const fd_dtype d = c->dtype;
    const fd_kernels *k = c->kernels;
    const size_t n_bytes = c->n * item[d];
    const size_t x_off = c->x_shift * item[d], y_off = c->y_shift * item[d];
    unsigned char *y = c->upper ? y_arena.high - n_bytes - y_off : y_arena.low + y_off;
    unsigned char *x = c->upper ? x_arena.high - n_bytes - x_off : x_arena.low + x_off;
    unsigned char *from = later(y - GUARD, y_arena.low);
    unsigned char *to = earlier(y + n_bytes + GUARD, y_arena.high);
    char what[200];

    memset(from, 0xA5, (size_t)(to - from));
    if (c->in_place) x = y;
    for (size_t j = 0; j < c->n; j++) put(d, x, j, c->x[j]);
    if (c->window) {
        /* the kernels of a window are given the place of its element 0 */
        const size_t skip = c->begin * item[d];
        (c->affine ? fd_window_affine : fd_window_plain)(k, d, c->window, y - skip, x - skip,
                                                         c->begin, c->n, &c->stream, &c->values);
    } else if (c->words) {
        k->given[d](y, x, c->words, c->n, &c->values, c->affine, c->bypass);
        k->fence();
    } else {
        (c->affine ? k->affine : k->plain)[d](y, x, c->first, c->n, &c->stream, &c->values,
                                              c->bypass);
    }
    calls++;

    for (unsigned char *p = from; p < to; p == y - 1 ? (p = y + n_bytes) : p++)
        if (*p != 0xA5 && (p < y || p >= y + n_bytes)) {
            snprintf(what, sizeof what, "byte %td of y was written", p - y);
            mismatch(c, what);
        }
    const uint64_t drop = dropped(d, c->affine, &c->values);
    for (size_t j = 0; j < c->n; j++) {
        const uint64_t want = c->keep[j] ? c->x_kept[j] : drop, got = get(d, y, j);
        if (got != want && !(is_nan(d, got) && is_nan(d, want))) {
            snprintf(what, sizeof what, "element %zu is %#llx, not %#llx (x %#llx, %s)", j,
                     (unsigned long long)got, (unsigned long long)want, (unsigned long long)c->x[j],
                     c->keep[j] ? "kept" : "dropped");
            mismatch(c, what);
        }
        if (!c->in_place && get(d, x, j) != c->x[j]) {
            snprintf(what, sizeof what, "element %zu of x was changed", j);
            mismatch(c, what);
        }
    }
}

static unsigned char keep[MOST];

static void set_keep(int start, size_t skip, uint64_t threshold) {
    for (size_t i = skip; i < MOST; i++) keep[i - skip] = uniforms[start][i] >= threshold;
}

/* The last start is that of the last n elements of all, whatever n. */
static size_t skip_of(int start, size_t n) { return start == STARTS - 1 ? MOST - n : 0; }

/* Every size, start, threshold and dtype; the arrays' places and the values in turn. */
static void parity_of_ranges(const fd_kernels *k) {
    unsigned turn = 0;
    for (int start = 0; start < STARTS; start++)
        for (int t = 0; t < THRESHOLDS; t++)
            for (int size = 0; size < SIZES; size++) {
                const size_t n = sizes[size], skip = skip_of(start, n);
                if (n > LONG && (start + t + size) % 4) continue;
                set_keep(start, skip, thresholds[t]);
                for (int kind = 0; kind < 2 * FD_DTYPES; kind++, turn++) {
                    const int d = kind / 2, set = (int)(turn % SETS);
                    const size_t at = turn % OFFSETS;
                    apply_call c = {.kernels = k,
                                    .dtype = (fd_dtype)d,
                                    .affine = kind % 2,
                                    .first = starts[start] + skip,
                                    .n = n,
                                    .stream = streams[start],
                                    .values = value_sets[set],
                                    .keep = keep,
                                    .x = pool[d] + at,
                                    .x_kept = pool_kept[d][kind % 2][set] + at};
                    c.stream.drop_threshold = thresholds[t];
                    c.upper = 1; /* flush with the end */
                    check_apply(&c);
                    c.upper = 0, c.x_shift = turn % SHIFTS, c.y_shift = turn / SHIFTS % SHIFTS;
                    c.bypass = (int)(turn / 3 % 2);
                    check_apply(&c);
                    c.in_place = 1, c.upper = (int)(turn / 7 % 2), c.bypass = !c.bypass;
                    check_apply(&c);
                }
            }
}

/* Every place of x against every place of y, and of y against the first element's in its tile. */
static void parity_of_places(const fd_kernels *k) {
    static const size_t lengths[] = {1, 33, 130, 5000};
    static const size_t skips[] = {0, 1, 8, 31, 32, 65, 130, 1999, 2048};
    const int start = 5;
    for (int kind = 0; kind < 2 * FD_DTYPES; kind++)
        for (size_t place = 0; place < SHIFTS * SHIFTS; place++)
            for (int length = 0; length < 4; length++) {
                const int d = kind / 2, set = (int)place % SETS, is_long = lengths[length] > LONG;
                const size_t skip = is_long ? skips[place % SHIFTS % 9] : place % SHIFTS;
                apply_call c = {.kernels = k,
                                .dtype = (fd_dtype)d,
                                .affine = kind % 2,
                                .first = starts[start] + skip,
                                .n = lengths[length],
                                .x_shift = place % SHIFTS,
                                .y_shift = place / SHIFTS,
                                .stream = streams[start],
                                .values = value_sets[set],
                                .keep = keep,
                                .x = pool[d],
                                .x_kept = pool_kept[d][kind % 2][set]};
                if (is_long && place % SHIFTS >= 9) continue; /* one place of x a skip */
                c.stream.drop_threshold = thresholds[5];
                set_keep(start, skip, c.stream.drop_threshold);
                check_apply(&c);
                c.bypass = 1;
                check_apply(&c);
                c.upper = 1;
                check_apply(&c);
                c.in_place = c.x_shift == c.y_shift;
                if (c.in_place) check_apply(&c);
            }
}

/* Every value of the 16-bit types. */
static void parity_of_halves(const fd_kernels *k) {
    enum { VALUES = 65536, PIECE = 4096 };
    static uint64_t x[PIECE], x_kept[PIECE];
    memset(keep, 1, sizeof keep);
    for (int kind = 0; kind < 4; kind++)
        for (int set = 0; set < SETS; set++)
            for (uint64_t base = 0; base < VALUES; base += PIECE) {
                apply_call c = {.kernels = k,
                                .dtype = (fd_dtype)(kind / 2),
                                .affine = kind % 2,
                                .n = PIECE,
                                .values = value_sets[set],
                                .keep = keep,
                                .x = x,
                                .x_kept = x_kept};
                for (uint64_t i = 0; i < PIECE; i++) {
                    x[i] = base + i;
                    x_kept[i] = kept(c.dtype, c.affine, x[i], &c.values);
                }
                check_apply(&c);
            }
}

/* Keep words from elsewhere. */
static void parity_of_given(const fd_kernels *k) {
    uint64_t words[32];
    unsigned turn = 0;
    for (int size = 0; size < SIZES && sizes[size] <= 2048; size++)
        for (int kind = 0; kind < 2 * FD_DTYPES; kind++)
            for (int set = 0; set < SETS; set++, turn++) {
                const int d = kind / 2;
                for (int w = 0; w < 32; w++) words[w] = random64();
                for (int i = 0; i < 2048; i++) keep[i] = words[i / 64] >> i % 64 & 1;
                apply_call c = {.kernels = k,
                                .dtype = (fd_dtype)d,
                                .affine = kind % 2,
                                .n = sizes[size],
                                .values = value_sets[set],
                                .keep = keep,
                                .x = pool[d],
                                .x_kept = pool_kept[d][kind % 2][set],
                                .words = words};
                c.bypass = 1, c.x_shift = turn % SHIFTS; /* y is aligned */
                check_apply(&c);
                c.bypass = 0, c.y_shift = turn / 5 % SHIFTS;
                check_apply(&c);
                c.upper = 1, c.in_place = (int)(turn % 2);
                check_apply(&c);
                c.upper = 1, c.in_place = 0, c.x_shift = c.y_shift = 0;
                check_apply(&c);
            }
}

/* ---- bits ------------------------------------------------------------------------------------ */

typedef struct {
    const fd_kernels *kernels;
    uint64_t first;
    size_t n, begin;
    fd_stream stream;
    const fd_window *window;
} bits_call;

/* Bits [begin, begin+n) of out become those of keep; all other bits stay, whatever they are. */
static void check_bits(const bits_call *c) {
    /* the buffer starts with the byte of bit begin, of a window */
    const size_t skip = c->window ? c->begin / 8 : 0, begin = c->begin - 8 * skip;
    const size_t n_bytes = (begin + c->n + 7) / 8;
    for (int fill = 0; fill <= 0xFF; fill += 0xFF) {
        unsigned char *out = calls % 2 ? y_arena.low : y_arena.high - n_bytes;
        unsigned char *to = earlier(out + n_bytes + GUARD, y_arena.high);
        unsigned char *from = later(out - GUARD, y_arena.low);
        memset(from, fill, (size_t)(to - from));
        if (c->window)
            fd_window_bits(c->kernels, c->window, out - skip, c->begin, c->n, &c->stream);
        else
            c->kernels->bits(out, c->begin, c->first, c->n, &c->stream);
        calls++;
        for (unsigned char *p = from; p < to; p++) {
            unsigned want = (unsigned)fill;
            if (p >= out && p < out + n_bytes)
                for (unsigned j = 0; j < 8; j++) {
                    const size_t bit = (size_t)(p - out) * 8 + j;
                    if (bit < begin || bit >= begin + c->n) continue;
                    want = (want & ~(1u << j)) | (unsigned)keep[bit - begin] << j;
                }
            if (*p != want)
                quit(1,
                     "mismatch: %s bits%s: byte %td is %#x, not %#x (all were %#x)\n"
                     "  seed %llu position %llu threshold %llu first %llu n %zu begin %zu",
                     c->kernels->name, c->window ? " of a window" : "", p - out, *p, want,
                     (unsigned)fill, (unsigned long long)c->stream.seed,
                     (unsigned long long)c->stream.position,
                     (unsigned long long)c->stream.drop_threshold,
                     (unsigned long long)(c->window ? c->window->first : c->first), c->n, c->begin);
        }
    }
}

static void parity_of_bits(const fd_kernels *k) {
    for (int start = 0; start < STARTS; start++)
        for (int t = 0; t < THRESHOLDS; t++)
            for (int size = 0; size < SIZES; size++) {
                const size_t n = sizes[size], skip = skip_of(start, n);
                bits_call c = {
                    .kernels = k, .first = starts[start] + skip, .n = n, .stream = streams[start]};
                c.stream.drop_threshold = thresholds[t];
                set_keep(start, skip, thresholds[t]);
                for (c.begin = 0; c.begin < 10; c.begin++) check_bits(&c);
            }
    /* U = D to the last bit, and one less: one element in each of the lanes of a vector */
    for (int start = 0; start < STARTS; start++)
        for (int i = 0; i < 64; i++)
            for (uint64_t more = 0; more < 2; more++) {
                bits_call c = {
                    .kernels = k, .first = starts[start], .n = 300, .stream = streams[start]};
                c.stream.drop_threshold = uniforms[start][5 * i] + more;
                set_keep(start, 0, c.stream.drop_threshold);
                check_bits(&c);
            }
    /* every set of planes, with and without tails */
    for (uint64_t top = 0; top < 256; top++)
        for (uint64_t low = 0; low < 2; low++) {
            bits_call c = {.kernels = k, .first = starts[4], .n = 300, .stream = streams[4]};
            c.stream.drop_threshold = top << 32 | low * (random64() >> 32);
            set_keep(4, 0, c.stream.drop_threshold);
            check_bits(&c);
        }
}

/* ---- windows --------------------------------------------------------------------------------- */

typedef struct {
    int ndim;
    uint64_t first, shape[4], stride[4];
} geometry;

static const geometry geometries[] = {
    {0, 9, {0}, {0}},
    {1, 5, {3000}, {1}},
    {1, 5, {3000}, {0}},
    {2, 100, {37, 80}, {0, 1}},   /* a row for all rows */
    {2, 100, {40, 70}, {1, 0}},   /* a decision a row */
    {2, 1, {1500, 2}, {1, 0}},    /* short shared runs */
    {2, 77, {9, 300}, {1000, 1}}, /* a window of columns */
    {2, 77, {3, 2500}, {9000, 1}},
    {3, 77, {6, 9, 50}, {6000, 60, 1}},
    {4, 3, {3, 5, 4, 30}, {4, 0, 1, 0}},
    {4, 0, {5, 1, 6, 7}, {42, 42, 7, 1}}, /* contiguous after all */
    {2, (1ull << 39) - 5, {3, 50}, {1ull << 40, 1}},
    {2, (1ull << 34) - 5, {30, 9}, {7, 1}}, /* over a boundary of what blocks have in common */
};

/* A window of a random mask with random axes shared. */
static geometry random_geometry(void) {
    static const uint64_t extents[] = {1, 2, 3, 5, 8, 17, 33, 64, 100, 130, 300, 1100};
    geometry g = {.ndim = (int)(1 + random64() % 4)};
    uint64_t stride = 1, total = 1;
    const unsigned shared = (unsigned)random64() & (unsigned)random64() & 15;
    for (int axis = g.ndim - 1; axis >= 0; axis--) {
        g.shape[axis] = extents[random64() % 12];
        /* a long way, so that results are larger than caches; but few elements are asked for */
        if (axis == 0 && random64() % 2) g.shape[axis] = 1 << 14;
        while (total * g.shape[axis] > 1 << 26) g.shape[axis] = g.shape[axis] / 2;
        total *= g.shape[axis];
        const uint64_t extent = g.shape[axis] + random64() % 2 * (random64() % 50);
        const uint64_t from = random64() % (extent - g.shape[axis] + 1);
        if (shared >> axis & 1) continue; /* a stride of 0 */
        g.stride[axis] = stride;
        g.first += from * stride;
        stride *= extent;
    }
    if (random64() % 4 == 0) g.first += random64() >> 8; /* < 2^56 */
    return g;
}

static void check_window(const fd_kernels *k, const geometry *g, size_t begin, size_t n,
                         unsigned turn) {
    fd_window w;
    fd_stream stream = streams[turn % STARTS];
    stream.drop_threshold = thresholds[turn % THRESHOLDS];
    for (size_t j = 0; j < n; j++) {
        uint64_t rest = begin + j, index = g->first;
        for (int axis = g->ndim - 1; axis >= 0; axis--) {
            index += rest % g->shape[axis] * g->stride[axis];
            rest /= g->shape[axis];
        }
        keep[j] = uniform(&stream, index) >= stream.drop_threshold;
    }
    fd_window_init(&w, g->ndim, g->shape, g->stride, g->first);
    bits_call b = {.kernels = k, .n = n, .begin = begin, .stream = stream, .window = &w};
    check_bits(&b);
    for (int kind = 0; kind < 2 * FD_DTYPES; kind++, turn++) {
        const int d = kind / 2, set = (int)(turn % SETS);
        const size_t at = turn % OFFSETS;
        apply_call c = {.kernels = k,
                        .dtype = (fd_dtype)d,
                        .affine = kind % 2,
                        .n = n,
                        .stream = stream,
                        .values = value_sets[set],
                        .keep = keep,
                        .x = pool[d] + at,
                        .x_kept = pool_kept[d][kind % 2][set] + at,
                        .window = &w,
                        .begin = begin,
                        .upper = 1};
        check_apply(&c);
        c.in_place = (int)(turn % 2), c.upper = 0;
        c.x_shift = turn % SHIFTS, c.y_shift = turn / 7 % SHIFTS;
        check_apply(&c);
    }
}

static void parity_of_windows(const fd_kernels *k) {
    unsigned turn = 0;
    for (unsigned i = 0; i < sizeof geometries / sizeof *geometries + 300; i++) {
        const int fixed = i < sizeof geometries / sizeof *geometries;
        const geometry g = fixed ? geometries[i] : random_geometry();
        size_t total = 1;
        for (int axis = 0; axis < g.ndim; axis++) total *= g.shape[axis];
        if (fixed) {
            check_window(k, &g, 0, total, turn++);
            check_window(k, &g, total / 2, total - total / 2, turn++);
            check_window(k, &g, total / 5, total / 3, turn++);
            check_window(k, &g, total, 0, turn++);
        } else {
            const size_t begin = random64() % total, left = total - begin;
            const size_t n = i % 5 ? random64() % 700 : random64() % 6000;
            check_window(k, &g, begin, n < left ? n : left, turn++);
        }
    }
}

static void parity(const fd_kernels *k) {
    prepare();
    x_arena = new_arena((MOST + SHIFTS) * 8 + GUARD);
    y_arena = new_arena((MOST + SHIFTS) * 8 + GUARD);
    parity_of_ranges(k);
    parity_of_places(k);
    parity_of_halves(k);
    parity_of_given(k);
    parity_of_bits(k);
    parity_of_windows(k);
    printf("ok %llu\n", calls);
}

/* ---- requests -------------------------------------------------------------------------------- */

static uint64_t number(void) {
    const char *word = strtok(NULL, " \n");
    char *end;
    if (!word) quit(2, "error: a number is missing");
    const uint64_t value = strtoull(word, &end, 10);
    if (*end) quit(2, "error: %s is not a number", word);
    return value;
}

static uint8_t *new_bits(uint64_t n) {
    uint8_t *bits = calloc(1, (size_t)(n / 8 + 1));
    if (!bits) quit(2, "error: no memory");
    return bits;
}

static void print_bits(uint8_t *bits, uint64_t n) {
    for (uint64_t i = 0; i < (n + 7) / 8; i++) printf("%02x", bits[i]);
    putchar('\n');
    free(bits);
}

static void answer_mask(const fd_kernels *k) {
    fd_stream stream;
    stream.seed = number(), stream.position = number();
    const uint64_t start = number(), n = number();
    stream.drop_threshold = number();
    if (start > LARGEST || n > LARGEST - start) quit(2, "error: past 2^58 elements");
    uint8_t *bits = new_bits(n);
    k->bits(bits, 0, start, (size_t)n, &stream);
    print_bits(bits, n);
}

static void answer_window(const fd_kernels *k) {
    fd_stream stream;
    fd_window window;
    uint64_t shape[FD_MAX_NDIM], stride[FD_MAX_NDIM], n = 1;
    stream.seed = number(), stream.position = number(), stream.drop_threshold = number();
    const uint64_t first = number(), ndim = number();
    if (ndim > FD_MAX_NDIM) quit(2, "error: more than %d axes", FD_MAX_NDIM);
    for (uint64_t axis = 0; axis < ndim; axis++) n *= shape[axis] = number();
    for (uint64_t axis = 0; axis < ndim; axis++) stride[axis] = number();
    fd_window_init(&window, (int)ndim, shape, stride, first);
    uint8_t *bits = new_bits(n);
    fd_window_bits(k, &window, bits, 0, n, &stream);
    print_bits(bits, n);
}

int main(int argc, char **argv) {
    static char line[1 << 14];
    int isa = 0;
    if (argc != 2) quit(2, "error: usage: driver ISA < requests");
    while (isa < FD_ISAS && strcmp(fd_isa_names[isa], argv[1]) != 0) isa++;
    if (isa == FD_ISAS || !fd_built(isa)) quit(2, "error: %s is not built here", argv[1]);
    while (fgets(line, sizeof line, stdin)) {
        const char *request = strtok(line, " \n");
        if (!request) continue;
        if (strcmp(request, "usable") == 0)
            printf("%d\n", fd_usable(isa) != NULL);
        else if (strcmp(request, "mask") == 0)
            answer_mask(fd_built(isa));
        else if (strcmp(request, "window") == 0)
            answer_window(fd_built(isa));
        else if (strcmp(request, "parity") == 0)
            parity(fd_built(isa));
        else
            quit(2, "error: unknown request %s", request);
        fflush(stdout);
    }
    return 0;
}

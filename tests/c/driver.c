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
 *     normal SEED POSITION START N                    bits of normal numbers, in hexadecimal
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

#ifdef _WIN32
#include <windows.h>
#else
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "fd_kernels.h"

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

/* Horner's rule from the coefficient c[0] of the highest power on, each operation rounded; by
 * assignments, for an expression may be worked in double. */
static float polynomial(const float *c, int degree, float x) {
    float sum = c[0];
    for (int i = 1; i <= degree; i++) {
        const float product = sum * x;
        sum = product + c[i];
    }
    return sum;
}

/* The normal number of a word: what the comment in src/fd_normal_tpl.h says, coefficients as there. */
static float normal_of(uint32_t word) {
    static const float odd[] = {298.655151f, 34.9834328f, 16.0876293f,
                                5.76608944f, 2.62497067f, 2.50662827f};
    static const float log_rest[] = {0.00908890367f, -0.0511344187f, 0.135926902f,
                                     -0.240410224f,  0.346548557f,   -0.478464216f,
                                     0.721132219f,   -0.442687601f,  -4.2314543e-08f};
    static const float top[] = {1.53951023e-05f, 0.00213019317f, 0.0560035296f,
                                0.4262366f,      1.04673743f,    0.674489796f};
    static const float bottom[] = {3.86176907e-07f, 0.000200097536f, 0.0113141797f,
                                   0.162408754f,    0.743418336f,    1.0f};
    const uint32_t m = word & 0x7FFFFFFF;
    const int inner = m >= 0x40000000;
    const float k = (float)(inner ? 0x7FFFFFFF - m : m), middle = k + 0.5f, v = middle * 0x1p-32f;
    float z;
    if (inner) {
        const float square = v * v;
        z = v * polynomial(odd, 5, square);
    } else {
        int exponent; /* 4v = 2^(exponent+1) (1 + f); exact in double, but for the last rounding */
        const double f = 2 * frexp(v, &exponent) - 1;
        const float linear = (float)(-(exponent + 1) - f);
        const float y = linear + polynomial(log_rest, 8, (float)f);
        z = polynomial(top, 5, y) / polynomial(bottom, 5, y);
    }
    return word >> 31 ? -z : z;
}

/* The normal number of element i. */
static float normal(const fd_stream *s, uint64_t i) {
    uint32_t words[4];
    block(words, s, 10, i / 4);
    return normal_of(words[i % 4]);
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
    if (d == FD_F32) { /* v is a float */
        const float f = (float)v;
        uint32_t word;
        memcpy(&word, &f, sizeof word);
        return word;
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

/* To the compute type. A sum, product or quotient of floats that is worked in double and then
 * rounded to float is the float operation's: a double has more than twice the digits. */
static double rounded(fd_dtype d, double v) { return d == FD_F64 ? v : (double)(float)v; }

static fd_dtype compute_type(fd_dtype d) { return d == FD_F64 ? FD_F64 : FD_F32; }

static uint64_t noisy(fd_dtype d, double x, float z, double sd, int additive) {
    const double noise = rounded(d, z * rounded(d, sd));
    return bits_of(d, rounded(d, additive ? x + noise : x * rounded(d, 1 + noise)));
}

/* ---- what is tried --------------------------------------------------------------------------- */

enum {
    MOST = 4 * 2048 + 77, /* elements of the longest range */
    LONG_RANGE = 3000,    /* elements; longer ranges are tried with fewer thresholds */
    GUARD = 256,          /* bytes watched on either side of a result */
    SHIFTS = 16,
    OFFSETS = 97, /* from where in the pool the inputs are taken */
    POOL = MOST + OFFSETS,
    SETS = 4,
    LONGEST_ROW = 8301,
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
    (3ull << 34) - 1000, /* where the block number outgrows a region */
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

static size_t random_below(size_t n) { return (size_t)(random64() % n); }

/* Zeros, subnormals, ones, the largest, infinities, NaNs of all kinds; then any bits; then
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
                                infinity(d) + unit / 2,
                                sign_bit(d) - 1};
    const uint64_t r = random64();
    uint64_t bits;
    switch (i % 4) {
        case 0:
            bits = special[(r >> 1) % 11] | (r & 1 ? sign_bit(d) : 0);
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
static float normals[STARTS][MOST];
static fd_stream streams[STARTS];

/* Elements whose sums stay finite and depend on their order; and what the elements are. */
static uint64_t tame[FD_DTYPES][POOL];
static double pool_value[FD_DTYPES][POOL], tame_value[FD_DTYPES][POOL];

static void prepare(void) {
    for (int d = 0; d < FD_DTYPES; d++)
        for (size_t i = 0; i < POOL; i++) {
            pool[d][i] = specimen((fd_dtype)d, i);
            for (int set = 0; set < SETS; set++)
                for (int affine = 0; affine < 2; affine++)
                    pool_kept[d][affine][set][i] =
                        kept((fd_dtype)d, affine, pool[d][i], &value_sets[set]);
            /* mostly ordinary numbers of both signs; zeros and subnormals of both */
            tame[d][i] = i % 8 ? specimen((fd_dtype)d, i | 2)
                               : (i >> 3 & 1) | (i >> 4 & 1 ? sign_bit((fd_dtype)d) : 0);
            pool_value[d][i] = value_of((fd_dtype)d, pool[d][i]);
            tame_value[d][i] = value_of((fd_dtype)d, tame[d][i]);
        }
    for (int s = 0; s < STARTS; s++) {
        streams[s].seed = s == 0 ? 0 : s == 1 ? UINT64_MAX : random64();
        streams[s].position = s == 0 ? 0 : s == 2 ? UINT64_MAX : random64();
        for (size_t i = 0; i < MOST; i++) {
            uniforms[s][i] = uniform(&streams[s], starts[s] + i);
            normals[s][i] = normal(&streams[s], starts[s] + i);
        }
    }
}

/* Memory between two pages that nobody may touch. */
typedef struct {
    unsigned char *low, *high;
} arena;

#ifdef _WIN32
static size_t page_size(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    return info.dwPageSize;
}
static void *new_pages(size_t n_bytes) {
    return VirtualAlloc(NULL, n_bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
}
static int forbid(void *pages, size_t n_bytes) {
    DWORD before;
    return VirtualProtect(pages, n_bytes, PAGE_NOACCESS, &before) != 0;
}
#else
static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }
static void *new_pages(size_t n_bytes) {
    void *p = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}
static int forbid(void *pages, size_t n_bytes) { return mprotect(pages, n_bytes, PROT_NONE) == 0; }
#endif

static arena new_arena(size_t n_bytes) {
    const size_t page = page_size();
    n_bytes = (n_bytes + page - 1) / page * page;
    unsigned char *p = new_pages(n_bytes + 2 * page);
    if (!p || !forbid(p, page) || !forbid(p + page + n_bytes, page))
        quit(2, "error: no memory with guard pages");
    return (arena){p + page, p + page + n_bytes};
}

static arena x_arena, y_arena, beside_arena, row_arena;
static unsigned long long calls;

static unsigned char *later(unsigned char *p, unsigned char *q) { return p > q ? p : q; }
static unsigned char *earlier(unsigned char *p, unsigned char *q) { return p < q ? p : q; }

/* An array of n_bytes, `off` bytes from the lower or the upper end of its arena. */
static unsigned char *lay(const arena *a, size_t n_bytes, size_t off, int upper) {
    return upper ? a->high - n_bytes - off : a->low + off;
}

/* A result, and the bytes on either side of it. */
static void watch(const arena *a, unsigned char *y, size_t n_bytes) {
    unsigned char *from = later(y - GUARD, a->low), *to = earlier(y + n_bytes + GUARD, a->high);
    memset(from, 0xA5, (size_t)(to - from));
}

/* The first byte beside the result that was written, or NULL. */
static unsigned char *stray(const arena *a, unsigned char *y, size_t n_bytes) {
    unsigned char *from = later(y - GUARD, a->low), *to = earlier(y + n_bytes + GUARD, a->high);
    for (unsigned char *p = from; p < to; p == y - 1 ? (p = y + n_bytes) : p++)
        if (*p != 0xA5 && (p < y || p >= y + n_bytes)) return p;
    return NULL;
}

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
    unsigned bit; /* from which on the words are for x */
    int ones;     /* no x: all are 1 */
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

/* Calls fetch nothing, their arrays ahead, or what is next: at random, for calls come in threes and fours. */
static int hints(int bypass) {
    static const int fetch[] = {0, FD_HINT_FETCH, FD_HINT_NEXT};
    return (bypass ? FD_HINT_BYPASS : 0) | fetch[random_below(3)];
}

static const uint64_t one[FD_DTYPES] = {0x3C00, 0x3F80, 0x3F800000, 0x3FF0000000000000};

static void check_apply(const apply_call *c) {
    const fd_dtype d = c->dtype;
    const uint64_t one_kept = kept(d, 0, one[d], &c->values);
    const fd_kernels *k = c->kernels;
    const size_t n_bytes = c->n * item[d];
    unsigned char *y = lay(&y_arena, n_bytes, c->y_shift * item[d], c->upper), *wrong;
    unsigned char *x = c->in_place ? y : lay(&x_arena, n_bytes, c->x_shift * item[d], c->upper);
    const unsigned char *from = c->ones ? NULL : x;
    char what[200];

    watch(&y_arena, y, n_bytes);
    for (size_t j = 0; j < c->n; j++) put(d, x, j, c->x[j]);
    if (c->window) {
        /* the kernels of a window are given the place of its element 0 */
        const size_t skip = c->begin * item[d];
        (c->affine ? fd_window_affine : fd_window_plain)(k, d, c->window, y - skip,
                                                         from ? from - skip : NULL, c->begin, c->n,
                                                         &c->stream, &c->values);
    } else if (c->words) {
        k->given[d](y, from, c->words, c->bit, (unsigned)c->n, &c->values, c->affine, c->bypass);
        k->fence();
    } else {
        (c->affine ? k->affine : k->plain)[d](y, from, c->first, NULL, c->n, &c->stream, &c->values,
                                              hints(c->bypass));
    }
    calls++;

    if ((wrong = stray(&y_arena, y, n_bytes))) {
        snprintf(what, sizeof what, "byte %td of y was written", wrong - y);
        mismatch(c, what);
    }
    const uint64_t drop = dropped(d, c->affine, &c->values);
    for (size_t j = 0; j < c->n; j++) {
        const uint64_t want = !c->keep[j] ? drop : c->ones ? one_kept : c->x_kept[j];
        const uint64_t got = get(d, y, j);
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
                if (n > LONG_RANGE && (start + t + size) % 4) continue;
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
                    c.in_place = 0, c.ones = !c.affine, c.upper = !c.upper;
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
                const int d = kind / 2, set = (int)place % SETS;
                const int is_long = lengths[length] > LONG_RANGE;
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
    uint64_t words[33];
    unsigned turn = 0;
    for (int size = 0; size < SIZES && sizes[size] <= 2048; size++)
        for (int kind = 0; kind < 2 * FD_DTYPES; kind++)
            for (int set = 0; set < SETS; set++, turn++) {
                const int d = kind / 2;
                const unsigned bit = turn % (64 / (unsigned)item[d]);
                for (int w = 0; w < 33; w++) words[w] = random64();
                for (unsigned i = bit; i < 33 * 64; i++)
                    keep[i - bit] = words[i / 64] >> i % 64 & 1;
                apply_call c = {.kernels = k,
                                .dtype = (fd_dtype)d,
                                .affine = kind % 2,
                                .n = sizes[size],
                                .values = value_sets[set],
                                .keep = keep,
                                .x = pool[d],
                                .x_kept = pool_kept[d][kind % 2][set],
                                .words = words,
                                .bit = bit};
                c.bypass = 1, c.x_shift = turn % SHIFTS, c.y_shift = bit; /* words are aligned */
                check_apply(&c);
                c.bypass = 0, c.y_shift = turn / 5 % SHIFTS;
                check_apply(&c);
                c.upper = 1, c.in_place = (int)(turn % 2);
                check_apply(&c);
                c.upper = 1, c.in_place = 0, c.x_shift = c.y_shift = 0;
                check_apply(&c);
                c.ones = !c.affine;
                check_apply(&c);
                c.upper = 0, c.bypass = 1, c.y_shift = bit;
                check_apply(&c);
            }
}

/* ---- dropout and its neighbours -------------------------------------------------------------- */

static const double scales[] = {2.0, 1 / 0.9, 1e-3, 0x1p40};
enum { SCALES = sizeof scales / sizeof *scales };

static const size_t periods[] = {64, 65, 95, 127, 128, 200, 333, 1000, 4099, LONGEST_ROW};
enum { PERIODS = sizeof periods / sizeof *periods, SHORT_PERIODS = 7 };

/* What the fused kernels do, to which dtypes. */
static const struct {
    fd_fusion op;
    fd_dtype x, y;
} fusions[] = {
    {FD_FUSED_RESIDUAL, FD_F16, FD_F16},  {FD_FUSED_RESIDUAL, FD_BF16, FD_BF16},
    {FD_FUSED_RESIDUAL, FD_F32, FD_F32},  {FD_FUSED_RESIDUAL, FD_F64, FD_F64},
    {FD_FUSED_RESIDUAL, FD_F16, FD_F32},  {FD_FUSED_RESIDUAL, FD_BF16, FD_F32},
    {FD_FUSED_BIAS_GRAD, FD_F16, FD_F16}, {FD_FUSED_BIAS_GRAD, FD_BF16, FD_BF16},
    {FD_FUSED_BIAS_GRAD, FD_F32, FD_F32}, {FD_FUSED_BIAS_GRAD, FD_F64, FD_F64},
    {FD_FUSED_BIAS_GRAD, FD_F32, FD_F16}, {FD_FUSED_BIAS_GRAD, FD_F32, FD_BF16},
    {FD_FUSED_RELU, FD_F16, FD_F16},      {FD_FUSED_RELU, FD_BF16, FD_BF16},
    {FD_FUSED_RELU, FD_F32, FD_F32},      {FD_FUSED_RELU, FD_F64, FD_F64},
    {FD_FUSED_RELU_GRAD, FD_F16, FD_F16}, {FD_FUSED_RELU_GRAD, FD_BF16, FD_BF16},
    {FD_FUSED_RELU_GRAD, FD_F32, FD_F32}, {FD_FUSED_RELU_GRAD, FD_F64, FD_F64},
};
enum { KINDS = sizeof fusions / sizeof *fusions };
static const char *const fusion_names[] = {"residual", "bias_grad", "relu", "relu_grad"};

/* One call of a fused kernel: elements first .. first+n-1 of `stream`, the first of which is in column
 * `column`. */
typedef struct {
    const fd_kernels *kernels;
    fd_fusion op;
    fd_dtype x_type, y_type;
    uint64_t first;
    size_t n;
    fd_stream stream;
    double scale;
    size_t period, column;
    /* bits and values of the elements; of the bias NULL for -0.0 */
    const uint64_t *x, *beside, *bias;
    const double *x_value, *beside_value, *bias_value;
    /* where they lie; what is beside x and the same lies there */
    int upper, y_is_x, y_is_beside, bypass;
    size_t x_shift, y_shift, beside_shift, row_shift;
    /* instead of the kernel: by fd_range_fused, of an array that has begin elements before these */
    int is_range;
    size_t begin;
} fused_call;

static int reads_beside(const fused_call *c) {
    return c->op == FD_FUSED_RESIDUAL || c->op == FD_FUSED_RELU_GRAD;
}
static int adds_bias(const fused_call *c) {
    return c->op == FD_FUSED_RESIDUAL || c->op == FD_FUSED_RELU;
}
static int sums(const fused_call *c) { return !adds_bias(c); }

/* What it must come to, by the model, and the sums before it. */
static uint64_t fused_y[MOST];
static double sums_before[LONGEST_ROW], sums_after[LONGEST_ROW];

static void model_fused(const fused_call *c) {
    const fd_dtype d = c->x_type, sum = compute_type(d);
    const double scale = rounded(d, c->scale);
    size_t column = c->column;
    for (size_t i = 0; i < c->period; i++) {
        /* none is -0.0, which sums that begin at 0 never are: a step next to it makes it 0 */
        const uint64_t bits = tame[sum][(c->n + i) % POOL];
        sums_before[i] = sums_after[i] = bits == sign_bit(sum) ? 0 : value_of(sum, bits);
    }
    for (size_t j = 0; j < c->n; j++, column = column + 1 == c->period ? 0 : column + 1) {
        const int is_kept = c->op == FD_FUSED_RELU_GRAD ? c->beside_value[j] > 0 : keep[j];
        double x = c->x_value[j];
        if (adds_bias(c)) x = rounded(d, x + (c->bias ? c->bias_value[column] : -0.0));
        if (c->op == FD_FUSED_RELU && x <= 0) x = 0.0;
        x = is_kept ? rounded(d, x * scale) : 0.0;
        if (sums(c)) sums_after[column] = rounded(d, sums_after[column] + x);
        if (c->op == FD_FUSED_RESIDUAL) x = rounded(d, c->beside_value[j] + x);
        fused_y[j] = bits_of(c->y_type, x);
    }
}

static _Noreturn void fused_mismatch(const fused_call *c, const char *what, size_t at, uint64_t got,
                                     uint64_t want) {
    quit(
        1,
        "mismatch: %s %s %s to %s%s: %s %zu is %#llx, not %#llx\n"
        "  seed %llu position %llu threshold %llu first %llu n %zu scale %g period %zu column %zu\n"
        "  x %zu, y %zu, beside %zu and row %zu elements from the %s end%s%s%s",
        c->kernels->name, fusion_names[c->op], fd_dtype_names[c->x_type], fd_dtype_names[c->y_type],
        c->is_range ? " of a range" : "", what, at, (unsigned long long)got,
        (unsigned long long)want, (unsigned long long)c->stream.seed,
        (unsigned long long)c->stream.position, (unsigned long long)c->stream.drop_threshold,
        (unsigned long long)c->first, c->n, c->scale, c->period, c->column, c->x_shift, c->y_shift,
        c->beside_shift, c->row_shift, c->upper ? "upper" : "lower", c->y_is_x ? ", y is x" : "",
        c->y_is_beside ? ", y is beside" : "", c->bypass ? ", around the caches" : "");
}

static fd_fused_fn *fused_kernel(const fused_call *c) {
    if (c->x_type == c->y_type) return c->kernels->fused[c->x_type];
    return c->op == FD_FUSED_RESIDUAL ? c->kernels->fused_to_f32[c->x_type]
                                      : c->kernels->fused_from_f32[c->y_type];
}

static void check_fused(const fused_call *c) {
    const fd_dtype row_type = sums(c) ? compute_type(c->x_type) : c->y_type;
    const size_t x_size = item[c->x_type], y_size = item[c->y_type], n_bytes = c->n * y_size;
    const size_t row_n = c->period + FD_MAX_STEP;
    const size_t row_size = item[row_type], row_bytes = row_n * row_size;
    unsigned char *y = lay(&y_arena, n_bytes, c->y_shift * y_size, c->upper);
    unsigned char *x = c->y_is_x ? y : lay(&x_arena, c->n * x_size, c->x_shift * x_size, c->upper);
    unsigned char *beside = c->y_is_beside ? y
                            : c->beside == c->x
                                ? x
                                : lay(&beside_arena, n_bytes, c->beside_shift * y_size, c->upper);
    unsigned char *row = lay(&row_arena, row_bytes, c->row_shift * row_size, c->upper);

    watch(&y_arena, y, n_bytes);
    watch(&row_arena, row, row_bytes);
    for (size_t j = 0; j < c->n; j++) put(c->x_type, x, j, c->x[j]);
    for (size_t j = 0; j < c->n && reads_beside(c); j++) put(c->y_type, beside, j, c->beside[j]);
    for (size_t i = 0; i < row_n; i++)
        if (sums(c))
            put(row_type, row, i, i < c->period ? bits_of(row_type, sums_before[i]) : 0);
        else
            put(row_type, row, i, c->bias ? c->bias[i % c->period] : sign_bit(row_type));
    fd_fused fused = {.op = c->op, .period = c->period, .column = c->column};
    if (reads_beside(c)) fused.beside = beside;
    if (sums(c))
        fused.bias_grad = row;
    else
        fused.bias = row;
    if (c->is_range) {
        /* it is given the place of element 0, and goes around the caches only for large arrays */
        const size_t all = c->bypass ? 1 << 24 : c->begin + c->n;
        fused.column = (c->column + c->period - c->begin % c->period) % c->period;
        if (fused.beside) fused.beside = beside - c->begin * y_size;
        fd_range_fused(c->kernels, c->x_type, c->y_type, y - c->begin * y_size,
                       x - c->begin * x_size, all, c->first - c->begin, c->begin, c->n, &c->stream,
                       c->scale, &fused);
    } else {
        fused_kernel(c)(y, x, c->first, c->n, &c->stream, c->scale, &fused, hints(c->bypass));
    }
    calls++;

    const unsigned char *wrong = stray(&y_arena, y, n_bytes);
    if (wrong) fused_mismatch(c, "byte outside y at address", (size_t)wrong, *wrong, 0xA5);
    wrong = stray(&row_arena, row, row_bytes);
    if (wrong) fused_mismatch(c, "byte outside the row at address", (size_t)wrong, *wrong, 0xA5);
    for (size_t j = 0; j < c->n; j++) {
        uint64_t want = fused_y[j], got = get(c->y_type, y, j);
        if (got != want && !(is_nan(c->y_type, got) && is_nan(c->y_type, want)))
            fused_mismatch(c, "element", j, got, want);
        if (x != y && (got = get(c->x_type, x, j)) != c->x[j])
            fused_mismatch(c, "element of x", j, got, c->x[j]);
        if (reads_beside(c) && beside != y && (got = get(c->y_type, beside, j)) != c->beside[j])
            fused_mismatch(c, "element beside x", j, got, c->beside[j]);
    }
    for (size_t i = 0; i < row_n; i++) {
        uint64_t want = c->bias ? c->bias[i % c->period] : sign_bit(row_type);
        if (sums(c)) want = i < c->period ? bits_of(row_type, sums_after[i]) : 0;
        const uint64_t got = get(row_type, row, i);
        if (got != want && !(sums(c) && is_nan(row_type, got) && is_nan(row_type, want)))
            fused_mismatch(c, sums(c) ? "sum" : "element of bias", i, got, want);
    }
}

/* The rest of a call, at random: its row and its inputs; and where they lie. */
static void vary_fused(fused_call *c) {
    const fd_dtype d = c->x_type;
    const size_t at = random_below(OFFSETS), other = random_below(6) ? OFFSETS - at : at;
    /* sums of all kinds of numbers soon are NaNs */
    const int is_tame = sums(c) && random_below(4);
    const size_t kind = random_below(4); /* of the bias */
    c->scale = scales[random_below(SCALES)];
    c->period = periods[random_below(c->n < 1000 ? SHORT_PERIODS : PERIODS)];
    c->column = random_below(5) ? random_below(c->period) : c->period - 1;
    c->x = (is_tame ? tame : pool)[d] + at;
    c->x_value = (is_tame ? tame_value : pool_value)[d] + at;
    c->beside = pool[c->y_type] + other, c->beside_value = pool_value[c->y_type] + other;
    if (kind && adds_bias(c)) {
        c->bias = (kind > 1 ? tame : pool)[c->y_type];
        c->bias_value = (kind > 1 ? tame_value : pool_value)[c->y_type];
    }
    if (c->op == FD_FUSED_RELU_GRAD) c->stream.drop_threshold = 0;
    model_fused(c);
}

static void shift_fused(fused_call *c) {
    c->x_shift = random_below(SHIFTS), c->y_shift = random_below(SHIFTS);
    c->beside_shift = random_below(SHIFTS), c->row_shift = random_below(SHIFTS);
}

/* Every size, start and dtype; all else at random. */
static void parity_of_fused(const fd_kernels *k) {
    for (int start = 0; start < STARTS; start++)
        for (int size = 0; size < SIZES; size++) {
            const size_t n = sizes[size], skip = skip_of(start, n);
            const uint64_t threshold = thresholds[(start * SIZES + size) % THRESHOLDS];
            if (n > LONG_RANGE && (start + size) % 3) continue;
            set_keep(start, skip, threshold);
            for (int kind = 0; kind < KINDS; kind++) {
                fused_call c = {.kernels = k,
                                .op = fusions[kind].op,
                                .x_type = fusions[kind].x,
                                .y_type = fusions[kind].y,
                                .first = starts[start] + skip,
                                .n = n,
                                .stream = streams[start]};
                const int is_mixed = c.x_type != c.y_type;
                c.stream.drop_threshold = threshold;
                vary_fused(&c);
                c.upper = 1; /* flush with the end */
                check_fused(&c);
                c.upper = 0, shift_fused(&c);
                c.begin = random_below(c.first < 5000 ? (size_t)c.first + 1 : 5000);
                c.is_range = 1, c.bypass = (int)random_below(2);
                check_fused(&c);
                c.is_range = (int)random_below(2), c.bypass = !c.bypass;
                c.y_is_x = !is_mixed && (!reads_beside(&c) || random_below(2));
                c.y_is_beside = reads_beside(&c) && !c.y_is_x;
                c.upper = (int)random_below(2);
                check_fused(&c);
            }
        }
}

/* Every place of y, the others' at random. */
static void parity_of_fused_places(const fd_kernels *k) {
    static const size_t lengths[] = {1, 33, 130, 5000};
    static const size_t skips[] = {0, 1, 8, 31, 32, 65, 130, 1999, 2048};
    const int start = 5;
    for (int kind = 0; kind < KINDS; kind++)
        for (size_t place = 0; place < SHIFTS; place++)
            for (int length = 0; length < 4; length++) {
                const size_t skip = skips[random_below(9)];
                fused_call c = {.kernels = k,
                                .op = fusions[kind].op,
                                .x_type = fusions[kind].x,
                                .y_type = fusions[kind].y,
                                .first = starts[start] + skip,
                                .n = lengths[length],
                                .stream = streams[start]};
                c.stream.drop_threshold = thresholds[5];
                set_keep(start, skip, c.stream.drop_threshold);
                vary_fused(&c);
                shift_fused(&c);
                c.y_shift = place;
                check_fused(&c);
                c.bypass = 1;
                check_fused(&c);
                c.upper = 1;
                check_fused(&c);
            }
}

/* ---- noise ----------------------------------------------------------------------------------- */

static const double deviations[] = {0.5, 1.0, 1 / 3.0, 0.0, 1e-3, 1e-44, 1e38, 1e300};
enum { DEVIATIONS = sizeof deviations / sizeof *deviations };

/* One call: elements first .. first+n-1 of `stream`, or begin .. begin+n-1 of a window of it, whose
 * normal numbers are z. */
typedef struct {
    const fd_kernels *kernels;
    fd_dtype dtype;
    int additive;
    uint64_t first;
    size_t n;
    fd_stream stream;
    double sd;
    const float *z;
    const uint64_t *x;
    const double *x_value;
    int upper, in_place;
    size_t x_shift, y_shift;
    const fd_window *window;
    size_t begin;
} noise_call;

static uint64_t noise_y[MOST]; /* by the model */

static void model_noise(const noise_call *c) {
    for (size_t j = 0; j < c->n; j++)
        noise_y[j] = noisy(c->dtype, c->x_value[j], c->z[j], c->sd, c->additive);
}

static _Noreturn void noise_mismatch(const noise_call *c, const char *what, size_t at, uint64_t got,
                                     uint64_t want) {
    quit(1,
         "mismatch: %s %s noise %s%s: %s %zu is %#llx, not %#llx\n"
         "  seed %llu position %llu first %llu n %zu begin %zu sd %g\n"
         "  x %zu and y %zu elements from the %s end%s",
         c->kernels->name, c->additive ? "additive" : "multiplicative", fd_dtype_names[c->dtype],
         c->window ? " of a window" : "", what, at, (unsigned long long)got,
         (unsigned long long)want, (unsigned long long)c->stream.seed,
         (unsigned long long)c->stream.position,
         (unsigned long long)(c->window ? c->window->first : c->first), c->n, c->begin, c->sd,
         c->x_shift, c->y_shift, c->upper ? "upper" : "lower", c->in_place ? ", in place" : "");
}

static void check_noise(const noise_call *c) {
    const fd_dtype d = c->dtype;
    const size_t n_bytes = c->n * item[d], skip = c->begin * item[d];
    unsigned char *y = lay(&y_arena, n_bytes, c->y_shift * item[d], c->upper);
    unsigned char *x = c->in_place ? y : lay(&x_arena, n_bytes, c->x_shift * item[d], c->upper);

    watch(&y_arena, y, n_bytes);
    for (size_t j = 0; j < c->n; j++) put(d, x, j, c->x[j]);
    if (c->window)
        fd_window_noise(c->kernels, d, c->window, y - skip, x - skip, c->begin, c->n, &c->stream,
                        c->sd, c->additive);
    else
        c->kernels->noise[d](y, x, c->first, c->n, &c->stream, c->sd, c->additive);
    calls++;

    const unsigned char *wrong = stray(&y_arena, y, n_bytes);
    if (wrong) noise_mismatch(c, "byte outside y at address", (size_t)wrong, *wrong, 0xA5);
    for (size_t j = 0; j < c->n; j++) {
        uint64_t want = noise_y[j], got = get(d, y, j);
        if (got != want && !(is_nan(d, got) && is_nan(d, want)))
            noise_mismatch(c, "element", j, got, want);
        if (x != y && (got = get(d, x, j)) != c->x[j])
            noise_mismatch(c, "element of x", j, got, c->x[j]);
    }
}

/* Every size, start and dtype; the arrays' places and the deviations at random. */
static void parity_of_noise(const fd_kernels *k) {
    for (int start = 0; start < STARTS; start++)
        for (int size = 0; size < SIZES; size++) {
            const size_t n = sizes[size], skip = skip_of(start, n);
            if (n > LONG_RANGE && (start + size) % 4) continue;
            for (int kind = 0; kind < 2 * FD_DTYPES; kind++) {
                const int d = kind / 2;
                const size_t at = random_below(OFFSETS);
                noise_call c = {.kernels = k,
                                .dtype = (fd_dtype)d,
                                .additive = kind % 2,
                                .first = starts[start] + skip,
                                .n = n,
                                .stream = streams[start],
                                .sd = deviations[random_below(DEVIATIONS)],
                                .z = normals[start] + skip,
                                .x = pool[d] + at,
                                .x_value = pool_value[d] + at,
                                .upper = 1};
                c.stream.drop_threshold = random64(); /* whatever it is */
                model_noise(&c);
                check_noise(&c); /* flush with the end */
                c.upper = 0, c.x_shift = random_below(SHIFTS), c.y_shift = random_below(SHIFTS);
                check_noise(&c);
                c.in_place = 1, c.upper = (int)random_below(2);
                check_noise(&c);
            }
        }
}

/* ---- softmax --------------------------------------------------------------------------------- */

/* e^x, x of 0 or below: what the comment in src/fd_softmax_tpl.h says, coefficients as there. */
static double exponential(fd_dtype d, double x) {
    static const double single[] = {0.00132647273, 0.00967151299, 0.0555073358,
                                    0.240222424,   0.693147004,   1};
    static const double wide[] = {
        4.43477114006894891e-10, 7.07378325404805457e-09, 1.01781995728823014e-07,
        1.32154352822713347e-06, 1.52527334931250152e-05, 0.000154035304571121726,
        0.00133335581467746204,  0.00961812910759411895,  0.0555041086648200774,
        0.240226506959101305,    0.693147180559945286,    1};
    const double *c = d == FD_F64 ? wide : single;
    const int degree = d == FD_F64 ? 11 : 5, most = d == FD_F64 ? 1023 : 127;
    double t = rounded(d, x * rounded(d, 1.4426950408889634));
    if (isnan(x)) return x;
    if (t < -most) t = -most;
    /* to the nearest integer, halves as they come in this sum */
    const double large = most + (d == FD_F64 ? 0x1.8p52 : 0x1.8p23), biased = rounded(d, t + large);
    const double n = biased - large, f = rounded(d, t - n);
    double sum = rounded(d, c[0]);
    for (int i = 1; i <= degree; i++) {
        const double product = rounded(d, sum * f);
        sum = rounded(d, product + rounded(d, c[i]));
    }
    return n == -most ? 0 : rounded(d, ldexp(sum, (int)n));
}

/* 64 lanes: each half added to the other, until one is left. */
static double total_of(fd_dtype d, double *lanes) {
    for (int half = 32; half; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] = rounded(d, lanes[i] + lanes[i + half]);
    return lanes[0];
}

typedef struct {
    const fd_kernels *kernels;
    fd_dtype dtype;
    size_t row, rows;
    fd_stream stream;
    double scale;
    const fd_window *window;
    const double *x_value, *grad_value; /* NULL: forward */
    const uint64_t *x, *grad;
    int upper, y_is_x, y_is_grad;
    size_t x_shift, y_shift, grad_shift, begin;
} softmax_call;

static uint64_t softmax_y[MOST]; /* by the model */

static void model_row(const softmax_call *c, size_t from) {
    enum { BLOCK = 2048 };
    static double e[MOST];
    const fd_dtype d = c->dtype;
    const double *x = c->x_value + from, *grad = c->grad_value ? c->grad_value + from : NULL;
    const unsigned char *kept_here = keep + from;
    double max = -INFINITY, sum = 0, dot = 0;
    for (size_t at = 0; at < c->row; at += BLOCK) {
        const size_t to = at + BLOCK < c->row ? at + BLOCK : c->row;
        double lanes[64] = {0}, products[64] = {0}, above = max;
        for (size_t i = at; i < to; i++)
            if (x[i] > above) above = x[i];
        const double shift = above == -INFINITY ? 0 : above;
        if (sum != 0 && above != max) {
            const double by = exponential(d, rounded(d, max - shift));
            sum *= by, dot *= by;
        }
        max = above;
        for (size_t i = at; i < to; i++) {
            double *lane = &lanes[(i - at) % 64], *product = &products[(i - at) % 64];
            e[i] = exponential(d, rounded(d, x[i] - shift));
            *lane = rounded(d, *lane + e[i]);
            if (grad && kept_here[i]) *product = rounded(d, *product + rounded(d, e[i] * grad[i]));
        }
        sum += total_of(d, lanes), dot += total_of(d, products);
    }
    const double shift = max == -INFINITY ? 0 : max, inverse = sum == 0 ? 0 : 1 / sum;
    const double by = rounded(d, grad ? inverse * c->scale : inverse);
    const double last = rounded(d, grad ? dot * inverse : c->scale);
    for (size_t i = 0; i < c->row; i++) {
        const double soft = rounded(d, exponential(d, rounded(d, x[i] - shift)) * by);
        double y;
        if (grad)
            y = rounded(d, soft * rounded(d, (kept_here[i] ? grad[i] : 0) - last));
        else
            y = kept_here[i] ? rounded(d, soft * last) : 0;
        softmax_y[from + i] = bits_of(d, y);
    }
}

static void check_softmax(const softmax_call *c) {
    const fd_dtype d = c->dtype;
    const size_t n = c->row * c->rows, n_bytes = n * item[d], skip = c->begin * item[d];
    unsigned char *y = lay(&y_arena, n_bytes, c->y_shift * item[d], c->upper), *grad = NULL, *wrong;
    unsigned char *x = c->y_is_x ? y : lay(&x_arena, n_bytes, c->x_shift * item[d], c->upper);
    watch(&y_arena, y, n_bytes);
    for (size_t j = 0; j < n; j++) put(d, x, j, c->x[j]);
    if (c->grad) {
        grad = c->y_is_grad ? y : lay(&beside_arena, n_bytes, c->grad_shift * item[d], c->upper);
        for (size_t j = 0; j < n; j++) put(d, grad, j, c->grad[j]);
    }
    fd_window_softmax(c->kernels, d, c->window, y - skip, x - skip, grad ? grad - skip : NULL,
                      c->row, c->begin, n, &c->stream, c->scale);
    calls++;
    if ((wrong = stray(&y_arena, y, n_bytes)))
        quit(1, "mismatch: %s softmax %s, rows of %zu: byte %td of y was written", c->kernels->name,
             fd_dtype_names[d], c->row, wrong - y);
    for (size_t j = 0; j < n; j++) {
        const uint64_t got = get(d, y, j), want = softmax_y[j];
        if (got != want && !(is_nan(d, got) && is_nan(d, want)))
            quit(1, "mismatch: %s softmax%s %s, %zu rows of %zu: element %zu is %#llx, not %#llx",
                 c->kernels->name, c->grad ? "'s gradient" : "", fd_dtype_names[d], c->rows, c->row,
                 j, (unsigned long long)got, (unsigned long long)want);
        if ((x != y && get(d, x, j) != c->x[j]) ||
            (grad && grad != y && get(d, grad, j) != c->grad[j]))
            quit(1, "mismatch: %s softmax %s: element %zu of x or grad was changed",
                 c->kernels->name, fd_dtype_names[d], j);
    }
}

/* Rows of many lengths, also longer than a block: ordinary ones, ones where nothing is to be looked at, of
 * -infinity, with NaN and infinity, and so wide that most underflow. */
static void parity_of_softmax(const fd_kernels *k) {
    static const size_t rows_of[] = {1,   2,   7,    16,   63,   64,   65,   100,  127, 128,
                                     192, 500, 1000, 1024, 2047, 2048, 2049, 3000, 4160};
    static uint64_t x[MOST];
    static double x_value[MOST];
    for (unsigned turn = 0; turn < 4 * sizeof rows_of / sizeof *rows_of; turn++) {
        const size_t row = rows_of[turn / 4], most = MOST / row < 40 ? MOST / row : 40;
        const size_t rows = turn % 4 ? 1 + random_below(most) : most, n = row * rows;
        const int start = (int)random_below(STARTS);
        const size_t skip = skip_of(start, n), begin = row * random_below(3);
        const uint64_t threshold = thresholds[random_below(THRESHOLDS)], ones = 1;
        const uint64_t shape = n + begin;
        fd_window window;
        fd_window_init(&window, 1, &shape, &ones, starts[start] + skip - begin);
        if (starts[start] + skip < begin) continue;
        set_keep(start, skip, threshold);
        for (int type = 0; type < FD_DTYPES; type++) {
            const fd_dtype d = (fd_dtype)type;
            const size_t at = random_below(OFFSETS);
            for (size_t j = 0; j < n; j++) {
                const size_t kind = (j / row + turn) % 6;
                double v = tame_value[d][at + j];
                if (kind == 1 || (kind == 2 && j % 3 == 0)) v = -INFINITY;
                if (kind == 3) v = pool_value[d][at + j];
                if (kind == 4) v *= 64;
                x[j] = bits_of(d, v), x_value[j] = value_of(d, x[j]);
            }
            softmax_call c = {.kernels = k,
                              .dtype = d,
                              .row = row,
                              .rows = rows,
                              .stream = streams[start],
                              .scale = scales[random_below(SCALES)],
                              .window = &window,
                              .x = x,
                              .x_value = x_value,
                              .begin = begin,
                              .upper = 1};
            c.stream.drop_threshold = threshold;
            for (int backward = 0; backward < 2; backward++) {
                if (backward) {
                    const size_t from = random_below(OFFSETS);
                    c.grad = turn % 3 ? tame[d] + from : pool[d] + from;
                    c.grad_value = turn % 3 ? tame_value[d] + from : pool_value[d] + from;
                }
                for (size_t r = 0; r < rows; r++) model_row(&c, r * row);
                check_softmax(&c);
                c.upper = 0, c.x_shift = random_below(SHIFTS), c.y_shift = random_below(SHIFTS);
                c.grad_shift = random_below(SHIFTS);
                check_softmax(&c);
                c.y_is_x = 1, c.upper = (int)random_below(2);
                check_softmax(&c);
                c.y_is_x = 0, c.y_is_grad = backward;
                check_softmax(&c);
                c.y_is_grad = 0;
            }
        }
    }
}

/* The copy around the caches, from any float's place to any. */
static void parity_of_put_around(const fd_kernels *k) {
    for (size_t n = 0; n < 700; n += 4 + n / 40 * 4)
        for (size_t shift = 0; shift < 80; shift += 4) {
            const int upper = (int)(shift / 4 % 2);
            unsigned char *y = lay(&y_arena, n, shift, upper);
            unsigned char *x = lay(&x_arena, n, 4 * random_below(GUARD / 4), !upper);
            for (size_t j = 0; j < n; j++) x[j] = (unsigned char)random64();
            watch(&y_arena, y, n);
            k->put_around(y, x, n);
            k->fence();
            calls++;
            if (stray(&y_arena, y, n) || memcmp(x, y, n))
                quit(1, "mismatch: %s put_around of %zu bytes, %zu from the end", k->name, n,
                     shift);
        }
}

/* How far exponentials are from the C library's. */
static void check_exponentials(void) {
    for (int type = FD_F32; type <= FD_F64; type++) {
        const fd_dtype d = (fd_dtype)type;
        const double u = d == FD_F64 ? 0x1p-53 : 0x1p-24, least = d == FD_F64 ? -708 : -87;
        for (int i = 0; i < 200000; i++) {
            const double x =
                rounded(d, (double)(random64() >> 11) * 0x1p-53 * (i % 2 ? least : -2));
            const double error = fabs(exponential(d, x) / exp(x) - 1);
            if (error > (1.3 * fabs(x) + 4.5) * u) /* 1 more, for the library's own */
                quit(1, "mismatch: the model's exp(%.17g) is off by %g", x, error);
        }
    }
}

/* Every value of the 16-bit types, as x of the fused kernels and of noise. */
static void parity_of_fused_halves(const fd_kernels *k) {
    enum { VALUES = 65536, PIECE = 4096 };
    static uint64_t x[PIECE];
    static double x_value[PIECE];
    memset(keep, 1, sizeof keep);
    for (int d = FD_F16; d <= FD_BF16; d++)
        for (uint64_t base = 0; base < VALUES; base += PIECE) {
            for (uint64_t i = 0; i < PIECE; i++) {
                x[i] = base + i;
                x_value[i] = value_of((fd_dtype)d, x[i]);
            }
            for (int kind = 0; kind < KINDS; kind++) {
                if ((int)fusions[kind].x != d) continue;
                fused_call f = {.kernels = k,
                                .op = fusions[kind].op,
                                .x_type = fusions[kind].x,
                                .y_type = fusions[kind].y,
                                .n = PIECE};
                vary_fused(&f);
                f.x = x, f.x_value = x_value;
                model_fused(&f);
                check_fused(&f);
            }
            noise_call c = {.kernels = k,
                            .dtype = (fd_dtype)d,
                            .first = starts[7],
                            .n = PIECE,
                            .stream = streams[7],
                            .sd = deviations[base / PIECE % 3],
                            .z = normals[7],
                            .x = x,
                            .x_value = x_value};
            for (c.additive = 0; c.additive < 2; c.additive++) {
                model_noise(&c);
                check_noise(&c);
            }
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
            fd_window_bits(c->kernels, c->window, out, begin, c->begin, c->n, &c->stream);
        else
            c->kernels->bits(out, c->begin, c->first, NULL, c->n, &c->stream);
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
    {2, 256, {9, 512}, {4096, 1}}, /* rows of whole blocks */
    {2, 128, {7, 384}, {0, 1}},    /* one such row for all rows */
    {3, 640, {2, 4, 640}, {1 << 20, 1 << 15, 1}},
    {2, (5ull << 39) + 1280, {7, 640}, {2048, 1}},
    /* rows of whole blocks over, up to and from a boundary of what blocks have in common; up to the last element */
    {2, (1ull << 34) - 2048, {8, 512}, {1024, 1}},
    {2, (1ull << 34) - 3584, {2, 1536}, {2048, 1}},
    {2, 1ull << 34, {5, 640}, {1024, 1}},
    {2, (1ull << 58) - 7168, {4, 1024}, {2048, 1}},
    {2, 1024, {9, 300}, {384, 1}}, /* rows that begin with a block and end within one */
    {3, 77, {6, 9, 50}, {6000, 60, 1}},
    {4, 3, {3, 5, 4, 30}, {4, 0, 1, 0}},
    {4, 0, {5, 1, 6, 7}, {42, 42, 7, 1}}, /* contiguous after all */
    {2, (1ull << 39) - 5, {3, 50}, {1ull << 40, 1}},
    {2, (1ull << 34) - 5, {30, 9}, {7, 1}}, /* over a boundary of what blocks have in common */
    {3, (1ull << 34) - 70, {4, 5, 33}, {3ull << 34, 40, 1}}, /* over several, and back */
    {2, (1ull << 58) - 10000, {7, 400}, {1600, 1}},          /* up to the last element */
};

/* A window of a random mask with random axes shared; some of rows of whole blocks. */
static geometry random_geometry(void) {
    static const uint64_t extents[] = {1, 2, 3, 5, 8, 17, 33, 64, 100, 130, 300, 1100};
    geometry g = {.ndim = (int)(1 + random64() % 4)};
    uint64_t stride = 1, total = 1;
    const unsigned shared = (unsigned)random64() & (unsigned)random64() & 15;
    const int whole_blocks = random64() % 4 == 0;
    for (int axis = g.ndim - 1; axis >= 0; axis--) {
        const uint64_t unit = whole_blocks && axis == g.ndim - 1 ? FD_BLOCK : 1;
        g.shape[axis] = unit * extents[random64() % (unit == 1 ? 12 : 6)];
        /* a long way, so that results are larger than caches; but few elements are asked for */
        if (axis == 0 && random64() % 2) g.shape[axis] = 1 << 14;
        while (total * g.shape[axis] > 1 << 26) g.shape[axis] = g.shape[axis] / 2;
        total *= g.shape[axis];
        const uint64_t extent = g.shape[axis] + random64() % 2 * (random64() % 50) * unit;
        const uint64_t from = random64() % ((extent - g.shape[axis]) / unit + 1) * unit;
        if (shared >> axis & 1) continue; /* a stride of 0 */
        g.stride[axis] = stride;
        g.first += from * stride;
        stride *= extent;
    }
    if (random64() % 4 == 0) g.first += (random64() >> 15) * FD_BLOCK; /* < 2^56 */
    if (!whole_blocks) g.first += random64() % FD_BLOCK;
    return g;
}

/* A rate for each element: some of the window's rates repeat, and some are the elements' own numbers U, or
 * next to them. `number` are those numbers. */
static void check_rates(const fd_kernels *k, const fd_window *w, size_t begin, size_t n,
                        const fd_stream *stream, const uint64_t *number) {
    static const size_t rate_periods[] = {1, 3, 10, 100, 2048, MOST};
    static uint64_t drop[MOST], found[MOST];
    static double p[MOST], scale[MOST];
    const size_t period = rate_periods[random_below(6)];
    const int own_scales = (int)random_below(2);
    for (size_t i = 0; i < period; i++) {
        drop[i] = random_below(3) ? thresholds[random_below(THRESHOLDS)] : random64() >> 24;
        if (random_below(4) == 0 && n) drop[i] = number[i % n] + random_below(2);
        p[i] = (double)drop[i] * 0x1p-40; /* or what rounds to it */
        if (random_below(4) == 0 && drop[i] < 1ull << 40) p[i] += 0x1p-42;
        if (random_below(4) == 0 && drop[i] > 0) p[i] -= 0x1p-42;
        scale[i] = own_scales ? scales[random_below(SCALES)] : 1 / (1 - p[i]);
    }
    for (int type = 0; type < FD_DTYPES; type++) {
        const fd_dtype d = (fd_dtype)type;
        const size_t size = item[d], at = random_below(OFFSETS);
        const fd_rates rates = {p, own_scales ? scale : NULL, period};
        const int in_place = (int)random_below(2), upper = (int)random_below(2);
        unsigned char *y = lay(&y_arena, n * size, random_below(SHIFTS) * size, upper);
        unsigned char *x =
            in_place ? y : lay(&x_arena, n * size, random_below(SHIFTS) * size, upper);
        watch(&y_arena, y, n * size);
        for (size_t j = 0; j < n; j++) put(d, x, j, pool[d][at + j]);
        fd_window_rates(k, d, w, y - begin * size, x - begin * size, begin, n, stream, &rates);
        calls++;
        if (stray(&y_arena, y, n * size)) quit(1, "mismatch: %s rates: beside y", k->name);
        for (size_t j = 0; j < n; j++) {
            const size_t r = (begin + j) % period;
            const double product = rounded(d, pool_value[d][at + j] * rounded(d, scale[r]));
            const uint64_t want = number[j] >= drop[r] ? bits_of(d, product) : 0;
            const uint64_t got = get(d, y, j);
            if (got != want && !(is_nan(d, got) && is_nan(d, want)))
                quit(1,
                     "mismatch: %s rates %s: element %zu + %zu of period %zu is %#llx, not %#llx",
                     k->name, fd_dtype_names[d], begin, j, period, (unsigned long long)got,
                     (unsigned long long)want);
        }
        if (d != FD_F32) continue;
        unsigned char *bits = y_arena.low;
        memset(bits, 0xA5, n / 8 + 2);
        fd_window_rates_bits(k, w, bits - begin / 8, begin, n, stream, &rates);
        for (size_t j = 0; j < n; j++) {
            const size_t bit = begin % 8 + j;
            if ((bits[bit / 8] >> bit % 8 & 1) != (number[j] >= drop[(begin + j) % period]))
                quit(1, "mismatch: %s rates: bit of element %zu + %zu", k->name, begin, j);
        }
    }
    fd_window_uniforms(k, w, found, begin, n, stream);
    for (size_t j = 0; j < n; j++)
        if (found[j] != number[j])
            quit(1, "mismatch: %s uniforms: element %zu + %zu is %#llx, not %#llx", k->name, begin,
                 j, (unsigned long long)found[j], (unsigned long long)number[j]);
}

static void check_window(const fd_kernels *k, const geometry *g, size_t begin, size_t n,
                         unsigned turn) {
    static float z[MOST];
    static uint64_t number[MOST];
    fd_window w;
    fd_stream stream = streams[turn % STARTS];
    stream.drop_threshold = thresholds[turn % THRESHOLDS];
    for (size_t j = 0; j < n; j++) {
        uint64_t rest = begin + j, index = g->first;
        for (int axis = g->ndim - 1; axis >= 0; axis--) {
            index += rest % g->shape[axis] * g->stride[axis];
            rest /= g->shape[axis];
        }
        number[j] = uniform(&stream, index);
        keep[j] = number[j] >= stream.drop_threshold;
        z[j] = normal(&stream, index);
    }
    fd_window_init(&w, g->ndim, g->shape, g->stride, g->first);
    bits_call b = {.kernels = k, .n = n, .begin = begin, .stream = stream, .window = &w};
    check_bits(&b);
    check_rates(k, &w, begin, n, &stream, number);
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
        c.in_place = 0, c.ones = !c.affine;
        check_apply(&c);
    }
    /* there is no noise that the elements of a run share */
    if (w.stride[w.ndim - 1] == 0) return;
    for (int kind = 0; kind < 2 * FD_DTYPES; kind++, turn++) {
        const int d = kind / 2;
        noise_call c = {.kernels = k,
                        .dtype = (fd_dtype)d,
                        .additive = kind % 2,
                        .n = n,
                        .stream = stream,
                        .sd = deviations[random_below(DEVIATIONS)],
                        .z = z,
                        .x = pool[d] + turn % OFFSETS,
                        .x_value = pool_value[d] + turn % OFFSETS,
                        .window = &w,
                        .begin = begin,
                        .upper = 1};
        model_noise(&c);
        check_noise(&c);
        c.in_place = (int)(turn % 2), c.upper = 0;
        c.x_shift = turn % SHIFTS, c.y_shift = turn / 7 % SHIFTS;
        check_noise(&c);
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
            size_t begin = random64() % total;
            if (i % 2) begin -= begin % FD_BLOCK;
            const size_t left = total - begin;
            const size_t n = i % 5 ? random64() % 700 : random64() % 6000;
            check_window(k, &g, begin, n < left ? n : left, turn++);
        }
    }
}

static void parity(const fd_kernels *k) {
    prepare();
    x_arena = new_arena((MOST + SHIFTS) * 8 + GUARD);
    y_arena = new_arena((MOST + SHIFTS) * 8 + GUARD);
    beside_arena = new_arena((MOST + SHIFTS) * 8 + GUARD);
    row_arena = new_arena((LONGEST_ROW + FD_MAX_STEP + SHIFTS) * 8 + GUARD);
    parity_of_ranges(k);
    parity_of_places(k);
    parity_of_halves(k);
    parity_of_given(k);
    parity_of_fused(k);
    parity_of_fused_places(k);
    parity_of_noise(k);
    check_exponentials();
    parity_of_softmax(k);
    parity_of_put_around(k);
    parity_of_fused_halves(k);
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
    k->bits(bits, 0, start, NULL, (size_t)n, &stream);
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
    fd_window_bits(k, &window, bits, 0, 0, n, &stream);
    print_bits(bits, n);
}

static void answer_normal(const fd_kernels *k) {
    fd_stream stream = {0};
    fd_window window;
    stream.seed = number(), stream.position = number();
    const uint64_t start = number(), n = number(), one = 1;
    if (start > LARGEST || n > LARGEST - start) quit(2, "error: past 2^58 elements");
    /* 0 + 1 z, exactly, for no z is 0 */
    float *z = calloc((size_t)n + 1, sizeof *z);
    if (!z) quit(2, "error: no memory");
    fd_window_init(&window, 1, &n, &one, start);
    fd_window_noise(k, FD_F32, &window, z, z, 0, n, &stream, 1.0, 1);
    for (size_t i = 0; i < n; i++)
        printf(i ? " %08llx" : "%08llx", (unsigned long long)get(FD_F32, z, i));
    putchar('\n');
    free(z);
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
        else if (strcmp(request, "normal") == 0)
            answer_normal(fd_built(isa));
        else if (strcmp(request, "parity") == 0)
            parity(fd_built(isa));
        else
            quit(2, "error: unknown request %s", request);
        fflush(stdout);
    }
    return 0;
}

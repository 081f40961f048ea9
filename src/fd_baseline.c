/*
 * Portable C: one block a group, one element a vector. Runs everywhere; conversions of 16-bit
 * floats are spelt out, for no instruction is assumed.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

#define FD_ISA baseline
#define FD_NEEDS 0
#define FD_STEP 32
#define FD_BYPASSES 0 /* no portable store goes around the caches */
#define V_BLOCKS 1
#define V_PLANES 1

/* a vector is one element: by 16 the code is twice as long, and no faster */
#undef FD_UNROLL
#define FD_UNROLL FD_UNROLL_4

typedef uint32_t v_word;
typedef uint64_t v_prod, v_pair;

FD_INLINE v_word v_set1(uint32_t a) { return a; }
FD_INLINE v_word v_iota(uint32_t base) { return base; }
FD_INLINE v_word v_for_group(const uint32_t *w) { return *w; }
FD_INLINE v_word v_for_ties(const uint32_t *w) { return *w; }
FD_INLINE v_word v_xor(v_word a, v_word b) { return a ^ b; }
FD_INLINE v_word v_xor3(v_word last, v_word v, v_word w) { return last ^ (v ^ w); }
FD_INLINE v_prod v_mul(v_word a, uint32_t m) { return (uint64_t)a * m; }
FD_INLINE v_word v_hi(v_prod p) { return (uint32_t)(p >> 32); }
FD_INLINE v_word v_lo(v_prod p) { return (uint32_t)p; }
FD_INLINE v_pair v_pair_of(v_prod p, v_prod before, uint32_t k) { return p ^ (before ^ k) << 32; }
FD_INLINE v_pair v_and(v_pair a, v_pair b) { return a & b; }
FD_INLINE v_pair v_or(v_pair a, v_pair b) { return a | b; }
FD_INLINE v_pair v_andnot(v_pair a, v_pair b) { return ~a & b; }
FD_INLINE v_pair v_ones(void) { return ~(uint64_t)0; }
FD_INLINE void v_put(uint64_t *dst, v_pair p01, v_pair p23) {
    dst[0] = p01 >> 32 | p01 << 32;
    dst[1] = p23 >> 32 | p23 << 32;
}
FD_INLINE uint32_t v_nonzero(const uint64_t *words) {
    uint32_t set = 0;
    for (int i = 0; i < FD_TILE_WORDS; i++) set |= (uint32_t)(words[i] != 0) << i;
    return set;
}

typedef uint16_t v_ties;

FD_INLINE v_ties v_ties_of(unsigned e) { return (v_ties)e; }
FD_INLINE void v_put_ties(uint16_t *dst, v_ties ties) { *dst = ties; }
FD_INLINE v_ties v_push(v_ties ties, unsigned e) {
    (void)ties;
    return (v_ties)e;
}
FD_INLINE v_word v_quarters(v_ties ties, uint32_t base) { return base + ties / 4; }
FD_INLINE void v_put_tails(uint32_t *dst, v_ties ties, v_pair p01, v_pair p23) {
    *dst = (uint32_t)((ties & 2 ? p23 : p01) >> (ties & 1 ? 0 : 32));
}

FD_INLINE int kept(const uint64_t *keep, unsigned i) { return (int)(keep[i / 64] >> i % 64 & 1); }

typedef float v_f32;

FD_INLINE v_f32 splat_f32(double a) { return (float)a; }
FD_INLINE v_f32 mul_f32(v_f32 a, v_f32 b) { return a * b; }
FD_INLINE v_f32 add_f32(v_f32 a, v_f32 b) { return a + b; }
FD_INLINE int kept_f32(const uint64_t *keep, unsigned i, unsigned lane) {
    return kept(keep, i + lane);
}
/* Selects on the bits: a branch would be mispredicted every other time. */
FD_INLINE v_f32 keep_or_zero_f32(int m, v_f32 a) {
    return fd_float_of(fd_bits_of(a) & (0u - (uint32_t)m));
}
FD_INLINE v_f32 mul_or_zero_f32(int m, v_f32 a, v_f32 b) {
    return keep_or_zero_f32(m, mul_f32(a, b));
}
FD_INLINE v_f32 keep_or_f32(int m, v_f32 a, v_f32 b) {
    const uint32_t all = 0u - (uint32_t)m;
    return fd_float_of((fd_bits_of(a) & all) | (fd_bits_of(b) & ~all));
}
FD_INLINE int number_f32(v_f32 a) { return a == a; }
FD_INLINE int positive_f32(v_f32 a) { return a > 0; }
FD_INLINE v_f32 relu_f32(v_f32 a) { return keep_or_zero_f32(!(a <= 0), a); }
FD_INLINE v_f32 load_f32(const float *x) { return *x; }
FD_INLINE void store_f32(float *y, v_f32 a) { *y = a; }

typedef uint32_t v_u32;

FD_INLINE v_u32 words_u32(const uint64_t *words, unsigned i) {
    uint32_t w; /* read as the compiler can vectorize it */
    memcpy(&w, (const char *)words + sizeof w * (i ^ FD_BIG_ENDIAN), sizeof w);
    return w;
}
FD_INLINE v_u32 set1_u32(uint32_t a) { return a; }
FD_INLINE v_u32 and_u32(v_u32 a, v_u32 b) { return a & b; }
FD_INLINE v_u32 or_u32(v_u32 a, v_u32 b) { return a | b; }
FD_INLINE v_u32 xor_u32(v_u32 a, v_u32 b) { return a ^ b; }
FD_INLINE v_u32 add_u32(v_u32 a, v_u32 b) { return a + b; }
FD_INLINE v_u32 sub_u32(v_u32 a, v_u32 b) { return a - b; }
FD_INLINE v_u32 top_u32(v_u32 a) { return 0 - (a >> 31); }
FD_INLINE v_f32 f32_of_u32(v_u32 a) { return (float)(int32_t)a; }
FD_INLINE v_f32 f32_bits(v_u32 a) { return fd_float_of(a); }
FD_INLINE v_u32 u32_bits(v_f32 a) { return fd_bits_of(a); }
FD_INLINE v_u32 select_u32(v_u32 m, v_u32 a, v_u32 b) { return (a & m) | (b & ~m); }
FD_INLINE v_f32 div_f32(v_f32 a, v_f32 b) { return a / b; }
FD_INLINE v_f32 normals_f32(const float *z) { return *z; }
FD_INLINE v_f32 sub_f32(v_f32 a, v_f32 b) { return a - b; }
FD_INLINE v_f32 max_f32(v_f32 a, v_f32 b) { return a > b ? a : b; }
FD_INLINE v_f32 pow2_f32(v_f32 a) { return fd_float_of(fd_bits_of(a) << 23); }

FD_INLINE v_f32 load_f16(const uint16_t *x) {
    const uint32_t sign = (uint32_t)(*x & 0x8000) << 16, magnitude = *x & 0x7FFF;
    if (magnitude < 0x0400) /* zero and subnormals, in units of 2^-24 */
        return fd_float_of(sign | fd_bits_of((float)magnitude * 0x1p-24f));
    if (magnitude >= 0x7C00) /* infinity, NaN */
        return fd_float_of(sign | 0x7F800000 | magnitude << 13);
    return fd_float_of(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}
FD_INLINE void store_f16(uint16_t *y, v_f32 a) {
    const uint32_t w = fd_bits_of(a), sign = w >> 16 & 0x8000;
    uint32_t magnitude = w & 0x7FFFFFFF, half;
    if (magnitude > 0x7F800000) /* NaN */
        half = 0x7E00;
    else if (magnitude >= 0x477FF000) /* rounds to 65536 or more */
        half = 0x7C00;
    else if (magnitude < 0x38800000) /* below 2^-14: let 0.5's ulp of 2^-24 do the rounding */
        half = fd_bits_of(fd_float_of(magnitude) + 0.5f) - 0x3F000000;
    else
        half = (magnitude - ((127 - 15) << 23) + 0x0FFF + (magnitude >> 13 & 1)) >> 13;
    *y = (uint16_t)(sign | half);
}
FD_INLINE v_f32 load_bf16(const uint16_t *x) { return fd_float_of((uint32_t)*x << 16); }
FD_INLINE void store_bf16(uint16_t *y, v_f32 a) {
    const uint32_t w = fd_bits_of(a);
    *y = (uint16_t)((w + 0x7FFF + (w >> 16 & 1)) >> 16); /* as in fd_avx2.c, NaN too */
}

typedef double v_f64;

FD_INLINE v_f64 splat_f64(double a) { return a; }
FD_INLINE v_f64 mul_f64(v_f64 a, v_f64 b) { return a * b; }
FD_INLINE v_f64 add_f64(v_f64 a, v_f64 b) { return a + b; }
FD_INLINE int kept_f64(const uint64_t *keep, unsigned i, unsigned lane) {
    return kept(keep, i + lane);
}
FD_INLINE v_f64 keep_or_f64(int m, v_f64 a, v_f64 b) {
    const uint64_t all = 0ull - (uint64_t)m;
    uint64_t wa, wb;
    memcpy(&wa, &a, sizeof a), memcpy(&wb, &b, sizeof b);
    wa = (wa & all) | (wb & ~all);
    memcpy(&a, &wa, sizeof a);
    return a;
}
FD_INLINE v_f64 keep_or_zero_f64(int m, v_f64 a) { return keep_or_f64(m, a, 0.0); }
FD_INLINE v_f64 mul_or_zero_f64(int m, v_f64 a, v_f64 b) {
    return keep_or_zero_f64(m, mul_f64(a, b));
}
FD_INLINE int positive_f64(v_f64 a) { return a > 0; }
FD_INLINE v_f64 relu_f64(v_f64 a) { return keep_or_zero_f64(!(a <= 0), a); }
FD_INLINE v_f64 normals_f64(const float *z) { return *z; }
FD_INLINE v_f64 load_f64(const double *x) { return *x; }
FD_INLINE void store_f64(double *y, v_f64 a) { *y = a; }
FD_INLINE v_f64 sub_f64(v_f64 a, v_f64 b) { return a - b; }
FD_INLINE v_f64 max_f64(v_f64 a, v_f64 b) { return a > b ? a : b; }
FD_INLINE v_f64 pow2_f64(v_f64 a) {
    uint64_t w;
    memcpy(&w, &a, sizeof w);
    w <<= 52;
    memcpy(&a, &w, sizeof a);
    return a;
}

FD_INLINE void fence(void) {}
#define bypass_f16 store_f16
#define bypass_bf16 store_bf16
#define bypass_f32 store_f32
#define bypass_f64 store_f64

#include "fd_kernels_tpl.h"

const fd_kernels *const fd_kernels_baseline = &table;

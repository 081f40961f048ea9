/*
 * AVX2, F16C, BMI1 and BMI2: 8 blocks a group, in two vectors: while a round of one waits for the round before, those
 * of the other go on. Each word is in the low half of a 64-bit lane, for that is where vpmuludq reads it: the low
 * product needs no work and its garbage above is harmless. Blocks stand in the lanes as 0, 2, 1, 3, so that
 * unpacklo/unpackhi put them out in order. gcc >= 5, clang >= 3.9, MSVC >= 2017.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

#if FD_X86
#include <immintrin.h>
/* clang-cl's leaves these out, unless a flag for the whole file asks for what is in them */
#if defined(_MSC_VER) && defined(__clang__)
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#endif

FD_TARGET_BEGIN("avx2,f16c,bmi,bmi2")

#define FD_ISA avx2
#define FD_NEEDS FD_CPU_AVX2
#define FD_STEP 32
#define FD_BYPASSES 1
#define V_BLOCKS 8
#define V_PLANES 1 /* for two there are too few registers: 34 % longer */

typedef struct {
    __m256i a, b; /* blocks 0 to 3, 4 to 7 */
} v_word, v_prod, v_pair;

/* f of both vectors, and a constant or those of another. */
#define V_BOTH(f, v, constant) ((v_word){f((v).a, constant), f((v).b, constant)})
#define V_EACH(f, v, w) ((v_word){f((v).a, (w).a), f((v).b, (w).b)})

FD_INLINE v_word v_set1(uint32_t a) {
    const __m256i v = _mm256_set1_epi32((int)a);
    return (v_word){v, v};
}
FD_INLINE v_word v_iota(uint32_t base) {
    const v_word block = {_mm256_setr_epi64x(0, 2, 1, 3), _mm256_setr_epi64x(4, 6, 5, 7)};
    return V_EACH(_mm256_add_epi32, v_set1(base), block);
}
FD_INLINE __m256i four_for_group(const uint32_t *w) {
    const __m128i four = _mm_loadu_si128((const __m128i *)w);
    return _mm256_cvtepu32_epi64(_mm_shuffle_epi32(four, _MM_SHUFFLE(3, 1, 2, 0)));
}
FD_INLINE v_word v_for_group(const uint32_t *w) {
    return (v_word){four_for_group(w), four_for_group(w + 4)};
}
FD_INLINE __m256i four_for_ties(const uint32_t *w) {
    return _mm256_setr_epi64x(fd_scalar(w[0]), fd_scalar(w[1]), fd_scalar(w[2]), fd_scalar(w[3]));
}
FD_INLINE v_word v_for_ties(const uint32_t *w) {
    return (v_word){four_for_ties(w), four_for_ties(w + 4)};
}
FD_INLINE v_word v_xor(v_word v, v_word w) { return V_EACH(_mm256_xor_si256, v, w); }
FD_INLINE v_word v_xor3(v_word last, v_word v, v_word w) {
    v_word vw = v_xor(v, w);
    FD_OPAQUE("x", vw.a); /* or it would be reassociated */
    FD_OPAQUE("x", vw.b);
    return v_xor(last, vw);
}
FD_INLINE v_prod v_mul(v_word v, uint32_t m) { return V_EACH(_mm256_mul_epu32, v, v_set1(m)); }
/* A shuffle, for shifts share their ports with the products. */
FD_INLINE v_word v_hi(v_prod p) { return V_BOTH(_mm256_shuffle_epi32, p, _MM_SHUFFLE(3, 3, 1, 1)); }
FD_INLINE v_word v_lo(v_prod p) { return p; }
FD_INLINE v_pair v_pair_of(v_prod p, v_prod before, uint32_t k) {
    return v_xor(p, V_BOTH(_mm256_slli_epi64, v_xor(before, v_set1(k)), 32));
}
FD_INLINE v_pair v_and(v_pair v, v_pair w) { return V_EACH(_mm256_and_si256, v, w); }
FD_INLINE v_pair v_or(v_pair v, v_pair w) { return V_EACH(_mm256_or_si256, v, w); }
FD_INLINE v_pair v_andnot(v_pair v, v_pair w) { return V_EACH(_mm256_andnot_si256, v, w); }
FD_INLINE v_pair v_ones(void) { return v_set1(~0u); }
FD_INLINE void put_four(uint64_t *dst, __m256i p01, __m256i p23) {
    p01 = _mm256_shuffle_epi32(p01, _MM_SHUFFLE(2, 3, 0, 1));
    p23 = _mm256_shuffle_epi32(p23, _MM_SHUFFLE(2, 3, 0, 1));
    _mm256_storeu_si256((__m256i *)dst, _mm256_unpacklo_epi64(p01, p23));
    _mm256_storeu_si256((__m256i *)(dst + 4), _mm256_unpackhi_epi64(p01, p23));
}
FD_INLINE void v_put(uint64_t *dst, v_pair p01, v_pair p23) {
    put_four(dst, p01.a, p23.a);
    put_four(dst + 8, p01.b, p23.b);
}
FD_INLINE uint32_t v_nonzero(const uint64_t *words) {
    uint32_t zero = 0;
    FD_UNROLL
    for (int i = 0; i < FD_TILE_WORDS; i += 4) {
        const __m256i w = _mm256_loadu_si256((const __m256i *)(words + i));
        const __m256i is0 = _mm256_cmpeq_epi64(w, _mm256_setzero_si256());
        zero |= (uint32_t)_mm256_movemask_pd(_mm256_castsi256_pd(is0)) << i;
    }
    return ~zero;
}

typedef __m128i v_ties;

FD_INLINE v_ties v_ties_of(unsigned e) { return _mm_set1_epi16((short)e); }
FD_INLINE void v_put_ties(uint16_t *dst, v_ties ties) { _mm_storeu_si128((__m128i *)dst, ties); }
FD_INLINE v_ties v_push(v_ties ties, unsigned e) {
    return _mm_insert_epi16(_mm_slli_si128(ties, 2), (int)e, 0);
}
FD_INLINE v_word v_quarters(v_ties ties, uint32_t base) {
    const __m128i quarter = _mm_srli_epi16(ties, 2);
    const v_word wide = {_mm256_cvtepu16_epi64(quarter),
                         _mm256_cvtepu16_epi64(_mm_srli_si128(quarter, 8))};
    return V_EACH(_mm256_add_epi32, wide, v_set1(base));
}
/* Of a pair the upper word is that of even elements. */
FD_INLINE __m128i four_tails(__m128i e, __m256i p01, __m256i p23) {
    const __m128i odd = _mm_and_si128(e, _mm_set1_epi32(1));
    const __m256i word = _mm256_castsi128_si256(_mm_sub_epi32(_mm_setr_epi32(1, 3, 5, 7), odd));
    const __m256i of01 = _mm256_permutevar8x32_epi32(p01, word);
    const __m256i of23 = _mm256_permutevar8x32_epi32(p23, word);
    const __m128i is23 = _mm_slli_epi32(e, 30); /* by the sign */
    return _mm_castps_si128(_mm_blendv_ps(_mm_castsi128_ps(_mm256_castsi256_si128(of01)),
                                          _mm_castsi128_ps(_mm256_castsi256_si128(of23)),
                                          _mm_castsi128_ps(is23)));
}
FD_INLINE void v_put_tails(uint32_t *dst, v_ties ties, v_pair p01, v_pair p23) {
    const __m256i e = _mm256_cvtepu16_epi32(ties);
    _mm_storeu_si128((__m128i *)dst, four_tails(_mm256_castsi256_si128(e), p01.a, p23.a));
    _mm_storeu_si128((__m128i *)(dst + 4),
                     four_tails(_mm256_extracti128_si256(e, 1), p01.b, p23.b));
}

FD_INLINE void fence(void) { _mm_sfence(); }

typedef __m256 v_f32;

FD_INLINE v_f32 splat_f32(double a) { return _mm256_set1_ps((float)a); }
FD_INLINE v_f32 mul_f32(v_f32 a, v_f32 b) { return _mm256_mul_ps(a, b); }
FD_INLINE v_f32 add_f32(v_f32 a, v_f32 b) { return _mm256_add_ps(a, b); }
FD_INLINE __m256i kept_f32(const uint64_t *keep, unsigned i, unsigned lane) {
    const __m256i bit =
        _mm256_slli_epi32(_mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128), (int)lane);
    int word;
    memcpy(&word, (const char *)keep + i / 8, sizeof word);
    return _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(word), bit), bit);
}
FD_INLINE v_f32 keep_or_zero_f32(__m256i m, v_f32 a) {
    return _mm256_and_ps(_mm256_castsi256_ps(m), a);
}
FD_INLINE v_f32 mul_or_zero_f32(__m256i m, v_f32 a, v_f32 b) {
    return keep_or_zero_f32(m, mul_f32(a, b));
}
FD_INLINE v_f32 keep_or_f32(__m256i m, v_f32 a, v_f32 b) {
    return _mm256_blendv_ps(b, a, _mm256_castsi256_ps(m));
}
FD_INLINE __m256i number_f32(v_f32 a) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, a, _CMP_ORD_Q));
}
FD_INLINE __m256i positive_f32(v_f32 a) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_GT_OQ));
}
FD_INLINE v_f32 relu_f32(v_f32 a) {
    return _mm256_and_ps(_mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NLE_UQ), a);
}
FD_INLINE v_f32 load_f32(const float *x) { return _mm256_loadu_ps(x); }
FD_INLINE void store_f32(float *y, v_f32 a) { _mm256_storeu_ps(y, a); }
FD_INLINE void bypass_f32(float *y, v_f32 a) { _mm256_stream_ps(y, a); }

typedef __m256i v_u32;

FD_INLINE v_u32 words_u32(const uint64_t *words, unsigned i) {
    return _mm256_loadu_si256((const __m256i *)(words + i / 2));
}
FD_INLINE v_u32 set1_u32(uint32_t a) { return _mm256_set1_epi32((int)a); }
FD_INLINE v_u32 and_u32(v_u32 a, v_u32 b) { return _mm256_and_si256(a, b); }
FD_INLINE v_u32 or_u32(v_u32 a, v_u32 b) { return _mm256_or_si256(a, b); }
FD_INLINE v_u32 xor_u32(v_u32 a, v_u32 b) { return _mm256_xor_si256(a, b); }
FD_INLINE v_u32 add_u32(v_u32 a, v_u32 b) { return _mm256_add_epi32(a, b); }
FD_INLINE v_u32 sub_u32(v_u32 a, v_u32 b) { return _mm256_sub_epi32(a, b); }
FD_INLINE v_u32 top_u32(v_u32 a) { return _mm256_srai_epi32(a, 31); }
FD_INLINE v_f32 f32_of_u32(v_u32 a) { return _mm256_cvtepi32_ps(a); }
FD_INLINE v_f32 f32_bits(v_u32 a) { return _mm256_castsi256_ps(a); }
FD_INLINE v_u32 u32_bits(v_f32 a) { return _mm256_castps_si256(a); }
FD_INLINE v_u32 select_u32(v_u32 m, v_u32 a, v_u32 b) { return _mm256_blendv_epi8(b, a, m); }
FD_INLINE v_f32 div_f32(v_f32 a, v_f32 b) { return _mm256_div_ps(a, b); }
FD_INLINE v_f32 normals_f32(const float *z) { return load_f32(z); }
FD_INLINE v_f32 sub_f32(v_f32 a, v_f32 b) { return _mm256_sub_ps(a, b); }
FD_INLINE v_f32 max_f32(v_f32 a, v_f32 b) { return _mm256_max_ps(a, b); }
FD_INLINE v_f32 pow2_f32(v_f32 a) { return f32_bits(_mm256_slli_epi32(u32_bits(a), 23)); }

FD_INLINE v_f32 load_f16(const uint16_t *x) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)x));
}
FD_INLINE __m128i round_f16(v_f32 a) { return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
FD_INLINE void store_f16(uint16_t *y, v_f32 a) { _mm_storeu_si128((__m128i *)y, round_f16(a)); }
FD_INLINE void bypass_f16(uint16_t *y, v_f32 a) { _mm_stream_si128((__m128i *)y, round_f16(a)); }
FD_INLINE v_f32 load_bf16(const uint16_t *x) {
    const __m256i w = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)x));
    return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
}
/* Rounded to bfloat16s, which are the upper halves: to nearest even in integers, by adding half an ulp
 * less one, plus the bit that becomes the last. A NaN survives that: whether it came from a bfloat16 or
 * from an operation on such, the bits below are 0 (see fd_values). */
FD_INLINE __m256i rounded_bf16(v_f32 a) {
    const __m256i w = _mm256_castps_si256(a);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(w, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(w, odd), _mm256_set1_epi32(0x7FFF));
}
FD_INLINE __m128i round_bf16(v_f32 a) {
    const __m256i high =
        _mm256_setr_epi8(2, 3, 6, 7, 10, 11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1, 2, 3, 6, 7, 10,
                         11, 14, 15, -1, -1, -1, -1, -1, -1, -1, -1);
    const __m256i halves = _mm256_shuffle_epi8(rounded_bf16(a), high); /* low in each 128 bits */
    return _mm256_castsi256_si128(_mm256_permute4x64_epi64(halves, _MM_SHUFFLE(3, 1, 2, 0)));
}
FD_INLINE void store_bf16(uint16_t *y, v_f32 a) { _mm_storeu_si128((__m128i *)y, round_bf16(a)); }
FD_INLINE void bypass_bf16(uint16_t *y, v_f32 a) { _mm_stream_si128((__m128i *)y, round_bf16(a)); }

/* The step of FD_PLAIN on even and odd elements by themselves, which widens and narrows without
 * moving elements. */
FD_INLINE void plain_bf16(uint16_t *y, const uint16_t *x, const uint64_t *keep, unsigned i,
                          v_f32 scale, int bypass) {
    const __m256i high = _mm256_set1_epi32((int)0xFFFF0000);
    const __m256i bit =
        _mm256_setr_epi16(1, 1 << 1, 1 << 2, 1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 7, 1 << 8, 1 << 9,
                          1 << 10, 1 << 11, 1 << 12, 1 << 13, 1 << 14, (short)0x8000);
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += 16) {
        const __m256i w = _mm256_loadu_si256((const __m256i *)(x + lane));
        const v_f32 even = _mm256_castsi256_ps(_mm256_slli_epi32(w, 16));
        const v_f32 odd = _mm256_castsi256_ps(_mm256_and_si256(w, high));
        const __m256i low = _mm256_srli_epi32(rounded_bf16(mul_f32(even, scale)), 16);
        const __m256i both = _mm256_blend_epi16(low, rounded_bf16(mul_f32(odd, scale)), 0xAA);
        short word;
        memcpy(&word, (const char *)keep + i / 8 + lane / 8, sizeof word);
        const __m256i kept =
            _mm256_cmpeq_epi16(_mm256_and_si256(_mm256_set1_epi16(word), bit), bit);
        const __m256i v = _mm256_and_si256(kept, both);
        if (bypass)
            _mm256_stream_si256((__m256i *)(y + lane), v);
        else
            _mm256_storeu_si256((__m256i *)(y + lane), v);
    }
}
#define FD_OWN_PLAIN_BF16 1

typedef __m256d v_f64;

FD_INLINE v_f64 splat_f64(double a) { return _mm256_set1_pd(a); }
FD_INLINE v_f64 mul_f64(v_f64 a, v_f64 b) { return _mm256_mul_pd(a, b); }
FD_INLINE v_f64 add_f64(v_f64 a, v_f64 b) { return _mm256_add_pd(a, b); }
FD_INLINE __m256i kept_f64(const uint64_t *keep, unsigned i, unsigned lane) {
    const __m256i bit = _mm256_slli_epi64(_mm256_setr_epi64x(1, 2, 4, 8), (int)lane);
    int word;
    memcpy(&word, (const char *)keep + i / 8, sizeof word);
    return _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi32(word), bit), bit);
}
FD_INLINE v_f64 keep_or_zero_f64(__m256i m, v_f64 a) {
    return _mm256_and_pd(_mm256_castsi256_pd(m), a);
}
FD_INLINE v_f64 mul_or_zero_f64(__m256i m, v_f64 a, v_f64 b) {
    return keep_or_zero_f64(m, mul_f64(a, b));
}
FD_INLINE v_f64 keep_or_f64(__m256i m, v_f64 a, v_f64 b) {
    return _mm256_blendv_pd(b, a, _mm256_castsi256_pd(m));
}
FD_INLINE __m256i positive_f64(v_f64 a) {
    return _mm256_castpd_si256(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_GT_OQ));
}
FD_INLINE v_f64 relu_f64(v_f64 a) {
    return _mm256_and_pd(_mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NLE_UQ), a);
}
FD_INLINE v_f64 normals_f64(const float *z) { return _mm256_cvtps_pd(_mm_loadu_ps(z)); }
FD_INLINE v_f64 load_f64(const double *x) { return _mm256_loadu_pd(x); }
FD_INLINE void store_f64(double *y, v_f64 a) { _mm256_storeu_pd(y, a); }
FD_INLINE void bypass_f64(double *y, v_f64 a) { _mm256_stream_pd(y, a); }
FD_INLINE v_f64 sub_f64(v_f64 a, v_f64 b) { return _mm256_sub_pd(a, b); }
FD_INLINE v_f64 max_f64(v_f64 a, v_f64 b) { return _mm256_max_pd(a, b); }
FD_INLINE v_f64 pow2_f64(v_f64 a) {
    return _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_castpd_si256(a), 52));
}

#include "fd_kernels_tpl.h"

FD_TARGET_END

const fd_kernels *const fd_kernels_avx2 = &table;
#else
const fd_kernels *const fd_kernels_avx2 = NULL;
#endif

/*
 * AVX-512 F, BW, DQ and VL: as fd_avx2.c with 8 blocks a group in one vector, in lanes 0, 4, 1, 5, 2, 6, 3, 7 for
 * the same reason; three-way xor in one instruction, masks in mask registers.
 * gcc >= 7, clang >= 6, MSVC >= 2017 15.5.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

#if FD_X86
#ifdef FD_EMULATE_AVX512
#include FD_EMULATE_AVX512 /* tests/c: the same intrinsics in portable C */
#define FD_AVX512_BEGIN
#define FD_AVX512_END
#define FD_LOADED(v)
#else
#include <immintrin.h>
#if defined(_MSC_VER) && defined(__clang__) /* see fd_avx2.c */
#include <smmintrin.h>
#include <avxintrin.h>
#include <avx2intrin.h>
#include <f16cintrin.h>
#include <avx512fintrin.h>
#include <avx512bwintrin.h>
#include <avx512dqintrin.h>
#endif
#define FD_AVX512_BEGIN FD_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c,bmi,bmi2")
#define FD_AVX512_END FD_TARGET_END
/* v is in a register: the compiler must not load it by the masked instruction that uses it. Such loads, when they
 * miss the caches, made 64 MiB on Zen 5 take twice as long. */
#define FD_LOADED(v) FD_OPAQUE("v", v)
#endif

FD_AVX512_BEGIN

#define FD_ISA avx512
#define FD_NEEDS FD_CPU_AVX512
#define FD_STEP 64
#define FD_BYPASSES 1
#define V_BLOCKS 8
#define V_PLANES 2

typedef __m512i v_word, v_prod, v_pair;

FD_INLINE v_word v_set1(uint32_t a) { return _mm512_set1_epi32((int)a); }
FD_INLINE v_word v_iota(uint32_t base) {
    return _mm512_add_epi32(v_set1(base), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7));
}
FD_INLINE v_word v_for_group(const uint32_t *w) {
    const __m512i natural = _mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i *)w));
    return _mm512_permutexvar_epi64(_mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7), natural);
}
FD_INLINE v_word v_for_ties(const uint32_t *w) {
    return _mm512_setr_epi64(fd_scalar(w[0]), fd_scalar(w[1]), fd_scalar(w[2]), fd_scalar(w[3]),
                             fd_scalar(w[4]), fd_scalar(w[5]), fd_scalar(w[6]), fd_scalar(w[7]));
}
FD_INLINE v_word v_xor(v_word a, v_word b) { return _mm512_xor_si512(a, b); }
FD_INLINE v_word v_xor3(v_word last, v_word v, v_word w) {
    return _mm512_ternarylogic_epi32(last, v, w, 0x96);
}
FD_INLINE v_prod v_mul(v_word a, uint32_t m) { return _mm512_mul_epu32(a, v_set1(m)); }
/* Both words in the other's place, for v_pair_of. A shuffle, for shifts share their ports with the products. */
FD_INLINE v_word v_hi(v_prod p) {
    return _mm512_shuffle_epi32(p, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 3, 0, 1));
}
FD_INLINE v_word v_lo(v_prod p) { return p; }
FD_INLINE v_pair v_pair_of(v_prod p, v_prod before, uint32_t k) {
    const __mmask16 high = 0xAAAA;
    return _mm512_mask_ternarylogic_epi32(p, high, v_hi(before), v_set1(k), 0x96);
}
FD_INLINE v_pair v_and(v_pair a, v_pair b) { return _mm512_and_si512(a, b); }
FD_INLINE v_pair v_or(v_pair a, v_pair b) { return _mm512_or_si512(a, b); }
FD_INLINE v_pair v_andnot(v_pair a, v_pair b) { return _mm512_andnot_si512(a, b); }
FD_INLINE v_pair v_ones(void) { return _mm512_set1_epi32(-1); }
FD_INLINE void v_put(uint64_t *dst, v_pair p01, v_pair p23) {
    p01 = _mm512_shuffle_epi32(p01, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 3, 0, 1));
    p23 = _mm512_shuffle_epi32(p23, (_MM_PERM_ENUM)_MM_SHUFFLE(2, 3, 0, 1));
    _mm512_storeu_si512(dst, _mm512_unpacklo_epi64(p01, p23));
    _mm512_storeu_si512(dst + 8, _mm512_unpackhi_epi64(p01, p23));
}
FD_INLINE uint32_t v_nonzero(const uint64_t *words) {
    uint32_t set = 0;
    FD_UNROLL
    for (int i = 0; i < FD_TILE_WORDS; i += 8) {
        const __m512i w = _mm512_loadu_si512(words + i);
        set |= (uint32_t)_mm512_test_epi64_mask(w, w) << i;
    }
    return set;
}

typedef __m128i v_ties;

FD_INLINE v_ties v_ties_of(unsigned e) { return _mm_set1_epi16((short)e); }
FD_INLINE void v_put_ties(uint16_t *dst, v_ties ties) { _mm_storeu_si128((__m128i *)dst, ties); }
FD_INLINE v_ties v_push(v_ties ties, unsigned e) {
    return _mm_insert_epi16(_mm_slli_si128(ties, 2), (int)e, 0);
}
FD_INLINE v_word v_quarters(v_ties ties, uint32_t base) {
    return _mm512_add_epi32(_mm512_cvtepu16_epi64(_mm_srli_epi16(ties, 2)), v_set1(base));
}
/* Of a pair the upper word is that of even elements. */
FD_INLINE void v_put_tails(uint32_t *dst, v_ties ties, v_pair p01, v_pair p23) {
    const __m512i e = _mm512_cvtepu16_epi64(ties);
    const __mmask8 is23 = _mm512_test_epi64_mask(e, _mm512_set1_epi64(2));
    const __m512i pair = _mm512_mask_mov_epi64(p01, is23, p23);
    const __m512i shift = _mm512_andnot_si512(_mm512_slli_epi64(e, 5), _mm512_set1_epi64(32));
    _mm256_storeu_si256((__m256i *)dst, _mm512_cvtepi64_epi32(_mm512_srlv_epi64(pair, shift)));
}

FD_INLINE void fence(void) { _mm_sfence(); }

typedef __m512 v_f32;

FD_INLINE v_f32 splat_f32(double a) { return _mm512_set1_ps((float)a); }
FD_INLINE v_f32 mul_f32(v_f32 a, v_f32 b) { return _mm512_mul_ps(a, b); }
FD_INLINE v_f32 add_f32(v_f32 a, v_f32 b) { return _mm512_add_ps(a, b); }
FD_INLINE __mmask16 kept_f32(const uint64_t *keep, unsigned i, unsigned lane) {
    __mmask16 m;
    memcpy(&m, (const char *)keep + i / 8 + lane / 8, sizeof m);
    return m;
}
/* As integers: otherwise the compiler makes one of this and a product before it, with a masked load. */
FD_INLINE v_f32 keep_or_zero_f32(__mmask16 m, v_f32 a) {
    return _mm512_castsi512_ps(_mm512_maskz_mov_epi32(m, _mm512_castps_si512(a)));
}
FD_INLINE v_f32 mul_or_zero_f32(__mmask16 m, v_f32 a, v_f32 b) {
    FD_LOADED(a);
    return _mm512_maskz_mul_ps(m, a, b);
}
FD_INLINE v_f32 keep_or_f32(__mmask16 m, v_f32 a, v_f32 b) { return _mm512_mask_blend_ps(m, b, a); }
FD_INLINE __mmask16 number_f32(v_f32 a) { return _mm512_cmp_ps_mask(a, a, _CMP_ORD_Q); }
FD_INLINE __mmask16 positive_f32(v_f32 a) {
    return _mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_GT_OQ);
}
FD_INLINE v_f32 relu_f32(v_f32 a) {
    return keep_or_zero_f32(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NLE_UQ), a);
}
FD_INLINE v_f32 load_f32(const float *x) { return _mm512_loadu_ps(x); }
FD_INLINE void store_f32(float *y, v_f32 a) { _mm512_storeu_ps(y, a); }
FD_INLINE void bypass_f32(float *y, v_f32 a) { _mm512_stream_ps(y, a); }

typedef __m512i v_u32;

FD_INLINE v_u32 words_u32(const uint64_t *words, unsigned i) {
    return _mm512_loadu_si512(words + i / 2);
}
FD_INLINE v_u32 set1_u32(uint32_t a) { return _mm512_set1_epi32((int)a); }
FD_INLINE v_u32 and_u32(v_u32 a, v_u32 b) { return _mm512_and_si512(a, b); }
FD_INLINE v_u32 or_u32(v_u32 a, v_u32 b) { return _mm512_or_si512(a, b); }
FD_INLINE v_u32 xor_u32(v_u32 a, v_u32 b) { return _mm512_xor_si512(a, b); }
FD_INLINE v_u32 add_u32(v_u32 a, v_u32 b) { return _mm512_add_epi32(a, b); }
FD_INLINE v_u32 sub_u32(v_u32 a, v_u32 b) { return _mm512_sub_epi32(a, b); }
FD_INLINE v_u32 top_u32(v_u32 a) { return _mm512_srai_epi32(a, 31); }
FD_INLINE v_f32 f32_of_u32(v_u32 a) { return _mm512_cvtepi32_ps(a); }
FD_INLINE v_f32 f32_bits(v_u32 a) { return _mm512_castsi512_ps(a); }
FD_INLINE v_u32 u32_bits(v_f32 a) { return _mm512_castps_si512(a); }
FD_INLINE v_u32 select_u32(v_u32 m, v_u32 a, v_u32 b) {
    return _mm512_ternarylogic_epi32(m, a, b, 0xCA);
}
FD_INLINE v_f32 div_f32(v_f32 a, v_f32 b) { return _mm512_div_ps(a, b); }
FD_INLINE v_f32 normals_f32(const float *z) { return load_f32(z); }
FD_INLINE v_f32 sub_f32(v_f32 a, v_f32 b) { return _mm512_sub_ps(a, b); }
FD_INLINE v_f32 max_f32(v_f32 a, v_f32 b) { return _mm512_max_ps(a, b); }
FD_INLINE v_f32 pow2_f32(v_f32 a) { return f32_bits(_mm512_slli_epi32(u32_bits(a), 23)); }

FD_INLINE v_f32 load_f16(const uint16_t *x) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)x));
}
FD_INLINE __m256i round_f16(v_f32 a) { return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT); }
FD_INLINE void store_f16(uint16_t *y, v_f32 a) { _mm256_storeu_si256((__m256i *)y, round_f16(a)); }
FD_INLINE void bypass_f16(uint16_t *y, v_f32 a) { _mm256_stream_si256((__m256i *)y, round_f16(a)); }
FD_INLINE v_f32 load_bf16(const uint16_t *x) {
    const __m512i w = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)x));
    return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
}
/* In integers, as in fd_avx2.c: vcvtneps2bf16 would flush subnormals. */
FD_INLINE __m512i rounded_bf16(v_f32 a) {
    const __m512i w = _mm512_castps_si512(a), sum = _mm512_add_epi32(w, _mm512_set1_epi32(0x7FFF));
    const __mmask16 odd = _mm512_test_epi32_mask(w, _mm512_set1_epi32(0x10000));
    return _mm512_mask_add_epi32(sum, odd, sum, _mm512_set1_epi32(1));
}
FD_INLINE __m256i round_bf16(v_f32 a) {
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded_bf16(a), 16));
}
FD_INLINE void store_bf16(uint16_t *y, v_f32 a) {
    _mm256_storeu_si256((__m256i *)y, round_bf16(a));
}
FD_INLINE void bypass_bf16(uint16_t *y, v_f32 a) {
    _mm256_stream_si256((__m256i *)y, round_bf16(a));
}

/* The step of FD_PLAIN on even and odd elements by themselves: see fd_avx2.c. */
FD_INLINE void plain_bf16(uint16_t *y, const uint16_t *x, const uint64_t *keep, unsigned i,
                          v_f32 scale, int bypass) {
    const __m512i high = _mm512_set1_epi32((int)0xFFFF0000);
    FD_UNROLL
    for (unsigned lane = 0; lane < FD_STEP; lane += 32) {
        const __m512i w = _mm512_loadu_si512(x + lane);
        const v_f32 even = _mm512_castsi512_ps(_mm512_slli_epi32(w, 16));
        const v_f32 odd = _mm512_castsi512_ps(_mm512_and_si512(w, high));
        const __m512i low = _mm512_srli_epi32(rounded_bf16(mul_f32(even, scale)), 16);
        const __m512i both =
            _mm512_mask_blend_epi16(0xAAAAAAAA, low, rounded_bf16(mul_f32(odd, scale)));
        __mmask32 kept;
        memcpy(&kept, (const char *)keep + i / 8 + lane / 8, sizeof kept);
        const __m512i v = _mm512_maskz_mov_epi16(kept, both);
        if (bypass)
            _mm512_stream_si512((__m512i *)(y + lane), v);
        else
            _mm512_storeu_si512(y + lane, v);
    }
}
#define FD_OWN_PLAIN_BF16 1

typedef __m512d v_f64;

FD_INLINE v_f64 splat_f64(double a) { return _mm512_set1_pd(a); }
FD_INLINE v_f64 mul_f64(v_f64 a, v_f64 b) { return _mm512_mul_pd(a, b); }
FD_INLINE v_f64 add_f64(v_f64 a, v_f64 b) { return _mm512_add_pd(a, b); }
FD_INLINE __mmask8 kept_f64(const uint64_t *keep, unsigned i, unsigned lane) {
    return ((const unsigned char *)keep)[i / 8 + lane / 8];
}
FD_INLINE v_f64 keep_or_zero_f64(__mmask8 m, v_f64 a) {
    return _mm512_castsi512_pd(_mm512_maskz_mov_epi64(m, _mm512_castpd_si512(a)));
}
FD_INLINE v_f64 mul_or_zero_f64(__mmask8 m, v_f64 a, v_f64 b) {
    FD_LOADED(a);
    return _mm512_maskz_mul_pd(m, a, b);
}
FD_INLINE v_f64 keep_or_f64(__mmask8 m, v_f64 a, v_f64 b) { return _mm512_mask_blend_pd(m, b, a); }
FD_INLINE __mmask8 positive_f64(v_f64 a) {
    return _mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_GT_OQ);
}
FD_INLINE v_f64 relu_f64(v_f64 a) {
    return keep_or_zero_f64(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NLE_UQ), a);
}
FD_INLINE v_f64 normals_f64(const float *z) { return _mm512_cvtps_pd(_mm256_loadu_ps(z)); }
FD_INLINE v_f64 load_f64(const double *x) { return _mm512_loadu_pd(x); }
FD_INLINE void store_f64(double *y, v_f64 a) { _mm512_storeu_pd(y, a); }
FD_INLINE void bypass_f64(double *y, v_f64 a) { _mm512_stream_pd(y, a); }
FD_INLINE v_f64 sub_f64(v_f64 a, v_f64 b) { return _mm512_sub_pd(a, b); }
FD_INLINE v_f64 max_f64(v_f64 a, v_f64 b) { return _mm512_max_pd(a, b); }
FD_INLINE v_f64 pow2_f64(v_f64 a) {
    return _mm512_castsi512_pd(_mm512_slli_epi64(_mm512_castpd_si512(a), 52));
}

#include "fd_kernels_tpl.h"

FD_AVX512_END

const fd_kernels *const fd_kernels_avx512 = &table;
#else
const fd_kernels *const fd_kernels_avx512 = NULL;
#endif

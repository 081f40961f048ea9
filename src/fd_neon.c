/*
 * NEON, part of every aarch64 processor: 4 blocks a group, a word of each in one 32-bit lane; a
 * product is two vectors of 64-bit lanes, parted into high and low words by uzp.
 */
#include "fd_bits.h"
#include "fd_kernels.h"

#if FD_ARM64
#include <arm_neon.h>

#define FD_ISA neon
#define FD_NEEDS FD_CPU_NEON
#define FD_STEP 32
#define FD_BYPASSES 0 /* no portable store goes around the caches */
#define V_BLOCKS 4
#define V_PLANES 1

typedef uint32x4_t v_word;
typedef struct {
    uint32x4_t lanes01, lanes23; /* 64-bit products, as pairs of words */
} v_prod;
typedef struct {
    uint32x4_t low, high;
} v_pair;

FD_INLINE v_word v_set1(uint32_t a) { return vdupq_n_u32(a); }
FD_INLINE v_word v_iota(uint32_t base) {
    static const uint32_t lane[4] = {0, 1, 2, 3};
    return vaddq_u32(v_set1(base), vld1q_u32(lane));
}
FD_INLINE v_word v_for_group(const uint32_t *w) { return vld1q_u32(w); }
FD_INLINE v_word v_for_ties(const uint32_t *w) { return vld1q_u32(w); }
FD_INLINE v_word v_xor(v_word a, v_word b) { return veorq_u32(a, b); }
FD_INLINE v_word v_xor3(v_word last, v_word v, v_word w) {
    v_word vw = veorq_u32(v, w);
    FD_OPAQUE("w", vw); /* or it would be reassociated */
    return veorq_u32(last, vw);
}
FD_INLINE v_prod v_mul(v_word a, uint32_t m) {
    return (v_prod){vreinterpretq_u32_u64(vmull_u32(vget_low_u32(a), vdup_n_u32(m))),
                    vreinterpretq_u32_u64(vmull_high_u32(a, vdupq_n_u32(m)))};
}
FD_INLINE v_word v_hi(v_prod p) { return vuzp2q_u32(p.lanes01, p.lanes23); }
FD_INLINE v_word v_lo(v_prod p) { return vuzp1q_u32(p.lanes01, p.lanes23); }
FD_INLINE v_pair v_pair_of(v_prod p, v_prod before, uint32_t k) {
    return (v_pair){v_lo(p), v_xor3(v_hi(p), v_lo(before), v_set1(k))};
}
FD_INLINE v_pair v_and(v_pair a, v_pair b) {
    return (v_pair){vandq_u32(a.low, b.low), vandq_u32(a.high, b.high)};
}
FD_INLINE v_pair v_or(v_pair a, v_pair b) {
    return (v_pair){vorrq_u32(a.low, b.low), vorrq_u32(a.high, b.high)};
}
FD_INLINE v_pair v_andnot(v_pair a, v_pair b) {
    return (v_pair){vbicq_u32(b.low, a.low), vbicq_u32(b.high, a.high)};
}
FD_INLINE v_pair v_ones(void) { return (v_pair){vdupq_n_u32(~0u), vdupq_n_u32(~0u)}; }
FD_INLINE void v_put(uint64_t *dst, v_pair p01, v_pair p23) {
    /* words (0, 1) and (2, 3) of two blocks each */
    const uint64x2_t a01 = vreinterpretq_u64_u32(vzip1q_u32(p01.high, p01.low));
    const uint64x2_t b01 = vreinterpretq_u64_u32(vzip2q_u32(p01.high, p01.low));
    const uint64x2_t a23 = vreinterpretq_u64_u32(vzip1q_u32(p23.high, p23.low));
    const uint64x2_t b23 = vreinterpretq_u64_u32(vzip2q_u32(p23.high, p23.low));
    vst1q_u64(dst, vzip1q_u64(a01, a23));
    vst1q_u64(dst + 2, vzip2q_u64(a01, a23));
    vst1q_u64(dst + 4, vzip1q_u64(b01, b23));
    vst1q_u64(dst + 6, vzip2q_u64(b01, b23));
}
FD_INLINE uint32_t v_nonzero(const uint64_t *words) {
    uint32_t set = 0;
    for (int i = 0; i < FD_TILE_WORDS; i++) set |= (uint32_t)(words[i] != 0) << i;
    return set;
}

typedef uint16x4_t v_ties;

FD_INLINE v_ties v_ties_of(unsigned e) { return vdup_n_u16((uint16_t)e); }
FD_INLINE void v_put_ties(uint16_t *dst, v_ties ties) { vst1_u16(dst, ties); }
FD_INLINE v_ties v_push(v_ties ties, unsigned e) {
    return vset_lane_u16((uint16_t)e, vext_u16(ties, ties, 3), 0);
}
FD_INLINE v_word v_quarters(v_ties ties, uint32_t base) {
    return vaddq_u32(vmovl_u16(vshr_n_u16(ties, 2)), v_set1(base));
}
FD_INLINE void v_put_tails(uint32_t *dst, v_ties ties, v_pair p01, v_pair p23) {
    const uint32x4_t e = vmovl_u16(ties), odd = vtstq_u32(e, v_set1(1));
    const uint32x4_t of01 = vbslq_u32(odd, p01.low, p01.high);
    const uint32x4_t of23 = vbslq_u32(odd, p23.low, p23.high);
    vst1q_u32(dst, vbslq_u32(vtstq_u32(e, v_set1(2)), of23, of01));
}

typedef float32x4_t v_f32;

FD_INLINE v_f32 splat_f32(double a) { return vdupq_n_f32((float)a); }
FD_INLINE v_f32 mul_f32(v_f32 a, v_f32 b) { return vmulq_f32(a, b); }
FD_INLINE v_f32 add_f32(v_f32 a, v_f32 b) { return vaddq_f32(a, b); }
FD_INLINE uint32x4_t kept_f32(const uint64_t *keep, unsigned i, unsigned lane) {
    static const uint32_t bits[4] = {1, 2, 4, 8};
    uint32_t word;
    memcpy(&word, (const char *)keep + i / 8, sizeof word);
    return vtstq_u32(vdupq_n_u32(word), vshlq_u32(vld1q_u32(bits), vdupq_n_s32((int)lane)));
}
FD_INLINE v_f32 keep_or_zero_f32(uint32x4_t m, v_f32 a) {
    return vreinterpretq_f32_u32(vandq_u32(m, vreinterpretq_u32_f32(a)));
}
FD_INLINE v_f32 mul_or_zero_f32(uint32x4_t m, v_f32 a, v_f32 b) {
    return keep_or_zero_f32(m, mul_f32(a, b));
}
FD_INLINE v_f32 keep_or_f32(uint32x4_t m, v_f32 a, v_f32 b) { return vbslq_f32(m, a, b); }
FD_INLINE uint32x4_t number_f32(v_f32 a) { return vceqq_f32(a, a); }
FD_INLINE uint32x4_t positive_f32(v_f32 a) { return vcgtq_f32(a, vdupq_n_f32(0)); }
FD_INLINE v_f32 relu_f32(v_f32 a) {
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(a), vcleq_f32(a, vdupq_n_f32(0))));
}
FD_INLINE v_f32 load_f32(const float *x) { return vld1q_f32(x); }
FD_INLINE void store_f32(float *y, v_f32 a) { vst1q_f32(y, a); }

typedef uint32x4_t v_u32;

FD_INLINE v_u32 words_u32(const uint64_t *words, unsigned i) {
    return vreinterpretq_u32_u64(vld1q_u64(words + i / 2));
}
FD_INLINE v_u32 set1_u32(uint32_t a) { return vdupq_n_u32(a); }
FD_INLINE v_u32 and_u32(v_u32 a, v_u32 b) { return vandq_u32(a, b); }
FD_INLINE v_u32 or_u32(v_u32 a, v_u32 b) { return vorrq_u32(a, b); }
FD_INLINE v_u32 xor_u32(v_u32 a, v_u32 b) { return veorq_u32(a, b); }
FD_INLINE v_u32 add_u32(v_u32 a, v_u32 b) { return vaddq_u32(a, b); }
FD_INLINE v_u32 sub_u32(v_u32 a, v_u32 b) { return vsubq_u32(a, b); }
FD_INLINE v_u32 top_u32(v_u32 a) {
    return vreinterpretq_u32_s32(vshrq_n_s32(vreinterpretq_s32_u32(a), 31));
}
FD_INLINE v_f32 f32_of_u32(v_u32 a) { return vcvtq_f32_s32(vreinterpretq_s32_u32(a)); }
FD_INLINE v_f32 f32_bits(v_u32 a) { return vreinterpretq_f32_u32(a); }
FD_INLINE v_u32 u32_bits(v_f32 a) { return vreinterpretq_u32_f32(a); }
FD_INLINE v_u32 select_u32(v_u32 m, v_u32 a, v_u32 b) { return vbslq_u32(m, a, b); }
FD_INLINE v_f32 div_f32(v_f32 a, v_f32 b) { return vdivq_f32(a, b); }
FD_INLINE v_f32 normals_f32(const float *z) { return load_f32(z); }
FD_INLINE v_f32 sub_f32(v_f32 a, v_f32 b) { return vsubq_f32(a, b); }
FD_INLINE v_f32 max_f32(v_f32 a, v_f32 b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
FD_INLINE v_f32 pow2_f32(v_f32 a) { return f32_bits(vshlq_n_u32(u32_bits(a), 23)); }

FD_INLINE v_f32 load_f16(const uint16_t *x) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(x)));
}
FD_INLINE void store_f16(uint16_t *y, v_f32 a) {
    vst1_u16(y, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}
FD_INLINE v_f32 load_bf16(const uint16_t *x) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(x), 16));
}
FD_INLINE void store_bf16(uint16_t *y, v_f32 a) {
    /* to nearest even in integers, as in fd_avx2.c */
    const uint32x4_t w = vreinterpretq_u32_f32(a);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(w, 16), vdupq_n_u32(1));
    const uint32x4_t sum = vaddq_u32(vaddq_u32(w, odd), vdupq_n_u32(0x7FFF));
    vst1_u16(y, vshrn_n_u32(sum, 16));
}

typedef float64x2_t v_f64;

FD_INLINE v_f64 splat_f64(double a) { return vdupq_n_f64(a); }
FD_INLINE v_f64 mul_f64(v_f64 a, v_f64 b) { return vmulq_f64(a, b); }
FD_INLINE v_f64 add_f64(v_f64 a, v_f64 b) { return vaddq_f64(a, b); }
FD_INLINE uint64x2_t kept_f64(const uint64_t *keep, unsigned i, unsigned lane) {
    static const uint64_t bits[2] = {1, 2};
    return vtstq_u64(vdupq_n_u64(keep[i / 64] >> (i % 64)),
                     vshlq_u64(vld1q_u64(bits), vdupq_n_s64((int64_t)lane)));
}
FD_INLINE v_f64 keep_or_zero_f64(uint64x2_t m, v_f64 a) {
    return vreinterpretq_f64_u64(vandq_u64(m, vreinterpretq_u64_f64(a)));
}
FD_INLINE v_f64 mul_or_zero_f64(uint64x2_t m, v_f64 a, v_f64 b) {
    return keep_or_zero_f64(m, mul_f64(a, b));
}
FD_INLINE v_f64 keep_or_f64(uint64x2_t m, v_f64 a, v_f64 b) { return vbslq_f64(m, a, b); }
FD_INLINE uint64x2_t positive_f64(v_f64 a) { return vcgtq_f64(a, vdupq_n_f64(0)); }
FD_INLINE v_f64 relu_f64(v_f64 a) {
    return vreinterpretq_f64_u64(vbicq_u64(vreinterpretq_u64_f64(a), vcleq_f64(a, vdupq_n_f64(0))));
}
FD_INLINE v_f64 normals_f64(const float *z) { return vcvt_f64_f32(vld1_f32(z)); }
FD_INLINE v_f64 load_f64(const double *x) { return vld1q_f64(x); }
FD_INLINE void store_f64(double *y, v_f64 a) { vst1q_f64(y, a); }
FD_INLINE v_f64 sub_f64(v_f64 a, v_f64 b) { return vsubq_f64(a, b); }
FD_INLINE v_f64 max_f64(v_f64 a, v_f64 b) { return vbslq_f64(vcgtq_f64(a, b), a, b); }
FD_INLINE v_f64 pow2_f64(v_f64 a) {
    return vreinterpretq_f64_u64(vshlq_n_u64(vreinterpretq_u64_f64(a), 52));
}

FD_INLINE void fence(void) {}
#define bypass_f16 store_f16
#define bypass_bf16 store_bf16
#define bypass_f32 store_f32
#define bypass_f64 store_f64

#include "fd_kernels_tpl.h"

const fd_kernels *const fd_kernels_neon = &table;
#else
const fd_kernels *const fd_kernels_neon = NULL;
#endif

/*
 * AVX-512 in portable C, to check fd_avx512.c on processors without it:
 *
 *     cc -DFD_EMULATE_AVX512='"simde_avx512.h"' -Itests/c ...
 *
 * SIMDe (https://github.com/simd-everywhere/simde; Debian: libsimde-dev) has most intrinsics; those
 * that its versions 0.7 lack are below, each only where SIMDe has none. It checks what the
 * instructions compute, not that they are encoded or detected.
 */
#ifndef FD_SIMDE_AVX512_H
#define FD_SIMDE_AVX512_H

#if defined(__AVX512F__)
#error "compile without -mavx512f or -march=native: SIMDe would use the instructions themselves"
#endif

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
#include <simde/simde-f16.h>

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* Macros, for whether a version of SIMDe has the types cannot be asked. */
#ifndef __mmask8
#define __mmask8 uint8_t
#endif
#ifndef __mmask16
#define __mmask16 uint16_t
#endif
#ifndef __mmask32
#define __mmask32 uint32_t
#endif
#ifndef __mmask64
#define __mmask64 uint64_t
#endif
#ifndef _MM_PERM_ENUM
#define _MM_PERM_ENUM int
#endif

/* Lane by lane between memory and an image of a register; memory behind a mask bit of 0 is not
 * touched, as in the instructions. */
static inline void emu_load(void *reg, const void *from, size_t item, unsigned lanes, uint64_t k) {
    memset(reg, 0, lanes * item);
    for (unsigned i = 0; i < lanes; i++)
        if (k >> i & 1) memcpy((char *)reg + i * item, (const char *)from + i * item, item);
}
static inline void emu_store(void *to, const void *reg, size_t item, unsigned lanes, uint64_t k) {
    for (unsigned i = 0; i < lanes; i++)
        if (k >> i & 1) memcpy((char *)to + i * item, (const char *)reg + i * item, item);
}
static inline void emu_stream(void *to, const void *reg, size_t n_bytes) {
    if ((uintptr_t)to % n_bytes) abort(); /* a general protection fault */
    memcpy(to, reg, n_bytes);
}

/* ---- conversions --------------------------------------------------------------------------- */

static inline __m512i emu_cvtepu32_epi64(__m256i a) {
    uint32_t from[8];
    uint64_t to[8];
    __m512i r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 8; i++) to[i] = from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtepu32_epi64
#define _mm512_cvtepu32_epi64 emu_cvtepu32_epi64
#endif

static inline __m512i emu_cvtepu16_epi32(__m256i a) {
    uint16_t from[16];
    uint32_t to[16];
    __m512i r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtepu16_epi32
#define _mm512_cvtepu16_epi32 emu_cvtepu16_epi32
#endif

#ifndef _mm512_cvtepu16_epi64
#define _mm512_cvtepu16_epi64(a) _mm512_cvtepu32_epi64(_mm256_cvtepu16_epi32(a))
#endif

static inline __m256i emu_cvtepi32_epi16(__m512i a) {
    uint32_t from[16];
    uint16_t to[16];
    __m256i r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = (uint16_t)from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtepi32_epi16
#define _mm512_cvtepi32_epi16 emu_cvtepi32_epi16
#endif

static inline __m256i emu_cvtepi64_epi32(__m512i a) {
    uint64_t from[8];
    uint32_t to[8];
    __m256i r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 8; i++) to[i] = (uint32_t)from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtepi64_epi32
#define _mm512_cvtepi64_epi32 emu_cvtepi64_epi32
#endif

static inline __m512 emu_cvtepi32_ps(__m512i a) {
    int32_t from[16];
    float to[16];
    __m512 r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = (float)from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtepi32_ps
#define _mm512_cvtepi32_ps emu_cvtepi32_ps
#endif

static inline __m512d emu_cvtps_pd(__m256 a) {
    float from[8];
    double to[8];
    __m512d r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 8; i++) to[i] = from[i];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtps_pd
#define _mm512_cvtps_pd emu_cvtps_pd
#endif

static inline __m512 emu_cvtph_ps(__m256i a) {
    uint16_t from[16];
    float to[16];
    __m512 r;
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = simde_float16_to_float32(simde_uint16_as_float16(from[i]));
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtph_ps
#define _mm512_cvtph_ps emu_cvtph_ps
#endif

static inline __m256i emu_cvtps_ph(__m512 a, int rounding) {
    float from[16];
    uint16_t to[16];
    __m256i r;
    if (rounding & 7) abort(); /* only to nearest even */
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++)
        to[i] = simde_float16_as_uint16(simde_float16_from_float32(from[i]));
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_cvtps_ph
#define _mm512_cvtps_ph emu_cvtps_ph
#endif

/* ---- permutations, shifts, comparisons, masks ---------------------------------------------- */

static inline __m512i emu_srai_epi32(__m512i a, unsigned count) {
    uint32_t lanes[16];
    const unsigned by = count < 31 ? count : 31;
    memcpy(lanes, &a, sizeof lanes);
    for (int i = 0; i < 16; i++) {
        const uint32_t sign = 0 - (lanes[i] >> 31);
        lanes[i] = ((lanes[i] ^ sign) >> by) ^ sign;
    }
    memcpy(&a, lanes, sizeof a);
    return a;
}
#ifndef _mm512_srai_epi32
#define _mm512_srai_epi32 emu_srai_epi32
#endif

static inline __m512i emu_shuffle_epi32(__m512i a, int control) {
    uint32_t from[16], to[16];
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = from[i / 4 * 4 + (control >> i % 4 * 2 & 3)];
    memcpy(&a, to, sizeof a);
    return a;
}
#ifndef _mm512_shuffle_epi32
#define _mm512_shuffle_epi32 emu_shuffle_epi32
#endif

static inline __m512i emu_shuffle_i64x2(__m512i a, __m512i b, int control) {
    uint64_t from[2][8], to[8];
    __m512i r;
    memcpy(from[0], &a, sizeof from[0]);
    memcpy(from[1], &b, sizeof from[1]);
    for (int i = 0; i < 8; i++) to[i] = from[i / 4][(control >> i / 2 * 2 & 3) * 2 + i % 2];
    memcpy(&r, to, sizeof r);
    return r;
}
#ifndef _mm512_shuffle_i64x2
#define _mm512_shuffle_i64x2 emu_shuffle_i64x2
#endif

static inline __mmask16 emu_cmplt_epu32_mask(__m512i a, __m512i b) {
    uint32_t x[16], y[16];
    unsigned k = 0;
    memcpy(x, &a, sizeof x);
    memcpy(y, &b, sizeof y);
    for (int i = 0; i < 16; i++) k |= (unsigned)(x[i] < y[i]) << i;
    return (__mmask16)k;
}
static inline __mmask16 emu_cmpge_epu32_mask(__m512i a, __m512i b) {
    return (__mmask16)~emu_cmplt_epu32_mask(a, b);
}
#ifndef _mm512_cmplt_epu32_mask
#define _mm512_cmplt_epu32_mask emu_cmplt_epu32_mask
#endif
#ifndef _mm512_cmpge_epu32_mask
#define _mm512_cmpge_epu32_mask emu_cmpge_epu32_mask
#endif

static inline __mmask16 emu_kunpackb(__mmask16 high, __mmask16 low) {
    return (__mmask16)(high << 8 | (low & 0xFF));
}
#ifndef _mm512_kunpackb
#define _mm512_kunpackb emu_kunpackb
#endif

/* ---- memory ---------------------------------------------------------------------------------- */

static inline __m512 emu_maskz_loadu_ps(__mmask16 k, const void *p) {
    __m512 r;
    emu_load(&r, p, 4, 16, k);
    return r;
}
static inline __m512d emu_maskz_loadu_pd(__mmask8 k, const void *p) {
    __m512d r;
    emu_load(&r, p, 8, 8, k);
    return r;
}
static inline __m512i emu_maskz_loadu_epi8(__mmask64 k, const void *p) {
    __m512i r;
    emu_load(&r, p, 1, 64, k);
    return r;
}
static inline __m512i emu_maskz_loadu_epi16(__mmask32 k, const void *p) {
    __m512i r;
    emu_load(&r, p, 2, 32, k);
    return r;
}
static inline __m256i emu_maskz_loadu_epi16_256(__mmask16 k, const void *p) {
    __m256i r;
    emu_load(&r, p, 2, 16, k);
    return r;
}
#ifndef _mm512_maskz_loadu_ps
#define _mm512_maskz_loadu_ps emu_maskz_loadu_ps
#endif
#ifndef _mm512_maskz_loadu_pd
#define _mm512_maskz_loadu_pd emu_maskz_loadu_pd
#endif
#ifndef _mm512_maskz_loadu_epi8
#define _mm512_maskz_loadu_epi8 emu_maskz_loadu_epi8
#endif
#ifndef _mm512_maskz_loadu_epi16
#define _mm512_maskz_loadu_epi16 emu_maskz_loadu_epi16
#endif
#ifndef _mm256_maskz_loadu_epi16
#define _mm256_maskz_loadu_epi16 emu_maskz_loadu_epi16_256
#endif

static inline void emu_mask_storeu_ps(void *p, __mmask16 k, __m512 a) {
    emu_store(p, &a, 4, 16, k);
}
static inline void emu_mask_storeu_pd(void *p, __mmask8 k, __m512d a) { emu_store(p, &a, 8, 8, k); }
static inline void emu_mask_storeu_epi8(void *p, __mmask64 k, __m512i a) {
    emu_store(p, &a, 1, 64, k);
}
static inline void emu_mask_storeu_epi16(void *p, __mmask32 k, __m512i a) {
    emu_store(p, &a, 2, 32, k);
}
static inline void emu_mask_storeu_epi16_256(void *p, __mmask16 k, __m256i a) {
    emu_store(p, &a, 2, 16, k);
}
#ifndef _mm512_mask_storeu_ps
#define _mm512_mask_storeu_ps emu_mask_storeu_ps
#endif
#ifndef _mm512_mask_storeu_pd
#define _mm512_mask_storeu_pd emu_mask_storeu_pd
#endif
#ifndef _mm512_mask_storeu_epi8
#define _mm512_mask_storeu_epi8 emu_mask_storeu_epi8
#endif
#ifndef _mm512_mask_storeu_epi16
#define _mm512_mask_storeu_epi16 emu_mask_storeu_epi16
#endif
#ifndef _mm256_mask_storeu_epi16
#define _mm256_mask_storeu_epi16 emu_mask_storeu_epi16_256
#endif

/* These always, for SIMDe takes any address. */
static inline void emu_stream_ps(void *p, __m512 a) { emu_stream(p, &a, sizeof a); }
static inline void emu_stream_pd(void *p, __m512d a) { emu_stream(p, &a, sizeof a); }
static inline void emu_stream_si512(void *p, __m512i a) { emu_stream(p, &a, sizeof a); }
static inline void emu_stream_si256(void *p, __m256i a) { emu_stream(p, &a, sizeof a); }
#undef _mm512_stream_ps
#define _mm512_stream_ps emu_stream_ps
#undef _mm512_stream_pd
#define _mm512_stream_pd emu_stream_pd
#undef _mm512_stream_si512
#define _mm512_stream_si512 emu_stream_si512
#undef _mm256_stream_si256
#define _mm256_stream_si256 emu_stream_si256

#endif

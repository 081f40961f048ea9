/* Compiler differences, in one place. No algorithm here. */
#ifndef FD_COMMON_H
#define FD_COMMON_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(_MSC_VER) && !defined(__clang__)
#include <intrin.h>
#define FD_INLINE static __forceinline
#define FD_NOINLINE static __declspec(noinline)
#define FD_UNROLL
#define FD_UNROLL_4
#else
#define FD_INLINE static inline __attribute__((always_inline))
#define FD_NOINLINE static __attribute__((noinline))
#if defined(__clang__)
#define FD_UNROLL _Pragma("clang loop unroll(full)")
#define FD_UNROLL_4 _Pragma("clang loop unroll_count(4)")
#else
#define FD_UNROLL _Pragma("GCC unroll 16")
#define FD_UNROLL_4 _Pragma("GCC unroll 4")
#endif
#endif

/* a * b + c stays two roundings, also where no flag says so (gcc has the flag alone). */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(_MSC_VER)
#pragma fp_contract(off)
#endif

#if defined(__x86_64__) || defined(_M_X64)
#define FD_X86 1
#else
#define FD_X86 0
#endif

/* aarch64 in its usual, little-endian form: the NEON kernels read bit words by the byte. */
#if (defined(__aarch64__) && !defined(__AARCH64EB__)) || defined(_M_ARM64)
#define FD_ARM64 1
#else
#define FD_ARM64 0
#endif

/*
 * FD_TARGET_BEGIN("avx2,...") ... FD_TARGET_END compiles what stands between for that target, so
 * that every build system can use the same flags for all files and nothing of the wider ISA leaks
 * into a header. MSVC accepts intrinsics without being told.
 */
#define FD_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FD_TARGET_BEGIN(isa) \
    FD_PRAGMA(clang attribute push(__attribute__((target(isa))), apply_to = function))
#define FD_TARGET_END FD_PRAGMA(clang attribute pop)
#elif defined(__GNUC__)
#define FD_TARGET_BEGIN(isa) FD_PRAGMA(GCC push_options) FD_PRAGMA(GCC target(isa))
#define FD_TARGET_END FD_PRAGMA(GCC pop_options)
#else
#define FD_TARGET_BEGIN(isa)
#define FD_TARGET_END
#endif

#define FD_CAT_(a, b) a##_##b
#define FD_CAT(a, b) FD_CAT_(a, b)
#define FD_NAME_(a) #a
#define FD_NAME(a) FD_NAME_(a)

/* For arrays on the stack that vectors are stored to. Across two lines each store takes longer (2 to 4 % of a call within
 * the caches); across two pages, as the stack may lie, calls that store around the caches took 10 to 25 % longer on Zen 4. */
#define FD_ALIGNED _Alignas(64)

/* Index of the lowest set bit; w must not be 0. */
FD_INLINE unsigned fd_ctz64(uint64_t w) {
#if defined(_MSC_VER) && !defined(__clang__)
    unsigned long i; /* of one half, for 32-bit targets have no scan of 64 */
    if (_BitScanForward(&i, (unsigned long)w)) return (unsigned)i;
    _BitScanForward(&i, (unsigned long)(w >> 32));
    return (unsigned)i + 32;
#else
    return (unsigned)__builtin_ctzll(w);
#endif
}

/* The compiler must not look through v, which is in a register of a kind, to what it comes from. */
#if defined(__GNUC__) || defined(__clang__)
#define FD_OPAQUE(kind, v) __asm__("" : "+" kind(v))
#else
#define FD_OPAQUE(kind, v)
#endif

/* v, in a register of its own: the compiler must not read it with its neighbours as one vector. Such a load of what
 * was stored piece by piece just now waits until all stores before are in the cache. */
FD_INLINE uint32_t fd_scalar(uint32_t v) {
    FD_OPAQUE("r", v);
    return v;
}

/* Asks for the line at an address, whatever it is, to be in the second-level cache soon, or in the first. */
#if defined(_MSC_VER) && !defined(__clang__) && FD_X86
#define FD_PREFETCH(at) _mm_prefetch((const char *)(at), _MM_HINT_T1)
#define FD_PREFETCH_FIRST(at) _mm_prefetch((const char *)(at), _MM_HINT_T0)
#elif defined(_MSC_VER) && !defined(__clang__)
#define FD_PREFETCH(at) __prefetch2(at, 2)       /* pldl2keep */
#define FD_PREFETCH_FIRST(at) __prefetch2(at, 0) /* pldl1keep */
#else
#define FD_PREFETCH(at) __builtin_prefetch(at, 0, 2)
#define FD_PREFETCH_FIRST(at) __builtin_prefetch(at, 0, 3)
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define FD_BIG_ENDIAN 1
#else
#define FD_BIG_ENDIAN 0
#endif

/* The word whose bytes in memory are those of w from the least significant on. */
FD_INLINE uint64_t fd_little_endian(uint64_t w) {
#if FD_BIG_ENDIAN
    return __builtin_bswap64(w);
#else
    return w;
#endif
}

/* Storage type of an element, by dtype name. 16-bit floats travel as their bits. */
typedef uint16_t fd_elem_f16;
typedef uint16_t fd_elem_bf16;
typedef float fd_elem_f32;
typedef double fd_elem_f64;

/* float32 <-> bits, the one legal way in C. */
FD_INLINE uint32_t fd_bits_of(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}
FD_INLINE float fd_float_of(uint32_t u) {
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

#endif

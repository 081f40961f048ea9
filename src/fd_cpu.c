/*
 * What the processor and its operating system offer, as a set of fd_feature, and who made it. Knows no kernel.
 */
#include "fd_common.h"
#include "fd_kernels.h"

#if FD_X86

#if defined(_MSC_VER) && !defined(__clang__)
static void cpuid(unsigned leaf, unsigned r[4]) { __cpuidex((int *)r, (int)leaf, 0); }
static uint64_t xgetbv(void) { return _xgetbv(0); }
#define LOAD(at) (*(volatile int *)(at))
#define STORE(at, v) ((void)(*(volatile int *)(at) = (v)))
#else
#include <cpuid.h>
static void cpuid(unsigned leaf, unsigned r[4]) { __cpuid_count(leaf, 0, r[0], r[1], r[2], r[3]); }
static uint64_t xgetbv(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}
#define LOAD(at) __atomic_load_n(at, __ATOMIC_RELAXED)
#define STORE(at, v) __atomic_store_n(at, v, __ATOMIC_RELAXED)
#endif

static int has(unsigned reg, unsigned bits) { return (reg & bits) == bits; }

unsigned fd_cpu_features(void) {
    unsigned r[4], features = 0;
    cpuid(0, r);
    if (r[0] < 7) return 0;
    cpuid(1, r);
    /* OSXSAVE, AVX, F16C: only then may xgetbv be asked which registers are saved */
    if (!has(r[2], 1u << 27 | 1u << 28 | 1u << 29)) return 0;
    const uint64_t saved = xgetbv();
    cpuid(7, r);
    if ((saved & 0x06) != 0x06) return 0;                                /* xmm, ymm */
    if (has(r[1], 1u << 3 | 1u << 5 | 1u << 8)) features |= FD_CPU_AVX2; /* BMI1, AVX2, BMI2 */
    if ((saved & 0xE0) == 0xE0 && features)                       /* opmask, upper zmm, zmm16-31 */
        if (has(r[1], 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)) /* F, DQ, BW, VL */
            features |= FD_CPU_AVX512;
    return features;
}

int fd_cpu_is_amd(void) {
    enum { UNKNOWN, NO, YES };
    static int answer = UNKNOWN; /* threads that ask at once all find the same */
    if (LOAD(&answer) == UNKNOWN) {
        unsigned r[4];
        cpuid(0, r);
        /* AuthenticAMD, HygonGenuine */
        STORE(&answer, r[1] == 0x68747541 || r[1] == 0x6F677948 ? YES : NO);
    }
    return LOAD(&answer) == YES;
}

#else

unsigned fd_cpu_features(void) { return FD_ARM64 ? FD_CPU_NEON : 0; }

int fd_cpu_is_amd(void) { return 0; }

#endif

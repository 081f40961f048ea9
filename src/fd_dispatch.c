/*
 * Which kernels there are, and the widest that this processor runs. Asks fd_cpu.c, knows no cpuid.
 */
#include "fd_kernels.h"

const char *const fd_isa_names[FD_ISAS] = {"avx512", "avx2", "neon", "baseline"};
const char *const fd_dtype_names[FD_DTYPES] = {"f16", "bf16", "f32", "f64"};
const size_t fd_dtype_bytes[FD_DTYPES] = {2, 2, 4, 8};

const fd_kernels *fd_built(int isa) {
    const fd_kernels *const tables[FD_ISAS] = {fd_kernels_avx512, fd_kernels_avx2, fd_kernels_neon,
                                               fd_kernels_baseline};
    return tables[isa];
}

const fd_kernels *fd_usable(int isa) {
    const fd_kernels *k = fd_built(isa);
    return k && (k->needs & ~fd_cpu_features()) == 0 ? k : NULL;
}

const fd_kernels *fd_widest(void) {
    int isa = 0;
    while (!fd_usable(isa)) isa++; /* baseline needs nothing */
    return fd_usable(isa);
}

const char *fd_isa_name(const fd_kernels *k) { return k->name; }

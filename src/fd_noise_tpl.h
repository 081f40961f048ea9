/*
 * Gaussian noise on elements of one dtype. Parameters and primitives as in fd_apply_tpl.h, and
 *
 *   normals_f32, normals_f64    float normals from memory, in the compute type
 *
 * Each product and sum is rounded once, to the compute type.
 */

#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_STORE FD_CAT(store, FD_DTYPE)
#define FD_ELEM FD_CAT(fd_elem, FD_DTYPE)
#define FD_REAL_T FD_CAT(v, FD_REAL)
#define FD_SPLAT FD_CAT(splat, FD_REAL)
#define FD_MUL FD_CAT(mul, FD_REAL)
#define FD_ADD FD_CAT(add, FD_REAL)
#define FD_Z FD_CAT(normals, FD_REAL)
#define FD_FN(op) FD_CAT(FD_CAT(op, FD_DTYPE), FD_ISA)

/* FD_NORMALS elements: x * (1 + sd z), or x + sd z. */
FD_INLINE void FD_FN(fd_noise_block)(FD_ELEM *y, const FD_ELEM *x, const float *z, FD_REAL_T sd,
                                     int additive) {
    const FD_REAL_T one = FD_SPLAT(1.0);
    for (unsigned i = 0; i < FD_NORMALS; i += FD_FN(fd_lanes)) {
        const FD_REAL_T v = FD_LOAD(x + i), noise = FD_MUL(FD_Z(z + i), sd);
        FD_STORE(y + i, additive ? FD_ADD(v, noise) : FD_MUL(v, FD_ADD(one, noise)));
    }
}

static void FD_FN(fd_noise)(void *y_, const void *x_, uint64_t first, size_t n,
                            const fd_stream *stream, double sd, int additive) {
    FD_ELEM *y = (FD_ELEM *)y_;
    const FD_ELEM *x = (const FD_ELEM *)x_;
    const FD_REAL_T spread = FD_SPLAT(sd);
    fd_schedule s;
    fd_schedule_init(&s, stream);
    while (n) {
        float z[FD_NORMALS];
        const unsigned lo = (unsigned)(first % FD_NORMALS), left = FD_NORMALS - lo;
        const unsigned count = n < left ? (unsigned)n : left;
        fd_normals(z, &s, first / FD_NORMALS);
        if (count == FD_NORMALS) {
            if (additive)
                FD_FN(fd_noise_block)(y, x, z, spread, 1);
            else
                FD_FN(fd_noise_block)(y, x, z, spread, 0);
        } else {
            FD_ELEM part[FD_NORMALS] = {0};
            memcpy(part + lo, x, count * sizeof *x);
            FD_FN(fd_noise_block)(part, part, z, spread, additive);
            memcpy(y, part + lo, count * sizeof *y);
        }
        x += count, y += count, first += count, n -= count;
    }
}

#undef FD_LOAD
#undef FD_STORE
#undef FD_ELEM
#undef FD_REAL_T
#undef FD_SPLAT
#undef FD_MUL
#undef FD_ADD
#undef FD_Z
#undef FD_FN

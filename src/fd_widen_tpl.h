/* Elements of a 16-bit dtype, FD_DTYPE, to floats and back; primitives as in fd_apply_tpl.h. */

#define FD_LOAD FD_CAT(load, FD_DTYPE)
#define FD_STORE FD_CAT(store, FD_DTYPE)
#define FD_FN(op) FD_CAT(FD_CAT(op, FD_DTYPE), FD_ISA)

static void FD_FN(fd_widen)(float *y, const uint16_t *x, size_t n) {
    enum { WIDTH = sizeof(v_f32) / sizeof(float) };
    for (; n >= WIDTH; n -= WIDTH, x += WIDTH, y += WIDTH) store_f32(y, FD_LOAD(x));
    uint16_t part[WIDTH] = {0};
    float wide[WIDTH];
    memcpy(part, x, n * sizeof *x);
    store_f32(wide, FD_LOAD(part));
    memcpy(y, wide, n * sizeof *y);
}

static void FD_FN(fd_narrow)(uint16_t *y, const float *x, size_t n) {
    enum { WIDTH = sizeof(v_f32) / sizeof(float) };
    for (; n >= WIDTH; n -= WIDTH, x += WIDTH, y += WIDTH) FD_STORE(y, load_f32(x));
    float part[WIDTH] = {0};
    uint16_t narrow[WIDTH];
    memcpy(part, x, n * sizeof *x);
    FD_STORE(narrow, load_f32(part));
    memcpy(y, narrow, n * sizeof *y);
}

#undef FD_LOAD
#undef FD_STORE
#undef FD_FN

/*
 * fastdrop: dropout over arrays, the mask generated while it is applied. The one public header.
 *
 * Every kernel here is a pure function of its arguments: it keeps no state, allocates nothing and
 * may run in any number of threads at once. Which element is dropped depends only on the stream and
 * on the element's index (fd_stream.h), so that any split of the work gives the same bits.
 *
 * Units: `n`, `first`, `begin` count elements, `n_bytes` bytes; probabilities never come here, only
 * drop_threshold, in units of 2^-40.
 */
#ifndef FASTDROP_H
#define FASTDROP_H

#include <stddef.h>
#include <stdint.h>

/* Element types, in the order of fd_dtype_names. 16-bit floats are passed as their bits. */
typedef enum { FD_F16, FD_BF16, FD_F32, FD_F64, FD_DTYPES } fd_dtype;

/* One mask: all there is to know of it. */
typedef struct {
    uint64_t seed;           /* the Philox key */
    uint64_t position;       /* which of the seed's masks */
    uint64_t drop_threshold; /* 0..2^40; element i is dropped iff U_i < drop_threshold */
} fd_stream;

/* What becomes of the elements: y = keep ? x * scale + shift : fill, the product rounded before the
 * sum. Each is rounded once to the compute type (float for 16-bit types); none is a NaN. The
 * plain kernels use scale alone: y = keep ? x * scale : +0, so that a kept -0.0 stays what it is. */
typedef struct {
    double scale, shift, fill;
} fd_values;

/*
 * y[j] from x[j], j in [0, n), for the elements first .. first+n-1 of the stream.
 * first + n <= 2^58. x and y are aligned to their element, and are the same array or do not
 * overlap; where the plain kernels' x is NULL, each x[j] is 1. bypass: no cache will hold y
 * afterwards, so it is written around them.
 */
typedef void fd_apply_fn(void *y, const void *x, uint64_t first, size_t n, const fd_stream *stream,
                         const fd_values *values, int bypass);

/*
 * Keep bits (1 = kept) of elements first .. first+n-1 into bits [begin, begin+n) of out; bit j of
 * byte k is bit 8k+j. No other bit is changed. first + n <= 2^58.
 */
typedef void fd_bits_fn(uint8_t *out, uint64_t begin, uint64_t first, size_t n,
                        const fd_stream *stream);

/*
 * Dropout together with its neighbours in a network, row by row. Elements of one column are `period`
 * apart; x[0] is in column `column`. With STEP = FD_MAX_STEP,
 *
 *   residual    y = residual + (keep ? (x + bias) * scale : +0); residual lies as x and y do, and is
 *               either array or overlaps neither. bias has period + STEP elements, repeating after
 *               period; -0 adds nothing
 *   bias_grad   y = keep ? x * scale : +0, and y is added, in the compute type and in the order of
 *               the rows, to bias_grad: period + STEP elements of that type, the last STEP of which
 *               are 0 before and after
 *
 * period >= STEP and column < period. The rest is as for fd_apply_fn.
 */
enum { FD_MAX_STEP = 64 };
typedef struct {
    const void *residual, *bias;
    void *bias_grad;
    uint64_t period, column;
} fd_fused;
typedef void fd_fused_fn(void *y, const void *x, uint64_t first, size_t n, const fd_stream *stream,
                         double scale, const fd_fused *fused, int bypass);

/*
 * Gaussian noise: y[j] = x[j] * (1 + sd * z), or where additive x[j] + sd * z, with z the stream's
 * standard normal of element first + j (fd_normal_tpl.h), a float whatever the dtype. Each operation
 * is rounded once to the compute type, and so is sd before; drop_threshold is not looked at. x and y
 * are aligned to their element, and are the same array or do not overlap. first + n <= 2^58.
 */
typedef void fd_noise_fn(void *y, const void *x, uint64_t first, size_t n, const fd_stream *stream,
                         double sd, int additive);

/* Keep bits of short runs, put together in a strip of words: see fd_runs in fd_stream.h. */
struct fd_runs;
struct fd_schedule;
typedef void fd_gather_fn(uint64_t *strip, const struct fd_runs *runs,
                          struct fd_schedule *schedule);

/*
 * y[j] from x[j], j in [0, n), by given keep bits from bit i on; as the plain kernels do, or where
 * affine as those.
 * bypass only where the element of each multiple of 64 bits is aligned to 64 bytes, and then
 * fence() follows the last call; affine kernels do not.
 */
typedef void fd_given_fn(void *y, const void *x, const uint64_t *keep, unsigned i, unsigned n,
                         const fd_values *values, int affine, int bypass);

/* The kernels of one ISA. */
typedef struct {
    const char *name; /* "baseline", "avx2", "avx512", "neon" */
    unsigned needs;   /* processor features, a set of fd_feature */
    fd_bits_fn *bits;
    fd_gather_fn *gather;
    fd_apply_fn *plain[FD_DTYPES];
    fd_apply_fn *affine[FD_DTYPES];
    fd_fused_fn *residual[FD_DTYPES];
    fd_fused_fn *bias_grad[FD_DTYPES];
    fd_given_fn *given[FD_DTYPES];
    fd_noise_fn *noise[FD_DTYPES];
    void (*fence)(void);
} fd_kernels;

/* Each always exists and is NULL where that ISA was not built. */
extern const fd_kernels *const fd_kernels_baseline;
extern const fd_kernels *const fd_kernels_avx2;
extern const fd_kernels *const fd_kernels_avx512;
extern const fd_kernels *const fd_kernels_neon;

/* fd_cpu.c: what this processor and its operating system offer. Each feature is the whole set of
 * instructions that the ISA of that name uses. */
typedef enum { FD_CPU_AVX2 = 1, FD_CPU_AVX512 = 2, FD_CPU_NEON = 4 } fd_feature;
unsigned fd_cpu_features(void);

/* fd_dispatch.c */
enum { FD_ISAS = 4 };
extern const char *const fd_isa_names[FD_ISAS]; /* widest first; the last is "baseline" */
extern const char *const fd_dtype_names[FD_DTYPES];
extern const size_t fd_dtype_bytes[FD_DTYPES]; /* of an element */
const fd_kernels *fd_built(int isa);  /* NULL: this build lacks it */
const fd_kernels *fd_usable(int isa); /* NULL: this build or this processor lacks it */
const fd_kernels *fd_widest(void);    /* never NULL */

/*
 * fd_window.c: an n-dimensional array whose elements take their decisions from a stream. Element
 * (j0, j1, ...) has index first + sum(j_k * stride_k); a stride of 0 shares one decision along its
 * axis. fd_window_init merges axes that are contiguous in the index, and can hold any ndim <= 64.
 */
enum { FD_MAX_NDIM = 64 };
typedef struct {
    int ndim; /* >= 1 after fd_window_init; the last axis is a run: its stride is 0 or 1 */
    uint64_t first;
    uint64_t shape[FD_MAX_NDIM + 1], stride[FD_MAX_NDIM + 1];
} fd_window;
void fd_window_init(fd_window *w, int ndim, const uint64_t *shape, const uint64_t *stride,
                    uint64_t first);

/* Elements begin .. begin+n-1 of the window in C order; x and y point at element 0 of the window
 * and are C-contiguous, bit 0 of out is element 0. */
void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_values *values);
void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                      const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                      const fd_values *values);
void fd_window_noise(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream, double sd,
                     int additive);
void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                    uint64_t n, const fd_stream *stream);

/* Elements begin .. begin+n-1 of an array of `size` elements, whose first has index `first`: by the
 * residual kernel, or by bias_grad where fused has that. y, x, fused->residual and fused->column are
 * those of element 0. */
void fd_range_fused(const fd_kernels *k, fd_dtype dtype, void *y, const void *x, uint64_t size,
                    uint64_t first, uint64_t begin, uint64_t n, const fd_stream *stream,
                    double scale, const fd_fused *fused);

#endif

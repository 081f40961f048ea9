/*
 * fastdrop: dropout over arrays, the mask generated while it is applied. The one public header.
 *
 * Every kernel here is a pure function of its arguments: it keeps no state but who made the processor,
 * allocates nothing and may run in any number of threads at once. Which element is dropped depends only on
 * the stream and on the element's index (fd_stream.h), so that any split of the work gives the same bits.
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
 * Dropout together with its neighbours in a network, row by row. Elements of one column are `period`
 * apart; x[0] is in column `column`. With STEP = FD_MAX_STEP,
 *
 *   residual    y = beside + (keep ? (x + bias) * scale : +0)
 *   bias_grad   y = keep ? x * scale : +0, and y is added, in the compute type and in the order of
 *               the rows, to bias_grad: period + STEP elements of that type, the last STEP of which
 *               are 0 before and after
 *   relu        y = keep ? relu(x + bias) * scale : +0, where relu is +0 for what is 0 or below, and a
 *               NaN for a NaN
 *   relu_grad   as bias_grad, where keep is `beside > 0`; the stream's threshold is 0
 *
 * beside is of y's dtype, lies as y does, and is y or does not overlap it; NULL where nothing is read.
 * bias is of y's dtype and has period + STEP elements, repeating after period; -0 adds nothing.
 * period >= STEP and column < period. The rest is as for fd_apply_fn; but where y is of another dtype than
 * x, they do not overlap. That is FD_F32 for residual with an x of 16 bits, and the other way round for
 * bias_grad.
 */
typedef enum {
    FD_FUSED_RESIDUAL,
    FD_FUSED_BIAS_GRAD,
    FD_FUSED_RELU,
    FD_FUSED_RELU_GRAD,
    FD_FUSIONS
} fd_fusion;
enum { FD_MAX_STEP = 64 };
typedef struct {
    fd_fusion op;
    const void *beside, *bias;
    void *bias_grad;
    uint64_t period, column;
} fd_fused;

/* The kernels of one ISA; what is in it is for src/ alone (fd_kernels.h). */
typedef struct fd_kernels fd_kernels;

/* fd_dispatch.c */
enum { FD_ISAS = 4 };
extern const char *const fd_isa_names[FD_ISAS]; /* widest first; the last is "baseline" */
extern const char *const fd_dtype_names[FD_DTYPES];
extern const size_t fd_dtype_bytes[FD_DTYPES]; /* of an element */
const fd_kernels *fd_built(int isa);           /* NULL: this build lacks it */
const fd_kernels *fd_usable(int isa);          /* NULL: this build or this processor lacks it */
const fd_kernels *fd_widest(void);             /* never NULL */
const char *fd_isa_name(const fd_kernels *k);

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
 * and are C-contiguous. */
void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_values *values);
void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                      const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                      const fd_values *values);
void fd_window_noise(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream, double sd,
                     int additive);
/* Into bits at .. at+n-1 of out, that of element begin first. */
void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t at,
                    uint64_t begin, uint64_t n, const fd_stream *stream);

/* fd_rates.c: a rate for each element. Element e of the window is dropped with probability p[e % period],
 * and scaled by scales[e % period], or where that is NULL by 1/(1-p); the stream's own threshold is not
 * looked at. */
typedef struct {
    const double *p, *scales;
    uint64_t period;
} fd_rates;
void fd_window_rates(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                     const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                     const fd_rates *rates);
void fd_window_rates_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                          uint64_t n, const fd_stream *stream, const fd_rates *rates);

/* The uniform numbers U themselves, in units of 2^-40; out[0] is element `begin`. */
void fd_window_uniforms(const fd_kernels *k, const fd_window *w, uint64_t *out, uint64_t begin,
                        uint64_t n, const fd_stream *stream);

/* fd_softmax.c: dropout of the softmax of each run of `row` elements, y = keep ? softmax(x) * scale : +0; or
 * where grad, the gradient by y, is given, that by x:
 *
 *   y = softmax(x) * scale * (g - sum of the row's softmax(x) * g),  g = keep ? grad : +0
 *
 * A row that is all -infinity has a softmax of zeros; one with a NaN or +infinity, of NaNs. begin and n are
 * multiples of row > 0; y, x and grad are of one dtype, and those are y or do not overlap it. */
void fd_window_softmax(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                       const void *x, const void *grad, uint64_t row, uint64_t begin, uint64_t n,
                       const fd_stream *stream, double scale);

/* Elements begin .. begin+n-1 of an array of `size` elements, whose first has index `first`, by what fused
 * says. y, x, fused->beside and fused->column are those of element 0. */
void fd_range_fused(const fd_kernels *k, fd_dtype x_dtype, fd_dtype y_dtype, void *y, const void *x,
                    uint64_t size, uint64_t first, uint64_t begin, uint64_t n,
                    const fd_stream *stream, double scale, const fd_fused *fused);

#endif

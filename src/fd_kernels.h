/*
 * The table of kernels that each ISA fills, and what each kernel does. For src/ alone: fd_window.c
 * calls them, fd_dispatch.c chooses among the tables.
 */
#ifndef FD_KERNELS_H
#define FD_KERNELS_H

#include "fastdrop.h"
#include "fd_cursor.h"
#include "fd_stream.h"

/*
 * How a call treats memory, a set of these, of the last two at most one:
 *
 *   FD_HINT_BYPASS   no cache will hold y afterwards, so it is written around them
 *   FD_HINT_FETCH    x and what is read beside it come from afar: they are fetched while bits are made, or
 *                    where those take little time piece by piece
 *   FD_HINT_NEXT     what is applied after a group's bits is fetched while they are made, from a cache at best
 */
enum { FD_HINT_BYPASS = 1, FD_HINT_FETCH = 2, FD_HINT_NEXT = 4 };
enum { FD_HINTS_TO_FETCH = FD_HINT_FETCH | FD_HINT_NEXT };

/* Bytes of output from which no last-level cache is expected to hold it and its input: 32 MiB is what
 * one core complex or desktop part has, and what CPUID says under a hypervisor cannot be trusted. */
enum { FD_BYPASS_FROM = 16 << 20 };

/* Bytes between what is applied next and what is fetched meanwhile, from afar. 8192 did as well on Intel, 1024 and
 * 16384 worse on Zen 3. */
enum { FD_AHEAD = 4096 };
FD_INLINE size_t fd_distance(int hints) { return hints & FD_HINT_NEXT ? 0 : FD_AHEAD; }

/*
 * y[j] from x[j], j in [0, n), for the elements first .. first+n-1 of the stream, first + n <= 2^58; or where
 * rows is not NULL, for those that it walks over next, in runs of whole blocks that all have b div 2^27 in
 * common, and first is 0. x and y are aligned to their element, and are the same array or do not overlap;
 * where the plain kernels' x is NULL, each x[j] is 1.
 */
typedef void fd_apply_fn(void *y, const void *x, uint64_t first, fd_cursor *rows, size_t n,
                         const fd_stream *stream, const fd_values *values, int hints);

/*
 * Keep bits (1 = kept) of n elements, given as those of fd_apply_fn, into bits [begin, begin+n) of out; bit j of
 * byte k is bit 8k+j. No other bit is changed.
 */
typedef void fd_bits_fn(uint8_t *out, uint64_t begin, uint64_t first, fd_cursor *rows, uint64_t n,
                        const fd_stream *stream);

/* Dropout with its neighbours: see fd_fused. The rest is as for fd_apply_fn. */
typedef void fd_fused_fn(void *y, const void *x, uint64_t first, size_t n, const fd_stream *stream,
                         double scale, const fd_fused *fused, int hints);

/*
 * Gaussian noise: y[j] = x[j] * (1 + sd * z), or where additive x[j] + sd * z, with z the stream's
 * standard normal of element first + j (fd_normal_tpl.h), a float whatever the dtype. Each operation
 * is rounded once to the compute type, and so is sd before; drop_threshold is not looked at. x and y
 * are aligned to their element, and are the same array or do not overlap. first + n <= 2^58.
 */
typedef void fd_noise_fn(void *y, const void *x, uint64_t first, size_t n, const fd_stream *stream,
                         double sd, int additive);

/* Keep bits of short runs, put together in a strip of words: see fd_runs in fd_bits.h. Meanwhile memory at
 * schedule->ahead.at is fetched, for elements of `item` bytes; 0: none. */
struct fd_runs;
struct fd_schedule;
typedef void fd_gather_fn(uint64_t *strip, const struct fd_runs *runs, struct fd_schedule *schedule,
                          size_t item);

/* The 128 bits of each of 16 blocks under a tag, from block number `block`, a multiple of 16, on: 32
 * words, bit j of word w being bit 64w + j of them all. The schedule can make no keep bits then. */
typedef void fd_words_fn(uint64_t *words, struct fd_schedule *schedule, unsigned tag,
                         uint64_t block);

/* y[j] = keep ? x[j] * scales[j] : +0, j in [0, n), by given keep bits from bit 0 on; n <= FD_TILE. scales
 * are of the compute type, and FD_MAX_STEP more are read than there are elements. */
typedef void fd_scaled_fn(void *y, const void *x, const uint64_t *keep, size_t n,
                          const void *scales);

/*
 * y[j] from x[j], j in [0, n), by given keep bits from bit i on: what the plain kernels do or, where
 * affine is not 0, what the affine ones do. bypass only where the element of each multiple of 64 bits is
 * aligned to 64 bytes, and then fence() follows the last call.
 */
typedef void fd_given_fn(void *y, const void *x, const uint64_t *keep, unsigned i, unsigned n,
                         const fd_values *values, int affine, int bypass);

/*
 * Softmax, of float or double: of several rows that follow each other, of n elements each, a multiple of
 * FD_MAX_STEP, and no more than FD_TILE in all. `keep` has the rows' bits, from bit 0 on; scale is the
 * dropout's.
 */
enum { FD_BLOCK_ROWS = FD_TILE / FD_MAX_STEP };

/* What is known of a row so far: the maximum, the sum of e^(x - max), and that of e^(x - max) times the
 * gradient by the softmax. */
typedef struct {
    double max, sum, dot;
} fd_softmax_row;

/* e = e^(x - max), with the rows' maxima so far; adds e to their sums and, where grad is not NULL,
 * keep ? e * grad : +0 to their dots. Meanwhile fetches what three arrays have ahead, so many lines for each
 * FD_MAX_STEP elements; NULL: nothing. */
struct fd_ahead;
typedef void fd_exps_fn(void *e, const void *x, const void *grad, const uint64_t *keep, size_t n,
                        unsigned rows, fd_softmax_row *row, struct fd_ahead *ahead);

/* y = keep ? e / sum * scale : +0; or where grad is not NULL, with `dot` of all of the row,
 * y = e / sum * scale * ((keep ? grad : +0) - dot / sum). */
typedef void fd_soft_fn(void *y, const void *e, const void *grad, const uint64_t *keep, size_t n,
                        unsigned rows, const fd_softmax_row *row, double scale);

/* n elements of 16 bits to floats; and back, rounded to nearest even. */
typedef void fd_widen_fn(float *y, const uint16_t *x, size_t n);
typedef void fd_narrow_fn(uint16_t *y, const float *x, size_t n);

/* Copies to memory around the caches, both aligned to a float; fence() follows the last call. */
typedef void fd_put_around_fn(void *y, const void *x, size_t n_bytes);

/* The kernels of one ISA. */
struct fd_kernels {
    const char *name; /* "baseline", "avx2", "avx512", "neon" */
    unsigned needs;   /* processor features, a set of fd_feature */
    fd_bits_fn *bits;
    fd_gather_fn *gather;
    fd_apply_fn *plain[FD_DTYPES];
    fd_apply_fn *affine[FD_DTYPES];
    fd_fused_fn *fused[FD_DTYPES];
    fd_fused_fn *fused_to_f32[2];   /* x is FD_F16 or FD_BF16, y FD_F32 */
    fd_fused_fn *fused_from_f32[2]; /* the other way round */
    fd_given_fn *given[FD_DTYPES];
    fd_words_fn *words;
    fd_scaled_fn *scaled[FD_DTYPES];
    fd_noise_fn *noise[FD_DTYPES];
    fd_exps_fn *exps[2]; /* of float, of double */
    fd_soft_fn *soft[2];
    fd_widen_fn *widen[2]; /* of FD_F16, of FD_BF16 */
    fd_narrow_fn *narrow[2];
    fd_put_around_fn *put_around;
    void (*fence)(void);
};

/* Each always exists and is NULL where that ISA was not built. */
extern const fd_kernels *const fd_kernels_baseline;
extern const fd_kernels *const fd_kernels_avx2;
extern const fd_kernels *const fd_kernels_avx512;
extern const fd_kernels *const fd_kernels_neon;

/* fd_cpu.c: what this processor and its operating system offer. Each feature is the whole set of
 * instructions that the ISA of that name uses. */
typedef enum { FD_CPU_AVX2 = 1, FD_CPU_AVX512 = 2, FD_CPU_NEON = 4 } fd_feature;
unsigned fd_cpu_features(void);
int fd_cpu_is_amd(void); /* cpuid, which takes microseconds under a hypervisor, is asked once */

#endif

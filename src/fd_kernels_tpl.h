/*
 * All kernels of one ISA, and its table: the last line of each ISA's file. Beside the primitives that
 * the templates ask for, FD_NEEDS is the set of processor features that they use.
 */

/* See fd_apply_tpl.h. */
enum { FD_RESIDUAL, FD_BIAS_GRAD, FD_PLAIN, FD_ONES, FD_AFFINE, FD_SCALED, FD_RELU, FD_RELU_GRAD };
#define FD_READS_BESIDE(op) ((op) == FD_RESIDUAL || (op) == FD_RELU_GRAD)
#define FD_SUMS(op) ((op) == FD_BIAS_GRAD || (op) == FD_RELU_GRAD)

#include "fd_mask_tpl.h"
#include "fd_tiles_tpl.h"
#include "fd_normal_tpl.h"

#define FD_DTYPE f16
#define FD_REAL f32
#include "fd_apply_tpl.h"
#include "fd_noise_tpl.h"
#undef FD_DTYPE
#undef FD_REAL
#define FD_DTYPE bf16
#define FD_REAL f32
#define FD_OWN_PLAIN FD_OWN_PLAIN_BF16
#include "fd_apply_tpl.h"
#undef FD_OWN_PLAIN
#include "fd_noise_tpl.h"
#undef FD_DTYPE
#undef FD_REAL
#define FD_DTYPE f32
#define FD_REAL f32
#include "fd_apply_tpl.h"
#include "fd_noise_tpl.h"
#undef FD_DTYPE
#undef FD_REAL
#define FD_DTYPE f64
#define FD_REAL f64
#include "fd_apply_tpl.h"
#include "fd_noise_tpl.h"
#undef FD_DTYPE
#undef FD_REAL

#define FD_WIDENS 1
#define FD_DTYPE f16
#define FD_TO f32
#define FD_REAL f32
#include "fd_apply_tpl.h"
#undef FD_DTYPE
#undef FD_TO
#undef FD_REAL
#define FD_DTYPE bf16
#define FD_TO f32
#define FD_REAL f32
#include "fd_apply_tpl.h"
#undef FD_DTYPE
#undef FD_TO
#undef FD_REAL
#undef FD_WIDENS
#define FD_WIDENS 0
#define FD_DTYPE f32
#define FD_TO f16
#define FD_REAL f32
#include "fd_apply_tpl.h"
#undef FD_DTYPE
#undef FD_TO
#undef FD_REAL
#define FD_DTYPE f32
#define FD_TO bf16
#define FD_REAL f32
#include "fd_apply_tpl.h"
#undef FD_DTYPE
#undef FD_TO
#undef FD_REAL
#undef FD_WIDENS

#define FD_REAL f32
#include "fd_softmax_tpl.h"
#undef FD_REAL
#define FD_REAL f64
#include "fd_softmax_tpl.h"
#undef FD_REAL

#define FD_DTYPE f16
#include "fd_widen_tpl.h"
#undef FD_DTYPE
#define FD_DTYPE bf16
#include "fd_widen_tpl.h"
#undef FD_DTYPE

static void FD_CAT(fd_put_around, FD_ISA)(void *y_, const void *x_, size_t n_bytes) {
    char *y = (char *)y_;
    const char *x = (const char *)x_;
    const size_t to_aligned = (64 - (uintptr_t)y % 64) % 64;
    const size_t head = to_aligned < n_bytes ? to_aligned : n_bytes;
    memcpy(y, x, head);
    for (y += head, x += head, n_bytes -= head; n_bytes >= sizeof(v_f32);
         y += sizeof(v_f32), x += sizeof(v_f32), n_bytes -= sizeof(v_f32))
        bypass_f32((float *)y, load_f32((const float *)x));
    memcpy(y, x, n_bytes);
}

#define FD_ALL(op)                                                                  \
    {FD_CAT(op##_f16, FD_ISA), FD_CAT(op##_bf16, FD_ISA), FD_CAT(op##_f32, FD_ISA), \
     FD_CAT(op##_f64, FD_ISA)}
#define FD_REALS(op) {FD_CAT(op##_f32, FD_ISA), FD_CAT(op##_f64, FD_ISA)}

static const fd_kernels table = {
    .name = FD_NAME(FD_ISA),
    .needs = FD_NEEDS,
    .bits = FD_CAT(fd_bits, FD_ISA),
    .gather = FD_CAT(fd_gather, FD_ISA),
    .plain = FD_ALL(fd_plain),
    .affine = FD_ALL(fd_affine),
    .fused = FD_ALL(fd_fused),
    .fused_to_f32 = {FD_CAT(fd_fused_f16_f32, FD_ISA), FD_CAT(fd_fused_bf16_f32, FD_ISA)},
    .fused_from_f32 = {FD_CAT(fd_fused_f32_f16, FD_ISA), FD_CAT(fd_fused_f32_bf16, FD_ISA)},
    .given = FD_ALL(fd_given),
    .words = FD_CAT(fd_words, FD_ISA),
    .scaled = FD_ALL(fd_scaled),
    .noise = FD_ALL(fd_noise),
    .exps = FD_REALS(fd_exps),
    .soft = FD_REALS(fd_soft),
    .widen = {FD_CAT(fd_widen_f16, FD_ISA), FD_CAT(fd_widen_bf16, FD_ISA)},
    .narrow = {FD_CAT(fd_narrow_f16, FD_ISA), FD_CAT(fd_narrow_bf16, FD_ISA)},
    .put_around = FD_CAT(fd_put_around, FD_ISA),
    .fence = FD_CAT(fd_fence, FD_ISA),
};

"""What _core.pyx calls: src/fastdrop.h and, for one block, src/fd_stream.h."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef extern from "fastdrop.h" nogil:
    ctypedef enum fd_dtype:
        FD_F16
        FD_BF16
        FD_F32
        FD_F64
        FD_DTYPES
    enum:
        FD_ISAS
        FD_MAX_NDIM
    ctypedef struct fd_stream:
        uint64_t seed
        uint64_t position
        uint64_t drop_threshold
    ctypedef struct fd_values:
        double scale
        double shift
        double fill
    ctypedef struct fd_kernels:
        const char *name
    ctypedef struct fd_window:
        pass
    const char *fd_isa_names[]
    const char *fd_dtype_names[]
    const fd_kernels *fd_built(int isa)
    const fd_kernels *fd_usable(int isa)
    const fd_kernels *fd_widest()
    void fd_window_init(fd_window *w, int ndim, const uint64_t *shape, const uint64_t *stride,
                        uint64_t first)
    void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                         const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                         const fd_values *values)
    void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                          const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                          const fd_values *values)
    ctypedef struct fd_fused:
        const void *residual
        const void *bias
        void *bias_grad
        uint64_t period
        uint64_t column
    enum:
        FD_MAX_STEP
    void fd_range_fused(const fd_kernels *k, fd_dtype dtype, void *y, const void *x,
                        uint64_t size, uint64_t first, uint64_t begin, uint64_t n,
                        const fd_stream *stream, double scale, const fd_fused *fused)
    void fd_window_noise(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                         const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                         double sd, int additive)
    void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                        uint64_t n, const fd_stream *stream)

cdef extern from "fd_stream.h" nogil:
    void fd_stream_block(uint32_t out[4], uint64_t seed, uint64_t position, unsigned tag,
                         uint64_t block)

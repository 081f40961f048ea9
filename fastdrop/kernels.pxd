"""The door to the C kernels, for the other compiled modules: src/fastdrop.h, and the Job."""

cimport numpy as cnp
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
        FD_MAX_STEP
    ctypedef struct fd_stream:
        uint64_t seed
        uint64_t position
        uint64_t drop_threshold
    ctypedef struct fd_values:
        double scale
        double shift
        double fill
    ctypedef struct fd_kernels:
        pass
    ctypedef struct fd_window:
        pass
    ctypedef enum fd_fusion:
        FD_FUSED_RESIDUAL
        FD_FUSED_BIAS_GRAD
        FD_FUSED_RELU
        FD_FUSED_RELU_GRAD
    ctypedef struct fd_fused:
        fd_fusion op
        const void *beside
        const void *bias
        void *bias_grad
        uint64_t period
        uint64_t column
    ctypedef struct fd_rates:
        const double *p
        const double *scales
        uint64_t period
    const char *fd_isa_names[]
    const size_t fd_dtype_bytes[]
    const fd_kernels *fd_built(int isa)
    const fd_kernels *fd_usable(int isa)
    const fd_kernels *fd_widest()
    const char *fd_isa_name(const fd_kernels *k)
    void fd_window_init(fd_window *w, int ndim, const uint64_t *shape, const uint64_t *stride,
                        uint64_t first)
    void fd_window_plain(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                         const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                         const fd_values *values)
    void fd_window_affine(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                          const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                          const fd_values *values)
    void fd_window_noise(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                         const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                         double sd, int additive)
    void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t at,
                        uint64_t begin, uint64_t n, const fd_stream *stream)
    void fd_window_softmax(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                           const void *x, const void *grad, uint64_t row, uint64_t begin, uint64_t n,
                           const fd_stream *stream, double scale)
    void fd_window_rates(const fd_kernels *k, fd_dtype dtype, const fd_window *w, void *y,
                         const void *x, uint64_t begin, uint64_t n, const fd_stream *stream,
                         const fd_rates *rates)
    void fd_window_rates_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                              uint64_t n, const fd_stream *stream, const fd_rates *rates)
    void fd_window_uniforms(const fd_kernels *k, const fd_window *w, uint64_t *out, uint64_t begin,
                            uint64_t n, const fd_stream *stream)
    void fd_range_fused(const fd_kernels *k, fd_dtype x_dtype, fd_dtype y_dtype, void *y,
                        const void *x, uint64_t size, uint64_t first, uint64_t begin, uint64_t n,
                        const fd_stream *stream, double scale, const fd_fused *fused)

cdef extern from "fd_stream.h" nogil:
    enum:
        FD_STREAM_VERSION
        FD_TAG_SPAWN
        FD_TILE
    uint64_t fd_drop_threshold(double p)
    double fd_scale(double p)
    void fd_stream_block(uint32_t out[4], uint64_t seed, uint64_t position, unsigned tag,
                         uint64_t block)

# One call of the kernels: what to do with which memory. `kernel` is one of the functions below or of
# fused.pyx, and reads those fields that it needs; elements are counted in C order of the window.
ctypedef struct Job

ctypedef void (*Kernel)(const Job *job, uint64_t begin, uint64_t n) noexcept nogil

ctypedef struct Job:
    Kernel kernel
    const fd_kernels *isa  # set by run
    fd_dtype dtype  # of y, and of x but for the fused kernels
    fd_dtype x_dtype
    void *y
    const void *x
    uint64_t size  # elements
    fd_stream stream
    fd_values values
    double sd
    bint additive
    fd_fused fused
    uint64_t first  # index of element 0, for the fused kernels, which know no window
    fd_rates rates  # by elements; by runs one for each
    uint64_t run  # elements that share a rate, or are a row of a softmax
    void *context  # of kernels that are defined elsewhere
    fd_window window

cdef void plain(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void affine(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void noise(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void bits(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void fused(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void softmax(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void by_elements(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void bits_by_elements(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void by_runs(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void bits_by_runs(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void uniforms(const Job *job, uint64_t begin, uint64_t n) noexcept nogil
cdef void copy(const Job *job, uint64_t begin, uint64_t n) noexcept nogil

cdef void set_window(Job *job, int ndim, const uint64_t *sizes, const uint64_t *steps,
                     uint64_t first) noexcept nogil
cdef size_t item_bytes(fd_dtype dtype) noexcept nogil
cdef int run(Job *job, uint64_t unit=*) except -1
cdef fd_dtype dtype_of(cnp.ndarray a) except <fd_dtype>-1

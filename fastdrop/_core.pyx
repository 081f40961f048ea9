# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The C kernels: buffers and a dtype name in, one C call. No policy, no defaults.

Arrays come as C-contiguous, aligned buffers (bfloat16 as uint16); a buffer whose size does not fit
is refused, for nothing here may read or write past an end.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS,
    PyBUF_FORMAT,
    PyBUF_SIMPLE,
    PyBUF_WRITABLE,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, strcmp


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
    void fd_window_bits(const fd_kernels *k, const fd_window *w, uint8_t *out, uint64_t begin,
                        uint64_t n, const fd_stream *stream)

cdef extern from "fd_stream.h" nogil:
    void fd_stream_block(uint32_t out[4], uint64_t seed, uint64_t position, unsigned tag,
                         uint64_t block)


# The kernels in use. Written by set_isa alone; a pointer, so that readers see the old or the new.
cdef const fd_kernels *kernels = fd_widest()

# Below this many elements giving up the GIL costs more than it frees.
cdef enum:
    NOGIL_FROM = 8192


def isas():
    """``[(name, built, usable), ...]``, widest first."""
    return [(fd_isa_names[i].decode(), fd_built(i) != NULL, fd_usable(i) != NULL)
            for i in range(FD_ISAS)]


def get_isa():
    """Name of the ISA whose kernels are in use."""
    return kernels.name.decode()


def set_isa(str name):
    """Use the kernels of one ISA; False where it is unknown or not usable here."""
    global kernels
    encoded = name.encode()
    for i in range(FD_ISAS):
        if strcmp(fd_isa_names[i], encoded) == 0 and fd_usable(i) != NULL:
            kernels = fd_usable(i)
            return True
    return False


def block(uint64_t seed, uint64_t position, unsigned tag, uint64_t number):
    """The four words of one Philox4x32-10 block of the stream."""
    cdef uint32_t out[4]
    fd_stream_block(out, seed, position, tag, number)
    return out[0], out[1], out[2], out[3]


cdef int read_window(fd_window *w, tuple window, uint64_t *size) except -1:
    """(first, shape, strides) into a fd_window, and its number of elements."""
    cdef uint64_t shape[FD_MAX_NDIM]
    cdef uint64_t strides[FD_MAX_NDIM]
    first, py_shape, py_strides = window
    cdef int ndim = len(py_shape)
    if ndim > FD_MAX_NDIM or len(py_strides) != ndim:
        raise ValueError("window: shape and strides do not fit")
    size[0] = 1
    for axis in range(ndim):
        shape[axis] = py_shape[axis]
        strides[axis] = py_strides[axis]
        size[0] *= shape[axis]
    fd_window_init(w, ndim, shape, strides, first)
    return 0


cdef int dtype_index(str name) except -1:
    encoded = name.encode()
    for i in range(<int>FD_DTYPES):
        if strcmp(fd_dtype_names[i], encoded) == 0:
            return i
    raise ValueError(f"no kernels for dtype {name!r}")


cdef int run(fd_dtype dtype, const fd_window *w, bint affine, void *y, const void *x,
             uint64_t begin, uint64_t n, const fd_stream *s, const fd_values *v) except -1:
    cdef const fd_kernels *k = kernels
    if not affine and n < NOGIL_FROM:
        fd_window_plain(k, dtype, w, y, x, begin, n, s, v)
        return 0
    with nogil:
        (fd_window_affine if affine else fd_window_plain)(k, dtype, w, y, x, begin, n, s, v)
    return 0


def apply(y, x, str dtype, tuple stream, tuple values, tuple window, uint64_t begin, uint64_t n):
    """Elements begin .. begin+n-1 of a window: y = keep ? x * scale : +0, or with three values
    y = keep ? x * scale + shift : fill. ``stream`` is (seed, position, drop_threshold)."""
    cdef fd_window w
    cdef fd_stream s
    cdef fd_values v
    cdef uint64_t size
    cdef Py_buffer to, source
    cdef fd_dtype d = <fd_dtype>dtype_index(dtype)
    cdef int item_bytes = 8 if d == FD_F64 else 4 if d == FD_F32 else 2
    cdef bint affine = len(values) == 3
    s.seed, s.position, s.drop_threshold = stream
    v.scale, v.shift, v.fill = values if affine else (values[0], 0.0, 0.0)
    read_window(&w, window, &size)
    PyObject_GetBuffer(y, &to, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        PyObject_GetBuffer(x, &source, PyBUF_SIMPLE)
        try:
            if (<uint64_t>to.len != size * item_bytes or to.len != source.len or begin > size
                    or n > size - begin):
                raise ValueError("arrays and window differ in size")
            run(d, &w, affine, to.buf, source.buf, begin, n, &s, &v)
        finally:
            PyBuffer_Release(&source)
    finally:
        PyBuffer_Release(&to)


cdef int array_dtype(const Py_buffer *a, bint bf16) noexcept:
    """Kernels' dtype of an aligned, native float array; FD_DTYPES of any other."""
    cdef int d
    if a.format == NULL or a.format[0] == 0 or a.format[1] != 0:
        return FD_DTYPES
    if bf16:
        d = FD_BF16 if a.format[0] == b"H" else FD_DTYPES
    elif a.format[0] == b"f":
        d = FD_F32
    elif a.format[0] == b"d":
        d = FD_F64
    elif a.format[0] == b"e":
        d = FD_F16
    else:
        return FD_DTYPES
    return FD_DTYPES if <size_t>a.buf % <size_t>a.itemsize else d


def apply_small(y, x, bint bf16, stream, uint64_t drop_threshold, double scale, window,
                Py_ssize_t max_bytes):
    """Apply a window (None: the first x.size decisions) to x: all that a small call needs, at once.

    Both must be C-contiguous, aligned, native arrays of one shape and of float16, 32 or 64 (bf16: of
    uint16), the same or not overlapping, of less than max_bytes. Else None, having done nothing.
    ``stream`` is (seed, position) or, to take them when all is checked, called; returns them."""
    cdef fd_window w
    cdef uint64_t size, one = 1
    cdef Py_buffer to, source
    cdef fd_stream s
    cdef fd_values v
    cdef int d
    try:
        PyObject_GetBuffer(x, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
    except (BufferError, TypeError, ValueError):
        return None
    try:
        try:
            PyObject_GetBuffer(y, &to, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | PyBUF_WRITABLE)
        except (BufferError, TypeError, ValueError):
            return None
        try:
            d = array_dtype(&source, bf16)
            if (d == FD_DTYPES or array_dtype(&to, bf16) != d or source.len >= max_bytes
                    or to.ndim != source.ndim
                    or memcmp(to.shape, source.shape, to.ndim * sizeof(Py_ssize_t))
                    or to.buf != source.buf and <char *>to.buf < <char *>source.buf + source.len
                    and <char *>source.buf < <char *>to.buf + to.len):
                return None
            size = source.len // source.itemsize
            if window is None:
                fd_window_init(&w, 1, &size, &one, 0)
            else:
                read_window(&w, window, &size)
                if size * source.itemsize != <uint64_t>source.len:
                    return None
            taken = stream if type(stream) is tuple else stream()
            s.seed, s.position = taken
            s.drop_threshold = drop_threshold
            v.scale, v.shift, v.fill = scale, 0.0, 0.0
            run(<fd_dtype>d, &w, False, to.buf, source.buf, 0, size, &s, &v)
            return taken
        finally:
            PyBuffer_Release(&to)
    finally:
        PyBuffer_Release(&source)


def bits(out, tuple stream, tuple window, uint64_t begin, uint64_t n):
    """Keep bits of elements begin .. begin+n-1 of a window into the same bits of a buffer."""
    cdef fd_window w
    cdef fd_stream s
    cdef uint64_t size
    cdef Py_buffer to
    cdef const fd_kernels *k = kernels
    s.seed, s.position, s.drop_threshold = stream
    read_window(&w, window, &size)
    PyObject_GetBuffer(out, &to, PyBUF_SIMPLE | PyBUF_WRITABLE)
    try:
        if <uint64_t>to.len != (size + 7) // 8 or begin > size or n > size - begin:
            raise ValueError("buffer and window differ in size")
        with nogil:
            fd_window_bits(k, &w, <uint8_t *>to.buf, begin, n, &s)
    finally:
        PyBuffer_Release(&to)

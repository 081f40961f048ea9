# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: freethreading_compatible=True
"""The C kernels: buffers and a dtype name in, one C call. No policy, no defaults.

Arrays come as C-contiguous, aligned buffers (bfloat16 as uint16); a buffer whose size does not fit
is refused, for nothing here may read or write past an end.
"""

from cpython.buffer cimport (
    PyBUF_C_CONTIGUOUS, PyBUF_FORMAT, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release,
    PyObject_GetBuffer,
)
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, strcmp


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


cdef int dtype_index(str name) except -1:
    encoded = name.encode()
    for i in range(<int>FD_DTYPES):
        if strcmp(fd_dtype_names[i], encoded) == 0:
            return i
    raise ValueError(f"no kernels for dtype {name!r}")


cdef class View:
    """The bytes of a buffer, held as long as this lives."""

    cdef Py_buffer of

    def __cinit__(self, thing, bint writable):
        PyObject_GetBuffer(thing, &self.of, PyBUF_SIMPLE | (PyBUF_WRITABLE * writable))

    def __dealloc__(self):
        PyBuffer_Release(&self.of)


cdef int item_bytes(fd_dtype d) noexcept:
    return 8 if d == FD_F64 else 4 if d == FD_F32 else 2


cdef int check_size(View y, View x, fd_dtype d, uint64_t size, uint64_t begin,
                    uint64_t n) except -1:
    if (<uint64_t>y.of.len != size * item_bytes(d) or y.of.len != x.of.len or begin > size
            or n > size - begin):
        raise ValueError("arrays and window differ in size")


cdef int run(fd_dtype dtype, const fd_window *w, bint affine, void *y, const void *x,
             uint64_t begin, uint64_t n, const fd_stream *s, const fd_values *v) except -1:
    cdef const fd_kernels *k = kernels
    if not affine and n < NOGIL_FROM:
        fd_window_plain(k, dtype, w, y, x, begin, n, s, v)
        return 0
    with nogil:
        (fd_window_affine if affine else fd_window_plain)(k, dtype, w, y, x, begin, n, s, v)


def apply(y, x, str dtype, tuple stream, tuple values, tuple window, uint64_t begin, uint64_t n):
    """Elements begin .. begin+n-1 of a window: y = keep ? x * scale : +0 (x None: 1), or with three
    values y = keep ? x * scale + shift : fill. ``stream`` is (seed, position, drop_threshold)."""
    cdef fd_window w
    cdef fd_stream s
    cdef fd_values v
    cdef uint64_t size
    cdef fd_dtype d = <fd_dtype>dtype_index(dtype)
    cdef bint affine = len(values) == 3, ones = x is None and not affine
    cdef View to = View(y, True), source = View(y if ones else x, False)
    s.seed, s.position, s.drop_threshold = stream
    v.scale, v.shift, v.fill = values if affine else (values[0], 0.0, 0.0)
    read_window(&w, window, &size)
    check_size(to, source, d, size, begin, n)
    run(d, &w, affine, to.of.buf, NULL if ones else source.of.buf, begin, n, &s, &v)


def noise(y, x, str dtype, tuple stream, double sd, bint additive, tuple window, uint64_t begin,
          uint64_t n):
    """Elements begin .. begin+n-1 of a window: y = x * (1 + sd * z), or x + sd * z. ``stream`` is
    (seed, position)."""
    cdef fd_window w
    cdef fd_stream s
    cdef uint64_t size
    cdef fd_dtype d = <fd_dtype>dtype_index(dtype)
    cdef const fd_kernels *k = kernels
    cdef View to = View(y, True), source = View(x, False)
    s.seed, s.position = stream
    s.drop_threshold = 0
    read_window(&w, window, &size)
    check_size(to, source, d, size, begin, n)
    with nogil:
        fd_window_noise(k, d, &w, to.of.buf, source.of.buf, begin, n, &s, sd, additive)


def fused(y, x, str dtype, tuple stream, double scale, residual, bias, uint64_t first,
          uint64_t begin, uint64_t n):
    """Elements begin .. begin+n-1 of whole arrays, of which element 0 has index `first`.

    y = residual + (keep ? (x + bias) * scale : +0), or where residual is None y = keep ? x * scale
    : +0, summed up in bias. Either bias has its period and FD_MAX_STEP elements more."""
    cdef fd_stream s
    cdef fd_fused f
    cdef fd_dtype d = <fd_dtype>dtype_index(dtype)
    cdef const fd_kernels *k = kernels
    cdef bint backward = residual is None
    cdef View to = View(y, True), source = View(x, False)
    cdef View rows = View(x if backward else residual, False), columns = View(bias, backward)
    cdef uint64_t size = source.of.len // item_bytes(d)
    s.seed, s.position, s.drop_threshold = stream
    check_size(to, source, d, size, begin, n)
    check_size(rows, source, d, size, begin, n)
    f.residual = NULL if backward else rows.of.buf
    f.bias, f.bias_grad = columns.of.buf, columns.of.buf if backward else NULL
    f.period = columns.of.len // (max(item_bytes(d), 4) if backward else item_bytes(d))
    if f.period < 2 * FD_MAX_STEP:
        raise ValueError("bias is too short")
    f.period -= FD_MAX_STEP
    f.column = 0
    with nogil:
        fd_range_fused(k, d, to.of.buf, source.of.buf, size, first, begin, n, &s, scale, &f)


cdef int array_dtype(const Py_buffer *a, bint bf16) noexcept:
    """Kernels' dtype of an aligned, native float array; FD_DTYPES of any other."""
    cdef int d
    cdef char kind
    if a.format == NULL or a.format[0] == 0 or a.format[1] != 0:
        return FD_DTYPES
    kind = a.format[0]
    if bf16:
        d = FD_BF16 if kind == b"H" else FD_DTYPES
    else:
        d = (FD_F32 if kind == b"f" else FD_F64 if kind == b"d" else FD_F16 if kind == b"e"
             else FD_DTYPES)
    return FD_DTYPES if <size_t>a.buf % <size_t>a.itemsize else d


def apply_small(y, x, bint bf16, stream, uint64_t drop_threshold, double scale, window,
                Py_ssize_t max_bytes):
    """Apply a window (None: the first y.size decisions) to x (None: to 1), all in one small call.

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
        PyObject_GetBuffer(y if x is None else x, &source, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT)
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
            run(<fd_dtype>d, &w, False, to.buf, NULL if x is None else source.buf, 0, size, &s, &v)
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
    cdef View to = View(out, True)
    cdef const fd_kernels *k = kernels
    s.seed, s.position, s.drop_threshold = stream
    read_window(&w, window, &size)
    if <uint64_t>to.of.len != (size + 7) // 8 or begin > size or n > size - begin:
        raise ValueError("buffer and window differ in size")
    with nogil:
        fd_window_bits(k, &w, <uint8_t *>to.of.buf, begin, n, &s)

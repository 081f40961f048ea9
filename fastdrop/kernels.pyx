# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The one door to the C kernels: which are in use, for which dtypes, and how a call is run.

A call is a `Job`. It is run at once where it is short, without the GIL where it is longer, and over
threads where it is large.
"""

from libc.string cimport memcpy

from fastdrop import parallel

cdef extern from "numpy/arrayobject.h":
    enum:
        NPY_USERDEF  # numbers from this one on are of other libraries

cnp.import_array()

STREAM = FD_STREAM_VERSION
TILE = FD_TILE
TAG_SPAWN = FD_TAG_SPAWN
DTYPES = ("float16", "bfloat16", "float32", "float64")  # NumPy's names, in the order of fd_dtype

# The kernels in use. Written by set_isa alone; a pointer, so that readers see the old or the new.
cdef const fd_kernels *in_use = fd_widest()

# Elements from which the GIL is given up. Beside a thread that is busy in Python, whoever gives it up
# waits for it for 5 ms, the interpreter's switch interval: 32 Ki elements took 5,170 us instead of 5.
# Held, others wait for as long as such a call takes, .03 to .1 ms. Beside an idle BLAS pool neither
# costs anything.
cdef enum:
    NOGIL_FROM = 1 << 18

# Bytes of output from which a call is split; below it two threads were slower (bench/README.md).
SPLIT_FROM_BYTES = 8 << 20
cdef double split_from_bytes = SPLIT_FROM_BYTES


def isas():
    """``[(name, built, usable), ...]``, widest first."""
    return [(fd_isa_names[i].decode(), fd_built(i) != NULL, fd_usable(i) != NULL)
            for i in range(FD_ISAS)]


def get_isa():
    """Name of the ISA whose kernels are in use."""
    return fd_isa_name(in_use).decode()


def set_isa(name):
    """Use the kernels of one ISA; False where it is unknown or not usable here."""
    global in_use
    for i in range(FD_ISAS):
        if fd_isa_names[i].decode() == name and fd_usable(i) != NULL:
            in_use = fd_usable(i)
            return True
    return False


def split_from(double n_bytes):
    """Split calls from so many bytes of output on; returns the former number. For tests."""
    global split_from_bytes
    before, split_from_bytes = split_from_bytes, n_bytes
    return before


def block(uint64_t seed, uint64_t position, unsigned tag, uint64_t number):
    """The four words of one Philox4x32-10 block of the stream."""
    cdef uint32_t out[4]
    fd_stream_block(out, seed, position, tag, number)
    return out[0], out[1], out[2], out[3]


# ---- dtypes --------------------------------------------------------------------------------------

cdef int bfloat16 = -1  # NumPy's number for the type of that name, once one was seen


cdef fd_dtype dtype_of(cnp.ndarray a) except <fd_dtype>-1:
    """The kernels' dtype of an array in either byte order; FD_DTYPES where they have none."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number == cnp.NPY_FLOAT32:
        return FD_F32
    if number == cnp.NPY_FLOAT64:
        return FD_F64
    if number == cnp.NPY_FLOAT16:
        return FD_F16
    if number == bfloat16 != -1:
        return FD_BF16
    return FD_DTYPES if 0 <= number < NPY_USERDEF else dtype_by_name(a.dtype)


cdef fd_dtype dtype_by_name(dtype) except <fd_dtype>-1:
    """The kernels' dtype of another library's type: bfloat16, which is known by its name."""
    global bfloat16
    if dtype.name != "bfloat16" or dtype.itemsize != 2:
        return FD_DTYPES
    bfloat16 = dtype.num
    return FD_BF16


cdef size_t item_bytes(fd_dtype dtype) noexcept nogil:
    """Bytes of an element."""
    return fd_dtype_bytes[<int>dtype]


# ---- calls ---------------------------------------------------------------------------------------

cdef void plain(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = keep ? x * scale : +0; where x is NULL each of its elements is 1."""
    fd_window_plain(job.isa, job.dtype, &job.window, job.y, job.x, begin, n, &job.stream,
                    &job.values)


cdef void affine(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = keep ? x * scale + shift : fill"""
    fd_window_affine(job.isa, job.dtype, &job.window, job.y, job.x, begin, n, &job.stream,
                     &job.values)


cdef void noise(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = x * (1 + sd * z), or x + sd * z where it is additive."""
    fd_window_noise(job.isa, job.dtype, &job.window, job.y, job.x, begin, n, &job.stream, job.sd,
                    job.additive)


cdef void bits(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """Keep bits into the same bits of y."""
    fd_window_bits(job.isa, &job.window, <uint8_t *>job.y, begin, n, &job.stream)


cdef void fused(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = residual + (keep ? (x + bias) * scale : +0), or y as plain, added up in bias_grad."""
    fd_range_fused(job.isa, job.dtype, job.y, job.x, job.size, job.first, begin, n, &job.stream,
                   job.values.scale, &job.fused)


cdef void copy(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = x"""
    cdef size_t item = item_bytes(job.dtype)
    if job.x != job.y:
        memcpy(<char *>job.y + begin * item, <const char *>job.x + begin * item, n * item)


cdef void set_window(Job *job, int ndim, const uint64_t *sizes, const uint64_t *steps,
                     uint64_t first) noexcept nogil:
    """Set which indices of the stream the elements have."""
    fd_window_init(&job.window, ndim, sizes, steps, first)


cdef class Split:
    """A job that several threads do ranges of."""

    cdef Job job

    def __call__(self, uint64_t begin, uint64_t n):
        if self.job.kernel == NULL:  # not of run's making
            raise TypeError("a Split is made by kernels.run alone")
        with nogil:
            self.job.kernel(&self.job, begin, n)


cdef int run(Job *job, uint64_t unit=FD_TILE) except -1:
    """Do a job, in ranges of multiples of the unit. Its memory must stay where it is meanwhile."""
    cdef double item = 0.125 if job.kernel == bits else item_bytes(job.dtype)
    cdef Split split
    job.isa = in_use
    if job.size * item >= split_from_bytes:
        split = Split.__new__(Split)
        split.job = job[0]
        parallel.run(split, job.size, item, unit)
    elif job.size >= NOGIL_FROM:
        with nogil:
            job.kernel(job, 0, job.size)
    elif job.size:
        job.kernel(job, 0, job.size)
    return 0

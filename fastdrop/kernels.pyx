# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The one door to the C kernels: which are in use, for which dtypes, and how a call is run.

A call is a `Job`. It is run at once where it is short, without the GIL where it is longer, and over
threads where it is large.
"""

from libc.math cimport floor, sqrt
from libc.string cimport memcpy

import signal
import threading

from fastdrop import threads

cdef extern from "pool.h" nogil:
    ctypedef void fd_work(const void *context, uint64_t begin, uint64_t n) noexcept nogil
    void fd_pool_serve()
    bint fd_pool_run(fd_work *work, const void *context, uint64_t n, uint64_t unit,
                     uint64_t smallest, int workers)
    bint fd_pool_hire(int enough)
    void fd_pool_fire()

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

# Signals that a thread's own fault raises.
FAULTS = {getattr(signal, name, None) for name in ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")}

# Elements from which the GIL is given up. Beside a thread that is busy in Python, whoever gives it up
# waits for it for 5 ms, the interpreter's switch interval: 32 Ki elements took 5,170 us instead of 5.
# Held, others wait for as long as such a call takes, .03 to .1 ms. Beside an idle BLAS pool neither
# costs anything.
cdef enum:
    NOGIL_FROM = 1 << 18

# Bytes of output that are worth waking a thread. A call of n bytes gets sqrt(n / GRAIN) threads, for k
# of them cost k wake-ups and save n (1 - 1/k); but none where they do not save 12 grains, which is what a
# call costs that finds its workers asleep and the caches cold (bench/README.md). No claim is for less
# than a grain, but for the last of a thread's share.
GRAIN = 64 << 10
cdef double grain_bytes = GRAIN


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


def set_grain(double n_bytes):
    """Set the bytes of output of the smallest claim; returns the former number. For tests."""
    global grain_bytes
    before, grain_bytes = grain_bytes, n_bytes
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
    fd_window_bits(job.isa, &job.window, <uint8_t *>job.y, begin, begin, n, &job.stream)


cdef void fused(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """What job.fused says: dropout together with its neighbours."""
    fd_range_fused(job.isa, job.x_dtype, job.dtype, job.y, job.x, job.size, job.first, begin, n,
                   &job.stream, job.values.scale, &job.fused)


cdef void softmax(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """Dropout of the rows' softmax, or where something is beside x, of whose gradient by x."""
    fd_window_softmax(job.isa, job.dtype, &job.window, job.y, job.x, job.fused.beside, job.run, begin,
                      n, &job.stream, job.values.scale)


cdef void by_elements(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = keep ? x * scale : +0, each element with its own rate."""
    fd_window_rates(job.isa, job.dtype, &job.window, job.y, job.x, begin, n, &job.stream, &job.rates)


cdef void bits_by_elements(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """The keep bits of that."""
    fd_window_rates_bits(job.isa, &job.window, <uint8_t *>job.y, begin, n, &job.stream, &job.rates)


cdef void each_run(const Job *job, uint64_t begin, uint64_t n, Kernel kernel) noexcept nogil:
    """Do a range by a kernel of one rate, each run of so many elements at its own."""
    cdef Job part = job[0]
    cdef uint64_t number, here
    cdef double p
    while n:
        number = begin // job.run
        here = min(n, (number + 1) * job.run - begin)
        p = job.rates.p[number]
        part.stream.drop_threshold = fd_drop_threshold(p)
        part.values.scale = fd_scale(p) if job.rates.scales == NULL else job.rates.scales[number]
        kernel(&part, begin, here)
        begin += here
        n -= here


cdef void by_runs(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """As plain, at many rates."""
    each_run(job, begin, n, plain)


cdef void bits_by_runs(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """The keep bits of that."""
    each_run(job, begin, n, bits)


cdef void uniforms(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """The numbers that decide, in units of 2**-40, into y, which holds uint64."""
    fd_window_uniforms(job.isa, &job.window, <uint64_t *>job.y + begin, begin, n, &job.stream)


cdef void copy(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """y = x"""
    cdef size_t item = item_bytes(job.dtype)
    if job.x != job.y:
        memcpy(<char *>job.y + begin * item, <const char *>job.x + begin * item, n * item)


cdef void set_window(Job *job, int ndim, const uint64_t *sizes, const uint64_t *steps,
                     uint64_t first) noexcept nogil:
    """Set which indices of the stream the elements have."""
    fd_window_init(&job.window, ndim, sizes, steps, first)


cdef void do_range(const void *job, uint64_t begin, uint64_t n) noexcept nogil:
    (<const Job *>job).kernel(<const Job *>job, begin, n)


def serve():
    """What a worker does, for ever."""
    # signals are for threads that run Python: CPython overlooks one that came to another until it next
    # switches threads
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals() - FAULTS)
    with nogil:
        fd_pool_serve()


cdef int start_workers(int n) except -1:
    """Start workers until there are n, or no thread can be had."""
    while fd_pool_hire(n):
        try:
            threading.Thread(target=serve, name="fastdrop", daemon=True).start()
        except BaseException as error:
            fd_pool_fire()
            # no memory, no thread left, or the interpreter is shutting down
            if isinstance(error, (MemoryError, RuntimeError)):
                return 0
            raise
    return 0


cdef double bytes_of_work(const Job *job) noexcept nogil:
    """Bytes that an element counts as: those of output, but for their work bits are few, and a softmax."""
    if job.kernel in (bits, bits_by_runs, bits_by_elements):
        return 1.0
    if job.kernel == softmax:
        return 4.0 * item_bytes(job.dtype)
    return item_bytes(job.dtype)


cdef int threads_for(double n_bytes) except -1:
    """How many threads a call is worth."""
    cdef double grains = n_bytes / grain_bytes, n
    if grains < 16:
        return 1
    n = min(<double>threads.get_num_threads(), floor(sqrt(grains)))
    return <int>n if grains * (1 - 1 / n) >= 12 else 1


cdef int run(Job *job, uint64_t unit=FD_TILE) except -1:
    """Do a job, in ranges of multiples of the unit. Its memory must stay where it is meanwhile."""
    cdef int n_threads = threads_for(job.size * bytes_of_work(job))
    job.isa = in_use
    if n_threads > 1:
        start_workers(n_threads - 1)
    if job.size >= NOGIL_FROM:
        with nogil:
            do_all(job, unit, n_threads)
    elif job.size:
        do_all(job, unit, n_threads)
    return 0


cdef void do_all(const Job *job, uint64_t unit, int n_threads) noexcept nogil:
    """Do a job in so many threads."""
    cdef uint64_t units
    if n_threads > 1:
        units = max(<uint64_t>(grain_bytes / (unit * bytes_of_work(job))), 1)
        if fd_pool_run(do_range, job, job.size, unit, units * unit, n_threads - 1):
            return
    job.kernel(job, 0, job.size)

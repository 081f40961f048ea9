"""What masks and noise have in common, for the other compiled modules."""

cimport numpy as cnp
from libc.stdint cimport uint64_t

from fastdrop.kernels cimport Job

cdef enum:
    ROOM = 4  # axes for which a recipe has room in itself


cdef class Recipe:
    cdef uint64_t seed_
    cdef uint64_t position_
    cdef uint64_t first  # index of element 0 in the stream
    cdef int ndim
    cdef uint64_t *sizes  # of the array, by axis
    cdef uint64_t *steps  # of the index along each axis; 0: shared
    cdef uint64_t room[2 * ROOM]
    cdef bint made  # whether all of it is set

    cdef int refuse_change(self) except -1
    cdef int set_ndim(self, int ndim) except -1
    cdef int set_axes(self, int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *noise) except -1
    cdef int set_shape(self, shape, noise_shape) except -1
    cdef int set_window(self, first, tuple shape, tuple steps) except -1
    cdef tuple fields(self)
    cdef tuple strides(self)
    cdef list keys(self, key)
    cdef object times(self, x)
    cdef str remedy(self)
    cdef int prepare(self, Job *job, bint derivative) except -1
    cdef bint fits(self, cnp.ndarray x) noexcept
    cdef int check_still_fits(self, cnp.ndarray x) except -1
    cdef int run_on(self, cnp.ndarray y, cnp.ndarray x, bint derivative) except -1
    cdef object apply_to(self, x, out, str name, bint derivative)


cdef object refuse(left, right, str operator)
cdef object as_int(value, str name, largest=*)
cdef int check_stream(d, str what) except -1
cdef tuple as_shape(shape)
cdef tuple read_window(d, tuple names, str what)
cdef tuple as_noise_shape(noise_shape)
cdef int read_noise_shape(noise_shape, int ndim, const cnp.npy_intp *shape,
                          cnp.npy_intp *noise) except -1
cdef tuple as_tuple(int ndim, const cnp.npy_intp *shape)

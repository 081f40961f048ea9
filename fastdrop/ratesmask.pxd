"""The mask with an array of rates, for the other compiled modules."""

cimport numpy as cnp

from fastdrop.kernels cimport Job
from fastdrop.mask cimport Decisions


cdef class RatesMask(Decisions):
    # of float64; axes of size 1 are as for broadcasting
    cdef cnp.ndarray rates
    cdef cnp.ndarray scales  # None: 1/(1-p)

    cdef int set_rates(self, cnp.ndarray rates, scales) except -1
    cdef bint same_along(self, int axis)
    cdef int walk(self, Job *job, bint to_bits) except -1


cdef bint is_array(p) except -1
cdef cnp.ndarray check_rates(p)
cdef RatesMask with_rates(int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *noise,
                          cnp.ndarray rates, scales)

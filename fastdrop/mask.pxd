"""The mask, for the other compiled modules."""

cimport numpy as cnp
from libc.stdint cimport uint64_t

from fastdrop.kernels cimport Job
from fastdrop.recipe cimport Recipe


cdef class Decisions(Recipe):
    cdef int pack(self, Job *job) except -1
    cdef void aim(self, Job *job, cnp.ndarray y, uint64_t n) noexcept


cdef class Mask(Decisions):
    cdef double p_
    cdef double scale_
    cdef double shift_
    cdef double fill_
    cdef uint64_t drop_threshold

    cdef void set_rate(self, double p, uint64_t threshold, double scale, double shift,
                       double fill) noexcept


cdef Mask identity(int ndim, const cnp.npy_intp *shape, double scale)

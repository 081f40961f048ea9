"""The mask, for the other compiled modules."""

cimport numpy as cnp
from libc.stdint cimport uint64_t

from fastdrop.recipe cimport Recipe


cdef class Mask(Recipe):
    cdef double p_
    cdef double scale_
    cdef double shift_
    cdef double fill_
    cdef uint64_t drop_threshold

    cdef void set_rate(self, double p, uint64_t threshold, double scale, double shift,
                       double fill) noexcept


cdef Mask identity(int ndim, const cnp.npy_intp *shape, double scale)

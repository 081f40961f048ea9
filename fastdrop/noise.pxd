"""Gaussian noise, for the other compiled modules."""

from fastdrop.recipe cimport Recipe


cdef class Noise(Recipe):
    cdef double sd_
    cdef bint additive_


cpdef double check_sd(sd, str name) except -1.0

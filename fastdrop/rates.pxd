"""Rates of dropping, for the other compiled modules."""

from libc.stdint cimport uint64_t

cpdef double check_p(p, str name=*) except -1.0
cpdef uint64_t drop_threshold(double p) noexcept
cpdef double scale_of(double p) noexcept
cpdef tuple alpha_values(double p)

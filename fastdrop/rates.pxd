"""Rates of dropping, for the other compiled modules."""

from libc.stdint cimport uint64_t

cpdef object number_in(value)
cpdef double as_real(value, str name, str where=*) except? -1.0
cpdef bint as_bool(value, str name) except -1
cpdef double check_p(p, str name=*) except -1.0
cpdef object as_axis(axis, str name)
cpdef bint check_mode(mode) except -1
cpdef uint64_t drop_threshold(double p) noexcept
cpdef double scale_of(double p) noexcept
cpdef tuple alpha_values(double p)

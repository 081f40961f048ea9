"""Where masks come from, for the other compiled modules."""

from libc.stdint cimport uint64_t

from fastdrop.recipe cimport Recipe


cdef class Generator:
    cdef uint64_t seed_
    cdef uint64_t position_  # of the next mask
    cdef bint exhausted  # whether position_ would be 2**64
    cdef bint seeded  # whether __init__ was called
    cdef object __weakref__

    cdef int set_state(self, seed, position) except -1
    cdef int take(self, uint64_t *seed, uint64_t *position) except -1


cpdef object as_source(rng)
cdef int take_from(source, Recipe recipe) except -1

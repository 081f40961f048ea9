"""What is done to an array, for the other compiled modules."""

cimport numpy as cnp
from fastdrop.recipe cimport Recipe


cdef class Rule:
    cdef readonly double rate

    cdef Recipe recipe_for(self, int ndim, const cnp.npy_intp *shape, bint training)
    cdef bint passes_on(self) noexcept
    cdef object given_rate(self)
    cdef Recipe recipe_of(self, cnp.ndarray array, bint training)
    cdef object apply(self, x, cnp.ndarray array, bint training, source, out, Recipe recipe)
    cpdef object drop(self, x, training, rng, out, bint return_mask, str name=*)


cpdef Rule elements(p, noise_shape, mode)
cpdef Rule rates(p, noise_shape, mode)
cpdef Rule channels(int spatial, p, data_format)
cpdef Rule alpha(p, noise_shape)
cpdef Rule alpha_features(p)
cpdef Rule examples(p, scale_by_keep)
cpdef Rule locked(p, time_axis)
cpdef Rule rows(p)
cpdef Rule gaussian(p)
cpdef Rule additive(stddev)

"""Arrays as the kernels take them, for the other compiled modules."""

cimport numpy as cnp

cpdef cnp.ndarray as_input(x, str name)
cdef cnp.ndarray as_plain(cnp.ndarray a)
cdef cnp.ndarray new_like(cnp.ndarray a)
cdef cnp.ndarray target_for(cnp.ndarray x, out, dtype=*)
cdef cnp.ndarray apart(cnp.ndarray x, cnp.ndarray y)
cdef object finish(cnp.ndarray y, out)
cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept

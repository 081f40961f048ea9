# cython: cpow=True
"""Rates of dropping: what is a probability, and the numbers that follow from it."""

import math
import numbers

import numpy as np

# -scale * alpha of SELU (Klambauer et al. 2017): what it tends to for very negative inputs
cdef double SELU_SATURATION = -1.7580993408473766


cdef double as_double(p) except? -1.0:
    """Return a number as a double; infinity in place of a huge integer."""
    try:
        return p
    except OverflowError:
        return math.inf


cpdef double check_p(p, str name="p") except -1.0:
    """Return a probability as a float, or say what is wrong with it."""
    cdef double value
    if isinstance(p, float) or type(p) is int:  # and so numpy.float64
        value = as_double(p)
    elif isinstance(p, (bool, np.bool_)) or not isinstance(p, numbers.Real):
        raise TypeError(
            f"{name} must be a real number in [0, 1], not {type(p).__name__}: {name}={p!r}"
        )
    else:
        value = as_double(p)
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={p!r} is not a probability: it must be in [0, 1]")
    return value


cpdef uint64_t drop_threshold(double p) noexcept:
    """Return ``round_half_even(p * 2**40)``, whatever the rounding mode; the product is exact."""
    cdef double product = p * 1099511627776.0
    cdef uint64_t whole = <uint64_t>product
    cdef double rest = product - <double>whole
    cdef bint up = rest > 0.5 or (rest == 0.5 and (whole & 1) != 0)
    return whole + <uint64_t>up


cpdef double scale_of(double p) noexcept:
    """Return ``1 / (1-p)``; 0 where no element is kept and none is ever scaled."""
    return 1.0 / (1.0 - p) if drop_threshold(p) < <uint64_t>1 << 40 else 0.0


cpdef tuple alpha_values(double p):
    """Return scale, shift and fill that keep mean 0 and variance 1; zeros where nothing is kept."""
    cdef double q = 1.0 - p, a, b
    if q == 0.0:
        return 0.0, 0.0, 0.0
    a = (q + SELU_SATURATION * SELU_SATURATION * q * p) ** -0.5
    b = -a * p * SELU_SATURATION
    return a, b, a * SELU_SATURATION + b

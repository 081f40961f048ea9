# cython: cpow=True
"""Rates of dropping: what is a probability, and the numbers that follow from it."""

import math
import numbers

import numpy as np

from cpython.number cimport PyNumber_Index

cdef extern from "fd_stream.h" nogil:
    uint64_t fd_drop_threshold(double p)
    double fd_scale(double p)

MODES = ("upscale_in_train", "downscale_in_infer")
cdef str UPSCALE = MODES[0], DOWNSCALE = MODES[1]

# -scale * alpha of SELU (Klambauer et al. 2017): what it tends to for very negative inputs
cdef double SELU_SATURATION = -1.7580993408473766


cpdef object number_in(value):
    """Return what a 0-d array holds, which is what np.load gives back of a number; else the value."""
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


cpdef double as_real(value, str name, str where="") except? -1.0:
    """Return a real number as a double, infinity in place of a huge integer; or say what is wrong.

    What checkpoints give back is taken too: NumPy's scalars and 0-d arrays.
    """
    cdef object number = value
    if not isinstance(value, float) and type(value) is not int:  # numpy.float64 is a float
        number = number_in(value)
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, numbers.Real):
            raise TypeError(
                f"{name} must be a real number{where}, not {type(value).__name__}: {name}={value!r}"
            )
    try:
        return number
    except OverflowError:
        return math.inf


cpdef bint as_bool(value, str name) except -1:
    """Return a bool, or 0 or 1, as one; anything else is a mistake, were it true or not."""
    if value is True or value is False:
        return value is True
    number = number_in(value)
    if not isinstance(number, (int, np.bool_, np.integer)) or number not in (0, 1):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return bool(number)


cpdef double check_p(p, str name="p") except -1.0:
    """Return a probability as a float, or say what is wrong with it."""
    # what is a float is one at once: inside a training step each line of code counts
    cdef double value = p if type(p) is float else as_real(p, name, " in [0, 1]")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={p!r} is not a probability: it must be in [0, 1]")
    return value


cpdef object as_axis(axis, str name):
    """Return the number of an axis as an int, or say that it is none."""
    if isinstance(axis, (bool, np.bool_)):
        raise TypeError(f"{name} must be an int, not {axis!r}")
    try:
        return PyNumber_Index(axis)
    except TypeError:
        raise TypeError(f"{name} must be an int, not {axis!r}") from None


cpdef bint check_mode(mode) except -1:
    """Return whether kept elements are scaled in training, or say that the mode is unknown."""
    if mode is UPSCALE or mode is DOWNSCALE:  # literals of the same name are one object
        return mode is UPSCALE
    if isinstance(mode, str) and mode in MODES:
        return mode == UPSCALE
    raise ValueError(f"mode={mode!r} is unknown; it must be one of {', '.join(MODES)}")


cpdef uint64_t drop_threshold(double p) noexcept:
    """Return ``round_half_even(p * 2**40)``, whatever the rounding mode."""
    return fd_drop_threshold(p)


cpdef double scale_of(double p) noexcept:
    """Return ``1 / (1-p)``; 0 where no element is kept and none is ever scaled."""
    return fd_scale(p)


cpdef tuple alpha_values(double p):
    """Return scale, shift and fill that keep mean 0 and variance 1; zeros where nothing is kept."""
    cdef double q = 1.0 - p, a, b
    if q == 0.0:
        return 0.0, 0.0, 0.0
    a = (q + SELU_SATURATION * SELU_SATURATION * q * p) ** -0.5
    b = -a * p * SELU_SATURATION
    return a, b, a * SELU_SATURATION + b

"""Gaussian noise as a recipe, and its application to arrays."""

import numpy as np

cimport numpy as cnp

from fastdrop.kernels cimport Job, copy, noise
from fastdrop.rates cimport as_bool, as_real
from fastdrop.recipe cimport as_int, read_window, refuse

cnp.import_array()

cdef double LARGEST_SD = np.finfo(np.float32).max  # in which all but float64 are worked out


cdef class Noise(Recipe):
    """Noise(seed, position, shape, sd=1.0, *, additive=False)
--

    Gaussian noise: not the numbers, but the recipe that they are regenerated from.

    Returned by `gaussian_dropout` and `gaussian_noise`; immutable; pickles like a `Mask`, and is
    indexed like one for the noise of a shard or a chunk.

    Parameters
    ----------
    seed : int
        The generator's seed, in ``[0, 2**64)``.
    position : int
        Which of the seed's positions, in ``[0, 2**64)``.
    shape : int or sequence of int
        Shape of the arrays that it applies to; at most ``2**58`` elements.
    sd : float, optional
        Standard deviation of the noise, from 0 to the largest float32. It is rounded to float32
        for arrays of any dtype but float64.
    additive : bool, optional
        Whether it is added, ``x + sd*z``; by default it multiplies, ``x * (1 + sd*z)``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong kind or out of range.

    Notes
    -----
    ``z`` is standard normal: the inverse of the distribution function [1]_ at one of ``2**32``
    equally likely points symmetric about its centre, so that ``|z|`` is between 2.9e-10 and 6.34.
    It is a float32, right to 5e-7 of itself, tails included, and the same number in each dtype:
    **float64 noise has no finer resolution**. They are made 64 at a time: the noise of a window
    whose rows are much shorter than that costs accordingly.

    **Compatibility guarantee.** As for `Generator`: element ``i``'s number is a function of seed,
    position and ``i`` alone, the same bits on every processor and in every release, made by IEEE
    additions, multiplications and divisions of float32 only.

    References
    ----------
    .. [1] M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
       Applied Statistics 37 (1988) 477-484: the way the line is parted; the approximations are our
       own.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y, noise = fd.gaussian_noise(np.zeros(3), 1.0, rng=0, return_mask=True)
    >>> noise
    Noise(seed=0, position=0, shape=(3,), sd=1.0, additive=True)
    >>> bool((noise.normals() == y).all())
    True
    >>> bool((noise[1:].normals() == y[1:]).all())
    True
    """

    _kind = "noise"
    _as_array = "normals"
    _fields = ("seed", "position", "sd", "additive", "first", "shape", "strides")

    def __init__(self, seed, position, shape, sd=1.0, *, additive=False):
        self.refuse_change()
        self.set_shape(shape, None)
        self.sd_ = check_sd(sd, "sd")
        self.seed_, self.position_ = as_int(seed, "seed"), as_int(position, "position")
        self.additive_, self.made = as_bool(additive, "additive"), True

    @classmethod
    def _of(cls, fields, first, shape, strides):
        """Return a noise of fields that were checked."""
        cdef Noise made = Noise.__new__(cls)
        made.seed_, made.position_, made.sd_, made.additive_ = fields
        made.set_window(first, shape, strides)
        return made

    cdef tuple fields(self):
        return (
            self.seed_, self.position_, self.sd_, bool(self.additive_),
            self.first, self.shape, self.strides(),
        )

    @property
    def sd(self):
        """Standard deviation of the noise."""
        return self.sd_

    @property
    def additive(self):
        """Whether the noise is added; else it multiplies."""
        return bool(self.additive_)

    cdef object times(self, x):
        if self.additive_:
            refuse(self, x, "*")
        return self.apply_to(x, None, "x", True)

    cdef str remedy(self):
        return (
            "noise.apply(x) applies it and noise.backward(grad) is its gradient, as x * noise is where "
            "it multiplies; noise.normals() are its numbers"
        )

    cdef int prepare(self, Job *job, bint derivative) except -1:
        job.sd = 0.0 if derivative and self.additive_ else self.sd_
        job.additive = self.additive_
        job.kernel = copy if job.sd == 0.0 else noise
        return 0

    def apply(self, x, out=None):
        """Return ``x * (1 + sd*z)``, or ``x + sd*z`` where the noise is additive.

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32 or float64, of the noise's shape.
        out : ndarray, optional
            Where to put the result: exact shape and dtype; ``x`` itself works in place.

        Returns
        -------
        ndarray
            ``out``, or a new C-contiguous array.

        Raises
        ------
        TypeError, ValueError
            As `dropout`; ValueError also where the shapes differ. Nothing is written then.
        """
        return self.apply_to(x, out, "x", False)

    def backward(self, grad, out=None):
        """Gradient of `apply`: the same factors, regenerated; of additive noise ``grad``, copied.

        Parameters
        ----------
        grad : array_like
            Gradient by the output, of the noise's shape; its dtype need not be that of ``x``.
        out : ndarray, optional
            As in `apply`.

        Returns
        -------
        ndarray
            Gradient by the input.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self.apply_to(grad, out, "grad", True)

    def normals(self):
        """Return the standard normal numbers ``z`` themselves, of the noise's shape.

        Returns
        -------
        ndarray of float32
        """
        fields = self.fields()
        standard = Noise._of((fields[0], fields[1], 1.0, True), *fields[-3:])
        z = np.zeros(self.shape, np.float32)
        return standard.apply(z, z)

    @classmethod
    def from_dict(cls, d):
        """Return the noise that `to_dict` saved.

        Parameters
        ----------
        d : dict
            What `to_dict` returned.

        Returns
        -------
        Noise

        Raises
        ------
        TypeError, ValueError
            If ``d`` is not such a dict, or is of an unknown stream.
        """
        first, shape, strides = read_window(d, cls._fields, "noise")
        for n, step in zip(shape, strides, strict=True):
            if n > 1 and step == 0:
                raise ValueError(
                    f"strides {strides} share numbers: a noise has one for each element"
                )
        additive = as_bool(d["additive"], "additive")
        cdef Noise checked = Noise(d["seed"], d["position"], 0, d["sd"], additive=additive)
        return cls._of(checked.fields()[:-3], first, shape, strides)

    def __repr__(self):
        text = f"Noise(seed={self.seed}, position={self.position}, shape={self.shape}, sd={self.sd}"
        if self.additive:
            text += ", additive=True"
        if self.first:
            text += f", first={self.first}"
        return text + ")"


cpdef double check_sd(sd, str name) except -1.0:
    """Return a standard deviation as a float, or say what is wrong with it."""
    cdef double value = as_real(sd, name)
    if not 0.0 <= value <= LARGEST_SD:
        raise ValueError(f"{name}={sd!r} must be from 0 to {LARGEST_SD:.3g}")
    return value

"""The mask as a recipe, and its application to arrays."""

import math

import numpy as np

from libc.math cimport isfinite

from fastdrop.kernels cimport (
    FD_F64, Job, affine, bits, plain, run, set_window, uniforms,
)
from fastdrop.kernels import DTYPES
from fastdrop.rates cimport as_real, check_p, drop_threshold, scale_of
from fastdrop.recipe cimport as_int, read_window

cnp.import_array()


cdef class Decisions(Recipe):
    """What all masks do: those with one rate, `Mask`, and those with an array of rates."""

    _kind = "mask"
    _as_array = "keep"

    @property
    def noise_shape(self):
        """Shape of the decisions; 1 along shared axes."""
        return tuple([
            self.sizes[axis] if self.steps[axis] else min(self.sizes[axis], 1)
            for axis in range(self.ndim)
        ])

    cdef str remedy(self):
        return (
            "mask.backward(x), or x * mask, scales and drops; mask.multiplier() is what it multiplies by "
            "and mask.keep() its decisions, as arrays"
        )

    def apply(self, x, out=None):
        """Scale (and shift) kept elements and set dropped ones to +0.0 (or to the fill).

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32 or float64, of the mask's shape.
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

        Examples
        --------
        >>> import numpy as np, fastdrop as fd
        >>> fd.Generator(0).mask(8, 0.5).apply(np.arange(8.0))
        array([ 0.,  0.,  4.,  0.,  8.,  0., 12., 14.])
        """
        return self.apply_to(x, out, "x", False)

    def backward(self, grad, out=None):
        """Gradient of `apply`: scale or +0.0, by the same decisions, regenerated.

        Parameters
        ----------
        grad : array_like
            Gradient by the output, of the mask's shape; its dtype need not be that of ``x``.
        out : ndarray, optional
            As in `apply`.

        Returns
        -------
        ndarray
            Gradient by the input; +0.0 where the element was dropped, even where ``grad`` is NaN.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self.apply_to(grad, out, "grad", True)

    def multiplier(self, dtype=np.float32):
        """Return what `backward` multiplies by, as an array: for libraries that want one.

        Parameters
        ----------
        dtype : dtype, optional
            float16, bfloat16, float32 or float64.

        Returns
        -------
        ndarray
            Of the mask's shape and of dtype: the scale where kept, +0.0 where dropped.

        Raises
        ------
        TypeError
            If dtype is another one.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask((2, 4), 0.5).multiplier()
        array([[2., 0., 2., 0.],
               [2., 0., 2., 2.]], dtype=float32)
        """
        kind = dtype
        if dtype is not np.float32:  # the usual one is not looked up
            kind = np.dtype(dtype).newbyteorder("=")
            if kind.name not in DTYPES:
                raise TypeError(f"dtype={kind} is none of float16, bfloat16, float32 and float64")
        cdef cnp.ndarray y = np.empty(self.shape, kind)
        self.run_on(y, None, True)
        return y

    def keep(self):
        """Return the decisions as a bool array of the mask's shape, True where kept.

        Returns
        -------
        ndarray of bool
        """
        shape = self.shape
        keep = np.unpackbits(self.packbits(), count=math.prod(shape), bitorder="little")
        return keep.view(np.bool_).reshape(shape)

    def packbits(self):
        """Return the decisions as bits, 1 where kept, in C order of the mask's shape.

        Returns
        -------
        ndarray of uint8, shape (ceil(n / 8),)
            Little bit order: element ``8k + j`` is bit ``j`` of byte ``k``. Unused bits are 0.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask(8, 0.5).packbits()
        array([213], dtype=uint8)
        """
        n = math.prod(self.shape)
        cdef cnp.ndarray packed = np.zeros((n + 7) // 8, np.uint8)
        cdef Job job
        self.aim(&job, packed, n)
        self.pack(&job)
        return packed

    cdef int pack(self, Job *job) except -1:
        """Write the decisions as bits."""
        self.prepare(job, True)
        job.kernel = bits
        return run(job)

    cdef void aim(self, Job *job, cnp.ndarray y, uint64_t n) noexcept:
        """Say where n results go, and which elements of the stream they are."""
        job.y, job.size = cnp.PyArray_DATA(y), n
        job.stream.seed, job.stream.position = self.seed_, self.position_
        set_window(job, self.ndim, self.sizes, self.steps, self.first)

    def uniform(self):
        """Return the uniform numbers that decide: an element is dropped iff its own is below p.

        Returns
        -------
        ndarray of float64
            Of the mask's shape; multiples of ``2**-40`` in ``[0, 1)``, which do not depend on p
            (rounded to such a multiple when they are compared).

        Notes
        -----
        For gates that are a function of the same numbers, such as `concrete_dropout`'s.

        Examples
        --------
        >>> import fastdrop as fd
        >>> mask = fd.Generator(0).mask(4, 0.5)
        >>> u = mask.uniform()
        >>> bool(((u >= 0.5) == mask.keep()).all())
        True
        """
        shape = self.shape
        n = math.prod(shape)
        cdef cnp.ndarray numbers = np.empty(n, np.uint64)
        cdef Job job
        self.aim(&job, numbers, n)
        job.kernel, job.dtype, job.stream.drop_threshold = uniforms, FD_F64, 0
        run(&job)
        return (numbers * 2.0**-40).reshape(shape)

    def __array__(self, dtype=None, copy=None):
        if copy is False:
            raise ValueError("a Mask holds no array: it cannot be read without making one")
        keep = self.keep()
        return keep if dtype is None else keep.astype(dtype, copy=False)


cdef class Mask(Decisions):
    """Mask(seed, position, shape, p=0.5, *, noise_shape=None, scale=None, shift=0.0, fill=0.0)
--

    A dropout mask: not the decisions, but the recipe that they are regenerated from.

    Made by `Generator.mask` or returned by `dropout`; immutable; pickles to less than 300 bytes for
    arrays of up to four axes, whatever their size.

    Parameters
    ----------
    seed : int
        The generator's seed, in ``[0, 2**64)``.
    position : int
        Which of the seed's masks, in ``[0, 2**64)``.
    shape : int or sequence of int
        Shape of the arrays that it applies to.
    p : float, optional
        Probability of dropping, in ``[0, 1]``.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions: each axis 1 (one decision shared along it) or the size of `shape`'s
        (None means that). At most ``2**58`` decisions.
    scale : float, optional
        What kept elements are multiplied by; ``1/(1-p)`` unless given.
    shift : float, optional
        What is then added to kept elements.
    fill : float, optional
        What dropped elements become.

    Raises
    ------
    TypeError, ValueError
        As `dropout` for ``p`` and ``noise_shape``.

    Notes
    -----
    Element ``i``, in C order of the noise shape, is dropped iff its 40-bit uniform number is less
    than ``round(p * 2**40)``. The number does not depend on ``p``: raising it only drops more.

    **Compatibility guarantee.** As for `Generator`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.ones((2, 4), np.float32)
    >>> y, mask = fd.dropout(x, 0.5, rng=0, return_mask=True)
    >>> mask
    Mask(seed=0, position=0, shape=(2, 4), p=0.5)
    >>> bool((mask.backward(x) == y).all())
    True
    >>> mask[:, 2:].keep()
    array([[ True, False],
           [ True,  True]])
    """

    _fields = ("seed", "position", "p", "scale", "shift", "fill", "first", "shape", "strides")

    def __init__(
        self, seed, position, shape, p=0.5, *, noise_shape=None, scale=None, shift=0.0, fill=0.0
    ):
        self.refuse_change()
        cdef double rate = check_p(p)
        cdef double kept = scale_of(rate) if scale is None else as_real(scale, "scale")
        cdef double plus = as_real(shift, "shift"), dropped = as_real(fill, "fill")
        if not (isfinite(kept) and isfinite(plus) and isfinite(dropped)):
            raise ValueError(f"scale={kept}, shift={plus} and fill={dropped} must be finite")
        self.set_shape(shape, noise_shape)
        self.seed_, self.position_ = as_int(seed, "seed"), as_int(position, "position")
        self.set_rate(rate, drop_threshold(rate), kept, plus, dropped)
        self.made = True

    cdef void set_rate(self, double p, uint64_t threshold, double scale, double shift,
                       double fill) noexcept:
        self.p_, self.drop_threshold = p, threshold
        self.scale_, self.shift_, self.fill_ = scale, shift, fill

    @classmethod
    def _of(cls, fields, first, shape, strides):
        """Return a mask of fields that were checked."""
        cdef Mask mask = Mask.__new__(cls)
        mask.seed_, mask.position_, p, scale, shift, fill = fields
        mask.set_rate(p, drop_threshold(p), scale, shift, fill)
        mask.set_window(first, shape, strides)
        return mask

    cdef tuple fields(self):
        return (
            self.seed_, self.position_, self.p_, self.scale_, self.shift_, self.fill_,
            self.first, self.shape, self.strides(),
        )

    @property
    def p(self):
        """Probability of dropping."""
        return self.p_

    @property
    def scale(self):
        """What kept elements are multiplied by, before rounding to the array's dtype."""
        return self.scale_

    @property
    def shift(self):
        """What is added to kept elements, after scaling; 0 in plain dropout."""
        return self.shift_

    @property
    def fill(self):
        """What dropped elements become; 0 in plain dropout."""
        return self.fill_

    cdef int prepare(self, Job *job, bint derivative) except -1:
        job.stream.drop_threshold = self.drop_threshold
        job.values.scale, job.values.shift, job.values.fill = self.scale_, self.shift_, self.fill_
        # without a shift there is no sum to round, and a kept -0.0 stays what it is
        linear = derivative or (self.shift_ == 0.0 and self.fill_ == 0.0)
        job.kernel = plain if linear else affine
        return 0

    @classmethod
    def from_dict(cls, d):
        """Return the mask that `to_dict` saved.

        Parameters
        ----------
        d : dict
            What `to_dict` returned.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError, ValueError
            If ``d`` is not such a dict, or is of an unknown stream.

        Examples
        --------
        >>> import fastdrop as fd
        >>> mask = fd.Generator(0).mask((2, 3), 0.1)[1:]
        >>> fd.Mask.from_dict(mask.to_dict()) == mask
        True
        """
        first, shape, strides = read_window(d, cls._fields, "mask")
        values = {name: d[name] for name in ("scale", "shift", "fill")}
        cdef Mask checked = Mask(d["seed"], d["position"], 0, d["p"], **values)
        return cls._of(checked.fields()[:-3], first, shape, strides)

    def __repr__(self):
        text = f"Mask(seed={self.seed}, position={self.position}, shape={self.shape}, p={self.p}"
        if self.noise_shape != self.shape:
            text += f", noise_shape={self.noise_shape}"
        if self.first:
            text += f", first={self.first}"
        if self.scale != scale_of(self.p):
            text += f", scale={self.scale}"
        if self.shift or self.fill:
            text += f", shift={self.shift}, fill={self.fill}"
        return text + ")"


cdef Mask identity(int ndim, const cnp.npy_intp *shape, double scale):
    """Return the mask of inference: it keeps everything."""
    cdef Mask mask = Mask.__new__(Mask)
    mask.set_axes(ndim, shape, shape)
    mask.set_rate(0.0, 0, scale, 0.0, 0.0)
    mask.made = True
    return mask

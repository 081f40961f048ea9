# cython: cdivision=True
"""The mask whose rate is an array: one for each row, channel, unit or element.

An array is walked by runs of elements that share their rate, where these are long: each goes to the
kernels of one rate. Otherwise each element's number is compared with its own threshold.
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport uint64_t

from fastdrop.kernels cimport (
    FD_F64, FD_TILE, Job, bits_by_elements, bits_by_runs, by_elements, by_runs,
    dtype_of, run,
)
from fastdrop.arrays import read_array
from fastdrop.rates cimport as_real
from fastdrop.recipe cimport Recipe, as_int, read_window

cnp.import_array()

# Elements of a run from which it goes to the kernels of one rate: a run costs these .3 us at least, which is
# what some hundred elements cost that are compared one by one.
LONG_RUN = 128


cdef class RatesMask(Decisions):
    """RatesMask(seed, position, shape, p, *, noise_shape=None, scale=None)
--

    A dropout mask with an array of rates: for each row, channel, unit or element its own.

    Made by `Generator.mask` or returned by `dropout` where p is an array; immutable. It applies to
    arrays, has a gradient, is indexed and saved as a `Mask` is, but it holds its rates, so that it is
    as large as they are, and what needs one rate (`dropout_add_backward`) refuses it.

    Parameters
    ----------
    seed, position : int
        As of `Mask`.
    shape : int or sequence of int
        Shape of the arrays that it applies to.
    p : array_like of float
        Probabilities of dropping, each in ``[0, 1]``; broadcasts against `shape`.
    noise_shape : int or sequence of (int or None), optional
        As of `Mask`; p is the same along shared axes.
    scale : array_like of float, optional
        What kept elements are multiplied by, broadcasts likewise; ``1/(1-p)`` unless given.

    Raises
    ------
    TypeError, ValueError
        If a rate is no probability, an array does not broadcast, or a parameter is out of range.

    Notes
    -----
    Element ``i`` is dropped iff its 40-bit uniform number, that of `Mask`, is less than
    ``round(p[i] * 2**40)``: where all rates are equal the mask is that of `Mask`, and raising a rate
    only drops more. Rates that are constant over thousands of elements, as those of images are, cost
    1.4 to 2 times what one rate does, over 512 elements 2.4 to 3.1 times, over 64 twelve times; a rate
    for each unit 5 to 8 times, half of what NumPy's random numbers cost; one for each element 16 to 20
    times, as much as those: each number is compared by itself (AVX-512, float32). Rates of rows of
    less than 128 elements are copied at each call, 8 bytes an element.

    **Compatibility guarantee.** As for `Generator`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.ones((2, 4))
    >>> y, mask = fd.dropout(x, np.array([0.0, 0.5, 0.5, 1.0]), rng=0, return_mask=True)
    >>> y
    array([[1., 0., 2., 0.],
           [1., 0., 2., 0.]])
    >>> bool((mask.backward(x) == y).all())
    True
    """

    _fields = ("seed", "position", "p", "scale", "first", "shape", "strides")

    def __init__(self, seed, position, shape, p, *, noise_shape=None, scale=None):
        self.refuse_change()
        rates = check_rates(p)
        self.set_shape(shape, noise_shape)
        self.set_rates(rates, scale)
        self.seed_, self.position_ = as_int(seed, "seed"), as_int(position, "position")
        self.made = True

    cdef int set_rates(self, cnp.ndarray rates, scales) except -1:
        """Take rates that were checked, and scales or None, to be broadcast against the axes."""
        self.rates = fitted(rates, "p", self.shape, self.strides())
        self.scales = None
        if scales is not None:
            given = reals(scales, "scale")
            if not np.isfinite(given).all():
                raise ValueError("scale must be finite")
            self.scales = fitted(given, "scale", self.shape, None)
        return 0

    @classmethod
    def _of(cls, fields, first, shape, strides):
        """Return a mask of fields that were checked, but for the shapes of its arrays."""
        cdef RatesMask mask = RatesMask.__new__(cls)
        mask.seed_, mask.position_, mask.rates, mask.scales = fields
        mask.set_window(first, shape, strides)
        return mask

    cdef tuple fields(self):
        return (
            self.seed_, self.position_, self.rates, self.scales, self.first, self.shape, self.strides(),
        )

    @property
    def p(self):
        """Probabilities of dropping: a read-only array that broadcasts to the shape."""
        return self.rates.view()  # which cannot be made writable

    @property
    def scale(self):
        """What kept elements are multiplied by: an array that broadcasts to the shape."""
        if self.scales is not None:
            return self.scales.view()
        kept = self.p < 1 - 2.0**-41  # the others round to 1: nothing is kept, nor ever scaled
        return np.divide(1.0, 1.0 - self.p, out=np.zeros(self.p.shape), where=kept)

    # ---- application -----------------------------------------------------------------------------

    cdef int prepare(self, Job *job, bint derivative) except -1:
        raise TypeError("a mask with an array of rates applies to arrays of NumPy's alone")

    cdef int run_on(self, cnp.ndarray y, cnp.ndarray x, bint derivative) except -1:
        cdef Job job
        if x is None:  # which the kernels of an element each do not know
            y.fill(1)
            x = y
        self.aim(&job, y, cnp.PyArray_SIZE(y))
        job.dtype, job.x = dtype_of(y), cnp.PyArray_DATA(x)
        return self.walk(&job, False)

    cdef int pack(self, Job *job) except -1:
        job.dtype = FD_F64
        return self.walk(job, True)

    cdef int walk(self, Job *job, bint to_bits) except -1:
        """Do a job that lacks its kernel: by runs of one rate, or element by element."""
        cdef cnp.ndarray rates, scales = None
        shape = self.shape
        cdef int axis = self.ndim
        cdef uint64_t length = 1
        while axis and self.same_along(axis - 1):
            axis -= 1
            length *= self.sizes[axis]
        if length >= <uint64_t>LONG_RUN or axis == 0:
            rates = spread(self.rates, axis, shape)
            if self.scales is not None:
                scales = spread(self.scales, axis, shape)
            job.run = max(length, 1)
            job.kernel = bits_by_runs if to_bits else by_runs
        else:
            axis = 0
            while self.same_along(axis):  # rates repeat along it
                axis += 1
            rates = repeated(self.rates, axis, shape)
            if self.scales is not None or axis:  # those that repeat are worked out once
                scales = repeated(self.scale, axis, shape)
            job.rates.period = max(cnp.PyArray_SIZE(rates), 1)
            job.kernel = bits_by_elements if to_bits else by_elements
        job.rates.p = <const double *>cnp.PyArray_DATA(rates)
        job.rates.scales = NULL if scales is None else <const double *>cnp.PyArray_DATA(scales)
        return run(job)

    cdef bint same_along(self, int axis):
        """Whether rates and scales do not differ along an axis."""
        return cnp.PyArray_DIM(self.rates, axis) == 1 and (
            self.scales is None or cnp.PyArray_DIM(self.scales, axis) == 1
        )

    # ---- windows and saving ----------------------------------------------------------------------

    def __getitem__(self, key):
        cdef list keys = self.keys(key)
        cdef RatesMask window = Recipe.__getitem__(self, tuple(keys))
        window.rates = cut(self.rates, keys)
        window.scales = None if self.scales is None else cut(self.scales, keys)
        return window

    def to_dict(self):
        """Return all there is to save: ints and lists, nested for the rates; JSON holds it exactly."""
        saved = Recipe.to_dict(self)
        scale = None if self.scales is None else self.scales.tolist()
        return saved | {"p": self.rates.tolist(), "scale": scale}

    @classmethod
    def from_dict(cls, d):
        """Return the mask that `to_dict` saved.

        Parameters
        ----------
        d : dict
            What `to_dict` returned.

        Returns
        -------
        RatesMask

        Raises
        ------
        TypeError, ValueError
            If ``d`` is not such a dict, or is of an unknown stream.
        """
        first, shape, strides = read_window(d, cls._fields, "mask")
        if "fill" in d:
            raise ValueError("the mask is a Mask, not a RatesMask: say Mask.from_dict")
        fields = as_int(d["seed"], "seed"), as_int(d["position"], "position"), None, None
        cdef RatesMask mask = cls._of(fields, first, shape, strides)
        mask.set_rates(check_rates(d["p"]), d["scale"])
        return mask

    def __eq__(self, other):
        if type(self) is not type(other):
            return Recipe.__eq__(self, other)
        return all(map(np.array_equal, self.fields(), (<RatesMask>other).fields()))

    def __hash__(self):
        return hash((self.seed_, self.position_, self.rates.tobytes(), self.first, self.shape))

    def __repr__(self):
        text = f"RatesMask(seed={self.seed}, position={self.position}, shape={self.shape}, "
        text += f"p=<{self.p.shape} from {self.p.min():g} to {self.p.max():g}>"
        if self.noise_shape != self.shape:
            text += f", noise_shape={self.noise_shape}"
        if self.first:
            text += f", first={self.first}"
        return text + ")"


# ---- arrays of rates -----------------------------------------------------------------------------


cdef bint is_array(p) except -1:
    """Whether a rate is an array of rates; one without axes is a number."""
    if isinstance(p, (float, int)):  # numpy.float64 too
        return False
    if isinstance(p, cnp.ndarray):
        return cnp.PyArray_NDIM(p) > 0
    return isinstance(p, (list, tuple)) or (hasattr(p, "__array__") and getattr(p, "ndim", 0) > 0)


cdef cnp.ndarray reals(value, str name):
    """Return an array of real numbers as a new plain one of float64, or say what is wrong with it."""
    if not is_array(value) and not isinstance(value, np.ndarray):
        value = np.array(as_real(value, name))
    given = value if type(value) is np.ndarray else read_array(value, name)
    if given.dtype.kind not in "fiu" and given.dtype.name != "bfloat16":
        remedy = f", as in {name}.astype(np.float64)" if given.dtype.kind == "O" else ""
        raise TypeError(f"{name} has dtype {given.dtype}; it must be of real numbers{remedy}")
    made = given.astype(np.float64, order="C", subok=False)
    made += 0.0  # 0 for -0
    made.flags.writeable = False  # nor can a view of it be made writable
    return made


cdef cnp.ndarray check_rates(p):
    """Return an array of probabilities as a new float64 array, or say what is wrong with it."""
    rates = reals(p, "p")
    wrong = ~((rates >= 0.0) & (rates <= 1.0))
    if wrong.any():
        at = tuple(map(int, np.argwhere(wrong)[0]))
        where = f"p[{', '.join(map(str, at))}]" if at else "p"
        raise ValueError(
            f"{where}={rates[at]} is not a probability: each must be in [0, 1]"
        )
    return rates


cdef cnp.ndarray fitted(cnp.ndarray a, str name, tuple shape, steps):
    """Return a plain array with as many axes as a shape, each of size 1 or the shape's."""
    own = (<object>a).shape
    whole = (1,) * (len(shape) - len(own)) + own
    if len(own) > len(shape) or any(n not in (1, m) for n, m in zip(whole, shape)):
        raise ValueError(f"{name} has shape {own}; it does not broadcast against {shape}")
    for axis in range(len(shape)):
        if steps is not None and whole[axis] > 1 and steps[axis] == 0:
            raise ValueError(
                f"{name} has shape {own}, but along axis {axis} noise_shape shares the decisions: {name} "
                "must be of size 1 there"
            )
    return a.reshape(whole) if a.size else reals(np.zeros((1,) * len(shape)), name)


cdef cnp.ndarray cut(cnp.ndarray a, list keys):
    """Return a window of an array that broadcasts to the shape that keys are for."""
    own = tuple([
        k if n != 1 else slice(None) if isinstance(k, slice) else 0
        for k, n in zip(keys, (<object>a).shape)
    ])
    made = np.array(a[own], order="C")
    if made.size == 0:  # nothing to decide
        made = np.zeros((1,) * made.ndim)
    made.flags.writeable = False
    return made


cdef cnp.ndarray spread(cnp.ndarray a, int ndim, tuple shape):
    """Return the first axes of an array at a shape, element by element; the others have size 1."""
    first = a.reshape((<object>a).shape[:ndim])
    return np.ascontiguousarray(np.broadcast_to(first, shape[:ndim]))


cdef cnp.ndarray repeated(cnp.ndarray a, int axis, tuple shape):
    """Return what an array has from an axis on, element by element, for a tile at least."""
    rest = a.reshape((<object>a).shape[axis:])
    row = np.ascontiguousarray(np.broadcast_to(rest, shape[axis:])).reshape(-1)
    times = -(-FD_TILE // row.size) if axis and row.size else 1
    return np.tile(row, times) if times > 1 else row


cdef RatesMask with_rates(int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *noise,
                          cnp.ndarray rates, scales):
    """Return a mask that lacks its place in the stream."""
    cdef RatesMask mask = RatesMask.__new__(RatesMask)
    mask.set_axes(ndim, shape, noise)
    mask.set_rates(rates, scales)
    mask.made = True
    return mask

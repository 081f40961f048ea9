"""Recipes: a place in the stream, and the window of it that an array sees.

Element (j0, j1, ...) of the array has index ``first + sum(j_k * steps[k])`` in the stream.
"""

import sys

import numpy as np

cimport cython
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyTypeObject
from cpython.type cimport PyType_Modified

from fastdrop.arrays cimport apart, as_input, as_plain, finish, target_for
from fastdrop.kernels cimport FD_DTYPES, FD_MAX_NDIM, dtype_of, fd_dtype, run, set_window
from fastdrop.kernels import STREAM
from fastdrop.rates cimport number_in

cnp.import_array()

cdef uint64_t LARGEST = <uint64_t>1 << 58  # elements of one recipe


@cython.c_api_binop_methods(True)
cdef class Recipe:
    """Immutable: the fields of `Mask` or `Noise`, of which the last three are a window."""

    def __cinit__(self):
        self.sizes, self.steps = self.room, self.room + ROOM

    def __dealloc__(self):
        if self.sizes != self.room:
            PyMem_Free(self.sizes)

    cdef int refuse_change(self) except -1:
        """Raise where ``__init__`` is called again."""
        if self.made:
            raise AttributeError(f"a {type(self).__name__} cannot be changed; make another")
        return 0

    cdef int set_ndim(self, int ndim) except -1:
        """Make room for axes."""
        if self.sizes != self.room:
            PyMem_Free(self.sizes)
            self.sizes, self.steps = self.room, self.room + ROOM
        if ndim > ROOM:
            self.sizes = <uint64_t *>PyMem_Malloc(2 * ndim * sizeof(uint64_t))
            if self.sizes == NULL:
                self.sizes = self.room
                raise MemoryError
            self.steps = self.sizes + ndim
        self.ndim = ndim
        return 0

    cdef int set_axes(self, int ndim, const cnp.npy_intp *shape, const cnp.npy_intp *noise) except -1:
        """Take the whole of a stream: axes of the noise shape's size 1 share their decisions."""
        cdef uint64_t size = 1
        cdef bint empty = False
        cdef int axis
        self.set_ndim(ndim)
        for axis in range(ndim):
            self.sizes[axis] = shape[axis]
            empty |= shape[axis] == 0
        for axis in range(ndim - 1, -1, -1):
            self.steps[axis] = 0 if noise[axis] == 1 and shape[axis] != 1 else size
            if not empty:  # else there is nothing to decide, and no index that could run out of bounds
                # sizes below 2**29 need no division
                if (size | noise[axis]) >> 29 and <uint64_t>noise[axis] > LARGEST // size:
                    raise ValueError(
                        f"{decisions(ndim, noise)} decisions (shape {as_tuple(ndim, noise)}); one mask "
                        "has at most 2**58"
                    )
                size *= noise[axis]
        return 0

    cdef int set_shape(self, shape, noise_shape) except -1:
        """Take the whole of a stream, by what a user gives."""
        cdef tuple sizes = as_shape(shape)
        cdef int ndim = len(sizes), axis
        cdef cnp.npy_intp dims[FD_MAX_NDIM]
        cdef cnp.npy_intp noise[FD_MAX_NDIM]
        for axis in range(ndim):
            dims[axis] = sizes[axis]
        read_noise_shape(noise_shape, ndim, dims, noise)
        return self.set_axes(ndim, dims, noise)

    cdef int set_window(self, first, tuple shape, tuple steps) except -1:
        cdef int axis
        self.first = first
        self.set_ndim(len(shape))
        for axis in range(self.ndim):
            self.sizes[axis], self.steps[axis] = shape[axis], steps[axis]
        self.made = True
        return 0

    @property
    def seed(self):
        """The generator's seed."""
        return self.seed_

    @property
    def position(self):
        """Which of the seed's positions this is."""
        return self.position_

    @property
    def shape(self):
        """Shape of the arrays that it applies to."""
        return tuple([self.sizes[axis] for axis in range(self.ndim)])

    cdef tuple strides(self):
        return tuple([self.steps[axis] for axis in range(self.ndim)])

    cdef tuple fields(self):
        """Return the values of all fields, in their order."""
        raise NotImplementedError

    def __setattr__(self, name, value):
        kind = type(self).__name__
        raise AttributeError(f"a {kind} cannot be changed; make another to set {name}")

    def __delattr__(self, name):
        raise AttributeError(f"a {type(self).__name__} cannot be changed; {name} stays")

    # ---- application -----------------------------------------------------------------------------

    cdef int prepare(self, Job *job, bint derivative) except -1:
        """Say which kernel, with which values."""
        raise NotImplementedError

    cdef bint fits(self, cnp.ndarray x) noexcept:
        """Whether an array has the recipe's shape."""
        cdef int axis
        if cnp.PyArray_NDIM(x) != self.ndim:
            return False
        for axis in range(self.ndim):
            if <uint64_t>cnp.PyArray_DIM(x, axis) != self.sizes[axis]:
                return False
        return True

    cdef int check_still_fits(self, cnp.ndarray x) except -1:
        """Raise where code of the user's changed the shape of an array since it was looked at."""
        if not self.fits(x):
            raise RuntimeError(f"an array of shape {self.shape} changed its shape during the call")
        return 0

    cdef int run_on(self, cnp.ndarray y, cnp.ndarray x, bint derivative) except -1:
        """Apply the recipe, or its derivative, to plain arrays of its shape; x None: to ones."""
        cdef Job job
        job.dtype = dtype_of(y)
        job.y = cnp.PyArray_DATA(y)
        job.x = NULL if x is None else cnp.PyArray_DATA(x)
        job.size = cnp.PyArray_SIZE(y)
        job.stream.seed, job.stream.position = self.seed_, self.position_
        set_window(&job, self.ndim, self.sizes, self.steps, self.first)
        self.prepare(&job, derivative)
        return run(&job)

    cdef object apply_to(self, x, out, str name, bint derivative):
        """Apply the recipe, or its derivative, to whatever a user gives."""
        cdef cnp.ndarray source = as_input(x, name)
        if not self.fits(source):
            kind = self._kind
            shape = (<object>source).shape
            raise ValueError(f"{name} has shape {shape}; the {kind} is for {self.shape}")
        source = as_plain(source)
        cdef cnp.ndarray target = target_for(source, out)
        self.run_on(target, apart(source, target), derivative)
        return finish(target, out)

    def apply_to_memory(self, uint64_t seed, size_t y, size_t x, int dtype):
        """Apply what this recipe is under another seed, at position 0, to memory by its address.

        Parameters
        ----------
        seed : int
            In its place.
        y, x : int
            Addresses of C-contiguous, aligned arrays of the recipe's shape to write and to read: the
            same or not overlapping. They are trusted: whoever calls this holds them.
        dtype : int
            Which of `fastdrop.kernels.DTYPES` their elements are.

        Notes
        -----
        For arrays that are not NumPy's, such as PyTorch's.
        """
        cdef Job job
        cdef int axis
        if not 0 <= dtype < FD_DTYPES:
            raise ValueError(f"dtype={dtype} is none of fastdrop.kernels.DTYPES")
        job.dtype, job.y, job.x, job.size = <fd_dtype>dtype, <void *>y, <const void *>x, 1
        for axis in range(self.ndim):
            job.size *= self.sizes[axis]
        job.stream.seed, job.stream.position = seed, 0
        set_window(&job, self.ndim, self.sizes, self.steps, self.first)
        self.prepare(&job, False)
        run(&job)

    # ---- arithmetic ------------------------------------------------------------------------------

    # NumPy leaves its operators to this class, and its ufuncs refuse it: as an array of bools
    # a mask would give x * keep, which lacks the scale, without a word.
    __array_ufunc__ = None

    def __array_function__(self, function, types, args, kwargs):
        """Give NumPy's functions the decisions as bools, but those that would multiply by them."""
        if function in SIZES:
            sized = [np.broadcast_to(False, a.shape) if isinstance(a, Recipe) else a for a in args]
            return function(*sized, **kwargs)
        if function.__name__ in PRODUCTS or not hasattr(self, "__array__"):
            refuse(self, None, f"{function.__name__}()")
        return function(*as_arrays(args), **dict(zip(kwargs, as_arrays(kwargs.values()))))

    # Either operand may be the recipe, as in C's interface to operators.

    def __mul__(left, right):
        """Return ``backward(x)`` of the other one: what hand-written layers say as ``dout * mask``."""
        recipe, x = (left, right) if isinstance(left, Recipe) else (right, left)
        if isinstance(x, Recipe) or ((<Recipe>recipe).ndim != 0 and np.ndim(x) == 0):
            refuse(left, right, "*")
        return (<Recipe>recipe).times(x)

    cdef object times(self, x):
        """Return x times the recipe."""
        return self.apply_to(x, None, "x", True)

    cdef str remedy(self):
        """Say what to do instead of arithmetic."""
        raise NotImplementedError

    def __add__(left, right): return refuse(left, right, "+")
    def __sub__(left, right): return refuse(left, right, "-")
    def __truediv__(left, right): return refuse(left, right, "/")
    def __floordiv__(left, right): return refuse(left, right, "//")
    def __mod__(left, right): return refuse(left, right, "%")
    def __matmul__(left, right): return refuse(left, right, "@")
    def __and__(left, right): return refuse(left, right, "&")
    def __or__(left, right): return refuse(left, right, "|")
    def __xor__(left, right): return refuse(left, right, "^")
    def __pow__(left, right, modulo): return refuse(left, right, "**")
    def __neg__(self): return refuse(self, None, "-")
    def __pos__(self): return refuse(self, None, "+")
    def __abs__(self): return refuse(self, None, "abs()")
    def __invert__(self): return refuse(self, None, "~")
    def __lt__(self, other): return refuse(self, other, "<")
    def __le__(self, other): return refuse(self, other, "<=")
    def __gt__(self, other): return refuse(self, other, ">")
    def __ge__(self, other): return refuse(self, other, ">=")

    def __dir__(self):
        return [name for name in object.__dir__(self) if not is_of_arrays(type(self), name)]

    # ---- windows ---------------------------------------------------------------------------------

    def __getitem__(self, key):
        """Return the recipe of a window: the same decisions or numbers, for a shard or a chunk.

        Parameters
        ----------
        key : slice, int, Ellipsis or a tuple of them
            Slices of any positive step, as in ``mask[rank::world]``; an int takes its axis away.
            What it leaves out is whole.

        Returns
        -------
        Mask or Noise
            Of its own kind.

        Raises
        ------
        IndexError
            For any other index, or an int out of range.
        """
        first, old_shape, old_strides = self.first, self.shape, self.strides()
        keys = self.keys(key)
        shape, strides = [], []
        for k, n, stride in zip(keys, old_shape, old_strides, strict=True):
            if isinstance(k, slice):
                shape.append(len(range(k.start, k.stop, k.step)))
                strides.append(stride * k.step)
                start = min(k.start, max(0, n - 1))  # of an empty slice; stays within the array
            else:
                start = k
            first += start * stride
        return type(self)._of(self.fields()[:-3], first, tuple(shape), tuple(strides))

    cdef list keys(self, key):
        """Return an index as an int or a slice without None for each axis, or say why it is none."""
        old_shape = self.shape
        keys = key if isinstance(key, tuple) else (key,)
        given = len([k for k in keys if k is not Ellipsis])
        if given > len(old_shape) or len(keys) > given + 1:
            raise IndexError(f"{key!r} has too many indices for shape {old_shape}")
        at = len(keys)
        for i, k in enumerate(keys):
            if k is Ellipsis:
                at = i
                break
        whole = (slice(None),) * (len(old_shape) - given)
        keys = keys[:at] + whole + keys[at + 1 :]
        found = []
        for axis, (k, n) in enumerate(zip(keys, old_shape, strict=True)):
            if isinstance(k, slice):
                try:
                    start, stop, step = k.indices(n)
                except (TypeError, ValueError) as error:
                    raise IndexError(f"axis {axis}: {k!r}: {error}") from None
                if step < 0:
                    raise IndexError(f"axis {axis}: slices must have a positive step, not {step}")
                found.append(slice(start, stop, step))
            else:
                found.append(as_index(k, axis, n))
        return found

    # ---- saving ----------------------------------------------------------------------------------

    def to_dict(self):
        """Return all there is to save: ints, floats and lists, which JSON holds exactly."""
        saved = {"stream": STREAM}
        for name, value in zip(self._fields, self.fields(), strict=True):
            saved[name] = list(value) if isinstance(value, tuple) else value
        return saved

    def __eq__(self, other):
        if isinstance(other, np.ndarray):
            refuse(self, other, "==")
        if type(self) is not type(other):
            return NotImplemented
        return self.fields() == (<Recipe>other).fields()

    def __hash__(self):
        return hash(self.fields())

    def __reduce__(self):
        return _unpickle, (type(self), STREAM, *self.fields())


cdef class OfArrays:
    """An attribute that arrays have and recipes have not: the error says where it is to be had.

    Those that one would ask a mask for stand in the type's dict. With a ``__getattr__`` in their place
    Python makes an object of each method that is called: inside a training step 17 % of `Mask.backward`.
    """

    cdef str name

    def __get__(self, recipe, kind):
        of = kind if recipe is None else recipe
        try:  # a subclass may have it of another base
            return getattr(super(Recipe, of), self.name)
        except AttributeError:
            pass
        raise AttributeError(
            f"a {of._kind} is a recipe, not an array: say {of._kind}.{of._as_array}().{self.name}"
        )


cdef bint is_of_arrays(kind, str name):
    for base in kind.__mro__:
        if name in base.__dict__:
            return type(base.__dict__[name]) is OfArrays
    return False


cdef int add_names_of_arrays() except -1:
    """Do what setattr does, which compiled types refuse."""
    cdef dict attributes = <dict>(<PyTypeObject *>Recipe).tp_dict
    cdef OfArrays attribute
    for name in (
        "T all any astype copy dtype flatten max mean min nbytes ndim nonzero ravel reshape size squeeze std "
        "sum tolist transpose var"
    ).split():
        attribute = OfArrays()
        attribute.name = name
        attributes[name] = attribute
    PyType_Modified(Recipe)
    return 0


add_names_of_arrays()
SIZES = (np.shape, np.ndim, np.size)
# NumPy's functions that multiply and are no ufuncs.
PRODUCTS = {
    "convolve", "correlate", "cross", "dot", "einsum", "inner", "kron", "multi_dot", "outer", "prod",
    "tensordot", "vdot",
}


cdef list as_arrays(values):
    """Return arguments with arrays in the place of recipes, those in sequences too."""
    return [
        np.asarray(value) if isinstance(value, Recipe)
        else as_arrays(value) if isinstance(value, list)
        else tuple(as_arrays(value)) if isinstance(value, tuple)
        else value
        for value in values
    ]


cdef object refuse(left, right, str operator):
    """Raise, for there is no such arithmetic with a recipe."""
    cdef Recipe recipe = left if isinstance(left, Recipe) else right
    raise TypeError(
        f"a {recipe._kind} is a recipe, not an array, and has no {operator} here: {recipe.remedy()}"
    )


def _unpickle(kind, stream, *fields):
    """Return a recipe by its kind's ``from_dict``, which checks it. Pickles name this function."""
    return kind.from_dict({"stream": stream, **dict(zip(kind._fields, fields, strict=True))})


# ---- what is given by a user ---------------------------------------------------------------------


cdef tuple read_window(d, tuple names, str what):
    """Check a dict for ``from_dict``, and return its window."""
    check_stream(d, what)
    missing = set(names) - d.keys()
    if missing:
        raise ValueError(f"the {what} lacks {sorted(missing)}")
    shape = as_shape(d["shape"])
    first = as_int(d["first"], "first")
    if not np.iterable(d["strides"]):
        raise TypeError(f"strides must be a sequence of ints, not {d['strides']!r}")
    strides = tuple([as_int(s, "strides") for s in d["strides"]])
    if len(strides) != len(shape):
        raise ValueError(f"strides {strides} do not fit shape {shape}")
    reach = first + sum([(n - 1) * s for n, s in zip(shape, strides, strict=True)])
    if reach >= LARGEST if 0 not in shape else max(first, *strides, 0) > LARGEST:
        raise ValueError(f"the {what} reaches past 2**58 elements")
    return first, shape, strides


cdef object as_int(value, str name, largest=0xFFFFFFFFFFFFFFFF):
    """Return an int in ``[0, largest]``, or say what is wrong with it; 0-d arrays of ints are ints."""
    number = value
    if type(value) is not int:
        number = number_in(value)
        if isinstance(number, (bool, np.bool_)) or not isinstance(number, (int, np.integer)):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}: {name}={value!r}")
    if not 0 <= number <= largest:
        raise ValueError(f"{name}={number} is outside [0, {largest}]")
    return int(number)


cdef int check_stream(d, str what) except -1:
    """Raise unless a saved dict is of the stream that this version knows."""
    if not isinstance(d, dict):
        raise TypeError(f"{what} must be a dict, not {type(d).__name__}")
    stream = number_in(d.get("stream"))
    if not isinstance(stream, (int, np.integer)) or stream != STREAM:
        raise ValueError(
            f"the {what} has stream {stream!r}; this version of fastdrop knows {STREAM}"
        )
    return 0


cdef object as_index(k, axis, n):
    try:
        at = PyNumber_Index(k)
    except TypeError:
        at = None
    if at is None or isinstance(k, (bool, np.bool_)):
        raise IndexError(f"axis {axis}: only slices, ints and Ellipsis are taken, not {k!r}")
    if not -n <= at < n:
        raise IndexError(f"index {at} is out of bounds for axis {axis} of size {n}")
    return at % n


cdef tuple as_shape(shape):
    """Return a shape as a tuple of ints, or say what is wrong with it."""
    try:
        if type(shape) is not int and (type(shape) is tuple or np.iterable(shape)):
            sizes = tuple([PyNumber_Index(n) for n in shape])
        else:
            sizes = (PyNumber_Index(shape),)
    except TypeError:
        sizes = None
    if sizes is None or isinstance(shape, bool):
        raise TypeError(f"shape must be an int or a sequence of ints, not {shape!r}")
    for n in sizes:
        if n < 0:
            raise ValueError(f"shape={sizes} has a negative size")
        if n > sys.maxsize:
            raise ValueError(f"shape={sizes} has a size above {sys.maxsize}: no array is that large")
    if len(sizes) > FD_MAX_NDIM:
        raise ValueError(f"shape has {len(sizes)} axes; at most {FD_MAX_NDIM} are supported")
    return sizes


cdef tuple as_noise_shape(noise_shape):
    """Return a noise shape as a tuple of ints and None, or None; what no array fits is refused."""
    if noise_shape is None:
        return None
    try:
        given = noise_shape if np.iterable(noise_shape) else (noise_shape,)
        sizes = tuple([None if n is None else PyNumber_Index(n) for n in given])
    except TypeError:
        raise TypeError(f"noise_shape must hold ints and None, not {noise_shape!r}") from None
    for n in sizes:
        if n is not None and n < 0:
            raise ValueError(
                f"noise_shape {sizes} has a negative size: each must be 1, None or that of the array"
            )
    return sizes


cdef int read_noise_shape(noise_shape, int ndim, const cnp.npy_intp *shape,
                          cnp.npy_intp *noise) except -1:
    """Write the sizes of a noise shape, whose None are those of the shape, or say what is wrong."""
    cdef int axis
    if noise_shape is None:
        for axis in range(ndim):
            noise[axis] = shape[axis]
        return 0
    cdef tuple sizes = as_noise_shape(noise_shape)
    if len(sizes) != ndim:
        whole = as_tuple(ndim, shape)
        raise ValueError(f"noise_shape {sizes} has {len(sizes)} axes; shape {whole} has {ndim}")
    for axis in range(ndim):
        size = sizes[axis]
        if size is None or size == shape[axis]:
            noise[axis] = shape[axis]
        elif size == 1:
            noise[axis] = 1
        else:
            whole = as_tuple(ndim, shape)
            raise ValueError(
                f"noise_shape {sizes} does not fit shape {whole}: each size must be 1, None or that "
                "of the array"
            )
    return 0


cdef tuple as_tuple(int ndim, const cnp.npy_intp *shape):
    return tuple([shape[axis] for axis in range(ndim)])


cdef object decisions(int ndim, const cnp.npy_intp *noise):
    total = 1
    for axis in range(ndim):
        total *= noise[axis]
    return total

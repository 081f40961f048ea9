# cython: cdivision=True
"""Dropout in one pass with what stands beside it in a network: bias, residual, ReLU, softmax."""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from fastdrop.arrays cimport apart, as_input, as_plain, finish, new_like, same_shape, target_for
from fastdrop.generator cimport as_source, take_from
from fastdrop.kernels cimport (
    FD_BF16, FD_F16, FD_F32, FD_F64, FD_FUSED_BIAS_GRAD, FD_FUSED_RELU, FD_FUSED_RELU_GRAD,
    FD_FUSED_RESIDUAL, FD_MAX_NDIM, FD_MAX_STEP, FD_TILE, Job, dtype_of, fd_dtype, fd_fusion, fused,
    item_bytes, run, set_window, softmax,
)
from fastdrop.mask cimport Mask, identity
from fastdrop.rates cimport as_axis, as_bool, check_p, drop_threshold, scale_of

cnp.import_array()

SUMMED = 64 * FD_TILE  # elements of a part, at least: fixed, for the bits of sums depend on it


cdef uint64_t period_of(uint64_t columns) noexcept:
    """Return the least multiple of the row that the kernels take as one; see fd_fused."""
    if columns == 0:
        return FD_MAX_STEP
    return columns * ((FD_MAX_STEP + columns - 1) // columns)


cdef bint widens(fd_dtype x, fd_dtype y) noexcept:
    """Whether the kernels read x of one dtype, and write y of a wider."""
    return y == FD_F32 and (x == FD_F16 or x == FD_BF16)


cdef int must_fit(cnp.ndarray a, str name, cnp.ndarray x, fd_dtype other, bint fits,
                  bint is_row) except -1:
    """Raise unless an array is of x's dtype or another, and fits x or each of its rows."""
    if dtype_of(a) != dtype_of(x) and dtype_of(a) != other:
        wider = ", or float32" if other != dtype_of(x) else ""
        raise TypeError(f"{name} has dtype {a.dtype}; it must be that of x, {x.dtype}{wider}")
    if not fits:
        shape = (<object>x).shape
        if is_row:
            shape = shape[-1:] or (1,)
        raise ValueError(f"{name} has shape {(<object>a).shape}; with this x it must be {shape}")
    return 0


cdef int start(Job *job, fd_fusion op, cnp.ndarray y, cnp.ndarray x, beside) except -1:
    """Fill in the arrays of a job; which elements are kept and how they are scaled is left."""
    job.kernel = fused
    job.dtype, job.x_dtype = dtype_of(y), dtype_of(x)
    job.y, job.x, job.size = cnp.PyArray_DATA(y), cnp.PyArray_DATA(x), cnp.PyArray_SIZE(x)
    job.fused.op, job.fused.column, job.first = op, 0, 0
    job.fused.beside = NULL if beside is None else cnp.PyArray_DATA(<cnp.ndarray>beside)
    job.stream.seed, job.stream.position, job.stream.drop_threshold = 0, 0, 0
    return 0


cdef void keep_by(Job *job, Mask mask) noexcept:
    job.stream.seed, job.stream.position = mask.seed_, mask.position_
    job.stream.drop_threshold, job.first = mask.drop_threshold, mask.first
    job.values.scale = mask.scale_


# ---- forward -------------------------------------------------------------------------------------


cdef void *repeat(cnp.ndarray row, uint64_t n) noexcept:
    """Return n elements that repeat a plain row, to be freed; NULL without memory."""
    cdef size_t size = cnp.PyArray_NBYTES(row), n_bytes = n * cnp.PyArray_ITEMSIZE(row), done
    cdef char *to = <char *>malloc(n_bytes)
    if to != NULL and size != 0:
        memcpy(to, cnp.PyArray_DATA(row), min(size, n_bytes))
        done = size
        while done < n_bytes:
            memcpy(to + done, to, min(done, n_bytes - done))
            done *= 2
    return to


cdef enum:
    ZEROS = 2 * FD_MAX_STEP

# -0 in each dtype, as often as a bias of one column is repeated: it adds nothing, not even to -0.
cdef uint64_t zeros_64[ZEROS]
cdef uint32_t zeros_32[ZEROS]
cdef uint16_t zeros_16[ZEROS]
for zero in range(ZEROS):
    zeros_64[zero], zeros_32[zero], zeros_16[zero] = 0x8000000000000000, 0x80000000, 0x8000


cdef const void *negative_zeros(fd_dtype dtype) noexcept:
    if item_bytes(dtype) == 8:
        return zeros_64
    if item_bytes(dtype) == 4:
        return zeros_32
    return zeros_16


cdef tuple forward(fd_fusion op, x, beside, p, bias, training, rng, out):
    """Return what a fused kernel makes of x, and the mask. What is beside x is its residual, or None."""
    cdef double rate = check_p(p)
    cdef bint dropping = as_bool(training, "training")
    source = as_source(rng)
    cdef cnp.ndarray array = as_input(x, "x"), rows = None, row = None
    cdef int axis, ndim = cnp.PyArray_NDIM(array)
    cdef cnp.npy_intp dims[FD_MAX_NDIM]
    for axis in range(ndim):
        dims[axis] = cnp.PyArray_DIM(array, axis)
    cdef uint64_t columns = dims[ndim - 1] if ndim else 1
    cdef fd_dtype kind = dtype_of(array), result = kind
    if op == FD_FUSED_RESIDUAL:
        rows = as_input(beside, "residual")
        if widens(result, FD_F32):
            result = FD_F32
        must_fit(rows, "residual", array, result, same_shape(rows, array), False)
        result = dtype_of(rows)
    if bias is not None:
        row = as_input(bias, "bias")
        fits = cnp.PyArray_NDIM(row) == 1 and <uint64_t>cnp.PyArray_DIM(row, 0) == columns
        must_fit(row, "bias", array, result, fits, True)
    cdef Mask mask = identity(ndim, dims, 1.0)
    if dropping:  # the same axes at another rate
        mask.set_rate(rate, drop_threshold(rate), scale_of(rate), 0.0, 0.0)
    array = as_plain(array)
    rows = None if rows is None else as_plain(rows)
    cdef cnp.ndarray target = target_for(array if rows is None else rows, out)
    array = apart(array, target)
    rows = None if rows is None else apart(rows, target)
    mask.check_still_fits(array)
    mask.check_still_fits(target)
    if rows is not None:
        mask.check_still_fits(rows)
    if row is not None:
        row = as_plain(row if dtype_of(row) == result else row.astype(target.dtype))
    if dtype_of(array) != kind or dtype_of(target) != result or (
        rows is not None and dtype_of(rows) != result
    ):
        raise RuntimeError("an array changed its dtype during the call")
    cdef Job job
    cdef void *repeated = NULL
    start(&job, op, target, array, rows)
    keep_by(&job, mask)
    job.fused.bias_grad = NULL
    if row is None:
        job.fused.period, job.fused.bias = FD_MAX_STEP, negative_zeros(job.dtype)
    else:
        job.fused.period = period_of(columns)
        repeated = repeat(row, job.fused.period + FD_MAX_STEP)
        if repeated == NULL:
            raise MemoryError
        job.fused.bias = repeated
    try:
        if dropping:
            take_from(source, mask)
        job.stream.seed, job.stream.position = mask.seed_, mask.position_
        run(&job)
    finally:
        free(repeated)
    return finish(target, out), mask


cpdef tuple add(x, residual, p, bias, training, rng, out):
    """Return ``residual + dropout(x + bias)`` and the mask: see `dropout_add`."""
    return forward(FD_FUSED_RESIDUAL, x, residual, p, bias, training, rng, out)


cpdef tuple relu(x, p, bias, training, rng, out):
    """Return ``dropout(max(x + bias, 0))`` and the mask: see `relu_dropout`."""
    return forward(FD_FUSED_RELU, x, None, p, bias, training, rng, out)


# ---- backward ------------------------------------------------------------------------------------

ctypedef struct Sums:
    double *parts  # the columns' sums of each part
    uint64_t columns
    uint64_t unit  # elements of a part
    bint out_of_memory


cdef void sum_parts(const Job *job, uint64_t begin, uint64_t n) noexcept nogil:
    """Do the parts that begin in a range: y as plain, and the sums of its columns."""
    cdef Sums *sums = <Sums *>job.context
    cdef Job part = job[0]
    cdef uint64_t period = job.fused.period, at = begin, here, row, column
    cdef size_t real = 8 if job.dtype == FD_F64 else 4, item = item_bytes(job.dtype), skew
    cdef char *space = <char *>malloc((period + FD_MAX_STEP) * real + 128)
    cdef char *sum_of
    cdef double *total
    if space == NULL:
        sums.out_of_memory = True
        return
    # sums that lie to a line of the cache as y does save 15 % of a backward pass within it
    skew = (<size_t>job.y // item * real) % 64
    sum_of = space + (64 - <size_t>space % 64) % 64 + skew
    part.fused.bias_grad = sum_of
    while at < begin + n:
        here = min(sums.unit, begin + n - at)
        memset(sum_of, 0, (period + FD_MAX_STEP) * real)
        fused(&part, at, here)
        total = sums.parts + at // sums.unit * sums.columns
        for row in range(period // sums.columns):
            for column in range(sums.columns):
                total[column] += (
                    (<double *>sum_of)[row * sums.columns + column] if real == 8
                    else (<float *>sum_of)[row * sums.columns + column]
                )
        at += here
    free(space)


cdef object added_up(const Sums *sums, uint64_t n_parts, cnp.ndarray like):
    """Return the parts' sum in another array's dtype: in their order, which NumPy's does not promise."""
    cdef uint64_t part, column
    cdef double *total = sums.parts
    for part in range(1, n_parts):
        for column in range(sums.columns):
            total[column] += sums.parts[part * sums.columns + column]
    cdef cnp.npy_intp size = sums.columns
    cdef bint is_single = dtype_of(like) == FD_F32
    cdef cnp.ndarray y = cnp.PyArray_EMPTY(1, &size, cnp.NPY_FLOAT32 if is_single else cnp.NPY_FLOAT64, 0)
    for column in range(sums.columns):
        if is_single:
            (<float *>cnp.PyArray_DATA(y))[column] = <float>total[column]
        else:
            (<double *>cnp.PyArray_DATA(y))[column] = total[column]
    if is_single or dtype_of(like) == FD_F64:
        return y
    with np.errstate(all="ignore"):
        return y.astype(like.dtype)


cdef tuple backward(Job *job, cnp.ndarray grad, cnp.ndarray target, uint64_t columns, out):
    """Return the gradients by x and by the bias, of a job that is all but filled in."""
    cdef Sums sums
    sums.columns = columns
    # a part has 32 rows or more: otherwise adding up the parts would cost more than the rows
    sums.unit = (32 * sums.columns + FD_TILE - 1) // FD_TILE * FD_TILE
    sums.unit, sums.out_of_memory = max(sums.unit, <uint64_t>SUMMED), False
    cdef uint64_t n_parts = (job.size + sums.unit - 1) // sums.unit
    sums.parts = <double *>calloc(max(n_parts, 1) * sums.columns + 1, sizeof(double))
    if sums.parts == NULL:
        raise MemoryError
    try:
        job.kernel, job.context = sum_parts, &sums
        job.fused.bias, job.fused.period = NULL, period_of(sums.columns)
        run(job, sums.unit)
        if sums.out_of_memory:
            raise MemoryError
        dbias = added_up(&sums, n_parts, grad)
    finally:
        free(sums.parts)
    return finish(target, out), dbias


cdef object narrower(cnp.ndarray grad, dtype, out):
    """Return the dtype of the gradient by x, where ``dtype`` or ``out`` says that it is not grad's."""
    if dtype is None and not isinstance(out, np.ndarray):
        return None
    try:
        wanted = np.dtype(out.dtype if dtype is None else dtype).newbyteorder("=")
    except TypeError:
        raise TypeError(f"dtype={dtype!r} is none") from None
    if wanted == grad.dtype.newbyteorder("="):
        return None
    if dtype_of(grad) == FD_F32 and wanted.name in ("float16", "bfloat16"):
        return wanted
    if dtype is None:
        return None  # which target_for refuses
    narrow = ", or a narrower one, float16 or bfloat16" if dtype_of(grad) == FD_F32 else ""
    raise TypeError(f"dtype is {wanted}; the gradient by x has that of grad, {grad.dtype}{narrow}")


cpdef tuple add_backward(grad, mask, out, dtype):
    """Return the gradients by x and by the bias: see `dropout_add_backward`."""
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, not {type(mask).__name__}")
    cdef Mask recipe = mask
    cdef cnp.ndarray array = as_input(grad, "grad")
    kind = narrower(array, dtype, out)
    if not recipe.fits(array):
        raise ValueError(f"grad has shape {(<object>array).shape}; the mask is for {mask.shape}")
    cdef int axis, ndim = recipe.ndim
    cdef uint64_t size = 1
    for axis in range(ndim - 1, -1, -1):
        if recipe.sizes[axis] != 1 and recipe.steps[axis] != size and cnp.PyArray_SIZE(array):
            raise ValueError(
                "the mask is not one of whole, consecutive rows; sum mask.backward(grad) instead"
            )
        size *= recipe.sizes[axis]
    array = as_plain(array)
    cdef cnp.ndarray target = target_for(array, out, kind)
    array = apart(array, target)
    recipe.check_still_fits(array)
    recipe.check_still_fits(target)
    cdef Job job
    start(&job, FD_FUSED_BIAS_GRAD, target, array, None)
    keep_by(&job, recipe)
    return backward(&job, array, target, recipe.sizes[ndim - 1] if ndim else 1, out)


cpdef tuple relu_backward(grad, y, double scale, out):
    """Return the gradients by x and by the bias: see `relu_dropout_backward`."""
    cdef cnp.ndarray array = as_input(grad, "grad"), result = as_input(y, "y")
    if not same_shape(array, result):
        raise ValueError(f"y has shape {(<object>result).shape}; grad has {(<object>array).shape}")
    if dtype_of(array) != dtype_of(result):
        raise TypeError(f"y has dtype {result.dtype}; it must be that of grad, {array.dtype}")
    array = as_plain(array)
    cdef cnp.ndarray target = target_for(array, out)
    array, result = apart(array, target), apart(as_plain(result), target)
    cdef int ndim = cnp.PyArray_NDIM(array)
    cdef Job job
    start(&job, FD_FUSED_RELU_GRAD, target, array, result)
    job.values.scale = scale
    return backward(&job, array, target, cnp.PyArray_DIM(array, ndim - 1) if ndim else 1, out)


# ---- softmax -------------------------------------------------------------------------------------


cdef int axis_of(axis, cnp.ndarray scores) except -1:
    """Return which axis is meant, counted from 0."""
    cdef int ndim = cnp.PyArray_NDIM(scores)
    number = as_axis(axis, "axis")
    if not -ndim <= number < ndim:
        raise ValueError(
            f"axis={number} is none of the axes of scores, whose shape is {(<object>scores).shape}"
        )
    return number % ndim


cdef object along(int axis, cnp.ndarray scores, cnp.ndarray grad, Mask mask, source, out):
    """Return the dropout of a softmax, or where grad is given its gradient by the scores.

    The kernels work along the last axis. For another one it is brought there in copies, and the mask
    with it.
    """
    cdef int last = cnp.PyArray_NDIM(scores) - 1, i, to = 0
    cdef cnp.ndarray target = target_for(scores, out), y = target
    cdef uint64_t sizes[FD_MAX_NDIM]
    cdef uint64_t steps[FD_MAX_NDIM]
    cdef fd_dtype kind = dtype_of(scores)
    if axis != last:
        scores = np.moveaxis(scores, axis, -1)
        grad = None if grad is None else np.moveaxis(grad, axis, -1)
    scores = as_plain(scores)
    grad = None if grad is None else as_plain(grad)
    if axis != last:
        y = new_like(scores)
    scores = apart(scores, y)
    grad = None if grad is None else apart(grad, y)
    mask.check_still_fits(target)
    for i in range(last + 1):
        if i != axis:
            sizes[to], steps[to] = mask.sizes[i], mask.steps[i]
            to += 1
    sizes[last], steps[last] = mask.sizes[axis], mask.steps[axis]
    for i in range(last + 1):
        if <uint64_t>cnp.PyArray_DIM(scores, i) != sizes[i] or dtype_of(y) != kind or (
            grad is not None and <uint64_t>cnp.PyArray_DIM(grad, i) != sizes[i]
        ):
            raise RuntimeError("an array changed its shape or dtype during the call")
    cdef Job job
    job.kernel, job.dtype, job.run = softmax, dtype_of(y), sizes[last]
    job.y, job.x, job.size = cnp.PyArray_DATA(y), cnp.PyArray_DATA(scores), cnp.PyArray_SIZE(y)
    job.fused.beside = NULL if grad is None else cnp.PyArray_DATA(grad)
    if source is not None:
        take_from(source, mask)
    keep_by(&job, mask)
    set_window(&job, last + 1, sizes, steps, mask.first)
    run(&job, job.run)
    if y is not target:
        target[...] = np.moveaxis(y, -1, axis)
    return finish(target, out)


cpdef tuple softmax_of(scores, p, axis, training, rng, out):
    """Return ``dropout(softmax(scores))`` and the mask: see `softmax_dropout`."""
    cdef double rate = check_p(p)
    cdef bint dropping = as_bool(training, "training")
    source = as_source(rng)
    cdef cnp.ndarray array = as_input(scores, "scores")
    cdef int which = axis_of(axis, array)
    cdef Mask mask = identity(cnp.PyArray_NDIM(array), cnp.PyArray_DIMS(array), 1.0)
    if dropping:
        mask.set_rate(rate, drop_threshold(rate), scale_of(rate), 0.0, 0.0)
    return along(which, array, None, mask, source if dropping else None, out), mask


cpdef object softmax_backward(grad, scores, mask, axis, out):
    """Return the gradient by the scores: see `softmax_dropout_backward`."""
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, not {type(mask).__name__}")
    cdef cnp.ndarray array = as_input(scores, "scores"), above = as_input(grad, "grad")
    cdef int which = axis_of(axis, array)
    if not same_shape(above, array):
        raise ValueError(f"grad has shape {(<object>above).shape}; scores have {(<object>array).shape}")
    if dtype_of(above) != dtype_of(array):
        raise TypeError(f"grad has dtype {above.dtype}; it must be that of scores, {array.dtype}")
    if not (<Mask>mask).fits(array):
        raise ValueError(f"scores have shape {(<object>array).shape}; the mask is for {mask.shape}")
    return along(which, array, above, mask, None, out)

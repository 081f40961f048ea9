"""Arrays as the kernels take them: what comes in, where results go, and what is refused.

A plain array is one that the kernels can work on as it lies: C-contiguous, aligned, native. A call
takes its input through `as_input`, which leaves the layout as it is, then `as_plain`; its result goes
to what `target_for` says, and `finish` brings it from there to where the user wants it.
"""

import sys

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop.kernels cimport FD_DTYPES, dtype_of

cnp.import_array()

Array = NDArray[Any]


cpdef cnp.ndarray as_input(x, str name):
    """Return an input as an array of a dtype that the kernels have; its layout is left as it is."""
    cdef cnp.ndarray array = x if type(x) is cnp.ndarray else read_array(x, name)
    if dtype_of(array) == FD_DTYPES:
        raise TypeError(
            f"{name} has dtype {array.dtype}; fastdrop takes float16, bfloat16, float32 and float64: "
            f"{_remedy(x, array.dtype, name)}"
        )
    return array


cdef bint is_plain(cnp.ndarray a) noexcept:
    # NumPy aligns float64 to 4 bytes on 32-bit x86, the kernels to 8
    return cnp.PyArray_ISCARRAY_RO(a) and <size_t>cnp.PyArray_DATA(a) % cnp.PyArray_ITEMSIZE(a) == 0


cdef cnp.ndarray as_plain(cnp.ndarray a):
    """Return the array itself, or a plain copy."""
    if is_plain(a):
        return a
    return a.astype(a.dtype.newbyteorder("="), order="C", copy=True)


cdef cnp.ndarray new_like(cnp.ndarray a):
    """Return a new plain array of the shape and dtype of one that is plain."""
    cdef int number = cnp.PyArray_TYPE(a)
    if number < 0:  # of a library that registers no number
        return np.empty_like(a, order="C", subok=False)
    return cnp.PyArray_EMPTY(cnp.PyArray_NDIM(a), cnp.PyArray_DIMS(a), number, 0)


cdef cnp.ndarray target_for(cnp.ndarray x, out, dtype=None):
    """Check ``out`` for the result of a plain x, and return a plain array to write to.

    That is ``out`` itself where it is plain, otherwise a new one. Nothing is written to ``out``. The
    result has the dtype of x, or that which is given.
    """
    if out is None:
        return new_like(x) if dtype is None else np.empty((<object>x).shape, dtype)
    if type(out) is not cnp.ndarray and (
        not isinstance(out, cnp.ndarray) or isinstance(out, np.ma.MaskedArray)
    ):
        remedy = f"; was training={out} meant?" if isinstance(out, (bool, np.bool_)) else ""
        raise TypeError(f"out must be a numpy.ndarray, not {type(out).__name__}{remedy}")
    cdef cnp.ndarray y = out
    if not same_shape(x, y):
        raise ValueError(f"out has shape {out.shape}; the result has {(<object>x).shape}")
    if dtype_of(y) != dtype_of(x) if dtype is None else out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out has dtype {out.dtype}; the result has {dtype or x.dtype}")
    if not cnp.PyArray_ISWRITEABLE(y):
        raise ValueError("out is read-only")
    if is_plain(y):
        return y
    if _overlaps_itself(y):
        raise ValueError("out overlaps itself: some of its elements share memory")
    return target_for(x, None, dtype)


cdef cnp.ndarray apart(cnp.ndarray x, cnp.ndarray y):
    """Return x, or a copy where it shares memory with y and is not y; both are plain."""
    cdef char *a = cnp.PyArray_BYTES(x)
    cdef char *b = cnp.PyArray_BYTES(y)
    if a == b and cnp.PyArray_ITEMSIZE(x) == cnp.PyArray_ITEMSIZE(y):
        return x
    if a < b + cnp.PyArray_NBYTES(y) and b < a + cnp.PyArray_NBYTES(x):
        return cnp.PyArray_NewCopy(x, cnp.NPY_CORDER)
    return x


cdef object finish(cnp.ndarray y, out):
    """Return ``out``, filled where the kernels could not work on it, or the new array."""
    if out is None:
        return y
    if y is not out:
        out[...] = y
    return out


cdef bint same_shape(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef int axis
    if cnp.PyArray_NDIM(a) != cnp.PyArray_NDIM(b):
        return False
    for axis in range(cnp.PyArray_NDIM(a)):
        if cnp.PyArray_DIM(a, axis) != cnp.PyArray_DIM(b, axis):
            return False
    return True


def _remedy(x, dtype, name):
    """Say what to do with what has a wrong dtype."""
    if type(x).__module__.startswith("autograd."):
        return "the functions of fastdrop.autograd, and its apply(mask, x), take autograd's boxes"
    if type(x).__module__.startswith("scipy.sparse"):
        return (
            f"{name}.data are the stored values, which dropout may be given (zeros stay zeros); "
            f"{name}.toarray() are all"
        )
    if dtype.names is not None:
        return f"give one field, as in {name}[{dtype.names[0]!r}]"
    if dtype.kind == "O" and hasattr(x, "astype"):
        return f"if it holds numbers alone, convert it, as in {name}.astype(np.float32)"
    if dtype.char == "g":
        return f"convert it, as in {name}.astype(np.float64), the widest that it takes"
    if isinstance(x, bytes | bytearray | memoryview):
        return f"read it, as in np.frombuffer({name}, np.float32)"
    if dtype.kind in "OSU" and not hasattr(x, "astype"):
        return "give numbers"
    if dtype.kind == "c":
        return f"apply one Mask to its parts, as in mask.apply({name}.real) + 1j * mask.apply({name}.imag)"
    convert = f"{name}.astype(np.float32)" if hasattr(x, "astype") else f"np.float32({name})"
    return f"convert it, as in {convert}"


def read_array(x, name):
    """Return an array of what is none, or say what to do instead."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a MaskedArray, whose mask would be lost: give {name}.filled(value), or "
            f"{name}.data and keep {name}.mask"
        )
    if hasattr(x, "__dask_graph__") and x.__dask_graph__() is not None:  # xarray's may hold NumPy's
        raise TypeError(
            f"{name} is a Dask {type(x).__name__}, all of which this would compute: use "
            f"fastdrop.dask, or give {name}.compute()"
        )
    try:
        return _read(x)
    except MemoryError:
        raise
    except Exception as error:
        remedy = ""
        if "Tracer" in type(x).__name__:
            remedy = "; under a trace there is no array yet: call it outside of jit and grad"
        elif hasattr(x, "detach") or hasattr(x, "device"):
            remedy = (
                "; a tensor on a device or one that requires grad must be brought over first, "
                f"as in {name}.detach().cpu().numpy()"
            )
        raise TypeError(
            f"{name} cannot be read as a NumPy array ({type(error).__name__}: {error}){remedy}"
        ) from error


def _read(x):
    """Return an array of x: its own memory where x exports that, by a buffer or by DLPack."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        return _read_torch(torch, x)
    if hasattr(x, "__dlpack__") and not isinstance(x, np.ndarray):
        try:
            kind = int(x.__dlpack_device__()[0])
            if kind in _IN_MAIN_MEMORY:
                return np.from_dlpack(x)
        except Exception:  # of a dtype that DLPack or NumPy lacks, say: x may have another way
            if not hasattr(x, "__array__"):
                raise
        else:
            raise BufferError(f"it is on a device, of DLPack's type {kind}")
    return np.asarray(x)


def _read_torch(torch, x):
    """Return a tensor's memory by PyTorch's own way.

    Unlike its DLPack, that heeds views that negate, and memory that is lent cannot be resized.
    """
    if x.dtype is not torch.bfloat16:
        return np.asarray(x)
    if x.requires_grad:
        raise RuntimeError("it requires grad")
    import ml_dtypes  # whose bfloat16 NumPy knows

    bits = np.asarray(x.view(torch.uint16))
    return bits.view(ml_dtypes.bfloat16)


# DLDeviceType of dlpack.h: kDLCPU, kDLCUDAHost, kDLROCMHost
_IN_MAIN_MEMORY = {1, 3, 11}


def _overlaps_itself(a):
    """Whether two elements of a strided array share a byte."""
    axes = sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1)
    if a.size == 0:
        return False
    if any(stride == 0 for stride, _ in axes):
        return True
    reach = a.itemsize  # bytes that the axes so far span
    for stride, n in axes:
        if stride < reach:
            break
        reach += stride * (n - 1)
    else:
        return False
    # axes may still interleave without meeting: look at the addresses
    offsets = np.zeros(1, np.int64)
    for stride, n in axes:
        offsets = (offsets[:, None] + stride * np.arange(n)).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < a.itemsize).any())

"""Arrays as the kernels take them: what comes in, where results go, and what is refused."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_DTYPES = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64", np.dtype(np.float16): "f16"}
_NAMES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def kernel_dtype(dtype: np.dtype[Any]) -> str | None:
    """Return the kernels' name of a dtype, in either byte order; bfloat16 is known by its name."""
    return _DTYPES.get(dtype) or _NAMES.get(dtype.name)


def as_input(x: Any, name: str) -> tuple[Array, str]:
    """Return an input as a plain array, with its kernels' dtype; its layout is left as it is."""
    array = x if type(x) is np.ndarray else _as_array(x, name)
    dtype = array.dtype
    kernels = kernel_dtype(dtype)
    if kernels is None:
        raise TypeError(
            f"{name} has dtype {dtype}; dropout takes float16, bfloat16, float32 and float64: "
            f"{_remedy(x, dtype, name)}"
        )
    return array, kernels


def _remedy(x: Any, dtype: np.dtype[Any], name: str) -> str:
    """Say what to do with what has a wrong dtype."""
    if type(x).__module__.startswith("autograd."):
        return f"fastdrop.autograd.dropout({name}) takes autograd's boxes"
    if isinstance(x, bytes | bytearray | memoryview):
        return f"read it, as in np.frombuffer({name}, np.float32)"
    if dtype.kind in "OSU" and not hasattr(x, "astype"):
        return "give numbers"
    if dtype.kind == "c":
        return f"multiply it by what becomes of ones, as in {name} * dropout(np.ones({name}.shape))"
    convert = f"{name}.astype(np.float32)" if hasattr(x, "astype") else f"np.float32({name})"
    return f"convert it, as in {convert}"


def _as_array(x: Any, name: str) -> Array:
    """Return an array of what is none, or say what to do instead."""
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a MaskedArray, whose mask would be lost: give {name}.filled(value), or "
            f"{name}.data and keep {name}.mask"
        )
    if hasattr(x, "__dask_graph__"):
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


def _read(x: Any) -> Array:
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


def _read_torch(torch: Any, x: Any) -> Array:
    """Return a tensor's memory by PyTorch's own way.

    Unlike its DLPack, that heeds views that negate, and memory that is lent cannot be resized.
    """
    if x.dtype is not torch.bfloat16:
        return np.asarray(x)
    if x.requires_grad:
        raise RuntimeError("it requires grad")
    import ml_dtypes  # whose bfloat16 NumPy knows

    bits: Array = np.asarray(x.view(torch.uint16))
    return bits.view(ml_dtypes.bfloat16)


# DLDeviceType of dlpack.h: kDLCPU, kDLCUDAHost, kDLROCMHost
_IN_MAIN_MEMORY = {1, 3, 11}


def _is_plain(a: Array) -> bool:
    """Whether the kernels can work on the array as it lies."""
    flags = a.flags
    return flags.c_contiguous and flags.aligned and a.dtype.isnative


def pair(x: Array, out: Any) -> tuple[Array, Array]:
    """Check ``out`` and return plain arrays to read from and to write to.

    They do not overlap unless they are the same. Nothing is written to ``out``.
    """
    source = x if _is_plain(x) else x.astype(x.dtype.newbyteorder("="), order="C", copy=True)
    if out is None:
        return source, np.empty(source.shape, source.dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, not {type(out).__name__}")
    if out.shape != x.shape:
        raise ValueError(f"out has shape {out.shape}; the result has {x.shape}")
    if out.dtype.newbyteorder("=") != source.dtype:
        raise TypeError(f"out has dtype {out.dtype}; the result has {source.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if not _is_plain(out):
        if _overlaps_itself(out):
            raise ValueError("out overlaps itself: some of its elements share memory")
        return source, np.empty(source.shape, source.dtype)
    if (
        source is not out
        and np.may_share_memory(source, out)
        and source.__array_interface__["data"][0] != out.__array_interface__["data"][0]
    ):
        source = source.copy()
    return source, out


def _overlaps_itself(a: Array) -> bool:
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


def as_bits(y: Array, x: Array) -> tuple[Array, Array] | None:
    """Return bfloat16 arrays as the uint16 that the kernels take; None for any other dtype."""
    if x.dtype.kind != "V" or x.dtype != y.dtype or _NAMES.get(x.dtype.name) != "bf16":
        return None
    if not (x.dtype.isnative and y.dtype.isnative):
        return None
    return y.view(np.uint16), x.view(np.uint16)


def finish(target: Array, out: Array | None) -> Array:
    """Return ``out``, filled where the kernels could not work on it, or the new array."""
    if out is None:
        return target
    if target is not out:
        out[...] = target
    return out

"""Monte-Carlo dropout: what a network says when its dropout stays on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastdrop.arrays import Array
from fastdrop.generator import Generator
from fastdrop.rates import number_in

__all__ = ["MCSamples", "mc_samples"]


class MCSamples(NamedTuple):
    """What `mc_samples` returns.

    Parameters
    ----------
    mean : ndarray
        Over the samples, of the outputs' shape (N, ...).
    std : ndarray
        Likewise, how far the samples spread: the square root of their mean squared distance.
    samples : ndarray
        The outputs, shape (T, N, ...).
    """

    mean: Array
    std: Array
    samples: Array


def mc_samples(
    model_fn: Callable[[Array], ArrayLike],
    x: ArrayLike,
    T: int = 100,
    *,
    rng: Generator,
    batch_size: int | None = None,
) -> MCSamples:
    """Monte-Carlo dropout: run a model T times with dropout on; mean and spread of its outputs.

    Parameters
    ----------
    model_fn : callable
        ``model_fn(x_batch)`` returns an array with as many rows as the batch. Its dropout layers
        are in training mode and share ``rng``.
    x : array_like
        Inputs, shape (N, ...).
    T : int, optional
        Number of samples, at least 1.
    rng : Generator
        The generator that the model's layers share. One position is taken; during the call it is
        set to the seeds of the samples.
    batch_size : int, optional
        Rows given to the model at a time; all by default.

    Returns
    -------
    MCSamples
        A named tuple ``(mean, std, samples)``: of shape (N, ...), the same, and (T, N, ...). Mean
        and std are summed in float64, and then of the outputs' dtype if that is a float.

    Raises
    ------
    TypeError
        If rng is no `Generator`, or T or batch_size no int.
    ValueError
        If T or batch_size is less than 1, x has no rows, the outputs do not fit x, or the model
        took no mask from rng.

    Notes
    -----
    Sample ``t`` is child ``t`` of ``rng.spawn(T)``, and starts at position 0 **for every batch**:
    its masks are the same ones for all batches. Row ``i`` of a batch has the same decisions in each
    batch, a shorter last one included. With ``noise_shape=(1, None)`` in the layers each sample is
    one and the same network for all rows, and the result does not depend on ``batch_size``.

    **Compatibility guarantee.** As for `Generator`.

    References
    ----------
    .. [1] Y. Gal and Z. Ghahramani, "Dropout as a Bayesian approximation: representing model
       uncertainty in deep learning", ICML 2016.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> gen = fd.Generator(0)
    >>> layer = fd.nn.Dropout(0.5, noise_shape=(1, None), rng=gen)
    >>> weight = np.full((4, 1), 0.25)
    >>> x = np.ones((3, 4))
    >>> mean, std, samples = fd.nn.mc_samples(lambda x: layer(x) @ weight, x, 200, rng=gen)
    >>> samples.shape, mean.ravel().round(1), std.ravel().round(1)
    ((200, 3, 1), array([1., 1., 1.]), array([0.5, 0.5, 0.5]))
    """
    if not isinstance(rng, Generator):
        raise TypeError(
            f"rng must be the fastdrop.Generator that the model's layers share, not "
            f"{type(rng).__name__}"
        )
    if not callable(model_fn):
        raise TypeError(f"model_fn must be callable, not {type(model_fn).__name__}")
    T = _as_count(T, "T")
    x = np.asarray(x)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has shape {x.shape}; it must have at least one row")
    rows = len(x) if batch_size is None else _as_count(batch_size, "batch_size")
    children = rng.spawn(T)
    state = rng.state
    samples: Array | None = None
    try:
        for t, child in enumerate(children):
            for first in range(0, len(x), rows):
                rng.state = child.state
                batch = x[first : first + rows]
                y = np.asarray(model_fn(batch))
                if rng.position == 0:
                    raise ValueError(
                        "model_fn took no mask from rng: put the model's dropout layers in "
                        "training mode, layer.train(), and give them this generator"
                    )
                if y.shape[:1] != batch.shape[:1]:
                    raise ValueError(
                        f"model_fn returned shape {y.shape} for {len(batch)} rows of x; it must "
                        "return one row for each"
                    )
                if samples is None:
                    samples = np.empty((T, len(x), *y.shape[1:]), y.dtype)
                if y.shape[1:] != samples.shape[2:] or y.dtype != samples.dtype:
                    raise ValueError(
                        f"model_fn returned rows of shape {y.shape[1:]} and dtype {y.dtype} after "
                        f"rows of {samples.shape[2:]} and {samples.dtype}"
                    )
                samples[t, first : first + rows] = y
    finally:
        rng.state = state
    assert samples is not None
    mean, std = samples.mean(0, dtype=np.float64), samples.std(0, dtype=np.float64)
    if samples.dtype.kind == "f" or samples.dtype.name == "bfloat16":
        mean, std = mean.astype(samples.dtype), std.astype(samples.dtype)
    return MCSamples(mean, std, samples)


def _as_count(value: Any, name: str) -> int:
    value = number_in(value)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 1 <= value <= 2**56:
        raise ValueError(f"{name}={value}; it must be from 1 to 2**56")
    return int(value)

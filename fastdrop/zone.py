"""Zoneout: units of a recurrent network that keep the state they had."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Mask
from fastdrop.rates import as_bool

__all__ = ["zoneout", "zoneout_backward"]

# Whatever np.errstate says, products that overflow do not raise, as the kernels' do not.
_quiet = np.errstate(all="ignore")


def zoneout(
    new: ArrayLike,
    old: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Let each unit keep its old value with probability `p`: ``old`` where dropped, else ``new``.

    Parameters
    ----------
    new : array_like
        What the units would become, of any shape: the state after a time step, (N, units).
    old : array_like
        What they were, of new's shape and dtype.
    p : float, optional
        Probability of keeping the **old** value, in ``[0, 1]``. The paper's language models keep
        hidden states with .05 and cell states with .5.
    training : bool, optional
        Whether to draw. If not, the result is the expectation ``p*old + (1-p)*new``.
    out : ndarray, optional
        Where to put the result, see `dropout`; ``new`` and ``old`` work in place.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `zoneout_backward`: True where a unit is new.
    rng : as in `dropout`

    Returns
    -------
    y : ndarray
        Of new's shape and dtype; a new array, or `out`, in evaluation too.
    mask : Mask
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; also where old has another shape or dtype than new.

    See Also
    --------
    zoneout_backward : its gradients.
    fastdrop.nn.Zoneout : the layer, for hidden and cell states.

    Notes
    -----
    Zoneout [1]_. In training values are *selected*, not scaled: what is not chosen leaves nothing
    behind, be it NaN. In evaluation each operation is rounded once, in float32 with one rounding at
    the end for 16-bit types; with ``p=0`` old is not looked at, with ``p=1`` new is not.

    **Compatibility guarantee.** As for `dropout`, whose mask it has.

    References
    ----------
    .. [1] D. Krueger, T. Maharaj, J. Kramar, M. Pezeshki, N. Ballas, N. R. Ke, A. Goyal, Y. Bengio,
       A. Courville and C. Pal, "Zoneout: regularizing RNNs by randomly preserving hidden
       activations", ICLR 2017, arXiv 1606.01305.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> new, old = np.arange(8.0), -np.ones(8)
    >>> y, mask = fd.zoneout(new, old, 0.5, rng=0, return_mask=True)
    >>> y
    array([ 0., -1.,  2., -1.,  4., -1.,  6.,  7.])
    >>> dnew, dold = fd.zoneout_backward(np.ones(8), mask)
    >>> dold
    array([0., 1., 0., 1., 0., 1., 0., 0.])
    >>> fd.zoneout(new, old, 0.5, training=False)
    array([-0.5,  0. ,  0.5,  1. ,  1.5,  2. ,  2.5,  3. ])
    """
    y, mask = forward(new, old, p, training, rng, out)
    return (y, mask) if return_mask else y


def zoneout_backward(
    grad: ArrayLike, mask: Mask, *, out: Array | None = None
) -> tuple[Array, Array]:
    """Gradients of `zoneout` by the new and by the old values.

    Parameters
    ----------
    grad : array_like
        Gradient by the output.
    mask : Mask
        What `zoneout` returned, or the window of it that is grad's shard.
    out : ndarray, optional
        Where to put the gradient by the new values; ``out=grad`` works in place.

    Returns
    -------
    dnew : ndarray
        grad where the unit is new, else +0.0; of evaluation ``(1-p) * grad``.
    dold : ndarray
        grad where the unit kept its old value, else +0.0; of evaluation ``p * grad``.

    Raises
    ------
    TypeError, ValueError
        As `Mask.backward`; ValueError also where the mask is none of zoneout.

    Notes
    -----
    **Compatibility guarantee.** As for `zoneout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> _, mask = fd.zoneout(np.ones(2), np.zeros(2), 0.25, training=False, return_mask=True)
    >>> fd.zoneout_backward(np.ones(2), mask)
    (array([0.75, 0.75]), array([0.25, 0.25]))
    """
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, not {type(mask).__name__}")
    # Of training the scale is 1; of evaluation, where nothing is dropped, the share of the new.
    evaluation = mask.p == 0.0 and 0.0 <= mask.scale <= 1.0
    if not (mask.scale == 1.0 or evaluation) or mask.shift != 0.0 or mask.fill != 0.0:
        raise ValueError(f"mask={mask!r} is none that zoneout returned: those have scale 1")
    grad = as_input(grad, "grad")
    if grad.shape != mask.shape:
        raise ValueError(f"grad has shape {grad.shape}; the mask is for {mask.shape}")
    if evaluation:
        dold = _times(grad, 1.0 - mask.scale, None)  # before grad may be written to
        return _times(grad, mask.scale, out), dold
    dold = _dropped(mask, grad.astype(grad.dtype.newbyteorder("="), order="C", copy=False))
    return mask.backward(grad, out), dold.view(grad.dtype.newbyteorder("="))


@_quiet
def forward(
    new: Any,
    old: Any,
    p: Any,
    training: Any,
    rng: Any,
    out: Any = None,
    names: tuple[str, str] = ("new", "old"),
) -> tuple[Array, Mask]:
    """Return what `zoneout` does, and the mask, which evaluation has too."""
    rule = rules.elements(p, None, "downscale_in_infer")
    new, old = as_pair(new, old, names)
    if not as_bool(training, "training"):
        mask = rule.mask(new.shape, False, rng)
        y = _expectation(new, old, mask.scale)
        return y if out is None else _times(y, 1.0, out), mask
    if isinstance(out, np.ndarray) and np.may_share_memory(out, old):
        old = old.copy()
    y, mask = rule.drop(new, True, rng, out, True, names[0])
    bits = np.asarray(y).view(f"u{y.itemsize}")  # 0 where dropped
    np.bitwise_or(bits, _dropped(mask, old.astype(y.dtype, copy=False)), out=bits)
    return y, mask


def as_pair(new: Any, old: Any, names: tuple[str, str]) -> tuple[Array, Array]:
    """Check a state and the one before it."""
    new, old = as_input(new, names[0]), as_input(old, names[1])
    if old.dtype.newbyteorder("=") != new.dtype.newbyteorder("="):
        raise TypeError(
            f"{names[1]} has dtype {old.dtype}; it must be that of {names[0]}, {new.dtype}"
        )
    if old.shape != new.shape:
        raise ValueError(
            f"{names[1]} has shape {old.shape}; it must be that of {names[0]}, {new.shape}"
        )
    return new, old


def _expectation(new: Array, old: Array, share: float) -> Array:
    """Return ``share*new + (1-share)*old``, a new plain array."""
    kind = new.dtype.newbyteorder("=")
    if share in (0.0, 1.0):  # a NaN times 0 would be one
        return np.array(new if share else old, kind, order="C", subok=False)
    real = np.float64 if kind == np.float64 else np.float32
    y = np.multiply(new.astype(real, order="C"), real(share))
    y += np.multiply(old.astype(real), real(1.0 - share))
    return np.asarray(y, kind)


def _dropped(mask: Mask, x: Array) -> Array:
    """Return the bits of x where dropped, else 0, as ints: no branch for each element."""
    dropped = mask.keep()
    np.logical_not(dropped, out=dropped)
    kind = np.dtype(f"u{x.itemsize}")
    return np.asarray(np.multiply(x.view(kind), dropped, dtype=kind))


def _times(x: Array, factor: float, out: Array | None) -> Array:
    """Return x times a factor, +0.0 where that is 0, as all functions do it: checks of out too."""
    return Mask(0, 0, x.shape, float(factor == 0.0), scale=factor).apply(x, out)

"""What layers with a learned rate have in common: the parameter, and its way into saved states."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdrop.arrays import Array, as_input
from fastdrop.layer import Layer, settings
from fastdrop.mask import Mask
from fastdrop.rates import as_real, check_p

Floats = NDArray[np.float64]


class LearnedLayer(Layer):
    """Base of the layers that learn their rate, as the logit of p, by gradients of their own.

    A subclass names its parameter in `_parameter` and in a property of that name, of `_learned`.
    """

    _parameter: str
    _learned: Floats
    _inputs: Any = None  # of the last forward pass, which the backward pass needs

    def __init__(self, p: float, shape: Any, *, rng: Any) -> None:
        self._learned = np.full(Mask(0, 0, shape).shape, logit_of(p))  # a mask checks its shape
        super().__init__(p, rng=rng)

    def _learn(self, values: Any) -> None:
        """Set the parameter, in place, for optimizers hold it."""
        self._learned[...] = self._checked(values)

    def _checked(self, values: Any) -> Floats:
        array = read_parameter(values, self._parameter)
        if array.shape != self._learned.shape:
            raise ValueError(
                f"{self._parameter} has shape {array.shape}; this layer's has {self._learned.shape}"
            )
        return array

    # the rule's rate is the one to start from, and is used no more

    @property
    def p(self) -> Any:
        """Probability of dropping: what was learned, a float or an array of the parameter's shape.

        Setting it, to one number, sets the parameter.
        """
        p = sigmoid(self._learned)
        return p if p.ndim else float(p)

    @p.setter
    def p(self, p: float) -> None:
        self._learned[...] = logit_of(p)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit; JSON holds it exactly.

        Returns
        -------
        dict
            As of other layers, with the parameter, a float or nested lists of them, in place of p.
        """
        state = super().state_dict()
        return {
            "stream": state["stream"],
            self._parameter: self._learned.tolist(),
            "generator": state["generator"],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned; the parameter is set in place.

        Parameters
        ----------
        state : dict
            Of a layer that came by its generator in the same way, and whose parameter has the same
            shape.

        Raises
        ------
        TypeError, ValueError
            As other layers; ValueError also where the parameter has another shape. The layer is
            then as it was.
        """
        values = None
        if isinstance(state, dict):
            if not {self._parameter, "generator"} <= set(state):
                raise ValueError(
                    f"state needs {self._parameter!r} and 'generator'; it has {sorted(state)}"
                )
            values = state[self._parameter]
            if self._learned.size == 0 == np.size(values):
                values = self._learned  # lists do not tell the shapes of empty arrays apart
            values = self._checked(values)
            state = {**state, "p": 0.5}
        super().load_state_dict(state)  # which refuses what is no dict
        self._learned[...] = values

    def __repr__(self) -> str:
        p = self._learned.size and sigmoid(self._learned)
        low, high = float(np.min(p)), float(np.max(p))
        shown = [f"p={low:.4g}" if low == high else f"p={low:.4g} to {high:.4g}"]
        if self._learned.ndim:
            shown.append(f"shape={self._learned.shape}")
        for name, setting in settings(type(self)):
            if getattr(self, name) != setting.default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __reduce__(self) -> Any:
        pickled: Any = super().__reduce__()
        make, arguments, state = pickled
        return make, arguments, {k: v for k, v in state.items() if k != "_inputs"}


def logit_of(p: Any) -> float:
    """Return ``log(p / (1-p))`` of a probability, or say what is wrong with it."""
    p = check_p(p)
    if not 0.0 < p < 1.0:
        raise ValueError(
            f"p={p}: its logit would be infinite; a learned rate starts between 0 and 1"
        )
    return math.log(p) - math.log1p(-p)


@np.errstate(all="ignore")
def sigmoid(z: Array) -> Any:
    """Return ``1 / (1 + exp(-z))``; where exp overflows it is 0, as it should be."""
    return 1.0 / (1.0 + np.exp(-z))


def read_parameter(values: Any, name: str) -> Floats:
    """Return a parameter in float64, of its own shape, or say why it is none."""
    if isinstance(values, int | float | np.number):
        array = np.asarray(as_real(values, name))
    else:
        array = as_input(values, name).astype(np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; it holds {array[~np.isfinite(array)].flat[0]}")
    return array


def product(values: Array, factor: Any) -> Array:
    """Return values times a factor, 0 where a value is 0 although the factor is infinite there."""
    return np.where(values == 0.0, 0.0, values * factor)


def must_broadcast(array: Array, name: str, shape: tuple[int, ...], other: str) -> None:
    """Raise unless an array broadcasts to a shape."""
    try:
        fits = np.broadcast_shapes(array.shape, shape) == shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name} has shape {array.shape}; it must broadcast to {other}'s, {shape}")


def summed_to(shape: tuple[int, ...], array: Array) -> Array:
    """Sum over the axes along which an array of the shape was broadcast; in float64."""
    extra = array.ndim - len(shape)
    axes = [*range(extra)]
    axes += [extra + axis for axis, n in enumerate(shape) if n == 1 != array.shape[extra + axis]]
    return np.asarray(array.sum(tuple(axes), dtype=np.float64).reshape(shape))

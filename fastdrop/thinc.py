"""Dropout for thinc, and with it for spaCy's models that train on CPUs."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import accumulate, pairwise
from math import prod
from numbers import Real
from typing import Any, Optional

import numpy as np
from thinc.api import Model, NumpyOps, get_current_ops, set_current_ops
from thinc.types import Padded, Ragged, Shape

from fastdrop import functional, rules
from fastdrop.arrays import Array
from fastdrop.generator import Generator, as_source
from fastdrop.mask import Mask
from fastdrop.rates import check_p

__all__ = ["Dropout", "FastdropOps", "use_fastdrop"]

Source = Generator | np.random.Generator


class FastdropOps(NumpyOps):  # type: ignore[misc]  # of no known type where thinc is not installed
    """`thinc.api.NumpyOps` whose dropout masks cost what writing them costs.

    thinc finds it by its entry point: ``get_ops("fastdrop")``, ``use_ops("fastdrop")``, and
    ``"@ops": "FastdropOps"`` in a config. Set it **before** the layers are made, which remember
    their Ops.

    Parameters
    ----------
    device_type : {"cpu"}, optional
        As in NumpyOps.
    device_id : int, optional
        As in NumpyOps.
    use_blis : bool, optional
        As in NumpyOps.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where masks come from. Anything but None is turned into a `Generator` once, here. With
        None the seed of each mask is drawn from NumPy's global state, which
        ``thinc.api.fix_random_seed`` and spaCy's ``training.seed`` set: what was reproducible
        stays so. That takes .4 microseconds a mask.

    Raises
    ------
    TypeError, ValueError
        If rng is of an unknown kind or out of range.

    See Also
    --------
    Dropout : a layer that needs no masks at all.

    Notes
    -----
    Every use of ``get_dropout_mask`` gains: `thinc.api.Dropout`, the ``dropout`` of Relu, Maxout,
    Mish and others, LSTM, Embed, HashEmbed. The masks are not those of NumpyOps for the same seed.

    **Compatibility guarantee.** As for `fastdrop.Generator`; with ``rng=None`` for the same raw
    draws of NumPy's global bit generator, by default MT19937.

    Examples
    --------
    >>> from fastdrop.thinc import FastdropOps
    >>> ops = FastdropOps(rng=0)
    >>> ops.get_dropout_mask((2, 4), 0.5)
    array([[2., 0., 2., 0.],
           [2., 0., 2., 2.]], dtype=float32)
    """

    name = "fastdrop"

    def __init__(
        self,
        device_type: str = "cpu",
        device_id: int = -1,
        *,
        use_blis: bool = True,
        rng: Any = None,
    ) -> None:
        super().__init__(device_type, device_id, use_blis=use_blis)
        self.rng = _as_generator(rng)

    # the annotations of Ops, to the letter: thinc's tests compare them
    def get_dropout_mask(self, shape: Shape, drop: Optional[float]) -> Array:  # noqa: UP045
        """Return what to multiply by: ``1/(1-drop)`` where kept, +0.0 where dropped.

        Parameters
        ----------
        shape : int or tuple of int
            Shape of the mask.
        drop : float, array of one element or None
            Probability of **dropping**, in ``[0, 1]``; None is 0.

        Returns
        -------
        ndarray of float32

        Raises
        ------
        TypeError, ValueError
            If drop is no probability. NumpyOps takes any number for one.

        Notes
        -----
        One position of the generator is taken, or one seed drawn, unless drop is 0.
        """
        p = _read_rate(drop, "drop")
        if p == 0.0:
            return np.ones(shape, np.float32)
        source = _global_generator() if self.rng is None else self.rng
        mask: Mask = rules.elements(p, None, "upscale_in_train").mask(shape, True, source)
        return mask.multiplier()


def Dropout(rate: float | None = 0.0, rng: Any = None) -> Model[Any, Any]:
    """Layer that drops elements of arrays, Ragged, Padded and lists, and keeps no masks.

    It takes the place of `thinc.api.Dropout`, with any Ops on CPU. In a config it is
    ``"@layers": "fastdrop.Dropout.v1"``.

    Parameters
    ----------
    rate : float, array of one element, None or a schedule, optional
        Probability of **dropping**, in ``[0, 1]``; None is 0. It is the model's attribute
        ``dropout_rate``, which ``thinc.api.set_dropout_rate`` sets, and is read at each call in
        training: there has to be a schedule's rate for the step then, not the schedule.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where masks come from, as in `FastdropOps`. Two layers given the same int drop the same
        elements; give all of a model one `Generator`, or None.

    Returns
    -------
    thinc.api.Model
        Named ``"dropout"``, with the attributes ``dropout_rate`` and ``is_enabled``, as thinc's.

    Raises
    ------
    TypeError, ValueError
        If rate is no probability, here or at a call that drops; if rng is of an unknown kind; and
        at such a call as `fastdrop.dropout` for the arrays, which have to be of a float type.

    Notes
    -----
    What ``backprop`` remembers is a `Mask`, a few dozen bytes, from which the decisions are made
    again. Gradients keep their dtype. Elements are selected, not multiplied: a dropped NaN
    leaves +0.0.

    A list gets one mask: the same decisions that its arrays get when they are concatenated, alone
    or as a Ragged. They must be of one dtype; what comes back are views of one array.

    In prediction, with rate 0 or None and where ``is_enabled`` is False, the input itself is
    returned. As in thinc the rate is read only where it is needed: prediction takes any.

    **Compatibility guarantee.** As for `FastdropOps`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastdrop.thinc import Dropout
    >>> model = Dropout(0.5, rng=0)
    >>> y, backprop = model(np.ones((2, 4), np.float32), is_train=True)
    >>> y
    array([[2., 0., 2., 0.],
           [2., 0., 2., 2.]], dtype=float32)
    >>> bool((backprop(np.ones_like(y)) == y).all())
    True
    """
    if not _is_schedule(rate):
        p = _read_rate(rate, "rate")
        rate = p if isinstance(rate, Real) else rate  # as a float any number can be saved
    attrs = {"dropout_rate": rate, "is_enabled": True}
    return Model("dropout", partial(_forward, _as_generator(rng)), attrs=attrs)


def _forward(
    generator: Any, model: Model[Any, Any], X: Any, is_train: bool
) -> tuple[Any, Callable[..., Any]]:
    if not (model.attrs["is_enabled"] and is_train):
        return X, _unchanged
    p = _read_rate(model.attrs["dropout_rate"], "dropout_rate")
    if p == 0.0:
        return X, _unchanged
    return _drop(X, p, _global_generator() if generator is None else generator)


def use_fastdrop(rng: Any = None) -> Callable[[Any], Any]:
    """Return a callback that puts `FastdropOps` in NumpyOps' place, for a spaCy training config.

    .. code-block:: ini

        [nlp.before_creation]
        @callbacks = "fastdrop.use_fastdrop.v1"

    Parameters
    ----------
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `FastdropOps`.

    Returns
    -------
    callable
        Takes one argument, sets the Ops, and returns the argument. Ops of another kind than
        `thinc.api.NumpyOps`, as those of a GPU are, stay.

    Raises
    ------
    TypeError, ValueError
        As `FastdropOps`.

    Examples
    --------
    >>> from thinc.api import get_current_ops, use_ops
    >>> from fastdrop.thinc import use_fastdrop
    >>> with use_ops("cpu"):  # put back at the end
    ...     nlp = use_fastdrop()("what spaCy makes")
    ...     get_current_ops().name
    'fastdrop'
    """
    return partial(_set_ops, FastdropOps(rng=rng))


def _set_ops(ops: FastdropOps, nlp: Any) -> Any:
    if type(get_current_ops()) is NumpyOps:
        set_current_ops(ops)
    return nlp


def _drop(X: Any, p: float, source: Source) -> tuple[Any, Callable[..., Any]]:
    if isinstance(X, Ragged):
        y, backprop = _drop_array(X.dataXd, p, source)
        return Ragged(y, X.lengths), lambda dY: Ragged(backprop(dY.dataXd), dY.lengths)
    if isinstance(X, Padded):
        y, backprop = _drop_array(X.data, p, source)
        return _padded(y, X), lambda dY: _padded(backprop(dY.data), dY)
    if isinstance(X, Sequence):
        return _drop_list(X, p, source)
    return _drop_array(X, p, source)


def _drop_array(x: Any, p: float, source: Source) -> tuple[Array, Callable[[Array], Array]]:
    y, mask = functional.dropout(x, p, rng=source, return_mask=True)
    return y, mask.backward


def _padded(data: Array, like: Any) -> Any:
    return Padded(data, like.size_at_t, like.lengths, like.indices)


def _drop_list(
    arrays: Sequence[Array], p: float, source: Source
) -> tuple[list[Array], Callable[[Sequence[Array]], list[Array]]]:
    """Drop from all at once, in place where they were joined: a call for each would cost more."""
    joined = _join(arrays, "x")
    _, mask = functional.dropout(joined, p, rng=source, out=joined, return_mask=True)

    shapes = [x.shape for x in arrays]

    def backprop(grads: Sequence[Array]) -> list[Array]:
        joined = _join(grads, "dY")
        given = [grad.shape for grad in grads]
        if given != shapes:
            raise ValueError(f"dY has arrays of shapes {given}; the output has {shapes}")
        return _split(mask.backward(joined, out=joined), shapes)

    return _split(joined, shapes), backprop


def _join(arrays: Sequence[Array], name: str) -> Array:
    """Concatenate the elements of arrays, in C order."""
    if not arrays:
        return np.empty(0, np.float32)
    for i, x in enumerate(arrays):
        if not isinstance(x, np.ndarray):
            raise TypeError(
                f"{name}[{i}] is a {type(x).__name__}; a list has to hold arrays: give "
                f"np.asarray(..., np.float32)"
            )
    dtypes = {x.dtype for x in arrays}
    if len(dtypes) > 1:
        raise TypeError(
            f"{name} is a list of arrays of {', '.join(sorted(map(str, dtypes)))}; it must be of "
            "one dtype: convert them, as in [a.astype(np.float32) for a in arrays]"
        )
    return np.concatenate([x.reshape(-1) for x in arrays])


def _split(joined: Array, shapes: list[tuple[int, ...]]) -> list[Array]:
    ends = accumulate(map(prod, shapes), initial=0)
    return [joined[a:b].reshape(s) for (a, b), s in zip(pairwise(ends), shapes, strict=True)]


def _unchanged(dY: Any) -> Any:
    return dY


def _read_rate(rate: Any, name: str) -> float:
    """Return a rate as a float: None is 0, as is False, and an array stands for its one element."""
    if type(rate) is float:  # as nearly always; the rest takes .7 us
        return check_p(rate, name)
    if rate is None:
        return 0.0
    if _is_schedule(rate):
        raise TypeError(
            f"{name} is a schedule; give its rate for the step, as in thinc.api.set_dropout_rate("
            "model, schedule(step)), or next(schedule) where it is an iterator"
        )
    if hasattr(rate, "__array__"):  # a scalar too: not every one of NumPy's is a numbers.Real
        array = np.asarray(rate)
        if array.size == 1:
            rate = array.item()
    return check_p(float(rate) if isinstance(rate, bool) else rate, name)


def _is_schedule(rate: Any) -> bool:
    """Whether a rate depends on the step: thinc 9's schedules are called, thinc 8's iterated."""
    return callable(rate) or isinstance(rate, Iterator)


def _as_generator(rng: Any) -> Any:
    """Return what masks are taken from, None or one of NumPy's legacy generators among it."""
    if rng is None:
        return None
    source = as_source(rng)
    return Generator(source) if isinstance(source, np.random.Generator) else source


def _global_generator() -> np.random.Generator:
    """Return NumPy's global random numbers, which thinc's seeds set."""
    return np.random.Generator(np.random.mtrand.get_bit_generator())

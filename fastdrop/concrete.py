"""Concrete dropout: relaxed decisions, through which the rate of dropping is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.layer import NO_MASK, NO_OUTPUT, Setting
from fastdrop.learned import (
    Floats,
    LearnedLayer,
    must_broadcast,
    product,
    read_parameter,
    sigmoid,
    summed_to,
)
from fastdrop.mask import Mask
from fastdrop.rates import as_bool, as_real
from fastdrop.rules import Rule

# Whatever np.errstate says: gates that are closed underflow, and x may be infinite.
_quiet = np.errstate(all="ignore")


@overload
def concrete_dropout(
    x: ArrayLike,
    logit: ArrayLike,
    temperature: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    return_mask: Literal[False] = ...,
) -> Array: ...
@overload
def concrete_dropout(
    x: ArrayLike,
    logit: ArrayLike,
    temperature: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    return_mask: Literal[True],
) -> tuple[Array, Mask]: ...
@overload
def concrete_dropout(
    x: ArrayLike,
    logit: ArrayLike,
    temperature: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    return_mask: bool,
) -> Array | tuple[Array, Mask]: ...
@_quiet
def concrete_dropout(
    x: ArrayLike,
    logit: ArrayLike,
    temperature: float = 0.1,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Mask]:
    """Dropout by relaxed decisions, which have a gradient by the rate: the rate can be learned.

    Parameters
    ----------
    x : array_like
        Of any shape and of a dtype that `dropout` takes.
    logit : array_like
        ``log(p / (1-p))`` of the probability p of **dropping**: one number, or an array that
        broadcasts to x, such as (F,) for a rate a unit.
    temperature : float, optional
        How soft the decisions are, above 0. Towards 0 they become those of `dropout`.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `concrete_dropout_backward`.
    training, rng, noise_shape : as in `dropout`

    Returns
    -------
    y : ndarray
        Of x's shape and dtype; in inference x itself, as from `dropout`.
    mask : Mask
        Only with ``return_mask=True``: the recipe of the random numbers. Its p, the mean where
        there are many, is none of the backward pass's concern.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where the logit is not finite or does not broadcast to x, or
        the temperature is not above 0.

    See Also
    --------
    concrete_dropout_backward : its gradients.
    fastdrop.nn.ConcreteDropout : the layer, with the regulariser without which p falls to 0.

    Notes
    -----
    The Concrete relaxation [1]_ of the decisions [2]_, for an element whose uniform number is u:

        drop = sigmoid((logit + log((1-u) / u)) / temperature)
        y = x * (1 - drop) / (1 - p)

    The paper adds ``log(u / (1-u))``, which is distributed alike. Thus as the temperature falls
    drop becomes 1 where ``u < p``, and 0 elsewhere: the decision of `dropout` at the same
    position. u is the element's number in the stream, a multiple of ``2**-40``, and ``2**-41``.

    All is worked out in float64, whatever the dtype, and rounded at the end (to bfloat16 by way of
    float32, as ml_dtypes does). It is for learning a rate, and costs accordingly; a rate that was
    learned is good for `dropout` too.

    **Compatibility guarantee.** As for `dropout`, for the uniform numbers; the gates pass through
    NumPy's logarithm and exponential function, which may round otherwise on another machine.

    References
    ----------
    .. [1] C. J. Maddison, A. Mnih and Y. W. Teh, "The Concrete distribution: a continuous
       relaxation of discrete random variables", ICLR 2017.
    .. [2] Y. Gal, J. Hron and A. Kendall, "Concrete dropout", NIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, logit = np.ones(8), 0.0  # p = 0.5
    >>> fd.concrete_dropout(x, logit, rng=0).round(2)
    array([1.05, 0.4 , 1.96, 0.01, 2.  , 0.  , 2.  , 2.  ])
    >>> fd.dropout(x, 0.5, rng=0)
    array([2., 0., 2., 0., 2., 0., 2., 2.])
    """
    training = as_bool(training, "training")
    temperature = _read_temperature(temperature)
    x, logits = _read(x, logit)
    p = float(np.mean(sigmoid(logits))) if logits.size else 0.0
    if training:  # a mask whose p is 0 is one of inference
        p = max(p, float(np.finfo(np.float64).tiny))
    rule = rules.elements(p, noise_shape, "upscale_in_train")
    if not training:
        y, mask = x, rule.mask(x.shape, False, rng)
    else:
        # memory for the result is had before a position is taken, that of the gates after it
        wide, y = _widened(x), np.empty(x.shape, x.dtype.newbyteorder("="))
        mask = rule.mask(x.shape, True, rng)
        factor, _ = _gates(mask, logits, temperature)
        y[...] = wide * factor
    return (y, mask) if return_mask else y


@_quiet
def concrete_dropout_backward(
    grad: ArrayLike, x: ArrayLike, mask: Mask, logit: ArrayLike, temperature: float = 0.1
) -> tuple[Array, Floats]:
    """Gradients of `concrete_dropout` by x and by the logit.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, of x's shape and dtype.
    x : array_like
        What `concrete_dropout` was given.
    mask : Mask
        What it returned.
    logit, temperature
        As in the call that made it.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype.
    dlogit : ndarray of float64
        Of the logit's shape, 0-d for one number: exact for these random numbers, through the gates
        and through ``1 / (1-p)``.

    Raises
    ------
    TypeError, ValueError
        Where they do not fit each other.

    Notes
    -----
    The gates are regenerated. An element's factor f, ``(1-drop) / (1-p)``, has the derivative
    ``f * (p - drop / temperature)`` by the logit; those are multiplied by ``grad * x`` and summed
    in float64. By p itself it is ``dlogit / (p * (1-p))``.

    **Compatibility guarantee.** As for `concrete_dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, logit = np.ones((3, 4)), np.zeros(4)  # a rate a unit
    >>> y, mask = fd.concrete_dropout(x, logit, rng=0, return_mask=True)
    >>> dx, dlogit = fd.concrete_dropout_backward(np.ones((3, 4)), x, mask, logit)
    >>> bool((dx == y).all()), dlogit.shape
    (True, (4,))
    """
    temperature = _read_temperature(temperature)
    x, logits = _read(x, logit)
    grad = as_input(grad, "grad")
    if grad.dtype.newbyteorder("=") != x.dtype.newbyteorder("="):
        raise TypeError(f"grad has dtype {grad.dtype}; it must be that of x, {x.dtype}")
    if grad.shape != x.shape:
        raise ValueError(f"grad has shape {grad.shape}; x has {x.shape}")
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, not {type(mask).__name__}")
    if mask.shape != x.shape:
        raise ValueError(f"mask has shape {mask.shape}; x has {x.shape}")
    kind = x.dtype.newbyteorder("=")
    if mask.p == 0.0:  # of inference
        return np.array(grad, kind, order="C", subok=False), np.zeros(logits.shape)
    factor, slope = _gates(mask, logits, temperature)
    wide = _widened(grad)
    slope *= wide * _widened(x)
    return np.asarray(wide * factor).astype(kind), summed_to(logits.shape, slope)


class ConcreteDropout(LearnedLayer):
    """Dropout that learns its rate, by gradients through relaxed decisions.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** to start from, in ``(0, 1)``.
    shape : int or sequence of int, optional
        Shape of `logit`, which broadcasts to the input: (), one rate, or such as (F,), a rate a
        unit.
    temperature : float, optional
        How soft the decisions are, see `concrete_dropout`.
    weight_regularizer, dropout_regularizer : float, optional
        Of `regularizer`, see there: they depend on the number of examples.
    noise_shape, rng : as in `Dropout`

    Attributes
    ----------
    logit : ndarray of float64
        The parameter to learn, ``log(p / (1-p))``. Update it in place, or set it.
    p : float or ndarray
        Its probability of dropping.

    Raises
    ------
    TypeError, ValueError
        As `Dropout`; ValueError also where p is 0 or 1, whose logit is infinite.

    See Also
    --------
    fastdrop.concrete_dropout : the function, with the references.
    Dropout : the protocol of all layers: `train`, `eval`, `state_dict`.

    Notes
    -----
    `backward` returns two gradients. x is remembered until the next forward pass, not copied; the
    gates are not. Used several times before backward, take the function and keep each call's mask.
    In evaluation it passes its input on.

    A step of gradient descent: forward, backward, then subtract from `logit` both its gradients,
    that of `backward` and that of `regularizer`, times the learning rate.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.ConcreteDropout(0.1, rng=0, weight_regularizer=1e-4, dropout_regularizer=1e-2)
    >>> x, weight = np.ones((64, 20)), np.ones((20, 5))
    >>> y = layer(x) @ weight
    >>> dx, dlogit = layer.backward(np.ones((64, 5)) @ weight.T)
    >>> penalty, dweight, more = layer.regularizer(weight)
    >>> layer.logit -= 1e-3 * (dlogit + more)
    >>> layer.p != 0.1
    True
    """

    _parameter = "logit"
    temperature: Setting[float] = Setting(0.1)
    weight_regularizer: Setting[float] = Setting(1e-6)
    dropout_regularizer: Setting[float] = Setting(1e-5)
    noise_shape: Setting[int | Sequence[int | None] | None] = Setting(None)

    def __init__(
        self,
        p: float = 0.1,
        *,
        shape: int | Sequence[int] = (),
        temperature: float = 0.1,
        weight_regularizer: float = 1e-6,
        dropout_regularizer: float = 1e-5,
        noise_shape: int | Sequence[int | None] | None = None,
        rng: Any = None,
    ) -> None:
        self.temperature = temperature
        self.weight_regularizer = weight_regularizer
        self.dropout_regularizer = dropout_regularizer
        self.noise_shape = noise_shape
        super().__init__(p, shape, rng=rng)

    def _rule(self, p: float) -> Rule:
        _read_temperature(self.temperature)
        for name in ("weight_regularizer", "dropout_regularizer"):
            value = as_real(getattr(self, name), name)
            if not 0.0 <= value < np.inf:
                raise ValueError(f"{name}={value} must be from 0 on, and finite")
        return rules.elements(p, self.noise_shape, "upscale_in_train")

    @property
    def logit(self) -> Floats:
        """The parameter to learn; setting it writes into the same array."""
        return self._learned

    @logit.setter
    def logit(self, logit: ArrayLike) -> None:
        self._learn(logit)

    def forward(self, x: ArrayLike, *, training: bool | None = None) -> Array:  # type: ignore[override]
        """Apply relaxed dropout; remember its mask and x.

        Parameters
        ----------
        x : array_like
            Of any shape to which `logit` broadcasts.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        ndarray
            Of x's shape and dtype; in evaluation x itself.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.concrete_dropout`. The layer is then as it was.
        """
        y, self.mask = concrete_dropout(
            x,
            self.logit,
            self.temperature,
            training=self.training if training is None else training,
            rng=self._rng,
            noise_shape=self.noise_shape,
            return_mask=True,
        )
        self._inputs = x
        return y

    def backward(self, grad: ArrayLike) -> tuple[Array, Floats]:  # type: ignore[override]
        """Gradients by x and by `logit` of the last forward pass.

        Parameters
        ----------
        grad : array_like
            Gradient by its output.

        Returns
        -------
        dx, dlogit : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass, and in a copy: copies and pickles are without x.
        TypeError, ValueError
            As `fastdrop.concrete_dropout_backward`.

        Notes
        -----
        Call it before the parameter is changed: the gates are regenerated from what it is.
        """
        if self.mask is None:
            raise RuntimeError(NO_MASK)
        if self._inputs is None:
            raise RuntimeError(NO_OUTPUT)
        return concrete_dropout_backward(
            grad, self._inputs, self.mask, self.logit, self.temperature
        )

    @_quiet
    def regularizer(self, weight: ArrayLike) -> tuple[float, Array, Floats]:
        """Return the paper's penalty, which the loss gains, and its gradients.

        Parameters
        ----------
        weight : array_like
            Weights that the layer's output is multiplied by, shape (K, ...): K is the number of its
            units.

        Returns
        -------
        value : float
            ``weight_regularizer * sum(weight**2) / (1-p) + dropout_regularizer * K * (p * log(p) +
            (1-p) * log(1-p))``. With a rate a unit each row of the weights has its own p, and
            each unit its own entropy.
        dweight : ndarray
            Of the weights' shape and dtype.
        dlogit : ndarray of float64
            Of the logit's shape.

        Raises
        ------
        TypeError, ValueError
            If weight is no array of floating-point numbers with at least one axis, or the logit has
            neither one element nor K.

        Notes
        -----
        For N examples and a loss that is the mean squared error in units of the noise's variance,
        twice the mean negative log-likelihood, ``weight_regularizer = l**2 / N`` and
        ``dropout_regularizer = 2 / N``, where l is the prior's length scale, a small number such as
        1e-2 [1]_. For the mean negative log-likelihood itself, as cross-entropy is, it is half of
        each. The first term is the paper's ``(1-p) * sum(M**2)``, for weights M in front of which
        nothing is scaled by ``1 / (1-p)``: ``M = weight / (1-p)``. The second draws p to 0.5, the
        more so the more units there are and the fewer examples.

        References
        ----------
        .. [1] Y. Gal, J. Hron and A. Kendall, "Concrete dropout", NIPS 2017.
        """
        weight = as_input(weight, "weight")
        if weight.ndim == 0:
            raise ValueError("weight is 0-d; it must be (K, ...), at least one axis")
        units, rates = len(weight), self.logit.ravel()
        if rates.size not in (1, units):
            raise ValueError(
                f"logit has shape {self.logit.shape}; for weights of shape {weight.shape} it must "
                f"have 1 or {units} elements"
            )
        wide = weight.astype(np.float64)
        p, scale = sigmoid(rates), 1 + np.exp(rates)  # 1 / (1-p)
        a, b = self.weight_regularizer, self.dropout_regularizer
        squares = a * np.square(wide).sum(tuple(range(1, wide.ndim)))
        entropy = p * np.logaddexp(0, -rates) + (1 - p) * np.logaddexp(0, rates)
        value = np.sum(product(squares, scale) - b * entropy)
        scales = np.broadcast_to(scale, units).reshape(-1, *[1] * (wide.ndim - 1))
        dweight = product(2 * a * wide, scales)
        slopes = product(squares, np.exp(rates)) + b * p * (1 - p) * rates
        dlogit = summed_to(rates.shape, slopes).reshape(self.logit.shape)
        return float(value), dweight.astype(weight.dtype.newbyteorder("=")), dlogit


def _read(x: Any, logit: Any) -> tuple[Array, Floats]:
    x, logits = as_input(x, "x"), read_parameter(logit, "logit")
    must_broadcast(logits, "logit", x.shape, "x")
    return x, logits


def _read_temperature(temperature: Any) -> float:
    value = as_real(temperature, "temperature")
    if not 0.0 < value < np.inf:
        raise ValueError(f"temperature={temperature!r} must be above 0, and finite")
    return value


def _widened(array: Array) -> Array:
    """Return an array in the type to multiply in; 0-d stays 0-d."""
    return np.asarray(array, np.float64, order="C")


def _gates(mask: Mask, logit: Floats, temperature: float) -> tuple[Floats, Floats]:
    """Return what x is multiplied by, ``(1-drop) / (1-p)``, and its derivative by the logit."""
    u = mask.uniform() + 2.0**-41
    drop_logit = (logit + np.log1p(-u) - np.log(u)) / temperature
    # in logarithms: 1-drop and 1-p may both be too small for a float64, and their quotient none
    factor = np.exp(np.logaddexp(0.0, logit) - np.logaddexp(0.0, drop_logit))
    return factor, factor * (sigmoid(logit) - sigmoid(drop_logit) / temperature)

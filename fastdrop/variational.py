"""Variational dropout: Gaussian noise on weights, whose variance is learned; much of it sparse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.connect import bias_gradient, factors, must_fit, widened
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
from fastdrop.noise import Noise
from fastdrop.rates import as_bool, as_real, check_p
from fastdrop.rules import Rule

# Whatever np.errstate says: sums and variances that overflow do not raise half-way.
_quiet = np.errstate(all="ignore")


@overload
def variational_dropout(
    x: ArrayLike,
    weight: ArrayLike,
    log_alpha: ArrayLike,
    *,
    bias: ArrayLike | None = ...,
    threshold: float = ...,
    training: bool = ...,
    rng: Any = ...,
    return_mask: Literal[False] = ...,
) -> Array: ...
@overload
def variational_dropout(
    x: ArrayLike,
    weight: ArrayLike,
    log_alpha: ArrayLike,
    *,
    bias: ArrayLike | None = ...,
    threshold: float = ...,
    training: bool = ...,
    rng: Any = ...,
    return_mask: Literal[True],
) -> tuple[Array, Noise]: ...
@overload
def variational_dropout(
    x: ArrayLike,
    weight: ArrayLike,
    log_alpha: ArrayLike,
    *,
    bias: ArrayLike | None = ...,
    threshold: float = ...,
    training: bool = ...,
    rng: Any = ...,
    return_mask: bool,
) -> Array | tuple[Array, Noise]: ...
@_quiet
def variational_dropout(
    x: ArrayLike,
    weight: ArrayLike,
    log_alpha: ArrayLike,
    *,
    bias: ArrayLike | None = None,
    threshold: float = 3.0,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Noise]:
    """Multiply by weights that have Gaussian noise, in proportion to themselves: it can be learned.

    Parameters
    ----------
    x : array_like
        Shape (N, F_in).
    weight : array_like
        Shape (F_in, F_out): the means of the weights.
    log_alpha : array_like
        The logarithm of alpha, the noise's variance over the mean's square: one number, or an array
        that broadcasts to the weights, as (F_in, F_out), one a weight, (F_in, 1), one an input,
        or (F_out,), one an output. It is the logit of p, for ``alpha = p / (1-p)`` as in
        `gaussian_dropout`.
    bias : array_like, optional
        Shape (F_out,); it has no noise.
    threshold : float, optional
        In inference, weights whose log_alpha is not below it are taken for 0. ``math.inf`` leaves
        all as they are.
    training : bool, optional
        Whether there is noise; if not, the result is ``x @ (weight * (log_alpha < threshold)) +
        bias``.
    return_mask : bool, optional
        Whether to return the `Noise` too, for `variational_dropout_backward`.
    rng : as in `dropout`

    Returns
    -------
    y : ndarray
        Shape (N, F_out), of the wider dtype of x and weight.
    mask : Noise
        Only with ``return_mask=True``: of shape (N, F_out). In inference its sd is 0.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `drop_connect`; also where log_alpha is not finite or does not broadcast to the weights,
        or the threshold is NaN.

    See Also
    --------
    variational_dropout_backward : its gradients.
    variational_kl : the penalty without which alpha falls to 0.
    fastdrop.nn.VariationalDropout : the layer.

    Notes
    -----
    Weights ``weight * (1 + sqrt(alpha) * noise)``, drawn for each example by itself, would give
    each output a normal distribution, of which this is a sample, the local reparametrisation [1]_:

        mean = x @ weight
        variance = (x**2) @ (alpha * weight**2)
        y = mean + sqrt(variance) * z + bias

    With one alpha it is the paper's variational dropout of type A; with one a weight, the sparse
    form [2]_. What the paper calls type B, noise on x that all outputs share, is not this: it is
    `gaussian_dropout`, at a rate that you set. 16-bit types are multiplied and summed in float32,
    and rounded at the end.

    **Compatibility guarantee.** As for `Noise`, for z; sums in a matrix product, and NumPy's
    exponential function, may round otherwise on another machine.

    References
    ----------
    .. [1] D. P. Kingma, T. Salimans and M. Welling, "Variational dropout and the local
       reparameterization trick", NIPS 2015.
    .. [2] D. Molchanov, A. Ashukha and D. Vetrov, "Variational dropout sparsifies deep neural
       networks", ICML 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.ones((3, 4)), np.ones((4, 2))
    >>> y, noise = fd.variational_dropout(x, weight, np.log(0.25), rng=0, return_mask=True)
    >>> bool(np.allclose(y, 4 + np.sqrt(4 * 0.25) * noise.normals()))
    True
    >>> fd.variational_dropout(x, weight, np.array([0.0, 9.0]), training=False)  # the second is off
    array([[4., 0.],
           [4., 0.],
           [4., 0.]])
    """
    training = as_bool(training, "training")
    threshold = _read_threshold(threshold)
    x, weight, log_alphas = _read(x, weight, log_alpha)
    if bias is not None:
        bias = as_input(bias, "bias")
        must_fit(bias, "bias", weight.shape[1:], x.dtype)
    shape, kind = (len(x), weight.shape[1]), x.dtype
    x, weight = widened(x, weight)
    if training:
        y, sd = x @ weight, _deviation(x, _variances(weight, log_alphas))
        mask = _RULE.mask(shape, True, rng)
        sd *= mask.normals()
        y += sd
    else:
        mask = _RULE.mask(shape, False, rng)
        y = x @ _kept(weight, log_alphas, threshold)
    if bias is not None:
        y += bias.astype(y.dtype)
    y = y.astype(kind, copy=False)
    return (y, mask) if return_mask else y


@_quiet
def variational_dropout_backward(
    grad: ArrayLike,
    x: ArrayLike,
    weight: ArrayLike,
    mask: Noise,
    log_alpha: ArrayLike,
    *,
    threshold: float = 3.0,
) -> tuple[Array, Array, Floats]:
    """Gradients of `variational_dropout` by x, by the weights and by log_alpha.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, shape (N, F_out); its sum over N is the gradient by the bias.
    x : array_like
        What `variational_dropout` was given.
    weight : array_like
        Likewise.
    mask : Noise
        What it returned.
    log_alpha, threshold
        As in the call that made it.

    Returns
    -------
    dx : ndarray
        Of x's shape.
    dweight : ndarray
        Of weight's shape.
    dlog_alpha : ndarray of float64
        Of log_alpha's shape; zeros where the call was one of inference.

    Raises
    ------
    TypeError, ValueError
        Where they do not fit each other.

    Notes
    -----
    Exact for the noise of the call, which is regenerated with its variances; nothing of their size
    was kept. Where an output's variance is 0, so is its gradient by it.

    For weights w and **additive** noise of variance sigma**2, the sparse paper's parametrisation,
    ``log_alpha = log_sigma2 - log(w**2)``: the gradient by log_sigma2 is dlog_alpha, and that by
    w ``dweight - 2 * dlog_alpha / w``.

    **Compatibility guarantee.** As for `variational_dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight, log_alpha = np.ones((3, 4)), np.ones((4, 2)), np.zeros((4, 2))
    >>> y, mask = fd.variational_dropout(x, weight, log_alpha, rng=0, return_mask=True)
    >>> dx, dweight, dlog_alpha = fd.variational_dropout_backward(
    ...     np.ones((3, 2)), x, weight, mask, log_alpha
    ... )
    >>> bool(np.allclose(dlog_alpha, mask.normals().sum(0) / 4))
    True
    """
    threshold = _read_threshold(threshold)
    x, weight, log_alphas = _read(x, weight, log_alpha)
    grad = as_input(grad, "grad")
    shape = (len(x), weight.shape[1])
    must_fit(grad, "grad", shape, x.dtype)
    if not isinstance(mask, Noise):
        raise TypeError(f"mask must be a Noise, not {type(mask).__name__}")
    if mask.shape != shape:
        raise ValueError(f"mask has shape {mask.shape}; it must be {shape}")
    kind, (x, weight, grad) = x.dtype, widened(x, weight, grad)
    if mask.sd == 0.0:  # of inference
        dx = grad @ _kept(weight, log_alphas, threshold).T
        dweight = _kept(x.T @ grad, log_alphas, threshold)
        dlog_alpha = np.zeros(log_alphas.shape)
    else:
        variances, squares = _variances(weight, log_alphas), np.square(x)
        sd = _deviation(x, variances)
        dvariance = grad * mask.normals()
        np.divide(dvariance, 2 * sd, out=dvariance, where=sd != 0)
        dvariance[sd == 0] = 0
        dx = grad @ weight.T + 2 * x * (dvariance @ variances.T)
        dvariances = squares.T @ dvariance
        dweight = x.T @ grad + _slopes(weight, log_alphas) * dvariances
        dlog_alpha = summed_to(log_alphas.shape, variances * dvariances)
    return dx.astype(kind, copy=False), dweight.astype(kind, copy=False), dlog_alpha


@_quiet
def variational_kl(log_alpha: ArrayLike) -> tuple[Floats, Floats]:
    """Divergence of a weight's distribution from the log-uniform prior, and its derivative.

    Parameters
    ----------
    log_alpha : array_like
        Of any shape: the logarithm of each weight's alpha, see `variational_dropout`.

    Returns
    -------
    kl : ndarray of float64
        Of log_alpha's shape: in nats, and 0 where alpha is infinite, for the prior is improper.
    dkl : ndarray of float64
        Its derivative by log_alpha, below 0 everywhere.

    Raises
    ------
    TypeError, ValueError
        If log_alpha is no array of finite floating-point numbers.

    Notes
    -----
    The approximation of [1]_, with k1, k2, k3 = 0.63576, 1.87320, 1.48695:

        kl = k1 + 0.5 * log(1 + 1/alpha) - k1 * sigmoid(k2 + k3 * log_alpha)

    Published as right to 0.009 for all alpha, up to a constant. Measured against the exact
    divergence where both are 0 for infinite alpha: right to 0.0094 for log_alpha in [-10, 12],
    farthest at -3.5, and to 0.0054 from -2.5 on.

    References
    ----------
    .. [1] D. Molchanov, A. Ashukha and D. Vetrov, "Variational dropout sparsifies deep neural
       networks", ICML 2017.

    Examples
    --------
    >>> import fastdrop as fd
    >>> kl, dkl = fd.variational_kl([-4.0, 0.0, 2.0])
    >>> kl.round(2)
    array([2.63, 0.43, 0.07])
    """
    log_alphas = read_parameter(log_alpha, "log_alpha")
    gate = sigmoid(K2 + K3 * log_alphas)
    kl = np.asarray(K1 + 0.5 * np.logaddexp(0.0, -log_alphas) - K1 * gate)
    return kl, np.asarray(-0.5 * sigmoid(-log_alphas) - K1 * K3 * gate * (1 - gate))


K1, K2, K3 = 0.63576, 1.87320, 1.48695


class VariationalDropout(LearnedLayer):
    """A linear map whose weights have noise of a learned variance; many can be left out in the end.

    Parameters
    ----------
    p : float, optional
        Rate to start from, in ``(0, 1)``: the noise's variance is ``alpha = p / (1-p)`` times a
        weight's square, as in `GaussianDropout`.
    shape : int or sequence of int, optional
        Shape of `log_alpha`, which broadcasts to the weights: that of the weights, (F_in, F_out),
        for the sparse form; (F_in, 1) or (F_out,) for one alpha a unit; (), one for all.
    threshold : float, optional
        In evaluation, weights whose log_alpha is not below it are taken for 0: 3 is the paper's, p
        of 0.95; ``math.inf`` leaves all. Where alpha is shared, so is the decision.
    rng : as in `Dropout`

    Attributes
    ----------
    log_alpha : ndarray of float64
        The parameter to learn. Update it in place, or set it.
    p : float or ndarray
        ``alpha / (1 + alpha)``.

    Raises
    ------
    TypeError, ValueError
        As `Dropout`; ValueError also where p is 0 or 1, whose log_alpha is infinite.

    See Also
    --------
    fastdrop.variational_dropout : the function, with the references.
    DropConnect : weights that are dropped at a given rate.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers. x and the weights
    are remembered until the next forward pass, not copied; the noise is not. Used several times
    before backward, take the function and keep each call's mask. `mask` is a `fastdrop.Noise`.

    The loss, the mean negative log-likelihood of N examples, gains ``kl(weight) / N``. The papers
    let this term rise from 0 over the first epochs, for at once it would remove what has not
    been learned yet. Where log_alpha runs away, keep it in bounds: ``np.clip(a, -8, 8, out=a)``.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.VariationalDropout(0.1, shape=(4, 2), rng=0)
    >>> x, weight, bias = np.ones((3, 4)), np.ones((4, 2)), np.zeros(2)
    >>> y = layer(x, weight, bias)
    >>> dx, dweight, dbias, dlog_alpha = layer.backward(np.ones((3, 2)))
    >>> penalty, more = layer.kl(weight)
    >>> layer.log_alpha -= 0.1 * (dlog_alpha + more / 3)
    >>> layer.log_alpha[:2] = 4.0  # as if learned
    >>> layer.sparsity()
    0.5
    >>> layer.eval()(x, weight, bias)
    array([[2., 2.],
           [2., 2.],
           [2., 2.]])
    """

    _parameter = "log_alpha"
    threshold: Setting[float] = Setting(3.0)

    def __init__(
        self,
        p: float = 0.1,
        *,
        shape: int | Sequence[int] = (),
        threshold: float = 3.0,
        rng: Any = None,
    ) -> None:
        self.threshold = threshold
        super().__init__(p, shape, rng=rng)

    def _rule(self, p: float) -> Rule:
        check_p(p)
        _read_threshold(self.threshold)
        return _RULE

    @property
    def log_alpha(self) -> Floats:
        """The parameter to learn; setting it writes into the same array."""
        return self._learned

    @log_alpha.setter
    def log_alpha(self, log_alpha: ArrayLike) -> None:
        self._learn(log_alpha)

    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        training: bool | None = None,
    ) -> Array:
        """Return a sample of x times the noisy weights; in evaluation x times those that are left.

        Parameters
        ----------
        x : array_like
            Shape (N, F_in).
        weight : array_like
            Shape (F_in, F_out).
        bias : array_like, optional
            Shape (F_out,).
        training : bool, optional
            As in the other layers.

        Returns
        -------
        ndarray
            Shape (N, F_out).

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.variational_dropout`. The layer is then as it was.
        """
        y, self.mask = variational_dropout(
            x,
            weight,
            self.log_alpha,
            bias=bias,
            threshold=self.threshold,
            training=self.training if training is None else training,
            rng=self._rng,
            return_mask=True,
        )
        self._inputs = x, weight
        return y

    def backward(  # type: ignore[override]
        self, grad: ArrayLike
    ) -> tuple[Array, Array, Array, Floats]:
        """Gradients of the last forward pass by x, the weights, the bias and `log_alpha`.

        Parameters
        ----------
        grad : array_like
            Gradient by its output.

        Returns
        -------
        dx, dweight, dbias, dlog_alpha : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass, and in a copy: copies and pickles are without x.
        TypeError, ValueError
            As `fastdrop.variational_dropout_backward`.

        Notes
        -----
        Call it before the weights and the parameter are changed: what it needs of them is worked
        out again.
        """
        if self.mask is None:
            raise RuntimeError(NO_MASK)
        if self._inputs is None:
            raise RuntimeError(NO_OUTPUT)
        x, weight = self._inputs
        dx, dweight, dlog_alpha = variational_dropout_backward(
            grad, x, weight, self.mask, self.log_alpha, threshold=self.threshold
        )
        return dx, dweight, bias_gradient(grad), dlog_alpha

    def kl(self, weight: ArrayLike) -> tuple[float, Floats]:
        """Return the sum of all weights' `variational_kl`, which does not depend on their values.

        Parameters
        ----------
        weight : array_like
            The weights, for their shape: where they share an alpha each of them counts.

        Returns
        -------
        value : float
            In nats.
        dlog_alpha : ndarray of float64
            Its gradient, of log_alpha's shape.

        Raises
        ------
        ValueError
            If log_alpha does not broadcast to the weights.
        """
        must_broadcast(self.log_alpha, "log_alpha", np.shape(weight), "weight")
        kl, dkl = variational_kl(self.log_alpha)
        share = np.size(weight) / max(1, kl.size)  # of weights to an alpha
        return float(kl.sum() * share), dkl * share

    def sparsity(self, threshold: float | None = None) -> float:
        """Return the share of weights that are taken for 0 in evaluation.

        Parameters
        ----------
        threshold : float, optional
            That of log_alpha, by default the layer's.

        Returns
        -------
        float
            In [0, 1]; 0 where there are no weights.

        Raises
        ------
        TypeError, ValueError
            If the threshold is no number.
        """
        limit = _read_threshold(self.threshold if threshold is None else threshold)
        return float(np.count_nonzero(self.log_alpha >= limit) / max(1, self.log_alpha.size))


_RULE = rules.additive(1.0)


def _read(x: Any, weight: Any, log_alpha: Any) -> tuple[Array, Array, Floats]:
    x, weight = factors(x, weight)
    log_alphas = read_parameter(log_alpha, "log_alpha")
    must_broadcast(log_alphas, "log_alpha", weight.shape, "weight")
    return x, weight, log_alphas


def _read_threshold(threshold: Any) -> float:
    value = as_real(threshold, "threshold")
    if np.isnan(value):
        raise ValueError("threshold=nan; it must be a number, or infinite")
    return value


def _variances(weight: Array, log_alpha: Floats) -> Array:
    """Return the variance of each weight, in its type, which may not hold alpha alone."""
    return product(np.square(weight, dtype=np.float64), np.exp(log_alpha)).astype(weight.dtype)


def _slopes(weight: Array, log_alpha: Floats) -> Array:
    """Return the derivative of each variance by its weight, of the weights' type."""
    return product(2 * weight.astype(np.float64), np.exp(log_alpha)).astype(weight.dtype)


def _deviation(x: Array, variances: Array) -> Array:
    """Return the standard deviation of each output."""
    return np.asarray(np.sqrt(np.square(x) @ variances))


def _kept(array: Array, log_alpha: Floats, threshold: float) -> Array:
    """Return weights, or gradients by them, with 0 where they are taken for that."""
    return np.where(log_alpha < threshold, array, array.dtype.type(0))

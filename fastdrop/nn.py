"""Dropout as layers, for trainers written in NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, overload

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import functional
from fastdrop.arrays import Array
from fastdrop.config import STREAM
from fastdrop.generator import Generator, check_rng
from fastdrop.mask import Mask, check_p
from fastdrop.recipe import as_int

__all__ = [
    "AlphaDropout",
    "DropConnect",
    "DropPath",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "DropoutAdd",
    "EmbeddingDropout",
    "FeatureAlphaDropout",
    "GaussianDropout",
    "GaussianNoise",
    "LockedDropout",
    "WeightDropout",
    "mc_samples",
]

_NO_MASK = "backward before the first forward: there is no mask yet"


class _Layer:
    """What all layers have: the rate, the generator, the mask of the last pass, the state."""

    _function: ClassVar[str]  # of fastdrop.functional
    _settings: ClassVar[dict[str, Any]] = {}  # its further arguments and defaults
    _rate: ClassVar[str] = "p"  # its second argument
    _check: ClassVar[staticmethod[..., float]] = staticmethod(check_p)  # of that

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        setattr(self, self._rate, p)
        self.training = True
        self.mask: Mask | None = None
        self._rng: Generator | None = None
        self._owns_rng = rng is not None and not isinstance(rng, Generator)
        if rng is not None:
            source = check_rng(rng)
            self._rng = source if isinstance(source, Generator) else Generator(source)

    def _drop(self, x: ArrayLike, out: Array | None) -> tuple[Array, Mask]:
        """Apply the layer's function, in training or not."""
        result: tuple[Array, Mask] = getattr(functional, self._function)(
            x,
            self._p,
            training=self.training,
            rng=self._rng,
            out=out,
            return_mask=True,
            **{name: getattr(self, name) for name in self._settings},
        )
        return result

    @property
    def p(self) -> float:
        """Probability of dropping."""
        return self._p

    @p.setter
    def p(self, p: float) -> None:
        self._p = self._check(p)

    @overload
    def forward(
        self, x: ArrayLike, out: Array | None = ..., return_mask: Literal[False] = ...
    ) -> Array: ...
    @overload
    def forward(
        self, x: ArrayLike, out: Array | None = ..., *, return_mask: Literal[True]
    ) -> tuple[Array, Mask]: ...
    def forward(
        self, x: ArrayLike, out: Array | None = None, return_mask: bool = False
    ) -> Array | tuple[Array, Mask]:
        """Apply dropout; remember its mask.

        Parameters
        ----------
        x : array_like
            Of any shape.
        out : ndarray, optional
            Where to put the result, see `dropout`.
        return_mask : bool, optional
            Whether to return the mask too.

        Returns
        -------
        y : ndarray
            Of x's shape and dtype. In evaluation x itself, unless the layer scales it there.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As the function of the layer. The layer is then as it was.
        """
        y, self.mask = self._drop(x, out)
        return (y, self.mask) if return_mask else y

    __call__ = forward

    def __init_subclass__(cls) -> None:
        cls.__call__ = cls.forward  # type: ignore[method-assign]  # layer(x) is layer.forward(x)

    def backward(
        self, grad: ArrayLike, out: Array | None = None, mask: Mask | None = None
    ) -> Array:
        """Gradient by the input of a forward pass.

        Parameters
        ----------
        grad : array_like
            Gradient by its output.
        out : ndarray, optional
            Where to put the result; ``out=grad`` works in place.
        mask : Mask, optional
            Which forward pass, by default the last.

        Returns
        -------
        ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `Mask.backward`; ValueError where the shape is not that of the forward pass.
        """
        mask = self.mask if mask is None else mask
        if mask is None:
            raise RuntimeError(_NO_MASK)
        return mask.backward(grad, out)

    def train(self, mode: bool = True) -> Self:
        """Drop from now on (or not, with False); returns the layer."""
        self.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Pass inputs on from now on; returns the layer."""
        return self.train(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit; JSON holds it exactly.

        Returns
        -------
        dict
            ``stream``, ``p`` (or ``stddev``), and ``generator``: the state of the layer's own
            generator, None where it shares one (then save that generator's ``state`` yourself).
        """
        own = self._rng.state if self._owns_rng and self._rng is not None else None
        return {"stream": STREAM, self._rate: self._p, "generator": own}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Parameters
        ----------
        state : dict
            Of a layer that came by its generator in the same way.

        Raises
        ------
        TypeError, ValueError
            If it is no such dict, is of an unknown stream, or holds a generator where the layer
            owns none, or the other way round. The layer is then as it was.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state must be a dict, not {type(state).__name__}")
        if state.get("stream") != STREAM:
            raise ValueError(
                f"state has stream {state.get('stream')!r}; this version of fastdrop knows {STREAM}"
            )
        if not {self._rate, "generator"} <= state.keys():
            raise ValueError(f"state needs {self._rate!r} and 'generator'; it has {sorted(state)}")
        p, own = self._check(state[self._rate]), state["generator"]
        if (own is not None) != self._owns_rng:
            raise ValueError(
                "state holds a generator but the layer shares its own with others"
                if own is not None
                else "state holds no generator but the layer owns one: it was saved from a layer "
                "that shared its generator"
            )
        if own is not None and self._rng is not None:
            self._rng.state = own
        self._p = p

    def __repr__(self) -> str:
        shown = [f"{self._rate}={self._p}"]
        for name, default in self._settings.items():
            if getattr(self, name) != default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"


class Dropout(_Layer):
    """Dropout layer: drops in training, passes its input on in evaluation.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time, for a schedule.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, see `dropout`.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Turned into a generator once, here: an int, a ``SeedSequence`` or a
        ``numpy.random.Generator`` gives one that the layer owns; a `Generator` is shared with
        whoever else uses it; None looks the process's default generator up at each call. Two layers
        given the same int drop the same elements: pass one `Generator` to all layers of a model.
    mode : {"upscale_in_train", "downscale_in_infer"}, optional
        See `dropout`.

    Attributes
    ----------
    p : float
        Probability of dropping.
    training : bool
        Whether the layer drops; see `train` and `eval`.
    mask : Mask or None
        Recipe of the last forward pass, in evaluation the one that keeps everything.

    Raises
    ------
    TypeError, ValueError
        As `dropout` for p, rng and mode.

    See Also
    --------
    fastdrop.dropout : the function.

    Notes
    -----
    Every `forward` replaces `mask`; `backward` uses it and may be called any number of times. A
    layer is for one training thread; a `Generator` may be shared by many.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a
       simple way to prevent neural networks from overfitting", JMLR 15 (2014) 1929-1958.

    Examples
    --------
    A layer used several times before backward (shared weights, time steps): keep each call's mask.

    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout(0.5, rng=fd.Generator(0))
    >>> steps = [layer(np.ones(4), return_mask=True) for _ in range(2)]
    >>> [layer.backward(np.ones(4), mask=mask) for _, mask in reversed(steps)]
    [array([2., 0., 0., 0.]), array([2., 0., 2., 0.])]

    Used once:

    >>> y = layer(np.ones(4))
    >>> dx = layer.backward(np.ones(4))
    >>> bool((dx == y).all())
    True
    >>> layer.eval()(np.ones(4))
    array([1., 1., 1., 1.])
    """

    _function = "dropout"
    _settings: ClassVar[dict[str, Any]] = {"noise_shape": None, "mode": "upscale_in_train"}

    def __init__(
        self,
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        rng: Any = None,
        mode: str = "upscale_in_train",
    ) -> None:
        functional.check_mode(mode)
        super().__init__(p, rng=rng)
        self.noise_shape = noise_shape
        self.mode = mode

    def _drop(self, x: ArrayLike, out: Array | None) -> tuple[Array, Mask]:
        # spelt out, for this is the layer that trainers call most
        return functional.dropout(
            x,
            self._p,
            training=self.training,
            rng=self._rng,
            noise_shape=self.noise_shape,
            mode=self.mode,
            out=out,
            return_mask=True,
        )


class Dropout1d(_Layer):
    """Dropout of whole channels, of sequences.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.dropout1d`.

    See Also
    --------
    fastdrop.dropout1d : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (C, L) or (N, C, L), or with channels last (L, C) or (N, L, C).

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout1d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1)
    """

    _function = "dropout1d"
    _settings: ClassVar[dict[str, Any]] = {"data_format": "channels_first"}

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        super().__init__(p, rng=rng)
        self.data_format = data_format


class Dropout2d(_Layer):
    """Dropout of whole channels, of images.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.dropout2d`.

    See Also
    --------
    fastdrop.dropout2d : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (N, C, H, W), or (N, C, L); with channels last (N, H, W, C).

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout2d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1, 1)
    """

    _function = "dropout2d"
    _settings: ClassVar[dict[str, Any]] = {"data_format": "channels_first"}

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        super().__init__(p, rng=rng)
        self.data_format = data_format


class Dropout3d(_Layer):
    """Dropout of whole channels, of volumes.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.dropout3d`.

    See Also
    --------
    fastdrop.dropout3d : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (C, D, H, W) or (N, C, D, H, W); with channels last C comes last.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout3d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4, 4, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1, 1, 1)
    """

    _function = "dropout3d"
    _settings: ClassVar[dict[str, Any]] = {"data_format": "channels_first"}

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        super().__init__(p, rng=rng)
        self.data_format = data_format


class AlphaDropout(_Layer):
    """Alpha dropout, for self-normalizing networks: keeps mean 0 and variance 1.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, see `dropout`.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.alpha_dropout`.

    See Also
    --------
    fastdrop.alpha_dropout : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have any shape. `backward` is exact: scale or 0.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.AlphaDropout(0.1, rng=0)
    >>> y = layer(np.zeros(1000))
    >>> len(np.unique(y))
    2
    """

    _function = "alpha_dropout"
    _settings: ClassVar[dict[str, Any]] = {"noise_shape": None}

    def __init__(
        self,
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        rng: Any = None,
    ) -> None:
        super().__init__(p, rng=rng)
        self.noise_shape = noise_shape


class FeatureAlphaDropout(_Layer):
    """Alpha dropout of whole channels.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.feature_alpha_dropout`.

    See Also
    --------
    fastdrop.feature_alpha_dropout : the function, with the reference.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (N, C, ...).

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.FeatureAlphaDropout(0.1, rng=0)
    >>> y = layer(np.zeros((8, 3, 5)))
    >>> layer.mask.noise_shape
    (8, 3, 1)
    """

    _function = "feature_alpha_dropout"


class DropPath(_Layer):
    """Stochastic depth: drops whole examples of a residual branch.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    scale_by_keep : bool, optional
        Whether to multiply what is kept by ``1/(1-p)``.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.drop_path`.

    See Also
    --------
    fastdrop.drop_path : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (N, ...).

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropPath(0.5, rng=0)
    >>> layer(np.ones((4, 2)))[:, 0]
    array([2., 0., 2., 0.])
    """

    _function = "drop_path"
    _settings: ClassVar[dict[str, Any]] = {"scale_by_keep": True}

    def __init__(self, p: float = 0.0, *, scale_by_keep: bool = True, rng: Any = None) -> None:
        super().__init__(p, rng=rng)
        self.scale_by_keep = scale_by_keep


class LockedDropout(_Layer):
    """One mask for all time steps of a sequence, as in AWD-LSTM.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    time_axis : int, optional
        The axis along which decisions are shared.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.locked_dropout`.

    See Also
    --------
    fastdrop.locked_dropout : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have shape (T, B, F), or any with a time axis.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.LockedDropout(0.5, rng=0)
    >>> y = layer(np.ones((3, 2, 4)))
    >>> bool((y == y[0]).all())
    True
    """

    _function = "locked_dropout"
    _settings: ClassVar[dict[str, Any]] = {"time_axis": 0}

    def __init__(self, p: float = 0.5, *, time_axis: int = 0, rng: Any = None) -> None:
        super().__init__(p, rng=rng)
        self.time_axis = time_axis


class EmbeddingDropout(_Layer):
    """Dropout of whole rows of an embedding matrix, that is of word types.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.embedding_dropout`.

    See Also
    --------
    fastdrop.embedding_dropout : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Give it the matrix (V, D) at each step, and look words up in the result; `backward` takes the
    gradient by that result.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.EmbeddingDropout(0.5, rng=0)
    >>> layer(np.ones((4, 2)))[:, 0]
    array([2., 0., 2., 0.])
    """

    _function = "embedding_dropout"


class WeightDropout(_Layer):
    """Dropout of weights, one mask for a batch, as in AWD-LSTM.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.dropout`.

    See Also
    --------
    DropConnect : a mask for each example.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Give it a weight matrix at each step, for an LSTM the recurrent one, and use the result at all
    time steps [1]_; `backward` takes the gradient by that result. The weights stay as they are.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    References
    ----------
    .. [1] S. Merity, N. S. Keskar and R. Socher, "Regularizing and optimizing LSTM language
       models", ICLR 2018.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.WeightDropout(0.5, rng=0)
    >>> layer(np.ones((2, 4)))
    array([[2., 0., 2., 0.],
           [2., 0., 2., 2.]])
    """

    _function = "dropout"


class DropConnect(_Layer):
    """A linear map of which each example drops its own weights.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.drop_connect`.

    See Also
    --------
    fastdrop.drop_connect : the function, with the reference.
    WeightDropout : one mask for all examples of a batch.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers. x and the weights
    are remembered until the next forward pass, not copied; the masks are not. Used several times
    before backward, take the function and keep each call's mask.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropConnect(0.5, rng=0)
    >>> y = layer(np.ones((3, 4)), np.ones((4, 2)))
    >>> dx, dweight, dbias = layer.backward(np.ones((3, 2)))
    >>> dx.shape, dweight.shape, dbias
    ((3, 4), (4, 2), array([3., 3.]))
    """

    def forward(  # type: ignore[override]
        self, x: ArrayLike, weight: ArrayLike, bias: ArrayLike | None = None
    ) -> Array:
        """Return ``x[n] @ dropout(weight) + bias`` for each example; in evaluation without dropout.

        Parameters
        ----------
        x : array_like
            Shape (N, F_in).
        weight : array_like
            Shape (F_in, F_out), of x's dtype.
        bias : array_like, optional
            Shape (F_out,).

        Returns
        -------
        ndarray
            Shape (N, F_out).

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.drop_connect`. The layer is then as it was.
        """
        y: Array
        y, self.mask = functional.drop_connect(
            x, weight, self._p, bias=bias, training=self.training, rng=self._rng, return_mask=True
        )
        self._inputs = x, weight
        return y

    def backward(self, grad: ArrayLike) -> tuple[Array, Array, Array]:  # type: ignore[override]
        """Gradients by x, by the weights and by the bias of the last forward pass.

        Parameters
        ----------
        grad : array_like
            Gradient by its output.

        Returns
        -------
        dx, dweight, dbias : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `fastdrop.drop_connect_backward`.
        """
        if self.mask is None:
            raise RuntimeError(_NO_MASK)
        x, weight = self._inputs
        dx, dweight = functional.drop_connect_backward(grad, x, weight, self.mask)
        real = np.float64 if dx.dtype == np.float64 else np.float32
        return dx, dweight, np.asarray(grad).sum(0, dtype=real).astype(dx.dtype)


class GaussianDropout(_Layer):
    """Multiplies by Gaussian noise of mean 1, in place of dropping.

    Parameters
    ----------
    p : float, optional
        Rate in ``[0, 1)``; the noise has standard deviation ``sqrt(p / (1-p))``. May be set at any
        time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.gaussian_dropout`.

    See Also
    --------
    fastdrop.gaussian_dropout : the function, with the reference and what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have any shape. `mask` is a `fastdrop.Noise`.

    **Compatibility guarantee.** As for `fastdrop.Noise`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.GaussianDropout(0.2, rng=0)
    >>> y = layer(np.ones(1000))
    >>> bool((layer.backward(np.ones(1000)) == y).all())
    True
    """

    _function = "gaussian_dropout"
    _check = staticmethod(functional.check_gaussian_p)


class GaussianNoise(_Layer):
    """Adds Gaussian noise of mean 0.

    Parameters
    ----------
    stddev : float
        Standard deviation of the noise, in units of the input. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.gaussian_noise`.

    See Also
    --------
    fastdrop.gaussian_noise : the function, with what it answers to elsewhere.
    Dropout : the protocol of all layers: `forward`, `backward`, `train`, `eval`, `state_dict`.

    Notes
    -----
    Inputs have any shape. `mask` is a `fastdrop.Noise`; `backward` copies the gradient.

    **Compatibility guarantee.** As for `fastdrop.Noise`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.GaussianNoise(0.1, rng=0)
    >>> layer
    GaussianNoise(stddev=0.1)
    >>> y = layer(np.zeros(1000))
    >>> bool(abs(y.std() - 0.1) < 0.01)
    True
    """

    _function = "gaussian_noise"
    _rate = "stddev"
    _check = staticmethod(functional.check_stddev)

    def __init__(self, stddev: float, *, rng: Any = None) -> None:
        super().__init__(stddev, rng=rng)

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise."""
        return self._p

    @stddev.setter
    def stddev(self, stddev: float) -> None:
        self._p = self._check(stddev)

    @property
    def p(self) -> float:
        """There is none."""
        raise AttributeError("GaussianNoise has stddev, not p")

    @p.setter
    def p(self, p: float) -> None:
        raise AttributeError("GaussianNoise has stddev, not p")


class DropoutAdd(_Layer):
    """Adds dropout of one branch to the residual, with the bias of the branch, in one pass.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        As in `Dropout`.

    Raises
    ------
    TypeError, ValueError
        As `fastdrop.dropout_add`.

    See Also
    --------
    fastdrop.dropout_add : the function.
    Dropout : the protocol of all layers: `train`, `eval`, `state_dict`.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers.

    **Compatibility guarantee.** As for `Generator`: the same seed gives the same masks everywhere.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropoutAdd(0.5, rng=0)
    >>> x, residual, bias = np.zeros((2, 4)), np.zeros((2, 4)), np.ones(4)
    >>> layer(x, residual, bias)
    array([[2., 0., 2., 0.],
           [2., 0., 2., 2.]])
    >>> dx, dbias = layer.backward(np.ones((2, 4)))
    >>> dbias
    array([4., 0., 4., 2.])
    """

    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        residual: ArrayLike,
        bias: ArrayLike | None = None,
        out: Array | None = None,
        return_mask: bool = False,
    ) -> Any:
        """Return ``residual + dropout(x + bias)``; in evaluation without dropout.

        Parameters
        ----------
        x : array_like
            Of any shape (..., F).
        residual : array_like
            Of x's shape and dtype.
        bias : array_like, optional
            Shape (F,), of x's dtype.
        out : ndarray, optional
            Where to put the result; ``x`` and ``residual`` work in place.
        return_mask : bool, optional
            Whether to return the mask too.

        Returns
        -------
        y : ndarray
            Of x's shape and dtype.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.dropout_add`. The layer is then as it was.
        """
        y: Array
        y, self.mask = functional.dropout_add(
            x,
            residual,
            self._p,
            bias=bias,
            training=self.training,
            rng=self._rng,
            out=out,
            return_mask=True,
        )
        return (y, self.mask) if return_mask else y

    def backward(  # type: ignore[override]
        self, grad: ArrayLike, out: Array | None = None, mask: Mask | None = None
    ) -> tuple[Array, Array]:
        """Gradients by x and by the bias; that by the residual is ``grad`` itself.

        Parameters
        ----------
        grad : array_like
            Gradient by the output of `forward`.
        out : ndarray, optional
            Where to put the gradient by x; ``out=grad`` works in place.
        mask : Mask, optional
            Which forward pass, by default the last.

        Returns
        -------
        dx, dbias : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `fastdrop.dropout_add_backward`.
        """
        mask = self.mask if mask is None else mask
        if mask is None:
            raise RuntimeError(_NO_MASK)
        return functional.dropout_add_backward(grad, mask, out=out)


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
                        f"such of {samples.shape[2:]} and {samples.dtype}"
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
    n = as_int(value, name, 2**56)
    if n == 0:
        raise ValueError(f"{name}=0; it must be at least 1")
    return n

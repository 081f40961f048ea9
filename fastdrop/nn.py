"""Dropout as layers, for trainers written in NumPy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fastdrop import dropblock, functional, rules, zone
from fastdrop.arrays import Array, as_input
from fastdrop.concrete import ConcreteDropout
from fastdrop.connect import bias_gradient
from fastdrop.generator import Generator, as_source
from fastdrop.layer import NO_MASK, AddLayer, Layer, ReLULayer, Setting
from fastdrop.montecarlo import MCSamples as MCSamples  # pickles name it here
from fastdrop.montecarlo import mc_samples
from fastdrop.rates import as_axis, check_p, number_in
from fastdrop.rules import Rule
from fastdrop.variational import VariationalDropout

NO_SCORES = "backward before the first forward, or in a copy: there are no scores to look at"

__all__ = [
    "AlphaDropout",
    "ConcreteDropout",
    "DropBlock2d",
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
    "ReLUDropout",
    "SoftmaxDropout",
    "VariationalDropout",
    "WeightDropout",
    "Zoneout",
    "mc_samples",
    "reseed",
]


def reseed(layers: Layer | Iterable[Layer], rng: Any) -> Any:
    """Give layers another generator, which they share: for copies that are to drop otherwise.

    Parameters
    ----------
    layers : layer or iterable of layers
        Of this module. Their rates, modes and last masks stay.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None
        As in `Dropout`, but an int, a ``SeedSequence`` or a ``numpy.random.Generator`` makes one
        generator **for all of them**.

    Returns
    -------
    Generator or RandomState or None
        What they share now; its ``state`` is to be saved with the model.

    Raises
    ------
    TypeError, ValueError
        If one of them is no layer, or rng is of an unknown kind. No layer is changed then.

    Examples
    --------
    An ensemble whose members drop differently, and each the same in every run:

    >>> import copy, numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout(0.5, rng=0)
    >>> members = [copy.deepcopy(layer) for _ in range(3)]
    >>> for member, gen in zip(members, fd.Generator(0).spawn(3)):
    ...     _ = fd.nn.reseed(member, gen)
    >>> len({member(np.ones(64)).tobytes() for member in members})
    3
    """
    if not isinstance(layers, Layer | Iterable):
        raise TypeError(f"layers must be layers of fastdrop.nn, not {type(layers).__name__}")
    found = [layers] if isinstance(layers, Layer) else list(layers)
    for layer in found:
        if not isinstance(layer, Layer):
            raise TypeError(f"layers must be layers of fastdrop.nn, not {type(layer).__name__}")
    source = None if rng is None else as_source(rng)
    if isinstance(source, np.random.Generator):
        source = Generator(source)
    for layer in found:
        layer._share(source)
    return source


class Dropout(Layer):
    """Dropout layer: drops in training, passes its input on in evaluation.

    Parameters
    ----------
    p : float or array_like, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time, for a schedule. Or an
        array of such that broadcasts against x, see `dropout`.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, see `dropout`.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Turned into a generator once, here: an int, a ``SeedSequence`` or a
        ``numpy.random.Generator`` (of which one seed is drawn) gives one that the layer owns; a
        `Generator` is shared with whoever else uses it; None looks the process's default generator
        up at each call. From ``numpy.random`` itself, the legacy global generator, or a
        ``RandomState`` a seed is drawn **at each call**, so that ``numpy.random.seed`` repeats the
        masks. Two layers given the same int drop the same elements, and so do copies of a layer
        (``copy.deepcopy``, pickles one by one): pass one `Generator` to all layers of a model, and
        give copies another with `reseed`.
    mode : {"upscale_in_train", "downscale_in_infer"}, optional
        See `dropout`.

    Attributes
    ----------
    p : float or ndarray
        Probability of dropping, or the array of such that was given.
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
    layer is for one training thread; a `Generator` may be shared by many. All this, with `train`,
    `eval` and `state_dict`, holds for every layer of this module; each raises what its function
    does, and promises what that promises.

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

    noise_shape: Setting[int | Sequence[int | None] | None] = Setting(None)
    mode: Setting[str] = Setting("upscale_in_train")

    def __init__(
        self,
        p: ArrayLike = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        rng: Any = None,
        mode: str = "upscale_in_train",
    ) -> None:
        self.noise_shape = noise_shape
        self.mode = mode
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.rates(p, self.noise_shape, self.mode)


class Dropout1d(Layer):
    """Dropout of whole channels, of sequences.

    Parameters
    ----------
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.dropout1d : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have shape (C, L) or (N, C, L), or with channels last (L, C) or (N, L, C).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout1d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1)
    """

    data_format: Setting[str] = Setting("channels_first")

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        self.data_format = data_format
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.channels(1, p, self.data_format)


class Dropout2d(Layer):
    """Dropout of whole channels, of images.

    Parameters
    ----------
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.dropout2d : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have shape (N, C, H, W), or (N, C, L); with channels last (N, H, W, C).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout2d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1, 1)
    """

    data_format: Setting[str] = Setting("channels_first")

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        self.data_format = data_format
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.channels(2, p, self.data_format)


class Dropout3d(Layer):
    """Dropout of whole channels, of volumes.

    Parameters
    ----------
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are.
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.dropout3d : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have shape (C, D, H, W) or (N, C, D, H, W); with channels last C comes last.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Dropout3d(0.5, rng=0)
    >>> y = layer(np.ones((2, 3, 4, 4, 4)))
    >>> layer.mask.noise_shape
    (2, 3, 1, 1, 1)
    """

    data_format: Setting[str] = Setting("channels_first")

    def __init__(
        self, p: float = 0.5, *, data_format: str = "channels_first", rng: Any = None
    ) -> None:
        self.data_format = data_format
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.channels(3, p, self.data_format)


class AlphaDropout(Layer):
    """Alpha dropout, for self-normalizing networks: keeps mean 0 and variance 1.

    Parameters
    ----------
    p, noise_shape, rng : as in `Dropout`

    See Also
    --------
    fastdrop.alpha_dropout : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have any shape. `backward` is exact: scale or 0.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.AlphaDropout(0.1, rng=0)
    >>> y = layer(np.zeros(1000))
    >>> len(np.unique(y))
    2
    """

    noise_shape: Setting[int | Sequence[int | None] | None] = Setting(None)

    def __init__(
        self,
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        rng: Any = None,
    ) -> None:
        self.noise_shape = noise_shape
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.alpha(p, self.noise_shape)


class FeatureAlphaDropout(Layer):
    """Alpha dropout of whole channels.

    Parameters
    ----------
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.feature_alpha_dropout : the function, with the reference.

    Notes
    -----
    Inputs have shape (N, C, ...).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.FeatureAlphaDropout(0.1, rng=0)
    >>> y = layer(np.zeros((8, 3, 5)))
    >>> layer.mask.noise_shape
    (8, 3, 1)
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.alpha_features(p)


class DropPath(Layer):
    """Stochastic depth: drops whole examples of a residual branch.

    Parameters
    ----------
    scale_by_keep : bool, optional
        Whether to multiply what is kept by ``1/(1-p)``.
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.drop_path : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have shape (N, ...).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropPath(0.5, rng=0)
    >>> layer(np.ones((4, 2)))[:, 0]
    array([2., 0., 2., 0.])
    """

    scale_by_keep: Setting[bool] = Setting(True)

    def __init__(self, p: float = 0.0, *, scale_by_keep: bool = True, rng: Any = None) -> None:
        self.scale_by_keep = scale_by_keep
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.examples(p, self.scale_by_keep)


class LockedDropout(Layer):
    """One mask for all time steps of a sequence, as in AWD-LSTM.

    Parameters
    ----------
    time_axis : int, optional
        The axis along which decisions are shared.
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.locked_dropout : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have shape (T, B, F), or any with a time axis.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.LockedDropout(0.5, rng=0)
    >>> y = layer(np.ones((3, 2, 4)))
    >>> bool((y == y[0]).all())
    True
    """

    time_axis: Setting[int] = Setting(0)

    def __init__(self, p: float = 0.5, *, time_axis: int = 0, rng: Any = None) -> None:
        self.time_axis = time_axis
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.locked(p, self.time_axis)


class EmbeddingDropout(Layer):
    """Dropout of whole rows of an embedding matrix, that is of word types.

    Parameters
    ----------
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.embedding_dropout : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Give it the matrix (V, D) at each step, and look words up in the result; `backward` takes the
    gradient by that result.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.EmbeddingDropout(0.5, rng=0)
    >>> layer(np.ones((4, 2)))[:, 0]
    array([2., 0., 2., 0.])
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.rows(p)


class WeightDropout(Layer):
    """Dropout of weights, one mask for a batch, as in AWD-LSTM.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``. May be set at any time.
    rng : as in `Dropout`

    See Also
    --------
    DropConnect : a mask for each example.

    Notes
    -----
    Give it a weight matrix at each step, for an LSTM the recurrent one, and use the result at all
    time steps [1]_; `backward` takes the gradient by that result. The weights stay as they are.

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

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.elements(p, None, "upscale_in_train")


class DropBlock2d(Layer):
    """Dropout of square blocks of feature maps.

    Parameters
    ----------
    p : float, optional
        Share of a map that the blocks cover, in ``[0, 1]``, overlaps counted twice. May be set at
        any time: the paper's rate rises from 0, ``layer.p = p * min(1, step / steps)`` at each
        step.
    block_size : int, optional
        Side of the blocks, at most that of the map.
    border : {"whole", "clipped"}, optional
        Where a block may lie: on the map with all of it, as in the paper, or about any element.
    batchwise : bool, optional
        Whether all examples have the same blocks.
    data_format, rng : as in `Dropout2d`

    Attributes
    ----------
    mask : BlockMask or None
        Recipe of the last forward pass.

    See Also
    --------
    fastdrop.dropblock2d : the function, with the reference, and all about the border.

    Notes
    -----
    Inputs have shape (N, C, H, W), or with channels last (N, H, W, C).

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropBlock2d(0.1, 3, rng=0)
    >>> y = layer(np.ones((2, 3, 8, 8)))
    >>> bool((layer.backward(np.ones((2, 3, 8, 8))) == y).all())
    True
    >>> round(float(y.mean()), 6)
    1.0
    """

    block_size: Setting[int] = Setting(7)
    border: Setting[str] = Setting("whole")
    batchwise: Setting[bool] = Setting(False)
    data_format: Setting[str] = Setting("channels_first")

    def __init__(
        self,
        p: float = 0.1,
        block_size: int = 7,
        *,
        border: str = "whole",
        batchwise: bool = False,
        data_format: str = "channels_first",
        rng: Any = None,
    ) -> None:
        self.block_size = block_size
        self.border = border
        self.batchwise = batchwise
        self.data_format = data_format
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return dropblock.rule_of(p, self.block_size, self.border, self.batchwise, self.data_format)

    def forward(
        self,
        x: ArrayLike,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any:
        """Drop blocks; remember where they were.

        Parameters
        ----------
        x : array_like
            Shape (N, C, H, W), or with channels last (N, H, W, C).
        out : ndarray, optional
            Where to put the result, see `dropout`.
        return_mask : bool, optional
            Whether to return the mask too.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        y : ndarray
            Of x's shape and dtype. In evaluation x itself.
        mask : BlockMask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.dropblock2d`. The layer is then as it was.
        """
        y, mask = dropblock.dropblock2d(
            x,
            self.p,
            self.block_size,
            border=self.border,
            batchwise=self.batchwise,
            training=self.training if training is None else training,
            rng=self._rng,
            data_format=self.data_format,
            out=out,
            return_mask=True,
        )
        self.mask = mask
        return (y, mask) if return_mask else y


class DropConnect(Layer):
    """A linear map of which each example drops its own weights.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``. May be set at any time.
    rng : as in `Dropout`

    See Also
    --------
    fastdrop.drop_connect : the function, with the reference.
    WeightDropout : one mask for all examples of a batch.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers. x and the weights
    are remembered until the next forward pass, not copied; the masks are not. Used several times
    before backward, take the function and keep each call's mask.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.DropConnect(0.5, rng=0)
    >>> y = layer(np.ones((3, 4)), np.ones((4, 2)))
    >>> dx, dweight, dbias = layer.backward(np.ones((3, 2)))
    >>> dx.shape, dweight.shape, dbias
    ((3, 4), (4, 2), array([3., 3.]))
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.elements(p, None, "upscale_in_train")

    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        weight: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        training: bool | None = None,
    ) -> Array:
        """Return ``x[n] @ dropout(weight) + bias`` for each example; in evaluation without dropout.

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
            As `fastdrop.drop_connect`. The layer is then as it was.
        """
        y: Array
        if training is None:
            training = self.training
        y, self.mask = functional.drop_connect(
            x, weight, self.p, bias=bias, training=training, rng=self._rng, return_mask=True
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
            raise RuntimeError(NO_MASK)
        x, weight = self._inputs
        dx, dweight = functional.drop_connect_backward(grad, x, weight, self.mask)
        return dx, dweight, bias_gradient(grad)


class Zoneout(Layer):
    """Units of a recurrent network keep the state they had before, at random.

    Parameters
    ----------
    p : float, optional
        Probability that a hidden state keeps its **old** value, in ``[0, 1]``. May be set at any
        time.
    p_cell : float, optional
        That of a cell state, as an LSTM has; None is as p. May be set at any time.
    rng : as in `Dropout`

    Attributes
    ----------
    mask : Mask or tuple of two, or None
        Recipe of the last forward pass: True where a unit is new. With cell states one for each.

    See Also
    --------
    fastdrop.zoneout : the function, with the reference.
    LockedDropout : drops the same units at all time steps.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers. Called at each
    time step, keep each call's mask, as below. Hidden and cell states have masks of their own, for
    which a training call takes one position each.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.Zoneout(0.25, p_cell=0.5, rng=0)
    >>> h = c = np.zeros((2, 4))
    >>> masks = []
    >>> for step in (1.0, 2.0, 3.0):
    ...     (h, c), mask = layer(h + step, h, c + step, c, return_mask=True)
    ...     masks.append(mask)
    >>> c
    array([[1., 0., 5., 5.],
           [2., 3., 1., 3.]])
    >>> dh = dc = np.ones((2, 4))
    >>> for mask in reversed(masks):
    ...     dh_new, dh_old, dc_new, dc_old = layer.backward(dh, dc, mask=mask)
    ...     dh, dc = dh_new + dh_old, dc_new + dc_old  # here h + step has the derivative 1 by h
    >>> bool((dc == 1).all())
    True
    """

    p_cell: Setting[float | None] = Setting(None)

    def __init__(self, p: float = 0.5, *, p_cell: float | None = None, rng: Any = None) -> None:
        self.p_cell = p_cell
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        if self.p_cell is not None:
            check_p(self.p_cell, "p_cell")
        return rules.elements(p, None, "downscale_in_infer")

    def forward(  # type: ignore[override]
        self,
        h: ArrayLike,
        h_before: ArrayLike,
        c: ArrayLike | None = None,
        c_before: ArrayLike | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any:
        """Return h with units at their values before; in evaluation the expectation.

        Parameters
        ----------
        h : array_like
            Hidden state after a time step, of any shape.
        h_before : array_like
            That before it, of h's shape and dtype.
        c, c_before : array_like, optional
            Cell states, both or none; of one shape and dtype.
        return_mask : bool, optional
            Whether to return the mask too, or the tuple of both.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        y : ndarray or tuple of two
            What h becomes, or h and c.
        mask : Mask or tuple of two
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.zoneout`. The layer is then as it was; but where memory or positions end
            between the two states, that of h is taken.
        """
        if training is None:
            training = self.training
        y: Any
        mask: Any
        if c is None and c_before is None:
            y, mask = zone.forward(
                h, h_before, self.p, training, self._rng, names=("h", "h_before")
            )
        elif c is None or c_before is None:
            missing = "c" if c is None else "c_before"
            raise TypeError(f"{missing} is missing: cell states are given both, c and c_before")
        else:
            cells = zone.as_pair(c, c_before, ("c", "c_before"))  # before a position is taken
            y, mask = zone.forward(
                h, h_before, self.p, training, self._rng, names=("h", "h_before")
            )
            p_cell = self.p if self.p_cell is None else self.p_cell
            y_cell, mask_cell = zone.forward(*cells, p_cell, training, self._rng)
            y, mask = (y, y_cell), (mask, mask_cell)
        self.mask = mask
        return (y, mask) if return_mask else y

    def backward(  # type: ignore[override]
        self,
        grad: ArrayLike,
        grad_cell: ArrayLike | None = None,
        mask: Any = None,
    ) -> tuple[Array, ...]:
        """Gradients of a forward pass by the states after and before.

        Parameters
        ----------
        grad : array_like
            Gradient by what h became.
        grad_cell : array_like, optional
            Gradient by what c became, where there were cell states.
        mask : Mask or tuple of two, optional
            Which forward pass, by default the last.

        Returns
        -------
        dh, dh_before : ndarray
            By h and by h_before.
        dc, dc_before : ndarray
            By c and by c_before, where there were cell states.

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `fastdrop.zoneout_backward`; TypeError also where grad_cell is missing or too much.
        """
        if mask is None:
            mask = self.mask
        if mask is None:
            raise RuntimeError(NO_MASK)
        if not isinstance(mask, tuple):
            if grad_cell is not None:
                raise TypeError("grad_cell is given, but the forward pass had no cell states")
            return zone.zoneout_backward(grad, mask)
        if grad_cell is None:
            raise TypeError("grad_cell is missing: the forward pass had cell states")
        if len(mask) != 2:
            raise ValueError(f"mask has {len(mask)} items; it must be a Mask, or those of h and c")
        of_hidden, of_cell = mask
        return *zone.zoneout_backward(grad, of_hidden), *zone.zoneout_backward(grad_cell, of_cell)

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on bit for bit; JSON holds it exactly.

        Returns
        -------
        dict
            As of `Dropout`, and ``p_cell``.
        """
        p_cell = None if self.p_cell is None else check_p(self.p_cell, "p_cell")
        return {**super().state_dict(), "p_cell": p_cell}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state that `state_dict` returned.

        Parameters
        ----------
        state : dict
            Of a layer that came by its generator in the same way.

        Raises
        ------
        TypeError, ValueError
            As of `Dropout`; also where ``p_cell`` is missing or no probability. The layer is then
            as it was.
        """
        p_cell = None
        if isinstance(state, dict):  # what is none is refused below
            if "p_cell" not in state:
                raise ValueError(f"state needs 'p_cell'; it has {sorted(state)}")
            p_cell = number_in(state["p_cell"])
        if p_cell is not None:
            p_cell = check_p(p_cell, "p_cell")
        super().load_state_dict(state)
        self.p_cell = p_cell


class GaussianDropout(Layer):
    """Multiplies by Gaussian noise of mean 1, in place of dropping.

    Parameters
    ----------
    p : float, optional
        Rate in ``[0, 1)``; the noise has standard deviation ``sqrt(p / (1-p))``. May be set at any
        time.
    rng : as in `Dropout`

    See Also
    --------
    fastdrop.gaussian_dropout : the function, with the reference and what it answers to elsewhere.

    Notes
    -----
    Inputs have any shape. `mask` is a `fastdrop.Noise`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.GaussianDropout(0.2, rng=0)
    >>> y = layer(np.ones(1000))
    >>> bool((layer.backward(np.ones(1000)) == y).all())
    True
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.gaussian(p)


class GaussianNoise(Layer):
    """Adds Gaussian noise of mean 0.

    Parameters
    ----------
    stddev : float
        Standard deviation of the noise, in units of the input. May be set at any time.
    rng : as in `Dropout`

    See Also
    --------
    fastdrop.gaussian_noise : the function, with what it answers to elsewhere.

    Notes
    -----
    Inputs have any shape. `mask` is a `fastdrop.Noise`; `backward` copies the gradient.

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

    _rate = "stddev"

    def __init__(self, stddev: float, *, rng: Any = None) -> None:
        super().__init__(stddev, rng=rng)

    def _rule(self, stddev: float) -> Rule:
        return rules.additive(stddev)

    @property
    def stddev(self) -> float:
        """Standard deviation of the noise."""
        return float(super().p)

    @stddev.setter
    def stddev(self, stddev: float) -> None:
        self._set_rate(stddev)

    @property
    def p(self) -> float:
        """There is none."""
        raise AttributeError("GaussianNoise has stddev, not p")

    @p.setter
    def p(self, p: float) -> None:
        raise AttributeError("GaussianNoise has stddev, not p")


class DropoutAdd(AddLayer):
    """Adds dropout of one branch to the residual, with the bias of the branch, in one pass.

    Parameters
    ----------
    p, rng : as in `Dropout`

    See Also
    --------
    fastdrop.dropout_add : the function.
    Dropout : the protocol of all layers: `train`, `eval`, `state_dict`.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers.

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

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.elements(p, None, "upscale_in_train")


class ReLUDropout(ReLULayer):
    """ReLU and dropout of what a layer's weights give, with the layer's bias, in one pass.

    Parameters
    ----------
    p, rng : as in `Dropout`

    Attributes
    ----------
    y : ndarray or None
        The last output, which the backward pass needs.

    See Also
    --------
    fastdrop.relu_dropout : the function.
    Dropout : the protocol of all layers: `train`, `eval`, `state_dict`.

    Notes
    -----
    `forward` and `backward` take other arguments than those of the other layers.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.ReLUDropout(0.5, rng=0)
    >>> x, bias = np.array([[-1.0, 1.0, 2.0, -2.0], [3.0, -3.0, 4.0, 4.0]]), np.full(4, 0.5)
    >>> layer(x, bias)
    array([[0., 0., 5., 0.],
           [7., 0., 9., 9.]])
    >>> dx, dbias = layer.backward(np.ones((2, 4)))
    >>> dbias
    array([2., 0., 4., 2.])
    """

    def __init__(self, p: float = 0.5, *, rng: Any = None) -> None:
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        return rules.elements(p, None, "upscale_in_train")


class SoftmaxDropout(Layer):
    """Dropout of a softmax: the weights of attention, in one pass.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``. May be set at any time.
    axis : int, optional
        Along which the softmax sums to 1. May be set at any time.
    rng : as in `Dropout`

    Attributes
    ----------
    scores : ndarray or None
        What the last forward pass was given, which the backward pass needs.

    See Also
    --------
    fastdrop.softmax_dropout : the function, with the reference.
    Dropout : the protocol of all layers: `train`, `eval`, `state_dict`.

    Notes
    -----
    The scores are remembered until the next forward pass, not copied: leave them as they are. Used
    several times before backward, take the function and keep each call's scores and mask.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> layer = fd.nn.SoftmaxDropout(0.5, rng=0)
    >>> layer(np.zeros((2, 4)))
    array([[0.5, 0. , 0.5, 0. ],
           [0.5, 0. , 0.5, 0.5]])
    >>> layer.backward(np.ones((2, 4)))
    array([[ 0.25 , -0.25 ,  0.25 , -0.25 ],
           [ 0.125, -0.375,  0.125,  0.125]])
    """

    axis: Setting[int] = Setting(-1)
    scores: Array | None = None
    _summed = -1  # the axis of the last forward pass

    def __init__(self, p: float = 0.5, *, axis: int = -1, rng: Any = None) -> None:
        self.axis = axis
        super().__init__(p, rng=rng)

    def _rule(self, p: float) -> Rule:
        as_axis(self.axis, "axis")
        return rules.elements(p, None, "upscale_in_train")

    def forward(
        self,
        scores: ArrayLike,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any:
        """Return ``dropout(softmax(scores))``; in evaluation without dropout.

        Parameters
        ----------
        scores : array_like
            Of any shape with at least one axis.
        out : ndarray, optional
            Where to put the result; apart from the scores, which `backward` needs.
        return_mask : bool, optional
            Whether to return the mask too.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        y : ndarray
            Of scores' shape and dtype.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.softmax_dropout`; ValueError also where out may share memory with the
            scores (`numpy.may_share_memory`). The layer is then as it was.
        """
        if training is None:
            training = self.training
        scores, axis = as_input(scores, "scores"), self.axis
        if isinstance(out, np.ndarray) and np.may_share_memory(out, scores):
            raise ValueError(
                "out may share memory with scores, which backward needs: give another array, or "
                "use fastdrop.softmax_dropout and keep a copy"
            )
        y, mask = functional.softmax_dropout(
            scores,
            self.p,
            axis,
            training=training,
            rng=self._rng,
            out=out,
            return_mask=True,
        )
        self.mask, self.scores, self._summed = mask, scores, axis
        return (y, mask) if return_mask else y

    def backward(  # type: ignore[override]
        self, grad: ArrayLike, out: Array | None = None
    ) -> Array:
        """Gradient by the scores of the last forward pass.

        Parameters
        ----------
        grad : array_like
            Gradient by its output, of the scores' shape and dtype.
        out : ndarray, optional
            Where to put the result; ``out=grad`` works in place.

        Returns
        -------
        ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass, and in a copy: copies and pickles are without the scores.
        TypeError, ValueError
            As `fastdrop.softmax_dropout_backward`.
        """
        if self.mask is None or self.scores is None:
            raise RuntimeError(NO_SCORES)
        y: Array = functional.softmax_dropout_backward(
            grad, self.scores, self.mask, self._summed, out=out
        )
        return y

    def __reduce__(self) -> Any:
        whole: Any = super().__reduce__()
        make, args, state = whole
        return make, args, {k: v for k, v in state.items() if k not in ("scores", "_summed")}

"""DropBlock: squares of feature maps that are dropped together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Mask
from fastdrop.rates import as_bool, number_in
from fastdrop.rules import Rule

__all__ = ["BORDERS", "BlockMask", "dropblock2d"]

BORDERS = ("whole", "clipped")


@dataclass(frozen=True)
class BlockMask:
    """The mask of DropBlock: not the blocks, but the recipe of their seeds.

    Returned by `dropblock2d`; immutable, compared by value; pickles to some hundred bytes.

    Parameters
    ----------
    seeds : Mask
        Where the blocks lie: **what it drops is a seed**. Its shape is that of the places where
        a seed may be, (N, C, h, w), with one example where all share their blocks.
    shape : tuple of int
        Shape of the arrays that it applies to.
    block_size : int
        Side of the blocks.
    border : {"whole", "clipped"}, optional
        As in `dropblock2d`.
    data_format : {"channels_first", "channels_last"}, optional
        As in `dropblock2d`.

    Raises
    ------
    TypeError, ValueError
        If they do not fit each other.

    See Also
    --------
    dropblock2d : what makes it, and how blocks lie about their seeds.

    Notes
    -----
    **Compatibility guarantee.** As for `Mask`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.ones((1, 1, 6, 8))
    >>> y, mask = fd.dropblock2d(x, 0.3, 3, rng=11, return_mask=True)
    >>> mask.keep()[0, 0].astype(int)
    array([[1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 0, 0, 0, 1, 1],
           [1, 1, 1, 1, 1, 0, 0, 0],
           [1, 1, 1, 1, 1, 0, 0, 0],
           [1, 1, 1, 1, 1, 0, 0, 0]])
    >>> mask.seeds.shape
    (1, 1, 4, 6)
    >>> bool((mask.backward(x) == y).all())
    True
    """

    seeds: Mask
    shape: tuple[int, ...]
    block_size: int
    border: str = "whole"
    data_format: str = "channels_first"

    __array_ufunc__: ClassVar[None] = None  # NumPy leaves x * mask to this class

    def __post_init__(self) -> None:
        if not isinstance(self.seeds, Mask):
            raise TypeError(f"seeds must be a Mask, not {type(self.seeds).__name__}")
        rule_of(0.0, self.block_size, self.border, False, self.data_format)
        object.__setattr__(self, "shape", Mask(0, 0, self.shape).shape)  # which checks it
        object.__setattr__(self, "block_size", int(number_in(self.block_size)))
        places = _places(self.shape, self.block_size, self.border, self.data_format)
        if self.seeds.shape not in (places, (1, *places[1:])):
            raise ValueError(
                f"seeds has shape {self.seeds.shape}; with shape {self.shape}, block_size="
                f"{self.block_size} and border={self.border!r} it must be {places}"
            )

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """Return the decisions as an array, True where kept; ``copy=False`` is refused."""
        if copy is False:
            raise ValueError("a BlockMask holds no array: it cannot be read without making one")
        keep = self.keep()
        return keep if dtype is None else keep.astype(dtype, copy=False)

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by: all elements by those kept; 0 where none is."""
        return _scale(self._keep())

    def keep(self) -> NDArray[np.bool_]:
        """Return the decisions as a bool array of the mask's shape, True where kept.

        Returns
        -------
        ndarray of bool
        """
        keep = self._keep()
        return keep if keep.shape == self.shape else np.broadcast_to(keep, self.shape).copy()

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Scale kept elements and set dropped ones to +0.0.

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32 or float64, of the mask's shape.
        out : ndarray, optional
            Where to put the result: exact shape and dtype; ``x`` itself works in place.

        Returns
        -------
        ndarray
            ``out``, or a new C-contiguous array.

        Raises
        ------
        TypeError, ValueError
            As `Mask.apply`. Nothing is written then.
        """
        return self._apply(x, out, "x")

    def backward(self, grad: ArrayLike, out: Array | None = None) -> Array:
        """Gradient of `apply`: scale or +0.0, by the same blocks, made again.

        Parameters
        ----------
        grad : array_like
            Gradient by the output, of the mask's shape; its dtype need not be that of ``x``.
        out : ndarray, optional
            As in `apply`.

        Returns
        -------
        ndarray
            Gradient by the input; +0.0 where the element was dropped, even where ``grad`` is NaN.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._apply(grad, out, "grad")

    def __mul__(self, x: ArrayLike) -> Array:
        return self._apply(x, None, "x")

    __rmul__ = __mul__

    def _apply(self, x: ArrayLike, out: Array | None, name: str) -> Array:
        array = as_input(x, name)
        if array.shape != self.shape:
            raise ValueError(f"{name} has shape {array.shape}; the mask is for {self.shape}")
        keep = self._keep()
        y = Mask(0, 0, array.shape, 0.0, scale=_scale(keep)).apply(array, out)
        bits = np.asarray(y).view(f"u{y.itemsize}")  # times 0 or 1: a NaN goes, and no branches
        np.multiply(bits, keep, out=bits, dtype=bits.dtype.newbyteorder("="))
        return y

    def _keep(self) -> NDArray[np.bool_]:
        """Return where no block lies, of the seeds' number of examples.

        An element is dropped where a seed is among the ``block_size`` places before and after it:
        a running "or", first along rows, then along columns, in steps that double.
        """
        rows, columns = _map_axes(self.data_format)
        size, seeds = self.block_size, self.seeds.keep()
        before = size - 1 if self.border == "whole" else size // 2
        padded = list(seeds.shape)
        places = [slice(None)] * 4
        for axis in (rows, columns):
            padded[axis] = self.shape[axis] + size - 1
            places[axis] = slice(before, before + seeds.shape[axis])
        marks = np.zeros(padded, np.bool_)
        np.logical_not(seeds, out=marks[tuple(places)])
        # As one row of bytes. What runs over the end of a row of the map, or of the map, ends up in
        # the padding, which is cut off.
        flat = marks.reshape(-1)
        for axis in (rows, columns):
            step = int(np.prod(padded[axis + 1 :]))
            reach = 1  # places that each mark stands for so far
            while reach < size:
                shift = min(reach, size - reach)
                np.logical_or(
                    flat[: -shift * step], flat[shift * step :], out=flat[: -shift * step]
                )
                reach += shift
        for axis in (rows, columns):
            places[axis] = slice(0, self.shape[axis])
        return np.logical_not(marks[tuple(places)], order="C")


def dropblock2d(
    x: ArrayLike,
    p: float = 0.1,
    block_size: int = 7,
    *,
    border: str = "whole",
    batchwise: bool = False,
    training: bool = True,
    rng: Any = None,
    data_format: str = "channels_first",
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop square blocks of feature maps, each channel its own.

    Parameters
    ----------
    x : array_like
        Shape (N, C, H, W). An image without a batch axis is ``x[None]``.
    p : float, optional
        Share of the map that the blocks cover, in ``[0, 1]``, where overlaps are counted twice:
        what is dropped is a little less, see Notes.
    block_size : int, optional
        Side of the blocks, at most that of the map. With 1 it is dropout of elements.
    border : {"whole", "clipped"}, optional
        Where a block may lie. ``"whole"``, as in the paper: only where all of it is on the map.
        ``"clipped"``, which is the form that timm calls fast: about any element, and what is beyond
        the border is cut off.
    batchwise : bool, optional
        Whether all examples have the same blocks.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are; with "channels_last" x has shape (N, H, W, C).
    return_mask : bool, optional
        Whether to return the `BlockMask` too.
    training, rng, out : as in `dropout`

    Returns
    -------
    y : ndarray
        Of x's shape and dtype; in evaluation x itself, see `dropout`.
    mask : BlockMask
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has another number of axes, block_size is less than 1
        or larger than the map, or border or data_format is unknown.

    See Also
    --------
    dropout2d : drops whole channels.
    fastdrop.nn.DropBlock2d : the layer.

    Notes
    -----
    DropBlock [1]_. A place is a seed with probability ``gamma = p * H*W / (A_H * A_W)``, where
    ``A_H`` is the sum of the heights of the blocks about all places, and ``A_W`` that of their
    widths. For ``"whole"`` that is the paper's ``p / block_size**2 * H*W / ((H - block_size + 1) *
    (W - block_size + 1))``. For ``"clipped"`` timm takes that too, though there are more places
    then: on 14 x 14 in blocks of 7 with p = .1 it drops 21 %, here it is 9.5 %. Since blocks
    overlap, about ``1 - exp(-p)`` is dropped: 9.5 % for .1, 18 % for .2, 39 % for .5. Where
    ``"whole"`` blocks crowd on a small map it is up to 4 points less for p up to .5, and 8 for 1;
    where they have few places it is more, by 9 on 3 x 3 in blocks of 2. So ``p=1`` leaves some,
    unless a block is the whole map or one element.

    A block covers the rows ``i - (block_size-1)//2`` to ``i + block_size//2`` of its seed in row i,
    and columns likewise: odd sizes are centred, even ones reach one further down and to the right.
    With ``"whole"``, elements less than ``block_size - 1`` from the border are in fewer blocks, and
    so are dropped less often than those inside; with ``"clipped"`` that is so of the outermost
    ``block_size // 2`` only.

    What is kept is multiplied by the number of elements of x over the number of those kept, in this
    very call, as in the paper. Where nothing is kept all is +0.0. Elements are *selected*: a
    dropped NaN leaves nothing behind.

    The paper lets the rate rise from 0: ``layer.p = p * min(1, step / steps)`` at each step.

    Nothing of x's size is kept for `BlockMask.backward`, which makes the blocks again in
    ``2 * log2(block_size)`` passes over the map in bytes.

    **Compatibility guarantee.** As for `dropout`, for the seeds and so for the blocks.

    References
    ----------
    .. [1] G. Ghiasi, T.-Y. Lin and Q. V. Le, "DropBlock: a regularization method for convolutional
       networks", NeurIPS 2018, arXiv 1810.12890.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y, mask = fd.dropblock2d(np.ones((1, 1, 6, 8)), 0.3, 3, rng=11, return_mask=True)
    >>> y[0, 0]
    array([[1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6, 1.6],
           [1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6, 1.6],
           [1.6, 1.6, 1.6, 0. , 0. , 0. , 1.6, 1.6],
           [1.6, 1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. ],
           [1.6, 1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. ],
           [1.6, 1.6, 1.6, 1.6, 1.6, 0. , 0. , 0. ]])
    >>> bool((mask.backward(np.ones((1, 1, 6, 8))) == y).all())
    True
    """
    rate = rule_of(p, block_size, border, batchwise, data_format).rate
    array, size = as_input(x, "x"), int(number_in(block_size))
    places = _places(array.shape, size, border, data_format)
    gamma = rate * _share(array.shape, size, border, data_format)
    # The checks of the rest, the position and the copy are those of a call that drops nothing.
    nothing = rules.elements(0.0, None, "upscale_in_train")
    y, place = nothing.drop(array, training, rng, out, True)
    dropping = as_bool(training, "training")
    seeds = Mask(
        place.seed,
        place.position,
        (1, *places[1:]) if batchwise else places,
        gamma if dropping else 0.0,
        scale=1.0,
    )
    mask = BlockMask(seeds, array.shape, size, border, data_format)
    if dropping:
        mask.apply(y, y)
    return (y, mask) if return_mask else y


def rule_of(p: Any, block_size: Any, border: Any, batchwise: Any, data_format: Any) -> Rule:
    """Check the settings; return a rule for what all layers do with one."""
    rule = rules.channels(2, p, data_format)
    size = number_in(block_size)
    if isinstance(size, bool | np.bool_) or not isinstance(size, int | np.integer):
        raise TypeError(f"block_size must be an int, not {type(size).__name__}: {block_size!r}")
    if size < 1:
        raise ValueError(f"block_size={size}; it must be from 1 to the size of the map")
    if not isinstance(border, str) or border not in BORDERS:
        raise ValueError(f"border={border!r} is unknown; it must be {' or '.join(BORDERS)}")
    as_bool(batchwise, "batchwise")
    return rule


def _map_axes(data_format: str) -> tuple[int, int]:
    """Return the axes of rows and columns."""
    return (1, 2) if data_format == "channels_last" else (2, 3)


def _places(shape: tuple[int, ...], size: int, border: str, data_format: str) -> tuple[int, ...]:
    """Return the shape of the places where a seed may be, or say what is wrong with x."""
    if len(shape) != 4:
        channels = "(N, H, W, C)" if data_format == "channels_last" else "(N, C, H, W)"
        alone = "; an image alone is x[None]" if len(shape) == 3 else ""
        raise ValueError(f"x has shape {shape}; it must be {channels}, four axes{alone}")
    rows, columns = _map_axes(data_format)
    limit = min(shape[rows], shape[columns])
    if limit == 0:
        raise ValueError(f"x has shape {shape}: its maps are empty; they must have an element")
    if size > limit:
        raise ValueError(
            f"block_size={size} is larger than the map: x has shape {shape}, whose maps are "
            f"{shape[rows]} x {shape[columns]}; it must be at most {limit}"
        )
    places = list(shape)
    if border == "whole":
        places[rows] -= size - 1
        places[columns] -= size - 1
    return tuple(places)


def _share(shape: tuple[int, ...], size: int, border: str, data_format: str) -> float:
    """Return the area of the map over that of the blocks about all places; at most 1."""
    area = blocks = 1
    for axis in _map_axes(data_format):
        area *= shape[axis]
        if border == "whole":
            blocks *= size * (shape[axis] - size + 1)
        else:  # those about the first rows lack 1, 2, ... of their own, and those about the last
            before, after = (size - 1) // 2, size // 2
            blocks *= size * shape[axis] - (before * (before + 1) + after * (after + 1)) // 2
    return area / blocks


def _scale(keep: NDArray[np.bool_]) -> float:
    """Return the number of elements over that of those kept; 0 where none is."""
    kept = int(np.count_nonzero(keep))
    return keep.size / kept if kept else 0.0

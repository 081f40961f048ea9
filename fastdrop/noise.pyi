from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop.arrays import Array
from fastdrop.recipe import Recipe

class Noise(Recipe):
    def __init__(
        self,
        seed: int,
        position: int,
        shape: int | Sequence[int],
        sd: float = 1.0,
        *,
        additive: bool = False,
    ) -> None: ...
    @property
    def sd(self) -> float: ...
    @property
    def additive(self) -> bool: ...
    def apply(self, x: ArrayLike, out: Array | None = None) -> Array: ...
    def backward(self, grad: ArrayLike, out: Array | None = None) -> Array: ...
    def normals(self) -> NDArray[np.float32]: ...

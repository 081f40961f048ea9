from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop.mask import Decisions

class RatesMask(Decisions):
    def __init__(
        self,
        seed: int,
        position: int,
        shape: int | Sequence[int],
        p: ArrayLike,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        scale: ArrayLike | None = None,
    ) -> None: ...
    @property
    def p(self) -> NDArray[np.float64]: ...
    @property
    def scale(self) -> NDArray[np.float64]: ...

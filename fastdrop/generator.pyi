from collections.abc import Sequence
from typing import Any, overload

from numpy.typing import ArrayLike, NDArray

from fastdrop.mask import Mask
from fastdrop.ratesmask import RatesMask

class Generator:
    def __init__(self, seed: Any = None, *, position: int = 0) -> None: ...
    @property
    def seed(self) -> int: ...
    @property
    def position(self) -> int: ...
    @property
    def state(self) -> dict[str, int]: ...
    @state.setter
    def state(self, state: dict[str, int]) -> None: ...
    @overload
    def mask(
        self,
        shape: int | Sequence[int],
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        scale: float | None = None,
        mode: str = "upscale_in_train",
    ) -> Mask: ...
    @overload
    def mask(
        self,
        shape: int | Sequence[int],
        p: NDArray[Any] | Sequence[Any],
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        scale: ArrayLike | None = None,
        mode: str = "upscale_in_train",
    ) -> RatesMask: ...
    def spawn(self, n: int) -> list[Generator]: ...

def as_source(rng: Any) -> Any: ...
def default_generator() -> Generator: ...
def seed(value: Any = None) -> None: ...

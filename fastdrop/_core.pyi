from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray

_Array = NDArray[Any]
_Stream = tuple[int, int, int]
_Window = tuple[int, tuple[int, ...], tuple[int, ...]]

def isas() -> list[tuple[str, bool, bool]]: ...
def get_isa() -> str: ...
def set_isa(name: str) -> bool: ...
def block(seed: int, position: int, tag: int, number: int) -> tuple[int, int, int, int]: ...
def apply(
    y: _Array,
    x: _Array | None,
    dtype: str,
    stream: _Stream,
    values: tuple[float, ...],
    window: _Window,
    begin: int,
    n: int,
) -> None: ...
def apply_small(
    y: _Array,
    x: _Array | None,
    bf16: bool,
    stream: tuple[int, int] | Callable[[], tuple[int, int]],
    drop_threshold: int,
    scale: float,
    window: _Window | None,
    max_bytes: int,
) -> tuple[int, int] | None: ...
def bits(out: _Array, stream: _Stream, window: _Window, begin: int, n: int) -> None: ...
def noise(
    y: _Array,
    x: _Array,
    dtype: str,
    stream: tuple[int, int],
    sd: float,
    additive: bool,
    window: _Window,
    begin: int,
    n: int,
) -> None: ...
def fused(
    y: _Array,
    x: _Array,
    dtype: str,
    stream: _Stream,
    scale: float,
    residual: _Array | None,
    bias: _Array,
    first: int,
    begin: int,
    n: int,
) -> None: ...

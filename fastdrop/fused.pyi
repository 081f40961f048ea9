from typing import Any

from fastdrop.arrays import Array
from fastdrop.mask import Mask

SUMMED: int

def add(
    x: Any, residual: Any, p: Any, bias: Any, training: bool, rng: Any, out: Array | None
) -> tuple[Array, Mask]: ...
def add_backward(grad: Any, mask: Mask, out: Array | None, dtype: Any) -> tuple[Array, Array]: ...
def relu(
    x: Any, p: Any, bias: Any, training: bool, rng: Any, out: Array | None
) -> tuple[Array, Mask]: ...
def relu_backward(grad: Any, y: Any, scale: float, out: Array | None) -> tuple[Array, Array]: ...

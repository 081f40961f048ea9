from collections.abc import ItemsView
from typing import Any, Generic, Literal, Self, TypeVar, overload

from numpy.typing import ArrayLike, DTypeLike

from fastdrop.arrays import Array
from fastdrop.mask import Mask
from fastdrop.rules import Rule

NO_MASK: str
NO_OUTPUT: str

_T = TypeVar("_T")

class Setting(Generic[_T]):
    default: _T
    def __init__(self, default: _T) -> None: ...
    def __set_name__(self, owner: type, name: str) -> None: ...
    @overload
    def __get__(self, layer: None, owner: type) -> Self: ...
    @overload
    def __get__(self, layer: Layer, owner: type | None = None) -> _T: ...
    def __set__(self, layer: Layer, value: _T) -> None: ...

class Layer:
    @property
    def training(self) -> bool: ...
    @training.setter
    def training(self, mode: bool) -> None: ...
    mask: Any
    _rate: str
    def __init__(self, rate: Any = 0.5, *, rng: Any = None) -> None: ...
    def _rule(self, rate: float, /) -> Rule: ...
    def _set_rate(self, rate: float) -> None: ...
    @property
    def p(self) -> Any: ...
    @p.setter
    def p(self, p: Any) -> None: ...
    @property
    def _rng(self) -> Any: ...
    def _share(self, rng: Any) -> None: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        out: Array | None = ...,
        return_mask: Literal[False] = ...,
        *,
        training: bool | None = ...,
    ) -> Array: ...
    @overload
    def __call__(
        self,
        x: ArrayLike,
        out: Array | None = ...,
        *,
        return_mask: Literal[True],
        training: bool | None = ...,
    ) -> tuple[Array, Mask]: ...
    @overload
    def forward(
        self,
        x: ArrayLike,
        out: Array | None = ...,
        return_mask: Literal[False] = ...,
        *,
        training: bool | None = ...,
    ) -> Array: ...
    @overload
    def forward(
        self,
        x: ArrayLike,
        out: Array | None = ...,
        *,
        return_mask: Literal[True],
        training: bool | None = ...,
    ) -> tuple[Array, Mask]: ...
    def backward(
        self, grad: ArrayLike, out: Array | None = None, mask: Mask | None = None
    ) -> Array: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...

class AddLayer(Layer):
    def __call__(  # type: ignore[override]
        self,
        x: ArrayLike,
        residual: ArrayLike,
        bias: ArrayLike | None = None,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any: ...
    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        residual: ArrayLike,
        bias: ArrayLike | None = None,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any: ...
    def backward(  # type: ignore[override]
        self,
        grad: ArrayLike,
        out: Array | None = None,
        mask: Mask | None = None,
        *,
        dtype: DTypeLike | None = None,
    ) -> tuple[Array, Array]: ...

class ReLULayer(Layer):
    y: Array | None
    def __call__(  # type: ignore[override]
        self,
        x: ArrayLike,
        bias: ArrayLike | None = None,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any: ...
    def forward(  # type: ignore[override]
        self,
        x: ArrayLike,
        bias: ArrayLike | None = None,
        out: Array | None = None,
        return_mask: bool = False,
        *,
        training: bool | None = None,
    ) -> Any: ...
    def backward(  # type: ignore[override]
        self, grad: ArrayLike, out: Array | None = None, y: ArrayLike | None = None
    ) -> tuple[Array, Array]: ...

def settings(kind: type) -> ItemsView[str, Setting[Any]]: ...

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def as_input(x: Any, name: str) -> Array: ...

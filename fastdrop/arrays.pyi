from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]

def as_input(x: Any, name: str) -> Array: ...
def read_array(x: Any, name: str) -> Array: ...

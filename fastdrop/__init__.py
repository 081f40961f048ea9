"""Dropout on NumPy arrays at the cost of a copy; the mask is a recipe, not an array."""

try:
    from fastdrop import _core as _core
except ImportError as error:
    raise ImportError(
        f"fastdrop's compiled module is missing or broken ({error}); in a checkout, run: "
        "pip install -e ."
    ) from error

from fastdrop import nn
from fastdrop.config import (
    available_isas,
    get_isa,
    get_num_threads,
    set_isa,
    set_num_threads,
    show_config,
    version,
)
from fastdrop.functional import (
    alpha_dropout,
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    embedding_dropout,
    feature_alpha_dropout,
    locked_dropout,
)
from fastdrop.generator import Generator, seed
from fastdrop.mask import Mask

__version__ = version()

__all__ = [
    "Generator",
    "Mask",
    "alpha_dropout",
    "available_isas",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "embedding_dropout",
    "feature_alpha_dropout",
    "get_isa",
    "get_num_threads",
    "locked_dropout",
    "nn",
    "seed",
    "set_isa",
    "set_num_threads",
    "show_config",
]

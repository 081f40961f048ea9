"""Dropout on NumPy arrays at the cost of a copy; the mask is a recipe, not an array."""

try:
    from fastdrop import kernels as kernels
except ImportError as error:
    raise ImportError(
        f"fastdrop's compiled modules are missing or broken ({error}); in a checkout, run: "
        "pip install -e ."
    ) from error

from fastdrop import nn
from fastdrop.concrete import concrete_dropout, concrete_dropout_backward
from fastdrop.config import (
    available_isas,
    get_isa,
    set_isa,
    show_config,
    version,
)
from fastdrop.dropblock import BlockMask, dropblock2d
from fastdrop.functional import (
    alpha_dropout,
    drop_connect,
    drop_connect_backward,
    drop_path,
    dropout,
    dropout1d,
    dropout2d,
    dropout3d,
    dropout_add,
    dropout_add_backward,
    embedding_dropout,
    feature_alpha_dropout,
    gaussian_dropout,
    gaussian_noise,
    locked_dropout,
    relu_dropout,
    relu_dropout_backward,
    softmax_dropout,
    softmax_dropout_backward,
)
from fastdrop.generator import Generator, default_generator, seed
from fastdrop.mask import Mask
from fastdrop.noise import Noise
from fastdrop.ratesmask import RatesMask
from fastdrop.threads import get_num_threads, set_num_threads
from fastdrop.variational import (
    variational_dropout,
    variational_dropout_backward,
    variational_kl,
)
from fastdrop.zone import zoneout, zoneout_backward

__version__ = version()

__all__ = [
    "BlockMask",
    "Generator",
    "Mask",
    "Noise",
    "RatesMask",
    "alpha_dropout",
    "available_isas",
    "concrete_dropout",
    "concrete_dropout_backward",
    "default_generator",
    "drop_connect",
    "drop_connect_backward",
    "drop_path",
    "dropblock2d",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_add_backward",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "get_isa",
    "get_num_threads",
    "locked_dropout",
    "nn",
    "relu_dropout",
    "relu_dropout_backward",
    "seed",
    "set_isa",
    "set_num_threads",
    "show_config",
    "softmax_dropout",
    "softmax_dropout_backward",
    "variational_dropout",
    "variational_dropout_backward",
    "variational_kl",
    "zoneout",
    "zoneout_backward",
]

"""int8 activations times packed weights, one file per backend."""

from xtc_jax.kernels.packed_matmul.api import BACKENDS, Choice, choose, integer_matmul, packed_matmul, prepare
from xtc_jax.kernels.packed_matmul.reference import ACTIVATIONS

__all__ = ["ACTIVATIONS", "BACKENDS", "CHIPS", "Choice", "choose", "integer_matmul", "packed_matmul", "prepare"]

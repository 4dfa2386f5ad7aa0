"""int8 activations times packed weights, one file per backend."""

from xtc_jax.kernels.packed_matmul.api import BACKENDS, Choice, choose, integer_matmul, native_product, packed_matmul, prepare
from xtc_jax.kernels.packed_matmul.cpu import is_built as native_is_built
from xtc_jax.kernels.packed_matmul.cpu import is_fast as native_is_fast
from xtc_jax.kernels.packed_matmul.cpu_encoder import FusedLayer, FusedLinear, fused_encoder, serves_encoder
from xtc_jax.kernels.packed_matmul.reference import ACTIVATIONS

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "Choice",
    "FusedLayer",
    "FusedLinear",
    "choose",
    "fused_encoder",
    "integer_matmul",
    "native_is_built",
    "native_is_fast",
    "native_product",
    "packed_matmul",
    "prepare",
    "serves_encoder",
]

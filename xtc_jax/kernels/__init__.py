"""Packed low-bit weights: their layout, and what multiplies them."""

from xtc_jax.kernels.layout import (
    BASE3,
    INT8,
    PLANES256,
    STORED_LAYOUTS,
    code_width,
    has_illegal_code,
    pack_base3,
    pack_codes,
    packed_width,
    stored_bits,
    unpack_base3,
    unpack_codes,
)
from xtc_jax.kernels.packed_matmul import ACTIVATIONS, BACKENDS, Choice, choose, integer_matmul, packed_matmul, prepare
from xtc_jax.kernels.tensor import PackedTensor, pack_tensor

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "BASE3",
    "INT8",
    "PLANES256",
    "STORED_LAYOUTS",
    "Choice",
    "PackedTensor",
    "choose",
    "code_width",
    "has_illegal_code",
    "integer_matmul",
    "pack_base3",
    "pack_codes",
    "pack_tensor",
    "packed_matmul",
    "packed_width",
    "prepare",
    "stored_bits",
    "unpack_base3",
    "unpack_codes",
]

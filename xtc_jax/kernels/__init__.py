"""Packed low-bit weights: their layout, and what multiplies them."""

from xtc_jax.kernels.layout import (
    INT8,
    PLANES256,
    PackedTensor,
    pack_codes,
    pack_tensor,
    packed_width,
    stored_bits,
    unpack_codes,
)
from xtc_jax.kernels.packed_matmul import packed_matmul

__all__ = [
    "INT8",
    "PLANES256",
    "PackedTensor",
    "pack_codes",
    "pack_tensor",
    "packed_matmul",
    "packed_width",
    "stored_bits",
    "unpack_codes",
]

"""int8 activations times packed weights."""

from xtc_jax.kernels.packed_matmul.api import packed_matmul

__all__ = ["packed_matmul"]

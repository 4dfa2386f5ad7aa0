"""``packed_matmul``: the public op. One backend so far, plain XLA; kernels will be chosen here."""

from jaxtyping import Array, Float, Int8

from xtc_jax.kernels.layout import PackedTensor
from xtc_jax.kernels.packed_matmul.reference import integer_matmul


def packed_matmul(x: Int8[Array, "*batch k"], x_scale: Float[Array, "..."], weights: PackedTensor) -> Float[Array, "*batch n"]:
    """``(x * x_scale) @ weights.T`` with integer arithmetic inside.

    Args:
      x: int8 activations, one vector per token.
      x_scale: their scales, float32: one per token, ``(*batch, 1)``, or one for all, which broadcasts against that.
      weights: ``(N, K)``, one scale per matrix or per row.

    Returns:
      float32. The sum over K is exact in int32; only the two scales round.
    """
    return integer_matmul(x, weights).astype(x_scale.dtype) * (x_scale * weights.scale)

"""1-bit weights: ``m = mean(|w|)`` per group, ``w -> +m`` where ``w >= 0``, else ``-m``.

Source: XTC section 3; ``BinaryQuantizer`` of ``deepspeed/compression/utils.py``, line 189. One difference,
on purpose: there ``sign(0) = 0`` is a third level; here zero is ``+m``, in training and in the packed
file alike (method.md section 2.1).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from xtc_jax.quantize.groups import dequantize, straight_through


def quantize_binary(w: Float[Array, "..."], groups: int = 1) -> tuple[Int8[Array, "..."], Float[Array, " groups"]]:
    """The integers and scales of 1-bit weights.

    Args:
      w: float weight in torch order; ``groups`` divides its size.
      groups: number of contiguous groups, one scale each.

    Returns:
      Codes in {-1, +1}, int8, shaped like ``w``, and the scales ``m``, shape ``(groups,)``. A group of
      zeros has scale 0.
    """
    codes, scale = binary_levels(w, groups)
    return codes.astype(jnp.int8), scale


def binary_levels(w: Float[Array, "..."], groups: int) -> tuple[Float[Array, "..."], Float[Array, " groups"]]:
    """:func:`quantize_binary` with the codes as floats: training never leaves floating point."""
    scale = jnp.mean(jnp.abs(w).reshape(groups, -1), axis=1)
    return jnp.where(w >= 0, 1, -1).astype(w.dtype), scale


@straight_through
def binarize(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """Fake-quantize ``w`` to ``{-m, +m}`` per group; the gradient passes straight through.

    >>> binarize(jnp.array([[1.0, -3.0], [0.0, 2.0]]), 1).tolist()
    [[1.5, -1.5], [1.5, 1.5]]
    """
    return dequantize(*binary_levels(w, groups))

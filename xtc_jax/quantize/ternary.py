"""2-bit weights, ternary: ``{-alpha, 0, +alpha}`` per group, after Ternary Weight Networks.

``threshold = 0.7 * mean(|w|)``; ``alpha`` is the mean of ``|w|`` over the elements above the threshold.
Source: XTC section 3; ``TernaryQuantizer`` of ``deepspeed/compression/utils.py``, line 148. One difference, on
purpose: there an all-zero group is 0/0 = NaN; here it stays zero.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from xtc_jax.quantize.groups import dequantize, straight_through


def quantize_ternary(w: Float[Array, "..."], groups: int = 1) -> tuple[Int8[Array, "..."], Float[Array, " groups"]]:
    """The integers and scales of ternary weights.

    Args:
      w: float weight in torch order; ``groups`` divides its size.
      groups: number of contiguous groups, one scale each.

    Returns:
      Codes in {-1, 0, +1}, int8, shaped like ``w``, and the scales ``alpha``, shape ``(groups,)``. A
      group of zeros has scale 0.
    """
    codes, scale = ternary_levels(w, groups)
    return codes.astype(jnp.int8), scale


def ternary_levels(w: Float[Array, "..."], groups: int) -> tuple[Float[Array, "..."], Float[Array, " groups"]]:
    """:func:`quantize_ternary` with the codes as floats: training never leaves floating point."""
    magnitude = jnp.abs(w).reshape(groups, -1)
    above = magnitude > 0.7 * jnp.mean(magnitude, axis=1, keepdims=True)
    count = jnp.sum(above, axis=1)
    total = jnp.sum(jnp.where(above, magnitude, 0), axis=1)
    # max >= mean > threshold, so `count` is 0 only where every element is.
    scale = total / jnp.maximum(count, 1).astype(total.dtype)
    return jnp.where(above.reshape(w.shape), jnp.sign(w), 0), scale


@straight_through
def ternarize(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """Fake-quantize ``w`` to ``{-alpha, 0, +alpha}`` per group; the gradient passes straight through.

    >>> ternarize(jnp.array([[4.0, -2.0], [0.1, 0.0]]), 1).tolist()
    [[3.0, -3.0], [0.0, 0.0]]
    """
    return dequantize(*ternary_levels(w, groups))

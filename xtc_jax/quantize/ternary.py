"""2-bit weights, ternary: ``{-alpha, 0, +alpha}`` per group, after Ternary Weight Networks.

``threshold = 0.7 * mean(|w|)``; ``alpha`` is the mean of ``|w|`` over the elements above the threshold.
Source: XTC section 3; ``TernaryQuantizer`` of ``deepspeed/compression/utils.py``, line 148. One difference, on
purpose: there an all-zero group is 0/0 = NaN; here it stays zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int8

from xtc_jax.quantize.groups import Levels, dequantize, grouped, pass_gradient, straight_through

CLIP = 2.5
"""TernaryBERT's ``clip_val``."""


def quantize_ternary(w: Float[Array, "..."], groups: int = 1) -> tuple[Int8[Array, "..."], Float[Array, " groups"]]:
    """The integers and scales of ternary weights.

    Args:
      w: float weight in torch order; ``groups`` divides its size.
      groups: number of contiguous groups, one scale each.

    Returns:
      Codes in {-1, 0, +1}, int8, shaped like ``w``, and the scales ``alpha``, float32 ``(groups,)``. A
      group of zeros has scale 0.
    """
    levels = ternary_levels(w, groups)
    return levels.codes.astype(jnp.int8), levels.scale


def ternary_levels(w: Float[Array, "..."], groups: int, clip: float | None = None) -> Levels:
    """:func:`quantize_ternary` with float codes, of ``w`` clipped to ``[-clip, clip]`` where given."""
    rows = grouped(w, groups)
    rows = rows if clip is None else jnp.clip(rows, -clip, clip)
    magnitude = jnp.abs(rows)
    above = magnitude > 0.7 * jnp.mean(magnitude, axis=1, keepdims=True)
    count = jnp.sum(above, axis=1)
    total = jnp.sum(jnp.where(above, magnitude, 0), axis=1)
    # max >= mean > threshold, so `count` is 0 only where every element is.
    scale = total / jnp.maximum(count, 1).astype(total.dtype)
    return Levels(jnp.where(above, jnp.sign(rows), 0).reshape(w.shape), scale)


@straight_through
def ternarize(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """Fake-quantize ``w`` to ``{-alpha, 0, +alpha}`` per group; the gradient passes straight through.

    >>> ternarize(jnp.array([[4.0, -2.0], [0.1, 0.0]]), 1).tolist()
    [[3.0, -3.0], [0.0, 0.0]]
    """
    return dequantize(*ternary_levels(w, groups))


def ternarize_clipped(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """TernaryBERT's: :func:`ternarize` of ``w`` clipped to [-2.5, 2.5]; the gradient is 0 where ``|w| >= 2.5``.

    Source: ``transformer/utils_quant.py`` of TernaryBERT (docs/method.md, section 3.2).

    >>> ternarize_clipped(jnp.array([[4.0, -2.0], [0.1, 0.0]]), 1).tolist()
    [[2.25, -2.25], [0.0, 0.0]]
    """
    value = dequantize(*ternary_levels(jax.lax.stop_gradient(w), groups, CLIP))
    return pass_gradient(w, value.astype(w.dtype), clip_gate(w))


def clip_gate(w: Float[Array, "..."]) -> Bool[Array, "..."]:
    """Where the gradient of a weight clipped at :data:`CLIP` passes."""
    return jnp.abs(w) < CLIP

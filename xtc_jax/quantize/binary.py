"""1-bit weights: ``m = mean(|w|)`` per group, ``w -> +m`` where ``w >= 0``, else ``-m``.

Source: XTC section 3; ``BinaryQuantizer`` of ``deepspeed/compression/utils.py``, line 189. One difference,
on purpose: there ``sign(0) = 0`` is a third level; here zero is ``+m``, in training and in the packed
file alike (docs/method.md, section 2.1).
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from xtc_jax.quantize.groups import LARGEST, Levels, dequantize, finite, straight_through


def quantize_binary(w: Float[Array, "..."], groups: int = 1) -> tuple[Int8[Array, "..."], Float[Array, " groups"]]:
    """The integers and scales of 1-bit weights.

    Args:
      w: float weight in torch order; ``groups`` divides its size.
      groups: number of contiguous groups, one scale each.

    Returns:
      Codes in {-1, +1}, int8, shaped like ``w``, and the scales ``m``, float32 ``(groups,)``. A group of
      zeros has scale 0.
    """
    levels = binary_levels(w, groups)
    return levels.codes.astype(jnp.int8), levels.scale


def binary_levels(w: Float[Array, "..."], groups: int, centred: bool = False) -> Levels:
    """:func:`quantize_binary` with float codes; ``centred`` takes the sign of ``w - mean(w)``, see :func:`binarize_centred`."""
    rows = w.astype(jnp.float32).reshape(groups, -1)
    above = rows >= jnp.mean(finite(rows)) if centred else rows >= 0
    # A bound on the mean, not on its terms: an infinity costs no pass of its own.
    scale = jnp.minimum(jnp.mean(jnp.abs(rows), axis=1), LARGEST)
    return Levels(jnp.where(above, 1.0, -1.0).reshape(w.shape), scale)


@straight_through
def binarize(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """Fake-quantize ``w`` to ``{-m, +m}`` per group; the gradient passes straight through.

    >>> binarize(jnp.array([[1.0, -3.0], [0.0, 2.0]]), 1).tolist()
    [[1.5, -1.5], [1.5, 1.5]]
    """
    return dequantize(*binary_levels(w, groups))


@straight_through
def binarize_centred(w: Float[Array, "..."], groups: int) -> Float[Array, "..."]:
    """``sign(w - mean(w)) * mean(|w|)``: BiT's (docs/method.md, section 3.4); the gradient passes straight through.

    ``mean(w)`` is over the whole tensor even where scales are per group, and the scale is of the uncentred ``w``.

    >>> binarize_centred(jnp.array([[1.0, 2.0], [3.0, 6.0]]), 1).tolist()
    [[-3.0, -3.0], [3.0, 3.0]]
    """
    return dequantize(*binary_levels(w, groups, centred=True))

"""Symmetric integers of ``bits`` bits, per token: how activations are quantized.

``s = 2 * max(|x|) / 2^bits`` over the last axis, ``q = clamp(round(x / s), -2^(bits-1), 2^(bits-1) - 1)``, half
to even. The positive maximum clips to 127/128 of itself; the negative one is exact. Source: ``SymQuantizer``
of ``deepspeed/compression/utils.py``, line 62, with one group per token.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int8

from xtc_jax.quantize.groups import straight_through


def quantize_symmetric(x: Float[Array, "*batch k"], bits: int) -> tuple[Int8[Array, "*batch k"], Float[Array, "*batch 1"]]:
    """The integers and scales of ``x``, one scale per vector along the last axis.

    Args:
      x: float activations.
      bits: 3 to 8.

    Returns:
      Codes, int8, shaped like ``x``, and the scales ``s``. A zero vector has scale 0 and codes 0.
    """
    codes, scale = activation_levels(x, bits)
    return codes.astype(jnp.int8), scale


def activation_levels(x: Float[Array, "*batch k"], bits: int) -> tuple[Float[Array, "*batch k"], Float[Array, "*batch 1"]]:
    """:func:`quantize_symmetric` with the codes as floats: training never leaves floating point."""
    scale = 2 * jnp.max(jnp.abs(x), axis=-1, keepdims=True) / 2**bits
    safe = jnp.where(scale > 0, scale, 1)
    return jnp.clip(jnp.round(x / safe), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), scale


@straight_through
def quantize_activations(x: Float[Array, "*batch k"], bits: int) -> Float[Array, "*batch k"]:
    """Fake-quantize ``x`` to ``bits`` bits, one scale per token; the gradient passes straight through.

    >>> quantize_activations(jnp.array([[-1.0, 0.5, 1.0]]), 8).tolist()
    [[-1.0, 0.5, 0.9921875]]
    """
    codes, scale = activation_levels(x, bits)
    return codes * scale

"""Integers of 3 to 8 bits, symmetric and asymmetric: weights in groups.

Symmetric: ``s = 2 * max(|w|) / 2^bits``, ``q = clamp(round(w / s), -2^(bits-1), 2^(bits-1) - 1)``, half to even. The positive
maximum clips to one level below itself; the negative one is exact. Asymmetric: ``s = (max - min) / 2^bits``, ``z =
round(min / s)``, ``q = clamp(round((w - z s) / s), 0, 2^bits - 1)``, value ``(q + z) s``. Source: ``SymQuantizer`` and
``AsymQuantizer`` of ``deepspeed/compression/utils.py``, lines 62 and 104; stochastic rounding is that of
``runtime/quantize.py``.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from xtc_jax.quantize.groups import Levels, dequantize, grouped, straight_through


def round_symmetric(
    x: Float[Array, "..."], bound: Float[Array, "..."], bits: int, noise: Array | None = None
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Codes and scale of float32 ``x`` on the symmetric grid up to ``bound``, which broadcasts against it.

    Where ``bound`` is 0 both are 0, never NaN. ``noise`` is added before rounding.
    """
    scale = 2 * bound / 2**bits
    steps = x / jnp.where(scale > 0, scale, 1)
    rounded = jnp.round(steps if noise is None else steps + noise)
    return jnp.where(scale > 0, jnp.clip(rounded, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1), 0), scale


def round_asymmetric(
    x: Float[Array, "..."], low: Float[Array, "..."], high: Float[Array, "..."], bits: int, noise: Array | None = None
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    """Codes, scale and zero point of float32 ``x`` on the grid from ``low`` to ``high``, which broadcast against it.

    Where ``low`` equals ``high`` the one level there is exact: scale ``|low|``, zero point its sign.
    """
    span = (high - low) / 2**bits
    scale = jnp.where(span > 0, span, jnp.abs(low))
    safe = jnp.where(scale > 0, scale, 1)
    zero = jnp.round(low / safe)
    steps = (x - zero * scale) / safe
    rounded = jnp.round(steps if noise is None else steps + noise)
    return jnp.clip(rounded, 0, 2**bits - 1), scale, zero


def _noise(key: Key[Array, ""] | None, shape: tuple[int, ...]) -> Array | None:
    return None if key is None else jax.random.uniform(key, shape, jnp.float32, -0.5, 0.5)


def symmetric_levels(w: Float[Array, "..."], groups: int, bits: int, key: Key[Array, ""] | None = None) -> Levels:
    """Codes in ``[-2^(bits-1), 2^(bits-1) - 1]`` and one scale per group; ``key`` rounds stochastically."""
    rows = grouped(w, groups)
    codes, scale = round_symmetric(rows, jnp.max(jnp.abs(rows), axis=1, keepdims=True), bits, _noise(key, rows.shape))
    return Levels(codes.reshape(w.shape), scale[:, 0])


def asymmetric_levels(w: Float[Array, "..."], groups: int, bits: int, key: Key[Array, ""] | None = None) -> Levels:
    """Codes in ``[0, 2^bits - 1]``, one scale and one zero point per group; ``key`` rounds stochastically."""
    rows = grouped(w, groups)
    low, high = jnp.min(rows, axis=1, keepdims=True), jnp.max(rows, axis=1, keepdims=True)
    codes, scale, zero = round_asymmetric(rows, low, high, bits, _noise(key, rows.shape))
    return Levels(codes.reshape(w.shape), scale[:, 0], zero[:, 0])


@straight_through
def quantize_symmetric(
    w: Float[Array, "..."], groups: int, bits: int, key: Key[Array, ""] | None = None
) -> Float[Array, "..."]:
    """Fake-quantize ``w`` on the symmetric grid; the gradient passes straight through.

    Args:
      w: float weight in torch order; ``groups`` divides its size.
      groups: number of contiguous groups, one scale each.
      bits: 3 to 8.
      key: rounds stochastically, ``round(w / s + u)`` with u uniform in [-0.5, 0.5): the expectation is ``w``.

    >>> quantize_symmetric(jnp.array([[-1.0, 0.5, 1.0]]), 1, 8).tolist()
    [[-1.0, 0.5, 0.9921875]]
    """
    return dequantize(*symmetric_levels(w, groups, bits, key))


@straight_through
def quantize_asymmetric(
    w: Float[Array, "..."], groups: int, bits: int, key: Key[Array, ""] | None = None
) -> Float[Array, "..."]:
    """Fake-quantize ``w`` on the asymmetric grid; arguments and gradient as :func:`quantize_symmetric`.

    >>> quantize_asymmetric(jnp.array([[0.0, 1.1, 8.0]]), 1, 3).tolist()
    [[0.0, 1.0, 7.0]]
    """
    return dequantize(*asymmetric_levels(w, groups, bits, key))

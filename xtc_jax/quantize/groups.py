"""Groups: which elements of a weight share one scale, and the gradient every quantizer shares.

A weight is kept in torch order, ``(out, in)`` for a Linear and ``(rows, hidden)`` for an embedding, so
a group is always a run of contiguous elements: ``w.reshape(groups, -1)`` (docs/method.md, section 3,
``deepspeed/compression/utils.py`` of DeepSpeed 0.16.4).
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int8

Granularity = int | str
"""``"tensor"``, ``"row"`` or the number of elements in a group; a config may write another word, see ``check_spec``."""
LARGEST = float(jnp.finfo(jnp.float32).max) / 1024
"""What an infinity counts as."""


class Levels(NamedTuple):
    """A quantized array as integers: ``value = (codes + zero) * scale``, group by group.

    Attributes:
      codes: float32, whole numbers, shaped like the array. Floats, so that training never leaves them.
      scale: float32 ``(groups,)``.
      zero: float32 ``(groups,)``, whole numbers, or None where the grid is symmetric.
    """

    codes: Float[Array, "..."]
    scale: Float[Array, " groups"]
    zero: Float[Array, " groups"] | None = None


def group_count(shape: tuple[int, ...], granularity: Granularity) -> int:
    """Number of groups of a weight.

    Args:
      shape: shape of the weight, torch order.
      granularity: ``"tensor"`` (one scale, XTC's Linears), ``"row"`` (one per row, XTC's embeddings), or
        the number of contiguous elements in a group.

    Raises:
      ValueError: the group size does not divide the number of elements.
    """
    if granularity == "tensor":
        return 1
    if granularity == "row":
        return shape[0]
    size = math.prod(shape)
    if isinstance(granularity, str) or granularity < 1 or size % granularity:
        raise ValueError(f"groups of {granularity} do not divide a weight of shape {shape}")
    return size // granularity


def finite(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x`` in float32, for a scale is a sum and sums do not fit 16 bits; infinities as huge numbers, for 0 * inf is NaN."""
    return jnp.clip(x.astype(jnp.float32), -LARGEST, LARGEST)


def grouped(w: Float[Array, "..."], groups: int) -> Float[Array, "groups size"]:
    """``finite(w)`` as one row per group."""
    return finite(w).reshape(groups, -1)


def dequantize(
    codes: Int8[Array, "..."] | Float[Array, "..."],
    scale: Float[Array, " groups"],
    zero: Float[Array, " groups"] | None = None,
) -> Float[Array, "..."]:
    """``(codes + zero) * scale``, group by group, in the shape of ``codes`` and the dtype of ``scale``."""
    values = codes.reshape(scale.shape[0], -1).astype(scale.dtype)
    if zero is not None:
        values = values + zero[:, None]
    return (values * scale[:, None]).reshape(codes.shape)


@jax.custom_vjp
def pass_gradient(x: Float[Array, "..."], value: Float[Array, "..."], gate: Bool[Array, "..."] | None) -> Float[Array, "..."]:
    """The straight-through estimator: returns ``value``; the gradient goes to ``x`` unchanged.

    Where ``gate`` is given and False it is 0. ``value`` is a constant to the backward pass, the scale inside it included:
    nothing leaks through ``mean(abs(w))``, and no ``x + stop_gradient(value - x)`` is needed, which in float32
    is not exactly ``value`` (docs/method.md, section 13.5).
    """
    del x, gate
    return value


def _forward(x: Array, value: Array, gate: Array | None) -> tuple[Array, Array | None]:
    del x
    return value, gate


def _backward(gate: Array | None, cotangent: Array) -> tuple[Array, None, None]:
    return (cotangent if gate is None else jnp.where(gate, cotangent, 0)), None, None


pass_gradient.defvjp(_forward, _backward)


def straight_through(quantizer: Callable[..., Array]) -> Callable[..., Array]:
    """Give ``quantizer(x, …)`` the straight-through gradient: d quantizer(x) / dx = identity."""

    @functools.wraps(quantizer)
    def quantize(x: Array, *args: Any, **options: Any) -> Array:
        return pass_gradient(x, quantizer(jax.lax.stop_gradient(x), *args, **options).astype(x.dtype), None)

    return quantize

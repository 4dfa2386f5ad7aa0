"""Groups: which elements of a weight share one scale, and the gradient every quantizer shares.

A weight is kept in torch order, ``(out, in)`` for a Linear and ``(rows, hidden)`` for an embedding, so
a group is always a run of contiguous elements: ``w.reshape(groups, -1)`` (method.md section 3,
``deepspeed/compression/utils.py`` of DeepSpeed 0.16.4).
"""

import functools
import math
from collections.abc import Callable
from typing import Literal

import jax
from jaxtyping import Array, Float, Int8

Granularity = Literal["tensor", "row"] | int


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
    if granularity < 1 or size % granularity:
        raise ValueError(f"groups of {granularity} do not divide a weight of shape {shape}")
    return size // granularity


def dequantize(codes: Int8[Array, "..."] | Float[Array, "..."], scale: Float[Array, " groups"]) -> Float[Array, "..."]:
    """``codes * scale``, group by group, in the shape of ``codes`` and the dtype of ``scale``."""
    values = codes.reshape(scale.shape[0], -1).astype(scale.dtype) * scale[:, None]
    return values.reshape(codes.shape)


def straight_through(quantizer: Callable[[Array, int], Array]) -> Callable[..., Array]:
    """Give ``quantizer(x, n)`` the straight-through gradient: d quantizer(x) / dx = identity.

    The whole quantized value is a constant to the backward pass, its scale included: nothing leaks
    through ``mean(abs(w))``, and no ``x + stop_gradient(q - x)`` is needed, which in float32 is not
    exactly ``q`` (method.md trap 5). ``n`` (groups or bits) is static.
    """

    @functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
    def quantize(x: Array, n: int) -> Array:
        return quantizer(x, n)

    def forward(x: Array, n: int) -> tuple[Array, None]:
        return quantizer(x, n), None

    def backward(n: int, residual: None, cotangent: Array) -> tuple[Array]:
        del n, residual
        return (cotangent,)

    quantize.defvjp(forward, backward)
    return functools.wraps(quantizer)(quantize)

"""Products: :func:`einsum` of floats, and the Linear of a fake-quantized student, in exact integer arithmetic.

``y = (q_x s_x) (q_w s_w)^T`` is computed as ``(q_x q_w^T) (s_x s_w)``. The integers ``q`` are multiplied as int8 and summed
as int32, or held in floats and summed in float32. At 1 and 2 bits every partial sum of ``q_x q_w^T`` is an integer below
2^24 (K * 128, K below 131,072), so a float32 accumulator is exact: the result depends on no order of summation, arithmetic,
device count or backend, and equals the packed model's to the bit. (At 3 bits and more float32 is exact up to K = 2^(18 - bits),
and beyond that as good as any float32 sum; int32 is always.) It is exact at bfloat16 inputs too, for bfloat16 holds every
integer up to 256.
"""

import functools
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.devices import Arithmetic
from xtc_jax.quantize.activations import ActivationSpec, activation_levels, range_cotangent, used_range


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def einsum(subscripts: str, a: Float[Array, "..."], b: Float[Array, "..."]) -> Float[Array, "..."]:
    """``jnp.einsum`` of two arrays: products in the dtype of ``a``, sums and result float32, in the backward pass as well.

    JAX's own backward pass would multiply the float32 cotangent by bfloat16, which every backend does in float32.

    Args:
      subscripts: ``ab,cb->ac``; every letter of an operand is in the other or in the result.
      a: float32 or bfloat16.
      b: float; converted to the dtype of ``a``.
    """
    return _einsum(subscripts, a, b.astype(a.dtype))


def _einsum_forward(subscripts: str, a: Array, b: Array) -> tuple[Array, tuple[Array, Array]]:
    return einsum(subscripts, a, b), (a, b)


def _einsum_backward(subscripts: str, operands: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    (a, b), (left, right, result) = operands, re.split("->|,", subscripts)
    narrow = g.astype(a.dtype)
    da = _einsum(f"{result},{right}->{left}", narrow, b.astype(a.dtype))
    # Not by way of float32: XLA:CPU (0.10.2 and 0.12) lacks bfloat16 x bfloat16 = float32 for the layout of attention's values.
    db = jnp.einsum(f"{result},{left}->{right}", narrow, a, preferred_element_type=b.dtype)
    return da.astype(a.dtype), db


def _einsum(subscripts: str, a: Array, b: Array) -> Array:
    return jnp.einsum(subscripts, a, b, preferred_element_type=jnp.float32)


einsum.defvjp(_einsum_forward, _einsum_backward)


def matmul(x: Float[Array, "*batch k"], weight: Float[Array, "n k"]) -> Float[Array, "*batch n"]:
    """``x @ weight.T`` by :func:`einsum`, float32."""
    batch = "abcdefg"[: x.ndim - 1]
    return einsum(f"{batch}k,nk->{batch}n", x, weight)


IntegerProduct = Callable[[Int8[Array, "*batch k"], Int8[Array, "n k"]], Int32[Array, "*batch n"]]
"""``(a, b) -> a @ b.T`` of small integers."""
Residual = tuple[Array, Array, Array, Array | None, Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def quantized_matmul(
    x: Float[Array, "*batch k"],
    value: Float[Array, "n k"],
    codes: Float[Array, "n k"],
    scale: Float[Array, " groups"],
    input_range: Float[Array, "2"] | None,
    spec: ActivationSpec,
    training: bool = False,
    arithmetic: Arithmetic = "float",
    product: IntegerProduct | None = None,
) -> Float[Array, "*batch n"]:
    """Quantize ``x`` and multiply by the quantized weight.

    Args:
      x: float activations, float32 or bfloat16; the backward pass multiplies in their dtype.
      value: the fake-quantized weight, ``codes * scale``; read by the backward pass alone.
      codes: its integers, as floats, at most 8 bits.
      scale: float32, one per matrix, ``(1,)``, or one per row, ``(n,)``.
      input_range: the running range of ``x``, where it is static.
      spec: how ``x`` is quantized, symmetric.
      training: see ``quantize_activations``.
      arithmetic: in what the integers are multiplied: int8, or, as ``float``, the dtype of ``x``.
      product: multiplies int8, where that is not XLA.

    Returns:
      ``x_q @ value.T``, float32. Gradients are straight-through: ``dx = g @ value``, ``dvalue = g^T @ x_q``; ``codes`` and
      ``scale`` are constants; that of ``input_range`` is its new value.
    """
    return _forward(x, value, codes, scale, input_range, spec, training, arithmetic, product)[0]


def _forward(
    x: Array,
    value: Array,
    codes: Array,
    scale: Array,
    input_range: Array | None,
    spec: ActivationSpec,
    training: bool,
    arithmetic: Arithmetic,
    product: IntegerProduct | None,
) -> tuple[Array, Residual]:
    moved = used_range(x, spec, input_range, training)
    levels, token_scale, _ = activation_levels(x, spec, moved)
    # Residuals: integers of one byte instead of four, and the weight in the dtype of x, which the backward pass reads off it.
    levels = levels.astype(x.dtype if arithmetic == "float" else jnp.int8)
    codes = codes.astype(levels.dtype)
    integers = product(levels, codes).astype(jnp.float32) if product else _dot(levels, codes, (x.ndim - 1,), (1,))
    return integers * (token_scale * scale), (levels, token_scale, value.astype(x.dtype), moved, input_range)


def _backward(
    spec: ActivationSpec,
    training: bool,
    arithmetic: Arithmetic,
    product: IntegerProduct | None,
    residual: Residual,
    g: Array,
) -> tuple[Array, Array, None, None, Array | None]:
    del spec, arithmetic, product
    levels, token_scale, value, moved, input_range = residual
    dtype = value.dtype
    batch = tuple(range(g.ndim - 1))
    dx = _dot(g.astype(dtype), value, (g.ndim - 1,), (0,)).astype(dtype)
    dvalue = _dot(g.astype(dtype), (levels.astype(jnp.float32) * token_scale).astype(dtype), batch, batch)
    return dx, dvalue, None, None, range_cotangent(moved, input_range, training)


def _dot(a: Array, b: Array, axes_a: tuple[int, ...], axes_b: tuple[int, ...]) -> Array:
    """Contract to float32 with an accumulator of 32 bits, int32 where ``a`` and ``b`` are int8."""
    total = jnp.int32 if a.dtype == jnp.int8 else jnp.float32
    product = jax.lax.dot_general(a, b, ((axes_a, axes_b), ((), ())), preferred_element_type=total)
    return product.astype(jnp.float32)


quantized_matmul.defvjp(_forward, _backward)

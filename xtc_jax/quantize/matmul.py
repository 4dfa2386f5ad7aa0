"""The Linear of a fake-quantized student, in exact integer arithmetic.

``y = (q_x s_x) (q_w s_w)^T`` is computed as ``(q_x q_w^T) (s_x s_w)``, the integers ``q`` held in floats. Every partial sum of
``q_x q_w^T`` is an integer below 2^24 (K * 128, K below 131,072), so a float32 accumulator is exact: the result depends
on no order of summation, device count or backend, and equals the packed model's int32 to the bit. On TPU it is
exact even at the default precision, for bfloat16 holds every integer up to 256.
"""

import functools

import jax
from jaxtyping import Array, Float

from xtc_jax.quantize.integer import activation_levels

Residual = tuple[Array, Array, Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def quantized_matmul(
    x: Float[Array, "*batch k"],
    value: Float[Array, "n k"],
    codes: Float[Array, "n k"],
    scale: Float[Array, " groups"],
    bits: int,
) -> Float[Array, "*batch n"]:
    """Quantize ``x`` per token to ``bits`` bits and multiply by the quantized weight.

    Args:
      x: float activations.
      value: the fake-quantized weight, ``codes * scale``; read by the backward pass alone.
      codes: its integers, as floats.
      scale: one per matrix, ``(1,)``, or one per row, ``(n,)``.
      bits: of the activations.

    Returns:
      ``x_q @ value.T``. Gradients are straight-through: ``dx = g @ value``, ``dvalue = g^T @ x_q``; ``codes`` and ``scale``
      are constants.
    """
    return _forward(x, value, codes, scale, bits)[0]


def _forward(x: Array, value: Array, codes: Array, scale: Array, bits: int) -> tuple[Array, Residual]:
    levels, token_scale = activation_levels(x, bits)
    integers = jax.lax.dot_general(levels, codes, (((x.ndim - 1,), (1,)), ((), ())))
    return integers * (token_scale * scale), (levels, token_scale, value)


def _backward(bits: int, residual: Residual, g: Array) -> tuple[Array, Array, None, None]:
    del bits
    levels, token_scale, value = residual
    batch = tuple(range(g.ndim - 1))
    dx = jax.lax.dot_general(g, value, (((g.ndim - 1,), (0,)), ((), ())))
    dvalue = jax.lax.dot_general(g, levels * token_scale, ((batch, batch), ((), ())))
    return dx, dvalue, None, None


quantized_matmul.defvjp(_forward, _backward)

"""The meaning of the op, in plain XLA: runs everywhere, and is the oracle of every other backend.

Three steps, which a kernel may fuse but not change: :func:`quantize_tokens`, :func:`integer_matmul`, :func:`epilogue`.
"""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, Int32

from xtc_jax.kernels.tensor import PackedTensor


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """``x / 2 (1 + erf(x / sqrt(2)))``, as torch has it.

    ``jax.nn.gelu`` has ``erfc(-x / sqrt(2))``: for that XLA:CPU makes three times the work, and Pallas no code at all.
    """
    return 0.5 * x * (1 + jax.lax.erf(x * math.sqrt(0.5)))


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = MappingProxyType(
    {
        "": lambda x: x,
        "gelu": gelu,
        "gelu_new": functools.partial(jax.nn.gelu, approximate=True),
        "relu": jax.nn.relu,
    }
)
"""What may follow the bias, by the name Hugging Face gives it."""
LARGEST = float(jnp.finfo(jnp.float32).max) / 1024
"""What an infinite activation counts as."""


def quantize_tokens(x: Float[Array, "*batch k"]) -> tuple[Int8[Array, "*batch k"], Float[Array, "*batch 1"]]:
    """int8 codes and float32 scale of each token: ``s = max|x| / 128``, ``q = clip(round(x / s), -128, 127)``, half to even.

    A token of zeros has scale 0 and codes 0; an infinity counts as a huge number. Equals ``activation_levels`` of
    ``xtc_jax.quantize``, 8 bits per token, to the bit (DeepSpeed's ``SymQuantizer``; docs/method.md, section 3.1).

    Both are computed by the same XLA: on a CPU it compiles ``x / s`` to ``x * (1 / s)``, so that a code may be the next one to
    that of IEEE's division where the quotient lies beside a half: 5 of 3,145,728 normal numbers in rows of 768.
    """
    wide = x.astype(jnp.float32)
    scale = jnp.minimum(jnp.max(jnp.abs(wide), axis=-1, keepdims=True), LARGEST) / 128  # what is beyond is clipped below
    codes = jnp.clip(jnp.round(wide / jnp.where(scale > 0, scale, 1)), -128, 127)
    return codes.astype(jnp.int8), scale


def integer_matmul(x: Int8[Array, "*batch k"], weights: PackedTensor) -> Int32[Array, "*batch n"]:
    """``sum_k x[..., k] * w[n, k]`` in int32: exact for K below 2^17, whatever the values."""
    if math.prod(x.shape[:-1]) == 1:  # XLA:CPU would multiply one row by a scalar loop, again for every reader of the result
        two = jnp.pad(x.reshape(1, -1), ((0, 1), (0, 0)))
        return integer_matmul(two, weights)[:1].reshape(*x.shape[:-1], weights.shape[0])
    contract = (((x.ndim - 1,), (1,)), ((), ()))
    return jax.lax.dot_general(x, weights.values(), contract, preferred_element_type=jnp.int32)


def epilogue(
    sums: Int32[Array, "*batch n"],
    x_scale: Float[Array, "..."],
    weight_scale: Float[Array, " groups"],
    bias: Float[Array, " n"] | None = None,
    activation: str = "",
    dtype: Any = jnp.float32,
) -> Float[Array, "*batch n"]:
    """``activation(sums * (x_scale * weight_scale) + bias)`` in float32, then ``dtype``."""
    y = sums.astype(jnp.float32) * (x_scale * weight_scale)
    if bias is not None:
        y = y + bias
    return ACTIVATIONS[activation](y).astype(dtype)


def prepare(weights: PackedTensor, device_kind: str) -> PackedTensor:
    """``weights`` unpacked to int8, for any device.

    Raises:
      NotImplementedError: its integers cannot be summed before they are scaled.
    """
    del device_kind
    if not weights.is_integer:
        raise NotImplementedError("zero points, or groups inside a row: no integer product")
    return weights.unpacked()


def matmul(
    x: Float[Array, "*batch k"] | Int8[Array, "*batch k"],
    weights: PackedTensor,
    x_scale: Float[Array, "..."] | None = None,
    bias: Float[Array, " n"] | None = None,
    *,
    activation: str = "",
    dtype: Any = jnp.float32,
) -> Array:
    """The three steps; ``dtype`` int32 returns the sums as they are."""
    if x_scale is None:
        x, x_scale = quantize_tokens(jax.lax.platform_dependent(x, cpu=_computed_once, default=lambda each: each))
    sums = integer_matmul(x, weights)
    return sums if dtype == jnp.int32 else epilogue(sums, x_scale, weights.scale, bias, activation, dtype)


def _computed_once(x: Array) -> Array:
    """``x``, which XLA:CPU may not merge with its readers: it would compute a GELU for the maximum, and again for the codes."""
    return jax.lax.optimization_barrier(x)

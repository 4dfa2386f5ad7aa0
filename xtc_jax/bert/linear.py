"""The three parametrised operations of a BERT, for every kind of leaf that may stand in ``params``.

A weight is a float array (full precision), a :class:`FakeQuantized` (training at low bits) or a
:class:`PackedTensor` (a loaded small model). The module is the same; the leaf decides what multiplies.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xtc_jax.kernels import PackedTensor, packed_matmul
from xtc_jax.quantize import FakeQuantized, quantize_symmetric

Weight = Array | FakeQuantized | PackedTensor


def linear(x: Float[Array, "*batch k"], weight: Weight, bias: Float[Array, " n"]) -> Float[Array, "*batch n"]:
    """``x @ weight.T + bias``, the input quantized to ``weight.activation_bits`` where the leaf says so.

    Args:
      x: activations.
      weight: ``(n, k)``, torch order.
      bias: stays float, always.
    """
    if isinstance(weight, PackedTensor) and weight.activation_bits is not None:
        return packed_matmul(*quantize_symmetric(x, weight.activation_bits), weight) + bias
    if isinstance(weight, PackedTensor):
        return _dot(x, weight.dequantize()) + bias
    if isinstance(weight, FakeQuantized):
        return weight.linear(x) + bias
    return _dot(x, weight) + bias


def embed(ids: Int[Array, "*batch"], table: Array | PackedTensor) -> Float[Array, "*batch hidden"]:
    """Rows of an embedding table; a packed table stays packed."""
    return table.rows(ids) if isinstance(table, PackedTensor) else table[ids]


def _dot(x: Array, weight: Array) -> Array:
    return jax.lax.dot_general(x, weight, (((x.ndim - 1,), (1,)), ((), ())))


def _parameter(module: nn.Module, name: str, init: jax.nn.initializers.Initializer, shape: tuple[int, ...]) -> Weight:
    """``module.param``, but what stands there may be any kind of leaf (``param`` compares shapes)."""
    if module.has_variable("params", name):
        leaf: Weight = module.get_variable("params", name)
        return leaf
    return module.param(name, init, shape)


class Linear(nn.Module):
    """``y = x W^T + b`` with ``weight (features, in)`` in torch order and ``bias (features,)``.

    Torch order, and not Flax's ``kernel (in, out)``: groups of a quantizer are contiguous runs of it,
    packed rows are rows of it, and checkpoints are converted without a transpose.
    """

    features: int
    std: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch features"]:
        """Apply to the last axis of ``x``."""
        init = nn.initializers.normal(self.std)
        weight = _parameter(self, "weight", init, (self.features, x.shape[-1]))
        return linear(x, weight, self.param("bias", nn.initializers.zeros, (self.features,)))


class Embedding(nn.Module):
    """A table ``weight (rows, hidden)``."""

    rows: int
    hidden: int
    std: float

    @nn.compact
    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        """Look the rows up."""
        table = _parameter(self, "weight", nn.initializers.normal(self.std), (self.rows, self.hidden))
        assert not isinstance(table, FakeQuantized), "an embedding has no input to quantize"
        return embed(ids, table)


class LayerNorm(nn.Module):
    """Layer normalisation over the last axis, statistics in float32, two-pass variance as in torch."""

    eps: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch k"]) -> Float[Array, "*batch k"]:
        """Normalise, scale, shift."""
        weight = self.param("weight", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        wide = x.astype(jnp.float32)
        centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
        return (centred * jax.lax.rsqrt(variance + self.eps) * weight + bias).astype(x.dtype)

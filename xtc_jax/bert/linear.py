"""The three parametrised operations of a BERT, for every kind of leaf that may stand in ``params``.

A weight is a float array (full precision), a :class:`FakeQuantized` (training at low bits) or a
:class:`PackedTensor` (a loaded small model). The module is the same; the leaf decides what multiplies.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from xtc_jax.kernels import PackedTensor, packed_matmul
from xtc_jax.quantize import INPUT_RANGE, ActivationSpec, FakeQuantized, activation_levels, matmul, quantize_activations

Weight = Array | FakeQuantized | PackedTensor | Mapping[str, Any]


def linear(
    x: Float[Array, "*batch k"], weight: Weight, bias: Float[Array, " n"], input_range: Float[Array, "2"] | None = None
) -> Float[Array, "*batch n"]:
    """``x @ weight.T + bias`` in the dtype of ``x``, the input quantized as the leaf says.

    Args:
      x: activations, float32 or bfloat16; products are summed in float32 either way.
      weight: ``(n, k)``, torch order; a mapping is a weight that was split: the sum of its two halves.
      bias: stays float, always.
      input_range: the running range of ``x``, where its quantization is static.
    """
    return (_product(x, weight, input_range) + bias).astype(x.dtype)


def _product(x: Array, weight: Weight, input_range: Array | None) -> Array:
    """``x @ weight.T``, float32."""
    if isinstance(weight, Mapping):
        # The range moves once, though both halves see the same input.
        still = None if input_range is None else jax.lax.stop_gradient(input_range)
        return _product(x, weight["first"], input_range) + _product(x, weight["second"], still)
    if isinstance(weight, FakeQuantized):
        return weight.linear(x, input_range)
    if isinstance(weight, PackedTensor):
        return _packed_product(x, weight, input_range)
    return matmul(x, jnp.asarray(weight))  # of a checkpoint as read, a numpy array


def _packed_product(x: Array, weight: PackedTensor, input_range: Array | None) -> Array:
    spec = weight.activation
    if spec is None:
        return matmul(x, weight.dequantize())
    assert isinstance(spec, ActivationSpec)
    if weight.is_integer and spec.symmetric:
        levels = activation_levels(x, spec, input_range)
        return packed_matmul(levels.codes.astype(jnp.int8), levels.scale, weight)
    return matmul(quantize_activations(x, spec, input_range), weight.dequantize())


def embed(ids: Int[Array, "*batch"], table: Weight) -> Float[Array, "*batch hidden"]:
    """Rows of an embedding table; a packed table stays packed, a split one is the sum of its halves."""
    if isinstance(table, Mapping):
        return embed(ids, table["first"]) + embed(ids, table["second"])
    assert not isinstance(table, FakeQuantized), "an embedding has no input to quantize"
    return table.rows(ids) if isinstance(table, PackedTensor) else table[ids]


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
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        input_range = self.get_variable("params", INPUT_RANGE) if self.has_variable("params", INPUT_RANGE) else None
        return linear(x, weight, bias, input_range)


class Embedding(nn.Module):
    """A table ``weight (rows, hidden)``."""

    rows: int
    hidden: int
    std: float

    @nn.compact
    def __call__(self, ids: Int[Array, "*batch"]) -> Float[Array, "*batch hidden"]:
        """Look the rows up."""
        table = _parameter(self, "weight", nn.initializers.normal(self.std), (self.rows, self.hidden))
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

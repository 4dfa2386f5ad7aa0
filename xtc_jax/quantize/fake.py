"""Fake quantization of a whole model: params in, params out, same structure."""

import functools
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from xtc_jax.errors import UserError
from xtc_jax.quantize.binary import binarize, quantize_binary
from xtc_jax.quantize.groups import group_count, straight_through
from xtc_jax.quantize.rules import QuantRules, WeightSpec
from xtc_jax.quantize.ternary import quantize_ternary, ternarize

Params = Any
"""A pytree of parameters: nested dicts whose leaves are arrays (or nodes that stand for one)."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=["activation_bits"])
@dataclass(frozen=True)
class FakeQuantized:
    """A fake-quantized weight whose Linear also quantizes its input.

    Attributes:
      value: float values that lie on the quantization grid, torch order.
      activation_bits: bits of the Linear's input, per token, symmetric.
    """

    value: Float[Array, "out in"]
    activation_bits: int = field(metadata={"static": True})


def quantize_weight(w: Float[Array, "..."], spec: WeightSpec) -> tuple[Array, Array]:
    """Integer codes (int8, shaped like ``w``) and scales (one per group) of ``w`` under ``spec``."""
    quantizer = {1: quantize_binary, 2: quantize_ternary}[spec.bits]
    return quantizer(w, group_count(w.shape, spec.granularity))


@straight_through
def round_mantissa(x: Float[Array, "..."], bits: int) -> Float[Array, "..."]:
    """Round to IEEE half precision (``bits`` = 10) without leaving the dtype; straight-through gradient.

    ``reduce_precision`` and not a pair of casts: XLA may elide the casts. Values under 2^-14 become 0.
    """
    return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=bits)


def named_leaves(params: Params) -> dict[str, Array]:
    """``{"encoder/layer_0/…/weight": leaf}`` in tree order."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def assign_rules(params: Params, rules: QuantRules) -> dict[str, WeightSpec]:
    """:meth:`QuantRules.assign` over the paths of ``params``.

    Raises:
      UserError: a rule matches nothing, matches something that is not a matrix, or its group size does
        not divide the matrix.
    """
    leaves = named_leaves(params)
    assigned = rules.assign(leaves)
    for path, spec in assigned.items():
        if leaves[path].ndim != 2:
            raise UserError(f"a quantization rule matches {path}, shape {leaves[path].shape}: only matrices are quantized")
        try:
            group_count(leaves[path].shape, spec.granularity)
        except ValueError as error:
            raise UserError(f"{path}: {error}") from None
    return assigned


def fake_quantize(params: Params, rules: QuantRules) -> Params:
    """The params a quantized student computes with.

    Args:
      params: latent float32 params; the gradient of the result passes straight through to them.
      rules: what to quantize.

    Returns:
      The same tree; a quantized weight is a float array on the grid, wrapped in :class:`FakeQuantized`
      where the Linear's input is quantized too; every other leaf is rounded to ``rules.rest``.

    Raises:
      UserError: see :func:`assign_rules`.
    """
    assigned = assign_rules(params, rules)

    def leaf(path: tuple[Any, ...], w: Array) -> Array | FakeQuantized:
        spec = assigned.get(jax.tree_util.keystr(path, simple=True, separator="/"))
        if spec is None:
            return round_mantissa(w, 10) if rules.rest == "float16" else w
        quantizer = {1: binarize, 2: ternarize}[spec.bits]
        value = quantizer(w, group_count(w.shape, spec.granularity)).astype(jnp.result_type(w))
        return value if spec.activation_bits is None else FakeQuantized(value, spec.activation_bits)

    return jax.tree_util.tree_map_with_path(leaf, params)

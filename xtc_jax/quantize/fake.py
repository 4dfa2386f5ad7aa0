"""Fake quantization of a whole model: params in, params out, same structure."""

import functools
import zlib
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from xtc_jax.devices import Arithmetic
from xtc_jax.errors import UserError
from xtc_jax.params import Params, named_leaves
from xtc_jax.quantize.activations import ActivationSpec, quantize_activations
from xtc_jax.quantize.binary import binary_levels
from xtc_jax.quantize.groups import Levels, dequantize, group_count, pass_gradient, straight_through
from xtc_jax.quantize.integer import asymmetric_levels, symmetric_levels
from xtc_jax.quantize.matmul import IntegerProduct, matmul, quantized_matmul
from xtc_jax.quantize.rules import QuantRules
from xtc_jax.quantize.spec import WeightSpec
from xtc_jax.quantize.ternary import CLIP, clip_gate, ternary_levels

INPUT_RANGE = "input_range"
"""Name of the leaf, beside a Linear's weight, that holds the running range of its input."""


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["value", "codes", "scale"],
    meta_fields=["activation", "training", "arithmetic", "bits"],
)
@dataclass(frozen=True, eq=False)
class FakeQuantized:
    """A fake-quantized weight whose Linear also quantizes its input.

    Attributes:
      value: float32 values on the quantization grid, ``(out, in)``; the gradient arrives here.
      codes: the integers they stand for, as floats, ``(out, in)``, a constant; None where integers cannot be summed before they
        are scaled: groups inside a row, or an asymmetric grid.
      scale: ``(groups,)``, a constant; ``value`` is ``codes * scale``.
      activation: how the Linear's input is quantized.
      training: moves static ranges.
      arithmetic: in what the integers are multiplied.
      bits: of the weight.
    """

    value: Array
    codes: Array | None
    scale: Array | None
    activation: ActivationSpec = field(metadata={"static": True})
    training: bool = field(metadata={"static": True})
    arithmetic: Arithmetic = field(default="float", metadata={"static": True})
    bits: int = field(default=8, metadata={"static": True})

    def linear(
        self,
        x: Float[Array, "*batch k"],
        input_range: Float[Array, "2"] | None = None,
        product: IntegerProduct | None = None,
    ) -> Float[Array, "*batch n"]:
        """The quantized ``x`` times this weight, float32; exact where there are codes.

        ``product`` multiplies int8 codes, where that is not XLA.
        """
        if self.codes is not None:
            return quantized_matmul(
                x, self.value, self.codes, self.scale, input_range, self.activation, self.training, self.arithmetic, product
            )
        quantized = quantize_activations(x, self.activation, input_range, self.training)
        return matmul(quantized, self.value)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["latent"], meta_fields=["spec"])
@dataclass(frozen=True, eq=False)
class FakeQuantizedTable:
    """A weight whose rows are quantized each by itself, where they are read: a step looks up a small part of a table of words.

    Attributes:
      latent: float32 ``(rows, k)``; the gradient arrives here.
      spec: how it is quantized, row by row.
    """

    latent: Array
    spec: WeightSpec = field(metadata={"static": True})

    def rows(self, ids: Int[Array, "..."]) -> Float[Array, "... k"]:
        """The fake-quantized rows ``ids``; quantizes those and no others, or the whole table where that is less."""
        n, k = self.latent.shape
        if ids.size >= n:
            return self.values()[ids]
        return quantize_weight(self.latent[ids].reshape(-1, k), self.spec)[0].reshape(*ids.shape, k)

    def values(self) -> Float[Array, "rows k"]:
        """The fake-quantized table."""
        return quantize_weight(self.latent, self.spec)[0]


def weight_levels(w: Float[Array, "..."], spec: WeightSpec, key: Key[Array, ""] | None = None) -> Levels:
    """Integers, scales and zero points of ``w`` under ``spec``; ``key`` is used where its rounding is stochastic."""
    groups, key = group_count(w.shape, spec.granularity), key if spec.stochastic else None
    match spec.named:
        case "binary" | "binary_centred" as name:
            return binary_levels(w, groups, centred=name == "binary_centred")
        case "ternary" | "ternary_clipped" as name:
            return ternary_levels(w, groups, CLIP if name == "ternary_clipped" else None)
        case "symmetric":
            return symmetric_levels(w, groups, spec.bits, key)
        case "asymmetric":
            return asymmetric_levels(w, groups, spec.bits, key)
    raise AssertionError(spec)


def quantize_weight(w: Float[Array, "..."], spec: WeightSpec, key: Key[Array, ""] | None = None) -> tuple[Array, Levels]:
    """The fake-quantized ``w``, through which the gradient passes straight, and its :class:`Levels`.

    The gradient of ``ternary_clipped`` is 0 where ``|w| >= 2.5``, see :func:`ternarize_clipped`.
    """
    levels = weight_levels(jax.lax.stop_gradient(w), spec, key)
    gate = clip_gate(w) if spec.quantizer == "ternary_clipped" else None
    return pass_gradient(w, dequantize(*levels).astype(w.dtype), gate), levels


@straight_through
def round_mantissa(x: Float[Array, "..."], bits: int) -> Float[Array, "..."]:
    """Round to IEEE half precision (``bits`` = 10) without leaving the dtype; straight-through gradient.

    ``reduce_precision`` and not a pair of casts: XLA may elide the casts. Values under 2^-14 become 0.
    """
    return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=bits)


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


def fake_quantize(
    params: Params,
    rules: QuantRules,
    *,
    training: bool = False,
    key: Key[Array, ""] | None = None,
    arithmetic: Arithmetic = "float",
) -> Params:
    """The params a quantized student computes with.

    Args:
      params: latent float32 params; the gradient of the result passes straight through to them.
      rules: what to quantize.
      training: moves static ranges, see ``quantize_activations``.
      key: for stochastic rounding, where a rule asks for it; None rounds to nearest.
      arithmetic: in what a Linear multiplies integers, see ``quantized_matmul``.

    Returns:
      The same tree; a quantized weight is a float array on the grid, wrapped in :class:`FakeQuantized`
      where the Linear's input is quantized too; while training, one whose rows are quantized each by itself is a
      :class:`FakeQuantizedTable`; every other leaf is rounded to ``rules.rest``.

    Raises:
      UserError: see :func:`assign_rules`.
    """
    assigned = assign_rules(params, rules)

    def leaf(path: tuple[Any, ...], w: Array) -> Array | FakeQuantized | FakeQuantizedTable:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        spec = assigned.get(name)
        if spec is None:
            return round_mantissa(w, 10) if rules.rest == "float16" and not name.endswith(INPUT_RANGE) else w
        noise = None if key is None or not spec.stochastic else jax.random.fold_in(key, zlib.crc32(name.encode()))
        if training and spec.activation is None and spec.row_local and noise is None:
            return FakeQuantizedTable(w, spec)
        value, levels = quantize_weight(w, spec, noise)
        if spec.activation is None:
            return value
        whole = levels.zero is None and spec.activation.symmetric and levels.scale.shape[0] in (1, w.shape[0])
        codes, scale = (levels.codes, levels.scale) if whole else (None, None)
        return FakeQuantized(value, codes, scale, spec.activation, training, arithmetic, spec.bits)

    return jax.tree_util.tree_map_with_path(leaf, params)


def with_input_ranges(params: Params, rules: QuantRules | None) -> Params:
    """``params`` with a leaf ``input_range``, ``(min, max)``, beside every weight whose input has a static range, and none
    elsewhere. A new one is ``(0, 0)``: the first batch sets it.
    """
    assigned = {} if rules is None else rules.assign(named_leaves(params))
    static = {
        path.partition("/weight")[0] for path, spec in assigned.items() if spec.activation and spec.activation.range == "static"
    }

    def visit(node: Params, path: str) -> Params:
        if not isinstance(node, dict):
            return node
        kept = {name: visit(child, f"{path}/{name}".lstrip("/")) for name, child in node.items() if name != INPUT_RANGE}
        return {**kept, INPUT_RANGE: node.get(INPUT_RANGE, jnp.zeros(2, jnp.float32))} if path in static else kept

    return visit(params, "")

"""Quantizers with straight-through gradients, and the rules that say where they apply."""

from xtc_jax.quantize.binary import binarize, quantize_binary
from xtc_jax.quantize.fake import FakeQuantized, Params, assign_rules, fake_quantize, named_leaves, quantize_weight
from xtc_jax.quantize.groups import Granularity, dequantize, group_count, straight_through
from xtc_jax.quantize.integer import quantize_activations, quantize_symmetric
from xtc_jax.quantize.matmul import quantized_matmul
from xtc_jax.quantize.rules import QuantRules, WeightSpec, named_rules, parse_rule, with_extra_rules
from xtc_jax.quantize.ternary import quantize_ternary, ternarize

__all__ = [
    "FakeQuantized",
    "Granularity",
    "Params",
    "QuantRules",
    "WeightSpec",
    "assign_rules",
    "binarize",
    "dequantize",
    "fake_quantize",
    "group_count",
    "named_leaves",
    "named_rules",
    "parse_rule",
    "quantize_activations",
    "quantize_binary",
    "quantize_symmetric",
    "quantize_ternary",
    "quantize_weight",
    "quantized_matmul",
    "straight_through",
    "ternarize",
    "with_extra_rules",
]

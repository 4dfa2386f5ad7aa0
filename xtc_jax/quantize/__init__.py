"""Quantizers with straight-through gradients, and the rules that decide where they apply."""

from xtc_jax.quantize.activations import ACTIVATION_BITS, RANGES, ActivationSpec, activation_levels, quantize_activations
from xtc_jax.quantize.binary import binarize, binarize_centred, quantize_binary
from xtc_jax.quantize.fake import (
    INPUT_RANGE,
    FakeQuantized,
    FakeQuantizedTable,
    assign_rules,
    fake_quantize,
    quantize_weight,
    weight_levels,
    with_input_ranges,
)
from xtc_jax.quantize.groups import Granularity, Levels, dequantize, group_count, straight_through
from xtc_jax.quantize.integer import quantize_asymmetric, quantize_symmetric
from xtc_jax.quantize.matmul import einsum, matmul, quantized_matmul
from xtc_jax.quantize.rules import RULE_SETS, QuantRules, named_rules, parse_rule, weight_path, with_extra_rules
from xtc_jax.quantize.spec import QUANTIZERS, WeightSpec, check_spec, parse_bits, parse_spec
from xtc_jax.quantize.split import split, split_ternary
from xtc_jax.quantize.ternary import quantize_ternary, ternarize, ternarize_clipped

__all__ = [
    "ACTIVATION_BITS",
    "INPUT_RANGE",
    "QUANTIZERS",
    "RANGES",
    "RULE_SETS",
    "ActivationSpec",
    "FakeQuantized",
    "FakeQuantizedTable",
    "Granularity",
    "Levels",
    "QuantRules",
    "WeightSpec",
    "activation_levels",
    "assign_rules",
    "binarize",
    "binarize_centred",
    "check_spec",
    "dequantize",
    "einsum",
    "fake_quantize",
    "group_count",
    "matmul",
    "named_rules",
    "parse_bits",
    "parse_rule",
    "parse_spec",
    "quantize_activations",
    "quantize_asymmetric",
    "quantize_binary",
    "quantize_symmetric",
    "quantize_ternary",
    "quantize_weight",
    "quantized_matmul",
    "split",
    "split_ternary",
    "straight_through",
    "ternarize",
    "ternarize_clipped",
    "weight_levels",
    "weight_path",
    "with_extra_rules",
    "with_input_ranges",
]

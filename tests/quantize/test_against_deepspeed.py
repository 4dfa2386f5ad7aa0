"""Every quantizer against DeepSpeed: its recorded outputs, and its formulas written out in numpy for other inputs."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.quantize import (
    ActivationSpec,
    WeightSpec,
    binarize,
    dequantize,
    quantize_activations,
    quantize_asymmetric,
    quantize_symmetric,
    quantize_weight,
    ternarize,
    weight_levels,
)

GROUPS = (1, 24, 8, 64)
WIDTHS = {"binary": (1,), "ternary": (2,), "sym": (8, 4, 3), "asym": (8, 4)}
WEIGHTS = [(name, bits, groups) for name, widths in WIDTHS.items() for bits in widths for groups in GROUPS]
OURS = {
    "binary": lambda w, groups, bits: binarize(w, groups),
    "ternary": lambda w, groups, bits: ternarize(w, groups),
    "sym": quantize_symmetric,
    "asym": quantize_asymmetric,
}
NAMES = {"sym": "symmetric", "asym": "asymmetric"}


def deepspeed(name, x, groups, bits, static=None):
    """``deepspeed/compression/utils.py`` in float32 numpy, operation by operation, with sign(0) = +1."""
    rows = x.reshape(groups, -1)
    low, high = (rows.min(1, keepdims=True), rows.max(1, keepdims=True)) if static is None else np.float32(static)
    levels = np.float32(2**bits)
    if name == "binary":
        q = np.where(rows >= 0, np.float32(1), np.float32(-1)) * np.abs(rows).mean(1, keepdims=True)
    elif name == "ternary":
        mask = np.abs(rows) > np.float32(0.7) * np.abs(rows).mean(1, keepdims=True)
        q = np.sign(rows) * mask * (np.abs(rows) * mask).sum(1, keepdims=True) / mask.sum(1, keepdims=True, dtype=np.float32)
    elif name == "sym":
        s = 2 * np.maximum(np.abs(low), np.abs(high)) / levels
        q = np.clip(np.round(rows / s), -levels / 2, levels / 2 - 1) * s
    else:
        s = (high - low) / levels
        z = np.round(low / s) * s
        q = np.clip(np.round((rows - z) / s), 0, levels - 1) * s + z
    assert q.dtype == np.float32
    return q.reshape(x.shape)


def assert_close(value, expected):
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


@pytest.fixture(scope="module")
def golden(shared):
    """``golden(quantizer, bits, groups, static)``: input, output, cotangent and input gradient that DeepSpeed gave."""
    cases = json.loads((shared / "goldens/deepspeed_quantizers.json").read_text())
    arrays = np.load(shared / "goldens/deepspeed_quantizers.npz")
    keys = {(c["quantizer"], c["bits"], c["groups"], tuple(c.get("static", ()))): c["key"] for c in cases}

    def look_up(*case):
        return tuple(arrays.get(f"{keys[case]}.{part}") for part in ("x", "y", "ct", "gx"))

    return look_up, keys


@pytest.mark.shared
def test_these_are_all_recorded_cases(golden):
    _, keys = golden
    recorded = {case for case in keys if not case[3]}
    assert recorded == {(*case, ()) for case in WEIGHTS}
    assert keys.keys() - recorded == {(name, 8, 1, (-1.3, 2.1)) for name in ("sym", "asym")}


@pytest.mark.shared
@pytest.mark.parametrize(("name", "bits", "groups"), WEIGHTS)
def test_values_and_gradients_are_the_recorded_ones(golden, name, bits, groups):
    x, y, ct, gx = golden[0](name, bits, groups, ())
    assert np.all(x)  # a zero is -m or +m here and 0 there, at one bit
    value, vjp = jax.vjp(lambda w: OURS[name](w, groups, bits), jnp.asarray(x))
    assert_close(value, y)
    np.testing.assert_array_equal(vjp(jnp.asarray(ct))[0], gx)


@pytest.mark.shared
@pytest.mark.parametrize(("name", "bits", "groups"), [case for case in WEIGHTS if case[1] in (4, 8)])
def test_a_token_is_quantized_as_the_recorded_group(golden, name, bits, groups):
    x, y, ct, gx = (array.reshape(groups, -1) for array in golden[0](name, bits, groups, ()))
    spec = ActivationSpec(bits, "token", name == "sym")
    value, vjp = jax.vjp(lambda x: quantize_activations(x, spec), jnp.asarray(x))
    assert_close(value, y)
    np.testing.assert_array_equal(vjp(jnp.asarray(ct))[0], gx)


@pytest.mark.shared
@pytest.mark.parametrize("name", ["sym", "asym"])
def test_static_activations_are_the_recorded_ones(golden, name):
    x, y, _, _ = golden[0](name, 8, 1, (-1.3, 2.1))
    spec, held = ActivationSpec(8, "static", name == "sym"), jnp.array([-1.3, 2.1])
    assert_close(quantize_activations(jnp.asarray(x), spec, held), y)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(("shape", "groups"), [((7, 11), 11), ((5, 3, 8), 15), ((6, 32), 48)])
@pytest.mark.parametrize(("name", "bits"), [(name, bits) for name, widths in WIDTHS.items() for bits in widths])
def test_values_are_those_of_the_formulas_on_other_weights(seed, shape, groups, name, bits):
    w = (np.random.default_rng(seed).normal(size=shape) * 0.03 + 0.01).astype(np.float32)
    expected = deepspeed(name, w, groups, bits)
    assert_close(OURS[name](jnp.asarray(w), groups, bits), expected)
    spec = WeightSpec(bits, math.prod(shape) // groups, NAMES.get(name, name))
    value, levels = quantize_weight(jnp.asarray(w), spec)
    assert_close(value, expected)
    assert_close(dequantize(*levels), expected)


@pytest.mark.parametrize("bits", [5, 6, 7])
@pytest.mark.parametrize("name", ["sym", "asym"])
def test_the_widths_that_deepspeed_was_not_recorded_at_follow_the_same_formulas(rng, name, bits):
    w = rng.normal(size=(6, 32)).astype(np.float32)
    levels = weight_levels(jnp.asarray(w), WeightSpec(bits, "row", NAMES[name]))
    assert_close(dequantize(*levels), deepspeed(name, w, 6, bits))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["sym", "asym"])
@pytest.mark.parametrize("kind", ["token", "tensor", "static"])
def test_activations_of_every_range_follow_the_formulas(rng, name, bits, kind):
    x = (rng.normal(size=(3, 5, 16)) + 0.5).astype(np.float32)
    held = jnp.array([-0.5, 1.75]) if kind == "static" else None
    expected = deepspeed(name, x, 15 if kind == "token" else 1, bits, None if held is None else (-0.5, 1.75))
    assert_close(quantize_activations(jnp.asarray(x), ActivationSpec(bits, kind, name == "sym"), held), expected)

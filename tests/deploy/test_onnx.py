"""ONNX models of every kind of packed model, in ONNX Runtime with optimizations off and on and in the reference evaluator."""

import functools

import numpy as np
import packed_models
import pytest
import toy
from processors import avx2_alone
from tiers import sweep

from xtc_jax.deploy.onnx import onnx_model, saturating
from xtc_jax.deploy.onnx_directory import export_onnx
from xtc_jax.deploy.verify import compare, packed_logits, runtime_logits, runtime_session, sample_inputs
from xtc_jax.formats import save_packed
from xtc_jax.kernels import BASE3, PLANES256

pytestmark = pytest.mark.onnx
STANDARD = ("", "ai.onnx")
MEDIAN, MAXIMUM = 3e-7, 1e-6
"""Of the differences of logits near 1 of small models, in which no activation rounds apart: 1.9e-8 and 7.8e-8 measured."""
SATURATED = 2.4e-4, 2.5e-3
"""The same where ONNX Runtime's sums of 8-bit weights overflow, on x86 without VNNI: 8.0e-5 and 8.4e-4 measured."""


def limits(model):
    """Of the median and of the largest difference, on this processor."""
    return SATURATED if saturating(model) and avx2_alone() else (MEDIAN, MAXIMUM)


@functools.cache
def exported(kind, layout=PLANES256):
    """The packed model, its ONNX model, inputs and our own logits."""
    model = packed_models.MAKERS[kind]()
    batches = sample_inputs(model)
    return model, onnx_model(model, layout), batches, packed_logits(model, batches)


@pytest.mark.parametrize("kind", sweep(packed_models.MAKERS, fast=4))
def test_every_kind_of_packed_model_has_the_same_logits_in_onnx_runtime(kind):
    model, made, batches, ours = exported(kind)
    median, maximum = limits(model)
    for optimized in (False, True):
        found = compare(ours, runtime_logits(runtime_session(made.SerializeToString(), optimized), batches))
        assert found.rows == 17
        assert found.median <= median
        assert found.maximum <= maximum
        assert found.other_labels == 0


@pytest.mark.parametrize("kind", ["1 bit", "2 bits"])
def test_the_model_is_valid_has_standard_operators_alone_and_runs_in_the_reference_evaluator(kind):
    import onnx
    from onnx.reference import ReferenceEvaluator

    _, made, batches, ours = exported(kind)
    onnx.checker.check_model(made, full_check=True)
    assert {node.domain for node in made.graph.node} <= set(STANDARD)
    evaluator = ReferenceEvaluator(made)
    found = compare(ours, np.concatenate([evaluator.run(["logits"], rows)[0] for rows in batches]))
    assert (found.other_labels, found.median <= MEDIAN, found.maximum <= MAXIMUM) == (0, True, True)


def optimized_operators(made, tmp_path):
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]


def test_the_runtime_keeps_the_integer_products_as_they_are(tmp_path):
    operators = optimized_operators(exported("1 bit")[1], tmp_path)
    assert "MatMulInteger" in operators
    assert "MatMulIntegerToFloat" not in operators


def test_ternary_codes_in_base_3_export_as_they_lie_and_give_the_same_logits():
    _, planes, batches, ours = exported("2 bits, row scales")
    _, made, _, _ = exported("2 bits, row scales", BASE3)
    found = compare(ours, runtime_logits(runtime_session(made.SerializeToString(), True), batches))
    assert (found.rows, found.other_labels, found.median <= MEDIAN, found.maximum <= MAXIMUM) == (17, 0, True, True)
    name = "layer.0/intermediate/weight.codes"
    widths = [next(tensor.dims[1] for tensor in each.graph.initializer if tensor.name == name) for each in (planes, made)]
    assert widths == [65, 52]  # 260 columns, four and five to a byte


@pytest.mark.slow
def test_a_directory_that_is_stored_in_base_3_exports(tmp_path):
    toy.tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_packed(tmp_path / "packed", packed_models.MAKERS["2 bits, row scales"](), tmp_path, BASE3)
    found = export_onnx(tmp_path / "packed", tmp_path / "out", "", lambda line: None)
    assert {name: each.other_labels for name, each in found.items()} == {"optimizations off": 0, "optimizations on": 0}


@pytest.mark.slow
def test_weights_of_eight_bits_export_with_a_warning_about_processors_without_vnni(tmp_path):
    toy.tokenizer().save(str(tmp_path / "tokenizer.json"))
    save_packed(tmp_path / "packed", packed_models.MAKERS["8 bits"](), tmp_path)
    lines = []
    export_onnx(tmp_path / "packed", tmp_path / "out", "", lines.append)
    (warning,) = [line for line in lines if line.startswith("warning: ")]
    assert "without VNNI" in warning
    assert "encoder/layer_0/attention/output/dense/weight and 11 more have 8 bits" in warning


@pytest.mark.parametrize("kind", ["1 bit", "3 bits", "5 to 7 bits", "groups"])
def test_narrower_weights_cannot_overflow(kind):
    assert saturating(packed_models.MAKERS[kind]()) == []

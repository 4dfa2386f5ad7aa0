"""ONNX models of every kind of packed model, in ONNX Runtime with optimizations off and on and in the reference evaluator."""

import functools

import numpy as np
import packed_models
import pytest
from tiers import sweep

from xtc_jax.deploy.onnx import onnx_model
from xtc_jax.deploy.verify import compare, packed_logits, runtime_logits, runtime_session, sample_inputs
from xtc_jax.kernels import PLANES256

pytestmark = pytest.mark.onnx
STANDARD = ("", "ai.onnx")


@functools.cache
def exported(kind, layout=PLANES256):
    """The packed model, its ONNX model, inputs and our own logits."""
    model = packed_models.MAKERS[kind]()
    batches = sample_inputs(model)
    return model, onnx_model(model, layout), batches, packed_logits(model, batches)


@pytest.mark.parametrize("kind", sweep(packed_models.MAKERS, fast=4))
def test_every_kind_of_packed_model_has_the_same_logits_in_onnx_runtime(kind):
    _, made, batches, ours = exported(kind)
    for optimized in (False, True):
        found = compare(ours, runtime_logits(runtime_session(made.SerializeToString(), optimized), batches))
        assert found.rows == 17
        assert found.median <= 1e-5
        assert found.maximum <= 0.02
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
    assert (found.other_labels, found.median <= 1e-5, found.maximum <= 0.02) == (0, True, True)


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

"""ONNX models of every kind of packed model, in ONNX Runtime with optimizations off and on and in the reference evaluator."""

import functools

import packed_models
import pytest

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


@pytest.mark.parametrize("kind", packed_models.MAKERS)
def test_every_kind_of_packed_model_has_the_same_logits_in_onnx_runtime(kind):
    _, made, batches, ours = exported(kind)
    for optimized in (False, True):
        found = compare(ours, runtime_logits(runtime_session(made.SerializeToString(), optimized), batches))
        assert found.rows == 17
        assert found.median <= 1e-5
        assert found.maximum <= 0.02
        assert found.other_labels == 0

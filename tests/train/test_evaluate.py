import dataclasses

import jax
import numpy as np
import pytest
import toy

from xtc_jax.bert import apply
from xtc_jax.parallel import make_mesh, put_replicated
from xtc_jax.quantize import fake_quantize, named_rules
from xtc_jax.train import evaluate, make_eval_step, predict_logits

CONFIG = toy.shape()


@pytest.fixture(scope="module")
def params():
    return toy.params(CONFIG, seed=1)


def one_by_one(params, dataset):
    rows = [np.asarray(ids)[None] for ids in dataset.tokens.input_ids]
    forward = jax.jit(lambda ids: apply(CONFIG, params, ids, 0 * ids, 0 * ids + 1).logits)
    logits = [forward(ids) for ids in rows]
    return np.concatenate(logits)


def test_logits_come_in_the_order_of_the_data_set_whatever_the_buckets_and_the_filling(params):
    dataset = toy.dataset(count=13)
    assert len(set(dataset.tokens.lengths)) > 1
    mesh = make_mesh()
    logits = predict_logits(make_eval_step(CONFIG, None, mesh), put_replicated(params, mesh), dataset, mesh)
    np.testing.assert_allclose(logits, one_by_one(params, dataset), rtol=0, atol=1e-6)


def test_a_quantized_student_is_evaluated_with_its_quantized_weights(params):
    dataset, rules = toy.dataset(count=4), named_rules("deepspeed", 1, None)
    mesh = make_mesh()
    logits = predict_logits(make_eval_step(CONFIG, rules, mesh), put_replicated(params, mesh), dataset, mesh)
    np.testing.assert_allclose(logits, one_by_one(fake_quantize(params, rules), dataset), rtol=0, atol=1e-6)


def test_metrics_count_every_example_once():
    dataset = toy.dataset(count=13)
    odd_rows_positive = {1: 1.0}

    def step(_, batch):
        return np.array([[0.0, odd_rows_positive.get(int(i) % 2, -1.0)] for i in batch["index"]], np.float32)

    dataset.labels[0] = 1
    found = evaluate(step, {}, {"validation": dataset}, toy.SENTIMENT, make_mesh())
    assert found.metrics == {"accuracy": 12 / 13}
    np.testing.assert_array_equal(found.logits["validation"][:, 1], [-1.0, 1.0] * 6 + [-1.0])


def test_every_validation_split_is_measured_and_a_further_one_carries_its_suffix():
    def always_positive(_, batch):
        return np.array([[0.0, 1.0]] * len(batch["index"]), np.float32)

    first, second = toy.dataset(count=4), toy.dataset(count=3)
    second.labels[:] = [0, 1, 0]
    task = dataclasses.replace(toy.SENTIMENT, validation=("validation_matched", "validation_mismatched"))
    sets = dict(zip(task.validation, (first, second), strict=True))
    found = evaluate(always_positive, {}, sets, task, make_mesh())
    assert {split: logits.shape for split, logits in found.logits.items()} == {split: (len(sets[split]), 2) for split in sets}
    assert list(found.metrics.items()) == [("accuracy", 2 / 4), ("accuracy_mismatched", 1 / 3)]


def test_a_model_whose_logits_are_not_finite_has_metrics_nan_and_every_example_was_evaluated():
    """It predicts nothing, whatever class its NaN would be taken for."""

    def diverged(_, batch):
        rows = np.zeros((len(batch["index"]), 2), np.float32)
        rows[np.asarray(batch["index"]) == 3] = np.nan
        return rows

    dataset = toy.dataset(count=5)
    metrics = evaluate(diverged, {}, {"validation": dataset}, toy.SENTIMENT, make_mesh()).metrics
    assert list(metrics) == ["accuracy"]
    assert np.isnan(metrics["accuracy"])

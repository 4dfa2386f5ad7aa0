from dataclasses import replace

import jax
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.parallel import make_mesh, put_batch, put_sharded
from xtc_jax.params import named_leaves
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, init_state, make_optimizer, make_taught_step
from xtc_jax.train.lazy import rows_of

SHAPE = toy.shape(2)
LABELS = Objective(SHAPE, None, None, layer_map((), 2), DistillSpec())
DISTILL = Objective(SHAPE, named_rules("paper-50x", 1, granularity="row"), SHAPE, layer_map((0, 1), 2), DistillSpec())
TABLE = "embeddings/word_embeddings/weight"
SPEC = OptimizerSpec(1e-3, 10, 0, weight_decay=0.5)


def a_batch(number):
    dataset = toy.dataset(count=24, batch_size=8)
    return dataset.batch(dataset.plan(0, 0)[number])


def after(objective, batches, lazy, devices=1, mesh=None):
    """State and losses of steps on ``batches``."""
    mesh = make_mesh(mesh or (-1, 1, 1), devices=jax.devices()[:devices])
    objective, optimizer = replace(objective, lazy_embeddings=lazy), make_optimizer(SPEC)
    state = put_sharded(init_state(toy.params(SHAPE, seed=3), optimizer, jax.random.key(0)), mesh)
    teacher = None if objective.teacher is None else put_sharded(toy.params(SHAPE, seed=4), mesh)
    step, losses = make_taught_step(objective, optimizer, mesh), {}
    for batch in batches:
        state, losses = step(state, teacher, put_batch(batch, mesh), np.float32(1e-3))
    return jax.device_get((state, losses))


def test_the_rows_of_a_batch_are_those_it_reads_and_its_ids_count_them():
    ids = np.array([[7, 2, 2], [9, 7, 0]], np.int32)
    rows, batch = rows_of({"input_ids": ids, "labels": np.zeros(2)}, vocab_size=30)
    np.testing.assert_array_equal(rows, [0, 2, 7, 9, 30, 30])  # six ids, four rows; 30 is none
    np.testing.assert_array_equal(rows[batch["input_ids"]], ids)
    assert batch["input_ids"].dtype == np.int32
    assert "labels" in batch


def test_there_are_never_more_rows_than_the_table_has():
    rows, _ = rows_of({"input_ids": np.arange(12, dtype=np.int32).reshape(3, 4) % 5}, vocab_size=5)
    np.testing.assert_array_equal(rows, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("objective", [LABELS, DISTILL], ids=["labels", "one bit"])
def test_the_first_step_moves_the_rows_that_are_read_as_the_other_optimizer_does_and_no_others(objective):
    """Before it all moments are 0, so the two differ in the weight decay of rows that are not read alone."""
    batch = a_batch(0)
    (whole, expected), (lazy, losses) = (after(objective, [batch], flag) for flag in (False, True))
    np.testing.assert_allclose(losses["loss"], expected["loss"], rtol=1e-6)
    read, old = np.unique(batch["input_ids"]), named_leaves(toy.params(SHAPE, seed=3))
    others = np.setdiff1d(np.arange(SHAPE.vocab_size), read)
    assert len(read) > 2
    assert len(others) > 2
    for name, value in named_leaves(lazy.params).items():
        dense = named_leaves(whole.params)[name]
        where = read if name == TABLE else slice(None)
        np.testing.assert_allclose(value[where], dense[where], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(lazy.params["embeddings"]["word_embeddings"]["weight"][others], old[TABLE][others])
    for moment in (lazy.opt_state.mu, lazy.opt_state.nu):
        assert not named_leaves(moment)[TABLE][others].any()


def test_a_row_keeps_its_value_and_its_moments_until_a_batch_reads_it():
    first, second = a_batch(0), a_batch(1)
    waiting = np.setdiff1d(first["input_ids"], second["input_ids"])
    assert len(waiting)
    (before, _), (then, _) = after(LABELS, [first], True), after(LABELS, [first, second], True)
    for tree in (lambda s: s.params, lambda s: s.opt_state.mu, lambda s: s.opt_state.nu):
        old, new = (named_leaves(tree(state))[TABLE] for state in (before, then))
        np.testing.assert_array_equal(old[waiting], new[waiting])
        assert np.any(old != new)


@pytest.mark.parametrize(
    ("objective", "mesh"),
    [(LABELS, (4, 1, 1)), (DISTILL, (2, 2, 1)), (DISTILL, (1, 2, 2))],
    ids=["labels, data", "one bit, fsdp", "one bit, tensor"],
)
def test_the_mesh_does_not_change_the_result(objective, mesh):
    batches = [a_batch(0), a_batch(1)]
    (one, alone), (several, losses) = after(objective, batches, True), after(objective, batches, True, 4, mesh)
    np.testing.assert_allclose(losses["loss"], alone["loss"], rtol=1e-5)
    for name, value in named_leaves(several.params).items():
        # An Adam step of 1e-3 follows the sign of a gradient that may be rounding alone.
        assert np.mean(np.abs(value - named_leaves(one.params)[name]) < 1e-5) > 0.99, name

"""Lazy embeddings: rows that a batch reads train as ever, the others stand still."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.parallel import make_mesh, put_batch, put_sharded
from xtc_jax.params import named_leaves
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, init_state, make_optimizer, make_taught_step
from xtc_jax.train.lazy import put_back, read_rows, taken

SHAPE = toy.shape(2)
LABELS = Objective(SHAPE, None, None, layer_map((), 2), DistillSpec())
DISTILL = Objective(SHAPE, named_rules("paper-50x", 1), SHAPE, layer_map((0, 1), 2), DistillSpec())
OBJECTIVES = pytest.mark.parametrize("objective", [LABELS, DISTILL], ids=["labels", "distillation"])
OPTIMIZER = make_optimizer(OptimizerSpec(1e-3, 10, 0, weight_decay=0.5))
WORDS = "embeddings/word_embeddings/weight"


def steps(objective, count=3, mesh=(1, 1, 1)):
    """The state and the losses after some steps, and the ids that were read."""
    mesh = make_mesh(mesh, devices=jax.devices()[: int(np.prod(mesh))])
    state = put_sharded(init_state(toy.params(SHAPE, seed=3), OPTIMIZER, jax.random.key(0)), mesh)
    teacher = None if objective.teacher is None else put_sharded(toy.params(SHAPE, seed=4), mesh)
    step, dataset = make_taught_step(objective, OPTIMIZER, mesh), toy.dataset(count=8, batch_size=8)
    losses, read = [], set()
    for number in range(count):
        own = dataset.batch(dataset.plan(0, number)[0])
        read |= set(np.unique(own["input_ids"]).tolist())
        state, loss = step(state, teacher, put_batch(own, mesh), np.float32(1e-3))
        losses.append(float(loss["loss"]))
    return jax.device_get(state), losses, sorted(read)


def test_the_rows_of_a_batch_are_ascending_and_its_ids_are_their_places():
    ids = jnp.asarray([[7, 2, 2], [9, 0, 7]])
    rows, batch = read_rows({"input_ids": ids, "labels": jnp.zeros(2)}, 30)
    assert rows.tolist() == [0, 2, 7, 9, 30, 30]
    np.testing.assert_array_equal(rows[batch["input_ids"]], ids)
    assert batch["input_ids"].dtype == ids.dtype
    assert batch["labels"].shape == (2,)


def test_there_are_never_more_rows_than_word_pieces():
    rows, _ = read_rows({"input_ids": jnp.asarray([[3, 1, 1, 0, 2, 3]])}, 4)
    assert rows.tolist() == [0, 1, 2, 3]


def test_rows_that_are_taken_and_put_back_changed_are_changed_there_alone():
    table = jnp.arange(10.0).reshape(5, 2)
    tree = {"embeddings": {"word_embeddings": {"weight": table}, "LayerNorm": {"weight": jnp.ones(2)}}}
    part = taken(tree, jnp.asarray([1, 4, 5, 5]))
    np.testing.assert_array_equal(part["embeddings"]["word_embeddings"]["weight"], [[2, 3], [8, 9], [0, 0], [0, 0]])
    back = put_back(tree, jax.tree.map(lambda x: x + 100, part), jnp.asarray([1, 4, 5, 5]))
    expected = np.array(table)
    expected[[1, 4]] += 100
    np.testing.assert_array_equal(back["embeddings"]["word_embeddings"]["weight"], expected)
    np.testing.assert_array_equal(back["embeddings"]["LayerNorm"]["weight"], [101, 101])


@OBJECTIVES
def test_rows_that_were_not_read_keep_their_bits_and_have_no_moments(objective):
    state, _, read = steps(replace(objective, lazy=True))
    still = [row for row in range(SHAPE.vocab_size) if row not in read]
    assert len(still) > 3
    before = named_leaves(toy.params(SHAPE, seed=3))[WORDS]
    after, mu, nu = (named_leaves(tree)[WORDS] for tree in (state.params, state.opt_state.mu, state.opt_state.nu))
    np.testing.assert_array_equal(after[still], before[still])
    assert not mu[still].any()
    assert not nu[still].any()
    assert all(not np.array_equal(after[row], before[row]) for row in read if row != SHAPE.pad_token_id)


@OBJECTIVES
def test_a_first_step_is_that_of_adamw_for_all_that_was_read_and_for_all_other_parameters(objective):
    """Moments are 0 before it, so that AdamW itself moves other rows by nothing but decay."""
    (lazy, lazy_losses, read), (dense, losses, _) = (steps(replace(objective, lazy=lazy), 1) for lazy in (True, False))
    np.testing.assert_allclose(lazy_losses, losses, rtol=1e-6)
    expected = named_leaves(dense.params)
    for name, found in named_leaves(lazy.params).items():
        rows = read if name == WORDS else slice(None)
        np.testing.assert_allclose(found[rows], expected[name][rows], rtol=0, atol=2e-6, err_msg=name)


@pytest.mark.parametrize("mesh", [(4, 1, 1), (1, 4, 1), (1, 1, 2)], ids=["data", "fsdp", "tensor"])
def test_the_mesh_does_not_change_the_steps(mesh):
    one, four = (steps(replace(DISTILL, lazy=True), mesh=sizes) for sizes in ((1, 1, 1), mesh))
    np.testing.assert_allclose(four[1], one[1], rtol=1e-5)


def test_a_batch_in_parts_gives_the_same_steps():
    whole, parts = (steps(replace(DISTILL, lazy=True, accumulate=count)) for count in (1, 4))
    np.testing.assert_allclose(parts[1], whole[1], rtol=1e-5)

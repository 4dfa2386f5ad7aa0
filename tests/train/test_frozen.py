from dataclasses import replace

import jax
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.parallel import make_mesh, put_batch, put_sharded
from xtc_jax.params import named_leaves
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, freezing, init_state, make_optimizer, make_taught_step
from xtc_jax.train.frozen import held, trained

SHAPE = toy.shape(2)
LABELS = Objective(SHAPE, None, None, layer_map((), 2), DistillSpec())
DISTILL = Objective(SHAPE, named_rules("deepspeed", 1), SHAPE, layer_map((0, 1), 2), DistillSpec())
SPEC = OptimizerSpec(1e-3, 10, 0, weight_decay=0.5)


@pytest.fixture(scope="module")
def params():
    return toy.params(SHAPE, seed=3)


def a_step(objective, params, freeze, devices=1):
    mesh = make_mesh(devices=jax.devices()[:devices])
    objective = replace(objective, freeze=freeze)
    optimizer = freezing(make_optimizer(SPEC), freeze)
    state = put_sharded(init_state(params, optimizer, jax.random.key(0)), mesh)
    teacher = None if objective.teacher is None else put_sharded(toy.params(SHAPE, seed=4), mesh)
    dataset = toy.dataset(count=8, batch_size=8)
    batch = put_batch(dataset.batch(dataset.plan(0, 0)[0]), mesh)
    state, losses = make_taught_step(objective, optimizer, mesh)(state, teacher, batch, np.float32(1e-3))
    return jax.device_get((state, losses))


@pytest.mark.parametrize(
    ("freeze", "still"),
    [(-1, ()), (0, ("embeddings/",)), (1, ("embeddings/", "encoder/layer_0/")), (2, ("embeddings/", "encoder/"))],
)
def test_the_embeddings_and_so_many_layers_from_the_input_on_do_not_train(params, freeze, still):
    for name, trains in named_leaves(trained(params, freeze)).items():
        assert trains != name.startswith(still or "nothing")


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("objective", [LABELS, DISTILL], ids=["labels", "distillation"])
def test_what_is_frozen_keeps_its_bits_and_all_else_moves(params, objective, devices):
    state, _ = a_step(objective, params, 1, devices)
    for (name, trains), before, after in zip(
        named_leaves(trained(params, 1)).items(), jax.tree.leaves(params), jax.tree.leaves(state.params), strict=True
    ):
        assert np.array_equal(before, after) != trains, name


def test_the_loss_is_that_of_a_step_that_trains_all(params):
    _, all_train = a_step(LABELS, params, -1)
    _, some = a_step(LABELS, params, 1)
    np.testing.assert_allclose(some["loss"], all_train["loss"], rtol=1e-6)


def test_gradients_of_what_trains_are_those_of_a_step_that_trains_all(params):
    """The clip, which divides by the norm of all that trains, is 1 here: the loss is small."""
    (whole, _), (part, _) = (a_step(LABELS, jax.tree.map(lambda p: 0.1 * p, params), freeze) for freeze in (-1, 1))
    expected = named_leaves(whole.opt_state.mu)
    found = named_leaves(part.opt_state.inner_state.mu)
    assert set(found) == {name for name, trains in named_leaves(trained(params, 1)).items() if trains}
    for name, moment in found.items():
        np.testing.assert_allclose(moment, expected[name], rtol=1e-4, atol=1e-8, err_msg=name)


def test_the_optimizer_keeps_no_moments_of_what_is_frozen(params):
    state, _ = a_step(LABELS, params, 2)
    kept = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state.inner_state.mu))
    assert kept == sum(leaf.size for name, leaf in named_leaves(params).items() if name.startswith(("pooler", "classifier")))


def test_the_gradient_of_what_is_held_is_zero(params):
    gradients = jax.grad(lambda p: sum(jax.numpy.sum(leaf**2) for leaf in jax.tree.leaves(held(p, 0))))(params)
    for name, gradient in named_leaves(gradients).items():
        assert name.startswith("embeddings/") == (not np.any(gradient)) or "bias" in name

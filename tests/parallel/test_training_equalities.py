"""What the README says of training, on every kind of mesh: int8 or float products, a batch in parts, a run that is resumed."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, LayerMap
from xtc_jax.parallel import make_mesh, put_batch, put_replicated, put_sharded
from xtc_jax.quantize import named_rules
from xtc_jax.train import Objective, OptimizerSpec, init_state, make_optimizer, make_taught_step
from xtc_jax.train.checkpoints import Progress, open_checkpoints

CONFIG = toy.shape(1)
STUDENT, TEACHER = toy.params(CONFIG, seed=3), toy.params(CONFIG, seed=4)
GOAL = Objective(CONFIG, named_rules("paper-50x", 1), CONFIG, LayerMap((0,)), DistillSpec(), arithmetic="int8")
OPTIMIZER = make_optimizer(OptimizerSpec(1e-3, 10, 0))
pytestmark = pytest.mark.slow
on_every_mesh = pytest.mark.parametrize("shape", [(4, 1, 1), (1, 4, 1), (1, 1, 4)], ids=["data", "fsdp", "tensor"])


def trained(shape, steps, objective=GOAL, directory=None):
    """Losses and final state of ``steps`` steps; with a directory, saved there before each and read again."""
    mesh = make_mesh(shape, jax.devices()[:4])
    dataset = toy.dataset(count=16, batch_size=16)
    batch, teacher = put_batch(dataset.batch(dataset.in_order()[0]), mesh), put_replicated(TEACHER, mesh)
    state = put_sharded(init_state(STUDENT, OPTIMIZER, jax.random.key(0)), mesh)
    step, losses = make_taught_step(objective, OPTIMIZER, mesh), []
    for _ in range(steps):
        if directory is not None:
            with open_checkpoints(directory, {}, 1, 0.0, print) as checkpoints:
                checkpoints.save(Progress(state, None, 0.0))
            with open_checkpoints(directory, {}, 1, 0.0, print) as checkpoints:
                state = checkpoints.restore(state).state
        state, found = step(state, teacher, batch, jnp.float32(1e-3))
        losses.append(float(found["loss"]))
    return np.asarray(losses), state


@on_every_mesh
def test_int8_and_float_products_give_the_same_losses(shape):
    int8, floats = (trained(shape, 3, replace(GOAL, arithmetic=kind))[0] for kind in ("int8", "float"))
    assert int8[2] < int8[0]
    np.testing.assert_allclose(int8, floats, rtol=1e-6)


@on_every_mesh
def test_a_batch_in_parts_gives_the_losses_of_the_whole(shape):
    whole, parts = (trained(shape, 3, replace(GOAL, accumulate=count))[0] for count in (1, 2))
    np.testing.assert_allclose(parts, whole, rtol=1e-6)


@on_every_mesh
def test_a_run_saved_and_read_after_every_step_ends_with_the_same_bits(tmp_path, shape):
    losses, state = trained(shape, 3)
    again, resumed = trained(shape, 3, directory=tmp_path)
    np.testing.assert_array_equal(again, losses)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, resumed.opt_state, state.opt_state)

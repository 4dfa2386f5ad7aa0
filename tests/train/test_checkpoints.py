import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.train import OptimizerSpec, init_state, make_mesh, make_optimizer, put_replicated
from xtc_jax.train.checkpoints import open_checkpoints, restore_best, restore_latest, save
from xtc_jax.train.state import TrainState


def state_at(step: int) -> TrainState:
    """A state whose every array tells its step."""
    state = init_state({"w": jnp.full(3, float(step))}, make_optimizer(OptimizerSpec(0.1, 9, 0)), jax.random.key(step))
    return put_replicated(TrainState(jnp.asarray(step, jnp.int32), state.params, state.opt_state, state.key), make_mesh(4))


def saved(directory, metrics):
    with open_checkpoints(directory) as checkpointer:
        for step, metric in enumerate(metrics, 1):
            save(checkpointer, state_at(step), metric)


def test_an_empty_directory_has_no_latest(tmp_path):
    with open_checkpoints(tmp_path) as checkpointer:
        assert restore_latest(checkpointer, state_at(0)) is None


def test_the_latest_comes_back_whole_to_the_bit_and_in_place(tmp_path):
    saved(tmp_path, [0.5, 0.25])
    with open_checkpoints(tmp_path) as checkpointer:
        restored = restore_latest(checkpointer, state_at(0))
    expected = state_at(2)
    assert int(restored.step) == 2
    assert jax.random.key_data(restored.key).tolist() == jax.random.key_data(expected.key).tolist()
    jax.tree.map(np.testing.assert_array_equal, restored.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, restored.opt_state, expected.opt_state)
    assert restored.params["w"].sharding == expected.params["w"].sharding


@pytest.mark.parametrize(("metrics", "best"), [([0.1, 0.9, 0.4], 2), ([0.3, 0.7, 0.7, 0.7, 0.2], 2), ([0.5], 1)])
def test_the_best_is_the_highest_and_of_equals_the_earliest(tmp_path, metrics, best):
    saved(tmp_path, metrics)
    with open_checkpoints(tmp_path) as checkpointer:
        restored = restore_best(checkpointer, state_at(0))
    assert restored.params["w"].tolist() == [float(best)] * 3


def test_only_the_latest_and_the_best_are_kept(tmp_path):
    saved(tmp_path, [0.1, 0.9, 0.4, 0.3])
    with open_checkpoints(tmp_path) as checkpointer:
        assert sorted(checkpoint.step for checkpoint in checkpointer.checkpoints) == [2, 4]

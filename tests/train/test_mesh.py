import jax
import numpy as np
import pytest

from xtc_jax.errors import UserError
from xtc_jax.train import make_mesh, put_batch, put_replicated


def test_the_mesh_has_one_data_axis_over_all_devices():
    assert dict(make_mesh(8).shape) == {"data": 4}


def test_a_mesh_can_be_made_of_chosen_devices():
    assert make_mesh(3, jax.devices()[1:2]).devices.tolist() == jax.devices()[1:2]


def test_a_batch_that_cannot_be_split_evenly_is_refused_with_both_numbers():
    with pytest.raises(UserError, match=r"batch_size=6 is not a multiple of the 4 devices"):
        make_mesh(6)


def test_a_batch_is_split_over_its_leading_axis():
    rows = np.arange(24, dtype=np.int32).reshape(8, 3)
    placed = put_batch({"x": rows}, make_mesh(8))["x"]
    assert [shard.data.tolist() for shard in placed.addressable_shards] == rows.reshape(4, 2, 3).tolist()


def test_replicated_values_are_whole_on_every_device():
    placed = put_replicated({"w": np.arange(3.0, dtype=np.float32)}, make_mesh(4))["w"]
    assert [shard.data.tolist() for shard in placed.addressable_shards] == [[0.0, 1.0, 2.0]] * 4


def test_replicating_copies_so_that_a_donated_state_leaves_the_original_alone():
    mesh = make_mesh(1, jax.devices()[:1])
    original = jax.device_put(np.ones(3, np.float32), jax.devices()[0])
    put_replicated(original, mesh).delete()
    assert original.tolist() == [1.0, 1.0, 1.0]

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from xtc_jax.errors import UserError
from xtc_jax.parallel import check_batch, make_mesh, put_batch, put_replicated
from xtc_jax.parallel.mesh import fetch, local_rows, slices_along_data


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        ((-1, 1, 1), (4, 1, 1)),
        ((2, -1, 1), (2, 2, 1)),
        ((1, 1, 4), (1, 1, 4)),
        ((1, 2, -1), (1, 2, 2)),
        ((4, 1, -1), (4, 1, 1)),
    ],
)
def test_minus_one_takes_the_devices_that_are_left(shape, sizes):
    assert dict(make_mesh(shape).shape) == dict(zip(("data", "fsdp", "tensor"), sizes, strict=True))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 1, 1), "mesh=(3, 1, 1) does not multiply to the 4 devices there are"),
        ((-1, 3, 1), "mesh=(-1, 3, 1) does not multiply to the 4 devices there are"),
        ((8, 1, 1), "mesh=(8, 1, 1) does not multiply to the 4 devices there are"),
        ((-1, 8, 1), "mesh=(-1, 8, 1) does not multiply to the 4 devices there are"),
        ((-1, -1, 1), "mesh=(-1, -1, 1): give the sizes of data, fsdp, tensor, one of which may be -1"),
        ((4, 1), "mesh=(4, 1): give the sizes of data, fsdp, tensor, one of which may be -1"),
        ((4, 0, 1), "mesh=(4, 0, 1): give the sizes of data, fsdp, tensor, one of which may be -1"),
        ((4, -2, 1), "mesh=(4, -2, 1): give the sizes of data, fsdp, tensor, one of which may be -1"),
    ],
)
def test_a_mesh_that_is_not_there_is_refused_with_the_number_of_devices(shape, message):
    with pytest.raises(UserError) as error:
        make_mesh(shape)
    assert str(error.value) == message


@dataclass(frozen=True)
class Chip:
    """What JAX says of a TPU v5e."""

    slice_index: int
    coords: tuple[int, int, int]
    id: int
    process_index: int
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"


def two_slices():
    """Two slices v5e:2x2, their chips in turns."""
    return [Chip(i % 2, (i // 2 % 2, i // 4, 0), i, i % 2) for i in range(8)]


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 4, 1), (2, 2, 2), (4, 1, 2)])
def test_of_two_slices_each_is_one_half_of_data_and_fsdp_and_tensor_stay_within_it(sizes):
    grid = slices_along_data(sizes, two_slices())
    assert grid.shape == sizes
    assert {chip.id for chip in grid.ravel()} == set(range(8))
    halves = [{chip.slice_index for chip in half.ravel()} for half in np.split(grid, 2)]
    assert halves == [{0}, {1}]


def test_slices_that_data_cannot_be_split_over_are_refused():
    with pytest.raises(UserError) as error:
        slices_along_data((1, 8, 1), two_slices())
    assert str(error.value) == ("mesh=(1, 8, 1): data=1 is not a multiple of the 2 TPU slices, over which only data is split")


def test_a_mesh_can_be_made_of_chosen_devices():
    assert make_mesh(devices=jax.devices()[1:2]).devices.ravel().tolist() == jax.devices()[1:2]


@pytest.mark.parametrize(("shape", "batch_size"), [((4, 1, 1), 4), ((1, 4, 1), 8), ((2, 1, 2), 2), ((1, 1, 4), 1)])
def test_a_batch_is_shared_by_data_and_fsdp_and_not_by_tensor(shape, batch_size):
    mesh = make_mesh(shape)
    check_batch(batch_size, mesh)
    rows = np.arange(3 * batch_size, dtype=np.int32).reshape(batch_size, 3)
    placed = put_batch({"x": rows}, mesh)["x"]
    shares = shape[0] * shape[1]
    expected = [part for part in rows.reshape(shares, -1, 3).tolist() for _ in range(shape[2])]
    assert [shard.data.tolist() for shard in placed.addressable_shards] == expected
    assert local_rows(batch_size, mesh).tolist() == list(range(batch_size))


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "message"),
    [
        (6, 1, "batch_size=6 is not a multiple of the 4 devices that share it (mesh axes data, fsdp)"),
        (12, 2, "batch_size=12 is not a multiple of the 4 devices times accumulate=2 that share it (mesh axes data, fsdp)"),
    ],
)
def test_a_batch_that_cannot_be_split_evenly_is_refused_with_the_numbers(batch_size, accumulate, message):
    with pytest.raises(UserError) as error:
        check_batch(batch_size, make_mesh(), accumulate)
    assert str(error.value) == message


def test_replicated_values_are_whole_on_every_device():
    placed = put_replicated({"w": np.arange(3.0, dtype=np.float32)}, make_mesh())["w"]
    assert [shard.data.tolist() for shard in placed.addressable_shards] == [[0.0, 1.0, 2.0]] * 4


def test_placing_copies_so_that_a_donated_state_leaves_the_original_alone():
    mesh = make_mesh(devices=jax.devices()[:1])
    original = jax.device_put(np.ones(3, np.float32), jax.devices()[0])
    put_replicated(original, mesh).delete()
    assert original.tolist() == [1.0, 1.0, 1.0]


def test_a_random_key_comes_through():
    key, mesh = jax.random.key(5), make_mesh()
    placed = put_replicated({"key": key}, mesh)["key"]
    assert jax.random.key_data(placed).tolist() == jax.random.key_data(key).tolist()
    assert fetch(jax.random.key_data(placed), mesh).tolist() == jax.random.key_data(key).tolist()

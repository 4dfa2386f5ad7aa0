import jax
import jax.numpy as jnp
import pytest

from xtc_jax.train import meter
from xtc_jax.train.meter import Meter, split_of


@jax.jit
def product(a, b):
    return a @ b


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


def test_losses_are_averaged_and_speed_is_of_data_and_steps_alone():
    counted = Meter(batch_size=8)
    for loss in (1.0, 3.0):
        counted.add({"loss": jnp.float32(loss), "logit": jnp.float32(2 * loss)})
    assert float(counted.latest[0]) == 3.0
    assert counted.means() == {"loss": 2.0, "logit": 4.0}
    assert counted.latest == []
    speed = counted.speed({"data": 0.5, "teacher": 1.5, "step": 2.0, "eval": 100.0, "checkpoint": 7.0})
    assert (speed["steps_per_second"], speed["examples_per_second"]) == (0.5, 4.0)
    assert counted.speed({"step": 1.0})["steps_per_second"] == 0.0


def test_utilisation_is_flops_of_the_steps_by_time_and_peak_and_every_shape_is_counted_once(monkeypatch):
    counted, made = Meter(batch_size=8, peak_flops=1e6), []
    monkeypatch.setattr(Meter, "_program_flops", lambda *a, count=Meter._program_flops: made.append(count(*a)) or made[-1])
    for rows in (8, 8, 16):
        counted.add({"loss": jnp.float32(0)}, (product, (ones(rows, 32), ones(32, 64))))
    assert made == [2 * 8 * 32 * 64, 2 * 8 * 32 * 64, 2 * 16 * 32 * 64]
    assert len(counted._flops_of) == 2
    assert counted.speed({"step": 0.5})["mfu"] == 2 * 32 * 32 * 64 / 0.5 / 1e6


def test_flops_are_those_of_one_device_and_take_no_second_compilation():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.device_put(ones(8, 32), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data")))
    compiled = []
    count = lambda name, seconds, **_: compiled.append(name) if name.endswith("backend_compile_duration") else None  # noqa: E731
    weights = jax.device_put(ones(32, 64), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        product(rows, weights)
        assert len(compiled) == 1
        assert Meter(8, 1.0)._program_flops(product, (rows, weights)) == 2 * 8 * 32 * 64 / 4
        assert len(compiled) == 1
    finally:
        jax.monitoring.unregister_event_duration_listener(count)


def test_without_a_known_peak_there_is_no_utilisation():
    counted = Meter(batch_size=8)
    counted.add({"loss": jnp.float32(0)}, (product, (ones(8, 32), ones(32, 64))))
    assert "mfu" not in counted.speed({"step": 1.0})


class Device:
    def __init__(self, stats):
        self.stats = stats

    def memory_stats(self):
        return self.stats


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ([None, None], {}),
        ([{"bytes_in_use": 1}], {}),
        ([{"peak_bytes_in_use": 5}, {"peak_bytes_in_use": 7}], {"device_memory_bytes": 7.0}),
    ],
)
def test_memory_is_the_highest_of_the_devices_that_tell(monkeypatch, stats, expected):
    monkeypatch.setattr(meter.jax, "local_devices", lambda: [Device(entry) for entry in stats])
    speed = Meter(batch_size=8).speed({"step": 1.0})
    assert {name: value for name, value in speed.items() if "memory" in name} == expected


def test_the_time_split_has_an_entry_for_each_phase():
    assert split_of({"data": 0.25, "eval": 2.0}) == {"seconds/data": 0.25, "seconds/eval": 2.0}

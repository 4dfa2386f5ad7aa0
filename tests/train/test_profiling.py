import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from xtc_jax.train.profiling import profiler


@jax.jit
def work(x):
    return jnp.tanh(x) @ x


def steps(directory, window, first, last):
    with profiler(directory, window) as traced:
        for step in range(first, last + 1):
            with traced(step) as finish:
                finish(work(jnp.ones((8, 8), jnp.float32)))


def traced_steps(directory):
    """Numbers of the steps in the only trace, from the copy that browsers read."""
    (copy,) = directory.glob("plugins/profile/*/*.trace.json.gz")
    events = json.loads(gzip.decompress(copy.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


@pytest.mark.parametrize(("last", "expected"), [(6, [2, 3, 4]), (3, [2, 3])])
def test_the_steps_of_the_window_are_traced_where_tensorboard_looks_also_if_the_run_ends_among_them(tmp_path, last, expected):
    steps(tmp_path, (2, 3), 1, last)
    assert traced_steps(tmp_path) == expected
    assert len(list(tmp_path.glob("plugins/profile/*/*.xplane.pb"))) == 1


@pytest.mark.parametrize(("window", "first"), [(None, 1), ((2, 3), 3)])
def test_nothing_is_traced_without_a_window_or_by_a_run_resumed_within_it(tmp_path, window, first):
    steps(tmp_path, window, first, 4)
    assert list(tmp_path.iterdir()) == []

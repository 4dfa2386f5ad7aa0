import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from xtc_jax.params import named_leaves
from xtc_jax.train import OptimizerSpec, learning_rates, make_optimizer, schedule
from xtc_jax.train.optimizer import decayed

SPEC = OptimizerSpec(learning_rate=5e-2, steps=5, warmup=2, weight_decay=0.1, clip=1.0)


def reference(params, gradients, spec):
    """docs/method.md, section 6.1, in float64, one gradient per update."""
    p = {name: value.astype(np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in p.items()}
    v = {name: np.zeros_like(value) for name, value in p.items()}
    for k, g in enumerate(gradients):
        norm = np.sqrt(sum(np.sum(value.astype(np.float64) ** 2) for value in g.values()))
        lr = spec.learning_rate * (k / spec.warmup if k < spec.warmup else (spec.steps - k) / (spec.steps - spec.warmup))
        t = k + 1
        for name, gradient in g.items():
            clipped = gradient.astype(np.float64) * min(1.0, spec.clip / (norm + 1e-6))
            m[name] = 0.9 * m[name] + 0.1 * clipped
            v[name] = 0.999 * v[name] + 0.001 * clipped**2
            p[name] = p[name] - lr * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m[name] / (np.sqrt(v[name]) + 1e-6)
            if name == "dense/weight":
                p[name] = p[name] - lr * spec.weight_decay * p[name]
    return p


@pytest.mark.parametrize("size", [1e-5, 10.0], ids=["eps matters", "clip active"])
def test_five_updates_equal_the_reference(rng, size):
    shapes = {"dense/weight": (6, 5), "dense/bias": (6,), "LayerNorm/weight": (6,)}
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    gradients = [{name: (size * rng.normal(size=s)).astype(np.float32) for name, s in shapes.items()} for _ in range(5)]
    # Every number of the schedule is an argument: the optimizer is made for another run.
    optimizer = make_optimizer(OptimizerSpec(learning_rate=9.0, steps=99, warmup=9, weight_decay=0.1, clip=1.0))
    now, state = jax.tree.map(jnp.asarray, params), optimizer.init(params)
    for gradient, rate in zip(gradients, learning_rates(SPEC), strict=True):
        updates, state = optimizer.update(gradient, state, now, rate=rate)
        now = optax.apply_updates(now, updates)
    expected = reference(params, gradients, SPEC)
    for name in shapes:
        np.testing.assert_allclose(now[name], expected[name], rtol=1e-6, atol=1e-7)


def test_the_first_update_has_rate_0_yet_the_moments_advance():
    params = {"weight": jnp.ones(3)}
    optimizer = make_optimizer(SPEC)
    rate = learning_rates(SPEC)[0]
    updates, state = optimizer.update({"weight": jnp.full(3, 0.5)}, optimizer.init(params), params, rate=rate)
    assert updates["weight"].tolist() == [0.0, 0.0, 0.0]
    np.testing.assert_allclose(state.mu["weight"], 0.05, rtol=3e-7)
    np.testing.assert_allclose(state.nu["weight"], 0.00025, rtol=1e-6)


def test_the_schedule_rises_from_0_to_the_peak_and_falls_to_0():
    rate = schedule(OptimizerSpec(learning_rate=4.0, steps=10, warmup=2))
    assert [float(rate(k)) for k in (0, 1, 2, 6, 9, 10)] == [0.0, 2.0, 4.0, 2.0, 0.5, 0.0]


def test_the_rates_of_a_run_are_those_of_its_schedule_in_float32():
    rates = learning_rates(OptimizerSpec(learning_rate=4.0, steps=6, warmup=2))
    assert rates.tolist() == [0.0, 2.0, 4.0, 3.0, 2.0, 1.0]
    assert rates.dtype == np.float32


def test_without_warm_up_the_first_update_has_the_peak_rate():
    rate = schedule(OptimizerSpec(learning_rate=4.0, steps=8, warmup=0))
    assert [float(rate(k)) for k in (0, 7)] == [4.0, 0.5]


def test_biases_and_layer_norms_do_not_decay_and_all_else_does():
    tree = decayed(toy.params(toy.shape()))
    kept = {name for name, decays in named_leaves(tree).items() if not decays}
    assert kept == {name for name in named_leaves(tree) if name.endswith("/bias") or "LayerNorm" in name}
    assert len(kept) == 14

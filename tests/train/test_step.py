from functools import partial

import jax
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map, reduce_layers
from xtc_jax.quantize import named_rules
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    init_state,
    make_mesh,
    make_optimizer,
    make_train_step,
    objective_losses,
    put_batch,
    put_replicated,
)

TEACHER, STUDENT, LAYERS = toy.shape(2), toy.shape(1), layer_map((1,), 2)
# Without activation bits: one ulp in an input can move an int8 level, and that is not what is tested here.
DISTILL = Objective(STUDENT, named_rules("deepspeed", 1, None), TEACHER, LAYERS, DistillSpec())
LABELS = Objective(STUDENT, None, None, layer_map((), 1), DistillSpec())
OPTIMIZER = make_optimizer(OptimizerSpec(1e-3, 10, 0))


@pytest.fixture(scope="module")
def teacher():
    return toy.params(TEACHER, seed=3)


@pytest.fixture(scope="module")
def student(teacher):
    return reduce_layers(teacher, LAYERS)


def a_batch(valid: int = 8, rows: int = 8):
    dataset = toy.dataset(count=8, batch_size=rows)
    batch = dataset.batch(dataset.plan(0, 0)[0])
    for name in ("attention_mask", "labels", "valid"):
        batch[name][valid:] = 0
    return batch


def one_step(objective, params, teacher, batch, devices):
    mesh = make_mesh(8, jax.devices()[:devices])
    state = put_replicated(init_state(params, OPTIMIZER, jax.random.key(0)), mesh)
    placed = None if teacher is None else put_replicated(teacher, mesh)
    state, losses = make_train_step(objective, OPTIMIZER, mesh)(state, placed, put_batch(batch, mesh))
    return jax.device_get((state.params, state.opt_state.mu, losses))


def assert_same_gradients(found, expected):
    """To 1e-5 of each tensor's largest; what is 0 but for rounding (a key's bias) to 1e-7 of the largest of all."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5 * np.abs(b).max() + 1e-7 * largest)


@pytest.fixture(scope="module")
def on_one_device(student, teacher):
    return one_step(DISTILL, student, teacher, a_batch(valid=7), 1)


@pytest.mark.parametrize("devices", [2, 4])
def test_a_step_on_several_devices_equals_a_step_on_one(on_one_device, student, teacher, devices):
    params, gradients, losses = one_step(DISTILL, student, teacher, a_batch(valid=7), devices)
    params1, gradients1, losses1 = on_one_device
    for name, value in losses.items():
        np.testing.assert_allclose(value, losses1[name], rtol=1e-5)
    assert_same_gradients(gradients, gradients1)
    # Adam's first update is lr * sign(g), up to eps: a gradient that is 0 but for rounding may take either sign.
    for p, p1, g in zip(*map(jax.tree.leaves, (params, params1, gradients1)), strict=True):
        clear = np.abs(g) > 1e-3 * np.abs(g).max()
        np.testing.assert_allclose(p[clear], p1[clear], rtol=1e-5, atol=1e-7)


def test_the_losses_are_the_three_distillation_terms_and_their_sum(on_one_device):
    _, _, losses = on_one_device
    assert list(losses) == ["attention", "hidden", "logit", "loss"]
    assert min(losses.values()) > 0
    np.testing.assert_allclose(losses["loss"], losses["attention"] + losses["hidden"] + losses["logit"], rtol=1e-6)


def test_every_parameter_moves_in_a_step(on_one_device, student):
    assert not any(jax.tree.leaves(jax.tree.map(np.array_equal, on_one_device[0], student)))


@pytest.mark.parametrize("objective", [DISTILL, LABELS], ids=["distillation", "labels"])
def test_filled_rows_change_nothing(objective, student, teacher):
    batch = a_batch(valid=5)
    nonsense = {name: value.copy() for name, value in batch.items()}
    nonsense["input_ids"][5:], nonsense["labels"][5:] = 9, 1
    fewer = {name: value[:5] for name, value in batch.items()}
    expected = losses_and_gradients(objective, student, teacher, fewer)
    for filled in (batch, nonsense):
        gradients, losses = losses_and_gradients(objective, student, teacher, filled)
        assert_same_gradients(gradients, expected[0])
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), losses, expected[1])


@partial(jax.jit, static_argnums=0)
def losses_and_gradients(objective, student, teacher, batch):
    def total(params):
        losses = objective_losses(objective, params, teacher, batch, None)
        return sum(losses.values()), losses

    return jax.grad(total, has_aux=True)(student)


losses_of = jax.jit(objective_losses, static_argnums=0)


def test_without_a_teacher_the_only_loss_is_that_of_the_labels(student):
    losses = losses_of(LABELS, student, None, a_batch(), None)
    assert list(losses) == ["label"]
    np.testing.assert_allclose(losses["label"], np.log(2), atol=0.2)


def test_a_weighted_label_loss_joins_the_distillation(student, teacher):
    objective = Objective(STUDENT, None, TEACHER, LAYERS, DistillSpec(label=0.5, attention=0.0, hidden=2.0))
    losses = losses_of(objective, student, teacher, a_batch(), None)
    alone = losses_of(LABELS, student, None, a_batch(), None)
    assert sorted(losses) == ["hidden", "label", "logit"]
    np.testing.assert_allclose(losses["label"], 0.5 * alone["label"], rtol=1e-6)


def test_the_teacher_gets_no_gradient(student, teacher):
    gradients = jax.jit(jax.grad(lambda t: sum(losses_of(DISTILL, student, t, a_batch(), None).values())))(teacher)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(gradients))


def test_the_teacher_runs_without_dropout(teacher):
    wet = toy.shape(2, dropout=0.5)
    twin = Objective(TEACHER, None, wet, layer_map((), 2), DistillSpec(logit=0.0, attention=1.0, hidden=1.0))
    losses = losses_of(twin, teacher, teacher, a_batch(), jax.random.key(0))
    # With the student's dropout off and the same weights nothing differs, but for the order of float sums.
    assert sorted(losses) == ["attention", "hidden"]
    assert max(losses.values()) < 1e-12


def test_the_students_dropout_depends_on_the_step_and_on_nothing_else(student):
    objective = Objective(toy.shape(1, dropout=0.1), None, None, layer_map((), 1), DistillSpec())
    mesh = make_mesh(8)
    still = make_optimizer(OptimizerSpec(0.0, 10, 0))
    step, batch = make_train_step(objective, still, mesh), put_batch(a_batch(), mesh)

    def three_losses():
        state, losses = put_replicated(init_state(student, still, jax.random.key(0)), mesh), []
        for _ in range(3):
            state, terms = step(state, None, batch)
            losses.append(float(terms["loss"]))
        return losses

    losses = three_losses()
    assert len(set(losses)) == 3
    assert three_losses() == losses


def test_there_is_one_compilation_per_shape(student, caplog):
    mesh = make_mesh(8)
    step = make_train_step(LABELS, OPTIMIZER, mesh)
    state = put_replicated(init_state(student, OPTIMIZER, jax.random.key(0)), mesh)
    batch = a_batch()
    short = {name: value[:, :9] if value.ndim == 2 else value for name, value in batch.items()}
    with jax.log_compiles():
        for given in (batch, short, batch, short, batch):
            state, _ = step(state, None, put_batch(given, mesh))
    compiled = [text for text in caplog.messages if text.startswith("Finished XLA compilation of")]
    assert [text.split()[4] for text in compiled] == ["jit(step)"] * 2
    assert int(state.step) == 5

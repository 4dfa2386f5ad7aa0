from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map, reduce_layers
from xtc_jax.parallel import make_mesh, put_batch, put_replicated, put_sharded
from xtc_jax.params import named_leaves
from xtc_jax.quantize import INPUT_RANGE, ActivationSpec, fake_quantize, named_rules, with_extra_rules
from xtc_jax.train import (
    Objective,
    OptimizerSpec,
    init_state,
    make_eval_step,
    make_optimizer,
    make_taught_step,
    objective_losses,
)
from xtc_jax.train.objective import forward
from xtc_jax.train.state import TrainState
from xtc_jax.train.step import PROJECTION, student_params, trainable

TEACHER, STUDENT, LAYERS = toy.shape(2), toy.shape(1), layer_map((1,), 2)
# Without activation bits: one ulp in an input can move an int8 level, and that is not what is tested here.
DISTILL = Objective(STUDENT, named_rules("deepspeed", 1, None), TEACHER, LAYERS, DistillSpec())
LABELS = Objective(STUDENT, None, None, layer_map((), 1), DistillSpec())
OPTIMIZER = make_optimizer(OptimizerSpec(1e-3, 10, 0))
RATE = np.float32(1e-3)


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
    mesh = make_mesh(devices=jax.devices()[:devices])
    state = put_sharded(init_state(params, OPTIMIZER, jax.random.key(0)), mesh)
    placed = None if teacher is None else put_sharded(teacher, mesh)
    state, losses = make_taught_step(objective, OPTIMIZER, mesh)(state, placed, put_batch(batch, mesh), RATE)
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
        np.testing.assert_allclose(value, losses1[name], rtol=5e-6)
    assert_same_gradients(gradients, gradients1)
    # Adam's first update is lr * sign(g), up to eps: a gradient that is 0 but for rounding may take either sign.
    for p, p1, g in zip(*map(jax.tree.leaves, (params, params1, gradients1)), strict=True):
        clear = np.abs(g) > 1e-3 * np.abs(g).max()
        np.testing.assert_allclose(p[clear], p1[clear], rtol=1e-5, atol=1e-7)


def test_a_batch_in_parts_gives_the_step_of_the_whole(student, teacher):
    """7 of 16 rows are filling, so the parts weigh differently: 8 means averaged would be another loss."""
    objective = replace(DISTILL, spec=DistillSpec(label=0.5, hidden_norm="deepspeed"))
    dataset = toy.dataset(count=9, batch_size=16)
    batch = dataset.batch(dataset.in_order()[0])
    _, expected, whole = one_step(objective, student, teacher, batch, 1)
    for accumulate, devices in ((8, 1), (2, 4)):
        _, gradients, losses = one_step(replace(objective, accumulate=accumulate), student, teacher, batch, devices)
        assert sorted(losses) == ["attention", "hidden", "label", "logit", "loss"]
        for name, value in losses.items():
            np.testing.assert_allclose(value, whole[name], rtol=1e-6)
        assert_same_gradients(gradients, expected)


def test_the_parts_of_a_batch_share_one_rounding_at_random(student):
    rules = named_rules("deepspeed", 4, None, stochastic=True)
    objective = Objective(STUDENT, rules, None, layer_map((), 1), DistillSpec())
    losses = [one_step(replace(objective, accumulate=n), student, None, a_batch(), 1)[2]["loss"] for n in (1, 2)]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-6)


def test_the_losses_are_the_three_distillation_terms_and_their_sum(on_one_device):
    _, _, losses = on_one_device
    assert list(losses) == ["attention", "hidden", "logit", "loss"]
    assert min(losses.values()) > 0
    assert losses["loss"] == losses["attention"] + losses["hidden"] + losses["logit"]


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
    mesh = make_mesh()
    step, batch = make_taught_step(objective, OPTIMIZER, mesh), put_batch(a_batch(), mesh)

    def three_losses():
        state, losses = put_replicated(init_state(student, OPTIMIZER, jax.random.key(0)), mesh), []
        for _ in range(3):
            state, terms = step(state, None, batch, np.float32(0))
            losses.append(float(terms["loss"]))
        return losses

    losses = three_losses()
    assert len(set(losses)) == 3
    assert three_losses() == losses


@pytest.mark.parametrize("shape", [(4, 1, 1), (1, 2, 2)])
def test_there_is_one_compilation_per_shape_whatever_the_mesh_and_the_learning_rate(student, caplog, shape):
    mesh = make_mesh(shape)
    step = make_taught_step(LABELS, OPTIMIZER, mesh)
    state = put_sharded(init_state(student, OPTIMIZER, jax.random.key(0)), mesh)
    placed = jax.tree.map(lambda leaf: leaf.sharding, state)
    batch = a_batch()
    short = {name: value[:, :9] if value.ndim == 2 else value for name, value in batch.items()}
    with jax.log_compiles():
        for rate, given in enumerate((batch, short, batch, short, batch)):
            before, (state, _) = state, step(state, None, put_batch(given, mesh), np.float32(1e-3 * rate))
            assert all(leaf.is_deleted() for leaf in jax.tree.leaves(before))  # donated
    compiled = [text for text in caplog.messages if text.startswith("Finished XLA compilation of")]
    assert [text.split()[4] for text in compiled] == ["jit(taught)"] * 2
    assert int(state.step) == 5
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == placed


def test_the_learning_rate_is_an_argument_of_the_step(student):
    """At rate 0 nothing moves but the moments; twice the rate is twice the way."""
    mesh = make_mesh()
    step, batch = make_taught_step(LABELS, OPTIMIZER, mesh), put_batch(a_batch(), mesh)

    def weight_after(rate):
        state, _ = step(put_replicated(init_state(student, OPTIMIZER, jax.random.key(0)), mesh), None, batch, np.float32(rate))
        assert np.any(state.opt_state.mu["classifier"]["weight"])
        return np.asarray(state.params["classifier"]["bias"])

    begin = student["classifier"]["bias"]
    np.testing.assert_array_equal(weight_after(0), begin)
    np.testing.assert_array_equal(weight_after(2e-3) - begin, 2 * (weight_after(1e-3) - begin))


def test_a_quantized_teacher_is_what_the_loss_sees(student, teacher):
    """Rules of the teacher, or a teacher on the grid already: the same losses. Its latent weights give others."""
    rules = named_rules("deepspeed", 2, None)
    objective = replace(DISTILL, rules=None)
    found = losses_of(replace(objective, teacher_rules=rules), student, teacher, a_batch(), None)
    on_the_grid = losses_of(objective, student, fake_quantize(teacher, rules), a_batch(), None)
    latent = losses_of(objective, student, teacher, a_batch(), None)
    for name in ("logit", "attention", "hidden"):
        assert found[name] == on_the_grid[name]
        assert abs(float(found[name]) - float(latent[name])) > 1e-4


STATIC = with_extra_rules(
    named_rules("deepspeed", 4, ActivationSpec(8, "static"), stochastic=True), ("word_embeddings/weight=32",)
)
WITH_RANGES = Objective(STUDENT, STATIC, None, layer_map((), 1), DistillSpec())
LINEARS = (
    "attention/self/query",
    "attention/self/key",
    "attention/self/value",
    "attention/output/dense",
    "intermediate/dense",
    "output/dense",
)
QUERY = f"encoder/layer_0/{LINEARS[0]}/{INPUT_RANGE}"


@pytest.fixture(scope="module")
def static(student):
    """One jitted step with static ranges and stochastic rounding; ``run(state, batch, rate)`` and ``begin(step)``."""
    mesh = make_mesh()
    optimizer = make_optimizer(OptimizerSpec(1e-3, 10, 0, weight_decay=0.5, clip=1e-3))
    step = make_taught_step(WITH_RANGES, optimizer, mesh)

    def begin(at=0, seed=0):
        state = init_state(trainable(WITH_RANGES, student, jax.random.key(1)), optimizer, jax.random.key(seed))
        return put_replicated(TrainState(jnp.asarray(at, jnp.int32), state.params, state.opt_state, state.key), mesh)

    return begin, lambda state, batch, rate=1e-3: step(state, None, put_batch(batch, mesh), np.float32(rate))


def embedded(params, batch):
    """Smallest and largest input of the first layer's Linears: the embedding output, which is float here."""
    states = jax.jit(lambda p, b: forward(STUDENT, p, b, intermediates=True).hidden_states[0])(student_params(params), batch)
    return np.array([states.min(), states.max()])


def test_a_static_range_is_set_by_the_first_batch_and_moved_a_twentieth_of_the_way_by_the_second(static):
    begin, run = static
    first, second = a_batch(), a_batch()
    second["input_ids"][:] = 9
    state = begin()
    params = jax.device_get(state.params)
    assert {name: leaf.tolist() for name, leaf in named_leaves(params).items() if name.endswith(INPUT_RANGE)} == {
        f"encoder/layer_0/{linear}/{INPUT_RANGE}": [0, 0] for linear in LINEARS
    }
    state, _ = run(state, first)
    low_high = embedded(params, first)
    np.testing.assert_allclose(named_leaves(state.params)[QUERY], low_high, rtol=1e-6)
    params = jax.device_get(state.params)
    state, _ = run(state, second)
    moved = embedded(params, second)
    assert np.abs(moved - low_high).min() > 0.01
    np.testing.assert_allclose(named_leaves(state.params)[QUERY], 0.95 * low_high + 0.05 * moved, rtol=1e-6)


def test_optimizer_clip_and_decay_do_not_see_the_ranges(static):
    begin, run = static
    state, _ = run(begin(), a_batch())
    moments = {name: np.asarray(leaf) for name, leaf in named_leaves(state.opt_state.mu).items()}
    assert all(not moments[name].any() for name in moments if name.endswith(INPUT_RANGE))
    # The clipped gradient has the norm of the clip: numbers of the size of a range would have taken all of it.
    assert np.sqrt(sum(np.sum(np.square(m / 0.1)) for m in moments.values())) == pytest.approx(1e-3, rel=1.5e-5)
    # At rate 0 ranges move all the same; a decay of one half a step would show at rate 1.
    ranges = [named_leaves(run(begin(), a_batch(), rate)[0].params)[QUERY].tolist() for rate in (0, 1)]
    assert ranges[0] == ranges[1] != [0, 0]


def test_evaluation_uses_the_ranges_as_they_are(static, student):
    """An example's logits do not depend on the others in the batch, as they would if the batch set the range."""
    begin, run = static
    state, _ = run(begin(), a_batch())
    mesh = make_mesh()
    evaluate = make_eval_step(STUDENT, STATIC, mesh)
    batch = a_batch()
    extreme = {name: value.copy() for name, value in batch.items()}
    extreme["input_ids"][1:] = 11
    logits = [np.asarray(evaluate(state.params, put_batch(given, mesh))) for given in (batch, extreme)]
    np.testing.assert_array_equal(logits[0][0], logits[1][0])
    assert np.abs(logits[0][1:] - logits[1][1:]).max() > 1e-3
    untouched = trainable(WITH_RANGES, student, jax.random.key(0))
    assert not np.allclose(logits[0], evaluate(put_replicated(untouched, mesh), put_batch(batch, mesh)))


def test_stochastic_rounding_is_a_function_of_seed_and_step(static):
    begin, run = static

    def loss(at, seed=0):
        return float(run(begin(at, seed), a_batch())[1]["loss"])

    assert loss(0) == loss(0)
    assert len({loss(0), loss(1), loss(2), loss(0, seed=1)}) == 4


def test_a_step_that_does_not_use_a_range_leaves_it_as_it_is(student):
    """Before activations start, a range that an earlier stage has calibrated stays."""
    later = named_rules("deepspeed", 1, ActivationSpec(8, "static", start=5))
    now = replace(WITH_RANGES, rules=later.at(0))
    params = trainable(replace(now, rules=later), student, jax.random.key(0))
    params["encoder"]["layer_0"]["attention"]["self"]["query"][INPUT_RANGE] = jnp.array([-2.0, 3.0])
    mesh = make_mesh()
    state = put_replicated(init_state(params, OPTIMIZER, jax.random.key(0)), mesh)
    state, _ = make_taught_step(now, OPTIMIZER, mesh)(state, None, put_batch(a_batch(), mesh), RATE)
    assert named_leaves(state.params)[QUERY].tolist() == [-2, 3]


NARROW = replace(STUDENT, hidden_size=16, intermediate_size=24)


@pytest.mark.parametrize(
    ("student", "spec", "shape"),
    [
        (NARROW, DistillSpec(), (32, 16)),
        (NARROW, DistillSpec(hidden=0.0), None),
        (STUDENT, DistillSpec(), None),
    ],
    ids=["narrow", "narrow, no hidden loss", "same width"],
)
def test_a_projection_trains_beside_a_student_of_another_width_if_hidden_states_are_compared(student, spec, shape):
    objective = Objective(student, None, TEACHER, LAYERS, spec)
    params = trainable(objective, toy.params(student), jax.random.key(0))
    assert (params[PROJECTION]["weight"].shape if PROJECTION in params else None) == shape
    assert objective.projects == (shape is not None)
    assert student_params(params).keys() == toy.params(student).keys()


def test_without_a_teacher_nothing_is_projected():
    assert not Objective(NARROW, None, None, LAYERS, DistillSpec()).projects

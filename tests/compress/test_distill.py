"""The distillation losses: DeepSpeed's numbers, independence of padding, and sums that add up over a split batch."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from xtc_jax.bert import BertOutput
from xtc_jax.compress import (
    DistillSpec,
    LayerMap,
    attention_loss,
    distillation_terms,
    hidden_loss,
    label_loss,
    logit_loss,
    new_projection,
    project,
)

LENGTHS = (7, 3, 5, 0)
VALID = jnp.array([True, True, True, False])
NORMS = ["valid", "deepspeed", "ternarybert"]


def distillation_losses(*arguments, **options):
    return {name: term.value() for name, term in distillation_terms(*arguments, **options).items()}


@pytest.fixture(scope="module")
def golden(shared):
    """Student, teacher, mask and the losses of DeepSpeed's own code on them."""
    arrays = np.load(shared / "goldens/tiny_bert.npz")

    def outputs(name):
        states = (tuple(jnp.asarray(layer) for layer in arrays[f"{name}.{kind}"]) for kind in ("hidden", "scores"))
        return BertOutput(jnp.asarray(arrays[f"{name}.logits"]), *states)

    losses = json.loads((shared / "goldens/tiny_bert_kd.json").read_text())
    return outputs("student"), outputs("teacher"), jnp.asarray(arrays["attention_mask"], jnp.int32), losses


@pytest.mark.shared
@pytest.mark.parametrize(
    ("term", "spec", "recorded"),
    [
        ("logit", DistillSpec(), "logit_deepspeed"),
        ("logit", DistillSpec(logit_norm="textbook"), "logit_batch_mean"),
        ("attention", DistillSpec(attention_norm="deepspeed"), "attention_deepspeed"),
        ("attention", DistillSpec(attention_norm="ternarybert"), "attention_valid_keys_all_entries"),
        ("hidden", DistillSpec(hidden_norm="deepspeed"), "hidden_deepspeed"),
        ("hidden", DistillSpec(), "hidden_valid_tokens"),
    ],
)
def test_losses_are_those_recorded_from_the_reference(golden, term, spec, recorded):
    student, teacher, mask, losses = golden
    layers = LayerMap(tuple(losses["maps"]["teacher_layer"]))

    @jax.jit
    def loss(student, teacher, mask):
        return distillation_losses(student, teacher, mask, jnp.ones(5, bool), layers, spec, regression=False)[term]

    assert float(loss(student, teacher, mask)) == pytest.approx(losses[recorded], abs=1e-5)


@pytest.mark.shared
def test_the_recorded_attention_scores_are_those_before_the_mask(golden):
    student, teacher, mask, _ = golden
    assert int(jnp.sum(mask == 0)) == 26
    for scores in (*student.attention_scores, *teacher.attention_scores):
        assert float(jnp.max(jnp.abs(scores))) < 10


@pytest.mark.shared
def test_the_layer_map_pairs_the_states_recorded_from_the_reference(golden):
    maps = golden[3]["maps"]
    layers = LayerMap(tuple(maps["teacher_layer"]))
    assert [t for _, t in layers.attention_pairs] == maps["attention"]
    assert [t for _, t in layers.hidden_pairs] == maps["hidden"]


@pytest.fixture
def whole_numbers(rng):
    """``draw(*shape)``: small integers as floats, so that every sum of squares is exact in any order."""
    return lambda *shape: jnp.asarray(rng.integers(-5, 6, size=shape), jnp.float32)


def mask_of(length):
    return jnp.asarray(np.arange(length) < np.array(LENGTHS)[:, None], jnp.int32)


def padded(x, axes, width, value):
    return jnp.pad(x, [(0, width if axis in axes else 0) for axis in range(x.ndim)], constant_values=value)


def test_the_valid_attention_loss_is_the_mean_over_each_example_cut_to_its_tokens(whole_numbers):
    student, teacher = whole_numbers(4, 2, 7, 7), whole_numbers(4, 2, 7, 7)
    loss = attention_loss(student, teacher, mask_of(7))
    cut = [np.asarray(student - teacher)[b, :, :n, :n] for b, n in enumerate(LENGTHS)]
    assert float(loss.total) == sum(np.sum(error**2) for error in cut)
    assert float(loss.number) == sum(error.size for error in cut) == 2 * (49 + 9 + 25)


def test_the_valid_hidden_loss_is_the_mean_over_each_example_cut_to_its_tokens(whole_numbers):
    student, teacher = whole_numbers(4, 7, 6), whole_numbers(4, 7, 6)
    loss = hidden_loss(student, teacher, mask_of(7))
    cut = [np.asarray(student - teacher)[b, :n] for b, n in enumerate(LENGTHS)]
    assert float(loss.total) == sum(np.sum(error**2) for error in cut)
    assert float(loss.number) == sum(error.size for error in cut) == 6 * (7 + 3 + 5)


@pytest.mark.parametrize("norm", ["deepspeed", "ternarybert"])
def test_the_other_attention_norms_count_every_entry(whole_numbers, norm):
    loss = attention_loss(whole_numbers(4, 2, 7, 7), whole_numbers(4, 2, 7, 7), mask_of(7), norm)
    assert float(loss.number) == 4 * 2 * 7 * 7


def test_ternarybert_leaves_masked_keys_out_and_keeps_padding_queries(whole_numbers):
    student, teacher = whole_numbers(4, 2, 7, 7), whole_numbers(4, 2, 7, 7)
    loss = attention_loss(student, teacher, mask_of(7), "ternarybert")
    assert float(loss.total) == sum(np.sum(np.asarray(student - teacher)[b, :, :, :n] ** 2) for b, n in enumerate(LENGTHS))


@pytest.mark.parametrize("garbage", [0.0, 1e6])
def test_padding_further_changes_no_valid_loss_whatever_stands_in_the_padding(whole_numbers, garbage):
    scores, states = (whole_numbers(4, 2, 7, 7), whole_numbers(4, 2, 7, 7)), (whole_numbers(4, 7, 6), whole_numbers(4, 7, 6))
    wider = attention_loss(padded(scores[0], (2, 3), 4, garbage), padded(scores[1], (2, 3), 4, 0), mask_of(11))
    assert wider == attention_loss(*scores, mask_of(7))
    wider = hidden_loss(padded(states[0], (1,), 4, garbage), padded(states[1], (1,), 4, 0), mask_of(11))
    assert wider == hidden_loss(*states, mask_of(7))


def assert_adds_up(loss, arrays):
    loss = jax.jit(loss)
    whole, parts = loss(*arrays), [loss(*(x[rows] for x in arrays)) for rows in (slice(0, 1), slice(1, 4))]
    assert float(whole.total) == sum(float(part.total) for part in parts) != 0
    assert float(whole.number) == sum(float(part.number) for part in parts) != 0


@pytest.mark.parametrize("norm", NORMS)
def test_attention_sums_and_counts_add_up_over_a_split_batch(whole_numbers, norm):
    arrays = whole_numbers(4, 2, 7, 7), whole_numbers(4, 2, 7, 7), mask_of(7)
    assert_adds_up(lambda s, t, m: attention_loss(s, t, m, norm), arrays)


@pytest.mark.parametrize("norm", ["valid", "deepspeed"])
def test_hidden_sums_and_counts_add_up_over_a_split_batch(whole_numbers, norm):
    assert_adds_up(lambda s, t, m: hidden_loss(s, t, m, norm), (whole_numbers(4, 7, 6), whole_numbers(4, 7, 6), mask_of(7)))


def test_regression_sums_and_counts_add_up_over_a_split_batch(whole_numbers):
    assert_adds_up(lambda s, t, v: logit_loss(s, t, v, regression=True), (whole_numbers(4, 1), whole_numbers(4, 1), VALID))


@pytest.mark.parametrize("regression", [False, True])
def test_rows_that_only_fill_the_batch_up_add_nothing(whole_numbers, regression):
    width = 1 if regression else 3
    student, teacher = whole_numbers(4, width).at[3].set(1e6), whole_numbers(4, width)
    labels = whole_numbers(4) if regression else jnp.array([0, 1, 2, 0])
    assert logit_loss(student, teacher, VALID, regression) == logit_loss(student[:3], teacher[:3], VALID[:3], regression)
    assert label_loss(student, labels, VALID, regression) == label_loss(student[:3], labels[:3], VALID[:3], regression)


def test_a_batch_that_is_all_filling_has_loss_zero(whole_numbers):
    nothing = jnp.zeros(4, bool)
    assert float(logit_loss(whole_numbers(4, 3), whole_numbers(4, 3), nothing, regression=False).value()) == 0
    assert float(hidden_loss(whole_numbers(4, 7, 6), whole_numbers(4, 7, 6), jnp.zeros((4, 7), jnp.int32)).value()) == 0


def test_the_soft_cross_entropy_by_hand():
    student, teacher = jnp.log(jnp.array([[0.75, 0.25]])), jnp.zeros((1, 2))
    by_hand = -0.5 * np.log(0.75) - 0.5 * np.log(0.25)
    one = jnp.array([True])
    assert float(logit_loss(student, teacher, one, regression=False).value()) == pytest.approx(by_hand / 2, rel=1e-6)
    assert float(logit_loss(student, teacher, one, regression=False, norm="textbook").value()) == pytest.approx(
        by_hand, rel=1e-6
    )


@pytest.mark.parametrize("norm", ["deepspeed", "textbook"])
def test_regression_is_the_squared_error_to_the_teacher_in_either_norm(norm):
    loss = logit_loss(jnp.array([[1.0], [4.0]]), jnp.array([[0.5], [1.0]]), jnp.ones(2, bool), regression=True, norm=norm)
    assert (float(loss.total), float(loss.number)) == (9.25, 2)


def test_label_loss_of_classes_by_hand():
    loss = label_loss(jnp.array([[0.0, 0.0], [np.log(3), 0.0]]), jnp.array([1, 0]), jnp.ones(2, bool), regression=False)
    assert float(loss.total) == pytest.approx(np.log(2) + np.log(4 / 3), rel=1e-6)
    assert float(loss.number) == 2


def test_label_loss_of_numbers_by_hand():
    loss = label_loss(jnp.array([[2.5], [0.0]]), jnp.array([2.0, 3.0]), jnp.ones(2, bool), regression=True)
    assert (float(loss.total), float(loss.number)) == (9.25, 2)


@pytest.fixture
def outputs(whole_numbers):
    """``draw(layers)``: a model's outputs on the batch of ``LENGTHS``."""

    def draw(layers):
        hidden = tuple(whole_numbers(4, 7, 6) for _ in range(layers + 1))
        return BertOutput(whole_numbers(4, 3), hidden, tuple(whole_numbers(4, 2, 7, 7) for _ in range(layers)))

    return draw


def test_the_terms_are_sums_of_means_over_the_layers_times_their_weights(outputs):
    student, teacher, mask = outputs(2), outputs(4), mask_of(7)
    spec = DistillSpec(logit=2.0, attention=0.5, hidden=4.0)
    losses = distillation_losses(student, teacher, mask, VALID, LayerMap((1, 3)), spec, regression=False)
    scores = zip(student.attention_scores, teacher.attention_scores[1::2], strict=True)
    states = zip(student.hidden_states, teacher.hidden_states[::2], strict=True)
    logit = logit_loss(student.logits, teacher.logits, VALID, regression=False).value()
    attention = sum(float(attention_loss(s, t, mask).value()) for s, t in scores)
    hidden = sum(float(hidden_loss(s, t, mask).value()) for s, t in states)
    assert {name: float(loss) for name, loss in losses.items()} == pytest.approx(
        {"logit": 2 * float(logit), "attention": attention / 2, "hidden": 4 * hidden}, rel=1e-6
    )


@pytest.mark.parametrize("term", ["logit", "attention", "hidden"])
def test_a_term_of_weight_zero_is_left_out(outputs, term):
    student, teacher = outputs(2), outputs(4)
    spec = DistillSpec(**{term: 0.0})
    losses = distillation_losses(student, teacher, mask_of(7), VALID, LayerMap((1, 3)), spec, regression=False)
    assert losses.keys() == {"logit", "attention", "hidden"} - {term}


def test_the_gradient_is_finite_everywhere_and_zero_at_a_fully_padded_row(outputs):
    student, teacher = outputs(2), outputs(4)

    @jax.jit
    @jax.grad
    def gradients(student):
        terms = distillation_losses(student, teacher, mask_of(7), VALID, LayerMap((1, 3)), DistillSpec(), regression=False)
        return sum(terms.values())

    for gradient in jax.tree.leaves(gradients(student)):
        assert bool(jnp.all(jnp.isfinite(gradient)))
        assert float(jnp.max(jnp.abs(gradient[3]))) == 0 < float(jnp.min(jnp.max(jnp.abs(gradient[:3]).reshape(3, -1), axis=1)))


def test_a_student_equal_to_its_teacher_has_no_attention_and_hidden_loss(outputs):
    model = outputs(4)
    spec = DistillSpec(logit=0.0)
    losses = distillation_losses(model, model, mask_of(7), VALID, LayerMap((0, 1, 2, 3)), spec, regression=False)
    assert {name: float(loss) for name, loss in losses.items()} == {"attention": 0.0, "hidden": 0.0}


def soft(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def oracle(student, teacher, lengths, kept, spec, regression):
    """docs/method.md, sections 1 and 2, in float64, one example and one layer at a time, on plain arrays."""
    real = [n for n in lengths if n]
    zs, zt = student["logits"].astype(float), teacher["logits"].astype(float)
    if regression:
        logit = sum((zs[b, 0] - zt[b, 0]) ** 2 for b, n in enumerate(lengths) if n) / len(real)
    else:
        cross = -(soft(zt / spec.temperature) * np.log(soft(zs / spec.temperature))).sum(axis=1)
        logit = sum(cross[b] for b, n in enumerate(lengths) if n) / len(real)
        logit /= zs.shape[1] if spec.logit_norm == "deepspeed" else 1
    attention = 0.0
    for s, t in enumerate(kept):
        error = (student["scores"][s].astype(float) - teacher["scores"][t]) ** 2
        batch, heads, length, _ = error.shape
        if spec.attention_norm == "deepspeed":
            attention += error.mean()
        elif spec.attention_norm == "ternarybert":
            attention += sum(error[b, :, :, :n].sum() for b, n in enumerate(lengths)) / (batch * heads * length**2)
        else:
            attention += sum(error[b, :, :n, :n].sum() for b, n in enumerate(lengths)) / (heads * sum(n * n for n in lengths))
    hidden = 0.0
    for s, t in enumerate([max(kept[0] - 1, 0), *(layer + 1 for layer in kept)]):
        error = (student["hidden"][s].astype(float) - teacher["hidden"][t]) ** 2
        if spec.hidden_norm == "deepspeed":
            hidden += error.mean()
        else:
            hidden += sum(error[b, :n].sum() for b, n in enumerate(lengths)) / (error.shape[2] * sum(lengths))
    return {"logit": spec.logit * logit, "attention": spec.attention * attention, "hidden": spec.hidden * hidden}


def random_outputs(rng, layers, batch, length, heads, hidden, labels):
    return {
        "logits": 3 * rng.normal(size=(batch, labels)).astype(np.float32),
        "hidden": [rng.normal(size=(batch, length, hidden)).astype(np.float32) for _ in range(layers + 1)],
        "scores": [2 * rng.normal(size=(batch, heads, length, length)).astype(np.float32) for _ in range(layers)],
    }


def as_outputs(arrays):
    hidden, scores = (tuple(jnp.asarray(x) for x in arrays[name]) for name in ("hidden", "scores"))
    return BertOutput(jnp.asarray(arrays["logits"]), hidden, scores)


NORM_CASES = list(itertools.product(["deepspeed", "textbook"], NORMS, ["valid", "deepspeed"]))


@pytest.mark.parametrize("norms", NORM_CASES, ids="-".join)
@pytest.mark.parametrize(
    ("kept", "depth", "lengths", "sizes"),
    [
        ((1, 3, 5), 6, (7, 3, 5, 0), (2, 6, 3)),
        ((0, 2), 4, (1, 9), (3, 4, 2)),
        ((0, 1, 2), 3, (4, 4, 4), (1, 8, 5)),
        ((3,), 4, (5, 2, 1, 8, 3), (2, 2, 1)),
    ],
    ids=["every other", "from the first", "all", "one, regression"],
)
def test_every_normalisation_and_map_equals_the_method_in_numpy(rng, norms, kept, depth, lengths, sizes):
    batch, length, labels = len(lengths), max(lengths), sizes[2]
    student = random_outputs(rng, len(kept), batch, length, *sizes)
    teacher = random_outputs(rng, depth, batch, length, *sizes)
    weights = {"logit": 0.5, "attention": 2.0, "hidden": 3.0, "temperature": 1.5}
    spec = DistillSpec(**weights, **dict(zip(("logit_norm", "attention_norm", "hidden_norm"), norms, strict=True)))
    mask = jnp.asarray(np.arange(length) < np.array(lengths)[:, None], jnp.int32)
    losses = distillation_losses(
        as_outputs(student), as_outputs(teacher), mask, jnp.array(lengths) > 0, LayerMap(kept), spec, regression=labels == 1
    )
    expected = oracle(student, teacher, lengths, kept, spec, labels == 1)
    # DeepSpeed's own mask rounds scores to the float32 ulp at 1e4, 0.001, at masked keys.
    loose = {"attention": 2e-3 if norms[1] == "deepspeed" else 1e-5}
    for name, value in expected.items():
        assert float(losses[name]) == pytest.approx(value, rel=loose.get(name, 1e-5))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_temperature_divides_both_logits_and_no_factor_makes_up_for_it(temperature):
    student, teacher, one = np.array([[2.0, -1.0, 0.5]]), np.array([[0.0, 3.0, 1.0]]), jnp.ones(1, bool)
    loss = logit_loss(jnp.asarray(student), jnp.asarray(teacher), one, False, "textbook", temperature).value()
    by_hand = -(soft(teacher / temperature) * np.log(soft(student / temperature))).sum()
    assert float(loss) == pytest.approx(by_hand, rel=1e-6)


def test_an_infinite_temperature_leaves_the_uniform_cross_entropy():
    loss = logit_loss(jnp.array([[2.0, -1.0]]), jnp.array([[0.0, 3.0]]), jnp.ones(1, bool), False, "textbook", 1e6)
    assert float(loss.value()) == pytest.approx(np.log(2), rel=1e-5)


def test_regression_has_no_temperature():
    student, teacher, valid = jnp.array([[1.0], [4.0]]), jnp.array([[0.5], [1.0]]), jnp.ones(2, bool)
    assert logit_loss(student, teacher, valid, True, temperature=7.0) == logit_loss(student, teacher, valid, True)


def states(rng, layers, width):
    return tuple(jnp.asarray(rng.normal(size=(4, 7, width)), jnp.float32) for _ in range(layers + 1))


@pytest.fixture
def two_widths(rng):
    """A student of 4 features and 2 layers, a teacher of 6 and 4, and ``loss(projection)`` of their hidden states."""
    student = BertOutput(jnp.zeros((4, 3)), states(rng, 2, 4), ())
    teacher = BertOutput(jnp.zeros((4, 3)), states(rng, 4, 6), ())
    spec = DistillSpec(logit=0.0, attention=0.0)

    @jax.jit
    def loss(projection):
        given = student, teacher, mask_of(7), VALID, LayerMap((1, 3)), spec
        return distillation_losses(*given, regression=False, projection=projection)["hidden"]

    return student, teacher, loss


def test_a_teacher_of_another_width_is_compared_through_one_projection_of_every_hidden_state(two_widths, rng):
    student, teacher, loss = two_widths
    weight, bias = rng.normal(size=(6, 4)).astype(np.float32), rng.normal(size=6).astype(np.float32)
    widened = [np.asarray(state) @ weight.T + bias for state in student.hidden_states]
    errors = [(s - t) ** 2 for s, t in zip(widened, teacher.hidden_states[::2], strict=True)]
    by_hand = sum(sum(error[b, :n].sum() for b, n in enumerate(LENGTHS)) / (6 * sum(LENGTHS)) for error in errors)
    assert float(loss({"weight": jnp.asarray(weight), "bias": jnp.asarray(bias)})) == pytest.approx(float(by_hand), rel=1e-5)


def test_gradients_reach_weight_and_bias_of_the_projection_and_following_them_lowers_the_loss(two_widths):
    *_, loss = two_widths
    projection = new_projection(jax.random.key(0), 4, 6)
    gradients = jax.jit(jax.grad(loss))
    losses = []
    for _ in range(20):
        losses.append(float(loss(projection)))
        gradient = gradients(projection)
        assert all(np.abs(leaf).min() > 0 for leaf in jax.tree.leaves(gradient))
        projection = jax.tree.map(lambda p, g: p - 0.2 * g, projection, gradient)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]


def test_a_fresh_projection_has_small_normal_weights_and_no_bias():
    projection = new_projection(jax.random.key(0), 64, 48)
    assert projection["weight"].shape == (48, 64)
    assert float(jnp.std(projection["weight"])) == pytest.approx(0.02, rel=0.05)
    assert projection["bias"].tolist() == [0.0] * 48


def test_without_a_projection_hidden_states_are_compared_as_they_are(rng):
    hidden = states(rng, 0, 4)[0]
    assert project(hidden, None) is hidden
    narrow = project(hidden.astype(jnp.bfloat16), {"weight": jnp.eye(4), "bias": jnp.zeros(4)})
    np.testing.assert_array_equal(narrow, hidden.astype(jnp.bfloat16).astype(jnp.float32))

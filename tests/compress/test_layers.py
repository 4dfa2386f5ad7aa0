"""Layer maps and layer reduction."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtc_jax.compress import NAMED_LAYERS, LayerMap, layer_map, parse_layers, reduce_layers
from xtc_jax.errors import UserError


@pytest.mark.parametrize(
    ("teacher_layers", "hidden"),
    [
        ((1, 3, 5, 7, 9, 11), (0, 2, 4, 6, 8, 10, 12)),
        ((2, 4, 6, 8, 10), (1, 3, 5, 7, 9, 11)),
        (tuple(range(12)), tuple(range(13))),
        ((0, 4, 8), (0, 1, 5, 9)),
        ((1, 3), (0, 2, 4)),
    ],
)
def test_states_are_paired_as_in_the_method_and_attention_with_the_layers_themselves(teacher_layers, hidden):
    layers = layer_map(teacher_layers, 12)
    assert layers.attention_pairs == tuple(zip(range(len(teacher_layers)), teacher_layers, strict=True))
    assert layers.hidden_pairs == tuple(zip(range(len(hidden)), hidden, strict=True))


def test_no_list_keeps_every_layer():
    assert layer_map((), 12) == LayerMap(tuple(range(12)))


@pytest.mark.parametrize(("layers", "first_outside"), [((1, 3, 12), 12), ((-1, 3), -1), ((13, 12), 13)])
def test_a_layer_the_teacher_does_not_have_is_refused_by_its_number(layers, first_outside):
    with pytest.raises(UserError, match=rf"the teacher has layers 0 to 11, not {first_outside}$"):
        layer_map(layers, 12)


@pytest.mark.parametrize("layers", [(1, 1), (3, 1), (1, 5, 3)])
def test_layers_that_do_not_increase_are_refused(layers):
    with pytest.raises(UserError, match="the indices must increase"):
        layer_map(layers, 12)


@pytest.fixture
def teacher():
    encoder = {f"layer_{i}": {"output": {"weight": object()}, "bias": object()} for i in range(12)}
    return {"embeddings": object(), "encoder": encoder, "pooler": object(), "classifier": object()}


@pytest.mark.parametrize("kept", [(1, 3, 5, 7, 9, 11), (2, 4, 6, 8, 10), (10, 11), tuple(range(12))])
def test_student_layer_i_is_the_teachers_layer_at_place_i_of_the_map(teacher, kept):
    student = reduce_layers(teacher, LayerMap(kept))
    assert list(student["encoder"]) == [f"layer_{i}" for i in range(len(kept))]
    for i, t in enumerate(kept):
        assert student["encoder"][f"layer_{i}"] is teacher["encoder"][f"layer_{t}"]


def test_embeddings_pooler_and_classifier_are_the_teachers_and_the_teacher_is_not_changed(teacher):
    before = dict(teacher)
    student = reduce_layers(teacher, LayerMap((1, 3)))
    assert {name: student[name] for name in student if name != "encoder"} == {
        name: teacher[name] for name in ("embeddings", "pooler", "classifier")
    }
    assert teacher == before
    assert len(teacher["encoder"]) == 12


def test_a_model_without_head_is_reduced_too(teacher):
    del teacher["classifier"]
    assert reduce_layers(teacher, LayerMap((1, 3))).keys() == {"embeddings", "encoder", "pooler"}


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("", tuple(range(12))),
        ("()", tuple(range(12))),
        ("1,3,5", (1, 3, 5)),
        ("(1, 3, 5)", (1, 3, 5)),
        (" ( 1 ,3, 5, ) ", (1, 3, 5)),
        ("7", (7,)),
        ("(7,)", (7,)),
        ("every_other", (1, 3, 5, 7, 9, 11)),
        ("first(3)", (0, 1, 2)),
        ("last(3)", (9, 10, 11)),
        ("last( 1 )", (11,)),
        ("evenly(6)", (1, 3, 5, 7, 9, 11)),
        ("evenly(5)", (2, 4, 6, 8, 10)),
        ("evenly(4)", (2, 5, 7, 10)),
        ("evenly(12)", tuple(range(12))),
    ],
)
def test_layers_of_a_teacher_of_12_as_a_config_writes_them(text, layers):
    assert parse_layers(text, 12) == layers


def test_every_other_of_an_odd_depth_ends_before_the_last():
    assert [parse_layers("every_other", depth) for depth in (2, 3, 5)] == [(1,), (1,), (1, 3)]


depths_and_counts = st.integers(1, 64).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth)))


@given(depths_and_counts)
def test_evenly_spreads_n_layers_so_that_gaps_differ_by_one_at_most_the_ends_included(chosen):
    depth, count = chosen
    layers = parse_layers(f"evenly({count})", depth)
    assert len(layers) == count
    fences = (-1, *layers, depth)
    gaps = [b - a for a, b in itertools.pairwise(fences)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@given(depths_and_counts, st.sampled_from(sorted(NAMED_LAYERS.keys() - {"every_other"})))
def test_every_named_choice_is_a_layer_map_of_n_layers(chosen, name):
    depth, count = chosen
    layers = parse_layers(f"{name}({count})", depth)
    assert len(layers) == count
    assert layer_map(layers, depth).teacher_layers == layers


@given(depths_and_counts.flatmap(lambda c: st.tuples(st.just(c[0]), st.sets(st.integers(0, c[0] - 1), min_size=1))))
def test_a_list_comes_back_as_it_is_written_with_and_without_parentheses(chosen):
    depth, layers = chosen[0], tuple(sorted(chosen[1]))
    for text in (str(layers), ",".join(map(str, layers)), f"({','.join(map(str, layers))})"):
        assert parse_layers(text, depth) == layers


@pytest.mark.parametrize(
    ("text", "depth", "message"),
    [
        ("first(0)", 12, "layers='first(0)': that keeps 0 of 12 layers; keep 1 to 12"),
        ("last(13)", 12, "layers='last(13)': that keeps 13 of 12 layers; keep 1 to 12"),
        ("evenly(7)", 6, "layers='evenly(7)': that keeps 7 of 6 layers; keep 1 to 6"),
        ("every_other", 1, "layers='every_other': that keeps 0 of 1 layers; keep 1 to 1"),
        ("1,3,12", 12, "layers=(1, 3, 12): the teacher has layers 0 to 11, not 12"),
        ("-1,3", 12, "layers=(-1, 3): the teacher has layers 0 to 11, not -1"),
        ("3,1", 12, "layers=(3, 1): the indices must increase"),
        ("1,1", 12, "layers=(1, 1): the indices must increase"),
        *((text, 24, f"layers={text!r}: use a list such as 1,3,5, or every_other, first(n), last(n), evenly(n)")
          for text in ("middle(3)", "every_other(6)", "first", "first(-1)", "1;3", "1 3", "1,,3", "(1,3", "1.5", "evenly(a)")),
    ],
)  # fmt: skip
def test_layers_that_cannot_be_are_refused_in_one_line(text, depth, message):
    with pytest.raises(UserError) as error:
        parse_layers(text, depth)
    assert str(error.value) == message

"""Layer maps and layer reduction."""

import pytest

from xtc_jax.compress import LayerMap, layer_map, reduce_layers
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

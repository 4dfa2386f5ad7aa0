"""The order of a head's labels: read from names, brought into the task's."""

from dataclasses import replace

import numpy as np
import pytest
import toy
from hypothesis import given
from hypothesis import strategies as st

from xtc_jax.bert import fit_head, match_labels, permute_head, with_head
from xtc_jax.data import GLUE
from xtc_jax.errors import UserError

MNLI = GLUE["mnli"].labels
TEXTATTACK = ("contradiction", "entailment", "neutral")


@pytest.mark.parametrize(
    ("checkpoint", "task", "rows"),
    [
        (MNLI, MNLI, (0, 1, 2)),
        (TEXTATTACK, MNLI, (1, 2, 0)),
        (("CONTRADICTION", "NEUTRAL", "ENTAILMENT"), MNLI, (2, 1, 0)),
        (("Entailment", "Not Entailment"), ("not_entailment", "entailment"), (1, 0)),
        (("not-entailment", "entailment"), ("entailment", "not_entailment"), (1, 0)),
        (("LABEL_0", "LABEL_1", "LABEL_2"), MNLI, (0, 1, 2)),
        (("0", "1", "2"), MNLI, (0, 1, 2)),
        (("negative", "positive"), ("0", "1"), (0, 1)),
        (("1", "0"), ("0", "1"), (1, 0)),
        (("LABEL_0",), ("similarity",), (0,)),
        (("score",), ("similarity",), (0,)),
    ],
)
def test_names_that_match_give_the_row_of_every_label(checkpoint, task, rows):
    assert match_labels(checkpoint, task) == rows


@pytest.mark.parametrize(
    ("checkpoint", "task"),
    [
        (("yes", "no", "maybe"), MNLI),
        (("entailment", "neutral", "neutral"), MNLI),
        (("entailment", "neutral", "Neutral"), MNLI),
        (("entailment", "not_entailment"), MNLI),
        (("LABEL_0", "LABEL_1"), MNLI),
        (("LABEL_1", "LABEL_0"), ("no", "yes")),
        (("score",), ("no", "yes")),
    ],
)
def test_other_names_or_another_number_of_them_cannot_be_matched(checkpoint, task):
    assert match_labels(checkpoint, task) is None


@given(st.permutations(range(5)))
def test_every_row_is_that_of_the_same_name(order):
    task = ("a", "b", "c", "d", "e")
    checkpoint = tuple(task[i].upper() for i in order)
    rows = match_labels(checkpoint, task)
    assert tuple(checkpoint[row].lower() for row in rows) == task


def a_model(labels):
    config = with_head(toy.shape(), labels, len(labels) == 1)
    return config, {name: value for name, value in toy.params(config).items() if name in ("pooler", "classifier")}


def test_permuting_moves_the_rows_of_the_head_and_nothing_else():
    _, params = a_model(TEXTATTACK)
    moved = permute_head(params, (1, 2, 0))
    for leaf in ("weight", "bias"):
        np.testing.assert_array_equal(moved["classifier"][leaf], np.asarray(params["classifier"][leaf])[[1, 2, 0]])
    assert moved["pooler"] is params["pooler"]


def test_a_head_in_another_order_is_brought_into_that_of_the_task():
    config, params = a_model(TEXTATTACK)
    for trained in (True, False):
        fitted, note = fit_head(config, params, MNLI, trained, "here")
        np.testing.assert_array_equal(fitted["classifier"]["bias"], np.asarray(params["classifier"]["bias"])[[1, 2, 0]])
        assert note == "head reordered from (contradiction, entailment, neutral) to (entailment, neutral, contradiction)"


@pytest.mark.parametrize(
    ("labels", "task", "note"),
    [
        (MNLI, MNLI, ""),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), "head's labels have no names (LABEL_0, LABEL_1), taken to be (no, yes)"),
        (("LABEL_0",), ("similarity",), ""),
    ],
    ids=["same", "generic", "regression"],
)
def test_a_head_in_order_stays_and_generic_names_are_told(labels, task, note):
    config, params = a_model(labels)
    fitted, said = fit_head(config, params, task, False, "here")
    assert fitted is params
    assert said == note


def test_a_head_of_other_names_is_left_out_where_a_fresh_one_will_be_trained():
    config, params = a_model(("yes", "no"))
    fitted, note = fit_head(config, params, ("negative", "positive"), True, "here")
    assert set(fitted) == {"pooler"}
    assert note == "head of (yes, no) left out"


def test_a_head_of_other_names_is_refused_where_nothing_trains():
    config, params = a_model(("yes", "no"))
    with pytest.raises(UserError, match=r"^here: its labels \(yes, no\) are not the task's \(negative, positive\), and"):
        fit_head(config, params, ("negative", "positive"), False, "here")


def test_a_model_without_a_head_gets_one_where_it_is_trained_and_is_refused_where_not():
    config, params = a_model(("LABEL_0", "LABEL_1"))
    del params["classifier"]
    assert fit_head(config, params, ("negative", "positive"), True, "here") == (params, "")
    with pytest.raises(
        UserError, match=r"^here: a model without a classifier, and the stage that starts from it does not train"
    ):
        fit_head(config, params, ("negative", "positive"), False, "here")


@pytest.mark.parametrize(
    ("values", "kind"),
    [({"multi_label": True}, "multi-label classification"), ({"regression": True}, "regression of several numbers")],
    ids=["multi-label", "regression"],
)
def test_a_head_that_answers_another_kind_of_question_is_not_used(values, kind):
    config = replace(with_head(toy.shape(), ("no", "yes"), regression=False), **values)
    params = toy.params(config)
    with pytest.raises(UserError, match=f"^here: its head is a {kind}, the task's is not, and the stage"):
        fit_head(config, params, ("no", "yes"), trained=False, where="here")
    kept, note = fit_head(config, params, ("no", "yes"), trained=True, where="here")
    assert "classifier" not in kept
    assert note == f"head of a {kind} left out"

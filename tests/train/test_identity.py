import dataclasses

import pytest
import toy

from xtc_jax.train.identity import data_digest, first_difference, run_identity


def test_the_digest_is_of_what_the_data_are_not_of_the_objects():
    assert data_digest(toy.dataset()) == data_digest(toy.dataset())


@pytest.mark.parametrize("change", ["order", "label", "token", "batch_size", "buckets", "pad_id"])
def test_whatever_changes_a_batch_changes_the_digest(change):
    data = toy.dataset()
    if change == "order":
        backwards = dataclasses.replace(data.tokens, input_ids=data.tokens.input_ids[::-1])
        data = dataclasses.replace(data, tokens=backwards)
    elif change == "label":
        data.labels[3] = 1 - data.labels[3]
    elif change == "token":
        data.tokens.input_ids[5][2] += 1
    else:
        data = dataclasses.replace(data, **{change: {"batch_size": 4, "buckets": (16,), "pad_id": 1}[change]})
    assert data_digest(data) != data_digest(toy.dataset())


def test_the_first_key_that_differs_is_named_through_the_blocks_of_a_config():
    data = toy.dataset()
    then = run_identity(data, 3, 60, 5e-3, {"stage": {"grid": (1, 2), "steps": 60}})
    assert first_difference(then, run_identity(data, 3, 60, 5e-3, {"stage": {"grid": (1, 2), "steps": 60}})) == ""
    assert first_difference(then, run_identity(data, 4, 60, 5e-3, {})) == "seed: 3 then, 4 now"
    now = run_identity(data, 3, 60, 5e-3, {"stage": {"grid": (1, 2), "steps": 90}})
    assert first_difference(then, now) == "config.stage.steps: 60 then, 90 now"

"""Epochs, batches and padding."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtc_jax.data import Dataset, Tokens, default_buckets, eval_batches, plan_epoch, train_batches
from xtc_jax.data.batches import Planned, collate

BUCKETS = (4, 8, 16)
some_lengths = st.lists(st.integers(1, 16), min_size=1, max_size=60)
some_seeds = st.none() | st.integers(0, 99)


def plan_of(lengths, batch_size, seed):
    return plan_epoch(np.array(lengths), batch_size, BUCKETS, None if seed is None else np.random.default_rng(seed))


def make_dataset(lengths, batch_size=4, pad_id=0):
    """Example i holds the tokens 100 i, 100 i + 1, …; its second half is the second segment."""
    ids = [np.arange(n, dtype=np.int32) + 100 * i for i, n in enumerate(lengths)]
    types = [(np.arange(n) >= n // 2).astype(np.int32) for n in lengths]
    return Dataset(Tokens(ids, types), np.arange(len(lengths), dtype=np.int32) % 3, batch_size, BUCKETS, pad_id)


def assert_same_batches(left, right):
    for a, b in itertools.zip_longest(left, right):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


@pytest.mark.parametrize(
    ("longest", "buckets"), [(8, (8,)), (16, (16,)), (17, (16, 17)), (64, (16, 32, 64)), (100, (16, 32, 64, 100))]
)
def test_the_buckets_double_up_to_the_longest(longest, buckets):
    assert default_buckets(longest) == buckets


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, batch_size=st.integers(1, 9), seed=some_seeds)
def test_an_epoch_holds_every_example_exactly_once(lengths, batch_size, seed):
    plan = plan_of(lengths, batch_size, seed)
    assert sorted(np.concatenate([planned.indices for planned in plan])) == list(range(len(lengths)))


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, batch_size=st.integers(1, 9), seed=some_seeds)
def test_an_epoch_has_as_few_batches_as_possible_and_one_short_one_at_most(lengths, batch_size, seed):
    sizes = [len(planned.indices) for planned in plan_of(lengths, batch_size, seed)]
    assert len(sizes) == math.ceil(len(lengths) / batch_size)
    assert sorted(sizes)[1:] == [batch_size] * (len(sizes) - 1)
    assert max(sizes) <= batch_size


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, batch_size=st.integers(1, 9), seed=some_seeds)
def test_a_batch_is_padded_to_a_bucket_that_holds_its_longest(lengths, batch_size, seed):
    for planned in plan_of(lengths, batch_size, seed):
        assert planned.length in BUCKETS
        assert planned.length >= max(lengths[i] for i in planned.indices)


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, batch_size=st.integers(1, 9), seed=some_seeds)
def test_few_examples_are_padded_further_than_their_own_bucket(lengths, batch_size, seed):
    plan = plan_of(lengths, batch_size, seed)
    own = [min(bucket for bucket in BUCKETS if bucket >= n) for n in lengths]
    moved = sum(planned.length > own[i] for planned in plan for i in planned.indices)
    assert moved <= (batch_size - 1) * (len(BUCKETS) - 1)


def test_without_a_generator_the_order_is_that_of_the_data():
    plan = plan_of([3, 9, 2, 4, 10, 1], 2, None)
    assert [(planned.length, planned.indices.tolist()) for planned in plan] == [(4, [0, 2]), (4, [3, 5]), (16, [1, 4])]


def test_what_does_not_fill_a_batch_moves_to_the_next_bucket():
    plan = plan_of([3, 3, 3, 7], 2, None)
    assert [(planned.length, planned.indices.tolist()) for planned in plan] == [(4, [0, 1]), (8, [2, 3])]


def test_a_short_last_batch_is_no_longer_than_its_examples_need():
    assert [(planned.length, planned.indices.tolist()) for planned in plan_of([3], 2, None)] == [(4, [0])]


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, seed=st.integers(0, 99), epoch=st.integers(0, 9))
def test_the_same_seed_and_epoch_make_the_same_plan(lengths, seed, epoch):
    first, second = (make_dataset(lengths).plan(seed, epoch) for _ in range(2))
    assert [(p.length, p.indices.tolist()) for p in first] == [(p.length, p.indices.tolist()) for p in second]


def test_another_epoch_and_another_seed_have_other_orders():
    dataset = make_dataset([3] * 40)
    orders = [tuple(i for p in dataset.plan(*key) for i in p.indices) for key in ((0, 0), (0, 1), (1, 0))]
    assert len({*orders, tuple(range(40))}) == 4


def test_short_and_long_batches_are_mixed():
    lengths = [planned.length for planned in make_dataset([2] * 40 + [12] * 40).plan(0, 0)]
    assert sorted(lengths) == [4] * 10 + [16] * 10
    assert lengths not in (sorted(lengths), sorted(lengths, reverse=True))


def test_a_batch_is_padded_right_and_its_filling_marked():
    dataset = make_dataset([2, 3, 1], pad_id=9)
    batch = collate(Planned(4, np.array([2, 1])), dataset.tokens, dataset.labels, 3, 9)
    expected = {
        "input_ids": [[200, 9, 9, 9], [100, 101, 102, 9], [9, 9, 9, 9]],
        "token_type_ids": [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]],
        "attention_mask": [[1, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]],
        "labels": [2, 1, 0],
        "valid": [True, True, False],
        "index": [2, 1, 0],
    }
    assert {name: value.tolist() for name, value in batch.items()} == expected
    dtypes = {name: value.dtype.name for name, value in batch.items()}
    assert dtypes == {**dict.fromkeys(expected, "int32"), "valid": "bool"}


@pytest.mark.parametrize("shares", [[[0, 1], [2, 3]], [[0, 2], [1, 3]], [[3], [0, 1, 2]]])
def test_the_rows_of_several_processes_are_the_rows_of_the_batch(shares):
    """The short last batch too: a process may have nothing but filling."""
    dataset = make_dataset([3, 5, 9, 12, 2, 2, 7])
    parts = [list(train_batches(dataset, 1, 4, 1, np.array(rows))) for rows in shares]
    parts = [[*part, *eval_batches(dataset, np.array(rows))] for part, rows in zip(parts, shares, strict=True)]
    whole = [*train_batches(dataset, 1, 4, 1), *eval_batches(dataset)]
    assert min(batch["valid"].sum() for batch in whole) == 3
    for k, batch in enumerate(whole):
        for name, value in batch.items():
            for part, rows in zip(parts, shares, strict=True):
                np.testing.assert_array_equal(part[k][name], value[rows])


def test_labels_of_a_regression_stay_float():
    dataset = make_dataset([2, 3])
    batch = collate(Planned(4, np.array([1])), dataset.tokens, np.array([0.5, 3.75], np.float32), 2, 0)
    np.testing.assert_array_equal(batch["labels"], np.array([3.75, 0], np.float32))
    assert batch["labels"].dtype == np.float32


@settings(deadline=None, max_examples=10)
@given(lengths=some_lengths, seed=st.integers(0, 99), steps=st.integers(1, 20), data=st.data())
def test_a_resumed_run_sees_the_tail_of_the_uninterrupted_one(lengths, seed, steps, data):
    start = data.draw(st.integers(0, steps))
    dataset = make_dataset(lengths)
    whole = list(train_batches(dataset, seed, steps))
    assert len(whole) == steps
    assert_same_batches(train_batches(dataset, seed, steps, start), whole[start:])


def test_a_longer_run_begins_like_a_shorter_one():
    dataset = make_dataset([3, 5, 9, 12, 2, 2, 7])
    assert_same_batches(itertools.islice(train_batches(dataset, 1, 9), 5), train_batches(dataset, 1, 5))


def test_epochs_follow_one_another_and_each_is_whole():
    dataset = make_dataset([3, 5, 9, 12, 2, 2, 7])
    assert dataset.batches_per_epoch == 2
    seen = [batch["index"][batch["valid"]].tolist() for batch in train_batches(dataset, 0, 6)]
    epochs = [seen[k] + seen[k + 1] for k in (0, 2, 4)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(7))] * 3
    assert len({tuple(epoch) for epoch in epochs}) > 1


@settings(deadline=None, max_examples=25)
@given(lengths=some_lengths, batch_size=st.integers(1, 9))
def test_evaluation_scattered_by_index_is_in_the_order_of_the_data(lengths, batch_size):
    dataset = make_dataset(lengths, batch_size)
    first_tokens, counts = np.full(len(lengths), -1), np.zeros(len(lengths), int)
    for batch in eval_batches(dataset):
        rows = batch["index"][batch["valid"]]
        first_tokens[rows] = batch["input_ids"][batch["valid"], 0]
        counts[rows] += 1
        np.testing.assert_array_equal(batch["labels"][batch["valid"]], dataset.labels[rows])
    assert first_tokens.tolist() == [100 * i for i in range(len(lengths))]
    assert counts.tolist() == [1] * len(lengths)

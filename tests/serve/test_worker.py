"""One thread, in order, several requests at a time, and nothing that was accepted stays unanswered."""

import threading

import numpy as np
import pytest

from xtc_jax.serve.worker import TooManyError, Worker


class Model:
    """Answers with the number in each text; notes the sizes of its runs, and waits before them until it is told to go on."""

    def __init__(self):
        self.runs, self.go, self.began = [], threading.Event(), threading.Event()

    def __call__(self, texts):
        self.began.set()
        self.go.wait(10)
        if any(text == ("bad",) for text in texts):
            raise RuntimeError("no")
        self.runs.append(len(texts))
        return np.array([[float(text[0])] for text in texts])


@pytest.fixture
def model():
    return Model()


def worker(model, most=8, waiting=100):
    return Worker(model, most, waiting, lambda size: None)


def submit_while_it_runs(working, model, sizes):
    """One job that is running, and jobs of these sizes that wait for it; every input is a number of its own."""
    numbers = iter(range(1000))
    promises = [working.submit([(str(next(numbers)),)])]
    assert model.began.wait(10)
    promises += [working.submit([(str(next(numbers)),) for _ in range(size)]) for size in sizes]
    model.go.set()
    working.close()
    return [promise.result(0)[:, 0].tolist() for promise in promises]


def test_every_request_gets_its_own_answers_in_its_order(model):
    assert submit_while_it_runs(worker(model), model, [2, 1, 3]) == [[0], [1, 2], [3], [4, 5, 6]]


def test_what_waits_runs_together_in_powers_of_two_up_to_the_most(model):
    submit_while_it_runs(worker(model), model, [1] * 13)
    assert model.runs == [1, 8, 4, 1]


def test_a_request_larger_than_the_most_runs_whole_and_alone(model):
    submit_while_it_runs(worker(model, most=2), model, [1, 5, 1])
    assert model.runs == [1, 1, 5, 1]


def test_without_merging_every_request_runs_alone(model):
    submit_while_it_runs(worker(model, most=1), model, [1, 1, 3])
    assert model.runs == [1, 1, 1, 3]


def test_more_than_may_wait_is_refused_and_what_was_accepted_is_answered(model):
    working = worker(model, waiting=3)
    first = working.submit([("0",)])
    assert model.began.wait(10)
    waits = working.submit([("1",), ("2",)])
    with pytest.raises(TooManyError):
        working.submit([("3",), ("4",)])
    assert working.waiting == 2
    model.go.set()
    working.close()
    assert (first.result(0).tolist(), waits.result(0).tolist()) == ([[0.0]], [[1.0], [2.0]])


def test_a_failure_of_the_model_is_told_to_those_it_concerns_and_the_next_request_is_answered(model):
    model.go.set()
    working = worker(model)
    with pytest.raises(RuntimeError, match="no"):
        working.submit([("bad",)]).result(10)
    assert working.submit([("7",)]).result(10).tolist() == [[7.0]]
    working.close()


def test_a_request_that_was_given_up_is_not_run(model):
    working = worker(model)
    working.submit([("0",)])
    assert model.began.wait(10)
    given_up = working.submit([("1",)])
    assert given_up.cancel()
    model.go.set()
    working.close()
    assert model.runs == [1]

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import toy

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.errors import UserError
from xtc_jax.train import Objective, OptimizerSpec, Run, clear_checkpoints, loop, train
from xtc_jax.train.metrics import read_metrics

SHAPE = toy.shape(1, dropout=0.1)
STEPS, EVERY = 60, 15


@pytest.fixture(scope="module", autouse=True)
def _compile_once(tmp_path_factory):
    """All runs of this file compile the same step."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", before or str(tmp_path_factory.mktemp("xla")))
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def a_run(directory, **changes):
    directory.mkdir(exist_ok=True)
    values = {
        "label": "toy",
        "objective": Objective(SHAPE, None, None, layer_map((), 1), DistillSpec()),
        "optimizer": OptimizerSpec(5e-3, STEPS, 5),
        "train_set": toy.dataset(),
        "eval_sets": {"validation": toy.dataset()},
        "task": toy.SENTIMENT,
        "directory": directory,
        "seed": 3,
        "eval_every": EVERY,
        "log_every": 5,
    }
    return Run(**{**values, **changes})


def start():
    return toy.params(SHAPE, seed=2)


def steps_of(directory, kind):
    return [record["step"] for record in read_metrics(directory / "metrics.jsonl") if kind in record]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run: its directory and its result."""
    directory = tmp_path_factory.mktemp("whole")
    return directory, train(a_run(directory), start(), None)


def test_a_tiny_model_overfits_a_tiny_data_set(whole):
    assert whole[1].metrics == {"accuracy": 1.0}


def test_the_account_of_a_run_adds_up(whole):
    _, result = whole
    assert result.steps == STEPS
    assert result.examples_per_second == pytest.approx(STEPS * 8 / result.seconds)


def test_metrics_are_logged_and_evaluated_at_their_intervals(whole):
    directory, _ = whole
    assert steps_of(directory, "loss") == list(range(5, STEPS + 1, 5))
    assert steps_of(directory, "eval/accuracy") == [15, 30, 45, 60]
    assert len(list((directory / "tensorboard").glob("events.out.tfevents.*"))) == 1


class KilledError(Exception):
    pass


def kill_before_the_third_evaluation(monkeypatch):
    evaluations = iter([loop.evaluate, loop.evaluate])

    def evaluate(*arguments):
        try:
            return next(evaluations)(*arguments)
        except StopIteration:
            raise KilledError from None

    monkeypatch.setattr(loop, "evaluate", evaluate)


def kill_right_after_the_second_checkpoint(monkeypatch):
    save, count = loop.checkpoints.save, iter(range(9))

    def save_and_die(checkpointer, state, metric):
        save(checkpointer, state, metric)
        if next(count) == 1:
            checkpointer.wait()
            raise KilledError

    monkeypatch.setattr(loop.checkpoints, "save", save_and_die)


@pytest.mark.parametrize("kill", [kill_before_the_third_evaluation, kill_right_after_the_second_checkpoint])
def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_does(whole, tmp_path, monkeypatch, kill):
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(KilledError):
            train(a_run(tmp_path), start(), None)
    result = train(a_run(tmp_path), start(), None)
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[1].params)
    assert result.metrics == whole[1].metrics
    assert steps_of(tmp_path, "loss") == list(range(5, STEPS + 1, 5))
    assert steps_of(tmp_path, "eval/accuracy") == [15, 30, 45, 60]
    losses = [[r["loss"] for r in read_metrics(d / "metrics.jsonl") if "loss" in r] for d in (tmp_path, whole[0])]
    assert losses[0] == losses[1]


def test_a_run_killed_after_its_last_checkpoint_only_reads_its_best_again(whole, tmp_path, monkeypatch):
    directory, expected = whole
    shutil.copytree(directory, tmp_path / "again")
    monkeypatch.setattr(loop, "evaluate", None)
    result = train(a_run(tmp_path / "again"), start(), None)
    jax.tree.map(np.testing.assert_array_equal, result.params, expected.params)
    assert result.metrics == expected.metrics


def test_the_parameters_of_the_best_evaluation_come_back(tmp_path, monkeypatch):
    scripted, seen = iter([0.2, 0.9, 0.5]), []

    def evaluate(step, params, *_):
        seen.append(jax.device_get(params))
        return {"accuracy": next(scripted)}

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = train(a_run(tmp_path, eval_every=25), start(), None)
    assert steps_of(tmp_path, "eval/accuracy") == [25, 50, 60]
    assert result.metrics == {"accuracy": 0.9}
    jax.tree.map(np.testing.assert_array_equal, result.params, seen[1])


def test_a_run_of_no_steps_measures_its_parameters_and_gives_them_back(tmp_path):
    given = start()
    for _ in range(2):  # the second as after a kill: nothing of the first is resumed, and nothing is written twice
        result = train(a_run(tmp_path, optimizer=OptimizerSpec(5e-3, 0, 0)), given, None)
        jax.tree.map(np.testing.assert_array_equal, result.params, given)
        (record,) = read_metrics(tmp_path / "metrics.jsonl")
        assert (record["step"], record["eval/accuracy"]) == (0, result.metrics["accuracy"])
        assert (result.steps, result.examples_per_second) == (0, 0.0)
        assert not (tmp_path / "checkpoints").exists()


def test_the_first_of_several_validation_sets_selects(tmp_path):
    sets = {"validation_matched": toy.dataset(), "validation_mismatched": toy.dataset(count=8, seed=5)}
    task = dataclasses.replace(toy.SENTIMENT, validation=tuple(sets))
    result = train(a_run(tmp_path, eval_sets=sets, task=task, optimizer=OptimizerSpec(5e-3, 2, 1)), start(), None)
    assert list(result.metrics) == ["accuracy", "accuracy_mismatched"]
    assert steps_of(tmp_path, "eval/accuracy") == steps_of(tmp_path, "eval/accuracy_mismatched") == [2]


def test_a_batch_that_does_not_fit_the_devices_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size=6 is not a multiple of the 4 devices"):
        train(a_run(tmp_path, train_set=toy.dataset(batch_size=6)), start(), None)


def test_clearing_deletes_the_checkpoints_and_nothing_else(tmp_path):
    for name in ("checkpoints", "tensorboard"):
        (tmp_path / name).mkdir()
    clear_checkpoints(tmp_path)
    clear_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]

import dataclasses
import shutil

import jax
import numpy as np
import pytest
import toy
from tiers import sweep

from xtc_jax.compress import DistillSpec, layer_map
from xtc_jax.errors import UserError
from xtc_jax.params import named_leaves
from xtc_jax.quantize import INPUT_RANGE, ActivationSpec, named_rules
from xtc_jax.train import Evaluation, Objective, OptimizerSpec, Run, Upkeep, clear_checkpoints, loop, train
from xtc_jax.train import run as run_module
from xtc_jax.train.checkpoints import Checkpoints
from xtc_jax.train.metrics import read_metrics
from xtc_jax.train.state import TrainState
from xtc_jax.train.step import PROJECTION

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
        "upkeep": Upkeep(log_every=5),
    }
    return Run(**{**values, **changes})


def start():
    return toy.params(SHAPE, seed=2)


def one_shape():
    """Data of a single padded length: half as much to compile."""
    one = dataclasses.replace(toy.dataset(), buckets=(16,))
    return {"train_set": one, "eval_sets": {"validation": one}}


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
    assert result.examples_per_second == STEPS * 8 / result.seconds


def test_metrics_are_logged_and_evaluated_at_their_intervals(whole):
    directory, _ = whole
    assert steps_of(directory, "loss") == list(range(5, STEPS + 1, 5))
    assert steps_of(directory, "eval/accuracy") == [15, 30, 45, 60]
    assert len(list((directory / "tensorboard").glob("events.out.tfevents.*"))) == 1


class KilledError(Exception):
    pass


SAVING = Upkeep(save_minutes=0, log_every=5)
"""A checkpoint with every record."""


def kill_before_the_third_evaluation(monkeypatch, survived=2):
    evaluations = iter([loop.evaluate] * survived)

    def evaluate(*arguments):
        try:
            return next(evaluations)(*arguments)
        except StopIteration:
            raise KilledError from None

    monkeypatch.setattr(loop, "evaluate", evaluate)


def kill_right_after_the_second_checkpoint(monkeypatch):
    save, count = Checkpoints.save, iter(range(9))

    def save_and_die(self, progress):
        save(self, progress)
        if next(count) == 1:
            self.wait()
            raise KilledError

    monkeypatch.setattr(Checkpoints, "save", save_and_die)


@pytest.mark.slow
@pytest.mark.parametrize("kill", sweep([kill_before_the_third_evaluation, kill_right_after_the_second_checkpoint], fast=1))
def test_a_killed_run_goes_on_and_ends_where_an_uninterrupted_one_does(whole, tmp_path, monkeypatch, kill):
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(KilledError):
            train(a_run(tmp_path, upkeep=SAVING), start(), None)
    result = train(a_run(tmp_path), start(), None)
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[1].params)
    assert result.metrics == whole[1].metrics
    assert steps_of(tmp_path, "loss") == list(range(5, STEPS + 1, 5))
    assert steps_of(tmp_path, "eval/accuracy") == [15, 30, 45, 60]
    losses = [[r["loss"] for r in read_metrics(d / "metrics.jsonl") if "loss" in r] for d in (tmp_path, whole[0])]
    assert losses[0] == losses[1]


class Seen:
    """Records the examples of every batch that reaches the devices."""

    def __init__(self, monkeypatch, die_after=None):
        self.examples = []
        put = loop.put_batch

        def put_batch(batch, mesh):
            if len(self.examples) == die_after:
                raise KilledError
            self.examples.append(batch["index"][batch["valid"]].tolist())
            return put(batch, mesh)

        monkeypatch.setattr(loop, "put_batch", put_batch)


def test_a_run_resumed_in_the_middle_of_an_epoch_sees_every_example_in_the_order_of_an_uninterrupted_one(tmp_path, monkeypatch):
    changes = {"train_set": toy.dataset(count=44), "optimizer": OptimizerSpec(5e-3, 15, 2), "eval_every": 99}
    Steps(monkeypatch)
    with monkeypatch.context() as patch:
        whole = Seen(patch).examples
        train(a_run(tmp_path / "whole", **changes), start(), None)
    with monkeypatch.context() as patch:
        killed = Seen(patch, die_after=11).examples
        with pytest.raises(KilledError):
            train(a_run(tmp_path / "killed", **changes, upkeep=Upkeep(0, log_every=4)), start(), None)
    with monkeypatch.context() as patch:
        resumed = Seen(patch).examples
        train(a_run(tmp_path / "killed", **changes), start(), None)
    assert len(whole) == 15
    for epoch in (whole[:6], whole[6:12]):
        assert sorted(example for batch in epoch for example in batch) == list(range(44))
    assert whole[:6] != whole[6:12]
    assert killed == whole[:11]
    assert resumed == whole[8:]


def test_a_run_with_other_data_than_its_checkpoint_was_made_with_is_refused(tmp_path, monkeypatch):
    Steps(monkeypatch)
    changes = {"optimizer": OptimizerSpec(5e-3, 4, 1)}
    train(a_run(tmp_path, **changes), start(), None)
    with pytest.raises(UserError, match=r"checkpoints/4 was made by another run \(data: '\w{16}' then, '\w{16}' now\)"):
        train(a_run(tmp_path, **changes, train_set=toy.dataset(seed=1)), start(), None)


@pytest.mark.slow
def test_with_the_newest_checkpoint_damaged_a_run_goes_on_from_the_one_before_and_ends_with_the_same_bits(
    whole, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        kill_before_the_third_evaluation(patch)
        with pytest.raises(KilledError):
            train(a_run(tmp_path, upkeep=SAVING), start(), None)
    kept = tmp_path / "checkpoints"
    assert sorted(path.name for path in kept.iterdir()) == ["35", "40"]
    victim = max((kept / "40").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    result = train(a_run(tmp_path), start(), None)
    assert f"{kept / '40'} is damaged ({victim.relative_to(kept / '40')} has changed" in capsys.readouterr().err
    jax.tree.map(np.testing.assert_array_equal, result.params, whole[1].params)
    assert result.metrics == whole[1].metrics


def test_the_records_split_the_time_of_the_run(whole):
    directory, result = whole
    records = read_metrics(directory / "metrics.jsonl")
    for kind, names in {"loss": {"seconds/data", "seconds/step"}, "eval/accuracy": {"seconds/eval"}}.items():
        assert all(names <= record.keys() for record in records if kind in record)
    spent = sum(value for record in records for name, value in record.items() if name.startswith("seconds/"))
    assert 0.8 * result.seconds < spent <= result.seconds, (spent, result.seconds)
    speeds = [record["steps_per_second"] for record in records if "steps_per_second" in record]
    split = [record["seconds/data"] + record["seconds/step"] for record in records if "steps_per_second" in record]
    assert speeds == [5 / seconds for seconds in split]


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
        return Evaluation({"accuracy": next(scripted)}, {"validation": np.float32([len(seen)])})

    monkeypatch.setattr(loop, "evaluate", evaluate)
    result = train(a_run(tmp_path, eval_every=25), start(), None)
    assert steps_of(tmp_path, "eval/accuracy") == [25, 50, 60]
    assert (result.metrics, result.logits) == ({"accuracy": 0.9}, {"validation": [2.0]})
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


def test_utilisation_is_recorded_where_the_peak_is_known_and_costs_no_compilation(tmp_path):
    shared, compilations = {}, []

    def count(name, seconds, **_):
        if name.endswith("backend_compile_duration"):
            compilations.append(name)

    def run(name, **upkeep):
        values = {"optimizer": OptimizerSpec(5e-3, 4, 1), "upkeep": Upkeep(log_every=2, **upkeep), **one_shape()}
        train(a_run(tmp_path / name, **values), start(), None, shared)
        return [record["mfu"] for record in read_metrics(tmp_path / name / "metrics.jsonl") if "mfu" in record]

    assert run("unknown") == []
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        shares = run("known", peak_flops=1e15)
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert len(shares) == 2
    assert all(0 < share < 1e-3 for share in shares)
    assert compilations == []


def test_the_first_of_several_validation_sets_selects(tmp_path):
    sets = {"validation_matched": toy.dataset(), "validation_mismatched": toy.dataset(count=8, seed=5)}
    task = dataclasses.replace(toy.SENTIMENT, validation=tuple(sets))
    result = train(a_run(tmp_path, eval_sets=sets, task=task, optimizer=OptimizerSpec(5e-3, 2, 1)), start(), None)
    assert list(result.metrics) == ["accuracy", "accuracy_mismatched"]
    assert steps_of(tmp_path, "eval/accuracy") == steps_of(tmp_path, "eval/accuracy_mismatched") == [2]


class Steps:
    """In place of the compiled steps: records under which rules and at which rate every step ran."""

    def __init__(self, monkeypatch):
        self.made, self.run, self.evaluated = [], [], []
        monkeypatch.setattr(run_module, "make_train_step", self.make_train_step)
        monkeypatch.setattr(run_module, "make_eval_step", lambda config, rules, mesh, arithmetic: rules)
        monkeypatch.setattr(loop, "evaluate", self.evaluate)

    def make_train_step(self, objective, optimizer, mesh):
        self.made.append(objective.rules)

        def step(state, teacher, batch, rate):
            self.run.append((objective.rules, float(rate)))
            return TrainState(state.step + 1, state.params, state.opt_state, state.key), {"loss": np.float32(0)}

        return step

    def evaluate(self, step, *_):
        self.evaluated.append(step)
        return Evaluation({"accuracy": 0.5}, {})


SCHEDULED = named_rules("deepspeed", 1, ActivationSpec(8, start=3), schedule=((1, 8), (4, 1)))


def scheduled(steps, rate=4.0, **values):
    return {
        "objective": Objective(SHAPE, SCHEDULED, None, layer_map((), 1), DistillSpec()),
        "optimizer": OptimizerSpec(rate, steps, 2, **values),
        "eval_every": 2,
    }


def test_every_step_runs_at_its_rate_under_the_rules_in_force_and_evaluation_under_the_final_ones(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    train(a_run(tmp_path, **scheduled(6)), start(), None)
    rules = [rules.rules[0][1] for rules, _ in steps.run]
    assert [spec.bits for spec in rules] == [32, 8, 8, 8, 1, 1]
    assert [spec.activation is not None for spec in rules] == [False, False, False, True, True, True]
    assert [rate for _, rate in steps.run] == [0.0, 2.0, 4.0, 3.0, 2.0, 1.0]
    final = SCHEDULED.at(6)
    assert steps.evaluated == [final] * 3
    assert (final.rules[0][1].bits, final.rules[0][1].activation.bits) == (1, 8)


def test_runs_that_differ_in_learning_rate_and_steps_share_their_compiled_steps(tmp_path, monkeypatch):
    steps, compiled = Steps(monkeypatch), {}
    for i, run in enumerate([scheduled(6), scheduled(6, 1.0), scheduled(8, 2.0)]):
        train(a_run(tmp_path / str(i), **run), start(), None, compiled)
    # Four trainings in turn, floats, 8 bits, with activations, 1 bit, and one evaluation.
    assert len(steps.made) == 4
    assert len(compiled) == 5
    train(a_run(tmp_path / "other", **scheduled(6, weight_decay=0.5)), start(), None, compiled)
    assert len(steps.made) == 8
    assert len(compiled) == 9


def test_without_a_dictionary_of_its_own_every_run_compiles_anew(tmp_path, monkeypatch):
    steps = Steps(monkeypatch)
    for i in range(2):
        train(a_run(tmp_path / str(i), **scheduled(1)), start(), None)
    assert len(steps.made) == 2


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_a_schedule_ends_where_an_uninterrupted_one_does(tmp_path, monkeypatch):
    """8 bits rounded at random, then from step 5 on 1 bit and static ranges; killed at step 6, after a checkpoint at 4."""
    rules = named_rules("deepspeed", 1, ActivationSpec(8, "static", start=5), schedule=((0, 8), (5, 1)), stochastic=True)
    objective, compiled = Objective(toy.shape(1), rules, None, layer_map((), 1), DistillSpec()), {}
    changes = {"objective": objective, "optimizer": OptimizerSpec(5e-3, 9, 2), "eval_every": 3, **one_shape()}
    changes["upkeep"] = Upkeep(save_minutes=0, log_every=2)
    expected = train(a_run(tmp_path / "whole", **changes), start(), None, compiled)
    assert len(compiled) == 3
    with monkeypatch.context() as patch:
        kill_before_the_third_evaluation(patch, survived=1)
        with pytest.raises(KilledError):
            train(a_run(tmp_path / "killed", **changes), start(), None, compiled)
    assert steps_of(tmp_path / "killed", "eval/accuracy") == [3]
    result = train(a_run(tmp_path / "killed", **changes), start(), None, compiled)
    jax.tree.map(np.testing.assert_array_equal, result.params, expected.params)
    assert result.metrics == expected.metrics
    finished = [name for name in named_leaves(result.params) if name.endswith(INPUT_RANGE)]
    assert len(finished) == 6


def test_a_run_with_frozen_embeddings_keeps_them_and_goes_on_after_a_kill_to_the_same_bits(tmp_path, monkeypatch):
    changes = {"optimizer": OptimizerSpec(5e-3, 9, 2), "eval_every": 3, "upkeep": Upkeep(save_minutes=0, log_every=2)}
    changes |= {"objective": Objective(SHAPE, None, None, layer_map((), 1), DistillSpec(), freeze=0), **one_shape()}
    compiled = {}
    expected = train(a_run(tmp_path / "whole", **changes), start(), None, compiled)
    with monkeypatch.context() as patch:
        kill_before_the_third_evaluation(patch, survived=1)
        with pytest.raises(KilledError):
            train(a_run(tmp_path / "killed", **changes), start(), None, compiled)
    result = train(a_run(tmp_path / "killed", **changes), start(), None, compiled)
    jax.tree.map(np.testing.assert_array_equal, result.params, expected.params)
    jax.tree.map(np.testing.assert_array_equal, result.params["embeddings"], start()["embeddings"])


def test_a_narrow_student_learns_its_teachers_hidden_states_through_a_projection_that_stays_behind(tmp_path):
    student = dataclasses.replace(toy.shape(1), hidden_size=16, intermediate_size=24)
    objective = Objective(student, None, toy.shape(1), layer_map((), 1), DistillSpec(logit=0.0, attention=0.0))
    changes = {"objective": objective, "optimizer": OptimizerSpec(2e-2, 40, 4), "eval_every": 40, **one_shape()}
    trained, seen = toy.params(student, 5), []
    with pytest.MonkeyPatch.context() as patch:
        found = Evaluation({"accuracy": 0.5}, {})
        patch.setattr(loop, "evaluate", lambda step, params, *_: seen.append(loop.copy(params)) or found)
        result = train(a_run(tmp_path, **changes), trained, toy.params(toy.shape(1), 6))
    losses = [record["hidden"] for record in read_metrics(tmp_path / "metrics.jsonl") if "hidden" in record]
    assert losses[-1] < losses[0] / 2
    assert seen[0][PROJECTION]["weight"].shape == (32, 16)
    assert np.abs(seen[0][PROJECTION]["bias"]).min() > 0
    assert result.params.keys() == trained.keys()


def test_a_batch_that_does_not_fit_the_devices_is_refused(tmp_path):
    with pytest.raises(UserError, match="batch_size=6 is not a multiple of the 4 devices"):
        train(a_run(tmp_path, train_set=toy.dataset(batch_size=6)), start(), None)


def test_clearing_deletes_the_checkpoints_and_nothing_else(tmp_path):
    for name in ("checkpoints", "tensorboard"):
        (tmp_path / name).mkdir()
    clear_checkpoints(tmp_path)
    clear_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tensorboard"]


def test_a_run_ends_when_so_many_evaluations_in_a_row_were_not_better(whole, tmp_path):
    best = whole[1]
    # The toy's metric is 1 at some evaluation and stays there: two more, and the run ends.
    assert steps_of(whole[0], "eval/accuracy") == [15, 30, 45, 60]
    scores = [record["eval/accuracy"] for record in read_metrics(whole[0] / "metrics.jsonl") if "eval/accuracy" in record]
    reached = EVERY * (1 + scores.index(1.0))
    assert reached + EVERY < STEPS, "the toy learns fast enough for this test"
    stopped = train(a_run(tmp_path / "patient", patience=1), start(), None)
    assert stopped.steps == reached + EVERY
    assert stopped.metrics == best.metrics
    assert steps_of(tmp_path / "patient", "eval/accuracy") == [*range(EVERY, reached + EVERY + 1, EVERY)]


def test_a_run_that_ended_early_has_ended_when_it_is_started_again(tmp_path):
    run = a_run(tmp_path / "again", patience=1)
    first = train(run, start(), None)
    again = train(run, start(), None)
    assert again.steps == first.steps < STEPS
    assert again.metrics == first.metrics

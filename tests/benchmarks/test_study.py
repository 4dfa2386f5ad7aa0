"""The study of XTC's claims: its runs, its estimate, and what is recorded of it."""

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from xtc_jax.configs.study.claims import EPOCHS
from xtc_jax.pipeline.workdir import write_done
from xtc_jax.recipe.files import read_config_file
from xtc_jax.recipe.recipe import make_recipe

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "study" / "study.py"
SEVERAL = (("two", 2), ("three", 3))
LONGEST = {"cola": 18, "mrpc": 18, "stsb": 18, "sst2": 3}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The script, with data of 1,000 examples a task and an empty place for its work directories."""
    for task in EPOCHS:
        (tmp_path / "glue" / task).mkdir(parents=True)
        pyarrow.parquet.write_table(pa.table({"label": [0] * 1000}), tmp_path / "glue" / task / "train.parquet")
    monkeypatch.setenv("GLUE", str(tmp_path / "glue"))
    monkeypatch.setenv("RUNS", str(tmp_path / "runs"))
    spec = importlib.util.spec_from_file_location("study", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def end(directory, **result):
    directory.mkdir(parents=True)
    write_done(directory, "hash", {"steps": 7, **result})


def stages(argument):
    return {stage.name: stage for stage in make_recipe(read_config_file(f"study/claims:{argument}", ())).stages}


def test_the_small_tasks_run_with_three_seeds_and_every_task_with_all_students_once(study):
    runs = [(study.recipe_of(each).config, study.value(each, "config")) for each in study.commands()]
    seeds = {(config["task"], config["seed"]) for config, _ in runs}
    assert seeds == {(task, seed) for task in ("cola", "mrpc", "stsb") for seed in (42, 43, 44)} | {("sst2", 42)}
    assert sorted(name for _, name in runs if name.endswith(",all")) == sorted(f"study/claims:{task},all" for task in EPOCHS)


@pytest.mark.parametrize("task", EPOCHS)
def test_all_goes_on_from_the_same_stages_as_the_default_and_ends_with_the_same(task):
    some, more = stages(task), stages(f"{task},all")
    assert list(some) == ["teacher", "w2", "w1", "half_w1"]
    assert {name: more[name] for name in some} == some
    assert list(more)[-1] == "half_w1"


@pytest.mark.parametrize("task", EPOCHS)
def test_ways_to_1_bit_take_as_many_epochs_as_one_stage(task):
    found = stages(f"{task},all")
    ways = [
        ["w1"],
        ["ternary", "split_w1"],
        ["two_stages_1", "two_stages"],
        ["three_stages_1", "three_stages_2", "three_stages"],
    ]
    assert [sum(found[name].epochs for name in way) for way in ways] == [LONGEST[task]] * 4
    assert {(found[name].weight_bits, found[name].layers) for way in ways for name in way[-1:]} == {(1, "")}
    assert {found[f"w{bits}_epochs_{epochs}"].epochs for bits in (1, 2) for epochs in EPOCHS[task][:-1]} == set(
        EPOCHS[task][:-1]
    )


def test_depths_are_distilled_in_full_precision_and_the_8_bit_teacher_is_not_trained():
    found = stages("cola,all")
    assert [(found[f"layers_{depth}"].layers, found[f"layers_{depth}"].weight_bits) for depth in (4, 3, 2)] == [
        ("0,2,3,5", 32),
        ("1,3,5", 32),
        ("2,5", 32),
    ]
    assert (found["int8"].weight_bits, found["int8"].trains, found["int8"].init) == (8, False, "teacher")


def test_the_hours_are_those_of_the_stages_that_are_left(study, tmp_path):
    def total():
        return float(list(study.plan().columns[-1].cells)[-1])

    # Epochs times layers / 3 of 1,000 examples: the teacher's, 2 bits, 1 bit, and 1 bit with three layers.
    default = (5 * 2 + 18 * 2 + 18 * 2 + 18) * 1000 / 3600
    recipe = study.recipe_of(study.commands()[0])
    assert study.hours(recipe, 1000, tmp_path) == pytest.approx(default / study.EXAMPLES_PER_SECOND["cola"])
    before = total()
    end(tmp_path / "runs" / "mrpc-42" / "w1")
    assert total() == pytest.approx(before - 36 * 1000 / 3600 / study.EXAMPLES_PER_SECOND["mrpc"], abs=0.11)


def test_a_record_keeps_what_it_knows_and_takes_what_has_ended_since(study, tmp_path):
    end(tmp_path / "runs" / "cola-42" / "teacher", metrics={"matthews_correlation": 0.3})
    first = study.record({})
    assert first["cola-42"]["teacher"]["metrics"] == {"matthews_correlation": 0.3}
    assert first["cola-42"]["teacher"]["environment"]["cores"] > 0
    known = json.loads(json.dumps(first))
    known["cola-42"]["teacher"]["environment"] = "another machine"
    known["stsb-44"] = {"teacher": {"steps": 1}}  # of a work directory that is gone
    end(tmp_path / "runs" / "cola-42" / "w2", metrics={"matthews_correlation": 0.2})
    second = study.record(known)
    assert second["cola-42"]["teacher"]["environment"] == "another machine"
    assert second["cola-42"]["w2"]["metrics"] == {"matthews_correlation": 0.2}
    assert second["stsb-44"] == {"teacher": {"steps": 1}}


@pytest.mark.parametrize("lacking", ["GLUE", "RUNS"])
def test_without_the_variables_it_says_which_is_missing(study, monkeypatch, capsys, lacking):
    monkeypatch.delenv(lacking)
    monkeypatch.setattr("sys.argv", ["study.py", "plan"])
    with pytest.raises(SystemExit, match="2"):
        study.main()
    assert f"the variable {lacking} is not set" in capsys.readouterr().err

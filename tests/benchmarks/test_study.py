"""The study of XTC's claims: its runs, its estimate, and what is recorded of it."""

import importlib.util
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from xtc_jax.configs.study.claims import EXAMPLES
from xtc_jax.errors import UserError
from xtc_jax.pipeline.workdir import write_done
from xtc_jax.recipe.files import read_config_file
from xtc_jax.recipe.recipe import make_recipe

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "study" / "study.py"
SMALL = ("cola", "mrpc", "stsb")


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The script, with data of 1,000 examples a task and an empty place for its work directories."""
    for task in EXAMPLES:
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


def test_the_small_tasks_run_with_three_seeds_and_all_students_once(study):
    runs = [(study.recipe_of(each).config, study.value(each, "config")) for each in study.commands()]
    seeds = {(config["task"], config["seed"]) for config, _ in runs}
    assert seeds == {(task, seed) for task in SMALL for seed in range(42, 48)} | {("sst2", 42)}
    assert [name for _, name in runs if "ways" in name] == [
        f"study/claims:{task},also=ways+depths+sizes" for task in ("cola,epochs=1+3", "stsb,epochs=3", "mrpc,epochs=3")
    ]


def test_plain_half_of_the_layers_has_three_seeds_beside_plus(study):
    plain = {}
    for recipe in map(study.recipe_of, study.commands()):
        if "half_w1" in {stage.name for stage in recipe.stages}:
            plain.setdefault(recipe.config["task"], set()).add(recipe.config["seed"])
    assert plain == {"cola": {42, 46, 47}, "stsb": {45, 46, 47}, "mrpc": {45, 46, 47}}


def test_two_seeds_more_have_the_teacher_of_the_one_before(study, tmp_path):
    others = [each for each in study.commands() if "finetuned" in study.value(each, "config")]
    assert len(others) == 30
    for each in others:
        recipe = study.recipe_of(each)
        first = 42 if recipe.config["seed"] < 45 else 45
        assert recipe.config["seed"] - first in (1, 2)
        assert recipe.config["model"] == str(tmp_path / "runs" / f"{recipe.config['task']}-{first}" / "teacher" / "model")
        assert not recipe.stages[0].trains


def test_the_lines_of_a_work_directory_agree_about_its_stages(study):
    known = {}
    for each in study.commands():
        recipe = study.recipe_of(each)
        for stage in recipe.stages:
            name = (study.value(each, "workdir"), stage.name)
            assert known.setdefault(name, recipe.fingerprint(stage)) == recipe.fingerprint(stage)


def test_more_epochs_go_on_from_the_same_stages_and_end_with_the_same():
    some, more = stages("cola"), stages("cola,epochs=9+3,also=ways+depths+sizes")
    assert list(some) == ["teacher", "w2_3", "w1_3", "plus_3", "int8"]
    assert {name: more[name] for name in some} == some
    assert list(more)[-1] == "int8"


@pytest.mark.parametrize("task", EXAMPLES)
def test_the_smallest_student_has_as_many_steps_as_the_others(task):
    found = stages(f"{task},epochs=3")
    steps, _ = found["w1_3"].counts(-(-EXAMPLES[task] // 16))
    assert found["plus_3"].steps == pytest.approx(steps, rel=0.01)
    assert (found["plus_3"].layers, found["plus_3"].weight_bits) == ("1,3,5", 1)


def test_deep_is_plus_with_all_layers_and_leaves_the_others_alone():
    some, more = stages("mrpc,epochs=3"), stages("mrpc,epochs=3,deep")
    assert {name: more[name] for name in some} == some
    deep, half = ({**more[name].raw, "result": ""} for name in ("deep_3", "plus_3"))
    assert (deep.pop("layers"), half.pop("layers")) == ("", "1,3,5")
    assert deep == half


def test_ways_to_1_bit_take_as_many_epochs_as_one_stage():
    found = stages("cola,epochs=1+9,also=ways")
    ways = [
        ["w1_9"],
        ["ternary", "split"],
        ["two_stages_1", "two_stages"],
        ["three_stages_1", "three_stages_2", "three_stages"],
    ]
    assert [sum(found[name].epochs for name in way) for way in ways] == [9.0] * 4
    assert {(found[way[-1]].weight_bits, found[way[-1]].layers) for way in ways} == {(1, "")}
    assert [found[name].learning_rate for name in ways[3]] == pytest.approx([5e-4, 5e-4, 5e-5])  # the logits alone


def test_depths_are_distilled_in_full_precision_and_the_8_bit_teacher_is_not_trained():
    found = stages("cola,also=depths")
    assert [(found[f"layers_{depth}"].layers, found[f"layers_{depth}"].weight_bits) for depth in (4, 3, 2)] == [
        ("0,2,3,5", 32),
        ("1,3,5", 32),
        ("2,5", 32),
    ]
    assert (found["int8"].weight_bits, found["int8"].trains, found["int8"].init) == (8, False, "teacher")


@pytest.mark.parametrize("argument", ["epochs=many", "also=more"])
def test_wrong_arguments_are_refused_by_name(argument):
    with pytest.raises(UserError, match=argument):
        stages(f"cola,{argument}")


def test_the_hours_are_those_of_the_stages_that_are_left(study, tmp_path):
    def total():
        return float(list(study.plan().columns[-1].cells)[-1])

    # Layers / 3 times the examples of 63 steps an epoch: of the teacher, and with 2 bits and 1; then three layers' own steps.
    default = ((4 + 1 + 1 + 3 + 3) * 2 * 63 * 16 + (534 + 1602) * 16) / 3600
    recipe = study.recipe_of(study.commands()[0])
    assert study.hours(recipe, 1000, tmp_path) == pytest.approx(default / study.EXAMPLES_PER_SECOND["cola"])
    before = total()
    end(tmp_path / "runs" / "mrpc-46" / "w1_9")
    assert total() == pytest.approx(before - 18 * 63 * 16 / 3600 / study.EXAMPLES_PER_SECOND["mrpc"], abs=0.11)


def test_the_study_of_choices_has_three_seeds_of_two_tasks_and_its_own_record(study, tmp_path):
    file = study.FILES["choices"]
    names = [study.value(each, "workdir").rpartition("/")[2] for each in study.commands(file)]
    assert sorted(names) == [f"choices-{task}-{seed}" for task in ("sst2", "stsb") for seed in (42, 43, 44)]
    end(tmp_path / "runs" / "choices-stsb-43" / "row", metrics={"pearson": 0.7})
    assert {name: list(run) for name, run in study.record({}, file).items()} == {"choices-stsb-43": ["row"]}


def test_a_record_keeps_what_it_knows_and_takes_what_has_ended_since(study, tmp_path):
    end(tmp_path / "runs" / "cola-42" / "teacher", metrics={"matthews_correlation": 0.3})
    (tmp_path / "runs" / "cola-42" / "baselines.json").write_text('{"baselines": [{"bytes": 4}], "data_digest": {}}')
    first = study.record({})
    assert first["cola-42"]["baselines"] == [{"bytes": 4}]
    assert first["cola-42"]["teacher"]["metrics"] == {"matthews_correlation": 0.3}
    assert first["cola-42"]["teacher"]["environment"]["cores"] > 0
    known = json.loads(json.dumps(first))
    known["cola-42"]["teacher"]["environment"] = "another machine"
    known["stsb-44"] = {"teacher": {"steps": 1}}  # of a work directory that is gone
    end(tmp_path / "runs" / "cola-42" / "w2", metrics={"matthews_correlation": 0.2}, path=str(tmp_path))
    second = study.record(known)
    assert second["cola-42"]["teacher"]["environment"] == "another machine"
    assert second["cola-42"]["w2"]["metrics"] == {"matthews_correlation": 0.2}
    assert "path" not in second["cola-42"]["w2"]  # it means nothing elsewhere
    assert second["stsb-44"] == {"teacher": {"steps": 1}}


@pytest.mark.parametrize("lacking", ["GLUE", "RUNS"])
def test_without_the_variables_it_says_which_is_missing(study, monkeypatch, capsys, lacking):
    monkeypatch.delenv(lacking)
    monkeypatch.setattr("sys.argv", ["study.py", "plan"])
    with pytest.raises(SystemExit, match="2"):
        study.main()
    assert f"the variable {lacking} is not set" in capsys.readouterr().err

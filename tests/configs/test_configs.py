import importlib.util
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from xtc_jax.cli.main import main
from xtc_jax.data import GLUE
from xtc_jax.errors import UserError
from xtc_jax.recipe.files import find_config_file, read_config_file
from xtc_jax.recipe.recipe import make_recipe

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))
GLUE_FILE = str(next(path for path in CONFIGS if path.name == "glue.py"))
LAYERS = {12: "", 6: "1,3,5,7,9,11", 5: "2,4,6,8,10"}
every_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: str(path.relative_to(ROOT / "configs")))


def recipe_of(path, *overrides):
    return make_recipe(read_config_file(str(path), overrides))


@every_config
@pytest.mark.parametrize("argument", ["", ":runlocal"])
def test_every_config_file_makes_a_recipe_that_ends_in_few_bits(path, argument):
    recipe = recipe_of(f"{path}{argument}")
    assert recipe.config["runlocal"] is bool(argument)
    assert [stage for stage in recipe.stages if stage.trains][-1].weight_bits in (1, 2)  # study/claims has 8 bits after it
    assert recipe.stages[-1].result == "quantized" or path.parent.name == "study"


@every_config
def test_every_config_file_says_how_it_is_run(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"xtc compress --config={path.relative_to(ROOT)}" in module.__doc__


@every_config
def test_every_config_file_is_the_recipe_of_its_name_in_the_package(path):
    name = path.relative_to(ROOT / "configs").with_suffix("").as_posix()
    assert recipe_of(path) == recipe_of(name)
    assert f"xtc compress --config={name}" in Path(find_config_file(name)).read_text()


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("layers", [12, 6, 5])
@pytest.mark.parametrize("task", sorted(GLUE))
def test_glue_has_every_task_depth_and_bits(task, layers, bits):
    recipe = recipe_of(f"{GLUE_FILE}:{task},layers={layers},bits={bits}")
    *earlier, last = recipe.stages
    assert recipe.config["task"] == task
    assert (last.name, last.weight_bits, last.epochs, last.teacher) == ("quantize", bits, 18.0, "teacher")
    assert [(stage.result, stage.layers) for stage in earlier[1:]] == [("reduced", LAYERS[layers])] * (layers < 12)
    assert [stage.epochs for stage in earlier[1:]] == [36.0 if task in ("mnli", "qqp") else 18.0] * (layers < 12)
    assert [stage.learning_rate for stage in (*earlier[1:], last)] == [5e-5] * (1 + (layers < 12))


SETTINGS = {  # task: (augmented, epochs of budgets a, b and c, length); recollections of the paper, docs/method.md, section 12
    "mnli": (False, (3, 9, 18), 128),
    "qqp": (False, (3, 9, 18), 128),
    "qnli": (True, (1, 3, 6), 128),
    "sst2": (True, (1, 3, 12), 64),
    "stsb": (True, (1, 3, 12), 128),
    "rte": (True, (1, 3, 12), 128),
    "wnli": (True, (1, 3, 12), 128),
    "cola": (True, (1, 3, 18), 64),
    "mrpc": (True, (1, 3, 18), 128),
}


@pytest.mark.parametrize("task", sorted(GLUE))
@pytest.mark.parametrize("budget", ["a", "b", "c"])
def test_xtc_has_the_budgets_of_every_task_and_the_grid(task, budget):
    recipe = recipe_of(f"{ROOT / 'configs' / 'xtc.py'}:{task},budget={budget},lr=grid")
    augmented, epochs, length = SETTINGS[task]
    teacher, reduce, quantize = recipe.stages
    assert (teacher.augmented, reduce.augmented, quantize.augmented) == (False, augmented, augmented)
    assert quantize.epochs == epochs["abc".index(budget)]
    assert reduce.epochs == (36 if task in ("mnli", "qqp") and budget == "c" else quantize.epochs)
    assert quantize.grid == reduce.grid == (2e-5, 1e-4, 5e-4)
    assert recipe.config["data"]["max_length"] == length
    assert quantize.warmup_epochs == min(1.0, quantize.epochs / 10)


@pytest.mark.parametrize(("layers", "kept"), [(12, ""), (6, "1,3,5,7,9,11"), (5, "2,4,6,8,10"), (3, "evenly(3)")])
def test_xtc_reduces_to_the_papers_layers_and_not_at_all_at_twelve(layers, kept):
    recipe = recipe_of(f"{ROOT / 'configs' / 'xtc.py'}:cola,layers={layers},lr=5e-5,bits=2")
    assert [stage.name for stage in recipe.stages] == ["teacher", *(["reduce"] if kept else []), "quantize"]
    assert [stage.layers for stage in recipe.stages[1:-1]] == [kept] * bool(kept)
    assert (recipe.stages[-1].init, recipe.stages[-1].learning_rates) == ("reduce" if kept else "teacher", (5e-5,))


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("layers=7", "layers=7: use one of 12, 6, 5, 4, 3"),
        ("budget=d", "budget=d: use one of a, b, c"),
        ("task=squad", "task=squad: use one of mnli, qqp, qnli, sst2, stsb, rte, wnli, cola, mrpc"),
        (
            "depth=7",
            "config argument 'depth=7': unknown; use task, layers, bits, budget, lr, rules, augment, finetuned, runlocal",
        ),
    ],
)
def test_a_wrong_argument_of_xtc_lists_what_there_is(argument, message):
    with pytest.raises(UserError) as error:
        recipe_of(f"{ROOT / 'configs' / 'xtc.py'}:{argument}")
    assert str(error.value).startswith(message)


def test_a_finetuned_checkpoint_is_measured_and_not_trained():
    teacher, *_ = recipe_of(f"{ROOT / 'configs' / 'xtc.py'}:cola,finetuned").stages
    assert (teacher.trains, teacher.counts(100)) == (False, (0, 0))


def test_ternarybert_clips_its_weights_and_quantizes_activations_per_tensor():
    last = recipe_of(ROOT / "configs" / "ternarybert.py").stages[-1]
    specs = [spec for _, spec in last.rules.rules]
    assert {spec.quantizer for spec in specs} == {"ternary_clipped"}
    assert {spec.activation.range for spec in specs if spec.activation} == {"tensor"}
    assert (last.loss.attention_norm, last.loss.hidden_norm, last.learning_rate) == ("ternarybert", "deepspeed", 2e-5)


def test_binarybert_trains_ternary_then_the_two_binary_halves_each_in_two_stages():
    stages = recipe_of(ROOT / "configs" / "binarybert.py").stages[1:]
    assert [stage.weight_bits for stage in stages] == [2, 2, 1, 1]
    assert [stage.split for stage in stages] == [False, False, True, False]
    assert [stage.learning_rate for stage in stages] == [2.5e-5, 1e-5, 12.5e-5, 5e-5]
    assert [(s.loss.logit, s.loss.attention, s.loss.hidden) for s in stages] == [(0, 1, 1), (1, 0, 0)] * 2


def test_the_students_of_the_methods_study_take_the_same_steps():
    stages = {stage.name: stage for stage in recipe_of(f"{ROOT / 'configs' / 'study' / 'methods.py'}:cola,steps=300").stages}
    assert stages["ternary"].steps + stages["split_1_bit"].steps == 300
    assert {stages[name].steps for name in ("one_stage_2_bit", "one_stage_1_bit", "labels_1_bit")} == {300}
    assert stages["labels_1_bit"].teacher == ""


def test_the_students_of_the_choices_study_take_the_same_steps():
    stages = {stage.name: stage for stage in recipe_of(f"{ROOT / 'configs' / 'study' / 'choices.py'}:steps=1000,seed=7").stages}
    assert stages.pop("teacher").steps == 1200
    layers = stages.pop("layers").steps
    assert layers + stages.pop("layers_first").steps == 1000
    assert {name: stage.steps for name, stage in stages.items()} == dict.fromkeys(stages, 1000)
    assert stages["row_8_2_1"].rules.changes == (150, 400)


def test_every_line_of_the_choices_study_is_a_recipe_on_training_data_alone():
    text = (ROOT / "benchmarks" / "study" / "choices.txt").read_text()
    lines = [shlex.split(line) for line in text.splitlines() if line.startswith("-")]
    assert len(lines) == 6
    for (config, *overrides), seed in zip(lines, (42, 42, 43, 43, 44, 44), strict=True):
        recipe = recipe_of(config.removeprefix("--config="), *[word for word in overrides if not word.startswith("--workdir=")])
        assert recipe.config["seed"] == seed
        assert recipe.config["data"]["path"] == f"$GLUE/{recipe.config['task']}/train.parquet"
        assert ("row_2_1_pairs" in recipe.config["stages"]) == (recipe.config["task"] == "stsb")


def run_for_real(tmp_path, config, *overrides):
    """The command as a user starts it: one device, and all of the compiler's optimizations."""
    words = ["compress", f"--config={config}", f"--workdir={tmp_path / 'run'}", *overrides]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "xtc_jax.cli", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.pinned
@pytest.mark.slow
def test_the_quick_start_runs_locally(tmp_path):
    assert "packed model: " in run_for_real(tmp_path, f"{ROOT / 'configs' / 'quickstart.py'}:runlocal")


@pytest.mark.pinned
@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("task", ["mrpc", "stsb"])  # a pair and a number; single sentences come below
def test_glue_runs_locally_on_real_data(task, shared, tmp_path):
    out = run_for_real(tmp_path, f"{GLUE_FILE}:{task},runlocal", f"--config.data.path={shared / 'glue'}")
    assert "packed model: " in out


def others(*names):
    """The files of other methods; of those not in ``names`` a run takes minutes, and is made on demand."""
    return [
        pytest.param(path, marks=() if path.stem in names else pytest.mark.minutes, id=path.stem)
        for path in CONFIGS
        if path.name not in ("quickstart.py", "glue.py")
    ]


@pytest.mark.pinned
@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("path", others("xtc"))
def test_every_other_config_file_runs_locally_on_real_data(path, shared, tmp_path, capsys):
    out = run_for_real(tmp_path, f"{path}:cola,runlocal", f"--config.data.path={shared / 'glue'}")
    assert "packed model: " in out
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert {result["prediction_agreement"] for name, result in results.items() if name.endswith("packed")} == {1.0}
    assert main(["report", str(tmp_path / "run")]) == 0
    assert "run: teacher" in capsys.readouterr().out

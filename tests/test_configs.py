import importlib.util
from pathlib import Path

import pytest

from xtc_jax.cli import main
from xtc_jax.config_file import read_config_file
from xtc_jax.data import GLUE
from xtc_jax.recipe import make_recipe

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))
GLUE_FILE = str(next(path for path in CONFIGS if path.name == "glue.py"))
LAYERS = {12: (), 6: (1, 3, 5, 7, 9, 11), 5: (2, 4, 6, 8, 10)}


def recipe_of(path, *overrides):
    return make_recipe(read_config_file(path, overrides))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
@pytest.mark.parametrize("argument", ["", ":runlocal"])
def test_every_config_file_makes_a_recipe_that_ends_in_few_bits(path, argument):
    recipe = recipe_of(f"{path}{argument}")
    assert recipe.config["runlocal"] is bool(argument)
    assert recipe.stages[-1].weight_bits in (1, 2)
    assert recipe.stages[-1].result == "quantized"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_file_says_how_it_is_run(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert f"xtc compress --config=configs/{path.name}" in module.__doc__


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


def run_for_real(capsys, tmp_path, config, *overrides):
    assert main(["compress", f"--config={config}", f"--workdir={tmp_path / 'run'}", *overrides]) == 0
    return capsys.readouterr().out


@pytest.mark.pinned
@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in CONFIGS if path.name != "glue.py"], ids=lambda path: path.name)
def test_every_config_file_runs_locally(path, tmp_path, capsys):
    assert "packed model: " in run_for_real(capsys, tmp_path, f"{path}:runlocal")


@pytest.mark.pinned
@pytest.mark.shared
@pytest.mark.slow
@pytest.mark.parametrize("task", ["cola", "mrpc", "sst2", "stsb"])
def test_glue_runs_locally_on_real_data(task, shared, tmp_path, capsys):
    out = run_for_real(capsys, tmp_path, f"{GLUE_FILE}:{task},runlocal", f"--config.data.path={shared / 'glue'}")
    assert "packed model: " in out

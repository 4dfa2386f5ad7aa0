"""``xtc export --to=huggingface`` as a user calls it."""

import importlib.util
import json

import numpy as np
import pytest
import toy
from huggingface_hub import ModelCard

from xtc_jax.cli.main import main
from xtc_jax.deploy import huggingface


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp)


@pytest.mark.torch
def test_the_directory_is_packed_verified_and_has_a_card(run, tmp_path, capsys):
    out, packed = tmp_path / "out", run / "work" / "packed"
    options = ["--to=huggingface", f"--data={run / 'data'}", "--license=apache-2.0", "--base-model=owner/name"]
    assert main(["export", str(packed), str(out), *options]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "config.json",
        "configuration_xtc.py",
        "model.safetensors",
        "modeling_xtc.py",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    sizes = [(path / "model.safetensors").stat().st_size for path in (packed, out)]
    assert sizes[1] <= 1.05 * sizes[0] + 1000
    agreement = json.loads((out / "config.json").read_text())["xtc_export"]["PyTorch"]
    assert (agreement["rows"], agreement["other_labels"]) == (30, 0)
    assert agreement["median"] <= 1e-5
    card = ModelCard.load(out / "README.md")
    assert (card.data.license, card.data.base_model) == ("apache-2.0", "owner/name")
    assert card.data.eval_results[0].metric_type == "accuracy"
    assert "PyTorch: 30 rows, logits differ by" in capsys.readouterr().out


@pytest.mark.torch
def test_an_export_that_does_not_agree_is_not_kept(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(huggingface, "torch_logits", lambda directory, batches: np.zeros((17, 2), np.float32))
    assert main(["export", str(run / "work" / "packed"), str(tmp_path / "out"), "--to=huggingface"]) == 2
    assert "model.safetensors: does not agree with the packed model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_without_torch_the_command_that_installs_it_is_named(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["export", str(run / "work" / "packed"), str(tmp_path / "out"), "--to=huggingface"]) == 2
    assert capsys.readouterr().err == (
        "xtc: error: torch is not installed, and the export is verified in it; run: pip install torch\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_base_model_that_is_a_path_is_refused_before_anything_is_written(run, tmp_path, capsys):
    command = ["export", str(run / "work" / "packed"), str(tmp_path / "out"), "--to=huggingface", "--base-model=/tmp/bert"]
    assert main(command) == 2
    assert "--base-model=/tmp/bert is no id of the hub" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

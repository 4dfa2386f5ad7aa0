"""``xtc export`` as a user calls it."""

import json

import numpy as np
import pytest
import toy
from tokenizers import Tokenizer

from xtc_jax.cli.main import main
from xtc_jax.deploy import verify

pytestmark = pytest.mark.onnx


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp)


def test_the_exported_directory_is_small_verified_and_has_the_limits_of_the_task(run, tmp_path, capsys):
    out, packed = tmp_path / "out", run / "work" / "packed"
    assert main(["export", str(packed), str(out), "--to=onnx", f"--data={run / 'data'}"]) == 0
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()) == [
        "README.md",
        "config.json",
        "onnx/model.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    config = json.loads((out / "config.json").read_text())
    assert config["transformers.js_config"] == {"dtype": "fp32"}
    agreement = config["xtc_export"]["optimizations on"]
    assert (agreement["rows"], agreement["other_labels"]) == (30, 0)
    assert agreement["maximum"] <= 0.02
    longest = json.loads((packed / "config.json").read_text())["task"]["max_length"]
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    assert (tokenizer.truncation["max_length"], tokenizer.padding) == (longest, None)
    assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == longest
    assert "exported: " in capsys.readouterr().out


def test_a_directory_that_exists_is_refused_and_left_alone(run, tmp_path, capsys):
    assert main(["export", str(run / "work" / "packed"), str(tmp_path), "--to=onnx"]) == 2
    assert capsys.readouterr().err == f"xtc: error: {tmp_path}: exists already; choose a new directory\n"


def test_an_unknown_target_is_refused(run, tmp_path, capsys):
    assert main(["export", str(run / "work" / "packed"), str(tmp_path / "out"), "--to=prolog"]) == 2
    assert "invalid choice: 'prolog'" in capsys.readouterr().err


def test_an_export_that_does_not_agree_is_not_kept(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(verify, "runtime_logits", lambda session, batches: np.zeros((17, 2), np.float32))
    assert main(["export", str(run / "work" / "packed"), str(tmp_path / "out"), "--to=onnx"]) == 2
    assert "model.onnx: does not agree with the packed model" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []

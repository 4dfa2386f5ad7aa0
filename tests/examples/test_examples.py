"""Every example runs, in small, as a user starts it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(name: str, directory: Path, *words: str) -> str:
    """What the program prints, started in an empty directory."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(EXAMPLES.parent)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(EXAMPLES / name), *words]
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_every_example_is_listed_and_run_here():
    programs = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    listed = set(re.findall(r"^\| `(\S+)` \|", (EXAMPLES / "README.md").read_text(), re.MULTILINE))
    tested = set(re.findall(r'"(\w+\.(?:py|ipynb))"', Path(__file__).read_text()))
    assert programs == listed == tested


@pytest.mark.slow
def test_a_pytree_is_packed_by_hand_and_the_packed_logits_are_the_students_to_the_bit(tmp_path):
    first, second, third = run("pack_in_python.py", tmp_path).splitlines()
    before, after = map(float, re.findall(r"\d+\.\d+", first))
    assert after < before
    assert float(re.search(r"([\d.]+) times fewer", second)[1]) > 15
    assert third == "packed and fake-quantized logits differ by at most 0.0e+00"


@pytest.mark.slow
@pytest.mark.pinned
def test_a_csv_becomes_a_packed_model_that_answers_with_its_classes(tmp_path):
    lines = run("own_data.py", tmp_path, "--small").splitlines()
    assert len((tmp_path / "runs" / "own_data.csv").read_text().splitlines()) == 2001
    assert (tmp_path / "runs" / "own_data" / "report.html").is_file()
    answers = lines[-3:]
    assert all(re.fullmatch(r"(account|billing|delivery) \(0\.\d\d\): .*", line) for line in answers), answers


@pytest.mark.slow
@pytest.mark.pinned
@pytest.mark.torch
@pytest.mark.onnx
def test_a_bert_of_pytorch_goes_through_jax_and_out_as_onnx(tmp_path):
    out = run("from_pytorch.py", tmp_path, "--small")
    assert float(re.search(r"PyTorch and JAX: logits differ by at most (\S+)", out)[1]) < 9e-7
    assert (tmp_path / "runs" / "from_pytorch" / "onnx" / "onnx" / "model.onnx").is_file()
    assert "logits differ by" in out.split("PyTorch and JAX")[1]


@pytest.mark.slow
@pytest.mark.pinned
@pytest.mark.notebook
def test_the_notebook_runs_and_shows_four_pictures(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("XTC_SMALL", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    notebook = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/svg+xml" in output.get("data", {}) for output in outputs) == 4
    printed = "".join(output["text"] for output in outputs if output.output_type == "stream")
    assert re.search(r"(negative|positive) \(0\.\d\d\): a dull mess", printed)


def test_the_notebook_is_committed_small_and_names_no_path_of_a_machine():
    text = (EXAMPLES / "quickstart.ipynb").read_text()
    assert len(text) < 500_000
    assert re.findall(r"/(?:home|root|work|Users)/", text) == []

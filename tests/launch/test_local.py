"""launch/local.sh: real processes over loopback do what one process does."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy
import training

from xtc_jax import pipeline
from xtc_jax.formats import save_huggingface
from xtc_jax.recipe.recipe import make_recipe
from xtc_jax.train.metrics import read_metrics

LOCAL = training.ROOT / "launch" / "local.sh"


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """``model`` with a classifier, ``data``, ``config.py``, and ``one``: the run of one process with four devices."""
    root = tmp_path_factory.mktemp("local")
    save_huggingface(root / "model", toy.FULL_SIZE, toy.params(toy.FULL_SIZE))
    toy.tokenizer().save(str(root / "model" / "tokenizer.json"))
    toy.write_sentiment(root / "data")
    (root / "config.py").write_text(f"import training\n\n\ndef get_config():\n    return training.recipe({str(root)!r})\n")
    pipeline.run(make_recipe(training.recipe(root)), root / "one", lambda line: None)
    return root


def start(root: Path, workdir: Path, *arguments: str, processes: int = 2) -> subprocess.Popen:
    """``launch/local.sh`` with two devices for each of two processes."""
    environment = {
        **training.environment(devices=0),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "DEVICES": "2",
        "XTC": f"{sys.executable} -m xtc_jax.cli",
        "JAX_COMPILATION_CACHE_DIR": str(workdir.parent / "compiled"),  # processes may be killed as they write it
    }
    options = [f"--config={root / 'config.py'}", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(["bash", str(LOCAL), str(processes), *options], env=environment, stdout=-1, stderr=-1, text=True)


def losses(workdir: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(workdir / "teacher" / "metrics.jsonl") if "loss" in record]


def result(workdir: Path, stage: str) -> dict:
    return json.loads((workdir / stage / "DONE").read_text())["result"]


def wait_for_step(process: subprocess.Popen, workdir: Path, step: int) -> None:
    file = workdir / "teacher" / "metrics.jsonl"
    while not any(record["step"] >= step for record in read_metrics(file)):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_stopped_by_sigterm_and_started_again_give_what_one_gives(made, tmp_path):
    """2 processes x 2 devices, 1 x 4: the same losses to 1e-5, and exactly the same metric of the same model."""
    process = start(made, tmp_path / "two")
    wait_for_step(process, tmp_path / "two", 10)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 75, err
    step = int(re.search(r"teacher: stopped by SIGTERM at step (\d+); checkpoint saved", err)[1])
    assert 10 <= step < 50
    assert (tmp_path / "two" / "teacher" / "checkpoints" / str(step) / "SHA256SUMS").exists()
    process = start(made, tmp_path / "two")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert "report: " in out
    assert len(losses(made / "one")) == 5
    # Means of ten steps; of those in which it stopped only the later ones are in the mean.
    same = [i for i in range(5) if not 10 * i < step < 10 * (i + 1)]
    np.testing.assert_allclose(np.array(losses(tmp_path / "two"))[same], np.array(losses(made / "one"))[same], rtol=1e-5)
    assert result(tmp_path / "two", "measured")["metrics"] == result(made / "one", "measured")["metrics"]
    files = [sorted(str(path.relative_to(root)) for path in root.glob("*/*")) for root in (made / "one", tmp_path / "two")]
    assert files[0] == files[1]
    logs = Path(re.search(r"output in (\S+)", err)[1])
    assert not logs.exists()


@pytest.mark.slow
def test_the_loss_of_a_process_stops_the_other_and_one_process_goes_on(made, tmp_path):
    """Process 1 is killed after the first of its checkpoints; what is left is resumed by one process with four devices."""
    work = tmp_path / "work"
    process = start(made, work)
    assert process.stderr is not None
    pid = next(int(match[1]) for line in process.stderr if (match := re.match(r"local: process 1 has pid (\d+)", line)))
    wait_for_step(process, work, 20)
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert time.monotonic() - killed < 60, err
    assert process.returncode == 128 + signal.SIGKILL, err
    assert re.search(r"process 0 of 2 lost another one|JAX distributed service detected fatal errors", err), err
    saved = [path.name for path in (work / "teacher" / "checkpoints").iterdir()]
    assert {"10", "20", "30", "40"} & set(saved), saved
    done = pipeline.run(make_recipe(training.recipe(made)), work, lambda line: None)
    assert done["teacher"]["steps"] == 50
    np.testing.assert_allclose(losses(work), losses(made / "one"), rtol=1e-5)


@pytest.mark.slow
def test_bad_input_of_all_processes_is_the_status_of_all(made, tmp_path):
    process = start(made, tmp_path / "work", "--config.mesh=(3,1,1)")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "xtc: error: config.mesh=(3, 1, 1) does not multiply to the 4 devices there are" in err
    assert not (tmp_path / "work").exists()


@pytest.mark.slow
def test_a_number_of_processes_is_asked_for(made):
    done = subprocess.run(["bash", str(LOCAL), "two"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "usage: launch/local.sh N [arguments of xtc compress]\n")

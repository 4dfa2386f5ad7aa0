"""The README: short, and everything in it true: commands run, outputs and numbers are those of the measurement it cites."""

import copy
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

import xtc_jax
from xtc_jax.cli.compress import show
from xtc_jax.cli.main import main

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "README.md").read_text()
MEASURED = json.loads((ROOT / "benchmarks" / "results" / "quickstart.json").read_text())
SEED = MEASURED["seeds"]["42"]


def blocks(language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    """Every command in a block or in the text, as words."""
    lines = [line for block in blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`((?:\.venv/bin/xtc|make|pip) [^`]+)`", TEXT)
    return [shlex.split(line) for line in lines]


def accuracies(stage: str) -> list[float]:
    return [100 * each[stage]["metrics"]["accuracy"] for each in MEASURED["seeds"].values()]


def test_it_is_read_in_two_minutes():
    assert len(TEXT.splitlines()) <= 120
    assert len(TEXT.split()) <= 800


def test_the_output_of_the_quick_start_is_what_the_command_prints_for_the_measured_results(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there is a runs/quickstart, its own predictions would be shown too
    show(SEED, "movie-reviews: pinned:all-MiniLM-L6-v2", MEASURED["baselines"], Path("runs/quickstart"))
    printed = "".join(line.rstrip() + "\n" for line in capsys.readouterr().out.splitlines())
    assert blocks("text")[0] == printed


def test_the_predictions_are_those_recorded_of_the_measured_model():
    text = "One of the best movies I have seen this year"
    label, value = MEASURED["answers"][text]
    assert blocks("text")[1] == f"{label}\t{value:.4f}\t{text}\n"
    texts = ["a dull mess", "a joy from start to end"]
    (python,) = blocks("python")
    assert python.splitlines()[-1] == repr([MEASURED["answers"][each][0] for each in texts])
    assert json.dumps(texts) in python


def test_every_number_of_the_quick_start_comes_from_the_measurement():
    plain = " ".join(TEXT.split())
    teacher, packed = accuracies("teacher"), accuracies("packed")
    megabytes = [f"{SEED[stage]['bytes'] / 1e6:.1f} MB" for stage in ("teacher", "packed")]
    kept = 100 * statistics.fmean(packed) / statistics.fmean(teacher)
    for claim in (
        f"Makes a BERT {SEED['packed']['ratio']:.1f} times smaller**",
        f"from {megabytes[0]} of weights to {megabytes[1]} and keeps {kept:.1f} % of its accuracy, over eight seeds",
        f"teacher has {statistics.fmean(teacher):.1f} ± {statistics.stdev(teacher):.1f} %",
        f"packed student {statistics.fmean(packed):.1f} ± {statistics.stdev(packed):.1f} %",
        f"logistic regression has {100 * MEASURED['baselines'][1]['metrics']['accuracy']:.1f} %",
        f"the tokenizer ({SEED['packed']['tokenizer_bytes']:,} bytes)",
    ):
        assert claim in plain
    assert "Over seeds 42 to 49 the" in plain
    assert list(MEASURED["seeds"]) == [str(seed) for seed in range(42, 50)]
    assert {each["packed"]["ratio"] for each in MEASURED["seeds"].values()} == {SEED["packed"]["ratio"]}
    assert {each["packed"]["max_logit_difference"] for each in MEASURED["seeds"].values()} == {0.0}


def test_benchmarks_readme_py_brings_it_up_to_date_after_another_measurement(monkeypatch, tmp_path):
    (tmp_path / "runs" / "quickstart").mkdir(parents=True)
    some = [{"texts": ["a dull mess"], "label": 0, "quantized": [0, 0.98]}]
    kept = {"classes": ["negative", "positive"], "answers": {"quantized": [0]}, "some": some}
    (tmp_path / "runs" / "quickstart" / "predictions.json").write_text(json.dumps(kept))
    monkeypatch.chdir(tmp_path)  # as if somebody had run it here
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import readme

    assert readme.renew(TEXT, MEASURED) == TEXT
    other = copy.deepcopy(MEASURED)
    other["seeds"]["42"]["packed"]["ratio"] = 61.25
    other["answers"]["a dull mess"] = ["positive", 0.75]
    renewed = readme.renew(TEXT, other)
    assert "Makes a BERT 61.2 times smaller" in renewed
    assert "bytes, 61.2 times smaller)" in renewed
    assert "['positive', 'positive']" in renewed


def test_the_software_is_cited_with_its_version():
    assert f"version = {{{xtc_jax.__version__}}}" in blocks("bibtex")[0]


def test_every_link_leads_to_a_file():
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", TEXT) if not link.startswith("https://")]
    assert [link for link in links if not (ROOT / link).exists()] == []


KNOWN = ("make quickstart", "make docs", "pip install .", "xtc predict", "xtc compress", "xtc --help", "xtc doctor")


def name_of(command: list[str]) -> str:
    return " ".join([Path(command[0]).name, *command[1:3]][: 3 if command[0] == "pip" else 2])


def test_there_is_no_command_that_these_tests_do_not_run():
    assert {name_of(command) for command in commands()} == set(KNOWN)


def test_the_makefile_runs_the_recipe_of_the_quick_start():
    dry = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "quickstart"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert dry.stdout.splitlines()[-1] == ".venv/bin/xtc compress --config=quickstart --workdir=runs/quickstart"


def test_help_and_doctor_run(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert main(["doctor"]) == 0
    assert "make a model small" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.pinned
def test_the_commands_run_in_small_and_print_lines_of_the_forms_shown(tmp_path):
    """``make docs`` is tests/docs', ``pip install`` is tests/test_wheel.py's; both recipes run with ``:runlocal``."""
    sys.path.insert(0, str(ROOT / "examples"))
    import own_data

    own_data.invent(tmp_path / "tickets.csv", 300)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}

    def run(*words: str) -> str:
        trial = {"--config=quickstart": "--config=quickstart:runlocal", "--config=own:minutes=30": "--config=own:runlocal"}
        small = (trial.get(word, word) for word in words)
        command = [sys.executable, "-m", "xtc_jax.cli", *small]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    compress = run("compress", "--config=quickstart", "--workdir=runs/quickstart")
    shown = blocks("text")[0].splitlines()
    assert [line.split("│")[1] for line in compress.splitlines() if "│" in line] == [
        line.split("│")[1] for line in shown if "│" in line
    ]
    assert re.search(r"^packed model: runs/quickstart/packed \([\d,]+ bytes, [\d.]+ times smaller\)$", compress, re.MULTILINE)
    *_, report, heading, one, two, three = compress.splitlines()
    assert report == shown[-1]
    assert heading == "quantized, on some of the validation data (the label in brackets):"
    assert all(re.match(r"  (negative|positive) [01]\.\d\d \((negative|positive)\): \S", line) for line in (one, two, three))

    (predict,) = (command for command in commands() if name_of(command) == "xtc predict")
    label, value, text = run(*predict[1:]).rstrip("\n").split("\t")
    assert (label in ("negative", "positive"), 0 < float(value) < 1, text) == (True, True, predict[-1])

    (mine,) = (command for command in commands() if name_of(command) == "xtc compress")
    assert "runs/mine/packed" in run(*mine[1:])

    *code, _ = blocks("python")[0].replace(">>> ", "").splitlines()
    code[-1] = f"print({code[-1]})"
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert set(re.findall(r"\w+", done.stdout)) <= {"negative", "positive"}

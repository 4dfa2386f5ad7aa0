"""What a work directory is protected from: a path Orbax misreads, a second start, other data, tokens without an embedding."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import toy
import training
from ml_collections import ConfigDict

from xtc_jax import pipeline
from xtc_jax.errors import UserError
from xtc_jax.formats import save_huggingface
from xtc_jax.pipeline.workdir import LOCK, hold
from xtc_jax.recipe.recipe import make_recipe


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """``model``, ``data`` and ``work``, a finished run of :func:`training.recipe`, which trains one stage."""
    made = tmp_path_factory.mktemp("work")
    toy.write_model(made / "model")
    toy.write_sentiment(made / "data")
    run(few_steps(made), made / "work")
    return made


def few_steps(root) -> ConfigDict:
    config = training.recipe(root)
    config.stages = ("teacher",)
    config.teacher.steps = 4
    return config


def run(config, workdir):
    return pipeline.run(make_recipe(config), workdir, lambda line: None)


def refusal(config, workdir) -> str:
    with pytest.raises(UserError) as refused:
        run(config, workdir)
    return str(refused.value)


@pytest.mark.parametrize("name", ["sst2[seed1]", "what?", "all*"])
def test_a_work_directory_that_orbax_would_take_for_a_pattern_is_refused_before_anything_is_trained(root, tmp_path, name):
    message = refusal(few_steps(root), tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: nothing can be saved under a path with ")
    assert not (tmp_path / name).exists()


def test_a_held_work_directory_is_refused_with_who_holds_it_and_left_as_it_is(root, tmp_path):
    workdir = Path(shutil.copytree(root / "work", tmp_path / "work"))
    with hold(workdir, lambda line: None):
        before = toy.contents(workdir)
        message = refusal(few_steps(root), workdir)
        assert toy.contents(workdir) == before
    record = json.loads((workdir / LOCK).read_text())
    assert message == (
        f"{workdir}: process {os.getpid()} on {record['host']} works in it since {record['since']}; wait for its end, or use "
        "another --workdir"
    )


def test_the_lock_of_a_dead_process_is_no_obstacle(root, tmp_path):
    workdir = Path(shutil.copytree(root / "work", tmp_path / "work"))
    (workdir / LOCK).write_text(json.dumps({"pid": 1, "host": "elsewhere", "since": "2020-01-01 00:00:00 UTC"}))
    run(few_steps(root), workdir)
    assert json.loads((workdir / LOCK).read_text())["pid"] == os.getpid()


def test_the_lock_ends_with_the_run_whether_it_succeeds_or_fails(root, tmp_path):
    workdir = Path(shutil.copytree(root / "work", tmp_path / "work"))
    with pytest.raises(KeyboardInterrupt), hold(workdir, lambda line: None):
        raise KeyboardInterrupt
    run(few_steps(root), workdir)
    with (workdir / LOCK).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_system_without_locks_is_named_and_the_run_goes_on(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    lines = []
    with hold(tmp_path, lines.append):
        pass
    assert lines == [f"{tmp_path}: cannot be locked here (Function not implemented); start no second run in it"]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_finished_stage_whose_data_changed_under_the_same_path_is_refused(root, tmp_path, split):
    shutil.copytree(root / "data", tmp_path / "data")
    config = few_steps(root)
    config.data.path = str(tmp_path / "data")
    run(config, tmp_path / "work")
    rows = toy.sentences({"train": 64, "validation": 30}[split], 99)
    columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
    toy.write_table(tmp_path / "data" / f"{split}.parquet", columns)
    before = toy.contents(tmp_path / "work")
    message = refusal(config, tmp_path / "work")
    assert message.startswith(
        f"{tmp_path / 'work' / 'teacher'}: stage 'teacher' was made with another config (data_digest.{split}: "
    )
    assert toy.contents(tmp_path / "work") == before


def test_a_stage_recorded_before_there_were_digests_is_still_finished(root, tmp_path):
    workdir = Path(shutil.copytree(root / "work", tmp_path / "work"))
    record = json.loads((workdir / "teacher" / "config.json").read_text())
    assert set(record.pop("data_digest")) == {"train", "validation"}
    (workdir / "teacher" / "config.json").write_text(json.dumps(record))
    assert run(few_steps(root), workdir) == json.loads((root / "work" / "results.json").read_text())


def test_word_pieces_beyond_the_embedding_table_are_refused_by_name(root, tmp_path):
    small = replace(toy.FULL_SIZE, vocab_size=len(toy.VOCABULARY) - 2)
    save_huggingface(tmp_path / "model", small, toy.params(small))
    toy.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    config = few_steps(root)
    config.model = str(tmp_path / "model")
    assert refusal(config, tmp_path / "work").startswith(
        f"model {tmp_path / 'model'}: its tokenizer has 2 word pieces beyond the vocab_size of {small.vocab_size}: "
        f"'!' ({small.vocab_size}), "
    )
    assert not (tmp_path / "work").exists()


def test_pairs_are_refused_where_the_model_has_one_segment_alone(root, tmp_path):
    small = replace(toy.FULL_SIZE, type_vocab_size=1)
    save_huggingface(tmp_path / "model", small, toy.params(small))
    toy.tokenizer().save(str(tmp_path / "model" / "tokenizer.json"))
    config = few_steps(root)
    config.model = str(tmp_path / "model")
    run(config, tmp_path / "single texts")
    rows = toy.sentences(12, 1)
    columns = {"one": [text for text, _ in rows], "two": [text for text, _ in rows], "label": [label for _, label in rows]}
    config.data.update(path=str(toy.write_table(tmp_path / "pairs.csv", columns)), text=("one", "two"))
    config.data.validation = str(toy.write_table(tmp_path / "others.csv", columns))
    assert refusal(config, tmp_path / "work") == (
        f"model {tmp_path / 'model'}: 2 texts need 2 segments, and its type_vocab_size is 1"
    )


def start(root, workdir, steps) -> subprocess.Popen:
    options = [f"--config={root / 'config.py'}", f"--workdir={workdir}", f"--config.teacher.steps={steps}"]
    options += ["--config.stages=('teacher',)", "--config.teacher.layers=0", "--config.checkpoint.minutes=0.0"]
    command = [sys.executable, "-m", "xtc_jax.cli", "compress", *options]
    return subprocess.Popen(command, env=training.environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def sealed(workdir) -> set[int]:
    """The steps of the checkpoints."""
    return {int(path.parent.name) for path in (workdir / "teacher" / "checkpoints").glob("*/SHA256SUMS")}


def await_checkpoint(process, workdir, after) -> None:
    deadline = time.monotonic() + 90
    while max(sealed(workdir), default=-1) <= after:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_of_two_starts_one_works_and_one_says_so_and_after_sigkill_of_the_first_the_next_goes_on(root, tmp_path):
    workdir = tmp_path / "work"
    toy.write_config_file(root / "config.py", root / "model", root / "data")
    first = start(root, workdir, 20000)
    try:
        await_checkpoint(first, workdir, 0)
        second = start(root, workdir, 20000)
        out, error = second.communicate(timeout=90)
        assert second.returncode == 2, (out, error)
        assert error.startswith(f"xtc: error: {workdir}: process {first.pid} on ")
        assert error.count("\n") == 1
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate(timeout=30)
    before = sealed(workdir)
    third = start(root, workdir, 20000)
    try:
        await_checkpoint(third, workdir, max(before))
        assert min(sealed(workdir)) >= min(before)  # it went on, and did not begin again
    finally:
        third.send_signal(signal.SIGKILL)
        third.communicate(timeout=30)

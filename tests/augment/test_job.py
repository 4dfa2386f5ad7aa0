"""``xtc augment``: what the file holds, that it is the same however it came about, and what is refused."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import toy

from xtc_jax.augment import job as augmentation
from xtc_jax.augment.job import CHUNK, AugmentSpec, augment
from xtc_jax.augment.variants import make_sentence
from xtc_jax.cli.main import main
from xtc_jax.data import GLUE, find_task, held_out, load_examples
from xtc_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
PAIR = find_task("pairs", ("left", "right"), "kind")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two models, 150 sentences and 20 pairs."""
    root = tmp_path_factory.mktemp("augment")
    for name, masked_lm in (("mlm", True), ("plain", False)):
        (root / name).mkdir()
        toy.write_model(root / name, masked_lm)
    toy.write_table(root / "train.parquet", columns(150))
    texts = [text for text, _ in toy.sentences(40, 2)]
    kinds = ["same", "other"] * 10
    toy.write_table(root / "pairs.csv", {"left": texts[:20], "right": texts[20:], "kind": kinds})
    return root


def columns(count):
    rows = toy.sentences(count, 1)
    return {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}


@pytest.fixture(scope="module")
def spec(world):
    return AugmentSpec(str(world / "mlm"), GLUE["sst2"], str(world), count=4)


@pytest.fixture(scope="module")
def made(spec, world):
    """The file of ``spec``, made by one process without a break."""
    return run(spec, world / "made.parquet").path


@pytest.fixture(scope="module")
def pairs(world):
    pairs = AugmentSpec(str(world / "plain"), PAIR, str(world / "pairs.csv"), count=5)
    return pa.parquet.read_table(run(pairs, world / "pairs.parquet").path).to_pylist()


def run(spec, out):
    return augment(spec, out, lambda line: None)


def command(spec, out, *more):
    options = {"model": spec.model, "task": spec.task.name, "data": spec.data, "out": out, "count": spec.count}
    return ["augment", *(f"--{name}={value}" for name, value in options.items()), *more]


def test_variant_0_is_the_row_of_the_source(made, world):
    rows = pa.parquet.read_table(made)
    assert rows.column_names == ["sentence", "label", "origin", "variant"]
    assert [str(kind) for kind in rows.schema.types] == ["string", "int64", "int32", "int32"]
    originals = rows.filter(pa.compute.equal(rows["variant"], 0))
    assert originals["origin"].to_pylist() == list(range(150))
    assert originals.select(["sentence", "label"]).to_pydict() == columns(150)


def test_variants_follow_their_original_with_its_label_and_differ_in_eligible_words(made):
    rows = pa.parquet.read_table(made).to_pylist()
    groups = [[row for row in rows if row["origin"] == origin] for origin in range(150)]
    assert [row for group in groups for row in group] == rows
    for original, *variants in groups:
        assert [row["variant"] for row in variants] == list(range(1, 1 + len(variants)))
        assert {row["label"] for row in variants} <= {original["label"]}
        assert len({row["sentence"] for row in (original, *variants)}) == 1 + len(variants)
        sentence = make_sentence(original["sentence"])
        for row in variants:
            words = row["sentence"].split(" ")
            changed = {i for i, (before, after) in enumerate(zip(sentence.words, words, strict=True)) if before != after}
            assert changed <= set(sentence.eligible)
    # 3 to 6 eligible words, replaced with 0.4 * 14/15: a round is lost only where nothing changes, or a repetition.
    assert 3 < np.mean([len(group) - 1 for group in groups]) <= 4


def test_of_a_pair_one_side_varies_at_a_time_beside_the_original_other(pairs):
    groups = [[row for row in pairs if row["origin"] == origin] for origin in range(20)]
    for original, *variants in groups:
        sides = [("left" if row["left"] != original["left"] else "right") for row in variants]
        assert sides == sorted(sides)
        for row, side in zip(variants, sides, strict=True):
            other = "right" if side == "left" else "left"
            assert row[other] == original[other]
            assert row["kind"] == original["kind"]
        assert max(sides.count("left"), sides.count("right")) <= 5
    assert {row["kind"] for row in pairs} == {"same", "other"}


def test_the_file_is_a_split_of_the_task(made, world):
    examples = load_examples(str(made), GLUE["sst2"], "train")
    rows = pa.parquet.read_table(made)
    assert examples.texts == [(text,) for text in rows["sentence"].to_pylist()]
    assert examples.labels.tolist() == rows["label"].to_pylist()
    named = replace(PAIR, labels=("other", "same"))
    assert set(load_examples(str(world / "pairs.parquet"), named, "train").labels.tolist()) == {0, 1}


def test_the_label_keeps_its_type(world):
    scores = AugmentSpec(str(world / "plain"), GLUE["stsb"], str(world / "scores.parquet"), count=1)
    score = pa.array([0.5, 4.2], pa.float32())
    texts = {"sentence1": ["a lamp", "a kettle"], "sentence2": ["a robot", "a piano"]}
    pa.parquet.write_table(pa.table({**texts, "label": score, "idx": [0, 1]}), world / "scores.parquet")
    rows = pa.parquet.read_table(run(scores, world / "scores_out.parquet").path)
    assert rows.column_names == ["sentence1", "sentence2", "label", "origin", "variant"]
    assert rows["label"].type == pa.float32()
    assert set(rows["label"].to_pylist()) == set(score.to_pylist())


@pytest.mark.slow
def test_two_processes_write_the_same_bytes_as_one(spec, made, tmp_path):
    out = tmp_path / "two.parquet"
    result = run(replace(spec, processes=2), out)
    assert out.read_bytes() == made.read_bytes()
    assert (result.originals, result.rows) == (150, pa.parquet.read_metadata(out).num_rows)
    assert [path.name for path in tmp_path.iterdir()] == ["two.parquet"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_that_was_killed_goes_on_and_leaves_no_trace(world, tmp_path, processes):
    """SIGKILL after the first part, as the command of a user; then the same command again."""
    data, out = toy.write_table(tmp_path / "train.parquet", columns(60 * CHUNK)), tmp_path / "out.parquet"
    spec = AugmentSpec(str(world / "mlm"), GLUE["sst2"], str(data), count=20)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-m", "xtc_jax.cli", *command(spec, out, f"--processes={processes}")]
    parts = tmp_path / "out.parquet.parts"
    with subprocess.Popen(arguments, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not list(parts.glob("*.parquet")) and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    assert 0 < len(list(parts.glob("*.parquet"))) < 60
    done = subprocess.run(arguments, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
    rows = pa.parquet.read_metadata(out).num_rows
    assert done.stdout == f"{out}: {rows:,} rows of {60 * CHUNK:,}\n"
    assert {path.name for path in tmp_path.iterdir()} == {"train.parquet", "out.parquet"}
    assert out.read_bytes() == run(spec, tmp_path / "unbroken.parquet").path.read_bytes()


def test_finished_parts_are_not_made_again(spec, made, tmp_path, monkeypatch):
    out, asked = tmp_path / "out.parquet", []

    def stop_at_the_eighth(directory, number, table):
        if number == 7:
            raise KeyboardInterrupt
        write_part(directory, number, table)

    write_part = augmentation.write_part
    with monkeypatch.context() as patch:
        patch.setattr(augmentation, "write_part", stop_at_the_eighth)
        with pytest.raises(KeyboardInterrupt):
            run(spec, out)
    assert not out.exists()
    monkeypatch.setattr(augmentation, "write_part", lambda *part: asked.append(part[1]) or write_part(*part))
    run(spec, out)
    assert asked == [7, 8, 9]
    assert out.read_bytes() == made.read_bytes()


def test_a_finished_file_is_returned_as_it_is(spec, made, monkeypatch):
    before = made.stat().st_mtime_ns
    monkeypatch.setattr(augmentation, "augment_rows", None)
    result = run(replace(spec, processes=7), made)
    assert (result.path, result.originals) == (made, 150)
    assert made.stat().st_mtime_ns == before


OTHERWISE = {"seed": 1, "count": 5, "probability": 0.5, "limit": 9, "candidates": 3, "max_length": 30, "model": "plain"}


@pytest.mark.parametrize("key", OTHERWISE)
def test_a_file_made_otherwise_is_refused_and_untouched(spec, made, world, key):
    value = str(world / "plain") if key == "model" else OTHERWISE[key]
    before = made.read_bytes()
    with pytest.raises(UserError, match=rf"made\.parquet: was made from something else \({key}: "):
        run(replace(spec, **{key: value}), made)
    assert made.read_bytes() == before


def test_model_and_data_count_by_what_is_in_them(spec, made, world, tmp_path):
    toy.write_model(tmp_path, masked_lm=True)
    toy.write_table(tmp_path / "train.parquet", columns(150))
    moved = replace(spec, model=str(tmp_path), data=str(tmp_path))
    assert run(moved, made).path == made
    toy.write_table(tmp_path / "train.parquet", {**columns(150), "label": [0, 1, 1] * 50})
    with pytest.raises(UserError, match=r"made\.parquet: was made from something else \(data: "):
        run(moved, made)


def test_a_limit_takes_evenly_spaced_rows_which_vary_as_they_do_among_all(spec, made, tmp_path):
    few = pa.parquet.read_table(run(replace(spec, limit=10), tmp_path / "few.parquet").path)
    assert sorted(set(few["origin"].to_pylist())) == list(range(0, 150, 15))
    whole = pa.parquet.read_table(made)
    assert few.to_pylist() == whole.filter(pa.compute.is_in(whole["origin"], few["origin"].unique())).to_pylist()


def test_the_task_says_how_many_rounds(spec, tmp_path):
    said = []
    augment(replace(spec, count=0, limit=2), tmp_path / "out.parquet", said.append)
    assert len(said) == 1
    assert said[0].endswith("; 20 rounds for each text; candidates: masked language model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "count=-1 must be at least 0"),
        ({"candidates": 0}, "candidates=0 must be at least 1"),
        ({"processes": 0}, "processes=0 must be at least 1"),
        ({"seed": -3}, "seed=-3 must be at least 0"),
        ({"probability": 1.5}, r"probability=1\.5 must be between 0 and 1"),
        ({"max_length": 33}, "max_length=33 is more than the model's 32"),
        ({"model": "./nowhere"}, r"\./nowhere: no such model directory"),
        ({"data": "./nowhere"}, r"\./nowhere: no train data"),
        ({"task": GLUE["mrpc"]}, r"train\.parquet: no column 'sentence1'"),
        ({"task": replace(GLUE["sst2"], label="origin")}, "column 'origin' of the task has the name of a column of the result"),
    ],
)
def test_bad_input_is_refused_and_nothing_is_written(spec, tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        run(replace(spec, **change), tmp_path / "deep" / "out.parquet")
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_kind_is_refused(spec, tmp_path):
    with pytest.raises(UserError, match=r"out\.csv: the name of the file must end in \.parquet"):
        run(spec, tmp_path / "out.csv")


def test_the_command_takes_a_task_of_ones_own(world, tmp_path, capsys):
    out = tmp_path / "out.parquet"
    options = ["--text", "left", "right", "--label=kind", "--count=2", "--limit=4"]
    arguments = [f"--model={world / 'plain'}", "--task=pairs", f"--data={world / 'pairs.csv'}", f"--out={out}"]
    assert main(["augment", *arguments, *options]) == 0
    assert capsys.readouterr().out == f"{out}: {pa.parquet.read_metadata(out).num_rows} rows of 4\n"
    assert pa.parquet.read_table(out).column_names == ["left", "right", "kind", "origin", "variant"]


def test_the_command_refuses_in_one_line(spec, made, capsys):
    assert main(command(spec, made, "--seed=2")) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"xtc: error: {made}: was made from something else (seed: 0 then, 2 now)")
    assert captured.err.count("\n") == 1


def test_rows_that_are_held_out_or_have_nothing_in_them_are_not_varied(spec, tmp_path):
    texts = [f"the lamp was bright and {i} ." for i in range(40)]
    source = toy.write_table(tmp_path / "mine.csv", {"sentence": [*texts, ""], "label": [1] * 41})
    one = replace(spec, data=str(source), count=1, missing="drop", part="train")
    rows = pa.parquet.read_table(run(one, tmp_path / "out.parquet").path).to_pylist()
    kept = [i for i, text in enumerate(texts) if not held_out((text,))]
    assert 0 < len(kept) < 40
    assert sorted({row["origin"] for row in rows}) == kept
    assert [row["sentence"] for row in rows if row["variant"] == 0] == [texts[i] for i in kept]
    with pytest.raises(UserError, match=r"mine\.csv: row 41, column 'sentence' is empty"):
        run(replace(one, missing="refuse"), tmp_path / "other.parquet")

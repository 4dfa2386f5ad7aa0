"""Tables made in parts: resumed, refused when of another job, and without a trace of how they came about."""

import json
import os
import time

import pyarrow as pa
import pyarrow.parquet
import pytest

from xtc_jax.augment import (
    assemble,
    finished_parts,
    is_finished,
    open_parts,
    part_file,
    remove_parts,
    run_processes,
    write_part,
)
from xtc_jax.augment.parts import parts_directory
from xtc_jax.errors import UserError

JOB = {"seed": 1, "text": ["sentence"], "probability": 0.4}


def table(number):
    return pa.table({"x": pa.array([f"row {number}"] * (number + 1)), "y": pa.array([number] * (number + 1), pa.int32())})


def make(out, numbers, job=JOB):
    directory = open_parts(out, job)
    for number in numbers:
        write_part(directory, number, table(number))
    return directory


def test_a_table_is_its_parts_in_order_and_nothing_is_left_beside_it(tmp_path):
    out = tmp_path / "new" / "out.parquet"
    directory = make(out, [2, 0, 1])
    assert finished_parts(directory) == 3
    assert assemble(out, JOB, 3) == 6
    assert pa.parquet.read_table(out).to_pydict() == pa.concat_tables([table(i) for i in range(3)]).to_pydict()
    assert [path.name for path in out.parent.iterdir()] == ["out.parquet"]
    assert is_finished(out, JOB)


def test_the_bytes_do_not_depend_on_who_made_which_part_when(tmp_path):
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    make(one, range(300))  # more than one row group
    make(other, range(299, 40, -1))
    (parts_directory(other) / "0000007.12345.tmp").write_bytes(b"half")  # what a killed process left behind
    make(other, range(50))
    for out in (one, other):
        assemble(out, JOB, 300)
    assert one.read_bytes() == other.read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"one.parquet", "other.parquet"}


def test_parts_of_the_same_job_are_gone_on_with(tmp_path):
    out = tmp_path / "out.parquet"
    make(out, [0, 1])
    directory = open_parts(out, JOB)
    assert finished_parts(directory) == 2
    assert part_file(directory, 1).exists()
    assert not part_file(directory, 2).exists()


def test_an_empty_directory_of_parts_is_that_of_a_job_killed_at_once(tmp_path):
    out = tmp_path / "out.parquet"
    parts_directory(out).mkdir()
    assert finished_parts(make(out, [0])) == 1


@pytest.mark.parametrize(
    ("job", "reason"),
    [
        ({**JOB, "seed": 2}, r"\(seed: 1 then, 2 now\)"),
        ({**JOB, "limit": 5}, r"\(limit: None then, 5 now\)"),
        ({key: JOB[key] for key in ("seed", "text")}, r"\(probability: 0.4 then, None now\)"),
    ],
)
def test_what_another_job_made_is_refused_and_untouched(tmp_path, job, reason):
    out = tmp_path / "out.parquet"
    make(out, [0])
    with pytest.raises(UserError, match=rf"out\.parquet\.parts: was made from something else {reason}"):
        open_parts(out, job)
    assert finished_parts(parts_directory(out)) == 1
    assemble(out, JOB, 1)
    before = out.read_bytes()
    with pytest.raises(UserError, match=rf"out\.parquet: was made from something else {reason}"):
        is_finished(out, job)
    assert out.read_bytes() == before


def test_what_is_no_table_of_a_job_is_refused(tmp_path):
    text, directory, plain = (tmp_path / f"{name}.parquet" for name in ("text", "directory", "plain"))
    text.write_text("notes")
    directory.mkdir()
    pa.parquet.write_table(table(0), plain)
    for out in (text, directory, plain):
        with pytest.raises(UserError, match=rf"{out.name}: exists already and is not of this command"):
            is_finished(out, JOB)


@pytest.mark.parametrize("record", [None, "{", "[]"])
def test_a_directory_of_something_else_is_refused(tmp_path, record):
    directory = parts_directory(tmp_path / "out.parquet")
    directory.mkdir()
    (directory / "mine.txt").write_text("mine")
    if record is not None:
        (directory / "job.json").write_text(record)
    with pytest.raises(UserError, match=r"out\.parquet\.parts: exists already and is not of this command"):
        open_parts(tmp_path / "out.parquet", JOB)


def test_left_over_parts_of_a_finished_table_are_removed_but_nothing_else(tmp_path):
    """A run that was killed while it tidied up; and a directory that is somebody else's."""
    out = tmp_path / "out.parquet"
    remove_parts(out, JOB)
    directory = make(out, [0, 1])
    (directory / "0000001.9.tmp").touch()
    remove_parts(out, {**JOB, "seed": 2})
    assert len(list(directory.iterdir())) == 4
    (directory / "mine.txt").touch()
    remove_parts(out, JOB)
    assert [path.name for path in directory.iterdir()] == ["mine.txt"]


def test_the_job_is_recorded_for_people_too(tmp_path):
    directory = make(tmp_path / "out.parquet", [])
    assert json.loads((directory / "job.json").read_text()) == JOB


def share(directory, reason, rank, count, go_on):
    """What a process of the tests does; they import it from here."""
    if rank == 1 and reason == "refuse":
        raise UserError("data.csv: bad")
    if rank == 1 and reason == "die":
        os._exit(9)
    if rank == 0 and reason:
        time.sleep(60)
    for number in range(rank, 5, count):
        go_on()
        write_part(directory, number, table(number))


@pytest.mark.slow
def test_processes_share_the_parts(tmp_path):
    directory, polls = make(tmp_path / "out.parquet", []), []
    run_processes(share, (directory, ""), 2, lambda: polls.append(finished_parts(directory)))
    assert finished_parts(directory) == polls[-1] == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "message"), [("refuse", r"^data\.csv: bad$"), ("die", "ended with status 9; run the same command again")]
)
def test_the_first_failure_of_a_process_ends_them_all(tmp_path, reason, message):
    begun = time.monotonic()
    with pytest.raises(UserError, match=message):
        run_processes(share, (tmp_path, reason), 2, lambda: None)
    assert time.monotonic() - begun < 50

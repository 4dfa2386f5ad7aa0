import io

import pytest
from rich.console import Console

from xtc_jax.train import metrics
from xtc_jax.train.metrics import metrics_writer, progress, read_metrics


def test_records_come_back_with_their_step(tmp_path):
    with metrics_writer(tmp_path) as write:
        write(10, {"loss": 0.5})
        write(20, {"loss": 0.25})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 10, "loss": 0.5}, {"step": 20, "loss": 0.25}]


def test_a_half_written_line_is_skipped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 2.0}]


def test_no_file_means_no_records(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_resuming_drops_records_beyond_the_checkpoint_and_the_half_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 4, "loss": 3.0}\n{"step": 6, "loss": 2.0}\n{"step": 7, "lo')
    with metrics_writer(tmp_path, resume_step=4) as write:
        write(6, {"loss": 1.0})
    assert path.read_text() == '{"step": 4, "loss": 3.0}\n{"step": 6, "loss": 1.0}\n'


def test_a_tensorboard_event_file_is_written(tmp_path):
    with metrics_writer(tmp_path) as write:
        write(1, {"loss": 0.5})
    (events,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    assert b"loss" in events.read_bytes()


def test_where_there_is_no_terminal_progress_is_one_plain_line_at_the_end(capsys):
    with progress("reduce", 3) as show:
        for step in (1, 2, 3):
            show(step, {"loss": 1.5, "eval/accuracy": 0.75, "examples_per_second": 12.0})
    assert capsys.readouterr().err == "reduce: step 3/3  loss 1.500  accuracy 0.7500  12 examples/s  0 s left\n"


def test_plain_lines_come_at_intervals_with_the_time_left(capsys, monkeypatch):
    clock = iter([0.0, 10.0, 20.0, 25.0])
    monkeypatch.setattr(metrics.time, "monotonic", lambda: next(clock))
    with progress("teacher", 10, start=2) as show:
        for step in (3, 4, 5):
            show(step, {})
    assert capsys.readouterr().err == "teacher: step 4/10    60 s left\n"


def test_nothing_is_shown_on_request(capsys):
    with progress("teacher", 2, screen="none") as show:
        show(1, {"loss": 1.0})
        show(2, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_on_request_every_new_record_is_a_line_and_no_step_without_one(capsys):
    with progress("teacher", 4, screen="every") as show:
        for step, loss in ((1, 2.0), (2, 2.0), (3, 1.0), (4, 1.0)):
            show(step, {"loss": loss})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["teacher: step 1/4", "loss 2.000"],
        ["teacher: step 3/4", "loss 1.000"],
        ["teacher: step 4/4", "loss 1.000"],
    ]


def test_no_color_gives_plain_lines_on_a_terminal_too(capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    screen = io.StringIO()
    with progress("teacher", 1, console=Console(file=screen, force_terminal=True)) as show:
        show(1, {"loss": 1.0})
    assert screen.getvalue() == ""
    assert capsys.readouterr().err.startswith("teacher: step 1/1  loss 1.000")


@pytest.mark.parametrize("start", [0, 1])
def test_on_a_terminal_progress_is_a_live_bar(start):
    screen = io.StringIO()
    with progress("quantize", 2, start, Console(file=screen, force_terminal=True, width=120)) as show:
        show(2, {"loss": 0.125})
    shown = screen.getvalue()
    assert "quantize" in shown
    assert "2/2" in shown
    assert "loss 0.125" in shown

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import toy
from safetensors.numpy import load_file, save_file
from toy import contents

from xtc_jax import __version__, pipeline
from xtc_jax.cli.main import main
from xtc_jax.errors import UserError
from xtc_jax.train import Upkeep

WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    return toy.finished_run(tmp_path_factory.mktemp)


@pytest.fixture
def model(done) -> str:
    return f"--model={done / 'work' / 'packed'}"


@pytest.fixture
def xtc(capsys):
    """Run a command that must succeed; returns its standard output."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must be refused with one line; returns the message."""

    def run(*arguments: object) -> str:
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert (status, captured.out) == (2, "")
        assert captured.err.startswith("xtc: error: ")
        assert captured.err.count("\n") == 1
        return captured.err.removeprefix("xtc: error: ").rstrip("\n")

    return run


def test_compress_goes_on_where_it_was_and_prints_table_and_paths(done, tmp_path, xtc, monkeypatch):
    work = Path(shutil.copytree(done / "work", tmp_path / "work"))
    monkeypatch.setattr("xtc_jax.pipeline.stage.train", None)
    out = xtc("compress", f"--config={done / 'config.py'}", f"--workdir={work}")
    packed = json.loads((work / "results.json").read_text())["packed"]
    assert f"packed model: {work / 'packed'} ({packed['bytes']:,} bytes, {packed['ratio']:.1f} times smaller)" in out
    assert f"report: {work / 'report.html'} (for a browser), report.md" in out
    assert (work / "report.html").is_file()
    assert out.count("│ quantized") == 1
    *_, heading, one, two, three = out.splitlines()
    assert heading == "quantized, on some of the validation data (the label in brackets):"
    assert all(" (negative): " in line or " (positive): " in line for line in (one, two, three))


def test_after_sigterm_compress_exits_with_75_and_says_how_to_go_on(done, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(pipeline, "run", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["compress", f"--config={done / 'config.py'}", f"--workdir={tmp_path}"]) == 75
    assert capsys.readouterr().err == "xtc: stopped by SIGTERM; run the same command again to go on\n"


def test_the_config_of_checkpoints_and_traces_reaches_the_run(done, tmp_path, monkeypatch):
    runs = []

    def train(run, *_):
        runs.append(run)
        raise UserError("enough")

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", train)
    values = ("checkpoint.minutes=0.5", "checkpoint.keep=3", "profile=(10, 5)")
    given = [f"--config={done / 'config.py'}", f"--workdir={tmp_path / 'work'}", *(f"--config.{value}" for value in values)]
    assert main(["compress", *given]) == 2
    assert runs[0].upkeep == Upkeep(save_minutes=0.5, keep=3, profile=(10, 5))
    record = json.loads((tmp_path / "work" / "teacher" / "config.json").read_text())
    assert set(record.pop("data_digest")) == {"train", "validation"}  # a checkpoint has digests of its own
    assert record == runs[0].config
    assert not {"checkpoint", "profile"} & runs[0].config.keys()  # a run may go on with others


def test_predict_takes_texts_as_arguments(model, xtc):
    lines = xtc("predict", model, "a bright lamp .", "a dull , cold kettle").splitlines()
    assert [line.split("\t")[2] for line in lines] == ["a bright lamp .", "a dull , cold kettle"]
    for line in lines:
        label, value, _ = line.split("\t")
        assert label in ("negative", "positive")
        assert 0.5 <= float(value) <= 1


def feed(monkeypatch, content):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["", "byte order mark"])
def test_predict_reads_lines_from_standard_input_as_it_does_arguments(model, xtc, monkeypatch, end, mark):
    feed(monkeypatch, mark + b"a bright lamp ." + end + b"a dull , cold kettle" + end)
    assert xtc("predict", model) == xtc("predict", model, "a bright lamp .", "a dull , cold kettle")


def test_predict_answers_every_line_of_its_input_with_one_line_a_blank_one_with_a_blank_one(model, xtc, monkeypatch):
    content = "a bright lamp .\n\n \t\na dull\u2028kettle\x85\n".encode()
    feed(monkeypatch, content)
    lines = xtc("predict", model).split("\n")
    assert [line.split("\t")[2:] for line in lines] == [["a bright lamp ."], [], [], ["a dull\u2028kettle\x85"], []]
    feed(monkeypatch, content)
    answers = [json.loads(line) for line in xtc("predict", model, "--json").split("\n")[:-1]]
    assert [answer["text"] for answer in answers] == ["a bright lamp .", "", " \t", "a dull\u2028kettle\x85"]
    assert [answer["label"] is None for answer in answers] == [False, True, True, False]
    assert answers[1] == {"text": "", "label": None, "value": None, "probabilities": {}}


@pytest.mark.parametrize("content", ["a lamp\na café\n".encode("latin-1"), b"a lamp\n" + "a lamp\n".encode("utf-16")])
def test_predict_refuses_standard_input_that_is_not_utf_8_by_its_line(model, refused, monkeypatch, content):
    feed(monkeypatch, content)
    assert refused("predict", model) == "standard input: line 2 is not UTF-8; convert it, for example with iconv"


def test_predict_refuses_an_argument_that_is_not_utf_8_by_its_number(model, refused):
    assert refused("predict", model, "a lamp", "caf\udce9") == "input 2 is not UTF-8"


def test_predict_prints_json_lines(model, xtc):
    (line,) = xtc("predict", model, "--json", "a bright lamp .").splitlines()
    answer = json.loads(line)
    assert set(answer) == {"text", "label", "value", "probabilities"}
    assert answer["value"] == answer["probabilities"][answer["label"]] == max(answer["probabilities"].values())
    assert sum(answer["probabilities"].values()) == pytest.approx(1, rel=0, abs=5e-7)


def test_predict_wants_as_many_texts_as_the_task_has(model, refused):
    assert refused("predict", model, "a lamp\ta kettle").startswith("input 1 has 2 text(s); this model takes 1")


def test_predict_splits_a_pair_at_its_tab(done, tmp_path, xtc):
    pair = Path(shutil.copytree(done / "work" / "packed", tmp_path / "pair"))
    raw = json.loads((pair / "config.json").read_text())
    raw["task"]["text"] = ["left", "right"]
    (pair / "config.json").write_text(json.dumps(raw))
    one, other = (json.loads(xtc("predict", f"--model={pair}", "--json", f"a lamp\t{text}")) for text in ("dull", "bright"))
    assert one["text"] == "a lamp\tdull"
    assert one["probabilities"] != other["probabilities"]


def test_predict_without_any_text_is_refused(model, refused, monkeypatch):
    feed(monkeypatch, b"\n")
    assert refused("predict", model) == "no text: give it as arguments or on standard input"


def test_evaluate_finds_exactly_the_metrics_of_the_results(done, model, xtc):
    expected = json.loads((done / "work" / "results.json").read_text())["packed"]["metrics"]
    assert json.loads(xtc("evaluate", model, f"--data={done / 'data'}", "--json")) == {"examples": 30, "metrics": expected}
    line = xtc("evaluate", model, f"--data={done / 'data' / 'validation.parquet'}")
    assert line == f"custom: 30 examples, accuracy {expected['accuracy']:.4f}\n"


def test_evaluate_takes_another_split(done, model, xtc):
    assert json.loads(xtc("evaluate", model, f"--data={done / 'data'}", "--split=train", "--json"))["examples"] == 64


def test_evaluate_refuses_another_task_than_the_models(done, model, refused):
    assert "'custom', not 'sst2'" in refused("evaluate", model, f"--data={done / 'data'}", "--task=sst2")


@pytest.fixture
def sst2(done, tmp_path):
    """The packed model under the name of a GLUE task, and a directory with its test split."""
    packed = Path(shutil.copytree(done / "work" / "packed", tmp_path / "sst2_model"))
    raw = json.loads((packed / "config.json").read_text())
    raw["task"]["name"] = "sst2"
    (packed / "config.json").write_text(json.dumps(raw))
    toy.write_table(tmp_path / "test.csv", {"idx": [4, 2], "sentence": ["a bright lamp", "a dull lamp"], "label": [-1, -1]})
    return f"--model={packed}", f"--data={tmp_path}"


def test_evaluate_writes_the_files_of_the_glue_site(sst2, tmp_path, xtc):
    file, answers = tmp_path / "out" / "SST-2.tsv", xtc("predict", sst2[0], "a bright lamp", "a dull lamp").splitlines()
    assert xtc("evaluate", *sst2, f"--submission={file.parent}") == f"{file}: 2 predictions\n"
    ids = [["negative", "positive"].index(line.split("\t")[0]) for line in answers]
    assert file.read_text() == f"index\tprediction\n4\t{ids[0]}\n2\t{ids[1]}\n"
    again = tmp_path / "again"
    assert json.loads(xtc("evaluate", *sst2, f"--submission={again}", "--json")) == {"files": {str(again / "SST-2.tsv"): 2}}


def test_evaluate_never_writes_over_a_submission(sst2, tmp_path, refused):
    (tmp_path / "SST-2.tsv").write_text("mine")
    message = refused("evaluate", *sst2, f"--submission={tmp_path}")
    assert message == f"{tmp_path / 'SST-2.tsv'}: exists already; choose another directory for --submission"
    assert (tmp_path / "SST-2.tsv").read_text() == "mine"


def test_evaluate_has_no_submission_for_a_task_of_ones_own(done, model, tmp_path, refused):
    assert "'custom' is not of GLUE" in refused(
        "evaluate", model, f"--data={done / 'data'}", f"--submission={tmp_path / 'out'}"
    )
    assert not (tmp_path / "out").exists()


def test_inspect_accounts_for_every_byte_of_the_file(done, xtc):
    packed = done / "work" / "packed"
    account = json.loads(xtc("inspect", packed, "--json"))
    assert account["bytes"] == (packed / WEIGHTS).stat().st_size
    assert account["header"] + sum(tensor["total"] for tensor in account["tensors"]) == account["bytes"]
    assert {tensor["bits"] for tensor in account["tensors"]} == {1, 16}


def test_inspect_shows_every_tensor_and_the_total(done, xtc):
    packed = done / "work" / "packed"
    account, table = json.loads(xtc("inspect", packed, "--json")), xtc("inspect", packed)
    assert [tensor["name"] for tensor in account["tensors"] if tensor["name"] not in table] == []
    assert f"{account['bytes']:,}" in table


def test_the_version_and_the_help_are_printed(capsys):
    for option, text in (("--version", __version__), ("--help", "compress")):
        with pytest.raises(SystemExit) as stop:
            main([option])
        assert stop.value.code == 0
        assert text in capsys.readouterr().out


def test_an_interrupt_says_how_to_go_on(done, tmp_path, capsys, monkeypatch):
    def train(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", train)
    assert main(["compress", f"--config={done / 'config.py'}", f"--workdir={tmp_path / 'work'}"]) == 130
    assert capsys.readouterr().err.endswith("xtc: interrupted; run the same command again to go on\n")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (TimeoutError("Timeout waiting at barrier 'save'"), 76, "lost another one (Timeout waiting at barrier 'save')"),
        (RuntimeError("Gloo AllGather failed"), 76, "lost another one (Gloo AllGather failed)"),
        (OSError(errno.ENOSPC, "No space left on device", "/disk"), 2, "xtc: error: /disk: No space left on device"),
        (RuntimeError("RESOURCE_EXHAUSTED"), 1, "RuntimeError: RESOURCE_EXHAUSTED"),
    ],
)
def test_one_of_several_processes_ends_with_a_status_that_tells_its_own_failure_from_the_loss_of_another(
    done, tmp_path, capsys, monkeypatch, error, status, said
):
    """Launchers start all again after 76 and nothing after 1 or 2, so it matters what an error is taken for."""

    def train(*_):
        raise error

    monkeypatch.setattr("xtc_jax.pipeline.stage.train", train)
    monkeypatch.setattr("jax.distributed.is_initialized", lambda: True)
    left: list[int] = []
    monkeypatch.setattr("xtc_jax.parallel.leave", left.append)
    main(["compress", f"--config={done / 'config.py'}", f"--workdir={tmp_path / 'work'}"])
    assert left == [status]
    assert said in capsys.readouterr().err


# What bad input does. `world` is a directory with config.py, model and data of its own, and each case breaks one thing.


@pytest.fixture
def world(done, tmp_path):
    root = tmp_path / "world"
    for name in ("model", "data"):
        shutil.copytree(done / name, root / name)
    toy.write_config_file(root / "config.py", root / "model", root / "data")
    return root


def remove_model(root):
    shutil.rmtree(root / "model")


def make_it_roberta(root):
    raw = json.loads((root / "model" / "config.json").read_text())
    (root / "model" / "config.json").write_text(json.dumps({**raw, "model_type": "roberta"}))


def make_config_no_json(root):
    (root / "model" / "config.json").write_text('{"model_type": ')


def change_a_shape(root):
    tensors = load_file(root / "model" / WEIGHTS)
    tensors["encoder.layer.1.output.dense.weight"] = np.zeros((32, 63), np.float32)
    save_file(tensors, root / "model" / WEIGHTS)


def drop_a_tensor(root):
    tensors = load_file(root / "model" / WEIGHTS)
    del tensors["encoder.layer.1.output.dense.weight"]
    save_file(tensors, root / "model" / WEIGHTS)


def truncate_the_weights(root):
    os.truncate(root / "model" / WEIGHTS, 5000)


def remove_the_tokenizer(root):
    (root / "model" / "tokenizer.json").unlink()


def rename_the_text_column(root):
    (root / "data" / "train.parquet").unlink()
    toy.write_table(root / "data" / "train.csv", {"phrase": ["a lamp"], "label": [0]})


def put_a_label_out_of_range(root):
    (root / "data" / "validation.parquet").unlink()
    toy.write_table(root / "data" / "validation.csv", {"sentence": ["a lamp", "a kettle"], "label": [0, 2]})


def empty_the_data_file(root):
    (root / "data" / "train.parquet").unlink()
    (root / "data" / "train.csv").write_text("")


def leave_only_the_header(root):
    (root / "data" / "train.parquet").unlink()
    (root / "data" / "train.csv").write_text("sentence,label\n")


def remove_the_data(root):
    (root / "data" / "train.parquet").unlink()


def nothing(root):
    pass


CASES = [
    (remove_model, (), "world/model: no such model directory"),
    (make_it_roberta, (), "model_type is 'roberta', not 'bert'"),
    (make_config_no_json, (), "config.json: not a JSON file"),
    (change_a_shape, (), "tensor encoder.layer.1.output.dense.weight has shape (32, 63), config.json asks for (32, 64)"),
    (drop_a_tensor, (), "missing encoder.layer.1.output.dense.weight"),
    (truncate_the_weights, (), "model.safetensors: damaged or truncated"),
    (remove_the_tokenizer, (), "no tokenizer.json and no vocab.txt"),
    (rename_the_text_column, (), "train.csv: no column 'sentence'; it has phrase, label"),
    (put_a_label_out_of_range, (), "validation.csv: row 2, column 'label': label '2' is outside the task's range"),
    (empty_the_data_file, (), "train.csv: the file is empty"),
    (leave_only_the_header, (), "train.csv: the file holds no examples"),
    (remove_the_data, (), "world/data: no train data"),
    (nothing, ("--config.task=sst3", "--config.data.text=()"), "unknown task 'sst3'"),
    (nothing, ("--config.typo=1",), "typo"),
    (nothing, ("--config.seed=many",), "many"),
    (nothing, ("--config.quantize.weight_bits=9",), "config.quantize: the rule set: 9 bits are not offered; use 1 to 8"),
    (nothing, ("--config.quantize.extra_rules=('no_such=1',)",), "quantization rule 'no_such' matches no parameter"),
    (nothing, ("--config.reduce.layers=(1,9)",), "config.reduce.layers=(1, 9)"),
    (nothing, ("--config.reduce.layers=some",), "use a list such as 1,3,5, or every_other, first(n), last(n), evenly(n)"),
    (nothing, ("--config.reduce.loss.atention=1",), "the config has no key 'atention'; it has attention, attention_norm"),
    (nothing, ("--config.stages=('teacher','polish')",), "there is no config.polish that is a stage (there are: "),
    (
        nothing,
        ("--config.quantize.quantizer=ternery",),
        "unknown quantizer 'ternery'; use one of binary, binary_centred, ternary",
    ),
    (nothing, ("--config.quantize.activation_bits=5",), "activations of 5 bits are not offered; use 8, 4 or 32 (off)"),
    (
        nothing,
        ("--config.quantize.activation_range=batch",),
        "config.quantize.activation_range='batch'; use one of token, tensor, static",
    ),
    (
        nothing,
        ("--config.quantize.bit_schedule=2@0>4@5>1@9",),
        "the schedule goes from 2@0 to 4@5; steps must rise and bits fall",
    ),
    (nothing, ("--config.quantize.granularity=7",), "groups of 7 do not divide"),
    (nothing, ("--config.quantize.split=True",), "config.quantize.split=True needs weight_bits=1 and an init of weight_bits=2"),
    (nothing, ("--config.compute_dtype=float16",), "config.compute_dtype='float16'; use one of float32, bfloat16"),
    (
        nothing,
        ("--config.teacher_cache=plenty",),
        "config.teacher_cache='plenty' is no size; use auto, off or a size such as 2GB",
    ),
    (nothing, ("--config.teacher_cache_dtype=int8",), "config.teacher_cache_dtype='int8'; use one of float32, bfloat16"),
    (nothing, ("--confg.seed=1",), "--confg.seed=1: not understood"),
]


@pytest.mark.parametrize(
    ("harm", "overrides", "message"), CASES, ids=[(h.__name__ if h is not nothing else o[0]) for h, o, _ in CASES]
)
def test_bad_input_is_one_line_and_writes_nothing(world, tmp_path, refused, harm, overrides, message):
    harm(world)
    before = contents(world)
    assert message in refused("compress", f"--config={world / 'config.py'}", f"--workdir={tmp_path / 'work'}", *overrides)
    assert contents(world) == before
    assert not (tmp_path / "work").exists()


def test_a_workdir_of_another_config_is_refused_and_left_as_it_is(done, refused):
    before = contents(done / "work")
    message = refused("compress", f"--config={done / 'config.py'}", f"--workdir={done / 'work'}", "--config.reduce.steps=9")
    assert "stage 'reduce' was made with another config (reduce.steps: 20 then, 9 now)" in message
    assert contents(done / "work") == before


def test_a_workdir_that_is_a_file_is_refused_and_left_as_it_is(done, tmp_path, capsys):
    (tmp_path / "work").write_text("mine")
    assert main(["compress", f"--config={done / 'config.py'}", f"--workdir={tmp_path / 'work'}"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"xtc: error: {tmp_path / 'work'}")
    assert (tmp_path / "work").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("shrink",), "invalid choice: 'shrink'"),
        (("compress", "--config=a.py"), "the following arguments are required: --workdir"),
        (("compress", "--config=no_such.py", "--workdir=w"), "no_such.py: no such config file"),
        (("predict", "--model=no/such", "--loud", "text"), "unrecognized arguments: --loud"),
        (("predict", "--model=no/such", "text"), "no/such: no such model directory"),
        (("predict", "text"), "the following arguments are required: --model"),
        (("evaluate", "--model=no/such", "--data=d"), "no/such: no such model directory"),
        (("inspect", "no/such"), "no/such: no such model directory"),
        (("convert", "./no/such", "new"), "./no/such: no such model directory"),
        (("convert", "a", "b", "--to=onnx"), "invalid choice: 'onnx'"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused(*arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_packed_is_refused(done, refused):
    assert "not a packed model" in refused("predict", f"--model={done / 'model'}", "text")


def test_evaluate_refuses_data_without_the_models_columns(model, tmp_path, refused):
    file = toy.write_table(tmp_path / "other.csv", {"phrase": ["a lamp"], "label": [0]})
    assert refused("evaluate", model, f"--data={file}") == f"{file}: no column 'sentence'; it has phrase, label"


def test_convert_writes_a_new_directory_and_says_what_is_in_it(done, tmp_path, xtc):
    target = tmp_path / "new"
    assert xtc("convert", done / "model", target) == f"{target}: 71 tensors, 4 layers of 32\n"
    original, copy = load_file(done / "model" / WEIGHTS), load_file(target / WEIGHTS)
    assert {name: value.tobytes() for name, value in copy.items()} == {name: v.tobytes() for name, v in original.items()}


@pytest.mark.parametrize("form", ["huggingface", "flax"])
def test_convert_never_writes_over_what_exists(done, tmp_path, refused, form):
    target = tmp_path / "mine"
    target.mkdir()
    (target / "notes.txt").write_text("keep")
    message = refused("convert", done / "model", target, f"--to={form}")
    assert message == f"{target}: exists already; choose a new directory"
    assert [path.name for path in target.iterdir()] == ["notes.txt"]


def test_the_process_prints_one_line_and_exits_with_2(world, tmp_path):
    """As a user runs it: nothing from below Python on standard error either."""
    truncate_the_weights(world)
    command = [
        sys.executable,
        "-m",
        "xtc_jax.cli",
        "compress",
        f"--config={world / 'config.py'}",
        f"--workdir={tmp_path / 'w'}",
    ]
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("xtc: error: ")

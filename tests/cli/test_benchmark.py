"""xtc benchmark: the arithmetic of its timings and rooflines, a whole run of each kind, and what it refuses."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from toy import FULL_SIZE, params

from xtc_jax.benchmark import timing
from xtc_jax.benchmark.device import environment, integer_unit, label, peaks
from xtc_jax.benchmark.encoder import measure_encoder, roofline
from xtc_jax.benchmark.epoch import measure_epoch
from xtc_jax.benchmark.matmul import measure_matmul
from xtc_jax.benchmark.results import Benchmark, markdown
from xtc_jax.benchmark.timing import Timing, interleave, ratio
from xtc_jax.bert import BertConfig, apply
from xtc_jax.cli.main import main
from xtc_jax.devices import Peaks
from xtc_jax.errors import UserError


def test_a_ratio_is_the_median_of_paired_rounds_so_that_a_slow_minute_hits_both_sides():
    fast, slow = Timing((1.0, 10.0, 1.0)), Timing((2.0, 20.0, 2.5))
    assert ratio(slow, fast) == 2.0
    assert (slow.median, slow.best) == (2.5, 2.0)


def test_contestants_take_turns_and_every_second_round_backwards(monkeypatch):
    monkeypatch.setattr(timing, "_SHORTEST", 0.0)
    calls = []
    found = interleave({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "aabb" + "ab" + "ba" + "ab"
    assert {name: len(each.seconds) for name, each in found.items()} == {"a": 3, "b": 3}


def test_a_call_too_short_for_the_clock_is_repeated(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(ticks) * 0.001)  # every reading is 1 ms later
    calls = []
    found = interleave({"a": lambda: calls.append(1)}, rounds=1)
    assert len(calls) == 2 + 5  # compile, warm up, then 5 ms of calls that took 1 ms
    assert found["a"].seconds == (0.001 / 5,)


@pytest.mark.parametrize(("operations", "moved", "seconds"), [(2e12, 1e9, 2.0), (1e12, 5e9, 5.0)])
def test_the_roofline_is_the_longer_of_arithmetic_and_traffic(operations, moved, seconds):
    assert Peaks({"int8": 1e12}, 1e9, "").seconds("int8", operations, moved) == seconds


def test_the_roofline_of_bert_base_counts_its_85_million_weights_and_the_products_of_its_attention():
    best = Peaks({"int8": 1e12, "float32": 1e11}, 1e9, "")
    linears, attention = 2 * 128 * 84_934_656 / 1e12, 4 * 12 * 128 * 128 * 768 / 1e11
    assert roofline(BertConfig(), 1, 128, best) == linears + attention
    assert roofline(BertConfig(), 1, 1, best) == 84_934_656 / 4 / 1e9 + 4 * 12 * 768 / 1e11  # the codes' bytes


def test_a_cpu_is_measured_and_an_unknown_device_has_no_peaks():
    here = peaks(jax.devices()[0])
    assert here.source.startswith("measured")
    assert min(here.bandwidth, *here.operations.values()) > 1e6

    class Unknown:
        platform, device_kind = "gpu", "Voodoo 2"

    class Hopper:
        platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    assert peaks(Unknown()) is None
    assert (peaks(Hopper()).bandwidth, peaks(Hopper()).operations["int8"]) == (3.35e12, 1979e12)


def test_the_environment_says_what_the_numbers_were_taken_on():
    found = environment(jax.devices()[0])
    assert found["device"] == "cpu"
    assert found["jax"] == jax.__version__
    assert found["cores"] >= 1


@pytest.mark.parametrize(
    ("flags", "unit"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni amx_int8", "amx"),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", "vnni"),
        ("flags\t\t: fpu avx2 avx_vnni", "vnni"),
        ("flags\t\t: fpu sse4_2 avx2", "avx2"),
        ("Features\t: fp asimd asimddp i8mm", "i8mm"),
        ("Features\t: fp asimd asimddp", "dotprod"),
        ("flags\t\t: fpu sse2\nvmx flags\t: avx2", ""),
        ("", ""),
    ],
)
def test_results_of_processors_that_multiply_integers_otherwise_go_into_files_of_their_own(flags, unit):
    assert integer_unit(f"processor\t: 0\n{flags}\n") == unit


def test_an_accelerator_is_labelled_by_its_name():
    class Hopper:
        platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"

    assert label(Hopper()) == "NVIDIA_H100_80GB_HBM3"


def test_what_was_not_measured_is_an_empty_cell():
    found = Benchmark(
        "n", "t", "c", {}, ("M", "ours", "roofline"), ({"M": 8, "ours": 1234.5, "roofline": None},), ("ours",), "s"
    )
    assert markdown(found) == "| M | ours | roofline |\n| ---: | ---: | ---: |\n| 8 | 1234 |  |\n"


@pytest.mark.slow
def test_every_product_is_checked_and_timed_beside_its_rivals():
    said = []
    found = measure_matmul(said.append, "xtc benchmark matmul", shapes=((300, 40),), tokens=(4,), backend="xla", rounds=1)
    assert said == ["matmul: 4 x 300 times 300 x 40"]
    assert [(row["K"], row["N"], row["M"], row["bits"], row["backend"]) for row in found.rows] == [
        (300, 40, 4, 1, "xla"), (300, 40, 4, 2, "xla")
    ]  # fmt: skip
    times = ("ours", "unpacked each call", "XLA bfloat16", "XLA int8", "float32", "roofline")
    assert all(row[name] > 0 for row in found.rows for name in (*times, "x XLA bfloat16", "x XLA int8", "x float32"))


def test_a_backend_that_does_not_serve_the_device_is_refused():
    with pytest.raises(UserError, match=r"--backend=mosaic_tpu: no backend multiplies this weight on cpu: mosaic_tpu: no TPU"):
        measure_matmul(lambda line: None, "", shapes=((256, 128),), tokens=(8,), backend="mosaic_tpu", rounds=1)


@pytest.mark.slow
def test_the_packed_encoder_is_timed_beside_its_float_forms_and_what_is_missing_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = measure_encoder(lambda line: None, "", FULL_SIZE, sizes=((1, 8),), rounds=1)
    (row,) = found.rows
    assert {"ours 2 bit", "ours 1 bit", "ours float32", "ours bfloat16", "x ours float32"} <= row.keys()
    assert "ONNX Runtime int8" not in row
    assert "ONNX Runtime is not installed: pip install 'xtc_jax[benchmark]'." in found.notes
    assert 0 < row["roofline"] < row["ours 2 bit"]


@pytest.mark.slow
@pytest.mark.onnx
def test_the_exported_model_is_timed_beside_the_int8_of_onnx_runtime():
    found = measure_encoder(lambda line: None, "", FULL_SIZE, sizes=((1, 8),), rounds=1)
    (row,) = found.rows
    assert row["exported 1 bit"] > 0
    assert row["exported x ONNX Runtime int8"] == pytest.approx(row["ONNX Runtime int8"] / row["exported 1 bit"], rel=1e-12)
    assert set(row) == set(found.columns)


@pytest.mark.onnx
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_model_given_to_onnx_runtime_computes_ours(rng, activation):
    from dataclasses import replace

    from xtc_jax.benchmark.onnx_encoder import onnx_model, session

    config = replace(FULL_SIZE, hidden_act=activation)
    ids = rng.integers(0, config.vocab_size, (3, 9)).astype(np.int32)
    types, mask = (ids % 2).astype(np.int32), (np.arange(9) < np.array([[9], [5], [1]])).astype(np.int32)
    ours = apply(config, params(config), *map(jnp.asarray, (ids, types, mask))).logits
    theirs = session(onnx_model(config, jax.tree.map(np.asarray, params(config))))(ids, types, mask)
    np.testing.assert_allclose(theirs, ours, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_an_epoch_of_real_lengths_is_timed_with_the_teacher_and_without(tmp_path):
    toy.write_model(tmp_path / "model")
    toy.write_sentiment(tmp_path / "data")
    found = measure_epoch(lambda line: None, "", str(tmp_path / "data"), model=str(tmp_path / "model"), batches=2, rounds=1)
    ours, first, torch = found.rows
    assert ours["what"] == "ours, later epochs"
    assert first["what"] == "ours, first epoch"
    assert ours["x"] == 1
    assert ours["examples per second"] == pytest.approx(64 / (2 * ours["milliseconds"] / 1e3))
    assert torch == {"what": "PyTorch, DeepSpeed 0.16.4: not measured, --torch-python"}
    assert "over 64 training examples of sst2" in found.notes[0]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json_and_a_picture(tmp_path, capsys):
    words = ["benchmark", "matmul", "--shape", "64x32", "--m", "2", "--rounds=1", f"--out={tmp_path / 'results'}"]
    assert main(words) == 0
    assert "packed matmul on cpu" in capsys.readouterr().out
    name = f"matmul_{label(jax.devices()[0])}"
    found = json.loads((tmp_path / "results" / f"{name}.json").read_text())
    assert found["environment"]["device"] == "cpu"
    assert len(found["rows"]) == 2
    assert (tmp_path / "results" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("words", "complaint"), [
    (("speed",), "argument kind: invalid choice: 'speed'"),
    (("matmul", "--shape", "768"), "--shape=768: write two positive numbers with an x between, such as 768x3072"),
    (("encoder", "--size", "0x8"), "--size=0x8: write two positive numbers"),
    (("matmul", "--m", "0"), "--m=0 must be at least 1"),
    (("matmul", "--rounds", "-1"), "--rounds=-1 must be at least 1"),
    (("matmul", "--backend", "cublas", "--shape", "64x32", "--m", "1"), "--backend=cublas: backend 'cublas' is not known;"),
    (("encoder", "--out", "/dev/null/results"), "/dev/null"),
    (("epoch", "--task", "mrpc"), "--task=mrpc: texts of this task are pairs; name one of single texts, such as sst2 or cola"),
    (("train", "--torch-python", "/no/such/python"), "--torch-python=/no/such/python: no such"),
])  # fmt: skip
def test_a_mistake_is_one_line_and_status_2(words, complaint, capsys):
    assert main(["benchmark", *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("matmul:")]
    assert line.startswith("xtc: error: ")
    assert complaint in line

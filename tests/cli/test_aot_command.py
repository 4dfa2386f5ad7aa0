"""``xtc aot``: what it prints, refuses and compiles; TPUs in processes of their own."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy

from xtc_jax.aot.models import PRESETS
from xtc_jax.bert import BertConfig
from xtc_jax.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> str:
    """A toy recipe whose data set and weights are not there."""
    root = tmp_path_factory.mktemp("aot")
    model = toy.write_model(root / "model")
    (model / "model.safetensors").unlink()
    return f"--config={toy.write_config_file(root / 'config.py', model, root / 'nowhere')}"


@pytest.fixture
def aot(config, capsys):
    """Run the command; returns its status, its output and its errors."""

    def run(*arguments):
        capsys.readouterr()
        status = main(["aot", config, *arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


def test_a_step_is_lowered_for_gpus_with_neither_data_nor_weights(aot):
    status, out, _ = aot("--topology=h100:4", "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["stage"], found["devices"], found["batch_size"], found["length"]) == ("quantize", 4, 8, 16)
    assert (found["arithmetic"], found["compiled"], found["fits"]) == ("int8", False, True)
    shape = toy.shape(4)
    tables = (shape.vocab_size + shape.max_position_embeddings + shape.type_vocab_size + 2) * 32
    layer = 4 * (32 * 32 + 32) + (32 * 64 + 64) + (64 * 32 + 32) + 2 * 64
    rest = 32 * 32 + 32 + 2 * 32 + 2
    student, teacher = (4 * (tables + layers * layer + rest) for layers in (2, 4))
    batch = 2 * (3 * 4 * 16 + 4 + 1 + 4)  # two rows of three arrays of 16 tokens, label, valid, index
    scalars = 4 + 4 + 8  # step, optimizer's count, key
    assert found["memory"]["arguments"] == 3 * student + teacher + batch + scalars
    assert found["collectives"][0]["kind"] == "all-reduce"
    assert found["collectives"][0]["bytes"] == student


def test_another_stage_batch_length_and_mesh_are_chosen_by_options_and_keys(aot):
    options = ("--stage=teacher", "--length=12", "--batch-per-chip=4", "--config.mesh=(1,2,1)", "--config.teacher.accumulate=2")
    status, out, _ = aot("--topology=h100:2", *options, "--json")
    found = json.loads(out)
    assert status == 0
    assert (found["stage"], found["batch_size"], found["length"], found["accumulate"]) == ("teacher", 8, 12, 2)
    assert found["mesh"] == {"data": 1, "fsdp": 2, "tensor": 1}
    assert {each["kind"] for each in found["collectives"]} == {"all-gather", "reduce-scatter", "all-reduce"}


def test_a_length_that_is_left_to_the_data_must_be_given(aot):
    status, _, err = aot("--topology=cuda", "--config.data.max_length=0", "--config.data.buckets=()")
    assert status == 2
    assert "config.data.max_length=0 leaves the length to the data, which is not read here; give --length" in err


def test_the_table_says_what_is_needed_what_binds_and_that_nothing_was_compiled(aot):
    _, out, _ = aot("--topology=cuda")
    for text in (
        "quantize on h100:8",
        "arguments",
        "needed",
        "int8 products",
        "all-reduce over 8",
        "<- binding",
        "not compiled",
    ):
        assert text in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology=v9:2x2",), "--topology=v9:2x2: unknown; write GENERATION:SHAPE (v4: 2x2x1,"),
        (("--topology=v5e-7",), "--topology=v5e-7: unknown"),
        (("--topology=cuda", "--config.mesh=(3,1,1)"), "config.mesh=(3, 1, 1) does not multiply to the 8 devices"),
        (("--topology=h100:3",), "config.teacher.batch_size=8 is not a multiple of the 3 devices"),
        (("--topology=cuda", "--stage=export"), "--stage=export: no such stage; use one of teacher, reduce, quantize"),
        (("--topology=cuda", "--length=600"), "--length=600 is not between 1 and the 32 positions"),
        (("--topology=cuda", "--model=bert-giant"), "--model=bert-giant: its config.json is not here"),
        (("--topology=cuda", "--config.quantise=1"), "the config has no key 'quantise'"),
        (("--topology=cuda", "--config.quantize.epochs=0", "--config.quantize.steps=0"), "config.quantize has 0 epochs"),
        (("--topology=cuda", "--batch-per-chip=-1"), "--batch-per-chip=-1 must be at least 1"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(aot, arguments, message):
    status, out, error = aot(*arguments)
    assert (status, out, error.count("\n")) == (2, "", 1)
    assert message in error


def test_without_libtpu_it_says_how_to_install_it(aot, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert aot("--topology=v5e:2x2")[::2] == (
        2,
        "xtc: error: libtpu, the compiler of TPUs, is not installed; it needs no TPU: pip install libtpu\n",
    )


def compiled(*arguments):
    """What the command prints for one-bit distillation of a BERT-base, 12 layers to 6, 32 x 128 on every chip."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS")
    words = ["aot", "--config=configs/glue.py:sst2", "--batch-per-chip=32", "--json", *arguments]
    command = [sys.executable, "-m", "xtc_jax.cli", *words]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    return json.loads(run.stdout)


STUDENT = 4 * (109_483_778 - 6 * 7_087_872)
"""Bytes of a BERT-base of two classes without six of its layers: what a step must reduce over the devices."""


def check(found, chips):
    assert (found["devices"], found["batch_size"], found["length"]) == (chips, 32 * chips, 128)
    assert (found["arithmetic"], found["stage"]) == ("int8", "quantize")
    assert found["memory"]["available"] == 16 * 2**30
    assert found["fits"]
    assert found["memory"]["needed"] < 4 * 2**30
    assert found["memory"]["arguments"] > 3 * STUDENT + 4 * 109_483_778
    assert [(each["kind"], each["group"]) for each in found["collectives"]] == [("all-reduce", chips)]
    gradients = STUDENT - 4 * (512 - 128) * 768  # positions beyond the length have none
    assert gradients < found["collectives"][0]["bytes"] < gradients + 2**14
    # 85 million weights, 12 layers forward and 6 forward and back twice; attention's two products and the rest are under 6 %.
    products = 2 * 32 * 128 * 7_077_888 * (12 + 6 * 3)
    assert products < sum(found["operations"].values()) < 1.06 * products
    bound = found["bound"]
    assert bound["seconds"] == max(bound["compute"], bound["hbm"], bound["interconnect"])
    assert found["examples_per_second"] == 32 * chips / bound["seconds"]


@pytest.mark.slow
@pytest.mark.libtpu
@pytest.mark.parametrize(("topology", "chips"), [("v5e:2x2", 4), ("v5e:16x16", 256)])
def test_the_step_of_a_bert_base_fits_into_v5e(topology, chips):
    # Without dropout and at O1: half a minute of processor time instead of ten. The program that trains is the next test's.
    check(compiled(f"--topology={topology}", "--quick", "--config.quantize.dropout=0"), chips)


@pytest.mark.slow
@pytest.mark.libtpu
def test_over_two_slices_the_gradient_is_summed_by_scatter_and_gather_within_each():
    found = compiled("--topology=v5e:2x2*2", "--quick", "--config.quantize.dropout=0")
    assert (found["devices"], found["batch_size"], found["fits"]) == (8, 256, True)
    assert {"reduce-scatter", "all-gather"} <= {each["kind"] for each in found["collectives"] if each["group"] == 4}
    assert not [each for each in found["collectives"] if each["group"] == 8]


@pytest.mark.minutes
@pytest.mark.libtpu
@pytest.mark.parametrize(("topology", "chips"), [("v5e:2x2", 4), ("v5e:16x16", 256)])
def test_the_step_that_trains_a_bert_base_fits_into_v5e(topology, chips):
    check(compiled(f"--topology={topology}"), chips)


def test_the_preset_of_a_bert_base_is_the_shape_of_the_paper():
    assert PRESETS["bert-base"] == BertConfig()

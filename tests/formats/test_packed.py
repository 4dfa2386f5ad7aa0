"""Packed model directories: what is saved is what is read, and what lies in the files. Damaged ones: test_damaged_packed.py."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from packed_files import CONFIG, QUERY, TASK, edit, make_model, model_of, replace_tensors
from packed_models import RULES
from safetensors.numpy import load_file

from xtc_jax.bert import with_head
from xtc_jax.data import GLUE, find_task
from xtc_jax.formats import WEIGHTS, PackedModel, file_account, load_packed, save_packed
from xtc_jax.kernels import BASE3, PLANES256, STORED_LAYOUTS, PackedTensor
from xtc_jax.quantize import ActivationSpec

WORDS = "embeddings/word_embeddings/weight"
CASES = [("deepspeed", 1), ("deepspeed", 2), ("paper-50x", 1), ("paper-50x", 2)]
PARTS = (("codes", "uint8"), ("scale", "float32"))


def assert_same(left, right):
    """Equal trees: structure (with every static field of a packed tensor), dtypes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.parametrize(("rules", "bits"), CASES)
def test_a_saved_model_is_read_back_with_equal_leaves(tmp_path, tokenizer, rules, bits):
    model = make_model(rules, bits)
    save_packed(tmp_path / "packed", model, tokenizer)
    found = load_packed(tmp_path / "packed")
    assert_same(found.params, model.params)
    assert (found.config, found.task, found.max_length) == (CONFIG, TASK, 5)


@pytest.mark.parametrize("make", [*RULES, "split", "partly split"])
def test_every_kind_of_leaf_is_read_back_equal_and_counted_to_the_byte(tmp_path, tokenizer, make):
    model = model_of(make)
    save_packed(tmp_path / "packed", model, tokenizer)
    assert_same(load_packed(tmp_path / "packed").params, model.params)
    entries, header, size = file_account(tmp_path / "packed")
    assert header + sum(entry.total for entry in entries) == size == (tmp_path / "packed" / WEIGHTS).stat().st_size
    assert [entry.total for entry in entries if entry.name.endswith("input_range")] in ([], [8] * 6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["2 bits", "2 bits, row scales", "3 bits"])
def test_base_3_is_the_same_model_in_fewer_bytes_counted_to_the_byte(tmp_path, tokenizer, kind):
    model = model_of(kind)
    for layout in STORED_LAYOUTS:
        save_packed(tmp_path / layout, model, tokenizer, layout)
    assert_same(load_packed(tmp_path / BASE3).params, model.params)
    entries, header, size = file_account(tmp_path / BASE3)
    assert header + sum(entry.total for entry in entries) == size == (tmp_path / BASE3 / WEIGHTS).stat().st_size
    named = {entry.name: entry for entry in entries}
    if kind == "3 bits":
        assert load_file(tmp_path / BASE3 / WEIGHTS).keys() == load_file(tmp_path / PLANES256 / WEIGHTS).keys()
        assert named[QUERY].bits == 4
    else:
        assert (named[QUERY].bits, named[QUERY].code_bytes) == (1.6, 12 * 3)
        assert size < file_account(tmp_path / PLANES256)[2]


def test_halves_ranges_and_zero_points_lie_under_their_paths(tmp_path, tokenizer):
    save_packed(tmp_path / "split", model_of("split"), tokenizer)
    tensors = load_file(tmp_path / "split" / WEIGHTS)
    module = QUERY.removesuffix("/weight")
    here = {name: value.dtype.name for name, value in tensors.items() if name.startswith(module)}
    codes = {f"{QUERY}/{half}.{part}": dtype for half in ("first", "second") for part, dtype in PARTS}
    assert here == {**codes, f"{module}/input_range": "float32", f"{module}/bias": "float16"}
    save_packed(tmp_path / "asymmetric", model_of("4 bits, asymmetric, static"), tokenizer)
    tensors = load_file(tmp_path / "asymmetric" / WEIGHTS)
    assert {part: tensors[f"{QUERY}.{part}"].shape for part in ("codes", "scale", "zero")} == {
        "codes": (12, 6),
        "scale": (12,),
        "zero": (12,),
    }


def test_a_directory_without_a_digest_loads_as_it_did(directory):
    edit(directory, quantization={"sha256": None})
    assert_same(load_packed(directory).params, make_model().params)


def test_the_config_says_only_what_is_not_usual(tmp_path, tokenizer):
    described = {}
    for name in ("8 bits", "float inputs", "4-bit inputs of one range", "4 bits, asymmetric, static"):
        save_packed(tmp_path / name, model_of(name), tokenizer)
        described[name] = json.loads((tmp_path / name / "config.json").read_text())["quantization"]["weights"][QUERY]
    assert described == {
        "8 bits": {"bits": 8, "shape": [12, 12], "activation_bits": 8},
        "float inputs": {"bits": 1, "shape": [12, 12], "activation_bits": None},
        "4-bit inputs of one range": {"bits": 1, "shape": [12, 12], "activation_bits": 4, "activation_range": "tensor"},
        "4 bits, asymmetric, static": {
            "bits": 4,
            "shape": [12, 12],
            "activation_bits": 8,
            "activation_range": "static",
            "activation_symmetric": False,
            "zero_points": True,
        },
    }


@pytest.mark.parametrize("activation_bits", [8, None])
def test_a_config_written_before_ranges_were_still_means_one_scale_per_token(directory, activation_bits):
    weights = json.loads((directory / "config.json").read_text())["quantization"]["weights"]
    old = {path: {"bits": 2, "shape": raw["shape"], "activation_bits": activation_bits} for path, raw in weights.items()}
    edit(directory, quantization={"weights": old})
    found = load_packed(directory).params["encoder"]["layer_0"]["attention"]["self"]["query"]["weight"]
    assert found.activation == (ActivationSpec(8, "token", symmetric=True) if activation_bits else None)
    assert found.zero is None


@pytest.mark.parametrize(
    "task",
    [
        GLUE["stsb"],
        GLUE["mnli"],
        find_task("custom", ("review",), "stars", ("1", "2", "3")),
        find_task("custom", ("a", "b"), regression=True),
    ],
    ids=["stsb", "mnli", "custom classes", "custom regression"],
)
def test_the_task_is_read_back(tmp_path, tokenizer, task):
    config = with_head(CONFIG, task.labels, task.regression)
    head = {"weight": jnp.ones((len(task.labels), 12)), "bias": jnp.zeros(len(task.labels))}
    model = PackedModel(config, {**make_model().params, "classifier": head}, task, 5)
    save_packed(tmp_path / "packed", model, tokenizer)
    assert load_packed(tmp_path / "packed").task == task


def test_a_directory_of_before_the_splits_were_written_still_loads(directory):
    edit(directory, task={"validation": None, "test": None})
    assert load_packed(directory).task == TASK


def test_the_directory_alone_is_complete_and_nothing_is_left_beside_it(tmp_path, directory, tokenizer):
    assert {path.name for path in directory.iterdir()} == {"config.json", WEIGHTS, "tokenizer.json"}
    assert set(tmp_path.iterdir()) == {directory, tokenizer}


def test_saving_replaces_the_directory_whole(directory, tokenizer):
    (directory / "stale").touch()
    save_packed(directory, make_model("deepspeed", 1), tokenizer)
    assert not (directory / "stale").exists()
    assert_same(load_packed(directory).params, make_model("deepspeed", 1).params)


def test_the_file_holds_codes_scales_and_floats_under_their_paths(directory):
    tensors = load_file(directory / WEIGHTS)
    described = {name: (tensors[name].dtype.name, tensors[name].shape) for name in tensors if "layer_0" not in name}
    assert described == {
        "embeddings/word_embeddings/weight.codes": ("uint8", (30, 3)),
        "embeddings/word_embeddings/weight.scale": ("float32", (30,)),
        "embeddings/position_embeddings/weight.codes": ("uint8", (6, 3)),
        "embeddings/position_embeddings/weight.scale": ("float32", (6,)),
        "embeddings/token_type_embeddings/weight.codes": ("uint8", (2, 3)),
        "embeddings/token_type_embeddings/weight.scale": ("float32", (2,)),
        "embeddings/LayerNorm/weight": ("float16", (12,)),
        "embeddings/LayerNorm/bias": ("float16", (12,)),
        "pooler/dense/weight.codes": ("uint8", (12, 3)),
        "pooler/dense/weight.scale": ("float32", (1,)),
        "pooler/dense/bias": ("float16", (12,)),
        "classifier/weight": ("float16", (2, 12)),
        "classifier/bias": ("float16", (2,)),
    }
    assert tensors["encoder/layer_0/output/dense/weight.codes"].shape == (12, 65)


@pytest.mark.parametrize(("rules", "bits"), CASES)
def test_the_account_adds_up_to_the_size_of_the_file(tmp_path, tokenizer, rules, bits):
    save_packed(tmp_path / "packed", make_model(rules, bits), tokenizer)
    entries, header, size = file_account(tmp_path / "packed")
    assert size == (tmp_path / "packed" / WEIGHTS).stat().st_size
    assert header + sum(entry.total for entry in entries) == size
    by_name = {entry.name: entry for entry in entries}
    assert (by_name[QUERY].bits, by_name[QUERY].code_bytes, by_name[QUERY].scale_bytes) == (bits, 12 * -(-12 * bits // 8), 4)
    assert (by_name[WORDS].bits, by_name[WORDS].scale_bytes) == (bits, 30 * 4)
    assert by_name["classifier/bias"].total == 2 * (2 if rules == "paper-50x" else 4)


def test_every_byte_is_a_legal_binary_code(tmp_path, tokenizer):
    model = make_model("paper-50x", 1)
    query = model.params["encoder"]["layer_0"]["attention"]["self"]["query"]["weight"]
    assert isinstance(query, PackedTensor)
    save_packed(tmp_path / "packed", model, tokenizer)
    codes = np.full(query.codes.shape, 0xFF, np.uint8)
    replace_tensors(tmp_path / "packed", **{f"{QUERY}.codes": codes})
    found = load_packed(tmp_path / "packed").params["encoder"]["layer_0"]["attention"]["self"]["query"]["weight"]
    np.testing.assert_array_equal(found.values(), np.ones((12, 12)))
    assert jax.tree.structure(found) == jax.tree.structure(query)

"""Packed model directories: what is saved is what is read, and what is damaged is refused by name."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy
from safetensors.numpy import load_file, save_file

from xtc_jax.bert import BertConfig, with_head
from xtc_jax.compress import pack
from xtc_jax.data import GLUE, find_task
from xtc_jax.errors import UserError
from xtc_jax.export import WEIGHTS, PackedModel, file_account, load_packed, save_packed
from xtc_jax.kernels import PackedTensor
from xtc_jax.quantize import named_rules

TASK = GLUE["mrpc"]
CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=12,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=260,  # one whole block of the layout and a rest
    max_position_embeddings=6,
    labels=TASK.labels,
)
QUERY = "encoder/layer_0/attention/self/query/weight"
WORDS = "embeddings/word_embeddings/weight"
CASES = [("deepspeed", 1), ("deepspeed", 2), ("paper-50x", 1), ("paper-50x", 2)]


@functools.cache
def make_model(rules="paper-50x", bits=2):
    return PackedModel(CONFIG, pack(toy.params(CONFIG), named_rules(rules, bits)), TASK, max_length=5)


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n")
    return folder


@pytest.fixture
def directory(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", make_model(), tokenizer)
    return tmp_path / "packed"


def assert_same(left, right):
    """Equal trees: structure (with every static field of a packed tensor), dtypes and bits."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def edit(directory, **blocks):
    """Change keys inside the blocks of ``config.json``; None takes one out."""
    raw = json.loads((directory / "config.json").read_text())
    for block, keys in blocks.items():
        for key, value in keys.items():
            raw[block].pop(key) if value is None else raw[block].update({key: value})
    (directory / "config.json").write_text(json.dumps(raw))


def replace_tensors(directory, **tensors):
    """Replace tensors of the file; None takes one out."""
    kept = {name: value for name, value in {**load_file(directory / WEIGHTS), **tensors}.items() if value is not None}
    save_file(kept, directory / WEIGHTS)


def refusal(directory):
    with pytest.raises(UserError) as refused:
        load_packed(directory)
    return str(refused.value)


@pytest.mark.parametrize(("rules", "bits"), CASES)
def test_a_saved_model_is_read_back_with_equal_leaves(tmp_path, tokenizer, rules, bits):
    model = make_model(rules, bits)
    save_packed(tmp_path / "packed", model, tokenizer)
    found = load_packed(tmp_path / "packed")
    assert_same(found.params, model.params)
    assert (found.config, found.task, found.max_length) == (CONFIG, TASK, 5)


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
    assert {path.name for path in directory.iterdir()} == {"config.json", WEIGHTS, "vocab.txt"}
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


def test_a_file_with_a_tensor_of_another_model_does_not_add_up(directory):
    replace_tensors(directory, stowaway=np.zeros(3, np.float32))
    with pytest.raises(UserError, match=r"model\.safetensors: holds \d+ bytes, its tensors and header fewer"):
        file_account(directory)


def test_a_missing_directory_is_named(tmp_path):
    assert refusal(tmp_path / "absent") == f"{tmp_path / 'absent'}: no such model directory"


def test_a_directory_without_a_config_is_named(directory):
    (directory / "config.json").unlink()
    assert refusal(directory).startswith(f"{directory}: no config.json in it")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("{", "not a JSON file"), ('{"model_type": "bert"}', "not a packed model"), ("[]", "not a packed")],
)
def test_a_config_that_is_none_of_a_packed_model_is_named(directory, content, complaint):
    (directory / "config.json").write_text(content)
    assert refusal(directory).startswith(f"{directory / 'config.json'}: {complaint}")


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("layout", "planes128.v1", "format 1, layout 'planes128.v1'"),
        ("format_version", 2, "format 2, layout 'planes256.v1'"),
        ("layout", None, "format 1, layout None"),
    ],
)
def test_another_format_or_layout_is_refused(directory, key, value, found):
    edit(directory, quantization={key: value})
    assert refusal(directory) == f"{directory / 'config.json'}: {found} is not known here"


@pytest.mark.parametrize(("block", "key"), [("quantization", "weights"), ("task", "text"), ("task", "max_length")])
def test_a_block_that_lacks_a_key_is_refused_by_file_and_key(directory, block, key):
    edit(directory, **{block: {key: None}})
    message = refusal(directory)
    assert message.startswith(f"{directory / 'config.json'}: ")
    assert key in message


def test_a_weight_of_a_width_that_no_layout_has_is_refused(directory):
    weights = json.loads((directory / "config.json").read_text())["quantization"]["weights"]
    edit(directory, quantization={"weights": {**weights, QUERY: {**weights[QUERY], "bits": 3}}})
    assert QUERY in refusal(directory)


@pytest.mark.parametrize("name", [f"{QUERY}.codes", f"{QUERY}.scale", "classifier/bias"])
def test_a_missing_tensor_is_named(directory, name):
    replace_tensors(directory, **{name: None})
    assert refusal(directory) == f"{directory / WEIGHTS}: tensor {name} is missing"


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        (f"{QUERY}.codes", np.zeros((12, 4), np.uint8), f"tensor {QUERY} has codes (12, 4) and scale (1,)"),
        (f"{QUERY}.codes", np.zeros((11, 3), np.uint8), f"tensor {QUERY} has codes (11, 3) and scale (1,)"),
        (f"{QUERY}.codes", np.zeros((12, 3), np.int8), f"tensor {QUERY} has codes (12, 3)"),
        (f"{QUERY}.scale", np.ones(3, np.float32), f"tensor {QUERY} has codes (12, 3) and scale (3,)"),
        ("classifier/bias", np.ones(3, np.float16), "tensor classifier/bias has shape (3,), config.json asks for (2,)"),
    ],
)
def test_a_tensor_that_does_not_fit_the_config_is_named_with_its_shape(directory, name, value, complaint):
    replace_tensors(directory, **{name: value})
    assert refusal(directory).startswith(f"{directory / WEIGHTS}: {complaint}")


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_a_truncated_file_is_named(directory, keep):
    file = directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    assert refusal(directory).startswith(f"{file}: damaged or truncated")


def test_missing_weights_are_named(directory):
    (directory / WEIGHTS).unlink()
    assert refusal(directory) == f"{directory / WEIGHTS}: no such file"


@pytest.mark.parametrize("plane", [0, 1, 2, 3])
def test_the_illegal_ternary_code_is_refused_in_every_plane(directory, plane):
    codes = load_file(directory / WEIGHTS)[f"{QUERY}.codes"].copy()
    codes[5, 1] |= 3 << 2 * plane
    replace_tensors(directory, **{f"{QUERY}.codes": codes})
    assert refusal(directory) == f"{directory / WEIGHTS}: tensor {QUERY} holds the illegal ternary code 3; the file is damaged"


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

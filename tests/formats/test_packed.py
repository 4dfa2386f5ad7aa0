"""Packed model directories: what is saved is what is read, and what is damaged is refused by name."""

import functools
import hashlib
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
from xtc_jax.formats import WEIGHTS, PackedModel, file_account, load_packed, save_packed
from xtc_jax.kernels import BASE3, PLANES256, STORED_LAYOUTS, PackedTensor
from xtc_jax.quantize import ActivationSpec, named_rules, split, with_extra_rules, with_input_ranges

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
STATIC = ActivationSpec(8, "static", symmetric=False)
RULES = {
    "static": named_rules("deepspeed", 1, ActivationSpec(8, "static")),
    "4-bit inputs of one range": named_rules("deepspeed", 1, ActivationSpec(4, "tensor")),
    "asymmetric inputs": named_rules("deepspeed", 2, ActivationSpec(8, symmetric=False)),
    "float inputs": named_rules("paper-50x", 1, None),
    "groups": named_rules("paper-50x", 2, granularity=6),
    "groups over rows": named_rules("deepspeed", 1, granularity=24),
    "3 bits": named_rules("deepspeed", 3),
    "4 bits, asymmetric, static": named_rules("paper-50x", 4, STATIC, quantizer="asymmetric", granularity="row"),
    "8 bits": named_rules("paper-50x", 8),
    "5 to 7 bits": with_extra_rules(
        named_rules("deepspeed", 7), ["query/weight=5,a8", "word_embeddings/weight=6,row,asymmetric"]
    ),
}


@functools.cache
def make_model(rules="paper-50x", bits=2):
    return PackedModel(CONFIG, pack(toy.params(CONFIG), named_rules(rules, bits)), TASK, max_length=5)


def packed_under(rules, params=None):
    """A packed model whose static ranges are not all alike."""
    latent = with_input_ranges(toy.params(CONFIG) if params is None else params, rules)
    counter = iter(range(1, 100))

    def fill(path, leaf):
        return jnp.array([-1.0, 2.0]) * next(counter) if path[-1].key == "input_range" else leaf

    return PackedModel(CONFIG, pack(jax.tree_util.tree_map_with_path(fill, latent), rules), TASK, 5)


def split_model(one="paper-50x"):
    """All Linears and tables of ``paper-50x`` in halves, of one bit where ``one`` has a rule."""
    return packed_under(named_rules(one, 1, STATIC), split(toy.params(CONFIG), named_rules("paper-50x", 2)))


@pytest.fixture
def tokenizer(tmp_path):
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    toy.tokenizer().save(str(folder / "tokenizer.json"))
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
    """Replace tensors of the file, and its SHA-256 in the config; None takes one out."""
    kept = {name: value for name, value in {**load_file(directory / WEIGHTS), **tensors}.items() if value is not None}
    save_file(kept, directory / WEIGHTS)
    edit(directory, quantization={"sha256": hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()})


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


@pytest.mark.parametrize("make", [*RULES, "split", "partly split"])
def test_every_kind_of_leaf_is_read_back_equal_and_counted_to_the_byte(tmp_path, tokenizer, make):
    made = {"split": split_model, "partly split": lambda: split_model("deepspeed")}
    model = made[make]() if make in made else packed_under(RULES[make])
    save_packed(tmp_path / "packed", model, tokenizer)
    assert_same(load_packed(tmp_path / "packed").params, model.params)
    entries, header, size = file_account(tmp_path / "packed")
    assert header + sum(entry.total for entry in entries) == size == (tmp_path / "packed" / WEIGHTS).stat().st_size
    assert [entry.total for entry in entries if entry.name.endswith("input_range")] in ([], [8] * 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "rules", [named_rules("paper-50x", 2), named_rules("deepspeed", 2, granularity="row"), RULES["3 bits"]]
)
def test_base_3_is_the_same_model_in_fewer_bytes_counted_to_the_byte(tmp_path, tokenizer, rules):
    model = packed_under(rules)
    for layout in STORED_LAYOUTS:
        save_packed(tmp_path / layout, model, tokenizer, layout)
    assert_same(load_packed(tmp_path / BASE3).params, model.params)
    entries, header, size = file_account(tmp_path / BASE3)
    assert header + sum(entry.total for entry in entries) == size == (tmp_path / BASE3 / WEIGHTS).stat().st_size
    named = {entry.name: entry for entry in entries}
    if rules is RULES["3 bits"]:
        assert load_file(tmp_path / BASE3 / WEIGHTS).keys() == load_file(tmp_path / PLANES256 / WEIGHTS).keys()
        assert named[QUERY].bits == 4
    else:
        assert (named[QUERY].bits, named[QUERY].code_bytes) == (1.6, 12 * 3)
        assert size < file_account(tmp_path / PLANES256)[2]


def test_a_byte_that_is_no_five_ternary_codes_is_refused(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", make_model(), tokenizer, BASE3)
    codes = load_file(tmp_path / "packed" / WEIGHTS)[f"{QUERY}.codes"].copy()
    codes[5, 1] = 243
    replace_tensors(tmp_path / "packed", **{f"{QUERY}.codes": codes})
    complaint = f"tensor {QUERY} holds the illegal byte 243 or more of base 3; the file is damaged"
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: {complaint}"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_is_refused(directory, value):
    replace_tensors(directory, **{f"{QUERY}.scale": np.array([value], np.float32)})
    assert refusal(directory) == f"{directory / WEIGHTS}: tensor {QUERY} has a scale that is not finite; the file is damaged"


def test_halves_ranges_and_zero_points_lie_under_their_paths(tmp_path, tokenizer):
    save_packed(tmp_path / "split", split_model(), tokenizer)
    tensors = load_file(tmp_path / "split" / WEIGHTS)
    module = QUERY.removesuffix("/weight")
    here = {name: value.dtype.name for name, value in tensors.items() if name.startswith(module)}
    codes = {f"{QUERY}/{half}.{part}": dtype for half in ("first", "second") for part, dtype in PARTS}
    assert here == {**codes, f"{module}/input_range": "float32", f"{module}/bias": "float16"}
    save_packed(tmp_path / "asymmetric", packed_under(RULES["4 bits, asymmetric, static"]), tokenizer)
    tensors = load_file(tmp_path / "asymmetric" / WEIGHTS)
    assert {part: tensors[f"{QUERY}.{part}"].shape for part in ("codes", "scale", "zero")} == {
        "codes": (12, 6),
        "scale": (12,),
        "zero": (12,),
    }


PARTS = (("codes", "uint8"), ("scale", "float32"))


def test_a_bit_that_flipped_in_the_codes_is_refused(directory):
    data = bytearray((directory / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (directory / WEIGHTS).write_bytes(data)
    assert refusal(directory) == (
        f"{directory / WEIGHTS}: its SHA-256 is not the one in config.json; the file is damaged, or was changed by hand"
    )


def test_a_directory_without_a_digest_loads_as_it_did(directory):
    edit(directory, quantization={"sha256": None})
    assert_same(load_packed(directory).params, make_model().params)


def test_the_config_says_only_what_is_not_usual(tmp_path, tokenizer):
    described = {}
    for name in ("8 bits", "float inputs", "4-bit inputs of one range", "4 bits, asymmetric, static"):
        save_packed(tmp_path / name, packed_under(RULES[name]), tokenizer)
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
    known = "(known: format 1, planes256.v1, base3.v1); a newer xtc_jax wrote it, or it is damaged"
    assert refusal(directory) == f"{directory / 'config.json'}: {found} is not known here {known}"


@pytest.mark.parametrize(("block", "key"), [("quantization", "weights"), ("task", "text"), ("task", "max_length")])
def test_a_block_that_lacks_a_key_is_refused_by_file_and_key(directory, block, key):
    edit(directory, **{block: {key: None}})
    message = refusal(directory)
    assert message.startswith(f"{directory / 'config.json'}: ")
    assert key in message


def describe(directory, path=QUERY, **changes):
    """Change how ``config.json`` describes one weight; None takes a key out."""
    weights = json.loads((directory / "config.json").read_text())["quantization"]["weights"]
    raw = {key: value for key, value in {**weights.get(path, {}), **changes}.items() if value is not None}
    edit(directory, quantization={"weights": {**weights, path: raw}})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"bits": 3}, f"tensor {QUERY} has codes (12, 3) and scale (1,), config.json asks for (12, 12)"),
        ({"bits": 0}, f"tensor {QUERY} has 0 bits in config.json; a packed weight has 1 to 8"),
        ({"bits": 9}, f"tensor {QUERY} has 9 bits in config.json; a packed weight has 1 to 8"),
        ({"bits": "2"}, f"tensor {QUERY} has 2 bits in config.json; a packed weight has 1 to 8"),
        ({"bits": None}, f"tensor {QUERY} has 0 bits in config.json; a packed weight has 1 to 8"),
        ({"activation_bits": 5}, f"tensor {QUERY} has token activations of 5 bits, which are not known here"),
        ({"activation_range": "batch"}, f"tensor {QUERY} has batch activations of 8 bits, which are not known here"),
        ({"activation_range": "static"}, f"tensor {QUERY.removesuffix('/weight')}/input_range is missing"),
        ({"zero_points": True}, f"tensor {QUERY}.zero is missing"),
    ],
)
def test_a_description_that_does_not_fit_is_refused_with_the_name_of_the_weight(directory, changes, complaint):
    describe(directory, **changes)
    assert refusal(directory) == f"{directory / WEIGHTS}: {complaint}"


@pytest.mark.parametrize(
    ("block", "complaint"),
    [
        ({"task": {"text": "sentence"}}, 'text is "sentence", not a list of strings'),
        ({"task": {"metrics": [1]}}, "metrics is [1], not a list of strings"),
        ({"task": {"name": 5}}, "name is 5, not a string"),
        ({"task": {"max_length": True}}, "max_length is true, not a whole number"),
        ({"task": {"max_length": 0}}, "max_length is 0, not 1 to 6"),
        ({"task": {"max_length": 7}}, "max_length is 7, not 1 to 6"),
        ({"quantization": {"weights": [1]}}, "weights is [1], not an object"),
        ({"quantization": {"sha256": 5}}, "sha256 is 5, not a string or null"),
        ({"quantization": {"weights": {QUERY: 2}}}, f"{QUERY} is 2, not an object"),
        ({"quantization": {"weights": {QUERY: {"zero_points": 1}}}}, f"{QUERY}: zero_points is 1, not true or false"),
        (
            {"quantization": {"weights": {QUERY: {"activation_bits": [8]}}}},
            "activation_bits is [8], not a whole number or null",
        ),
    ],
)
def test_a_key_of_another_type_than_is_written_is_refused_with_its_name_and_value(directory, block, complaint):
    edit(directory, **block)
    message = refusal(directory)
    assert message.startswith(f"{directory / 'config.json'}: its quantization or task block is damaged:")
    assert message.endswith(complaint)


def test_true_is_no_number_of_bits(directory):
    describe(directory, bits=True)
    assert (
        refusal(directory) == f"{directory / WEIGHTS}: tensor {QUERY} has True bits in config.json; a packed weight has 1 to 8"
    )


@pytest.mark.parametrize("path", ["pooler/dense/bias", "decoder/weight", "pooler/dense/weight/third"])
def test_a_description_of_what_is_no_matrix_of_this_bert_is_refused(directory, path):
    describe(directory, path, bits=1, shape=[12], activation_bits=8)
    assert refusal(directory) == f"{directory / WEIGHTS}: config.json quantizes {path}, which this BERT does not have"


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (f"{QUERY}/first.codes", f"tensor {QUERY}/first.codes is missing"),
        (f"{QUERY}/second.scale", f"tensor {QUERY}/second.scale is missing"),
        (f"{QUERY.removesuffix('/weight')}/input_range", f"tensor {QUERY.removesuffix('/weight')}/input_range is missing"),
    ],
)
def test_a_part_of_a_split_weight_that_is_missing_is_named(tmp_path, tokenizer, name, complaint):
    save_packed(tmp_path / "packed", split_model(), tokenizer)
    replace_tensors(tmp_path / "packed", **{name: None})
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: {complaint}"


def test_a_half_without_its_other_half_is_refused_though_config_and_file_agree(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", split_model(), tokenizer)
    weights = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization"]["weights"]
    del weights[f"{QUERY}/second"]
    edit(tmp_path / "packed", quantization={"weights": weights})
    replace_tensors(tmp_path / "packed", **{f"{QUERY}/second.codes": None, f"{QUERY}/second.scale": None})
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: tensor {QUERY}/second is missing"


def test_a_weight_that_is_described_whole_and_in_halves_is_refused(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", split_model(), tokenizer)
    describe(tmp_path / "packed", bits=1, shape=[12, 12])
    assert refusal(tmp_path / "packed").endswith(f"config.json quantizes {QUERY}, which this BERT does not have")


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("zero", np.zeros(11, np.float32)),
        ("zero", np.zeros((12, 1), np.float32)),
        ("zero", np.zeros(12, np.int32)),
        ("scale", np.ones(12, np.float16)),
    ],
)
def test_scales_and_zero_points_of_another_shape_or_type_are_refused(tmp_path, tokenizer, part, value):
    save_packed(tmp_path / "packed", packed_under(RULES["4 bits, asymmetric, static"]), tokenizer)
    replace_tensors(tmp_path / "packed", **{f"{QUERY}.{part}": value})
    assert f"tensor {QUERY} has codes (12, 6) and scale (12,)" in refusal(tmp_path / "packed")


@pytest.mark.parametrize(("name", "bits", "byte"), [("3 bits", 3, 0x08), ("3 bits", 3, 0x80), ("5 to 7 bits", 5, 0x20)])
def test_an_integer_that_its_width_does_not_have_is_refused(tmp_path, tokenizer, name, bits, byte):
    save_packed(tmp_path / "packed", packed_under(RULES[name]), tokenizer)
    codes = load_file(tmp_path / "packed" / WEIGHTS)[f"{QUERY}.codes"].copy()
    codes[3, 2] |= byte
    replace_tensors(tmp_path / "packed", **{f"{QUERY}.codes": codes})
    complaint = f"tensor {QUERY} holds the illegal code {2**bits} or more of {bits} bits; the file is damaged"
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: {complaint}"


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
        (f"{QUERY}.scale", np.ones(7, np.float32), f"tensor {QUERY} has codes (12, 3) and scale (7,)"),
        (f"{QUERY}.scale", np.ones(0, np.float32), f"tensor {QUERY} has codes (12, 3) and scale (0,)"),
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


def test_a_truncated_tensor_is_named(directory):
    file = directory / WEIGHTS
    file.write_bytes(file.read_bytes()[:-5])
    assert refusal(directory) == (
        f"{file}: damaged or truncated (tensor {_last(file)} reaches 5 bytes beyond the end of the file)"
    )


def _header(file):
    data = file.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def _last(file):
    return max(_header(file)[0].items(), key=lambda item: item[1]["data_offsets"])[0]


def change_header(file, name, **changes):
    """Change what the header of a safetensors file has on one tensor."""
    header, data = _header(file)
    header[name] |= changes
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


@pytest.mark.parametrize("offsets", [[1], [0, 1, 2]])
def test_a_tensor_with_other_than_two_offsets_is_damaged(directory, offsets):
    change_header(directory / WEIGHTS, f"{QUERY}.scale", data_offsets=offsets)
    assert refusal(directory).startswith(f"{directory / WEIGHTS}: damaged or truncated (")


def test_a_tensor_of_a_type_that_numpy_lacks_is_named(directory):
    change_header(directory / WEIGHTS, f"{QUERY}.scale", dtype="F8_E4M3", shape=[4])
    assert refusal(directory) == (
        f"{directory / WEIGHTS}: tensor {QUERY}.scale has dtype F8_E4M3, which is not read here; save it as float32, "
        "float16 or bfloat16"
    )


def test_tensors_that_overlap_are_named(directory):
    file = directory / WEIGHTS
    header, data = _header(file)
    first, second, *_ = sorted(header, key=lambda name: header[name]["data_offsets"])
    header[second]["data_offsets"] = [offset - 2 for offset in header[second]["data_offsets"]]
    raw = json.dumps(header).encode()
    file.write_bytes(len(raw).to_bytes(8, "little") + raw + data)
    assert refusal(directory) == f"{file}: damaged or truncated (tensor {second} overlaps {first})"


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

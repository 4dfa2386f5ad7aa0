"""Packed model directories that are damaged, or of another version: each is refused by one line that names what is wrong."""

import json

import numpy as np
import pytest
from packed_files import QUERY, edit, make_model, model_of, refusal, replace_tensors
from safetensors.numpy import load_file

from xtc_jax.errors import UserError
from xtc_jax.formats import WEIGHTS, file_account, save_packed
from xtc_jax.kernels import BASE3


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


def test_a_bit_that_flipped_in_the_codes_is_refused(directory):
    data = bytearray((directory / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (directory / WEIGHTS).write_bytes(data)
    assert refusal(directory) == (
        f"{directory / WEIGHTS}: its SHA-256 is not the one in config.json; the file is damaged, or was changed by hand"
    )


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
    save_packed(tmp_path / "packed", model_of("split"), tokenizer)
    replace_tensors(tmp_path / "packed", **{name: None})
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: {complaint}"


def test_a_half_without_its_other_half_is_refused_though_config_and_file_agree(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", model_of("split"), tokenizer)
    weights = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization"]["weights"]
    del weights[f"{QUERY}/second"]
    edit(tmp_path / "packed", quantization={"weights": weights})
    replace_tensors(tmp_path / "packed", **{f"{QUERY}/second.codes": None, f"{QUERY}/second.scale": None})
    assert refusal(tmp_path / "packed") == f"{tmp_path / 'packed' / WEIGHTS}: tensor {QUERY}/second is missing"


def test_a_weight_that_is_described_whole_and_in_halves_is_refused(tmp_path, tokenizer):
    save_packed(tmp_path / "packed", model_of("split"), tokenizer)
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
    save_packed(tmp_path / "packed", model_of("4 bits, asymmetric, static"), tokenizer)
    replace_tensors(tmp_path / "packed", **{f"{QUERY}.{part}": value})
    assert f"tensor {QUERY} has codes (12, 6) and scale (12,)" in refusal(tmp_path / "packed")


@pytest.mark.parametrize(("name", "bits", "byte"), [("3 bits", 3, 0x08), ("3 bits", 3, 0x80), ("5 to 7 bits", 5, 0x20)])
def test_an_integer_that_its_width_does_not_have_is_refused(tmp_path, tokenizer, name, bits, byte):
    save_packed(tmp_path / "packed", model_of(name), tokenizer)
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

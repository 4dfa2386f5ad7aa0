"""docs/packed_format.md against the writer: the reader on that page, which knows numpy alone, reads what xtc_jax writes."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toy
from packed_files import CONFIG, model_of
from tiers import sweep

from xtc_jax.formats import load_packed, save_packed
from xtc_jax.kernels import BASE3, PLANES256, STORED_LAYOUTS, PackedTensor, pack_base3, pack_codes
from xtc_jax.params import named_leaves

PAGE = Path(__file__).parents[2] / "docs/packed_format.md"
KINDS = (
    "1 bit",
    "2 bits",
    "2 bits, row scales",
    "groups",
    "3 bits",
    "4 bits, asymmetric, static",
    "8 bits",
    "5 to 7 bits",
    "split",
)


@pytest.fixture(scope="module")
def page():
    """What the page's Python defines."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    return names


def written(directory, kind, layout):
    """A packed model directory."""
    tokenizer = directory / "tokenizer"
    tokenizer.mkdir()
    save_packed(directory / "packed", model_of(kind), tokenizer, layout)
    return directory / "packed"


def floats(leaf):
    """The float32 array that a leaf stands for."""
    return np.asarray(leaf.dequantize() if isinstance(leaf, PackedTensor) else leaf).astype(np.float32)


def whole(leaves):
    """Leaves by path, with the halves of split weights added up."""
    found = {path: floats(leaf) for path, leaf in leaves.items()}
    for path in [path for path in found if path.endswith("/first")]:
        found[path.removesuffix("/first")] = found.pop(path) + found.pop(path.removesuffix("first") + "second")
    return found


def leaves_of(params):
    """Leaves by path, packed weights whole."""
    found = {}

    def walk(prefix, node):
        if isinstance(node, dict):
            for name, child in node.items():
                walk(f"{prefix}/{name}" if prefix else name, child)
        else:
            found[prefix] = node

    walk("", params)
    return found


@pytest.mark.parametrize("layout", STORED_LAYOUTS)
@pytest.mark.parametrize("kind", sweep(KINDS, fast=3))
def test_the_reader_of_the_page_reads_every_weight_to_the_bit(page, tmp_path, kind, layout):
    directory = written(tmp_path, kind, layout)
    found, expected = page["read_packed"](directory), whole(leaves_of(load_packed(directory).params))
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


def expanded(pattern):
    """``a/{b,c}`` as ``a/b`` and ``a/c``."""
    found = re.search(r"\{(.*?)\}", pattern)
    if found is None:
        return [pattern]
    return [path for name in found[1].split(",") for path in expanded(pattern.replace(found[0], name, 1))]


def test_the_paths_of_the_page_are_those_of_a_model():
    table = PAGE.read_text().partition("| path | shape |")[2].partition("\n\n")[0]
    patterns = re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE)
    paths = {path.replace("layer_i", "layer_0") for pattern in patterns for path in expanded(pattern)}
    assert paths == set(named_leaves(toy.params(CONFIG)))


def test_the_example_of_the_page_is_what_the_packers_make():
    codes = jnp.array([[-1, 0, 1, 1, -1, 0]]) + 1
    assert np.asarray(pack_codes(codes.astype(jnp.uint8), 2)).tolist() == [[0x08, 0x19]]
    assert np.asarray(pack_base3(codes.astype(jnp.uint8))).tolist() == [[0x4B, 0x01]]
    assert "`0x08`" in PAGE.read_text()
    assert "`0x19`" in PAGE.read_text()


def test_the_reader_refuses_another_version(page, tmp_path):
    directory = written(tmp_path, "2 bits", PLANES256)
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(ValueError, match="not a packed model of version 1"):
        page["read_packed"](directory)
    assert f'"{BASE3}"' in PAGE.read_text()

"""The account of a file, read from its header alone."""

import json
import subprocess
import sys

import pytest
import toy

from xtc_jax.compress import size_account
from xtc_jax.errors import UserError
from xtc_jax.formats import WEIGHTS, file_account, load_packed


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    return toy.finished_run(tmp_path_factory.mktemp) / "work" / "packed"


def test_the_header_gives_the_account_of_the_loaded_params(packed):
    entries, header, size = file_account(packed)
    assert entries == size_account(load_packed(packed).params)
    assert header + sum(entry.total for entry in entries) == size == (packed / WEIGHTS).stat().st_size


def test_inspecting_imports_neither_jax_nor_numpy(packed):
    program = f"""
import sys
from xtc_jax.cli.main import main
assert main(["inspect", {str(packed)!r}, "--json"]) == 0
print([name for name in ("jax", "numpy", "flax") if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert json.loads(done.stdout)["bytes"] == (packed / WEIGHTS).stat().st_size


@pytest.mark.parametrize(("key", "value"), [("weights", None), ("weights", {"a": 1}), ("layout", None), ("weights", [])])
def test_a_damaged_quantization_block_is_one_line(packed, tmp_path, key, value):
    raw = json.loads((packed / "config.json").read_text())
    raw["quantization"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / WEIGHTS).write_bytes((packed / WEIGHTS).read_bytes())
    if key == "layout":
        assert file_account(tmp_path)[2] == (packed / WEIGHTS).stat().st_size
        return
    with pytest.raises(UserError, match=r"^\S+: (model.safetensors does not fit config.json|holds)"):
        file_account(tmp_path)


@pytest.mark.parametrize("length", [0, 4, 8, 100])
def test_a_truncated_file_is_one_line(packed, tmp_path, length):
    (tmp_path / "config.json").write_text((packed / "config.json").read_text())
    (tmp_path / WEIGHTS).write_bytes((packed / WEIGHTS).read_bytes()[:length])
    with pytest.raises(UserError, match="damaged or truncated"):
        file_account(tmp_path)

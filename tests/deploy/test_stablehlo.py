"""The programs of ``xtc export --to=stablehlo``, here, in a process without xtc_jax, and under another version of JAX."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import packed_models
import pytest
import toy

from xtc_jax.compress.pack import float32_bytes, size_account
from xtc_jax.deploy.stablehlo import PROGRAMS, export_stablehlo, programs, stablehlo_logits
from xtc_jax.deploy.verify import compare, packed_logits, sample_inputs
from xtc_jax.errors import UserError
from xtc_jax.formats import save_packed

ROOT = Path(__file__).resolve().parents[2]
FAST = ("1 bit",)
SLOW = tuple(kind for kind in packed_models.MAKERS if kind not in FAST)


def write(directory, kind):
    directory.mkdir(exist_ok=True)
    model = packed_models.MAKERS[kind]()
    for name, program in zip(PROGRAMS, programs(model), strict=True):
        (directory / name).write_bytes(program)
    return model


@pytest.mark.parametrize("kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_programs_read_back_have_the_logits_of_the_packed_model_at_any_batch_and_length(kind, tmp_path):
    model = write(tmp_path, kind)
    batches = sample_inputs(model)
    assert {rows["input_ids"].shape for rows in batches} == {(1, 3), (16, 16)}
    found = compare(packed_logits(model, batches), stablehlo_logits(tmp_path, batches))
    assert (found.rows, found.other_labels, found.maximum) == (17, 0, 0.0)


def test_the_codes_stay_packed_in_the_file(tmp_path):
    model = write(tmp_path, "1 bit")
    payload = sum(entry.total for entry in size_account(model.params))
    size = (tmp_path / PROGRAMS[0]).stat().st_size
    assert size - payload <= 24_000  # the program, and the names of its sources, which depend on where they lie
    assert float32_bytes(model.params) >= 60_000


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    base = tmp_path_factory.mktemp("stablehlo")
    toy.tokenizer().save(str(base / "tokenizer.json"))
    save_packed(base / "packed", packed_models.MAKERS["one text"](), base)
    return base / "packed"


@pytest.mark.slow
def test_the_readme_of_the_directory_runs_where_only_jax_and_tokenizers_are(packed, tmp_path):
    found = export_stablehlo(packed, tmp_path / "out", "", lambda line: None)
    assert found["StableHLO"].rows == 17
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *PROGRAMS,
        "README.md",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    readme = (tmp_path / "out" / "README.md").read_text()
    assert "@" not in readme
    assert 'Labels: ["negative", "positive"]. Texts are cut to 16 tokens.' in readme
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    program = f"{code}\nimport sys\nassert 'xtc_jax' not in sys.modules"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-P", "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=tmp_path / "out", env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert np.array(json.loads(re.sub(r"\s+", ",", done.stdout.strip()).replace("[,", "["))).shape == (1, 2)


def test_a_directory_that_exists_is_refused(packed, tmp_path):
    with pytest.raises(UserError, match="exists already; choose a new directory"):
        export_stablehlo(packed, tmp_path, "", lambda line: None)


def test_a_missing_package_is_named_with_the_command_that_installs_it(packed, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"flatbuffers not installed; run: pip install 'xtc_jax\[deploy\]'"):
        export_stablehlo(packed, tmp_path / "out", "", lambda line: None)
    assert list(tmp_path.iterdir()) == []


_READ = """
import sys
from pathlib import Path
import jax, numpy as np
from jax import export
folder = Path(sys.argv[1])
unpack, classify = (export.deserialize(bytearray((folder / f"{name}.stablehlo").read_bytes())) for name in ("weights", "model"))
weights, run = jax.jit(unpack.call)(), jax.jit(classify.call)
inputs = np.load(folder / "inputs.npz")
for i in range(2):
    named = (inputs[f"{name}_{i}"] for name in ("input_ids", "token_type_ids", "attention_mask"))
    np.save(folder / f"logits_{i}.npy", run(weights, *named))
print(jax.__version__)
"""
_WRITE = """
import sys
from pathlib import Path
import packed_models
from xtc_jax.compress.pack import float32_bytes, size_account
from xtc_jax.deploy.stablehlo import PROGRAMS, programs
for name, program in zip(PROGRAMS, programs(packed_models.MAKERS["1 bit"]())):
    (Path(sys.argv[1]) / name).write_bytes(program)
"""


def elsewhere(program, *arguments):
    """Run by the interpreter with another JAX."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [os.environ["XTC_OTHER_PYTHON"], "-c", program, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.other_jax
def test_what_the_older_jax_writes_the_newer_one_runs_and_has_the_same_logits(tmp_path):
    model = write(tmp_path, "1 bit")
    batches = sample_inputs(model)
    named = {f"{name}_{i}": rows[name].astype(np.int32) for i, rows in enumerate(batches) for name in rows}
    np.savez(tmp_path / "inputs.npz", **named)
    done = elsewhere(_READ, tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("0.12.")
    theirs = np.concatenate([np.load(tmp_path / f"logits_{i}.npy") for i in range(2)])
    found = compare(packed_logits(model, batches), theirs)
    assert (found.rows, found.other_labels, found.median <= 1e-6, found.maximum <= 0.02) == (17, 0, True, True)


@pytest.mark.other_jax
def test_what_a_newer_jax_writes_an_older_one_beyond_its_window_refuses(tmp_path):
    """JAX promises three weeks in this direction, and 0.10.2 is older: an error, and never other numbers."""
    assert elsewhere(_WRITE, tmp_path).returncode == 0
    with pytest.raises(Exception, match="Failed to deserialize StableHLO"):
        stablehlo_logits(tmp_path, sample_inputs(packed_models.MAKERS["1 bit"]()))

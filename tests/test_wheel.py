"""What ``pip install`` of the built wheel gives, away from the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from xtc_jax.kernels.packed_matmul.native import build

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools writes beside the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out), str(source)]
    subprocess.run(command, check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_recipes_types_and_tuning_tables(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"xtc_jax/py.typed", "xtc_jax/configs/quickstart.py", "xtc_jax/configs/study/depth.py"} <= names
    assert {f"xtc_jax/deploy/remote_code/{name}_xtc.py" for name in ("configuration", "modeling")} <= names
    assert any(name.startswith("xtc_jax/kernels/packed_matmul/tuning/") for name in names)
    page = {"index.html", "style.css", "page.js", "check.js", "package.json", "package-lock.json"}
    assert {f"xtc_jax/deploy/page/{name}" for name in page} | {"xtc_jax/deploy/stablehlo.md"} <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "configs"))]


@pytest.mark.slow
def test_the_wheel_holds_the_native_kernel_for_any_python_where_there_is_a_compiler(wheel):
    names, found = zipfile.ZipFile(wheel).namelist(), build.compiler() is not None
    assert ("xtc_jax/kernels/packed_matmul/native/libxtc_native.so" in names) == found
    assert wheel.name.split("-", 2)[2].startswith("py3-none-linux_" if found else "py3-none-any")


@pytest.mark.slow
@pytest.mark.pinned
def test_the_quick_start_runs_from_the_wheel_and_its_model_loads(wheel, tmp_path):
    """In a directory of its own; dependencies are those of this environment."""
    site, away = tmp_path / "site", tmp_path / "away"
    away.mkdir()
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel)], check=True)
    environment = {**os.environ, "PYTHONPATH": str(site)}
    xtc = [sys.executable, "-P", "-m", "xtc_jax.cli", "compress", "--config=quickstart:runlocal", "--workdir=run"]
    subprocess.run(xtc, cwd=away, env=environment, check=True, capture_output=True)
    program = "import xtc_jax; print(xtc_jax.__file__); print(xtc_jax.load('run/packed')('a dull mess').label)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=away, env=environment, check=True, capture_output=True, text=True
    )
    file, label = done.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    assert label in ("negative", "positive")

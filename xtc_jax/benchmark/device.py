"""The device under test: its name, its peaks, and the roofline they make."""

import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from xtc_jax.devices import Peaks, known_peaks

_PACKAGES = ("jax", "jaxlib", "libtpu", "numpy", "flax", "onnxruntime")
_INTEGER_UNITS: Mapping[str, set[str]] = {
    "amx": {"amx_int8"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "avx2": {"avx2"},
    "i8mm": {"i8mm"},
    "dotprod": {"asimddp"},
}
_PROBE = 2**26
"""Bytes copied to measure a CPU's bandwidth: more than its caches hold."""


def peaks(device: jax.Device) -> Peaks | None:
    """The peaks of ``device``: known ones of accelerators, measured ones of a CPU; None where nothing is known."""
    return _measured(device) if device.platform == "cpu" else known_peaks(device.device_kind)


def _measured(device: jax.Device) -> Peaks:
    """The best of some large products and copies: what XLA reaches here and now, not what the silicon could."""
    best = {}
    for name, dtype, total in (("int8", jnp.int8, jnp.int32), ("bfloat16", jnp.bfloat16, jnp.float32), ("float32",) * 3):
        x, w = (jax.device_put(jnp.ones(shape, dtype), device) for shape in ((1024, 768), (3072, 768)))
        contract = (((1,), (1,)), ((), ()))
        product = jax.jit(lambda x, w, t=total: jax.lax.dot_general(x, w, contract, preferred_element_type=t))  # noqa: B023
        best[name] = 2 * 1024 * 768 * 3072 / _best_of(lambda: product(x, w))  # noqa: B023 (called at once)
    data = jax.device_put(jnp.ones(_PROBE // 4), device)
    copy = jax.jit(lambda x: x + 1)
    return Peaks(
        best, 2 * _PROBE / _best_of(lambda: copy(data)), "measured: largest of ten products of 1024 x 768 x 3072; copy"
    )


def _best_of(call: Any, tries: int = 10) -> float:
    jax.block_until_ready(call())
    found = []
    for _ in range(tries):
        begun = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - begun)
    return min(found)


def label(device: jax.Device) -> str:
    """The device in the name of a file: ``NVIDIA_H100_80GB_HBM3``; a CPU with what it multiplies integers by, ``cpu_vnni``."""
    kind = device.device_kind.replace(" ", "_")
    return f"{kind}_{integer_unit(_cpuinfo())}".rstrip("_") if device.platform == "cpu" else kind


def integer_unit(cpuinfo: str) -> str:
    """The best instructions for int8 products that a processor has, on which their speed depends more than on its name.

    Args:
      cpuinfo: text of ``/proc/cpuinfo``.

    Returns:
      ``amx``, ``vnni`` or ``avx2`` of x86, ``i8mm`` or ``dotprod`` of Arm; "" if none is named.
    """
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return next((unit for unit, names in _INTEGER_UNITS.items() if names & flags), "")


def environment(device: jax.Device) -> dict[str, Any]:
    """What a number means nothing without: device, processor, its instructions for int8, cores, versions, commit, date."""
    return {
        "device": device.device_kind,
        "processor": _processor(),
        "int8 instructions": integer_unit(_cpuinfo()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES if _version(name)},
        "commit": _commit(),
        "date": time.strftime("%Y-%m-%d"),
    }


def _processor() -> str:
    """The name that the processor gives itself."""
    found = re.search(r"^model name\s*:\s*(.*)$", _cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _cpuinfo() -> str:
    file = Path("/proc/cpuinfo")
    return file.read_text() if file.exists() else ""


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the checkout this runs from, with a + where it was changed; "" outside of one."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        return subprocess.run(("git", *words), cwd=here, capture_output=True, text=True, check=False).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except OSError:
        return ""

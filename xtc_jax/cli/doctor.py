"""``xtc doctor``: what this machine has, and what would be chosen on it."""

import argparse
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from typing import Any

HELP = "say what this machine has: devices, extras, the kernel that would run and why, caches"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what ``xtc doctor`` takes."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace, _: list[str]) -> None:
    """Print what was found, a section for each subject."""
    found = diagnose()
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for title, lines in found.items():
        print(title)
        for name, value in lines.items():
            print(f"  {name:<18} {value}")


def diagnose() -> dict[str, dict[str, str]]:
    """What there is, in words, by subject: ``this machine``, ``devices``, ``kernels``, ``extras`` and ``caches``."""
    import jax

    devices = jax.devices()
    return {
        "this machine": _machine(devices[0]),
        "devices": _devices(devices),
        "kernels": _kernels(devices[0].device_kind),
        "extras": _extras(),
        "caches": _caches(),
    }


def _machine(device: Any) -> dict[str, str]:
    from xtc_jax import __version__
    from xtc_jax.benchmark.device import environment

    found = {name: str(value) for name, value in environment(device).items() if name not in ("device", "date", "commit")}
    return {"xtc_jax": __version__, **found, "at": str(Path(__file__).parents[1]), "interpreter": sys.executable}


def _devices(devices: list[Any]) -> dict[str, str]:
    """Counts of devices by kind."""
    kinds = [device.device_kind for device in devices]
    return {devices[kinds.index(kind)].platform: f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds)}


def _kernels(device_kind: str) -> dict[str, str]:
    """What would multiply a packed matrix of each width here, and why; and what training multiplies with."""
    import jax.numpy as jnp

    from xtc_jax.kernels import choose, pack_tensor
    from xtc_jax.kernels.packed_matmul import cpu
    from xtc_jax.parallel import choose_arithmetic

    found = {}
    for bits in (1, 2, 4):
        weights = pack_tensor(jnp.ones((64, 256), jnp.float32), jnp.ones(1, jnp.float32), bits)
        choice = choose(weights, device_kind)
        found[f"{bits}-bit weights"] = f"{choice.backend}: {choice.why}"
    native = cpu.library()
    found["native_cpu"] = native if isinstance(native, str) else f"built; runs with {cpu.instruction_set()}"
    arithmetic = choose_arithmetic("auto")
    return {**found, "training": f"quantized products in {'int8, by native_cpu' if arithmetic == 'native' else arithmetic}"}


def _extras() -> dict[str, str]:
    """Each optional group of packages: installed, or what is missing."""
    try:
        requires = importlib.metadata.requires("xtc_jax") or []
        named = importlib.metadata.metadata("xtc_jax").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        return {"(unknown)": "xtc_jax runs from its sources and is not installed"}
    wanted: dict[str, list[str]] = {extra: [] for extra in named}
    for line in requires:
        match = re.match(r"([\w.-]+).*extra\s*==\s*[\"']([\w-]+)[\"']", line)
        if match:
            wanted.setdefault(match[2], []).append(match[1])
    return {f"[{extra}]": _missing(packages) for extra, packages in wanted.items()} | {"libtpu": _missing(["libtpu"])}


def _missing(packages: list[str]) -> str:
    lacking = [name for name in packages if not _installed(name)]
    return f"missing: {', '.join(lacking)}" if lacking else "installed"


def _installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _caches() -> dict[str, str]:
    """The folders in which things are kept, with their sizes; deleting one costs the time to make it again."""
    import jax

    from xtc_jax.data import cache_directory

    root = cache_directory()
    found = {str(root): "nothing yet ($XTC_CACHE moves it)"} if not root.is_dir() else {}
    folders = sorted(path for path in root.glob("*") if path.is_dir())
    compiled = jax.config.jax_compilation_cache_dir
    if compiled and Path(compiled) not in folders:
        folders.append(Path(compiled))
    return found | {str(folder): f"{_size(folder) / 1e6:,.1f} MB" for folder in folders}


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""Every fact about a chip, once: peaks, matrix units, memory, links, and the topologies that can be compiled for."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

MIB = 2**20
Arithmetic = Literal["int8", "float", "native"]
"""In what small integers are multiplied; ``native``: int8, those of 1 and 2 bits by ``native_cpu`` instead of XLA."""


@dataclass(frozen=True)
class Chip:
    """One TPU generation, as one JAX device sees it.

    Attributes:
      name: short name, that of its tuning table ``tuning/tpu_<name>.json``.
      cores: TensorCores in one device; two divide the parallel dimensions of a grid between them.
      vmem: bytes of vector memory per core.
      bandwidth: bytes per second from HBM, the whole device.
      clock: Hz.
      operations: dense int8 operations per second, or bfloat16 ones where ``int8`` is false; the whole device.
      int8: whether the MXU multiplies int8; weights are unpacked to bfloat16 where it does not.
      erf: whether erf is an instruction. Elsewhere a polynomial takes half of the bundles of what the compiler makes of it.
    """

    name: str
    cores: int
    vmem: int
    bandwidth: float
    clock: float
    operations: float
    int8: bool
    erf: bool


_V5E = Chip("v5e", 1, 128 * MIB, 0.82e12, 1.50e9, 394e12, int8=True, erf=False)
_V5P = Chip("v5p", 2, 64 * MIB, 2.46e12, 1.75e9, 918e12, int8=True, erf=False)
_V6E = Chip("v6e", 1, 128 * MIB, 1.64e12, 1.75e9, 1840e12, int8=True, erf=True)
_V7 = Chip("v7", 1, 64 * MIB, 3.70e12, 2.20e9, 1155e12, int8=False, erf=True)
CHIPS: Mapping[str, Chip] = MappingProxyType(
    {"TPU v5 lite": _V5E, "TPU v5e": _V5E, "TPU v5": _V5P, "TPU v5p": _V5P, "TPU v6 lite": _V6E, "TPU v6e": _V6E, "TPU7x": _V7}
)
"""By ``jax.Device.device_kind``. From JAX's own table (``jax/_src/tpu_info.py``, 0.12.0.1), but for the clock, which is
the bfloat16 peak over what four MXUs of 128 x 128 (v5) or 256 x 256 (later) do in a cycle, and for ``erf``, which is
what the compiler emits."""


def chip(device_kind: str) -> Chip:
    """The generation of ``device_kind``.

    Raises:
      NotImplementedError: no TPU, or one that this kernel does not serve.
    """
    if device_kind not in CHIPS:
        raise NotImplementedError(f"no TPU kernel for {device_kind}: there is one for {', '.join(CHIPS)}")
    return CHIPS[device_kind]


@dataclass(frozen=True)
class Peaks:
    """What a device does at most, per second.

    Attributes:
      operations: by dtype, multiplications and additions counted each.
      bandwidth: bytes from main memory.
      source: where the numbers are from.
    """

    operations: dict[str, float]
    bandwidth: float
    source: str

    def seconds(self, dtype: str, operations: float, moved: float) -> float:
        """The roofline: the time that ``operations`` or ``moved`` bytes take at least, whichever is longer."""
        return max(operations / self.operations[dtype], moved / self.bandwidth)


_SHEET = "data sheet, dense"
GPUS: Mapping[str, Peaks] = MappingProxyType(
    {
        "H100": Peaks({"int8": 1979e12, "bfloat16": 989e12, "float32": 67e12}, 3.35e12, f"{_SHEET}, SXM"),
        "H200": Peaks({"int8": 1979e12, "bfloat16": 989e12, "float32": 67e12}, 4.8e12, f"{_SHEET}, SXM"),
        "A100": Peaks({"int8": 624e12, "bfloat16": 312e12, "float32": 19.5e12}, 2.04e12, f"{_SHEET}, SXM 80 GB"),
    }
)
"""By a part of ``jax.Device.device_kind``."""


def known_peaks(device_kind: str) -> Peaks | None:
    """The published peaks of an accelerator by its ``jax.Device.device_kind``; None where they are not known here."""
    if device_kind in CHIPS:
        chip = CHIPS[device_kind]
        half = chip.operations / 2 if chip.int8 else chip.operations
        return Peaks({"int8": chip.operations, "bfloat16": half, "float32": half / 4}, chip.bandwidth, "jax/_src/tpu_info.py")
    return next((found for name, found in GPUS.items() if name in device_kind), None)


def fastest_arithmetic(platform: str, device_kind: str, compute_capability: str = "") -> Arithmetic:
    """In what a device multiplies small integers fastest: what a config means by ``arithmetic="auto"``.

    A CPU multiplies int8 faster than float32, or as fast if it has no VNNI (x86, both versions of JAX: benchmarks/README.md);
    so do an NVIDIA GPU of 8.0 or later and a TPU v5e, v5p or v6e, whose matrix units have int8. TPU v4 has none, v7 makes
    bfloat16 of it.

    Args:
      platform: ``cpu``, ``gpu`` or ``tpu``: ``jax.Device.platform``.
      device_kind: ``jax.Device.device_kind``.
      compute_capability: that of an NVIDIA GPU, ``"8.0"``; other GPUs have none, or a name.
    """
    if platform == "gpu":
        version = re.fullmatch(r"(\d+)\.\d+", compute_capability)
        return "int8" if version and int(version[1]) >= 8 else "float"
    return "int8" if platform == "cpu" or (device_kind in CHIPS and CHIPS[device_kind].int8) else "float"


_GIB, _GB = 2**30, 10**9
SLICES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "v4": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
        "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
        "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
        "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
        "tpu7x": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
    }
)
"""The shapes that Google Cloud documents (cloud.google.com/tpu/docs), larger ones left out; libtpu takes more."""


@dataclass(frozen=True)
class ChipLinks:
    """``hbm``: bytes per chip; ``link``: bytes per second in one direction of one link; ``ring``: an axis of a multiple of this
    many chips is closed to a ring.
    """

    hbm: int
    link: float
    ring: int


CHIP_LINKS: Mapping[str, ChipLinks] = MappingProxyType(
    {
        "v4": ChipLinks(32 * _GIB, 50e9, 4),
        "v5e": ChipLinks(16 * _GIB, 50e9, 16),
        "v5p": ChipLinks(95 * _GIB, 100e9, 4),
        "v6e": ChipLinks(32 * _GIB, 100e9, 16),
        "tpu7x": ChipLinks(192 * _GIB, 100e9, 4),
    }
)
"""HBM and interconnect from Google Cloud's page of each generation: both directions of all links of a chip together are 600,
400, 1200, 800 and 1200 GB/s; a chip of a 2D torus (v5e, v6e) has 4 links, one of a 3D torus 6."""
V4_PEAKS = Peaks({"int8": 137.5e12, "bfloat16": 137.5e12, "float32": 34e12}, 0.614e12, "jax/_src/tpu_info.py")
"""One TensorCore of two: without flags libtpu makes each a device."""
GPU_NODES: Mapping[str, tuple[str, int, float, str]] = MappingProxyType(
    {
        "h100": ("NVIDIA H100", 80 * _GB, 450e9, "9.0"),
        "h200": ("NVIDIA H200", 141 * _GB, 450e9, "9.0"),
        "a100": ("NVIDIA A100", 80 * _GB, 300e9, "8.0"),
    }
)
"""Name, memory, bytes per second in one direction of NVLink, and compute capability, from NVIDIA's data sheets."""

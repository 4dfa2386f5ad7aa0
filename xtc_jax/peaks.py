"""What accelerators do at most: the denominators of rooflines, bounds and utilisation."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from xtc_jax.kernels import CHIPS


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

"""Slices of accelerators by name: their devices, what each of them has, and the links between them."""

import importlib.util
import math
import re
from dataclasses import dataclass

import jax
from jax.errors import JaxRuntimeError

from xtc_jax.aot.libtpu import Compiler
from xtc_jax.devices import CHIP_LINKS, GPU_NODES, GPUS, SLICES, V4_PEAKS, Peaks, known_peaks
from xtc_jax.errors import UserError


@dataclass(frozen=True)
class Slice:
    """Devices of one kind.

    Attributes:
      name: as libtpu takes it, ``v5e:2x4``; or ``h100:8``.
      platform: ``tpu`` or ``cuda``.
      kind: what ``jax.Device.device_kind`` of such a device is.
      capability: compute capability of a GPU.
      devices: to compile for; none for GPUs, for which it cannot be done.
      count: number of devices.
      chips: how many they are on.
      hbm: bytes of memory of a device.
      peaks: of a device, if known.
      links: bytes per second that a device of a corner can send to others; 0 for one alone or where it is not known.
    """

    name: str
    platform: str
    kind: str
    capability: str
    devices: tuple[jax.Device, ...]
    count: int
    chips: int
    hbm: int
    peaks: Peaks | None
    links: float

    @property
    def compiles(self) -> bool:
        """Whether the compiler is here: libtpu needs no TPU, ptxas and cuBLAS need a GPU."""
        return bool(self.devices)


def find_slice(name: str) -> Slice:
    """The slice ``name``: ``v5e:16x16``, also written ``v5e-256``, ``h100:8``, or ``cuda``, which is ``h100:8``; or several
    equal slices, ``v5e:16x16*2``, whose network between them is not counted.

    Raises:
      UserError: unknown; lists what is known. Or libtpu, which knows TPUs, is not installed.
    """
    family, _, shape = re.sub(r"^cuda\b", "h100", name).partition(":")
    if family in GPU_NODES and re.fullmatch(r"([1-9]\d*)?", shape):
        kind, hbm, link, capability = GPU_NODES[family]
        count = int(shape or 8)
        jax.config.update("jax_platforms", "cpu")  # else JAX looks for a GPU
        known = next(found for short, found in GPUS.items() if short in kind)
        links = link if 1 < count <= 8 else 0.0  # beyond a node it depends on the network
        return Slice(f"{family}:{count}", "cuda", kind, capability, (), count, count, hbm, known, links)
    counted = re.fullmatch(r"(v5e|v6e)-(\d+)", name)
    if counted:
        family, shape = counted[1], next((each for each in SLICES[counted[1]] if _chips(each) == int(counted[2])), "")
    if family not in SLICES or not re.fullmatch(r"\d+x\d+(x\d+)?(\*[1-9]\d*)?", shape):
        raise UserError(f"--topology={name}: unknown; {_known()}")
    return _tpu_slice(family, shape)


def _tpu_slice(family: str, shape: str) -> Slice:
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("libtpu, the compiler of TPUs, is not installed; it needs no TPU: pip install libtpu")
    name = f"{family}:{shape}"
    try:
        devices = Compiler(bundles=False).devices(name)
    except JaxRuntimeError as error:
        raise UserError(f"--topology={name}: libtpu refuses it ({_one_line(error)}); {_known()}") from None
    chip, sides = CHIP_LINKS[family], [int(side) for side in shape.partition("*")[0].split("x")]
    per_chip = len(devices) // _chips(shape)
    known = V4_PEAKS if family == "v4" else known_peaks(devices[0].device_kind)
    links = chip.link * corner_links(sides, chip.ring) / per_chip
    return Slice(
        name, "tpu", devices[0].device_kind, "", devices, len(devices), _chips(shape), chip.hbm // per_chip, known, links
    )


def corner_links(sides: list[int], ring: int) -> int:
    """Links of a chip at a corner of a slice: along an axis two if it is a ring, one if it ends there, none if it is one chip.

    Axes of a multiple of ``ring`` chips are rings; in three dimensions only if all are.

    >>> corner_links([2, 4], 16), corner_links([16, 16], 16), corner_links([4, 4, 4], 4), corner_links([2, 2, 1], 4)
    (2, 4, 6, 2)
    """
    closed = [side % ring == 0 for side in sides]
    if len(sides) == 3:
        closed = [all(closed)] * 3
    return sum(0 if side == 1 else 2 if whole else 1 for side, whole in zip(sides, closed, strict=True))


def _chips(shape: str) -> int:
    return math.prod(map(int, shape.replace("*", "x").split("x")))


def _known() -> str:
    tpus = "; ".join(f"{family}: {', '.join(shapes)}" for family, shapes in SLICES.items())
    return f"write GENERATION:SHAPE ({tpus}), or GPUs by their number: h100:8, h200:8, a100:8, cuda"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()).removeprefix("INVALID_ARGUMENT: ")

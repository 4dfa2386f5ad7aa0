"""Compile for a TPU that is not there, and read off what the program takes: memory, and VLIW bundles.

libtpu, the compiler, is an ordinary wheel and needs no TPU. Use a process of its own: flags are read once, when libtpu
is loaded, and a failed check inside libtpu ends the process. All private and undocumented interfaces stand in this file:
the names of topologies, libtpu's flags, and the text of its dumps.
"""

import os
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

import jax
from jax.experimental import topologies

TOPOLOGIES: Mapping[str, str] = MappingProxyType(
    {"v4": "v4:2x2x1", "v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "v7": "tpu7x:2x2x1"}
)
"""The smallest topology of each generation; one of its devices is compiled for."""
_BUNDLE = re.compile(r"^ *(?:0x([0-9a-f]+)|0)\s*(L[HBE]|P[BF]|CT)?\s*: ", re.MULTILINE)
_BRANCH = re.compile(r"sbr\.rel (?:\(!?%\w+\) )?target = \$region(\d+)")
_REGION = re.compile(r"/\* Start region (\d+)")
_MATMUL = re.compile(r"vmatmul\.(?:mubr\.)?(?:msk\.)?([a-z]\w*)")


@dataclass(frozen=True)
class Bundles:
    """VLIW bundles of one program: a static count, not cycles, and no stall is in it.

    Attributes:
      name: of the HLO instruction.
      total: all bundles.
      step: those of the loop over a Pallas grid that run in every step; 0 where there is no such loop.
      first: those behind the condition of the longest ``pl.when`` in a step.
      mxu: types that the MXU multiplies, ``{"s8"}``.
    """

    name: str
    total: int
    step: int
    first: int
    mxu: frozenset[str]

    def executed(self, steps: int, firsts: int) -> int:
        """Bundles run by a grid of ``steps``, of which ``firsts`` meet the condition: prologue and all."""
        return self.total - self.step - self.first + steps * self.step + firsts * self.first


@dataclass(frozen=True)
class Compiled:
    """What a compiled program takes, in bytes of HBM, and the bundles of its parts where they were dumped."""

    arguments: int
    results: int
    temporaries: int
    code: int
    parts: tuple[Bundles, ...]

    def part(self, name: str) -> Bundles:
        """The one part whose name starts with ``name``."""
        (found,) = [part for part in self.parts if part.name.startswith(name)]
        return found


class Compiler:
    """libtpu in this process; a context, which holds the folder of its dumps.

    Args:
      bundles: whether to dump programs and count their bundles; takes about half as long again.
    """

    def __init__(self, bundles: bool = True) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="xtc-aot-") if bundles else None
        jax.config.update("jax_platforms", "cpu")  # else JAX looks for a TPU
        os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_MIN_LOG_LEVEL": "3"}
        os.environ |= {"TPU_ACCELERATOR_TYPE": "v5litepod-8", "TPU_WORKER_HOSTNAMES": "localhost"}  # else it complains of them
        if self._folder:
            flags = {"dump_to": self._folder.name, "dump_llo_text": "true", "dump_llo_pass_label_regex": "final_bundles"}
            os.environ["LIBTPU_INIT_ARGS"] = " ".join(f"--xla_jf_{name}={value}" for name, value in flags.items())

    def __enter__(self) -> "Compiler":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._folder:
            self._folder.cleanup()

    def device(self, generation: str) -> jax.Device:
        """A device of ``generation``, a key of :data:`TOPOLOGIES`, that can be compiled for and nothing else."""
        return self.devices(TOPOLOGIES[generation])[0]

    def devices(self, topology: str) -> tuple[jax.Device, ...]:
        """All devices of ``topology``, a name such as ``v5e:2x4``, or ``v5e:2x4*2`` for two such slices, to compile for.

        Raises:
          JaxRuntimeError: libtpu does not know it.
        """
        name, _, slices = topology.partition("*")
        return tuple(topologies.get_topology_desc(name, platform="tpu", num_slices=int(slices or 1)).devices)

    def compile(self, generation: str, function: Callable[..., Any], *arguments: Any) -> Compiled:
        """Compile ``function`` for one device of ``generation``.

        Args:
          generation: a key of :data:`TOPOLOGIES`.
          function: anything that ``jax.jit`` takes.
          arguments: pytrees of arrays, or of anything with a shape and a dtype.
        """
        sharding = jax.sharding.SingleDeviceSharding(self.device(generation))
        placed = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), arguments)
        memory = jax.jit(function).trace(*placed).lower(lowering_platforms=("tpu",)).compile().memory_analysis()
        return Compiled(
            memory.argument_size_in_bytes,
            memory.output_size_in_bytes,
            memory.temp_size_in_bytes,
            memory.generated_code_size_in_bytes,
            self._take_dumps(),
        )

    def _take_dumps(self) -> tuple[Bundles, ...]:
        """The bundles of every program dumped since the last time; dumps are large, so they are deleted."""
        parts = []
        for path in sorted(Path(self._folder.name).iterdir()) if self._folder else []:
            match = re.fullmatch(r"\d+-(.+)-\d+-final_bundles\.txt", path.name)
            if match and match[1] != "TLP" and not match[1].startswith("<"):
                parts.append(count_bundles(match[1], path.read_text()))
            path.unlink()
        return tuple(parts)


def count_bundles(name: str, dump: str) -> Bundles:
    """Read a dump of final bundles: a line for each bundle, with its address, a label, and branches to numbered regions.

    A branch forward skips a region that runs on a condition, up to the label ``PF``; a branch backward closes a loop. In a
    program that Mosaic makes the grid is the one loop, and in it is one region for a step's body: the loop also runs
    before the first step and after the last, to copy. What lies between those two runs once a step and twice more.
    """
    addresses: list[int] = []
    branches: list[tuple[int, int]] = []
    ends: list[int] = []
    regions: dict[int, int] = {}
    for line in dump.splitlines():
        bundle = _BUNDLE.match(line)
        if not bundle:
            continue
        address = int(bundle[1] or "0", 16)
        addresses.append(address)
        if bundle[2] == "PF":
            ends.append(address)
        regions |= {int(number): address for number in _REGION.findall(line) if int(number) not in regions}
        branches += [(address, int(number)) for number in _BRANCH.findall(line)]
    total, mxu = len(addresses), frozenset(_MATMUL.findall(dump))
    backward = [(regions[number], address) for address, number in branches if regions.get(number, total) <= address]
    if not backward:
        return Bundles(name, total, 0, 0, mxu)
    start, stop = min(backward)
    skipped = _spans([address for address, number in branches if regions.get(number, total) > address], ends)
    inner = [end - begin for begin, end, depth in skipped if depth > 0 and start <= begin <= stop]
    first = max(inner, default=0)
    return Bundles(name, total, stop + 1 - start - first, first, mxu)


def _spans(begins: list[int], ends: list[int]) -> list[tuple[int, int, int]]:
    """Begin, end and depth of the regions that branches at ``begins`` skip; they nest."""
    spans: list[tuple[int, int, int]] = []
    open_: list[int] = []
    for address, opens in sorted([(begin, True) for begin in begins] + [(end, False) for end in ends]):
        if opens:
            open_.append(address)
        elif open_:
            spans.append((open_.pop(), address, len(open_)))
    return spans

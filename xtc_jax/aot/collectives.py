"""The collectives of a compiled program: kinds, groups, counts and bytes."""

import math
import re
from collections import Counter
from dataclasses import dataclass

from xtc_jax.aot.hlo_text import Computation, Executed, Instruction, Module, executed

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_SCATTER = "all-reduce-scatter"
"""What libtpu calls a fusion of an all-reduce with the slice that each device keeps of it: a reduce-scatter."""


@dataclass(frozen=True)
class Collective:
    """All collectives of a step with the same kind and size of group.

    Attributes:
      kind: one of :data:`KINDS`.
      group: devices that exchange among themselves.
      count: how many run in a step on each device; an array of a combined one is not counted by itself.
      bytes: of the whole array, on one device, over all of them: what is reduced, or what has been gathered.
    """

    kind: str
    group: int
    count: int
    bytes: int

    @property
    def sent(self) -> float:
        """Bytes that a device must send at least, and that a ring sends::

        all-reduce 2 (n - 1) / n * bytes;   all-gather, reduce-scatter, all-to-all (n - 1) / n * bytes;   permute bytes

        (Patarasuk and Yuan 2009: no all-reduce sends less, however it is done.)
        """
        if self.kind == "collective-permute":
            return self.bytes
        return (2 if self.kind == "all-reduce" else 1) * (self.group - 1) / self.group * self.bytes


def find_collectives(module: Module, devices: int) -> tuple[Collective, ...]:
    """Those that one run of the program makes on one device, largest first; between a start and its done there is one.

    Args:
      module: the program of one of the devices.
      devices: how many run it; the group where none is named.
    """
    counts: Counter[tuple[str, int]] = Counter()
    sizes: Counter[tuple[str, int]] = Counter()
    scatters = {
        id(module.computations[called])
        for each in executed(module)
        for called in each.instruction.called
        if called.startswith(_SCATTER)
    }
    for each in executed(module):
        kind = each.instruction.opcode.removesuffix("-start")
        if kind not in KINDS:
            continue
        if id(each.computation) in scatters:
            kind = "reduce-scatter"
        key = kind, group_size(each.instruction.attributes, devices)
        counts[key] += each.times
        sizes[key] += each.times * _payload(each, kind)
    found = [Collective(kind, group, counts[kind, group], size) for (kind, group), size in sizes.items()]
    return tuple(sorted((one for one in found if one.group > 1), key=lambda one: -one.bytes))


def _payload(each: Executed, kind: str) -> int:
    """Bytes of the operands, or of what an all-gather returns, of which a start lists the operands before the results."""
    instruction = each.instruction
    operands = _operands(each.computation, instruction)
    if kind != "all-gather":
        return operands
    return instruction.bytes - (operands if instruction.opcode.endswith("-start") else 0)


def _operands(computation: Computation, instruction: Instruction) -> int:
    return sum(computation[name].bytes for name in instruction.operands)


def group_size(attributes: str, devices: int) -> int:
    """Devices in one group, of the three ways in which groups are printed.

    >>> group_size("replica_groups={{0,1},{2,3}}", 4), group_size("replica_groups=[2,4]<=[8]", 8)
    (2, 4)
    >>> group_size("replica_groups=mesh['data'=4,'fsdp'=2] {'fsdp'}", 8), group_size("replica_groups={}", 8)
    (2, 8)
    """
    if "source_target_pairs=" in attributes:
        return 2
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return listed[1].count(",") + 1
    tiled = re.search(r"replica_groups=\[\d+,(\d+)\]", attributes)
    if tiled:
        return int(tiled[1])
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])  # the second is a part of an axis
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    return devices

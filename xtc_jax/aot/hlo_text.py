"""Optimized HLO as text, read: what a compiled program executes, how often, and where its buffers lie."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

Computation = dict[str, "Instruction"]
_BITS = {"pred": 8, "token": 0, "opaque": 0}
"""Of the types whose name does not end in their width."""
_BUFFER = re.compile(r"([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_HEADER = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_LINE = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*)$")
_CALLED = re.compile(r"(?:calls|to_apply|body|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Buffer:
    """An array of a program; ``space`` is 0 in main memory, 1 and more in memories of the chip."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """Without the padding of its layout."""
        digits = re.search(r"\d+", self.dtype)
        bits = _BITS[self.dtype] if self.dtype in _BITS else int(digits[0] if digits else 8)
        return -(-math.prod(self.dims) * bits // 8)


@dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    Attributes:
      name, opcode: as they are printed in the program's text.
      results: arrays of the result, those of a tuple in order.
      operands: names of instructions of the same computation.
      attributes: what follows the operands; of a ``parameter``, its number first.
      root: whether it is what the computation returns.
    """

    name: str
    opcode: str
    results: tuple[Buffer, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool = False

    @property
    def bytes(self) -> int:
        """Bytes of all results together."""
        return sum(buffer.bytes for buffer in self.results)

    @property
    def called(self) -> tuple[str, ...]:
        """Computations that it runs; the scalar function of a reduction is not one of them."""
        if self.opcode not in ("fusion", "while", "call", "conditional") and not self.opcode.startswith("async"):
            return ()
        found = _CALLED.findall(self.attributes)
        return tuple(name.strip(" %") for one, several in found for name in (one or several).split(","))

    @property
    def number(self) -> int:
        """Of a ``parameter``, from 0."""
        match = re.match(r"\((\d+)\)", self.attributes)
        return int(match[1]) if match and self.opcode == "parameter" else -1

    @property
    def trips(self) -> int:
        """How often a ``while`` runs its body, where the compiler knows; else 1."""
        match = _TRIPS.search(self.attributes)
        return int(match[1]) if match and self.opcode == "while" else 1


@dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
      computations: all computations of the program, by name.
      entry: the name of the one it starts with.
    """

    computations: dict[str, Computation]
    entry: str


@dataclass(frozen=True)
class Executed:
    """An instruction that a program runs ``times`` times; ``fused`` if it is a part of another one, which is listed too."""

    instruction: Instruction
    computation: Computation
    times: int
    fused: bool


def parse(text: str) -> Module:
    """Read what ``jax.stages.Compiled.as_text`` returns.

    Raises:
      ValueError: no ``ENTRY`` computation in it.
    """
    computations: dict[str, Computation] = {}
    entry = ""
    current: Computation = {}
    for line in text.splitlines():
        if line[:1] not in (" ", "}", ""):
            header = _HEADER.match(line)
            if header:
                current = computations[header[2]] = {}
                entry = header[2] if header[1] else entry
            continue
        match = _LINE.match(line)
        if match:
            current[match[2]] = _instruction(match[2], match[3], bool(match[1]))
    if not entry:
        raise ValueError("no ENTRY computation: not the text of an HLO module")
    return Module(computations, entry)


def _instruction(name: str, text: str, root: bool) -> Instruction:
    """``SHAPE opcode(operands), attributes``."""
    end = _closing(text, 0) if text.startswith("(") else text.index(" ")
    begin = text.index("(", end)
    close = _closing(text, begin)
    opcode, operands = text[end:begin].strip(), tuple(re.findall(r"%([\w.\-]+)", text[begin:close]))
    attributes = text[begin if opcode == "parameter" else close :]
    return Instruction(
        name, opcode, tuple(_buffer(*match) for match in _BUFFER.findall(text[:end])), operands, attributes, root
    )


def _buffer(dtype: str, dims: str, layout: str) -> Buffer:
    space = _SPACE.search(layout)
    sizes = (re.sub(r"\D", "", size) for size in dims.split(",") if size)  # a dynamic size is printed <=8
    return Buffer(dtype, tuple(map(int, sizes)), int(space[1]) if space else 0)


def _closing(text: str, begin: int) -> int:
    """One past the parenthesis that closes the one at ``begin``."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, begin):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ValueError(f"no closing parenthesis in HLO: {text[:100]}")


def executed(module: Module) -> Iterator[Executed]:
    """All that runs, loops as often as the compiler knows; of a conditional every branch."""

    def visit(name: str, times: int, fused: bool) -> Iterator[Executed]:
        computation = module.computations[name]
        for instruction in computation.values():
            yield Executed(instruction, computation, times, fused)
            for called in instruction.called:
                inside = fused or instruction.opcode == "fusion" or instruction.opcode.startswith("async")
                yield from visit(called, times * instruction.trips, inside)

    return visit(module.entry, 1, False)

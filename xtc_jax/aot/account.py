"""What a training step takes of every device: memory, operations, traffic, and the time that follows at least."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax
from jax.errors import JaxRuntimeError

from xtc_jax.aot.bound import Bound, lower_bound, product_rates
from xtc_jax.aot.collectives import Collective, find_collectives
from xtc_jax.aot.flops import matmul_operations
from xtc_jax.aot.hlo_text import parse
from xtc_jax.aot.sharded import paper_collectives
from xtc_jax.aot.step import Step, shard_bytes
from xtc_jax.aot.topology import Slice
from xtc_jax.aot.traffic import hbm_traffic

_TOO_MUCH = re.compile(r"Used ([\d.]+)([KMG]?) of ([\d.]+)([KMG]?) hbm")
_TEMPORARIES = re.compile(r"HLO temporaries \(([\d.]+)([KMG]?)\) exceeds available HBM \(([\d.]+)([KMG]?)\)")
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


@dataclass(frozen=True)
class Memory:
    """Bytes on each device.

    Attributes:
      arguments: train state, teacher and batch.
      outputs: the new state and the losses.
      donated: of the outputs, what takes the place of an argument.
      temporaries: activations and gradients; None where nothing was compiled.
      code: of the program, which lies in HBM, too.
      needed: the sum, at the peak; of a program that does not fit, what the compiler says; else a lower bound of it.
      available: what there is.
    """

    arguments: int
    outputs: int
    donated: int
    temporaries: int | None
    code: int | None
    needed: int
    available: int

    @property
    def fits(self) -> bool:
        """Whether the program can be loaded."""
        return self.needed <= self.available


@dataclass(frozen=True)
class Account:
    """A compiled step, or one that is known on paper alone.

    Attributes:
      compiled: whether the compiler of these devices has made the program; otherwise traffic and collectives are the least that
        shapes and shardings imply.
      memory: what one device holds at the peak, in bytes.
      operations: of matrix products, by dtype, per device.
      traffic: bytes between a device and its memory.
      collectives: what one device sends and receives in a step.
      bound: None where the peaks of the device are not known, or the program does not fit.
      seconds: to trace, lower and compile.
    """

    compiled: bool
    memory: Memory
    operations: dict[str, float]
    traffic: int
    collectives: tuple[Collective, ...]
    bound: Bound | None
    seconds: float


def account(step: Step, slice_: Slice, begun: float, log: Callable[[str], None], quick: bool = False) -> Account:
    """Compile ``step`` for ``slice_``, or lower it where there is no compiler, and read off what it takes.

    Args:
      step: a traced training step.
      slice_: what it was traced for.
      begun: of ``time.monotonic``, when tracing began.
      log: receives a line of text about each step of the work.
      quick: compile at XLA's level O1, in a seventh of the time: another program than the one that trains, which moves twice as
        much from and to HBM; its memory and collectives are nearly the same.
    """
    operations = {dtype: count / slice_.count for dtype, count in matmul_operations(step.traced.jaxpr).items()}
    log(f"lowering for {slice_.platform}")
    lowered = step.traced.lower(lowering_platforms=(slice_.platform,))
    if not slice_.compiles:
        return _on_paper(step, slice_, operations, begun)
    log(f"compiling for {slice_.name}, {slice_.count} devices{' at O1' if quick else '; some minutes for a BERT-base'}")
    try:
        with _level("O1" if quick else ""):
            compiled = lowered.compile()
    except JaxRuntimeError as error:
        return _overflown(step, operations, begun, error)
    module = parse(compiled.as_text())
    collectives, traffic = find_collectives(module, slice_.count), hbm_traffic(module)
    seconds = time.monotonic() - begun
    bound = _bound(slice_, operations, traffic, collectives)
    return Account(True, _memory(compiled.memory_analysis(), slice_.hbm), operations, traffic, collectives, bound, seconds)


@contextmanager
def _level(level: str) -> Iterator[None]:
    """XLA's optimization level; empty leaves it as it is."""
    before: str = jax.config.jax_optimization_level
    jax.config.update("jax_optimization_level", level or before)
    try:
        yield
    finally:
        jax.config.update("jax_optimization_level", before)


def _bound(slice_: Slice, operations: dict[str, float], traffic: int, collectives: tuple[Collective, ...]) -> Bound | None:
    if slice_.peaks is None:
        return None
    rates = product_rates(slice_.peaks, slice_.platform)
    return lower_bound(rates, slice_.peaks.bandwidth, slice_.links, operations, traffic, collectives)


def _memory(found: Any, available: int) -> Memory:
    code = found.generated_code_size_in_bytes
    results = found.output_size_in_bytes - found.alias_size_in_bytes
    needed = found.argument_size_in_bytes + results + found.temp_size_in_bytes + code
    return Memory(
        found.argument_size_in_bytes,
        found.output_size_in_bytes,
        found.alias_size_in_bytes,
        found.temp_size_in_bytes,
        code,
        needed,
        available,
    )


def _overflown(step: Step, operations: dict[str, float], begun: float, error: JaxRuntimeError) -> Account:
    """Of a program that the compiler refused for want of HBM; any other error is raised again."""
    arguments, outputs = step.argument_bytes(), sum(shard_bytes(leaf) for leaf in jax.tree.leaves(step.state))
    said = overflow(str(error), arguments)
    if said is None:
        raise error
    memory = Memory(arguments, outputs, outputs, None, None, *said)
    return Account(True, memory, operations, 0, (), None, time.monotonic() - begun)


def overflow(message: str, arguments: int) -> tuple[int, int] | None:
    """Bytes needed and bytes available that libtpu names when a program is too large; None of any other message.

    >>> overflow("total memory required for HLO temporaries (2.00K) exceeds available HBM (1.50K)", 100)
    (2148, 1536)
    >>> overflow("Ran out of memory in memory space hbm. Used 2.00K of 1.50K hbm.", 100)
    (2048, 1536)
    """
    whole, temporaries = _TOO_MUCH.search(message), _TEMPORARIES.search(message)
    said = whole or temporaries
    if said is None:
        return None
    return _bytes(said[1], said[2]) + (0 if whole else arguments), _bytes(said[3], said[4])


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _UNITS[unit])


def _on_paper(step: Step, slice_: Slice, operations: dict[str, float], begun: float) -> Account:
    """What shapes and shardings imply: arguments are read and the state is written once, activations not at all."""
    arguments = step.argument_bytes()
    outputs = sum(shard_bytes(leaf) for leaf in jax.tree.leaves(step.state))
    gradients = sum(shard_bytes(leaf) for leaf in jax.tree.leaves(step.state.params))
    memory = Memory(arguments, outputs, outputs, None, None, arguments + gradients, slice_.hbm)
    traffic, collectives = arguments + outputs, paper_collectives(step.state.params, step.teacher, step.mesh)
    seconds = time.monotonic() - begun
    bound = _bound(slice_, operations, traffic, collectives)
    return Account(False, memory, operations, traffic, collectives, bound, seconds)

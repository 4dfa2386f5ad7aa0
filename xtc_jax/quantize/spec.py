"""How one weight is quantized, and how a config writes it: ``BITS[,OPTION...]``.

Bits may be a schedule: ``8@0>4@500>1@1000`` is 8 bits from step 0, 4 from step 500, 1 from step 1000; before the first of these
steps the weight is float. DeepSpeed's ``schedule_offset`` is the first step; its MoQ period doubling (docs/method.md,
section 9) is written out as steps, which shows what happens when.
"""

import itertools
import re
from dataclasses import dataclass, replace

from xtc_jax.errors import UserError
from xtc_jax.quantize.activations import ACTIVATION_BITS, RANGES, ActivationSpec
from xtc_jax.quantize.groups import Granularity

FLOAT = 32
QUANTIZERS: dict[str, tuple[int, ...]] = {
    "binary": (1,),
    "binary_centred": (1,),
    "ternary": (2,),
    "ternary_clipped": (2,),
    "symmetric": (3, 4, 5, 6, 7, 8),
    "asymmetric": (3, 4, 5, 6, 7, 8),
}
"""Every quantizer of weights with the bits it has; the first of a width is its default."""


@dataclass(frozen=True)
class WeightSpec:
    """How one weight is quantized.

    Attributes:
      bits: 1 (binary), 2 (ternary), 3 to 8 (integers), or 32: leave it alone. Of a schedule, the last.
      granularity: ``"tensor"``, ``"row"`` or a group size, see :func:`xtc_jax.quantize.group_count`.
      quantizer: a name of :data:`QUANTIZERS`; "" is the default of ``bits``.
      activation: of the input of the Linear that holds this weight; None leaves it float.
      stochastic: round at random while training (3 to 8 bits).
      schedule: ``(step, bits)`` pairs, steps rising and bits falling to ``bits``; empty is ``bits`` from step 0.
    """

    bits: int
    granularity: Granularity = "tensor"
    quantizer: str = ""
    activation: ActivationSpec | None = None
    stochastic: bool = False
    schedule: tuple[tuple[int, int], ...] = ()

    @property
    def named(self) -> str:
        """The quantizer by name, the default of ``bits`` where none was given."""
        return self.quantizer or next(name for name, bits in QUANTIZERS.items() if self.bits in bits)

    @property
    def row_local(self) -> bool:
        """Whether a row's values depend on that row alone. ``binary_centred`` subtracts the mean of the whole tensor."""
        return self.granularity == "row" and self.named != "binary_centred"

    def at(self, step: int) -> "WeightSpec":
        """The spec in force at a training step, without a schedule."""
        activation = self.activation if self.activation is not None and self.activation.start <= step else None
        if not self.schedule:
            return replace(self, activation=activation)
        begun = [bits for start, bits in self.schedule if start <= step]
        if not begun:
            return replace(self, bits=FLOAT, quantizer="", activation=None, schedule=())
        # On the way down a width that the quantizer lacks takes that width's default.
        bits = begun[-1]
        quantizer = self.named if bits in QUANTIZERS[self.named] else ""
        now = {"bits": bits, "quantizer": quantizer, "stochastic": self.stochastic and bits >= 3}
        return check_spec(replace(self, **now, activation=activation, schedule=()), "schedule")  # type: ignore[arg-type]

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps at which :meth:`at` may change."""
        return (*(step for step, _ in self.schedule), *((self.activation.start,) if self.activation else ()))


def check_spec(spec: WeightSpec, where: str) -> WeightSpec:
    """``spec`` with its quantizer named.

    Raises:
      UserError: bits, quantizer, activation or schedule that cannot be; says what can, and ``where``.
    """
    _check_schedule(spec, where)
    if spec.bits == FLOAT:
        if spec.activation is not None:
            raise UserError(f"{where}: activations are quantized only where the weight is")
        return spec
    offered = [name for name, bits in QUANTIZERS.items() if spec.bits in bits]
    if not offered:
        raise UserError(f"{where}: {spec.bits} bits are not offered; use 1 to 8, or 32 for float")
    if spec.quantizer and spec.quantizer not in QUANTIZERS:
        raise UserError(f"{where}: unknown quantizer {spec.quantizer!r}; use one of {', '.join(QUANTIZERS)}")
    if spec.quantizer and spec.quantizer not in offered:
        raise UserError(f"{where}: quantizer {spec.quantizer!r} has no {spec.bits} bits; use {' or '.join(offered)}")
    if isinstance(spec.granularity, str) and spec.granularity not in ("tensor", "row"):
        raise UserError(f"{where}: granularity {spec.granularity!r}; use tensor, row or the size of a group")
    if spec.stochastic and max(bits for _, bits in ((0, spec.bits), *spec.schedule)) < 3:
        raise UserError(f"{where}: stochastic rounding is of 3 to 8 bits; {spec.bits} bits do not round")
    _check_activation(spec.activation, where)
    return replace(spec, quantizer=spec.quantizer or offered[0])


def _check_activation(activation: ActivationSpec | None, where: str) -> None:
    if activation is None:
        return
    if activation.bits not in ACTIVATION_BITS:
        raise UserError(f"{where}: activations of {activation.bits} bits are not offered; use 8, 4 or 32 (off)")
    if activation.range not in RANGES:
        raise UserError(f"{where}: unknown activation range {activation.range!r}; use one of {', '.join(RANGES)}")


def _check_schedule(spec: WeightSpec, where: str) -> None:
    for (step, bits), (later, fewer) in itertools.pairwise(spec.schedule):
        if later <= step or fewer >= bits:
            raise UserError(f"{where}: the schedule goes from {bits}@{step} to {fewer}@{later}; steps must rise and bits fall")
    widths = {bits for widths in QUANTIZERS.values() for bits in widths}
    for _, bits in spec.schedule:
        if bits not in widths:
            raise UserError(f"{where}: {bits} bits are not offered; use 1 to 8")
    if spec.schedule and spec.schedule[-1][1] != spec.bits:
        raise UserError(f"{where}: the schedule ends at {spec.schedule[-1][1]} bits, not at {spec.bits}")


def parse_bits(text: str, where: str) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Read ``BITS`` or ``BITS@STEP>BITS@STEP…``: the final bits and the schedule.

    >>> parse_bits("8@0>1@1000", "here")
    (1, ((0, 8), (1000, 1)))

    Raises:
      UserError: another form.
    """
    if text.isdecimal():
        return int(text), ()
    parts = [re.fullmatch(r"(\d+)@(\d+)", part) for part in text.split(">")]
    if not all(parts):
        raise UserError(f"{where}: {text!r} is neither a number of bits nor a schedule such as 8@0>4@500>1@1000")
    schedule = tuple((int(part[2]), int(part[1])) for part in parts if part)
    return schedule[-1][1], schedule


_ACTIVATION = re.compile(r"a(?P<bits>\d+)(:(?P<range>(?!asymmetric)[a-z]+))?(?P<asymmetric>:asymmetric)?(@(?P<start>\d+))?")


def parse_spec(text: str, where: str) -> WeightSpec:
    """Read ``BITS[,OPTION...]``, options in any order: ``tensor``, ``row`` or a group size; the name of a quantizer;
    ``stochastic``; ``aBITS[:RANGE][:asymmetric][@STEP]`` for the activations.

    >>> parse_spec("4,64,asymmetric,a8:static", "here").activation
    ActivationSpec(bits=8, range='static', symmetric=True, start=0)

    Raises:
      UserError: something else; says what and ``where``.
    """
    first, *options = text.split(",")
    bits, schedule = parse_bits(first, where)
    spec = WeightSpec(bits, schedule=schedule)
    for option in options:
        activation = _ACTIVATION.fullmatch(option)
        if option in ("tensor", "row"):
            spec = replace(spec, granularity="tensor" if option == "tensor" else "row")
        elif option.isdecimal():
            spec = replace(spec, granularity=int(option))
        elif option in QUANTIZERS:
            spec = replace(spec, quantizer=option)
        elif option == "stochastic":
            spec = replace(spec, stochastic=True)
        elif activation is not None:
            kind = (activation["range"] or "token", activation["asymmetric"] is None, int(activation["start"] or 0))
            width = int(activation["bits"])
            spec = replace(spec, activation=None if width == FLOAT else ActivationSpec(width, *kind))
        else:
            known = f"tensor, row, SIZE, stochastic, aBITS[:RANGE][:asymmetric][@STEP], {', '.join(QUANTIZERS)}"
            raise UserError(f"{where}: unknown option {option!r}; use {known}")
    return check_spec(spec, where)

"""The time that a step takes at least: the roofline of Williams et al. 2009, with the interconnect as a third roof."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xtc_jax.aot.collectives import Collective
from xtc_jax.devices import Peaks


@dataclass(frozen=True)
class Bound:
    """Seconds of a step at least, by each of three limits alone; they may overlap without end, so the largest is the bound.

    Attributes:
      compute: of the matrix products; what the vector unit does is not counted.
      hbm: of the traffic between the chip and its memory.
      interconnect: of the collectives; None where the links are not known.
    """

    compute: float
    hbm: float
    interconnect: float | None

    @property
    def seconds(self) -> float:
        """The lower bound of the step: the largest of the three times, in seconds."""
        return max(self.compute, self.hbm, self.interconnect or 0.0)

    @property
    def binding(self) -> str:
        """Which of the three times is the largest: ``compute``, ``hbm`` or ``interconnect``."""
        named = {"compute": self.compute, "hbm": self.hbm, "interconnect": self.interconnect or 0.0}
        return max(named, key=lambda name: named[name])


def product_rates(peaks: Peaks, platform: str) -> dict[str, float]:
    """Operations per second of matrix products by the dtype of their operands, at JAX's default precision.

    A product of float32 is one pass of bfloat16 on a TPU, and TF32 on a GPU, at half the rate of bfloat16.
    """
    return {**peaks.operations, "float32": peaks.operations["bfloat16"] / (1 if platform == "tpu" else 2)}


def lower_bound(
    rates: Mapping[str, float],
    bandwidth: float,
    links: float,
    operations: Mapping[str, float],
    traffic: float,
    collectives: Sequence[Collective],
) -> Bound:
    """The bound of one device::

        compute = sum over dtypes of operations / rate;   hbm = traffic / bandwidth;   interconnect = sent / links

    Args:
      rates: of products, see :func:`product_rates`.
      bandwidth: of its memory, bytes per second.
      links: bytes per second that it can send to others; 0 is not known, or nobody there.
      operations: of matrix products on it, by dtype, see ``matmul_operations``.
      traffic: bytes from and to its memory.
      collectives: of the step.
    """
    compute = sum(count / rates[dtype] for dtype, count in operations.items())
    sent = sum(each.sent for each in collectives)
    return Bound(compute, traffic / bandwidth, sent / links if links else (None if sent else 0.0))

"""What of a processor the results of other software depend on."""

from pathlib import Path

from xtc_jax.benchmark.device import integer_unit

_CPUINFO = Path("/proc/cpuinfo")


def avx2_alone() -> bool:
    """Whether this is an x86 processor without VNNI."""
    return _CPUINFO.exists() and integer_unit(_CPUINFO.read_text()) == "avx2"

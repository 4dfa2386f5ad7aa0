"""Memory of a process that trains on a CPU: kept from step to step, in huge pages.

XLA asks malloc for a step's temporary buffers and frees them after it. glibc gives blocks of that size back to the kernel at
once, which has to clear every page of them again in the next step: 187,000 page faults, 750 MB, in each step of a MiniLM at
32 x 64 (benchmarks/README.md). An accelerator's memory is XLA's own, so there nothing is changed.
"""

import ctypes
import mmap
import os
import platform
from collections.abc import Mapping
from pathlib import Path

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -3, -4, -8
_MOST_MAPPINGS = 65536
"""glibc's own value of M_MMAP_MAX."""
_ACCELERATORS = ("nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")
"""Device files of NVIDIA and AMD GPUs and of TPUs (before and since v5p)."""


def keep_memory(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> bool:
    """Have malloc keep what is freed, for the rest of the process, where it trains on a CPU under Linux with glibc.

    To be called while the process has one thread, so before numpy and JAX are imported. A thread that allocates gets an arena
    of its own, which takes large blocks from the kernel; those that exist stay, and later threads share them by turns. The
    price: memory of the busiest moment is not given back, and where a small block stands in the way of a large one there may be
    a second copy of it. So blocks above an eighth of the machine's memory, or 2 GiB, are treated as before.

    Args:
      environment: where ``GLIBC_TUNABLES`` or a variable of malloc's is set, somebody has decided, and nothing is changed.
      devices: where device files of accelerators are looked for, unless ``JAX_PLATFORMS`` is ``cpu``.

    Returns:
      Whether anything was changed.
    """
    decided = any(name == "GLIBC_TUNABLES" or name.startswith("MALLOC_") for name in environment)
    on_cpu = environment.get("JAX_PLATFORMS") == "cpu" or not any(any(devices.glob(name)) for name in _ACCELERATORS)
    if decided or not on_cpu or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    memory = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE
    if not libc.mallopt(_MMAP_THRESHOLD, min(memory // 8, 2**31 - 1)):
        return False  # an old glibc, whose largest is 32 MiB
    libc.mallopt(_TRIM_THRESHOLD, -1)  # the heap never shrinks
    libc.mallopt(_ARENA_MAX, 1)  # and all threads share it
    _advise_huge_pages(libc, memory // 2)
    return True


def _advise_huge_pages(libc: ctypes.CDLL, size: int) -> None:
    """Grow the heap by ``size`` bytes that nobody touches yet, and ask for huge pages there once somebody does.

    glibc can ask for them itself, but only if the environment has ``glibc.malloc.hugetlb=1`` before the process starts.
    """
    libc.mallopt(_MMAP_MAX, 0)  # of the heap, however large
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = libc.malloc(size)
    if block:  # not under a limit of the address space; then pages are small
        first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
        libc.madvise(first, (block + size - first) // mmap.PAGESIZE * mmap.PAGESIZE, mmap.MADV_HUGEPAGE)
        libc.free(block)
    libc.mallopt(_MMAP_MAX, _MOST_MAPPINGS)

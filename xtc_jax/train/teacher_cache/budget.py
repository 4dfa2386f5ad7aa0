"""How many bytes a teacher cache may take where nobody says."""

import os
import shutil
from pathlib import Path


def automatic_budget(directory: Path) -> int:
    """Half of the memory that is available, or half of the free disk space, whichever is less.

    What is read from a file again and again stays in memory only where there is room for it.
    """
    existing = next(path for path in (directory, *directory.absolute().parents) if path.exists())
    return min(available_memory(), shutil.disk_usage(existing).free) // 2


def available_memory() -> int:
    """Bytes of memory that can be had without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2

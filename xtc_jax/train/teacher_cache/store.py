"""The file of a teacher cache: an entry per example, written as it is computed, checked when it is first read.

All processes have the same file open; each writes the examples that it computed and reads those that it needs. Entries are
read and written by ``pread`` and ``pwrite``, which copy from and to the system's page cache: through a memory map a full disk,
or a file that is cut off, would be a signal and not an error.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtc_jax.train.teacher_cache.layout import HEADER, Field, Layout, decode, encode, is_whole

_KEY, _ENTRIES = "key.json", "entries"


def prepare(directory: Path, key: Mapping[str, Any], size: int) -> None:
    """Make the files of a cache, or leave them where they are of the same ``key``; others in the directory are deleted.

    Raises:
      OSError: it cannot be written.
    """
    text = json.dumps(dict(key), indent=1, sort_keys=True) + "\n"
    file = directory / _KEY
    if not (file.is_file() and file.read_text(errors="replace") == text):
        remove(directory)
        directory.mkdir(parents=True)
        scratch = file.with_suffix(".tmp")
        scratch.write_text(text)
        os.replace(scratch, file)
    with open(directory / _ENTRIES, "ab") as entries:
        entries.truncate(size)  # a hole: it takes no space until it is written


def remove(directory: Path) -> None:
    """Delete a cache; one that is not there, or cannot be deleted, is left as it is."""
    shutil.rmtree(directory, ignore_errors=True)


class Store:
    """The open file.

    Args:
      directory: that :func:`prepare` made.
      layout: of its entries.
      log: receives a line if entries are damaged.

    Raises:
      OSError: it cannot be opened for reading and writing.
    """

    def __init__(self, directory: Path, layout: Layout, log: Callable[[str], None]) -> None:
        self._layout, self._log, self._path = layout, log, directory / _ENTRIES
        self._file = os.open(self._path, os.O_RDWR)
        self._good = np.zeros(len(layout.tokens), bool)
        self._damaged = 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    @property
    def fields(self) -> tuple[Field, ...]:
        """The arrays of an entry."""
        return self._layout.fields

    @property
    def filled(self) -> int:
        """Entries that are there, by their first bytes."""
        return sum(any(os.pread(self._file, HEADER, int(offset))) for offset in self._layout.offsets[:-1])

    def has(self, examples: np.ndarray) -> bool:
        """Whether the entries of all these examples are there and undamaged; checked once each."""
        for example in examples[~self._good[examples]]:
            self._good[example] = self._check(int(example))
        return bool(self._good[examples].all())

    def read(self, examples: np.ndarray, rows: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
        """Copy entries that :meth:`has` found into these rows of arrays of zeros."""
        for example, row in zip(examples, rows, strict=True):
            decode(self._layout, int(example), self._entry(int(example)), arrays, row)

    def write(self, examples: np.ndarray, rows: np.ndarray, arrays: Sequence[np.ndarray]) -> None:
        """Write the entries of those of these examples that are not there yet.

        Raises:
          OSError: the disk is full, or otherwise fails.
        """
        for example, row in zip(examples, rows, strict=True):
            if not self._good[example]:
                entry = encode(self._layout, int(example), arrays, row)
                self._put(entry, int(self._layout.offsets[example]))
                self._good[example] = True

    def _put(self, entry: np.ndarray, offset: int) -> None:
        try:
            written = os.pwrite(self._file, entry, offset)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None
        if written != len(entry):  # the rest did not fit
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def _entry(self, example: int) -> np.ndarray:
        size = self._layout.entry_bytes(example)
        content = os.pread(self._file, size, int(self._layout.offsets[example]))
        return np.frombuffer(content.ljust(size, b"\0"), np.uint8)

    def _check(self, example: int) -> bool:
        if not any(os.pread(self._file, HEADER, int(self._layout.offsets[example]))):
            return False
        whole = is_whole(self._entry(example), example)
        if not whole:
            self._damaged += 1
            if self._damaged == 1:
                self._log(
                    f"{self._path}: the entry of example {example} is damaged; it and others that are, are computed again"
                )
        return whole

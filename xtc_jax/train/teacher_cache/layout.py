"""Where an example's outputs stand in the file of a teacher cache, and in which bytes."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HEADER = 8
"""Bytes before an entry's arrays: the CRC-32 of them, never 0, and the example's number; both little-endian uint32."""
_ALIGNMENT = 64


@dataclass(frozen=True)
class Field:
    """One array of a target.

    Attributes:
      ndim: 2 for ``(rows, features)``, 3 for ``(rows, length, features)``, 4 for ``(rows, features, length, length)``.
      features: logits, hidden size or heads.
      dtype: of its numbers.
    """

    ndim: int
    features: int
    dtype: np.dtype

    def shape(self, tokens: int) -> tuple[int, ...]:
        """Of one example with so many tokens."""
        return {2: (self.features,), 3: (tokens, self.features), 4: (self.features, tokens, tokens)}[self.ndim]


@dataclass(frozen=True)
class Layout:
    """The entries of a file, one per example, in the order of the data set.

    Attributes:
      fields: the arrays of an entry, one after another.
      tokens: int ``(examples,)``, tokens that are kept of each.
      offsets: int ``(examples + 1,)``, bytes from the beginning of the file; the last is its size.
    """

    fields: tuple[Field, ...]
    tokens: np.ndarray
    offsets: np.ndarray

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return int(self.offsets[-1])

    def entry_bytes(self, example: int) -> int:
        """Bytes of an entry, without what only aligns the next one."""
        return HEADER + int(_array_bytes(self.fields, self.tokens[example]))


def make_layout(arrays: Sequence[np.ndarray], tokens: np.ndarray) -> Layout:
    """For arrays of such shapes and dtypes, and examples of so many tokens."""
    fields = tuple(Field(a.ndim, a.shape[2] if a.ndim == 3 else a.shape[1], np.dtype(a.dtype)) for a in arrays)
    sizes = HEADER + _array_bytes(fields, tokens.astype(np.int64))
    offsets = np.concatenate([[0], np.cumsum(-(-sizes // _ALIGNMENT) * _ALIGNMENT)])
    return Layout(fields, tokens, offsets)


def encode(layout: Layout, example: int, arrays: Sequence[np.ndarray], row: int) -> np.ndarray:
    """The entry of an example, uint8 ``(entry_bytes,)``, of its row in the arrays of a batch."""
    entry = np.empty(layout.entry_bytes(example), np.uint8)
    for array, place in zip(arrays, _views(layout, example, entry), strict=True):
        place[...] = array[row][_corner(place.shape, array.ndim)]
    entry[:HEADER].view("<u4")[:] = checksum(entry), example
    return entry


def decode(layout: Layout, example: int, entry: np.ndarray, arrays: Sequence[np.ndarray], row: int) -> None:
    """Copy an entry into its row of the arrays of a batch, which is 0 elsewhere."""
    for array, place in zip(arrays, _views(layout, example, entry), strict=True):
        array[row][_corner(place.shape, array.ndim)] = place


def checksum(entry: np.ndarray) -> int:
    """CRC-32 of an entry's arrays; 1 where it is 0, which means that there is no entry."""
    return zlib.crc32(entry[HEADER:]) or 1


def is_whole(entry: np.ndarray, example: int) -> bool:
    """Whether an entry is there, is this example's, and is what was written."""
    crc, number = entry[:HEADER].view("<u4")
    return bool(crc != 0 and number == example and crc == checksum(entry))


def _array_bytes(fields: tuple[Field, ...], tokens: np.ndarray) -> np.ndarray:
    return sum(field.features * field.dtype.itemsize * tokens ** (field.ndim - 2) for field in fields) + 0 * tokens


def _views(layout: Layout, example: int, entry: np.ndarray) -> list[np.ndarray]:
    """The arrays in an entry's bytes."""
    views, at = [], HEADER
    for field in layout.fields:
        shape = field.shape(int(layout.tokens[example]))
        end = at + int(np.prod(shape)) * field.dtype.itemsize
        views.append(entry[at:end].view(field.dtype).reshape(shape))
        at = end
    return views


def _corner(shape: tuple[int, ...], ndim: int) -> tuple[slice, ...]:
    """The real tokens of a padded row."""
    return () if ndim == 2 else tuple(slice(0, size) for size in shape)

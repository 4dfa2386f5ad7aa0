"""Reading a safetensors file, and saying what is wrong with one."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (gives numpy its bfloat16)
import numpy as np
from safetensors import SafetensorError, safe_open

from xtc_jax.errors import UserError


def read_safetensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of one file.

    Raises:
      UserError: no such file, truncated or otherwise damaged, or of a dtype that numpy lacks; names the tensor where one is to
        blame.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: _tensor(file, name, path) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise UserError(f"{path}: damaged or truncated ({_blame(path) or error})") from None


def _tensor(file: Any, name: str, path: Path) -> np.ndarray:
    try:
        tensor: np.ndarray = file.get_tensor(name)
    except (AttributeError, TypeError):  # it looks for the dtype among numpy's
        dtype = file.get_slice(name).get_dtype()
        raise UserError(
            f"{path}: tensor {name} has dtype {dtype}, which is not read here; save it as float32, float16 or bfloat16"
        ) from None
    return tensor


def _blame(path: Path) -> str:
    """The first tensor whose bytes are not where the header says, in words; "" if the header itself cannot be read."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8:start])
        offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        spans = sorted((begin, stop, name) for name, (begin, stop) in offsets.items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""
    end, before = 0, ""
    for begin, stop, name in spans:
        if begin < end:
            return f"tensor {name} overlaps {before}"
        if begin > end or stop < begin:
            return f"tensor {name} does not begin where {before or 'the header'} ends"
        if start + stop > len(data):
            return f"tensor {name} reaches {start + stop - len(data):,} bytes beyond the end of the file"
        end, before = stop, name
    return ""

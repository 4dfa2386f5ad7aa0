"""Where the bytes of a packed model's file are, read from its header: neither JAX nor the weights are loaded for it."""

import json
import re
from pathlib import Path
from typing import Any

from xtc_jax.errors import UserError
from xtc_jax.params import SizeEntry

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json", "special_tokens_map.json")
_BASE3_BITS = 8 / 5
_PARTS = ("codes", "scale", "zero")
_PLAIN = re.compile(r"(embeddings|encoder/layer_\d+|pooler|classifier)/[\w/]+")
"""Path of a parameter that is not quantized."""
Header = dict[str, dict[str, Any]]


def file_account(directory: Path) -> tuple[list[SizeEntry], int, int]:
    """The size account of a packed model's file.

    Returns:
      One entry per parameter, the bytes of the file's header, and the bytes of the file; the first two
      add up to the third.

    Raises:
      UserError: no packed model, a damaged header, tensors that are missing, or bytes that do not add up.
    """
    quantization = _read_quantization(directory)
    header, length, size = _read_header(directory / WEIGHTS)
    try:
        weights, layout = quantization["weights"], quantization["layout"]
        entries = [_quantized(header, path, raw, layout) for path, raw in weights.items()]
        rest = [name for name in header if _PLAIN.fullmatch(name)]  # others are of another model, and do not add up
        entries += [_plain(name, header[name]) for name in rest]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{directory}: {WEIGHTS} does not fit config.json ({error}); one of them is damaged") from None
    if length + sum(entry.total for entry in entries) != size:
        raise UserError(
            f"{directory / WEIGHTS}: holds {size} bytes, its tensors and header fewer; it has tensors of another model"
        )
    return sorted(entries, key=lambda entry: entry.name.split("/")), length, size


def file_layout(directory: Path) -> str:
    """The layout that the codes of a packed model's file lie in, ``planes256.v1`` or ``base3.v1``.

    Raises:
      UserError: no packed model.
    """
    return str(_read_quantization(directory).get("layout"))


def _read_quantization(directory: Path) -> dict[str, Any]:
    file = directory / "config.json"
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory")
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{directory}: no config.json in it; a packed model directory is what 'xtc compress' writes") from None
    except ValueError as error:
        raise UserError(f"{file}: not a JSON file ({error})") from None
    if not isinstance(raw, dict) or not isinstance(raw.get("quantization"), dict):
        raise UserError(f"{file}: not a packed model (no quantization block); 'xtc compress' writes one")
    quantization: dict[str, Any] = raw["quantization"]
    return quantization


def _read_header(file: Path) -> tuple[Header, int, int]:
    """The tensors by name as the safetensors header has them, the bytes up to the data, and those of the file.

    Source: the format is that of github.com/huggingface/safetensors, "Format".
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    size = file.stat().st_size
    with open(file, "rb") as data:
        length = int.from_bytes(data.read(8), "little")
        text = data.read(length) if 8 + length <= size else b""
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
    except (ValueError, AttributeError):
        raise UserError(f"{file}: damaged or truncated (its header cannot be read)") from None
    return header, 8 + length, size


def _bytes(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    return int(end) - int(begin)


def _quantized(header: Header, path: str, raw: dict[str, Any], layout: str) -> SizeEntry:
    codes, *scales = (header[f"{path}.{part}"] for part in _PARTS if part != "zero" or raw.get("zero_points"))
    bits = raw["bits"]
    stored = _BASE3_BITS if layout == "base3.v1" and bits == 2 else 1 << (bits - 1).bit_length()
    rows, columns = raw["shape"]
    return SizeEntry(path, (rows, columns), stored, _bytes(codes), sum(map(_bytes, scales)))


def _plain(name: str, entry: dict[str, Any]) -> SizeEntry:
    bits = int("".join(filter(str.isdigit, entry["dtype"])))  # F32, F16, BF16
    return SizeEntry(name, tuple(entry["shape"]), bits, _bytes(entry), 0)


def tokenizer_bytes(directory: Path) -> int:
    """Bytes of the tokenizer's files in a model directory."""
    return sum((directory / name).stat().st_size for name in TOKENIZER_FILES if (directory / name).is_file())

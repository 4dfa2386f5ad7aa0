"""BERT checkpoints of Hugging Face, read and written without transposes: names are all that changes.

``bert.encoder.layer.3.output.dense.weight`` becomes ``encoder/layer_3/output/dense/weight`` and back. Both sides
keep torch's ``(out, in)`` order and the tensor's dtype, so a round trip is exact to the bit.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from xtc_jax.bert import MASKED_LM, BertConfig, config_from_dict, config_to_dict, masked_lm_shapes, parameter_shapes
from xtc_jax.data import PINNED, pinned_directory
from xtc_jax.errors import UserError
from xtc_jax.formats.safetensors import read_safetensors
from xtc_jax.params import Params, named_leaves, nest
from xtc_jax.quantize import INPUT_RANGE, weight_path

_POSITION_IDS = "embeddings.position_ids"
_OWN = ("embeddings.", "encoder.", "pooler.", "classifier.", "cls.predictions.")
_HEAD = ("pooler/", "classifier/", f"{MASKED_LM}/")
_UNPREFIXED = ("classifier.", "cls.")
_TIED = {
    f"{MASKED_LM}/predictions/decoder/weight": "embeddings/word_embeddings/weight",
    f"{MASKED_LM}/predictions/decoder/bias": f"{MASKED_LM}/predictions/bias",
}
"""Second copies that some checkpoints carry, and what they are copies of."""


def resolve_model(source: str) -> Path:
    """The local directory of a model: a directory, ``pinned:NAME`` or the id of a hub repository.

    Raises:
      UserError: nothing there, and the hub did not deliver.
    """
    if source.startswith(PINNED):
        return pinned_directory(source)
    if Path(source).exists() or source.startswith((".", "/", "~")) or source.count("/") > 1:
        path = Path(source).expanduser()
        if not path.is_dir():
            raise UserError(f"{source}: no such model directory")
        return path
    import huggingface_hub  # slow to import, needed for hub ids alone

    try:
        patterns = ["*.json", "*.safetensors", "pytorch_model*.bin", "vocab.txt"]
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=patterns))
    except Exception as error:
        raise UserError(f"{source}: no such directory, and the hub did not deliver it ({type(error).__name__})") from None


def read_config(path: Path) -> BertConfig:
    """Read ``config.json``.

    Raises:
      UserError: no such file, not JSON, or not the configuration of a BERT encoder this package runs.
    """
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; a model directory holds config.json and its weights") from None
    except ValueError as error:
        raise UserError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: not a model configuration")
    return config_from_dict(raw, str(path))


def parameter_path(name: str) -> str:
    """The path of a tensor; old ``gamma`` and ``beta`` are LayerNorm's weight and bias.

    >>> parameter_path("bert.encoder.layer.3.output.LayerNorm.gamma")
    'encoder/layer_3/output/LayerNorm/weight'
    """
    name = name.removeprefix("bert.")
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name)
    name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
    return re.sub(r"\blayer\.(\d+)", r"layer_\1", name).replace(".", "/")


def tensor_name(path: str) -> str:
    """Inverse of :func:`parameter_path`, without the ``bert.`` prefix."""
    return re.sub(r"\blayer_(\d+)", r"layer.\1", path.replace("/", "."))


def load_huggingface(directory: Path) -> tuple[BertConfig, Params]:
    """Read a checkpoint directory.

    Args:
      directory: ``config.json`` beside ``model.safetensors``, sharded safetensors or ``pytorch_model.bin``.

    Returns:
      The config, and the params as numpy arrays in the checkpoint's dtypes; ``pooler``, ``classifier`` and the head of
      the masked language model (``cls``) only if the checkpoint has them. Heads of other tasks
      (``cls.seq_relationship.*``, ``qa_outputs.*``) are left out.

    Raises:
      UserError: not a BERT, unreadable, or tensors missing, unknown or of a wrong shape; names them.
    """
    config = read_config(directory / "config.json")
    file, tensors = _read_tensors(directory)
    stripped = {name.removeprefix("bert."): value for name, value in tensors.items()}
    if _POSITION_IDS in stripped:
        config = BertConfig(**{**config.__dict__, "has_position_ids": True})
        del stripped[_POSITION_IDS]
    flat = {parameter_path(name): value for name, value in stripped.items() if name.startswith(_OWN)}
    flat = _without_copies(flat, file)
    check_params(flat, config, file)
    return config, nest(flat)


def _without_copies(flat: Mapping[str, np.ndarray], file: Path) -> dict[str, np.ndarray]:
    """``flat`` without the decoder of the masked-language-model head, which must be a copy of what it is tied to."""
    kept = {path: value for path, value in flat.items() if path not in _TIED}
    for copy in flat.keys() - kept.keys():
        origin = kept.setdefault(_TIED[copy], flat[copy])  # decoder.bias may be the only one of the two
        same = origin.dtype == flat[copy].dtype and origin.shape == flat[copy].shape
        if not same or origin.tobytes() != flat[copy].tobytes():
            raise UserError(
                f"{file}: tensor {tensor_name(copy)} differs from {tensor_name(_TIED[copy])}; only a masked-language-model "
                "head tied to its embeddings is supported: make them equal, or remove cls.predictions.*"
            )
    return kept


def check_params(flat: Mapping[str, Any], config: BertConfig, file: Path) -> None:
    """Compare paths, shapes and dtypes with those of a fresh model of this config.

    ``pooler``, ``classifier`` and ``cls`` (the head of the masked language model) may lack, each as a whole; weights may be
    split in halves, and Linears may have input ranges.

    Raises:
      UserError: a tensor is missing, unknown, or does not fit; names it and ``file``.
    """
    flat = {path: value for path, value in flat.items() if not path.endswith(INPUT_RANGE)}
    expected = parameter_shapes(config) | masked_lm_shapes(config)
    for whole in {weight_path(path) for path in flat} - flat.keys() & expected.keys():  # split in halves: both must be there
        expected |= dict.fromkeys((f"{whole}/first", f"{whole}/second"), expected.pop(whole))
    heads = {head for head in _HEAD if any(path.startswith(head) for path in flat)}
    wanted = {path for path in expected if not path.startswith(_HEAD) or path.startswith(tuple(heads))}
    missing, unknown = sorted(wanted - flat.keys()), sorted(flat.keys() - expected.keys())
    if missing:
        raise UserError(f"{file}: not a complete BERT; missing {_some(tensor_name(path) for path in missing)}")
    if unknown:
        raise UserError(f"{file}: does not fit its config.json; unknown {_some(tensor_name(path) for path in unknown)}")
    for path, value in flat.items():
        if value.shape != expected[path].shape:
            raise UserError(
                f"{file}: tensor {tensor_name(path)} has shape {value.shape}, config.json asks for {expected[path].shape}"
            )
        if value.dtype.kind not in "fV":
            raise UserError(f"{file}: tensor {tensor_name(path)} has dtype {value.dtype}, not a float")
        if not np.isfinite(np.asarray(value)).all():
            raise UserError(f"{file}: tensor {tensor_name(path)} has a value that is not finite; the file is damaged")


def _some(names: Any, most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _read_tensors(directory: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """All tensors of a directory, and the file to name in errors."""
    single, index, pickle = (
        directory / name for name in ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
    )
    if single.is_file():
        return single, read_safetensors(single)
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError):
            raise UserError(f"{index}: not an index of shards (no weight_map)") from None
        return index, {name: value for shard in shards for name, value in read_safetensors(directory / shard).items()}
    if pickle.is_file():
        return pickle, _read_pickle(pickle)
    raise UserError(f"{directory}: no model.safetensors, no model.safetensors.index.json and no pytorch_model.bin in it")


def _read_pickle(path: Path) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: reading it needs torch (pip install torch), or a model.safetensors beside it") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: _from_torch(value) for name, value in state.items()}
    except Exception as error:  # damaged archives raise anything from EOFError to UnpicklingError
        raise UserError(f"{path}: damaged, or not plain tensors ({type(error).__name__})") from None


def _from_torch(value: Any) -> np.ndarray:
    import ml_dtypes
    import torch

    if value.dtype == torch.bfloat16:
        bits: np.ndarray = value.view(torch.int16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: np.ndarray = value.numpy()
    return array


def save_huggingface(directory: Path, config: BertConfig, params: Params) -> None:
    """Write ``config.json`` and ``model.safetensors`` that transformers loads.

    A model with a classifier is a ``BertForSequenceClassification``; of the others, one with the head of the masked
    language model is a ``BertForMaskedLM`` and one without a bare ``BertModel``. The tied decoder is not written twice.
    """
    flat = {tensor_name(path): np.asarray(value) for path, value in named_leaves(params).items()}
    architecture = "BertModel"
    if MASKED_LM in params:
        architecture = "BertForMaskedLM"
    if "classifier" in params:
        architecture = "BertForSequenceClassification"
    if config.has_position_ids:
        flat[_POSITION_IDS] = np.arange(config.max_position_embeddings, dtype=np.int64)[None]
    if architecture != "BertModel":
        flat = {name if name.startswith(_UNPREFIXED) else f"bert.{name}": value for name, value in flat.items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "model.safetensors").write_bytes(save(flat, metadata={"format": "pt"}))
    raw = config_to_dict(config, architecture)
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n")

"""The packed model directory: what the whole project is for.

``model.safetensors`` holds ``<path>.codes`` (uint8, layout ``planes256.v1``, or ``base3.v1`` for ternary ones) and
``<path>.scale`` (float32) for every quantized weight, ``<path>.zero`` (float32) too where its grid is asymmetric, and
``<path>`` for the full-precision rest;
``config.json`` is the BERT's with a ``quantization`` and a ``task`` block; the tokenizer's files lie beside. Nothing
else is needed to run the model.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save

from xtc_jax.bert import BertConfig, config_from_dict, config_to_dict, parameter_shapes
from xtc_jax.data import Task
from xtc_jax.errors import UserError
from xtc_jax.formats.account import WEIGHTS
from xtc_jax.formats.safetensors import read_safetensors
from xtc_jax.formats.scratch import scratch_for
from xtc_jax.formats.tokenizer import copy_tokenizer
from xtc_jax.kernels import BASE3, PLANES256, STORED_LAYOUTS, PackedTensor, code_width, has_illegal_code
from xtc_jax.params import Params, named_leaves, nest
from xtc_jax.quantize import ACTIVATION_BITS, INPUT_RANGE, RANGES, ActivationSpec, weight_path

FORMAT_VERSION = 1
_JSON_NAMES = {str: "a string", int: "a whole number", bool: "true or false", list: "a list of strings", dict: "an object"}
_JSON_NAMES |= {NoneType: "null"}
_OF_A_WEIGHT: dict[str, tuple[type, ...]] = {
    "activation_bits": (int, NoneType),
    "activation_range": (str,),
    "activation_symmetric": (bool,),
    "zero_points": (bool,),
}
_OF_A_TASK: dict[str, tuple[type, ...]] = {"name": (str,), "text": (list,), "label": (str,), "metrics": (list,)}
_OF_A_TASK |= {"validation": (list,), "test": (list,), "max_length": (int,)}


@dataclass(frozen=True)
class PackedModel:
    """A packed model in memory.

    Attributes:
      config: shape of the BERT.
      params: nested dict with ``PackedTensor`` leaves.
      task: what it was trained for.
      max_length: tokens a text is cut to.
    """

    config: BertConfig
    params: Params
    task: Task
    max_length: int

    @property
    def mixes_inputs(self) -> bool:
        """Whether an answer depends on the inputs beside it: the range of an activation is that of the whole batch."""
        specs = [leaf.activation for leaf in named_leaves(self.params, whole=PackedTensor).values() if _is_packed(leaf)]
        return any(isinstance(spec, ActivationSpec) and spec.range == "tensor" for spec in specs)


def save_packed(directory: Path, model: PackedModel, tokenizer: Path, layout: str = PLANES256) -> None:
    """Write a packed model directory; it appears at once, complete, and replaces one that exists.

    ``layout`` ``base3.v1`` stores ternary weights in 1.6 bits; those of other widths lie in planes either way.
    """
    tensors: dict[str, np.ndarray] = {}
    quantized: dict[str, Any] = {}
    for path, leaf in named_leaves(model.params, whole=PackedTensor).items():
        if isinstance(leaf, PackedTensor):
            parts = {"codes": leaf.stored(layout).codes, "scale": leaf.scale, "zero": leaf.zero}
            tensors |= {f"{path}.{part}": np.asarray(value) for part, value in parts.items() if value is not None}
            quantized[path] = {"bits": leaf.bits, "shape": leaf.shape, **_activation_to_dict(leaf.activation)}
            quantized[path] |= {} if leaf.zero is None else {"zero_points": True}
        else:
            tensors[path] = np.asarray(leaf)
    raw = config_to_dict(model.config, "XtcBertForSequenceClassification")
    raw["quantization"] = {"format_version": FORMAT_VERSION, "layout": layout, "weights": quantized}
    weights = save(tensors)
    raw["quantization"]["sha256"] = hashlib.sha256(weights).hexdigest()
    # transformers skips a quantization method that it does not know and would load random weights; a block without a method it
    # refuses.
    raw["quantization_config"] = {"format": "xtc", "load_with": "xtc_jax"}
    raw["task"] = {
        "name": model.task.name,
        "text": model.task.text,
        "label": model.task.label,
        "metrics": model.task.metrics,
        "validation": model.task.validation,
        "test": model.task.test,
        "max_length": model.max_length,
    }
    with scratch_for(directory) as scratch:
        (scratch / WEIGHTS).write_bytes(weights)
        (scratch / "config.json").write_text(json.dumps(raw, indent=1) + "\n")
        copy_tokenizer(tokenizer, scratch, lists=False)


def load_packed(directory: Path) -> PackedModel:
    """Read a packed model directory; codes that lie in base 3 are turned into planes.

    Raises:
      UserError: no such directory, not a packed model, another format version, or tensors that are
        missing, damaged or do not fit ``config.json``.
    """
    model = _read(directory)
    return replace(model, params=jax.tree.map(_in_planes, model.params, is_leaf=_is_packed))


def _read(directory: Path) -> PackedModel:
    """The model with its codes as they lie in the file."""
    file = directory / "config.json"
    if not directory.is_dir():
        raise UserError(f"{directory}: no such model directory")
    try:
        raw = json.loads(file.read_text())
    except FileNotFoundError:
        raise UserError(f"{directory}: no config.json in it; a packed model directory is what 'xtc compress' writes") from None
    except ValueError as error:
        raise UserError(f"{file}: not a JSON file ({error})") from None
    if not isinstance(raw, dict) or not all(isinstance(raw.get(block), dict) for block in ("quantization", "task")):
        raise UserError(f"{file}: not a packed model (no quantization block); 'xtc compress' writes one")
    config = config_from_dict(raw, str(file))
    quantization, task = raw["quantization"], raw["task"]
    version, layout = quantization.get("format_version"), quantization.get("layout")
    if version != FORMAT_VERSION or layout not in STORED_LAYOUTS:
        raise UserError(
            f"{file}: format {version}, layout {layout!r} is not known here (known: format {FORMAT_VERSION}, "
            f"{', '.join(STORED_LAYOUTS)}); a newer xtc_jax wrote it, or it is damaged"
        )
    where = f"{file}: its quantization or task block is damaged:"
    _check_types(quantization, {"weights": (dict,), "sha256": (str, NoneType)}, ("weights",), where)
    for path, weight in quantization["weights"].items():
        _check_types({path: weight}, {path: (dict,)}, (), where)
        _check_types(weight, _OF_A_WEIGHT, (), f"{where} {path}:")
    _check_types(task, _OF_A_TASK, ("name", "text", "label", "metrics", "max_length"), where)
    if not 0 < task["max_length"] <= config.max_position_embeddings:
        raise UserError(f"{where} max_length is {task['max_length']}, not 1 to {config.max_position_embeddings}")
    # Directories of before MNLI have no splits in them: they are those of any other task.
    splits = {key: tuple(task[key]) for key in ("validation", "test") if key in task}
    text, metrics = tuple(task["text"]), tuple(task["metrics"])
    found = Task(task["name"], text, config.labels, config.regression, metrics, task["label"], **splits)
    tensors = read_safetensors(directory / WEIGHTS)
    _check_digest(directory / WEIGHTS, quantization.get("sha256"))
    params = nest(_assemble(tensors, quantization["weights"], directory / WEIGHTS, config, layout))
    return PackedModel(config, params, found, task["max_length"])


def _check_types(block: dict[str, Any], types: dict[str, tuple[type, ...]], needed: tuple[str, ...], where: str) -> None:
    """Each key of a block of ``config.json`` against the types that are written; of a list, its elements are strings."""
    for key, known in types.items():
        value = block.get(key)
        if key not in block and key in needed:
            raise UserError(f"{where} key '{key}' is missing")
        words = not isinstance(value, list) or all(isinstance(each, str) for each in value)
        if key in block and (type(value) not in known or not words):  # not isinstance: True is no number
            raise UserError(
                f"{where} {key} is {json.dumps(value)[:80]}, not {' or '.join(map(_JSON_NAMES.__getitem__, known))}"
            )


def _check_digest(file: Path, expected: str | None) -> None:
    """Compare a file with the SHA-256 in ``config.json``; directories that an older xtc_jax wrote have none."""
    if expected is None:
        return
    with open(file, "rb") as data:
        found = hashlib.file_digest(data, "sha256").hexdigest()
    if found != expected:
        raise UserError(f"{file}: its SHA-256 is not the one in config.json; the file is damaged, or was changed by hand")


def _activation_to_dict(spec: object) -> dict[str, Any]:
    """How the input is quantized, as ``config.json`` has it; what is usual is left out."""
    if spec is None:
        return {"activation_bits": None}
    assert isinstance(spec, ActivationSpec)
    raw: dict[str, Any] = {"activation_bits": spec.bits}
    if spec.range != "token":
        raw["activation_range"] = spec.range
    if not spec.symmetric:
        raw["activation_symmetric"] = False
    return raw


def _activation_from_dict(raw: dict[str, Any], where: str) -> ActivationSpec | None:
    if raw.get("activation_bits") is None:
        return None
    kind = raw.get("activation_range", "token"), raw.get("activation_symmetric", True)
    if raw["activation_bits"] not in ACTIVATION_BITS or kind[0] not in RANGES:
        raise UserError(f"{where} has {kind[0]} activations of {raw['activation_bits']} bits, which are not known here")
    return ActivationSpec(raw["activation_bits"], *kind)


def _assemble(
    tensors: dict[str, np.ndarray], quantized: dict[str, Any], file: Path, config: BertConfig, layout: str
) -> dict[str, Any]:
    """Leaves by path, every shape and code checked against the config."""
    shapes = parameter_shapes(config)
    expected = {path: like.shape for path, like in shapes.items()}
    for path in (*quantized, *(name.removesuffix(".codes") for name in tensors)):
        whole = weight_path(path)
        if whole != path and whole in shapes:  # a half of a weight that was split: the other must be there
            expected.pop(whole, None)
            expected |= dict.fromkeys((f"{whole}/first", f"{whole}/second"), shapes[whole].shape)
    for path, raw in quantized.items():
        if len(expected.get(path, ())) != 2:
            raise UserError(f"{file}: config.json quantizes {path}, which this BERT does not have")
        if raw.get("activation_range") == "static":
            expected[f"{weight_path(path).removesuffix('/weight')}/{INPUT_RANGE}"] = (2,)
    leaves: dict[str, Any] = {}
    for path, shape in expected.items():
        raw = quantized.get(path)
        parts = [""] if raw is None else [".codes", ".scale", *([".zero"] if raw.get("zero_points") else [])]
        names = [path + part for part in parts]
        missing = next((name for name in names if name not in tensors), None)
        if missing:
            raise UserError(f"{file}: tensor {missing} is missing")
        found = [tensors[name] for name in names]
        if raw is not None:
            leaves[path] = _packed_leaf(f"{file}: tensor {path}", found, raw, shape, layout)
        elif found[0].shape != shape:
            raise UserError(f"{file}: tensor {path} has shape {found[0].shape}, config.json asks for {shape}")
        elif found[0].dtype.kind != "f" or not np.isfinite(found[0]).all():
            raise UserError(f"{file}: tensor {path} has values that are no finite floats; the file is damaged")
        else:
            leaves[path] = jnp.asarray(found[0])
    return leaves


def _packed_leaf(where: str, found: list[np.ndarray], raw: dict[str, Any], shape: tuple[int, ...], layout: str) -> PackedTensor:
    codes, scale, *zero = found
    n, k = shape
    bits: int = raw.get("bits", 0)
    if type(bits) is not int or bits not in range(1, 9):  # True is 1
        raise UserError(f"{where} has {bits} bits in config.json; a packed weight has 1 to 8")
    layout = layout if bits == 2 else PLANES256
    fits = codes.shape == (n, code_width(k, bits, layout)) and codes.dtype == np.uint8
    groups = [part.ndim == 1 and part.shape == scale.shape and part.dtype == np.float32 for part in (scale, *zero)]
    if not fits or not all(groups) or not scale.size or n * k % scale.size:
        raise UserError(f"{where} has codes {codes.shape} and scale {scale.shape}, config.json asks for {shape}")
    if not all(np.isfinite(part).all() for part in (scale, *zero)):
        raise UserError(f"{where} has a scale that is not finite; the file is damaged")
    if has_illegal_code(codes, bits, layout):
        named = {2: "ternary code 3"}.get(bits, f"code {2**bits} or more of {bits} bits")
        named = "byte 243 or more of base 3" if layout == BASE3 else named
        raise UserError(f"{where} holds the illegal {named}; the file is damaged")
    levels = [jnp.asarray(part) for part in (codes, scale, *zero)]
    return PackedTensor(
        levels[0], levels[1], (n, k), bits, _activation_from_dict(raw, where), layout, levels[2] if zero else None
    )


def _is_packed(leaf: object) -> bool:
    return isinstance(leaf, PackedTensor)


def _in_planes(leaf: Any) -> Any:
    return leaf.stored(PLANES256) if _is_packed(leaf) else leaf

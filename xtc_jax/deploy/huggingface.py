"""``xtc export --to=huggingface``: a directory that transformers runs in PyTorch, from the packed weights.

Tensors have torch's names and stay packed: the codes of ``bert.….query`` are ``bert.….query.weight``, and their scales
``….weight_scale``. The classes that read them are the two files of ``remote_code``, which transformers loads from the directory
when it is told to (``trust_remote_code=True``). Without that it refuses the directory: the model's type is not one of its own,
and a quantization block without a method stops its own BERT classes.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from xtc_jax.bert import config_to_dict
from xtc_jax.deploy.card import write_card
from xtc_jax.deploy.directory import exporting, write_json, write_tokenizer
from xtc_jax.deploy.verify import Agreement, Inputs, accept, compare, packed_logits
from xtc_jax.errors import UserError
from xtc_jax.formats import WEIGHTS, PackedModel, read_safetensors
from xtc_jax.formats.huggingface import tensor_name

CODE = ("configuration_xtc.py", "modeling_xtc.py")
_REFUSED = {"format": "xtc", "load_with": "AutoModelForSequenceClassification.from_pretrained(…, trust_remote_code=True)"}


def export_huggingface(packed: Path, out: Path, data: str, log: Callable[[str], None]) -> dict[str, Agreement]:
    """Write ``model.safetensors``, ``config.json``, the tokenizer and the code that runs them; PyTorch runs it first.

    Args:
      packed, out, data: see :func:`xtc_jax.deploy.directory.exporting`.
      log: receives a line of text about each step.

    Returns:
      The agreement, by the name of the run.

    Raises:
      UserError: ``out`` exists, torch is missing, no packed model, or logits that differ.
    """
    with exporting(packed, out, data, require_torch) as (source, scratch):
        write_files(packed, source.model, scratch)
        log(f"{WEIGHTS}: {(scratch / WEIGHTS).stat().st_size:,} bytes; running it in PyTorch beside the packed model")
        agreement = compare(packed_logits(source.model, source.batches), torch_logits(scratch, source.batches))
        found = {"PyTorch": accept(agreement, WEIGHTS, "PyTorch")}
        config = json.loads((scratch / "config.json").read_text())
        write_json(scratch / "config.json", {**config, "xtc_export": source.verified(found)})
        write_card(scratch, packed, source.model, "huggingface", found, data)
    return found


def require_torch() -> None:
    """Check that torch is there.

    Raises:
      UserError: it is not; names the command that installs it.
    """
    import importlib.util

    if importlib.util.find_spec("torch") is None:
        raise UserError("torch is not installed, and the export is verified in it; run: pip install torch")


def write_files(packed: Path, model: PackedModel, target: Path) -> None:
    """Everything but the card and the figures of the verification.

    Args:
      packed: the directory that ``model`` was read from; its codes are copied as they lie.
      model: read, and so checked.
      target: an empty directory.
    """
    raw = json.loads((packed / "config.json").read_text())
    tensors = read_safetensors(packed / WEIGHTS)
    save_file(
        {torch_name(name): np.ascontiguousarray(value) for name, value in tensors.items()}, target / WEIGHTS, {"format": "pt"}
    )
    write_json(target / "config.json", _config(model, raw, tensors))
    write_tokenizer(packed, target, model.max_length)
    for name in CODE:
        shutil.copyfile(Path(__file__).parent / "remote_code" / name, target / name)


def torch_name(name: str) -> str:
    """The name of a tensor of a packed file in PyTorch.

    >>> torch_name("encoder/layer_0/output/dense/weight/first.codes")
    'bert.encoder.layer.0.output.dense.first.weight'
    >>> torch_name("classifier/weight.scale")
    'classifier.weight_scale'
    """
    path, _, part = name.partition(".")
    for half in ("first", "second"):
        if path.endswith(f"/weight/{half}"):
            path = path.removesuffix(f"weight/{half}") + f"{half}/weight"
    plain = tensor_name(path)
    return ("" if plain.startswith("classifier.") else "bert.") + plain + ("" if part in ("", "codes") else f"_{part}")


def _config(model: PackedModel, raw: dict[str, Any], tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    quantization = raw["quantization"]
    weights: dict[str, Any] = {
        torch_name(path).removesuffix(".weight"): _entry(entry, len(tensors[f"{path}.scale"]))
        for path, entry in quantization["weights"].items()
    }
    # Halves of a split weight that are floats, so that the model knows that there are halves.
    weights |= {torch_name(path).removesuffix(".weight"): None for path in tensors if path.endswith(("/first", "/second"))}
    known = {key: quantization[key] for key in ("format_version", "layout")}
    automatic = {"AutoConfig": "configuration_xtc.XtcBertConfig"}
    automatic["AutoModelForSequenceClassification"] = "modeling_xtc.XtcBertForSequenceClassification"
    return {
        **config_to_dict(model.config, "XtcBertForSequenceClassification"),
        "model_type": "xtc_bert",
        "dtype": "float32",  # half floats of the file are widened, as xtc_jax does
        "auto_map": automatic,
        "quantization_config": _REFUSED,
        "xtc": {**known, "weights": weights, "task": raw["task"]},
    }


def _entry(entry: dict[str, Any], groups: int) -> dict[str, Any]:
    """One weight, nothing implied."""
    usual = {"zero_points": False, "activation_bits": None, "activation_range": "token", "activation_symmetric": True}
    return {**usual, **entry, "groups": groups}


def torch_logits(directory: Path, batches: Sequence[Inputs]) -> np.ndarray:
    """Logits by transformers and PyTorch, ``(rows, labels)``, of an exported directory; its code is run."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(directory, trust_remote_code=True).eval()
    with torch.inference_mode():
        found = [model(**{name: torch.from_numpy(value) for name, value in rows.items()}).logits for rows in batches]
    return np.concatenate([logits.numpy() for logits in found])

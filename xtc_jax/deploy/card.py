"""The model card of an exported directory: ``README.md`` with the metadata that the Hugging Face hub reads.

What it says is read from the packed directory, from the verification, and, where a run of ``xtc compress`` lies around the
packed directory, from its ``results.json`` and the records of its stages. What is not known is left out.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from xtc_jax.deploy.verify import Agreement
from xtc_jax.errors import UserError
from xtc_jax.formats import WEIGHTS, PackedModel
from xtc_jax.formats.account import file_account

CARD = "README.md"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
Records = dict[str, Any]
USES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "huggingface": (
            "transformers",
            """Needs torch and transformers; the two Python files of this directory unpack the weights, and are run when they
are trusted:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="DIRECTORY", trust_remote_code=True)
print(classify("a text", truncation=True))
```

A pair of texts is `classify({"text": "one", "text_pair": "another"})`.""",
        ),
        "onnx": (
            "transformers.js",
            """`onnx/model.onnx` has standard operators alone: any runtime of ONNX opset 20 runs it, on the inputs `input_ids`,
`attention_mask` and `token_type_ids`. Optimum and transformers.js read the directory as it is:

```python
from optimum.onnxruntime import ORTModelForSequenceClassification

model = ORTModelForSequenceClassification.from_pretrained("DIRECTORY")
```""",
        ),
    }
)
"""``form -> (library_name, how to run the directory)``."""


def run_records(packed: Path) -> tuple[Records, Records]:
    """What the run around a packed directory has recorded: results by stage, and the record of its first stage.

    Both are empty where there is no run, or where its packed model has another size than this one.
    """
    try:
        results = json.loads((packed.resolve().parent / "results.json").read_text())
        same = [each for each in results.values() if each.get("path") and Path(each["path"]).name == packed.resolve().name]
        if not same or same[0]["bytes"] != (packed / WEIGHTS).stat().st_size:
            return {}, {}
        first = packed.resolve().parent / next(iter(results)) / "config.json"
        return results, json.loads(first.read_text()) if first.is_file() else {}
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return {}, {}


def write_card(
    target: Path, packed: Path, model: PackedModel, form: str, agreement: Mapping[str, Agreement], data: str
) -> None:
    """Write ``README.md`` into an exported directory that is otherwise complete.

    Args:
      target: the directory.
      packed: the one that ``model`` was read from.
      model: what was exported.
      form: a key of :data:`USES`.
      agreement: by the name of the run.
      data: what it was verified on; "" is token ids drawn at random.
    """
    from huggingface_hub import ModelCard

    files = {path.relative_to(target).as_posix(): path.stat().st_size for path in target.rglob("*") if path.is_file()}
    text = card_text(packed, model, form, files, agreement, data)
    ModelCard(text)  # parsed once: a card with damaged metadata is not written
    (target / CARD).write_text(text, encoding="utf-8")


def card_text(
    packed: Path, model: PackedModel, form: str, files: Mapping[str, int], agreement: Mapping[str, Agreement], data: str
) -> str:
    """The card as Markdown, its metadata first; ``files`` are bytes by name, the rest is as for :func:`write_card`."""
    from huggingface_hub import ModelCardData

    library, use = USES[form]
    results, record = run_records(packed)
    name = f"{model.task.name}-xtc"
    metadata = ModelCardData(
        library_name=library,
        pipeline_tag="text-classification",
        tags=["xtc", "quantized", "text-classification"],
        model_name=name,
        eval_results=_eval_results(model, results) or None,
        **_base(record),
    )
    if not results:  # a name alone is no model index
        metadata.model_name = None
    parts = [
        f"# {name}",
        _summary(model),
        f"## Use\n\n{use}",
        f"## Sizes\n\n{_sizes(packed, files, results)}",
        f"## How it was made\n\n{_making(model, packed, results, record)}",
        f"## Verification\n\n{_verification(agreement, data)}",
        f"## Limits\n\n{_limits(model)}",
    ]
    return f"---\n{metadata.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n"


def check_hub_id(text: str) -> None:
    """Check a ``--base-model``.

    Raises:
      UserError: it is no id of the hub.
    """
    if text and not _HUB_ID.fullmatch(text):
        raise UserError(f"--base-model={text} is no id of the hub; give it as OWNER/NAME")


def complete_card(file: Path, licence: str, base_model: str) -> None:
    """Write into a card what its owner alone knows; "" leaves the metadata as it is."""
    from huggingface_hub import ModelCard

    card = ModelCard.load(file)
    if licence:
        card.data.license = licence
    if base_model:
        card.data.base_model, card.data.base_model_relation = base_model, "quantized"
    card.save(file)


def _public(record: Records) -> bool:
    """Whether the record names a checkpoint that others can find; a directory of somebody's machine is nobody's business."""
    source = str(record.get("model", ""))
    return source.startswith("pinned:") or bool(_HUB_ID.fullmatch(source) and not Path(source).exists())


def _base(record: Records) -> dict[str, str]:
    """The base model, where the record names one of the hub."""
    if not _public(record) or record["model"].startswith("pinned:"):
        return {}
    return {"base_model": record["model"], "base_model_relation": "quantized"}


def _eval_results(model: PackedModel, results: Records) -> list[Any]:
    from huggingface_hub import EvalResult

    metrics: dict[str, float] = next((each["metrics"] for each in results.values() if each.get("path")), {})
    return [
        EvalResult(
            task_type="text-classification",
            task_name="Text classification",
            dataset_type=model.task.name,
            dataset_name=model.task.name,
            dataset_split=", ".join(model.task.validation),
            metric_type=metric,
            metric_name=metric,
            metric_value=value,
        )
        for metric, value in metrics.items()
    ]


def _summary(model: PackedModel) -> str:
    config = model.config
    given = "two texts" if len(model.task.text) == 2 else "a text"
    answer = "gives a number" if config.regression else f"chooses one of {', '.join(f'`{label}`' for label in config.labels)}"
    return (
        f"A BERT that reads {given} and {answer}. Its weights are packed integers, made by XTC (arXiv 2206.01859) with xtc_jax."
    )


def _sizes(packed: Path, files: Mapping[str, int], results: Records) -> str:
    lines = ["| file | bytes |\n| --- | ---: |", *(f"| `{name}` | {size:,} |" for name, size in sorted(files.items()))]
    found = next((each for each in results.values() if each.get("ratio")), None)
    text = "\n".join(lines)
    if found:
        size = (packed / WEIGHTS).stat().st_size
        text += (
            f"\n\nThe packed weights, {size:,} bytes, are {found['ratio']:.1f} times smaller than the {found['fp32_bytes']:,} "
        )
        text += "bytes of the model that they were distilled from, at four bytes each (tokenizers on neither side)."
    return text


def _making(model: PackedModel, packed: Path, results: Records, record: Records) -> str:
    config, entries = model.config, file_account(packed)[0]
    bits: Counter[float] = Counter()  # parameters by width
    for entry in entries:
        bits[entry.bits] += math.prod(entry.shape)
    stored = ", ".join(f"{count:,} of {width:g} bit{'s' * (width != 1)}" for width, count in sorted(bits.items()))
    text = (
        f"{config.num_hidden_layers} layers of width {config.hidden_size}, {config.num_attention_heads} heads, "
        f"{config.vocab_size:,} word pieces. Parameters as stored: {stored}."
    )
    if _public(record):
        text += f" The checkpoint it began with: `{record['model']}`."
    if results:
        metric = next(iter(next(iter(results.values()))["metrics"]))
        rows = [f"| stage | layers | bits | {metric} | steps |\n| --- | ---: | ---: | ---: | ---: |"]
        rows += [
            f"| {name} | {each['layers']} | {each['weight_bits']} | {each['metrics'][metric]:.4f} | {each['steps']} |"
            for name, each in results.items()
        ]
        text += "\n\n" + "\n".join(rows)
    return text


def _verification(agreement: Mapping[str, Agreement], data: str) -> str:
    lines = [f"Run beside the packed model in its own runtime, on {f'`{data}`' if data else 'token ids drawn at random'}."]
    lines += ["", "| run | rows | median logit difference | largest | other labels | of them on the edge |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    lines += [
        f"| {name} | {each.rows:,} | {each.median:.1e} | {each.maximum:.1e} | {each.other_labels + each.close_labels} | "
        f"{each.close_labels} |"
        for name, each in agreement.items()
    ]
    return "\n".join([*lines, "", "On the edge is a label whose margin is smaller than the largest difference."])


def _limits(model: PackedModel) -> str:
    lines = [
        f"- A text is cut to {model.max_length} tokens{', a pair to as many in all' if len(model.task.text) == 2 else ''}.",
        f"- It knows the task `{model.task.name}` and texts like those it was trained on, no others.",
    ]
    if not model.config.regression:
        lines.append("- It always answers with one of its labels, and its probabilities have not been calibrated.")
    return "\n".join(lines)

"""What every export shares: it begins with the same checks and ends complete and verified, or leaves nothing."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xtc_jax.deploy.verify import Agreement, Inputs, data_inputs, sample_inputs
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel, load_packed
from xtc_jax.formats.scratch import scratch_for


@dataclass(frozen=True)
class Source:
    """What is exported, and what the export is compared on.

    Attributes:
      packed: the packed model's directory.
      model: as read from it.
      data: where ``batches`` come from; "" is token ids drawn at random.
      batches: inputs of both runtimes.
    """

    packed: Path
    model: PackedModel
    data: str
    batches: list[Inputs]

    def verified(self, found: Mapping[str, Agreement]) -> dict[str, Any]:
        """The figures of the comparison, for the files of an export."""
        return {"verified_on": self.data or "random token ids", **{name: asdict(each) for name, each in found.items()}}


@contextmanager
def exporting(packed: Path, out: Path, data: str, require: Callable[[], None]) -> Iterator[tuple[Source, Path]]:
    """The source, and an empty directory that becomes ``out`` at the end of the block; an exception leaves nothing.

    Args:
      packed: a packed model directory.
      out: new directory.
      data: file, directory or ``pinned:NAME`` whose validation examples are compared; "" compares token ids drawn at random.
      require: checks that what the export needs is installed.

    Raises:
      UserError: ``out`` exists, something is not installed, no packed model, or data that cannot be read.
    """
    if out.exists():
        raise UserError(f"{out}: exists already; choose a new directory")
    require()
    model = load_packed(packed)
    batches = data_inputs(model, packed, data) if data else sample_inputs(model)
    with scratch_for(out) as scratch:
        yield Source(packed, model, data, batches), scratch


def write_tokenizer(packed: Path, target: Path, max_length: int) -> None:
    """The tokenizer with the task's length; the file's own limits are those of the checkpoint it came from."""
    raw = json.loads((packed / "tokenizer.json").read_text())
    strategy = {"direction": "Right", "max_length": max_length, "strategy": "LongestFirst", "stride": 0}
    write_json(target / "tokenizer.json", {**raw, "truncation": strategy, "padding": None})
    file = packed / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {"tokenizer_class": "BertTokenizer"}
    write_json(target / "tokenizer_config.json", {**settings, "model_max_length": max_length})


def write_json(path: Path, value: dict[str, Any]) -> None:
    """JSON that a person can read."""
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")

"""``xtc augment``: a data set with variants of its texts, made in parts that survive a kill, by any number of processes.

The file depends on the model, the data and the settings alone. Rows are worked on in chunks of :data:`CHUNK`; what a chunk
becomes is computed from it and nothing else, so neither an interruption nor the number of processes changes a byte.
(Devices differ in the last bit of a sum: expect the same file on the same kind of machine.)
"""

import hashlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet
from tokenizers import Tokenizer

from xtc_jax.augment.candidates import make_candidates
from xtc_jax.augment.parts import (
    Job,
    assemble,
    finished_parts,
    is_finished,
    open_parts,
    part_file,
    remove_parts,
    run_processes,
    write_part,
)
from xtc_jax.augment.variants import augment_rows, rounds_of
from xtc_jax.bert import MASKED_LM, BertConfig
from xtc_jax.data import Task, check_vocabulary, discover_labels, evenly_spaced, load_table, load_tokenizer, table_examples
from xtc_jax.errors import UserError
from xtc_jax.formats import load_model
from xtc_jax.params import Params, named_leaves
from xtc_jax.train import progress

CHUNK = 16
"""Rows that one part is made of, whoever makes it: few, so that a kill costs little and progress is seen."""
ORIGIN, VARIANT = "origin", "variant"


@dataclass(frozen=True)
class AugmentSpec:
    """What to make, and with how many processes.

    Attributes:
      model: Hugging Face directory, hub id, ``pinned:NAME`` or directory of a stage; best a masked language model.
      task: gives the columns, and the rounds where ``count`` is 0.
      data: file, directory or ``pinned:NAME``, see :func:`xtc_jax.data.load_table`.
      split: ``train`` or another.
      count: rounds for each text, so at most as many variants; 0 is the task's, see :func:`xtc_jax.augment.rounds_of`.
      probability: of replacing a word in a round.
      candidates: words to choose from.
      max_length: tokens the masked language model sees; 0 is as many as it can.
      limit: rows of the source, evenly spaced; 0 is all.
      seed: of all chance.
      missing: what becomes of rows without a text or a label, ``refuse`` or ``drop``.
      part: of a file that serves training and validation, ``train``, see :func:`xtc_jax.data.held_out`; "" is the whole.
      processes: that work side by side, on the CPU where they are more than one; not a part of what is made.
    """

    model: str
    task: Task
    data: str
    split: str = "train"
    count: int = 0
    probability: float = 0.4
    candidates: int = 15
    max_length: int = 0
    limit: int = 0
    seed: int = 0
    missing: str = "refuse"
    part: str = ""
    processes: int = 1


@dataclass(frozen=True)
class AugmentResult:
    """A finished file.

    Attributes:
      path: the file; :func:`xtc_jax.data.load_examples` reads it.
      originals: rows of the source that it holds.
      rows: all rows, variants and originals.
    """

    path: Path
    originals: int
    rows: int


@dataclass(frozen=True)
class _Work:
    """A checked spec, with all that it names loaded; ``origins`` are row numbers of the source."""

    spec: AugmentSpec
    texts: list[tuple[str, ...]]
    labels: pa.Array | pa.ChunkedArray
    origins: list[int]
    where: str
    config: BertConfig
    params: Params
    tokenizer: Tokenizer

    @property
    def parts(self) -> int:
        return -(-len(self.texts) // CHUNK)


def augment(spec: AugmentSpec, out: Path, log: Callable[[str], None]) -> AugmentResult:
    """Write the parquet file ``out``, or what is left of it after an interruption.

    Its columns are the task's text columns (strings), its label column (values and type of the source), ``origin`` (int32,
    row of the source, from 0) and ``variant`` (int32; 0 is the original). Every original is followed by its variants.
    A file that the same spec made is finished already; finished parts lie in ``OUT.parts/`` until all are there.

    Args:
      spec: what to make.
      out: name of the file, ending in ``.parquet``.
      log: called with one line of text as things happen.

    Raises:
      UserError: bad settings, model or data; or ``out`` or its parts exist and were made from something else.
    """
    _check(spec, out)
    work = _load(spec)
    job = _job(work)
    if not is_finished(out, job):
        kind = "masked language model" if MASKED_LM in work.params else "nearest embeddings (no masked-language-model head)"
        log(f"augment: {len(work.texts):,} rows from {work.where}; {job['count']} rounds for each text; candidates: {kind}")
        directory = open_parts(out, job)
        with _progress(work, finished_parts(directory)) as show:
            if spec.processes == 1:
                _make_parts(work, directory, range(work.parts), show)
            else:
                count = min(spec.processes, work.parts)
                run_processes(_share, (spec, directory), count, lambda: show(finished_parts(directory)))
        assemble(out, job, work.parts)
    remove_parts(out, job)
    return AugmentResult(out, len(work.texts), pa.parquet.read_metadata(out).num_rows)


def _check(spec: AugmentSpec, out: Path) -> None:
    if out.suffix != ".parquet":
        raise UserError(f"{out}: the name of the file must end in .parquet")
    least = {"count": 0, "candidates": 1, "max_length": 0, "limit": 0, "seed": 0, "processes": 1}
    for name, bound in least.items():
        if getattr(spec, name) < bound:
            raise UserError(f"{name}={getattr(spec, name)} must be at least {bound}")
    if not 0 <= spec.probability <= 1:
        raise UserError(f"probability={spec.probability} must be between 0 and 1")
    for column in (*spec.task.text, spec.task.label):
        if column in (ORIGIN, VARIANT):
            raise UserError(f"column {column!r} of the task has the name of a column of the result; rename it")


def _load(spec: AugmentSpec) -> _Work:
    task = spec.task if spec.task.labels else replace(spec.task, labels=discover_labels(spec.data, spec.task, spec.missing))
    table, where = load_table(spec.data, task, spec.split)
    examples = table_examples(table, task, where, spec.missing, spec.part)
    chosen = evenly_spaced(len(examples.texts), spec.limit)
    origins = examples.rows[chosen].tolist()
    config, params, directory = load_model(spec.model)
    if spec.max_length > config.max_position_embeddings:
        raise UserError(f"max_length={spec.max_length} is more than the model's {config.max_position_embeddings}")
    tokenizer = load_tokenizer(directory)
    check_vocabulary(tokenizer, config.vocab_size, config.type_vocab_size, 1, f"model {spec.model}")
    labels = table.column(task.label).take(pa.array(origins, pa.int64()))
    return _Work(spec, [examples.texts[i] for i in chosen], labels, origins, where, config, params, tokenizer)


def _job(work: _Work) -> Job:
    """All that determines the file: settings as given, model and data by what is in them, not by where they lie."""
    spec = work.spec
    settings = {name: getattr(spec, name) for name in ("split", "limit", "probability", "candidates", "max_length", "seed")}
    rows = zip(work.origins, work.texts, work.labels.to_pylist(), strict=True)
    c = work.config
    shape = repr((c.hidden_act, c.num_attention_heads, c.layer_norm_eps, c.max_position_embeddings, work.tokenizer.to_str()))
    used = {name: work.params[name] for name in ("embeddings", "encoder", MASKED_LM) if name in work.params}
    leaves = (f"{path}:{leaf.dtype}".encode() + leaf.tobytes() for path, leaf in sorted(named_leaves(used).items()))
    return {
        "format": 1,
        "text": list(spec.task.text),
        "label": spec.task.label,
        "count": spec.count or rounds_of(spec.task.name),
        **settings,
        "data": _sha256(repr(row).encode() for row in rows),
        "model": _sha256(itertools.chain([shape.encode()], leaves)),
    }


def _sha256(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


@contextmanager
def _progress(work: _Work, done: int) -> Iterator[Callable[[int], None]]:
    """``show(parts)`` says how many parts are finished, in rows."""
    total, begun, start = len(work.texts), time.monotonic(), min(done * CHUNK, len(work.texts))
    shown = start
    with progress(f"augment {work.spec.task.name}", total, start) as show_rows:

        def show(parts: int) -> None:
            nonlocal shown
            rows = min(parts * CHUNK, total)
            if rows > shown:
                shown = rows
                show_rows(rows, {"examples_per_second": (rows - start) / max(time.monotonic() - begun, 1e-9)})

        yield show


def _make_parts(work: _Work, directory: Path, numbers: Iterable[int], show: Callable[[int], None]) -> None:
    """Make those of the parts ``numbers`` that are not there yet; ``show`` hears of each that is."""
    spec = work.spec
    length = spec.max_length or work.config.max_position_embeddings
    candidates = make_candidates(work.config, work.params, work.tokenizer, spec.candidates, length)
    rounds = spec.count or rounds_of(spec.task.name)
    for number in numbers:
        if not part_file(directory, number).exists():
            rows = slice(number * CHUNK, (number + 1) * CHUNK)
            made = augment_rows(work.texts[rows], work.origins[rows], candidates, rounds, spec.probability, spec.seed)
            write_part(directory, number, _table(work, rows, made))
        show(number + 1)


def _table(work: _Work, rows: slice, made: list[list[tuple[str, ...]]]) -> pa.Table:
    texts = [text for variants in made for text in variants]
    sources = np.repeat(np.arange(len(made)), [len(variants) for variants in made])
    columns = dict(zip(work.spec.task.text, map(list, zip(*texts, strict=True)), strict=True))
    return pa.table(
        {name: pa.array(column, pa.string()) for name, column in columns.items()}
        | {
            work.spec.task.label: work.labels[rows].take(pa.array(sources)),
            ORIGIN: pa.array(np.asarray(work.origins[rows])[sources], pa.int32()),
            VARIANT: pa.array(np.concatenate([np.arange(len(variants)) for variants in made]), pa.int32()),
        }
    )


def _share(spec: AugmentSpec, directory: Path, rank: int, count: int, go_on: Callable[[], None]) -> None:
    """What process ``rank`` of ``count`` does: the parts rank, rank + count, …"""
    jax.config.update("jax_platforms", "cpu")  # an accelerator serves one process
    work = _load(spec)
    _make_parts(work, directory, range(rank, work.parts, count), lambda _: go_on())

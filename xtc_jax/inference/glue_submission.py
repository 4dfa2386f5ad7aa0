"""The files that the GLUE site takes: a packed model's answers on the test splits, whose labels only the site has.

One file per test split, ``index<TAB>prediction`` under a header of these two words (gluebenchmark.com/faq, "How do I use
GLUE?"; the files' names and three decimals for STS-B as in jiant, by the benchmark's authors: github.com/nyu-mll/jiant,
``scripts/postproc/benchmarks.py`` and ``tasks/lib/stsb.py``). The site's zip also holds AX.tsv: the answers of the MNLI
model to the diagnostic set, written where the data has ``ax/test.parquet``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from xtc_jax.data import Task, Unlabelled, load_unlabelled, splits_of
from xtc_jax.errors import UserError
from xtc_jax.inference.predictor import Predictor, text_logits

FILES: Mapping[str, tuple[str, ...]] = {
    "cola": ("CoLA.tsv",),
    "sst2": ("SST-2.tsv",),
    "mrpc": ("MRPC.tsv",),
    "stsb": ("STS-B.tsv",),
    "qqp": ("QQP.tsv",),
    "mnli": ("MNLI-m.tsv", "MNLI-mm.tsv"),
    "qnli": ("QNLI.tsv",),
    "rte": ("RTE.tsv",),
    "wnli": ("WNLI.tsv",),
}
"""``task -> files``, in the order of the task's test splits."""

_NAMED = ("mnli", "qnli", "rte")
_DIAGNOSTIC = "ax"


def predictions(task: Task, logits: np.ndarray) -> list[str]:
    """The column ``prediction``.

    Args:
      task: one of :data:`FILES`. MNLI, QNLI and RTE are answered by the names of their classes, STS-B by a number from 0
        to 5 with three decimals (clipped here alone: metrics are measured on raw outputs), the others by the class id.
      logits: ``(examples, labels)``.
    """
    if task.regression:
        return [f"{value:.3f}" for value in np.clip(logits[:, 0], 0.0, 5.0)]
    classes = logits.argmax(axis=1)
    return [task.labels[i] if task.name in _NAMED else str(i) for i in classes]


def write_submission(predictor: Predictor, data: str, directory: Path, split: str = "") -> list[tuple[Path, int]]:
    """Answer the task's test splits, one file each.

    Args:
      predictor: the model.
      data: as of :func:`xtc_jax.data.load_unlabelled`.
      directory: gets the files; made if need be.
      split: the one to answer; "" is all test splits of the task; where ``data`` is a file, the first.

    Returns:
      Every file with its number of predictions.

    Raises:
      UserError: not a task of GLUE, no such split, a file that exists, or data that cannot be read; nothing is written.
    """
    task = predictor.model.task
    targets = _targets(task, data, directory, split)
    diagnostic = replace(task, name=_DIAGNOSTIC)
    examples = {
        name: load_unlabelled(data, diagnostic, "test") if name == _DIAGNOSTIC else load_unlabelled(data, task, name)
        for name in targets
    }
    answers = {name: _lines(predictor, found) for name, found in examples.items()}
    directory.mkdir(parents=True, exist_ok=True)
    for name, file in targets.items():
        with open(file, "x", encoding="utf-8", newline="\n") as stream:
            stream.write("".join(f"{line}\n" for line in ("index\tprediction", *answers[name])))
    return [(file, len(answers[name])) for name, file in targets.items()]


def _targets(task: Task, data: str, directory: Path, split: str) -> dict[str, Path]:
    """``{split: file}`` to be written, checked before anything is computed."""
    if task.name not in FILES:
        raise UserError(
            f"--submission: the model's task {task.name!r} is not of GLUE; its tasks are {', '.join(sorted(FILES))}"
        )
    files = dict(zip(task.test, FILES[task.name], strict=True))
    if split and split not in files:
        raise UserError(
            f"--submission: {split!r} is no test split of {task.name}; use {' or '.join(files)}, or leave --split out"
        )
    if directory.exists() and not directory.is_dir():
        raise UserError(f"{directory}: is a file; --submission takes a directory")
    targets = {name: directory / files[name] for name in ((split,) if split else splits_of(data, task.test))}
    if task.name == "mnli" and not split and any((Path(data) / _DIAGNOSTIC).glob("test.*")):
        targets[_DIAGNOSTIC] = directory / "AX.tsv"
    for file in targets.values():
        if file.exists():
            raise UserError(f"{file}: exists already; choose another directory for --submission")
    return targets


def _lines(predictor: Predictor, examples: Unlabelled) -> list[str]:
    column = predictions(predictor.model.task, text_logits(predictor, examples.texts))
    return [f"{index}\t{prediction}" for index, prediction in zip(examples.index, column, strict=True)]

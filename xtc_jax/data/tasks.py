"""What a task is: its text columns, its labels, its metrics."""

from dataclasses import dataclass, replace

from xtc_jax.errors import UserError


@dataclass(frozen=True)
class Task:
    """A classification or regression task over one or two texts.

    Attributes:
      name: GLUE's name, or the user's.
      text: one or two column names.
      labels: class names in the order of their ids; empty until read from the data (a user's own
        classes); exactly one name for a regression.
      regression: the label is a number.
      metrics: names from ``xtc_jax.data.metrics``, the one that selects the best checkpoint first.
      label: column name of the label.
      validation: its validation splits; the first selects, the metrics of the others carry their suffix.
      test: its test splits, whose labels nobody has.
    """

    name: str
    text: tuple[str, ...]
    labels: tuple[str, ...]
    regression: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    label: str = "label"
    validation: tuple[str, ...] = ("validation",)
    test: tuple[str, ...] = ("test",)

    def suffix(self, split: str) -> str:
        """What the names of a split's metrics end in: nothing, or that which tells a further validation split apart.

        >>> [GLUE["mnli"].suffix(split) for split in ("validation_matched", "validation_mismatched")]
        ['', '_mismatched']
        """
        return f"_{split.rpartition('_')[2]}" if split in self.validation[1:] else ""


_PAIR = ("sentence1", "sentence2")
GLUE = {
    task.name: task
    for task in (
        Task("sst2", ("sentence",), ("negative", "positive")),
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), metrics=("matthews_correlation",)),
        Task("mrpc", _PAIR, ("not_equivalent", "equivalent"), metrics=("accuracy", "f1")),
        Task("stsb", _PAIR, ("similarity",), regression=True, metrics=("pearson", "spearman")),
        Task("rte", _PAIR, ("entailment", "not_entailment")),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), metrics=("accuracy", "f1")),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment")),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            validation=("validation_matched", "validation_mismatched"),
            test=("test_matched", "test_mismatched"),
        ),
        # The reverse of RTE and QNLI: here class 1 is the entailment.
        Task("wnli", _PAIR, ("not_entailment", "entailment")),
    )
}
"""The nine GLUE tasks, splits and label ids as in the Hugging Face data set. Selection follows DeepSpeedExamples: MRPC
and QQP by accuracy, STS-B by Pearson, MNLI by the matched split (docs/method.md, sections 6.2 and 13.13)."""


def find_task(
    name: str, text: tuple[str, ...] = (), label: str = "", labels: tuple[str, ...] = (), regression: bool = False
) -> Task:
    """A GLUE task by name, or, under any other name, the user's own.

    Args:
      name: GLUE's or the user's.
      text: one or two column names; a task of the user's own must give them, they override GLUE's.
      label: column of the label; "" is GLUE's, ``label``.
      labels: class names of a task of the user's own; none are found in its training data later.
      regression: the user's own task predicts a number.

    Raises:
      UserError: a name that is not GLUE's without text columns; labels or a regression that are not those of a GLUE task; or
        labels that are no classes: one alone, two of one name, several of a regression.
    """
    if len(text) > 2 or len(set(text)) < len(text):
        raise UserError(f"data.text={text}: name one text column, or the two of a pair")
    if name in GLUE:
        _check_glue(GLUE[name], labels, regression)
        return replace(GLUE[name], text=text or GLUE[name].text, label=label or GLUE[name].label)
    if len(text) not in (1, 2):
        raise UserError(
            f"unknown task {name!r}; use one of {', '.join(sorted(GLUE))}, or set data.text, the text columns of your own task"
        )
    if len(set(labels)) < len(labels) or (len(labels) == 1) != (regression and len(labels) > 0):
        raise UserError(f"data.labels={labels}: name every class once, two or more; a regression has one name, or none")
    if regression:
        return Task(name, text, labels or ("score",), True, ("pearson", "spearman"), label or "label")
    return Task(name, text, labels, label=label or "label")


def _check_glue(task: Task, labels: tuple[str, ...], regression: bool) -> None:
    """What is set for a task of GLUE is what it has anyway; else it would be ignored."""
    own = "for data of your own set config.task to a name of your own"
    if labels and labels != task.labels:
        raise UserError(f"data.labels={labels}, but task {task.name!r} is GLUE's, with the labels {task.labels}; {own}")
    if regression and not task.regression:
        raise UserError(f"data.regression=True, but task {task.name!r} is GLUE's, a classification; {own}")

"""The paper's settings by task, for the recipes in ``configs/``.

Lengths, budgets and learning rates of XTC are known to us in part from published scripts and in part from memory. Each is
marked with its status, as in docs/method.md, section 12: *published* (DeepSpeed's scripts or tutorial), *recollected* (from
memory of the paper, not checked against its text) or *chosen* (by this project). What is recollected is what this project
runs and measures, and not to be quoted as the paper's.
"""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import base_config, choose, stage_config

MODEL = "google-bert/bert-base-uncased"
GRID = (2e-5, 1e-4, 5e-4)
"""Learning rates to try. Status: recollected; 2e-5 is published too, and so is 5e-5, which ``configs/glue.py`` uses."""
LAYERS = {12: "", 6: "1,3,5,7,9,11", 5: "2,4,6,8,10", 4: "evenly(4)", 3: "evenly(3)"}
"""Layers kept of a 12-layer teacher. Status: of 6 and 5 published (docs/method.md, section 1), of 4 and 3 chosen."""


@dataclass(frozen=True)
class Setting:
    """How a GLUE task is trained.

    Attributes:
      length: tokens a text is cut to.
      augmented: students train on augmented data.
      epochs: of each stage, for the budgets a, b and c.
      reduce_epochs: of layer reduction under budget c.
      status: where these numbers come from.
    """

    length: int
    augmented: bool
    epochs: tuple[float, float, float]
    reduce_epochs: float
    status: str


_RECOLLECTED = "recollected"
_PUBLISHED = "recollected; published: 18 epochs, 36 of layer reduction, length 128"
SETTINGS = {
    "mnli": Setting(128, False, (3.0, 9.0, 18.0), 36.0, _PUBLISHED),
    "qqp": Setting(128, False, (3.0, 9.0, 18.0), 36.0, _PUBLISHED),
    "qnli": Setting(128, True, (1.0, 3.0, 6.0), 6.0, _RECOLLECTED),
    "sst2": Setting(64, True, (1.0, 3.0, 12.0), 12.0, _RECOLLECTED),
    "stsb": Setting(128, True, (1.0, 3.0, 12.0), 12.0, _RECOLLECTED),
    "rte": Setting(128, True, (1.0, 3.0, 12.0), 12.0, _RECOLLECTED),
    "wnli": Setting(128, True, (1.0, 3.0, 12.0), 12.0, "chosen: as rte"),
    "cola": Setting(64, True, (1.0, 3.0, 18.0), 18.0, _RECOLLECTED),
    "mrpc": Setting(128, True, (1.0, 3.0, 18.0), 18.0, _RECOLLECTED),
}
BUDGETS = {"a": 0, "b": 1, "c": 2}


def paper_config(task: str, *, runlocal: bool, model: str = MODEL, finetuned: bool = False) -> tuple[ConfigDict, Setting]:
    """A config with its teacher, and the task's setting.

    Args:
      task: name of a GLUE task, ``mnli``.
      runlocal: see ``xtc_jax.recipe.runlocal.shrink``.
      model: the checkpoint to start from.
      finetuned: the checkpoint is the teacher; it is measured and not trained. Otherwise it is fine-tuned for three epochs at
        3e-5, as in the BERT paper: the teacher is not this paper's subject.

    Raises:
      UserError: no such task.
    """
    setting: Setting = choose("task", task, SETTINGS)
    config = base_config(runlocal=runlocal, model=model, task=task, stages=("teacher",))
    config.data.max_length = setting.length
    config.teacher = stage_config(learning_rate=3e-5, **duration(0.0 if finetuned else 3.0))
    return config, setting


def duration(epochs: float) -> dict[str, float]:
    """``epochs`` and their warm-up as keys of a stage: one epoch, as published for 18, and a tenth of less than ten."""
    return {"epochs": epochs, "warmup_epochs": min(1.0, epochs / 10)}


def rates(text: str) -> dict[str, Any]:
    """``lr=grid`` or ``lr=5e-5`` of a config's argument as keys of a stage."""
    return {"grid": GRID} if text == "grid" else {"learning_rate": float(text)}

"""A few answers of a run's last model, for the screen."""

import textwrap
from pathlib import Path

from xtc_jax.report.history import read_predictions

_WIDTH = 72


def answer_lines(workdir: Path) -> list[str]:
    """What the last model answers on some validation examples: ``positive 0.97 (positive): a text``; the label in brackets.

    Of a regression the number alone stands before the label. [] of a run whose ``predictions.json`` lacks them.
    """
    found = read_predictions(workdir)
    if not found.get("some"):
        return []
    classes, last = found["classes"], list(found["answers"])[-1]
    lines = []
    for example in found["some"]:
        answer, value = example[last]
        text = textwrap.shorten(" | ".join(example["texts"]), _WIDTH, placeholder=" …")
        if classes:
            lines.append(f"  {classes[answer]} {value:.2f} ({classes[example['label']]}): {text}")
        else:
            lines.append(f"  {value:.2f} ({example['label']:g}): {text}")
    return [f"{last}, on some of the validation data (the label in brackets):", *lines]

"""Your own csv to a packed model and back, in minutes.

  python examples/own_data.py                                         # a csv of 2,000 invented rows, made here
  python examples/own_data.py --csv=FILE --text=COLUMN --label=COLUMN
  python examples/own_data.py --small                                 # a minute, to see it run; its answers mean nothing

The same as on the command line:

  xtc compress --config=quickstart --workdir=runs/mine --config.task=mine --config.data.path=FILE \
    --config.data.text="('text',)" --config.data.label=label --config.data.labels="()"
  xtc predict --model=runs/mine/packed "where is my parcel"
"""

import argparse
import csv
import itertools
import random
from pathlib import Path

import xtc_jax
from xtc_jax.cli.main import main as xtc

SUBJECTS = {
    "delivery": ["my parcel", "the order", "the courier", "the tracking page", "a box that I ordered"],
    "billing": ["the invoice", "a refund", "my card", "the second payment", "the price on the bill"],
    "account": ["my password", "the login", "my user name", "the confirmation mail", "my profile"],
}
PROBLEMS = ["is not there", "seems to be wrong", "was changed", "does not work", "is too late", "is missing again"]
OPENINGS = ["hello,", "please help:", "since monday", "I think", "for the third time", "good morning,", "sorry,"]
ENDINGS = ["", "what can I do?", "thank you", "please look into it", "I need it today"]


def invent(file: Path, rows: int = 2000) -> None:
    """Write a csv with the columns ``text`` and ``label``."""
    rng = random.Random(0)
    with file.open("w", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label"])
        for label in itertools.islice(itertools.cycle(SUBJECTS), rows):
            words = [rng.choice(part) for part in (OPENINGS, SUBJECTS[label], PROBLEMS, ENDINGS)]
            writer.writerow([" ".join(words).strip(), label])


def compress(file: Path, text: str, label: str, workdir: Path, small: bool) -> Path:
    """Run the recipe of the quick start on a csv; returns the directory of the packed model."""
    keys = {"task": "mine", "data.path": file, "data.text": (text,), "data.label": label, "data.labels": "()"}
    recipe = "quickstart:runlocal" if small else "quickstart"
    overrides = [f"--config.{key}={value}" for key, value in keys.items()]
    if status := xtc(["compress", f"--config={recipe}", f"--workdir={workdir}", *overrides]):
        raise SystemExit(status)  # one line of what is wrong stands on the screen
    return workdir / "packed"


def main() -> None:
    """Compress, load the packed model, and let it answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--workdir", type=Path, default=Path("runs/own_data"))
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    if arguments.csv is None:
        arguments.csv = arguments.workdir.with_suffix(".csv")
        arguments.csv.parent.mkdir(parents=True, exist_ok=True)
        invent(arguments.csv)
    packed = compress(arguments.csv, arguments.text, arguments.label, arguments.workdir, arguments.small)
    model = xtc_jax.load(packed)
    for text in ("where is my parcel", "I was charged twice", "I forgot my password"):
        answer = model(text)
        print(f"{answer.label} ({answer.value:.2f}): {text}")


if __name__ == "__main__":
    main()

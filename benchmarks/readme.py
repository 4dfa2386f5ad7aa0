"""Brings the README's outputs and numbers of the quick start up to date with benchmarks/results/quickstart.json.

  python benchmarks/readme.py                                 # after the measurement was written to that file
  python benchmarks/readme.py --packed=runs/quickstart/packed # and ask the model of seed 42 for the answers shown

tests/test_readme.py says whether it is.
"""

import argparse
import contextlib
import io
import json
import re
import statistics
import tempfile
from pathlib import Path
from typing import Any

from xtc_jax.cli.compress import show

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "benchmarks" / "results" / "quickstart.json"
TEXTS = ("One of the best movies I have seen this year", "a dull mess", "a joy from start to end")


def answers(packed: Path) -> dict[str, list[Any]]:
    """``[label, probability]`` of each text, as ``xtc predict`` prints them."""
    import xtc_jax

    return {
        text: [answer.label, round(answer.value, 4)]
        for text, answer in zip(TEXTS, xtc_jax.load(packed)(list(TEXTS)), strict=True)
    }


def printed(found: dict[str, Any]) -> list[str]:
    """The two blocks of output: of ``make quickstart`` and of ``xtc predict``."""
    screen = io.StringIO()
    # In an empty directory: where there is a runs/quickstart, its own predictions would be shown too.
    with tempfile.TemporaryDirectory() as empty, contextlib.chdir(empty), contextlib.redirect_stdout(screen):
        show(found["seeds"]["42"], "movie-reviews: pinned:all-MiniLM-L6-v2", found["baselines"], Path("runs/quickstart"))
    label, value = found["answers"][TEXTS[0]]
    return ["".join(f"{line.rstrip()}\n" for line in screen.getvalue().splitlines()), f"{label}\t{value:.4f}\t{TEXTS[0]}\n"]


def numbers(found: dict[str, Any]) -> dict[str, str]:
    """What replaces what: regular expressions, in which ``#`` stands for a number, with the sentence that is true."""
    one = found["seeds"]["42"]
    teacher, packed = (
        [100 * seed[stage]["metrics"]["accuracy"] for seed in found["seeds"].values()] for stage in ("teacher", "packed")
    )
    means = {
        name: f"{statistics.fmean(each):.1f} ± {statistics.stdev(each):.1f} %" for name, each in (("t", teacher), ("p", packed))
    }
    kept = 100 * statistics.fmean(packed) / statistics.fmean(teacher)
    tfidf = 100 * found["baselines"][1]["metrics"]["accuracy"]
    shown = [found["answers"][text][0] for text in TEXTS[1:]]
    megabytes = [f"{one[stage]['bytes'] / 1e6:.1f} MB" for stage in ("teacher", "packed")]
    return {
        "Makes a BERT # times": f"Makes a BERT {one['packed']['ratio']:.1f} times",
        "from # MB of weights to # MB": f"from {megabytes[0]} of weights to {megabytes[1]}",
        "keeps # % of its accuracy": f"keeps {kept:.1f} % of its accuracy",
        "the teacher has # ± # %": f"the teacher has {means['t']}",
        "packed student # ± # %": f"packed student {means['p']}",
        "regression has # %": f"regression has {tfidf:.1f} %",
        "tokenizer .# bytes": f"tokenizer ({one['packed']['tokenizer_bytes']:,} bytes",
        r"\['(?:posi|nega)tive', '(?:posi|nega)tive'\]": repr(shown),
    }


def renew(text: str, found: dict[str, Any]) -> str:
    """The README with what is true of a measurement."""
    for old, new in zip(re.findall(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL), printed(found), strict=True):
        text = text.replace(old, new)
    for pattern, sentence in numbers(found).items():
        wanted = pattern.replace("#", r"[\d.,]+").replace(" ", r"\s")
        text, count = re.subn(
            wanted, lambda match, new=sentence: new if "\n" not in match[0] else new.replace(" ", "\n", 1), text
        )
        if count != 1:
            raise SystemExit(f"README.md: {pattern!r} stands in it {count} times")
    return text


def main() -> None:
    """Rewrite README.md, and the answers in the JSON file where a model is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--packed", type=Path)
    arguments = parser.parse_args()
    found = json.loads(FILE.read_text())
    if arguments.packed:
        found["answers"] = answers(arguments.packed)
        FILE.write_text(json.dumps(found, indent=1) + "\n")
    readme = ROOT / "README.md"
    readme.write_text(renew(readme.read_text(), found))


if __name__ == "__main__":
    main()

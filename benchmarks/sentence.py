"""One sentence of 16 tokens through a packed model, from the text to the label, beside ONNX Runtime::

    python benchmarks/sentence.py runs/quickstart/packed

``xtc_jax.load(DIR)`` against ONNX Runtime on what ``xtc export --to=onnx`` makes of the directory, with the same tokenizer.
Needs onnx and onnxruntime. Prints a JSON object: milliseconds, medians of paired rounds, and the ratio of the two.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import xtc_jax
from xtc_jax.benchmark.device import environment
from xtc_jax.benchmark.timing import interleave, ratio
from xtc_jax.data import load_tokenizer
from xtc_jax.deploy.onnx_directory import MODEL, export_onnx
from xtc_jax.deploy.verify import runtime_session

OURS, THEIRS = "xtc_jax.load", "ONNX Runtime"


def in_onnx_runtime(directory: Path, exported: Path) -> Callable[[str], int]:
    """Text to class, the tokenizer included."""
    tokenizer, session = load_tokenizer(directory), runtime_session(exported / MODEL, True)
    tokenizer.no_padding()

    def answer(text: str) -> int:
        encoded = tokenizer.encode(text)
        rows = {
            "input_ids": np.asarray([encoded.ids], np.int64),
            "attention_mask": np.ones((1, len(encoded.ids)), np.int64),
            "token_type_ids": np.asarray([encoded.type_ids], np.int64),
        }
        return int(session.run(["logits"], rows)[0].argmax())

    return answer


def main() -> None:
    """Time both in turn."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("directory", type=Path, help="a packed model of single texts")
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    text = " ".join(["."] * (arguments.tokens - 2))  # single characters are pieces of every vocabulary; [CLS] and [SEP] are two
    with tempfile.TemporaryDirectory() as scratch:
        export_onnx(arguments.directory, Path(scratch) / "onnx", "", lambda _: None)
        model, other = xtc_jax.load(arguments.directory), in_onnx_runtime(arguments.directory, Path(scratch) / "onnx")
        times = interleave({OURS: lambda: model(text).value, THEIRS: lambda: other(text)}, arguments.rounds)
    found = {name: round(1e3 * timing.median, 3) for name, timing in times.items()}
    print(json.dumps({**found, "ratio": round(ratio(times[THEIRS], times[OURS]), 3), **environment(jax.devices()[0])}))


if __name__ == "__main__":
    main()

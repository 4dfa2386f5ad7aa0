"""``xtc export --to=web``: a folder that any static server serves, with page, runtime, tokenizer and model.

The runtime (``onnxruntime-web``) and the tokenizer (``@huggingface/tokenizers``) come from npm, pinned by the hashes of
``page/package-lock.json``, into a temporary folder; three files of them are copied.
"""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xtc_jax.data import load_examples, load_tokenizer, splits_of, tokenize
from xtc_jax.deploy.directory import Source, exporting, write_json
from xtc_jax.deploy.onnx_directory import MODEL, require_onnx, write_onnx
from xtc_jax.deploy.verify import Agreement, Inputs, accept, compare, packed_logits
from xtc_jax.errors import UserError
from xtc_jax.formats import PackedModel

PAGE = Path(__file__).with_name("page")
STATIC = ("index.html", "style.css", "icon.svg", "file.js", "page.js", "classifier.js", "tokens.js")
VENDOR = {
    "onnxruntime.js": "onnxruntime-web/dist/ort.wasm.bundle.min.mjs",
    "onnxruntime.wasm": "onnxruntime-web/dist/ort-wasm-simd-threaded.wasm",
    "tokenizers.js": "@huggingface/tokenizers/dist/tokenizers.min.mjs",
}
"""Files of npm packages by their new name: ``.mjs`` is a type that older servers do not know, and browsers then refuse."""
SAME_TOKENS = 0.999
"""Smallest share of texts that the page may cut into the same tokens as Python."""


def export_web(packed: Path, out: Path, data: str, log: Callable[[str], None]) -> dict[str, Agreement]:
    """Write the folder; its page, runtime and model are run in Node first.

    Args:
      packed, out, data: see :func:`xtc_jax.deploy.directory.exporting`; texts are tokenized by the page's tokenizer as well.
      log: receives a line of text about each step.

    Returns:
      The agreement, by the name of the run.

    Raises:
      UserError: ``out`` exists, npm is missing or cannot fetch, no packed model, something that cannot be expressed, tokens or
        logits that differ.
    """
    with exporting(packed, out, data, require_npm) as (source, scratch):
        require_onnx()
        frame = _frame(packed, source.model)
        (scratch / "model").mkdir()
        found = write_onnx(source, scratch / "model", log)
        log("web: fetching the runtime and the tokenizer with npm")
        _write_page(scratch)
        settings = _settings(source.model, frame, scratch)
        write_json(scratch / "model" / "settings.json", settings)
        log("web: running the page's runtime in Node")
        found["onnxruntime-web"] = _verify(scratch, source)
        write_json(scratch / "model" / "settings.json", {**settings, "xtc_export": source.verified(found)})
    return found


def require_npm() -> None:
    """Check that Node.js and npm are there.

    Raises:
      UserError: one of them is not installed.
    """
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        raise UserError(
            f"{' and '.join(missing)} not installed, and --to=web fetches the browser's runtime with npm; install Node.js, "
            "for example: apt-get install npm"
        )


def install_packages(directory: Path) -> Path:
    """Install what ``page/package-lock.json`` pins into ``directory``; returns its ``node_modules``. No script of them is run.

    Raises:
      UserError: npm cannot fetch them, or a package is not the pinned one.
    """
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(PAGE / name, directory / name)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip() and "complete log" not in line]
        reason = lines[-1].removeprefix("npm error ") if lines else "npm says nothing"
        raise UserError(f"npm cannot install the packages of the page: {reason}")
    return directory / "node_modules"


def _write_page(target: Path) -> None:
    for name in STATIC:
        shutil.copyfile(PAGE / name, target / name)
    (target / "vendor").mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        modules = install_packages(Path(scratch))
        for name, source in VENDOR.items():
            shutil.copyfile(modules / source, target / "vendor" / name)
        shutil.copyfile(modules / "@huggingface" / "tokenizers" / "LICENSE", target / "vendor" / "LICENSE.tokenizers")
    (target / "vendor" / "LICENSES").write_text("".join(f"{line}\n" for line in _licences()))


def _pinned() -> dict[str, Any]:
    """The two packages that the page asks for, as the lock file has them."""
    locked = json.loads((PAGE / "package-lock.json").read_text())["packages"]
    return {name: locked[f"node_modules/{name}"] for name in locked[""]["dependencies"]}


def _licences() -> list[str]:
    return [f"{name} {raw['version']}: {raw['license']}" for name, raw in _pinned().items()]


def _frame(packed: Path, model: PackedModel) -> tuple[int, int]:
    """Ids of [CLS] and [SEP].

    Raises:
      UserError: the tokenizer frames texts in another way, or cuts or pads on the left.
    """
    tokenizer, texts = load_tokenizer(packed), len(model.task.text)
    tokenizer.no_padding()
    tokenizer.enable_truncation(model.max_length)
    framed = tokenizer.encode("", "" if texts == 2 else None)
    expected = [0, *range(texts)]
    if framed.type_ids != expected or len({*framed.ids[1:]}) != 1 or model.max_length < 1 + texts:
        raise UserError(
            f"{packed / 'tokenizer.json'}: does not frame a text as BERT does, [CLS] text [SEP]; --to=web cannot do it"
        )
    return framed.ids[0], framed.ids[1]


def _settings(model: PackedModel, frame: tuple[int, int], folder: Path) -> dict[str, Any]:
    def size(*names: str) -> int:
        return sum((folder / name).stat().st_size for name in names)

    return {
        "labels": list(model.config.labels),
        "regression": model.config.regression,
        "texts": list(model.task.text),
        "max_length": model.max_length,
        "cls": frame[0],
        "sep": frame[1],
        "runtime": f"onnxruntime-web {_pinned()['onnxruntime-web']['version']}",
        "bytes": {
            "model": size(f"model/{MODEL.as_posix()}"),
            "tokenizer": size("model/tokenizer.json", "model/tokenizer_config.json"),
            "runtime": size("vendor/onnxruntime.wasm"),
        },
    }


def _verify(folder: Path, source: Source) -> Agreement:
    """Logits of the page's runtime, and the tokens of the page's tokenizer."""
    texts = _texts(source.model, source.data) if source.data else []
    tokens, logits = run_in_node(folder, texts, source.batches)
    _check_tokens(source.packed, source.model, texts, tokens)
    return accept(compare(packed_logits(source.model, source.batches), logits), MODEL.name, "onnxruntime-web")


def _texts(model: PackedModel, data: str) -> list[tuple[str, ...]]:
    """The validation texts of a data set."""
    return [text for split in splits_of(data, model.task.validation) for text in load_examples(data, model.task, split).texts]


def run_in_node(folder: Path, texts: Sequence[tuple[str, ...]], batches: Sequence[Inputs]) -> tuple[list[Any], np.ndarray]:
    """The page's files, run by Node.

    Returns:
      ``{"ids", "types"}`` of every text, and logits ``(rows, labels)`` of the batches.

    Raises:
      UserError: they do not run; repeats the last line that Node says.
    """
    asked = {"texts": texts, "batches": [{name: rows.tolist() for name, rows in batch.items()} for batch in batches]}
    modules = folder / "package.json"  # tells Node that .js files are modules; browsers are told by the page
    modules.write_text('{"type": "module"}\n')
    command = ["node", str(PAGE / "check.js"), str(folder.resolve())]
    done = subprocess.run(command, input=json.dumps(asked), capture_output=True, text=True, check=False)
    modules.unlink()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "Error" in line] or [f"exit status {done.returncode}"]
        raise UserError(f"the page's runtime does not run the model: {lines[0]}")
    answer = json.loads(done.stdout)
    rows = sum(len(batch["input_ids"]) for batch in batches)
    logits = np.array(answer["logits"], np.float32)
    return answer["tokens"], logits.reshape(rows, logits.size // max(1, rows))


def _check_tokens(packed: Path, model: PackedModel, texts: Sequence[tuple[str, ...]], found: Sequence[dict[str, Any]]) -> None:
    """Compare with the tokens that training saw.

    Raises:
      UserError: too many differ.
    """
    tokens = tokenize(load_tokenizer(packed), texts, model.max_length)
    pairs = zip(tokens.input_ids, tokens.token_type_ids, found, strict=True)
    same = sum(each["ids"] == ids.tolist() and each["types"] == types.tolist() for ids, types, each in pairs)
    if same < SAME_TOKENS * len(texts):
        raise UserError(
            f"the page's tokenizer cuts {len(texts) - same} of {len(texts)} texts into other tokens; nothing is kept"
        )

"""The tokenizer's files of a model directory: copied, reduced."""

import json
import shutil
from pathlib import Path

from xtc_jax.compress import Vocabulary
from xtc_jax.data import load_tokenizer
from xtc_jax.formats.account import TOKENIZER_FILES

_LISTS = ("vocab.txt", "added_tokens.json")
"""What ``tokenizer.json`` has in it as well."""


def copy_tokenizer(source: Path, target: Path, lists: bool = True) -> None:
    """Copy the tokenizer's files from one model directory into another; a directory without a tokenizer gives none.

    Of older checkpoints, whose tokenizer lies in several files, the tokenizer as it was loaded is written as one
    ``tokenizer.json`` too: whoever reads it tokenizes as training did. ``lists`` False leaves out the files that
    ``tokenizer.json`` repeats.

    Raises:
      UserError: the tokenizer cannot be read.
    """
    for name in TOKENIZER_FILES:
        if (source / name).is_file() and (lists or name not in _LISTS):
            shutil.copyfile(source / name, target / name)
    if not (source / "tokenizer.json").is_file() and (source / "vocab.txt").is_file():
        load_tokenizer(source).save(str(target / "tokenizer.json"))


def save_tokenizer(source: Path, target: Path, vocabulary: Vocabulary) -> None:
    """Write a reduced tokenizer into the directory ``target``, which is made, with the settings that lie in ``source``."""
    target.mkdir(parents=True, exist_ok=True)
    copy_tokenizer(source, target, lists=False)
    (target / "tokenizer.json").write_text(vocabulary.tokenizer, encoding="utf-8")
    file = target / "tokenizer_config.json"
    if not file.is_file():
        return
    settings = json.loads(file.read_text(encoding="utf-8"))
    added = settings.get("added_tokens_decoder")
    if added:  # by id, as text
        kept = {int(i): token for i, token in added.items() if int(i) in vocabulary.keep}
        settings["added_tokens_decoder"] = {str(vocabulary.position(i)): token for i, token in kept.items()}
        file.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

"""The vocabulary of every stage: that of what it starts from, without the word pieces that it removes."""

from pathlib import Path

from xtc_jax.compress import Vocabulary, choose_pieces, piece_counts, reduced_tokenizer
from xtc_jax.errors import UserError
from xtc_jax.pipeline.inputs import Inputs
from xtc_jax.recipe.recipe import Recipe, Stage


def stage_vocabularies(recipe: Recipe, inputs: Inputs) -> dict[str, Vocabulary]:
    """The reduced vocabularies by stage; a stage that has the whole one is not in it.

    Raises:
      UserError: a size that cannot be reached, or a corpus that cannot be read or has no text; names the key.
    """
    found: dict[str, Vocabulary] = {}
    for stage in recipe.stages:
        before = found.get(stage.init)
        if stage.reduces_vocabulary:
            found[stage.name] = _reduce(stage, inputs, before)
        elif before is not None:
            found[stage.name] = before
    return found


def _reduce(stage: Stage, inputs: Inputs, before: Vocabulary | None) -> Vocabulary:
    tokenizer = before.tokenizer if before else inputs.tokenizer
    try:
        counts = piece_counts(tokenizer, inputs.examples["train"].texts)
        if stage.vocabulary_corpus:
            counts += piece_counts(tokenizer, read_corpus(Path(stage.vocabulary_corpus)))
        keep = choose_pieces(tokenizer, counts, stage.vocabulary, stage.vocabulary_min_count).tolist()
        original = tuple(before.keep[i] for i in keep) if before else tuple(keep)
        return Vocabulary(original, reduced_tokenizer(tokenizer, keep))
    except UserError as error:
        raise UserError(f"config.{stage.name}.{error}") from None


def read_corpus(file: Path) -> list[tuple[str, ...]]:
    """The lines of a UTF-8 text file, those that are blank left out.

    Raises:
      UserError: no such file, not UTF-8, or no text in it.
    """
    where = f"vocabulary_corpus={str(file)!r}"
    try:
        texts: list[tuple[str, ...]] = [
            (line,) for line in file.expanduser().read_text(encoding="utf-8").splitlines() if line.strip()
        ]
    except OSError as error:
        raise UserError(f"{where} cannot be read ({error.strerror}); name a text file, one text a line") from None
    except UnicodeDecodeError:
        raise UserError(f"{where} is not UTF-8; name a text file, one text a line") from None
    if not texts:
        raise UserError(f"{where} has no text in it; name a text file, one text a line")
    return texts

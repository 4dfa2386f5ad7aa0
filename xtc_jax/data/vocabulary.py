"""Whether a tokenizer and a model's tables fit: an id beyond a table would be taken for its last row without a word."""

from tokenizers import Tokenizer

from xtc_jax.errors import UserError


def check_vocabulary(tokenizer: Tokenizer, vocab_size: int, type_vocab_size: int, texts: int, where: str) -> None:
    """Compare a tokenizer with the embedding tables of the model that reads its numbers.

    Args:
      tokenizer: as it will be used.
      vocab_size: rows of the table of word pieces; more than there are pieces is usual.
      type_vocab_size: rows of the table of segments.
      texts: of an example, 1 or 2.
      where: the model directory, for the message.

    Raises:
      UserError: a word piece or a segment has no row; names it.
    """
    beyond = sorted((number, piece) for piece, number in tokenizer.get_vocab().items() if number >= vocab_size)
    if beyond:
        raise UserError(
            f"{where}: its tokenizer has {len(beyond)} word pieces beyond the embedding table ({beyond[0][1]!r} is "
            f"{beyond[0][0]}, vocab_size is {vocab_size}): correct the tokenizer, or resize the model's embeddings"
        )
    segment = max(tokenizer.encode(*["a"] * texts).type_ids, default=0)
    if segment >= type_vocab_size:
        raise UserError(
            f"{where}: its tokenizer numbers segments up to {segment}, and type_vocab_size is {type_vocab_size}: use a model "
            "with segments, or one text column"
        )

"""The shortest way to an answer: :func:`load` a packed model, and call it."""

from dataclasses import dataclass
from pathlib import Path
from typing import overload

from xtc_jax.errors import UserError
from xtc_jax.inference.predictor import Prediction, Predictor, load_predictor, predict

Text = str | tuple[str, ...]
"""One text, or the two texts of a pair."""


@dataclass(frozen=True)
class Classifier:
    """A packed model that answers when it is called.

    Attributes:
      predictor: the model with its tokenizer, on the first device.
    """

    predictor: Predictor

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of their ids; one name for a regression."""
        return self.predictor.model.config.labels

    @overload
    def __call__(self, texts: Text) -> Prediction: ...

    @overload
    def __call__(self, texts: list[Text] | list[str] | list[tuple[str, ...]]) -> list[Prediction]: ...

    def __call__(self, texts: Text | list[Text] | list[str] | list[tuple[str, ...]]) -> Prediction | list[Prediction]:
        """Classify, or rate, one text or several.

        Args:
          texts: ``"a text"``; of a model for pairs the tuple ``("first", "second")``; or a list of them.

        Returns:
          A :class:`Prediction` for one input, a list of them for a list: ``label`` and its probability ``value`` (of a
          regression None and the number), and the ``probabilities`` of all classes.

        Raises:
          UserError: an input has another number of texts than the model takes, or is no string.
        """
        if isinstance(texts, str | tuple):
            return self([texts])[0]
        return predict(self.predictor, [_as_tuple(text, i) for i, text in enumerate(texts)])


def _as_tuple(text: Text, index: int) -> tuple[str, ...]:
    parts = (text,) if isinstance(text, str) else tuple(text)
    if not all(isinstance(part, str) for part in parts):
        raise UserError(f"input {index + 1} is {text!r}; give a string, or a tuple of two strings for a pair")
    return parts


def load(directory: str | Path) -> Classifier:
    """Load a packed model, the ``packed`` directory of a work directory, onto the first device.

    Nothing else is needed: the directory holds weights, task and tokenizer.

    Args:
      directory: that ``xtc compress`` or :func:`xtc_jax.formats.save_packed` wrote.

    Returns:
      A :class:`Classifier`.

    Raises:
      UserError: no such directory, or it is no packed model, or it is damaged.

    Example::

      import xtc_jax

      model = xtc_jax.load("runs/quickstart/packed")
      answer = model("a dull mess")
      print(answer.label, answer.value)
      model(["a dull mess", "a joy from start to end"])  # a list of answers
    """
    return Classifier(load_predictor(Path(directory)))

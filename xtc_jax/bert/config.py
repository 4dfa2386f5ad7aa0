"""The shape of a BERT, read from and written to a Hugging Face ``config.json``."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from xtc_jax.errors import UserError

_MOST = 10_000_000
"""Of every number in a config: rows of the largest vocabularies are a tenth of it."""
ACTIVATIONS = ("gelu", "gelu_new", "relu")
_PROBLEMS = ("single_label_classification", "regression", "multi_label_classification")


@dataclass(frozen=True)
class BertConfig:
    """Shape and constants of a BERT; field names and defaults are those of Hugging Face.

    Attributes:
      labels: class names in the order of the logits; one name and ``regression=True`` is a number.
      regression: the head predicts one number instead of a class.
      multi_label: the head answers yes or no for every label on its own. Such a head can be converted, not used: here the
        labels of a head exclude each other.
      has_position_ids: the source checkpoint carries the constant buffer ``embeddings.position_ids``
        (written by transformers before 4.31); kept so that a round trip returns every tensor.
    """

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    classifier_dropout: float | None = None
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    labels: tuple[str, ...] = ("LABEL_0", "LABEL_1")
    regression: bool = False
    multi_label: bool = False
    has_position_ids: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise UserError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads {self.num_attention_heads}"
            )
        if self.hidden_act not in ACTIVATIONS:
            raise UserError(f"hidden_act {self.hidden_act!r} is not supported; use one of {', '.join(ACTIVATIONS)}")

    @property
    def num_labels(self) -> int:
        """Width of the head."""
        return len(self.labels)

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads


def config_from_dict(raw: dict[str, Any], where: str) -> BertConfig:
    """The :class:`BertConfig` of a parsed ``config.json``; ``where`` names it in errors."""
    if raw.get("model_type") != "bert":
        raise UserError(f"{where}: model_type is {raw.get('model_type')!r}, not 'bert'; only BERT encoders are supported")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise UserError(
            f"{where}: position_embedding_type {raw['position_embedding_type']!r} is not supported, only 'absolute'"
        )
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise UserError(f"{where}: a BERT decoder is not supported, only encoders")
    names = {field.name for field in fields(BertConfig)} - {"labels", "regression", "multi_label"}
    known = {name: raw[name] for name in names if name in raw}
    required = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    optional = {"max_position_embeddings", "type_vocab_size", "num_labels"} & raw.keys()
    for name in (*required, *sorted(optional)):
        if type(raw.get(name)) is not int or raw[name] <= 0:
            raise UserError(f"{where}: key {name!r} must be a positive integer, found {raw.get(name)!r}")
        if raw[name] > _MOST:
            raise UserError(f"{where}: key {name!r} is {raw[name]}, more than the {_MOST} of any BERT; the file is damaged")
    _check_numbers(known, where)
    labels = _labels(raw, where)
    problem = raw.get("problem_type")
    if problem not in (None, *_PROBLEMS):
        raise UserError(f"{where}: problem_type {problem!r} is not known; use one of {', '.join(_PROBLEMS)}")
    multi_label = problem == "multi_label_classification"
    regression = not multi_label and (problem == "regression" or len(labels) == 1)
    try:
        return BertConfig(**known, labels=labels, regression=regression, multi_label=multi_label)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _check_numbers(known: dict[str, Any], where: str) -> None:
    """The optional keys of a config have the types of their defaults, and numbers are finite and not negative."""
    for name, value in known.items():
        default = getattr(BertConfig(), name)
        if name == "classifier_dropout" and value is None:
            continue
        kinds: tuple[type, ...] = (int, float) if default is None or type(default) is float else (type(default),)
        if type(value) not in kinds:
            raise UserError(f"{where}: key {name!r} must be a {kinds[-1].__name__}, found {value!r}")
        if kinds[-1] in (int, float) and not 0 <= value <= _MOST:
            raise UserError(f"{where}: key {name!r} must be from 0 to {_MOST}, found {value!r}")


def _labels(raw: dict[str, Any], where: str) -> tuple[str, ...]:
    names = raw.get("id2label")
    if not names:
        return tuple(f"LABEL_{i}" for i in range(raw.get("num_labels", 2)))
    if not isinstance(names, dict) or not all(key.isdecimal() for key in names):
        raise UserError(f"{where}: key 'id2label' must map the numbers of the classes to their names, found {names!r}")
    return tuple(str(names[key]) for key in sorted(names, key=int))


def config_to_dict(config: BertConfig, architecture: str) -> dict[str, Any]:
    """The ``config.json`` that transformers reads; ``architecture`` is its class name."""
    raw = asdict(config)
    labels, problem = raw.pop("labels"), _PROBLEMS[2 * raw.pop("multi_label") + raw.pop("regression")]
    if not raw["has_position_ids"]:
        del raw["has_position_ids"]
    return {
        "architectures": [architecture],
        "model_type": "bert",
        "position_embedding_type": "absolute",
        "problem_type": problem,
        "id2label": {str(i): label for i, label in enumerate(labels)},
        "label2id": {label: i for i, label in enumerate(labels)},
        **raw,
    }


def with_head(config: BertConfig, labels: tuple[str, ...], regression: bool) -> BertConfig:
    """``config`` with the head of another task."""
    return replace(config, labels=labels, regression=regression, multi_label=False)

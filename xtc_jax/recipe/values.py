"""What every key of a config may be: type and range, in one place, checked before anything is loaded.

What depends on other keys, on the model or on the data is checked where these are known.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.data import MISSING
from xtc_jax.errors import UserError
from xtc_jax.kernels import STORED_LAYOUTS
from xtc_jax.quantize import RANGES


@dataclass(frozen=True)
class Value:
    """What a key may be.

    Attributes:
      kind: one of :data:`KINDS`.
      least, most: bounds of a number, which it may reach; None is no bound.
      above, below: bounds that it may not reach.
      also: one more number that is allowed, with a meaning of its own.
      words: the texts that are allowed; () allows all.
      many: a sequence of such values instead of one.
    """

    kind: str
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: float | None = None
    words: tuple[str, ...] = ()
    many: bool = False


KINDS = MappingProxyType({"whole": "a whole number", "number": "a number", "text": "a text", "flag": "True or False"})
"""Kinds of values, in words; ``any`` is checked elsewhere."""

_TEXT, _FLAG, _WHOLE = Value("text"), Value("flag"), Value("whole")
_COUNT, _POSITIVE, _SHARE = Value("whole", least=0), Value("whole", least=1), Value("number", least=0)
_TEXTS = Value("text", many=True)
_SEED = Value("whole", least=0, most=2**32 - 1)  # JAX keys of larger numbers repeat those of small ones

CONFIG_VALUES = MappingProxyType(
    {
        "seed": _SEED,
        "runlocal": _FLAG,
        "model": _TEXT,
        "task": _TEXT,
        "stages": _TEXTS,
        "minutes": _SHARE,
        "baselines": _FLAG,
        "compute_dtype": Value("text", words=("float32", "bfloat16")),
        "arithmetic": Value("text", words=("auto", "int8", "float", "native")),
        "teacher_cache": _TEXT,
        "teacher_cache_dtype": Value("text", words=("float32", "bfloat16")),
        "mesh": Value("whole", least=-1, many=True),
        "storage": Value("text", words=STORED_LAYOUTS),
        "data.path": _TEXT,
        "data.train": _TEXT,
        "data.validation": _TEXT,
        "data.text": _TEXTS,
        "data.label": _TEXT,
        "data.labels": _TEXTS,
        "data.regression": _FLAG,
        "data.missing": Value("text", words=MISSING),
        "data.max_length": Value("whole", least=3, also=0),
        "data.buckets": Value("whole", least=1, many=True),
        "data.eval_batch_size": _POSITIVE,
        "data.limit_train": _COUNT,
        "data.limit_validation": _COUNT,
        "checkpoint.minutes": _SHARE,
        "checkpoint.keep": Value("whole", least=2),  # with one, a damaged checkpoint would leave none
        "profile": Value("any", many=True),
        "augment.model": _TEXT,
        "augment.count": _COUNT,
        "augment.probability": Value("number", least=0, most=1),
        "augment.candidates": _POSITIVE,
        "augment.processes": _POSITIVE,
    }
)
"""Keys of :func:`xtc_jax.recipe.schema.base_config`."""

STAGE_VALUES = MappingProxyType(
    {
        "result": _TEXT,
        "init": _TEXT,
        "model": _TEXT,
        "teacher": _TEXT,
        "layers": _TEXT,
        "freeze": Value("whole", least=-1),
        "lazy_embeddings": _FLAG,
        "match": _TEXT,
        "vocabulary": _COUNT,
        "vocabulary_min_count": _COUNT,
        "vocabulary_corpus": _TEXT,
        "split": _FLAG,
        "weight_bits": _WHOLE,
        "bit_schedule": _TEXT,
        "quantizer": _TEXT,
        "granularity": _TEXT,
        "stochastic": _FLAG,
        "activation_bits": _WHOLE,
        "activation_range": Value("text", words=RANGES),
        "activation_symmetric": _FLAG,
        "activation_start": _COUNT,
        "rules": _TEXT,
        "extra_rules": _TEXTS,
        "loss.label": _SHARE,
        "loss.logit": _SHARE,
        "loss.attention": _SHARE,
        "loss.hidden": _SHARE,
        "loss.temperature": Value("number", above=0),
        "loss.logit_norm": Value("text", words=("deepspeed", "textbook")),
        "loss.attention_norm": Value("text", words=("valid", "deepspeed", "ternarybert")),
        "loss.hidden_norm": Value("text", words=("valid", "deepspeed")),
        "augmented": _FLAG,
        "new_pairs": _COUNT,
        "epochs": _SHARE,
        "steps": _COUNT,
        "warmup_epochs": _SHARE,
        "warmup_steps": Value("whole", least=-1),
        "batch_size": _POSITIVE,
        "accumulate": _POSITIVE,
        "learning_rate": Value("number", above=0),
        "grid": Value("number", above=0, many=True),
        "weight_decay": _SHARE,
        "clip": _SHARE,
        "dropout": Value("number", least=0, below=1, also=-1),
        "eval_every": _POSITIVE,
        "patience": _COUNT,
        "share": _SHARE,
        "most_epochs": _SHARE,
    }
)
"""Keys of :func:`xtc_jax.recipe.schema.stage_config`."""


def check_values(config: ConfigDict, values: Mapping[str, Value], where: str) -> None:
    """Check every key of ``values``.

    Raises:
      UserError: a value of another type or out of range; names the key, which is written after ``where``.
    """
    for key, allowed in values.items():
        value: Any = config
        for name in key.split("."):
            value = value[name]
        if problem := _problem(value, allowed):
            shown = " ".join(repr(value).split())  # a block of keys is shown in several lines
            raise UserError(f"{where}.{key}={shown}{problem}")


def _problem(value: Any, allowed: Value) -> str:
    """What is wrong, to be written after the value; "" if nothing is."""
    if not allowed.many:
        return _problem_of_one(value, allowed)
    if not isinstance(value, tuple | list):
        return " must be a sequence, in brackets: ('a', 'b'), or ('a',) of one"
    problems = [(i, found) for i, item in enumerate(value, 1) if (found := _problem_of_one(item, allowed))]
    return f": item {problems[0][0]}{problems[0][1]}" if problems else ""


def _problem_of_one(value: Any, allowed: Value) -> str:
    if not _is_of(value, allowed.kind):
        return f" must be {KINDS[allowed.kind]}"
    if allowed.words and value not in allowed.words:
        return f"; use one of {', '.join(allowed.words)}"
    if allowed.kind not in ("whole", "number") or value == allowed.also:
        return ""
    other = "" if allowed.also is None else f", or {allowed.also}"
    crossed = (
        (not math.isfinite(value), "finite"),
        (allowed.least is not None and value < allowed.least, f"at least {allowed.least}{other}"),
        (allowed.most is not None and value > allowed.most, f"at most {allowed.most}{other}"),
        (allowed.above is not None and value <= allowed.above, f"above {allowed.above}{other}"),
        (allowed.below is not None and value >= allowed.below, f"below {allowed.below}{other}"),
    )
    return next((f" must be {bound}" for is_crossed, bound in crossed if is_crossed), "")


def _is_of(value: Any, kind: str) -> bool:
    """Whether a value has a kind; True is no number here, although Python says so."""
    types: dict[str, tuple[type, ...]] = {"whole": (int,), "number": (int, float), "text": (str,), "flag": (bool,)}
    return kind == "any" or type(value) in types[kind]

"""Which parameter gets how many bits: ordered regular expressions on the parameter's path.

The named sets are those of docs/method.md, section 4. ``deepspeed`` quantizes what the reference does: the six
Linears of every layer (weight and 8-bit input) and the word embeddings (weight only, row-wise).
``paper-50x`` adds the pooler's weight and the position and token-type embeddings, and keeps what is left
in 16 bits, so that the *file* is as small as the paper's title says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

from xtc_jax.errors import UserError
from xtc_jax.quantize.activations import ActivationSpec
from xtc_jax.quantize.spec import FLOAT, WeightSpec, check_spec, parse_spec

_HALF = re.compile(r"/weight/(first|second)$")


def weight_path(path: str) -> str:
    """The path that rules are matched with: that of the weight, for each half of one that was split.

    >>> weight_path("pooler/dense/weight/second")
    'pooler/dense/weight'
    """
    return _HALF.sub("/weight", path)


@dataclass(frozen=True)
class QuantRules:
    """Ordered rules ``(regex on the path, spec)``; the first that matches wins.

    Attributes:
      rules: the pairs; the regex is searched for anywhere in a path such as
        ``encoder/layer_0/attention/self/query/weight``.
      rest: dtype in which everything that no rule quantizes is kept: training rounds it through the
        straight-through estimator, so the packed file loses nothing that training did not know of.
    """

    rules: tuple[tuple[str, WeightSpec], ...]
    rest: Literal["float32", "float16"] = "float32"

    def assign(self, paths: Iterable[str]) -> dict[str, WeightSpec]:
        """The spec of every path that some rule quantizes.

        Raises:
          UserError: a rule matches no path at all, which is a typing error.
        """
        paths = list(paths)
        for pattern, _ in self.rules:
            if not any(re.search(pattern, weight_path(path)) for path in paths):
                raise UserError(f"quantization rule {pattern!r} matches no parameter (paths look like {paths[0]!r})")
        matches = {path: self._first(weight_path(path)) for path in paths}
        return {path: spec for path, spec in matches.items() if spec is not None and spec.bits < FLOAT}

    def _first(self, path: str) -> WeightSpec | None:
        return next((spec for pattern, spec in self.rules if re.search(pattern, path)), None)

    def at(self, step: int) -> "QuantRules":
        """The rules in force at a training step: those of a later start are off, bits are those of the schedule."""
        return replace(self, rules=tuple((pattern, spec.at(step)) for pattern, spec in self.rules))

    @property
    def changes(self) -> tuple[int, ...]:
        """Steps after 0 at which :meth:`at` changes, in order."""
        return tuple(sorted({step for _, spec in self.rules for step in spec.changes if step > 0}))


_LINEARS = (
    r"attention/self/(query|key|value)/weight$",
    r"attention/output/dense/weight$",
    r"intermediate/dense/weight$",
    r"layer_\d+/output/dense/weight$",
)
_WORDS = r"embeddings/word_embeddings/weight$"
_OTHER_EMBEDDINGS = r"embeddings/(position|token_type)_embeddings/weight$"
_POOLER = r"pooler/dense/weight$"
RULE_SETS = ("deepspeed", "paper-50x")


def named_rules(name: str, weight_bits: int, activation: ActivationSpec | int | None = 8, **options: Any) -> QuantRules:
    """The rule set ``deepspeed`` or ``paper-50x``.

    Args:
      name: of the set.
      weight_bits: 1 to 8.
      activation: of the Linears' inputs; a number stands for ``ActivationSpec(bits)``, None leaves them float.
      options: further fields of :class:`WeightSpec`. ``granularity`` is the Linears'; tables stay row-wise, as in the
        reference (docs/method.md, section 13.2).

    Raises:
      UserError: unknown name, or a spec that cannot be.
    """
    if isinstance(activation, int):
        activation = ActivationSpec(activation)
    linear = check_spec(WeightSpec(weight_bits, activation=activation, **options), "the rule set")
    table = replace(linear, granularity="row", activation=None)
    rules = (*((pattern, linear) for pattern in _LINEARS), (_WORDS, table))
    if name == "deepspeed":
        return QuantRules(rules)
    if name == "paper-50x":
        pooler = replace(linear, activation=None)
        return QuantRules((*rules, (_OTHER_EMBEDDINGS, table), (_POOLER, pooler)), rest="float16")
    raise UserError(f"unknown rule set {name!r}; use one of {', '.join(RULE_SETS)}")


def parse_rule(text: str) -> tuple[str, WeightSpec]:
    """Read ``REGEX=SPEC``, the form of a rule in a config; see :func:`parse_spec` for ``SPEC``.

    >>> parse_rule("pooler/dense/weight=2,row")[1].granularity
    'row'

    Raises:
      UserError: the text has another form or the pattern is no regular expression.
    """
    pattern, found, spec = text.rpartition("=")
    if not (found and pattern):
        raise UserError(f"quantization rule {text!r} is not of the form REGEX=BITS[,OPTION...]")
    try:
        re.compile(pattern)
    except re.error as error:
        raise UserError(f"quantization rule {text!r}: {error}") from None
    return pattern, parse_spec(spec, f"quantization rule {text!r}")


def with_extra_rules(rules: QuantRules, extra: Iterable[str]) -> QuantRules:
    """``rules`` with more rules in front, which therefore win."""
    return replace(rules, rules=(*(parse_rule(text) for text in extra), *rules.rules))

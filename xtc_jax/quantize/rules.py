"""Which parameter gets how many bits: ordered regular expressions on the parameter's path.

The named sets are those of method.md section 4. ``deepspeed`` quantizes what the reference does: the six
Linears of every layer (weight and 8-bit input) and the word embeddings (weight only, row-wise).
``paper-50x`` adds the pooler's weight and the position and token-type embeddings, and keeps what is left
in 16 bits, so that the *file* is as small as the paper's title says.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from xtc_jax.errors import UserError
from xtc_jax.quantize.groups import Granularity

WEIGHT_BITS = (1, 2)


@dataclass(frozen=True)
class WeightSpec:
    """How one weight is quantized.

    Attributes:
      bits: 1 (binary), 2 (ternary), or 32: leave it alone.
      granularity: ``"tensor"``, ``"row"`` or a group size, see :func:`xtc_jax.quantize.group_count`.
      activation_bits: bits of the input of the Linear that holds this weight; None leaves it float.
    """

    bits: int
    granularity: Granularity = "tensor"
    activation_bits: int | None = None


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
            if not any(re.search(pattern, path) for path in paths):
                raise UserError(f"quantization rule {pattern!r} matches no parameter (paths look like {paths[0]!r})")
        matches = {path: next((spec for pattern, spec in self.rules if re.search(pattern, path)), None) for path in paths}
        return {path: spec for path, spec in matches.items() if spec is not None and spec.bits < 32}


_LINEARS = (
    r"attention/self/(query|key|value)/weight$",
    r"attention/output/dense/weight$",
    r"intermediate/dense/weight$",
    r"layer_\d+/output/dense/weight$",
)
_WORDS = r"embeddings/word_embeddings/weight$"
_OTHER_EMBEDDINGS = r"embeddings/(position|token_type)_embeddings/weight$"
_POOLER = r"pooler/dense/weight$"


def named_rules(name: str, weight_bits: int, activation_bits: int | None = 8) -> QuantRules:
    """The rule set ``deepspeed`` or ``paper-50x`` at 1 or 2 bits.

    Raises:
      UserError: unknown name or number of bits.
    """
    if weight_bits not in WEIGHT_BITS:
        raise UserError(f"weight_bits={weight_bits} is not supported; use one of {WEIGHT_BITS}")
    linear = WeightSpec(weight_bits, "tensor", activation_bits)
    table = WeightSpec(weight_bits, "row")
    rules = (*((pattern, linear) for pattern in _LINEARS), (_WORDS, table))
    if name == "deepspeed":
        return QuantRules(rules)
    if name == "paper-50x":
        pooler = WeightSpec(weight_bits, "tensor")
        return QuantRules((*rules, (_OTHER_EMBEDDINGS, table), (_POOLER, pooler)), rest="float16")
    raise UserError(f"unknown rule set {name!r}; use 'deepspeed' or 'paper-50x'")


_RULE = re.compile(r"(?P<pattern>.+)=(?P<bits>1|2|32)(,(?P<granularity>tensor|row|\d+))?(,a(?P<activation>[3-8]))?")


def parse_rule(text: str) -> tuple[str, WeightSpec]:
    """Read ``REGEX=BITS[,GRANULARITY][,aBITS]``, the form of a rule in a config.

    >>> parse_rule("pooler/dense/weight=2,row,a8")
    ('pooler/dense/weight', WeightSpec(bits=2, granularity='row', activation_bits=8))

    Raises:
      UserError: the text has another form or the pattern is no regular expression.
    """
    match = _RULE.fullmatch(text)
    if match is None:
        raise UserError(
            f"quantization rule {text!r} is not of the form REGEX=BITS[,tensor|row|SIZE][,aBITS]: 1, 2 or 32 bits, a3 to a8"
        )
    try:
        re.compile(match["pattern"])
    except re.error as error:
        raise UserError(f"quantization rule {text!r}: {error}") from None
    word = match["granularity"] or "tensor"
    granularity: Granularity = "tensor" if word == "tensor" else "row" if word == "row" else int(word)
    activation_bits = int(match["activation"]) if match["activation"] else None
    if match["bits"] == "32" and activation_bits:
        raise UserError(f"quantization rule {text!r}: activations are quantized only where the weight is")
    return match["pattern"], WeightSpec(int(match["bits"]), granularity, activation_bits)


def with_extra_rules(rules: QuantRules, extra: Iterable[str]) -> QuantRules:
    """``rules`` with more rules in front, which therefore win."""
    return replace(rules, rules=(*(parse_rule(text) for text in extra), *rules.rules))

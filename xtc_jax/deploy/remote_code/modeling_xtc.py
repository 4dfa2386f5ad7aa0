"""A packed BERT in PyTorch: weights stay packed in the file, and are unpacked when a module is first used.

The form of the codes is that of ``docs/packed_format.md`` of xtc_jax, sections 4 and 5. This file needs torch and transformers
alone; it is copied into every exported directory.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertForSequenceClassification

from .configuration_xtc import XtcBertConfig

BLOCK = 256
LAYOUTS = ("planes256.v1", "base3.v1")


def unpack_planes(packed: Tensor, k: int, bits: int) -> Tensor:
    """Codes, uint8 ``(n, k)``, of ``planes256.v1``: blocks of 256 codes, code ``j S + i`` in byte i of S, plane j."""
    full, whole = k // BLOCK, k // BLOCK * (BLOCK * bits // 8)
    parts = [_unpack_block(packed[:, :whole].reshape(len(packed), full, -1), bits).reshape(len(packed), -1)] if full else []
    if k % BLOCK:
        parts.append(_unpack_block(packed[:, whole:], bits)[:, : k % BLOCK])
    return torch.cat(parts, dim=1)


def _unpack_block(packed: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=packed.device)[:, None]
    codes = (packed[..., None, :] >> shifts) & (2**bits - 1)
    return codes.flatten(-2)


def unpack_base3(packed: Tensor, k: int) -> Tensor:
    """Codes, uint8 ``(n, k)``, of ``base3.v1``: five ternary digits to a byte."""
    powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=packed.device)
    return (packed[..., None] // powers % 3).flatten(-2)[:, :k]


class Matrix(nn.Module):
    """A packed weight ``(n, k)``, or a half of one that is not packed.

    Buffers: ``weight``, uint8 codes or floats; ``weight_scale``, float32 ``(groups,)``; ``weight_zero``, if the grid is
    asymmetric.
    """

    def __init__(self, spec: dict[str, Any] | None, shape: tuple[int, int], layout: str) -> None:
        super().__init__()
        self.spec: Any = spec
        self.shape, self.layout = shape, layout
        if spec is None:
            self.register_buffer("weight", torch.zeros(shape))
            return
        n, k = shape
        self.register_buffer("weight", torch.zeros((n, self._width(k)), dtype=torch.uint8))
        for part in ("scale", "zero") if spec["zero_points"] else ("scale",):
            self.register_buffer(f"weight_{part}", torch.zeros(spec["groups"]))

    @property
    def base3(self) -> bool:
        """Whether five ternary codes share a byte."""
        return self.layout == "base3.v1" and self.spec["bits"] == 2

    @property
    def stored(self) -> int:
        """Bits that a code takes in its byte."""
        return {1: 1, 2: 2, 3: 4, 4: 4}.get(self.spec["bits"], 8)

    def _width(self, k: int) -> int:
        return -(-k // 5) if self.base3 else k // BLOCK * (BLOCK * self.stored // 8) + -(-(k % BLOCK) * self.stored // 8)

    def integers(self, packed: Tensor) -> Tensor:
        """The integers, float32, of some rows of ``weight``; zero points are not added."""
        k, bits = self.shape[1], self.spec["bits"]
        codes = (unpack_base3(packed, k) if self.base3 else unpack_planes(packed, k, self.stored)).float()
        if self.spec["zero_points"]:
            return codes
        return 2 * codes - 1 if bits == 1 else codes - (1 if bits == 2 else 2 ** (bits - 1))

    def rows(self, ids: Tensor) -> Tensor:
        """Rows as float32, ``(len(ids), k)``."""
        if self.spec is None:
            return self.weight[ids].float()
        (n, k), values = self.shape, self.integers(self.weight[ids])
        group = (ids[:, None] * k + torch.arange(k, device=ids.device)) // (n * k // self.spec["groups"])
        if self.spec["zero_points"]:
            values = values + self.weight_zero.float()[group]
        return values * self.weight_scale.float()[group]

    def all_rows(self) -> Tensor:
        """The matrix, float32 ``(n, k)``."""
        return self.rows(torch.arange(self.shape[0], device=self.weight.device))


class Product(Matrix):
    """``x W^T``, the input quantized as the weight says."""

    def __init__(self, spec: dict[str, Any] | None, shape: tuple[int, int], layout: str) -> None:
        super().__init__(spec, shape, layout)
        self._unpacked: Tensor | None = None

    def _apply(self, *arguments: Any, **options: Any) -> Any:  # .to, .half, .cuda: what was unpacked is of another device
        self._unpacked = None
        return super()._apply(*arguments, **options)

    def _load_from_state_dict(self, *arguments: Any, **options: Any) -> None:
        self._unpacked = None
        super()._load_from_state_dict(*arguments, **options)

    @property
    def sums_integers(self) -> bool:
        """Whether integers can be summed before they are scaled: symmetric grids, and no group inside a row."""
        spec = self.spec
        scaled = spec is not None and spec["groups"] in (1, self.shape[0]) and not spec["zero_points"]
        return bool(scaled and spec["activation_bits"] and spec["activation_symmetric"])

    def product(self, x: Tensor, input_range: Tensor | None) -> Tensor:
        """Of float32 ``x``; ``input_range``, ``(2,)``, is there where the range is static."""
        if self._unpacked is None:
            self._unpacked = self.integers(self.weight) if self.sums_integers else self.all_rows()
        if self.sums_integers:  # float32 sums of integers this small are exact
            codes, scale = symmetric_levels(x, self.spec, input_range)
            return nn.functional.linear(codes, self._unpacked) * (scale * self.weight_scale.float())
        return nn.functional.linear(quantized(x, self.spec, input_range), self._unpacked)


def _bounds(x: Tensor, spec: dict[str, Any], input_range: Tensor | None) -> tuple[Tensor, Tensor]:
    if spec["activation_range"] == "static":
        assert input_range is not None, "a static range has been asked for and none is there"
        low, high = input_range.float()
        return low, high
    if spec["activation_range"] == "tensor":
        return x.amin(), x.amax()
    return x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)


def symmetric_levels(x: Tensor, spec: dict[str, Any], input_range: Tensor | None) -> tuple[Tensor, Tensor]:
    """Integers of ``x`` as floats, and their scale; where the range is 0 both are 0."""
    low, high = _bounds(x, spec, input_range)
    half = 2 ** (spec["activation_bits"] - 1)
    scale = torch.maximum(low.abs(), high.abs()) / half
    codes = torch.round(x / torch.where(scale > 0, scale, 1)).clamp(-half, half - 1)
    return torch.where(scale > 0, codes, 0), scale


def quantized(x: Tensor, spec: dict[str, Any] | None, input_range: Tensor | None) -> Tensor:
    """``x`` on its grid, as floats."""
    if spec is None or not spec["activation_bits"]:
        return x
    if spec["activation_symmetric"]:
        codes, scale = symmetric_levels(x, spec, input_range)
        return codes * scale
    low, high = _bounds(x, spec, input_range)
    span = (high - low) / 2 ** spec["activation_bits"]
    scale = torch.where(span > 0, span, low.abs())
    safe = torch.where(scale > 0, scale, 1)
    zero = torch.round(low / safe)
    codes = torch.round((x - zero * scale) / safe).clamp(0, 2 ** spec["activation_bits"] - 1)
    return (codes + zero) * scale


class XtcLinear(Product):
    """A Linear whose weight is packed."""

    def __init__(self, spec: dict[str, Any], shape: tuple[int, int], layout: str) -> None:
        super().__init__(spec, shape, layout)
        _add_bias_and_range(self, shape[0], [spec])

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` in the type of ``x``."""
        return (self.product(x.float(), getattr(self, "input_range", None)) + self.bias.float()).to(x.dtype)


class XtcSplitLinear(nn.Module):
    """A Linear whose weight is the sum of two."""

    def __init__(self, specs: list[dict[str, Any] | None], shape: tuple[int, int], layout: str) -> None:
        super().__init__()
        self.first, self.second = (Product(spec, shape, layout) for spec in specs)
        _add_bias_and_range(self, shape[0], specs)

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` in the type of ``x``."""
        wide, bounds = x.float(), getattr(self, "input_range", None)
        return (self.first.product(wide, bounds) + self.second.product(wide, bounds) + self.bias.float()).to(x.dtype)


def _add_bias_and_range(module: nn.Module, n: int, specs: list[dict[str, Any] | None]) -> None:
    module.bias = nn.Parameter(torch.zeros(n), requires_grad=False)
    if any(spec and spec["activation_bits"] and spec["activation_range"] == "static" for spec in specs):
        module.register_buffer("input_range", torch.zeros(2))


class XtcEmbedding(Matrix):
    """A packed table; rows are unpacked when they are looked up."""

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table, ``(*ids.shape, k)``."""
        kind = (self.weight if self.spec is None else self.weight_scale).dtype  # that of the rest of the model
        return self.rows(ids.reshape(-1)).reshape(*ids.shape, -1).to(kind)


class XtcSplitEmbedding(nn.Module):
    """A table that is the sum of two."""

    def __init__(self, specs: list[dict[str, Any] | None], shape: tuple[int, int], layout: str) -> None:
        super().__init__()
        self.first, self.second = (XtcEmbedding(spec, shape, layout) for spec in specs)

    def forward(self, ids: Tensor) -> Tensor:
        """Rows of the table, ``(*ids.shape, k)``."""
        return self.first(ids) + self.second(ids)


class XtcBertForSequenceClassification(BertForSequenceClassification):
    """transformers' BERT with packed Linears and tables; for inference."""

    config_class = XtcBertConfig

    def __init__(self, config: XtcBertConfig) -> None:
        super().__init__(config)
        packed = config.xtc
        if not packed or packed.get("format_version") != 1 or packed.get("layout") not in LAYOUTS:
            raise ValueError("config.json has no xtc block of format 1; export the packed directory again with 'xtc export'")
        for name in sorted({name.removesuffix(".first").removesuffix(".second") for name in packed["weights"]}):
            self._pack(name, packed["weights"], packed["layout"])

    def _pack(self, name: str, weights: dict[str, Any], layout: str) -> None:
        """Put a packed module in place of a Linear or a table."""
        plain = self.get_submodule(name)
        shape, table = tuple(plain.weight.shape), isinstance(plain, nn.Embedding)
        if name in weights:
            packed = (XtcEmbedding if table else XtcLinear)(weights[name], shape, layout)
        else:
            halves = [weights.get(f"{name}.{half}") for half in ("first", "second")]
            packed = (XtcSplitEmbedding if table else XtcSplitLinear)(halves, shape, layout)
        parent, _, child = name.rpartition(".")
        setattr(self.get_submodule(parent), child, packed)

    def get_input_embeddings(self) -> nn.Module:
        """The table of words."""
        return self.bert.embeddings.word_embeddings

    def tie_weights(self, *_: Any, **__: Any) -> None:
        """Nothing is shared."""

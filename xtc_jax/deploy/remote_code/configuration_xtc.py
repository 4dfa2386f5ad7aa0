"""The configuration of a packed BERT for transformers: that of a BERT, and how its weights are packed."""

from typing import Any

from transformers import BertConfig

REFUSED = {"format": "xtc", "load_with": "AutoModelForSequenceClassification.from_pretrained(…, trust_remote_code=True)"}
"""A quantization block without a method: transformers' own classes refuse it, instead of loading random weights."""


class XtcBertConfig(BertConfig):
    """A BERT whose ``xtc`` says how each weight is packed.

    Attributes:
      xtc: ``format_version``; ``layout``, how 2-bit codes lie; ``weights``, an object by module name, each with ``bits``,
        ``shape``, ``groups``, ``zero_points``, ``activation_bits``, ``activation_range`` and ``activation_symmetric``; and the
        ``task`` that the model was made for.
    """

    model_type = "xtc_bert"
    xtc: dict[str, Any] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read ``config.json``; the block for the classes that must refuse it is dropped here, and written again."""
        kept = {key: value for key, value in config_dict.items() if key != "quantization_config"}
        return super().from_dict(kept, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        """What ``config.json`` holds."""
        return {**super().to_dict(), "quantization_config": dict(REFUSED)}

"""Run a packed model: classify texts, measure it, write files for the GLUE site."""

from xtc_jax.inference.classifier import Classifier, load
from xtc_jax.inference.glue_submission import write_submission
from xtc_jax.inference.predictor import Prediction, Predictor, evaluate_packed, load_predictor, predict, text_logits

__all__ = [
    "Classifier",
    "Prediction",
    "Predictor",
    "evaluate_packed",
    "load",
    "load_predictor",
    "predict",
    "text_logits",
    "write_submission",
]

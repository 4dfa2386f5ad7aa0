"""Tasks, where their examples come from, and how they become batches."""

from xtc_jax.data.batches import Batch, Dataset, default_buckets, eval_batches, plan_epoch, train_batches
from xtc_jax.data.metrics import compute_metrics
from xtc_jax.data.pinned import PINNED, cache_directory, pinned_directory
from xtc_jax.data.sources import Examples, discover_labels, load_examples
from xtc_jax.data.tasks import GLUE, Task, find_task
from xtc_jax.data.tokens import Tokens, load_tokenizer, tokenize

__all__ = [
    "GLUE",
    "PINNED",
    "Batch",
    "Dataset",
    "Examples",
    "Task",
    "Tokens",
    "cache_directory",
    "compute_metrics",
    "default_buckets",
    "discover_labels",
    "eval_batches",
    "find_task",
    "load_examples",
    "load_tokenizer",
    "pinned_directory",
    "plan_epoch",
    "tokenize",
    "train_batches",
]

"""Tasks, where their examples come from, and how they become batches."""

from xtc_jax.data.baselines import Baseline, fit_baselines
from xtc_jax.data.batches import Batch, Dataset, default_buckets, eval_batches, plan_epoch, train_batches
from xtc_jax.data.lengths import fitted_buckets, fitted_length
from xtc_jax.data.metrics import compute_all, compute_metrics, far_below_chance, rank
from xtc_jax.data.pinned import PINNED, cache_directory, pinned_directory
from xtc_jax.data.sources import (
    MISSING,
    Examples,
    Unlabelled,
    discover_labels,
    evenly_spaced,
    held_out,
    load_examples,
    load_table,
    load_unlabelled,
    splits_of,
    table_examples,
)
from xtc_jax.data.tasks import GLUE, Task, find_task
from xtc_jax.data.tokens import Tokens, check_vocabulary, load_tokenizer, tokenize

__all__ = [
    "GLUE",
    "MISSING",
    "PINNED",
    "Baseline",
    "Batch",
    "Dataset",
    "Examples",
    "Task",
    "Tokens",
    "Unlabelled",
    "cache_directory",
    "check_vocabulary",
    "compute_all",
    "compute_metrics",
    "default_buckets",
    "discover_labels",
    "eval_batches",
    "evenly_spaced",
    "far_below_chance",
    "find_task",
    "fit_baselines",
    "fitted_buckets",
    "fitted_length",
    "held_out",
    "load_examples",
    "load_table",
    "load_tokenizer",
    "load_unlabelled",
    "pinned_directory",
    "plan_epoch",
    "rank",
    "splits_of",
    "table_examples",
    "tokenize",
    "train_batches",
]

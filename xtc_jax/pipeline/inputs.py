"""Models, task and data of a recipe, loaded and checked once."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import Tokenizer

from xtc_jax.augment import resembling_pairs
from xtc_jax.bert import BertConfig, complete, fit_head, with_head
from xtc_jax.compress import Vocabulary
from xtc_jax.data import (
    Dataset,
    Examples,
    Task,
    check_vocabulary,
    default_buckets,
    discover_labels,
    evenly_spaced,
    find_task,
    fitted_buckets,
    fitted_length,
    load_examples,
    load_tokenizer,
    splits_of,
    tokenize,
)
from xtc_jax.errors import UserError
from xtc_jax.formats import load_model
from xtc_jax.parallel import on_first
from xtc_jax.params import Params
from xtc_jax.recipe.recipe import Recipe
from xtc_jax.train import data_digest

Log = Callable[[str], None]


@dataclass(frozen=True)
class Checkpoint:
    """A model that stages start from, with a head for the task.

    Attributes:
      config, params: float32.
      source: its local directory, which has the tokenizer.
    """

    config: BertConfig
    params: Params
    source: Path


@dataclass(frozen=True)
class Sets:
    """The data, tokenized.

    Attributes:
      train: with the batch size of the first stage.
      validation: the task's validation splits by name, the selecting one first, with the batch size of evaluation.
      read_train: makes a training set like ``train`` of another file.
      train_with_pairs: ``train`` with new pairs of its texts, up to so many rows, whose labels mean nothing; 0 adds none.
    """

    train: Dataset
    validation: Mapping[str, Dataset]
    read_train: Callable[[str], Dataset]
    train_with_pairs: Callable[[int], Dataset]


@dataclass(frozen=True)
class Inputs:
    """What all stages share: models, task and data, loaded and checked once.

    Attributes:
      checkpoints: by the name the config gives them.
      task: with the class names found in the data.
      examples: the texts and labels, by the name of the split: ``train``, then the task's validation splits.
      tokenizer: the text of the ``tokenizer.json`` that all checkpoints share.
      max_length: tokens a text is cut to.
      sets: the data under a vocabulary, or, of None, under all of the tokenizer's. The ids are the vocabulary's own.
      digests: a hash of every set's tokens and labels, by the name of its split.
    """

    checkpoints: dict[str, Checkpoint]
    task: Task
    examples: Mapping[str, Examples]
    tokenizer: str
    max_length: int
    sets: Callable[[Vocabulary | None], Sets]
    digests: Mapping[str, str]

    @property
    def train(self) -> Dataset:
        """The training data under the whole vocabulary."""
        return self.sets(None).train

    @property
    def validation(self) -> Mapping[str, Dataset]:
        """The validation data under the whole vocabulary."""
        return self.sets(None).validation

    @property
    def eval_batch_size(self) -> int:
        """Rows of a batch of evaluation."""
        return next(iter(self.validation.values())).batch_size


def load_inputs(recipe: Recipe, log: Log) -> Inputs:
    """Load models, task and data; ``log`` receives what was found.

    Raises:
      UserError: anything wrong with one of them.
    """
    data = recipe.config["data"]
    if serves_both(data):
        log(f"{data['path']} is one file: examples whose MD5 is a multiple of 10 validate, the others train")
    task = _task(recipe.config)
    checkpoints = _checkpoints(recipe, task, log)
    tokenizer = _one_vocabulary(checkpoints, len(task.text))
    read = functools.partial(_read, task, data["missing"], log)
    examples = _splits(task, data, read)
    longest, buckets = _lengths(data, examples, tokenizer, checkpoints, log)
    paired = functools.cache(lambda rows: _with_pairs(examples["train"], rows, log))
    pad = checkpoints[recipe.config["model"]].config.pad_token_id

    @functools.cache
    def sets(vocabulary: Vocabulary | None) -> Sets:
        own = Tokenizer.from_str(vocabulary.tokenizer if vocabulary else tokenizer)
        dataset = functools.partial(_dataset, own, longest, buckets, vocabulary.position(pad) if vocabulary else pad)
        size = recipe.stages[0].batch_size
        train = dataset(examples["train"], size)
        validation = {split: dataset(each, data["eval_batch_size"]) for split, each in examples.items() if split != "train"}
        more = functools.cache(lambda rows: dataset(paired(rows), size))
        return Sets(
            train,
            validation,
            functools.cache(lambda path: dataset(read(path, "train"), size)),
            lambda rows: more(rows) if len(task.text) == 2 and rows > len(train.labels) else train,
        )

    found = {"train": sets(None).train, **sets(None).validation}
    # Of one batch size: that of the first stage is none of the data.
    digests = {name: data_digest(replace(each, batch_size=1)) for name, each in found.items()}
    return Inputs(checkpoints, task, examples, tokenizer, longest, sets, digests)


def _task(config: Mapping[str, Any]) -> Task:
    """The task, with the classes of the training data where the config names none."""
    data = config["data"]
    task = find_task(config["task"], tuple(data["text"]), data["label"], tuple(data["labels"]), data["regression"])
    return task if task.labels else replace(task, labels=discover_labels(_path(data, "train"), task, data["missing"]))


def _path(data: Mapping[str, Any], split: str) -> str:
    """Where the training data or the validation data come from."""
    return data[split] or data["path"]


def _splits(task: Task, data: Mapping[str, Any], read: Callable[..., Examples]) -> dict[str, Examples]:
    """The texts and labels, by split: ``train`` first, then the task's validation splits."""
    parts = ("train", "validation") if serves_both(data) else ("", "")
    found = {"train": read(_path(data, "train"), "train", data["limit_train"], parts[0])}
    path = _path(data, "validation")
    return found | {split: read(path, split, data["limit_validation"], parts[1]) for split in splits_of(path, task.validation)}


def _read(task: Task, missing: str, log: Log, path: str, split: str, limit: int = 0, part: str = "") -> Examples:
    examples = _limit(load_examples(path, task, split, missing, part), limit)
    dropped = f"; {examples.dropped:,} rows dropped, a text or the label is missing" if examples.dropped else ""
    log(f"{split}: {len(examples.labels):,} examples from {examples.where}{dropped}")
    return examples


def _with_pairs(old: Examples, rows: int, log: Log) -> Examples:
    """Examples with new pairs of their texts behind them, ``rows`` in all where there are as many."""
    pairs = [(first, second) for first, second in old.texts]
    # Found once for all processes: of two machines, float sums may put texts that resemble equally in another order.
    new = [(first, second) for first, second in on_first(resembling_pairs, pairs, rows - len(pairs))]
    size = len(pairs) + len(new)
    log(f"train: {len(new):,} new pairs of its texts, {size:,} in all")
    return replace(old, texts=[*old.texts, *new], labels=np.resize(old.labels, size), rows=np.resize(old.rows, size))


def _dataset(
    tokenizer: Tokenizer, longest: int, buckets: tuple[int, ...], pad: int, examples: Examples, batch_size: int
) -> Dataset:
    """Examples, tokenized."""
    tokens = tokenize(tokenizer, examples.texts, longest)
    if buckets[-1] < tokens.lengths.max():
        raise UserError(
            f"config.data.buckets={buckets} end below {tokens.lengths.max()} tokens; the last must be data.max_length"
        )
    return Dataset(tokens, examples.labels, batch_size, buckets, pad)


def _lengths(
    data: Mapping[str, Any], examples: Mapping[str, Examples], tokenizer: str, checkpoints: Mapping[str, Checkpoint], log: Log
) -> tuple[int, tuple[int, ...]]:
    """Tokens that texts are cut to, and the padded lengths: of the config, or, where it leaves them to it, of the data."""
    if data["max_length"]:
        return data["max_length"], tuple(data["buckets"]) or default_buckets(data["max_length"])
    most = min(checkpoint.config.max_position_embeddings for checkpoint in checkpoints.values())
    found = [tokenize(Tokenizer.from_str(tokenizer), each.texts, most).lengths for each in examples.values()]
    lengths = np.concatenate(found)
    longest = fitted_length(lengths, most)
    buckets = tuple(data["buckets"]) or fitted_buckets(lengths, longest)
    log(f"lengths: {int(np.median(lengths))} tokens in the median, cut to {longest}, padded to {', '.join(map(str, buckets))}")
    return longest, buckets


def serves_both(data: Mapping[str, Any]) -> bool:
    """Whether one file, ``config.data.path``, is split into training and validation data.

    Raises:
      UserError: one file is named for both in another way.
    """
    train, validation = (Path(data[split] or data["path"]) for split in ("train", "validation"))
    if not (train.is_file() and validation.is_file() and train.samefile(validation)):
        return False
    if data["train"] or data["validation"]:
        raise UserError(
            f"config.data: {train} is the training data and the validation data; name another file for one of them, or set "
            "config.data.path to it and nothing else, which holds one example in ten out"
        )
    return True


def _checkpoints(recipe: Recipe, task: Task, log: Log) -> dict[str, Checkpoint]:
    """Every model that a stage starts from, by the name the config gives it."""
    default = recipe.config["model"]
    names = dict.fromkeys([default, *(stage.model for stage in recipe.stages if stage.model)])
    trained = {
        name: all(stage.trains for stage in recipe.stages if not stage.init and (stage.model or default) == name)
        for name in names
    }
    return {name: _checkpoint(name, task, recipe.config, trained[name], log) for name in names}


def _checkpoint(name: str, task: Task, config: dict[str, Any], trained: bool, log: Log) -> Checkpoint:
    shape, params, source = load_model(name)
    longest = config["data"]["max_length"]
    if longest > shape.max_position_embeddings:
        raise UserError(f"config.data.max_length={longest} is more than the {shape.max_position_embeddings} of model {name}")
    params, head = fit_head(shape, params, task.labels, trained, str(source / "config.json"))
    shape = with_head(shape, task.labels, task.regression)
    params, fresh = complete(shape, params, jax.random.key(config["seed"]))
    note = "".join(f"; {text}" for text in (head, f"new: {', '.join(fresh)}" if fresh else "") if text)
    log(f"model: {name}, {shape.num_hidden_layers} layers of {shape.hidden_size}{note}")
    return Checkpoint(shape, params, source)


def _one_vocabulary(checkpoints: dict[str, Checkpoint], texts: int) -> str:
    """The ``tokenizer.json`` of all checkpoints: teacher and student must read the same pieces, and have rows for them."""
    (first, *others), tokenizers = checkpoints, {name: load_tokenizer(found.source) for name, found in checkpoints.items()}
    for name, found in checkpoints.items():
        shape = found.config
        check_vocabulary(tokenizers[name], shape.vocab_size, shape.type_vocab_size, texts, f"model {name}")
    for name in others:
        if tokenizers[name].get_vocab() != tokenizers[first].get_vocab():
            raise UserError(
                f"config: models {first} and {name} have different vocabularies; teacher and student must share one"
            )
    return tokenizers[first].to_str()


def _limit(examples: Examples, most: int) -> Examples:
    """``most`` examples, evenly spaced; 0 is all."""
    chosen = evenly_spaced(len(examples.texts), most)
    texts = [examples.texts[i] for i in chosen]
    return replace(examples, texts=texts, labels=examples.labels[chosen], rows=examples.rows[chosen])

"""A toy world for the tests: an invented vocabulary, a tiny BERT directory, tiny data sets, a tiny recipe."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from ml_collections import ConfigDict
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from xtc_jax.bert import BertConfig, init, masked_lm_shapes
from xtc_jax.data import Dataset, Task, tokenize
from xtc_jax.formats import save_huggingface
from xtc_jax.params import nest
from xtc_jax.recipe.schema import base_config, stage_config

GOOD = ["bright", "warm", "gentle", "lovely", "brave", "funny", "clever", "tender", "lively", "honest"]
BAD = ["dull", "cold", "clumsy", "dreary", "timid", "boring", "silly", "bitter", "sleepy", "false"]
NOUNS = ["lamp", "kettle", "puppet", "garden", "robot", "piano", "parrot", "tunnel", "bridge", "cactus", "walrus", "violin"]
OTHER = ["the", "a", "was", "and", "but", "very", "quite", "we", "saw", "it", "there", "with", "no", ".", ",", "!", "?"]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *GOOD, *BAD, *NOUNS, *OTHER]

SENTIMENT = Task("custom", ("sentence",), ("negative", "positive"))
FULL_SIZE = BertConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=64,
    max_position_embeddings=32,
    initializer_range=0.1,
)


def tokenizer() -> Tokenizer:
    """BERT's word pieces over :data:`VOCABULARY`."""
    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return made


def write_model(directory: Path, masked_lm: bool = False) -> Path:
    """A Hugging Face directory: ``config.json``, ``model.safetensors`` without a classifier, ``tokenizer.json``."""
    headless = params(FULL_SIZE, seed=7)
    del headless["classifier"]
    save_huggingface(directory, FULL_SIZE, headless | (masked_lm_head(FULL_SIZE) if masked_lm else {}))
    tokenizer().save(str(directory / "tokenizer.json"))
    return directory


def sentences(count: int, seed: int) -> list[tuple[str, int]]:
    """Invented sentences of 7 to 12 words; the label is the sign of their adjectives."""
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        label = i % 2
        first, second, third = rng.choice(GOOD if label else BAD, 3, replace=False)
        one, two = rng.choice(NOUNS, 2, replace=False)
        text = f"the {one} was {first} and {second} ."
        made.append((text if i % 3 else f"{text[:-2]} , the {two} was {third} !", label))
    return made


def shape(layers: int = 1, dropout: float = 0.0) -> BertConfig:
    """:data:`FULL_SIZE` with fewer layers. Dropout is off where a test does not need it: it compiles slowly."""
    return replace(FULL_SIZE, num_hidden_layers=layers, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout)


def params(config: BertConfig, seed: int = 0) -> dict:
    """Random params without a constant among them, made by numpy: quicker than a model's own ``init``."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    draw = {"weight": lambda size: 0.1 * rng.normal(size=size), "bias": lambda size: 0.02 * rng.normal(size=size)}
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(
            draw[path[-1].key](leaf.shape) + ("LayerNorm" in str(path) and path[-1].key == "weight"), jnp.float32
        ),
        shapes,
    )


def masked_lm_head(config: BertConfig, seed: int = 0) -> dict:
    """Random params of the head of a masked language model."""
    rng = np.random.default_rng(seed)
    return nest({path: rng.normal(size=leaf.shape).astype(np.float32) for path, leaf in masked_lm_shapes(config).items()})


def dataset(count: int = 32, seed: int = 0, batch_size: int = 8) -> Dataset:
    """Tokenized :func:`sentences`."""
    rows = sentences(count, seed)
    labels = np.array([label for _, label in rows], np.int32)
    return Dataset(tokenize(tokenizer(), [(text,) for text, _ in rows], 16), labels, batch_size, (12, 16))


def write_table(path: Path, columns: dict[str, list]) -> Path:
    """A csv, parquet or jsonl file, by the suffix."""
    table = pa.table(columns)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pa.parquet.write_table(table, path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    return path


def write_sentiment(directory: Path, suffix: str = "parquet") -> Path:
    """``train`` and ``validation`` files with columns ``sentence`` and ``label``."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", 64), ("validation", 30)):
        rows = sentences(count, len(split))
        columns = {"sentence": [text for text, _ in rows], "label": [label for _, label in rows]}
        write_table(directory / f"{split}.{suffix}", columns)
    return directory


def inferences(count: int, seed: int) -> list[tuple[str, str, int]]:
    """Invented pairs, MNLI's classes by turns: the second text praises (0), says nothing (1) or blames (2)."""
    rng = np.random.default_rng(seed)
    words = (GOOD, ["there", "it", "a"], BAD)
    made = []
    for i in range(count):
        noun, word = rng.choice(NOUNS), rng.choice(words[i % 3])
        made.append((f"we saw the {noun} .", f"the {noun} was {word} !", i % 3))
    return made


def write_inference(directory: Path) -> Path:
    """MNLI's five files under ``mnli/``; the matched test split has no labels, the mismatched one -1 for each."""
    sizes = {"train": 60, "validation_matched": 48, "validation_mismatched": 27, "test_matched": 5, "test_mismatched": 4}
    (directory / "mnli").mkdir(parents=True)
    for split, count in sizes.items():
        premise, hypothesis, label = map(list, zip(*inferences(count, len(split)), strict=True))
        columns = {"premise": premise, "hypothesis": hypothesis, "label": label, "idx": list(range(100, 100 + count))}
        if split == "test_matched":
            del columns["label"], columns["idx"]
        elif split == "test_mismatched":
            columns["label"] = [-1] * count
        write_table(directory / "mnli" / f"{split}.parquet", columns)
    return directory


def recipe_config(model: Path, data: Path) -> ConfigDict:
    """Three stages in seconds: a teacher, two of its four layers, one bit under ``paper-50x``."""
    config = base_config(model=str(model), task="custom", stages=("teacher", "reduce", "quantize"))
    config.data.path = str(data)
    config.data.text = ("sentence",)
    config.data.labels = ("negative", "positive")
    config.data.max_length = 16
    config.data.buckets = (16,)
    config.data.eval_batch_size = 16
    few = {"batch_size": 8, "warmup_steps": 2, "eval_every": 10, "learning_rate": 2e-3, "dropout": 0.0}
    taught = {**few, "teacher": "teacher", "learning_rate": 1e-3}
    config.teacher = stage_config(steps=30, **few)
    config.reduce = stage_config(result="reduced", init="teacher", layers=(1, 3), steps=20, **taught)
    config.quantize = stage_config(result="quantized", init="reduce", weight_bits=1, rules="paper-50x", steps=20, **taught)
    return config


def write_config_file(path: Path, model: Path, data: Path) -> Path:
    """:func:`recipe_config` as a config file."""
    path.write_text(
        "from pathlib import Path\nimport toy\n\n"
        f"def get_config(arg=''):\n    return toy.recipe_config(Path({str(model)!r}), Path({str(data)!r}))\n"
    )
    return path


_finished: list[Path] = []


def finished_run(make_directory) -> Path:
    """A directory with ``model``, ``data``, ``config.py`` and ``work``, the finished run of that recipe.

    Made once; copy before changing anything. ``make_directory`` is ``tmp_path_factory.mktemp``.
    """
    from xtc_jax import pipeline
    from xtc_jax.recipe.recipe import make_recipe
    from xtc_jax.report import runs as summary

    if not _finished:
        root = make_directory("toy")
        model, data = write_model(root / "model"), write_sentiment(root / "data")
        write_config_file(root / "config.py", model, data)
        recipe = make_recipe(recipe_config(model, data))
        results = pipeline.run(recipe, root / "work", lambda line: None)
        summary.write_report(results, recipe, root / "work")
        _finished.append(root)
    return _finished[0]


def contents(root):
    """Hash and time of every file."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}

"""The form of a config file: an ``ml_collections.ConfigDict`` made by :func:`base_config`, whose ``stages`` name further
:func:`stage_config` entries. Teacher fine-tuning, layer reduction, distillation and quantization are all the same kind of stage
with other values.
"""

from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from xtc_jax.errors import UserError

LOCAL_MODEL = "pinned:all-MiniLM-L6-v2"
LOSSES = ("label", "logit", "attention", "hidden")

Phase = tuple[Sequence[str], Sequence[float], int | float, float]
"""``(losses, weights, steps, learning rate)`` of one stage of a distillation schedule; a float counts epochs, not steps."""


def stage_config(**values: Any) -> ConfigDict:  # noqa: PLR0915 (a line for every key: the page of keys is made of them)
    """A stage; keyword arguments override these defaults, which are XTC's (docs/method.md, section 1).

    Raises:
      UserError: a key that stages do not have.
    """
    config = ConfigDict()
    config.result = ""  # its key in results.json; "" is the stage's own name
    config.init = ""  # stage whose model it starts from; "" is the checkpoint `model`
    config.model = ""  # checkpoint it starts from, where it is another than the config's `model`
    config.teacher = ""  # stage that teaches; "" trains on the labels
    config.layers = ""  # kept of what it starts from: "1,3,5", every_other, first(n), last(n), evenly(n); "" keeps all
    config.freeze = -1  # its lowest layers that do not train, nor do the embeddings then: 0 the embeddings alone; -1 trains all
    config.lazy_embeddings = False  # rows of the word table that a batch does not read keep their values and moments: faster
    config.match = ""  # teacher layers its layers are compared with; "" are those they came from, else evenly spread ones
    config.vocabulary = 0  # word pieces kept of what it starts from, the most frequent of the training data; 0 keeps all
    config.vocabulary_min_count = 0  # word pieces that occur less often leave
    config.vocabulary_corpus = ""  # a text file, one text a line, whose pieces are counted too
    config.split = False  # start from two binary halves of every ternary weight (BinaryBERT)
    config.weight_bits = 32  # 1 to 8 quantizes
    config.bit_schedule = ""  # "8@0>4@500>1@1000": bits from which step, or "40%" of them, on; must end at `weight_bits`
    config.quantizer = ""  # "" is binary, ternary or symmetric by bits; or binary_centred, ternary_clipped, asymmetric
    config.granularity = "tensor"  # of the Linears: tensor, row or the size of a group; tables are row-wise
    config.stochastic = False  # round at random while training (3 to 8 bits)
    config.activation_bits = 8  # of the Linears' inputs, where weights are quantized; 4; 32 leaves them
    config.activation_range = "token"  # or tensor (both dynamic), or static: a running range
    config.activation_symmetric = True
    config.activation_start = 0  # step from which activations are quantized
    config.rules = "deepspeed"  # or "paper-50x"
    config.extra_rules = ()  # "REGEX=BITS[,OPTION...]", tried before `rules`; see parse_spec
    config.loss = ConfigDict()  # weights and normalisations, see DistillSpec
    config.loss.label = 0.0
    config.loss.logit = 1.0
    config.loss.attention = 1.0
    config.loss.hidden = 1.0
    config.loss.temperature = 1.0
    config.loss.logit_norm = "deepspeed"
    config.loss.attention_norm = "valid"
    config.loss.hidden_norm = "valid"
    config.augmented = False  # train on the augmented data, see config.augment
    config.new_pairs = 0  # rows that new pairs of its texts bring training data of two texts to, for the teacher; 0 adds none
    config.epochs = 18.0  # 0, with steps=0, takes the model as it is: it is measured, not trained
    config.steps = 0  # if not 0, instead of `epochs`
    config.warmup_epochs = 1.0
    config.warmup_steps = -1  # if not -1, instead of `warmup_epochs`
    config.batch_size = 32
    config.accumulate = 1  # parts of a batch that are computed one after another, to save memory
    config.learning_rate = 5e-5
    config.grid = ()  # learning rates to try, instead of `learning_rate`; the best by the validation metric is kept
    config.weight_decay = 0.01
    config.clip = 1.0
    config.dropout = -1.0  # of the student; -1 is the model's own
    config.eval_every = 1000  # steps; the last step always evaluates
    config.patience = 0  # evaluations in a row without a better one after which the stage ends; 0 runs all its steps
    config.share = 0.0  # of `minutes`: its steps are as many as fit, its learning_rate is that of a model 384 wide
    config.most_epochs = 0.0  # that its share may bring; 0 is no bound
    return _updated(config, values, "stage_config")


def base_config(**values: Any) -> ConfigDict:
    """Everything but the stages; keyword arguments override these defaults.

    Raises:
      UserError: a key that configs do not have.
    """
    config = ConfigDict()
    config.seed = 42
    config.runlocal = False  # shrink to about a minute: see `shrink`
    config.model = LOCAL_MODEL  # directory, hub id or pinned:NAME
    config.task = "sst2"
    config.stages = ()
    config.minutes = 0.0  # wall time of all, which stages with a `share` divide; what each gets is in budget.json
    config.baselines = True  # measure the majority class and a bag of words on the same data, for the report
    config.compute_dtype = "float32"  # or bfloat16: of activations and products; see xtc_jax.bert.apply
    config.arithmetic = "auto"  # or int8, float, native: what multiplies integers of quantized Linears, forward, in training
    config.teacher_cache = "auto"  # or off, or a size such as 2GB: what a teacher said of an example is kept and read again
    config.teacher_cache_dtype = "float32"  # or bfloat16, half the size: its hidden states and attention scores are rounded
    config.mesh = (-1, 1, 1)  # devices along (data, fsdp, tensor); -1 takes those that are left; see xtc_jax/parallel/mesh.py
    config.storage = "planes256.v1"  # form of packed files; base3.v1: ternary weights take 1.6 bits, not 2
    config.data = ConfigDict()
    config.data.path = ""  # directory, pinned:NAME, or "" for the hub
    config.data.train = ""  # a file, instead of the one in `path`
    config.data.validation = ""
    config.data.text = ()  # text columns; () is the task's own
    config.data.label = ""
    config.data.labels = ()  # class names of a task of your own; () finds them in the training data
    config.data.regression = False
    config.data.missing = "refuse"  # or drop: what becomes of rows in which a text or the label is missing
    config.data.max_length = 128  # tokens that a text, or a pair, is cut to; 0: what 99.5 % of the data fit
    config.data.buckets = ()  # padded lengths; () is 16, 32, 64, … up to max_length; of max_length=0 those that waste least
    config.data.eval_batch_size = 128
    config.data.limit_train = 0  # use the first examples only; 0 uses all
    config.data.limit_validation = 0
    config.checkpoint = ConfigDict()
    config.checkpoint.minutes = 5.0  # between saves; 0 saves every 10 steps. The last step of a stage and SIGTERM always save
    config.checkpoint.keep = 2  # the newest; each has the best parameters so far in it
    config.profile = ()  # (first step, how many) of every stage to trace, for TensorBoard
    config.augment = ConfigDict()  # TinyBERT's data augmentation, for stages with `augmented`
    config.augment.model = ""  # whose candidates: a checkpoint, best one with a masked-LM head; "" is `model`
    config.augment.count = 0  # variants of a sentence; 0 is the task's own number
    config.augment.probability = 0.4  # of replacing a word
    config.augment.candidates = 15  # per word
    config.augment.processes = 1
    return _updated(config, values, "base_config")


def _updated(config: ConfigDict, values: dict[str, Any], where: str) -> ConfigDict:
    """``config`` with ``values``, none of which may be new."""
    for key, value in values.items():
        if key not in config:
            raise UserError(f"{where}: unknown key {key!r}; use one of {', '.join(config)}")
        if key == "loss":
            unknown = [name for name in value if name not in config.loss]
            if unknown:
                raise UserError(f"{where}: unknown loss {unknown[0]!r}; use one of {', '.join(config.loss)}")
    if isinstance(values.get("layers"), tuple | list):
        values = {**values, "layers": ",".join(str(layer) for layer in values["layers"])}
    config.update(values)
    return config


def add_phases(config: ConfigDict, name: str, phases: Sequence[Phase], **shared: Any) -> tuple[str, ...]:
    """Distillation in one, two or three stages: one stage of the recipe per phase, each from the best of the one before.

    Args:
      config: gets ``config.<name>_1``, ``config.<name>_2``, … and, for the last, ``config.<name>``.
      name: of the last stage.
      phases: ``(losses, weights, steps, learning rate)`` each; losses that are not named have weight 0.
      shared: further keys of every one of these stages; ``init``, ``model``, ``layers`` and ``split`` of the first alone,
        ``result`` of the last.

    Returns:
      The names of the stages, to be appended to ``config.stages``.

    Raises:
      UserError: an unknown loss, or another number of weights than losses.
    """
    names = tuple(name if i == len(phases) else f"{name}_{i}" for i in range(1, len(phases) + 1))
    for i, (stage, (losses, weights, steps, learning_rate)) in enumerate(zip(names, phases, strict=True)):
        unknown = [loss for loss in losses if loss not in LOSSES]
        if unknown or len(losses) != len(weights):
            problem = f"unknown loss {unknown[0]!r}" if unknown else f"{len(losses)} losses and {len(weights)} weights"
            raise UserError(f"phase {i + 1} of {name}: {problem}; losses are {', '.join(LOSSES)}, with a weight each")
        given = dict(zip(losses, map(float, weights), strict=True))
        values = {**shared, "loss": {**shared.get("loss", {}), **dict.fromkeys(LOSSES, 0.0), **given}}
        if i > 0:
            values |= {"init": names[i - 1], "model": "", "layers": "", "split": False}
        if i < len(phases) - 1:
            values.pop("result", None)
        values["steps" if isinstance(steps, int) else "epochs"] = steps
        config[stage] = stage_config(learning_rate=learning_rate, **values)
    return names


def parse_arg(arg: str, **defaults: Any) -> ConfigDict:
    """Read a config file's argument, ``word,key=value,flag``.

    The first word without ``=`` is the value of the first key of ``defaults`` unless it names a flag; other words
    are flags set to True. Values are read as the type of the default.

    >>> parse_arg("cola,bits=2,runlocal", task="sst2", bits=1, runlocal=False).to_dict()
    {'bits': 2, 'runlocal': True, 'task': 'cola'}

    Raises:
      UserError: an unknown key or a value of another type.
    """
    values = dict(defaults)
    for word in filter(None, (arg or "").split(",")):
        key, found, text = word.partition("=")
        if not found and not isinstance(defaults.get(key), bool):
            key, text = next(iter(defaults)), word
        if key not in defaults:
            raise UserError(f"config argument {word!r}: unknown; use {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            values[key] = (not found or text.lower() in ("1", "true")) if kind is bool else kind(text)
        except ValueError:
            raise UserError(f"config argument {word!r}: {text!r} is not a {kind.__name__}") from None
    return ConfigDict(values)


def parse_layers(text: str) -> str:
    """Layers in a config's argument, which a comma ends, as a stage has them: ``1+3+5`` is ``1,3,5``, ``all`` is ``""``."""
    return "" if text == "all" else text.replace("+", ",")


def choose(what: str, value: Any, known: dict[Any, Any]) -> Any:
    """``known[value]``.

    Raises:
      UserError: not there; lists what is.
    """
    if value not in known:
        raise UserError(f"{what}={value}: use one of {', '.join(map(str, known))}")
    return known[value]

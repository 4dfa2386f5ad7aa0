import pytest

from xtc_jax.compress import DistillSpec
from xtc_jax.config import base_config, stage_config
from xtc_jax.errors import UserError
from xtc_jax.quantize import named_rules
from xtc_jax.recipe import digest, make_recipe

STAGES = ("teacher", "reduce", "quantize")


def a_config(**values):
    config = base_config(stages=STAGES, **values)
    config.teacher = stage_config(epochs=3.0)
    config.reduce = stage_config(result="reduced", init="teacher", teacher="teacher", layers=(1, 3, 5, 7, 9, 11))
    config.quantize = stage_config(init="reduce", teacher="teacher", weight_bits=1)
    return config


def test_stages_come_in_order_with_their_values_parsed():
    teacher, reduce, quantize = make_recipe(a_config()).stages
    assert (teacher.name, teacher.result, teacher.rules, teacher.loss) == ("teacher", "teacher", None, DistillSpec())
    assert (reduce.result, reduce.layers, reduce.teacher) == ("reduced", "1,3,5,7,9,11", "teacher")
    assert quantize.rules == named_rules("deepspeed", 1, 8)


def test_extra_rules_come_first_and_32_activation_bits_are_none():
    config = a_config()
    config.quantize.extra_rules, config.quantize.activation_bits = ("pooler/dense/weight=2,row",), 32
    rules = make_recipe(config).stages[2].rules
    assert [(pattern, spec.bits, spec.granularity) for pattern, spec in rules.rules[:1]] == [("pooler/dense/weight", 2, "row")]
    assert rules.rules[1:] == named_rules("deepspeed", 1, None).rules


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"epochs": 18.0, "warmup_epochs": 1.0}, (180, 10)),
        ({"epochs": 0.25, "warmup_epochs": 0.15}, (2, 1)),
        ({"epochs": 0.01, "warmup_epochs": 1.0}, (1, 0)),
        ({"steps": 7, "warmup_steps": 2}, (7, 2)),
        ({"steps": 7, "warmup_steps": 0}, (7, 0)),
        ({"steps": 7, "warmup_epochs": 3.0}, (7, 6)),
        ({"epochs": 0.0, "warmup_epochs": 1.0}, (0, 0)),
        ({"epochs": 0.0, "steps": 7, "warmup_steps": 2}, (7, 2)),
    ],
)
def test_epochs_become_steps_unless_steps_are_given(values, expected):
    config = base_config(stages=("only",))
    config.only = stage_config(**values)
    assert make_recipe(config).stages[0].counts(10) == expected


def fingerprints(config):
    recipe = make_recipe(config)
    return [digest(recipe.fingerprint(stage)) for stage in recipe.stages]


def changed_by(change):
    config = a_config()
    change(config)
    return [name for name, a, b in zip(STAGES, fingerprints(a_config()), fingerprints(config), strict=True) if a != b]


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        (lambda c: None, []),
        (lambda c: c.update(runlocal=False), []),
        (lambda c: c.update(seed=1), list(STAGES)),
        (lambda c: c.update(model="other/model"), list(STAGES)),
        (lambda c: c.data.update(limit_train=10), list(STAGES)),
        (lambda c: c.teacher.update(learning_rate=1e-4), list(STAGES)),
        (lambda c: c.reduce.update(layers=(1, 3)), ["reduce", "quantize"]),
        (lambda c: c.reduce.loss.update(hidden=0.5), ["reduce", "quantize"]),
        (lambda c: c.quantize.update(weight_bits=2), ["quantize"]),
        (lambda c: c.quantize.update(extra_rules=("pooler=2",)), ["quantize"]),
    ],
    ids=["nothing", "same", "seed", "model", "data", "teacher", "reduce", "loss", "quantize", "rules"],
)
def test_a_change_changes_the_fingerprints_of_its_stage_and_of_what_is_built_on_it(change, stages):
    assert changed_by(change) == stages


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(stages=()), "config.stages is empty"),
        (lambda c: c.update(stages=("teacher", "polish")), "config.stages names 'polish', but there is no config.polish"),
        (lambda c: c.update(stages=("reduce",)), "config.reduce.init='teacher' names no earlier stage"),
        (lambda c: c.reduce.update(teacher="quantize"), "config.reduce.teacher='quantize' names no earlier stage"),
        (lambda c: c.reduce.update(batch_size=0), "config.reduce.batch_size=0 must be at least 1"),
        (lambda c: c.reduce.update(eval_every=0), "config.reduce.eval_every=0 must be at least 1"),
        (lambda c: c.reduce.loss.update(logit_norm="mean"), "config.reduce.loss.logit_norm='mean'; use one of"),
        (lambda c: c.reduce.loss.update(hidden_norm="ternarybert"), "config.reduce.loss.hidden_norm='ternarybert'"),
        (lambda c: c.reduce.loss.update(attention_norm="all"), "config.reduce.loss.attention_norm='all'; use one of"),
        (lambda c: c.quantize.update(weight_bits=3), "config.quantize: weight_bits=3 is not supported"),
        (lambda c: c.quantize.update(activation_bits=5), "config.quantize.activation_bits=5; use 8, 4 or 32"),
        (lambda c: c.quantize.update(rules="best"), "config.quantize: unknown rule set 'best'"),
        (lambda c: c.quantize.update(extra_rules=("pooler",)), "config.quantize: quantization rule 'pooler' is not of"),
        (lambda c: c.quantize.update(extra_rules=("(=1",)), "config.quantize: quantization rule '(=1': "),
        (lambda c: c.reduce.update(learning_rate=0.0), "config.reduce: learning_rate must be above 0"),
        (lambda c: c.reduce.update(epochs=-1.0), "config.reduce: learning_rate must be above 0, epochs at least 0"),
        (lambda c: c.reduce.update(dropout=1.0), "config.reduce: learning_rate must be above 0, epochs at least 0, dropout"),
        (lambda c: c.reduce.update(layers=(1, "3")), "config.reduce.layers=(1, '3') must be a tuple of layer indices"),
        (lambda c: c.data.update(max_length=2), "config.data.max_length=2 must be at least 3"),
        (lambda c: c.data.update(limit_train=-1), "config.data.limit_train=-1 must be at least 0"),
        (lambda c: c.data.update(eval_batch_size=0), "config.data.eval_batch_size=0 must be at least 1"),
        (lambda c: c.data.update(buckets=(32, 16)), "config.data.buckets=(32, 16) must increase"),
        # What would end in a traceback, or in one stage taking another's place, after the first has trained:
        (lambda c: c.update(stages=("model",)), "config.stages names 'model'"),
        (lambda c: c.update(stages=("teacher", "teacher")), "config.stages names 'teacher' twice"),
        (lambda c: c.reduce.update(result="teacher"), "config.reduce.result='teacher'"),
        (lambda c: c.reduce.update(result="packed"), "config.reduce.result='packed'"),
        (lambda c: c.reduce.update(steps=-5), "config.reduce.steps=-5"),
    ],
)  # fmt: skip
def test_a_wrong_config_is_refused_with_the_key(change, message):
    config = a_config()
    change(config)
    with pytest.raises(UserError) as error:
        make_recipe(config)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)

import json

import pytest

from xtc_jax.compress import DistillSpec
from xtc_jax.errors import UserError
from xtc_jax.quantize import QUANTIZERS, ActivationSpec, named_rules
from xtc_jax.recipe.recipe import digest, make_recipe
from xtc_jax.recipe.schema import base_config, stage_config

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
        (lambda c: c.update(mesh=(1, 2, 2)), []),
        (lambda c: c.reduce.update(accumulate=2), []),
        (lambda c: c.update(seed=1), list(STAGES)),
        (lambda c: c.update(model="other/model"), list(STAGES)),
        (lambda c: c.data.update(limit_train=10), list(STAGES)),
        (lambda c: c.teacher.update(learning_rate=1e-4), list(STAGES)),
        (lambda c: c.reduce.update(layers="1,3"), ["reduce", "quantize"]),
        (lambda c: c.reduce.update(freeze=0), ["reduce", "quantize"]),
        (lambda c: c.reduce.update(lazy_embeddings=True), ["reduce", "quantize"]),
        (lambda c: c.reduce.loss.update(hidden=0.5), ["reduce", "quantize"]),
        (lambda c: c.quantize.update(weight_bits=2), ["quantize"]),
        (lambda c: c.quantize.update(extra_rules=("pooler=2",)), ["quantize"]),
        (lambda c: c.quantize.update(match="evenly(6)"), ["quantize"]),
        (lambda c: c.update(compute_dtype="bfloat16"), list(STAGES)),
        (lambda c: c.data.update(labels=("a", "b")), list(STAGES)),
        (lambda c: c.update(teacher_cache="2GB"), []),
        (lambda c: c.update(teacher_cache_dtype="bfloat16"), ["reduce", "quantize"]),
    ],
    ids=[
        "nothing",
        "same",
        "mesh",
        "parts",
        "seed",
        "model",
        "data",
        "teacher",
        "reduce",
        "freeze",
        "lazy",
        "loss",
        "quantize",
        "rules",
        "match",
        "dtype",
        "labels",
        "cache",
        "rounded",
    ],
)
def test_a_change_changes_the_fingerprints_of_its_stage_and_of_what_is_built_on_it(change, stages):
    assert changed_by(change) == stages


def test_augment_counts_only_where_a_stage_is_augmented_and_in_what_is_built_on_it():
    def augmented(config):
        config.reduce.augmented = True
        return config

    plain, more = augmented(a_config()), augmented(a_config())
    more.augment.count = 7
    pairs = zip(STAGES, fingerprints(plain), fingerprints(more), strict=True)
    assert [name for name, a, b in pairs if a != b] == ["reduce", "quantize"]
    assert changed_by(lambda c: c.augment.update(count=7)) == []
    recipe = make_recipe(plain)
    assert [("augment" in recipe.fingerprint(stage)) for stage in recipe.stages] == [False, True, False]


def test_keys_of_a_stage_that_have_no_value_are_not_in_its_fingerprint():
    """Work directories of versions without these keys can go on."""
    assert not {"freeze", "lazy_embeddings", "new_pairs", "patience", "vocabulary", "vocabulary_min_count"} & set(
        make_recipe(a_config()).stages[1].raw
    )


def test_the_fingerprint_is_plain_data_and_names_what_the_stage_is_built_on():
    recipe = make_recipe(a_config())
    teacher, reduce, quantize = (recipe.fingerprint(stage) for stage in recipe.stages)
    assert teacher["built on"] == {}
    assert reduce["built on"] == {"teacher": digest(teacher)}
    assert quantize["built on"] == {"reduce": digest(reduce), "teacher": digest(teacher)}
    assert json.loads(json.dumps(quantize)) == quantize


def test_a_grid_replaces_the_learning_rate():
    config = a_config()
    config.reduce.grid = (1e-5, 5e-5)
    assert [stage.learning_rates for stage in make_recipe(config).stages] == [(5e-5,), (1e-5, 5e-5), (5e-5,)]


def test_a_stage_that_does_not_train_needs_no_grid():
    config = a_config()
    config.teacher.epochs, config.teacher.grid = 0.0, (1e-5, 5e-5)
    teacher = make_recipe(config).stages[0]
    assert (teacher.trains, teacher.learning_rates, teacher.counts(10)) == (False, (5e-5,), (0, 0))


def rules_of(**values):
    config = a_config()
    config.quantize.update(values)
    return make_recipe(config).stages[2].rules


@pytest.mark.parametrize(
    ("values", "spec"),
    [
        ({}, {"bits": 1, "quantizer": "binary", "granularity": "tensor", "activation": ActivationSpec(8)}),
        ({"weight_bits": 2, "quantizer": "ternary_clipped"}, {"bits": 2, "quantizer": "ternary_clipped"}),
        ({"weight_bits": 5, "stochastic": True}, {"bits": 5, "quantizer": "symmetric", "stochastic": True}),
        ({"granularity": "row"}, {"granularity": "row"}),
        ({"granularity": "64"}, {"granularity": 64}),
        ({"bit_schedule": "8@0>4@500>1@1000"}, {"bits": 1, "schedule": ((0, 8), (500, 4), (1000, 1))}),
        ({"bit_schedule": "8@0%>2@15%>1@33%", "steps": 205}, {"bits": 1, "schedule": ((0, 8), (30, 2), (67, 1))}),
        (
            {"activation_bits": 4, "activation_range": "static", "activation_symmetric": False, "activation_start": 9},
            {"activation": ActivationSpec(4, "static", False, 9)},
        ),
        ({"activation_bits": 32}, {"activation": None}),
    ],
    ids=str,
)
def test_the_keys_of_a_stage_become_the_spec_of_its_linears(values, spec):
    linear = rules_of(**values).rules[0][1]
    assert {name: getattr(linear, name) for name in spec} == spec


def test_tables_are_row_wise_and_have_no_input_whatever_the_linears_are():
    table = rules_of(granularity="64").rules[4][1]
    assert (table.granularity, table.activation) == ("row", None)


def test_what_is_compared_and_how_is_read_as_a_spec():
    config = a_config()
    config.reduce.loss.update(label=0.5, temperature=2.0, attention_norm="ternarybert")
    assert make_recipe(config).stages[1].loss == DistillSpec(label=0.5, temperature=2.0, attention_norm="ternarybert")


def test_binary_halves_may_start_from_a_ternary_stage():
    config = a_config()
    config.reduce.weight_bits, config.quantize.split = 2, True
    assert make_recipe(config).stages[2].split


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(stages=()), "config.stages is empty"),
        (lambda c: c.update(stages=("teacher", "polish")), "config.stages names 'polish', but there is no config.polish"),
        (lambda c: c.update(stages=("reduce",)), "config.reduce.init='teacher' names no earlier stage"),
        (lambda c: c.reduce.update(teacher="quantize"), "config.reduce.teacher='quantize' names no earlier stage"),
        (lambda c: c.reduce.update(batch_size=0), "config.reduce.batch_size=0 must be at least 1"),
        (lambda c: c.reduce.update(accumulate=0), "config.reduce.accumulate=0 must be at least 1"),
        (lambda c: c.quantize.update(accumulate=2, activation_range="tensor"),
         "config.quantize.accumulate: an activation range 'tensor' is one of the whole batch"),
        (lambda c: c.reduce.update(eval_every=0), "config.reduce.eval_every=0 must be at least 1"),
        (lambda c: c.checkpoint.update(keep=1), "config.checkpoint.keep=1 must be at least 2"),
        (lambda c: c.checkpoint.update(minutes=-1.0), "config.checkpoint.minutes=-1.0 must be at least 0"),
        (lambda c: c.update(profile=(10,)), "config.profile=(10,) must be two numbers from 1 on, the first step and how many"),
        (lambda c: c.update(profile=(0, 5)), "config.profile=(0, 5) must be two numbers"),
        (lambda c: c.update(profile=(1, 2.5)), "config.profile=(1, 2.5) must be two numbers"),
        (lambda c: c.reduce.loss.update(logit_norm="mean"), "config.reduce.loss.logit_norm='mean'; use one of"),
        (lambda c: c.reduce.loss.update(hidden_norm="ternarybert"), "config.reduce.loss.hidden_norm='ternarybert'"),
        (lambda c: c.reduce.loss.update(attention_norm="all"), "config.reduce.loss.attention_norm='all'; use one of"),
        (lambda c: c.quantize.update(weight_bits=9), "config.quantize: the rule set: 9 bits are not offered; use 1 to 8"),
        (lambda c: c.quantize.update(weight_bits=0), "config.quantize: the rule set: 0 bits are not offered"),
        (lambda c: c.quantize.update(activation_bits=5),
         "config.quantize: the rule set: activations of 5 bits are not offered; use 8, 4 or 32"),
        (lambda c: c.quantize.update(activation_range="batch"),
         "config.quantize.activation_range='batch'; use one of token, tensor, static"),
        (lambda c: c.quantize.update(quantizer="median"),
         f"config.quantize: the rule set: unknown quantizer 'median'; use one of {', '.join(QUANTIZERS)}"),
        (lambda c: c.quantize.update(quantizer="ternary"),
         "config.quantize: the rule set: quantizer 'ternary' has no 1 bits; use binary or binary_centred"),
        (lambda c: c.quantize.update(granularity="column"),
         "config.quantize.granularity='column'; use tensor, row or the size of a group"),
        (lambda c: c.quantize.update(granularity="-64"), "config.quantize.granularity='-64'; use tensor, row or"),
        (lambda c: c.quantize.update(granularity="0"), "config.quantize.granularity='0'; use tensor, row or"),
        (lambda c: c.quantize.update(bit_schedule="8@0>4"),
         "config.quantize.bit_schedule: '8@0>4' is neither a number of bits nor a schedule such as"),
        (lambda c: c.quantize.update(bit_schedule="4@0>8@10>1@20"),
         "config.quantize: the rule set: the schedule goes from 4@0 to 8@10; steps must rise and bits fall"),
        (lambda c: c.quantize.update(bit_schedule="8@10>4@5>1@20"), "config.quantize: the rule set: the schedule goes from"),
        (lambda c: c.quantize.update(bit_schedule="8"), "config.quantize.bit_schedule='8' has no steps; write for example"),
        (lambda c: c.quantize.update(bit_schedule="2@0>1@40%", steps=0, epochs=3.0),
         "config.quantize.bit_schedule='2@0>1@40%' has per cent of the steps; set steps, not epochs"),
        (lambda c: c.quantize.update(bit_schedule="2@0>1@1%", steps=99),
         "config.quantize: the rule set: the schedule goes from 2@0 to 1@0; steps must rise"),
        (lambda c: c.quantize.update(bit_schedule="8@0>2@10"),
         "config.quantize: the rule set: the schedule ends at 2 bits, not at 1"),
        (lambda c: c.quantize.update(rules="best"), "config.quantize: unknown rule set 'best'; use one of deepspeed"),
        (lambda c: c.quantize.update(extra_rules=("pooler",)), "config.quantize: quantization rule 'pooler' is not of"),
        (lambda c: c.quantize.update(extra_rules=("(=1",)), "config.quantize: quantization rule '(=1': "),
        (lambda c: c.reduce.update(bit_schedule="8@0"), "config.reduce.bit_schedule is set, but weight_bits=32"),
        (lambda c: c.reduce.update(extra_rules=("pooler=1",)), "config.reduce.extra_rules is set, but weight_bits=32"),
        (lambda c: c.reduce.update(quantizer="binary"), "config.reduce.quantizer is set, but weight_bits=32"),
        (lambda c: c.reduce.update(stochastic=True), "config.reduce.stochastic is set, but weight_bits=32"),
        (lambda c: c.update(storage="base4"), "config.storage='base4'; use one of planes256.v1, base3.v1"),
        (lambda c: c.update(compute_dtype="float16"), "config.compute_dtype='float16'; use one of float32, bfloat16"),
        (lambda c: c.quantize.update(split=True), "config.quantize.split=True needs weight_bits=1 and an init of"),
        (lambda c: c.teacher.update(split=True), "config.teacher.split=True needs weight_bits=1 and an init of weight_bits=2"),
        (lambda c: c.reduce.update(model="some/model"), "config.reduce has both init and model; it starts from one of them"),
        (lambda c: c.reduce.loss.update(temperature=0.0), "config.reduce.loss.temperature=0.0 must be above 0"),
        (lambda c: c.reduce.loss.update(hidden=-1.0), "config.reduce.loss.hidden=-1.0 must be at least 0"),
        (lambda c: c.reduce.loss.update(logit=0.0, attention=0.0, hidden=0.0), "config.reduce.loss: the weights must not be"),
        (lambda c: c.reduce.update(new_pairs=-1), "config.reduce.new_pairs=-1 must be at least 0"),
        (lambda c: c.reduce.update(new_pairs=9, augmented=True), "config.reduce.new_pairs=9: new pairs have no label; they"),
        (lambda c: (c.reduce.update(new_pairs=9), c.reduce.loss.update(label=0.5)), "config.reduce.new_pairs=9: new pairs"),
        (lambda c: c.teacher.update(new_pairs=9), "config.teacher.new_pairs=9: new pairs have no label; they need a teacher"),
        (lambda c: c.reduce.update(learning_rate=0.0), "config.reduce.learning_rate=0.0 must be above 0"),
        (lambda c: c.reduce.update(grid=(1e-5, 0.0)), "config.reduce.grid=(1e-05, 0.0): item 2 must be above 0"),
        (lambda c: c.reduce.update(dropout=1.0), "config.reduce.dropout=1.0 must be below 1, or -1"),
        (lambda c: c.reduce.update(dropout=-0.5), "config.reduce.dropout=-0.5 must be at least 0, or -1"),
        (lambda c: c.reduce.update(epochs=-1.0), "config.reduce.epochs=-1.0 must be at least 0"),
        (lambda c: c.reduce.update(warmup_steps=-2), "config.reduce.warmup_steps=-2 must be at least -1"),
        (lambda c: c.reduce.update(weight_decay=-0.1), "config.reduce.weight_decay=-0.1 must be at least 0"),
        (lambda c: c.quantize.update(activation_start=-1), "config.quantize.activation_start=-1 must be at least 0"),
        (lambda c: c.reduce.update(typo=1), "config.reduce has an unknown key 'typo'; use one of accumulate, "),
        (lambda c: c.reduce.update(typo={"a": 1}), "config.reduce has an unknown key 'typo'; use one of accumulate, "),
        (lambda c: c.reduce.loss.update(typo=1.0), "config.reduce.loss has an unknown key 'typo'; use one of attention, "),
        (lambda c: c.data.update(typo="x"), "config.data has an unknown key 'typo'; use one of buckets, "),
        (lambda c: c.update(typo=1), "config has an unknown key 'typo'; use one of arithmetic, augment, "),
        (lambda c: c.reduce.__delattr__("split"), "config.reduce lacks the key 'split'; make it with base_config"),
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
